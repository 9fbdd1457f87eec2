# SPDX-License-Identifier: GPL-3.0-or-later
"""Runners that are killed while they send: what was in flight, and no more,
may arrive twice.
"""

import os
import signal
import itertools
import threading

from pathlib import Path
from tests.fault.rounds import BY_BDAT, BY_DATA, extra, RoundsTestCase
from tests.scripted import HANG, Scripted
from tests.site_case import SiteTestCase


CONNECTIONS = 4
DEPTH = 8
BY_CHUNKS = 'PIPELINING', 'CHUNKING', 'SIZE 0', '8BITMIME'
GOES_ON = 'a delivery that was broken off goes on'


class TestInstants(RoundsTestCase):
    """SIGKILL at an instant of its own in each of 20 posts."""

    def go(self, most, each, **options):
        server = self.use(Scripted(**options))
        site = self.site(
            server, members=1000, max_delivery_threads=CONNECTIONS,
            settings={'delivery': {'pipeline_depth': DEPTH}})

        def disturb(runner, number):
            self.assertEqual(runner.kill(), -9)
        copies = self.rounds(site, server, disturb, 20, each)
        self.assertNobodyMissed(site, copies)
        twice = [extra(times) for times in copies]
        print('copies too many:', *twice)
        self.assertLessEqual(max(twice), most)
        # Nobody has got a third copy: once killed, once in flight.
        self.assertLessEqual(
            max(max(times.values()) for times in copies), 2)
        # Most of them were killed in the middle.
        self.assertGreater(site.log('smtp.log').count(GOES_ON), 10)

    def test_chunking(self):
        self.go(CONNECTIONS * DEPTH, BY_BDAT, extensions=BY_CHUNKS)

    def test_no_chunking(self):
        self.go(CONNECTIONS, BY_DATA)


class TestAgainAndAgain(SiteTestCase):
    """SIGKILL five times in a row on one post."""

    def kill_when(self, site, is_time, what):
        runner = site.start_runner()
        site.wait_for(is_time, what)
        runner.kill()
        # Nothing has been put aside.
        self.assertLessEqual(set(site.waiting()), {'out'})
        # Mailman leaves a half-made entry there for ever.
        for path in site.queue('out').files:
            if path.suffix == '.tmp':
                path.unlink()

    def finish(self, site, server, kills):
        site.run()
        self.assertEqual(sorted(set(server.served)), sorted(site.members))
        self.assertLessEqual(
            len(server.served) - len(site.members), CONNECTIONS * kills)
        self.assertEqual(site.waiting(), {})
        self.assertEqual(site.bounced(), [])
        self.assertQuiet(site)

    def test_while_it_sends(self):
        server = self.use(Scripted(delay=0.001))
        site = self.site(
            server, members=1000, max_delivery_threads=CONNECTIONS)
        site.post(verp=True)
        for number in range(5):
            begin = len(server.accepted)
            self.kill_when(
                site, lambda: len(server.accepted) >= begin + 40,
                'some progress')
        self.finish(site, server, 5)

    def test_while_it_goes_on(self):
        # In the moment when the runner says that it goes on with the post,
        # and puts the rest back into the queue; or else, where it was killed
        # too early for the post to be sent since, as soon as it is.
        server = self.use(Scripted(delay=0.001))
        site = self.site(
            server, members=1000, max_delivery_threads=CONNECTIONS)
        site.post(verp=True)
        for _ in range(10):
            begin = len(server.accepted)
            before = site.log('smtp.log').count(GOES_ON)
            self.kill_when(
                site,
                lambda: (site.log('smtp.log').count(GOES_ON) > before or
                         len(server.accepted) >= begin + 10),
                'the replay, or some progress')
        self.assertGreater(site.log('smtp.log').count(GOES_ON), 4)
        self.finish(site, server, 10)


class TestSlice(SiteTestCase):
    """One of two runners of a master is killed with a post in hand."""

    def runners(self, master):
        """Return the process ids of the runners, by their slices."""
        found = {}
        path = Path(f'/proc/{master.pid}/task/{master.pid}/children')
        for number in path.read_text().split():
            command = Path(f'/proc/{number}/cmdline').read_text()
            spec = command.rstrip('\0').rpartition('--runner=')[2]
            if spec.count(':') == 2:
                found[int(spec.split(':')[1])] = int(number)
        return found

    def test_the_same_slice_goes_on(self):
        goes_on = threading.Event()
        self.addCleanup(goes_on.set)

        def script(command, session):
            if len(server.accepted) >= 20:
                goes_on.wait()
        server = self.use(Scripted(script))
        site = self.site(
            server, members=60, max_delivery_threads=CONNECTIONS,
            extra='[runner.out]\ninstances: 2\n')
        master = site.start_master()
        site.wait_for(lambda: site.log('mailman.log').count(
            'out runner started') == 2, 'the runners')
        path = site.post(verp=True)
        server.wait_for(lambda server: len(server.accepted) >= 20)
        number = int(path.stem.partition('+')[2][0], 16) // 8
        before = self.runners(master)
        os.kill(before[number], signal.SIGKILL)
        site.wait_for(lambda: self.runners(master).get(number) not in (
            None, before[number]), 'another runner')
        goes_on.set()
        site.wait_for(lambda: site.is_empty('out'), 'an empty queue')
        self.assertEqual(
            self.runners(master)[1 - number], before[1 - number])
        self.assertEqual(site.log('smtp.log').count(GOES_ON), 1)
        self.assertEqual(set(server.served), set(site.members))
        self.assertLessEqual(
            len(server.served) - len(site.members), CONNECTIONS)
        self.assertQuiet(site)


class TestDeadly(SiteTestCase):
    """A post that kills its runner, whatever runner that is."""

    def site_for(self, kills):
        """Return a site and its server.

        :param kills: Called with the number of a connection, from 1, and how
            many messages were accepted: is the runner killed now?
        """
        number = itertools.count(1)
        self.tries = 0

        def script(command, session):
            if command == 'CONNECT':
                self.tries = next(number)
            if command.startswith('MAIL') and kills(
                    self.tries, len(server.accepted)):
                runners[-1].signal(signal.SIGKILL)
                return HANG
        runners = []
        server = self.use(Scripted(script, extensions=()))
        site = self.site(server, members=60, max_delivery_threads=1)
        site.post(verp=True)
        return site, server, runners

    def start(self, site, runners, times):
        """Start that many runners, one after the other, as a master does."""
        for _ in range(times):
            runners.append(site.start_runner())
            site.wait_for(
                lambda: not runners[-1].running or site.is_done('out'),
                'the end of the runner')
            if runners[-1].running:
                runners[-1].stop()

    def assertKills(self, runners, times):
        self.assertEqual(
            sum(runner.status == -signal.SIGKILL for runner in runners), times)

    def test_three_times(self):
        # Like stock; Mailman's master starts a runner ten times at most.
        site, server, runners = self.site_for(lambda number, accepted: True)
        self.start(site, runners, 6)
        self.assertKills(runners, 3)
        self.assertEachOnce(site, (), ['bad'])

    def test_twice(self):
        site, server, runners = self.site_for(
            lambda number, accepted: number <= 2)
        self.start(site, runners, 3)
        self.assertEachOnce(site, server.served)

    def test_progress_counts_afresh(self):
        # Each delivery is killed when it has served ten more.
        site, server, runners = self.site_for(
            lambda number, accepted: accepted >= 10 * number)
        self.start(site, runners, 6)
        self.assertKills(runners, 5)
        self.assertEqual(set(server.served), set(site.members))
        self.assertLessEqual(len(server.served), 60 + 5)
        self.assertEqual(site.waiting(), {})

    def test_three_times_after_progress(self):
        site, server, runners = self.site_for(
            lambda number, accepted: accepted >= 10)
        self.start(site, runners, 8)
        # Once when it had served these, and three times in vain.
        self.assertKills(runners, 4)
        self.assertEqual(len(server.served), 10)
        self.assertEqual(list(site.waiting()), ['bad'])
        self.assertGreaterEqual(
            set(site.waiting()['bad']), set(site.members) - set(server.served))
