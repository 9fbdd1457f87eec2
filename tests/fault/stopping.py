# SPDX-License-Identifier: GPL-3.0-or-later
"""Runners that are told to stop while they send."""

import signal
import threading

from tests.fault.rounds import extra, RoundsTestCase
from tests.scripted import HANG, Scripted
from tests.site_case import SiteTestCase


# How long a runner may take to stop; it is killed by then, and the test fails.
LONG = 40


def told(*signals, gap=0.0):
    """Let these signals disturb a round.

    :param signals: What the runner gets.
    :param gap: How many seconds lie between them.
    """
    pause = threading.Event()

    def disturb(runner, number):
        for signum in signals:
            runner.signal(signum)
            # It is the gap itself that is tried.
            pause.wait(gap)
        # It is a negative one if the second signal came when Python had taken
        # the handlers away already.
        status = abs(runner.wait(LONG))
        assert status in signals, status
    return disturb


class TestSignals(RoundsTestCase):
    """Nobody gets two copies, and nothing is shunted."""

    def go(self, disturb, times, members=1000):
        server = self.use(Scripted())
        site = self.site(server, members=members)
        copies = self.rounds(site, server, disturb, times)
        self.assertEqual([extra(times) for times in copies], [0] * times)
        self.assertNobodyMissed(site, copies)
        return site

    def test_sigterm_at_20_instants(self):
        site = self.go(told(signal.SIGTERM), 20)
        # Most of them hit the post in its middle.
        self.assertGreater(site.log('mailman.log').count(
            f'Stopped sending because of signal {signal.SIGTERM:d}'), 10)

    def test_two_sigterms(self):
        gaps = [0, 0.001, 0.003, 0.01, 0.02, 0.03]

        def disturb(runner, number):
            told(signal.SIGTERM, signal.SIGTERM, gap=gaps[number])(
                runner, number)
        self.go(disturb, len(gaps))

    def test_other_signals(self):
        several = [(signal.SIGINT,), (signal.SIGUSR1,),
                   (signal.SIGUSR1, signal.SIGTERM)]

        def disturb(runner, number):
            told(*several[number])(runner, number)
        self.go(disturb, len(several))


class TestStopTimeout(SiteTestCase):
    """What is in flight and is not answered, is in doubt."""

    def test_stall_at_the_dot(self):
        stalled = []

        def script(command, session):
            # Four connections.
            if command == '.' and len(server.accepted) >= 40:
                stalled.extend(session.recipients)
                return HANG
        server = self.use(Scripted(script))
        site = self.site(server, members=200, settings={
            'delivery': {'stop_timeout': '1s'}})
        site.post(verp=True)
        runner = site.start_runner()
        server.wait_for(lambda server: len(stalled) == 4)
        runner.signal(signal.SIGTERM)
        self.assertEqual(runner.wait(LONG), signal.SIGTERM)
        self.assertEachOnce(site, server.served, waiting=('out', 'retry'))
        self.assertEqual(site.waiting()['retry'], sorted(stalled))
        self.assertIn('4 recipients are tried again later, though they may '
                      'have got it', site.log('smtp.log'))
        mended = self.use(Scripted())
        site.set_up(mended)
        site.retry()
        site.run()
        self.assertEachOnce(site, server.served + mended.served)
        self.assertQuiet(site)


class TestMaster(SiteTestCase):
    """As administrators do it."""

    def test_restart_and_stop(self):
        quick = threading.Event()

        def script(command, session):
            # It is slow until somebody says otherwise.
            quick.wait(0.05)
        server = self.use(Scripted(script))
        site = self.site(server, members=1000)
        site.post(verp=True)
        master = site.start_master()
        server.wait_for(lambda server: len(server.accepted) >= 10)
        self.assertIn('Restarting', site.mailman('restart'))
        site.wait_for(
            lambda: site.log('mailman.log').count('out runner started') == 2,
            'the restart')
        # The runner that has been started goes on with the post.
        before = len(server.accepted)
        server.wait_for(lambda server: len(server.accepted) >= before + 10)
        site.mailman('stop')
        self.assertEqual(master.wait(LONG), 0)
        self.assertEachOnce(site, server.served, waiting=['out'])
        self.assertGreater(len(site.waiting()['out']), 100)
        self.assertEqual(
            site.log('mailman.log').count('Stopped sending because'), 2)
        quick.set()
        site.run()
        self.assertEachOnce(site, server.served)
        self.assertQuiet(site)
