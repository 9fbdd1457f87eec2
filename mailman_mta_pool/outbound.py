# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the strategies put their transactions."""

from mailman_mta_pool.dispatch import Dispatch
from mailman_mta_pool.errors import RelayUnavailable
from mailman_mta_pool.interfaces import Failure, IOutbound
from mailman_mta_pool.ledger import Ledger
from mailman_mta_pool.relay import Relay
from mailman_mta_pool.settings import DeliverySettings
from public import public
from typing import Any, Dict, Optional
from zope.interface import implementer


@public
@implementer(IOutbound)
class Outbound:
    """The dispatch of one post, and the ledger of its outcomes."""

    def __init__(self, relay: Relay, delivery: DeliverySettings,
                 ledger: Ledger, turn: Any) -> None:
        """Prepare; nothing is opened."""
        self._relay = relay
        self._ledger = ledger
        self._dispatch = Dispatch(relay, delivery, ledger.settle, turn=turn)
        self.submit = self._dispatch.submit

    @property
    def unavailable(self) -> Optional[RelayUnavailable]:
        """Why the relay cannot be used, or None."""
        return self._dispatch.unavailable

    def finish(self) -> Dict[str, Failure]:
        """See `IOutbound`."""
        self._dispatch.finish()
        return self._ledger.failures

    def close(self) -> None:
        """Stop, if it has not finished; see to the idle connections."""
        self._dispatch.abandon()
        self._relay.pool.tend()
