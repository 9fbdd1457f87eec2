# SPDX-License-Identifier: GPL-3.0-or-later
"""A provider who sells so many messages a second, and refuses the next."""

import random

from collections import deque
from mailman_mta_pool.limits.file import FileStorage
from mailman_mta_pool.limits.limiter import Limiter
from public import public
from tests.limits.simulated import SimulatedClock, SimulatedLoop


@public
class StrictServer:
    """Counts in sliding windows, by its own clock.

    :ivar refused: How many messages were refused.
    """

    def __init__(self, *rates):
        self._rates = rates
        self._accepted = [deque() for _ in rates]
        self.refused = 0

    def take(self, now):
        """Accept or refuse one; remember the accepted."""
        for (count, period), accepted in zip(self._rates, self._accepted):
            while accepted and accepted[0] <= now - period:
                accepted.popleft()
            if len(accepted) >= count:
                self.refused += 1
                return
        for accepted in self._accepted:
            accepted.append(now)


@public
class Simulation:
    """One or more processes that send as fast as their limits allow.

    :ivar server: The `StrictServer`.
    :ivar seconds: How long it took until all were sent.
    """

    def __init__(self, directory, limits, rates, delay, processes=1):
        """Begin.

        :param directory: Where the limits are.
        :param limits: Those of each process.
        :param rates: Those of the server.
        :param delay: Returns how long a packet is on its way, in seconds.
        """
        self.clock = SimulatedClock()
        self.loop = SimulatedLoop(self.clock)
        self.server = StrictServer(*rates)
        self._delay = delay
        self._replied = 0
        self.senders = []
        for _ in range(processes):
            storage = FileStorage(directory, self.loop.call_later,
                                  clock=self.clock, pause=self.clock.wait)
            self.senders.append(
                _Sender(self, Limiter(storage, self.loop), limits))

    def send(self, count):
        """Send so many messages for each process.

        :return: The seconds from the first to the last.
        """
        began = self.loop.time()
        self._replied = 0
        for sender in self.senders:
            sender.begin(count)
        self.loop.run_until(
            lambda: self._replied == count * len(self.senders))
        return self.loop.time() - began

    def on_the_wire(self, permit):
        self.loop.call_later(self._delay(), self._arrives, permit)

    def _arrives(self, permit):
        self.server.take(self.loop.time())
        self.loop.call_later(self._delay(), self._is_replied, permit)

    def _is_replied(self, permit):
        self._replied += 1
        permit.replied()


class _Sender:
    def __init__(self, simulation, limiter, limits):
        self._simulation = simulation
        self._left = 0
        self.limiter = limiter
        self.claimant = limiter.claimant(limits, self._go_on)

    def begin(self, count):
        self._left = count
        self._go_on()

    def _go_on(self):
        while self._left:
            permit = self.claimant.request()
            if permit is None:
                return
            self._left -= 1
            self._simulation.on_the_wire(permit)


@public
def uniform(jitter, seed=0):
    """Return a function that draws delays from 0 to `jitter` seconds."""
    chance = random.Random(seed)
    return lambda: chance.uniform(0, jitter)
