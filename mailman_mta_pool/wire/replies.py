# SPDX-License-Identifier: GPL-3.0-or-later
"""SMTP replies: RFC 5321 section 4.2, enhanced codes by RFC 2034 and 3463."""

import re

from itertools import repeat
from mailman_mta_pool.errors import ProtocolError
from mailman_mta_pool.shown import HIDDEN, printable, shortened
from public import public
from typing import (
    Collection,
    Dict,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Tuple,
)


# RFC 5321, section 4.5.3.1.5 gives 512 octets for a reply line; real servers
# go beyond it, and four times as much harms nobody.
MAX_LINE = 2048
# RFC 4954, section 4, for the challenges of AUTH.
MAX_CHALLENGE = 12288
MAX_LINES = 100
# The whole of a reply.  The longest that is known, an offer with all there is,
# has a tenth of it, and what is searched for patterns may not be long.
MAX_REPLY = 16384
# How many distinct single-line replies a parser remembers.  A server answers
# "250 2.1.5 Ok" a million times; making that value once is what makes
# parsing cheap.  Replies with a queue id are new each time, so it is bounded.
MAX_REMEMBERED = 64

# The codes which say that the server does not know a command that it has
# offered (RFC 5321, section 4.2.2).
NOT_UNDERSTOOD = frozenset([500, 501, 502, 503, 504])
public(NOT_UNDERSTOOD=NOT_UNDERSTOOD)

CODES = {b'%d' % code: code for code in range(200, 600)}
SEPARATORS = frozenset([b'', b' ', b'-'])
ENHANCED = re.compile(rb'([245]\.[0-9]{1,3}\.[0-9]{1,3})(?:[ \t]|$)')


@public
class Reply(NamedTuple):
    """One complete reply of the server.

    :ivar code: The three-digit reply code, 200 to 599.
    :ivar lines: The text of each line, without code and line ending.
    """

    code: int
    lines: Tuple[bytes, ...]

    @property
    def text(self) -> bytes:
        """All lines, joined by LF as `smtplib` does."""
        return b'\n'.join(self.lines)

    @property
    def enhanced(self) -> Optional[str]:
        """The enhanced status code, such as '5.1.1', or None.

        It counts only where its class is that of the reply code (RFC 2034,
        section 4).
        """
        match = ENHANCED.match(self.lines[0])
        if match is None or match[1][:1] != b'%d' % (self.code // 100):
            return None
        return match[1].decode('ascii')

    def without(self, secrets: Collection[bytes]) -> 'Reply':
        """Return what may be shown of this reply, with the same code.

        :param secrets: What it may not repeat; see `ReplyParser`.
        """
        if not _repeats(b''.join(self.lines), secrets):
            return self
        shown = HIDDEN if self.enhanced is None else (
            f'{self.enhanced} {HIDDEN}')
        return Reply(self.code, (shown.encode('ascii'),))

    def __str__(self) -> str:
        """Code and text on one line, fit for a log file."""
        return f'{self.code} {shortened(printable(self.text))}'.rstrip()


def _repeats(text: bytes, secrets: Collection[bytes]) -> bool:
    if not secrets:
        return False
    text = text.lower()
    return any(secret in text for secret in secrets)


@public
def wants_login(reply: Reply) -> bool:
    """Return True if a reply says that we have not authenticated.

    RFC 4954, section 6, has 530 for it.  go-smtp says "502 5.7.0 Please
    authenticate first", also to who had authenticated, after a second EHLO.
    """
    return reply.code == 530 or (
        reply.code >= 500 and reply.enhanced == '5.7.0' and
        b'authenticat' in reply.text.lower())


@public
class ReplyParser:
    """Turn bytes, split anywhere, into replies.

    A reply that repeats a secret is replaced by one of the same code that
    does not, because what a server says is logged, kept and shown.
    """

    def __init__(self, secrets: Collection[bytes] = ()) -> None:
        """Begin before the first reply.

        :param secrets: What no reply may repeat, in each of the shapes in
            which it may be seen, in lower case.
        """
        self._secrets = secrets
        self._rest = b''
        self._code = 0
        self._lines: List[bytes] = []
        # How many octets these have.
        self._size = 0
        self._remembered: Dict[bytes, Reply] = {}

    @property
    def pending(self) -> bool:
        """True if octets have come that are not part of a complete reply."""
        return bool(self._rest or self._lines)

    def feed(self, data: bytes) -> Iterator[Reply]:
        """See `runs`.

        :return: The replies completed by it, oldest first.
        """
        for reply, count in self.runs(data):
            yield from repeat(reply, count)

    def runs(self, data: bytes) -> Iterator[Tuple[Reply, int]]:
        """Take in bytes and yield the replies that are now complete.

        A server that has been named a thousand recipients says a thousand
        times the same.

        The good replies before a bad one are yielded before it is found out:
        what they say has happened.

        :param data: What was read from the server, of any length.
        :return: The replies completed by it, oldest first, and how often each
            came in a row, at the least.
        :raises ProtocolError: for a line that is no reply line, one that is
            too long, too many lines or octets in one reply, a code that
            changes within a reply, or NUL.  The connection cannot be trusted
            any more.
        """
        *lines, self._rest = (self._rest + data).split(b'\n')
        remembered = self._remembered
        index, end = 0, len(lines)
        while index < end:
            line, begin = lines[index], index
            index += 1
            reply = None if self._lines else remembered.get(line)
            if reply is None:
                reply = self._parse(line)
                if reply is not None:
                    yield reply, 1
                continue
            while index < end and lines[index] == line:
                index += 1
            yield reply, index - begin
        _check_length(self._rest, self._rest.endswith(b'\r'))

    def _parse(self, raw: bytes) -> Optional[Reply]:
        line = raw[:-1] if raw.endswith(b'\r') else raw
        if len(line) > MAX_LINE:
            _check_length(line)
        code = CODES.get(line[:3])
        separator = line[3:4]
        if code is None or separator not in SEPARATORS or b'\0' in line:
            raise ProtocolError('not an SMTP reply: ' + (
                HIDDEN if _repeats(line, self._secrets)
                else repr(line[:80])))
        if separator != b'-' and not self._lines:
            return self._remember(
                raw, Reply(code, (line[4:],)).without(self._secrets))
        return self._continue(code, line[4:], separator == b'-')

    def _remember(self, raw: bytes, reply: Reply) -> Reply:
        if len(self._remembered) >= MAX_REMEMBERED:
            self._remembered.clear()
        self._remembered[raw] = reply
        return reply

    def _continue(self, code: int, text: bytes,
                  more: bool) -> Optional[Reply]:
        if self._lines and code != self._code:
            raise ProtocolError(
                f'the code changes in mid-reply: {self._code} '
                f'becomes {code}')
        self._code = code
        self._lines.append(text)
        self._size += len(text)
        if self._size > MAX_REPLY:
            raise ProtocolError(f'a reply is longer than {MAX_REPLY} octets')
        if not more:
            reply = Reply(code, tuple(self._lines)).without(self._secrets)
            self._lines.clear()
            self._size = 0
            return reply
        if len(self._lines) >= MAX_LINES:
            raise ProtocolError(f'a reply has more than {MAX_LINES} lines')
        return None


def _check_length(line: bytes, ending: int = 0) -> None:
    """Check a reply line, or the beginning of one.

    :param line: Its octets.
    :param ending: How many of these belong to the line ending.
    :raises ProtocolError: if it is too long.
    """
    most = MAX_CHALLENGE if line.startswith(b'334') else MAX_LINE
    if len(line) > most + ending:
        raise ProtocolError(f'a reply line is longer than {most} octets')
