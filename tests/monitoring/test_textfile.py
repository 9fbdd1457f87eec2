# SPDX-License-Identifier: GPL-3.0-or-later
"""The file with the metrics, which several slices write."""

import os
import stat
import unittest
import threading

from mailman_mta_pool.monitoring.files import write_whole
from mailman_mta_pool.monitoring.state import OUTCOMES, SliceState
from mailman_mta_pool.monitoring.textfile import Textfile
from tempfile import TemporaryDirectory


NOW = 1_764_200_000.0


class TestTextfile(unittest.TestCase):
    def setUp(self):
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name
        self.states = os.path.join(self.directory, 'state')
        os.makedirs(self.states)
        self.path = os.path.join(self.directory, 'mailman.prom')

    def textfile(self):
        return Textfile(self.states, os.path.join(self.directory, 'queue'),
                        lambda: NOW)

    def count(self, accepted):
        state = SliceState(slice='out-0-of-2', written=NOW, recipients={
            **dict.fromkeys(OUTCOMES, 0), 'accepted': accepted})
        write_whole(os.path.join(self.states, 'out-0-of-2.json'),
                    state.to_json(), 0o600)

    def accepted(self):
        with open(self.path, encoding='utf-8') as fp:
            for line in fp:
                if 'recipients_total{outcome="accepted"}' in line:
                    return int(line.split()[1])

    def test_file(self):
        self.count(7)
        self.textfile().write(self.path)
        self.assertEqual(self.accepted(), 7)
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o644)

    def test_no_states_yet(self):
        os.rmdir(self.states)
        self.textfile().write(self.path)
        self.assertEqual(self.accepted(), 0)

    def begin(self, directory, name):
        """Have a slice write that stops where it reads a file.

        :return: What lets it go on.
        """
        path = os.path.join(directory, name)
        os.makedirs(directory, exist_ok=True)
        os.mkfifo(path)
        slice_ = threading.Thread(
            target=self.textfile().write, args=(self.path,))
        slice_.start()
        # It is open when the slice reads it.
        fp = open(path, 'wb')
        os.unlink(path)

        def end():
            fp.close()
            slice_.join()
        return end

    def test_queues_that_take_long(self):
        self.count(7)
        end = self.begin(
            os.path.join(self.directory, 'queue', 'out'), f'{NOW}+ab.pck')
        self.count(8)
        end()
        self.assertEqual(self.accepted(), 8)

    def test_two_slices(self):
        # What one has read of old may not replace what is newer.
        self.count(7)
        end = self.begin(self.states, 'out-1-of-2.json')
        self.count(8)
        other = threading.Thread(
            target=self.textfile().write, args=(self.path,))
        other.start()
        # It waits, or it has written before the slow one does.
        other.join(0.2)
        end()
        other.join()
        self.assertEqual(self.accepted(), 8)
