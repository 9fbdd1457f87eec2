# SPDX-License-Identifier: GPL-3.0-or-later
"""Replies, split anywhere, with a bound on everything."""

import unittest
import tracemalloc

from hypothesis import given, settings, strategies as st
from mailman_mta_pool.errors import ProtocolError
from mailman_mta_pool.shown import HIDDEN
from mailman_mta_pool.wire.replies import (
    MAX_CHALLENGE,
    MAX_LINE,
    MAX_LINES,
    Reply,
    ReplyParser,
)
from smtplib import SMTPServerDisconnected


def parse(*pieces):
    """Return the replies, and the error that followed them, or None."""
    parser, replies = ReplyParser(), []
    try:
        for piece in pieces:
            replies.extend(parser.feed(piece))
    except ProtocolError as error:
        return replies, str(error)
    return replies, None


def in_every_split(octets):
    """Yield the octets cut once, at every place, and into single ones."""
    for place in range(len(octets) + 1):
        yield octets[:place], octets[place:]
    yield tuple(octets[place:place + 1] for place in range(len(octets)))


def written(reply, end=b'\r\n'):
    """Write a reply as a server does."""
    last = len(reply.lines) - 1
    return b''.join(
        b'%d%c%b%b' % (reply.code, b' -'[number < last], line, end)
        for number, line in enumerate(reply.lines))


TEXTS = st.binary(max_size=30).map(
    lambda text: text.translate(None, b'\0\r\n'))
REPLIES = st.lists(st.builds(
    Reply, st.integers(200, 599),
    st.lists(TEXTS, min_size=1, max_size=4).map(tuple)))


class TestSecrets(unittest.TestCase):
    """A server repeats what we logged in with."""

    def parse(self, *lines):
        octets = ''.join(f'{line}\r\n' for line in lines).encode()
        parser = ReplyParser([b'formic acid', b'zm9ybwlj'])
        return [str(reply) for reply in parser.feed(octets)]

    def test_hidden(self):
        for lines, shown in (
                (('550 5.7.1 No formic acid',), f'550 5.7.1 {HIDDEN}'),
                (('550 <FORMIC Acid>',), f'550 {HIDDEN}'),
                (('250 4.7.1 Zm9ybWlj',), f'250 {HIDDEN}'),
                (('451-4.7.1 No', '451 4.7.1 xformic acidx'),
                 f'451 4.7.1 {HIDDEN}'),
                # Across its lines.
                (('451-formic a', '451-cid', '451 x'), f'451 {HIDDEN}')):
            with self.subTest(lines=lines):
                self.assertEqual(self.parse(*lines), [shown])
                self.assertEqual(self.parse(*lines, *lines), [shown] * 2)

    def test_no_reply(self):
        for line in '??? formic acid', '250+' + 'x' * 70 + 'formic acid':
            with self.subTest(line=line):
                with self.assertRaises(ProtocolError) as caught:
                    self.parse('250 Ok', line)
                self.assertIn(HIDDEN, str(caught.exception))
                self.assertNotIn('formic', str(caught.exception))

    def test_anything_else(self):
        self.assertEqual(
            self.parse('550-5.7.1 formic', '550 5.7.1 acid'),
            ['550 5.7.1 formic 5.7.1 acid'])

    @given(REPLIES)
    def test_any_replies(self, replies):
        octets = b''.join(map(written, replies))
        secrets = [b'formic', b'acid!!']
        self.assertEqual(list(ReplyParser(secrets).feed(octets)), replies)
        self.assertEqual(list(ReplyParser().feed(octets)), replies)


class TestReply(unittest.TestCase):
    def test_enhanced_code(self):
        for code, text, enhanced in (
                (250, b'2.1.5 Ok', '2.1.5'),
                (550, b'5.7.123 No', '5.7.123'),
                (451, b'4.999.999\tLater', '4.999.999'),
                (250, b'2.0.0', '2.0.0'),
                # RFC 2034, section 4: of another class than the code.
                (550, b'4.1.1 No', None),
                (250, b'5.1.1 Yes', None),
                (354, b'3.0.0 Go', None),
                # RFC 3463, section 2: what it looks like.
                (550, b'5.1 No', None),
                (550, b'5.1.1234 No', None),
                (550, b'5.1.1No', None),
                (550, b' 5.1.1 No', None),
                (550, b'No 5.1.1', None),
                (250, b'', None)):
            with self.subTest(code=code, text=text):
                self.assertEqual(Reply(code, (text,)).enhanced, enhanced)

    def test_enhanced_code_of_many_lines(self):
        # It stands in each of them (RFC 2034, section 4).
        self.assertEqual(
            Reply(550, (b'5.1.1 No', b'5.1.1 such user')).enhanced, '5.1.1')
        self.assertIsNone(Reply(550, (b'No', b'5.1.1 such user')).enhanced)

    def test_text_is_that_of_smtplib(self):
        self.assertEqual(
            Reply(250, (b'one', b'', b'two')).text, b'one\n\ntwo')

    def test_str_is_fit_for_a_log_file(self):
        for lines, text in (
                ((b'2.0.0 Ok', b'queued'), '250 2.0.0 Ok queued'),
                ((b'',), '250'),
                ((b'a\rb\x1b[31m\x7fc\td',), '250 a b [31m c d'),
                (('f\u00fcr\u2028dich'.encode(),), '250 f\u00fcr dich'),
                ((b'f\xfcr',), '250 f\\xfcr')):
            with self.subTest(lines=lines):
                self.assertEqual(str(Reply(250, lines)), text)


class TestParser(unittest.TestCase):
    def test_shapes(self):
        for octets, *replies in (
                (b'250 Ok\r\n', (250, [b'Ok'])),
                (b'250\r\n', (250, [b''])),
                (b'250 \r\n', (250, [b''])),
                (b'250  Ok \r\n', (250, [b' Ok '])),
                (b'250 a-b\r\n', (250, [b'a-b'])),
                (b'250-a\r\n250-\r\n250 c\r\n', (250, [b'a', b'', b'c'])),
                (b'250-a\r\n250\r\n', (250, [b'a', b''])),
                # Not every server ends its lines as it should.
                (b'250-a\n250 b\n', (250, [b'a', b'b'])),
                (b'250 a\rb\r\n', (250, [b'a\rb'])),
                (b'550 5.1.1 \xfc\r\n', (550, [b'5.1.1 \xfc'])),
                (b'200 a\r\n599 b\r\n', (200, [b'a']), (599, [b'b'])),
                (b'250-a\r\n250 b\r\n354 Go\r\n250 b\r\n250 b\r\n',
                 (250, [b'a', b'b']), (354, [b'Go']),
                 (250, [b'b']), (250, [b'b'])),
                # The last line of one reply looks like the whole of another.
                (b'250 x\r\n250-x\r\n250 x\r\n250-x\r\n250 x\r\n',
                 (250, [b'x']), (250, [b'x', b'x']), (250, [b'x', b'x'])),
                (3 * b'250-b\r\n' + 3 * b'250 b\r\n', (250, 4 * [b'b']),
                 (250, [b'b']), (250, [b'b'])),
                (b'',)):
            expected = [Reply(code, tuple(lines)) for code, lines in replies]
            for pieces in in_every_split(octets):
                with self.subTest(pieces=pieces):
                    self.assertEqual(parse(*pieces), (expected, None))

    @settings(max_examples=300, deadline=None)
    @given(REPLIES, st.lists(st.integers(0, 400)),
           st.sampled_from([b'\r\n', b'\n']))
    def test_any_replies_in_any_pieces(self, replies, cuts, end):
        octets = b''.join(written(reply, end) for reply in replies)
        cuts = sorted({min(cut, len(octets)) for cut in cuts})
        pieces = [octets[start:stop] for start, stop in zip(
            [0, *cuts], [*cuts, len(octets)])]
        self.assertEqual(parse(*pieces), (replies, None))

    @settings(max_examples=300, deadline=None)
    @given(st.lists(st.sampled_from([
        b'2', b'5', b'0', b'250', b'550', b'-', b' ', b'\r', b'\n', b'\r\n',
        b'\0', b'Ok', b'\xff', 1022 * b'x', 60 * b'250-\r\n'])))
    def test_pieces_do_not_matter(self, parts):
        # Not for what is no good, either.
        octets = b''.join(parts)
        whole, error = parse(octets)
        for pieces in (parts, [bytes([octet]) for octet in octets]):
            replies, other = parse(*pieces)
            self.assertEqual(replies, whole)
            self.assertEqual(other is None, error is None)

    def test_pending(self):
        parser = ReplyParser()
        self.assertFalse(parser.pending)
        for octets, pending in (
                (b'2', True), (b'50 Ok\r\n', False), (b'250-a\r\n', True),
                (b'250 b\r\n', False), (b'250 c\r\n2', True)):
            with self.subTest(octets=octets):
                list(parser.feed(octets))
                self.assertIs(parser.pending, pending)

    def test_what_it_remembers_is_bounded(self):
        parser = ReplyParser()
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        before, _ = tracemalloc.get_traced_memory()
        for number in range(3000):
            reply, = parser.feed(b'250 %01000d\r\n' % number)
            self.assertEqual(int(reply.text), number)
        after, _ = tracemalloc.get_traced_memory()
        # Three megabytes have gone through it.
        self.assertLess(after - before, 500_000)


class TestBounds(unittest.TestCase):
    """Whatever is out of bounds ends the connection, with a clear message."""

    def assertRefused(self, octets, message, replies=()):
        for pieces in ((octets,), (octets[:-1], octets[-1:]),
                       tuple(bytes([octet]) for octet in octets)):
            found, error = parse(*pieces)
            self.assertEqual(found, list(replies))
            self.assertRegex(error or 'nothing was raised', message)

    def test_longest_line(self):
        for end in (b'\r\n', b'\n'):
            line = b'250 ' + (MAX_LINE - 4) * b'x'
            self.assertEqual(len(line), 2048)
            expected = [Reply(250, (line[4:],))]
            for pieces in in_every_split(line + end):
                self.assertEqual(parse(*pieces), (expected, None))
            self.assertRefused(
                line + b'x' + end, 'longer than 2048 octets')

    def test_longest_challenge(self):
        # RFC 4954, section 4.
        line = b'334 ' + (MAX_CHALLENGE - 4) * b'x'
        self.assertEqual(len(line), 12288)
        expected = [Reply(334, (line[4:],))]
        for pieces in ((line + b'\r\n',), (line, b'\r\n'),
                       (line[:3], line[3:] + b'\r', b'\n')):
            self.assertEqual(parse(*pieces), (expected, None))
        for octets in (line + b'x\r\n', line + b'x'):
            found, error = parse(octets)
            self.assertEqual(found, [])
            self.assertIn('longer than 12288 octets', error)

    def test_line_without_an_end(self):
        # It need not end to be too long.
        self.assertRefused(b'250 ' + 2045 * b'x', 'longer than 2048 octets')
        self.assertRefused(b'250 ' + 2044 * b'x' + b'\rx',
                           'longer than 2048 octets')
        self.assertEqual(parse(b'250 ' + 2044 * b'x'), ([], None))
        self.assertEqual(parse(b'250 ' + 2044 * b'x' + b'\r'), ([], None))

    def test_long_continuation_line(self):
        self.assertRefused(
            b'250-a\r\n250-' + 2045 * b'x' + b'\r\n250 c\r\n',
            'longer than 2048 octets')

    def test_most_lines(self):
        many = (MAX_LINES - 1) * b'250-x\r\n'
        expected = [Reply(250, 100 * (b'x',))]
        for pieces in in_every_split(many + b'250 x\r\n'):
            self.assertEqual(parse(*pieces), (expected, None))
        self.assertRefused(
            many + b'250-x\r\n250 x\r\n', 'more than 100 lines')
        # It need not end to be too much.
        self.assertRefused(many + b'250-x\r\n', 'more than 100 lines')

    def test_whole_reply(self):
        line = 1024 * b'x'
        many = 15 * (b'250-' + line + b'\r\n')
        expected = [Reply(250, 16 * (line,))]
        for times in (1, 3):
            # They are counted for each.
            self.assertEqual(
                parse(times * (many + b'250 ' + line + b'\r\n')),
                (times * expected, None))
        self.assertRefused(
            many + b'250 x' + line + b'\r\n', 'longer than 16384 octets')
        self.assertRefused(
            many + b'250-x' + line + b'\r\n250 \r\n',
            'longer than 16384 octets')

    def test_what_a_log_shows_is_short(self):
        self.assertEqual(str(Reply(250, (1000 * b'x',))), '250 ' + 1000 * 'x')
        self.assertEqual(
            str(Reply(250, 3 * (1001 * b'x',))), f'250 {1000 * "x"} …')

    def test_lines_are_counted_for_each_reply(self):
        one = 59 * b'250-x\r\n' + b'250 x\r\n'
        expected = 3 * [Reply(250, 60 * (b'x',))]
        self.assertEqual(parse(3 * one), (expected, None))

    def test_no_reply(self):
        for line in (b'', b'hello', b'2', b'25', b'2500 x', b'250_x',
                     b'2x0 x', b' 250 x', b'-250 x', b'\xb2\xb25 x',
                     b'000 x', b'100 x', b'199 x', b'600 x', b'999 x',
                     b'250\rx', b'25\0 x'):
            for end in (b'\r\n', b'\n'):
                with self.subTest(line=line, end=end):
                    self.assertRefused(line + end, 'not an SMTP reply')

    def test_nul(self):
        for line in (b'250 a\0b', b'250 \0', b'\0250 a', b'250\0a',
                     b'250-a\0\r\n250 b'):
            with self.subTest(line=line):
                self.assertRefused(line + b'\r\n', 'not an SMTP reply')

    def test_code_changes(self):
        self.assertRefused(b'250-a\r\n251 b\r\n',
                           'changes in mid-reply: 250 becomes 251')
        self.assertRefused(b'250-a\r\n250-b\r\n550-c\r\n',
                           'changes in mid-reply: 250 becomes 550')
        # Also to one that has been seen before.
        self.assertRefused(b'550 No\r\n250-a\r\n550 No\r\n',
                           'changes in mid-reply: 250 becomes 550',
                           [Reply(550, (b'No',))])

    def test_what_came_before_counts(self):
        self.assertRefused(
            b'250 a\r\n550 b\r\nhello\r\n', 'not an SMTP reply',
            [Reply(250, (b'a',)), Reply(550, (b'b',))])

    def test_message_is_short_and_safe(self):
        _, error = parse(b'\x1b[31m\r' + 1000 * b'x' + b'\r\n')
        self.assertLess(len(error), 200)
        self.assertTrue(error.isprintable())

    def test_is_a_lost_connection_for_callers(self):
        self.assertTrue(issubclass(ProtocolError, SMTPServerDisconnected))
