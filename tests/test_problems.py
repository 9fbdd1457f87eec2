# SPDX-License-Identifier: GPL-3.0-or-later
"""What `mailman mta-pool check` says, and what it does not show."""

import unittest

from mailman_mta_pool.checking.problems import named, problem_of_refusal
from mailman_mta_pool.checking.words import Words
from mailman_mta_pool.configuration.answers import shipped_answers
from mailman_mta_pool.secret import Secret
from mailman_mta_pool.settings import (
    AuthSettings,
    RelaySettings,
    TokenSettings,
)
from mailman_mta_pool.settlement.catalogue import Catalogue
from mailman_mta_pool.settlement.table import Judge
from mailman_mta_pool.wire.transaction import Stage
from tests.settlement.world import reply


TOKENS = AuthSettings(token=TokenSettings(url='https://login.example.com/'))


class TestProblems(unittest.TestCase):
    def test_a_login_that_may_not_send(self):
        # With a token there is a login, too.
        judge = Judge(Catalogue(shipped_answers()))
        for login, words in (
                ({}, 'wants a login'), ({'user': 'ant'}, 'wants a login'),
                ({'user': 'ant', 'password': Secret('formic')}, 'another'),
                ({'user': 'ant', 'auth': TOKENS}, 'another login')):
            relay = RelaySettings(
                name='a', password_key='token_url', **login)
            with self.subTest(login=login):
                problem = named(problem_of_refusal(
                    judge.judge(Stage.mail, reply('530 5.7.0 Log in')), relay,
                    '530 5.7.0 Log in', False), relay)
                self.assertIn(words, problem.text)
                self.assertEqual(
                    problem.keys, ('[relay.a] user', '[relay.a] token_url'))


class TestWords(unittest.TestCase):
    def test_what_no_terminal_can_show(self):
        # Such characters come out as blanks, and the rest may not show.
        for password in ('ab\xa0cd\x7f12', 'formic'):
            words = Words(RelaySettings(
                user='ant', password=Secret(password)))
            shown = words(f'550 5.7.1 {password} is not for you'.encode())
            self.assertIn('hidden', shown)
            self.assertNotIn(password[-2:], shown)
