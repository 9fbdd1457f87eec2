# SPDX-License-Identifier: GPL-3.0-or-later
"""A bounded set of connections to one server, kept for reuse.

Everything here is in the network thread, so there is no lock.  A slow QUIT
or a slow handshake is a task of its own, and holds up nobody else.
"""

import time
import random
import asyncio
import logging

from collections import deque
from mailman_mta_pool.errors import PoolClosed, RelayUnavailable
from mailman_mta_pool.interfaces import IPool, ISlots
from mailman_mta_pool.settings import PoolSettings
from public import public
from typing import (
    Any,
    Callable,
    Deque,
    Dict,
    List,
    NamedTuple,
    Optional,
    Set,
    Tuple,
    Union,
)
from zope.interface import implementer


log = logging.getLogger('mailman.smtp')


@public
class PoolStatistics(NamedTuple):
    """A snapshot of a pool; the last five count since it was made."""

    max_connections: int
    idle: int
    in_use: int
    #: Connections that were opened.
    opened: int
    #: Uses of a connection that was open already.
    reused: int
    #: Closed by us, because their time was over.
    expired: int
    #: Found closed, or talking out of turn, when they were to be used again.
    stale: int
    #: Broken while they were in use.
    broken: int = 0


def _nothing() -> None:
    """Take no notice."""


def _any_number(wake: Callable[[], None]) -> None:
    """Return no limit of new connections."""


@public
@implementer(ISlots)
class EndlessSlots:
    """See `ISlots`; for a relay that has no ceiling for the whole host."""

    def take(self) -> Any:
        """See `ISlots`."""
        return self

    def release(self, slot: Any, is_clean: bool = True) -> None:
        """See `ISlots`."""

    def want(self, count: int) -> None:
        """See `ISlots`."""

    def listen(self, on_free: Callable[[], None],
               on_wanted: Callable[[], None]) -> None:
        """See `ISlots`."""

    def gives_back_idle(self) -> bool:
        """See `ISlots`."""
        return False

    def gives_back_busy(self) -> bool:
        """See `ISlots`."""
        return False

    def close(self) -> None:
        """See `ISlots`."""


class _Kept:
    """A connection, its slot, and when its time is over."""

    def __init__(self, connection: Any, slot: Any,
                 worn_out_at: Optional[float]) -> None:
        self.connection = connection
        self.slot = slot
        self.idle_since = 0.0
        self.worn_out_at = worn_out_at


class _Free(NamedTuple):
    """A slot without a connection, and the permit to open one, if needed."""

    slot: Any
    permit: Any


class _Waiter(NamedTuple):
    """Somebody who waits for a connection."""

    told: 'asyncio.Future[None]'
    is_wanted: Callable[[], bool]


@public
@implementer(IPool)
class Pool:
    """See `IPool`."""

    def __init__(self, make: Callable[[], Any], settings: PoolSettings, *,
                 slots: Any = EndlessSlots(),
                 clock: Callable[[], float] = time.monotonic,
                 chance: Callable[[], float] = random.SystemRandom().random,
                 allowance: Callable[[Callable[[], None]], Any] = _any_number,
                 ) -> None:
        """Make an empty pool; no socket is opened.

        :param make: Returns a new `ITransactionConnection`, not opened.
        :param settings: How many, and for how long.
        :param slots: An `ISlots`: the connections that the host may have.
        :param clock: Seconds that only grow.
        :param chance: A number from 0 to 1, for the jitter of the lifetime.
        :param allowance: Given what is to be called when it is worth asking
            again, returns the `Allowance` of new connections, or None if
            they have no limit.
        """
        self._make = make
        self._settings = settings
        self._clock = clock
        self._chance = chance
        # The last one is the one that was used last.
        self._idle: List[_Kept] = []
        self._in_use: Dict[Any, _Kept] = {}
        self._slots = slots
        # How many slots are taken: by connections that are idle, in use,
        # opening or closing.
        self._taken = 0
        self._waiters: Deque[_Waiter] = deque()
        # For how many more this process was said to wait.
        self._wanted = 0
        self._closing: Set[Any] = set()
        self._timer: Optional[asyncio.TimerHandle] = None
        self._is_closed = False
        self._opened = self._reused = self._expired = self._stale = 0
        self._broken = 0
        slots.listen(self._tell_next, self._give_up)
        # What limits new connections; None if nothing does.
        self._allowance = allowance(self._may_open)

    def __repr__(self) -> str:
        stats = self.statistics()
        return (f'<Pool {stats.in_use} in use, {stats.idle} idle, of at most '
                f'{stats.max_connections}{", closed" * self._is_closed}>')

    def statistics(self) -> PoolStatistics:
        """See `IPool`."""
        return PoolStatistics(
            self._settings.max_connections, len(self._idle),
            len(self._in_use), self._opened, self._reused, self._expired,
            self._stale, self._broken)

    @property
    def barred_by(self) -> Any:
        """The `Allowance` because of which there is no connection, or None.

        Where there is one, in use or opening, that will do.
        """
        allowance = self._allowance
        if allowance is None or not allowance.is_waiting or self._taken:
            return None
        return allowance

    def next_attempt(self) -> Optional[Callable[[], None]]:
        """See `IPool`."""
        if self._allowance is None:
            return _nothing
        permit = self._allowance.request()
        return None if permit is None else permit.replied

    def _may_open(self) -> None:
        """Have the next one ask, because there may be another connection."""
        if self._waiters:
            self._tell_next()
        else:
            # The other processes are not to wait for nobody.
            self._allowance.leave()

    # Taking one out.

    async def acquire(
            self, is_wanted: Callable[[], bool] = lambda: True,
            queued: Callable[[], None] = _nothing,
            opening: Callable[[], None] = _nothing,
            ) -> Optional[Tuple[Any, bool]]:
        """See `IPool`."""
        try:
            found = await self._find(is_wanted, queued)
        finally:
            self._note_wanted()
        if found is None:
            return None
        if isinstance(found, _Free):
            opening()
            return await self._open(found), False
        self._reused += 1
        self._in_use[found.connection] = found
        if self._allowance is not None:
            # Whoever waits for that is to ask in its place.
            self._tell_next()
        return found.connection, True

    async def _find(self, is_wanted: Callable[[], bool],
                    queued: Callable[[], None],
                    ) -> Union[_Kept, _Free, None]:
        """Return an idle connection, or a free slot; None if not wanted."""
        while True:
            self._refuse_if_closed()
            kept = self._next_alive()
            if kept is not None:
                return kept
            if self._taken < self._settings.max_connections:
                free = self._take_slot()
                if free is not None:
                    return free
                if self._is_limited and not is_wanted():
                    return None
            await self._wait(is_wanted, queued)
            if not is_wanted():
                # Its post is over; an attempt would keep the others waiting.
                self._tell_next()
                return None

    @property
    def _is_limited(self) -> bool:
        """True while a limit lets no connection be opened."""
        return self._allowance is not None and self._allowance.is_waiting

    def _take_slot(self) -> Optional[_Free]:
        """Return a free slot that may be used now, or None."""
        permit = None
        if self._allowance is not None:
            permit = self._allowance.request()
            if permit is None:
                return None
        slot = None
        try:
            slot = self._slots.take()
        finally:
            if slot is None and permit is not None:
                permit.unused()
        if slot is None:
            return None
        self._taken += 1
        if self._taken < self._settings.max_connections:
            # There may be another one for who waits, too.
            self._tell_next()
        return _Free(slot, permit)

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise PoolClosed('the pool is closed')

    def _next_alive(self) -> Optional[_Kept]:
        """Take the idle connection that was used last and is still good."""
        while self._idle:
            kept = self._idle.pop()
            if self._is_over(kept):
                self._expired += 1
            elif kept.connection.is_alive():
                return kept
            else:
                self._stale += 1
            self._disconnect(kept)
        return None

    async def _open(self, free: _Free) -> Any:
        try:
            connection = self._make()
            await connection.open()
        except BaseException as error:
            # Where nothing was connected, the server has seen nothing.
            self._free_slot(free.slot, is_clean=(
                isinstance(error, RelayUnavailable) and
                error.phase == 'connect'))
            raise
        finally:
            if free.permit is not None:
                # It counts, whatever became of it.
                free.permit.replied()
        lifetime = self._settings.max_lifetime
        self._in_use[connection] = _Kept(
            connection, free.slot, None if lifetime <= 0 else
            self._clock() + lifetime * (1 - self._chance() / 10))
        self._opened += 1
        return connection

    async def _wait(self, is_wanted: Callable[[], bool],
                    queued: Callable[[], None]) -> None:
        """Wait until there is an idle connection, or a free slot."""
        told = asyncio.get_running_loop().create_future()
        waiter = _Waiter(told, is_wanted)
        self._waiters.append(waiter)
        self._note_wanted()
        try:
            queued()
            await told
        except asyncio.CancelledError:
            if told.done() and not told.cancelled():
                # It was told, and does not come any more.
                self._tell_next()
            raise
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _tell_next(self) -> None:
        while self._waiters:
            told = self._waiters.popleft().told
            if not told.done():
                told.set_result(None)
                return

    def dismiss_unwanted(self) -> None:
        """See `IPool`."""
        for waiter in self._waiters:
            if not (waiter.told.done() or waiter.is_wanted()):
                waiter.told.set_result(None)

    def _note_wanted(self) -> None:
        """Say for how many slots this process waits.

        Whoever waits because the process itself may have no more of them, or
        because of a limit, does not wait for another one.
        """
        wanted = 0 if self._is_closed or self._is_limited else min(
            len(self._waiters), self._settings.max_connections - self._taken)
        if wanted != self._wanted:
            self._wanted = wanted
            self._slots.want(wanted)

    def _free_slot(self, slot: Any, is_clean: bool) -> None:
        self._taken -= 1
        self._slots.release(slot, is_clean)
        self._note_wanted()
        self._tell_next()
        self._close_slots()

    # For the other processes of this host.

    def _give_up(self) -> None:
        """Give up slots that others wait for."""
        while self._idle and self._slots.gives_back_idle():
            # The one that was used last is the best.
            self._disconnect(self._idle.pop(0))
        for connection in self._in_use:
            # Those who have nothing to do will ask `gives_back_busy`, too.
            connection.wake()

    def gives_back_busy(self) -> bool:
        """See `IPool`."""
        return bool(self._slots.gives_back_busy())

    # Taking one back.

    def release(self, connection: Any) -> None:
        """See `IPool`."""
        kept = self._in_use.pop(connection)
        kept.idle_since = self._clock()
        is_worn_out = self._is_worn_out(kept)
        self._expired += is_worn_out
        # Without a time for being idle, none outlives its post.
        is_kept = self._settings.idle_timeout > 0 and not self._is_closed
        if connection.is_open and is_kept and not is_worn_out:
            self._idle.append(kept)
            self._tell_next()
            self._set_timer()
        else:
            self._disconnect(kept)

    def note_broken(self) -> None:
        """See `IPool`."""
        self._broken += 1

    def _disconnect(self, kept: _Kept) -> None:
        """Begin to close a connection; its slot is free when that is done."""
        task = asyncio.ensure_future(self._disconnected(kept))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _disconnected(self, kept: _Kept) -> None:
        is_clean = False
        try:
            is_clean = bool(await kept.connection.disconnect())
        except OSError as error:
            log.debug('%r: %s', kept.connection, error)
        finally:
            self._free_slot(kept.slot, is_clean)

    # What is over, and when.

    def _is_worn_out(self, kept: _Kept) -> bool:
        return (kept.worn_out_at is not None and
                kept.worn_out_at <= self._clock())

    def _is_over(self, kept: _Kept) -> bool:
        return (self._is_worn_out(kept) or self._settings.idle_timeout <=
                self._clock() - kept.idle_since)

    def close_expired(self) -> Optional[float]:
        """Begin to close the idle connections whose time is over.

        :return: After how many seconds the next one expires; None if none
            does.
        """
        over = [kept for kept in self._idle if self._is_over(kept)]
        self._idle = [kept for kept in self._idle if kept not in over]
        self._expired += len(over)
        for kept in over:
            self._disconnect(kept)
        ends = [kept.idle_since + self._settings.idle_timeout
                for kept in self._idle] + [
            kept.worn_out_at for kept in self._idle
            if kept.worn_out_at is not None]
        return max(0.0, min(ends) - self._clock()) if ends else None

    def _set_timer(self) -> None:
        """See to it that the next idle connection is closed in time."""
        if self._timer is not None:
            # It is the earlier one: whatever came since expires later.
            return
        delay = self.close_expired()
        if delay is not None:
            self._timer = asyncio.get_running_loop().call_later(
                delay, self._time_is_over)

    def _time_is_over(self) -> None:
        self._timer = None
        self._set_timer()

    def close_idle(self) -> None:
        """See `IPool`."""
        idle, self._idle = self._idle, []
        for kept in idle:
            self._disconnect(kept)

    async def close(self) -> None:
        """See `IPool`."""
        self._is_closed = True
        if self._allowance is not None:
            self._allowance.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.close_idle()
        while self._waiters:
            self._tell_next()
        if self._closing:
            await asyncio.wait(list(self._closing))
        self._close_slots()

    def _close_slots(self) -> None:
        if self._is_closed and self._taken == 0:
            self._slots.close()

    def abandon(self) -> None:
        """See `IPool`."""
        self._is_closed = True
        self._slots.close()
