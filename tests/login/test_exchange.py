# SPDX-License-Identifier: GPL-3.0-or-later
"""AUTH as octets: mechanisms, lines, and what the replies mean."""

import hmac
import base64
import smtplib
import unittest

from contextlib import suppress
from hypothesis import given, strategies as st
from mailman_mta_pool.connection.translation import translated
from mailman_mta_pool.errors import (
    BadChallenge,
    ProtocolError,
    RelayUnavailable,
    UnusableValue,
)
from mailman_mta_pool.login.credentials import Attempt, Credentials
from mailman_mta_pool.login.exchange import MAX_COMMAND, MAX_RESPONSE
from mailman_mta_pool.login.mechanisms import CramMD5, Login, Plain
from mailman_mta_pool.secret import Secret
from mailman_mta_pool.wire.replies import Reply, ReplyParser
from unittest import mock


# RFC 2195, section 2.
USER, PASSWORD = 'tim', 'tanstaaftanstaaf'
CHALLENGE = b'PDE4OTYuNjk3MTcwOTUyQHBvc3RvZmZpY2UucmVzdG9uLm1jaS5uZXQ+'
RESPONSE = b'dGltIGI5MTNhNjAyYzdlZGE3YTQ5NWI0ZTZlNzMzNGQzODkw'
# SCRAM has a file of its own.
MECHANISMS = ('CRAM-MD5', 'PLAIN', 'LOGIN')


def authentication(*offered, user=USER, password=PASSWORD):
    return begin(user, password, *(offered or MECHANISMS))


def begin(user, password, *offered):
    """Begin an exchange with a server that offers some mechanisms."""
    return Attempt(Credentials(user, Secret(password))).authentication(
        frozenset(offered), True)


def reply(code, *lines):
    return Reply(code, lines or (b'',))


def no_md5(*args, **kws):
    """What `hmac.new` does where only FIPS 140 algorithms are let in."""
    raise ValueError('[digital envelope routines] disabled for FIPS')


class TestMechanisms(unittest.TestCase):
    def test_cram_md5(self):
        mechanism = CramMD5(USER.encode(), PASSWORD.encode())
        self.assertIsNone(mechanism.initial())
        self.assertEqual(
            mechanism.answer(base64.b64decode(CHALLENGE)),
            base64.b64decode(RESPONSE))

    def test_cram_md5_wants_a_challenge(self):
        with self.assertRaises(BadChallenge):
            CramMD5(b'u', b'p').answer(b'')

    def test_plain(self):
        # RFC 4616, section 4, without an authorization identity.
        mechanism = Plain(b'tim', b'tanstaaftanstaaf')
        message = b'\0tim\0tanstaaftanstaaf'
        self.assertEqual(mechanism.initial(), message)
        # It has no challenge.
        with self.assertRaises(BadChallenge):
            mechanism.answer(b'')

    def test_login(self):
        mechanism = Login(b'tim', b'tanstaaftanstaaf')
        self.assertIsNone(mechanism.initial())
        self.assertEqual(mechanism.answer(b'Username:'), b'tim')
        self.assertEqual(mechanism.answer(b'Password:'), b'tanstaaftanstaaf')


class TestChoice(unittest.TestCase):
    def test_strongest_first(self):
        for offered, command in (
                ({'LOGIN', 'PLAIN', 'CRAM-MD5', 'X'}, b'AUTH CRAM-MD5'),
                ({'LOGIN', 'PLAIN'},
                 b'AUTH PLAIN AHRpbQB0YW5zdGFhZnRhbnN0YWFm'),
                ({'LOGIN', 'X'}, b'AUTH LOGIN')):
            with self.subTest(offered=offered):
                self.assertEqual(authentication(*offered).command, command)

    def test_what_cannot_be_computed_is_skipped(self):
        with mock.patch.object(hmac, 'new', no_md5):
            self.assertTrue(authentication().command.startswith(
                b'AUTH PLAIN '))
            with self.assertRaises(smtplib.SMTPNotSupportedError):
                authentication('CRAM-MD5')

    def test_nothing_offered(self):
        with self.assertRaisesRegex(
                smtplib.SMTPNotSupportedError, 'does not offer AUTH'):
            begin(USER, PASSWORD)

    def test_nothing_in_common(self):
        with self.assertRaisesRegex(
                smtplib.SMTPNotSupportedError, 'AUTH GSSAPI NTLM'):
            authentication('NTLM', 'GSSAPI')

    def test_a_password_that_is_computed_in_two_ways(self):
        # By RFC 5802 with SASLprep, by Dovecot with the octets as they are.
        everything = {'SCRAM-SHA-256', 'SCRAM-SHA-1', 'PLAIN', 'LOGIN'}
        for user, password in (
                (USER, 'x\xb2'), (USER, 'a\u0308'), (USER, 'a\xa0b'),
                ('u\xb2', PASSWORD)):
            with self.subTest(user=user, password=password):
                for offered, is_verified, name in (
                        (everything, True, 'PLAIN'),
                        (everything | {'CRAM-MD5'}, True, 'CRAM-MD5'),
                        # A password is dearer than a login.
                        (everything, False, 'SCRAM-SHA-256'),
                        ({'SCRAM-SHA-256', 'SCRAM-SHA-1'}, True,
                         'SCRAM-SHA-256')):
                    attempt = Attempt(Credentials(user, Secret(password)))
                    self.assertEqual(attempt.authentication(
                        frozenset(offered), is_verified).mechanism, name)
        for password in ('p\xe4ssw\xf6rd \N{EURO SIGN}', '  a b '):
            self.assertEqual(
                begin(USER, password, *everything).mechanism, 'SCRAM-SHA-256')

    def test_what_no_mechanism_can_do(self):
        for user, password in ((USER, 'a\tb'), ('a\tb', PASSWORD)):
            with self.subTest(user=user):
                with self.assertRaises(
                        smtplib.SMTPNotSupportedError) as caught:
                    begin(user, password, 'SCRAM-SHA-256')
                text = str(caught.exception)
                self.assertIn('SCRAM-SHA-256 cannot be used', text)
                self.assertIn('SASLprep', text)
                self.assertNotIn('none of which', text)
                self.assertNotIn('\t', text)


class TestSecrets(unittest.TestCase):
    def test_a_line_that_is_no_reply(self):
        # It is quoted as Python writes octets.
        for password in ('p\xe4ssw\xf6rd!', 'a\\b\\c\\d'):
            secrets = begin('anne', password, 'PLAIN').secrets
            with self.subTest(password=password):
                with self.assertRaises(RelayUnavailable) as caught:
                    with translated('relay:25', 'AUTH', secrets):
                        list(ReplyParser().feed(
                            f'??? no {password}\r\n'.encode()))
                self.assertIn('hidden', str(caught.exception))
                self.assertNotIn('ssw', str(caught.exception))

    def test_what_no_log_can_show(self):
        # Such characters come out as blanks, and the rest may not show.
        password = 'ab\xa0cd\x7f12'
        exchange = begin('anne', password, 'PLAIN')
        with self.assertRaises(RelayUnavailable) as caught:
            with translated('relay:25', 'AUTH', exchange.secrets):
                exchange.answer(Reply(535, (password.encode(),)))
        self.assertIn('hidden', str(caught.exception))
        self.assertNotIn('cd', str(caught.exception))

    def test_what_is_said_without_them(self):
        # The words of Google about a wrong password, which end with a number
        # of theirs; a user of a domain in .com; and responses with nonces.
        text = (b'5.7.8 Username and Password not accepted. For more '
                b'information, go to 5.7.8 https://support.google.com/mail/'
                b'?p=BadCredentials d2e1a72fcca58-20020a056a00gsmtp')
        challenge = base64.b64encode(b'<1896.697170952@example.com>')
        for name in ('PLAIN', 'LOGIN', 'CRAM-MD5', 'SCRAM-SHA-256'):
            # Nonces differ.
            for _ in range(20):
                exchange = begin(
                    'lists@example.com', 'Zebra-Tr0mbone', name)
                with suppress(BadChallenge):
                    for _ in range(2):
                        exchange.answer(Reply(334, (challenge,)))
                with self.subTest(name):
                    with self.assertRaises(RelayUnavailable) as caught:
                        with translated('relay:25', 'AUTH', exchange.secrets):
                            exchange.answer(Reply(535, (text,)))
                    self.assertIn(text.decode(), str(caught.exception))

    def test_user_names(self):
        for user, text, is_shown in (
                ('lists@example.com', '5.7.8 lists@example.com?', False),
                ('lists@example.com', '5.7.8 Lists: no', False),
                ('lists@example.com', '5.7.8 list.com', True),
                ('abe', '5.7.8 label', True)):
            with self.subTest(user=user, text=text):
                exchange = begin(user, 'Zebra-Tr0mbone', 'PLAIN')
                with self.assertRaises(RelayUnavailable) as caught:
                    with translated('relay:25', 'AUTH', exchange.secrets):
                        exchange.answer(Reply(535, (text.encode(),)))
                self.assertEqual(text in str(caught.exception), is_shown)


class TestCredentials(unittest.TestCase):
    def test_both_or_nothing(self):
        for user, password, demanded in (
                ('', '', False), ('u', '', False), ('', 'p', False),
                ('u', 'p', True)):
            with self.subTest(user=user, password=password):
                self.assertEqual(
                    bool(Credentials(user, Secret(password))), demanded)

    def test_repr(self):
        self.assertNotIn('tanstaaf', repr(Credentials(USER, Secret(PASSWORD))))

    def test_unusable(self):
        for bad, reason in (('sec\0ret', 'NUL'), ('sec\ud800ret', 'UTF-8')):
            for key, pair in (('smtp_user', (bad, 'formic acid')),
                              ('smtp_pass', ('user', bad))):
                with self.subTest(key=key, reason=reason):
                    with self.assertRaises(UnusableValue) as caught:
                        user, password = pair
                        Credentials(user, Secret(password))
                    text = str(caught.exception)
                    self.assertIn(f'[mta] {key}', text)
                    self.assertIn(reason, text)
                    self.assertNotIn('sec', text)
                    # It would hold the value.
                    self.assertIsNone(caught.exception.__context__)

    def test_too_long_for_any_mechanism(self):
        with self.assertRaises(UnusableValue):
            Credentials('u', Secret('p' * MAX_RESPONSE))


class TestExchange(unittest.TestCase):
    def test_cram_md5(self):
        exchange = authentication('CRAM-MD5')
        self.assertEqual(exchange.answer(reply(334, CHALLENGE)), RESPONSE)
        self.assertIsNone(exchange.answer(reply(235, b'2.7.0 Welcome')))

    def test_login(self):
        exchange = authentication('LOGIN')
        self.assertEqual(exchange.answer(reply(334, b'VXNlcm5hbWU6')), b'dGlt')
        self.assertEqual(
            exchange.answer(reply(334, b'UGFzc3dvcmQ6')),
            b'dGFuc3RhYWZ0YW5zdGFhZg==')
        self.assertIsNone(exchange.answer(reply(235)))

    def test_utf_8(self):
        for name, line, sent in (
                ('PLAIN', None, b'\0\xc3\xbcser\0p\xc3\xa4ss'),
                ('LOGIN', b'', b'\xc3\xbcser')):
            with self.subTest(name):
                exchange = authentication(
                    name, user='\u00fcser', password='p\u00e4ss')
                encoded = (exchange.command.split()[2] if line is None
                           else exchange.answer(reply(334, line)))
                self.assertEqual(base64.b64decode(encoded), sent)

    def test_initial_response_only_where_it_fits(self):
        # RFC 4954, section 4.  'AUTH PLAIN ', base64, CRLF.
        room = (MAX_COMMAND - len('AUTH PLAIN \r\n')) // 4 * 3
        fits = authentication('PLAIN', user='u', password='p' * (room - 3))
        self.assertLessEqual(len(fits.command) + 2, MAX_COMMAND)
        self.assertEqual(len(fits.command.split()), 3)
        with self.assertRaises(BadChallenge):
            fits.answer(reply(334))
        longer = authentication('PLAIN', user='u', password='p' * (room - 2))
        self.assertEqual(longer.command, b'AUTH PLAIN')
        self.assertEqual(
            base64.b64decode(longer.answer(reply(334))),
            b'\0u\0' + b'p' * (room - 2))

    def test_refused(self):
        for code in (454, 421, 500, 503, 534, 535, 571):
            exchange = authentication('CRAM-MD5')
            with self.subTest(code=code):
                with self.assertRaises(
                        smtplib.SMTPAuthenticationError) as caught:
                    exchange.answer(reply(code, b'5.7.8 no'))
                self.assertEqual(caught.exception.smtp_code, code)

    def test_no_reply_to_auth(self):
        for code in (200, 220, 250, 333, 354):
            with self.subTest(code=code):
                with self.assertRaises(ProtocolError) as caught:
                    authentication().answer(reply(code))
                self.assertNotIsInstance(caught.exception, BadChallenge)

    def test_challenge_that_is_not_base64(self):
        for lines in ((b'x',), (b'Username:',), (b'\xff\xff\xff\xff',),
                      (b'AAAA', b'AAAA'), (b'A A A A',)):
            with self.subTest(lines=lines):
                with self.assertRaises(BadChallenge) as caught:
                    authentication('LOGIN').answer(reply(334, *lines))
                self.assertIsNone(caught.exception.__context__)

    def test_more_challenges_than_there_are(self):
        for name, count in (('CRAM-MD5', 1), ('PLAIN', 0), ('LOGIN', 2)):
            exchange = authentication(name)
            with self.subTest(name):
                for _ in range(count):
                    exchange.answer(reply(334, CHALLENGE))
                with self.assertRaisesRegex(BadChallenge, name):
                    exchange.answer(reply(334, CHALLENGE))

    def test_secrets_are_all_that_was_sent(self):
        for name in MECHANISMS:
            exchange = authentication(name)
            sent = exchange.command.split()[2:]
            while len(sent) < (2 if name == 'LOGIN' else 1):
                sent.append(exchange.answer(reply(334, CHALLENGE)))
            for line in sent:
                with self.subTest(name, line=line):
                    # Base64 may go on in the last character.
                    self.assertTrue(any(
                        secret.text.startswith(line.decode().rstrip('=')[:-1])
                        for secret in exchange.secrets))

    def test_secrets_in_any_base64(self):
        # Between other octets a secret has one of three faces.
        exchange = authentication('PLAIN', password='pa55-w0rd')
        for before in range(3):
            echo = base64.b64encode(
                b'?' * before + b'pa55-w0rd' + b'?').decode()
            with self.subTest(echo=echo):
                self.assertTrue(any(
                    len(secret.text) >= 11 and secret.text in echo
                    for secret in exchange.secrets))
        self.assertIn(
            b'pa55-w0rd'.hex(), [each.text for each in exchange.secrets])

    @given(st.sampled_from(sorted(MECHANISMS)),
           st.text(min_size=1, max_size=99), st.text(min_size=1, max_size=99),
           st.lists(st.tuples(
               st.sampled_from([220, 235, 250, 334, 334, 334, 454, 535]),
               st.binary(max_size=9).map(
                   lambda octets: octets.replace(b'\n', b'')) |
               st.binary(max_size=9).map(base64.b64encode)), max_size=5))
    def test_any_replies(self, name, user, password, replies):
        try:
            exchange = begin(user, password, name)
        except UnusableValue:
            return
        line, answered = exchange.command, 0
        for code, text in replies:
            self.assertNotIn(b'\n', line)
            self.assertLessEqual(len(line), MAX_RESPONSE)
            try:
                line = exchange.answer(reply(code, text))
            except smtplib.SMTPAuthenticationError:
                self.assertGreaterEqual(code, 400)
                return
            except BadChallenge:
                self.assertEqual(code, 334)
                return
            except ProtocolError:
                self.assertIn(code, (220, 250))
                return
            if line is None:
                self.assertEqual(code, 235)
                return
            answered += 1
            self.assertLessEqual(answered, 2)
            base64.b64decode(line, validate=True)
