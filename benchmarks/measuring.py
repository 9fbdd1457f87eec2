# SPDX-License-Identifier: GPL-3.0-or-later
"""Rates, measured in turn."""

from dataclasses import dataclass, field
from public import public
from statistics import median
from typing import Any, Callable, List


# Of how many the median is taken.
REPEATS = 5
# Until a measurement is long enough, it gets so many times longer.
GROWTH = 3


@public
@dataclass(eq=False)
class Contender:
    """One of those that are compared.

    :ivar name: What the table calls it.
    :ivar run: Serves so many recipients, and returns the seconds it took.
    :ivar least: At least so many in a measurement.
    :ivar most: At most so many.
    :ivar seconds: How long a measurement shall take, about, if `most`
        recipients would take longer.
    :ivar rates: Recipients per second, one for each measurement.
    """

    name: str
    run: Callable[[int], float]
    least: int
    most: int
    seconds: float = 1.0
    rates: List[float] = field(default_factory=list)
    count: int = 0

    def warm_up(self):
        """Find out how many recipients make a measurement."""
        self.count = self.least
        # What every post costs, however small, must not count for much.
        while (self.run(self.count) < self.seconds / 2 and
               self.count < self.most):
            self.count = min(self.most, GROWTH * self.count)

    def measure(self):
        """Make one measurement."""
        self.rates.append(self.count / self.run(self.count))

    @property
    def rate(self):
        """The median."""
        return median(self.rates)


@public
def in_turn(contenders: List[Any], between: Callable[[], Any],
            repeats: int = REPEATS) -> None:
    """Measure all of them, one after the other, again and again.

    What else happens on the machine hits all alike that way.

    :param contenders: They get their rates.
    :param between: Called before each measurement.
    :param repeats: How often.
    """
    for contender in contenders:
        contender.warm_up()
    for _ in range(repeats):
        for contender in contenders:
            between()
            contender.measure()
