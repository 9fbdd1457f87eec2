# SPDX-License-Identifier: GPL-3.0-or-later
"""Which timeout of RFC 5321, section 4.5.3.2, runs, and since when."""

import math

from collections import deque
from mailman_mta_pool.wire.outbox import BLOCK
from mailman_mta_pool.wire.pipeline import Command, Pipeline
from public import public
from typing import Callable, Deque, NamedTuple, Optional, Tuple


# As many records as this are kept, whether or not they are needed.
MAX_HANDED = 64


@public
class Timer(NamedTuple):
    """What the server is late with, once its time is over.

    :ivar command: The command whose reply is awaited; None where the kernel
        is to take another block of octets.
    :ivar since: The reading of the clock from which the time counts, in
        seconds.
    """

    command: Optional[Command]
    since: float


@public
class Timers:
    """When octets were handed to the kernel, and when replies came."""

    __slots__ = ('_answered', '_block', '_block_since', '_clock', '_handed',
                 '_pipeline')

    def __init__(self, clock: Callable[[], float],
                 pipeline: Pipeline) -> None:
        """Begin with nothing sent.

        :param clock: Seconds that only grow.
        """
        self._clock = clock
        self._pipeline = pipeline
        # Counts of octets sent, and when they had been.
        self._handed: Deque[Tuple[int, float]] = deque()
        self._block = 0
        # None as long as nobody has looked at octets that are unsent.
        self._block_since: Optional[float] = None
        self._answered = -math.inf

    def note_sent(self) -> None:
        """Take note that octets have been handed to the kernel just now."""
        now, out = self._clock(), self._pipeline.out
        sent = out.sent
        self._handed.append((sent, now))
        if sent == out.added:
            self._block_since = None
        elif self._block_since is None or sent // BLOCK != self._block:
            self._block_since = now
            self._block = sent // BLOCK

    def note_answered(self, now: float) -> None:
        """Take note that a reply came.

        :param now: The reading of the clock.
        """
        self._answered = now
        if len(self._handed) > MAX_HANDED:
            awaited = self._pipeline.awaited
            if awaited:
                self.when_handed(awaited[0][2])
            else:
                self._handed.clear()

    def when_handed(self, octets: int) -> Optional[float]:
        """Return when the kernel had taken so many octets.

        :param octets: A count that never falls from call to call.
        :return: The reading of the clock; None if it has not taken them yet.
        """
        handed = self._handed
        while handed and handed[0][0] < octets:
            handed.popleft()
        return handed[0][1] if handed else None

    @property
    def timer(self) -> Optional[Timer]:
        """The timer that runs; None if nothing is awaited nor unsent.

        It belongs to the oldest reply that is awaited, if the kernel has the
        whole group of its command; otherwise to the octets that are unsent.
        """
        awaited = self._pipeline.awaited
        if awaited:
            command, _, end = awaited[0]
            handed = self.when_handed(end)
            if handed is not None:
                return Timer(command, max(handed, self._answered))
        if not self._pipeline.out:
            return None
        if self._block_since is None:
            self._block_since = self._clock()
        # A server that is busy with what it has need not read on.
        return Timer(None, max(self._block_since, self._answered))
