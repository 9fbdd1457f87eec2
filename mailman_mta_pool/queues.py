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
from mailman_mta_pool.journal.file import Journal
from mailman_mta_pool.journal.records import Settled
from public import public
from typing import Any, Dict, List, Optional


log = logging.getLogger('mailman.smtp')

# The key of the metadata by which an entry that we made is found.  Stock
# Mailman passes over it.
TOKEN = 'mta_pool_token'
WHERE_TO = ('out', 'retry', 'shunt')
EXTENSIONS = ('.pck', '.bak')


@public
class Queues:
    """Puts recipients of one post into queue entries of their own."""

    def __init__(self, msg: Any, msgdata: Dict[str, Any],
                 journal: Optional[Journal]) -> None:
        """Prepare.

        :param msg: The message.
        :param msgdata: Its metadata; it is not changed.
        :param journal: Where it is recorded what goes where.
        """
        self._msg = msg
        self._msgdata = msgdata
        self._journal = journal

    def put_back(self, recipients: List[str]) -> None:
        """Let the outgoing runner deliver to them after everything else."""
        self._put('out', recipients)

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
            **{TOKEN: token}, **more)
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
