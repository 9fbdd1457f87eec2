# SPDX-License-Identifier: GPL-3.0-or-later
"""The callable of `[mta] outgoing`: one post from Mailman to the relay."""

import time
import logging

from mailman.interfaces.mta import SomeRecipientsFailed
from mailman_mta_pool.dispatch import Dispatch
from mailman_mta_pool.interfaces import IOutbound
from mailman_mta_pool.relay import Relay, relay_for
from mailman_mta_pool.retry import enqueue_for_retry
from mailman_mta_pool.settings import load
from mailman_mta_pool.settlement import Ledger
from mailman_mta_pool.smtplog import PostLog
from mailman_mta_pool.strategies import strategy_for
from public import public
from typing import Any, Dict, Tuple
from zope.interface import implementer


log = logging.getLogger('mailman.smtp')


@implementer(IOutbound)
class _Outbound:
    """The dispatch of one post, and the ledger of its outcomes."""

    def __init__(self, relay: Relay, attempts: int) -> None:
        self.ledger = Ledger()
        self._relay = relay
        self._dispatch = Dispatch(relay, attempts, self.ledger.settle)
        self.submit = self._dispatch.submit

    def finish(self) -> Dict[str, Tuple[int, bytes]]:
        """See `IOutbound`."""
        self._dispatch.finish()
        if self._dispatch.unavailable is not None:
            log.error('Mail server unavailable: %s',
                      self._dispatch.unavailable)
        return self.ledger.refused

    def close(self) -> None:
        """Stop, if it has not finished; see to the idle connections."""
        self._dispatch.abandon()
        self._relay.pool.tend()


@public
def deliver(mlist: Any, msg: Any, msgdata: Dict[str, Any]) -> None:
    """Deliver a message to the outgoing mail server.

    It takes the place of `mailman.mta.deliver.deliver` and does what that
    does, except that temporary and permanent failures never go up together:
    the outgoing runner of Mailman would send the temporary ones a bounce
    notice about another member instead of the post.

    :param mlist: The mailing list.
    :type mlist: `IMailingList`
    :param msg: The message; bulk delivery decorates it in place.
    :type msg: `mailman.email.message.Message`
    :param msgdata: Its metadata.
    :raises SomeRecipientsFailed: if some were refused.
    :raises ConfigurationError: if a setting is no good; nothing was sent.
    """
    recipients = msgdata.get('recipients')
    if not recipients:
        # Could be None, could be an empty sequence.
        return
    settings = load()
    post_log = PostLog(mlist, msg, msgdata)
    started = time.monotonic()
    outbound = _Outbound(
        relay_for(settings.relay, settings.pool), settings.attempts)
    strategy = strategy_for(mlist, msgdata, outbound, settings.coalesce)
    try:
        refused = strategy.deliver(mlist, msg, msgdata)
    except BaseException:
        # Whatever it is, it goes on up, and the runner will keep the post for
        # those whom msgdata names.
        outbound.close()
        msgdata['recipients'] = outbound.ledger.unserved(recipients)
        raise
    outbound.close()
    post_log.write(time.monotonic() - started, refused)
    temporary, permanent = outbound.ledger.verdict()
    if temporary and permanent:
        enqueue_for_retry(msg, msgdata, temporary)
        temporary = []
    if temporary or permanent:
        raise SomeRecipientsFailed(temporary, permanent)
