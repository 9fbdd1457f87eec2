# SPDX-License-Identifier: GPL-3.0-or-later

"""Logins at Dovecot's submission service, and at a Postfix that asks it."""

import unittest

from contextlib import ExitStack
from importlib.resources import files
from mailman.testing.layers import ConfigLayer
from mailman_mta_pool.demo.site import SiteError
from mailman_mta_pool.errors import AuthenticationRefused, NotOffered
from mailman_mta_pool.network.border import border
from mailman_mta_pool.relays.factories import connection_for
from mailman_mta_pool.secret import Secret
from mailman_mta_pool.settings import (
    AuthSettings,
    BEARER_MECHANISMS,
    PASSWORD_MECHANISMS,
    RelaySettings,
    TLSSettings,
    TokenSettings,
)
from pathlib import Path
from tempfile import NamedTemporaryFile
from tests.fault.relays import relay, sections
from tests.operate.authority import Authority, available as no_openssl
from tests.servers import dovecot, postfix
from tests.servers.dovecot import Dovecot
from tests.servers.loopback import is_listening
from tests.servers.postfix import Postfix
from tests.servers.recorder import Recorder
from tests.servers.tokens import TokenEndpoint
from tests.site_case import SiteTestCase


REASON = dovecot.available() or postfix.available()
#: Passwords and tokens with every awkward character.
AWKWARD = {
    'ant': 'formic',
    'utf8': 'p\xe4ssw\xf6rd \N{EURO SIGN} \U0001f41c',
    'percent': '%s%u%%20%{user} 100%',
    'hash': '#x # y#',
    'spaces': '  a  b  ',
    'rest': '"\'\\`$(x);:{PLAIN}=,<>&|!*?~^',
    'long': 'x' * 250 + '\xe4' * 125,
    }
#: Passwords that Dovecot takes for other ones than RFC 5802 does.
AMBIGUOUS = {'nfkc': 'x\xb2 \N{LATIN SMALL LIGATURE FI}', 'nbsp': 'a\xa0b',
             'nfd': 'a\u0308u\u0308', 'hyphen': 'ab\xadcd'}
USERS = {**AWKWARD, **AMBIGUOUS}
SUBJECT = 'Subject: x\r\n\r\nx'
MODES = ('smtps', 'starttls')
SLICES = 4
CA = str(files('mailman.testing') / 'ssl_test_cert.crt')


class WrappedPostfix(Postfix):
    """A Postfix that greets within TLS only."""

    def is_ready(self):
        """See `Postfix`."""
        return is_listening(self.port)


class Logins:
    """The same for both servers."""

    layer = ConfigLayer

    def setUp(self):
        resources = ExitStack()
        self.addCleanup(resources.close)
        self.use = resources.enter_context
        self.recorder = self.use(Recorder())
        self.introspection = self.use(TokenEndpoint(self.introspected))

    def introspected(self, form):
        """What the endpoint says of a token to Dovecot."""
        for user, token in AWKWARD.items():
            if form['token'] == token:
                return 200, {'active': True, 'username': user}
        return 200, {'active': False}

    def relay(self, mode, mechanism, user, secret):
        token = password = None
        if mechanism in BEARER_MECHANISMS:
            # A program that prints it, by way of a file.
            path = self.use_file(secret)
            token = TokenSettings(command=Secret(f'cat {path}'))
        else:
            password = secret
        return RelaySettings(
            name='a', host='localhost', port=self.ports[mode],
            secure_mode=mode, user=user, password=Secret(password or ''),
            tls=TLSSettings(ca=CA),
            auth=AuthSettings((mechanism,), token=token))

    def use_file(self, text):
        file = self.use(NamedTemporaryFile('w', encoding='utf-8'))
        file.write(text + '\n')
        file.flush()
        return file.name

    def log_in(self, *args):
        """Log in, send something, and return the mechanism."""
        found = {}
        connection = connection_for(self.relay(*args))
        border.call(lambda: connection.open(
            note=lambda name, value: found.setdefault(name, value)))
        try:
            self.assertEqual(connection.sendmail(
                'a@example.com', ['b@example.com'], SUBJECT), {})
        finally:
            connection.quit()
        return found['mechanism']

    def test_right(self):
        for mode in MODES:
            for mechanism in PASSWORD_MECHANISMS + BEARER_MECHANISMS:
                for user, secret in AWKWARD.items():
                    with self.subTest(mode=mode, mechanism=mechanism,
                                      user=user):
                        self.assertEqual(self.log_in(
                            mode, mechanism, user, secret), mechanism)
        self.assertEqual(self.refused(), [])

    def test_wrong(self):
        count = 0
        for mode in MODES:
            for mechanism in PASSWORD_MECHANISMS + BEARER_MECHANISMS:
                with self.subTest(mode=mode, mechanism=mechanism):
                    connection = connection_for(self.relay(
                        mode, mechanism, 'ant', 'Wr0ng-Zebra'))
                    with self.assertRaises(AuthenticationRefused) as caught:
                        border.call(connection.open)
                    self.assertEqual(caught.exception.code, 535)
                    self.assertFalse(caught.exception.waiting_helps)
                    if mechanism in BEARER_MECHANISMS:
                        # The error in JSON.
                        self.assertIn('status', str(caught.exception))
                    count += 1
                    self.assertEqual(len(self.refused()), count)

    def test_strongest(self):
        relay = self.relay('starttls', 'PLAIN', 'ant', AWKWARD['ant'])
        found = {}
        connection = connection_for(RelaySettings(
            **{**vars(relay), 'auth': AuthSettings()}))
        border.call(lambda: connection.open(
            note=lambda name, value: found.setdefault(name, value)))
        connection.quit()
        self.assertEqual(found['mechanism'], 'SCRAM-SHA-256')

    def test_passwords_that_are_prepared_in_two_ways(self):
        for user, password in AMBIGUOUS.items():
            with self.subTest(user=user):
                relay = self.relay('starttls', 'PLAIN', user, password)
                connection = connection_for(RelaySettings(
                    **{**vars(relay), 'auth': AuthSettings()}))
                border.call(connection.open)
                connection.quit()
        self.assertEqual(self.refused(), [])

    def test_not_verified(self):
        relay = self.relay('starttls', 'PLAIN', 'ant', AWKWARD['ant'])
        connection = connection_for(RelaySettings(
            **{**vars(relay), 'verify_cert': False}))
        with self.assertRaises(NotOffered):
            border.call(connection.open)
        self.assertEqual(self.refused(), [])


@unittest.skipIf(REASON, REASON)
class TestDovecot(Logins, unittest.TestCase):
    def setUp(self):
        super().setUp()
        self.dovecot = self.use(Dovecot(
            self.recorder, USERS, self.introspection.url))
        self.ports = {'smtps': self.dovecot.tls_port,
                      'starttls': self.dovecot.port}

    def refused(self):
        return self.dovecot.failures()


@unittest.skipIf(REASON or no_openssl(), REASON or no_openssl())
class TestExternal(SiteTestCase):
    """EXTERNAL (RFC 4422, appendix A), at Dovecot, by our certificate."""

    layer = ConfigLayer

    def setUp(self):
        super().setUp()
        self.ants, self.bees = (
            self.use(Authority(name)) for name in ('The Ants', 'The Bees'))
        self.recorder = self.use(Recorder())
        self.dovecot = self.use(Dovecot(
            self.recorder, {'ant': 'formic', 'cat': 'purr'},
            authority=self.ants.certificate))
        self.ports = {'smtps': self.dovecot.tls_port,
                      'starttls': self.dovecot.port}

    def connection(self, mode, issued, user):
        tls = TLSSettings(ca=CA)
        if issued is not None:
            tls = TLSSettings(ca=CA, cert=issued.cert, key=issued.key)
        return connection_for(RelaySettings(
            name='a', host='localhost', port=self.ports[mode],
            secure_mode=mode, user=user, tls=tls,
            auth=AuthSettings(('EXTERNAL',))))

    def test_right(self):
        issued = self.ants.issue('DNS:lists.example.com', subject='ant')
        for mode in MODES:
            # The server says who that is, or we do.
            for user in ('', 'ant'):
                with self.subTest(mode=mode, user=user):
                    found = {}
                    connection = self.connection(mode, issued, user)
                    border.call(lambda: connection.open(
                        note=found.__setitem__))
                    self.assertEqual(found['mechanism'], 'EXTERNAL')
                    self.assertEqual(connection.sendmail(
                        'a@example.com', ['b@example.com'], SUBJECT), {})
                    connection.quit()
        self.assertEqual(len(self.recorder.messages()), 2 * len(MODES))
        self.assertEqual(self.dovecot.failures(), [])

    def test_wrong(self):
        ant = self.ants.issue('DNS:a.example.com', subject='ant')
        nobody = self.ants.issue('DNS:b.example.com', subject='bee')
        stranger = self.bees.issue('DNS:a.example.com', subject='ant')
        for mode in MODES:
            for issued, user, words in (
                    # There is no such user, or that is another one.
                    (nobody, '', 'Authentication failed'),
                    (ant, 'cat', 'Authentication failed'),
                    # Anybody can make one.
                    (stranger, '', 'present valid SSL certificate'),
                    (stranger, 'ant', 'present valid SSL certificate'),
                    (None, 'ant', 'present valid SSL certificate')):
                with self.subTest(mode=mode, issued=issued, user=user):
                    connection = self.connection(mode, issued, user)
                    with self.assertRaises(AuthenticationRefused) as caught:
                        border.call(connection.open)
                    self.assertIn(words, str(caught.exception))
                    self.assertEqual(caught.exception.code, 535)
                    self.assertFalse(caught.exception.waiting_helps)
        self.assertEqual(self.recorder.messages(), [])

    def test_a_site(self):
        # Another certificate in the place of the file is another login, for
        # the runner that has been refused, too.
        bee, ant = (self.ants.issue('DNS:a.example.com', subject=name)
                    for name in ('bee', 'ant'))
        site = self.site(self.recorder, members=2)
        cert, key = (site.directory / name for name in ('cert', 'key'))

        def install(issued):
            for path, source in ((cert, issued.cert), (key, issued.key)):
                new = path.with_suffix('.new')
                new.write_bytes(Path(source).read_bytes())
                new.chmod(0o600)
                new.replace(path)
        install(bee)
        site.set_up(settings=sections({'delivery': {'patience': 0}}, a=relay(
            self.dovecot, host='localhost', secure_mode='starttls', tls_ca=CA,
            auth='external', tls_cert=cert, tls_key=key)))
        first, second = sorted(site.members)
        with site.runner():
            for _ in range(2):
                site.post(recipients={first})
                site.wait_until_empty()
            self.assertEqual(len(self.dovecot.failures()), 1)
            with self.assertRaises(SiteError) as caught:
                site.mailman('mta-pool', 'check')
            self.assertIn('[relay.a] tls_cert', str(caught.exception))
            install(ant)
            site.post(recipients={second})
            site.wait_until_empty()
        self.assertEqual(
            [received.recipients for received in self.recorder.messages(1)],
            [[second]])
        line, = [line for line in site.logs().splitlines()
                 if 'the login is refused with' in line]
        self.assertIn('the certificate of [relay.a] tls_cert; nobody', line)
        self.assertQuiet(site)


@unittest.skipIf(REASON, REASON)
class TestPostfix(Logins, unittest.TestCase):
    def setUp(self):
        super().setUp()
        self.dovecot = self.use(Dovecot(
            self.recorder, USERS, self.introspection.url))
        keys = {'smtpd_tls_cert_file': CA,
                'smtpd_tls_key_file': str(
                    files('mailman.testing') / 'ssl_test_key.key'),
                'smtpd_sasl_auth_enable': 'yes',
                'smtpd_sasl_type': 'dovecot',
                'smtpd_sasl_path': self.dovecot.auth_socket,
                'smtpd_tls_auth_only': 'yes',
                'smtpd_error_sleep_time': '0',
                'smtpd_relay_restrictions':
                    'permit_sasl_authenticated, reject'}
        self.servers = {
            'starttls': self.use(Postfix(
                smtpd_tls_security_level='may', **keys)),
            'smtps': self.use(WrappedPostfix(
                smtpd_tls_wrappermode='yes',
                smtpd_tls_security_level='encrypt', **keys))}
        self.ports = {
            mode: server.port for mode, server in self.servers.items()}

    def refused(self):
        for server in self.servers.values():
            # All that was logged by now is in the file then.
            server.wait_until_delivered()
        return [line for server in self.servers.values()
                for line in server.log().text.splitlines()
                if 'authentication failed' in line]


@unittest.skipIf(REASON, REASON)
class TestRunners(SiteTestCase):
    def test_wrong_password(self):
        # Eight connections of each of four runners: one login.
        recorder = self.use(Recorder())
        server = self.use(Dovecot(recorder, {'ant': 'formic'}))
        site = self.site(server)
        site.set_up(settings=sections({'delivery': {'split': 5}}, a=relay(
            server, host='localhost', secure_mode='starttls', tls_ca=CA,
            user='ant', password='Wr0ng-Zebra', max_connections=8)),
            extra=f'[runner.out]\ninstances: {SLICES}\n')
        for _ in range(SLICES):
            site.post(verp=True)
        with ExitStack() as resources:
            for number in range(SLICES):
                resources.enter_context(
                    site.runner(f'out:{number}:{SLICES}'))
            site.wait_until_empty()
        self.assertEqual(len(server.failures()), 1, server.log())
        self.assertEqual(site.bounced(), [])
        self.assertEqual(set(site.waiting()), {'retry'})
        logs = site.logs()
        self.assertEqual(logs.count('the login is refused with'), 1)
        self.assertNotIn('Zebra', logs)
        self.assertQuiet(site)

    def test_personal(self):
        # Dovecot crashes if a transaction follows before it has answered.
        recorder = self.use(Recorder())
        server = self.use(Dovecot(recorder, {'ant': 'formic acid'}))
        site = self.site(server, members=60)
        for chunking in ('auto', 'no'):
            site.set_up(settings=sections({}, a=relay(
                server, host='localhost', secure_mode='starttls', tls_ca=CA,
                user='ant', password='formic acid', max_connections=8,
                chunking=chunking)))
            site.run({'verp': True})
        served = [recipient for message in recorder.messages()
                  for recipient in message.recipients]
        self.assertEqual(sorted(served), sorted(2 * site.members))
        self.assertEqual(site.waiting(), {})
        self.assertNotIn('Panic', server.log())
        self.assertQuiet(site)
