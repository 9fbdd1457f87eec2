# SPDX-License-Identifier: GPL-3.0-or-later

"""Throwaway sites for tests with real runner processes.

A site has a list with members from the start.  Making these takes seconds, so
it is done once for every kind of list, and copied.
"""

import sqlite3

from contextlib import contextmanager
from flufl.lock import Lock
from functools import lru_cache
from mailman.bin.master import LOCK_LIFETIME
from mailman.core.switchboard import Switchboard
from mailman_mta_pool.demo.compare import PLUGIN
from mailman_mta_pool.demo.population import as_queued, people
from mailman_mta_pool.demo.process import Child, signals_held
from mailman_mta_pool.demo.site import SiteError, ThrowawaySite
from public import public
from subprocess import DEVNULL, PIPE, STDOUT
from tests.leaks import (
    EXCEPTION,
    is_findable,
    Notes,
    NOTES,
    notes_in,
    RECORD,
    secrets_in,
    watch_children,
)
from tests.servers.loopback import end_group, free_port, HOST, wait_until


LIST = 'ant@example.com'
LIST_ID = 'ant.example.com'
STOCK = 'mailman.mta.deliver.deliver'
OURS = 'mailman_mta_pool.deliver.deliver'
POST = b"""\
From: Anne Person <anne@example.com>
To: ant@example.com
Subject: A post
Date: Mon, 05 Jan 2026 10:00:00 +0000
Message-ID: <post@example.com>
MIME-Version: 1.0
Content-Type: text/plain; charset=us-ascii

Ants are strong.
"""
public(LIST=LIST, LIST_ID=LIST_ID, STOCK=STOCK, OURS=OURS, POST=POST)
# As Mailman's own scripts do; these may not be on anybody's path.
SCRIPT = 'from mailman.bin.{0} import main; main()'
# So many lines of what was logged are told of a site that does not go on.
TOLD = 20
# What processes print, the report, and what node_exporter reads.
WRITTEN = ('.txt', '.html', '.prom')
QUEUES = ('out', 'retry', 'shunt', 'bad')
RUNNERS = ('archive', 'bounces', 'command', 'digest', 'in', 'lmtp', 'nntp',
           'out', 'pipeline', 'rest', 'retry', 'task', 'virgin')


@lru_cache(maxsize=None)
def _template(members, attributes):
    """The site that others with such a list are copied from."""
    # It is removed when this process ends.
    site = ThrowawaySite()
    site.create_list(LIST, members, **dict(attributes))
    return site


def _section(name, values):
    lines = [f'{key}: {value}' for key, value in values.items()]
    return '\n'.join([f'[{name}]', *lines, ''])


@public
class Site(ThrowawaySite):
    """A site that sends to a test's server; a context manager.

    :param server: Where the mail goes, with a `host` and a `port`; nobody
        listens there by default.
    :param members: How many members, or their addresses and names.
    :param attributes: Set on the list, for example `personalize`.
    :param options: See `set_up`.
    :ivar members: The members' addresses in the form that posts go to.
    """

    def __init__(self, server=None, *, members=20, attributes=None,
                 **options):
        if isinstance(members, int):
            members = people(members)
        members = tuple(members)
        watch_children()
        self._configured = set()
        self._said = Notes()
        super().__init__(template=_template(
            members, tuple(sorted((attributes or {}).items()))))
        self.members = [email.lower() for email, display_name in members]
        self._groups = []
        (self.directory / NOTES).mkdir()
        self.set_up(server, **options)

    def close(self):
        """See `ThrowawaySite`.

        :raises AssertionError: if a secret is anywhere but where it belongs.
        """
        try:
            # The base class may have failed before there were any.
            for group in getattr(self, '_groups', ()):
                end_group(group)
            self.end_runners()
            leaks = self._leaks()
        finally:
            super().close()
        if leaks:
            raise AssertionError('\n'.join([
                f'{len(leaks)} times a secret was found:', *map(str, leaks)]))

    def set_up(self, server=None, *, outgoing=OURS, plugin=True,
               settings=None, extra='', under_master=('out',), **mta):
        """Write the configuration for the processes that start later.

        :param server: Where the mail goes.
        :param outgoing: `OURS`, `STOCK` or another callable's name.
        :param plugin: Whether the plugin is there; `OURS` needs it only for
            settings of its own.
        :param settings: The plugin's configuration file: a dictionary of
            values for each section, or the file's text.
        :param extra: Further sections of mailman.cfg as text.
        :param under_master: The runners that `start_master` starts.
        :param mta: Further settings for `[mta]`.
        """
        path = self.directory / 'mta_pool.cfg'
        if not isinstance(settings, str):
            settings = ''.join(
                _section(*item) for item in (settings or {}).items())
        path.write_text(settings)
        section = f'{PLUGIN}configuration: {path}\n' if plugin else ''
        runners = [_section(f'runner.{name}', {
            'start': 'yes' if name in under_master else 'no',
            'sleep_time': '15m' if name == 'retry' else '0.1s',
            }) for name in RUNNERS]
        self.configure({
            'smtp_host': HOST if server is None else server.host,
            'smtp_port': free_port() if server is None else server.port,
            'outgoing': outgoing, 'max_delivery_threads': 4, **mta,
            }, '\n'.join([section, *runners, extra]))
        self.note_secrets()

    # What its processes know and nobody is to see.

    def note_secrets(self):
        """Note the passwords that the configuration has now.

        Other secrets are noted by the processes, when they get them.
        """
        for path in self.configuration, self.directory / 'mta_pool.cfg':
            # A test may have taken it away, or written what is no text.
            if path.is_file():
                self._configured |= secrets_in(
                    path.read_text('utf-8', 'replace'))

    def note_output(self, output):
        """Note what a command has printed, for the end.

        :param output: Octets or text.
        """
        if isinstance(output, bytes):
            output = output.decode('utf-8', 'backslashreplace')
        self._said(RECORD, 'the output of a command', output)

    def _leaks(self):
        """Return the secrets that are found where none may be.

        Mailman's database and the configuration are left out, and so are the
        programs and files of the test's own.
        """
        watched = self.directory / NOTES
        if not watched.is_dir():
            return []
        self.note_secrets()
        for text in self._configured:
            if not is_findable(text):
                return ['nowhere, for a password is too short to look for']
        notes = notes_in(watched)
        needles = notes.needles(
            dict.fromkeys(self._configured, 'the configuration'))
        if not needles:
            return []
        return [
            *notes.leaks(RECORD, needles), *notes.leaks(EXCEPTION, needles),
            *self._said.leaks(RECORD, needles),
            *needles.in_files(
                *(path for path in self.var.glob('*') if path.name != 'data'),
                *(path for path in self.directory.glob('*')
                  if path.suffix in WRITTEN))]

    # The list's posts.

    def write_template(self, name, text):
        """Write one of the list's templates.

        :param name: Its name, such as `list:member:regular:footer`.
        :param text: The text.
        """
        directory = self.var / 'templates' / 'lists' / LIST_ID / 'en'
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f'{name}.txt').write_text(text, encoding='utf-8')

    def post(self, content=POST, queue='out', **msgdata):
        """Put a post to the list in a queue, by default to all members.

        :param content: The message as bytes.
        :param queue: The queue's name.
        :param msgdata: Metadata, such as `verp` or `recipients`.
        :return: The path of the queue file.
        """
        self.note_secrets()
        directory = self.var / 'queue' / queue
        directory.mkdir(parents=True, exist_ok=True)
        msgdata.setdefault('recipients', set(self.members))
        name = Switchboard(queue, str(directory)).enqueue(
            *as_queued(content, LIST_ID, **msgdata))
        return directory / f'{name}.pck'

    # Processes.

    def wait_for(self, true, what, deadline=60):
        """Wait until something holds that no event announces.

        :param true: Called until what it returns is true.
        :param what: What is waited for, as text.
        :return: What `true` returned at last.
        :raises TimeoutError: when it does not hold within the deadline.
        """
        with self._telling():
            return wait_until(true, what, deadline)

    def wait_until_empty(self, *queues, timeout=60):
        """See `ThrowawaySite`."""
        with self._telling():
            super().wait_until_empty(*queues, timeout=timeout)

    @contextmanager
    def _telling(self):
        """Let an error tell what was logged: the site is gone afterwards."""
        try:
            yield
        except (TimeoutError, SiteError) as error:
            raise type(error)('\n'.join(
                [str(error), *self.logs().splitlines()[-TOLD:]])) from None

    def run(self, *posts, timeout=60):
        """Let an `out` runner empty its queue, and stop it.

        :param posts: Dictionaries of arguments for `post`, put in the queue
            before.
        :return: The runner's exit status.
        """
        for keywords in posts:
            self.post(**keywords)
        with self.runner() as runner:
            self.wait_until_empty(timeout=timeout)
        return runner.status

    def retry(self):
        """Let a real `retry` runner move its queue to `out`."""
        with self.runner('retry'):
            self.wait_until_empty('retry')

    def mailman(self, *arguments):
        """Run Mailman's command, for example `unshunt`.

        :return: What it printed.
        :raises SiteError: when it failed.
        """
        command = Child(
            '-c', SCRIPT.format('mailman'), '--run-as-root',
            '-C', str(self.configuration), *arguments, cwd=self.directory,
            stdin=PIPE, stdout=PIPE, stderr=STDOUT)
        output = command.communicate(b'')[0].decode(errors='replace')
        self.note_output(output)
        if command.status != 0:
            raise SiteError(output)
        return output

    def start_master(self):
        """Start what `mailman start` starts, in the foreground.

        `mailman('restart')` and `mailman('stop')` find it.

        :return: The process.
        :rtype: `Child`
        """
        with signals_held(), open(self.directory / 'master.txt', 'ab') as said:
            master = Child(
                '-c', SCRIPT.format('master'), '-C', str(self.configuration),
                stdin=DEVNULL, stdout=said, stderr=said, cwd=self.directory)
            self._groups.append(master.pid)
        return master

    def hold_master_lock(self):
        """Make the site look as if its master ran.

        It is for tests whose runners have no master.
        """
        lock = self.var / 'locks' / 'master.lck'
        lock.parent.mkdir(parents=True, exist_ok=True)
        Lock(str(lock), LOCK_LIFETIME).lock()

    # What became of it.

    def waiting(self):
        """Tell who is in which queue.

        :return: A dictionary of queue names and lists of recipients, sorted;
            empty queues are left out.
        """
        waiting = {}
        for name in QUEUES:
            for entry in self.queue(name).entries:
                waiting.setdefault(name, []).extend(entry.recipients)
        return {name: sorted(found) for name, found in waiting.items()}

    def bounced(self):
        """Tell who was charged with a bounce, once for each.

        :rtype: sorted list of addresses
        """
        database = sqlite3.connect(self.var / 'data' / 'mailman.db')
        try:
            rows = database.execute('SELECT email FROM bounceevent')
            return sorted(email for email, in rows)
        finally:
            database.close()

    def logs(self):
        """Everything that was logged or printed, as one text.

        :rtype: str
        """
        paths = sorted((self.var / 'logs').glob('*'))
        return ''.join(
            path.read_text(errors='replace') for path in paths) + self.said()
