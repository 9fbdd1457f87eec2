# SPDX-License-Identifier: GPL-3.0-or-later
"""TLS: with whom we speak, and what is refused, in which words."""

import os
import ssl
import socket
import asyncio
import unittest
import warnings
import subprocess

from dataclasses import replace
from hypothesis import given, strategies as st
from mailman_mta_pool.connection.addresses import Addresses
from mailman_mta_pool.connection.certificate import read_certificate
from mailman_mta_pool.connection.opening import Endpoint, open_connection
from mailman_mta_pool.connection.tls import (
    context_for,
    has_name_of,
    Identity,
    identity_for,
    unverified_context,
    with_colons,
)
from mailman_mta_pool.errors import (
    CertificateRefused,
    ClientCertificateRefused,
    NoCommonTLS,
    NotOffered,
    RelayUnavailable,
)
from mailman_mta_pool.login.access import access_of
from mailman_mta_pool.settings import Timeouts, TLSSettings
from pathlib import Path
from tempfile import TemporaryDirectory
from tests.operate.authority import Authority, available
from tests.scripted import CLOSE, HOST, Scripted
from unittest import mock


TIMEOUTS = Timeouts(connect=20, greeting=20, hello=20)
PASSWORD = 'formic-acid'
# With a letter, or a name could be an address.
LABEL = st.from_regex('[a-z]([a-z0-9-]{0,5}[a-z0-9])?', fullmatch=True)
NAME = st.lists(LABEL, min_size=2, max_size=4).map('.'.join)


def old_context(issued):
    """A server's context that speaks nothing newer than TLS 1.1."""
    context = issued.context()
    with warnings.catch_warnings():
        # That is what is tested.
        warnings.simplefilter('ignore', DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers('ALL:@SECLEVEL=0')
    return context


def only(context, version):
    """A context that speaks one version of TLS."""
    context.minimum_version = context.maximum_version = version
    return context


@unittest.skipIf(available(), available())
class TLSTestCase(unittest.TestCase):
    """A test case with certificates."""

    @classmethod
    def setUpClass(cls):
        cls.ants, cls.bees = Authority('The Ants'), Authority('The Bees')
        for authority in (cls.ants, cls.bees):
            authority.__enter__()
            cls.addClassCleanup(authority.__exit__)
        cls.good = cls.ants.issue('DNS:localhost', 'DNS:mx.example.com')
        cls.expired = cls.ants.issue('DNS:localhost', days=-3)
        cls.of_other = cls.ants.issue('DNS:other.example.net')
        cls.of_bees = cls.bees.issue('DNS:localhost')
        cls.trusting = TLSSettings(ca=cls.ants.certificate)

    def serving(self, context, mode, script=None):
        """A server in TLS; a context manager."""
        return Scripted(
            script or (lambda command, session: None), tls=context,
            from_start=mode == 'implicit_tls',
            extensions=('STARTTLS', 'AUTH PLAIN'))

    def connect(self, server, mode, tls, host='localhost', verify=(True, True),
                note=lambda name, value: None):
        """Open a connection and close it; return the version of TLS."""
        endpoint = Endpoint(
            host, server.port, **{mode: context_for(*verify, tls)},
            identity=identity_for(*verify, tls),
            access=access_of('', 'ant', PASSWORD))

        async def main():
            return await open_connection(
                endpoint, TIMEOUTS, Addresses(), note=note)
        found = (socket.AF_INET, socket.SOCK_STREAM, 6, '',
                 (HOST, server.port))
        with mock.patch.object(socket, 'getaddrinfo', return_value=[found]):
            opened = asyncio.run(main())
        with opened.sock as sock:
            return sock.tls.version()

    def assertRefused(self, kind, context, tls, *words, script=None,
                      modes=('implicit_tls', 'starttls'), **options):
        """Both ways it is refused, and nothing that matters was sent.

        :return: The errors.
        """
        errors = []
        for mode in modes:
            with self.subTest(mode=mode, words=words):
                with self.serving(context, mode, script) as server:
                    with self.assertRaises(kind) as caught:
                        self.connect(server, mode, tls, **options)
                error = caught.exception
                self.assertEqual(error.phase, 'TLS')
                for word in words:
                    self.assertIn(word, f'{error.reason} / {error.remedy}')
                self.assertTrue(error.remedy.endswith('.'))
                self.assertLessEqual(
                    {command.split()[0] for _, command in server.commands},
                    {'EHLO', 'STARTTLS'})
                self.assertNotIn(PASSWORD, str(error))
                errors.append(error)
        return errors


class TestRefusals(TLSTestCase):
    def test_each_in_its_own_words(self):
        tls = self.trusting
        pinned = TLSSettings(fingerprints=(self.good.fingerprint,))
        errors = [
            *self.assertRefused(
                CertificateRefused, self.expired.context(), tls,
                'certificate has expired', 'Renew'),
            *self.assertRefused(
                CertificateRefused, self.ants.context(
                    'DNS:localhost', since=2), tls,
                'not yet valid', 'Set the clock'),
            *self.assertRefused(
                CertificateRefused, self.of_other.context(), tls,
                'localhost', 'tls_names'),
            *self.assertRefused(
                CertificateRefused, self.ants.context(
                    'DNS:localhost', purpose='clientAuth'), tls,
                'unsuitable', 'made anew: for a server', 'tls_fingerprint'),
            *self.assertRefused(
                CertificateRefused, self.of_bees.context(), tls,
                'unable to get local issuer', 'tls_ca'),
            *self.assertRefused(
                CertificateRefused, self.of_bees.context(), pinned,
                'not that of tls_fingerprint', 'for localhost, until 20',
                with_colons(self.of_bees.fingerprint), 'somebody is in'),
            *self.assertRefused(
                CertificateRefused, self.of_other.context(), replace(
                    tls, names=('mx.example.com', '192.0.2.1')),
                'none of tls_names, mx.example.com, 192.0.2.1',
                'for other.example.net', 'Correct'),
            *self.assertRefused(
                NoCommonTLS, old_context(self.good), tls, 'tls_min_version',
                'TLS 1.2 or 1.3'),
            ]
        for error in errors:
            self.assertFalse(error.waiting_helps)
        # Each kind has its own words, whatever the mode.
        self.assertEqual(len({error.reason for error in errors}), 8)
        self.assertEqual(len({error.remedy for error in errors}), 8)

    def test_too_old_a_version(self):
        context = only(self.good.context(), ssl.TLSVersion.TLSv1_2)
        self.assertRefused(
            NoCommonTLS, context, replace(self.trusting, min_version='1.3'),
            'tls_min_version', 'if tls_min_version is 1.3, 1.2 may do')

    def test_stripped(self):
        for offer, words in (
                ((), 'does not offer STARTTLS'),
                (('XXXXXXXA', 'AUTH PLAIN'), 'has hidden the STARTTLS')):
            with Scripted(extensions=offer) as server:
                with self.assertRaises(NotOffered) as caught:
                    self.connect(server, 'starttls', self.trusting)
            error = caught.exception
            self.assertIn(words, error.reason)
            self.assertIn('nothing was sent in clear', error.reason)
            self.assertIn('465', error.remedy)
            self.assertEqual(
                [command.split()[0] for _, command in server.commands],
                ['EHLO'])

    def test_injected(self):
        def inject(text):
            def script(command, session):
                if command == 'STARTTLS':
                    return b'220 Ready\r\n' + text
            return script
        for text in (b'250 AUTH PLAIN\r\n', b'421 Away\r\n', b'\0', b'2'):
            error, = self.assertRefused(
                RelayUnavailable, self.good.context(), self.trusting,
                'in clear between', "server's mouth", script=inject(text),
                modes=['starttls'])
            self.assertIsNone(error.code)

    def test_injected_a_little_later(self):
        # It comes when the client has begun to speak TLS.
        class Late:
            def wrap_socket(self, sock, **keywords):
                sock.recv(4096)
                sock.sendall(b'250-example.com\r\n250 AUTH PLAIN\r\n')
                return sock
        self.assertRefused(
            RelayUnavailable, Late(), self.trusting, 'is not TLS',
            modes=['starttls'])

    def test_injected_before_it_is_asked_for(self):
        def script(command, session):
            if command.startswith('EHLO'):
                return b'250-mx\r\n250 STARTTLS\r\n220 Ready\r\n'
        self.assertRefused(
            RelayUnavailable, self.good.context(), self.trusting,
            'in clear before STARTTLS', "server's mouth", script=script,
            modes=['starttls'])

    def test_refused_after_it_was_offered(self):
        for reply in '454 4.7.0 Not now', '502 5.5.1 What?', '250 Ok':
            def script(command, session):
                if command == 'STARTTLS':
                    return reply
            error, = self.assertRefused(
                RelayUnavailable, self.good.context(), self.trusting, reply,
                'private key may be missing', script=script,
                modes=['starttls'])
            self.assertEqual(error.waiting_helps, reply[0] != '5')

    def test_hung_up_in_the_handshake(self):
        class Broken:
            def wrap_socket(self, sock, **keywords):
                if reads:
                    sock.recv(4096)
                raise OSError('closed on purpose')
        # If there is something that was not read, the connection is reset.
        for reads in True, False:
            for error in self.assertRefused(
                    RelayUnavailable, Broken(), self.trusting,
                    'hung up in the TLS handshake', 'firewalls'):
                self.assertTrue(error.waiting_helps)

    def test_what_openssl_says_of_itself(self):
        class Odd:
            def wrap_socket(self, sock, **keywords):
                sock.recv(4096)
                # A ServerHello of one octet.
                sock.sendall(bytes.fromhex('160303000502000001ff'))
                raise OSError('closed on purpose')
        for error in self.assertRefused(
                RelayUnavailable, Odd(), self.trusting, 'TLS is broken ('):
            # Not where in the C module it was found.
            self.assertNotIn('_ssl', error.reason)

    def test_alert(self):
        class Alerting:
            def wrap_socket(self, sock, **keywords):
                sock.recv(4096)
                sock.sendall(b'\x15\x03\x03\0\2\2' + alert)
                raise OSError('closed on purpose')
        # 40 is handshake_failure, and 50 decode_error.
        for alert in bytes([40]), bytes([50]):
            self.assertRefused(
                NoCommonTLS, Alerting(), self.trusting, 'no version',
                'no cipher', 'certificate of ours', 'tls_cert')

    def test_no_greeting_in_clear(self):
        # A server that begins with TLS waits for us, and we for it.
        for reply, words in ((CLOSE, 'closed the connection'),
                             (b'\x15\3\3\0\2\2\x46\r\n', 'not an SMTP'),
                             (b'SSH-2.0-x\r\n', ''),
                             ('554 5.7.1 Go away', '')):
            def script(command, session):
                if command == 'CONNECT':
                    return reply
            with self.serving(
                    self.good.context(), 'starttls', script) as server:
                with self.assertRaises(RelayUnavailable) as caught:
                    self.connect(server, 'starttls', self.trusting)
            error = caught.exception
            self.assertEqual(error.phase, 'greeting')
            self.assertIn(words, error.reason)
            self.assertEqual('begins with TLS' in error.remedy, bool(words))

    def test_no_tls_there(self):
        with Scripted() as server:
            with self.assertRaises(RelayUnavailable) as caught:
                self.connect(server, 'implicit_tls', self.trusting)
        self.assertIn('is not TLS', caught.exception.reason)
        self.assertIn('465', caught.exception.remedy)
        # It may have said 421 in clear, and be well a moment later.
        self.assertTrue(caught.exception.waiting_helps)


class TestAccepted(TLSTestCase):
    def assertAccepted(self, context, tls, **options):
        """Both ways it is accepted; return the versions of TLS."""
        versions = set()
        for mode in ('implicit_tls', 'starttls'):
            with self.serving(context, mode) as server:
                versions.add(self.connect(server, mode, tls, **options))
                self.assertEqual(len(server.said('AUTH')), 1)
        return versions

    def test_pinned(self):
        # Neither the authority nor the name nor the date counts.
        for issued in (self.of_bees, self.expired, self.of_other):
            for verify in ((True, True), (False, False)):
                self.assertAccepted(issued.context(), TLSSettings(
                    fingerprints=('0' * 64, issued.fingerprint)),
                    verify=verify)

    def test_names(self):
        self.assertAccepted(self.good.context(), replace(
            self.trusting, names=('a.example.org', 'MX.example.com')),
            host=HOST)
        # The subject counts if there is no other name, as with the host's.
        subject = self.ants.issue(subject='mx.example.com')
        for names in (), ('mx.example.com',):
            self.assertAccepted(subject.context(), replace(
                self.trusting, names=names), host='mx.example.com')
        # They do not matter where the name does not.
        for verify in ((True, False), (False, True)):
            self.assertAccepted(self.good.context(), replace(
                self.trusting, names=('a.example.org',)), verify=verify)

    def test_directory_of_authorities(self):
        tls = TLSSettings(ca=self.ants.rehash())
        self.assertAccepted(self.good.context(), tls)
        with self.serving(self.of_bees.context(), 'starttls') as server:
            with self.assertRaises(CertificateRefused):
                self.connect(server, 'starttls', tls)

    def test_newest_version(self):
        self.assertEqual(self.assertAccepted(
            self.good.context(), replace(self.trusting, min_version='1.3')),
            {'TLSv1.3'})

    def test_name_that_is_asked_for(self):
        for host, names, wanted in (
                ('localhost', (), 'localhost'),
                ('localhost.', (), 'localhost'),
                (HOST, ('mx.example.com', 'localhost'), 'mx.example.com')):
            asked = []
            context = self.good.context()
            context.sni_callback = lambda sock, name, _: asked.append(name)
            self.assertAccepted(
                context, replace(self.trusting, names=names), host=host)
            self.assertEqual(asked, [wanted] * 2)

    def test_name_that_is_asked_for_without_verification(self):
        pinned = TLSSettings(fingerprints=(self.good.fingerprint,))
        for tls, verify in (
                (self.trusting, (True, False)), (TLSSettings(), (False, True)),
                (pinned, (True, True)), (pinned, (False, False))):
            asked = []
            context = self.good.context()
            context.sni_callback = lambda sock, name, _: asked.append(name)
            self.assertAccepted(
                context, replace(tls, names=('mx.example.com', 'localhost')),
                verify=verify)
            self.assertEqual(asked, ['mx.example.com'] * 2)

    def test_names_and_expiry_without_verification(self):
        # `mailman mta-pool check` shows them by this.
        found = {}
        with self.serving(self.expired.context(), 'implicit_tls') as server:
            self.connect(
                server, 'implicit_tls', TLSSettings(), verify=(False, False),
                note=lambda name, value: found.update({
                    name: value.getpeercert(True)} if name == 'tls' else {}))
        certificate = read_certificate(found['tls'])
        self.assertEqual(certificate.names, ('localhost',))
        self.assertEqual(certificate.issuer, 'CN=The Ants')


class TestOurCertificate(TLSTestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.ours = cls.ants.issue('DNS:lists.example.com', subject='lists')
        cls.stranger = cls.bees.issue('DNS:lists.example.com')
        cls.late = cls.ants.issue('DNS:lists.example.com', days=-1)

    def showing(self, issued):
        """Settings with a certificate."""
        return replace(self.trusting, cert=issued.cert, key=issued.key)

    def test_shown(self):
        for mode in ('implicit_tls', 'starttls'):
            shown = []

            def script(command, session):
                if command.startswith('AUTH'):
                    shown.append(command)
            context = self.good.context(self.ants.certificate)
            with self.serving(context, mode, script) as server:
                self.connect(server, mode, self.showing(self.ours))
            self.assertEqual(len(shown), 1)

    def test_refused(self):
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            for issued, words in (
                    (self.stranger, 'refuses our certificate'),
                    (self.late, 'refuses our certificate'),
                    (None, 'certificate of ours')):
                with self.subTest(version=version, words=words):
                    context = only(
                        self.good.context(self.ants.certificate), version)
                    tls = self.trusting if issued is None else (
                        self.showing(issued))
                    self.assertRefused(
                        (ClientCertificateRefused, NoCommonTLS), context, tls,
                        words, 'tls_cert')

    def test_said_in_a_reply(self):
        # So does Postfix with smtpd_tls_req_ccert.
        said = '421 4.7.1 mx Error: Client certificate not trusted'
        # So does nginx with ssl_verify_client.
        wanted = '421 4.7.1 No required SSL certificate'
        for mode, verb in (('implicit_tls', 'CONNECT'), ('starttls', 'EHLO')):
            for reply, kind in ((said, ClientCertificateRefused),
                                (wanted, ClientCertificateRefused),
                                ('421 4.3.2 Busy', RelayUnavailable)):
                def script(command, session):
                    if session.is_secure and command.startswith(verb):
                        return reply
                for tls, words in (
                        (self.showing(self.ours), 'Let the mail server know'),
                        (self.trusting, 'Set tls_cert and tls_key')):
                    with self.serving(
                            self.good.context(), mode, script) as server:
                        with self.assertRaises(RelayUnavailable) as caught:
                            self.connect(server, mode, tls)
                    error = caught.exception
                    self.assertIs(type(error), kind)
                    self.assertIn(reply, error.reason)
                    is_ours = kind is ClientCertificateRefused
                    self.assertEqual(error.phase == 'TLS', is_ours)
                    self.assertEqual(words in error.remedy, is_ours)

    def test_connection_lost_instead(self):
        # The server's alert may not arrive: it has not read all.
        def script(command, session):
            if command.startswith('EHLO') and session.is_secure:
                return CLOSE
        with self.serving(
                self.good.context(), 'starttls', script) as server:
            for tls, words in ((self.showing(self.ours), 'tls_cert'),
                               (self.trusting, '')):
                with self.assertRaises(RelayUnavailable) as caught:
                    self.connect(server, 'starttls', tls)
                self.assertEqual(caught.exception.phase, 'EHLO')
                self.assertEqual('right after the TLS handshake' in
                                 caught.exception.reason, bool(words))
                self.assertIn(words, caught.exception.remedy)

    def test_files_that_change(self):
        # A context is made anew; what is half renewed is said with its key.
        with TemporaryDirectory() as directory:
            cert, key = Path(directory, 'cert'), Path(directory, 'key')
            cert.write_text(Path(self.ours.cert).read_text())
            key.write_text(Path(self.ours.key).read_text())
            tls = replace(self.trusting, cert=str(cert), key=str(key))
            first = context_for(True, True, tls)
            self.assertIs(context_for(True, True, tls), first)
            cert.unlink()
            with self.assertRaisesRegex(OSError, 'tls_cert .*No such file'):
                context_for(True, True, tls)
            cert.write_text(Path(self.late.cert).read_text())
            with self.assertRaisesRegex(
                    OSError, f'tls_cert {cert} with tls_key {key} cannot .*'
                    'mismatch'):
                context_for(True, True, tls)
            key.unlink()
            key.write_text(Path(self.late.key).read_text())
            self.assertIsNot(context_for(True, True, tls), first)

    def test_passphrase_is_not_asked_for(self):
        with TemporaryDirectory() as directory:
            key = Path(directory, 'key')
            subprocess.run(
                ('openssl', 'pkey', '-aes128', '-passout', 'pass:x', '-in',
                 self.ours.key, '-out', key), check=True)
            with self.assertRaisesRegex(OSError, 'passphrase'):
                context_for(True, True, replace(
                    self.trusting, cert=self.ours.cert, key=str(key)))


class TestContexts(TLSTestCase):
    def test_what_openssl_verifies(self):
        names = TLSSettings(names=('a.example.com',))
        pinned = TLSSettings(fingerprints=('0' * 64,))
        for verify, tls, required, named in (
                ((True, True), TLSSettings(), True, True),
                ((True, False), TLSSettings(), True, False),
                ((False, True), TLSSettings(), False, False),
                ((True, True), names, True, False),
                ((True, True), pinned, False, False)):
            context = context_for(*verify, tls)
            self.assertEqual(
                (context.verify_mode, context.check_hostname),
                (ssl.CERT_REQUIRED if required else ssl.CERT_NONE, named))
            self.assertEqual(
                context.minimum_version, ssl.TLSVersion.TLSv1_2)
        context = unverified_context(pinned)
        self.assertEqual(context.verify_mode, ssl.CERT_NONE)

    def test_authorities_of_the_system_that_change(self):
        with TemporaryDirectory() as directory:
            path = Path(directory, 'ca.pem')
            path.write_text(Path(self.ants.certificate).read_text())
            with mock.patch.dict(os.environ, SSL_CERT_FILE=str(path)):
                first = context_for(True, True)
                self.assertIs(context_for(True, True), first)
                path.unlink()
                path.write_text(Path(self.bees.certificate).read_text() +
                                Path(self.ants.certificate).read_text())
                self.assertIsNot(context_for(True, True), first)

    def test_who_is_verified(self):
        names = TLSSettings(names=('a.example.com',))
        pinned = TLSSettings(fingerprints=('0' * 64,))
        for verify, tls, verifies in (
                ((True, True), TLSSettings(), True),
                ((True, True), names, True), ((True, True), pinned, True),
                ((False, False), pinned, True),
                ((True, False), TLSSettings(), False),
                ((True, False), names, False),
                ((False, True), names, False),
                ((False, False), TLSSettings(), False)):
            for mode in ('implicit_tls', 'starttls'):
                self.assertIs(Endpoint(
                    'mx', 25, **{mode: context_for(*verify, tls)},
                    identity=identity_for(*verify, tls)).verifies, verifies)
        self.assertFalse(Endpoint(
            'mx', 25, identity=Identity(names=('a',))).verifies)


class TestNames(unittest.TestCase):
    def test_table(self):
        names = (('DNS', 'MX.example.com'), ('DNS', '*.lists.example.org'),
                 ('DNS', '*.com'), ('DNS', 'f*.example.net'), ('DNS', '*'),
                 ('DNS', '*.*.example.net'), ('DNS', '192.0.2.9'),
                 ('IP Address', '192.0.2.1'), ('URI', 'uri.example.com'),
                 ('IP Address', '2001:DB8:0:0:0:0:0:1\n'))
        for name, is_for in (
                ('mx.example.com', True), ('mx.EXAMPLE.com.', True),
                ('a.lists.example.org', True), ('lists.example.org', False),
                ('b.a.lists.example.org', False), ('example.com', False),
                ('foo.example.net', False), ('a.b.example.net', False),
                ('.lists.example.org', False), ('com', False), ('', False),
                ('192.0.2.1', True), ('192.0.2.9', False),
                ('2001:db8::1', True), ('2001:db8::2', False),
                ('uri.example.com', False)):
            with self.subTest(name=name):
                self.assertIs(has_name_of(names, [name]), is_for)
        self.assertTrue(has_name_of(names, ['a', '192.0.2.1']))
        self.assertFalse(has_name_of((), ['a']))
        self.assertFalse(has_name_of(names, []))

    @given(NAME, NAME)
    def test_exactly_the_name(self, name, other):
        self.assertTrue(has_name_of([('DNS', name.upper())], [name]))
        self.assertEqual(has_name_of([('DNS', name)], [other]), name == other)

    @given(NAME, NAME, LABEL)
    def test_star(self, domain, other, label):
        star = [('DNS', f'*.{domain}')]
        self.assertTrue(has_name_of(star, [f'{label}.{domain}']))
        self.assertFalse(has_name_of(star, [domain]))
        self.assertFalse(has_name_of(star, [f'{label}.{label}.{domain}']))
        if other != domain:
            self.assertFalse(has_name_of(star, [f'{label}.{other}']))

    @given(st.binary(min_size=32, max_size=32))
    def test_colons(self, digest):
        shown = with_colons(digest.hex())
        self.assertEqual(bytes.fromhex(shown.replace(':', '')), digest)
        self.assertEqual(shown.count(':'), 31)
