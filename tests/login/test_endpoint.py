# SPDX-License-Identifier: GPL-3.0-or-later

"""Tokens from an endpoint of our own."""

import os
import stat
import time
import errno
import fcntl
import asyncio
import logging
import tempfile
import unittest
import threading

from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from http.client import HTTPConnection
from mailman_mta_pool.errors import TokenUnavailable
from mailman_mta_pool.login import endpoint as endpoint_module
from mailman_mta_pool.login.endpoint import EndpointSource, MAX_RESPONSE
from mailman_mta_pool.login.grant import Grant
from mailman_mta_pool.secret import Secret
from mailman_mta_pool.settings import TokenSettings
from pathlib import Path
from tempfile import TemporaryDirectory
from tests.certificates import server_context
from tests.documentation import trusted_test_certificate
from tests.servers.loopback import free_port, HOST
from tests.servers.tokens import TokenEndpoint
from unittest import mock


SECRET = 'hunter2 \N{EURO SIGN}%#&=+'
REFRESH = '1//refresh-hunter3'
GOOD = {'access_token': 'ya29.a', 'expires_in': 3599, 'token_type': 'Bearer'}


class EndpointTestCase(unittest.TestCase):
    def setUp(self):
        resources = ExitStack()
        self.addCleanup(resources.close)
        self.use = resources.enter_context
        self.directory = Path(self.use(TemporaryDirectory()))

    def endpoint(self, *answers, tls=None):
        """An endpoint that gives these answers, the last one for ever."""
        waiting = list(answers)
        return self.use(TokenEndpoint(
            lambda form: waiting.pop(0) if len(waiting) > 1 else waiting[0],
            tls))

    def source(self, url, sleep=time.sleep, **settings):
        return EndpointSource(TokenSettings(
            url=url, client_id='lists', **settings), '[relay.a]', sleep)

    def with_secret(self, url):
        return self.source(url, client_secret=Secret(SECRET), scope='a b')

    def assertFails(self, source, *words):
        with self.assertRaises(TokenUnavailable) as caught:
            source.fetch()
        text = str(caught.exception)
        for word in (*words, '[relay.a]'):
            self.assertIn(word, text)
        # A query may have the key of an API.
        for secret in ('hunter', 'ya29', '?', 'a=b'):
            self.assertNotIn(secret, text)
        self.assertTrue(text.isprintable())

    def fetching(self, source):
        """Return a thread that fetches, and the failures there."""
        # One that sends an octet now and then could go on for ever.
        self.use(mock.patch.object(endpoint_module, 'STEP_TIMEOUT', 60))
        failures = []

        def fetch():
            try:
                source.fetch()
            except TokenUnavailable as error:
                failures.append(error)
        thread = threading.Thread(target=fetch, daemon=True)
        thread.start()
        return thread, failures


class TestClientCredentials(EndpointTestCase):
    def test_good(self):
        endpoint = self.endpoint((200, GOOD))
        self.assertEqual(
            self.with_secret(endpoint.url).fetch(),
            Grant(Secret('ya29.a'), 3599.0))
        self.assertEqual(endpoint.forms, [{
            'path': '/token?a=b', 'grant_type': 'client_credentials',
            'client_id': 'lists', 'client_secret': SECRET, 'scope': 'a b'}])

    def test_tls(self):
        endpoint = self.endpoint((200, GOOD), tls=server_context())
        source = self.with_secret(endpoint.url)
        # Nobody has signed the certificate.
        self.assertFails(source, 'verify failed')
        self.assertEqual(endpoint.forms, [])
        with trusted_test_certificate():
            self.assertEqual(source.fetch().token, Secret('ya29.a'))

    def test_refused(self):
        for status, found, words in (
                (400, {'error': 'invalid_client',
                       'error_description': 'No\r\nway ' * 99},
                 'answers 400: invalid_client, No  way'),
                (401, {'error': f'not {SECRET}'}, 'answers 401: (the text'),
                (400, {'error': ['x']}, 'answers 400'),
                (400, ['x'], 'answers 400'),
                (500, b'<html>', 'answers 500 with what is no JSON'),
                (302, b'{}', 'answers 302'),
                (200, {'x': 1}, 'answers 200 with what has no access_token'),
                (200, b'x' * (MAX_RESPONSE + 1), 'octets'),
                (200, {'access_token': 'hunter\n'}, 'characters')):
            with self.subTest(words=words):
                endpoint = self.endpoint((status, found))
                self.assertFails(
                    self.with_secret(endpoint.url),
                    endpoint.url.partition('?')[0], words)
                # It follows no redirection.
                self.assertEqual(len(endpoint.forms), 1)

    def test_retry_after(self):
        # RFC 9110, section 10.2.3.
        date = format_datetime(
            datetime.now(timezone.utc) + timedelta(hours=1), usegmt=True)
        for status, value, least, most in (
                (429, '120', 120, 120), (503, '7200', 7200, 7200),
                (503, date, 3500, 3600), (503, 'x', 0, 0), (503, '-5', 0, 0),
                (429, '9' * 5000, 0, 0), (429, '\xb2', 0, 0),
                (503, 'Wed, 21 Oct 2015 07:28:00 GMT', 0, 0),
                (503, 'Wed, 99 Oct 2015 07:28:00 GMT', 0, 0),
                (503, 'Wed, 21 Oct 2015 07:28:00', 0, 0),
                (400, '120', 0, 0)):
            with self.subTest(status=status, value=value[:40]):
                endpoint = self.endpoint((status, {}, value))
                with self.assertRaises(TokenUnavailable) as caught:
                    self.with_secret(endpoint.url).fetch()
                self.assertIn(f'answers {status}', str(caught.exception))
                self.assertGreaterEqual(caught.exception.pause, least)
                self.assertLessEqual(caught.exception.pause, most)

    def test_nobody_there(self):
        self.assertFails(
            self.with_secret(f'http://{HOST}:{free_port()}/'), 'refused')

    def test_one_that_hangs_is_aborted(self):
        asked, over = threading.Event(), threading.Event()
        self.addCleanup(over.set)

        def hang():
            asked.set()
            over.wait(60)
            yield b'{}'

        def hang_at_once(form):
            return 200, b''.join(hang())

        def hang_in_the_content(form):
            return 200, hang()
        for answer in (hang_at_once, hang_in_the_content):
            for tls in (None, server_context()):
                asked.clear()
                endpoint = self.use(TokenEndpoint(answer, tls))
                with self.subTest(answer=answer, tls=tls), (
                        trusted_test_certificate()):
                    source = self.with_secret(endpoint.url)
                    thread, failures = self.fetching(source)
                    self.assertTrue(asked.wait(20))
                    source.abort()
                    thread.join(20)
                    self.assertEqual(len(failures), 1)
                    # There is nothing more to be aborted.
                    source.abort()

    def test_aborted_before_it_is_asked(self):
        endpoint = self.endpoint((200, GOOD))
        source = self.with_secret(endpoint.url)

        def connect(connection):
            source.abort()
            really(connection)
        really = HTTPConnection.connect
        with mock.patch.object(HTTPConnection, 'connect', connect):
            self.assertFails(source, 'given up')
        self.assertEqual(endpoint.forms, [])
        # It is not so for ever.
        source.fetch()


class TestRefreshTokens(EndpointTestCase):
    def setUp(self):
        super().setUp()
        self.path = self.directory / 'refresh'
        self.path.write_text(f'{REFRESH}\n')
        self.path.chmod(0o600)

    def with_file(self, url, **settings):
        return self.source(
            url, refresh_token_file=str(self.path), **settings)

    def test_good(self):
        endpoint = self.endpoint((200, GOOD))
        for _ in range(2):
            self.with_file(endpoint.url).fetch()
        self.assertEqual(endpoint.forms, 2 * [{
            'path': '/token?a=b', 'grant_type': 'refresh_token',
            'client_id': 'lists', 'refresh_token': REFRESH}])
        self.assertEqual(self.path.read_text(), f'{REFRESH}\n')

    def test_another_is_kept(self):
        endpoint = self.endpoint(
            (200, {**GOOD, 'refresh_token': 'hunter4'}), (200, GOOD))
        for _ in range(2):
            self.with_file(endpoint.url).fetch()
        self.assertEqual(
            [form['refresh_token'] for form in endpoint.forms],
            [REFRESH, 'hunter4'])
        self.assertEqual(self.path.read_text(), 'hunter4\n')
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        self.assertEqual(os.listdir(self.directory), ['refresh'])

    def test_another_is_for_the_same_users(self):
        # `mailman mta-pool check` may be run by root, and the runners are not.
        self.path.chmod(0o640)
        status = self.path.stat()
        owner = status.st_uid, status.st_gid
        for token, error, mode in (
                ('hunter4', None, 0o640), ('hunter5', PermissionError, 0o600)):
            endpoint = self.endpoint((200, {**GOOD, 'refresh_token': token}))
            with self.subTest(token=token), mock.patch.object(
                    os, 'fchown', side_effect=error) as chown:
                self.with_file(endpoint.url).fetch()
                self.assertEqual(chown.call_args[0][1:], owner)
                self.assertEqual(self.path.read_text(), f'{token}\n')
                self.assertEqual(
                    stat.S_IMODE(self.path.stat().st_mode), mode)

    def test_another_that_cannot_be_written(self):
        endpoint = self.endpoint(
            (200, {**GOOD, 'refresh_token': 'hunter4'}), (200, GOOD))
        source = self.with_file(endpoint.url)
        with mock.patch.object(os, 'replace', side_effect=OSError(
                errno.ENOSPC, 'No space left on device')):
            with self.assertLogs('mailman.smtp', logging.WARNING) as logs:
                source.fetch()
        line, = logs.output
        self.assertIn(f'{self.path}: No space', line)
        self.assertNotIn('hunter', line)
        self.assertEqual(os.listdir(self.directory), ['refresh'])
        # This process goes on with it.
        source.fetch()
        self.assertEqual(endpoint.forms[1]['refresh_token'], 'hunter4')
        # Until the operator puts another one there.
        self.path.write_text('hunter5\n')
        source.fetch()
        self.assertEqual(endpoint.forms[2]['refresh_token'], 'hunter5')

    def test_only_the_file_can_be_written(self):
        # The directory cannot, or the file is mounted.
        self.path.chmod(0o640)
        inode = self.path.stat().st_ino
        endpoint = self.endpoint((200, {**GOOD, 'refresh_token': 'h4'}))
        for module, name, number in ((tempfile, 'mkstemp', errno.EACCES),
                                     (os, 'replace', errno.EBUSY)):
            self.path.write_text(f'{REFRESH}\n')
            with self.subTest(name=name), mock.patch.object(
                    module, name, side_effect=OSError(number, 'No')):
                self.with_file(endpoint.url).fetch()
            self.assertEqual(self.path.read_text(), 'h4\n')
            self.assertEqual(self.path.stat().st_ino, inode)
            self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o640)
            self.assertEqual(os.listdir(self.directory), ['refresh'])

    def test_a_link(self):
        link = self.directory / 'link'
        link.symlink_to('refresh')
        endpoint = self.endpoint((200, {**GOOD, 'refresh_token': 'hunter4'}))
        self.source(endpoint.url, refresh_token_file=str(link)).fetch()
        self.assertTrue(link.is_symlink())
        self.assertEqual(self.path.read_text(), 'hunter4\n')

    def test_another_process_uses_it(self):
        # Each token is good once: the second one waits, and finds the next.
        endpoint = self.endpoint((200, GOOD))
        with open(self.path, 'rb') as file:
            fcntl.flock(file, fcntl.LOCK_EX)

            async def main():
                loop = asyncio.get_running_loop()
                fetch = loop.run_in_executor(
                    None, self.with_file(endpoint.url).fetch)
                await asyncio.sleep(0)
                self.assertFalse(fetch.done())
                other = self.directory / 'other'
                other.write_text('hunter4')
                other.replace(self.path)
                fcntl.flock(file, fcntl.LOCK_UN)
                await fetch
            asyncio.run(main())
        self.assertEqual(endpoint.forms[0]['refresh_token'], 'hunter4')

    def test_another_process_hangs_with_it(self):
        # Each fetch would leave a thread that waits for ever.
        asked = threading.Event()
        endpoint = self.endpoint((200, GOOD))
        source = self.with_file(
            endpoint.url, sleep=lambda seconds: asked.set())
        with open(self.path, 'rb') as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            thread, failures = self.fetching(source)
            self.assertTrue(asked.wait(20))
            source.abort()
            thread.join(20)
        self.assertEqual(len(failures), 1)
        self.assertEqual(endpoint.forms, [])
        source.fetch()

    def test_no_token_in_the_file(self):
        for text, words in (('', 'is empty'), ('hunter\nx\n', 'one line')):
            self.path.write_text(text)
            self.assertFails(
                self.with_file('http://127.0.0.1:1/'), str(self.path), words)
        self.path.unlink()
        self.assertFails(
            self.with_file('http://127.0.0.1:1/'), 'No such file')
