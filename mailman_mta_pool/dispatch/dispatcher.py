# SPDX-License-Identifier: GPL-3.0-or-later
"""One post on its way over one relay: which agent gets which transaction.

A `Dispatcher` lives in the network thread, and nothing else touches it there
but its agents.  `Outbound` is its counterpart in the main thread.
"""

import time
import asyncio
import logging

from mailman_mta_pool.dispatch.agent import Agent
from mailman_mta_pool.dispatch.backlog import Backlog
from mailman_mta_pool.dispatch.remainder import (
    is_answered,
    Remainder,
    remainder_of,
)
from mailman_mta_pool.dispatch.retry import ConnectionUse, Event, Retry, RULES
from mailman_mta_pool.errors import PhaseTimeout, RelayUnavailable
from mailman_mta_pool.interfaces import Given, LATER
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
from typing import Any, Callable, Dict, List, Optional


log = logging.getLogger('mailman.smtp')

_IN_DOUBT = Result(Fate.in_doubt, Stage.end, None)


@public
class Dispatcher:
    """Sends the transactions of one post over the connections of a relay.

    The main thread reads the attributes, and changes none of them.

    :ivar relay: The `Relay`.
    :ivar retry: The counts of what went wrong.
    :ivar is_over: True if nothing more is sent.
    :ivar is_connected: True if a connection could be opened.
    :ivar unavailable: Why the relay cannot be used, or None.
    :ivar failure: The mistake of ours that ended the dispatch, or None.
    :ivar received: How many octets of content `take` was given.
    """

    def __init__(self, relay: Any, delivery: DeliverySettings,
                 settle: Callable[[Outcome], Any],
                 changed: Callable[[], None], *,
                 clock: Callable[[], float] = time.monotonic) -> None:
        """Prepare; no agent starts before there is work.

        :param relay: Where to, a `Relay`.
        :param delivery: How often and how long to try.
        :param settle: Called with each outcome that stands.  It returns
            `Orders`, or None for none.
        :param changed: Called when the main thread has reason to look again.
        :param clock: Seconds that only grow.
        """
        self.relay = relay
        self.retry = Retry(relay.name, delivery, clock)
        self._settle = settle
        self._changed = changed
        self._backlog = Backlog()
        self._ceiling = relay.pool_settings.max_connections
        self._agents: Dict[Agent, Any] = {}
        self._room_wanted: Optional[int] = None
        self.received = 0
        self.is_over = False
        self.is_connected = False
        self.unavailable: Optional[RelayUnavailable] = None
        self.failure: Optional[BaseException] = None

    # What the main thread reads.

    @property
    def octets(self) -> int:
        """How much content waits for an agent."""
        return self._backlog.octets

    @property
    def is_done(self) -> bool:
        """True if everything that was taken is settled, or never will be."""
        return self._backlog.is_done or not (self._agents or self.has_work)

    # What the main thread posts.

    def make_ready(self, count: int) -> None:
        """Start so many agents, though nothing is waiting yet."""
        if not self.is_over:
            while len(self._agents) < min(count, self._ceiling):
                self._start_agent()

    def take(self, transactions: List[Transaction], octets: int) -> None:
        """Queue transactions of so many octets, and see that they go."""
        self.received += octets
        if not self.is_over:
            for transaction in transactions:
                self._backlog.append(transaction)
            self._set_to_work(len(transactions))

    def want_room(self, octets: int) -> None:
        """Call `changed` once no more than so many octets are waiting."""
        self._room_wanted = octets
        self._look_for_room()

    def complete(self) -> None:
        """Take note that nothing more comes."""
        self._backlog.is_complete = True
        self._set_to_work(len(self._backlog))
        self._wake_all()
        self._changed()

    def stop(self) -> None:
        """Send nothing more; what is in flight may finish."""
        self.is_over = True
        self._backlog.clear()
        self._wake_all()
        self._changed()

    async def close(self, at_once: bool = False) -> bool:
        """Disown what is still in flight; late outcomes are ignored.

        :param at_once: Break the connections first.  They report what has
            been answered by now.
        :return: False if there is something to wait for after all.
        """
        if not (at_once or self.is_done):
            # The main thread looked while something was between two places.
            return False
        self.is_over = True
        self._backlog.clear()
        if at_once:
            for agent in list(self._agents):
                agent.abort()
            # The agents hear of it when the loop goes on.
            await asyncio.sleep(0)
        for transaction in self._backlog.give_up():
            self._settle(outcome_of_all(transaction, _IN_DOUBT))
        self._wake_all()
        return True

    # Agents come and go.

    def _set_to_work(self, count: int) -> None:
        """Wake or start agents for `count` newly queued transactions."""
        self._wake_all()
        # Whoever still opens a connection will take one, too.
        ready = sum(not agent.is_busy for agent in self._agents)
        for _ in range(min(len(self._backlog) - ready, count,
                           self._ceiling - len(self._agents))):
            self._start_agent()

    def _start_agent(self) -> None:
        agent = Agent(self)
        # The loop itself keeps no task alive.
        self._agents[agent] = asyncio.ensure_future(agent.run())

    def _wake_all(self) -> None:
        for agent in list(self._agents):
            agent.wake()

    def leave(self, agent: Agent) -> None:
        """Take note that an agent has gone."""
        del self._agents[agent]
        if not self.is_over and self._backlog:
            self._ceiling = max(1, self._ceiling)
            self._set_to_work(len(self._backlog))
        self._changed()

    # For the agents: connections.

    @property
    def has_work(self) -> bool:
        """True if an agent without a connection is to open one."""
        return bool(self._backlog) and not self.is_over

    @property
    def may_have_work(self) -> bool:
        """True if an agent is to go on trying to open its first connection.

        The main thread may be waiting for it before it hands anything over.
        """
        return self.has_work or not (
            self.is_over or self._backlog.is_complete)

    def opened(self, is_proved: bool) -> None:
        """Take note that an agent has got a connection.

        :param is_proved: False if it will connect when it first sends.
        """
        if is_proved:
            self._note_relay_is_up()
        self.is_connected = True
        self._changed()

    def _note_relay_is_up(self) -> None:
        was_outage = self.retry.is_outage
        self.retry.opened()
        if was_outage:
            self._ceiling = self.relay.pool_settings.max_connections
            self._set_to_work(len(self._backlog) - 1)

    def cannot_open(self, error: RelayUnavailable) -> Event:
        """Take note that an agent cannot open a connection.

        :return: What it is to do, by `RULES`.
        """
        if self.is_over:
            return Event.cannot_open_ever
        connected = sum(agent.use is not None for agent in self._agents)
        others = len(self._agents) - 1
        event = self.retry.cannot_open(
            error, others if error.waiting_helps else connected)
        if event is Event.cannot_open_for_all:
            self._ceiling = max(1, others)
        elif event is Event.cannot_open_ever:
            self._give_up(error)
        return event

    def _give_up(self, error: RelayUnavailable) -> None:
        self.unavailable = error
        self.stop()

    def bear_loss(self, use: ConnectionUse, error: Exception) -> bool:
        """Take note that a connection was lost.

        :param use: What had happened on it.
        :param error: How it was lost.
        :return: False if its agent is not to open another one.
        """
        if self.is_over:
            return False
        if use.event is Event.lost_stale:
            # The others that were kept are no better.
            self.relay.pool.close_idle()
            return True
        unavailable = self.retry.lost(error, use, len(self._agents))
        if unavailable is not None:
            self._give_up(unavailable)
            return False
        if (isinstance(error, PhaseTimeout) and len(self._agents) > 1 and
                use.answers_before == self.retry.answers):
            # Another connection would cost another timeout, and the others
            # will find out whether it is the relay's failure.
            self._ceiling = len(self._agents) - 1
            return False
        return True

    def fail(self, error: BaseException) -> None:
        """End the dispatch because of a mistake of ours."""
        if self.failure is None:
            self.failure = error
        self.stop()

    # For the agents: transactions.

    def next_for(self, use: ConnectionUse, octets: int) -> Given:
        """Give a connection something to do.

        :param use: What happens on it.
        :param octets: How much content the next transaction may have.
        :return: A transaction; `LATER`; or None if the connection is done
            with.
        """
        lessons = self.relay.lessons
        transaction = self._backlog.take(
            octets, lessons.max_recipients, lessons.verp_refused)
        if transaction is None:
            if self._backlog.is_complete or self.is_over:
                return None
            return LATER
        if not use.in_hand:
            use.answers_before = self.retry.answers
        use.in_hand += 1
        self._look_for_room()
        if self._backlog.parts_left:
            # It was divided.
            self._set_to_work(self._backlog.parts_left)
        return transaction

    def _look_for_room(self) -> None:
        if (self._room_wanted is not None and
                self._backlog.octets <= self._room_wanted):
            self._room_wanted = None
            self._changed()

    def judge(self, outcome: Outcome, use: ConnectionUse) -> None:
        """Settle an outcome, or set aside what goes again.

        :param outcome: Of a transaction that `next_for` gave.
        :param use: What happens on its connection.
        """
        use.in_hand -= 1
        tried = self._backlog.release(outcome.transaction)
        if tried is None:
            # It was disowned.
            return
        alike = outcome.alike
        is_served = alike is not None and alike.fate is Fate.accepted
        left = None if is_served else remainder_of(outcome)
        if left is not None:
            outcome = self._set_aside(outcome, left, tried, use)
        # The first one may be what broke the connection; the others only
        # happened to be in flight.
        use.is_fruitless = False
        if is_served or is_answered(outcome):
            self.retry.progress()
            if self.retry.is_outage:
                self._note_relay_is_up()
            use.is_stale = False
            use.answers_before = self.retry.answers
        if outcome.results:
            try:
                self._obey(self._settle(outcome))
            except Exception as error:
                # The main thread must not take the dispatch for done.
                self.fail(error)
                raise
        if not use.in_hand and self.is_done:
            self._changed()

    def _set_aside(self, outcome: Outcome, left: Remainder, tried: float,
                   use: ConnectionUse) -> Outcome:
        """Keep what is to be sent again; return what is to be settled."""
        if left.limit is not None:
            self.relay.lessons.learn_limit(left.limit)
        if not self.is_over:
            if left.is_whole:
                # A lazy connection that could not connect is no transaction's
                # fault.
                event = (Event.cannot_open if use.is_lazy and
                         outcome.results[0].stage is Stage.connect
                         else use.event)
                tried += RULES[event].attempts
                if not self.retry.may_go_again(tried):
                    return outcome
            for part in left.parts:
                transaction = outcome.part(part).transaction
                self._backlog.set_aside(transaction, tried)
                (use.suspects if part is left.suspect
                 else use.lost).append(transaction)
        return outcome.part(left.settled)

    def put_back(self, use: ConnectionUse) -> None:
        """Queue again what was set aside while a connection lasted."""
        self._backlog.put_back(use.lost, use.suspects)
        if self.is_over:
            self._backlog.clear()
        else:
            self._set_to_work(len(self._backlog))
        if self.is_done:
            self._changed()

    def _obey(self, orders: Any) -> None:
        if orders is None:
            return
        if orders.limit is not None:
            self.relay.lessons.learn_limit(orders.limit)
        if orders.no_verp:
            self._refuse_verp()
        if orders.halt and not self.is_over:
            self.stop()
        if orders.again and not self.is_over:
            self._backlog.extend_left(orders.again)
            # The agent that reports takes the first of them.
            self._set_to_work(len(orders.again) - 1)

    def _refuse_verp(self) -> None:
        lessons = self.relay.lessons
        # If it does not offer it any more, it may do so again some day.
        offers = lessons.server is None or lessons.server.xverp
        if offers and not lessons.verp_refused:
            lessons.refuse_verp()
            log.warning('%s does not make the senders of VERP; Mailman does',
                        self.relay.name)
