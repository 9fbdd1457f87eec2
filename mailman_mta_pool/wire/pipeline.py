# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands and contents in the order of sending, and the replies to come.

They go in groups, as RFC 2920 allows: MAIL, all RCPTs and DATA in one, and the
end of the content in one with the next transaction's MAIL, RCPTs and DATA.
With CHUNKING (RFC 3030) a group may hold whole transactions.
"""

import enum

from collections import deque
from mailman_mta_pool.wire.exchange import Exchange
from mailman_mta_pool.wire.outbox import Outbox
from mailman_mta_pool.wire.states import Event, State
from public import public
from typing import Deque, Optional, Tuple


@public
class Command(enum.Enum):
    """What a reply answers."""

    # That of Enum is written in Python, and asked for at every reply.
    __hash__ = object.__hash__

    mail = 'MAIL'
    rcpt = 'RCPT'
    data = 'DATA'
    #: The chunk of one octet by which CHUNKING is tried.
    bdat = 'BDAT'
    #: The end of the content: the lone dot, or BDAT … LAST with its chunk.
    end = 'end of data'
    rset = 'RSET'
    ehlo = 'EHLO'
    quit = 'QUIT'


# Looking up a member of an Enum takes longer than the rest of what is done for
# a reply.
_MAIL, _RCPT, _DATA, _BDAT, _END, _RSET = (
    Command.mail, Command.rcpt, Command.data, Command.bdat, Command.end,
    Command.rset)

# The command that a reply will answer, the transaction that it is about, if
# any, and the count of octets sent once the whole group of the command is.
Awaited = Tuple[Command, Optional[Exchange], int]
public(Awaited=Awaited)


@public
class Pipeline:
    """What one conversation has to send, and which replies it awaits.

    :ivar out: The octets.
    :ivar awaited: What each reply that is still to come will answer.
    """

    __slots__ = 'awaited', 'out'

    def __init__(self) -> None:
        self.out = Outbox()
        self.awaited: Deque[Awaited] = deque()

    def clear(self) -> None:
        """Forget what has not been sent, and all replies."""
        self.awaited.clear()
        self.out.clear()

    def send_envelope(self, exchange: Exchange) -> None:
        """Queue MAIL, all RCPTs and DATA (RFC 2920, section 3.1)."""
        self._send_group(exchange, b'DATA\r\n')
        self.awaited.append((_DATA, exchange, self.out.added))
        exchange.move(Event.envelope)

    def send_question(self, exchange: Exchange) -> None:
        """Queue MAIL, all RCPTs and RSET (RFC 2920, section 3.1)."""
        self._send_group(exchange, b'RSET\r\n')
        self.awaited.append((_RSET, exchange, self.out.added))
        exchange.move(Event.question)

    def send_whole(self, exchange: Exchange) -> None:
        """Queue all of a transaction, with BDAT (RFC 3030)."""
        content = exchange.transaction.content
        self._send_group(exchange, b'BDAT %d LAST\r\n' % content.size)
        self._send_content(exchange, content.pieces)
        exchange.move(Event.whole)

    def send_trial(self, exchange: Exchange) -> None:
        """Queue the envelope and the first octet of the content."""
        first = next(filter(None, exchange.transaction.content.pieces))[:1]
        self._send_group(exchange, b'BDAT 1\r\n' + first)
        self.awaited.append((_BDAT, exchange, self.out.added))
        exchange.move(Event.trial)

    def send_rest(self, exchange: Exchange) -> None:
        """Queue the content but for its first octet, with BDAT … LAST."""
        content = exchange.transaction.content
        first, *others = filter(None, content.pieces)
        exchange.begin = self.out.added
        self.out.add(b'BDAT %d LAST\r\n' % (content.size - 1))
        self._send_content(exchange, (first[1:], *others))
        exchange.move(Event.go_ahead)

    def send_content(self, exchange: Exchange) -> None:
        """Queue the content after the server's 354."""
        exchange.begin = self.out.added
        self._send_content(exchange, exchange.transaction.content.stuffed)
        exchange.move(Event.go_ahead)

    def send_no_content(self, exchange: Exchange) -> None:
        """Queue a lone dot after the server's 354.

        RFC 2920, section 3.1: if nobody was accepted, the server must not
        deliver, and the client has to end the data all the same.
        """
        self.out.add(b'.\r\n')
        self.awaited.append((_END, exchange, self.out.added))
        exchange.move(Event.nobody)

    def send_next(self, exchange: Exchange) -> None:
        """Queue one command of the envelope, where each waits for its reply.

        :param exchange: The first command is MAIL; after the last RCPT comes
            DATA, or RSET if it is a question.
        """
        exchange.begin = self.out.added
        if exchange.commands:
            is_first = exchange.state is State.queued
            command = _MAIL if is_first else _RCPT
            line = exchange.commands.pop(0)
        elif exchange.asks:
            command, line = _RSET, b'RSET\r\n'
        else:
            command, line = _DATA, b'DATA\r\n'
        self.out.add(line)
        self.awaited.append((command, exchange, self.out.added))
        if command is _MAIL:
            exchange.move(
                Event.question if exchange.asks else Event.envelope)

    def send_between(self, command: Command, line: bytes) -> None:
        """Queue a command that is not about a transaction.

        :param line: The command line with its CRLF.
        """
        self.out.add(line)
        self.awaited.append((command, None, self.out.added))

    def _send_group(self, exchange: Exchange, last: bytes) -> None:
        out, awaited, commands = self.out, self.awaited, exchange.commands
        exchange.begin = out.added
        commands.append(last)
        out.extend(commands)
        awaited.append((_MAIL, exchange, out.added))
        awaited.extend((len(commands) - 2) * [(_RCPT, exchange, out.added)])
        commands.clear()

    def _send_content(self, exchange: Exchange,
                      pieces: Tuple[bytes, ...]) -> None:
        self.out.extend(pieces)
        exchange.end = self.out.added
        self.awaited.append((_END, exchange, exchange.end))
