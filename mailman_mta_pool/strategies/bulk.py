# SPDX-License-Identifier: GPL-3.0-or-later
"""One content for all: as many recipients in a transaction as allowed."""

from mailman.mta.bulk import BulkDelivery
from mailman_mta_pool.rendering.reference import Captured
from mailman_mta_pool.wire.content import Content
from public import public
from typing import Any, Dict, Optional, Tuple


@public
class PooledBulkDelivery(BulkDelivery, Captured):
    """Mailman's bulk delivery, with the pool in the place of smtplib."""

    def __init__(self, outbound: Any,
                 max_recipients: Optional[int] = None) -> None:
        """See `BulkDelivery`.

        :param outbound: Where the transactions go, an `IOutbound`.
        """
        super().__init__(max_recipients)    # type: ignore[call-arg]
        self._outbound = outbound
        self.submit = outbound.submit
        self._rendered: Optional[Tuple[str, Content]] = None

    def deliver(self, mlist: Any, msg: Any, msgdata: Dict[str, Any],
                ) -> Dict[str, Tuple[int, bytes]]:
        """See `IMailTransportAgentDelivery`."""
        self._rendered = None
        super().deliver(mlist, msg, msgdata)
        return self._outbound.finish()

    def _render(self, mlist: Any, msg: Any, msgdata: Dict[str, Any],
                ) -> Tuple[str, Content]:
        # All chunks get the same octets, rendered once and held once.
        if self._rendered is None:
            self._rendered = super()._render(mlist, msg, msgdata)
        return self._rendered
