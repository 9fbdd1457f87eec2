# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes to the server, in groups, and what each reply will answer."""

from collections import deque
from mailman_mta_pool.wire.exchange import Exchange
from mailman_mta_pool.wire.outbox import Outbox
from mailman_mta_pool.wire.states import Event
from mailman_mta_pool.wire.transaction import Stage
from public import public
from typing import Deque, Optional, Tuple


# Looking up a member of an Enum takes longer than the rest of what is done for
# a reply.
_MAIL, _DATA, _END = Stage.mail, Stage.data, Stage.end
# Which command a reply answers that is not about a transaction.
RESET, HELLO = -1, -2
public(HELLO=HELLO, RESET=RESET)


@public
class Sending:
    """The commands and contents of one conversation, on their way.

    :ivar out: The octets.
    :ivar awaited: For each reply that is still to come, what it will answer:
        the stage, the transaction, and 0; or no transaction, and `RESET` or
        `HELLO`.
    """

    __slots__ = 'awaited', 'out'

    def __init__(self) -> None:
        self.out = Outbox()
        self.awaited: Deque[Tuple[Stage, Optional[Exchange], int]] = deque()

    def clear(self) -> None:
        """Forget what has not gone, and all replies."""
        self.awaited.clear()
        self.out.clear()

    def group(self, exchange: Exchange) -> None:
        """MAIL, all RCPTs and DATA (RFC 2920, section 3.1)."""
        exchange.begin = self.out.added
        self._envelope(exchange, b'DATA\r\n')
        self.awaited.append((_DATA, exchange, 0))
        exchange.move(Event.envelope)

    def whole(self, exchange: Exchange) -> None:
        """All of a transaction, with BDAT (RFC 3030)."""
        exchange.begin = self.out.added
        content = exchange.transaction.content
        self._envelope(exchange, b'BDAT %d LAST\r\n' % content.size)
        self.out.extend(content.pieces)
        self.awaited.append((_END, exchange, 0))
        exchange.end = self.out.added
        exchange.move(Event.whole)

    def _envelope(self, exchange: Exchange, last: bytes) -> None:
        exchange.commands.append(last)
        self.out.extend(exchange.commands)
        self.awaited.extend(exchange.due)
        exchange.commands.clear()
        exchange.due.clear()

    def one(self, exchange: Exchange) -> None:
        """One command, where each waits for its reply."""
        if not exchange.commands:
            exchange.commands.append(b'DATA\r\n')
            exchange.due.append((_DATA, exchange, 0))
        exchange.begin = self.out.added
        self.out.add(exchange.commands.pop(0))
        self.awaited.append(exchange.due.pop(0))

    def content(self, exchange: Exchange) -> None:
        """The content that DATA was the word for."""
        exchange.begin = self.out.added
        self.out.extend(exchange.transaction.content.stuffed)
        exchange.end = self.out.added
        self.awaited.append((_END, exchange, 0))
        exchange.move(Event.go_ahead)

    def nothing(self, exchange: Exchange) -> None:
        """The end of the content, and none before it.

        RFC 2920, section 3.1: if nobody was accepted, the server must not
        deliver, and the client has to end the data all the same.
        """
        self.out.add(b'.\r\n')
        self.awaited.append((_END, exchange, 0))
        exchange.move(Event.nobody)

    def between(self, command: bytes, index: int) -> None:
        """A command that is not about a transaction."""
        self.out.add(command)
        self.awaited.append((_MAIL, None, index))
