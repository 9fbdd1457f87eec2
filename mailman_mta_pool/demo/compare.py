# SPDX-License-Identifier: GPL-3.0-or-later

"""The same post through two settings of `[mta] outgoing`."""

from __future__ import annotations

import sys
import time

from contextlib import ExitStack
from dataclasses import dataclass, field
from mailman_mta_pool.demo.progress import Progress
from mailman_mta_pool.demo.recording import Record, RecordingServer
from mailman_mta_pool.demo.site import ThrowawaySite
from public import public
from typing import List, Optional, Tuple


LIST = 'ant@example.com'
POST = b"""\
From: Anne Person <anne@example.com>
To: ant@example.com
Subject: The demo's post
Date: Mon, 05 Jan 2026 10:00:00 +0000
Message-ID: <demo@example.com>
MIME-Version: 1.0
Content-Type: text/plain; charset=us-ascii

""" + b"""\
Ants carry many times their own weight, each a little, all of them together.
""" * 20
# What Mailman's pipeline does to the headers of a post on its way out.
HANDLERS = ('cook-headers', 'rfc-2369')
PLUGIN = """\
[plugin.mta_pool]
class: mailman_mta_pool.plugin.MTAPoolPlugin
enabled: yes
component_package: mailman_mta_pool
"""
# Seconds between two looks: where they tell the time, and where the record
# does, and looking more often would only slow things down.
FAST_POLL_S = 0.002
SLOW_POLL_S = 0.1


@public
@dataclass(frozen=True)
class Options:
    """The options of a comparison.

    :param members: The number of the list's members.
    :param threads: `[mta] max_delivery_threads` of the pool.
    :param delay: Seconds that the embedded server takes for each command.
    :param chunking: Whether the embedded server offers CHUNKING.
    :param smtp: Host and port of another server, instead of the embedded one.
    :param keep: Leave the site's directory behind.
    """

    members: int = 1000
    threads: int = 8
    delay: float = 0
    chunking: bool = False
    smtp: Optional[Tuple[str, int]] = None
    keep: bool = False


@public
@dataclass(frozen=True)
class Side:
    """One of those that are compared.

    :param name: What the table calls it.
    :param mta: Settings for `[mta]`, beside the server's.
    :param extra: Further configuration sections as text.
    """

    name: str
    mta: dict
    extra: str = ''


@public
def sides(options):
    """Stock Mailman, and ours."""
    stock = Side('stock', {'outgoing': 'mailman.mta.deliver.deliver'})
    ours = Side('mta_pool', {
        'outgoing': 'mailman_mta_pool.deliver.deliver',
        'max_delivery_threads': options.threads,
        }, PLUGIN)
    return stock, ours


@public
@dataclass(frozen=True)
class Result:
    """How one side did.

    :param name: The side's name.
    :param recipients: Who should get the post.
    :param seconds: From the runner's taking the post to the last recipient.
    :param record: What the server accepted, if it is ours.
    :param waiting: Recipients by the queue in which they were left.
    :param failures: How many failed deliveries Mailman logged.
    """

    name: str
    recipients: List[str]
    seconds: float
    record: Optional[Record]
    waiting: dict = field(default_factory=dict)
    failures: int = 0

    @property
    def rate(self):
        """Recipients per second."""
        return len(self.recipients) / self.seconds

    @property
    def lost(self):
        """The recipients that were neither served nor kept in a queue."""
        kept = set().union(*self.waiting.values(), self.record.recipients)
        return sorted(set(self.recipients) - kept)

    @property
    def complete(self):
        """True if each recipient got it once, as far as can be seen."""
        if self.record is None:
            return not self.waiting and not self.failures
        return (not self.waiting and not self.lost
                and not self.record.duplicated)


class Measurement:
    """One side's delivery of the post."""

    def __init__(self, site, side, recipients, record, stream):
        self._site = site
        self._side = side
        self._recipients = recipients
        self._record = record
        self._stream = stream

    def run(self):
        """Put the post in the queue, let a runner deliver it."""
        failures = self._failures()
        entry = self._site.enqueue(
            POST, LIST, handlers=HANDLERS, verp=True,
            recipients=set(self._recipients))
        with self._site.runner('out'):
            started = self._wait_until_taken(entry)
            ended = self._wait_until_delivered()
        if self._done():
            ended = self._record.transactions[-1].time
        return Result(self._side.name, self._recipients, ended - started,
                      self._record, self._waiting(),
                      self._failures() - failures)

    def _failures(self):
        # This is Mailman's default for [logging.smtp] failure.
        return self._site.log('smtp.log').count(' failed with code ')

    def _wait_until_taken(self, entry):
        while entry.exists():
            self._site.check_runners()
            time.sleep(FAST_POLL_S)
        return time.monotonic()

    def _wait_until_delivered(self):
        progress = Progress(
            self._stream, self._side.name, len(self._recipients))
        while not self._site.is_done('out'):
            self._site.check_runners()
            progress.update(self._done())
            time.sleep(SLOW_POLL_S if self._record else FAST_POLL_S)
        ended = time.monotonic()
        progress.finish(self._done())
        return ended

    def _done(self):
        return None if self._record is None else self._record.refresh()

    def _waiting(self):
        waiting = {}
        for name in ('retry', 'shunt', 'bad'):
            for entry in self._site.queue(name).entries:
                waiting.setdefault(name, []).extend(entry.recipients)
                entry.path.unlink()
        return waiting


def _measure(site, side, recipients, options, stream):
    with ExitStack() as stack:
        record = None
        server = options.smtp
        if server is None:
            embedded = stack.enter_context(RecordingServer(
                delay=options.delay, chunking=options.chunking))
            record = embedded.record
            server = embedded.host, embedded.port
        host, port = server
        site.configure(
            {**side.mta, 'smtp_host': host, 'smtp_port': port}, side.extra)
        return Measurement(site, side, recipients, record, stream).run()


@public
def compare(options, both=None, stream=sys.stderr):
    """Deliver the same VERP'd post in both ways.

    :param options: What is compared.
    :type options: `Options`
    :param both: The sides, by default stock Mailman and ours.
    :param stream: Where the progress is shown.
    :return: The result of each side.
    :rtype: list of `Result`
    :raises SiteError: when Mailman does not work.
    """
    with ThrowawaySite(keep=options.keep) as site:
        if options.keep:
            stream.write(f'The site is in {site.directory}.\n')
        recipients = site.create_list(LIST, options.members)
        return [_measure(site, side, recipients, options, stream)
                for side in both or sides(options)]
