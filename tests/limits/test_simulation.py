# SPDX-License-Identifier: GPL-3.0-or-later

"""A strict provider refuses nothing, and nearly all of its rate is used."""

import re
import unittest

from hypothesis import given, strategies as st
from tests.examples import profile
from tests.limits.conformance import limit
from tests.limits.provider import Simulation, uniform
from tests.limits.simulated import quick_directory
from tests.test_architecture import ROOT


RATE = (14, 1)
DOCUMENT = ROOT / 'docs' / 'design' / 'limits.rst'
# The jitter of a round trip in milliseconds, and the share of the rate that
# is reached, in percent.
ROW = re.compile(r'^(\d+) ms +([\d.]+) %$', re.MULTILINE)
# What is reached at least.
SHARES = {0: 0.995, 20: 0.98, 80: 0.95, 300: 0.84}


class TestSimulation(unittest.TestCase):
    def simulation(self, delay, *rates, processes=1):
        directory = quick_directory()
        self.addCleanup(directory.cleanup)
        return Simulation(
            directory.name, (limit(*rates),), rates, delay, processes)

    def test_share_of_the_rate(self):
        said = {int(jitter): float(percent) / 100 for jitter, percent in
                ROW.findall(DOCUMENT.read_text('utf-8'))}
        self.assertEqual(set(said), set(SHARES))
        for jitter_ms, share in SHARES.items():
            with self.subTest(jitter_ms=jitter_ms):
                simulation = self.simulation(uniform(jitter_ms / 2000), RATE)
                seconds = simulation.send(2000)
                self.assertEqual(simulation.server.refused, 0)
                reached = (2000 - RATE[0]) / RATE[0] / seconds
                self.assertGreater(reached, share)
                self.assertAlmostEqual(reached, said[jitter_ms], delta=0.001)

    def test_the_server_is_strict(self):
        # One message that we know nothing of is one too many.
        simulation = self.simulation(uniform(0.02), RATE)
        simulation.server.take(simulation.loop.time())
        simulation.send(50)
        self.assertGreater(simulation.server.refused, 0)

    def test_idle_while_waiting(self):
        # The loop wakes a few times for each message that goes, and not at
        # all while nothing can.
        simulation = self.simulation(uniform(0.02), (10, 3600))
        simulation.send(10)
        fired = simulation.loop.fired
        for sender in simulation.senders:
            sender.begin(5)
        simulation.loop.run(3000)
        # Each ten seconds it looks whether anything was given back.
        self.assertLess(simulation.loop.fired - fired, 3000 / 10 * 1.5)
        simulation.loop.run(700)
        self.assertEqual(simulation.server.refused, 0)
        self.assertEqual(simulation.senders[0].limiter.waiting, 0)

    def test_four_processes(self):
        simulation = self.simulation(uniform(0.01), RATE, processes=4)
        seconds = simulation.send(250)
        self.assertEqual(simulation.server.refused, 0)
        self.assertGreater((1000 - RATE[0]) / RATE[0] / seconds, 0.97)

    @profile(25)
    @given(st.data(), st.integers(1, 3),
           st.sampled_from([((5, 1),), ((2, 1), (7, 6)), ((1, 0.25),)]))
    def test_no_refusal_whatever_the_network_does(
            self, data, processes, rates):
        delays = data.draw(st.lists(
            st.sampled_from([0, 0.001, 0.02, 0.3, 0.999, 1.001, 5.0]),
            min_size=1, max_size=30))
        order = iter(range(10 ** 9))
        simulation = self.simulation(
            lambda: delays[next(order) % len(delays)], *rates,
            processes=processes)
        simulation.send(20)
        self.assertEqual(simulation.server.refused, 0)
