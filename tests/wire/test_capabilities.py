# SPDX-License-Identifier: GPL-3.0-or-later
"""What is read from a reply to EHLO."""

import unittest

from hypothesis import given, settings, strategies as st
from mailman_mta_pool.wire.capabilities import Capabilities, Limits


# As Debian 12 installs it, with SASL and TLS.
POSTFIX = b"""\
mail.example.com
PIPELINING
SIZE 10240000
VRFY
ETRN
STARTTLS
AUTH PLAIN LOGIN
ENHANCEDSTATUSCODES
8BITMIME
DSN
SMTPUTF8
CHUNKING
XVERP"""
EXIM = b"""\
mail.example.com Hello localhost [127.0.0.1]
SIZE 52428800
8BITMIME
PIPELINING
PIPECONNECT
CHUNKING
PRDR
LIMITS MAILMAX=1000 RCPTMAX=50000
HELP"""


def offering(*lines):
    """Return the capabilities of a server that says these lines."""
    return Capabilities.from_ehlo(
        '\n'.join(('mail.example.com', *lines)).encode('latin-1'))


class TestKeywords(unittest.TestCase):
    def test_postfix(self):
        server = Capabilities.from_ehlo(POSTFIX)
        for name in ('pipelining', 'chunking', 'eight_bit_mime', 'smtputf8',
                     'starttls', 'dsn', 'enhanced_status_codes', 'xverp'):
            with self.subTest(name=name):
                self.assertIs(getattr(server, name), True)
        self.assertIs(server.verp, False)
        self.assertEqual(server.size, 10240000)
        self.assertEqual(server.auth, {'PLAIN', 'LOGIN'})
        self.assertEqual(server.limits, Limits())
        self.assertIn('ETRN', server)
        self.assertNotIn('MAIL.EXAMPLE.COM', server)

    def test_exim(self):
        server = Capabilities.from_ehlo(EXIM)
        for name in ('smtputf8', 'starttls', 'dsn', 'xverp', 'verp',
                     'enhanced_status_codes'):
            with self.subTest(name=name):
                self.assertIs(getattr(server, name), False)
        self.assertEqual(server.size, 52428800)
        self.assertEqual(server.limits, Limits(mailmax=1000, rcptmax=50000))
        self.assertEqual(server.auth, frozenset())
        self.assertEqual(server.keywords['PIPECONNECT'], ())

    def test_nothing(self):
        # Such as after HELO.
        for server in (Capabilities(), Capabilities.from_ehlo(b''),
                       Capabilities.from_ehlo(b'mail.example.com'),
                       offering('', '  ')):
            with self.subTest(server=server):
                self.assertEqual(dict(server.keywords), {})
                self.assertFalse(
                    server.pipelining or server.chunking or server.smtputf8 or
                    server.eight_bit_mime or server.starttls or server.dsn or
                    server.enhanced_status_codes or server.xverp or
                    server.verp)
                self.assertIsNone(server.size)
                self.assertEqual(server.limits, Limits(None, None, None))

    def test_the_greeting_is_no_keyword(self):
        self.assertEqual(dict(Capabilities.from_ehlo(
            b'PIPELINING CHUNKING\nSIZE').keywords), {'SIZE': ()})
        self.assertFalse(offering().pipelining)

    def test_case_does_not_matter(self):
        server = offering('pipelining', 'Chunking', '8BitMime', 'sMtPuTf8',
                          'Size 7', 'auth plain', 'limits rcptmax=3')
        self.assertTrue(server.pipelining and server.chunking and
                        server.eight_bit_mime and server.smtputf8)
        self.assertEqual(server.size, 7)
        self.assertEqual(server.auth, {'PLAIN'})
        self.assertEqual(server.limits.rcptmax, 3)
        self.assertIn('CHUNKING', server)

    def test_a_keyword_is_a_whole_word(self):
        server = offering('PIPELININGS', 'X-CHUNKING', 'NOT SMTPUTF8',
                          'XVERPS', 'XAUTH=PLAIN')
        self.assertFalse(server.pipelining or server.chunking or
                         server.smtputf8 or server.xverp or server.verp)
        self.assertEqual(server.auth, frozenset())
        self.assertIn('XAUTH=PLAIN', server)

    def test_unknown_ones_and_parameters_are_kept(self):
        server = offering('X-Thing  one Two', 'DELIVERBY 60 x=Y', 'VERP +',
                          'X-LIKE AUTH=ME')
        self.assertEqual(server.keywords['X-THING'], ('one', 'Two'))
        self.assertEqual(server.keywords['DELIVERBY'], ('60', 'x=Y'))
        self.assertEqual(server.keywords['VERP'], ('+',))
        self.assertEqual(server.keywords['X-LIKE'], ('AUTH=ME',))
        self.assertTrue(server.verp)

    def test_octets_that_are_not_ascii(self):
        server = offering('X-\xfc \xe9', 'PIPELINING')
        self.assertIn('X-\xdc', server)
        self.assertTrue(server.pipelining)

    def test_it_is_a_value(self):
        server = offering('SIZE')
        with self.assertRaises(TypeError):
            server.keywords['CHUNKING'] = ()

    def test_repr(self):
        self.assertEqual(repr(offering('SIZE 7', 'DSN')),
                         '<Capabilities DSN SIZE>')
        self.assertEqual(repr(Capabilities()), '<Capabilities none>')


class TestParameters(unittest.TestCase):
    def test_size(self):
        for line, size in (
                ('SIZE 10240000', 10240000),
                # RFC 1870, section 4: zero is no limit, and so is nothing.
                ('SIZE 0', 0), ('SIZE', 0), ('SIZE 007', 7),
                ('SIZE 18446744073709551616', 2 ** 64),
                # Not a limit that we could keep.
                ('SIZE unlimited', 0), ('SIZE -1', 0), ('SIZE 1e6', 0),
                ('SIZE \xb2', 0), ('SIZE 10 20', 10), ('SIZES 10', None),
                ('', None)):
            with self.subTest(line=line):
                self.assertEqual(offering(line).size, size)

    def test_auth(self):
        for lines, mechanisms in (
                (['AUTH PLAIN login CRAM-MD5'],
                 {'PLAIN', 'LOGIN', 'CRAM-MD5'}),
                # As some wrote it before there was an RFC.
                (['AUTH=LOGIN PLAIN'], {'LOGIN', 'PLAIN'}),
                (['auth=login'], {'LOGIN'}),
                # Many say both.
                (['AUTH PLAIN', 'AUTH=LOGIN'], {'LOGIN', 'PLAIN'}),
                (['AUTH'], set()), (['AUTH='], set())):
            with self.subTest(lines=lines):
                self.assertEqual(offering(*lines).auth, mechanisms)
                self.assertIn('AUTH', offering(*lines))

    def test_limits(self):
        for line, limits in (
                ('LIMITS', Limits()),
                ('LIMITS RCPTMAX=20', Limits(rcptmax=20)),
                ('LIMITS mailmax=5 RcptDomainMax=1 RCPTMAX=999999',
                 Limits(5, 999999, 1)),
                # RFC 9422, section 4: names that are not known are ignored.
                ('LIMITS FOO=1 RCPTMAX=2 BAR', Limits(rcptmax=2)),
                # And values that are none, too.
                ('LIMITS RCPTMAX=0 MAILMAX=-1 RCPTDOMAINMAX=x', Limits()),
                ('LIMITS RCPTMAX MAILMAX= RCPTDOMAINMAX=\xb3', Limits()),
                ('LIMITS COUNT=1 INDEX=2', Limits())):
            with self.subTest(line=line):
                self.assertEqual(offering(line).limits, limits)

    @settings(max_examples=300, deadline=None)
    @given(st.binary(max_size=200))
    def test_anything_can_be_read(self, text):
        server = Capabilities.from_ehlo(text)
        self.assertTrue(server.size is None or server.size >= 0)
        for limit in server.limits:
            self.assertTrue(limit is None or limit > 0)
        self.assertLessEqual(len(server.keywords), text.count(b'\n'))
