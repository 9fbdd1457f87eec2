# SPDX-License-Identifier: GPL-3.0-or-later
"""What the limits of our own let one lane send, and open.

What the relay itself asks for is another matter; see `Throttle`.
"""

from mailman_mta_pool.limits.limiter import Permit
from mailman_mta_pool.relays.limiting import Allowance
from mailman_mta_pool.wire.transaction import Outcome, Transaction, was_sent
from public import public
from typing import Any, Callable, Dict, List, Optional, Tuple


@public
class Permits:
    """The limits that apply to a lane, and the permits that it has.

    :ivar are_needed: False if there is no limit of what is sent.
    """

    def __init__(self, allowance: Optional[Allowance], pool: Any,
                 clock: Callable[[], float]) -> None:
        """Prepare; nothing is asked yet.

        :param allowance: What the limits let through; None if there are none.
        :param pool: The `IPool` of the relay, whose connections may have a
            limit as well.
        :param clock: Seconds that only grow.
        """
        self.are_needed = allowance is not None
        self._allowance = allowance
        self._pool = pool
        self._clock = clock
        # Those of the transactions in hand, by identity.
        self._given: Dict[int, Permit] = {}
        # Until when the limit holds because of which the lane has ended, and
        # that limit in words.
        self._last: Optional[Tuple[float, str]] = None

    # Whether something may go, and when.

    @property
    def is_waiting(self) -> bool:
        """True while a limit lets no message through."""
        return self._allowance is not None and self._allowance.is_waiting

    @property
    def is_barred(self) -> bool:
        """True while a limit lets no message, or no connection, through."""
        return self.is_waiting or self._pool.barred_by is not None

    @property
    def _lacking(self) -> List[Allowance]:
        """What keeps the lane from sending."""
        lacking = []
        if self._allowance is not None and self._allowance.is_waiting:
            lacking.append(self._allowance)
        connects = self._pool.barred_by
        if connects is not None:
            lacking.append(connects)
        return lacking

    @property
    def waits(self) -> List[float]:
        """For how many seconds each limit lets nothing through that does so.

        0.0 as long as a shared storage is being asked.
        """
        return [each.ready_in for each in self._lacking]

    @property
    def ready_in(self) -> float:
        """For how many seconds the limits let nothing through."""
        return max(self.waits, default=0.0)

    @property
    def message_in(self) -> float:
        """For how many seconds the limits let no message through."""
        return 0.0 if self._allowance is None else self._allowance.ready_in

    @property
    def limit(self) -> Tuple[float, str]:
        """The seconds of `ready_in`, and the limit in words.

        Of a lane that has ended because of a limit, for how long that holds.
        """
        if self._last is not None:
            until, words = self._last
            return max(0.0, until - self._clock()), words
        return max(((each.ready_in, each.reason) for each in self._lacking),
                   default=(0.0, ''))

    def note_end(self, seconds: float, words: str) -> None:
        """Take note that the lane ends because of a limit.

        :param seconds: For how many seconds the limit lets nothing through.
        :param words: The limit in words.
        """
        self._last = self._clock() + seconds, words

    # Permits.

    def look(self, is_needed: bool) -> bool:
        """Return True if something may go; see `Allowance.look`."""
        return self._allowance is None or self._allowance.look(is_needed)

    def request(self, recipients: int,
                is_divisible: bool) -> Optional[Permit]:
        """Ask for a permit where one is needed; see `Claimant.request`."""
        assert self._allowance is not None
        return self._allowance.request(recipients, is_divisible)

    def keep(self, permit: Permit,
             transaction: Optional[Transaction]) -> None:
        """Keep a permit until what it was for is answered.

        :param transaction: What is sent by it; None if nothing is.
        """
        if transaction is None:
            permit.unused()
        else:
            permit.trim(len(transaction.recipients))
            self._given[id(transaction)] = permit

    def give_back(self, outcome: Outcome) -> None:
        """Give back the permit of a transaction, which counts if it was sent.

        :param outcome: What became of it.
        """
        permit = self._given.pop(id(outcome.transaction), None)
        if permit is None:
            return
        if was_sent(outcome):
            permit.replied()
        else:
            permit.unused()

    def leave(self) -> None:
        """Give up the place in the line: there is nothing to send now."""
        if self._allowance is not None:
            self._allowance.leave()

    def close(self) -> None:
        """Give up the place in the line for good."""
        if self._allowance is not None:
            self._allowance.close()
