# SPDX-License-Identifier: GPL-3.0-or-later
"""No content ends early, and none is changed but for its line endings."""

import re
import unittest
import itertools

from hypothesis import given, settings, strategies as st
from mailman_mta_pool.wire.content import Content, SplicedContent, stuff
from tests.wire.case import canonical


#: What a receiver takes for the end of a line.  The first one is right (RFC
#: 5321, section 2.3.8); each of the others has been seen.
RECEIVERS = {
    'by the RFC': rb'\r\n',
    'LF too': rb'\r?\n',
    'CR too': rb'\r\n?',
    'CR and LF too': rb'\r\n|\r|\n',
    'any number of CRs': rb'\r*\n',
    }
COMMANDS = (b'MAIL FROM:<a@example.com>', b'RCPT TO:<b@example.com>', b'DATA',
            b'RSET', b'QUIT', b'BDAT 0 LAST', b'From me')
#: Each of these has ended the data early somewhere (CVE-2023-51764 ff.).
ENDS = [b''.join(parts) for parts in itertools.product(
    (b'', b'\r', b'\n', b'\r\n', b'\n\r', b'\r\r\n'), (b'.', b'..', b'.\0'),
    (b'', b'\r', b'\n', b'\r\n', b'\n\r', b'\r\r\n'))]
RAW = st.lists(st.one_of(
    st.sampled_from([b'\r', b'\n', b'.', b'\r\n', b'\0', b'\xe9', b' ']),
    st.sampled_from(ENDS), st.sampled_from(COMMANDS),
    st.binary(max_size=5))).map(b''.join)


def received(octets, line_end):
    """Read what follows DATA as a receiver with its own idea of lines.

    :return: The content with CRLFs, and the lines that follow its end.
    """
    lines = re.split(line_end, octets)
    end = lines.index(b'.')
    content = [line[line.startswith(b'.'):] for line in lines[:end]]
    return b''.join(line + b'\r\n' for line in content), lines[end + 1:]


def on_the_wire(content):
    return b''.join(content.stuffed)


def splice(octets, cuts):
    """Put a content together from pieces of a canonical text."""
    cuts = sorted({0, len(octets), *(min(cut, len(octets)) for cut in cuts)})
    pieces = [octets[start:stop] for start, stop in zip(cuts, cuts[1:])]
    stuffed, at_line_start = [], True
    for piece in pieces:
        stuffed.append(stuff(piece, at_line_start))
        at_line_start = piece.endswith(b'\n')
    return SplicedContent(
        tuple(pieces), tuple(stuffed + [b'.\r\n']), not octets.isascii())


class TestCanonical(unittest.TestCase):
    def check(self, raw, octets):
        content = Content(raw)
        self.assertEqual(content.octets, octets)
        self.assertEqual(content.octets, canonical(raw))
        self.assertEqual(b''.join(content.pieces), octets)
        self.assertEqual(content.size, len(octets))

    def test_line_ends(self):
        for raw, octets in (
                (b'a\nb\n', b'a\r\nb\r\n'),
                (b'a\r\nb\r\n', b'a\r\nb\r\n'),
                (b'a\rb\r', b'a\r\nb\r\n'),
                (b'a\n\rb', b'a\r\n\r\nb\r\n'),
                (b'a\r\r\nb\n\n', b'a\r\n\r\nb\r\n\r\n'),
                (b'a\r\r\r', b'a\r\n\r\n\r\n'),
                (b'\n', b'\r\n'), (b'\r', b'\r\n'), (b'\r\n', b'\r\n')):
            with self.subTest(raw=raw):
                self.check(raw, octets)

    def test_last_line_is_ended(self):
        self.check(b'a', b'a\r\n')
        self.check(b'', b'\r\n')

    def test_nothing_else_is_changed(self):
        line = bytes(set(range(256)) - {10, 13})
        # Too long for SMTP, but that is for the server to say.
        self.check(50 * line + b'\n\x0b\x0c\x85\xe2\x80\xa8 \t\n',
                   50 * line + b'\r\n\x0b\x0c\x85\xe2\x80\xa8 \t\r\n')

    def test_eight_bit(self):
        for raw, eight_bit in ((b'', False), (b'\x7f\0', False),
                               (b'\x80', True), (1000 * b'a' + b'\xff', True)):
            with self.subTest(raw=raw[-2:]):
                self.assertIs(Content(raw).eight_bit, eight_bit)

    def test_repr_shows_no_mail(self):
        self.assertEqual(repr(Content(b'Secret')), '<Content of 8 octets>')


class TestTransparency(unittest.TestCase):
    def check(self, content, octets):
        """No receiver sees another end than ours, nor another content."""
        wire = on_the_wire(content)
        self.assertNotRegex(wire, rb'\r(?!\n)|(?<!\r)\n')
        for name, line_end in RECEIVERS.items():
            self.assertEqual(
                received(wire, line_end), (octets, [b'']), name)
        # For this one there is an empty line between any two.
        *_, last, empty, rest = lines = re.split(rb'\r|\n', wire)
        self.assertEqual((last, empty, rest), (b'.', b'', b''))
        self.assertEqual(lines.count(b'.'), 1)

    def test_dots(self):
        for raw, wire in (
                (b'.', b'..\r\n.\r\n'),
                (b'', b'\r\n.\r\n'),
                (b'..\n', b'...\r\n.\r\n'),
                (b'.a\nb.\n.c.\n', b'..a\r\nb.\r\n..c.\r\n.\r\n'),
                (b'a\n.\n.\nb', b'a\r\n..\r\n..\r\nb\r\n.\r\n'),
                (b'a\r.\rb', b'a\r\n..\r\nb\r\n.\r\n')):
            with self.subTest(raw=raw):
                self.assertEqual(on_the_wire(Content(raw)), wire)

    def test_smuggling(self):
        for first, second in itertools.product(ENDS, (b'', *COMMANDS)):
            raw = b'Subject: x\r\n\r\nHello' + first + second + first
            with self.subTest(raw=raw):
                self.check(Content(raw), canonical(raw))

    def test_smuggling_at_every_split(self):
        for end in ENDS:
            octets = canonical(b'.\n' + end + b'RSET' + end)
            plain = Content(octets)
            for place in range(len(octets) + 1):
                with self.subTest(octets=octets, place=place):
                    spliced = splice(octets, [place])
                    self.check(spliced, octets)
                    self.assertEqual(on_the_wire(spliced), on_the_wire(plain))

    @settings(max_examples=1000, deadline=None)
    @given(RAW)
    def test_any_content(self, raw):
        self.check(Content(raw), canonical(raw))

    @settings(max_examples=1000, deadline=None)
    @given(RAW, st.lists(st.integers(0, 60), max_size=8))
    def test_spliced_as_if_it_were_whole(self, raw, cuts):
        whole = Content(raw)
        spliced = splice(whole.octets, cuts)
        self.assertEqual(spliced.octets, whole.octets)
        self.assertEqual(spliced.size, whole.size)
        self.assertEqual(spliced.eight_bit, whole.eight_bit)
        self.assertEqual(on_the_wire(spliced), on_the_wire(whole))
        self.check(spliced, whole.octets)

    def test_shared_pieces_are_not_copied(self):
        # 200,000 recipients have one of each.
        head, value, tail = b'a: b\r\n\r\n', b'.Anne', b'\r\n.\r\n'
        stuffed = (stuff(head), stuff(value), stuff(tail, False) + b'.\r\n')
        content = SplicedContent((head, value, tail), stuffed, False)
        self.assertIs(content.pieces[0], head)
        self.assertIs(content.stuffed[2], stuffed[2])
        self.check(content, b'a: b\r\n\r\n.Anne\r\n.\r\n')

    def test_made_once(self):
        # A bulk post has one content and many chunks.
        content = Content(1000 * b'.\n')
        self.assertIs(content.stuffed, content.stuffed)
