# SPDX-License-Identifier: GPL-3.0-or-later
"""A transaction for each recipient: VERP, personalization, or both."""

from mailman.mta.deliver import Deliver
from mailman_mta_pool.rendering.reference import (
    end_database_transaction,
    WithoutConnection,
)
from mailman_mta_pool.rendering.remembered import Memory
from mailman_mta_pool.rendering.renderer import Renderer
from mailman_mta_pool.rendering.senders import Senders
from mailman_mta_pool.strategies.order import in_turns
from public import public
from typing import Any, Dict, Tuple


@public
class PooledIndividualDelivery(Deliver, WithoutConnection):
    """Mailman's individual delivery, with the pool in place of smtplib."""

    def __init__(self, outbound: Any, together: Any) -> None:
        """See `Deliver`.

        :param outbound: Where the transactions go, an `IOutbound`.
        :param together: What puts recipients into transactions: a
            `Coalescing`, or a `ServerVERP`.
        """
        super().__init__()
        self._outbound = outbound
        self._together = together

    def deliver(self, mlist: Any, msg: Any, msgdata: Dict[str, Any],
                ) -> Dict[str, Tuple[int, bytes]]:
        """See `IMailTransportAgentDelivery`."""
        def sender_for(recipient: str) -> str:
            with memory.in_use():
                sender = self._get_sender(
                    mlist, msg, dict(msgdata, recipient=recipient))
            end_database_transaction()
            return sender
        memory = Memory(mlist)
        senders = Senders(sender_for)
        renderer = Renderer(
            self.callbacks, mlist, msg, msgdata, memory, sender_for)
        turns = in_turns(msgdata)
        self._outbound.expect(self._together.at_least(sum(map(len, turns))))
        for recipients in turns:
            for alike, content in renderer.contents(recipients):
                self._together.add(alike, content, senders)
            self._together.flush()
        return self._outbound.finish()
