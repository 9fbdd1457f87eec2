# SPDX-License-Identifier: GPL-3.0-or-later

"""SCRAM, with the examples of RFC 5802 and RFC 7677, and hostile servers."""

import hmac
import base64
import hashlib
import unittest

from hypothesis import given, strategies as st
from mailman_mta_pool.errors import BadChallenge, ServerNotTrusted
from mailman_mta_pool.login.saslprep import saslprep
from mailman_mta_pool.login.scram import (
    escaped,
    FEWEST_ITERATIONS,
    MOST_ITERATIONS,
    SaltedPasswords,
    ScramSHA1,
    ScramSHA256,
)
from unittest import mock


NONCE = b'rOprNGfwEbeRWgbNEkqO'
# Of RFC 7677, section 3, and of RFC 5802, section 5.
EXAMPLES = {
    ScramSHA256: (
        NONCE,
        b'n,,n=user,r=rOprNGfwEbeRWgbNEkqO',
        b'r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,'
        b's=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096',
        b'c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,'
        b'p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=',
        b'v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4='),
    ScramSHA1: (
        b'fyko+d2lbbFgONRv9qkxdawL',
        b'n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL',
        b'r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,'
        b's=QSXCR+Q6sek8bf92,i=4096',
        b'c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,'
        b'p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=',
        b'v=rmF9pqV8S7suAoZWja4dJRkFsKQ='),
    }
SALT = b'W22ZaJ0SNY7soEsUEjb6gQ=='


def mechanism(kind=ScramSHA256, user='user', password='pencil', nonce=NONCE):
    return kind(user, SaltedPasswords(password), nonce)


def first(nonce=NONCE + b'more', salt=SALT, iterations=b'4096', after=b''):
    """The first message of a server."""
    return b'r=%s,s=%s,i=%s%s' % (nonce, salt, iterations, after)


class Server:
    """The server's side, written from RFC 5802 once more."""

    def __init__(self, digest, password, iterations, salt=b'salt'):
        self.digest = digest
        self.first = first(
            salt=base64.b64encode(salt), iterations=b'%d' % iterations)
        self.salted = hashlib.pbkdf2_hmac(
            digest, saslprep(password).encode(), salt, iterations)

    def _hmac(self, key, text):
        return hmac.new(key, text, self.digest).digest()

    def last(self, initial, final):
        """Check the proof, and return the last message."""
        without, _, proof = final.rpartition(b',p=')
        text = b','.join([initial[3:], self.first, without])
        key = self._hmac(self.salted, b'Client Key')
        stored = hashlib.new(self.digest, key).digest()
        signature = self._hmac(stored, text)
        proved = bytes(a ^ b for a, b in zip(
            base64.b64decode(proof), signature))
        if hashlib.new(self.digest, proved).digest() != stored:
            return b'e=invalid-proof'
        return b'v=' + base64.b64encode(self._hmac(
            self._hmac(self.salted, b'Server Key'), text))


class TestExamples(unittest.TestCase):
    def test_examples(self):
        for kind, (nonce, *messages) in EXAMPLES.items():
            with self.subTest(kind.name):
                exchange = mechanism(kind, nonce=nonce)
                initial, challenge, response, last = messages
                self.assertEqual(exchange.initial(), initial)
                self.assertEqual(exchange.answer(challenge), response)
                with self.assertRaises(ServerNotTrusted):
                    exchange.verify()
                self.assertEqual(exchange.answer(last), b'')
                exchange.verify()

    def test_nonces_differ(self):
        salted = SaltedPasswords('pencil')
        nonces = {ScramSHA256('user', salted).initial() for _ in range(9)}
        self.assertEqual(len(nonces), 9)

    def test_the_password_does_not_travel(self):
        self.assertFalse(ScramSHA256.sends_secret)
        self.assertTrue(ScramSHA256.is_slow)
        self.assertGreater(ScramSHA256.strength, ScramSHA1.strength)


class TestSalted(unittest.TestCase):
    def test_computed_once(self):
        salted = SaltedPasswords('pencil')
        with mock.patch.object(
                hashlib, 'pbkdf2_hmac', wraps=hashlib.pbkdf2_hmac) as computed:
            for _ in range(3):
                exchange = ScramSHA256('user', salted, NONCE)
                exchange.answer(first())
            self.assertEqual(computed.call_count, 1)
            ScramSHA256('user', salted, NONCE).answer(
                first(iterations=b'4097'))
            ScramSHA1('user', salted, NONCE).answer(first())
            self.assertEqual(computed.call_count, 3)

    def test_bounded(self):
        salted = SaltedPasswords('pencil')
        with mock.patch.object(
                hashlib, 'pbkdf2_hmac', return_value=b'x') as computed:
            for _ in range(2):
                for number in range(99):
                    salted.get('sha256', b'%d' % number, 4096)
        # A hostile server cannot fill the memory.
        self.assertEqual(computed.call_count, 198)


class TestHostileServers(unittest.TestCase):
    def assertRefuses(self, challenge, kind=BadChallenge, **how):
        with self.assertRaises(kind) as caught:
            mechanism(**how).answer(challenge)
        return str(caught.exception)

    def test_iterations(self):
        for count in (0 + 1, 1000, FEWEST_ITERATIONS - 1, MOST_ITERATIONS + 1,
                      10**8):
            with self.subTest(count=count):
                text = self.assertRefuses(
                    first(iterations=b'%d' % count), ServerNotTrusted)
                self.assertIn(f'{count} iterations', text)
        mechanism().answer(first(iterations=b'%d' % FEWEST_ITERATIONS))

    def test_a_million(self):
        with mock.patch.object(
                hashlib, 'pbkdf2_hmac', return_value=b'x') as computed:
            mechanism().answer(first(iterations=b'%d' % MOST_ITERATIONS))
        self.assertEqual(computed.call_args[0][3], MOST_ITERATIONS)

    def test_counts_that_make_no_sense(self):
        for count in (b'', b'0', b'04096', b'-4096', b'+4096', b' 4096',
                      b'4_096', b'4096.0', b'1e5', b'4' * 5000,
                      '\u0664096'.encode()):
            with self.subTest(count=count):
                self.assertRefuses(first(iterations=count))

    def test_nonce(self):
        for nonce in (b'', NONCE, NONCE[:-1] + b'xx', b'x' + NONCE,
                      NONCE + b'x' * 1000):
            with self.subTest(nonce=nonce):
                self.assertRefuses(first(nonce=nonce), ServerNotTrusted)

    def test_salt(self):
        for salt in (b'', b'?', b'AAA', base64.b64encode(b'x' * 600)):
            with self.subTest(salt=salt):
                self.assertRefuses(first(salt=salt))

    def test_no_message_of_this_mechanism(self):
        for challenge in (b'', b'Username:', b's=AAAA,r=x,i=4096',
                          b'r=' + NONCE + b'x', b'm=x,' + first(),
                          b'<1896.697170952@postoffice.example.net>'):
            with self.subTest(challenge=challenge):
                self.assertRefuses(challenge)

    def test_extensions_are_passed_over(self):
        self.assertIn(b',p=', mechanism().answer(first(after=b',x=y')))

    def test_signature(self):
        for last, kind in (
                (b'v=' + base64.b64encode(b'x' * 32), ServerNotTrusted),
                (b'v=', ServerNotTrusted), (b'v=?', BadChallenge),
                (b'', BadChallenge), (b'x=AAAA', BadChallenge)):
            with self.subTest(last=last):
                exchange = mechanism()
                exchange.answer(first())
                with self.assertRaises(kind):
                    exchange.answer(last)
                with self.assertRaises(ServerNotTrusted):
                    exchange.verify()

    def test_accepted_without_a_proof(self):
        for answered in ([], [first()]):
            exchange = mechanism()
            for challenge in answered:
                exchange.answer(challenge)
            with self.assertRaisesRegex(ServerNotTrusted, 'another server'):
                exchange.verify()

    def test_refused_in_its_own_way(self):
        exchange = mechanism()
        exchange.answer(first())
        self.assertEqual(exchange.answer(b'e=invalid-\nproof'), b'')
        self.assertEqual(exchange.explanation, 'invalid- proof')
        with self.assertRaises(ServerNotTrusted):
            exchange.verify()

    @given(st.sampled_from([ScramSHA256, ScramSHA1]),
           st.lists(st.binary(max_size=99) | st.builds(
               first, nonce=st.binary(max_size=9).map(NONCE.__add__),
               iterations=st.sampled_from([b'4096', b'9999999', b'1', b'x'])),
               max_size=3))
    def test_any_challenges(self, kind, challenges):
        exchange = mechanism(kind)
        for challenge in challenges:
            try:
                exchange.answer(challenge)
            except BadChallenge:
                break
        with self.assertRaises(ServerNotTrusted):
            exchange.verify()


class TestBothSides(unittest.TestCase):
    @given(st.sampled_from([ScramSHA256, ScramSHA1]),
           st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20),
           st.booleans())
    def test_any_login(self, kind, user, password, is_right):
        try:
            exchange = mechanism(kind, user, password)
            other = password if is_right else password + 'x'
            server = Server(kind.digest, other, 4096)
        except ValueError:
            return
        initial = exchange.initial()
        self.assertNotIn(b',', initial[5:].partition(b',r=')[0])
        last = server.last(initial, exchange.answer(server.first))
        exchange.answer(last)
        if is_right:
            exchange.verify()
        else:
            self.assertEqual(exchange.explanation, 'invalid-proof')

    def test_awkward(self):
        for password in ('p\xe4ss w\xf6rd', '%#, =', 'x' * 500, '\U0001f41c',
                         '\N{EURO SIGN}'):
            with self.subTest(password=password):
                exchange = mechanism(password=password)
                server = Server('sha256', password, 4096)
                exchange.answer(server.last(
                    exchange.initial(), exchange.answer(server.first)))
                exchange.verify()


class TestPreparation(unittest.TestCase):
    def test_examples(self):
        # RFC 4013, section 3.
        for text, prepared in (
                ('I\xadX', 'IX'), ('user', 'user'), ('USER', 'USER'),
                ('\xaa', 'a'), ('\u2168', 'IX'), ('\xa0', ' '),
                ('p\xe4ss', 'p\xe4ss'), ('pa\u0308ss', 'p\xe4ss'), ('', '')):
            with self.subTest(text=text):
                self.assertEqual(saslprep(text), prepared)

    def test_prohibited(self):
        for text in ('\x07', '\u06271', 'a\0b', 'a\nb', '\ud800', '\ufffd',
                     '\u0627a', '\ue000', '\u200e'):
            with self.subTest(text=text):
                with self.assertRaises(ValueError) as caught:
                    saslprep(text)
                self.assertNotIn(text, str(caught.exception))

    @given(st.text())
    def test_any_text(self, text):
        try:
            prepared = saslprep(text)
        except ValueError:
            return
        self.assertEqual(saslprep(prepared), prepared)

    def test_user(self):
        self.assertEqual(escaped('a=b,c'), 'a=3Db=2Cc')
        self.assertEqual(
            mechanism(user='a=,').initial()[:12], b'n,,n=a=3D=2C')

    def test_unusable(self):
        for password in ('', '\xad', 'a\0'):
            with self.assertRaises(ValueError):
                SaltedPasswords(password)
        with self.assertRaises(ValueError):
            mechanism(user='a\nb')
