# SPDX-License-Identifier: GPL-3.0-or-later

"""Logins that are refused, and tokens that cannot be had, with real runners.

The servers are written here.
"""

import os
import re
import stat
import base64
import signal
import hashlib

from contextlib import ExitStack
from tests.fault.relays import relay, sections
from tests.login.test_scram import Server
from tests.scripted import HANG, Scripted
from tests.servers.tokens import TokenEndpoint
from tests.site_case import SiteTestCase


PASSWORD = 'formic %#\N{EURO SIGN} acid'
TOKEN = 'ya29.Zebra-Tr0mbone'
SLICES = 4
CONNECTIONS = 8
# Seconds in which a runner has ended, where a program has ten.
SOON = 8
REFUSED = '535 5.7.8 Authentication credentials invalid'
INVALID_TOKEN = b'{"status":"invalid_token","scope":"https://mail.example/"}'
# What shows in a log.
UNAVAILABLE = 'Mail server unavailable: '
REMEDY = 'the login is refused with '


def encoded(octets):
    return base64.b64encode(octets).decode()


def refusing(reply=REFUSED):
    """A script of a server that lets nobody in."""
    def script(command, session):
        if command.startswith('AUTH'):
            return reply
    return script


class TokenServer:
    """The script of a server that takes some tokens by XOAUTH2.

    :ivar good: Those that it takes.
    :ivar seen: All that it was given, in the order of the logins.
    """

    def __init__(self, *good):
        self.good = set(good)
        self.seen = []
        self._failing = set()

    def __call__(self, command, session):
        if session.number in self._failing:
            self._failing.discard(session.number)
            return REFUSED
        if not command.startswith('AUTH'):
            return None
        octets = base64.b64decode(command.split()[2])
        token = re.search(b'Bearer (.*)\x01\x01', octets)[1].decode()
        self.seen.append(token)
        if token in self.good:
            return '235 2.7.0 Welcome'
        self._failing.add(session.number)
        return f'334 {encoded(INVALID_TOKEN)}'


class ScramServer:
    """The script of a server that knows the password by SCRAM-SHA-256."""

    def __init__(self, password=PASSWORD, iterations=4096, is_true=True):
        self._password = password
        self._iterations = iterations
        self._is_true = is_true
        self._open = {}
        self.finished = 0

    def __call__(self, command, session):
        if command.startswith('AUTH'):
            initial = base64.b64decode(command.split()[2])
            server = Server('sha256', self._password, self._iterations)
            nonce = initial.rpartition(b'r=')[2]
            server.first = server.first.replace(
                b'rOprNGfwEbeRWgbNEkqO', nonce)
            self._open[session.number] = [server, initial]
            return f'334 {encoded(server.first)}'
        if session.number not in self._open:
            return None
        state = self._open[session.number]
        if len(state) == 2:
            last = state[0].last(state[1], base64.b64decode(command))
            if last.startswith(b'e='):
                del self._open[session.number]
                return REFUSED
            if not self._is_true:
                last = b'v=' + base64.b64encode(hashlib.sha256().digest())
            state.append(last)
            return f'334 {encoded(last)}'
        del self._open[session.number]
        self.finished += command == ''
        return '235 2.7.0 Welcome'


class LoginTestCase(SiteTestCase):
    def lines(self, site, words):
        return [line for line in site.logs().splitlines() if words in line]

    def assertWaits(self, site, words, posts=1):
        """Everybody waits, nobody is charged, and the log says why."""
        self.assertEachOnce(site, [], ['retry'])
        lines = self.lines(site, UNAVAILABLE)
        self.assertEqual(len(lines), posts, lines)
        for line in lines:
            self.assertIn(words, line)
        self.assertQuiet(site)

    def assertNoSecret(self, site, *secrets):
        """They are in no log and no file but the configuration."""
        self.assertNotIn(secrets[0], site.logs())
        shapes = [
            shape for secret in secrets for shape in (
                secret.encode(), base64.b64encode(
                    secret.encode()).rstrip(b'=')[:-1],
                secret.encode().hex().encode())]
        for path in (site.var).rglob('*'):
            if path.is_file() and path.suffix not in ('.cfg', '.db'):
                octets = path.read_bytes()
                for shape in shapes:
                    self.assertNotIn(shape, octets, path)

    def program(self, site, text):
        """Write a program, and return the command."""
        path = site.directory / 'get-token'
        path.write_text(f'#!/bin/sh\necho run >>{path}.log\n{text}\n')
        path.chmod(0o700)
        return path

    def runs(self, path):
        log = path.with_name(path.name + '.log')
        return log.read_text().count('run') if log.exists() else 0


class TestRefused(LoginTestCase):
    def site_of(self, server, settings=None, **keys):
        return self.site(
            server, settings={'delivery': {'split': 5}, **(settings or {})},
            extra=f'[runner.out]\ninstances: {SLICES}\n',
            max_delivery_threads=CONNECTIONS, smtp_user='lists@example.com',
            **{'smtp_pass': PASSWORD.replace('\N{EURO SIGN}', ''), **keys})

    def run_slices(self, site):
        """Let all slices run at a time until all is where it belongs."""
        with ExitStack() as resources:
            for number in range(SLICES):
                resources.enter_context(
                    site.runner(f'out:{number}:{SLICES}'))
            site.wait_until_empty()

    def test_one_login_on_the_server(self):
        server = self.use(Scripted(
            refusing(), extensions=('PIPELINING', 'AUTH PLAIN LOGIN'),
            delay=0.05))
        site = self.site_of(server)
        for _ in range(2 * SLICES):
            site.post(verp=True)
        self.run_slices(site)
        self.assertEqual(len(server.said('AUTH')), 1, server.commands)
        queues = site.waiting()
        self.assertEqual(set(queues), {'retry'})
        self.assertEqual(
            len(queues['retry']), 2 * SLICES * len(site.members))
        self.assertEqual(site.bounced(), [])
        line, = self.lines(site, REMEDY)
        for words in (REFUSED, 'correct [mta] smtp_user and [mta] smtp_pass'):
            self.assertIn(words, line)
        self.assertNoSecret(site, PASSWORD.replace('\N{EURO SIGN}', ''))
        self.assertQuiet(site)
        # Nor does the next start of the runners.
        site.retry()
        self.run_slices(site)
        self.assertEqual(len(server.said('AUTH')), 1)
        connections = server.connections
        directory = site.var / 'mta_pool' / 'logins'
        self.assertEqual(stat.S_IMODE(directory.stat().st_mode), 0o700)
        for path in directory.iterdir():
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        # Another password is tried at once.
        site.set_up(
            server, smtp_user='lists@example.com', smtp_pass='other-Zebra',
            extra=f'[runner.out]\ninstances: {SLICES}\n')
        site.retry()
        self.run_slices(site)
        self.assertEqual(len(server.said('AUTH')), 2)
        self.assertGreater(server.connections, connections)

    def test_mended_on_the_server(self):
        # `mailman mta-pool check` finds out, and then the runners know.
        replies = [REFUSED]

        def script(command, session):
            if command.startswith('AUTH') and replies:
                return replies[0]
        server = self.use(Scripted(
            script, extensions=('PIPELINING', 'AUTH PLAIN')))
        site = self.site_of(server)
        site.post()
        self.run_slices(site)
        self.assertWaits(site, f': AUTH: {REFUSED}', 4)
        replies.clear()
        site.retry()
        self.run_slices(site)
        self.assertEqual(server.served, [])
        site.mailman('mta-pool', 'check')
        site.retry()
        self.run_slices(site)
        self.assertEachOnce(site, server.served)

    def test_another_relay_takes_it(self):
        refused = self.use(Scripted(
            refusing(), extensions=('PIPELINING', 'AUTH PLAIN')))
        other = self.use(Scripted())
        site = self.site(settings=sections(
            a=relay(refused, user='lists@example.com', password='formic'),
            b=relay(other)))
        site.run({'verp': True}, {'verp': True})
        self.assertEqual(len(refused.said('AUTH')), 1)
        self.assertEqual(len(other.served), 2 * len(site.members))
        line, = self.lines(site, REMEDY)
        self.assertIn('[relay.a] user and [relay.a] password', line)
        self.assertQuiet(site)

    def test_another_password(self):
        # The runner goes on, and the next post has it.
        def script(command, session):
            if command.startswith('AUTH') and not base64.b64decode(
                    command.split()[2]).endswith(b'acid'):
                return REFUSED
        server = self.use(Scripted(
            script, extensions=('PIPELINING', 'AUTH PLAIN')))
        site = self.site(server)
        path = site.directory / 'password'
        for key, value, posts in (
                ('password_file', path, 2),
                # It is run again once in a minute.
                ('password_command', f'cat {path}', 1)):
            path.write_text(f'{key}-formic\n')
            path.chmod(0o600)
            site.set_up(settings=sections(a=relay(
                server, user='lists@example.com', **{key: value})))
            before = len(server.said('AUTH'))
            with self.subTest(key=key), site.runner():
                for _ in range(posts):
                    site.post(verp=True)
                    site.wait_until_empty()
                self.assertEqual(len(server.said('AUTH')), before + 1)
                path.write_text(f'{key}-acid\n')
                site.post(verp=True)
                site.wait_until_empty()
            self.assertGreater(len(server.said('AUTH')), before + 1)
        self.assertEqual(len(server.served), 2 * len(site.members))
        self.assertEqual(len(self.lines(site, REMEDY)), 2)
        self.assertQuiet(site)

    def test_a_password_that_was_good(self):
        # It is changed on the server while connections are open.
        refuses = []

        def script(command, session):
            if command.startswith('AUTH') and refuses:
                return REFUSED
        server = self.use(Scripted(
            script, extensions=('PIPELINING', 'AUTH PLAIN')))
        site = self.site(
            server, settings={'pool': {'idle_timeout': 0}},
            smtp_user='lists@example.com', smtp_pass='formic')
        site.run({'verp': True})
        self.assertEachOnce(site, server.served)
        refuses.append(True)
        before = len(server.said('AUTH'))
        site.run({'verp': True}, {'verp': True})
        self.assertLessEqual(len(server.said('AUTH')), before + 4)
        self.assertEqual(len(self.lines(site, REMEDY)), 1)
        self.assertEqual(site.bounced(), [])
        self.assertEqual(len(site.waiting()['retry']), 2 * len(site.members))


class TestScram(LoginTestCase):
    def run_with(self, script):
        server = self.use(Scripted(
            script, extensions=('PIPELINING', 'AUTH PLAIN SCRAM-SHA-256')))
        path_of = self.site(server)
        path = path_of.directory / 'password'
        path.write_text(PASSWORD, 'utf-8')
        path.chmod(0o600)
        path_of.set_up(settings=sections(a=relay(
            server, user='lists@example.com', password_file=path)))
        path_of.run({'verp': True})
        return server, path_of

    def test_good(self):
        # A million iterations are no reason for a timeout.
        for iterations in (4096, 1_000_000):
            with self.subTest(iterations=iterations):
                script = ScramServer(iterations=iterations)
                server, site = self.run_with(script)
                self.assertEachOnce(site, server.served)
                # Those after the first may not have been wanted any more.
                self.assertGreaterEqual(script.finished, 1)
                self.assertNotIn(PASSWORD, ' '.join(
                    command for _, command in server.commands))
                self.assertQuiet(site)

    def test_wrong(self):
        server, site = self.run_with(ScramServer('another'))
        self.assertEqual(len(server.said('AUTH')), 1)
        self.assertWaits(site, f'AUTH: {REFUSED}')

    def test_another_server(self):
        server, site = self.run_with(ScramServer(is_true=False))
        self.assertWaits(site, 'it may be another server')
        self.assertIn('*', [command for _, command in server.commands])

    def test_too_few_iterations(self):
        _, site = self.run_with(ScramServer(iterations=1000))
        self.assertWaits(site, 'the server wants 1000 iterations')


class TestTokens(LoginTestCase):
    EXTENSIONS = ('PIPELINING', 'AUTH XOAUTH2')

    def server(self, script):
        return self.use(Scripted(script, extensions=self.EXTENSIONS))

    def site_with_program(self, server, text, settings=None, **keys):
        site = self.site(server)
        program = self.program(site, text)
        site.set_up(settings=sections(settings, a=relay(
            server, user='lists@example.com', token_command=program,
            max_connections=CONNECTIONS, **keys)))
        return site, program

    def test_one_fetch_for_all(self):
        server = self.server(TokenServer(TOKEN))
        site, program = self.site_with_program(
            server, f"""echo '{{"access_token": "{TOKEN}", """
            """"expires_in": 3600}'""")
        site.run({'verp': True}, {'verp': True})
        self.assertEqual(len(server.served), 2 * len(site.members))
        self.assertEqual(self.runs(program), 1)
        self.assertNoSecret(site, TOKEN)
        self.assertQuiet(site)

    def test_it_expires_in_mid_post(self):
        # Nobody notices: neither a member nor the log.
        script = TokenServer('token-1')

        def expiring(command, session):
            if command == '.' and 'token-1' in script.good and (
                    len(server.accepted) >= 5):
                script.good = {'token-2'}
            return script(command, session)
        server = self.server(expiring)
        site, program = self.site_with_program(
            server, 'echo token-$(wc -l <"$0.log")',
            settings={'pool': {'idle_timeout': 0}},
            max_sessions_per_connection=2)
        site.run({'verp': True}, timeout=120)
        self.assertEachOnce(site, server.served)
        self.assertEqual(self.runs(program), 2)
        self.assertIn('token-2', script.seen)
        for words in (UNAVAILABLE, REMEDY, 'again in'):
            self.assertEqual(self.lines(site, words), [])
        self.assertQuiet(site)

    def test_refused_for_good(self):
        server = self.server(TokenServer())
        site, program = self.site_with_program(server, f'echo {TOKEN}')
        for _ in range(3):
            site.post(verp=True)
        site.run()
        # The token was new, and another one is no better.
        self.assertEqual(len(server.said('AUTH')), 1)
        self.assertEqual(self.runs(program), 1)
        line, = self.lines(site, REMEDY)
        self.assertIn('status invalid_token, scope https://mail.ex', line)
        self.assertIn('[relay.a] token_command', line)
        self.assertNoSecret(site, TOKEN)
        self.assertEqual(site.bounced(), [])

    def test_no_token(self):
        for text, words in (
                ('exec sleep 600', 'printed nothing to its end within 10 s'),
                (f'echo {TOKEN}; exit 1', 'ended with status 1'),
                (f'echo {TOKEN}; echo {TOKEN}', 'is more than one line'),
                (f"""echo '{{"token": "{TOKEN}"}}'""", 'no access_token'),
                ("printf '\\377'", 'not text in UTF-8')):
            with self.subTest(words=words):
                server = self.server(TokenServer(TOKEN))
                site, program = self.site_with_program(server, text)
                site.run({'verp': True})
                self.assertWaits(site, words)
                self.assertEqual(self.runs(program), 1)
                self.assertEqual(server.connections, 0)
                self.assertNotIn(TOKEN, site.logs())

    def test_endpoint(self):
        server = self.server(TokenServer(TOKEN))
        endpoint = self.use(TokenEndpoint(lambda form: (
            200, {'access_token': TOKEN, 'expires_in': 3600})))
        site = self.site(server)
        secret = site.directory / 'secret'
        secret.write_text(PASSWORD, 'utf-8')
        secret.chmod(0o600)
        site.set_up(settings=sections(a=relay(
            server, user='lists@example.com', token_url=endpoint.url,
            client_id='lists', client_secret_file=secret)))
        site.run({'verp': True}, {'verp': True})
        self.assertEqual(len(server.served), 2 * len(site.members))
        form, = endpoint.forms
        self.assertEqual(form['client_secret'], PASSWORD)
        self.assertNoSecret(site, TOKEN, PASSWORD)
        self.assertQuiet(site)

    def test_endpoint_that_refuses(self):
        server = self.server(TokenServer(TOKEN))
        endpoint = self.use(TokenEndpoint(lambda form: (
            400, {'error': 'invalid_grant', 'error_description': 'Expired'})))
        site = self.site(server)
        refresh = site.directory / 'refresh'
        refresh.write_text('refresh-hunter2')
        os.chmod(refresh, 0o600)
        site.set_up(settings=sections(a=relay(
            server, user='lists@example.com', token_url=endpoint.url,
            client_id='lists', refresh_token_file=refresh)))
        site.run({'verp': True})
        self.assertWaits(site, 'answers 400: invalid_grant, Expired')
        self.assertEqual(len(endpoint.forms), 1)
        self.assertNoSecret(site, 'refresh-hunter2')


class TestStopped(LoginTestCase):
    """SIGTERM comes in the middle of a login."""

    def stop_when(self, site, is_time):
        site.post(verp=True)
        runner = site.start_runner()
        site.wait_for(is_time, 'the login begins')
        self.assertEqual(runner.stop(SOON), signal.SIGTERM)
        self.assertEachOnce(site, [], ['out'])
        self.assertQuiet(site)

    def test_while_the_server_thinks(self):
        hanging = self.use(Scripted(
            refusing(HANG), extensions=('PIPELINING', 'AUTH PLAIN')))
        site = self.site(
            hanging, smtp_user='lists@example.com', smtp_pass='formic')
        self.stop_when(site, lambda: hanging.said('AUTH'))
        # The next process has its turn at once.
        server = self.use(Scripted(
            extensions=('PIPELINING', 'AUTH PLAIN')))
        site.set_up(server, smtp_user='lists@example.com', smtp_pass='formic')
        site.run()
        self.assertEachOnce(site, server.served)

    def test_while_a_program_runs(self):
        server = self.use(Scripted(extensions=('PIPELINING', 'AUTH XOAUTH2')))
        site = self.site(server)
        numbers = site.directory / 'numbers'
        program = self.program(
            site, f'sleep 600 & echo $$ $! >{numbers}.new\n'
            f'mv {numbers}.new {numbers}; wait')
        site.set_up(settings=sections(a=relay(
            server, user='lists@example.com', token_command=program)))
        self.stop_when(site, numbers.exists)
        # Nobody else would end it, nor what it has started.
        site.wait_for(lambda: not any(
            is_running(number) for number in numbers.read_text().split()),
                      'the program ends')
        self.assertEqual(server.connections, 0)


def is_running(number):
    """True if there is such a process, and it is more than a name."""
    try:
        with open(f'/proc/{number}/stat') as file:
            return file.read().rpartition(')')[2].split()[0] != 'Z'
    except FileNotFoundError:
        return False
