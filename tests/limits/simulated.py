# SPDX-License-Identifier: GPL-3.0-or-later
"""A host whose clock and whose loop go on when they are told to."""

import os
import heapq
import itertools

from public import public
from tempfile import TemporaryDirectory


SECOND = 1_000_000


@public
def quick_directory():
    """Return a temporary directory that is flushed in no time, if possible."""
    memory = '/dev/shm'
    return TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else
                              None)


@public
class SimulatedClock:
    """A `HostClock` that is set.

    :ivar now: Microseconds.
    """

    def __init__(self):
        self.now = 5_000 * SECOND
        self.boot = 1
        self._started = 0
        self._set_forward = 1_700_000_000 * SECOND

    def running(self):
        return self.now - self._started

    def wall(self):
        return self.now + self._set_forward

    def wait(self, seconds):
        self.now += round(seconds * SECOND)

    def set_wall(self, seconds):
        """Set the wall clock forward, or back."""
        self._set_forward += round(seconds * SECOND)

    def restart(self):
        """Start the host again; the clock of the host begins anew."""
        self.boot += 1
        self._started = self.now


class _Handle:
    def __init__(self, when, function, args):
        self._when = when
        self.function = function
        self.args = args
        self.is_cancelled = False

    def when(self):
        return self._when

    def cancel(self):
        self.is_cancelled = True


@public
class SimulatedLoop:
    """As much of an event loop as a `Limiter` needs, by a simulated clock.

    :ivar fired: How many timers have fired.
    """

    def __init__(self, clock):
        self.clock = clock
        self.fired = 0
        self._heap = []
        self._order = itertools.count()

    def time(self):
        return self.clock.now / SECOND

    def call_at(self, when, function, *args):
        handle = _Handle(when, function, args)
        heapq.heappush(self._heap, (when, next(self._order), handle))
        return handle

    def call_later(self, seconds, function, *args):
        return self.call_at(self.time() + seconds, function, *args)

    def run_in_executor(self, executor, function):
        function()
        return _Done()

    def run(self, seconds):
        """Let so many seconds pass, and do what is due."""
        self.run_until(lambda: False, seconds)

    def run_until(self, is_over, seconds=10 ** 7):
        """Go on until something is true, or for so many seconds."""
        end = self.time() + seconds
        while not is_over():
            while self._heap and self._heap[0][2].is_cancelled:
                heapq.heappop(self._heap)
            if not self._heap or self._heap[0][0] > end:
                self.clock.now = max(self.clock.now, round(end * SECOND))
                return
            when, _, handle = heapq.heappop(self._heap)
            # A microsecond late, and so never early.
            self.clock.now = max(self.clock.now, int(when * SECOND) + 1)
            self.fired += 1
            handle.function(*handle.args)


class _Done:
    def add_done_callback(self, function):
        function(self)

    def cancelled(self):
        return False

    def exception(self):
        return None
