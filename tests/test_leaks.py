# SPDX-License-Identifier: GPL-3.0-or-later
"""A secret is found in whatever shape it has."""

import html
import json
import base64
import string
import unittest

from hypothesis import given, strategies as st
from pathlib import Path
from tempfile import TemporaryDirectory
from tests import secrecy
from tests.leaks import (
    EXCEPTION,
    is_findable,
    Needles,
    Notes,
    notes_in,
    RECORD,
    SECRET,
    secrets_in,
    WrittenNotes,
)
from urllib.parse import quote, quote_plus, urlencode


TEXT = 'formic \\%#\N{EURO SIGN} "acid"'
SECRETS = st.text(min_size=6).filter(is_findable)


def found(secret, text):
    """The shapes in which a secret is found."""
    return {leak.form for leak in Needles({secret: 'x'}).find(text, 'y')}


class TestShapes(unittest.TestCase):
    def test_each(self):
        octets = TEXT.encode()
        for form, text in (
                ('as it is', f'password={TEXT}!'),
                ('as it is', f'a\nb {TEXT.upper()}'),
                ('as it is', octets),
                ('escaped', repr([TEXT + '\0'])),
                ('escaped', ascii(TEXT)),
                ('escaped', repr(octets)),
                ('in JSON', json.dumps({'token': TEXT})),
                ('in HTML', html.escape(f'<b>{TEXT}</b>')),
                ('in hex', octets.hex().upper()),
                ('percent-encoded', f'https://ant:{quote(TEXT)}@host/'),
                ('percent-encoded', quote_plus(f'x&{TEXT}')),
                ('percent-encoded', urlencode({'client_secret': TEXT}))):
            with self.subTest(form=form, text=text):
                self.assertIn(form, found(TEXT, text))

    def test_what_is_sent_to_log_in(self):
        for response in (
                f'\0ant\0{TEXT}', f'\0lists@example.com\0{TEXT}',
                f'user=ant\x01auth=Bearer {TEXT}\x01\x01',
                f'n,a=ant,\x01host=h\x01auth=Bearer {TEXT}\x01\x01'):
            with self.subTest(response=response):
                line = base64.b64encode(response.encode()).decode()
                self.assertEqual(
                    found(TEXT, f'AUTH X {line}'), {'in base64'})

    @given(SECRETS, st.binary(max_size=4), st.binary(max_size=4))
    def test_base64_wherever_it_stands(self, secret, before, after):
        octets = before + secret.encode('utf-8', 'surrogatepass') + after
        for encode in base64.b64encode, base64.urlsafe_b64encode:
            self.assertIn('in base64', found(secret, encode(octets)))

    @given(SECRETS)
    def test_any_secret(self, secret):
        for text in (secret, repr(secret), json.dumps(secret),
                     html.escape(secret), ascii(secret)):
            self.assertTrue(found(secret, text))

    @given(st.text('ghijkm', min_size=6).filter(is_findable), st.text())
    def test_nothing_else(self, secret, text):
        if secret not in text.casefold():
            self.assertNotIn('as it is', found(secret, text))

    def test_what_is_found_by_accident(self):
        for secret in ('', 'ant', 'aaaaaaaa', 'ababab'):
            with self.subTest(secret=secret):
                self.assertFalse(is_findable(secret))
                self.assertEqual(found(secret, secret), set())

    def test_line(self):
        leak, = Needles({'formic': 'a'}).find('x\ny formic\nz', 'b')
        self.assertEqual(str(leak), 'b:2: the secret of a, as it is')

    def test_files(self):
        with TemporaryDirectory() as directory:
            path = Path(directory, 'a', 'b')
            path.parent.mkdir()
            path.write_bytes(b'\x80\xff\nx formic y')
            path.with_name('formic.json').write_text('')
            path.with_name('c').write_text(string.printable)
            self.assertEqual(
                [leak.place for leak in Needles(
                    {'formic': 'a'}).in_files(Path(directory), path)],
                [f'{path}:2', f'the name of {path.parent}/formic.json:1',
                 f'{path}:2'])

    def test_configuration(self):
        self.assertEqual(secrets_in(
            '[mta]\nsmtp_pass: a b \nsmtp_user: ant\n[relay.a]\n'
            ' password = #x\npassword c\n#password_file: /d\npassword:\n'
            '[limits]\nstorage: redis://:e@host/0\n'
            'token_url: https://ant:f@host/\n'), {'a b', '#x', 'c', 'e', 'f'})


class TestNotes(unittest.TestCase):
    def notes(self, text):
        notes = Notes()
        notes.context = 'a test'
        notes(SECRET, 'login.py:1', TEXT)
        for kind in RECORD, EXCEPTION:
            notes(kind, f'{kind}.py:2', text)
        return notes

    def test_a_run_fails(self):
        for text, words in ((f'no {TEXT}', 'as it is'),
                            (base64.b64encode(TEXT.encode()).decode(),
                             'in base64')):
            for test, kind in (('test_records', RECORD),
                               ('test_exceptions', EXCEPTION)):
                with self.subTest(text=text, kind=kind):
                    result = unittest.TestResult()
                    secrecy.TestRun(test, self.notes(text)).run(result)
                    (_, told), = result.failures
                    self.assertIn(
                        f'{kind}.py:2, in a test:1: the secret of login.py:1, '
                        f'in a test, {words}', told)
                    self.assertNotIn('formic', told.rpartition('Error:')[2])

    def test_a_run_passes(self):
        for test in 'test_records', 'test_exceptions':
            result = unittest.TestResult()
            secrecy.TestRun(test, self.notes('<Secret>')).run(result)
            self.assertEqual((result.testsRun, result.failures), (1, []))

    def test_written(self):
        with TemporaryDirectory() as directory:
            for _ in range(2):
                write = WrittenNotes(directory)
                self.assertTrue(write(SECRET, 'a', '\ud800formic'))
                self.assertFalse(write(SECRET, 'b', '\ud800formic'))
                self.assertTrue(write(RECORD, 'c', 'formic'))
            with open(next(Path(directory).iterdir()), 'a') as fp:
                fp.write('["secret", "half a li')
            self.assertEqual(notes_in(Path(directory)).texts, {
                SECRET: {'\ud800formic': 'a'}, RECORD: {'formic': 'c'},
                EXCEPTION: {}})
