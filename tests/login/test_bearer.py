# SPDX-License-Identifier: GPL-3.0-or-later

"""OAUTHBEARER and XOAUTH2, and what servers say when they refuse."""

import json
import unittest

from hypothesis import given, strategies as st
from mailman_mta_pool.login.bearer import explanation_of, OAuthBearer, XOAuth2


class TestBearer(unittest.TestCase):
    def test_oauthbearer(self):
        # RFC 7628, section 4.1.
        mechanism = OAuthBearer(
            'user@example.com', 'vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==',
            'server.example.com', 143)
        self.assertEqual(
            mechanism.initial(),
            b'n,a=user@example.com,\x01host=server.example.com\x01port=143\x01'
            b'auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==\x01\x01')
        # Section 4.3.
        self.assertEqual(mechanism.answer(
            b'{"status":"invalid_token","scope":"example_scope",'
            b'"openid-configuration":"https://example.com/.well-known/"}'),
            b'\x01')
        self.assertEqual(
            mechanism.explanation, 'status invalid_token, scope example_scope')

    def test_oauthbearer_without_a_host(self):
        self.assertEqual(
            OAuthBearer('a,=b', 't', '', 0).initial(),
            b'n,a=a=2C=3Db,\x01auth=Bearer t\x01\x01')

    def test_xoauth2(self):
        # The example of Google's page.
        mechanism = XOAuth2(
            'someuser@example.com', 'vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg')
        self.assertEqual(
            mechanism.initial(),
            b'user=someuser@example.com\x01auth=Bearer '
            b'vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg\x01\x01')
        self.assertEqual(mechanism.answer(
            b'{"status":"401","schemes":"bearer mac",'
            b'"scope":"https://mail.google.com/"}'), b'')
        self.assertEqual(
            mechanism.explanation, 'status 401, scope '
            'https://mail.google.com/, schemes bearer mac')

    def test_awkward_tokens(self):
        for token in ('p\xe4ss %# w', 'x' * 500):
            self.assertIn(
                f'auth=Bearer {token}\x01'.encode(),
                OAuthBearer('u', token, 'h', 1).initial())

    def test_a_token_travels(self):
        self.assertTrue(OAuthBearer.sends_secret)
        self.assertTrue(XOAuth2.sends_secret)


class TestExplanations(unittest.TestCase):
    def test_what_is_no_json(self):
        for challenge, text in (
                (b'', ''), (b'no', 'no'), (b'no\r\nway\0', 'no  way'),
                (b'[' * 1400, ('[' * 1400)[:200]), (b'[1]', ''), (b'1', ''),
                (b'{"x": 1}', ''), (b'{"status": ["x"]}', ''),
                (b'{"status": 400}', 'status 400'), (b'\xff', '\\xff'),
                (b'{"status": "\\ud800\\n"}', 'status   ')):
            with self.subTest(challenge=challenge):
                self.assertEqual(explanation_of(challenge), text)

    @given(st.binary() | st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(
            st.sampled_from(['status', 'scope', 'x']), inner)).map(
                lambda value: json.dumps(value).encode()))
    def test_anything(self, challenge):
        text = explanation_of(challenge)
        self.assertTrue(text.isprintable())
        self.assertLess(len(text), 1200)
