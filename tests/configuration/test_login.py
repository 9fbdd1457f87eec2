# SPDX-License-Identifier: GPL-3.0-or-later

"""How a relay has us log in, as the configuration says it."""

from importlib.resources import files
from mailman.testing.helpers import configuration
from mailman.testing.layers import ConfigLayer
from mailman_mta_pool.configuration.files import ConfigurationError, hidden_in
from mailman_mta_pool.configuration.loading import (
    exposures,
    program_warnings,
    read_again,
    settings_of,
    sources_of,
    with_mta,
)
from mailman_mta_pool.relays.access import login_of
from mailman_mta_pool.secret import Secret
from mailman_mta_pool.settings import AuthSettings, TokenSettings
from tests.configuration.case import FileTestCase, PATH, SECRET


_DIRECTORY = files('mailman.testing')
OURS = (f'tls_cert: {_DIRECTORY / "ssl_test_cert.crt"}\n'
        f'tls_key: {_DIRECTORY / "ssl_test_key.key"}\n')
URL = 'https://login.example.com/oauth2/token'


class LoginTestCase(FileTestCase):
    def setUp(self):
        super().setUp()
        self.secret = self.file('secret', f'{SECRET}\n')
        self.refresh = self.file('refresh', f'{SECRET}-refresh\n')
        for path in self.secret, self.refresh:
            path.chmod(0o600)
        self.endpoint = (
            f'token_url: {URL}\nclient_id: lists\n'
            f'client_secret_file: {self.secret}\n')


class TestTokens(LoginTestCase):
    def test_command(self):
        relay = self.relay(
            f"user: ant\ntoken_command: get-token '{SECRET} x'\n")
        self.assertEqual(relay.auth, AuthSettings(token=TokenSettings(
            command=Secret(f"get-token '{SECRET} x'"))))
        self.assertNotIn(SECRET, repr(relay))

    def test_client_credentials(self):
        relay = self.relay(f'user: ant\nscope: a b\n{self.endpoint}')
        self.assertEqual(relay.auth.token, TokenSettings(
            url=URL, client_id='lists', client_secret=Secret(SECRET),
            scope='a b'))
        self.assertNotIn(SECRET, repr(relay))

    def test_refresh_tokens(self):
        relay = self.relay(
            f'user: ant\ntoken_url: {URL}\nclient_id: lists\n'
            f'refresh_token_file: {self.refresh}\n')
        # Not the token itself: another one is no other relay.
        self.assertEqual(relay.auth.token, TokenSettings(
            url=URL, client_id='lists',
            refresh_token_file=str(self.refresh)))

    def test_another_client_secret(self):
        sources = sources_of(
            PATH, f'[relay.a]\nhost: a\nuser: ant\n{self.endpoint}')
        self.secret.write_text('formic\n')
        again = read_again(sources)
        self.assertNotEqual(again, sources)
        self.assertEqual(settings_of(again).relay.auth.token.client_secret,
                         Secret('formic'))
        self.assertNotEqual(
            login_of(settings_of(sources).relay),
            login_of(settings_of(again).relay))

    def test_warnings(self):
        text = (f'[relay.a]\nhost: a\nuser: ant\n{self.endpoint}'
                f'refresh_token_file: {self.refresh}\n')
        self.assertEqual(exposures(sources_of(PATH, text)), [])
        for path in self.secret, self.refresh:
            path.chmod(0o644)
        secret, refresh = sorted(
            exposures(sources_of(PATH, text)), reverse=True)
        self.assertIn(f'{self.secret} has a client secret', str(secret))
        self.assertIn(f'{self.refresh} has a refresh token', str(refresh))

    def test_programs_that_are_not_there(self):
        program = self.file('get-token', '#!/bin/sh\n')
        text = f'[relay.a]\nhost: a\nuser: ant\ntoken_command: {program} x\n'
        for mode, warnings in ((0o700, 0), (0o600, 1)):
            program.chmod(mode)
            lines = program_warnings(
                settings_of(sources_of(PATH, text)), PATH)
            self.assertEqual(len(lines), warnings)
        line, = lines
        self.assertIn(f'{PATH}: [relay.a] token_command: ', line)
        # There may be a secret among the arguments.
        self.assertNotIn(str(program), line)

    def test_mistakes(self):
        user = 'user: ant\n'
        for text, *words in (
                (f'{user}token_command: x\npassword: {SECRET}\n',
                 '[relay.a] token_command', 'remove one'),
                (f'{user}token_command: x\n{self.endpoint}',
                 '[relay.a] token_url', 'remove one'),
                ('token_command: x\n', '[relay.a] token_command', 'no user'),
                (f'{user}token_command: {SECRET} "\n',
                 '[relay.a] token_command', 'quotation'),
                (f'{user}token_command: ""\nauth: PLAIN\n', '[relay.a] auth',
                 'PLAIN needs a password'),
                (f'{user}client_id: x\n', '[relay.a] client_id', 'token_url'),
                (f'{user}scope: x\n', '[relay.a] scope', 'token_url'),
                (f'{user}token_url: {URL}\n', '[relay.a] client_id',
                 'missing'),
                (f'{user}token_url: {URL}\nclient_id: x\n',
                 '[relay.a] client_secret_file', 'missing'),
                (f'{user}{self.endpoint}refresh_token_file: x\n',
                 '[relay.a] refresh_token_file', 'absolute'),
                (f'{user}{self.endpoint}refresh_token_file: /x/y\n',
                 '[relay.a] refresh_token_file', 'No such file')):
            with self.subTest(text=text):
                self.mistake(f'[relay.a]\nhost: a\n{text}', *words)

    def test_urls(self):
        for url in ('http://login.example.com/', 'ftp://a/', 'a', 'https://',
                    'https://a:b/', 'https://a:0/', 'https://a/#b',
                    f'https://u:{SECRET}@login.example.com/',
                    'http://192.0.2.1/', 'https://a b/'):
            with self.subTest(url=url):
                self.mistake(
                    f'[relay.a]\nhost: a\nuser: u\ntoken_url: {url}\n'
                    'client_id: x\n', '[relay.a] token_url', 'https://')
        for url in ('http://localhost:8080/x', 'http://127.0.0.1/',
                    'http://[::1]:1/', URL):
            with self.subTest(url=url):
                relay = self.relay('user: u\n' + self.endpoint.replace(
                    URL, url))
                self.assertEqual(relay.auth.token.url, url)

    def test_hidden(self):
        for key, value, shown in (
                ('token_command', f'echo {SECRET}', '(hidden)'),
                ('token_url', URL, URL),
                ('token_url', f'https://u:{SECRET}@h/x?y={SECRET}',
                 'https://(hidden)@h/x')):
            with self.subTest(key=key, value=value):
                self.assertEqual(hidden_in(key, value), shown)


class TestInheritance(LoginTestCase):
    def relays(self, master, **relays):
        return self.loaded(f'[relay.master]\nuser: ant\n{master}' + ''.join(
            f'[relay.{name}]\nhost: {name}\n{text}'
            for name, text in relays.items())).relays

    def test_another_way_than_the_others(self):
        a, b, c = self.relays(
            self.endpoint, a='', b=f'password: {SECRET}\n',
            c='token_command: x\n')
        self.assertEqual(a.auth.token.url, URL)
        self.assertIsNone(b.auth.token)
        self.assertEqual(b.password, Secret(SECRET))
        self.assertEqual(c.auth.token, TokenSettings(command=Secret('x')))

    def test_a_part_of_it(self):
        other = URL + '2'
        a, b = self.relays(
            self.endpoint, a=f'refresh_token_file: {self.refresh}\n',
            b=f'token_url: {other}\n')
        self.assertEqual(a.auth.token, TokenSettings(
            url=URL, client_id='lists', client_secret=Secret(SECRET),
            refresh_token_file=str(self.refresh)))
        self.assertEqual(b.auth.token, TokenSettings(
            url=other, client_id='lists', client_secret=Secret(SECRET)))

    def test_instead_of_a_password(self):
        a, = self.relays(f'password: {SECRET}\n', a='token_command: x\n')
        self.assertEqual(a.password, Secret())
        self.assertTrue(a.auth.token)


class TestMechanisms(FileTestCase):
    def test_names(self):
        for text, names in (
                ('auto', ()), ('AUTO', ()), ('plain', ('PLAIN',)),
                ('PLAIN, LOGIN', ('PLAIN', 'LOGIN')),
                ('scram-sha-256 scram-sha-1 plain plain',
                 ('SCRAM-SHA-256', 'SCRAM-SHA-1', 'PLAIN'))):
            with self.subTest(text=text):
                self.assertEqual(self.relay(
                    f'user: u\npassword: p\nauth: {text}\n').auth.mechanisms,
                    names)

    def test_external(self):
        for user in ('', 'user: ant\n'):
            relay = self.relay(f'{user}{OURS}auth: EXTERNAL\n')
            self.assertEqual(relay.auth.mechanisms, ('EXTERNAL',))

    def test_external_without_a_certificate(self):
        for text in ('auth: external\n', 'user: u\nauth: EXTERNAL\n',
                     'user: u\npassword: p\nauth: PLAIN EXTERNAL\n'):
            with self.subTest(text=text):
                self.mistake(
                    f'[relay.a]\nhost: a\n{text}', '[relay.a] auth: ',
                    'EXTERNAL needs a certificate', 'set tls_cert')
        self.mistake('[relay.mta]\nauth: external\n', '[relay.mta] auth: ',
                     'set tls_cert')
        # It may be the one of all relays.
        loaded = self.loaded(
            f'[relay.master]\n{OURS}[relay.a]\nhost: a\nauth: EXTERNAL\n')
        self.assertEqual(loaded.relay.auth.mechanisms, ('EXTERNAL',))

    def test_what_there_is_nothing_for(self):
        for text, words in (
                ('auth: PLAIN\n', 'a user, and a password'),
                ('user: u\npassword: p\nauth: XOAUTH2\n', 'needs a token'),
                ('user: u\npassword: p\nauth: PLAIN XOAUTH2\n', 'a token'),
                ('user: u\ntoken_command: x\nauth: SCRAM-SHA-1\n',
                 'needs a password')):
            with self.subTest(text=text):
                self.mistake(f'[relay.a]\nhost: a\n{text}',
                             '[relay.a] auth', words)


class TestMTA(LoginTestCase):
    layer = ConfigLayer

    def mta(self, text, **mta):
        with configuration('mta', **mta):
            return with_mta(self.loaded(f'[relay.mta]\n{text}')).relay

    def test_tokens(self):
        relay = self.mta(self.endpoint, smtp_user='ant')
        self.assertEqual(relay.user, 'ant')
        self.assertEqual(relay.auth.token.client_secret, Secret(SECRET))

    def test_mechanisms(self):
        relay = self.mta('auth: PLAIN\nauth_insecure: yes\n',
                         smtp_user='ant', smtp_pass='formic')
        self.assertEqual(relay.auth, AuthSettings(('PLAIN',), True))

    def test_mistakes(self):
        for text, words in (
                ('token_command: x\n', '[mta] smtp_user'),
                ('auth: PLAIN\n', '[mta] smtp_user'),
                ('auth: XOAUTH2\n', '[relay.mta] auth')):
            with self.subTest(text=text):
                with self.assertRaises(ConfigurationError) as caught:
                    self.mta(text)
                self.assertIn(words, str(caught.exception))
        self.mta(f'{OURS}auth: EXTERNAL\n')
