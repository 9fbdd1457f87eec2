# SPDX-License-Identifier: GPL-3.0-or-later
"""How long things take: what the engine counts and the state files say."""

from bisect import bisect_left
from dataclasses import dataclass, field
from public import public
from typing import Dict, List


#: What takes time; see docs/reference/metrics.rst.
PHASES = ('resolve', 'connect', 'greeting', 'hello', 'tls', 'auth', 'message')
#: The upper bounds of the histogram of each phase, in seconds.
BUCKETS = (0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 300.0)
public(PHASES=PHASES, BUCKETS=BUCKETS)


@public
@dataclass
class Durations:
    """A histogram of durations.

    :ivar counts: How many were in each of `BUCKETS`, not cumulative, and at
        last how many were longer than all of these.
    :ivar seconds: The sum of all.
    """

    counts: List[int] = field(
        default_factory=lambda: [0] * (len(BUCKETS) + 1))
    seconds: float = 0.0

    def note(self, seconds: float) -> None:
        """Count one more.

        :param seconds: How long it took.
        """
        # A duration that is equal to a bound is in the bucket of that bound.
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds


@public
def no_durations() -> Dict[str, Durations]:
    """Return an empty histogram for each of `PHASES`."""
    return {phase: Durations() for phase in PHASES}
