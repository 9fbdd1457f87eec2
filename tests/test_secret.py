# SPDX-License-Identifier: GPL-3.0-or-later

"""Passwords and tokens hide themselves."""

import copy
import pickle
import logging
import unittest
import traceback

from dataclasses import asdict, replace
from hypothesis import given, strategies as st
from mailman_mta_pool.secret import Secret
from mailman_mta_pool.settings import RelaySettings


TEXT = 'hunter2 \N{EURO SIGN}%s'


class TestSecret(unittest.TestCase):
    def test_hidden(self):
        secret = Secret(TEXT)
        relay = RelaySettings(user='ant', password=secret)
        with self.assertLogs() as logs:
            logging.getLogger('mailman.smtp').error('%s %r', secret, relay)
        try:
            raise ValueError(secret)
        except ValueError as error:
            told = ''.join(traceback.format_exception(
                type(error), error, error.__traceback__))
        for text in (repr(secret), str(secret), f'{secret}', f'{secret:>80}',
                     '{!r}'.format([secret]), '%s' % secret, ascii(secret),
                     repr(relay), str(asdict(relay)), logs.output[0], told,
                     str(vars(relay))):
            with self.subTest(text=text):
                self.assertNotIn('hunter2', text)
                self.assertIn('Secret', text)

    def test_not_pickled(self):
        for value in (Secret(TEXT), RelaySettings(password=Secret(TEXT))):
            for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
                with self.subTest(value=value, protocol=protocol):
                    with self.assertRaises(TypeError) as caught:
                        pickle.dumps(value, protocol)
                    self.assertNotIn('hunter2', str(caught.exception))

    def test_none(self):
        self.assertFalse(Secret())
        self.assertTrue(Secret('0'))
        self.assertEqual(Secret().reveal(), '')

    @given(st.text(), st.text())
    def test_equal(self, one, other):
        self.assertEqual(Secret(one) == Secret(other), one == other)
        self.assertEqual(Secret(one), Secret(one))
        self.assertEqual(hash(Secret(one)), hash(Secret(one)))
        self.assertNotEqual(Secret(one), one)
        self.assertEqual(Secret(one).reveal(), one)

    def test_lone_surrogates(self):
        self.assertNotEqual(Secret('\ud800'), Secret('\ud801'))
        self.assertEqual(Secret('\ud800'), Secret('\ud800'))

    def test_copies(self):
        secret = Secret(TEXT)
        for other in (copy.copy(secret), copy.deepcopy([secret])[0]):
            self.assertEqual(other, secret)

    def test_part_of_a_key(self):
        # A relay with another password is another one.
        relay = RelaySettings(password=Secret('a'))
        self.assertEqual({relay: 1}[RelaySettings(password=Secret('a'))], 1)
        self.assertNotEqual(relay, replace(relay, password=Secret('b')))
