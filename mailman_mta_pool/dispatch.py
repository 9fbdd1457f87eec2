# SPDX-License-Identifier: GPL-3.0-or-later
"""Transactions in, outcomes out: the workers and the bounded queue between.

There are at most as many workers as connections, and no more than there is
work for.  A transaction of which nothing can have been accepted, because the
connection was lost too early, goes again at once on a fresh connection.
"""

import logging
import smtplib
import threading

from collections import deque
from mailman_mta_pool.errors import PhaseTimeout, RelayUnavailable
from mailman_mta_pool.relay import Relay
from mailman_mta_pool.wire.outcome import (
    Fate,
    Outcome,
    outcome_of_all,
    Result,
    Stage,
    Transaction,
)
from mailman_mta_pool.wire.replies import Reply
from public import public
from typing import Callable, Deque, Dict, List, Optional


log = logging.getLogger('mailman.smtp')

# What may wait to be sent, in octets; one transaction may always wait.
MAX_OCTETS = 8 * 1024 * 1024


@public
class Dispatch:
    """Sends the transactions of one post over the connections of a relay."""

    def __init__(self, relay: Relay, attempts: int,
                 settle: Callable[[Outcome], None],
                 max_octets: int = MAX_OCTETS) -> None:
        """Prepare; the first worker starts with the first transaction.

        :param relay: Where to.
        :param attempts: How often a transaction of which nothing was accepted
            is sent, the first time included.
        :param settle: Called with each outcome, from any thread but never
            from two at once.
        :param max_octets: How much content may wait to be sent.
        """
        self._relay = relay
        self._attempts = attempts
        self._settle = settle
        self._max_octets = max_octets
        self._changed = threading.Condition()
        self._waiting: Deque[Transaction] = deque()
        self._octets = 0
        # How often those were tried that go again, by identity.
        self._tried: Dict[int, int] = {}
        self._ceiling = relay.pool_settings.max_connections
        self._workers: List[threading.Thread] = []
        self._working = 0
        self._idle = 0
        self._no_more = False
        # Connections lost since anything was last settled.
        self._fruitless = 0
        self.unavailable: Optional[RelayUnavailable] = None
        self._failure: Optional[BaseException] = None
        self._abandoned = False

    # The producer's side.

    def submit(self, transaction: Transaction) -> None:
        """Queue a transaction; wait as long as too much is waiting.

        If the relay has turned out to be unavailable, it is settled at once.
        """
        size = transaction.content.size
        with self._changed:
            self._changed.wait_for(
                lambda: (not self._waiting or self._over or
                         self._octets + size <= self._max_octets))
            if self._over:
                self._settle(self._not_sent(transaction))
                return
            self._waiting.append(transaction)
            self._octets += size
            if self._idle:
                self._changed.notify_all()
            elif self._working < self._ceiling:
                self._start_worker()

    def finish(self) -> None:
        """Wait until every transaction is settled.

        :raises Exception: what a worker died of, if one did; everything is
            settled all the same.
        """
        with self._changed:
            self._no_more = True
            self._changed.notify_all()
        for worker in self._workers:
            worker.join()
        if self._failure is not None:
            raise self._failure

    def abandon(self) -> None:
        """Send nothing more; wait for what is in flight.

        What was waiting is settled as not attempted.
        """
        with self._changed:
            self._abandoned = True
            self._drain()
            self._no_more = True
            self._changed.notify_all()
        for worker in self._workers:
            worker.join()

    @property
    def _over(self) -> bool:
        return (self._abandoned or self.unavailable is not None or
                self._failure is not None)

    def _not_sent(self, transaction: Transaction) -> Outcome:
        error = self.unavailable
        reply = None
        if error is not None and error.code is not None:
            reply = Reply(error.code, (str(error).encode(),))
        return outcome_of_all(
            transaction, Result(Fate.not_attempted, Stage.connect, reply))

    def _drain(self) -> None:
        while self._waiting:
            self._settle(self._not_sent(self._waiting.popleft()))
        self._octets = 0
        self._changed.notify_all()

    # The workers' side.

    def _start_worker(self) -> None:
        self._working += 1
        worker = threading.Thread(
            target=self._work, name='mta-pool-worker', daemon=True)
        self._workers.append(worker)
        worker.start()

    def _work(self) -> None:
        try:
            while self._wait_for_work():
                self._serve()
        except RelayUnavailable as error:
            self._retire(error)
        except BaseException as error:
            # A mistake of ours: what was learnt is settled, and it goes on
            # up in the main thread.
            with self._changed:
                self._working -= 1
                self._failure = error
                self._drain()
        else:
            with self._changed:
                self._working -= 1

    def _wait_for_work(self) -> bool:
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._waiting or self._no_more)
            self._idle -= 1
            return bool(self._waiting)

    def _serve(self) -> None:
        """Use one connection for as long as it lasts and there is work."""
        lost: List[Transaction] = []

        def report(outcome: Outcome) -> None:
            with self._changed:
                self._judge(outcome, lost)
        with self._relay.pool.connection() as connection:
            try:
                connection.converse(self._next, report)
            except smtplib.SMTPServerDisconnected as error:
                log.info('%s: %s', self._relay.name, error)
                self._note_loss(error)
            finally:
                self._put_back(lost)

    def _next(self) -> Optional[Transaction]:
        with self._changed:
            if not self._waiting:
                return None
            transaction = self._waiting.popleft()
            self._octets -= transaction.content.size
            self._changed.notify_all()
            return transaction

    def _judge(self, outcome: Outcome, lost: List[Transaction]) -> None:
        """Settle an outcome, or send again what can be."""
        transaction = outcome.transaction
        tried = self._tried.pop(id(transaction), 0)
        again = outcome.having(Fate.not_attempted)
        if not again:
            if not outcome.having(Fate.in_doubt):
                self._fruitless = 0
            self._settle(outcome)
            return
        # The oldest one may be what broke the connection.  The others only
        # happened to be in flight behind it.
        tried += not lost
        if len(again) < len(outcome.results):
            self._settle(_only(outcome, Fate.not_attempted, False))
            outcome = _only(outcome, Fate.not_attempted, True)
        lost.append(outcome.transaction)
        if tried >= self._attempts or self._over:
            self._settle(outcome)
            lost[-1] = lost[-1]._replace(recipients=())
            return
        self._tried[id(outcome.transaction)] = tried

    def _put_back(self, lost: List[Transaction]) -> None:
        """Those that go again go first, and in their order."""
        with self._changed:
            for transaction in reversed(lost):
                if transaction.recipients:
                    self._waiting.appendleft(transaction)
                    self._octets += transaction.content.size
            if self._over:
                self._drain()

    def _note_loss(self, error: Exception) -> None:
        """One connection was lost; too many of them are the relay's failure.

        A timeout has cost so much that one for each worker is enough.
        """
        with self._changed:
            self._fruitless += (
                self._attempts if isinstance(error, PhaseTimeout) else 1)
            if self._fruitless >= self._attempts * self._working:
                self.unavailable = RelayUnavailable(
                    self._relay.name, 'dialogue',
                    f'connections are lost without any progress: {error}')
                self._drain()

    def _retire(self, error: RelayUnavailable) -> None:
        """No connection for this worker.  Others may have theirs."""
        with self._changed:
            self._working -= 1
            self._ceiling = max(1, self._working)
            if self._working == 0:
                self.unavailable = error
                self._drain()


def _only(outcome: Outcome, fate: Fate, wanted: bool) -> Outcome:
    """The part of an outcome that ended so, or the part that did not."""
    part = [
        (recipient, result)
        for recipient, result in zip(
            outcome.transaction.recipients, outcome.results)
        if (result.fate is fate) is wanted]
    return Outcome(
        outcome.transaction._replace(
            recipients=tuple(recipient for recipient, _ in part)),
        tuple(result for _, result in part))
