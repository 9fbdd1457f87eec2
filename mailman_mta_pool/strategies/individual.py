# SPDX-License-Identifier: GPL-3.0-or-later
"""A transaction for each recipient: VERP, personalization, or both."""

from mailman.mta.deliver import Deliver
from mailman_mta_pool.rendering.reference import (
    end_database_transaction,
    WithoutConnection,
)
from mailman_mta_pool.rendering.renderer import Renderer
from mailman_mta_pool.rendering.senders import Senders
from mailman_mta_pool.strategies.coalescing import Coalescing
from mailman_mta_pool.strategies.order import in_order
from public import public
from typing import Any, Dict, Tuple


@public
class PooledIndividualDelivery(Deliver, WithoutConnection):
    """Mailman's individual delivery, with the pool in place of smtplib."""

    def __init__(self, outbound: Any, max_together: int = 1) -> None:
        """See `Deliver`.

        :param outbound: Where the transactions go, an `IOutbound`.
        :param max_together: How many recipients may share a transaction if
            sender and content turn out to be the same; 0 is no limit.
        """
        super().__init__()
        self._outbound = outbound
        self._max_together = max_together

    def deliver(self, mlist: Any, msg: Any, msgdata: Dict[str, Any],
                ) -> Dict[str, Tuple[int, bytes]]:
        """See `IMailTransportAgentDelivery`."""
        def sender_for(recipient: str) -> str:
            sender = self._get_sender(
                mlist, msg, dict(msgdata, recipient=recipient))
            end_database_transaction()
            return sender
        senders = Senders(sender_for)
        renderer = Renderer(self.callbacks, mlist, msg, msgdata)
        together = Coalescing(self._outbound.submit, self._max_together)
        recipients = in_order(msgdata.get('recipients', ()))
        for recipient, content in renderer.contents(recipients):
            together.submit(senders.sender(recipient), recipient, content)
        together.flush()
        return self._outbound.finish()
