# SPDX-License-Identifier: GPL-3.0-or-later
"""Mailman's queues, for those recipients whom this delivery does not serve.

The entries are such as stock Mailman understands.  A journal that another
delivery begins with says which recipients are in another entry by now, even
if the crash came while that entry was being made.
"""

import os
import pickle
import logging
import secrets

from lazr.config import as_timedelta
from mailman.config import config
from mailman.utilities.datetime import now
from mailman_mta_pool.journal.entry import count_afresh
from mailman_mta_pool.journal.file import Journal
from mailman_mta_pool.journal.records import Settled
from public import public
from typing import Any, Dict, List, Optional, Set


log = logging.getLogger('mailman.smtp')

# The key of the metadata by which an entry that we made is found.  Stock
# Mailman passes over it.
TOKEN = 'mta_pool_token'
# What is in one of these may move to the next while we look.
WHERE_TO = ('shunt', 'retry', 'out')
# How often, by Mailman's count, it has found the entry left over from a crash,
# and by ours, without any progress, in entries before this one.  Mailman gives
# up at three.  If it is the post itself that kills the runner, we do, too.
RECOVERED = '_bak_count'
FRUITLESS = 'mta_pool_fruitless'
TOO_OFTEN = 5
EXTENSIONS = ('.pck', '.bak')


@public
class Queues:
    """Puts recipients of one post into queue entries of their own."""

    def __init__(self, msg: Any, msgdata: Dict[str, Any],
                 journal: Optional[Journal]) -> None:
        """Prepare.

        :param msg: The message.
        :param msgdata: Its metadata.
        :param journal: Where it is recorded what goes where.
        """
        self._msg = msg
        self._msgdata = msgdata
        self._journal = journal
        self._moved: Set[str] = set()
        self._fruitless = msgdata.get(FRUITLESS, 0)

    @property
    def was_broken_off(self) -> bool:
        """Is the entry left over from a crash, and worth a fresh one?

        Without a journal it would go to everybody again.
        """
        return (self._journal is not None and
                bool(self._msgdata.get(RECOVERED)) and
                self._fruitless < TOO_OFTEN)

    def count_afresh(self) -> None:
        """There is to be an entry in place of this one; until then, keep it.
        """
        if self._journal is not None:
            count_afresh(os.path.basename(self._journal.path))

    def without_moved(self, recipients: List[str]) -> List[str]:
        """Leave out those who are in another entry by now."""
        return [recipient for recipient in recipients
                if recipient not in self._moved]

    def put_back(self, recipients: List[str], progress: bool = True) -> None:
        """Let the outgoing runner deliver to them after everything else.

        :param recipients: Whom.
        :param progress: False if it was all in vain so far.
        """
        self._put('out', recipients, **{
            FRUITLESS: 0 if progress else self._fruitless + 1})

    def leave_to_runner(self, recipients: List[str]) -> None:
        """Take note that the runner itself puts them into the retry queue.

        It does so with the metadata that it has passed to us.
        """
        if self._journal is not None:
            token = self._msgdata[TOKEN] = secrets.token_hex(8)
            self._journal.handing_over(token, recipients)

    def shunt(self, recipients: List[str]) -> None:
        """Let the site's operator look at it, and say `mailman unshunt`."""
        self._put('shunt', recipients, whichq='out')

    def retry(self, recipients: List[str]) -> None:
        """Try them again later.

        It keeps the books that `OutgoingRunner._dispose` keeps, in the same
        keys of the metadata, so that a retry may change hands between it and
        stock.
        """
        if 'probe_token' in self._msgdata:
            # As stock: a probe that fails for the time being is not sent
            # again.
            return
        current = now()
        until = self._msgdata.get('deliver_until', current)
        if len(recipients) != self._msgdata.get('last_recip_count', 0):
            # There was some progress, so go on for a while longer.
            until = current + as_timedelta(config.mta.delivery_retry_period)
        elif current > until:
            log.error(
                'Discarding message with persistent temporary failures: %s',
                self._msg['message-id'])
            return
        self._put('retry', recipients, last_recip_count=len(recipients),
                  deliver_until=until)

    def _put(self, queue: str, recipients: List[str], **more: Any) -> None:
        token = secrets.token_hex(8)
        if self._journal is not None:
            self._journal.handing_over(token, recipients)
        config.switchboards[queue].enqueue(
            self._msg, self._msgdata, recipients=recipients,
            **{TOKEN: token, **more})
        self._moved.update(recipients)
        if self._journal is not None:
            self._journal.handed_over(token)


@public
def find_handed_over(settled: Settled) -> None:
    """Find out which of the entries that were being made are there.

    :param settled: What the journal says; those that are there are moved
        from `handing_over` to `handed_over`.
    """
    if settled.handing_over:
        for token in settled.handing_over.keys() & _tokens():
            settled.handed_over[token] = settled.handing_over.pop(token)


def _tokens() -> set:
    tokens = set()
    for queue in WHERE_TO:
        directory = config.switchboards[queue].queue_directory
        for name in os.listdir(directory):
            if name.endswith(EXTENSIONS):
                tokens.add(_token(os.path.join(directory, name)))
    return tokens


def _token(path: str) -> Optional[str]:
    try:
        with open(path, 'rb') as fp:
            pickle.load(fp)
            return pickle.load(fp).get(TOKEN)
    except (OSError, EOFError, pickle.UnpicklingError):
        # It has just gone, or it is not fit for anybody.
        return None
