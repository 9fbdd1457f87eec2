# SPDX-License-Identifier: GPL-3.0-or-later
"""The backlog of a post: transactions that wait, and those in flight."""

from collections import deque
from mailman_mta_pool.wire.transaction import domain_of, Transaction
from public import public
from typing import (
    Callable,
    Deque,
    Dict,
    FrozenSet,
    Iterable,
    List,
    Optional,
    Tuple,
)


# What is queued at once, in octets, and after how many seconds at the latest
# when another transaction comes.
BATCH_OCTETS = 64 * 1024
SOON = 0.002
# How many transactions are looked through for recipients of other domains.
MAX_LOOKED_AT = 500


@public
class Batch:
    """Transactions that were submitted, and wait to be queued with more.

    To take the lock for each transaction would make the workers wait for the
    main thread, and the main thread for them.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """Begin; the first transaction is not kept waiting.

        :param clock: Seconds that only grow.
        """
        self._clock = clock
        self._taken = 0.0
        self.octets = 0
        self._transactions: List[Transaction] = []

    def __len__(self) -> int:
        """Return how many are waiting."""
        return len(self._transactions)

    def add(self, transaction: Transaction) -> bool:
        """Let one wait, and tell whether it is time to take them all."""
        self._transactions.append(transaction)
        self.octets += transaction.content.size
        return (self.octets >= BATCH_OCTETS or
                self._taken + SOON <= self._clock())

    def take(self) -> List[Transaction]:
        """Give all of them, and begin anew."""
        transactions, self._transactions = self._transactions, []
        self.octets = 0
        self._taken = self._clock()
        return transactions


@public
class Backlog:
    """The transactions of a post on their way through a dispatch.

    It belongs to a `Dispatcher`, in the network thread.

    :ivar octets: How much content is waiting.
    :ivar is_complete: True if nothing more comes.
    :ivar parts_left: How many parts of the transaction that was taken last
        are waiting, because it was divided.
    """

    def __init__(self) -> None:
        self.octets = 0
        self._waiting: Deque[Transaction] = deque()
        # What goes before all else, one after the other, each alone.
        self._first: Deque[Transaction] = deque()
        self._alone: Optional[int] = None
        # The domains whose recipients are left for later.
        self.elsewhere: FrozenSet[str] = frozenset()
        # What goes once nothing else comes.
        self._last: List[Transaction] = []
        self._aside = 0
        self.is_complete = False
        self.parts_left = 0
        # By identity: two transactions may be equal.
        self._in_hand: Dict[int, Transaction] = {}
        self._tried: Dict[int, float] = {}

    def __len__(self) -> int:
        """Return how many can go now."""
        if self.holds_back or self._first:
            return int(not self.holds_back)
        if self._waiting:
            return len(self._waiting)
        return len(self._last) if self._is_time_for_the_last else 0

    def append(self, transaction: Transaction) -> None:
        """Let it wait for its turn."""
        self._waiting.append(transaction)
        self.octets += transaction.content.size

    def extend_left(self, transactions: Iterable[Transaction]) -> None:
        """Let these go before all others, and in their order."""
        for transaction in reversed(list(transactions)):
            self._waiting.appendleft(transaction)
            self.octets += transaction.content.size

    @property
    def holds_back(self) -> bool:
        """True until the outcome of what goes alone is known."""
        return self._alone is not None

    def put_first(self, transactions: Tuple[Transaction, ...]) -> None:
        """Let these go before all others, one after the other, each alone."""
        self._first.extend(transactions)
        self.octets += sum(
            transaction.content.size for transaction in transactions)

    def set_aside(self, transaction: Transaction, tried: float) -> None:
        """Keep a transaction until its connection is done with.

        `put_back` queues it again.

        :param tried: How often it was tried.
        """
        self._tried[id(transaction)] = tried
        self._aside += 1

    def put_back(self, first: List[Transaction],
                 last: List[Transaction]) -> None:
        """Let those go that were set aside.

        :param first: These before all others.
        :param last: These when all others have gone, and those still to come.
        """
        self._aside -= len(first) + len(last)
        self.extend_left(first)
        self._last.extend(last)

    @property
    def _is_time_for_the_last(self) -> bool:
        return (self.is_complete and not self._waiting and not self._first and
                not self._in_hand and not self._aside)

    def clear(self) -> None:
        """Forget what is waiting."""
        self._waiting.clear()
        self._first.clear()
        self._last.clear()
        self.octets = 0

    def take(self, octets: int, limit: Optional[int],
             verp_refused: bool = False,
             sender: Optional[str] = None) -> Optional[Transaction]:
        """Return the next transaction for a connection.

        :param octets: How much content it may have.
        :param limit: The most recipients that it may have; the others wait.
        :param verp_refused: True if the server does not make any senders.
        :param sender: The sender that takes the place of those of VERP; None
            if there is no need.
        :return: None if none is waiting, the next one is too large, or what
            goes alone has not had its outcome.
        """
        self.parts_left = 0
        if self.holds_back:
            return None
        if self._first:
            return self._take_first(octets)
        if self._is_time_for_the_last:
            self.extend_left(self._last)
            self._last.clear()
        if self.elsewhere:
            self._look_elsewhere()
        if not self._waiting or self._waiting[0].content.size > octets:
            return None
        transaction = self._waiting.popleft()
        self.octets -= transaction.content.size
        if sender is not None and (
                transaction.sender != sender or transaction.verp is not None):
            transaction = self._first_of(transaction, [
                transaction._replace(sender=sender, verp=None)])
        if verp_refused and transaction.verp is not None:
            transaction = self._first_of(
                transaction, transaction.individually())
        recipients = transaction.recipients
        if limit is not None and len(recipients) > limit:
            transaction = self._first_of(transaction, [
                transaction._replace(recipients=part)
                for part in (recipients[:limit], recipients[limit:])])
        self._in_hand[id(transaction)] = transaction
        return transaction

    def _take_first(self, octets: int) -> Optional[Transaction]:
        if self._first[0].content.size > octets:
            return None
        transaction = self._first.popleft()
        self.octets -= transaction.content.size
        self._alone = id(transaction)
        self._in_hand[id(transaction)] = transaction
        return transaction

    def _look_elsewhere(self) -> None:
        """Let recipients of other domains go before the next one, if any."""
        for index in range(min(len(self._waiting), MAX_LOOKED_AT)):
            transaction = self._waiting[index]
            if any(domain_of(recipient) not in self.elsewhere
                   for recipient in transaction.recipients):
                del self._waiting[index]
                self._waiting.appendleft(transaction)
                return

    def _first_of(self, transaction: Transaction,
                  parts: List[Transaction]) -> Transaction:
        """Take the first of the parts; the others wait in its place."""
        tried = self._tried.pop(id(transaction), None)
        if tried is not None:
            self._tried.update((id(part), tried) for part in parts)
        self.extend_left(parts[1:])
        self.parts_left += len(parts) - 1
        return parts[0]

    @property
    def is_done(self) -> bool:
        """True if nothing is waiting, set aside, or with a connection."""
        return not (self._waiting or self._first or self._last or
                    self._aside or self._in_hand)

    def release(self, transaction: Transaction) -> Optional[float]:
        """Take one back from its connection.

        :return: How often it was tried before; None if it has been given up
            meanwhile.
        """
        if self._in_hand.pop(id(transaction), None) is None:
            return None
        if self._alone == id(transaction):
            self._alone = None
        return self._tried.pop(id(transaction), 0.0)

    def give_up(self) -> List[Transaction]:
        """Return what the connections have; they keep it to themselves."""
        in_hand = list(self._in_hand.values())
        self._in_hand.clear()
        self._alone = None
        return in_hand
