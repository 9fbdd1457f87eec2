# SPDX-License-Identifier: GPL-3.0-or-later
"""Mailman's queues, for those recipients whom this delivery does not serve.

The entries are such as stock Mailman understands.  A journal that another
delivery begins with says which recipients are in another entry by now, even
if the crash came while that entry was being made.
"""

import os
import logging
import secrets

from lazr.config import as_timedelta
from mailman.config import config
from mailman.core.switchboard import Switchboard
from mailman.utilities.datetime import now
from mailman_mta_pool.journal.entry import (
    count_afresh,
    entries_in,
    queue_directory,
    WHICH_QUEUE_KEY,
)
from mailman_mta_pool.journal.file import Journal
from mailman_mta_pool.journal.records import Settled
from mailman_mta_pool.posts import PROGRESS_KEY
from mailman_mta_pool.runner.progress import Progress
from public import public
from tempfile import TemporaryDirectory
from typing import Any, Dict, List, Optional, Set


log = logging.getLogger('mailman.smtp')

# The key of the metadata by which an entry that we made is found.  Stock
# Mailman passes over it.
TOKEN_KEY = 'mta_pool_token'
# An entry in one of these queues may move to the next while we look.
QUEUES_IN_ORDER = ('shunt', 'retry', 'out', 'bad')
# Where an entry is made before it is put into the queue, in the same file
# system.  Mailman passes over what has no extension.
MAKING_PREFIX = 'mta_pool_making-'


@public
class Queues:
    """Puts recipients of one post into queue entries of their own."""

    def __init__(self, msg: Any, msgdata: Dict[str, Any],
                 journal: Optional[Journal],
                 progress: Optional[Progress] = None) -> None:
        """Prepare.

        :param msg: The message.
        :param msgdata: Its metadata.
        :param journal: Where it is recorded what goes where.
        :param progress: How far the post has come; it is told, too.  None if
            nobody knows.
        """
        self._msg = msg
        self._msgdata = msgdata
        self._journal = journal
        self._progress = progress or Progress(msgdata)
        self._moved: Set[str] = set()

    @property
    def may_stay(self) -> bool:
        """True if nobody is served twice when the entry is replayed."""
        return self._journal is not None and self._journal.is_kept

    def without_moved(self, recipients: List[str]) -> List[str]:
        """Return the recipients who are not in another entry by now."""
        return [recipient for recipient in recipients
                if recipient not in self._moved]

    def put_back(self, recipients: List[str]) -> None:
        """Put recipients at the end of the `out` queue.

        :param recipients: Who gets the post later.
        :raises OSError: if the entry cannot be made; nothing has changed then.
        """
        self._put('out', recipients, {})

    def replace(self, recipients: List[str]) -> None:
        """Put recipients into an entry that replaces the delivered one.

        The new one has not been left over from any crash, and while the old
        one is still there Mailman is to keep it.

        :param recipients: Those who are left.
        :raises OSError: if the entry cannot be made; nothing has changed then.
        """
        self._put('out', recipients, {}, replaces=True)

    def divide(self, recipients: List[str]) -> None:
        """Put recipients at the end of the `out` queue, as another post.

        :param recipients: Who gets the post later.
        :raises OSError: if the entry cannot be made; nothing has changed then.
        """
        self._put('out', recipients, {
            PROGRESS_KEY: self._progress.of_part(len(recipients))})

    def leave_to_runner(self, recipients: List[str],
                        queue: str = 'shunt') -> None:
        """Take note that the runner itself puts recipients into a queue.

        It does so with the metadata that it has passed to us.

        :param recipients: Those whom the metadata is going to name.
        :param queue: The queue: `retry`, or `shunt` if something is broken.
        """
        if queue == 'shunt':
            self._progress.note_broken(len(recipients))
        self._msgdata[PROGRESS_KEY] = self._progress.carried(queue)
        if self._journal is not None:
            token = self._msgdata[TOKEN_KEY] = secrets.token_hex(8)
            self._journal.handing_over(token, recipients)

    def shunt(self, recipients: List[str]) -> None:
        """Put recipients into the `shunt` queue, for `mailman unshunt`."""
        self._put('shunt', recipients, {WHICH_QUEUE_KEY: 'out'})

    def retry(self, recipients: List[str],
              keeps_period: bool = False) -> None:
        """Put recipients into the `retry` queue.

        The number of recipients and the end of the retries are kept as
        `OutgoingRunner._dispose` keeps them, in the same keys of the
        metadata, so that a retry may change hands between us and stock.

        :param recipients: Who is to be tried later.
        :param keeps_period: True if the time that they wait is not to use up
            `[mta] delivery_retry_period`.
        """
        is_probe = 'probe_token' in self._msgdata
        if (is_probe or not keeps_period) and self.note_discarded(recipients):
            if not is_probe:
                log.error('Discarding message with persistent temporary '
                          'failures: %s', self._msg['message-id'])
            return
        current = now()
        until = self._msgdata.get('deliver_until', current)
        if keeps_period or self._has_progress(recipients):
            # There was some progress, so go on for a while longer.
            until = current + as_timedelta(config.mta.delivery_retry_period)
        self._put('retry', recipients, {
            'last_recip_count': len(recipients), 'deliver_until': until})

    def _has_progress(self, recipients: List[str]) -> bool:
        return len(recipients) != self._msgdata.get('last_recip_count', 0)

    def note_discarded(self, recipients: List[str]) -> bool:
        """Record it if nobody is going to try recipients again.

        It is decided as `OutgoingRunner._dispose` does, which does not tell.

        :param recipients: Those who were refused for the time being.
        :return: True if they are given up.
        """
        current = now()
        # As stock: a probe that fails for the time being is not sent again.
        given_up = 'probe_token' in self._msgdata or (
            not self._has_progress(recipients) and
            current > self._msgdata.get('deliver_until', current))
        if given_up:
            self._progress.note_discarded(len(recipients))
            if self._journal is not None:
                self._journal.discarded(recipients)
        return given_up

    def _put(self, queue: str, recipients: List[str], more: Dict[str, Any],
             replaces: bool = False) -> None:
        token = secrets.token_hex(8)
        directory = queue_directory(queue)
        # Where the disk is full, Mailman would leave half of a file there.
        with TemporaryDirectory(prefix=MAKING_PREFIX, dir=directory) as making:
            name = Switchboard(queue, making).enqueue(
                self._msg, self._msgdata, recipients=recipients,
                **{TOKEN_KEY: token,
                   PROGRESS_KEY: self._progress.carried(queue),
                   **more}) + '.pck'
            if self._journal is not None:
                if replaces:
                    count_afresh(os.path.basename(self._journal.path))
                self._journal.handing_over(token, recipients)
            os.rename(os.path.join(making, name),
                      os.path.join(directory, name))
            self._moved.update(recipients)
            self._progress.note_put(queue, len(recipients))
            if self._journal is not None:
                self._journal.handed_over(token)


@public
def others_wait() -> bool:
    """Return True if any post waits in the `out` queue.

    The one that is being delivered has another name meanwhile.
    """
    with os.scandir(queue_directory('out')) as entries:
        return any(entry.name.endswith('.pck') for entry in entries)


@public
def find_handed_over(settled: Settled) -> None:
    """Look for the queue entries that were being made.

    :param settled: What the journal says; those that are there are moved
        from `handing_over` to `handed_over`.
    """
    if settled.handing_over:
        tokens = {msgdata.get(TOKEN_KEY) for queue in QUEUES_IN_ORDER
                  for msg, msgdata in entries_in(queue)}
        for token in settled.handing_over.keys() & tokens:
            settled.handed_over[token] = settled.handing_over.pop(token)
