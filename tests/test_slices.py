# SPDX-License-Identifier: GPL-3.0-or-later
"""What Mailman does with entries that a runner had in hand; docs/scaling.rst
tells of it.
"""

import unittest

from mailman.core.switchboard import Switchboard
from mailman_mta_pool.demo.population import as_queued
from pathlib import Path
from tempfile import TemporaryDirectory
from tests.site import LIST_ID, POST


class TestSlices(unittest.TestCase):
    def setUp(self):
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        queue = Switchboard('out', directory.name)
        # Which slice a post gets into is a matter of chance.
        while len(set(map(self.half_of, self.directory.iterdir()))) < 2:
            queue.enqueue(*as_queued(
                POST, LIST_ID, recipients={'anne@example.com'}))
        for path in list(self.directory.iterdir()):
            path.rename(path.with_suffix('.bak'))

    def half_of(self, path):
        """Return which of two slices an entry is in."""
        return int(path.stem.partition('+')[2][0], 16) // 8

    def taken_by(self, number, count):
        """Start with a slice; return which entries it has taken as its own."""
        Switchboard('out', str(self.directory), number, count, recover=True)
        return [path for path in self.directory.iterdir()
                if path.suffix == '.pck']

    def test_of_another_slice(self):
        for number in range(2):
            before = set(self.directory.glob('*.bak'))
            taken = self.taken_by(number, 2)
            self.assertNotEqual(taken, [])
            self.assertLessEqual(set(map(self.half_of, taken)),
                                 set(range(number + 1)))
            left = set(self.directory.glob('*.bak'))
            self.assertLess(left, before)
            self.assertNotIn(number, set(map(self.half_of, left)))

    def test_of_another_number_of_slices(self):
        # They are taken from a runner of the former number, be it at work.
        self.assertEqual(
            set(map(self.half_of, self.taken_by(0, 1))), {0, 1})
