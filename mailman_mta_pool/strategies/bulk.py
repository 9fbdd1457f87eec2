# SPDX-License-Identifier: GPL-3.0-or-later
"""One content for all: as many recipients in a transaction as allowed."""

from mailman.mta.bulk import BulkDelivery
from mailman_mta_pool.rendering.reference import (
    call_back,
    end_database_transaction,
    WithoutConnection,
)
from mailman_mta_pool.rendering.remembered import Memory
from mailman_mta_pool.strategies.order import chunks, in_turns
from mailman_mta_pool.wire.boundaries import Boundaries
from mailman_mta_pool.wire.content import as_content
from mailman_mta_pool.wire.transaction import Transaction
from public import public
from typing import Any, Dict, Tuple


@public
class PooledBulkDelivery(BulkDelivery, WithoutConnection):
    """Mailman's bulk delivery, with the pool in the place of smtplib."""

    def __init__(self, outbound: Any, max_recipients: int) -> None:
        """See `BulkDelivery`.

        :param outbound: Where the transactions go, an `IOutbound`.
        """
        super().__init__(max_recipients)    # type: ignore[call-arg]
        self._outbound = outbound

    def deliver(self, mlist: Any, msg: Any, msgdata: Dict[str, Any],
                ) -> Dict[str, Tuple[int, bytes]]:
        """See `IMailTransportAgentDelivery`."""
        together = [chunk for turn in in_turns(msgdata)
                    for chunk in chunks(turn, self._max_recipients)]
        self._outbound.expect(len(together))
        with Memory(mlist).in_use():
            call_back([self.decorate, self.arc_sign], mlist, msg, msgdata,
                      Boundaries())
        sender = self._get_sender(mlist, msg, msgdata)
        content = as_content(msg)
        end_database_transaction()
        for chunk in together:
            self._outbound.submit(Transaction(sender, chunk, content))
        return self._outbound.finish()
