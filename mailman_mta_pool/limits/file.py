# SPDX-License-Identifier: GPL-3.0-or-later
"""Limits that all processes of one host share, in locked, mapped files.

There is a file for each limit, and one lock for all of them, so that what is
taken of several limits is taken at once or not at all.  The lock is held for
microseconds; whoever cannot have it asks again a little later.
"""

import os
import time
import fcntl
import logging

from contextlib import contextmanager
from mailman_mta_pool.interfaces import ILimitStorage
from mailman_mta_pool.limits.clock import HostClock, MICROSECONDS
from mailman_mta_pool.limits.limit import (
    Answer,
    Ask,
    Limit,
    LONGEST_WAIT,
    Refused,
    SHARE_OF_WAIT,
    Taken,
)
from mailman_mta_pool.limits.mapped import (
    Counts,
    counts_of,
    LimitFile,
    make_limit_file,
    Unreadable,
)
from mailman_mta_pool.limits.processes import Place
from public import public
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple
from urllib.parse import quote
from zope.interface import implementer


log = logging.getLogger('mailman.smtp')

# How often the lock is tried, and how long in between, in seconds.
LOCK_ATTEMPTS = 20
LOCK_PAUSE = 0.00005
# When it is worth asking again if somebody else has had the lock for longer.
BUSY_WAIT = 0.05
# When it is worth asking again if the files cannot be used.
BROKEN_WAIT = 10.0
# Nobody is told when another process gives something back.  So whoever waits
# asks again after such a part of the shortest period, as long as another
# process has something in flight.
GIVEN_BACK_PART = 0.1
# For how many seconds the others wait for one that comes too late.
LEASE = 0.5


class _Busy(Exception):
    """Somebody else has the lock."""


@public
@implementer(ILimitStorage)
class FileStorage:
    """See `ILimitStorage`.  Every answer is given at once."""

    def __init__(self, directory: str,
                 later: Callable[[float, Callable[[], None]], Any], *,
                 clock: Optional[HostClock] = None,
                 pause: Callable[[float], None] = time.sleep) -> None:
        """Prepare; nothing is opened or made before it is needed.

        :param directory: Where the files are to be, such as
            $VAR_DIR/mta_pool/limits.
        :param later: Calls a function after so many seconds, as
            `loop.call_later` does.
        :param clock: The clock of the host.
        :param pause: Waits for a fraction of a millisecond.
        """
        self._directory = directory
        self._later = later
        self._clock = clock or HostClock()
        self._pause = pause
        self._lock: Optional[int] = None
        self._place: Optional[Place] = None
        self._files: Dict[str, LimitFile] = {}
        # What this process has in flight, by the key of the limit.
        self._in_flight: Dict[str, int] = {}
        # What could not be done without the lock.
        self._put_off: List[Callable[[], None]] = []
        self._is_broken = False
        self._is_closed = False

    def __repr__(self) -> str:
        return f'<FileStorage {self._directory}>'

    # The lock and the files.

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Have the lock of all processes of the host.

        :raises _Busy: if somebody else keeps it.
        :raises OSError: if there cannot be one.
        """
        if self._lock is None or not os.fstat(self._lock).st_nlink:
            self._open_lock()
        assert self._lock is not None
        for attempt in range(LOCK_ATTEMPTS):
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                self._pause(LOCK_PAUSE)
        else:
            raise _Busy
        try:
            if self._place is None:
                self._place = Place(self._directory)
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _open_lock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        os.makedirs(self._directory, 0o700, exist_ok=True)
        self._lock = os.open(
            os.path.join(self._directory, 'lock'),
            os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _file(self, limit: Limit) -> LimitFile:
        """Return the file of a limit, and make it if there is none."""
        file = self._files.get(limit.key)
        if file is not None:
            if file.is_current:
                return file
            del self._files[limit.key]
            file.close()
        file = self._opened(limit)
        flight = self._in_flight.get(limit.key)
        if flight:
            # The file was made anew under our hands.
            file.begin()
            file.unused(flight)
            file.take(flight)
            file.end()
        self._files[limit.key] = file
        return file

    def _opened(self, limit: Limit) -> LimitFile:
        assert self._place is not None
        path = self._path(limit.key)
        try:
            return LimitFile(path, limit.key, self._clock, self._place)
        except FileNotFoundError:
            used_up: Counts = {}
        except Unreadable as error:
            used_up = counts_of(limit.rates)
            log.warning(
                '%s does not say what of the limit %s was used: %s.  '
                'Everything counts as used now; remove the file to begin '
                'with nothing used', path, limit.key, error)
        make_limit_file(path, limit.key, self._clock, used_up)
        return LimitFile(path, limit.key, self._clock, self._place)

    def _path(self, key: str) -> str:
        return os.path.join(self._directory, quote(key, safe='@') + '.limit')

    @contextmanager
    def _begun(self, limits: Tuple[Limit, ...],
               ) -> Iterator[List[Tuple[Limit, LimitFile, Counts, int]]]:
        """Have the lock, and all files of some limits, with their times."""
        with self._locked():
            # In this order: if one cannot be opened none is changed.
            files = [self._file(limit) for limit in limits]
            begun = [(limit, file, counts_of(limit.rates), file.begin())
                     for limit, file in zip(limits, files)]
            yield begun
            # After an error it stays marked, and is repaired next time.
            for file in files:
                file.end()

    # What a caller wants.

    def take(self, ask: Ask, answer: Callable[[Answer], None]) -> None:
        """See `ILimitStorage`."""
        answer(self.take_now(ask))

    def take_now(self, ask: Ask) -> Answer:
        """Take of all limits, or of none, and return the answer."""
        self._catch_up()
        keys = frozenset(limit.key for limit in ask.limits)
        try:
            with self._begun(ask.limits) as begun:
                answer = self._answer(ask, begun)
        except _Busy:
            return Refused(keys, BUSY_WAIT, ask.ticket)
        except OSError as error:
            self._note_broken(error)
            return Refused(keys, BROKEN_WAIT, ask.ticket)
        self._note_mended()
        return answer

    def _answer(self, ask: Ask, begun: Any) -> Answer:
        ticket = ask.ticket
        if ticket is None:
            ticket = self._clock.running()
        recipients = _recipients(ask, begun, ticket)
        lacking = _lacking(ask, begun, ticket)
        if lacking and self._sweep(begun):
            recipients = _recipients(ask, begun, ticket)
            lacking = _lacking(ask, begun, ticket)
        if not lacking:
            taken = Taken(ask.limits, recipients)
            for limit, file, _, _ in begun:
                file.leave()
                self._take(taken, limit, file)
            return taken
        seconds = max(lacking.values())
        lacking = {key: wait for key, wait in lacking.items()
                   if wait >= SHARE_OF_WAIT * seconds}
        lease = self._clock.running() + round(
            (min(seconds, LONGEST_WAIT) + LEASE) * MICROSECONDS)
        for limit, file, _, _ in begun:
            if limit.key in lacking:
                file.wait(ticket, ask.least(limit), lease)
            else:
                file.leave()
        again = min((
            GIVEN_BACK_PART * min(counts) / MICROSECONDS
            for limit, file, counts, _ in begun
            if limit.key in lacking and file.is_used_elsewhere), default=None)
        return Refused(frozenset(lacking), seconds, ticket, again)

    def _take(self, taken: Taken, limit: Limit, file: LimitFile) -> None:
        amount = taken.amount(limit)
        file.take(amount)
        self._in_flight[limit.key] = (
            self._in_flight.get(limit.key, 0) + amount)

    def _sweep(self, begun: Any) -> bool:
        assert self._place is not None
        swept = [file.sweep(self._place.is_alive, now)
                 for _, file, _, now in begun]
        return any(swept)

    def charge(self, taken: Taken) -> None:
        """Count something as in flight, whatever is left.

        :param taken: What somebody else has allowed.
        """
        def change(limit: Limit, file: LimitFile, counts: Counts,
                   now: int) -> None:
            self._take(taken, limit, file)
        self._change(taken.limits, change)

    def replied(self, taken: Taken) -> None:
        """See `ILimitStorage`."""
        def change(limit: Limit, file: LimitFile, counts: Counts,
                   now: int) -> None:
            self._forget(limit, taken.amount(limit))
            file.replied(taken.amount(limit), counts, now)
        self._change(taken.limits, change)

    def unused(self, taken: Taken) -> None:
        """See `ILimitStorage`."""
        def change(limit: Limit, file: LimitFile, counts: Counts,
                   now: int) -> None:
            self._forget(limit, taken.amount(limit))
            file.unused(taken.amount(limit))
        self._change(taken.limits, change)

    def _forget(self, limit: Limit, amount: int) -> None:
        self._in_flight[limit.key] = max(
            0, self._in_flight.get(limit.key, 0) - amount)

    def leave(self, ask: Ask) -> None:
        """See `ILimitStorage`."""
        def change(limit: Limit, file: LimitFile, counts: Counts,
                   now: int) -> None:
            file.leave()
        self._change(ask.limits, change)

    def use_up(self, limits: Tuple[Limit, ...]) -> None:
        """Take it that others have used what is left of some limits."""
        def change(limit: Limit, file: LimitFile, counts: Counts,
                   now: int) -> None:
            file.use_up(counts, now)
        self._change(limits, change)

    def keep_to_share(self, limits: Tuple[Limit, ...],
                      seconds: float) -> None:
        """Have all processes of this host keep to its share of limits.

        :param limits: Which.
        :param seconds: For how long from now on, whatever was said before.
        """
        def change(limit: Limit, file: LimitFile, counts: Counts,
                   now: int) -> None:
            file.keep_to_share(seconds, now)
        self._change(limits, change)

    def share_ends_in(self, limits: Tuple[Limit, ...]) -> float:
        """Return for how long this host keeps to its share of limits.

        :param limits: Which.
        :return: Seconds, of that limit where it is longest; 0.0 if the host
            does not keep to its share of any.  If that cannot be told,
            nothing can be taken, either.
        """
        try:
            with self._begun(limits) as begun:
                return max([0.0] + [file.share_ends_in(now)
                                    for _, file, _, now in begun])
        except (_Busy, OSError):
            return 0.001

    def usage(self, limit: Limit) -> Dict[int, List[Tuple[int, int]]]:
        """Return what this host has used of a limit.

        :param limit: Which.
        :return: By the period in microseconds: how many microseconds ago, and
            how much; empty if that cannot be told.
        """
        try:
            with self._begun((limit,)) as ((_, file, counts, now),):
                return {period: file.usage(period, now) for period in counts}
        except (_Busy, OSError):
            return {}

    def _change(self, limits: Tuple[Limit, ...],
                change: Callable[[Limit, LimitFile, Counts, int], None],
                ) -> None:
        """Change the files of some limits; later, if it cannot be done now.

        Until then what was in flight stays so, which is on the safe side.
        """
        def do() -> None:
            with self._begun(limits) as begun:
                for each in begun:
                    change(*each)
        self._put_off.append(do)
        if len(self._put_off) == 1:
            self._catch_up()
            if self._put_off:
                self._later(BUSY_WAIT, self._try_later)

    def _try_later(self) -> None:
        self._catch_up()
        if self._put_off and not self._is_closed:
            self._later(
                BROKEN_WAIT if self._is_broken else BUSY_WAIT,
                self._try_later)

    def _catch_up(self) -> None:
        """Do what was put off, in its order."""
        try:
            while self._put_off:
                self._put_off[0]()
                del self._put_off[0]
        except _Busy:
            return
        except OSError as error:
            self._note_broken(error)

    # What the log says.

    def _note_broken(self, error: OSError) -> None:
        if not self._is_broken:
            self._is_broken = True
            log.error(
                'The limits in %s cannot be used, and nothing that has a '
                'limit is sent: %s', self._directory, error)

    def _note_mended(self) -> None:
        if self._is_broken:
            self._is_broken = False
            log.info('The limits in %s can be used again', self._directory)

    # The end.

    def sync(self) -> None:
        """See `ILimitStorage`."""
        for file in list(self._files.values()):
            file.sync()

    async def close(self) -> None:
        """See `ILimitStorage`."""
        self._catch_up()
        self._is_closed = True
        files, self._files = self._files, {}
        for file in files.values():
            file.close()
        if self._place is not None:
            self._place.leave()
            self._place = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _recipients(ask: Ask, begun: Any, ticket: int) -> int:
    """Return how many recipients the limits let through now."""
    recipients = ask.recipients
    if ask.is_divisible:
        for limit, file, counts, now in begun:
            if ask.amount(limit) > 1:
                recipients = min(recipients, min(
                    file.left(counts, now).values()) - file.earlier(ticket))
    return recipients


def _lacking(ask: Ask, begun: Any, ticket: int) -> Dict[str, float]:
    """Return the limits that have too little left, and for how long.

    What is more than a whole limit goes when nothing else counts.
    """
    lacking = {}
    for limit, file, counts, now in begun:
        least = ask.least(limit)
        earlier = file.earlier(ticket)
        needs = {period: max(1, min(least, count)) + earlier
                 for period, count in counts.items()}
        left = file.left(counts, now)
        if any(left[period] < need for period, need in needs.items()):
            lacking[limit.key] = max(
                0.001, file.seconds_until(counts, needs, now))
    return lacking
