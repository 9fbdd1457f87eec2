# SPDX-License-Identifier: GPL-3.0-or-later

"""Logins over a real socket."""

import base64
import unittest
import threading

from contextlib import suppress
from mailman_mta_pool.connection.addresses import Addresses
from mailman_mta_pool.connection.opening import Endpoint, open_connection
from mailman_mta_pool.connection.tls import context_for
from mailman_mta_pool.errors import (
    AuthenticationRefused,
    NotOffered,
    RelayUnavailable,
    TokenUnavailable,
    UnavailableHere,
)
from mailman_mta_pool.login.access import Access
from mailman_mta_pool.login.credentials import Credentials, KeyNames
from mailman_mta_pool.login.record import LoginRecord, Turn
from mailman_mta_pool.login.states import login_directory
from mailman_mta_pool.login.tokens import Tokens
from mailman_mta_pool.secret import Secret
from mailman_mta_pool.settings import AuthSettings, Timeouts
from tempfile import TemporaryDirectory
from tests.certificates import server_context
from tests.documentation import trusted_test_certificate
from tests.login.test_scram import Server
from tests.login.test_tokens import Source
from tests.opening import Peer, QuickLoop
from unittest import mock


READY = b'220 mx ESMTP\r\n'
WELCOME = b'235 2.7.0 Welcome\r\n'
REFUSED = b'535 5.7.8 Wrong\r\n'
KEYS = KeyNames('[relay.a] user', '[relay.a] password', 'TLS',
                '[relay.a] auth_insecure: yes', '[relay.a] auth')


def hello(*mechanisms):
    return f'250-mx\r\n250 AUTH {" ".join(mechanisms)}\r\n'.encode()


def challenge(octets):
    return b'334 ' + base64.b64encode(octets) + b'\r\n'


class LoginTestCase(unittest.TestCase):
    def setUp(self):
        self.loop = QuickLoop()
        self.addCleanup(self.loop.close)
        self.addCleanup(lambda: self.loop.run_until_complete(
            self.loop.shutdown_default_executor()))
        self.source = Source('ya29 {}')

    def access(self, *named, password='formic', tokens=False, record=None,
               warns=False):
        return Access(lambda: Credentials(
            'ant', Secret(password), auth=AuthSettings(named), keys=KEYS,
            tokens=self.tokens if tokens else None, warns=warns, relay='a',
            host='mx.example.com', port=587), lambda: record)

    @property
    def tokens(self):
        if not hasattr(self, '_tokens'):
            self._tokens = Tokens(self.source, clock=self.loop.time)
        return self._tokens

    def open(self, access, *replies, tls=None, name='127.0.0.1', **endpoint):
        """Log in at a server that gives these replies, and return the lines.

        :return: What the client has said after EHLO, decoded.
        """
        async def main():
            async with Peer(READY, *replies, tls=tls) as peer:
                self.peer = peer
                self.loop.found = [('127.0.0.1', peer.port)]
                try:
                    opened = await open_connection(
                        Endpoint(name, peer.port, access=access, **endpoint),
                        Timeouts(), Addresses(self.loop.time))
                    opened.sock.close()
                finally:
                    await peer.all_gone()
        try:
            self.loop.complete(main())
        finally:
            self.lines = [line.strip() for line in self.peer.lines
                          if not line.startswith(b'EHLO')]

    def said(self, number):
        """A response, decoded."""
        return base64.b64decode(self.lines[number].rpartition(b' ')[2])

    def fails(self, kind, *args, **kws):
        with self.assertRaises(kind) as caught:
            self.open(*args, **kws)
        return caught.exception


class TestScram(LoginTestCase):
    def exchange(self, *mechanisms, password='formic', last=None,
                 iterations=4096):
        """The replies of a server that knows a password."""
        server = Server('sha256', password, iterations)

        def first():
            nonce = self.said_now(0).rpartition(b'r=')[2]
            server.first = server.first.replace(
                b'rOprNGfwEbeRWgbNEkqO', nonce)
            return challenge(server.first)

        def final():
            return challenge(last or server.last(
                self.said_now(0), self.said_now(1)))
        return hello(*mechanisms), first, final

    def said_now(self, number):
        lines = [line.strip() for line in self.peer.lines
                 if not line.startswith(b'EHLO')]
        return base64.b64decode(lines[number].rpartition(b' ')[2])

    def test_good(self):
        self.open(self.access(), *self.exchange('PLAIN', 'SCRAM-SHA-256'),
                  WELCOME)
        self.assertTrue(self.lines[0].startswith(b'AUTH SCRAM-SHA-256 biws'))
        self.assertEqual(self.lines[2], b'')

    def test_wrong_password(self):
        error = self.fails(
            AuthenticationRefused, self.access(),
            *self.exchange('SCRAM-SHA-256', password='acid'), REFUSED)
        self.assertIn('535 5.7.8 Wrong (invalid-proof)', str(error))
        self.assertFalse(error.waiting_helps)
        # There is no second mechanism.
        self.assertEqual(len(self.lines), 3)

    def test_another_server(self):
        error = self.fails(
            RelayUnavailable, self.access(), *self.exchange(
                'SCRAM-SHA-256', last=b'v=' + base64.b64encode(b'x' * 32)))
        self.assertIn('another server', str(error))
        self.assertFalse(error.waiting_helps)
        self.assertEqual(self.lines[-1], b'*')

    def test_accepted_at_once(self):
        error = self.fails(RelayUnavailable, self.access(),
                           hello('SCRAM-SHA-256'), WELCOME)
        self.assertIn('without having proved', str(error))
        self.assertEqual(len(self.lines), 1)

    def test_too_many_iterations(self):
        hello, first, _ = self.exchange('SCRAM-SHA-256')

        def costly():
            return challenge(base64.b64decode(first()[4:]).replace(
                b'i=4096', b'i=1000001'))
        error = self.fails(RelayUnavailable, self.access(), hello, costly)
        self.assertIn('1000001 iterations', str(error))
        self.assertFalse(error.waiting_helps)
        self.assertEqual(self.lines[1], b'*')

    def test_the_loop_goes_on(self):
        # The password is salted in another thread.
        names = []

        class Salted:
            def get(self, digest, salt, iterations):
                names.append(threading.current_thread())
                return b'x' * 32
        access = self.access()
        with mock.patch(
                'mailman_mta_pool.login.credentials.SaltedPasswords',
                lambda password: Salted()):
            self.fails(AuthenticationRefused, access,
                       *self.exchange('SCRAM-SHA-256'), REFUSED)
        self.assertEqual(len(names), 1)
        self.assertIsNot(names[0], threading.current_thread())


class TestTokens(LoginTestCase):
    ERROR = b'{"status":"invalid_token","scope":"mail"}'

    def test_good(self):
        self.open(self.access(tokens=True), hello('OAUTHBEARER'), WELCOME)
        self.assertIn(b'auth=Bearer ya29 1\x01', self.said(0))
        self.assertIn(b'host=mx.example.com\x01port=587', self.said(0))

    def test_expired(self):
        # Nobody notices: the same connection has the next token.
        for mechanism, error, dummy in (
                ('OAUTHBEARER', [challenge(self.ERROR), REFUSED], [b'AQ==']),
                ('XOAUTH2', [challenge(self.ERROR), REFUSED], [b'']),
                ('XOAUTH2', [REFUSED], [])):
            with self.subTest(mechanism=mechanism, error=error):
                self.source.fetched = 0
                self._tokens = Tokens(self.source, clock=self.loop.time)
                self.loop.run_until_complete(self.tokens.get())
                self.open(self.access(tokens=True), hello(mechanism), *error,
                          WELCOME)
                self.assertEqual(self.lines[1:-1], dummy)
                self.assertIn(b'ya29 1', self.said(0))
                self.assertIn(b'ya29 2', self.said(-1))

    def test_a_new_one_is_refused(self):
        error = self.fails(
            AuthenticationRefused, self.access(tokens=True),
            hello('XOAUTH2'), challenge(self.ERROR), REFUSED)
        self.assertIn('(status invalid_token, scope mail)', str(error))
        self.assertEqual(self.source.fetched, 1)
        self.assertNotIn('ya29 1', str(error))

    def test_a_long_error(self):
        error = b'{"status":"401","scope":"mail","x":"%s"}' % (b'y' * 8000)
        refused = self.fails(
            AuthenticationRefused, self.access(tokens=True),
            hello('OAUTHBEARER'), challenge(error), REFUSED)
        self.assertIn('(status 401, scope mail)', str(refused))
        self.assertEqual(self.lines[1], b'AQ==')

    def test_both_are_refused(self):
        self.loop.run_until_complete(self.tokens.get())
        self.fails(AuthenticationRefused, self.access(tokens=True),
                   hello('XOAUTH2'), REFUSED, REFUSED)
        self.assertEqual(len(self.lines), 2)
        self.assertEqual(self.source.fetched, 2)

    def test_the_same_again(self):
        # It is refused once on the server, not twice.
        self.source.name = 'ya29'
        self.loop.run_until_complete(self.tokens.get())
        self.fails(AuthenticationRefused, self.access(tokens=True),
                   hello('XOAUTH2'), REFUSED)
        self.assertEqual(len(self.lines), 1)
        self.assertEqual(self.source.fetched, 2)

    def test_another_connection_was_refused(self):
        # This one has waited for its turn meanwhile.
        self.loop.run_until_complete(self.tokens.get())
        access = self.access(tokens=True)

        async def turn(timeout):
            with suppress(TokenUnavailable):
                await self.tokens.get(Secret('ya29 1'))
            return Turn()
        with mock.patch.object(access, 'turn', turn):
            self.open(access, hello('XOAUTH2'), WELCOME)
            self.assertIn(b'ya29 2', self.said(0))
            self.assertEqual(self.source.fetched, 2)
            # Nor if there is no other token.
            self._tokens = Tokens(self.source, clock=self.loop.time)
            self.source.fetched = 0
            self.loop.run_until_complete(self.tokens.get())
            access = self.access(tokens=True)
            self.source.problem = 'it is down'
            with mock.patch.object(access, 'turn', turn):
                self.fails(UnavailableHere, access, hello('XOAUTH2'))
        self.assertEqual(self.lines, [])

    def test_not_now(self):
        # It is not the token.
        self.loop.run_until_complete(self.tokens.get())
        error = self.fails(
            AuthenticationRefused, self.access(tokens=True),
            hello('XOAUTH2'), b'454 4.7.0 Later\r\n')
        self.assertTrue(error.waiting_helps)
        self.assertEqual(self.source.fetched, 1)

    def test_no_token(self):
        self.source.problem = 'the program ended with status 1'
        error = self.fails(UnavailableHere, self.access(tokens=True))
        self.assertIn('AUTH: the program ended with status 1', str(error))
        self.assertFalse(error.waiting_helps)
        # The server is not asked for anything.
        self.assertEqual(self.peer.connections, 0)

    def test_no_thread(self):
        with mock.patch.object(
                self.loop, 'run_in_executor', side_effect=RuntimeError):
            self.fails(UnavailableHere, self.access(tokens=True))
            # For SCRAM, too.
            self.fails(UnavailableHere, self.access(),
                       hello('SCRAM-SHA-256'), challenge(b'x'))

    def test_long_tokens_and_texts(self):
        # A few characters of a long token are in many a text by chance.
        self.source.name = 'Zebra ' + '0123456789abcdef' * 64 + ' {}'
        for text, is_shown in (
                ('5.7.8 d2e1a72fcca58-20020a05 gsmtp', True),
                ('5.7.8 0123 4567 89ab', True),
                ('5.7.8 Zebra 0123456', False)):
            with self.subTest(text=text):
                self._tokens = Tokens(self.source, clock=self.loop.time)
                error = self.fails(
                    AuthenticationRefused, self.access(tokens=True),
                    hello('XOAUTH2'), b'334 \r\n', f'535 {text}\r\n'.encode())
                self.assertEqual(text in str(error), is_shown)

    def test_long_tokens(self):
        token = 'x' * 500
        self.source.fetch = lambda: type(
            'Long', (), {'token': Secret(token), 'expires_in': 3600.0})
        self.open(self.access(tokens=True), hello('XOAUTH2'), b'334 \r\n',
                  WELCOME)
        self.assertEqual(self.lines[0], b'AUTH XOAUTH2')
        self.assertIn(token.encode(), self.said(1))


class TestVerified(LoginTestCase):
    def tls(self, verify_cert, verify_hostname):
        return context_for(verify_cert, verify_hostname)

    def test_tls(self):
        # A tunnel on this host may end elsewhere.
        for cert, name, is_verified in (
                (True, True, True), (True, False, False),
                (False, False, False)):
            with self.subTest(cert=cert, name=name):
                with trusted_test_certificate():
                    context = self.tls(cert, name)
                how = dict(tls=server_context(), implicit_tls=context,
                           name='localhost')
                if is_verified:
                    self.open(self.access(), hello('PLAIN'), WELCOME, **how)
                    self.assertEqual(self.said(0), b'\0ant\0formic')
                    continue
                error = self.fails(
                    NotOffered, self.access(), hello('PLAIN', 'LOGIN'), **how)
                self.assertIn('PLAIN and LOGIN', str(error))
                self.assertIn('[relay.a] auth_insecure', error.remedy)
                self.assertEqual(self.lines, [])

    def test_of_mta(self):
        with self.assertLogs('mailman.smtp', 'WARNING') as logs:
            self.open(self.access(warns=True), hello('PLAIN'), WELCOME,
                      tls=server_context(), name='localhost',
                      implicit_tls=self.tls(False, False))
        self.assertIn('PLAIN shows', logs.output[0])

    def test_in_clear_on_this_host(self):
        self.open(self.access(), hello('PLAIN'), WELCOME)
        self.assertEqual(self.said(0), b'\0ant\0formic')


class TestRefused(LoginTestCase):
    def setUp(self):
        super().setUp()
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name

    def record(self):
        return LoginRecord(
            login_directory(self.directory), ('mx', 'ant', 'formic'), 'a',
            'correct it', clock=lambda: 1e9)

    def test_no_other_connection_tries(self):
        with self.assertLogs('mailman.smtp', 'ERROR') as logs:
            self.fails(AuthenticationRefused,
                       self.access(record=self.record()),
                       hello('PLAIN'), REFUSED)
        self.assertEqual(len(logs.output), 1)
        error = self.fails(AuthenticationRefused,
                           self.access(record=self.record()))
        self.assertEqual(error.code, 535)
        self.assertFalse(error.waiting_helps)
        self.assertIn('535 5.7.8 Wrong (the login is not', str(error))
        self.assertEqual(self.peer.connections, 0)

    def test_echoes_are_in_no_file(self):
        with self.assertLogs('mailman.smtp', 'ERROR') as logs:
            self.fails(AuthenticationRefused,
                       self.access(record=self.record()),
                       hello('PLAIN'), b'535 5.7.8 No formic here\r\n')
        self.assertNotIn('formic', logs.output[0])
        self.assertNotIn(b'formic', self.record().refusal()[1])

    def test_not_now_is_no_refusal(self):
        for reply in (b'454 4.7.0 Later\r\n', b'421 4.3.2 Bye\r\n'):
            self.fails(AuthenticationRefused,
                       self.access(record=self.record()),
                       hello('PLAIN'), reply)
            self.assertIsNone(self.record().refusal())

    def test_what_is_not_about_the_credentials(self):
        # The server has not looked at them, so that it has refused nobody.
        for reply, *words in (
                (b'500 5.5.1 What?', 'auth'), (b'502 5.5.1 No', 'auth'),
                (b'503 5.5.1 Not here', 'auth'),
                (b'504 5.5.4 Unrecognized authentication type', 'auth'),
                (b'530 5.7.0 Must issue STARTTLS first', 'secure_mode'),
                (b'538 5.7.11 Encryption required', 'secure_mode'),
                (b'432 4.7.12 Password transition needed', 'auth', 'PLAIN'),
                (b'422 4.7.12 Password transition needed', 'auth', 'PLAIN')):
            with self.subTest(reply=reply):
                error = self.fails(
                    AuthenticationRefused,
                    self.access(record=self.record()), hello('PLAIN'),
                    reply + b'\r\n')
                self.assertIn(reply.decode(), str(error))
                # One that waits is not better off.
                self.assertFalse(error.waiting_helps)
                for word in words:
                    self.assertIn(word, error.remedy)
                self.assertIsNone(self.record().refusal())

    def test_what_is_about_the_credentials(self):
        for reply in (b'500 5.7.8 Wrong', b'534 5.7.9 Too weak',
                      b'534 5.7.9 Application-specific password required',
                      b'550 5.7.1 No', b'554 No', b'501 5.7.0 No'):
            with self.subTest(reply=reply):
                record = LoginRecord(
                    login_directory(self.directory), (reply.decode(),), 'a',
                    'correct it', clock=lambda: 1e9)
                with self.assertLogs('mailman.smtp', 'ERROR'):
                    error = self.fails(
                        AuthenticationRefused, self.access(record=record),
                        hello('PLAIN'), reply + b'\r\n')
                self.assertFalse(error.waiting_helps)
                self.assertIsNotNone(record.refusal())

    def test_another_token_is_no_better_where_none_was_looked_at(self):
        self.loop.run_until_complete(self.tokens.get())
        self.fails(AuthenticationRefused,
                   self.access(tokens=True, record=self.record()),
                   hello('XOAUTH2'), b'504 5.5.4 What?\r\n')
        self.assertEqual(self.source.fetched, 1)

    def test_not_offered_is_no_refusal(self):
        for offer, *words in (
                (hello('GSSAPI'), '[relay.a] auth', '587'),
                (b'250 mx\r\n', '[relay.a] user', '587')):
            error = self.fails(
                NotOffered, self.access(record=self.record()), offer)
            for word in words:
                self.assertIn(word, error.remedy)
            self.assertIsNone(self.record().refusal())

    def test_accepted(self):
        for _ in range(2):
            self.open(self.access(record=self.record()), hello('PLAIN'),
                      WELCOME)
        self.assertIsNone(self.record().refusal())
