# SPDX-License-Identifier: GPL-3.0-or-later
"""The backlog of a post: transactions that wait, and those in flight.

What any relay may get waits in the `Backlog`.  What an answer of one relay
has called for waits in the `Share` of that relay's lane.
"""

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

    :ivar octets: How much content is waiting, in the shares too.
    :ivar is_complete: True if nothing more comes.
    :ivar waiting: What any relay may get.
    :ivar last: What any relay may get once nothing else comes.
    :ivar tried: How often transactions were tried, by identity: two of them
        may be equal.
    :ivar shares: Those of the lanes.
    """

    def __init__(self) -> None:
        """Begin with nothing waiting, and without lanes."""
        self.octets = 0
        self.is_complete = False
        self.waiting: Deque[Transaction] = deque()
        self.last: List[Transaction] = []
        self.tried: Dict[int, float] = {}
        self.shares: List['Share'] = []

    def __len__(self) -> int:
        """Return how many can go now over any relay."""
        if self.waiting:
            return len(self.waiting)
        return len(self.last) if self.is_time_for_the_last else 0

    def append(self, transaction: Transaction) -> None:
        """Let it wait for its turn."""
        self.waiting.append(transaction)
        self.octets += transaction.content.size

    def extend_left(self, transactions: Iterable[Transaction]) -> None:
        """Let these go before all others, and in their order."""
        for transaction in reversed(list(transactions)):
            self.waiting.appendleft(transaction)
            self.octets += transaction.content.size

    @property
    def is_time_for_the_last(self) -> bool:
        """True if nothing else is waiting, set aside, or in flight."""
        if self.waiting or not self.is_complete:
            return False
        for share in self.shares:
            if share.is_busy:
                return False
        return True

    @property
    def is_done(self) -> bool:
        """True if nothing is waiting, set aside, or with a connection."""
        if self.waiting or self.last:
            return False
        # It is looked at often: a generator would cost more.
        for share in self.shares:
            if share.is_busy or share.last:
                return False
        return True

    def clear(self) -> None:
        """Forget what is waiting."""
        self.waiting.clear()
        self.last.clear()
        for share in self.shares:
            share.clear()
        self.octets = 0


@public
class Share:
    """The part of a backlog that belongs to one lane.

    :ivar own: What goes over this lane only, before all that is waiting.
    :ivar last: What goes over this lane only, once nothing else comes.
    :ivar elsewhere: The domains whose recipients are left for later.
    :ivar parts_left: How many parts of the transaction that was taken last
        are waiting, because it was divided.
    """

    def __init__(self, backlog: Backlog) -> None:
        """Begin with nothing of its own.

        :param backlog: That of the post, which it joins.
        """
        self._backlog = backlog
        self._waiting = backlog.waiting
        self.own: Deque[Transaction] = deque()
        self.last: List[Transaction] = []
        # What goes before all else, one after the other, each alone.
        self._first: Deque[Transaction] = deque()
        self._alone: Optional[int] = None
        self._aside = 0
        self.elsewhere: FrozenSet[str] = frozenset()
        self.parts_left = 0
        # By identity: two transactions may be equal.
        self._in_hand: Dict[int, Transaction] = {}
        backlog.shares.append(self)

    def __len__(self) -> int:
        """Return how many can go over this lane now."""
        if self.holds_back or self._first:
            return int(not self.holds_back)
        if self.own or self._waiting:
            return len(self.own) + len(self._waiting)
        if self.last and self._backlog.is_time_for_the_last:
            return len(self.last) + len(self._backlog)
        return len(self._backlog)

    @property
    def next_size(self) -> int:
        """How large the next one is that may go over any lane; in octets."""
        return self._waiting[0].content.size if self._waiting else 0

    @property
    def own_length(self) -> int:
        """How many can go now, and over this lane only."""
        if self.holds_back or self._first:
            return int(not self.holds_back)
        if self.last and self._backlog.is_time_for_the_last:
            return len(self.own) + len(self.last)
        return len(self.own)

    @property
    def holds_back(self) -> bool:
        """True until the outcome of what goes alone is known."""
        return self._alone is not None

    @property
    def is_busy(self) -> bool:
        """True if something of it is to be settled before the last go."""
        return bool(
            self.own or self._first or self._in_hand or self._aside)

    def extend_left(self, transactions: Iterable[Transaction]) -> None:
        """Let these go over this lane, before all others, in their order."""
        for transaction in reversed(list(transactions)):
            self.own.appendleft(transaction)
            self._backlog.octets += transaction.content.size

    def put_first(self, transactions: Tuple[Transaction, ...]) -> None:
        """Let these go before all others, one after the other, each alone."""
        self._first.extend(transactions)
        self._backlog.octets += sum(
            transaction.content.size for transaction in transactions)

    def set_aside(self, transaction: Transaction, tried: float) -> None:
        """Keep a transaction until its connection is done with.

        :param tried: How often it was tried.
        """
        self._backlog.tried[id(transaction)] = tried
        self._aside += 1

    def receive(self, transaction: Transaction, tried: float) -> None:
        """Let a transaction of another lane go before all others.

        :param tried: How often it was tried.
        """
        self._backlog.tried[id(transaction)] = tried
        self.extend_left([transaction])

    def end_aside(self, count: int) -> None:
        """Take note that so many that were set aside are queued again."""
        self._aside -= count

    def clear(self) -> List[Transaction]:
        """Forget what is waiting; return it, without the questions."""
        own = [*self.own, *self.last, *(
            transaction for transaction in self._first
            if not transaction.asks)]
        self._backlog.octets -= sum(
            transaction.content.size
            for transactions in (self.own, self._first)
            for transaction in transactions)
        for transaction in own:
            self._backlog.tried.pop(id(transaction), None)
        self.own.clear()
        self.last.clear()
        self._first.clear()
        return own

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
        if self._alone is not None:
            return None
        if self._first:
            return self._take_first(octets)
        queue = self._next_queue()
        if not queue or queue[0].content.size > octets:
            return None
        transaction = queue.popleft()
        self._backlog.octets -= transaction.content.size
        if sender is not None and (
                transaction.sender != sender or transaction.verp is not None):
            transaction = self._first_of(queue, transaction, [
                transaction._replace(sender=sender, verp=None)])
        if verp_refused and transaction.verp is not None:
            transaction = self._first_of(
                queue, transaction, transaction.individually())
        recipients = transaction.recipients
        if limit is not None and len(recipients) > limit:
            transaction = self._first_of(queue, transaction, [
                transaction._replace(recipients=part)
                for part in (recipients[:limit], recipients[limit:])])
        self._in_hand[id(transaction)] = transaction
        return transaction

    def upcoming(self, octets: int) -> Optional[Transaction]:
        """Return what `take` would give, undivided and with its own sender.

        :param octets: See `take`.
        """
        if self._alone is not None:
            return None
        queue = self._first or self._next_queue()
        if not queue or queue[0].content.size > octets:
            return None
        return queue[0]

    @property
    def is_undivided(self) -> bool:
        """True if what comes next goes alone, and as it is."""
        return bool(self._first)

    def _next_queue(self) -> Deque[Transaction]:
        """Return the queue whose first transaction is the next one."""
        queue = self.own or self._waiting
        if not queue:
            self._bring_the_last()
            queue = self.own or self._waiting
        if self.elsewhere:
            queue = self._look_elsewhere() or queue
        return queue

    def _take_first(self, octets: int) -> Optional[Transaction]:
        if self._first[0].content.size > octets:
            return None
        transaction = self._first.popleft()
        self._backlog.octets -= transaction.content.size
        self._alone = id(transaction)
        self._in_hand[id(transaction)] = transaction
        return transaction

    def _bring_the_last(self) -> None:
        """Queue what goes once nothing else comes, if it is time."""
        backlog = self._backlog
        if (self.last or backlog.last) and backlog.is_time_for_the_last:
            last, self.last = self.last, []
            self.extend_left(last)
            backlog.extend_left(backlog.last)
            backlog.last.clear()

    def _look_elsewhere(self) -> Optional[Deque[Transaction]]:
        """Let recipients of other domains go before the next one, if any.

        :return: The queue in which they are; None if there are none.
        """
        for queue in (self.own, self._waiting):
            for index in range(min(len(queue), MAX_LOOKED_AT)):
                transaction = queue[index]
                if any(domain_of(recipient) not in self.elsewhere
                       for recipient in transaction.recipients):
                    del queue[index]
                    queue.appendleft(transaction)
                    return queue
        return None

    def _first_of(self, queue: Deque[Transaction], transaction: Transaction,
                  parts: List[Transaction]) -> Transaction:
        """Take the first of the parts; the others wait in its place."""
        tried = self._backlog.tried.pop(id(transaction), None)
        if tried is not None:
            self._backlog.tried.update((id(part), tried) for part in parts)
        for part in reversed(parts[1:]):
            queue.appendleft(part)
            self._backlog.octets += part.content.size
        self.parts_left += len(parts) - 1
        return parts[0]

    def release(self, transaction: Transaction) -> Optional[float]:
        """Take one back from its connection.

        :return: How often it was tried before; None if it has been given up
            meanwhile.
        """
        if self._in_hand.pop(id(transaction), None) is None:
            return None
        if self._alone == id(transaction):
            self._alone = None
        return self._backlog.tried.pop(id(transaction), 0.0)

    def give_up(self) -> List[Transaction]:
        """Return what the connections have; they keep it to themselves."""
        in_hand = list(self._in_hand.values())
        self._in_hand.clear()
        self._alone = None
        return in_hand
