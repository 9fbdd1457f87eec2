# SPDX-License-Identifier: GPL-3.0-or-later
"""What was used of a rate within the last period, in a fixed number of octets.

A server that counts for itself does so at some moment between the sending of
a message and the reply.  So each counts from the moment when it is sent until
one period after its reply: whatever the network does with it in between, the
server's window never has more than ours.

The replies of a thousandth of a period are counted together, as if the last
of them came at its end, and one thousandth of a period more goes by before
they are forgotten, for the sake of servers whose clock is as coarse.
"""

from public import public
from typing import Any


#: A period is divided into so many parts.
PARTS = 1000
# The parts that may count at a time: those of one period, the part that has
# begun, the one at whose end its replies count, and one more.
RING = PARTS + 3
# The numbers of a window besides the ring.
PERIOD, PART, TOTAL, OLDEST, NEWEST, DEBT, WANTED = range(7)
HEAD = 8
#: So many numbers does a window have.
NUMBERS = HEAD + RING
public(PARTS=PARTS, NUMBERS=NUMBERS)


@public
class Window:
    """The numbers of a window, in an array that others may share.

    Times are in microseconds and never decrease.
    """

    def __init__(self, numbers: Any) -> None:
        """See in an array what it says.

        :param numbers: `NUMBERS` integers of 64 bits; all 0 is a window
            without a period.
        """
        self._numbers = numbers
        self._ring = numbers[HEAD:]

    @property
    def period(self) -> int:
        """The period in microseconds; 0 if there is none."""
        period: int = self._numbers[PERIOD]
        return period

    @property
    def wanted(self) -> int:
        """When somebody last looked at it."""
        wanted: int = self._numbers[WANTED]
        return wanted

    @property
    def used(self) -> int:
        """What of the last period counts, and what is owed on top of that."""
        used: int = self._numbers[TOTAL] + self._numbers[DEBT]
        return used

    def is_sound(self, now: int) -> bool:
        """Return False if the numbers cannot be those of a window.

        :param now: The time; nothing was used later.
        """
        numbers = self._numbers
        if numbers[PERIOD] == 0:
            return True
        return (
            numbers[PERIOD] > 0 and
            numbers[PART] == part_of(numbers[PERIOD]) and
            0 <= numbers[NEWEST] - numbers[OLDEST] < RING and
            (numbers[NEWEST] - 1) * numbers[PART] <= now and
            numbers[DEBT] >= 0 and min(self._ring.tolist()) >= 0)

    def begin(self, period: int) -> None:
        """Forget everything, and count for another period.

        :param period: In microseconds.
        """
        numbers = self._numbers
        self._clear()
        numbers[DEBT] = numbers[OLDEST] = numbers[NEWEST] = 0
        numbers[PART] = part_of(period)
        numbers[PERIOD] = period

    def _clear(self) -> None:
        for index in range(RING):
            self._ring[index] = 0
        self._numbers[TOTAL] = 0

    def recount(self) -> None:
        """Add up the parts, after something may have come in between."""
        self._numbers[TOTAL] = sum(self._ring.tolist())

    def look(self, now: int) -> None:
        """Take note that somebody wants to know what is left."""
        self._numbers[WANTED] = now

    def advance(self, now: int, count: int) -> None:
        """Forget what counts no longer, and let what is owed take its place.

        :param now: The time.
        :param count: What may be used in a period; 0 if that is not known.
            Then nothing is paid of what is owed.
        """
        numbers, ring = self._numbers, self._ring
        edge = now // numbers[PART] - PARTS - 1
        if not numbers[DEBT]:
            if numbers[NEWEST] <= edge:
                if numbers[TOTAL]:
                    self._clear()
                return
        elif not numbers[TOTAL]:
            self._pay(max(edge + PARTS + 1, numbers[NEWEST]), count)
        oldest = numbers[OLDEST]
        while numbers[TOTAL] and oldest <= edge:
            place = oldest % RING
            numbers[TOTAL] -= ring[place]
            ring[place] = 0
            oldest += 1
            numbers[OLDEST] = oldest
            if numbers[DEBT]:
                self._pay(max(oldest + PARTS, numbers[NEWEST]), count)

    def _pay(self, index: int, count: int) -> None:
        """Let a part of what is owed count from now on."""
        numbers = self._numbers
        amount = min(numbers[DEBT], count - numbers[TOTAL])
        if amount > 0:
            self._put(index, amount)
            numbers[DEBT] -= amount

    def _put(self, index: int, amount: int) -> None:
        numbers = self._numbers
        if not numbers[TOTAL]:
            numbers[OLDEST] = numbers[NEWEST] = index
        numbers[OLDEST] = min(numbers[OLDEST], index)
        numbers[NEWEST] = max(numbers[NEWEST], index)
        self._ring[index % RING] += amount
        numbers[TOTAL] += amount

    def add(self, now: int, amount: int, count: int = 0) -> None:
        """Let something count for one period from now on.

        :param now: The time, to which the window has been advanced.
        :param amount: How much.
        :param count: What may be used in a period; 0 if that is not known.
            What is more is owed, and counts in the periods to come.
        """
        owed = max(0, amount - count) if count else 0
        # In this order: whoever is killed in between has counted too much.
        self._numbers[DEBT] += owed
        self._put(-(-now // self._numbers[PART]), amount - owed)

    def add_at(self, then: int, now: int, amount: int) -> None:
        """Let something count that was used earlier.

        :param then: When it was, in the time of this window.
        :param now: The time, to which the window has been advanced.
        :param amount: How much.
        """
        part = self._numbers[PART]
        # The end of a part of another window may be still to come.
        index = -(-min(then, now) // part)
        if index > now // part - PARTS - 1:
            self._put(index, amount)

    def parts(self) -> Any:
        """Yield what counts: when it was used at the latest, and how much."""
        numbers, part = self._numbers, self._numbers[PART]
        for index in range(numbers[OLDEST], numbers[NEWEST] + 1):
            amount = self._ring[index % RING]
            if amount:
                yield index * part, amount

    def free_at(self, amount: int) -> int:
        """Return when so much of what counts now will count no longer.

        :param amount: How much, more than 0.
        :return: The time; 0 if not so much counts.
        """
        numbers, part = self._numbers, self._numbers[PART]
        if numbers[TOTAL]:
            for index in range(numbers[OLDEST], numbers[NEWEST] + 1):
                amount -= self._ring[index % RING]
                if amount <= 0:
                    time: int = (index + PARTS + 1) * part
                    return time
        return 0


@public
def part_of(period: int) -> int:
    """Return a thousandth of a period, in whole microseconds."""
    return max(1, -(-period // PARTS))
