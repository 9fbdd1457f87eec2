# SPDX-License-Identifier: GPL-3.0-or-later
"""Signals in the middle of a delivery, and turns, with a clock of our own."""

import signal
import unittest

from contextlib import contextmanager
from mailman.interfaces.runner import RunnerInterrupt
from mailman_mta_pool.interfaces import ITurn
from mailman_mta_pool.runner.signals import (
    signals_held_back,
    stand_guard,
    Turn,
)
from mailman_mta_pool.settings import DeliverySettings
from zope.interface.verify import verifyObject


class Runner:
    """What matters of `mailman.core.runner.Runner`."""

    def __init__(self, one_file=lambda runner: None,
                 snooze=lambda runner: None):
        self.one_file = one_file
        self.snooze = snooze
        self.caught = []
        self.interrupted = False

    def signal_handler(self, signum, frame):
        self.caught.append(signum)
        raise RunnerInterrupt

    def run(self):
        try:
            self._one_iteration()
            self.snooze(self)
        except RunnerInterrupt:
            self.interrupted = True

    def _one_iteration(self):
        self.one_file(self)


class TestTurn(unittest.TestCase):
    def setUp(self):
        self.now = 0.0

    def turn(self, **values):
        turn = Turn(DeliverySettings(**values), lambda: self.now)
        verifyObject(ITurn, turn)
        self.assertFalse(turn.is_over)
        self.assertFalse(turn.is_too_late)
        return turn

    def test_time_slice(self):
        turn = self.turn(time_slice=60)
        self.now += 59
        self.assertFalse(turn.is_over)
        self.now += 1
        self.assertTrue(turn.is_over)
        # What is in flight has all the time that it needs.
        self.now += 10_000
        self.assertFalse(turn.is_too_late)

    def test_no_time_slice(self):
        turn = self.turn(time_slice=0)
        self.now += 1_000_000
        self.assertFalse(turn.is_over)

    def test_signal(self):
        turn = self.turn(time_slice=60, stop_timeout=30)
        turn.stop(signal.SIGUSR1)
        self.assertTrue(turn.is_over)
        self.now += 29
        self.assertFalse(turn.is_too_late)
        # A second one changes nothing.
        turn.stop(signal.SIGTERM)
        self.assertEqual(turn.signum, signal.SIGUSR1)
        self.now += 1
        self.assertTrue(turn.is_too_late)

    def test_renewed(self):
        turn = self.turn(time_slice=60, stop_timeout=30)
        self.now += 90
        turn.renew()
        self.assertFalse(turn.is_over)
        self.now += 59
        self.assertFalse(turn.is_over)
        self.now += 1
        self.assertTrue(turn.is_over)
        # What is urgent stays so.
        turn.stop(signal.SIGTERM)
        turn.renew()
        self.assertTrue(turn.is_over)
        self.assertTrue(turn.is_urgent)

    def test_awaited(self):
        waiting = []
        turn = Turn(DeliverySettings(), lambda: self.now,
                    lambda: bool(waiting))
        self.assertIs(turn.is_awaited, False)
        # It is looked at each time.
        waiting.append('post')
        self.assertIs(turn.is_awaited, True)
        # If nobody can tell, it is as if others were waiting.
        self.assertIs(self.turn().is_awaited, True)

    def test_no_stop_timeout(self):
        turn = self.turn(stop_timeout=0)
        turn.stop(signal.SIGTERM)
        self.assertTrue(turn.is_too_late)


class TestSignals(unittest.TestCase):
    def setUp(self):
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            self.addCleanup(signal.signal, signum, signal.getsignal(signum))

    def run_runner(self, *arguments):
        runner = Runner(*arguments)
        # As `Runner.set_signals` does.
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(signum, runner.signal_handler)
        runner.run()
        return runner

    @contextmanager
    def delivery(self):
        turn = Turn(DeliverySettings())
        with signals_held_back(turn):
            yield turn

    def test_in_mid_delivery(self):
        def one_file(runner):
            with self.delivery() as turn:
                signal.raise_signal(signum)
                self.assertEqual(turn.signum, signum)
                # Mailman does not know yet.
                self.assertEqual(runner.caught, [])
            self.assertEqual(runner.caught, [signum])
            finished.append(signum)
        finished = []
        signums = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]
        for signum in signums:
            runner = self.run_runner(one_file)
            self.assertEqual(runner.caught, [signum])
            self.assertFalse(runner.interrupted)
        self.assertEqual(finished, signums)

    def test_two_in_mid_delivery(self):
        def one_file(runner):
            with self.delivery():
                signal.raise_signal(signal.SIGUSR1)
                signal.raise_signal(signal.SIGTERM)
        runner = self.run_runner(one_file)
        self.assertEqual(runner.caught, [signal.SIGUSR1])
        self.assertFalse(runner.interrupted)

    def test_exception_in_mid_delivery(self):
        def one_file(runner):
            with self.delivery():
                signal.raise_signal(signal.SIGTERM)
                raise ZeroDivisionError
        runner = Runner(one_file)
        signal.signal(signal.SIGTERM, runner.signal_handler)
        with self.assertRaises(ZeroDivisionError):
            runner.run()
        self.assertEqual(runner.caught, [signal.SIGTERM])

    def test_after_the_delivery(self):
        # The entry is still to be taken out of the queue.
        def one_file(runner):
            with self.delivery():
                pass
            signal.raise_signal(signal.SIGTERM)
            finished.append(True)
            # The next one, if there were one, would not be sent.
            with self.delivery() as turn:
                self.assertEqual(turn.signum, signal.SIGTERM)
        finished = []
        runner = self.run_runner(one_file)
        self.assertEqual(finished, [True])
        self.assertEqual(set(runner.caught), {signal.SIGTERM})
        self.assertFalse(runner.interrupted)

    def test_while_the_first_one_begins(self):
        def one_file(runner):
            stand_guard()
            signal.raise_signal(signal.SIGINT)
            with self.delivery() as turn:
                self.assertEqual(turn.signum, signal.SIGINT)
            with self.delivery() as turn:
                self.assertIsNone(turn.signum)
        runner = self.run_runner(one_file)
        self.assertFalse(runner.interrupted)

    def test_while_the_runner_sleeps(self):
        def one_file(runner):
            with self.delivery():
                pass

        def snooze(runner):
            signal.raise_signal(signal.SIGTERM)
            self.fail('not interrupted')
        runner = self.run_runner(one_file, snooze)
        self.assertEqual(runner.caught, [signal.SIGTERM])
        self.assertTrue(runner.interrupted)

    def test_after_the_runner(self):
        def one_file(runner):
            with self.delivery():
                pass
        runner = self.run_runner(one_file)
        # Nobody would catch an exception now.
        signal.raise_signal(signal.SIGTERM)
        self.assertEqual(runner.caught, [signal.SIGTERM])
        # It is not for anybody else, either.
        with self.delivery() as turn:
            self.assertIsNone(turn.signum)

    def test_handlers_of_the_system(self):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with self.delivery() as turn:
            signal.raise_signal(signal.SIGTERM)
            self.assertIsNone(turn.signum)
        self.assertIs(signal.getsignal(signal.SIGTERM), signal.SIG_IGN)

    def test_another_runner_in_the_same_process(self):
        def one_file(runner):
            with self.delivery():
                signal.raise_signal(signal.SIGTERM)
        for _ in range(3):
            runner = self.run_runner(one_file)
            self.assertEqual(runner.caught, [signal.SIGTERM])
