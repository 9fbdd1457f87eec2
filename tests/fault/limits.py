# SPDX-License-Identifier: GPL-3.0-or-later

"""A limit holds for all processes of a host, whichever of them is killed."""

import unittest

from tempfile import TemporaryDirectory
from tests.limits.counting import Counter


# So many processes send as fast as they may.
PROCESSES = 4
COUNT, PERIOD_S = 14, 0.25


class TestProcesses(unittest.TestCase):
    def setUp(self):
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.counter = Counter(directory.name, COUNT, PERIOD_S)
        self.lines = None
        self.addCleanup(self.close)
        for _ in range(PROCESSES):
            self.counter.start()

    def close(self):
        if self.lines is None:
            self.lines = self.counter.close()
        return self.lines

    def serve(self, number, count):
        """Go on until one process has sent so many more."""
        end = self.counter.accepted[number] + count
        self.counter.serve(lambda: self.counter.accepted[number] >= end)

    def test_share_of_each(self):
        self.counter.serve(lambda: sum(self.counter.accepted.values()) >= 200)
        self.assertEqual(self.counter.refused, 0)
        # Nobody starves.
        for number, accepted in self.counter.accepted.items():
            self.assertGreater(accepted, 25, number)
        self.assertEqual(self.close(), [''] * PROCESSES)

    def test_killed_with_everything_in_flight(self):
        counter = self.counter
        self.serve(0, 10)
        # One process gets no reply any more, until it has used the limit.
        counter.silent.add(0)
        self.serve(0, COUNT)
        counter.processes[0].kill()
        counter.processes[0].wait()
        # The others go on, and one more comes in its place.
        self.serve(1, 30)
        number = counter.start()
        self.serve(number, 30)
        self.assertEqual(counter.refused, 0)

    def test_killed_at_any_time(self):
        counter = self.counter
        for number in range(8):
            self.serve(number, 3)
            counter.processes[number].kill()
            counter.start()
        self.serve(9, 10)
        self.assertEqual(counter.refused, 0)
