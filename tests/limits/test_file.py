# SPDX-License-Identifier: GPL-3.0-or-later

"""The limits of one host, in mapped files, by a clock that is set."""

import os
import sys
import stat
import errno
import fcntl
import asyncio
import unittest

from contextlib import ExitStack
from mailman_mta_pool.limits.file import FileStorage
from mailman_mta_pool.limits.limit import Ask, Refused, Taken
from mailman_mta_pool.limits.mapped import OCTETS
from tests.limits.conformance import Conformance, limit
from tests.limits.simulated import (
    quick_directory,
    SimulatedClock,
    SimulatedLoop,
)
from tests.test_throttle import kept_lines
from unittest import mock


class FileCase(unittest.TestCase):
    """A directory, a clock, and the storages of several processes."""

    # How long it takes at most until a dead process is noticed.
    notice_s = 1.0
    examples = 20

    def setUp(self):
        self.resources = ExitStack()
        self.addCleanup(self.resources.close)
        self.begin_example()
        self.log = kept_lines(self)

    def begin_example(self):
        self.directory = os.path.join(
            self.resources.enter_context(quick_directory()), 'limits')
        self.clock = SimulatedClock()
        self.loop = SimulatedLoop(self.clock)
        self.storages = []

    def end_example(self):
        for storage in self.storages:
            self.die(storage)
        self.resources.close()

    def new_process(self):
        storage = FileStorage(
            self.directory, self.loop.call_later, clock=self.clock,
            pause=self.clock.wait)
        self.storages.append(storage)
        self.resources.callback(self.die, storage)
        return storage

    def die(self, storage):
        asyncio.run(storage.close())

    def take(self, storage, ask):
        return storage.take_now(ask)

    def settle(self):
        self.loop.run(0)

    def wait(self, seconds):
        self.loop.run(seconds)

    def path(self, name='relay.ant.messages.limit'):
        return os.path.join(self.directory, name)


class TestConformance(Conformance, FileCase):
    pass


class TestFiles(FileCase):
    def setUp(self):
        super().setUp()
        self.wanted = (limit((3, 60)),)

    def left(self, storage):
        """Take what is left."""
        count = 0
        while isinstance(storage.take_now(Ask(self.wanted)), Taken):
            count += 1
        return count

    def use(self, storage, count):
        for _ in range(count):
            storage.replied(storage.take_now(Ask(self.wanted)))

    def test_only_the_owner_may_look(self):
        self.use(self.new_process(), 1)
        self.assertEqual(
            stat.S_IMODE(os.stat(self.directory).st_mode), 0o700)
        for name in os.listdir(self.directory):
            mode = os.stat(os.path.join(self.directory, name)).st_mode
            self.assertEqual(stat.S_IMODE(mode), 0o600, name)

    def test_size(self):
        storage = self.new_process()
        self.wanted = (limit((50_000, 86400), (1_000_000, 86400 * 30)),)
        self.use(storage, 2000)
        self.assertEqual(os.stat(self.path()).st_size, OCTETS)
        self.assertLess(OCTETS, 100_000)

    def test_odd_names(self):
        storage = self.new_process()
        for name in ('limit.a/b', 'limit.ant@example.com', 'limit.ü'):
            self.wanted = (limit((1, 60), name=name),)
            self.assertEqual(self.left(storage), 1)
        self.assertEqual(
            [name for name in os.listdir(self.directory) if '%' in name and
             '/' in name], [])

    def test_no_file(self):
        # Whoever removes it begins anew, but for what is in flight.
        storage = self.new_process()
        self.use(storage, 2)
        taken = storage.take_now(Ask(self.wanted))
        os.unlink(self.path())
        self.assertEqual(self.left(storage), 2)
        storage.replied(taken)
        self.assertEqual(self.left(storage), 0)
        self.assertEqual(self.log.lines, [])

    def spoil(self, change):
        storage = self.new_process()
        self.use(storage, 1)
        self.die(storage)
        with open(self.path(), 'r+b') as fp:
            change(fp)
        storage = self.new_process()
        self.assertEqual(self.left(storage), 0)
        self.wait(59)
        self.assertEqual(self.left(storage), 0)
        self.wait(2)
        self.assertEqual(self.left(storage), 3)
        (level, text), = self.log.lines
        self.assertEqual(level, 'WARNING')
        self.assertIn(self.path(), text)
        self.assertIn('remove the file', text)

    def test_foreign_file(self):
        self.spoil(lambda fp: (fp.truncate(0), fp.write(b'x' * OCTETS)))

    def test_zeros(self):
        self.spoil(lambda fp: fp.write(b'\0' * OCTETS))

    def test_too_short(self):
        self.spoil(lambda fp: fp.truncate(OCTETS // 2))

    def test_empty(self):
        self.spoil(lambda fp: fp.truncate(0))

    def test_too_long(self):
        self.spoil(lambda fp: (fp.seek(0, 2), fp.write(b'more')))

    def test_torn(self):
        # A page of it is not what it was: no number there can be true.
        def tear(fp):
            fp.seek(4096)
            fp.write(b'\xff' * (OCTETS - 4096))
        self.spoil(tear)

    def test_of_another_limit(self):
        storage = self.new_process()
        storage.take_now(Ask((limit((3, 60), name='relay.bee'),)))
        self.die(storage)
        with open(self.path('relay.bee.messages.limit'), 'rb') as fp:
            other = fp.read()
        self.spoil(lambda fp: fp.write(other))

    def test_cut_off_while_it_is_used(self):
        storage = self.new_process()
        self.use(storage, 1)
        os.truncate(self.path(), 100)
        self.assertEqual(self.left(storage), 0)
        self.assertEqual(len(self.log.lines), 1)

    def test_full_disk(self):
        storage = self.new_process()
        full = OSError(errno.ENOSPC, 'No space left on device')
        with mock.patch('os.posix_fallocate', side_effect=full):
            for _ in range(3):
                answer = storage.take_now(Ask(self.wanted))
                self.assertIsInstance(answer, Refused)
                self.assertGreater(answer.seconds, 1)
        self.assertEqual(os.listdir(self.directory).count(
            'relay.ant.messages.limit.new'), 0)
        self.assertEqual(self.left(storage), 3)
        (error, text), (info, _) = self.log.lines
        self.assertEqual((error, info), ('ERROR', 'INFO'))
        self.assertIn('No space left', text)

    def test_a_full_disk_does_not_hurt_what_is_there(self):
        storage = self.new_process()
        self.use(storage, 1)
        full = OSError(errno.ENOSPC, 'No space left on device')
        with mock.patch('os.posix_fallocate', side_effect=full), (
                mock.patch('os.pwrite', side_effect=full)):
            self.use(storage, 1)
            self.assertEqual(self.left(storage), 1)

    def test_somebody_keeps_the_lock(self):
        storage = self.new_process()
        taken = storage.take_now(Ask(self.wanted))
        with open(self.path('lock'), 'r+b') as fp:
            fcntl.flock(fp, fcntl.LOCK_EX)
            answer = storage.take_now(Ask(self.wanted))
            self.assertIsInstance(answer, Refused)
            self.assertLess(answer.seconds, 1)
            storage.replied(taken)
            self.wait(100)
        # It could be noted only now.
        self.settle()
        self.wait(59)
        self.assertEqual(self.left(storage), 2)
        self.wait(2)
        self.assertEqual(self.left(storage), 1)

    def test_somebody_removes_the_lock(self):
        first, second = self.new_process(), self.new_process()
        self.use(first, 1)
        os.unlink(self.path('lock'))
        self.use(second, 1)
        with open(self.path('lock'), 'r+b') as fp:
            fcntl.flock(fp, fcntl.LOCK_EX)
            for storage in (first, second):
                self.assertIsInstance(
                    storage.take_now(Ask(self.wanted)), Refused)

    def test_somebody_removes_everything(self):
        first, second = self.new_process(), self.new_process()
        for storage in (first, second):
            storage.take_now(Ask(self.wanted))
        for name in os.listdir(self.directory):
            os.unlink(self.path(name))
        os.rmdir(self.directory)
        # What is in flight counts all the same.
        self.assertEqual(self.left(first) + self.left(second), 2)

    def test_killed_in_the_middle_of_a_change(self):
        # Whatever was the last store that a process did, the next one counts
        # no less than is in flight, and can go on.
        for last in range(1, 40):
            with self.subTest(last=last):
                self.begin_example()
                self.killed_after(last)

    def killed_after(self, last):
        storage = self.new_process()
        self.use(storage, 1)
        taken = storage.take_now(Ask(self.wanted))
        with open(self.path(), 'rb') as fp:
            before = fp.read()
        storage.replied(taken)
        with open(self.path(), 'rb') as fp:
            after = fp.read()
        self.die(storage)
        # Some of the numbers that change have been written.
        mixed = bytearray(before)
        changed = [index for index in range(0, OCTETS, 8)
                   if before[index:index + 8] != after[index:index + 8]]
        for index in changed[:last % (len(changed) + 1)]:
            mixed[index:index + 8] = after[index:index + 8]
        # It is marked as in the middle of a change.
        mixed[7 * 8:8 * 8] = (1).to_bytes(8, sys.byteorder)
        with open(self.path(), 'r+b') as fp:
            fp.write(mixed)
        storage = self.new_process()
        self.assertLessEqual(self.left(storage), 2)
        self.die(storage)
        storage = self.new_process()
        self.wait(1)
        self.left(storage)
        self.wait(62)
        self.assertEqual(self.left(storage), 3)


class TestClocks(FileCase):
    def setUp(self):
        super().setUp()
        self.wanted = (limit((3, 60)),)

    def left(self):
        storage = self.new_process()
        count = 0
        while True:
            taken = storage.take_now(Ask(self.wanted))
            if isinstance(taken, Refused):
                break
            storage.replied(taken)
            count += 1
        self.die(storage)
        return count

    def test_the_wall_clock_is_set(self):
        self.assertEqual(self.left(), 3)
        for seconds in (-10 ** 6, 3 * 10 ** 6, -10 ** 6):
            self.clock.set_wall(seconds)
            self.assertEqual(self.left(), 0)
        self.wait(61)
        self.assertEqual(self.left(), 3)

    def test_restart_of_the_host(self):
        self.assertEqual(self.left(), 3)
        self.clock.restart()
        self.wait(30)
        self.assertEqual(self.left(), 0)
        self.wait(31)
        self.assertEqual(self.left(), 3)
        # The machine was off for a while.
        self.clock.restart()
        self.wait(61)
        self.assertEqual(self.left(), 3)

    def test_restart_with_the_clock_set_back(self):
        self.assertEqual(self.left(), 3)
        self.clock.restart()
        self.clock.set_wall(-10 ** 8)
        self.assertEqual(self.left(), 0)
        self.wait(59)
        self.assertEqual(self.left(), 0)
        self.wait(2)
        self.assertEqual(self.left(), 3)

    def test_a_host_that_does_not_number_its_starts(self):
        self.clock.boot = 0
        self.assertEqual(self.left(), 3)
        self.clock.restart()
        self.clock.boot = 0
        self.assertEqual(self.left(), 0)
        self.wait(61)
        self.assertEqual(self.left(), 3)

    def test_in_flight_over_a_restart_of_the_host(self):
        storage = self.new_process()
        for _ in range(3):
            storage.take_now(Ask(self.wanted))
        self.die(storage)
        self.clock.restart()
        self.wait(61)
        self.assertEqual(self.left(), 0)
        self.wait(61)
        self.assertEqual(self.left(), 3)
