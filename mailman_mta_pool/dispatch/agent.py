# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers, each with a connection for as long as there is work.

There are at most as many as connections, and no more than there is work for.
"""

import logging
import smtplib

from contextlib import contextmanager
from mailman_mta_pool.connection.driver import Driver
from mailman_mta_pool.connection.steps import Feed, Given, Steps
from mailman_mta_pool.dispatch.backlog import Backlog
from mailman_mta_pool.dispatch.retry import Setbacks, Talk
from mailman_mta_pool.dispatch.workers import Workers
from mailman_mta_pool.errors import PhaseTimeout, RelayUnavailable
from mailman_mta_pool.relays.relay import Relay
from mailman_mta_pool.wire.transaction import Outcome, Transaction
from public import public
from typing import Any, Callable, Dict, Iterator, List, Optional, Set


log = logging.getLogger('mailman.smtp')

# How long an aborted connection may take to say what became of its
# transactions, in seconds.
GRACE = 5.0


@public
class Crew(Workers):
    """Takes transactions from the backlog over connections to the server.

    :ivar unavailable: Why the relay cannot be used, if it cannot.
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
        super().__init__(backlog, relay.pool_settings.max_connections)
        self._relay = relay
        self._setbacks = setbacks
        self._judge = judge
        self._has_room = has_room
        self._driver = Driver()
        self._talking: Dict[Any, Talk] = {}
        # Of those, the ones with nothing to send at the moment.
        self._put_off: Set[Any] = set()
        self._opening = 0
        self.unavailable: Optional[RelayUnavailable] = None

    # For the main thread, under the lock.

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

    def complete(self) -> None:
        """See `Workers`."""
        super().complete()
        self.set_to_work(len(self._backlog))

    def _call_all(self) -> None:
        self._driver.poke()
        super()._call_all()

    @property
    def is_done(self) -> bool:
        """Is all sent and answered?"""
        # Whoever is still opening a connection has nothing in hand.
        return not self._backlog and self._working == self._opening

    def abort(self) -> None:
        """Break the connections, and wait a little for what they tell."""
        for connection in self._talking:
            connection.abort()
        self.changed.wait_for(lambda: not self._backlog.is_in_hand, GRACE)

    # For the workers.

    def _serve(self) -> bool:
        """See `Workers`."""
        try:
            goes_on = self._use_a_connection()
        except RelayUnavailable as error:
            return self._persist(error)
        if self.is_over:
            # It may have been opened too late for anybody to see to it.
            self._relay.pool.tend()
        return goes_on

    def _use_a_connection(self) -> bool:
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
        lessons = self._relay.lessons
        waiting = len(self._backlog)
        transaction = self._backlog.take(
            lessons.max_recipients, lessons.verp_refused)
        if transaction is None:
            if (self._backlog.is_complete or self.is_over or
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
        if len(self._backlog) >= waiting:
            # It was divided.
            self.set_to_work(len(self._backlog) - waiting + 1)
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
        """The connection is done with, or lost."""
        with self.changed:
            self._talking.pop(connection, None)
            self._put_off.discard(connection)
            if not self.is_over:
                self._backlog.put_back(talk.lost, talk.suspects)
                self._call(len(talk.lost))
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
