# SPDX-License-Identifier: GPL-3.0-or-later
"""A bounded set of connections to one server, kept for reuse.

What to do is decided under the lock and done outside it: a slow QUIT or a
slow handshake holds up nobody else.
"""

import time
import random
import threading

from contextlib import contextmanager
from mailman_mta_pool.errors import PoolClosed, PoolTimeout
from mailman_mta_pool.interfaces import IPool
from mailman_mta_pool.settings import PoolSettings
from public import public
from typing import Any, Callable, Iterator, List, NamedTuple, Optional
from zope.interface import implementer


@public
class PoolStatistics(NamedTuple):
    """A snapshot of a pool; the last four count since it was made."""

    max_connections: int
    idle: int
    in_use: int
    #: Connections that were opened.
    opened: int
    #: Loans of a connection that was open already.
    reused: int
    #: Closed by us, because their time was over.
    expired: int
    #: Found closed, or talking out of turn, when they were to be used again.
    stale: int


class _Kept:
    """A connection, and when its time is over."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.idle_since = 0.0
        self.worn_out_at: Optional[float] = None


@public
@implementer(IPool)
class Pool:
    """See `IPool`."""

    def __init__(self, make: Callable[[], Any], settings: PoolSettings, *,
                 clock: Callable[[], float] = time.monotonic,
                 chance: Callable[[], float] = random.SystemRandom().random,
                 ) -> None:
        """Make an empty pool; no socket is opened and no thread started.

        :param make: Returns a new `ITransactionConnection`, not opened.
        :param settings: How many, and for how long.
        :param clock: Seconds that only grow.
        :param chance: A number from 0 to 1, for the jitter of the lifetime.
        """
        self._make = make
        self._settings = settings
        self._clock = clock
        self._chance = chance
        self._changed = threading.Condition()
        # The last one is the one that was used last.
        self._idle: List[_Kept] = []
        self._in_use = 0
        self._closed = False
        self._tended = False
        self._opened = self._reused = self._expired = self._stale = 0

    def __repr__(self) -> str:
        stats = self.statistics()
        return (f'<Pool {stats.in_use} in use, {stats.idle} idle, of at most '
                f'{stats.max_connections}{", closed" * self._closed}>')

    def statistics(self) -> PoolStatistics:
        """See `IPool`."""
        with self._changed:
            return PoolStatistics(
                self._settings.max_connections, len(self._idle), self._in_use,
                self._opened, self._reused, self._expired, self._stale)

    @contextmanager
    def connection(self, timeout: Optional[float] = None) -> Iterator[Any]:
        """See `IPool`."""
        kept = self._check_out(timeout)
        try:
            yield kept.connection
        finally:
            self._check_in(kept)

    def _check_out(self, timeout: Optional[float]) -> _Kept:
        self._take_slot(timeout)
        try:
            kept = self._next_alive()
            if kept is None:
                kept = self._open()
        except BaseException:
            self._free_slot()
            raise
        return kept

    def _take_slot(self, timeout: Optional[float]) -> None:
        def free() -> bool:
            return (self._closed or
                    self._in_use < self._settings.max_connections)
        with self._changed:
            if not self._changed.wait_for(free, timeout):
                raise PoolTimeout(f'no connection became free: {self!r}')
            if self._closed:
                raise PoolClosed('the pool is closed')
            self._in_use += 1

    def _free_slot(self) -> None:
        with self._changed:
            self._in_use -= 1
            self._changed.notify()

    def _next_alive(self) -> Optional[_Kept]:
        while True:
            with self._changed:
                if not self._idle:
                    return None
                kept = self._idle.pop()
                expired = self._is_over(kept, self._clock())
                self._expired += expired
            if expired:
                kept.connection.quit()
            elif kept.connection.is_alive():
                with self._changed:
                    self._reused += 1
                return kept
            else:
                kept.connection.quit()
                with self._changed:
                    self._stale += 1

    def _open(self) -> _Kept:
        kept = _Kept(self._make())
        kept.connection.open()
        lifetime = self._settings.max_lifetime
        if lifetime > 0:
            kept.worn_out_at = (
                self._clock() + lifetime * (1 - self._chance() / 10))
        with self._changed:
            self._opened += 1
        return kept

    def _check_in(self, kept: _Kept) -> None:
        now = self._clock()
        with self._changed:
            kept.idle_since = now
            worn_out = self._is_worn_out(kept, now)
            self._expired += worn_out
            keep = (kept.connection.is_open and not self._closed and
                    not worn_out)
        try:
            if not keep:
                # Only then is the slot free: it may not be one too many.
                kept.connection.quit()
        finally:
            with self._changed:
                if keep:
                    self._idle.append(kept)
                self._in_use -= 1
                self._changed.notify()

    # What is over, and when.

    def _is_worn_out(self, kept: _Kept, now: float) -> bool:
        return kept.worn_out_at is not None and kept.worn_out_at <= now

    def _is_over(self, kept: _Kept, now: float) -> bool:
        limit = self._settings.idle_timeout
        return (self._is_worn_out(kept, now) or
                0 < limit <= now - kept.idle_since)

    def close_expired(self) -> Optional[float]:
        """See `IPool`."""
        limit = self._settings.idle_timeout
        with self._changed:
            now = self._clock()
            over = [kept for kept in self._idle
                    if limit == 0 or self._is_over(kept, now)]
            self._idle = [kept for kept in self._idle if kept not in over]
            self._expired += len(over)
            ends = [kept.idle_since + limit for kept in self._idle] + [
                kept.worn_out_at for kept in self._idle
                if kept.worn_out_at is not None]
        for kept in over:
            kept.connection.quit()
        return max(0.0, min(ends) - now) if ends else None

    def tend(self) -> None:
        """Close what is over, now and later; to be called after each use.

        A thread does the later part.  It ends when nothing is idle any more.
        """
        if self.close_expired() is None:
            return
        with self._changed:
            if self._tended or self._closed:
                return
            self._tended = True
        threading.Thread(
            target=self._tend, name='mta-pool-idle', daemon=True).start()

    def _tend(self) -> None:
        while True:
            delay = self.close_expired()
            with self._changed:
                if self._closed or (delay is None and not self._idle):
                    self._tended = False
                    return
                if delay is not None:
                    self._changed.wait_for(lambda: self._closed, delay)

    def close(self) -> None:
        """See `IPool`."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            self._changed.notify_all()
        for kept in idle:
            kept.connection.quit()
