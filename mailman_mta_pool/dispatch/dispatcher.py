# SPDX-License-Identifier: GPL-3.0-or-later
"""Transactions in, outcomes out: the bounded queue between the renderer and
the workers.

A transaction of which nothing can have been accepted, because the connection
was lost too early, goes again at once on a fresh connection.
"""

import time
import logging

from contextlib import suppress
from mailman_mta_pool.dispatch.agent import Crew
from mailman_mta_pool.dispatch.backlog import Backlog, Batch
from mailman_mta_pool.dispatch.leftovers import (
    is_answered,
    Leftovers,
    leftovers_of,
)
from mailman_mta_pool.dispatch.retry import Setbacks, Talk
from mailman_mta_pool.errors import NothingMoreToSend, RelayUnavailable
from mailman_mta_pool.interfaces import ITurn
from mailman_mta_pool.relays.relay import Relay
from mailman_mta_pool.settings import DeliverySettings
from mailman_mta_pool.wire.transaction import (
    Fate,
    Outcome,
    outcome_of_all,
    Result,
    Stage,
    Transaction,
)
from public import public
from typing import Any, Callable, Optional
from zope.interface import implementer


log = logging.getLogger('mailman.smtp')

# What may wait to be sent, in octets; one transaction may always wait.
MAX_OCTETS = 8 * 1024 * 1024
# How often the main thread looks whether its turn is over, in seconds, while
# it waits for the workers.
TICK = 0.1
# How much it counts that a transaction was in flight when a connection was
# lost that had carried others, in attempts.
SMALL = 0.1
IN_DOUBT = Result(Fate.in_doubt, Stage.end, None)


@implementer(ITurn)
class _Endless:
    """A turn that nobody ends; see `ITurn`."""

    is_over = False
    is_urgent = False
    is_too_late = False


@public
class Dispatch:
    """Sends the transactions of one post over the connections of a relay."""

    def __init__(self, relay: Relay, delivery: DeliverySettings,
                 settle: Callable[[Outcome], Any], *,
                 turn: Any = _Endless(),
                 clock: Callable[[], float] = time.monotonic,
                 max_octets: int = MAX_OCTETS) -> None:
        """Prepare; nothing starts before the first transaction.

        :param relay: Where to.
        :param delivery: How often and how long to try.
        :param settle: Called with each outcome that stands, from any thread
            but never from two at once.  It returns `Orders`, or None for
            none.
        :param turn: An `ITurn`, which says when to stop.
        :param clock: Seconds that only grow.
        :param max_octets: How much content may wait to be sent.
        """
        self._relay = relay
        self._settle = settle
        self._turn = turn
        self._max_octets = max_octets
        self._is_full = False
        self._batch = Batch(clock)
        self._backlog = Backlog()
        self._setbacks = Setbacks(relay.name, delivery, clock)
        self._crew = Crew(
            relay, self._backlog, self._setbacks, self._judge, self._has_room)

    @property
    def unavailable(self) -> Optional[RelayUnavailable]:
        """Why the relay cannot be used, or None."""
        return self._crew.unavailable

    # In the main thread.

    def meet(self) -> None:
        """Wait until it is known what the server can do, or it is given up."""
        crew = self._crew
        with crew.changed:
            if self._relay.lessons.server is None and not crew.is_over:
                crew.make_ready(1)
                self._wait_until(lambda: (
                    self._relay.lessons.server is not None or
                    crew.is_over or crew.is_at_rest))

    def expect(self, transactions: int) -> None:
        """Open connections for so many transactions that are still to come.

        Their handshakes take place while the first of them are made.  Of a
        server that was never reached there is only one: if it refuses our
        password, it does so once.
        """
        if self._relay.lessons.server is None:
            transactions = 1
        with self._crew.changed:
            if not self._crew.is_over:
                self._crew.make_ready(transactions)

    def submit(self, transaction: Transaction) -> None:
        """Queue a transaction; wait as long as too much is waiting.

        :raises NothingMoreToSend: if it will not be sent: the turn is over,
            the relay unavailable, or the message rejected.
        """
        if self._crew.is_over:
            raise NothingMoreToSend
        if self._batch.add(transaction):
            self._hand_over()

    def _hand_over(self) -> None:
        """Queue what was submitted since the last time."""
        crew = self._crew
        batch = self._batch.take()
        with crew.changed:
            if self._backlog.octets >= self._max_octets:
                self._is_full = True
                self._wait_until(lambda: crew.is_over or not self._is_full)
            self._look_at_the_clock()
            if crew.is_over:
                raise NothingMoreToSend
            for transaction in batch:
                self._backlog.append(transaction)
            crew.set_to_work(len(batch))

    def finish(self) -> None:
        """Wait until every transaction is settled, or none is sent any more.

        :raises Exception: what a worker died of, if one did.
        """
        if self._batch:
            with suppress(NothingMoreToSend):
                self._hand_over()
        self._wait_for_the_rest()
        if self._crew.failure is not None:
            raise self._crew.failure

    def abandon(self) -> None:
        """Send nothing more; wait for what is in flight."""
        self._batch.take()
        with self._crew.changed:
            self._crew.stop()
        self._wait_for_the_rest()

    def _wait_for_the_rest(self) -> None:
        crew = self._crew
        with crew.changed:
            crew.complete()
            self._wait_until(lambda: crew.is_done)
            crew.is_over = True
            # Whatever comes of these now, comes too late to be told.
            for transaction in self._backlog.give_up():
                self._settle(outcome_of_all(transaction, IN_DOUBT))
        crew.join()

    def _wait_until(self, is_ready: Callable[[], bool]) -> None:
        """Wait under the lock, and keep an eye on the turn."""
        while not is_ready():
            self._look_at_the_clock()
            if self._turn.is_too_late:
                self._crew.abort()
                return
            self._crew.changed.wait(TICK)

    def _look_at_the_clock(self) -> None:
        if self._turn.is_over and not self._crew.is_over and (
                self._turn.is_urgent or self._setbacks.answers):
            self._crew.stop()

    # In the workers, under the lock.

    def _has_room(self) -> None:
        if self._is_full and 2 * self._backlog.octets <= self._max_octets:
            # Before the queue is empty, but not for every transaction.
            self._is_full = False
            self._crew.changed.notify()

    def _judge(self, outcome: Outcome, talk: Talk) -> None:
        """Settle an outcome, or send again what can be."""
        tried = self._backlog.release(outcome.transaction)
        if tried is None:
            return
        left = leftovers_of(outcome)
        if left is not None:
            outcome = self._set_aside(outcome, left, tried, talk)
        if is_answered(outcome):
            self._setbacks.progress()
        talk.is_fruitless = False
        if outcome.results:
            self._obey(self._settle(outcome))

    def _set_aside(self, outcome: Outcome, left: Leftovers, tried: float,
                   talk: Talk) -> Outcome:
        """Keep what is to be sent again; return what is to be settled."""
        if left.limit is not None:
            self._relay.lessons.learn_limit(left.limit)
        if not self._crew.is_over:
            if left.is_whole:
                # The first one on a connection may be what broke it.  Others
                # only happened to be in flight.
                tried += 1 if talk.is_fruitless else SMALL
                if not self._setbacks.may_try_again(tried):
                    return outcome
            for part in left.parts:
                transaction = outcome.part(part).transaction
                self._backlog.set_aside(transaction, tried)
                (talk.suspects if part is left.suspect
                 else talk.lost).append(transaction)
        return outcome.part(left.settled)

    def _obey(self, orders: Any) -> None:
        if orders is None:
            return
        if orders.limit is not None:
            self._relay.lessons.learn_limit(orders.limit)
        if orders.no_verp:
            self._refuse_verp()
        if orders.halt and not self._crew.is_over:
            self._crew.stop()
        self._crew.put_first(orders.again)
        # The worker that reports takes the first of them.
        self._crew.set_to_work(len(orders.again[1:]))

    def _refuse_verp(self) -> None:
        lessons = self._relay.lessons
        # If it does not offer it any more, it may do so again some day.
        offers = lessons.server is None or lessons.server.xverp
        if offers and not lessons.verp_refused:
            lessons.verp_refused = True
            log.warning('%s does not make the senders of VERP; Mailman does',
                        self._relay.name)
