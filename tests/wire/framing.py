# SPDX-License-Identifier: GPL-3.0-or-later
"""What a client sends, cut into commands and contents as the RFCs say."""

import re

from public import public


class Broken(AssertionError):
    """The client broke a rule of the RFCs."""


public(Broken=Broken)
CRLF = b'\r\n'
public(CRLF=CRLF)


def check_line_ends(octets):
    """RFC 5321, section 2.3.8: CR and LF only together."""
    if re.search(rb'\r(?!\n)|(?<!\r)\n', octets):
        raise Broken('a bare CR or LF: {!r}'.format(octets))


@public
class Framing:
    """Octets in, split anywhere; commands and contents out.

    Whether a content follows DATA is known only from the server's reply, so
    the owner has to say so.
    """

    def __init__(self):
        self._buffer = bytearray()
        self._next = self._line
        self._lines = []
        self._chunk = 0
        self._is_last = True
        self._chunks = b''

    @property
    def pending(self):
        """Are there octets that are not part of a complete item?"""
        return bool(self._buffer)

    @property
    def in_content(self):
        return self._next != self._line

    def add(self, octets):
        self._buffer += octets

    def next(self):
        """Return the next complete item, or None.

        :return: A command without its CRLF as bytes, or a tuple: the content,
            its dots no longer stuffed, and True if that is all of it.
        """
        return self._next()

    def data_follows(self):
        """The reply to DATA was 354."""
        self._next = self._data

    def _take(self, octets):
        taken = bytes(self._buffer[:octets])
        del self._buffer[:octets]
        return taken

    def _take_line(self):
        end = self._buffer.find(CRLF)
        if end < 0:
            return None
        line = self._take(end + 2)
        check_line_ends(line)
        return line[:-2]

    def _line(self):
        line = self._take_line()
        if line is not None and line.startswith(b'BDAT'):
            match = re.fullmatch(rb'BDAT ([0-9]+)( LAST)?', line)
            if match is None:
                raise Broken('a strange BDAT: {!r}'.format(line))
            self._chunk = int(match[1])
            self._is_last = match[2] is not None
            self._next = self._bdat
        elif line is not None and line.startswith(b'MAIL'):
            self._chunks = b''
        return line

    def _data(self):
        # RFC 5321, section 4.5.2.
        while True:
            line = self._take_line()
            if line is None:
                return None
            if line == b'.':
                break
            self._lines.append(line[line.startswith(b'.'):] + CRLF)
        content = b''.join(self._lines)
        self._lines.clear()
        self._next = self._line
        return content, True

    def _bdat(self):
        if len(self._buffer) < self._chunk:
            return None
        self._next = self._line
        self._chunks += self._take(self._chunk)
        if not self._is_last:
            if len(self._chunks) != 1:
                raise Broken('more than one octet before the trial is over')
            return self._chunks, False
        check_line_ends(self._chunks)
        if not self._chunks.endswith(CRLF):
            raise Broken('the content does not end in CRLF')
        content, self._chunks = self._chunks, b''
        return content, True
