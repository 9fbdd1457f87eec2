# SPDX-License-Identifier: GPL-3.0-or-later

"""How much is borne before a relay is given up."""

import unittest

from mailman_mta_pool.dispatch.retry import (
    FIRST_PAUSE,
    HOPELESS,
    LAST_PAUSE,
    Setbacks,
)
from mailman_mta_pool.errors import (
    ConnectionLost,
    PhaseTimeout,
    RelayUnavailable,
)
from mailman_mta_pool.settings import DeliverySettings


RELAY = 'relay.example.net:25'
LOST = ConnectionLost('the server closed the connection')
TIMEOUT = PhaseTimeout('no reply to MAIL within 300 s')
REFUSED = RelayUnavailable(RELAY, 'connect', 'refused')


class Hopeless(RelayUnavailable):
    waiting_helps = False


class SetbacksTestCase(unittest.TestCase):
    def setUp(self):
        self.now = 1000.0
        self.setbacks = self.make()

    def make(self, **settings):
        return Setbacks(
            RELAY, DeliverySettings(**settings), lambda: self.now)


class TestPauses(SetbacksTestCase):
    def pauses(self, setbacks):
        """Fail at once, again and again, until it is given up."""
        setbacks.opening()
        pauses = []
        while (pause := setbacks.pause(REFUSED)) is not None:
            pauses.append(pause)
            self.now += pause
            setbacks.opening()
        return pauses

    def test_they_grow_and_add_up_to_the_patience(self):
        pauses = self.pauses(self.make(patience=30.0))
        self.assertEqual(sum(pauses), 30.0)
        self.assertEqual(pauses[:5], [0.5, 1.0, 2.0, 4.0, 5.0])
        self.assertEqual(pauses[0], FIRST_PAUSE)
        self.assertEqual(max(pauses), LAST_PAUSE)
        self.assertEqual(pauses[:-1], sorted(pauses[:-1]))

    def test_no_patience(self):
        self.assertEqual(self.pauses(self.make(patience=0.0)), [])

    def test_a_timeout_that_took_all_the_patience(self):
        self.setbacks.opening()
        self.now += 30.0
        self.assertIsNone(self.setbacks.pause(REFUSED))

    def test_waiting_does_not_help(self):
        self.setbacks.opening()
        self.assertIsNone(
            self.setbacks.pause(Hopeless(RELAY, 'AUTH', '535 No')))

    def test_each_outage_has_its_own(self):
        setbacks = self.make(patience=10.0)
        setbacks.opening()
        self.assertFalse(setbacks.outage)
        self.assertEqual(setbacks.pause(REFUSED), FIRST_PAUSE)
        self.assertTrue(setbacks.outage)
        self.now += 9.0
        setbacks.opened()
        self.assertFalse(setbacks.outage)
        self.now += 100.0
        self.assertEqual(sum(self.pauses(setbacks)), 10.0)


class TestTransactions(SetbacksTestCase):
    def test_as_often_as_allowed(self):
        setbacks = self.make(attempts=3)
        self.assertEqual(
            [setbacks.may_try_again(tried) for tried in (1, 2, 2.9, 3, 4)],
            [True, True, True, False, False])
        self.assertFalse(self.make(attempts=1).may_try_again(1))


class TestLosses(SetbacksTestCase):
    def lose(self, error, workers=1):
        """Lose a connection over which nothing was answered."""
        return self.setbacks.lost(error, workers, self.setbacks.answers)

    def test_transactions_given_up_one_after_the_other(self):
        for number in range(HOPELESS - 1):
            self.setbacks.may_try_again(3)
            self.assertIsNone(self.lose(LOST, 100))
        self.setbacks.may_try_again(3)
        verdict = self.lose(LOST, 100)
        self.assertIsInstance(verdict, RelayUnavailable)
        self.assertIn(RELAY, str(verdict))
        self.assertIn('the server closed the connection', str(verdict))

    def test_an_answer_in_between(self):
        for number in range(10 * HOPELESS):
            self.setbacks.may_try_again(3)
            self.assertIsNone(self.lose(LOST))
            self.setbacks.progress()

    def test_never_an_answer(self):
        # Not even one that makes a transaction be sent again: in doubt, all.
        for attempts, workers in ((1, 1), (3, 1), (3, 8)):
            with self.subTest(attempts=attempts, workers=workers):
                self.setbacks = self.make(attempts=attempts)
                losses = 1
                while self.lose(LOST, workers) is None:
                    losses += 1
                self.assertEqual(losses, HOPELESS * max(attempts, workers))

    def test_a_timeout_for_each_worker(self):
        for workers in (1, 4):
            with self.subTest(workers=workers):
                self.setbacks = self.make()
                verdicts = [self.lose(TIMEOUT, workers)
                            for number in range(workers)]
                self.assertEqual(verdicts[:-1], [None] * (workers - 1))
                self.assertIn('300 s', str(verdicts[-1]))

    def test_a_timeout_while_others_have_answers(self):
        # It is that connection's own misfortune.
        begun = self.setbacks.answers
        self.setbacks.progress()
        self.assertIsNone(self.setbacks.lost(TIMEOUT, 1, begun))
        self.assertIsNotNone(self.lose(TIMEOUT, 1))
