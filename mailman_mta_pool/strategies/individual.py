# SPDX-License-Identifier: GPL-3.0-or-later
"""A transaction for each recipient: VERP, personalization, or both."""

from mailman.mta.deliver import Deliver
from mailman_mta_pool.rendering.reference import Captured
from public import public
from typing import Any, Dict, Tuple


@public
class PooledIndividualDelivery(Deliver, Captured):
    """Mailman's individual delivery, with the pool in place of smtplib."""

    def __init__(self, outbound: Any) -> None:
        """See `Deliver`.

        :param outbound: Where the transactions go, an `IOutbound`.
        """
        super().__init__()
        self._outbound = outbound
        self.submit = outbound.submit

    def deliver(self, mlist: Any, msg: Any, msgdata: Dict[str, Any],
                ) -> Dict[str, Tuple[int, bytes]]:
        """See `IMailTransportAgentDelivery`."""
        super().deliver(mlist, msg, msgdata)
        return self._outbound.finish()
