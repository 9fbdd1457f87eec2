# SPDX-License-Identifier: GPL-3.0-or-later

"""How much is borne before a relay is given up."""

import unittest

from mailman_mta_pool.dispatch.retry import (
    ConnectionUse,
    Event,
    FIRST_PAUSE,
    HOPELESS,
    LAST_PAUSE,
    Retry,
    RULES,
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


class RetryTestCase(unittest.TestCase):
    def setUp(self):
        self.now = 1000.0
        self.retry = self.make()

    def make(self, **settings):
        return Retry(RELAY, DeliverySettings(**settings), lambda: self.now)


class TestTable(unittest.TestCase):
    def test_every_event_has_its_rule(self):
        self.assertEqual(set(RULES), set(Event))


class TestPauses(RetryTestCase):
    def pauses(self, retry):
        """Fail at once, again and again, until it is given up."""
        retry.opening()
        pauses = []
        while retry.cannot_open(REFUSED, others=0) is Event.cannot_open:
            pauses.append(retry.pause())
            self.now += pauses[-1]
            retry.opening()
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
        self.retry.opening()
        self.now += 30.0
        self.assertIs(
            self.retry.cannot_open(REFUSED, 0), Event.cannot_open_ever)

    def test_waiting_does_not_help(self):
        self.retry.opening()
        self.assertIs(
            self.retry.cannot_open(Hopeless(RELAY, 'AUTH', '535 No'), 0),
            Event.cannot_open_ever)

    def test_others_have_a_connection(self):
        self.retry.opening()
        for error in (REFUSED, Hopeless(RELAY, 'AUTH', '535 No')):
            self.assertIs(self.retry.cannot_open(error, others=1),
                          Event.cannot_open_for_all)
        self.assertFalse(self.retry.is_outage)

    def test_each_outage_has_its_own(self):
        retry = self.make(patience=10.0)
        retry.opening()
        self.assertFalse(retry.is_outage)
        retry.cannot_open(REFUSED, 0)
        self.assertEqual(retry.pause(), FIRST_PAUSE)
        self.assertTrue(retry.is_outage)
        self.now += 9.0
        retry.opened()
        self.assertFalse(retry.is_outage)
        self.now += 100.0
        self.assertEqual(sum(self.pauses(retry)), 10.0)


class TestTransactions(RetryTestCase):
    def test_as_often_as_allowed(self):
        retry = self.make(attempts=3)
        self.assertEqual(
            [retry.may_go_again(tried) for tried in (1, 2, 2.9, 3, 4)],
            [True, True, True, False, False])
        self.assertFalse(self.make(attempts=1).may_go_again(1))

    def test_what_a_loss_counts(self):
        use = ConnectionUse(0, is_stale=True)
        self.assertEqual(RULES[use.event].attempts, 0.0)
        use.is_stale = False
        self.assertEqual(RULES[use.event].attempts, 1.0)
        use.is_fruitless = False
        self.assertEqual(RULES[use.event].attempts, 0.1)


class TestLosses(RetryTestCase):
    def lose(self, error, agents=1, is_stale=False):
        """Lose a connection over which nothing was answered."""
        return self.retry.lost(
            error, ConnectionUse(self.retry.answers, is_stale), agents)

    def test_transactions_given_up_one_after_the_other(self):
        for number in range(HOPELESS - 1):
            self.retry.may_go_again(3)
            self.assertIsNone(self.lose(LOST, 100))
        self.retry.may_go_again(3)
        verdict = self.lose(LOST, 100)
        self.assertIsInstance(verdict, RelayUnavailable)
        self.assertIn(RELAY, str(verdict))
        self.assertIn('the server closed the connection', str(verdict))

    def test_an_answer_in_between(self):
        for number in range(10 * HOPELESS):
            self.retry.may_go_again(3)
            self.assertIsNone(self.lose(LOST))
            self.retry.progress()

    def test_never_an_answer(self):
        # Not even one that makes a transaction be sent again: in doubt, all.
        for attempts, agents in ((1, 1), (3, 1), (3, 8)):
            with self.subTest(attempts=attempts, agents=agents):
                self.retry = self.make(attempts=attempts)
                losses = 1
                while self.lose(LOST, agents) is None:
                    losses += 1
                self.assertEqual(losses, HOPELESS * max(attempts, agents))

    def test_a_timeout_for_each_agent(self):
        for agents in (1, 4):
            with self.subTest(agents=agents):
                self.retry = self.make()
                verdicts = [self.lose(TIMEOUT, agents)
                            for number in range(agents)]
                self.assertEqual(verdicts[:-1], [None] * (agents - 1))
                self.assertIn('300 s', str(verdicts[-1]))

    def test_a_timeout_while_others_have_answers(self):
        # It is that connection's own misfortune.
        use = ConnectionUse(self.retry.answers)
        self.retry.progress()
        self.assertIsNone(self.retry.lost(TIMEOUT, use, 1))
        self.assertIsNotNone(self.lose(TIMEOUT, 1))

    def test_a_stale_connection_says_nothing_of_the_relay(self):
        for number in range(100):
            self.assertIsNone(self.lose(TIMEOUT, 1, is_stale=True))
