# SPDX-License-Identifier: GPL-3.0-or-later

"""By which mechanism we log in, and to whom nothing is shown."""

import math
import asyncio
import hashlib
import smtplib
import unittest

from hypothesis import given, strategies as st
from mailman_mta_pool.errors import (
    NotVerified,
    TokenUnavailable,
    UnusableValue,
)
from mailman_mta_pool.login.access import Access, NO_ACCESS
from mailman_mta_pool.login.credentials import (
    Attempt,
    Credentials,
    KeyNames,
    MECHANISMS,
)
from mailman_mta_pool.login.exchange import MAX_RESPONSE
from mailman_mta_pool.login.grant import Grant
from mailman_mta_pool.login.tokens import Tokens
from mailman_mta_pool.secret import Secret
from mailman_mta_pool.settings import (
    AuthSettings,
    BEARER_MECHANISMS,
    EXPLICIT_MECHANISMS,
    PASSWORD_MECHANISMS,
)
from unittest import mock


KEYS = KeyNames('[relay.a] user', '[relay.a] password', 'TLS',
                '[relay.a] auth_insecure: yes', '[relay.a] auth')
TOKEN = 'ya29.token'


class Source:
    """Grants tokens that are numbered."""

    def __init__(self, *grants):
        self.grants = list(grants)
        self.fetched = 0

    def fetch(self):
        self.fetched += 1
        grant = self.grants.pop(0)
        if isinstance(grant, Exception):
            raise grant
        return grant

    def abort(self):
        raise AssertionError('it takes no time')


def granted(*tokens):
    return Source(*(Grant(Secret(token), math.inf) for token in tokens))


def by_password(*named, warns=False, **how):
    return Credentials(
        'ant', Secret('formic'), keys=KEYS, warns=warns, relay='a',
        auth=AuthSettings(named, **how))


def by_token(source, *named):
    return Credentials(
        'ant', Secret(), keys=KEYS, tokens=Tokens(source), warns=False,
        auth=AuthSettings(named), host='mx.example.com', port=587)


def choose(credentials, *offered, is_verified=True):
    """Choose a mechanism, and return its name."""
    async def main():
        return await credentials.attempt()
    return asyncio.run(main()).authentication(
        frozenset(offered), is_verified).mechanism


class TestChoice(unittest.TestCase):
    def test_names(self):
        self.assertEqual(set(MECHANISMS), {
            *PASSWORD_MECHANISMS, *BEARER_MECHANISMS, *EXPLICIT_MECHANISMS})
        # The settings name them in the order of their strength.
        for names in (PASSWORD_MECHANISMS, BEARER_MECHANISMS):
            self.assertEqual(
                list(names), [name for name in MECHANISMS if name in names])

    def test_auto(self):
        offered = list(MECHANISMS)
        for name in PASSWORD_MECHANISMS:
            self.assertEqual(choose(by_password(), *offered), name)
            offered.remove(name)
        self.assertEqual(
            choose(by_token(granted(TOKEN)), *MECHANISMS), 'OAUTHBEARER')
        self.assertEqual(
            choose(by_token(granted(TOKEN)), 'PLAIN', 'XOAUTH2'), 'XOAUTH2')

    def test_named(self):
        for named, offered, name in (
                (('PLAIN',), MECHANISMS, 'PLAIN'),
                # The order of strength, and not that of the names.
                (('LOGIN', 'PLAIN', 'CRAM-MD5'), ('LOGIN', 'PLAIN'), 'PLAIN'),
                (('EXTERNAL',), MECHANISMS, 'EXTERNAL'),
                (('EXTERNAL', 'PLAIN'), ('PLAIN',), 'PLAIN')):
            with self.subTest(named=named):
                self.assertEqual(choose(by_password(*named), *offered), name)

    def test_none_of_the_named(self):
        for credentials, words in (
                (by_password('PLAIN'), 'none of which is PLAIN'),
                (by_password(), 'SCRAM-SHA-256 or SCRAM-SHA-1 or CRAM-MD5'),
                (by_token(granted(TOKEN)), 'OAUTHBEARER or XOAUTH2')):
            with self.subTest(words=words):
                with self.assertRaisesRegex(
                        smtplib.SMTPNotSupportedError, words):
                    choose(credentials, 'GSSAPI')

    def test_external_needs_nothing(self):
        for user, command in (('', b'AUTH EXTERNAL ='),
                              ('ant', b'AUTH EXTERNAL YW50')):
            credentials = Credentials(
                user, Secret(), auth=AuthSettings(('EXTERNAL',)))
            self.assertTrue(credentials)
            self.assertEqual(Attempt(credentials).authentication(
                frozenset(['EXTERNAL']), False).command, command)

    def test_a_password_that_scram_cannot_take(self):
        credentials = Credentials('ant', Secret('a\x07'))
        self.assertEqual(
            choose(credentials, 'SCRAM-SHA-256', 'CRAM-MD5'), 'CRAM-MD5')

    def test_a_hash_that_is_not_there(self):
        def new(name, *args):
            raise ValueError('[digital envelope routines] unsupported')
        credentials = by_password()
        with mock.patch.object(hashlib, 'new', new):
            self.assertEqual(
                choose(credentials, 'SCRAM-SHA-1', 'PLAIN'), 'PLAIN')

    def test_no_login(self):
        self.assertIsNone(asyncio.run(NO_ACCESS.attempt()))
        self.assertFalse(Credentials('ant', Secret()))


class TestVerified(unittest.TestCase):
    """What shows the password goes to a verified server only."""

    def test_not_to_another(self):
        for credentials, offered in (
                (by_password(), ('PLAIN', 'LOGIN')),
                (by_token(granted(TOKEN)), ('OAUTHBEARER', 'XOAUTH2'))):
            with self.assertRaises(smtplib.SMTPNotSupportedError) as caught:
                choose(credentials, *offered, is_verified=False)
            for word in (*offered, 'nothing was sent'):
                self.assertIn(word, str(caught.exception))
            self.assertEqual(
                caught.exception.remedy, 'Set TLS; or [relay.a] '
                'auth_insecure: yes, if nobody can be in its place.')

    def test_others_do(self):
        self.assertEqual(choose(
            by_password(), 'PLAIN', 'CRAM-MD5', is_verified=False),
            'CRAM-MD5')
        self.assertEqual(choose(
            by_password(), 'LOGIN', 'SCRAM-SHA-1', is_verified=False),
            'SCRAM-SHA-1')

    def test_if_allowed(self):
        credentials = by_password(is_insecure=True)
        with mock.patch('mailman_mta_pool.login.credentials.log') as log:
            self.assertEqual(
                choose(credentials, 'PLAIN', is_verified=False), 'PLAIN')
        log.warning.assert_not_called()

    def test_of_mta_with_a_warning(self):
        credentials = by_password(warns=True)
        with self.assertLogs('mailman.smtp', 'WARNING') as logs:
            for _ in range(3):
                self.assertEqual(
                    choose(credentials, 'PLAIN', is_verified=False), 'PLAIN')
        line, = logs.output
        self.assertIn('a: PLAIN shows', line)
        self.assertIn('[relay.a] auth_insecure: yes', line)
        self.assertNotIn('formic', line)


#: As the issue demands it.
STRONGEST_FIRST = (
    'EXTERNAL', 'OAUTHBEARER', 'XOAUTH2', 'SCRAM-SHA-256', 'SCRAM-SHA-1',
    'CRAM-MD5', 'PLAIN', 'LOGIN')
SHOWING = {'OAUTHBEARER', 'XOAUTH2', 'PLAIN', 'LOGIN'}
FOR = {
    'nothing': set(), 'token': {'OAUTHBEARER', 'XOAUTH2'},
    'password': {'SCRAM-SHA-256', 'SCRAM-SHA-1', 'CRAM-MD5', 'PLAIN',
                 'LOGIN'}}


class TestStrongestFirst(unittest.TestCase):
    @given(st.sampled_from(sorted(FOR)),
           st.sets(st.sampled_from((*STRONGEST_FIRST, 'GSSAPI'))),
           st.sets(st.sampled_from(STRONGEST_FIRST)),
           st.booleans(), st.sampled_from(('no', 'warns', 'insecure')))
    def test_any_offer(self, held, offered, named, is_verified, allowed):
        usable = FOR[held] | ({'EXTERNAL'} & named)
        ours = [name for name in STRONGEST_FIRST if name in usable and
                name in offered and (not named or name in named)]
        safe = [name for name in ours if is_verified or
                name not in SHOWING or allowed != 'no']
        credentials = Credentials(
            'ant', Secret('formic' if held == 'password' else ''), keys=KEYS,
            tokens=object() if held == 'token' else None,
            warns=allowed == 'warns',
            auth=AuthSettings(tuple(named), allowed == 'insecure'))
        attempt = Attempt(
            credentials, Secret(TOKEN) if held == 'token' else None)
        with mock.patch('mailman_mta_pool.login.credentials.log') as log:
            try:
                chosen = attempt.authentication(
                    frozenset(offered), is_verified)
            except smtplib.SMTPNotSupportedError as error:
                self.assertEqual(safe, [])
                # Somebody may have taken the others out of the offer.
                self.assertEqual(isinstance(error, NotVerified), ours != [])
                return
        self.assertEqual(chosen.mechanism, safe[0])
        # Only [mta] has what is not safe without having asked for it.
        self.assertEqual(log.warning.called, (
            chosen.mechanism in SHOWING and not is_verified and
            allowed == 'warns'))


class TestTokensOfALogin(unittest.TestCase):
    def attempts(self, *tokens):
        """The tokens of two logins, both of which the server refuses."""
        source, found = granted(*tokens), []
        credentials = by_token(source, 'XOAUTH2')

        def command(attempt):
            return attempt.authentication(
                frozenset(['XOAUTH2']), True).command

        async def main():
            for _ in range(2):
                attempt = await credentials.attempt()
                while attempt is not None:
                    found.append(command(attempt))
                    attempt = await attempt.renewed()
        asyncio.run(main())
        return found, source.fetched

    def test_once_more_with_another(self):
        found, fetched = self.attempts('one', 'two', 'three')
        # The first was new when it was refused; for the second login it is
        # not.
        self.assertEqual(fetched, 2)
        self.assertEqual(len(found), 3)
        self.assertEqual(found[0], found[1])
        self.assertNotEqual(found[1], found[2])

    def test_a_password_is_no_other_the_next_time(self):
        async def main():
            return await (await by_password().attempt()).renewed()
        self.assertIsNone(asyncio.run(main()))

    def test_too_long(self):
        with self.assertRaises(TokenUnavailable) as caught:
            asyncio.run(by_token(granted('x' * MAX_RESPONSE)).attempt())
        self.assertNotIn('xx', str(caught.exception))


class TestUnusable(unittest.TestCase):
    def test_keys_are_named(self):
        for user, password, key in (
                ('a\0', 'b', '[relay.a] user'),
                ('a', 'b\0', '[relay.a] password'),
                ('a', '\ud800', '[relay.a] password'),
                ('a', 'b' * MAX_RESPONSE, '[relay.a] password')):
            access = Access(lambda: Credentials(
                user, Secret(password), keys=KEYS))
            with self.assertRaises(UnusableValue) as caught:
                asyncio.run(access.attempt())
            self.assertIn(key, str(caught.exception))

    @given(st.text(min_size=1), st.text(min_size=1),
           st.sets(st.sampled_from(sorted(MECHANISMS))), st.booleans())
    def test_anything(self, user, password, offered, is_verified):
        try:
            credentials = Credentials(user, Secret(password), warns=False)
            name = Attempt(credentials).authentication(
                frozenset(offered), is_verified).mechanism
        except UnusableValue:
            self.assertTrue('\0' in user + password or any(
                '\ud800' <= each <= '\udfff' for each in user + password))
        except smtplib.SMTPNotSupportedError:
            pass
        else:
            self.assertIn(name, offered)
            self.assertIn(name, PASSWORD_MECHANISMS)
            self.assertTrue(is_verified or name not in ('PLAIN', 'LOGIN'))
