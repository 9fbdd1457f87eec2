# SPDX-License-Identifier: GPL-3.0-or-later
"""Queue entries for which there is no room, that go into another queue, or
that cannot be read.
"""

import os
import mmap
import signal
import sqlite3
import threading
import subprocess

from contextlib import suppress
from itertools import count
from mailman_mta_pool.journal.records import begun_line, Settled
from tests.fault.journal import GOES_ON, journals, may_mount
from tests.fault.rounds import numbered
from tests.scripted import HANG, Scripted
from tests.site_case import SiteTestCase


PAGE = mmap.PAGESIZE
NO_ROOM = 'cannot be put back into the queue'
# What raises when it is unpickled, by what it raises.
UNREADABLE = {
    'AttributeError': b'cmailman\nNoSuchThing\n.',
    'EOFError': b'',
    'ModuleNotFoundError': b'cno_such_module\nThing\n.',
    'UnicodeDecodeError': b'X\x01\x00\x00\x00\xff.',
    'UnpicklingError': b'nonsense',
    'ValueError': b'I12x\n.',
    'no message': b'I1\n.I2\n.',
    }


def wait_for_served(site, journal, number):
    site.wait_for(lambda: len(Settled(
        journal.read_bytes()).served) == number, 'the last line')


class QueuesTestCase(SiteTestCase):
    def moved_back(self, site):
        """Move what is in the `bad` queue to `out`, as an operator does."""
        path, = site.queue('bad').files
        self.assertEqual(path.suffix, '.psv')
        os.rename(path, site.var / 'queue' / 'out' / f'{path.stem}.pck')


class TestFullDisk(QueuesTestCase):
    """The disk of the queues is full when some have got the post."""

    def setUp(self):
        super().setUp()
        if not may_mount():
            self.skipTest('may not mount a small file system')
        self.quick = threading.Event()

    def slow(self, command, session):
        self.quick.wait(0.03)

    def posted(self, script, members=100, one_disk=False, **delivery):
        """Return a site with a small disk and a post."""
        self.server = self.use(Scripted(script))
        site = self.site(
            self.server, members=members, max_delivery_threads=4,
            settings={'delivery': delivery})
        self.disk = site.var / 'queue'
        self.disk.mkdir()
        subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=2m', 'none',
                        str(self.disk)], check=True)
        self.resources.callback(
            subprocess.run, ['umount', '--lazy', str(self.disk)], check=True)
        if one_disk:
            (self.disk / 'mta_pool').mkdir()
            (site.var / 'mta_pool').symlink_to(self.disk / 'mta_pool')
        site.post(verp=True)
        return site

    def begin(self, script, **options):
        """Return such a site, and a runner that has just begun."""
        site = self.posted(script, **options)
        runner = site.start_runner()
        self.server.wait_for(lambda server: len(server.accepted) >= 8)
        return site, runner

    def fill_up(self, but=0):
        with open(self.disk / 'full', 'wb', buffering=0) as fp:
            with suppress(OSError):
                while True:
                    fp.write(bytes(PAGE))
            fp.truncate(fp.tell() - but)

    def make_room(self):
        (self.disk / 'full').unlink()

    def wait_for_no_room(self, site, times=1):
        site.wait_for(lambda: site.log('smtp.log').count(NO_ROOM) >= times,
                      'a failure')

    def assertTidy(self, site):
        """Nothing is left that is of no use to anybody."""
        self.assertEqual(
            [path for path in self.disk.glob('*/*')
             if path.parent.name not in ('mta_pool', 'bad')], [])
        self.assertEqual(journals(site), [])

    def finish(self, site):
        """Let a new runner serve those who are left."""
        mended = self.use(Scripted())
        site.set_up(mended)
        site.run()
        self.assertEachOnce(site, self.server.served + mended.served)
        self.assertTidy(site)

    def test_time_slice(self):
        site, runner = self.begin(self.slow, time_slice='1s')
        self.fill_up()
        self.wait_for_no_room(site, 2)
        self.quick.set()
        site.wait_until_empty()
        runner.stop()
        self.assertEachOnce(site, self.server.served)
        self.assertTidy(site)
        self.assertQuiet(site)

    def test_time_slice_and_room_again(self):
        site, runner = self.begin(self.slow, time_slice='1s')
        first, = site.queue('out').files
        self.fill_up()
        self.wait_for_no_room(site)
        self.make_room()
        # The rest is in an entry of its own at last.
        site.wait_for(lambda: site.queue('out').files != [first],
                      'another entry')
        self.quick.set()
        site.wait_until_empty()
        runner.stop()
        self.assertEachOnce(site, self.server.served)
        self.assertTidy(site)
        self.assertQuiet(site)

    def test_replay(self):
        numbers = count(1)

        def script(command, session):
            if command.startswith('MAIL') and next(numbers) > 20:
                return HANG
        site, runner = self.begin(script, members=500)
        journal, = journals(site)
        wait_for_served(site, journal, 20)
        runner.kill()
        # Mailman itself takes a page for what it adds to the entry.
        self.fill_up(but=PAGE)
        mended = self.use(Scripted())
        site.set_up(mended)
        site.run()
        self.assertIn(NO_ROOM, site.log('smtp.log'))
        self.assertEachOnce(site, self.server.served + mended.served)
        self.assertTidy(site)
        self.assertQuiet(site)

    def test_split(self):
        site = self.posted(lambda command, session: None, split=30)
        self.fill_up()
        site.run()
        self.assertEachOnce(site, self.server.served)
        self.assertIn(NO_ROOM, site.log('smtp.log'))
        self.assertTidy(site)
        self.assertQuiet(site)

    def test_sigterm(self):
        site, runner = self.begin(self.slow)
        self.fill_up()
        entry, = site.queue('out').entries
        runner.signal(signal.SIGTERM)
        self.assertEqual(runner.wait(40), signal.SIGTERM)
        # It is the same entry, with everybody, and its journal.
        self.assertEqual(site.waiting(), {'out': sorted(site.members)})
        journal, = journals(site)
        self.assertEqual(journal.name, entry.path.stem)
        self.make_room()
        self.finish(site)
        self.assertQuiet(site)

    def nothing_written(self, one_disk=False):
        """Those who are to be tried again can be put nowhere."""
        def script(command, session):
            if command.startswith('RCPT') and '1@' in command:
                return '450 4.2.1 Not now'
            self.slow(command, session)
        site, runner = self.begin(script, one_disk=one_disk)
        self.fill_up()
        self.quick.set()
        site.wait_for(lambda: site.queue('bad').files, 'the end')
        site.wait_until_empty()
        self.assertEqual(site.waiting(), {'bad': sorted(site.members)})
        journal, = journals(site)
        self.assertEqual(
            Settled(journal.read_bytes()).served, set(self.server.served))
        self.assertEqual(len(self.server.served), 90)
        return site, runner

    def test_nothing_can_be_written(self):
        for one_disk in (False, True):
            with self.subTest(one_disk=one_disk):
                site, runner = self.nothing_written(one_disk)
                runner.stop()
                self.make_room()
                self.moved_back(site)
                for path in self.disk.glob('*/*.tmp'):
                    # Mailman leaves these there for ever.
                    path.unlink()
                self.finish(site)

    def test_moved_back_while_the_runner_is_there(self):
        site, runner = self.nothing_written()
        self.make_room()
        before = len(self.server.said('RCPT'))
        self.moved_back(site)
        site.wait_until_empty()
        self.assertEachOnce(site, self.server.served, ['retry'])
        self.assertEqual(len(site.waiting()['retry']), 10)
        # Nobody else was tried.
        self.assertEqual(len(self.server.said('RCPT')), before + 10)
        site.wait_for(lambda: not journals(site), 'the removal')


class TestAfterACrash(QueuesTestCase):
    """The post was served to some when the runner was killed."""

    def setUp(self):
        super().setUp()

        def script(command, session):
            if len(self.server.accepted) >= 20:
                return HANG
        self.server = self.use(Scripted(script))
        self.crashed = self.site(
            self.server, members=60, max_delivery_threads=1)
        self.crashed.post(verp=True)
        runner = self.crashed.start_runner()
        self.server.wait_for(lambda server: len(server.accepted) >= 20)
        self.journal, = journals(self.crashed)
        wait_for_served(self.crashed, self.journal, 20)
        runner.kill()
        self.mended = self.use(Scripted())
        self.crashed.set_up(self.mended)

    def finish(self):
        self.crashed.run()
        self.assertEachOnce(
            self.crashed, self.server.served + self.mended.served)
        self.assertEqual(journals(self.crashed), [])

    def statement(self, sql):
        database = sqlite3.connect(self.crashed.var / 'data' / 'mailman.db')
        database.execute(sql)
        database.commit()
        database.close()

    def handing_over(self):
        """It was about to hand over some of the others to another entry."""
        handed = [name for name in self.crashed.members
                  if name not in self.server.served][:10]
        self.journal.write_bytes(
            self.journal.read_bytes().rstrip(b'\0') +
            begun_line('0123', handed))
        return handed

    def test_shunted_and_unshunted(self):
        # The runner comes to grief before it calls us.
        self.statement('ALTER TABLE member RENAME TO gone')
        self.crashed.run()
        self.assertEqual(
            self.crashed.waiting(), {'shunt': sorted(self.crashed.members)})
        # Other runners start meanwhile, and look for what is of no use.
        self.statement('ALTER TABLE gone RENAME TO member')
        self.crashed.run({'recipients': set(self.crashed.members[:1])})
        self.assertEqual(self.mended.served, self.crashed.members[:1])
        self.assertEqual(journals(self.crashed), [self.journal])
        self.mended.accepted.clear()
        self.crashed.mailman('unshunt')
        self.finish()
        self.assertIn(GOES_ON, self.crashed.log('smtp.log'))

    def test_discarded(self):
        self.statement('ALTER TABLE member RENAME TO gone')
        self.crashed.run()
        self.statement('ALTER TABLE gone RENAME TO member')
        self.crashed.mailman('unshunt', '--discard')
        self.crashed.run({'content': numbered(1)})
        self.assertEachOnce(self.crashed, self.mended.served)
        self.assertEqual(journals(self.crashed), [])

    def test_entries_that_cannot_be_read(self):
        # Some may be in another entry, which is looked for in the queues.
        handed = self.handing_over()
        self.crashed.post(
            recipients=handed, queue='retry', mta_pool_token='0123')
        paths = []
        for queue in ('shunt', 'retry', 'bad'):
            directory = self.crashed.var / 'queue' / queue
            directory.mkdir(parents=True, exist_ok=True)
            for number, octets in enumerate(UNREADABLE.values()):
                paths.append(directory / f'1.{number}+{number:040x}.pck')
                paths[-1].write_bytes(octets)
        self.crashed.run()
        for path in paths:
            self.assertIn(str(path), self.crashed.log('smtp.log'))
            path.unlink()
        self.assertEachOnce(
            self.crashed, self.server.served + self.mended.served, ['retry'])
        self.assertEqual(self.crashed.waiting()['retry'], sorted(handed))
        self.assertEqual(journals(self.crashed), [])
        self.assertQuiet(self.crashed)

    def test_queue_that_cannot_be_read(self):
        # Whatever it is, it goes up, but not for those who were served.
        self.handing_over()
        path, = self.crashed.queue('out').files
        waiting = self.crashed.directory / path.name
        path.rename(waiting)
        started = self.crashed.log('mailman.log').count('out runner started')
        with self.crashed.runner():
            self.crashed.wait_for(
                lambda: self.crashed.log('mailman.log').count(
                    'out runner started') > started, 'the runner')
            retry = self.crashed.var / 'queue' / 'retry'
            retry.rmdir()
            retry.touch()
            waiting.rename(path.with_suffix('.pck'))
            self.crashed.wait_until_empty()
            retry.unlink()
            retry.mkdir()
        self.assertEachOnce(self.crashed, self.server.served, ['shunt'])
        self.crashed.mailman('unshunt')
        self.finish()
