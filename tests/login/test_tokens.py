# SPDX-License-Identifier: GPL-3.0-or-later

"""Tokens: one fetch at a time, in time, and what is no token."""

import json
import math
import asyncio
import unittest

from hypothesis import given, strategies as st
from mailman_mta_pool.errors import TokenUnavailable
from mailman_mta_pool.login.grant import (
    CommandSource,
    Grant,
    grant_in,
    MAX_LIFE,
    MAX_TOKEN,
    printed_grant,
)
from mailman_mta_pool.login.tokens import (
    FETCH_TIMEOUT,
    FEW_SECONDS,
    LONGEST_PAUSE,
    Tokens,
)
from mailman_mta_pool.programs import FAILURE_PAUSE, ProgramFailed
from mailman_mta_pool.secret import Secret
from tests.opening import QuickLoop
from threading import Event


SECRET = 'hunter2'


class Source:
    """Grants tokens that are numbered, each of a life."""

    def __init__(self, name='token {}', life=3600.0):
        self.name = name
        self.life = life
        self.fetched = 0
        self.problem = None
        self.pause = 0.0
        self.gate = Event()
        self.gate.set()
        self.aborted = False

    def fetch(self):
        self.fetched += 1
        self.gate.wait(30)
        if self.problem is not None:
            raise TokenUnavailable(self.problem, self.pause)
        return Grant(Secret(self.name.format(self.fetched)), self.life)

    def abort(self):
        self.aborted = True
        self.gate.set()

    def failure(self, problem):
        return TokenUnavailable(f'the source {problem}')


class TestTokens(unittest.TestCase):
    def setUp(self):
        self.loop = QuickLoop()
        self.addCleanup(self.loop.close)
        self.addCleanup(lambda: self.loop.run_until_complete(
            self.loop.shutdown_default_executor()))
        self.now = 100.0

    def tokens(self, source):
        return Tokens(source, clock=lambda: self.now)

    def get(self, tokens, refused=None):
        token, is_new = self.loop.run_until_complete(tokens.get(refused))
        return token.reveal(), is_new

    def test_one_fetch_at_a_time(self):
        source = Source()
        source.gate.clear()
        tokens = self.tokens(source)

        async def main():
            logins = [asyncio.ensure_future(tokens.get()) for _ in range(8)]
            await asyncio.sleep(0)
            # Who waits no longer does not end it for the others.
            logins.pop(0).cancel()
            self.loop.call_soon(source.gate.set)
            return await asyncio.gather(*logins)
        found = self.loop.run_until_complete(main())
        self.assertEqual(source.fetched, 1)
        self.assertEqual({token.reveal() for token, _ in found}, {'token 1'})

    def test_in_time(self):
        source = Source()
        tokens = self.tokens(source)
        self.assertEqual(self.get(tokens), ('token 1', True))
        self.now += 3600 - FEW_SECONDS - 1
        self.assertEqual(self.get(tokens), ('token 1', False))
        self.now += 1
        self.assertEqual(self.get(tokens), ('token 2', True))

    def test_short_lives(self):
        # Not one fetch for each login.
        source = Source(life=60.0)
        tokens = self.tokens(source)
        self.get(tokens)
        self.now += 29
        self.assertEqual(self.get(tokens), ('token 1', False))
        self.now += 1
        self.assertEqual(self.get(tokens), ('token 2', True))

    def test_without_an_end(self):
        tokens = self.tokens(Source(life=math.inf))
        self.get(tokens)
        self.now += 1e9
        self.assertEqual(self.get(tokens), ('token 1', False))

    def test_refused(self):
        source = Source()
        tokens = self.tokens(source)
        first, _ = self.get(tokens)
        self.assertEqual(
            self.get(tokens, Secret(first)), ('token 2', True))
        # Another connection had the first one, too.
        self.assertEqual(
            self.get(tokens, Secret(first)), ('token 2', False))
        self.assertEqual(source.fetched, 2)

    def test_failure(self):
        source = Source()
        source.problem = 'it is down'
        tokens = self.tokens(source)
        for _ in range(3):
            with self.assertRaisesRegex(TokenUnavailable, 'it is down'):
                self.get(tokens)
        # Not each of the connections runs the program.
        self.assertEqual(source.fetched, 1)
        source.problem = None
        self.now += FAILURE_PAUSE
        self.assertEqual(self.get(tokens), ('token 2', True))

    def test_a_source_that_wants_a_pause(self):
        for pause, seconds in ((1.0, FAILURE_PAUSE), (300.0, 300.0),
                               (1e9, LONGEST_PAUSE)):
            with self.subTest(pause=pause):
                source = Source()
                source.problem, source.pause = 'not now', pause
                tokens = self.tokens(source)
                for more in (0, seconds - 1, 1):
                    self.now += more
                    with self.assertRaisesRegex(TokenUnavailable, 'not now'):
                        self.get(tokens)
                self.assertEqual(source.fetched, 2)

    def test_failure_while_the_last_one_is_good(self):
        source = Source()
        tokens = self.tokens(source)
        self.get(tokens)
        source.problem = 'it is down'
        self.now += 3600 - FEW_SECONDS
        self.assertEqual(self.get(tokens), ('token 1', False))
        self.now += FEW_SECONDS
        with self.assertRaises(TokenUnavailable):
            self.get(tokens)

    def test_one_that_hangs(self):
        source = Source()
        source.gate.clear()
        with self.assertRaisesRegex(
                TokenUnavailable, f'source .* within {FETCH_TIMEOUT:g} s'):
            self.get(self.tokens(source))
        self.assertTrue(source.aborted)


class TestGrants(unittest.TestCase):
    def test_bare(self):
        for octets in (b'hunter2', b'hunter2\n', b'hunter2\r\n'):
            self.assertEqual(printed_grant(octets), Grant(Secret(SECRET)))

    def test_awkward(self):
        for token in ('p\xe4ss', '%#', 'a b', 'x' * 500, '"x"'):
            with self.subTest(token=token):
                self.assertEqual(printed_grant(
                    f'{token}\n'.encode()).token, Secret(token))
                self.assertEqual(printed_grant(json.dumps(
                    {'access_token': token}).encode()).token, Secret(token))

    def test_json(self):
        for life, seconds in ((3599, 3599.0), ('3599', 3599.0), (1.5, 1.5),
                              # What never expires, as some write it.
                              (2 ** 31 - 1, MAX_LIFE), (10 ** 400, MAX_LIFE),
                              (math.inf, MAX_LIFE), ('9' * 400, MAX_LIFE),
                              (None, math.inf)):
            with self.subTest(life=life):
                self.assertEqual(grant_in({
                    'access_token': SECRET, 'token_type': 'bearer',
                    'expires_in': life, 'scope': 'x'}),
                    Grant(Secret(SECRET), seconds))

    def test_refresh_token(self):
        self.assertEqual(
            grant_in({'access_token': 'a', 'refresh_token': SECRET}),
            Grant(Secret('a'), math.inf, Secret(SECRET)))

    def test_nonsense(self):
        for octets in (
                b'', b'\n', b'a\nb\n', b'\xff', b'{', b'{"access_token": 1}',
                b'{"access_token": ""}', b'{"token": "hunter2"}',
                b'{"access_token": "hunter2", "expires_in": -1}',
                b'{"access_token": "hunter2", "expires_in": 0}',
                b'{"access_token": "hunter2", "expires_in": true}',
                b'{"access_token": "hunter2", "expires_in": NaN}',
                b'{"access_token": "hunter2", "expires_in": "soon"}',
                b'{"access_token": "hunter2", "expires_in": []}',
                b'{"access_token": "hunter2", "token_type": "mac"}',
                b'{"access_token": "hunter2", "refresh_token": 1}',
                b'{"access_token": "hunter2\\u0001"}',
                b'{"access_token": "hunter2\\n"}', b'{"x":' * 9999,
                b'x' * (MAX_TOKEN + 1),
                json.dumps({'access_token': '\xe4' * MAX_TOKEN}).encode()):
            with self.subTest(octets=octets[:60]):
                with self.assertRaises(ValueError) as caught:
                    printed_grant(octets)
                self.assertNotIn(SECRET, str(caught.exception))
                self.assertIsNone(caught.exception.__context__)

    @given(st.binary() | st.dictionaries(
        st.sampled_from(['access_token', 'expires_in', 'token_type', 'x']),
        st.none() | st.text() | st.floats() | st.integers() | st.lists(
            st.integers())).map(lambda value: json.dumps(value).encode()))
    def test_anything(self, octets):
        try:
            grant = printed_grant(octets)
        except ValueError:
            return
        self.assertTrue(grant.token.reveal().isprintable())
        self.assertGreater(grant.expires_in, 0)


class TestCommand(unittest.TestCase):
    def fetch(self, run):
        return CommandSource(
            Secret("get-token --for 'the list'"), '[relay.a] token_command',
            run).fetch()

    def test_arguments(self):
        def run(arguments, most):
            self.assertEqual(arguments, ['get-token', '--for', 'the list'])
            return b'hunter2\n'
        self.assertEqual(self.fetch(run).token, Secret(SECRET))

    def test_failures(self):
        def failed(arguments, most):
            raise ProgramFailed('ended with status 1')
        for run, words in (
                (failed, 'ended with status 1'),
                (lambda *ignore: b'a\nb', 'printed what is more'),
                (lambda *ignore: b'{', 'printed what is no JSON')):
            with self.subTest(words=words):
                with self.assertRaises(TokenUnavailable) as caught:
                    self.fetch(run)
                for word in (words, '[relay.a] token_command', 'by hand'):
                    self.assertIn(word, str(caught.exception))
