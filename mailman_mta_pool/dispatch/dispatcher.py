# SPDX-License-Identifier: GPL-3.0-or-later
"""One post on its way over its relays: what waits, and when it is done.

A `Dispatcher` lives in the network thread, and nothing else touches it there
but its lanes, one for each relay.  `Outbound` is its counterpart in the main
thread.
"""

import time
import asyncio

from mailman_mta_pool.dispatch.backlog import Backlog, Share
from mailman_mta_pool.dispatch.choice import Choice
from mailman_mta_pool.dispatch.contest import Contest
from mailman_mta_pool.dispatch.lane import Lane
from mailman_mta_pool.errors import RelayPaused, RelayUnavailable
from mailman_mta_pool.relays.limiting import PostLimits
from mailman_mta_pool.settings import DeliverySettings
from mailman_mta_pool.wire.transaction import Transaction
from public import public
from typing import Any, Callable, Iterable, List, Optional, Sequence, Tuple


# Who waits for so many seconds, or longer, is said to wait.
SHORTEST_WAIT = 1.0


@public
class Dispatcher:
    """Sends the transactions of one post over one relay, or over several.

    A lane asks for a transaction whenever one of its connections can take
    one.  What no relay has answered may go over any of the lanes; what an
    answer of one relay has called for goes over its lane only.  The lane of
    a relay that cannot be used ends, and the others have the rest.

    The main thread reads the attributes, and changes none of them.

    :ivar lanes: One for each relay, in the order of the relays.
    :ivar changed: Called when the main thread has reason to look again.
    :ivar is_over: True if nothing more is sent.
    :ivar is_connected: True if a connection could be opened.
    :ivar failure: The mistake of ours that ended the dispatch, or None.
    :ivar received: How many octets of content `take` was given.
    """

    def __init__(self, relays: Sequence[Any], delivery: DeliverySettings,
                 ledger: Any, changed: Callable[[], None], *,
                 plain_sender: Optional[str] = None,
                 was_in_retry: bool = False,
                 limits: PostLimits = PostLimits(),
                 clock: Callable[[], float] = time.monotonic) -> None:
        """Prepare; no agent starts before there is work.

        :param relays: Where to: `Relay` objects, at least one.
        :param delivery: How often and how long to try.
        :param ledger: The `Ledger` of the post, whose orders are obeyed.
        :param changed: Called when the main thread has reason to look again.
        :param plain_sender: The sender that takes the place of those of VERP,
            where a relay refuses them; None if there is none.
        :param was_in_retry: True if the post has waited in the retry queue:
            one of its transactions may go over each relay in spite of a
            pause, to see whether that is over.
        :param limits: What may be sent over each relay.
        :param clock: Seconds that only grow.
        """
        self.changed = changed
        self._ledger = ledger
        self._clock = clock
        self._backlog = Backlog()
        self.lanes = [
            Lane(self, relay, delivery, ledger, Share(self._backlog),
                 plain_sender=plain_sender, was_in_retry=was_in_retry,
                 limits=limits, clock=clock)
            for relay in relays]
        # Those that are not over.
        self._open: Tuple[Lane, ...] = tuple(self.lanes)
        self._choose()
        # How many transactions will come, at the least.
        self._expected = 0
        self._is_concluded = False
        self._room_wanted: Optional[int] = None
        self.received = 0
        self.is_over = False
        self.is_connected = False
        self.failure: Optional[BaseException] = None

    def _choose(self) -> None:
        """Begin to choose among the lanes that are not over."""
        self._choice = Choice(self._open)
        # Those that do not stand by, as far as is known.
        self._in_use = self._open
        # It looks at the lanes, which belong to the network thread.
        self._contest: Optional[Contest] = None

    # What the main thread reads.

    @property
    def octets(self) -> int:
        """How much content waits for an agent."""
        return self._backlog.octets

    @property
    def accepted(self) -> int:
        """How many messages the servers have accepted."""
        return sum(lane.accepted for lane in self.lanes)

    @property
    def answers(self) -> int:
        """How many transactions the servers have answered."""
        return sum(lane.retry.answers for lane in self.lanes)

    @property
    def is_done(self) -> bool:
        """True if everything that was taken is settled, or never will be."""
        if self._backlog.is_done and (
                self.is_over or self._is_concluded or
                not self._backlog.is_complete):
            return True
        # It is looked at often: a generator would cost more.
        for lane in self.lanes:
            if lane.agents or lane.has_work:
                return False
        return True

    @property
    def connections(self) -> int:
        """How many connections those relays may have that get the post now.

        A relay that stands by, or cannot be used, has no share in it.
        """
        return sum(lane.relay.pool_settings.max_connections
                   for lane in self._choice.eligible)

    @property
    def paused_for(self) -> float:
        """For how many seconds no relay gets anything; 0.0 if one does.

        Those that stand by because a better one is available do not count.
        """
        return min((lane.paused_for for lane in self._in_use), default=0.0)

    @property
    def is_crowded_out(self) -> bool:
        """True if all agents wait for what other processes may give up."""
        lanes = [lane for lane in self._open if lane.agents]
        return bool(lanes) and all(lane.is_crowded_out for lane in lanes)

    @property
    def waits_for(self) -> str:
        """What all relays wait for, in words; '' if something can be sent.

        A limit of so many a second, which is waited for several times a
        second, is not worth a word.
        """
        if not self._open:
            return ''
        if self.paused_for >= SHORTEST_WAIT:
            return min(
                self._open, key=lambda lane: lane.paused_for).waits_for
        if self.is_crowded_out:
            return next(
                lane.crowd_words for lane in self._open if lane.agents)
        return ''

    @property
    def is_limited(self) -> bool:
        """True if some relay gets nothing because of a limit of our own."""
        return any(0 < lane.limited_for >= lane.relay.throttle.paused_for
                   for lane in self._in_use)

    @property
    def unavailable(self) -> Optional[RelayUnavailable]:
        """Why none of the relays can be used, or None.

        If one of them has asked for a pause, that is the reason: when the
        pause is over, it can be used.
        """
        if self._open:
            return None
        reasons = [lane.unavailable for lane in self.lanes
                   if lane.unavailable is not None]
        return next((reason for reason in reasons
                     if isinstance(reason, RelayPaused)),
                    reasons[0] if reasons else None)

    # What the main thread posts.

    def do(self, step: Callable[..., Any], *args: Any) -> None:
        """Call a method; a mistake of ours in it ends the dispatch.

        The main thread would wait for ever for what comes of it otherwise.
        """
        try:
            step(*args)
        except Exception as error:
            self.fail(error)

    def make_ready(self, count: int) -> None:
        """Start so many agents, though nothing is waiting yet."""
        self._expected = max(count, self._expected)
        self._prepare()

    def _prepare(self) -> None:
        if self._expected and not (self.is_over or self.is_complete):
            lanes = self._lanes_in_use()
            self._start_agents(
                self._expected - sum(lane.agents for lane in lanes), lanes,
                lambda lane: lane.can_prepare)

    def take(self, transactions: List[Transaction], octets: int) -> None:
        """Queue transactions of so many octets, and see that they go."""
        self.received += octets
        if not self.is_over:
            for transaction in transactions:
                self._backlog.append(transaction)
            for lane in self._open:
                lane.look_at_pause()
            if not self.is_over:
                self.set_to_work(len(transactions))

    def want_room(self, octets: int) -> None:
        """Call `changed` once no more than so many octets are waiting."""
        self._room_wanted = octets
        self.look_for_room()

    def complete(self) -> None:
        """Take note that nothing more comes."""
        self._backlog.is_complete = True
        self._conclude()
        self.set_to_work()
        self._wake_all()
        self.changed()

    def stop(self) -> None:
        """Send nothing more; what is in flight may finish."""
        self.is_over = True
        self._backlog.clear()
        for lane in self.lanes:
            lane.stop()
        self.changed()

    def give_up_pause(self) -> None:
        """Send nothing more: the relays want nothing for too long."""
        for lane in self._open:
            lane.give_up_pause()

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
        for lane in self.lanes:
            lane.is_over = True
        if at_once:
            for lane in self.lanes:
                lane.abort()
            # The agents hear of it when the loop goes on.
            await asyncio.sleep(0)
        for lane in self.lanes:
            lane.disown()
        return True

    # For the lanes: what is queued.

    @property
    def is_complete(self) -> bool:
        """True if nothing more comes from the main thread."""
        return self._backlog.is_complete

    def queue_again(self, lane: Lane,
                    transactions: Iterable[Transaction]) -> None:
        """Queue what an answer of a relay has called for.

        Only those whom it refused for a reason that is not the relay's own,
        such as its rate, may go over another one.

        :param lane: The lane of that relay.
        :param transactions: What it has called for.
        """
        if self._open == (lane,):
            lane.share.extend_left(transactions)
            return
        own, free = self._divided(lane, transactions)
        if lane.is_over:
            free.extend(self._ledger.give_up(lane.relay, own))
        else:
            lane.share.extend_left(own)
        self._backlog.extend_left(free)
        self.set_to_work()

    def put_back(self, lane: Lane, first: List[Transaction],
                 last: List[Transaction]) -> None:
        """Queue again what a lost connection had.

        :param lane: Whose connection it was.
        :param first: These before all others.
        :param last: These when all others have gone, and those still to come.
        """
        if self.is_over:
            self._backlog.clear()
        else:
            if self._open != (lane,):
                first, last = self._keep_own(lane, first, last)
            self._backlog.extend_left(first)
            self._backlog.last.extend(last)
            self._conclude()
            self.set_to_work()
        if self.is_done:
            self.changed()

    def _keep_own(self, lane: Lane, first: List[Transaction],
                  last: List[Transaction],
                  ) -> Tuple[List[Transaction], List[Transaction]]:
        """Let a lane have what goes over no other; return the rest."""
        own_first, first = self._divided(lane, first)
        own_last, last = self._divided(lane, last)
        if lane.is_over:
            first = self._ledger.give_up(lane.relay, own_first) + first
            last = self._ledger.give_up(lane.relay, own_last) + last
        else:
            lane.share.extend_left(own_first)
            lane.share.last.extend(own_last)
        return first, last

    def _divided(self, lane: Lane, transactions: Iterable[Transaction],
                 ) -> Tuple[List[Transaction], List[Transaction]]:
        """Divide what goes over one lane only from what may go over any."""
        own: List[Transaction] = []
        free: List[Transaction] = []
        for transaction in transactions:
            is_own = self._ledger.has_answered(transaction, lane.relay)
            (own if is_own else free).append(transaction)
        return own, free

    def hand_over(self, lane: Lane, transaction: Transaction,
                  tried: float) -> bool:
        """Let another relay have what was tried often enough over one.

        :param lane: Whose connections were lost.
        :param transaction: What was tried, and not attempted.
        :param tried: How often, over all lanes.
        :return: False if there is no other relay, or none that has not had
            its turn.
        """
        others = [each for each in self._open if each is not lane]
        if not others or self._ledger.has_answered(transaction, lane.relay):
            return False
        if not lane.retry.may_be_tried(tried, len(self.lanes)):
            return False
        other = next((each for each in others if each.is_available), others[0])
        other.share.receive(transaction, tried)
        self.set_to_work()
        return True

    def look_for_room(self) -> None:
        """Tell the main thread if there is as much room as it wants."""
        if (self._room_wanted is not None and
                self._backlog.octets <= self._room_wanted):
            self._room_wanted = None
            self.changed()

    # For the lanes: who works.

    def set_to_work(self, count: Optional[int] = None) -> None:
        """See that newly queued transactions go.

        :param count: How many these are; None if all that are waiting may be
            new to somebody.
        """
        if len(self._open) == 1:
            self._open[0].set_to_work(count)
            return
        self._wake_all()
        for lane in self._open:
            lane.start_own_agents()
        # What waits for a relay that is down, or paused, may go elsewhere.
        waiting = len(self._backlog)
        if waiting:
            lanes = self._lanes_in_use()
            self._start_agents(
                waiting - sum(lane.idle for lane in lanes), lanes,
                lambda lane: lane.can_start)
            self._start_where_owed(lanes)
        if not self.is_connected:
            self._prepare()
        for lane in self._open:
            lane.wait_for_pause()
            if waiting or not self.is_complete:
                lane.start_probe()
            lane.watch_for_stall()

    def _start_where_owed(self, lanes: Sequence[Lane]) -> None:
        """Start an agent where the next transaction is to go, if it lacks one.

        Others may have agents to spare.  But a relay that is not at its
        ceiling is to have its share in time.
        """
        if len(lanes) > 1:
            lane = self._choice.first_of(lanes)
            if lane.lacks_agents:
                lane.start_agent()

    def set_others_to_work(self) -> None:
        """Let other lanes have what one would have to wait with.

        It begins to wait for a connection, for a limit or for its relay, and
        the others may have fewer agents than they need without it.
        """
        if len(self._open) > 1 and not self.is_over:
            self.set_to_work()

    def _lanes_in_use(self) -> List[Lane]:
        """Return the lanes for all that may go over any of them.

        If nobody knows which one works, each of them tries to connect; there
        is none for further agents then.
        """
        lanes = self._choice.eligible
        if len(self._open) == 1 or any(lane.is_available for lane in lanes):
            self._in_use = tuple(lanes)
            return lanes
        self._in_use = self._open
        for lane in self._open:
            if not lane.agents:
                lane.start_agent()
        return []

    def _start_agents(self, count: int, lanes: Sequence[Lane],
                      can_start: Callable[[Lane], bool]) -> None:
        """Start so many agents, where the next transactions will go."""
        if count <= 0:
            return
        for lane in lanes:
            lane.may_start()
        if any(lane.is_over for lane in lanes):
            # It has just ended, and the others have been set to work.
            return
        if self._choice.turns(count, lanes, can_start, Lane.start_agent):
            for lane in lanes:
                lane.wait_for_ceiling()

    def wants(self, lane: Lane) -> bool:
        """Return True if a lane is to open connections."""
        return (len(self._open) == 1 or lane.share.own_length > 0 or
                lane in self._choice.eligible)

    def has_other(self, lane: Lane) -> bool:
        """Return True if another lane can take all that is waiting."""
        return lane.share.own_length == 0 and any(
            each is not lane and each.is_available for each in self._open)

    def may_take(self, lane: Lane, octets: int) -> bool:
        """Return True if a lane may take what is waiting.

        Otherwise the lane whose turn it is has been told.

        :param lane: The lane that asks.
        :param octets: How much content it can take.
        """
        if len(self._open) == 1:
            return True
        share = lane.share
        if (share.holds_back or share.own_length or not self._backlog or
                share.next_size > octets):
            return True
        contest = self._contest
        if contest is None:
            contest = self._contest = Contest(
                self._choice, self._open, self._clock)
        if contest.is_needed and contest.look():
            self._wake_all()
        turn = self._choice.ask(lane)
        if turn is not None and turn is not lane:
            turn.wake_one()
            seconds = contest.look_in
            if seconds is not None:
                lane.look_again_in(seconds)
        return turn is lane

    def note_taken(self, lane: Lane) -> None:
        """Take note that a lane has taken a transaction."""
        self.look_for_room()
        # This one may have no room for the next, whose turn it would be.
        self.wake_others(lane)

    def wake_others(self, lane: Lane) -> None:
        """Let other lanes take what one would have to wait with."""
        if len(self._open) > 1 and self._backlog.waiting:
            for other in self._choice.eligible:
                if other is not lane:
                    other.wake_one()

    def _wake_all(self) -> None:
        for lane in self.lanes:
            lane.wake_all()

    def note_connected(self) -> None:
        """Take note that some lane has got a connection."""
        self.is_connected = True
        self.changed()

    def end_lane(self, lane: Lane) -> None:
        """Take note that a lane has ended; the others have the rest."""
        self._open = tuple(each for each in self._open if each is not lane)
        self._choose()
        if not self._open:
            self.stop()
        elif not self.is_over:
            self._backlog.extend_left(
                self._ledger.give_up(lane.relay, lane.share.clear()))
            self._conclude()
            self.set_to_work()
            if not self.is_connected:
                # The main thread may wait for a connection.
                self._prepare()
            self.changed()

    def fail(self, error: BaseException) -> None:
        """End the dispatch because of a mistake of ours."""
        if self.failure is None:
            self.failure = error
        self.stop()

    # For the lanes: what is settled.

    def note_settled(self, is_idle: bool) -> None:
        """Take note that an outcome has been settled.

        :param is_idle: True if its connection has no other transaction.
        """
        if self._backlog.is_complete:
            self._conclude()
        if is_idle and self.is_done:
            self.changed()

    def _conclude(self) -> None:
        """Decide on those who are left, once all others are settled."""
        backlog = self._backlog
        if self._is_concluded or self.is_over or not backlog.is_complete:
            return
        if not backlog.is_done:
            if len(self._open) > 1 and backlog.is_time_for_the_last:
                # The lane that has to have them may have no agent.
                self.set_to_work()
            return
        try:
            orders = [(lane, self._ledger.conclude(lane.relay))
                      for lane in self._open]
            self._is_concluded = not any(
                each.again or each.first for _, each in orders)
            for lane, each in orders:
                lane.obey(each, self._clock())
            # What a lane has left that ended thereby, another one has now.
            self._is_concluded = self._is_concluded and backlog.is_done
        except Exception as error:
            self.fail(error)
            raise
