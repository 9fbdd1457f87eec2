# SPDX-License-Identifier: GPL-3.0-or-later

"""The server's half of an SMTP session, without sockets or clock.

Octets go in through `receive`; `next_unit` takes a complete command or a
complete content off them, and `answer` gives the reply to it.  The two are
apart so that a slow server can wait between them.
"""

from __future__ import annotations

import re

from dataclasses import dataclass
from public import public


# RFC 5321, 4.5.3.1.4 asks for 512 octets; extensions add to that, and nobody
# sends more than this in earnest.
LONGEST_LINE = 8192
# A quoted local part may hold an angle bracket.
PATH = re.compile(
    r'(?:FROM|TO): ?<((?:"(?:\\.|[^"\\])*"|[^">])*)>(.*)', re.IGNORECASE)
SIZE = re.compile(r'\bSIZE=(\d+)', re.IGNORECASE)


@public
@dataclass(frozen=True)
class Features:
    """What the server offers.

    :param pipelining: Advertise PIPELINING (RFC 2920).
    :param chunking: Offer BDAT (RFC 3030).
    :param size: The largest message in octets (RFC 1870).
    """

    pipelining: bool = True
    chunking: bool = False
    size: int = 100_000_000

    @property
    def keywords(self):
        """The EHLO keywords, in the order of the reply."""
        offered = ['8BITMIME', f'SIZE {self.size}', 'ENHANCEDSTATUSCODES',
                   'SMTPUTF8']
        if self.pipelining:
            offered.append('PIPELINING')
        if self.chunking:
            offered.append('CHUNKING')
        return offered


def _unstuffed(content):
    # RFC 5321, 4.5.2: the first dot of every line goes.
    if content.startswith(b'.'):
        content = content[1:]
    return content.replace(b'\r\n.', b'\r\n')


@public
class Dialogue:
    """One session.

    :param features: What is offered.
    :type features: `Features`
    :param accept: Called with the sender (str), the recipients (list of str)
        and the content (bytes) of each transaction, before its 250.
    """

    def __init__(self, features, accept):
        self._features = features
        self._accept = accept
        self._buffer = bytearray()
        # Where to go on looking for the content's end; None between contents.
        self._scanned = None
        self._commands = {
            'EHLO': self._ehlo, 'HELO': self._helo, 'MAIL': self._mail,
            'RCPT': self._rcpt, 'DATA': self._data, 'BDAT': self._bdat,
            'RSET': self._rset, 'NOOP': self._noop, 'VRFY': self._vrfy,
            'QUIT': self._quit, '.': self._content_end,
            }
        self.closed = False
        self._forget()

    def _forget(self):
        self._sender = None
        self._recipients = []
        self._chunks = None

    def receive(self, data):
        """Take octets as they arrive."""
        self._buffer += data

    def next_unit(self):
        """Take the next complete command off what has arrived.

        :return: The verb, its argument and the content, if any; None when
            more octets are needed.
        :rtype: 3-tuple of str, str and bytes
        """
        if self._scanned is not None:
            return self._next_content()
        end = self._buffer.find(b'\r\n')
        if end < 0:
            return self._overlong()
        line = self._buffer[:end].decode('utf-8', 'surrogateescape')
        verb, _, argument = line.partition(' ')
        verb = verb.upper()
        end += 2
        size = 0
        if verb == 'BDAT' and self._features.chunking:
            first = argument.split(' ')[0]
            size = int(first) if first.isdecimal() else 0
        if len(self._buffer) < end + size:
            return None
        content = bytes(self._buffer[end:end+size])
        del self._buffer[:end+size]
        return verb, argument, content

    def _next_content(self):
        # The end may straddle what was looked at before, hence the overlap.
        end = self._buffer.find(b'\r\n.\r\n', max(self._scanned - 4, 0))
        if self._buffer.startswith(b'.\r\n'):
            content, length = b'', 3
        elif end < 0:
            self._scanned = len(self._buffer)
            return None
        else:
            content, length = bytes(self._buffer[:end+2]), end + 5
        del self._buffer[:length]
        self._scanned = None
        return '.', '', _unstuffed(content)

    def _overlong(self):
        if len(self._buffer) <= LONGEST_LINE:
            return None
        self._buffer.clear()
        return 'QUIT', 'line too long', b''

    def answer(self, unit):
        """Carry out what `next_unit` returned.

        :return: The reply, complete with its line ends.
        :rtype: bytes
        """
        verb, argument, content = unit
        command = self._commands.get(verb)
        if command is None or (verb == 'BDAT'
                               and not self._features.chunking):
            return b'500 5.5.1 Command unrecognized\r\n'
        return command(argument, content)

    def _ehlo(self, argument, content):
        self._forget()
        lines = ['demo.example.com'] + self._features.keywords
        replies = [f'250-{line}\r\n' for line in lines[:-1]]
        return (''.join(replies) + f'250 {lines[-1]}\r\n').encode()

    def _helo(self, argument, content):
        self._forget()
        return b'250 demo.example.com\r\n'

    def _mail(self, argument, content):
        path = PATH.match(argument)
        if path is None:
            return b'501 5.5.4 Syntax: MAIL FROM:<address>\r\n'
        if self._sender is not None:
            return b'503 5.5.1 Nested MAIL\r\n'
        size = SIZE.search(path.group(2))
        if size is not None and int(size.group(1)) > self._features.size:
            return b'552 5.3.4 Message too big\r\n'
        self._sender = path.group(1)
        return b'250 2.1.0 Ok\r\n'

    def _rcpt(self, argument, content):
        path = PATH.match(argument)
        if path is None or not path.group(1):
            return b'501 5.5.4 Syntax: RCPT TO:<address>\r\n'
        if self._sender is None:
            return b'503 5.5.1 MAIL first\r\n'
        self._recipients.append(path.group(1))
        return b'250 2.1.5 Ok\r\n'

    def _data(self, argument, content):
        if not self._recipients:
            return b'503 5.5.1 RCPT first\r\n'
        if self._chunks is not None:
            return b'503 5.5.1 DATA after BDAT\r\n'
        self._scanned = 0
        return b'354 Go ahead\r\n'

    def _bdat(self, argument, content):
        size, _, last = argument.partition(' ')
        if not size.isdecimal() or last.upper() not in ('', 'LAST'):
            return b'501 5.5.4 Syntax: BDAT size [LAST]\r\n'
        if not self._recipients:
            return b'503 5.5.1 RCPT first\r\n'
        self._chunks = [] if self._chunks is None else self._chunks
        self._chunks.append(content)
        if last:
            return self._content_end('', b''.join(self._chunks))
        return b'250 2.0.0 %d octets\r\n' % len(content)

    def _content_end(self, argument, content):
        sender, recipients = self._sender, self._recipients
        self._forget()
        if len(content) > self._features.size:
            return b'552 5.3.4 Message too big\r\n'
        self._accept(sender, recipients, content)
        return b'250 2.0.0 Ok\r\n'

    def _rset(self, argument, content):
        self._forget()
        return b'250 2.0.0 Ok\r\n'

    def _noop(self, argument, content):
        return b'250 2.0.0 Ok\r\n'

    def _vrfy(self, argument, content):
        return b'252 2.5.0 Perhaps\r\n'

    def _quit(self, argument, content):
        self.closed = True
        return b'221 2.0.0 Bye\r\n'
