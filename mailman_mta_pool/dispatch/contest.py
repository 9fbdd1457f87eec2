# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a relay at its ceiling is waited for, so that the weights hold.

Whoever gives relays different weights wants them to have these shares, also
of a post that could go out faster otherwise.  But a relay that is much slower
than its weight says, or hangs, must not hold up the others.  So now and then
each gets what it can take, for a short time that shows how much that is; and
the weights hold until the next time if that does not cost too much.  A relay
at a limit of our own is not waited for at all, nor does it wait for others:
it could not have its share.
"""

from mailman_mta_pool.dispatch.choice import Choice
from public import public
from typing import Any, Callable, Dict, List, Optional, Sequence


# So much of what could be sent is sent at least where weights hold.
LEAST_SHARE = 0.45
# How long a comparison lasts at least, in seconds, and at most, unless each
# has answered so many transactions.
COMPARISON = 0.2
LONGEST_COMPARISON = 2.0
FEWEST_ANSWERS = 20
# So many times as long as the comparison the weights hold after it.
HOLD_FACTOR = 10
# After so many comparisons in a row by which the weights cost too much nothing
# is made up for any more.
PATIENCE = 3
# A relay without an answer for so many times as long as it took for one in the
# comparison is not waited for, nor after so many seconds at the least.
SILENCE_FACTOR = 4
SHORTEST_SILENCE = 0.2


@public
class Contest:
    """Decides for a `Choice` whether it waits for relays at their ceiling.

    :ivar is_needed: False if all weights are equal: nobody is waited for.
    """

    def __init__(self, choice: Choice, candidates: Sequence[Any],
                 clock: Callable[[], float]) -> None:
        """Begin with a comparison.

        :param choice: What is to be decided for.
        :param candidates: Those that it chooses among.  They have the
            attribute `answers`, too: how many transactions were answered.
        :param clock: Seconds that only grow.
        """
        self.is_needed = len({each.weight for each in candidates}) > 1
        self._choice = choice
        self._clock = clock
        self._lanes: List[Any] = []
        self._vain = 0
        choice.pays_full = self.is_needed
        self._until: Optional[float] = None
        if self.is_needed:
            self._compare()

    def _compare(self) -> None:
        """Begin a comparison."""
        self._choice.waits = False
        self._lanes = self._choice.eligible
        self._begin = self._clock()
        self._before = {lane: lane.answers for lane in self._lanes}
        self._until = None

    @property
    def look_in(self) -> Optional[float]:
        """After how many seconds it is to look again; None if no matter."""
        if self._until is None:
            return None
        ends = [seen + self._silence[lane]
                for lane, (_, seen) in self._seen.items()]
        return max(0.0, min(self._until, *ends) - self._clock())

    def look(self) -> bool:
        """Look at what was answered since the last time.

        :return: True if others may take now what was kept for a relay.
        """
        lanes = self._choice.eligible
        if lanes != self._lanes or any(lane.is_limited for lane in lanes):
            was_waiting = self._choice.waits
            self._compare()
            return was_waiting
        if self._until is not None:
            return self._look_at_hold()
        now = self._clock()
        answered = {lane: lane.answers - self._before[lane] for lane in lanes}
        total = sum(answered.values())
        length, fewest = now - self._begin, min(answered.values())
        if total >= FEWEST_ANSWERS and length >= (
                COMPARISON if fewest >= FEWEST_ANSWERS
                else LONGEST_COMPARISON):
            slowest = min(answered[lane] / lane.weight for lane in lanes)
            if slowest * sum(lane.weight for lane in lanes) < (
                    LEAST_SHARE * total):
                self._give_in()
            else:
                self._hold(now, answered)
        return False

    def _give_in(self) -> None:
        self._vain += 1
        if self._vain >= PATIENCE:
            self._choice.pays_full = False
            for lane in self._lanes:
                lane.balance = 0
        self._compare()

    def _hold(self, now: float, answered: Dict[Any, int]) -> None:
        length = now - self._begin
        self._vain = 0
        self._choice.waits = self._choice.pays_full = True
        self._until = now + HOLD_FACTOR * length
        self._silence = {
            lane: max(SHORTEST_SILENCE, SILENCE_FACTOR * length / count)
            for lane, count in answered.items()}
        self._seen = {lane: (lane.answers, now) for lane in self._lanes}

    def _look_at_hold(self) -> bool:
        assert self._until is not None
        now = self._clock()
        is_silent = False
        for lane, (answers, seen) in self._seen.items():
            if lane.answers != answers or not lane.is_full:
                # It is not waited for, or not in vain.
                self._seen[lane] = lane.answers, now
            elif now - seen >= self._silence[lane]:
                is_silent = True
        if not is_silent and now < self._until:
            return False
        self._compare()
        return True
