# SPDX-License-Identifier: GPL-3.0-or-later
"""What is sent in clear is said at the start."""

import unittest

from mailman.testing.layers import ConfigLayer
from mailman_mta_pool.relays.safety import is_this_host, safety_warnings
from mailman_mta_pool.secret import Secret
from mailman_mta_pool.settings import (
    AuthSettings,
    RelaySettings,
    Settings,
    TLSSettings,
    TokenSettings,
)


PASSWORD = 'formic-acid'
LOGIN = {'user': 'ant', 'password': Secret(PASSWORD)}


class TestHosts(unittest.TestCase):
    def test_hosts(self):
        for host, is_here in (
                ('localhost', True), ('LOCALHOST.', True), ('::1', True),
                ('127.0.0.1', True), ('127.9.9.9', True),
                ('ip6-localhost', True), ('mx.localhost', True),
                ('localhost.example.com', False), ('192.0.2.1', False),
                ('mx.example.com', False), ('127.0.0.1.example.com', False),
                ('srv:_submission._tcp.localhost.example', False), ('', False),
                ('0.0.0.0', False), ('2001:db8::1', False)):
            with self.subTest(host=host):
                self.assertIs(is_this_host(host), is_here)


class TestWarnings(unittest.TestCase):
    layer = ConfigLayer

    def lines(self, **relay):
        return safety_warnings(Settings(relays=(RelaySettings(**relay),)))

    def test_password_in_clear(self):
        line, = self.lines(host='mx.example.com', name='a', **LOGIN)
        self.assertIn('[relay.a] secure_mode: ', line)
        self.assertIn('the mail to mx.example.com in clear', line)
        self.assertIn('starttls', line)
        self.assertNotIn(PASSWORD, line)
        line, = self.lines(host='mx.example.com', **LOGIN)
        self.assertRegex(line, r'\.cfg: \[mta\] smtp_secure_mode: ')

    def test_what_happens(self):
        tokens = {'token': TokenSettings(command=Secret('print-it'))}
        only = {'name': 'a'}
        for relay, auth, words in (
                # What stock Mailman would do is done.
                ({}, {}, 'the password, too, if the server, or somebody in '
                 'its place, offers nothing but PLAIN or LOGIN; set'),
                ({}, {'mechanisms': ('PLAIN',)}, 'the mail and the password '
                 'to mx in clear, for everybody on the way to read; set'),
                ({}, tokens, 'the mail and the token to mx in clear'),
                # The others get nothing that shows the password.
                (only, {}, 'a login only by SCRAM-SHA-256, SCRAM-SHA-1 or '
                 'CRAM-MD5, for PLAIN or LOGIN would show the password; set'),
                (only, {'mechanisms': ('LOGIN', 'PLAIN')},
                 'there is no login, for LOGIN or PLAIN would show the pas'),
                (only, tokens, 'there is no login, for OAUTHBEARER or '
                 'XOAUTH2 would show the token; set'),
                # Unless that is allowed.
                (only, {'is_insecure': True}, 'the password, too, if'),
                (only, {'is_insecure': True, 'mechanisms': ('PLAIN',)},
                 'the mail and the password to mx in clear'),
                (only, {'is_insecure': True, **tokens},
                 'the mail and the token to mx in clear'),
                # Or there is nothing to allow.
                *((relay, {'mechanisms': ('SCRAM-SHA-1', 'CRAM-MD5')},
                   'the mail to mx in clear, for everybody on the way to '
                   'read; the password does not go with SCRAM-SHA-1 or CRAM')
                  for relay in ({}, only)),
                (only, {'mechanisms': ('EXTERNAL', 'PLAIN')},
                 'there is no login, for PLAIN would'),
                (only, {'mechanisms': ('EXTERNAL',)},
                 'EXTERNAL means nothing without TLS; set it')):
            with self.subTest(relay=relay, auth=auth):
                login = {'user': 'ant'} if 'token' in auth else LOGIN
                line, = self.lines(
                    host='mx', auth=AuthSettings(**auth), **relay, **login)
                self.assertIn('secure_mode: smtp sends the mail ', line)
                self.assertIn(words, line)
                self.assertNotIn(PASSWORD, line)

    def test_none_of_that(self):
        for relay in (
                {'host': 'localhost', **LOGIN}, {'host': 'mx.example.com'},
                {'host': 'mx', 'secure_mode': 'starttls', **LOGIN},
                {'host': 'mx', 'secure_mode': 'smtps', **LOGIN},
                {'host': 'mx', 'secure_mode': 'another', **LOGIN},
                {'host': 'mx', 'user': 'ant'},
                {'host': 'mx', 'tls': TLSSettings(ca='/ca.pem')},
                {'host': 'mx', 'secure_mode': 'smtps',
                 'tls': TLSSettings(fingerprints=('0' * 64,))}):
            with self.subTest(relay=relay):
                self.assertEqual(self.lines(**relay), [])

    def test_tls_that_is_not_used(self):
        for key, tls in (
                ('tls_fingerprint', TLSSettings(fingerprints=('0' * 64,))),
                ('tls_names', TLSSettings(names=('a',))),
                ('tls_cert', TLSSettings(cert='/cert.pem'))):
            line, = self.lines(host='localhost', name='a', tls=tls)
            self.assertIn('[relay.a] secure_mode: with smtp', line)
            self.assertIn(f'{key} means nothing', line)
        self.assertEqual(len(self.lines(host='mx', tls=tls, **LOGIN)), 2)
