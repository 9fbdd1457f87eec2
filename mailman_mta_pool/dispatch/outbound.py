# SPDX-License-Identifier: GPL-3.0-or-later
"""The main thread's end of a dispatch: where strategies put transactions.

Only `Transaction` values go down to the network thread.  What becomes of them
is settled there; the main thread looks at the turn, and waits.
"""

import time

from contextlib import suppress
from mailman_mta_pool.connection.devmode import stand_in
from mailman_mta_pool.dispatch.backlog import Batch
from mailman_mta_pool.dispatch.dispatcher import Dispatcher
from mailman_mta_pool.errors import LocalFailure, NothingMoreToSend
from mailman_mta_pool.interfaces import Failure, IOutbound, ITurn
from mailman_mta_pool.network.border import Border, border as _border
from mailman_mta_pool.relays.limiting import PostLimits
from mailman_mta_pool.settings import DeliverySettings
from mailman_mta_pool.wire.transaction import Transaction
from public import public
from typing import Any, Callable, Dict, Optional, Sequence, Tuple
from zope.interface import implementer


# What may wait to be sent, in octets; one transaction may always wait.
MAX_OCTETS = 8 * 1024 * 1024
# How often the main thread looks whether its turn is over, in seconds, while
# it waits for the network thread.
TICK = 0.1
# For so many seconds a post waits for a limit though its turn has brought
# nothing, and other posts wait.
SHORT_WAIT = 60.0
public(MAX_OCTETS=MAX_OCTETS)


@implementer(ITurn)
class _Endless:
    """A turn that nobody ends; see `ITurn`."""

    is_over = False
    is_urgent = False
    is_too_late = False
    is_awaited = False

    def renew(self) -> None:
        """Nothing ends it."""


@public
@implementer(IOutbound)
class Outbound:
    """See `IOutbound`.

    :ivar relays: Where to: `Relay` objects.
    """

    def __init__(self, relays: Sequence[Any], delivery: DeliverySettings,
                 ledger: Any, *, turn: Any = _Endless(), envid: str = '',
                 plain_sender: Optional[str] = None,
                 was_in_retry: bool = False,
                 limits: PostLimits = PostLimits(),
                 clock: Callable[[], float] = time.monotonic,
                 max_octets: int = MAX_OCTETS,
                 border: Border = _border) -> None:
        """Prepare; nothing is opened, and no thread started.

        :param relays: Where to: `Relay` objects, at least one.
        :param delivery: How.
        :param ledger: The `Ledger` that settles what becomes of the
            transactions, in the network thread.
        :param turn: An `ITurn`, which says when to stop.
        :param envid: The envelope identifier (RFC 3461), if delivery status
            notifications are wanted.
        :param plain_sender: See `Dispatcher`.
        :param was_in_retry: See `Dispatcher`.
        :param limits: Likewise.
        :param clock: Seconds that only grow.
        :param max_octets: How much content may wait to be sent.
        :param border: What leads to the network thread.
        """
        self.relays = tuple(relays)
        self._ledger = ledger
        self._turn = turn
        self._envid = envid if delivery.dsn else None
        self._stand_in = stand_in()
        self._max_octets = max_octets
        self._border = border
        self._batch = Batch(clock)
        self._handed_over = 0
        self._has_begun = False
        # What the server had accepted when the turn began.
        self._accepted_before = 0
        self._local_failure: Optional[LocalFailure] = None
        self._dispatcher = Dispatcher(
            self.relays, delivery, ledger, border.notify,
            plain_sender=plain_sender, was_in_retry=was_in_retry,
            limits=limits, clock=clock)

    @property
    def connections(self) -> int:
        """See `IOutbound`."""
        return max(1, self._dispatcher.connections)

    @property
    def makes_senders(self) -> bool:
        """See `IOutbound`.

        It is true if all those relays make them that have been met.  What
        goes over another one is divided when its lane takes it.
        """
        if self._stand_in is not None:
            # It would make them of what [devmode] puts in the members' place.
            return False
        # Nothing is known before the first connection of all.
        self._meet()
        met = [relay.lessons for relay in self.relays
               if relay.lessons.server is not None]
        return bool(met) and all(
            lessons.server.xverp and not lessons.verp_refused
            for lessons in met)

    @property
    def unavailable(self) -> Optional[Exception]:
        """Why nothing can be sent at present, or None."""
        return self._local_failure or self._dispatcher.unavailable

    def in_flight_to(self, relay: Any) -> int:
        """Return how many transactions a relay's connections have in hand.

        :param relay: One of `relays`.
        """
        return sum(lane.in_flight for lane in self._dispatcher.lanes
                   if lane.relay is relay)

    def limit_of(self, relay: Any) -> Tuple[float, str]:
        """Return for how long a limit of our own lets nothing through.

        :param relay: One of `relays`.
        :return: Seconds, and the limit in words; 0.0 if something may go.
        """
        return max((lane.limit for lane in self._dispatcher.lanes
                    if lane.relay is relay), default=(0.0, ''))

    @property
    def waits_for(self) -> str:
        """What the post waits for, in words; '' if something can be sent.

        It is for the network thread.
        """
        return self._dispatcher.waits_for

    @property
    def is_over(self) -> bool:
        """True if nothing more is sent."""
        return self._dispatcher.is_over or self._local_failure is not None

    def _post(self, function: Callable[..., Any], *args: Any) -> None:
        """Have the network thread call a method of the dispatcher soon.

        :raises NothingMoreToSend: if there is no such thread.
        """
        try:
            if self._has_begun:
                self._check_thread()
            self._border.post(self._dispatcher.do, function, *args)
            self._has_begun = True
        except LocalFailure as error:
            self._local_failure = error
            raise NothingMoreToSend from error

    def _check_thread(self) -> None:
        """Raise `LocalFailure` if the network thread is gone.

        Another one would know nothing of this dispatch.
        """
        if not self._border.is_running:
            raise LocalFailure('the network thread has ended')

    def _meet(self) -> None:
        """Wait until it is known what some server can do, or all are given up.
        """
        if all(relay.lessons.server is None for relay in self.relays) and (
                not self.is_over):
            with suppress(NothingMoreToSend):
                self._post(self._dispatcher.make_ready, 1)
                self._wait_until(lambda: (
                    self._dispatcher.is_connected or self.is_over))

    def expect(self, transactions: int) -> None:
        """See `IOutbound`."""
        with suppress(NothingMoreToSend):
            self._post(self._dispatcher.make_ready, transactions)

    def submit(self, transaction: Transaction) -> None:
        """See `IOutbound`."""
        if self.is_over:
            raise NothingMoreToSend
        if self._envid is not None or self._stand_in is not None:
            transaction = transaction._replace(
                envid=self._envid, stand_in=self._stand_in)
        if self._batch.add(transaction):
            self._hand_over()

    def _hand_over(self) -> None:
        """Queue what was submitted since the last time."""
        if self._waiting_octets >= self._max_octets:
            # Before the queue is empty, but not for every transaction.
            self._post(self._dispatcher.want_room, self._max_octets // 2)
            self._wait_until(lambda: self.is_over or (
                2 * self._waiting_octets <= self._max_octets))
        self._look_at_the_clock()
        if self.is_over:
            raise NothingMoreToSend
        octets = self._batch.octets
        self._handed_over += octets
        self._post(self._dispatcher.take, self._batch.take(), octets)

    @property
    def _waiting_octets(self) -> int:
        dispatcher = self._dispatcher
        return self._handed_over - dispatcher.received + dispatcher.octets

    def finish(self) -> Dict[str, Failure]:
        """See `IOutbound`.

        :raises Exception: the mistake of ours that ended the dispatch.
        """
        if self._batch:
            with suppress(NothingMoreToSend):
                self._hand_over()
        self._wait_for_the_rest()
        if self._dispatcher.failure is not None:
            raise self._dispatcher.failure
        return self._ledger.failures

    def close(self) -> None:
        """Stop, if it has not finished; wait for what is in flight."""
        self._batch.take()
        if self._has_begun and self._local_failure is None:
            with suppress(NothingMoreToSend):
                self._post(self._dispatcher.stop)
        self._wait_for_the_rest()

    def _wait_for_the_rest(self) -> None:
        dispatcher = self._dispatcher
        if not self._has_begun or self._local_failure is not None:
            return
        with suppress(NothingMoreToSend):
            self._post(dispatcher.complete)
            while True:
                self._wait_until(lambda: (
                    dispatcher.received == self._handed_over and
                    dispatcher.is_done))
                if self._close_dispatcher():
                    break

    def _close_dispatcher(self) -> bool:
        try:
            self._check_thread()
            return self._border.call(
                self._dispatcher.close, self._turn.is_too_late)
        except LocalFailure as error:
            self._local_failure = error
            return True

    def _wait_until(self, is_ready: Callable[[], bool]) -> None:
        """Wait for the network thread, and keep an eye on the turn.

        :raises NothingMoreToSend: if the thread has ended.
        """
        while not self._border.wait(is_ready, TICK):
            try:
                self._check_thread()
            except LocalFailure as error:
                self._local_failure = error
                raise NothingMoreToSend from error
            self._look_at_the_clock()
            if self._turn.is_too_late:
                return

    def _look_at_the_clock(self) -> None:
        if self._turn.is_over and not self.is_over:
            if self._turn.is_urgent:
                self._post(self._dispatcher.stop)
            elif self._dispatcher.paused_for > 0:
                self._spend_pause()
            elif self._dispatcher.answers or (
                    self._dispatcher.is_crowded_out and
                    self._turn.is_awaited):
                self._post(self._dispatcher.stop)

    def _spend_pause(self) -> None:
        """Decide where the post waits until the relay wants more.

        An entry that is put back into the queue at once, time and again, is
        work for nothing.
        """
        dispatcher = self._dispatcher
        is_awaited = self._turn.is_awaited
        if dispatcher.accepted == self._accepted_before:
            # A whole turn has brought nothing.
            if dispatcher.is_limited and (
                    not is_awaited or dispatcher.paused_for <= SHORT_WAIT):
                # The end is known, and the others may need the same limit.
                self._turn.renew()
            else:
                self._post(dispatcher.give_up_pause)
        elif is_awaited:
            self._post(dispatcher.stop)
        else:
            self._accepted_before = dispatcher.accepted
            self._turn.renew()
