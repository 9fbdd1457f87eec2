# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the strategies put their transactions."""

from mailman_mta_pool.connection.devmode import is_rerouting
from mailman_mta_pool.dispatch.dispatcher import Dispatch
from mailman_mta_pool.errors import RelayUnavailable
from mailman_mta_pool.interfaces import Failure, IOutbound
from mailman_mta_pool.relays.relay import Relay
from mailman_mta_pool.settings import DeliverySettings
from mailman_mta_pool.settlement.ledger import Ledger
from mailman_mta_pool.wire.transaction import Transaction
from public import public
from typing import Any, Dict, Optional
from zope.interface import implementer


@public
@implementer(IOutbound)
class Outbound:
    """The dispatch of one post, and the ledger of its outcomes."""

    def __init__(self, relay: Relay, delivery: DeliverySettings,
                 ledger: Ledger, turn: Any, envid: str) -> None:
        """Prepare; nothing is opened.

        :param relay: Where to.
        :param delivery: How.
        :param ledger: The books.
        :param turn: An `ITurn`, which says when to stop.
        :param envid: The envelope identifier (RFC 3461), if delivery status
            notifications are wanted.
        """
        self._relay = relay
        self._ledger = ledger
        self._envid = envid if delivery.dsn else None
        self._dispatch = Dispatch(relay, delivery, ledger.settle, turn=turn)

    def expect(self, transactions: int) -> None:
        """See `IOutbound`."""
        self._dispatch.expect(transactions)

    def submit(self, transaction: Transaction) -> None:
        """See `IOutbound`."""
        if self._envid is not None:
            transaction = transaction._replace(envid=self._envid)
        self._dispatch.submit(transaction)

    @property
    def connections(self) -> int:
        """See `IOutbound`."""
        return self._relay.pool_settings.max_connections

    @property
    def makes_senders(self) -> bool:
        """See `IOutbound`."""
        if is_rerouting():
            # It would make them of what [devmode] puts in the members' place.
            return False
        # Nothing is known before the first connection of all.
        self._dispatch.meet()
        lessons = self._relay.lessons
        return (lessons.server is not None and lessons.server.xverp and
                not lessons.verp_refused)

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
