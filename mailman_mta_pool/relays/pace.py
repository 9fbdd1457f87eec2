# SPDX-License-Identifier: GPL-3.0-or-later
"""How many messages a second a relay is given."""

import math

from collections import deque
from public import public
from typing import Deque, List, Optional


# Messages a second.
SLOWEST = 0.1
FASTEST = 1000.0
# For how many seconds without a refusal a rate is kept.
LIFETIME = 3600.0
# A rate grows by this with each message.  Used in full, a rate of R grows by R
# times this a second, and so doubles in ten seconds.
GROWTH = math.log(2) / 10
# The messages of the last second are counted in fiftieths of it.
TICKS = 50
# In seconds; the first transaction after a pause is ahead of the next one by
# so much, that one by half as much, and so on until a message is accepted.
HEAD_START = 1.0


@public
class Pace:
    """The rate at which transactions follow one another.

    Every time is by a clock of seconds that only grow.
    """

    def __init__(self) -> None:
        """Begin without a rate."""
        self._rate: Optional[float] = None
        self._refused_at = 0.0
        # When the next one may begin, by the rate and by the head start.
        self._next_at = self._follows_at = float('-inf')
        self._head_start = 0.0
        # True until something is accepted at the rate that was cut.
        self._is_untried = False
        # Pairs of a tick and how many messages were accepted in it.
        self._accepted: Deque[List[int]] = deque(maxlen=TICKS)

    def rate(self, now: float) -> Optional[float]:
        """Return the messages a second; None if there is no limit."""
        if self._rate is not None and now - self._refused_at >= LIFETIME:
            self._rate = None
        return self._rate

    def ready_in(self, now: float) -> float:
        """Return after how many seconds the next transaction may begin."""
        return max(0.0, self._next_at - now, self._follows_at - now)

    def space(self, now: float) -> None:
        """Keep the next transaction at its distance from one begun now."""
        rate = self.rate(now)
        interval = 0.0 if rate is None else 1 / rate
        # Who comes late, because no timer is exact, may be early next time.
        # It is half an interval at most, so that no two go at once.
        self._next_at = max(self._next_at, now - interval / 2) + interval
        self._follows_at = now + self._head_start
        self._head_start /= 2

    def count(self, now: float) -> None:
        """Count an accepted message."""
        self._is_untried = False
        tick = int(now * TICKS)
        if self._accepted and self._accepted[-1][0] == tick:
            self._accepted[-1][1] += 1
        else:
            self._accepted.append([tick, 1])

    def quicken(self, now: float) -> None:
        """Let the rate grow: a message given since the pause was accepted.

        The head start is over, and a great rate is no limit any more.
        """
        self._head_start = 0.0
        self._follows_at = float('-inf')
        rate = self.rate(now)
        if rate is not None:
            self._rate = _limit(rate + GROWTH)

    def hesitate(self) -> None:
        """Let the next transaction have a head start on the others."""
        self._head_start = HEAD_START

    def refused(self, now: float) -> None:
        """Keep the rate for another lifetime."""
        self._refused_at = now

    def cut(self, now: float, resumed_at: float) -> None:
        """Cut the rate to half of what was accepted in the last second.

        Where that second was not one of sending, a rate that there is already
        is halved.  It stays as it is if nothing was accepted since the last
        cut: then the pauses are what was too short.

        :param resumed_at: When the latest pause ended.
        """
        if self._is_untried:
            return
        self._is_untried = True
        rate = self.rate(now)
        accepted = self._accepted_lately(now)
        if rate is None:
            if accepted > 0:
                self._rate = _limit(accepted / 2)
        elif accepted > 0 and now - resumed_at >= 1:
            self._rate = _limit(min(accepted, rate) / 2)
        else:
            self._rate = _limit(rate / 2)

    def _accepted_lately(self, now: float) -> int:
        first = int(now * TICKS) - TICKS
        return sum(count for tick, count in self._accepted if tick > first)


def _limit(rate: float) -> Optional[float]:
    return None if rate > FASTEST else max(rate, SLOWEST)
