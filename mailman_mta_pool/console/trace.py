# SPDX-License-Identifier: GPL-3.0-or-later
"""`mailman mta-pool trace`: what became of a post, or of one copy."""

import os
import sys
import json
import click

from collections import Counter
from lazr.config import as_timedelta
from mailman.config import config
from mailman_mta_pool.configuration.files import ConfigurationError
from mailman_mta_pool.configuration.loading import load
from mailman_mta_pool.console.absent import absent_copy
from mailman_mta_pool.console.copies import (
    copies_of,
    Copy,
    local_time,
    OUTCOMES,
)
from mailman_mta_pool.console.subcommand import Subcommand
from mailman_mta_pool.console.terminal import Line, terminal_of
from mailman_mta_pool.journal.kept import (
    events_of,
    kept_since,
    PostKept,
    posts_of,
)
from mailman_mta_pool.journal.queue_ids import queue_id_of
from mailman_mta_pool.monitoring.queues import EntryFound, find_entries
from mailman_mta_pool.posts import bare_id
from public import public
from typing import Dict, Iterator, List, Optional, Tuple


VERSION = 1
# How many recipients are listed at most; --json has all of them.
MAX_LISTED = 20
STYLES = {'accepted': 'good', 'refused': 'bad', 'shunted': 'bad',
          'discarded': 'bad'}
# The names of relays on this machine.
HERE = ('localhost', '127.0.0.1', '::1', '')


@click.command(
    cls=Subcommand,
    help="""\
    Tell what became of a post, or of one member's copy.

    MESSAGE-ID is that of the post, with or without the angle brackets, which
    a shell takes for its own.  A post to several lists is told of once for
    each.  The exit status is 1 if nothing is known of the post, and otherwise
    0.""")
@click.option('--json', 'as_json', is_flag=True,
              help='Print JSON, with all recipients.')
@click.argument('message_id', metavar='MESSAGE-ID')
@click.argument('address', required=False)
def command(as_json: bool, message_id: str, address: Optional[str]) -> None:
    """See the help."""
    message_id = f'<{bare_id(message_id)}>'
    try:
        trace = Trace(message_id, address)
        nothing = '' if trace.is_known else _nothing_known(message_id)
    except OSError as error:
        raise click.ClickException(
            f'{error.filename}: {error.strerror}') from error
    if not trace.is_known and address is not None:
        trace.copies = [Copy(address, 'unknown', reason=nothing)]
    if as_json:
        click.echo(json.dumps({
            'version': VERSION, 'message_id': message_id,
            'recipients': [copy._asdict() for copy in trace.copies]},
            indent=2))
    elif not trace.is_known:
        terminal = terminal_of(sys.stderr, os.environ)
        click.echo(terminal.harmless(nothing), err=True)
    else:
        terminal = terminal_of(sys.stdout, os.environ)
        lines = _of_all(trace) if address is None else _of_one(trace)
        for line in lines:
            click.echo(terminal.styled(line._replace(
                text=terminal.harmless(line.text))))
    if not trace.is_known:
        sys.exit(1)


public(command=command)


@public
class Trace:
    """What is known of a post.

    :ivar message_id: Its Message-ID, with angle brackets.
    :ivar posts: The post, once for each list.
    :ivar copies: What became of each copy, or of those of one recipient.
    :ivar is_known: False if nothing is known of that Message-ID.
    """

    def __init__(self, message_id: str, address: Optional[str]) -> None:
        """Find out.

        :param message_id: The Message-ID, with angle brackets.
        :param address: The only recipient of interest, or None.
        :raises OSError: if something may not be read.
        """
        self.message_id = message_id
        self.posts: List[PostKept] = []
        self._found: Dict[Tuple[str, str], Copy] = {}
        key = None if address is None else address.lower()
        if key is not None:
            self._look(key)
        if not self._copies_to(key):
            self._look()
        if not self._is_complete and (
                key is None or not self._copies_to(key)):
            # An entry may have moved from a queue that was still to be read
            # to one that had been.
            self._look()
        self.is_known = bool(self.posts or self._found)
        self.copies = sorted(
            self._copies_to(key),
            key=lambda copy: (OUTCOMES.index(copy.outcome), copy.address))
        if address is not None and self.is_known and not self.copies:
            self.copies = [
                absent_copy(address, self.posts, self._is_complete)]

    def _copies_to(self, key: Optional[str]) -> List[Copy]:
        """Return the copies that were found.

        :param key: The only recipient of interest, or None.
        """
        found = [(list_id, copy) for (name, list_id), copy
                 in self._found.items() if key is None or name == key]
        if len(self.posts) < 2:
            return [copy for _, copy in found]
        return [copy._replace(
            reason=f'to {list_id}' + (f': {copy.reason}' if copy.reason else
                                      '')) for list_id, copy in found]

    def _look(self, key: Optional[str] = None) -> None:
        """Read what there is.

        :param key: The only recipient of interest, which is quicker; or None.
        """
        # Recipients leave the queue entries for the journals, not the other
        # way round.
        entries = list(find_entries(
            config.QUEUE_DIR, self.message_id, _retry_interval()))
        events = events_of(config.VAR_DIR, self.message_id, key)
        self.posts = _with_lists_of(
            entries, posts_of(config.VAR_DIR, self.message_id))
        self._found = copies_of(events, entries)

    @property
    def _is_complete(self) -> bool:
        return bool(self.posts) and len(self._found) >= sum(
            post.total for post in self.posts)


def _with_lists_of(entries: List[EntryFound],
                   posts: List[PostKept]) -> List[PostKept]:
    """Add the lists of entries of which there is no record."""
    known = {post.list_id for post in posts}
    return posts + [
        PostKept(entry.list_id, len(entry.recipients), entry.since)
        for entry in {entry.list_id: entry for entry in entries}.values()
        if entry.list_id not in known]


def _retry_interval() -> Optional[float]:
    """Return how often Mailman's `retry` runner works, in seconds."""
    for section in config.runner_configs:
        if section.name == 'runner.retry':
            return as_timedelta(section.sleep_time).total_seconds()
    return None


def _nothing_known(message_id: str) -> str:
    """Return one line that says why there may be no trace of a post."""
    since = kept_since(config.VAR_DIR)
    try:
        period = load().delivery.keep_records
    except ConfigurationError:
        # `mailman mta-pool config` says which mistake it is.
        period = None
    if period == 0:
        why = 'records are not kept ([delivery] keep_records is 0)'
    elif since is None:
        why = 'there are no records yet'
    else:
        why = f'the oldest record is of {local_time(since)}'
    return (f'Nothing is known of {message_id}: {why}, and no queue has it.  '
            'It may be held for moderation, or not be a post of this site.')


# What is shown.

def _of_all(trace: Trace) -> Iterator[Line]:
    """Yield a summary, and a line for each who has not got the post."""
    lists = ', '.join(post.list_id for post in trace.posts if post.list_id)
    yield Line(f'{trace.message_id} to {lists or "no list"}, first delivered '
               f'{local_time(min(post.time for post in trace.posts))}',
               'heading')
    counts = Counter(copy.outcome for copy in trace.copies)
    for outcome in OUTCOMES:
        if counts[outcome]:
            yield Line(f'{counts[outcome]:>8} {outcome}',
                       STYLES.get(outcome, 'warning'))
    others = [copy for copy in trace.copies if copy.outcome != 'accepted']
    for copy in others[:MAX_LISTED]:
        words = [f'{copy.outcome:<9} {copy.address}', *_details(copy)]
        yield Line(': '.join(words[:2]) + ''.join(
            f'; {word}' for word in words[2:]))
    if len(others) > MAX_LISTED:
        yield Line(f'({len(others) - MAX_LISTED} more; --json has all)')


def _details(copy: Copy) -> List[str]:
    return [text for text in (copy.reply, copy.reason) if text]


def _of_one(trace: Trace) -> Iterator[Line]:
    """Yield all that is known of the copies to one recipient."""
    yield Line(f'{trace.message_id} to {trace.copies[0].address}', 'heading')
    for copy in trace.copies:
        yield from _of_copy(copy)


def _of_copy(copy: Copy) -> Iterator[Line]:
    when = local_time(copy.time)
    relay = f' by {copy.relay}' if copy.relay else ''
    since = 'since ' if copy.outcome in ('waiting', 'shunted') else ''
    yield Line(f'{copy.outcome} {since}{when}'.rstrip() + relay,
               STYLES.get(copy.outcome, 'warning'))
    if copy.reply:
        yield Line(f'  reply:    {copy.reply}')
    if copy.queue_id:
        yield Line(f'  queue id: {copy.queue_id}')
    if copy.reason:
        yield Line(f'  {copy.reason}')
    if copy.outcome == 'accepted':
        yield from _search(copy)


def _search(copy: Copy) -> Iterator[Line]:
    """Yield the commands that continue the search in the server's log."""
    found = queue_id_of(copy.reply or '')
    if found is None or not found.search:
        return
    host = (copy.relay or '').rpartition(':')[0].strip('[]')
    there = '' if host in HERE else f', on {host}'
    yield Line(f'  In the log of {found.form.server}{there}:')
    for text in found.search:
        yield Line(f'    {text}')
