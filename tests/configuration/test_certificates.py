# SPDX-License-Identifier: GPL-3.0-or-later

"""The tls_ keys and the files that they name: what is refused at load."""

import os
import ssl
import unittest
import subprocess

from mailman_mta_pool.configuration.certificates import MAX_NAMES
from mailman_mta_pool.configuration.loading import (
    exposures,
    no_password,
    sources_of,
)
from mailman_mta_pool.settings import TLSSettings
from tests.configuration.case import FileTestCase
from tests.operate.authority import Authority, available


PEM = '-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n'
HOST = '[relay.a]\nhost: a\n'


@unittest.skipIf(available(), available())
class TestCertificates(FileTestCase):
    @classmethod
    def setUpClass(cls):
        cls.authority = Authority()
        cls.authority.__enter__()
        cls.addClassCleanup(cls.authority.__exit__)
        cls.ours = cls.authority.issue('DNS:lists.example.com')
        cls.other = cls.authority.issue('DNS:lists.example.com')

    def both(self):
        """The certificate and the key in one file."""
        with open(self.ours.cert) as cert, open(self.ours.key) as key:
            return str(self.file('both.pem', cert.read() + key.read()))

    def with_passphrase(self, *options):
        """The key with a passphrase."""
        path = str(self.directory / 'secret.pem')
        subprocess.run(
            ('openssl', *options, '-aes128', '-passout', 'pass:x',
             '-in', self.ours.key, '-out', path),
            check=True, stderr=subprocess.DEVNULL)
        return path

    def test_good(self):
        both = self.both()
        for text, tls in (
                (f'tls_cert: {self.ours.cert}\ntls_key: {self.ours.key}\n',
                 TLSSettings(cert=self.ours.cert, key=self.ours.key)),
                (f'tls_cert: {both}\n', TLSSettings(cert=both)),
                (f'tls_ca: {self.authority.certificate}\n',
                 TLSSettings(ca=str(self.authority.certificate))),
                (f'tls_ca: {self.authority.rehash()}\n',
                 TLSSettings(ca=self.authority.rehash()))):
            with self.subTest(text=text):
                self.assertEqual(self.relay(text).tls, tls)

    def test_fingerprint_as_it_is_printed(self):
        printed = subprocess.run(
            ('openssl', 'x509', '-noout', '-fingerprint', '-sha256', '-in',
             self.ours.cert), check=True, stdout=subprocess.PIPE, text=True,
            ).stdout.strip()
        digits = printed.partition('=')[2]
        for text in (printed, printed.lower(), digits, digits.lower(),
                     digits.replace(':', ''), f'SHA256:{digits}',
                     f'sha-256: {digits}', f'{digits}, {printed}'):
            with self.subTest(text=text):
                self.assertEqual(
                    self.relay(f'tls_fingerprint: {text}\n').tls.fingerprints,
                    (self.ours.fingerprint,))
        for text in (printed[1:], digits[:-1], f'sha1 Fingerprint={digits}',
                     f'sha256 {digits}', f'SHA256::{digits}',
                     digits[:59], digits.replace(':', '-')):
            with self.subTest(text=text):
                self.mistake(f'{HOST}tls_fingerprint: {text}\n',
                             '[relay.a] tls_fingerprint: ', '-sha256')

    def test_of_the_server_of_mta(self):
        relay, = self.loaded(
            f'[relay.mta]\ntls_ca: {self.authority.certificate}\n'
            'tls_min_version: 1.3\ntls_names: mx\n').relays
        self.assertEqual(relay.tls, TLSSettings(
            '1.3', str(self.authority.certificate), names=('mx',)))

    def test_mistakes(self):
        cert, key = self.ours
        nothing = self.file('nothing.pem', 'no PEM')
        damaged = self.file('damaged.pem', PEM.format('AAAA'))
        empty = self.directory / 'empty'
        empty.mkdir()
        binary = self.directory / 'cert.der'
        binary.write_bytes(ssl.PEM_cert_to_DER_cert(open(cert).read()))
        dangling, junk = (
            self.directory / name for name in ('dangling', 'junk'))
        for folder in dangling, junk:
            folder.mkdir()
        (dangling / '0a1b2c3d.0').symlink_to('nowhere.pem')
        (junk / '0a1b2c3d.0').write_text('no PEM')
        for text, place, *words in (
                (f'tls_key: {key}', 'tls_key', 'no certificate', 'tls_cert'),
                (f'tls_cert: {cert}', 'tls_cert', 'no private key',
                 'tls_key'),
                (f'tls_cert: {key}\ntls_key: {key}', 'tls_cert',
                 'no certificate in PEM'),
                (f'tls_cert: {cert}\ntls_key: {cert}', 'tls_key',
                 'no private key', 'put the key'),
                (f'tls_cert: {cert}\ntls_key: {self.other.key}', 'tls_key',
                 'does not belong', self.other.key, cert, 'made with'),
                (f'tls_cert: {damaged}\ntls_key: {key}', 'tls_cert',
                 'damaged'),
                (f'tls_cert: {cert}\ntls_key: '
                 f'{self.with_passphrase("pkey")}', 'tls_key', 'passphrase',
                 'openssl pkey'),
                (f'tls_cert: {cert}\ntls_key: '
                 f'{self.with_passphrase("ec")}', 'tls_key', 'passphrase'),
                (f'tls_cert: {empty}\ntls_key: {key}', 'tls_cert', 'regular'),
                (f'tls_ca: {nothing}', 'tls_ca', 'no certificate in PEM'),
                (f'tls_ca: {damaged}', 'tls_ca', 'damaged'),
                *((f'tls_ca: {folder}', 'tls_ca', 'openssl rehash')
                  for folder in (empty, dangling, junk)),
                (f'tls_ca: {binary}', 'tls_ca', 'but is binary', 'x509'),
                (f'tls_cert: {binary}\ntls_key: {key}', 'tls_cert',
                 'but is binary', 'openssl x509'),
                (f'tls_cert: {cert}\ntls_key: {binary}', 'tls_key',
                 'but is binary', 'openssl pkey'),
                ('tls_names: ' + ','.join(
                    f'n{n}' for n in range(MAX_NAMES + 1)),
                 'tls_names', 'host names')):
            for section in ('relay.a', 'relay.master'):
                with self.subTest(text=text, section=section):
                    rest = HOST if section != 'relay.a' else ''
                    host = 'host: a\n' if section == 'relay.a' else ''
                    self.mistake(
                        f'[{section}]\n{host}{text}\n{rest}',
                        f'[{section}] {place}: ', *words)

    @unittest.skipIf(os.geteuid() != 0, 'needs another user')
    def test_unreadable(self):
        os.chmod(self.directory, 0o755)
        cert, key = (self.file(name, open(path).read()) for name, path in (
            ('cert.pem', self.ours.cert), ('key.pem', self.ours.key)))
        folder = self.directory / 'authorities'
        folder.mkdir(mode=0o700)
        key.chmod(0o600)
        cert.chmod(0o600)
        for text, place in (
                (f'tls_ca: {cert}', 'tls_ca'), (f'tls_ca: {folder}', 'tls_ca'),
                (f'tls_cert: {cert}\ntls_key: {key}', 'tls_cert')):
            with self.subTest(text=text):
                os.seteuid(65534)
                try:
                    self.mistake(
                        f'{HOST}{text}\n', f'[relay.a] {place}: ',
                        'Permission denied', "Mailman's user")
                finally:
                    os.seteuid(0)

    def test_a_certificate_goes_with_its_key(self):
        both = self.both()
        first, second, third = self.loaded(
            f'[relay.master]\ntls_cert: {self.ours.cert}\n'
            f'tls_key: {self.ours.key}\n[relay.a]\nhost: a\n'
            f'[relay.b]\nhost: b\ntls_cert: {both}\n'
            '[relay.c]\nhost: c\ntls_cert:\n').relays
        self.assertEqual(first.tls.key, self.ours.key)
        self.assertEqual(second.tls, TLSSettings(cert=both))
        self.assertEqual(third.tls, TLSSettings())

    def test_key_that_others_can_read(self):
        key = self.file('key.pem', open(self.ours.key).read())
        both = self.both()
        for text, path in (
                (f'tls_cert: {self.ours.cert}\ntls_key: {key}\n', str(key)),
                (f'tls_cert: {both}\n', both)):
            for head in (HOST, '[relay.mta]\n'):
                for mode, warned in ((0o644, True), (0o600, False)):
                    with self.subTest(text=text, head=head, mode=oct(mode)):
                        os.chmod(path, mode)
                        lines = exposures(sources_of(
                            '/etc/mta_pool.cfg', head + text, no_password))
                        self.assertEqual(len(lines), int(warned))
                        for line in lines:
                            self.assertIn(
                                f'{path} has a private key, and every user',
                                str(line))
                            self.assertIn(
                                f'chmod go-r {path}', line.remedy)
