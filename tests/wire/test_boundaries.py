# SPDX-License-Identifier: GPL-3.0-or-later
"""Multiparts get boundaries that occur nowhere in their text."""

import unittest

from email import message_from_bytes
from email.message import Message
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from mailman_mta_pool.wire.boundaries import Boundaries
from mailman_mta_pool.wire.content import flatten


# No decoding must hide what is sent as it is.
HEADS = (
    b'', b'Content-Transfer-Encoding: base64\n',
    b'Content-Transfer-Encoding: quoted-printable\n',
    b'Content-Type: text/plain; charset=utf-16\n',
    b'Content-Type: text/plain; charset="\0"\n',
    b'Content-Type: text/plain; charset=hex\n'
    b'Content-Transfer-Encoding: x-uuencode\n')


def around(*parts):
    """Return a multipart without a boundary."""
    return MIMEMultipart(_subparts=parts)


class TestBoundaries(unittest.TestCase):
    def setUp(self):
        self.boundaries = Boundaries()
        msg = around(MIMEText('Hello\n'))
        self.boundaries.set_in(msg)
        self.first = msg.get_boundary()

    def assertAvoided(self, msg):
        """What is in the message still is when it has been sent."""
        self.boundaries.set_in(msg)
        self.assertNotEqual(msg.get_boundary(), self.first)
        types = [part.get_content_type() for part in msg.walk()]
        parsed = message_from_bytes(flatten(msg))
        self.assertEqual(
            [part.get_content_type() for part in parsed.walk()], types)
        self.assertEqual(parsed.get_boundary(), msg.get_boundary())

    def test_same_for_all_renderings(self):
        for text in ('Hello', 'Anne', f'--{self.first[:-1]}'):
            msg = around(MIMEText(text))
            self.boundaries.set_in(msg)
            self.assertEqual(msg.get_boundary(), self.first)

    def test_like_that_of_the_email_package(self):
        # Folded alike, then.
        msg = around(MIMEText('Hello\n'))
        msg.as_bytes()
        self.assertEqual(len(self.first), len(msg.get_boundary()))
        self.assertRegex(self.first, '^={15}[0-9]{19}==$')

    def test_in_the_text(self):
        for end in (b'\n', b'\r\n', b'\r'):
            for last in (b'', b'--'):
                for head in HEADS:
                    with self.subTest(end=end, last=last, head=head):
                        line = b'--' + self.first.encode() + last
                        self.assertAvoided(around(message_from_bytes(
                            head + b'\n' + end.join(
                                (b'\xe9', line, b'X: y', b'', b'z', b'')))))

    def test_around_the_parts(self):
        for name in ('preamble', 'epilogue'):
            msg = around(MIMEText('Hello\n'))
            setattr(msg, name, f'\xe9\udce9\r\n--{self.first}\r\n')
            self.boundaries.set_in(msg)
            self.assertNotEqual(msg.get_boundary(), self.first)

    def test_multiparts_in_multiparts(self):
        for taken in (None, self.first):
            outer = around(around(MIMEText('Hello\n')),
                           around(around(MIMEText('Hello\n'))))
            if taken is not None:
                outer.set_boundary(taken)
            self.boundaries.set_in(outer)
            found = {part.get_boundary() for part in outer.walk()
                     if part.is_multipart()}
            self.assertEqual(len(found), 4)

    def test_boundary_that_is_there_stays(self):
        msg = around(MIMEText('Hello\n'))
        msg.set_boundary('ant')
        self.boundaries.set_in(msg)
        self.assertEqual(msg.get_boundary(), 'ant')

    def test_only_where_the_email_package_makes_one(self):
        for msg in (MIMEText('Hello\n'), Message(),
                    message_from_bytes(b'Content-Type: multipart/mixed\n\n')):
            before = msg.items()
            self.boundaries.set_in(msg)
            self.assertEqual(msg.items(), before)
        nobody = Message()
        nobody['Content-Type'] = 'multipart/mixed'
        self.boundaries.set_in(nobody)
        self.assertEqual(nobody.get_boundary(), self.first)
