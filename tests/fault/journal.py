# SPDX-License-Identifier: GPL-3.0-or-later
"""What is on disk while a post goes out, and what is left of it."""

import os
import stat
import time
import errno
import shutil
import signal
import resource
import unittest
import threading
import subprocess

from itertools import count
from mailman_mta_pool.journal.records import served_line, Settled
from tests.fault.rounds import extra, numbered, RoundsTestCase
from tests.fault.syscalls import FLOCK, start_without
from tests.scripted import HANG, Scripted
from tests.site_case import SiteTestCase


NO_JOURNAL = 'There can be no journal in'
NOT_WRITTEN = 'cannot be written, and the delivery goes on without it'
GOES_ON = 'a delivery that was broken off goes on'
DAY = 86400


def directory_of(site):
    return site.var / 'mta_pool' / 'journal'


def journals(site):
    directory = directory_of(site)
    return sorted(directory.iterdir()) if directory.is_dir() else []


def may_mount():
    return os.geteuid() == 0 and subprocess.run(
        ['unshare', '-m', 'mount', '-t', 'tmpfs', 'none', '/mnt'],
        stderr=subprocess.DEVNULL).returncode == 0


class TestFile(SiteTestCase):
    """Where it is, who may read it, what it is good for, when it goes."""

    def stopped(self, **delivery):
        """Return a site, its server and a runner that can get no further."""
        begun, numbers = [], count(1)

        def script(command, session):
            if command.startswith('MAIL'):
                begun.append(session.number)
                if next(numbers) > 20:
                    return HANG
        server = self.use(Scripted(script))
        site = self.site(
            server, members=60, max_delivery_threads=2,
            settings={'delivery': {'stop_timeout': '1s', **delivery}})
        site.post(verp=True)
        runner = site.start_runner()
        server.wait_for(lambda server: len(begun) == 22)
        if 'no' not in delivery.values():
            path, = journals(site)
            site.wait_for(
                lambda: len(Settled(path.read_bytes()).served) == 20,
                'the last line')
        return site, server, runner

    def go_on(self, site, server, **delivery):
        """Let a new runner deliver to another server what is left."""
        mended = self.use(Scripted())
        site.set_up(mended, settings={'delivery': delivery})
        site.run()
        self.assertEachOnce(site, server.served + mended.served)
        self.assertEqual(journals(site), [])
        self.assertQuiet(site)

    def test_private_and_removed(self):
        site, server, runner = self.stopped()
        path, = journals(site)
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        self.assertEqual(stat.S_IMODE(path.parent.stat().st_mode), 0o700)
        # Its name is that of the queue entry.
        entry, = site.queue('out').entries
        self.assertEqual(path.name, entry.path.stem)
        runner.kill()
        self.go_on(site, server)

    def test_removed_while_the_runner_is_idle(self):
        server = self.use(Scripted())
        site = self.site(server)
        site.post(verp=True)
        with site.runner():
            site.wait_until_empty()
            site.wait_for(lambda: not journals(site), 'the removal')
        self.assertEachOnce(site, server.served)

    def test_sweep(self):
        # Those of entries that have gone, but not the one of an entry that
        # has waited for Mailman for a week.
        site, server, runner = self.stopped()
        runner.kill()
        path, = journals(site)
        old = time.time() - 7 * DAY
        for name in ('1000000000.0+' + 'a' * 40, '1000000001.0+' + 'b' * 40):
            (directory_of(site) / name).write_bytes(
                served_line(['anne@example.com']))
        for path in journals(site):
            os.utime(path, (old, old))
        self.go_on(site, server)

    def test_power(self):
        site, server, runner = self.stopped(journal='power')
        runner.kill()
        self.go_on(site, server, journal='power')

    def test_no(self):
        site, server, runner = self.stopped(journal='no')
        self.assertFalse(directory_of(site).exists())
        self.assertEqual(runner.stop(), signal.SIGTERM)
        self.go_on(site, server, journal='no')

    def test_torn(self):
        site, server, runner = self.stopped()
        runner.kill()
        path, = journals(site)
        # After the last line there is room reserved for more.
        path.write_bytes(path.read_bytes().rstrip(b'\0')[:-9])
        mended = self.use(Scripted())
        site.set_up(mended)
        site.run()
        served = server.served + mended.served
        self.assertEqual(set(served), set(site.members))
        # The line that was torn was about one recipient.
        self.assertEqual(len(served), len(site.members) + 1)
        self.assertQuiet(site)


class TestEntries(RoundsTestCase):
    """Each queue entry has its own, until it is gone."""

    def test_equal_posts(self):
        server = self.use(Scripted(delay=0.001))
        site = self.site(server, members=200)
        for _ in range(2):
            site.post(numbered(1), verp=True)
        runner = site.start_runner()
        server.wait_for(lambda server: len(server.accepted) >= 250)
        runner.kill()
        site.run()
        copies, = self.copies(server, site, [1])
        self.assertEqual(sorted(copies), sorted(site.members))
        self.assertGreaterEqual(min(copies.values()), 2)
        self.assertLessEqual(extra(copies) - len(site.members), 4)

    def crash(self, site, restorable, disturb):
        """Simulate a crash in the last moment of a delivery.

        The entry is there again as if it had not been taken away.

        :param restorable: An event; the server waits for it.
        """
        bak = site.post(verp=True).with_suffix('.bak')
        runner = site.start_runner()
        site.wait_for(lambda: journals(site), 'a journal')
        path, = journals(site)
        shutil.copy(bak, site.directory / 'entry')
        # It is still being written to.
        os.link(path, site.directory / 'journal')
        restorable.set()
        disturb(runner)
        runner.stop()
        self.assertFalse(bak.exists() or path.exists())
        os.rename(site.directory / 'entry', bak)
        os.rename(site.directory / 'journal', path)

    def test_crash_after_putting_back(self):
        restorable = threading.Event()

        def script(command, session):
            restorable.wait(20)
            if len(server.accepted) >= 20:
                quick.wait(0.05)
        quick = threading.Event()
        server = self.use(Scripted(script))
        site = self.site(server, members=200)

        def disturb(runner):
            server.wait_for(lambda server: len(server.accepted) > 20)
        self.crash(site, restorable, disturb)
        self.assertGreater(len(site.waiting()['out']), len(site.members))
        quick.set()
        site.run()
        self.assertEachOnce(site, server.served)
        self.assertEqual(journals(site), [])

    def test_crash_after_the_runner_has_queued(self):
        restorable = threading.Event()

        def script(command, session):
            restorable.wait(20)
            if command.startswith('RCPT') and '1@' in command:
                return '450 4.2.1 Not now'
        server = self.use(Scripted(script))
        site = self.site(server, members=100)
        self.crash(site, restorable, lambda runner: site.wait_until_empty())
        site.run()
        self.assertEachOnce(site, server.served, waiting=['retry'])
        self.assertEqual(len(site.waiting()['retry']), 10)
        self.assertIn(GOES_ON, site.log('smtp.log'))

    def test_second_runner(self):
        # It finds the entry that the first one is working on, and takes it
        # for left over from a crash.
        go = threading.Event()

        def script(command, session):
            if len(server.accepted) >= 20:
                go.wait(30)
        server = self.use(Scripted(script))
        site = self.site(server, members=60)
        site.post(verp=True)
        site.start_runner()
        server.wait_for(lambda server: len(server.accepted) >= 20)
        site.start_runner()
        site.wait_for(
            lambda: 'Another process is delivering' in site.log('smtp.log'),
            'the second runner')
        go.set()
        site.wait_until_empty()
        self.assertEachOnce(site, server.served)


class TestDisk(SiteTestCase):
    """No room, or no leave: the delivery goes on, and the log says it once."""

    def assertOneLine(self, site, text):
        self.assertEqual(site.log('smtp.log').count(text), 1)

    def test_file_size_limit(self):
        server = self.use(Scripted())
        site = self.site(server, members=1000)
        runner = site.start_runner()
        # A list's first post writes to the database.
        site.post(verp=True)
        site.wait_until_empty()
        # Nothing else that it writes now is that long.
        resource.prlimit(runner.pid, resource.RLIMIT_FSIZE, (8192, 8192))
        site.post(verp=True)
        site.wait_until_empty()
        runner.stop()
        self.assertEqual(sorted(server.served), sorted(site.members * 2))
        self.assertEqual(site.waiting(), {})
        self.assertOneLine(site, NOT_WRITTEN)
        self.assertEqual(journals(site), [])
        self.assertQuiet(site)

    def mounted(self, site, options):
        path = site.var / 'mta_pool'
        path.mkdir(parents=True)
        subprocess.run(['mount', '-t', 'tmpfs', '-o', options, 'none',
                        str(path)], check=True)
        self.resources.callback(
            subprocess.run, ['umount', '--lazy', str(path)], check=True)

    def test_full(self):
        if not may_mount():
            self.skipTest('may not mount a small file system')
        server = self.use(Scripted())
        site = self.site(server, members=1000)
        self.mounted(site, 'size=16k')
        site.run({'verp': True}, {'verp': True})
        self.assertEqual(sorted(server.served), sorted(site.members * 2))
        self.assertEqual(site.waiting(), {})
        # Once for each post.
        self.assertEqual(site.log('smtp.log').count(NOT_WRITTEN), 2)
        self.assertEqual(journals(site), [])
        self.assertQuiet(site)

    def test_read_only(self):
        server = self.use(Scripted())
        site = self.site(server)
        if may_mount():
            self.mounted(site, 'ro')
        elif os.geteuid() == 0:
            self.skipTest('root may write anywhere')
        else:
            path = site.var / 'mta_pool'
            path.mkdir(parents=True)
            path.chmod(0o500)
        site.run({'verp': True})
        self.assertEachOnce(site, server.served)
        self.assertOneLine(site, NO_JOURNAL)
        self.assertQuiet(site)

    @unittest.skipIf(FLOCK is None, 'do not know the number of flock(2)')
    def test_no_locks(self):
        # As on NFS, where nobody locks.
        server = self.use(Scripted())
        site = self.site(server)
        runner = start_without(FLOCK, errno.ENOLCK, site.start_runner)

        def post(number):
            site.post(numbered(number), verp=True)
            site.wait_until_empty()
            site.wait_for(lambda: not journals(site), 'the removal')
            return len(os.listdir(f'/proc/{runner.pid}/fd'))
        before = post(0)
        for number in range(1, 6):
            self.assertEqual(post(number), before)
        runner.stop()
        self.assertEqual(sorted(server.served), sorted(site.members * 6))
        # Once for each post.
        self.assertEqual(site.log('smtp.log').count(NOT_WRITTEN), 6)
        self.assertQuiet(site)

    @unittest.skipIf(FLOCK is None, 'do not know the number of flock(2)')
    def test_no_locks_any_more(self):
        # What is known is known.
        server = self.use(Scripted())
        site = self.site(server)
        path = site.post(verp=True)
        directory_of(site).mkdir(parents=True)
        (directory_of(site) / path.stem).write_bytes(
            served_line(site.members[:5]))
        start_without(FLOCK, errno.ENOLCK, site.start_runner)
        site.wait_until_empty()
        self.assertEqual(sorted(server.served), sorted(site.members[5:]))
        site.wait_for(lambda: not journals(site), 'the removal')
        self.assertQuiet(site)
