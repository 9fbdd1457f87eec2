# SPDX-License-Identifier: GPL-3.0-or-later
"""The use of one limit: a file of a fixed size that all processes map.

Whoever reads or changes it has the lock of the directory.  A process that is
killed in the middle of a change leaves the file dirty: what is derived from
the rest is made anew then.  Each single number is whole all the same.
"""

import os
import mmap
import hashlib

from mailman_mta_pool.limits.clock import HostClock, MICROSECONDS
from mailman_mta_pool.limits.processes import Place, PLACES
from mailman_mta_pool.limits.window import NUMBERS, Window
from mailman_mta_pool.settings import Rate
from public import public
from typing import Any, Callable, Dict, Iterator, List, Tuple


MAGIC = int.from_bytes(b'mtaplim', 'big')
VERSION = 1
# A limit has at most so many periods: those of the configuration, and former
# ones.
WINDOWS = 8
# The numbers at the head.  `OFFSET` is what is added to the clock of the host
# to have the file's time, which goes on over a start of the host.  `LAST` is
# the file's time of the latest change, and `WALL` what the wall clock said.
(IS_OURS, LAYOUT, KEY, BOOT, OFFSET, LAST, WALL, DIRTY, IN_FLIGHT, WAITING,
 SWEPT, SHARED_UNTIL) = range(12)
HEAD = 16
# What each process has: its token, what it has sent and what was not replied
# to, its place in the line, what it waits for, and until when it is waited
# for, by the clock of the host.
TOKENS, FLIGHTS, TICKETS, NEEDS, LEASES = range(
    HEAD, HEAD + 5 * PLACES, PLACES)
FIRST_WINDOW = HEAD + 5 * PLACES
OCTETS = 8 * (FIRST_WINDOW + WINDOWS * NUMBERS)
# How often it is looked for processes that are gone, in microseconds.
SWEEP_PERIOD = MICROSECONDS
public(OCTETS=OCTETS)

# A period in microseconds, and what may be used in it.
Counts = Dict[int, int]


@public
class Unreadable(Exception):
    """The file does not say what was used."""


@public
def counts_of(rates: Tuple[Rate, ...]) -> Counts:
    """Return how many each period may have.

    :param rates: Any of these may be exhausted.
    :return: The counts by the periods in microseconds.
    """
    counts: Counts = {}
    for rate in rates:
        period = max(1, round(rate.period * MICROSECONDS))
        counts[period] = min(rate.count, counts.get(period, rate.count))
    return counts


@public
class LimitFile:
    """See what the file of a limit says, and change that.

    Its times are in microseconds and never decrease, whatever happens to the
    clocks of the host.
    """

    def __init__(self, path: str, key: str, clock: HostClock,
                 place: Place) -> None:
        """Open and map a file.

        :param path: The file.
        :param key: The limit that the file is to be of.
        :param clock: The clock of the host.
        :param place: The place of this process.
        :raises FileNotFoundError: if there is no file.
        :raises OSError: if it cannot be opened or mapped.
        :raises Unreadable: if it is something else, or damaged.
        """
        self._clock = clock
        self._place = place.number
        self._token = place.token
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if os.fstat(self._fd).st_size != OCTETS:
                raise Unreadable('it has another size')
            self._numbers: Any = memoryview(
                mmap.mmap(self._fd, OCTETS)).cast('q')
            head = self._numbers[IS_OURS:KEY + 1].tolist()
            if head != [MAGIC, VERSION, _number_of(key)]:
                raise Unreadable('it is something else')
            self._windows = [Window(self._numbers[start:start + NUMBERS])
                             for start in _window_starts()]
            self._by_period: Dict[int, Window] = {}
            self._go_on()
        except BaseException:
            os.close(self._fd)
            raise

    def _go_on(self) -> None:
        """Take over what the file says after a start of the host, or of us.

        :raises Unreadable: if that cannot be true.
        """
        numbers = self._numbers
        running, wall = self._clock.running(), self._clock.wall()
        if (numbers[BOOT] != self._clock.boot or
                not 0 <= numbers[LAST] <= running + numbers[OFFSET] + (
                    MICROSECONDS)):
            # The clock of the host has begun anew.  What the wall clock says
            # of the time in between is believed, unless it was set back.
            passed = max(0, wall - numbers[WALL])
            numbers[OFFSET] = max(0, numbers[LAST]) + passed - running
            numbers[BOOT] = self._clock.boot
            for start in (TICKETS, NEEDS, LEASES):
                for number in range(start, start + PLACES):
                    numbers[number] = 0
            numbers[SWEPT] = 0
        now = self.now()
        if min(numbers[FLIGHTS:FLIGHTS + PLACES].tolist()) < 0 or not all(
                window.is_sound(now) for window in self._windows):
            raise Unreadable('it is damaged')
        self._repair()

    def _repair(self) -> None:
        """Make anew what is derived from the rest."""
        numbers = self._numbers
        for window in self._windows:
            if window.period:
                window.recount()
        numbers[IN_FLIGHT] = sum(numbers[FLIGHTS:FLIGHTS + PLACES].tolist())
        numbers[WAITING] = sum(
            ticket > 0
            for ticket in numbers[TICKETS:TICKETS + PLACES].tolist())
        numbers[DIRTY] = 0

    # The life of the file.

    @property
    def is_current(self) -> bool:
        """False if the file was removed, replaced or cut off."""
        found = os.fstat(self._fd)
        return found.st_nlink > 0 and found.st_size == OCTETS

    def close(self) -> None:
        """Close the file; the mapping goes with this object."""
        os.close(self._fd)

    def sync(self) -> None:
        """Write what has changed to the disk; this takes its time."""
        os.fsync(self._fd)

    def begin(self) -> int:
        """Begin to look or to change something, with the lock.

        :return: The time.
        """
        numbers = self._numbers
        if numbers[DIRTY]:
            self._repair()
        numbers[DIRTY] = 1
        now = self.now()
        numbers[LAST], numbers[WALL] = now, self._clock.wall()
        if numbers[TOKENS + self._place] != self._token:
            # What is there is of a process that had the place before.
            self._bury(self._place, now)
            numbers[TOKENS + self._place] = self._token
        return now

    def end(self) -> None:
        """End what was begun."""
        self._numbers[DIRTY] = 0

    def now(self) -> int:
        """Return the time of the file."""
        running = self._clock.running()
        now: int = max(self._numbers[LAST], running + self._numbers[OFFSET])
        return now

    # What is left.

    def _window(self, period: int, now: int) -> Window:
        """Return the window of a period, and make one if there is none."""
        window = self._by_period.get(period)
        if window is None or window.period != period:
            for window in self._windows:
                if window.period == period:
                    break
            else:
                window = self._new_window(period, now)
            self._by_period[period] = window
        return window

    def _new_window(self, period: int, now: int) -> Window:
        """Begin another window with what the others know.

        A rate in the configuration has changed.
        """
        known = [each for each in self._windows if each.period]
        longer = [each for each in known if each.period >= period]
        source = (min(longer, key=lambda each: each.period) if longer else
                  max(known, key=lambda each: each.period, default=None))
        parts: List[Tuple[int, int]] = []
        if source is not None:
            source.advance(now, 0)
            parts.extend(source.parts())
        window = min(
            self._windows, key=lambda each: (each.period > 0, each.wanted))
        window.begin(period)
        for then, amount in parts:
            window.add_at(then, now, amount)
        return window

    def left(self, counts: Counts, now: int) -> Dict[int, int]:
        """Return what is left in each period; less than 0 if more was used.

        :param counts: How many each period may have.
        :param now: What `begin` returned.
        """
        in_flight = self._numbers[IN_FLIGHT]
        left = {}
        for period, count in counts.items():
            window = self._window(period, now)
            window.look(now)
            window.advance(now, count)
            left[period] = count - window.used - in_flight
        return left

    def seconds_until(self, counts: Counts, needs: Dict[int, int],
                      now: int) -> float:
        """Return after how many seconds at the earliest so much is left.

        :param counts: How many each period may have.
        :param needs: How much of each period is to be left.
        :param now: What `begin` returned.
        """
        latest = now
        for period, left in self.left(counts, now).items():
            missing = needs[period] - left
            if missing > 0:
                window = self._window(period, now)
                # What is in flight is replied to now at the earliest.
                latest = max(
                    latest, window.free_at(missing) or now + period)
        return (latest - now) / MICROSECONDS

    # Taking and giving back.

    def take(self, amount: int) -> None:
        """Count something as in flight until it is replied to."""
        self._set_flight(
            self._place, self._numbers[FLIGHTS + self._place] + amount)

    def replied(self, amount: int, counts: Counts, now: int) -> None:
        """Count something that was in flight for one period from now on.

        :param amount: How much.
        :param counts: How many each period may have.
        :param now: What `begin` returned.
        """
        self._count(amount, counts, now)
        self.unused(amount)

    def unused(self, amount: int) -> None:
        """Take back something that was in flight, and count it no more."""
        flight = self._numbers[FLIGHTS + self._place]
        self._set_flight(self._place, max(0, flight - amount))

    def _count(self, amount: int, counts: Counts, now: int) -> None:
        for period in counts:
            self._window(period, now)
        for window in self._windows:
            if window.period:
                count = counts.get(window.period, 0)
                window.advance(now, count)
                window.add(now, amount, count)

    def _set_flight(self, place: int, amount: int) -> None:
        numbers = self._numbers
        numbers[IN_FLIGHT] += amount - numbers[FLIGHTS + place]
        numbers[FLIGHTS + place] = amount

    @property
    def is_used_elsewhere(self) -> bool:
        """True if another process has something in flight."""
        elsewhere: int = (
            self._numbers[IN_FLIGHT] - self._numbers[FLIGHTS + self._place])
        return elsewhere > 0

    def use_up(self, counts: Counts, now: int) -> None:
        """Take it that others have used what is left of each period.

        :param counts: How many each period may have.
        :param now: What `begin` returned.
        """
        for period, left in self.left(counts, now).items():
            if left > 0:
                self._window(period, now).add(now, left)

    def usage(self, period: int, now: int) -> List[Tuple[int, int]]:
        """Return what counts in a period: microseconds ago, and how much.

        :param period: In microseconds.
        :param now: What `begin` returned.
        """
        return [(now - then, amount)
                for then, amount in self._window(period, now).parts()]

    # Whether this host keeps to its share.

    def keep_to_share(self, seconds: float, now: int) -> None:
        """Have all processes of this host keep to its share for so long."""
        self._numbers[SHARED_UNTIL] = now + round(seconds * MICROSECONDS)

    def share_ends_in(self, now: int) -> float:
        """Return for how many seconds this host keeps to its share."""
        seconds: float = (self._numbers[SHARED_UNTIL] - now) / MICROSECONDS
        return max(0.0, seconds)

    # The line of the processes.

    def earlier(self, ticket: int) -> int:
        """Return how much those wait for who have an earlier ticket.

        :param ticket: The own ticket.
        """
        numbers, place = self._numbers, self._place
        if not numbers[WAITING]:
            return 0
        running = self._clock.running()
        total = 0
        for number, other in enumerate(
                numbers[TICKETS:TICKETS + PLACES].tolist()):
            if (other and number != place and
                    (other, number) < (ticket, place) and
                    running <= numbers[LEASES + number]):
                total += numbers[NEEDS + number]
        return total

    def wait(self, ticket: int, need: int, lease: int) -> None:
        """Have a place in the line.

        :param ticket: The lower goes first.
        :param need: How much has to be left.
        :param lease: Until when the others wait, by the clock of the host.
        """
        numbers, place = self._numbers, self._place
        numbers[WAITING] += not numbers[TICKETS + place]
        numbers[TICKETS + place] = ticket
        numbers[NEEDS + place] = need
        numbers[LEASES + place] = lease

    def leave(self) -> None:
        """Have no place in the line any more."""
        self._leave(self._place)

    def _leave(self, place: int) -> None:
        numbers = self._numbers
        if numbers[TICKETS + place]:
            numbers[TICKETS + place] = 0
            numbers[WAITING] -= 1

    # Processes that are gone.

    def sweep(self, is_alive: Callable[[int, int], bool], now: int) -> bool:
        """Count what dead processes had in flight as if replied to now.

        :param is_alive: Tells whether the process is there that had a place
            with a token.
        :param now: What `begin` returned.
        :return: False if that was done shortly before.
        """
        numbers, running = self._numbers, self._clock.running()
        if 0 <= running - numbers[SWEPT] < SWEEP_PERIOD:
            return False
        numbers[SWEPT] = running
        for place in range(PLACES):
            if (place != self._place and
                    (numbers[FLIGHTS + place] or numbers[TICKETS + place]) and
                    not is_alive(place, numbers[TOKENS + place])):
                self._bury(place, now)
        return True

    def _bury(self, place: int, now: int) -> None:
        flight = self._numbers[FLIGHTS + place]
        if flight:
            self._count(flight, {}, now)
            self._set_flight(place, 0)
        self._leave(place)


@public
def make_limit_file(path: str, key: str, clock: HostClock,
                    used_up: Counts) -> None:
    """Make the file of a limit, or replace it.

    :param path: The file.
    :param key: The limit.
    :param clock: The clock of the host.
    :param used_up: What counts as used from now on, by the periods.
    :raises OSError: if the file cannot be made; the room that it needs is
        there from the beginning.
    """
    octets = bytearray(OCTETS)
    numbers = memoryview(octets).cast('q')
    running = clock.running()
    numbers[IS_OURS], numbers[LAYOUT] = MAGIC, VERSION
    numbers[KEY], numbers[BOOT] = _number_of(key), clock.boot
    # An hour, so that what is counted has a past.
    numbers[LAST] = 3600 * MICROSECONDS
    numbers[OFFSET], numbers[WALL] = numbers[LAST] - running, clock.wall()
    for start, (period, count) in zip(_window_starts(), used_up.items()):
        window = Window(numbers[start:start + NUMBERS])
        window.begin(period)
        window.add(numbers[LAST], count)
    new = path + '.new'
    fd = os.open(
        new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        # A page that cannot be written would be a SIGBUS in the mapping.
        os.posix_fallocate(fd, 0, OCTETS)
        if os.pwrite(fd, octets, 0) != OCTETS:
            raise OSError(f'{new} could not be written')
        os.fsync(fd)
        os.rename(new, path)
    except BaseException:
        os.unlink(new)
        raise
    finally:
        os.close(fd)


def _window_starts() -> Iterator[int]:
    for number in range(WINDOWS):
        yield FIRST_WINDOW + number * NUMBERS


def _number_of(key: str) -> int:
    """Return a number of 63 bits for a name."""
    return int.from_bytes(
        hashlib.sha256(key.encode('utf-8')).digest()[:8], 'big') >> 1
