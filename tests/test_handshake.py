# SPDX-License-Identifier: GPL-3.0-or-later

"""TLS and AUTH: what must never go wrong before the first message."""

import ssl
import base64
import socket
import logging
import smtplib
import unittest
import traceback

from contextlib import contextmanager
from importlib.resources import files
from mailman.testing.layers import (
    ConfigLayer,
    SMTPLayer,
    SMTPSLayer,
    STARTTLSLayer,
)
from mailman_mta_pool.connection import (
    SMTPConnection,
    SMTPSConnection,
    STARTTLSConnection,
)
from mailman_mta_pool.errors import (
    AuthenticationRefused,
    CertificateRefused,
    NotOffered,
    RelayUnavailable,
)
from mailman_mta_pool.settings import Timeouts, WireSettings
from tests.documentation import trusted_test_certificate
from tests.scripted import CLOSE, HANG, Scripted


MESSAGE = b'Subject: hi\r\n\r\nHello.\r\n'
USER, PASSWORD = 'zaphod@heartofgold.test', 'pa55-w0rd'
# So many characters in a row are recognized.
LONG_PART = 5
WITH_AUTH = ('PIPELINING', 'AUTH PLAIN LOGIN CRAM-MD5')


def send(connection):
    return connection.sendmail(
        'ant@example.com', ['anne@example.com'], MESSAGE)


def server_context():
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    directory = files('mailman.testing')
    context.load_cert_chain(
        directory / 'ssl_test_cert.crt', directory / 'ssl_test_key.key')
    return context


def parts(user, password):
    """The user name and the password, in pieces, as they might be seen."""
    plain = f'\0{user}\0{password}'
    for secret in (user, password):
        yield secret
        for character in secret:
            if not character.isascii():
                yield character
                # As it stands in the text of a UnicodeError.
                yield ascii(character).strip("'")
    for secret in (user, password, plain):
        encoded = base64.b64encode(secret.encode()).decode().rstrip('=')
        for text in (secret, encoded):
            for start in range(len(text) - LONG_PART + 1):
                yield text[start:start + LONG_PART]


def chain(error):
    """The exception, and those before it."""
    while error is not None:
        yield error
        error = error.__context__


@contextmanager
def all_that_is_logged():
    """Every line that any logger of the process gets, tracebacks included."""
    lines = []

    class Handler(logging.Handler):
        def emit(self, record):
            lines.append(logging.Formatter().format(record))
    handler = Handler()
    loggers = [logging.getLogger(), logging.getLogger('mailman.smtp')]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield lines
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


class TestAuthentication(unittest.TestCase):
    layer = SMTPLayer

    def connection(self, user, password):
        connection = SMTPConnection('localhost', 9025, 1, user, password)
        self.addCleanup(connection.quit)
        return connection

    def test_good(self):
        smtpd = SMTPLayer.smtpd
        connection = self.connection('testuser', 'testpass')
        # After every connect, and there is one for each message here.
        for _ in range(2):
            self.assertEqual(send(connection), {})
            self.assertEqual(smtpd.get_authentication_credentials(),
                             'AHRlc3R1c2VyAHRlc3RwYXNz')

    def test_bad(self):
        connection = self.connection('testuser', 'wrong')
        with self.assertRaises(smtplib.SMTPAuthenticationError) as caught:
            send(connection)
        self.assertIsInstance(caught.exception, RelayUnavailable)
        self.assertEqual(caught.exception.smtp_code, 571)
        self.assertFalse(caught.exception.waiting_helps)
        self.assertFalse(connection.is_open)
        self.assertEqual(list(SMTPLayer.smtpd.messages), [])

    def test_empty_is_none(self):
        for user, password in (
                ('', ''), (None, None), ('', 'x'), ('x', ''), (None, 'x')):
            with self.subTest(user=user, password=password), Scripted(
                    extensions=WITH_AUTH) as server:
                connection = SMTPConnection(
                    server.host, server.port, 0, user, password)
                self.assertEqual(send(connection), {})
                connection.quit()
                self.assertEqual(server.said('AUTH'), [])


class TestSecrets(unittest.TestCase):
    layer = ConfigLayer

    def assertNoSecrets(self, text, *credentials):
        for part in parts(*credentials):
            self.assertNotIn(part, text)

    def refused_by(self, server, user=USER, password=PASSWORD):
        """All that we say of a failed authentication."""
        connection = SMTPConnection(
            server.host, server.port, 0, user, password)
        connection.debug = True
        with all_that_is_logged() as lines:
            with self.assertRaises(RelayUnavailable) as caught:
                send(connection)
            logging.getLogger('mailman.smtp').error(
                'failed', exc_info=caught.exception)
        error = caught.exception
        texts = lines + [repr(connection)] + traceback.format_exception(
            type(error), error, error.__traceback__)
        for each in chain(error):
            texts += str(each), repr(each), repr(each.args), repr(vars(each))
        for text in texts:
            self.assertNoSecrets(text, user, password)
        return error

    def test_not_in_what_we_say(self):
        def script(command, session):
            if command.startswith('AUTH'):
                return '535 5.7.8 Not you'
        with Scripted(script, extensions=WITH_AUTH) as server:
            error = self.refused_by(server)
        self.assertIsInstance(error, AuthenticationRefused)
        self.assertIn('535 5.7.8 Not you', str(error))
        self.assertIn(f':{server.port}', str(error))

    def test_not_even_if_the_server_echoes_them(self):
        plain = base64.b64encode(f'\0{USER}\0{PASSWORD}'.encode()).decode()
        for echo in (USER, USER.upper(), USER.partition('@')[0], PASSWORD,
                     PASSWORD[:6], PASSWORD[2:], plain, plain[:12],
                     plain[-12:], base64.b64encode(USER.encode()).decode()):
            for reply in ('535 5.7.8 Not with {}', '454 4.7.0 Not {} now',
                          '535-5.7.8 No\n535 5.7.8 {}: no', '334 {}'):
                def script(command, session):
                    if command.startswith(('AUTH', '*')):
                        return reply.format(echo)
                with self.subTest(reply=reply, echo=echo), Scripted(
                        script, extensions=('AUTH PLAIN',)) as server:
                    error = self.refused_by(server)
                    if reply.startswith('535'):
                        self.assertIn('535 5.7.8 ', str(error))

    def test_not_if_the_server_echoes_a_command(self):
        def script(command, session):
            if command.startswith('AUTH'):
                return f'535 5.7.8 Not with {command} ({PASSWORD})'
        for mechanism in ('PLAIN', 'LOGIN', 'CRAM-MD5'):
            with self.subTest(mechanism), Scripted(
                    script, extensions=(f'AUTH {mechanism}',)) as server:
                self.refused_by(server)

    def test_not_if_they_are_not_ascii(self):
        def script(command, session):
            if command.startswith('AUTH'):
                return '535 5.7.8 Not you'
        for user, password in (
                (USER, 'pass\u00fcord'), ('zaph\u00f6d', PASSWORD),
                (USER, '\u8759'), ('zaph\u00f6d', '\U0001f41c')):
            for mechanism in ('PLAIN', 'LOGIN', 'CRAM-MD5'):
                with self.subTest(user=user, password=password,
                                  mechanism=mechanism), Scripted(
                        script, extensions=(f'AUTH {mechanism}',)) as server:
                    self.refused_by(server, user, password)

    def test_not_if_the_server_says_something_mad(self):
        def script(command, session):
            if command.startswith('AUTH'):
                return f'{command} is no reply\r\n'.encode()
        with Scripted(script, extensions=WITH_AUTH) as server:
            self.refused_by(server)

    def test_challenge_that_is_no_base64(self):
        def script(command, session):
            if command.startswith('AUTH'):
                return '334 x'
        with Scripted(script, extensions=('AUTH CRAM-MD5',)) as server:
            self.assertEqual(self.refused_by(server).phase, 'AUTH')

    def test_temporary_refusal(self):
        def script(command, session):
            if command.startswith('AUTH'):
                return '454 4.7.0 Later'
        with Scripted(script, extensions=WITH_AUTH) as server:
            self.assertTrue(self.refused_by(server).waiting_helps)

    def test_not_offered(self):
        with Scripted() as server:
            error = self.refused_by(server)
        self.assertIsInstance(error, NotOffered)
        self.assertIsInstance(error, smtplib.SMTPNotSupportedError)


class TestUnavailable(unittest.TestCase):
    """Whatever fails before the first message is the relay's failure."""

    layer = ConfigLayer

    def phase(self, script, **timeouts):
        with Scripted(script) as server:
            connection = SMTPConnection(
                server.host, server.port, 0,
                wire=WireSettings(timeouts=Timeouts(**timeouts)))
            with self.assertRaises(RelayUnavailable) as caught:
                send(connection)
            self.assertFalse(connection.is_open)
            return caught.exception.phase, caught.exception.code

    def test_nobody_there(self):
        with socket.create_server(('127.0.0.1', 0)) as nobody:
            port = nobody.getsockname()[1]
        with self.assertRaises(RelayUnavailable) as caught:
            send(SMTPConnection('127.0.0.1', port, 0))
        self.assertEqual(caught.exception.phase, 'connect')

    def test_bad_name(self):
        with self.assertRaises(RelayUnavailable) as caught:
            send(SMTPConnection('a' * 64 + '.example', 25, 0))
        self.assertEqual(caught.exception.phase, 'connect')

    def test_greeting(self):
        for reply, code in (('554 Go away', 554), ('421 Busy', 421),
                            (CLOSE, None), (b'hello\r\n', None),
                            (b'250 not a greeting\r\n', 250)):
            with self.subTest(reply=reply):
                self.assertEqual(self.phase(
                    lambda command, session: reply), ('greeting', code))

    def test_silence(self):
        self.assertEqual(self.phase(
            lambda command, session: HANG, greeting=0.05),
            ('greeting', None))

    def test_hello(self):
        def script(command, session):
            if command.startswith(('EHLO', 'HELO')):
                return '550 5.7.1 Not you'
        self.assertEqual(self.phase(script), ('EHLO', 550))


class _TLSTests:
    """What holds for TLS from the start and for STARTTLS."""

    def connection(self, host='localhost', cert=True, hostname=True):
        connection = self.kind(host, self.port, 0, cert, hostname)
        self.addCleanup(connection.quit)
        return connection

    def test_verified(self):
        with trusted_test_certificate():
            self.assertEqual(send(self.connection()), {})
        self.assertEqual(len(list(self.layer.smtpd.messages)), 1)

    def test_certificate_refused(self):
        # It is signed by nobody whom we know.
        with self.assertRaises(CertificateRefused) as caught:
            send(self.connection())
        self.assertIsInstance(
            caught.exception, ssl.SSLCertVerificationError)
        self.assertIsInstance(caught.exception, smtplib.SMTPException)
        self.assertFalse(caught.exception.waiting_helps)
        self.assertEqual(list(self.layer.smtpd.messages), [])

    def test_hostname_refused(self):
        with trusted_test_certificate():
            with self.assertRaises(CertificateRefused):
                send(self.connection('127.0.0.1'))
            self.assertEqual(
                send(self.connection('127.0.0.1', hostname=False)), {})

    def test_nothing_verified(self):
        for hostname in (True, False):
            connection = self.connection(
                '127.0.0.1', cert=False, hostname=hostname)
            self.assertFalse(connection.verify_hostname)
            self.assertEqual(send(connection), {})


class TestSMTPS(_TLSTests, unittest.TestCase):
    layer = SMTPSLayer
    kind = SMTPSConnection
    port = 9465


class TestSTARTTLS(_TLSTests, unittest.TestCase):
    layer = STARTTLSLayer
    kind = STARTTLSConnection
    port = 9587


class TestSTARTTLSParanoia(unittest.TestCase):
    layer = ConfigLayer

    def connection(self, server, **kws):
        connection = STARTTLSConnection(
            server.host, server.port, 0, False, False, **kws)
        self.addCleanup(connection.quit)
        return connection

    def test_not_offered(self):
        with Scripted(extensions=WITH_AUTH) as server:
            with self.assertRaises(smtplib.SMTPNotSupportedError):
                send(self.connection(
                    server, smtp_user=USER, smtp_pass=PASSWORD))
            self.assertEqual(server.said('MAIL'), [])
            self.assertEqual(server.said('AUTH'), [])

    def test_refused(self):
        def script(command, session):
            if command == 'STARTTLS':
                return '454 4.7.0 TLS not available'
        with Scripted(script, extensions=('STARTTLS',)) as server:
            with self.assertRaises(RelayUnavailable) as caught:
                send(self.connection(server))
            self.assertEqual(caught.exception.phase, 'TLS')
            self.assertEqual(server.said('MAIL'), [])

    def test_octets_before_the_handshake(self):
        # CVE-2011-0411: whoever sits on the line could put words into the
        # server's mouth.
        for more in (b'250 injected\r\n', b'2'):
            def script(command, session):
                if command == 'STARTTLS':
                    return b'220 Ready\r\n' + more
            with self.subTest(more=more), Scripted(
                    script, extensions=('STARTTLS', 'AUTH PLAIN'),
                    tls=server_context()) as server:
                with self.assertRaises(RelayUnavailable):
                    send(self.connection(
                        server, smtp_user=USER, smtp_pass=PASSWORD))
                self.assertEqual(server.said('MAIL'), [])
                self.assertEqual(server.said('AUTH'), [])

    def test_what_was_offered_in_clear_is_forgotten(self):
        def script(command, session):
            if command.startswith('EHLO') and 'EHLO' not in seen:
                seen.append('EHLO')
                return '250 clear\n250 STARTTLS\n250 PIPELINING\n250 SMTPUTF8'
        seen = []
        with Scripted(script, extensions=('8BITMIME',),
                      tls=server_context()) as server:
            refused = self.connection(server).sendmail(
                'ant@example.com',
                ['\u00e9@example.com', 'anne@example.com'], MESSAGE)
            # Only the second EHLO counts, and that does not have SMTPUTF8.
            self.assertEqual(list(refused), ['\u00e9@example.com'])
            self.assertEqual(server.served, ['anne@example.com'])
