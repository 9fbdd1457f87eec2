# SPDX-License-Identifier: GPL-3.0-or-later
"""How long things take: what is counted of it, and how it is written."""

from bisect import bisect_left
from dataclasses import dataclass, field
from public import public
from typing import Dict, List, Optional


#: What takes time; see docs/reference/metrics.rst.
PHASES = ('resolve', 'connect', 'greeting', 'hello', 'tls', 'auth', 'message')
#: The upper bounds of the histogram of each phase, in seconds.
BUCKETS = (0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 300.0)
public(PHASES=PHASES, BUCKETS=BUCKETS)
# In seconds, and what stands for each.
UNITS = ((86400, 'd'), (3600, 'h'), (60, 'min'))


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


@public
def duration(seconds: Optional[float]) -> str:
    """Return a duration in words, such as '45 s' or '1 h 20 min'.

    :param seconds: How long; None is '-'.
    """
    if seconds is None:
        return '-'
    left = max(0, int(seconds))
    words = []
    for size, unit in UNITS:
        if left >= size:
            words.append(f'{left // size} {unit}')
            left %= size
    words.append(f'{left} s')
    # Two units are enough: nobody needs the seconds of a day.
    return ' '.join([word for word in words[:2] if word[:2] != '0 ']
                    or words[:1])
