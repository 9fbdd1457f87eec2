# SPDX-License-Identifier: GPL-3.0-or-later

"""A real Postfix that knows its clients by their certificates."""

import ssl
import smtplib
import unittest

from dataclasses import replace
from mailman.testing.layers import ConfigLayer
from mailman_mta_pool.connection import SMTPSConnection, STARTTLSConnection
from mailman_mta_pool.errors import (
    CertificateRefused,
    ClientCertificateRefused,
    NoCommonTLS,
    RelayUnavailable,
)
from mailman_mta_pool.settings import TLSSettings
from tests.interop.sending import connection
from tests.operate.authority import Authority, available as no_openssl
from tests.servers.postfix import available, Postfix
from tests.site_case import SiteTestCase


REASON = available() or no_openssl()
SENDER = 'ant-bounces@example.com'
KINDS = {STARTTLSConnection: 'no', SMTPSConnection: 'yes'}


def shown(issued, tls):
    """Settings with a certificate of ours."""
    return replace(tls, cert=issued.cert, key=issued.key)


@unittest.skipIf(REASON, REASON)
class TestPostfix(SiteTestCase):
    layer = ConfigLayer

    def setUp(self):
        super().setUp()
        self.ants, self.bees = (
            self.use(Authority(name)) for name in ('The Ants', 'The Bees'))
        self.server_cert = self.ants.issue('DNS:localhost', 'IP:127.0.0.1')
        self.ours = self.ants.issue('DNS:lists.example.com', subject='lists')
        self.other = self.ants.issue('DNS:other.example.com')
        self.strange = self.bees.issue('DNS:lists.example.com')
        self.trusting = TLSSettings(ca=str(self.ants.certificate))

    def postfix(self, wrapped='no', **parameters):
        """A Postfix with TLS that relays for nobody it does not know."""
        return self.use(Postfix(**{
            'smtpd_tls_security_level': 'encrypt',
            'smtpd_tls_wrappermode': wrapped,
            'smtpd_tls_cert_file': self.server_cert.cert,
            'smtpd_tls_key_file': self.server_cert.key,
            'smtpd_tls_CAfile': self.ants.certificate,
            'smtpd_tls_fingerprint_digest': 'sha256',
            'smtpd_tls_loglevel': '1',
            'mynetworks': '192.0.2.1',
            **parameters}))

    def send(self, server, kind, tls, to='anne@example.org'):
        """Send a message over a connection of its own."""
        with connection(server, kind=kind, tls=tls) as conn:
            return conn.sendmail(SENDER, [to], b'Subject: x\r\n\r\nx')

    def test_known_by_their_fingerprint(self):
        colons = ':'.join(
            self.ours.fingerprint[place:place + 2].upper()
            for place in range(0, 64, 2))
        for kind, wrapped in KINDS.items():
            with self.subTest(kind=kind.__name__):
                server = self.postfix(
                    wrapped, smtpd_tls_ask_ccert='yes',
                    relay_clientcerts='inline:{ { %s = lists } }' % colons,
                    smtpd_relay_restrictions='permit_tls_clientcerts, reject')
                self.send(server, kind, shown(self.ours, self.trusting))
                # Postfix takes who shows another certificate, or none, and
                # does not relay for them.
                for tls in (shown(self.other, self.trusting), self.trusting):
                    with self.assertRaises(
                            smtplib.SMTPRecipientsRefused) as caught:
                        self.send(server, kind, tls)
                    (code, text), = caught.exception.recipients.values()
                    self.assertEqual(code, 554)
                    self.assertIn(b'Access denied', text)
                self.assertEqual(
                    dict(server.delivered()), {'anne@example.org': 1})

    def test_demanded(self):
        for version in ('TLSv1.2', 'TLSv1.3'):
            for kind, wrapped in KINDS.items():
                with self.subTest(version=version, kind=kind.__name__):
                    server = self.postfix(
                        wrapped, smtpd_tls_req_ccert='yes',
                        smtpd_tls_mandatory_protocols=f'>={version}, '
                        f'<={version}', smtpd_relay_restrictions=(
                            'permit_tls_all_clientcerts, reject'))
                    for issued in (self.ours, self.other):
                        self.send(
                            server, kind, shown(issued, self.trusting))
                    for tls, words in (
                            (self.trusting, 'No client certificate'),
                            (shown(self.strange, self.trusting),
                             'Client certificate not trusted')):
                        with self.assertRaises(
                                (ClientCertificateRefused,
                                 NoCommonTLS)) as caught:
                            self.send(server, kind, tls)
                        error = caught.exception
                        self.assertEqual(error.phase, 'TLS')
                        self.assertIn(words, error.reason)
                        self.assertIn('tls_cert', error.remedy)
                        self.assertFalse(error.waiting_helps)
                    self.assertEqual(
                        dict(server.delivered()), {'anne@example.org': 2})

    def test_what_we_demand(self):
        server = self.postfix(
            mynetworks='127.0.0.0/8',
            smtpd_tls_mandatory_protocols='>=TLSv1.2, <=TLSv1.2')
        pin = self.server_cert.fingerprint
        for tls in (self.trusting, TLSSettings(fingerprints=(pin,)),
                    TLSSettings(ca=self.ants.rehash()),
                    replace(self.trusting, names=('localhost',))):
            self.send(server, STARTTLSConnection, tls)
        for tls, kind in (
                (TLSSettings(ca=str(self.bees.certificate)),
                 CertificateRefused),
                (TLSSettings(fingerprints=('0' * 64,)), CertificateRefused),
                (replace(self.trusting, names=('mx.example.com',)),
                 CertificateRefused),
                (replace(self.trusting, min_version='1.3'), NoCommonTLS)):
            with self.assertRaises(kind):
                self.send(server, STARTTLSConnection, tls)
        self.assertEqual(dict(server.delivered()), {'anne@example.org': 4})
        # Nobody named a sender whom we did not trust.
        self.assertEqual(server.log().text.count('client='), 4)

    def test_a_site(self):
        server = self.postfix(
            smtpd_tls_req_ccert='yes',
            smtpd_relay_restrictions='permit_tls_all_clientcerts, reject')
        for issued, queues in ((self.ours, []), (self.strange, ['retry'])):
            site = self.site(members=20, settings={
                'delivery': {'patience': 0}, 'relay.mx': {
                    'host': 'localhost', 'port': server.port,
                    'secure_mode': 'starttls',
                    'tls_ca': self.ants.certificate,
                    'tls_cert': issued.cert, 'tls_key': issued.key}})
            site.run({})
            served = [] if queues else server.delivered().elements()
            self.assertEachOnce(site, served, queues)
            self.assertQuiet(site)
        line, = [each for each in site.log('smtp.log').splitlines()
                 if 'unavailable' in each]
        self.assertIn(': TLS: the server does not take our certif', line)
        self.assertIn('Client certificate not trusted', line)
        self.assertIn('Let the mail server know the certificate', line)

    def test_version_of_a_server_that_is_too_old(self):
        # Postfix with what OpenSSL allows to nobody but those who ask.
        if not ssl.HAS_TLSv1_1:
            self.skipTest('this OpenSSL has no TLS 1.1')
        server = self.postfix(
            mynetworks='127.0.0.0/8',
            smtpd_tls_mandatory_protocols='>=TLSv1, <=TLSv1.1',
            tls_medium_cipherlist='ALL:@SECLEVEL=0',
            smtpd_tls_mandatory_ciphers='medium')
        with self.assertRaises(RelayUnavailable) as caught:
            self.send(server, STARTTLSConnection, self.trusting)
        self.assertIsInstance(caught.exception, NoCommonTLS)
        self.assertIn('tls_min_version', caught.exception.reason)
