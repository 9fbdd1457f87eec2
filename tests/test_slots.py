# SPDX-License-Identifier: GPL-3.0-or-later
"""The connections that all processes of a host may have: locks and timers.

Two objects stand for two processes: a lock belongs to an open file, not to a
process.  tests/fault/slots.py has real ones.
"""

import gc
import os
import errno
import fcntl
import asyncio
import resource
import unittest

from contextlib import contextmanager
from mailman_mta_pool.errors import UnavailableHere
from mailman_mta_pool.relays.demand import TURN
from mailman_mta_pool.relays.slots import (
    REST,
    RETRY_AFTER,
    slot_directory,
    Slots,
)
from pathlib import Path
from tempfile import TemporaryDirectory
from tests.opening import QuickLoop
from tests.test_throttle import kept_lines
from unittest import mock


class Process:
    """A process with an appetite, which takes and gives back as it is told.

    :ivar slots: Its `Slots`.
    :ivar idle: Those of idle connections.
    :ivar busy: Those of connections that are used.
    """

    def __init__(self, case, maximum):
        self.slots = Slots(
            case.directory, 'mx', maximum, clock=case.loop.time,
            chance=lambda: 0.5)
        self.slots.listen(self.take, self.give_back)
        self.idle = []
        self.busy = []
        self.wanted = 0

    def want(self, count):
        self.wanted = count
        self.take()

    def take(self):
        while self.wanted > 0:
            slot = self.slots.take()
            if slot is None:
                break
            self.busy.append(slot)
            self.wanted -= 1
        self.slots.want(self.wanted)

    def rest(self):
        """Have only idle connections."""
        self.idle, self.busy = self.idle + self.busy, []

    def give_back(self):
        while self.idle and self.slots.gives_back_idle():
            self.slots.release(self.idle.pop())

    def between_transactions(self):
        """Every agent is between two transactions."""
        for slot in list(self.busy):
            if self.slots.gives_back_busy():
                self.busy.remove(slot)
                self.slots.release(slot)
                self.want(self.wanted + 1)

    def end(self):
        for slot in self.busy + self.idle:
            self.slots.release(slot)
        self.busy, self.idle = [], []
        self.want(0)


class SlotsTestCase(unittest.TestCase):
    def setUp(self):
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = slot_directory(
            directory.name, 'mx', 'mx.example.net', 25, 'zaphod')
        self.path = Path(self.directory)
        self.lines = kept_lines(self).lines
        # There are no sockets to wait for.
        grace = mock.patch('tests.opening.GRACE', 0)
        grace.start()
        self.addCleanup(grace.stop)
        self.loop = QuickLoop()
        self.addCleanup(self.loop.close)
        self.processes = []

    def process(self, maximum=3):
        process = Process(self, maximum)
        self.processes.append(process)
        return process

    def run_steps(self, steps):
        """Run a coroutine function; all processes end with it."""
        async def main():
            try:
                await steps()
            finally:
                for process in self.processes:
                    process.end()
                    process.slots.close()
        self.loop.complete(main())

    @property
    def told(self):
        """How many processes hold or want any."""
        return len(os.listdir(self.path / 'processes'))


class TestSlots(SlotsTestCase):
    def test_never_more(self):
        async def steps():
            one, two = self.process(), self.process()
            one.want(2)
            two.want(2)
            self.assertEqual((len(one.busy), len(two.busy)), (2, 1))
            self.assertEqual(
                repr(two.slots), '<Slots 1 held, 1 wanted, of 3>')
            self.assertEqual({slot.number for slot in one.busy + two.busy},
                             {0, 1, 2})
            self.assertEqual(repr(one.busy[0]), '<Slot 0>')
            await asyncio.sleep(5)
            self.assertEqual((len(one.busy), len(two.busy)), (2, 1))
            one.end()
            await asyncio.sleep(0.2)
            self.assertEqual((len(one.busy), len(two.busy)), (0, 2))
        self.run_steps(steps)
        self.assertEqual(self.told, 0)
        self.assertEqual(self.lines, [])

    def test_its_own_ceiling(self):
        async def steps():
            one = self.process(1)
            one.want(2)
            self.assertEqual(len(one.busy), 1)
        self.run_steps(steps)

    def test_nothing_is_made_before_it_is_needed(self):
        async def steps():
            self.process()
            self.assertFalse(self.path.exists())
        self.run_steps(steps)

    def test_no_timer_without_need(self):
        async def steps():
            one = self.process()
            one.want(1)
            one.end()
            looks = []
            with mock.patch.object(one.slots, 'look', looks.append):
                await asyncio.sleep(60)
            self.assertEqual(looks, [])
        self.run_steps(steps)

    def test_idle_connection_is_given_up(self):
        async def steps():
            one, two = self.process(2), self.process(2)
            one.want(2)
            one.rest()
            await asyncio.sleep(60)
            self.assertEqual(len(one.idle), 2)
            two.want(1)
            await asyncio.sleep(0.5)
            self.assertEqual((len(one.idle), len(two.busy)), (1, 1))
        self.run_steps(steps)

    def test_more_than_the_share_is_given_back(self):
        async def steps():
            one, two = self.process(4), self.process(4)
            one.want(9)
            two.want(9)
            for _ in range(10):
                await asyncio.sleep(0.2)
                one.between_transactions()
                two.between_transactions()
            self.assertEqual((len(one.busy), len(two.busy)), (2, 2))
            # It comes back when it is not needed any more.
            two.end()
            await asyncio.sleep(0.5)
            self.assertEqual(len(one.busy), 4)
        self.run_steps(steps)

    def test_turns_at_a_single_slot(self):
        async def steps():
            one, two = self.process(1), self.process(1)
            one.want(1)
            two.want(1)
            had = []
            for _ in range(int(4 * (TURN + 1) / 0.25)):
                await asyncio.sleep(0.25)
                one.between_transactions()
                two.between_transactions()
                had.append((len(one.busy), len(two.busy)))
            self.assertLessEqual(max(map(sum, had)), 1)
            changes = [each for each, before in zip(had[1:], had)
                       if each != before and sum(each) == 1]
            self.assertGreaterEqual(len(changes), 3)
            # Hardly anything is lost in between.
            self.assertGreater(sum(map(sum, had)), 0.9 * len(had))
        self.run_steps(steps)

    def test_one_is_not_promised_to_two(self):
        # The connection is closed slowly, and no other one is closed for it.
        async def steps():
            one, two = self.process(4), self.process(4)
            one.want(4)
            two.want(1)
            await asyncio.sleep(0.5)
            self.assertTrue(one.slots.gives_back_busy())
            for _ in range(5):
                self.assertFalse(one.slots.gives_back_busy())
                self.assertFalse(one.slots.gives_back_idle())
                await asyncio.sleep(0.5)
            one.slots.release(one.busy.pop())
            await asyncio.sleep(0.5)
            self.assertEqual(len(two.busy), 1)
            self.assertFalse(one.slots.gives_back_busy())
        self.run_steps(steps)

    def test_lost_connection_rests(self):
        async def steps():
            one, two = self.process(1), self.process(1)
            one.want(1)
            one.slots.release(one.busy.pop(), is_clean=False)
            begin = self.loop.time()
            two.want(1)
            self.assertEqual(two.busy, [])
            one.want(1)
            while not two.busy:
                await asyncio.sleep(0.01)
                self.assertEqual(one.busy, [])
            self.assertGreaterEqual(self.loop.time() - begin, REST)
            self.assertLess(self.loop.time() - begin, REST + 0.2)
            # It was closed properly now.
            two.end()
            await asyncio.sleep(0.2)
            self.assertEqual(len(one.busy), 1)
        self.run_steps(steps)

    def test_a_free_one_is_better_than_one_that_rests(self):
        async def steps():
            one, two = self.process(2), self.process(2)
            one.want(1)
            one.slots.release(one.busy.pop(), is_clean=False)
            two.want(1)
            self.assertEqual([slot.number for slot in two.busy], [1])
        self.run_steps(steps)

    def test_one_that_rests_is_not_wanted_any_more(self):
        async def steps():
            one, two = self.process(1), self.process(1)
            one.want(1)
            one.slots.release(one.busy.pop(), is_clean=False)
            one.want(1)
            one.want(0)
            # Its rest goes on, and need not begin again.
            await asyncio.sleep(REST / 2)
            two.want(1)
            await asyncio.sleep(REST / 2 + 0.5)
            self.assertEqual((one.slots.held, len(two.busy)), (0, 1))
        self.run_steps(steps)

    def test_one_that_rests_is_wanted_now_and_then(self):
        # As by who may open no connection while a limit is asked for.
        async def steps():
            one, two = self.process(1), self.process(1)
            two.want(1)
            two.slots.release(two.busy.pop(), is_clean=False)
            begin = self.loop.time()
            while not one.busy:
                one.want(1)
                await asyncio.sleep(0.07)
                one.want(0)
                await asyncio.sleep(0.3)
                self.assertLess(self.loop.time() - begin, REST + 1)
        self.run_steps(steps)

    def test_a_slot_that_is_forgotten_is_free(self):
        async def steps():
            one, two = self.process(1), self.process(1)
            one.want(1)
            del one.busy[:]
            self.processes.remove(one)
            one.slots.listen(lambda: None, lambda: None)
            one.slots.close()
            gc.collect()
            two.want(1)
            await asyncio.sleep(2 * REST)
            self.assertEqual(len(two.busy), 1)
        self.run_steps(steps)


class TestCeilingChanges(SlotsTestCase):
    def test_lower(self):
        async def steps():
            old, new = self.process(5), self.process(3)
            old.want(5)
            new.want(1)
            # Of the five, the lowest numbers become free first.
            for left in (4, 3):
                old.slots.release(old.busy.pop(0))
                await asyncio.sleep(5)
                self.assertEqual(len(old.busy), left)
                self.assertEqual(new.busy, [])
            old.slots.release(old.busy.pop(0))
            await asyncio.sleep(5)
            self.assertEqual((len(old.busy), len(new.busy)), (2, 1))
        self.run_steps(steps)

    def test_higher(self):
        async def steps():
            old, new = self.process(1), self.process(3)
            old.want(2)
            new.want(5)
            self.assertEqual((len(old.busy), len(new.busy)), (1, 2))
        self.run_steps(steps)


class TestTrouble(SlotsTestCase):
    """Where the files cannot be used, each process has its own ceiling."""

    @contextmanager
    def failing(self, function, number):
        def fail(*args, **kws):
            raise OSError(number, os.strerror(number))
        with mock.patch(function, fail):
            yield

    def assertAlone(self, function, number):
        async def steps():
            one, two = self.process(2), self.process(2)
            with self.failing(function, number):
                for process in (one, two):
                    process.want(5)
                    self.assertEqual(len(process.busy), 2)
                    await asyncio.sleep(RETRY_AFTER + 1)
                    process.end()
                    process.want(1)
                    self.assertEqual(len(process.busy), 1)
                self.assertEqual([level for level, _ in self.lines],
                                 2 * ['WARNING'])
                for _, line in self.lines:
                    self.assertIn('mx: max_connections holds for this process '
                                  'alone', line)
                    self.assertIn(os.strerror(number), line)
                    self.assertIn(f'mend {self.directory}', line)
            for process in (one, two):
                process.end()
            await asyncio.sleep(RETRY_AFTER)
            one.want(2)
            two.want(2)
            self.assertEqual((len(one.busy), len(two.busy)), (2, 0))
            self.assertEqual(self.lines[2:], [(
                'INFO', 'mx: max_connections holds for all processes of this '
                'host again')])
        self.run_steps(steps)

    def test_no_locks(self):
        self.assertAlone('fcntl.flock', errno.ENOLCK)

    def test_locks_not_supported(self):
        self.assertAlone('fcntl.flock', errno.EOPNOTSUPP)

    def test_read_only(self):
        self.assertAlone('os.makedirs', errno.EROFS)

    def test_no_rights(self):
        self.assertAlone('os.makedirs', errno.EACCES)

    def test_directory_is_a_file(self):
        self.path.parent.mkdir(parents=True)
        self.path.write_text('')

        async def steps():
            one = self.process(2)
            one.want(3)
            self.assertEqual(len(one.busy), 2)
        self.run_steps(steps)
        self.assertEqual(len(self.lines), 1)

    def test_only_the_sharing_fails(self):
        # The ceiling holds; it is told once.
        async def steps():
            one, two = self.process(2), self.process(2)
            self.path.mkdir(parents=True)
            (self.path / 'processes').write_text('')
            one.want(2)
            two.want(1)
            await asyncio.sleep(9)
            self.assertEqual((len(one.busy), len(two.busy)), (2, 0))
            one.end()
            await asyncio.sleep(9)
            self.assertEqual(len(two.busy), 1)
        self.run_steps(steps)
        self.assertEqual(len(self.lines), 2)
        for _, line in self.lines:
            self.assertIn('may not share the connections evenly', line)

    def test_no_descriptors(self):
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)

        async def steps():
            one = self.process()
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
            try:
                with self.assertRaises(UnavailableHere) as caught:
                    one.slots.take()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            self.assertIn('Too many open files', str(caught.exception))
            # It was none of the file system's fault.
            one.want(1)
            self.assertEqual(len(one.busy), 1)
        self.run_steps(steps)
        self.assertEqual(self.lines, [])

    def test_full_disk(self):
        # Nothing can be written into a file, but it can be locked.
        async def steps():
            one, two = self.process(1), self.process(1)
            with self.failing('os.pwrite', errno.ENOSPC):
                one.want(1)
                two.want(1)
                self.assertEqual((len(one.busy), len(two.busy)), (1, 0))
        self.run_steps(steps)

    def test_strangers_files(self):
        async def steps():
            one, two = self.process(1), self.process(1)
            (self.path / 'processes').mkdir(parents=True)
            (self.path / 'processes' / 'dead').write_bytes(b'\xff')
            (self.path / 'README').write_text('')
            with open(self.path / 'processes' / 'odd', 'wb') as fp:
                fp.write(b'no numbers')
                fp.flush()
                fcntl.flock(fp, fcntl.LOCK_EX)
                one.want(1)
                two.want(1)
                self.assertEqual((len(one.busy), len(two.busy)), (1, 0))
                self.assertEqual(self.told, 3)
        self.run_steps(steps)
        self.assertEqual(self.lines, [])


class TestDirectory(unittest.TestCase):
    def test_each_relay_has_its_own(self):
        values = 'mx', 'mx.example.net', 25, 'zaphod'
        others = 'mx2', 'mx.example.com', 26, 'ford'
        directory = slot_directory('/var', *values)
        self.assertEqual(
            os.path.dirname(directory), '/var/mta_pool/slots')
        for number, other in enumerate(others):
            changed = [*values]
            changed[number] = other
            self.assertNotEqual(slot_directory('/var', *changed), directory)
        self.assertNotIn('zaphod', directory)
        self.assertEqual(slot_directory('/var', *values), directory)
