# SPDX-License-Identifier: GPL-3.0-or-later
"""Which process of this host gets a connection slot, and which gives one up.

Every process knows how many slots each of them holds, and for how many it
waits, and comes to the same conclusion as the others.  What it knows may be a
little old.  That delays somebody; the ceiling does not depend on it.
"""

from public import public
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple


# For so many seconds a process that waits is taken to be there, after it said
# so.  One that is stopped keeps nobody from a slot.
LIVE = 1.0
# Where there are more processes than slots, each keeps its slot for so many
# seconds, while another has none.
TURN = 5.0
# If the one whose time was over first does not give it up, because it waits
# for an answer, so many seconds later the next one does.
STEP = 1.0
# After so many seconds the locks are tried, whatever the others say.
INSIST = 2.0
public(INSIST=INSIST, LIVE=LIVE, STEP=STEP, TURN=TURN)


@public
class Demand(NamedTuple):
    """How many slots a process holds and wants.

    The times are those of `time.monotonic`, which all processes of a host
    have in common.

    :ivar name: The process's own name for this relay.
    :ivar held: How many it holds.
    :ivar wanted: For how many more it waits.
    :ivar waiting_since: Since when it has waited; since it took or gave up
        one, if that was later.
    :ivar holding_since: Since when it has held any.
    :ivar beat: When it said so.
    """

    name: str
    held: int
    wanted: int
    waiting_since: float = 0.0
    holding_since: float = 0.0
    beat: float = 0.0

    def is_waiting(self, now: float) -> bool:
        """Return whether it waits, and is there."""
        return self.wanted > 0 and now - self.beat < LIVE

    def to_octets(self) -> bytes:
        """Return what is read by `from_octets`; it is always as long."""
        return (f'{self.held:6d} {self.wanted:6d} {self.waiting_since:18.6f} '
                f'{self.holding_since:18.6f} {self.beat:18.6f}\n').encode()

    @classmethod
    def from_octets(cls, name: str, octets: bytes) -> Optional['Demand']:
        """Return what a process has written; None if it cannot be read."""
        try:
            held, wanted, waiting, holding, beat = octets.split()
            demand = cls(name, int(held), int(wanted), float(waiting),
                         float(holding), float(beat))
        except ValueError:
            return None
        return demand if min(demand[1:3]) >= 0 else None


@public
def shares_of(demands: Sequence[Demand], maximum: int,
              now: float) -> Dict[str, int]:
    """Return how many slots each process is to have, by its name.

    Each gets one in turn until it has all that it holds and waits for, or
    nothing is left.  Of those that are equal the one goes first that has the
    slot already, and then the one that waits longest.

    :param demands: One for each process.
    :param maximum: How many there are.
    :param now: The time.
    """
    needs = {demand.name: demand.held + demand.wanted * demand.is_waiting(now)
             for demand in demands}
    shares = dict.fromkeys(needs, 0)

    def turn(demand: Demand) -> Tuple[int, bool, float, str]:
        share = shares[demand.name]
        return (share, demand.held <= share, demand.waiting_since,
                demand.name)
    for _ in range(maximum):
        hungry = [demand for demand in demands
                  if shares[demand.name] < needs[demand.name]]
        if not hungry:
            break
        shares[min(hungry, key=turn).name] += 1
    return shares


@public
class View:
    """What one process knows of all, at one moment."""

    def __init__(self, mine: Demand, others: Sequence[Demand], maximum: int,
                 now: float) -> None:
        """Take it in.

        :param mine: What this process holds and wants.
        :param others: What the other processes do.
        :param maximum: How many slots there are.
        :param now: The time.
        """
        self._mine = mine
        self._now = now
        self._waiting = [each for each in others if each.is_waiting(now)]
        self._all = [mine, *others]
        self._shares = shares_of(self._all, maximum, now)
        self._free = maximum - sum(each.held for each in self._all)

    def _lacking(self, demand: Demand) -> int:
        """How many slots of its share a process does not have yet."""
        return min(demand.wanted, max(
            0, self._shares[demand.name] - demand.held))

    @property
    def may_take(self) -> bool:
        """True if this process may take a slot, should there be one."""
        mine = self._mine
        before: List[Demand] = self._waiting
        if self._lacking(mine) > 0:
            before = [each for each in before if _turn(each) < _turn(mine)]
        ahead = sum(map(self._lacking, before))
        if self._free > ahead:
            return True
        # It may not be as the others say.
        return ahead == 0 and self._now - mine.waiting_since >= INSIST

    @property
    def idle_to_give(self) -> int:
        """How many slots of idle connections this process is to give up.

        An idle connection is worth less than any that somebody waits for.
        """
        wanted = sum(each.wanted for each in self._waiting)
        return min(self._mine.held, max(0, wanted - max(0, self._free)))

    @property
    def busy_to_give(self) -> int:
        """How many slots it is to give up between two transactions."""
        mine, free = self._mine, max(0, self._free)
        surplus = mine.held - self._shares[mine.name]
        if surplus > 0:
            lacking = sum(map(self._lacking, self._waiting)) - free
            return min(surplus, max(0, lacking))
        starving = sum(each.held == 0 and self._shares[each.name] == 0
                       for each in self._waiting) - free
        if starving <= 0 or mine.held == 0:
            return 0
        holders = sorted((each.holding_since, each.name)
                         for each in self._all if each.held > 0)
        rank = holders.index((mine.holding_since, mine.name))
        over = max(0, rank - starving + 1)
        return int(
            self._now - mine.holding_since >= TURN + over * STEP)


def _turn(demand: Demand) -> Tuple[int, float, str]:
    """The smaller one goes first."""
    return demand.held, demand.waiting_since, demand.name
