# SPDX-License-Identifier: GPL-3.0-or-later
"""The workers: threads, each with a connection for as long as there is work.

There are at most as many as connections, and no more than there is work for.
"""

import logging
import smtplib
import threading

from contextlib import contextmanager
from mailman_mta_pool.backlog import Backlog
from mailman_mta_pool.driver import Driver
from mailman_mta_pool.errors import PhaseTimeout, RelayUnavailable
from mailman_mta_pool.relay import Relay
from mailman_mta_pool.setbacks import Setbacks, Talk
from mailman_mta_pool.steps import Feed, Given, Steps
from mailman_mta_pool.wire.outcome import Outcome, Transaction
from public import public
from typing import Any, Callable, Dict, Iterator, List, Optional, Set


log = logging.getLogger('mailman.smtp')

# How long an aborted connection may take to say what became of its
# transactions, in seconds.
GRACE = 5.0


@public
class Crew:
    """Takes transactions from the backlog over connections to the server.

    :ivar changed: The lock of it all, and what the main thread waits for.
    :ivar is_over: Is nothing more to be sent?
    :ivar unavailable: Why the relay cannot be used, if it cannot.
    :ivar failure: What a worker died of, if one did.
    """

    def __init__(self, relay: Relay, backlog: Backlog, setbacks: Setbacks,
                 judge: Callable[[Outcome, Talk], None],
                 has_room: Callable[[], None]) -> None:
        """Prepare; the first worker starts with the first transaction.

        :param relay: Where to.
        :param backlog: What to send; to be touched under the lock only.
        :param setbacks: How much to bear.
        :param judge: Called under the lock with each outcome.
        :param has_room: Called under the lock when a transaction was taken.
        """
        self._relay = relay
        self._backlog = backlog
        self._setbacks = setbacks
        self._judge = judge
        self._has_room = has_room
        self._driver = Driver()
        self._lock = threading.RLock()
        self.changed = threading.Condition(self._lock)
        self._work = threading.Condition(self._lock)
        self._ceiling = relay.pool_settings.max_connections
        self._talking: Dict[Any, Talk] = {}
        # Of those, the ones with nothing to send at the moment.
        self._put_off: Set[Any] = set()
        self._working = self._opening = self._idle = 0
        self._gone: List[threading.Thread] = []
        self._is_complete = False
        self.is_over = False
        self.unavailable: Optional[RelayUnavailable] = None
        self.failure: Optional[BaseException] = None

    # For the main thread.  But for `join`, all of it under the lock.

    def set_to_work(self, count: int) -> None:
        """So many more are waiting: let somebody take them."""
        # Whoever still opens a connection will take one, too.
        ready = self._working - sum(
            talk.in_hand > 0 for talk in self._talking.values())
        self._call(count)
        for _ in range(min(len(self._backlog) - ready, count,
                           self._ceiling - self._working)):
            self._hire()

    def _call(self, count: int) -> None:
        if self._put_off:
            self._driver.poke()
        self._work.notify(max(0, count - len(self._put_off)))

    def make_ready(self, count: int) -> None:
        """Open so many connections, though nothing is waiting yet."""
        while self._working < min(count, self._ceiling):
            self._hire(at_once=True)

    @property
    def is_at_rest(self) -> bool:
        """Has nobody anything to do?"""
        return self._idle == self._working

    def complete(self) -> None:
        """Nothing more comes."""
        self._is_complete = True
        self._call_all()

    def _call_all(self) -> None:
        self._driver.poke()
        self._work.notify_all()

    @property
    def is_done(self) -> bool:
        """Is all sent and answered?"""
        # Whoever is still opening a connection has nothing in hand.
        return not self._backlog and self._working == self._opening

    def stop(self) -> None:
        """What is waiting is not sent; nobody hears of it again."""
        self.is_over = True
        self._backlog.clear()
        self.changed.notify()
        self._call_all()

    def abort(self) -> None:
        """Break the connections, and wait a little for what they tell."""
        for connection in self._talking:
            connection.abort()
        self.changed.wait_for(lambda: not self._backlog.is_in_hand, GRACE)

    def join(self) -> None:
        """Wait for the threads that have nothing more to do."""
        for worker in self._gone:
            worker.join()

    # For the workers.

    def _hire(self, at_once: bool = False) -> None:
        self._working += 1
        threading.Thread(
            target=self._labour, args=[at_once], name='mta-pool-worker',
            daemon=True).start()

    def _labour(self, at_once: bool) -> None:
        try:
            goes_on = at_once or self._wait_for_work()
            while goes_on:
                try:
                    goes_on = self._serve() and self._wait_for_work()
                except RelayUnavailable as error:
                    goes_on = self._persist(error) and self._wait_for_work()
        except BaseException as error:
            # A mistake of ours: what was learnt is settled, and it goes on
            # up in the main thread.
            with self.changed:
                self.failure = error
                self.stop()
                if threading.current_thread() not in self._gone:
                    self._go()

    def _go(self) -> bool:
        """This worker goes; under the lock that was held to decide it."""
        self._working -= 1
        self._gone.append(threading.current_thread())
        self.changed.notify()
        return False

    def _wait_for_work(self) -> bool:
        with self.changed:
            self._idle += 1
            self.changed.notify()
            self._work.wait_for(
                lambda: self._backlog or self._is_complete or self.is_over)
            self._idle -= 1
            return bool(self._backlog) or self._go()

    def _serve(self) -> bool:
        """Use one connection for as long as it lasts and there is work.

        :return: False if this worker has gone.
        """
        talk = Talk(self._setbacks.answers)
        error = None

        def feed() -> Given:
            with self._lock:
                return self._next(connection, talk)

        def drive(steps: Steps) -> None:
            talk.is_driven = True
            self._driver.drive(steps)

        def report(outcome: Outcome) -> None:
            with self._lock:
                talk.in_hand -= 1
                before = self._setbacks.answers
                self._judge(outcome, talk)
                if self._setbacks.answers > before:
                    talk.since = before + 1
        with self._opened(talk) as connection:
            try:
                connection.converse(feed, report, drive)
            except smtplib.SMTPServerDisconnected as lost:
                log.info('%s: %s', self._relay.name, lost)
                error = lost
            finally:
                goes_on = self._leave(connection, talk, error)
        return goes_on

    def _next(self, connection: Any, talk: Talk) -> Given:
        """Give a connection something to do; under the lock."""
        transaction = self._backlog.take(self._relay.lessons.max_recipients)
        if transaction is None:
            if (self._is_complete or self.is_over or
                    not talk.is_driven):
                return None
            if not talk.in_hand:
                self._put_off.add(connection)
            return Feed.later
        if connection in self._put_off:
            self._put_off.discard(connection)
            talk.since = self._setbacks.answers
        talk.in_hand += 1
        self._has_room()
        return transaction

    @contextmanager
    def _opened(self, talk: Talk) -> Iterator[Any]:
        with self.changed:
            self._opening += 1
            self._setbacks.opening()
        is_open = False
        try:
            with self._relay.pool.connection() as connection:
                self._begin(connection, talk)
                is_open = True
                yield connection
        finally:
            if not is_open:
                with self.changed:
                    self._opening -= 1
                    self.changed.notify()

    def _begin(self, connection: Any, talk: Talk) -> None:
        with self.changed:
            self._opening -= 1
            self._talking[connection] = talk
            if self._setbacks.outage:
                # The relay is back.
                self._ceiling = self._relay.pool_settings.max_connections
                for _ in range(min(len(self._backlog) - 1,
                                   self._ceiling - self._working)):
                    self._hire()
            self._setbacks.opened()
            self.changed.notify()

    def _leave(self, connection: Any, talk: Talk,
               error: Optional[Exception]) -> bool:
        """The connection is done with, or lost; see `_serve`."""
        with self.changed:
            self._talking.pop(connection, None)
            self._put_off.discard(connection)
            self.put_first(talk.lost)
            return error is None or self._bear(error, talk.since)

    def put_first(self, transactions: List[Transaction]) -> None:
        """Let these go before all others; under the lock."""
        if not self.is_over:
            self._backlog.extend_left(transactions)
            self._call(len(transactions))

    # When things go wrong.

    def _persist(self, error: RelayUnavailable) -> bool:
        """No connection for this worker; others may have theirs.

        :return: False if this worker has gone; True after a pause.
        """
        with self.changed:
            if self._talking or (error.waiting_helps and self._working > 1):
                self._ceiling = max(1, self._working - 1)
                return self._go()
            pause = self._setbacks.pause(error)
            if pause is None:
                self._give_up(error)
                return self._go()
            log.info('%s; trying again in %g s', error, pause)
            self._work.wait_for(lambda: self.is_over, pause)
            return not self.is_over or self._go()

    def _give_up(self, error: RelayUnavailable) -> None:
        if not self.is_over:
            self.unavailable = error
            self.stop()

    def _bear(self, error: Exception, since: int) -> bool:
        """A connection was lost; see `Setbacks.lost`."""
        unavailable = self._setbacks.lost(error, self._working, since)
        if unavailable is not None:
            self._give_up(unavailable)
        elif (isinstance(error, PhaseTimeout) and self._working > 1 and
                since == self._setbacks.answers):
            # Another connection would cost another timeout, and the others
            # will find out whether it is the relay's failure.
            self._ceiling = max(1, self._working - 1)
            return self._go()
        return True
