# SPDX-License-Identifier: GPL-3.0-or-later
"""One post on its way over one relay: its connections and what they are given.

A `Lane` lives in the network thread, and nothing else touches it there but its
agents and the `Dispatcher` of the post, from which it gets its transactions.
"""

import time
import asyncio
import logging

from mailman_mta_pool.connection.addresses import STALL
from mailman_mta_pool.dispatch.agent import Agent
from mailman_mta_pool.dispatch.backlog import Share
from mailman_mta_pool.dispatch.permits import Permits
from mailman_mta_pool.dispatch.remainder import (
    is_answered,
    Remainder,
    remainder_of,
)
from mailman_mta_pool.dispatch.retry import ConnectionUse, Event, Retry, RULES
from mailman_mta_pool.errors import PhaseTimeout, RelayPaused, RelayUnavailable
from mailman_mta_pool.interfaces import Given, ICandidate, LATER
from mailman_mta_pool.limits.limiter import Permit
from mailman_mta_pool.relays.limiting import PostLimits
from mailman_mta_pool.settings import About, DeliverySettings
from mailman_mta_pool.settlement.orders import NO_ORDERS, Notice, Orders
from mailman_mta_pool.wire.replies import Reply
from mailman_mta_pool.wire.transaction import (
    Fate,
    Outcome,
    outcome_of_all,
    Result,
    Stage,
    Transaction,
)
from public import public
from typing import Any, Callable, Dict, Optional, Tuple
from zope.interface import implementer


log = logging.getLogger('mailman.smtp')

_IN_DOUBT = Result(Fate.in_doubt, Stage.end, None)
# A pause of the relay of so many seconds or more is spent in Mailman's retry
# queue.
LONGEST_SLEEP = 900.0
# For so many seconds a post waits to be the one that finds out whether a
# pause is over.
LONGEST_PROBE_WAIT = 3.0
# How often it is looked what a storage has answered, in seconds.
LIMIT_LOOK_PERIOD = 1.0
# A connection that has taken so many messages is not the one too many; what it
# is refused for is how many it has taken.
FEWEST_PER_CONNECTION = 5
# A timer may be early by so many seconds.
TIMER_SLACK = 0.05


@public
@implementer(ICandidate)
class Lane:
    """Sends transactions of one post over the connections of one relay.

    Where a post has several lanes they are the `ICandidate`s of a choice.
    The main thread reads the attributes, and changes none of them.

    :ivar relay: The `Relay`.
    :ivar share: The transactions that go over this lane only.
    :ivar retry: The counts of what went wrong.
    :ivar is_over: True if nothing more is sent over this lane.
    :ivar unavailable: Why the relay cannot be used, or None.
    :ivar accepted: How many messages the server has accepted.
    """

    def __init__(self, dispatcher: Any, relay: Any,
                 delivery: DeliverySettings, ledger: Any, share: Share, *,
                 plain_sender: Optional[str] = None,
                 was_in_retry: bool = False, limits: PostLimits,
                 clock: Callable[[], float] = time.monotonic) -> None:
        """Prepare; no agent starts before there is work.

        :param dispatcher: The `Dispatcher` of the post.
        :param relay: Where to, a `Relay`.
        :param delivery: How often and how long to try.
        :param ledger: The `Ledger` of the post, whose orders are obeyed.
        :param share: This lane's part of the backlog.
        :param plain_sender: See `Dispatcher`.
        :param was_in_retry: See `Dispatcher`.
        :param limits: Likewise.
        :param clock: Seconds that only grow.
        """
        self.relay = relay
        self.share = share
        self.retry = Retry(relay.name, delivery, clock)
        self._dispatcher = dispatcher
        self._ledger = ledger
        self._clock = clock
        self._plain_sender = plain_sender
        self._may_probe = was_in_retry
        # When the transactions in hand were given, by identity.
        self._given: Dict[int, float] = {}
        self._permits = Permits(
            limits.allowance(relay, self._limit_is_ready), relay.pool, clock)
        self._took = relay.lessons.durations['message'].note
        self._timer: Optional[asyncio.TimerHandle] = None
        self._gives_up_at: Optional[float] = None
        # Since when nothing was accepted, while there were pauses.
        self._paused_since: Optional[float] = None
        # How many other connections there were when one was refused, what the
        # server said, and the remedy.
        self._crowd: Optional[Tuple[int, str, str]] = None
        self._ceiling = relay.pool_settings.max_connections
        self._agents: Dict[Agent, Any] = {}
        # True if the relay was found not to offer XVERP.
        self._lacks_verp = False
        # True from a failure beside another lane, which took the work, until
        # a connection is opened; and when another one may be tried.
        self._is_down = False
        self._rests_until = float('-inf')
        self.accepted = 0
        self.is_over = False
        self.unavailable: Optional[RelayUnavailable] = None

    # What the dispatcher and the main thread read.

    @property
    def in_flight(self) -> int:
        """How many transactions the connections have in hand."""
        return len(self._given)

    @property
    def paused_for(self) -> float:
        """For how many seconds the relay gets nothing; 0.0 if it does."""
        paused: float = self.relay.throttle.paused_for
        return max(paused, self.limited_for)

    @property
    def limited_for(self) -> float:
        """For how many seconds our own limits let nothing through."""
        return self._permits.ready_in

    @property
    def limit(self) -> Tuple[float, str]:
        """The seconds of `limited_for`, and the limit in words."""
        return self._permits.limit

    @property
    def waits_for(self) -> str:
        """Why the relay gets nothing at present, in words, or ''."""
        throttle = self.relay.throttle
        if self.limited_for >= throttle.paused_for:
            return self.limit[1]
        return (f'the end of a pause that {self.relay.name} asks for: '
                f'{throttle.statistics().reason}')

    @property
    def crowd_words(self) -> str:
        """What the agents wait for where all of them do, in words."""
        count = self.relay.settings.max_connections or self._ceiling
        return (f'one of the {count} connections to {self.relay.name}, all '
                'of which other posts have')

    @property
    def agents(self) -> int:
        """How many agents are at work."""
        return len(self._agents)

    @property
    def ready(self) -> int:
        """How many agents will take a transaction without being started."""
        # Whoever still opens a connection will take one, too.
        return sum(not agent.is_busy for agent in self._agents)

    @property
    def can_start(self) -> bool:
        """True if there may be another agent."""
        return (len(self._agents) < self._most_agents and
                not (self.is_over or self._permits.is_waiting))

    # See `ICandidate`.

    @property
    def name(self) -> str:
        """See `ICandidate`."""
        name: str = self.relay.name
        return name

    @property
    def priority(self) -> int:
        """See `ICandidate`."""
        priority: int = self.relay.settings.priority
        return priority

    @property
    def weight(self) -> int:
        """See `ICandidate`."""
        weight: int = self.relay.settings.weight
        return weight

    @property
    def balance(self) -> int:
        """See `ICandidate`; it is the relay's."""
        balance: int = self.relay.balance
        return balance

    @balance.setter
    def balance(self, balance: int) -> None:
        self.relay.balance = balance

    @property
    def answers(self) -> int:
        """See `Contest`."""
        return self.retry.answers

    @property
    def is_available(self) -> bool:
        """See `ICandidate`."""
        if self.is_over or self.relay.throttle.paused_for:
            return False
        if self._is_connected:
            return True
        return not (self.retry.is_outage or self._is_down) and (
            self.relay.is_up)

    @property
    def _rest_left(self) -> float:
        """For how many seconds it is not tried again; 0.0 if it may be."""
        if not self._is_down:
            return 0.0
        return max(0.0, self._rests_until - self._clock())

    @property
    def has_room(self) -> bool:
        """See `ICandidate`."""
        return self._agent_with_room() is not None

    @property
    def is_full(self) -> bool:
        """See `ICandidate`."""
        return self.is_limited or not (
            self.can_start or self.has_room or any(
                agent.use is None and not agent.is_queued
                for agent in self._agents))

    @property
    def is_limited(self) -> bool:
        """See `ICandidate`."""
        return self._permits.is_barred

    @property
    def lacks_agents(self) -> bool:
        """True if it could take a transaction if it had one more agent."""
        return (not (self.ready or self.is_limited or self.has_room) and
                self.can_start and self.relay.throttle.ready_in() <= 0)

    @property
    def idle(self) -> int:
        """How many agents will take what any lane may have next."""
        return 0 if self.is_limited else self.ready - self._queued

    @property
    def _is_connected(self) -> bool:
        for agent in self._agents:
            if agent.use is not None:
                return True
        return False

    def _agent_with_room(self) -> Optional[Agent]:
        """Return an agent that could take what any lane may have next."""
        if (self.share.holds_back or self._permits.is_waiting or
                self.relay.throttle.ready_in() > 0):
            return None
        for agent in self._agents:
            if (agent.is_waiting and agent.is_live and
                    agent.room >= self.share.next_size):
                return agent
        return None

    def wake_one(self) -> None:
        """Let an agent take what any lane may have next, if one can."""
        agent = self._agent_with_room()
        if agent is not None:
            agent.wake()

    def look_again_in(self, seconds: float) -> None:
        """Have the agents ask again after so many seconds at the latest."""
        if not self.is_over:
            self._set_timer(seconds + TIMER_SLACK)

    def start_probe(self) -> None:
        """Find out whether the relay is up again, if it is time for that.

        Otherwise see to it that it is looked at when it may be.
        """
        if self.is_over or self._agents or self.is_available or (
                self.paused_for):
            return
        self._is_down = True
        seconds = max(self.relay.addresses.available_in, self._rest_left)
        if seconds <= 0:
            self.start_agent()
        elif seconds < float('inf'):
            self._set_timer(seconds + TIMER_SLACK)

    def watch_for_stall(self) -> None:
        """Look again when the first connection has taken too long."""
        if not self.is_over and self._at_work and not self._is_connected:
            seconds = self.relay.addresses.stalls_in
            if seconds == float('inf'):
                # The agent has only just been started.
                seconds = STALL
            if seconds > 0:
                self._set_timer(seconds + TIMER_SLACK)
            else:
                self._is_down = True

    @property
    def can_prepare(self) -> bool:
        """True if another agent may start before it has work.

        Of a server that was never reached there is only one connection: if
        the server refuses our password, it does so once.
        """
        return self.can_start and (
            not self._agents or self.relay.lessons.server is not None)

    # The dispatcher's commands.

    def set_to_work(self, count: Optional[int] = None) -> None:
        """Wake or start agents for newly queued transactions.

        :param count: How many these are; None for all that are waiting.
        """
        self.wake_all()
        self._start_agents_for(len(self.share), count)

    def start_own_agents(self) -> None:
        """Start agents for what goes over this lane only."""
        self._start_agents_for(self.share.own_length)

    def _start_agents_for(self, waiting: int,
                          count: Optional[int] = None) -> None:
        """Start the agents that so many transactions lack, if there may be.

        :param waiting: How many transactions are waiting.
        :param count: How many agents are started at most; None for as many
            as may be.
        """
        missing = waiting - self.ready
        if missing > 0 and not self.may_start():
            return
        if count is not None:
            missing = min(missing, count)
        for _ in range(min(missing, self._most_agents - len(self._agents))):
            self.start_agent()
        if missing > 0:
            self.wait_for_ceiling()

    def may_start(self) -> bool:
        """Return False if another agent would only wait for a limit.

        The lane ends if that would take too long.
        """
        # The agents that there are ask by themselves.
        if not (self.is_over or self._agents or
                self._permits.look(bool(self.share))):
            self._bear_limit(self._permits.message_in)
        return not (self.is_over or self._permits.is_waiting)

    @property
    def _most_agents(self) -> int:
        ceiling: int = self.relay.throttle.ceiling
        return min(self._ceiling, ceiling)

    def start_agent(self) -> None:
        """Start one more agent."""
        agent = Agent(self)
        # The loop itself keeps no task alive.
        self._agents[agent] = asyncio.ensure_future(agent.run())

    def wake_all(self) -> None:
        """Let the agents look again whether there is something to do."""
        for agent in list(self._agents):
            agent.wake()

    def wait_for_ceiling(self) -> None:
        """Start another agent once the relay may take one more."""
        seconds = self.relay.throttle.ceiling_grows_in
        if seconds is not None and not self.is_over:
            self._set_timer(seconds)

    def wait_for_pause(self) -> None:
        """Look again when the pause of the relay is over, if there is one."""
        seconds = self.relay.throttle.paused_for
        if not self.is_over and 0 < seconds < LONGEST_SLEEP:
            self._set_timer(seconds)

    def look_at_pause(self) -> None:
        """End the lane if the relay wants nothing for too long."""
        if (self.limited_for >= LONGEST_SLEEP or
                self.paused_for >= LONGEST_SLEEP and not self._may_probe):
            self.give_up_pause()

    def give_up_pause(self) -> None:
        """End the lane: the relay gets nothing for too long."""
        if self.is_over:
            return
        seconds, words = self.limit
        if seconds < self.relay.throttle.paused_for or not words:
            words = f'"{self.relay.throttle.reason}"'
        else:
            self._permits.note_end(seconds, words)
        self._give_up(RelayPaused(
            self.relay.name, 'pause',
            f'nothing is sent for {self.paused_for:.0f} s, because of '
            f'{words}'))

    def stop(self) -> None:
        """Send nothing more; what is in flight may finish."""
        self.is_over = True
        self._cancel_timer()
        self._permits.close()
        self.wake_all()

    def abort(self) -> None:
        """Break the connections; what has been answered is reported."""
        for agent in list(self._agents):
            agent.abort()

    def disown(self) -> None:
        """Disown what is still in flight; late outcomes are ignored."""
        self._permits.close()
        for transaction in self.share.give_up():
            if not transaction.asks:
                self._ledger.settle(
                    outcome_of_all(transaction, _IN_DOUBT), self.relay)
        self.wake_all()

    # Agents come and go.

    def fail(self, error: BaseException) -> None:
        """End the dispatch because of a mistake of ours."""
        self._dispatcher.fail(error)

    def leave(self, agent: Agent) -> None:
        """Take note that an agent has gone."""
        del self._agents[agent]
        if not self.is_over and self.share:
            self._ceiling = max(1, self._ceiling)
            self._dispatcher.set_to_work()
        self._dispatcher.changed()

    # For the agents: connections.

    @property
    def has_work(self) -> bool:
        """True if an agent without a connection is to open one."""
        return bool(self.share) and not self.is_over

    @property
    def has_work_for_all(self) -> bool:
        """True if as many agents as there are may open connections."""
        return (self.has_work and len(self._agents) <= self._most_agents and
                self._dispatcher.wants(self))

    def put_off_for(self) -> float:
        """Return for how many seconds a connection could only wait.

        :return: 0.0 if there is something to do, or nothing for too long.
        """
        seconds = self.paused_for
        if seconds <= 0 and not self._permits.look(True):
            self._bear_limit(self._permits.message_in)
            # It is 0.0 as long as the storage is being asked.
            seconds = self.paused_for or LIMIT_LOOK_PERIOD
        return 0.0 if self.is_over or seconds >= LONGEST_SLEEP else seconds

    @property
    def may_have_work(self) -> bool:
        """True if an agent is to go on trying to open its first connection.

        The main thread may be waiting for it before it hands anything over.
        """
        return self.has_work or not (
            self.is_over or self._dispatcher.is_complete)

    @property
    def _at_work(self) -> int:
        """How many agents have a connection, or are not kept from having one.

        Those who wait until others give one up do not find out how the
        server is.
        """
        # The main thread asks, too: the agents must not change meanwhile.
        return sum(not agent.is_queued for agent in tuple(self._agents))

    @property
    def _queued(self) -> int:
        """How many agents wait until others give a connection up."""
        return len(self._agents) - self._at_work

    def note_queued(self) -> None:
        """Take note that an agent begins to wait for that."""
        self._dispatcher.set_others_to_work()

    @property
    def is_crowded_out(self) -> bool:
        """True if all agents wait until others give a connection up."""
        return bool(self._agents) and not self._at_work

    @property
    def may_open(self) -> bool:
        """True if an agent is to go on waiting for a connection."""
        connects = self.relay.pool.barred_by
        if connects is not None and not self.is_over:
            self._bear_limit(connects.ready_in)
        return self.may_have_work and len(self._agents) <= self._most_agents

    def opened(self, is_proved: bool) -> None:
        """Take note that an agent has got a connection.

        :param is_proved: False if it will connect when it first sends.
        """
        if is_proved:
            self._note_relay_is_up()
        server = self.relay.lessons.server
        self._lacks_verp = server is not None and not server.xverp
        self._dispatcher.note_connected()

    def _note_relay_is_up(self) -> None:
        self.relay.trouble = ''
        was_outage = self.retry.is_outage or self._is_down
        self.retry.opened()
        self._is_down = False
        if was_outage:
            self._ceiling = self.relay.pool_settings.max_connections
            self._dispatcher.set_to_work(len(self.share) - 1)

    def cannot_open(self, error: RelayUnavailable) -> Event:
        """Take note that an agent cannot open a connection.

        :return: What it is to do, by `RULES`.
        """
        if self.is_over:
            return Event.cannot_open_ever
        connected = sum(agent.use is not None for agent in self._agents)
        others = self._at_work - 1
        self._hear_of_opening(error, others, connected)
        if self.is_over:
            return Event.cannot_open_ever
        event = self.retry.cannot_open(
            error, others if error.waiting_helps else connected,
            self._dispatcher.has_other(self))
        if event is Event.cannot_open_for_all:
            self._ceiling = max(1, others)
            return event
        if event is Event.cannot_open_here:
            self._ceiling = self.relay.pool_settings.max_connections
            self._is_down = True
            self._rests_until = self._clock() + self.retry.rest()
        # What waits for this relay may go over another one.
        self._dispatcher.set_others_to_work()
        self.relay.trouble = f'{error.phase}: {error.reason}'
        if event is Event.cannot_open_ever:
            self._give_up(error)
        return event

    def _hear_of_opening(self, error: RelayUnavailable, others: int,
                         connected: int) -> None:
        """Act on what the server said when a connection was refused."""
        if error.code is None or isinstance(error, RelayPaused):
            return
        code, _, text = error.reason.partition(' ')
        reply = Reply(error.code, (text.encode(),))
        notice = self._ledger.hear_of_opening(
            error.phase, reply, self.relay)
        if notice is not None:
            if error.phase != 'AUTH':
                # Whatever the code, it is over some time.
                error.waiting_helps = True
            self._heed(notice, self._clock(), others=others)
            if self.paused_for >= LONGEST_SLEEP:
                self.give_up_pause()
        elif error.waiting_helps:
            self._note_crowd(others if connected else 0, str(reply), '')

    def _note_crowd(self, others: int, words: str, remedy: str) -> None:
        """Take note that a connection was refused beside others.

        Only if something is accepted over one of them there were too many.
        """
        self._crowd = (others, words, remedy) if others else None

    def _give_up(self, error: RelayUnavailable) -> None:
        self.unavailable = error
        self._end()

    def _end(self) -> None:
        """Send nothing more to this relay."""
        if not self.is_over:
            self.stop()
            self._dispatcher.end_lane(self)

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
        if not use.known.issuperset(self.relay.lessons.learnt):
            # By the simpler dialogue, which it has taught us, it may work.
            self._retire_the_ignorant()
            return True
        unavailable = self.retry.lost(error, use, self._at_work)
        if unavailable is not None:
            self.relay.trouble = unavailable.reason
            self._give_up(unavailable)
            return False
        if (isinstance(error, PhaseTimeout) and self._at_work > 1 and
                use.answers_before == self.retry.answers):
            # Another connection would cost another timeout, and the others
            # will find out whether it is the relay's failure.
            self._ceiling = self._at_work - 1
            return False
        return True

    def _retire_the_ignorant(self) -> None:
        """Close the connections that were opened before the last lesson."""
        learnt = self.relay.lessons.learnt
        for agent in self._agents:
            if agent.use is not None and not agent.use.known.issuperset(
                    learnt):
                agent.use.is_condemned = True
        self.relay.pool.close_idle()
        self.wake_all()

    # For the agents: transactions.

    def next_for(self, use: ConnectionUse, octets: int) -> Given:
        """Give a connection something to do.

        :param use: What happens on it.
        :param octets: How much content the next transaction may have.
        :return: A transaction; `LATER`; or None if the connection is done
            with.
        """
        if use.is_condemned or self.is_over:
            return None
        throttle = self.relay.throttle
        if (throttle.reason is not None and self.share and
                self._must_wait()):
            return self._later
        permit = None
        lessons = self.relay.lessons
        limit = lessons.max_recipients
        if self._permits.are_needed:
            upcoming = self.share.upcoming(octets)
            if not self.share:
                # The others are not to wait for a lane without work.
                self._permits.leave()
            elif upcoming is not None:
                if use.in_hand and self._leave_to_idle():
                    return LATER
                permit = self._permit_for(upcoming)
                if permit is None:
                    return self._later
                limit = permit.recipients
        if not self._dispatcher.may_take(self, octets):
            if permit is not None:
                permit.unused()
            return LATER
        transaction = self.share.take(
            octets, limit,
            self._lacks_verp or lessons.verp_refused,
            self._plain_sender if lessons.verp_sender_refused else None)
        if permit is not None:
            self._permits.keep(permit, transaction)
        if transaction is None:
            if self._dispatcher.is_complete and not self.share.holds_back:
                return None
            return LATER
        self._given[id(transaction)] = throttle.given()
        if not use.in_hand:
            use.answers_before = self.retry.answers
        use.in_hand += 1
        self._dispatcher.note_taken(self)
        if self.share.parts_left:
            # It was divided.
            self._dispatcher.set_to_work(self.share.parts_left)
        return transaction

    @property
    def _later(self) -> Given:
        """`LATER`, unless the lane has just ended."""
        return None if self.is_over else LATER

    # When a limit of ours lets nothing through.

    def _leave_to_idle(self) -> bool:
        """Let an agent with nothing in flight have what a limit lets through.

        Behind another transaction the reply would come later, and until one
        period after that the transaction counts.

        :return: False if there is no such agent.
        """
        if self._permits.is_waiting:
            return False
        for agent in self._agents:
            if (agent.is_waiting and not agent.is_busy and agent.is_live and
                    agent.room >= self.share.next_size):
                agent.wake()
                return True
        return False

    def _permit_for(self, transaction: Transaction) -> Optional[Permit]:
        """Return the right to send some of a transaction, or None for now."""
        permits, lessons = self._permits, self.relay.lessons
        is_undivided = self.share.is_undivided
        count = len(transaction.recipients)
        if not is_undivided:
            if transaction.verp is not None and (
                    self._lacks_verp or lessons.verp_refused):
                # Each of them goes alone.
                count = 1
            if lessons.max_recipients is not None:
                count = min(count, lessons.max_recipients)
        was_waiting = permits.is_waiting
        permit = permits.request(count, not is_undivided)
        if permit is None:
            self._bear_limit(permits.message_in)
            if was_waiting:
                self._dispatcher.wake_others(self)
            else:
                self._dispatcher.set_others_to_work()
        return permit

    def _bear_limit(self, seconds: float) -> None:
        """End the lane if a limit lets nothing through for too long.

        :param seconds: For how many seconds it does so.
        """
        if seconds >= LONGEST_SLEEP:
            self.give_up_pause()
        elif seconds <= 0:
            # The storage is being asked.
            self._set_timer(LIMIT_LOOK_PERIOD)

    def _limit_is_ready(self) -> None:
        """Let somebody ask again."""
        self._dispatcher.do(self._ask_again)

    def _ask_again(self) -> None:
        if self.is_over:
            return
        # There may be use for more agents than there are, too.
        self._dispatcher.set_to_work()
        if self._agents:
            return
        if not self._dispatcher.is_complete:
            # The main thread may wait for a connection.
            self._dispatcher.make_ready(1)
        elif not self.share:
            # Other lanes have sent the rest.
            self._permits.leave()

    # When the relay wants less.

    def _must_wait(self) -> bool:
        """Return True if the relay is to get nothing now; see to the rest."""
        throttle = self.relay.throttle
        wait = throttle.ready_in()
        if wait <= 0:
            return False
        if self._has_waited_long():
            self.give_up_pause()
            return True
        if self._may_probe and throttle.may_probe():
            self._may_probe = False
            return False
        if self._may_probe and throttle.paused_for and not throttle.is_said:
            # It may probe soon.
            wait = min(wait, LONGEST_PROBE_WAIT / 10)
        if throttle.paused_for >= LONGEST_SLEEP and not self._given:
            self._wait_for_probe()
        else:
            self._set_timer(wait)
        return True

    def _has_waited_long(self) -> bool:
        """Return True if one short pause after the other was no use.

        No turn may end, and the other posts are waiting.
        """
        now = self._clock()
        if self._paused_since is None:
            self._paused_since = now
        return not self._given and now - self._paused_since >= LONGEST_SLEEP

    def _wait_for_probe(self) -> None:
        """Give up, unless a transaction may go in spite of the pause soon."""
        now = self._clock()
        if self._gives_up_at is None:
            self._gives_up_at = now + LONGEST_PROBE_WAIT
        if (self._may_probe and not self.relay.throttle.is_said and
                now < self._gives_up_at):
            self._set_timer(LONGEST_PROBE_WAIT / 10)
        else:
            self.give_up_pause()

    def _set_timer(self, seconds: float) -> None:
        """Look again after so many seconds, if not earlier."""
        loop = asyncio.get_running_loop()
        when = loop.time() + seconds
        if self._timer is not None and self._timer.when() <= when:
            return
        self._cancel_timer()
        self._timer = loop.call_at(when, self._dispatcher.do, self._go_on)

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _go_on(self) -> None:
        self._timer = None
        for seconds in self._permits.waits:
            self._bear_limit(seconds)
        if self._permits.are_needed and not self._agents:
            self._ask_again()
        elif not self.is_over:
            self._dispatcher.set_to_work()

    def _heed(self, notice: Notice, given_at: float,
              use: Optional[ConnectionUse] = None, others: int = 0) -> None:
        """Let the relay have its way: less, later, or over fewer connections.

        :param notice: What it has said.
        :param given_at: When the transaction was given that it answered.
        :param use: What happens on the connection; None if it could not be
            opened.
        :param others: How many other agents there are, if it could not.
        """
        throttle = self.relay.throttle
        words = (notice.reply, notice.wait, given_at, notice.remedy,
                 notice.usual)
        if notice.about is About.quota:
            throttle.hold(*words)
            return
        if notice.about is About.rate:
            throttle.slow_down(*words)
            return
        if use is not None:
            use.is_condemned = True
            if use.accepted >= FEWEST_PER_CONNECTION:
                # Another one does.
                return
            others = sum(agent.is_live and not agent.is_queued
                         for agent in self._agents)
            if others:
                # One that is closed is not to be opened again meanwhile.
                self._ceiling = min(self._ceiling, others)
        self._note_crowd(others, str(notice.reply), notice.remedy)
        if not others:
            throttle.slow_down(*words)

    def judge(self, outcome: Outcome, use: ConnectionUse) -> None:
        """Settle an outcome, or set aside what goes again.

        :param outcome: Of a transaction that `next_for` gave.
        :param use: What happens on its connection.
        """
        use.in_hand -= 1
        given_at = self._given.pop(id(outcome.transaction), 0.0)
        if self._permits.are_needed:
            self._permits.give_back(outcome)
        was_alone = self.share.holds_back
        tried = self.share.release(outcome.transaction)
        if tried is None:
            # It was disowned.
            return
        alike = outcome.alike
        is_served = alike is not None and alike.fate is Fate.accepted
        if is_served or outcome.having(Fate.accepted):
            self.accepted += 1
            use.accepted += 1
            self.share.elsewhere = frozenset()
            self._note_accepted(given_at)
        left = (None if is_served or outcome.transaction.asks
                else remainder_of(outcome))
        if left is not None:
            outcome = self._set_aside(outcome, left, tried, use, given_at)
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
                self.obey(
                    self._ledger.settle(outcome, self.relay), given_at, use)
            except Exception as error:
                # The main thread must not take the dispatch for done.
                self.fail(error)
                raise
        if was_alone and not self.share.holds_back:
            # The other agents have had nothing to do meanwhile.
            self._dispatcher.set_to_work()
        self._dispatcher.note_settled(is_idle=not use.in_hand)

    def _note_accepted(self, given_at: float) -> None:
        throttle = self.relay.throttle
        self._took(throttle.accepted(given_at))
        self.relay.trouble = ''
        self._paused_since = None
        if self._crowd is not None:
            throttle.limit_connections(*self._crowd)
            self._crowd = None
            self._ceiling = self.relay.pool_settings.max_connections
        if throttle.reason is not None and self.share:
            # The relay may be ready earlier than it was.
            self._set_timer(throttle.ready_in())

    def _set_aside(self, outcome: Outcome, left: Remainder, tried: float,
                   use: ConnectionUse, given_at: float) -> Outcome:
        """Keep what is to be sent again; return what is to be settled."""
        if left.limit is not None:
            self.relay.lessons.learn_limit(left.limit)
        notice = self._ledger.hear_of_closing(outcome, self.relay)
        if notice is not None:
            self._heed(notice, given_at, use)
            if notice.about is About.quota:
                self._end()
        if not self._dispatcher.is_over:
            # Whoever closes because of the rate has nothing against it.
            if left.is_whole and notice is None:
                # A lazy connection that could not connect is no transaction's
                # fault.
                event = (Event.cannot_open if use.is_lazy and
                         outcome.results[0].stage is Stage.connect
                         else use.event)
                tried += RULES[event].attempts
                if not self.retry.may_go_again(tried):
                    is_handed_over = self._dispatcher.hand_over(
                        self, outcome.transaction, tried)
                    return outcome.part([]) if is_handed_over else outcome
            for part in left.parts:
                transaction = outcome.part(part).transaction
                self.share.set_aside(transaction, tried)
                (use.suspects if part is left.suspect
                 else use.lost).append(transaction)
        return outcome.part(left.settled)

    def put_back(self, use: ConnectionUse) -> None:
        """Queue again what was set aside while a connection lasted."""
        self.share.end_aside(len(use.lost) + len(use.suspects))
        self._dispatcher.put_back(self, use.lost, use.suspects)

    def obey(self, orders: Orders, given_at: float,
             use: Optional[ConnectionUse] = None) -> None:
        """Do what an answer calls for.

        :param orders: The ledger's.
        :param given_at: When the transaction was given that was answered.
        :param use: What happens on its connection; None if there is none.
        """
        if orders is NO_ORDERS:
            return
        if orders.limit is not None:
            self.relay.lessons.learn_limit(orders.limit)
        if orders.no_verp:
            self._refuse_verp()
        if orders.plain_sender:
            self._refuse_verp_sender()
        if orders.notice is not None:
            self._heed(orders.notice, given_at, use)
        if orders.halt:
            self._end()
        if not self._dispatcher.is_over:
            self._queue(orders)

    def _queue(self, orders: Orders) -> None:
        """Queue what an answer has called for."""
        if orders.elsewhere:
            self.share.elsewhere = orders.elsewhere
        if orders.again or self.is_over:
            self._dispatcher.queue_again(self, orders.again)
        if orders.first and not self.is_over:
            self.share.put_first(orders.first)
        if orders.again or orders.first:
            self._dispatcher.set_to_work()

    def _refuse_verp_sender(self) -> None:
        lessons = self.relay.lessons
        if not lessons.verp_sender_refused:
            lessons.refuse_verp_sender()
            log.warning(
                '%s does not take the senders of VERP, but takes %s: that is '
                'used for an hour; let the server know the addresses, in '
                'Postfix with recipient_delimiter', self.relay.name,
                self._plain_sender)

    def _refuse_verp(self) -> None:
        lessons = self.relay.lessons
        # If it does not offer it any more, it may do so again some day.
        offers = lessons.server is None or lessons.server.xverp
        if offers and not lessons.verp_refused:
            lessons.refuse_verp()
            log.warning('%s does not make the senders of VERP; Mailman does',
                        self.relay.name)
