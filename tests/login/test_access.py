# SPDX-License-Identifier: GPL-3.0-or-later

"""A refused login is known by all that it was made of, files, too."""

import os
import asyncio
import smtplib
import unittest

from dataclasses import replace
from mailman_mta_pool.errors import NotVerified
from mailman_mta_pool.relays.access import access_for, login_of
from mailman_mta_pool.secret import Secret
from mailman_mta_pool.settings import (
    AuthSettings,
    RelaySettings,
    TLSSettings,
    TokenSettings,
)
from pathlib import Path
from tempfile import TemporaryDirectory


SECRET = 'hunter2'


class AccessTestCase(unittest.TestCase):
    def setUp(self):
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.var = directory.name
        self.renewals = 0
        self.cert, self.key = (
            self.install(name) for name in ('cert.pem', 'key.pem'))
        self.relay = RelaySettings(
            name='a', host='mx.example.com', port=587, secure_mode='starttls',
            tls=TLSSettings(cert=self.cert, key=self.key),
            auth=AuthSettings(('EXTERNAL',)))

    def install(self, name):
        """Put another file in the place of one, as `install` does."""
        path, self.renewals = Path(self.var) / name, self.renewals + 1
        new = path.with_suffix('.new')
        new.write_text(f'{self.renewals}\n')
        # The clock of a file may stand still for some milliseconds.
        os.utime(new, ns=(self.renewals, self.renewals))
        new.replace(path)
        return str(path)

    def access(self, relay=None):
        """What another process has."""
        return access_for(relay or self.relay, self.var)

    def log_in(self, access):
        """Begin a login, and return its turn."""
        async def main():
            await access.attempt()
            return await access.turn(1)
        return asyncio.run(main())

    def refuse(self, access):
        """Have a login refused, and return what the log says."""
        with self.assertLogs('mailman.smtp', 'ERROR') as logs:
            with self.log_in(access) as turn:
                turn.refused(535, b'5.7.8 No')
        line, = logs.output
        return line

    def assertRefused(self, access):
        with self.assertRaises(smtplib.SMTPAuthenticationError):
            asyncio.run(access.attempt())

    def assertTried(self, access):
        with self.log_in(access):
            pass


class TestCertificates(AccessTestCase):
    def test_another_file(self):
        access = self.access()
        self.refuse(access)
        self.assertRefused(access)
        self.assertRefused(self.access())
        other = self.install('other.pem')
        for tls in (TLSSettings(cert=other, key=self.key),
                    TLSSettings(cert=self.cert, key=other),
                    TLSSettings(cert=self.cert)):
            self.assertTried(self.access(replace(self.relay, tls=tls)))
        self.assertRefused(access)

    def test_renewed(self):
        for name in ('cert.pem', 'key.pem'):
            access, other = self.access(), self.access()
            with self.subTest(name):
                self.refuse(access)
                self.assertRefused(other)
                self.install(name)
                # Nobody has to start anything again for that.
                for each in (access, other, self.access()):
                    self.assertTried(each)

    def test_renewed_while_a_login_is_under_way(self):
        access = self.access()
        with self.assertLogs('mailman.smtp', 'ERROR'):
            with self.log_in(access) as turn:
                self.install('cert.pem')
                self.assertTried(access)
                turn.refused(535, b'5.7.8 No')
        # It was the login with the old one.
        self.assertTried(access)

    def test_no_file(self):
        self.refuse(self.access())
        os.unlink(self.cert)
        self.assertTried(self.access())
        self.assertIn(self.cert, login_of(self.relay))

    def test_remedy(self):
        line = self.refuse(self.access())
        self.assertIn('[relay.a] tls_cert; nobody on this host', line)
        self.assertNotIn('password', line)
        line = self.refuse(self.access(replace(self.relay, user='ant')))
        self.assertIn('tls_cert, or correct [relay.a] user;', line)
        line = self.refuse(self.access(replace(
            self.relay, user='ant', password=Secret(SECRET),
            auth=AuthSettings(('EXTERNAL', 'PLAIN')))))
        self.assertIn('[relay.a] user and [relay.a] password', line)
        self.assertNotIn(SECRET, line)


class TestNotVerified(unittest.TestCase):
    def attempt(self, **settings):
        relay = RelaySettings(
            host='mx', user='ant', password=Secret(SECRET), **settings)
        return asyncio.run(access_for(relay).attempt())

    def test_remedies(self):
        offered = frozenset(['PLAIN'])
        both = 'verify_cert: yes and verify_hostname: yes'
        for mode, keys in (
                ('smtp', f'secure_mode: starttls with {both}, or with '),
                ('smtps', f'{both}, or '), ('starttls', f'{both}, or ')):
            with self.assertRaises(NotVerified) as caught:
                self.attempt(name='a', secure_mode=mode).authentication(
                    offered, False)
            self.assertEqual(
                caught.exception.remedy,
                f'Set [relay.a] {keys}[relay.a] tls_fingerprint; or [relay.a] '
                'auth_insecure: yes, if nobody can be in its place.')
            with self.assertLogs('mailman.smtp', 'WARNING') as logs:
                self.attempt(secure_mode=mode).authentication(offered, False)
            line, = logs.output
            self.assertIn('verified; set [mta] smtp_', line)
            self.assertIn('[relay.mta] tls_fingerprint, or [relay.mta] ', line)
            self.assertNotIn(SECRET, line)


class TestLogins(AccessTestCase):
    def test_all_that_it_is_made_of(self):
        token = TokenSettings(
            url='https://login.example.com/', client_id='a',
            client_secret=Secret('b'), scope='c', refresh_token_file='/d')
        changes = [
            {'host': 'other'}, {'port': 25}, {'secure_mode': 'smtps'},
            {'user': 'ant'}, {'password': Secret(SECRET)},
            {'auth': AuthSettings(('PLAIN',))},
            {'tls': TLSSettings(cert=self.key)},
            {'auth': AuthSettings(token=TokenSettings(command=Secret('x')))},
            {'auth': AuthSettings(token=token)},
            *({'auth': AuthSettings(token=replace(token, **{key: value}))}
              for key, value in (
                  ('url', 'https://a/'), ('client_id', 'b'),
                  ('client_secret', Secret('c')), ('scope', 'd'),
                  ('refresh_token_file', '/e')))]
        logins = {login_of(replace(self.relay, **change))
                  for change in ({}, *changes)}
        self.assertEqual(len(logins), len(changes) + 1)
        # What is no part of it.
        for change in ({'name': 'b'}, {'max_connections': 2},
                       {'tls': replace(self.relay.tls, ca='/ca.pem')}):
            self.assertIn(login_of(replace(self.relay, **change)), logins)
