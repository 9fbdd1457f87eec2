# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said to a server, and when.

It is pipelined as RFC 2920 allows: MAIL, all RCPTs and DATA in one group, and
the end of the content in one group with the next transaction's MAIL, RCPTs and
DATA.  With CHUNKING (RFC 3030) whole transactions are in flight, up to a given
depth.
"""

from collections import deque
from mailman_mta_pool.wire.capabilities import Capabilities
from mailman_mta_pool.wire.chunking import Chunker
from mailman_mta_pool.wire.exchange import Exchange
from mailman_mta_pool.wire.lessons import Lessons
from mailman_mta_pool.wire.pipeline import HELLO, RESET, Sending
from mailman_mta_pool.wire.replies import Reply
from mailman_mta_pool.wire.resync import Interlude
from mailman_mta_pool.wire.states import Event
from mailman_mta_pool.wire.transaction import Outcome, Transaction
from public import public
from typing import Deque, Iterator, Optional, Sequence


# As long as more recipients of a transaction than this wait for their answers,
# the next one is better left to another connection.  Those answered meanwhile
# are as good as a round trip.
#
# Nor does the content of so many go before they are answered.  Servers hang up
# when they have refused some, with what we sent unread, so that the connection
# is reset and the last replies are lost.  With the content on its way, all of
# them would be in doubt then.
MANY = 32


@public
class Speaker:
    """Transactions in, bytes out.

    What an answer does, a subclass knows.

    :ivar closed_by: The server's 421, if it has said that; the conversation
        is over then.
    """

    def __init__(self, server: Capabilities,
                 lessons: Optional[Lessons] = None, *,
                 name: str = 'localhost', pipelining: bool = True,
                 chunking: bool = True, depth: int = 1) -> None:
        """Begin after EHLO, TLS and AUTH.

        :param server: What the server offers.
        :param lessons: What is known of it, shared with the conversations
            over other connections.
        :param name: Who we said we are in EHLO.
        :param pipelining: False: one command at a time, even if the server
            offers PIPELINING.
        :param chunking: False: no BDAT, even if the server offers CHUNKING.
            BDAT is used with pipelining only.
        :param depth: With BDAT, how many transactions may be in flight.
        """
        self._server = server
        self._pipelining = pipelining and server.pipelining
        lessons = Lessons() if lessons is None else lessons
        self._chunker = Chunker(
            chunking and server.chunking and self._pipelining, lessons)
        self._interlude = Interlude(
            server, lessons, name, one_by_one=not self._pipelining)
        self._depth = depth
        self._sending = Sending()
        # Looked at for every reply.
        self._out, self._awaited = self._sending.out, self._sending.awaited
        # Transactions from submission to outcome, oldest first.
        self._exchanges: Deque[Exchange] = deque()
        # Of those, the ones of which nothing has been sent yet.
        self._queued: Deque[Exchange] = deque()
        # The transaction whose envelope is on its way and whose content waits
        # for the server's word.
        self._open: Optional[Exchange] = None
        self._outcomes: Deque[Outcome] = deque()
        self.closed_by: Optional[Reply] = None

    # What the driver asks.

    @property
    def idle(self) -> bool:
        """Is nothing in flight and nothing waiting?"""
        return not (self._exchanges or self._awaited or self.unsent)

    @property
    def room(self) -> int:
        """How many more transactions may be submitted now."""
        if (self.closed_by is not None or
                self._interlude.last_word is not None):
            return 0
        if not self._pipelining or self._chunker.trial is not None:
            limit = 1
        elif self._chunker.is_proved:
            limit = self._depth
        else:
            # One whose content is on its way, one whose envelope is, and one
            # made ready for the moment when the next 354 comes.
            limit = 3
        if self._exchanges and self._exchanges[-1].unanswered > MANY:
            return 0
        return max(0, limit - len(self._exchanges))

    @property
    def unsent(self) -> bool:
        """Are there octets that the kernel has not taken yet?"""
        return self._out.sent < self._out.added

    @property
    def octets_sent(self) -> int:
        """How many octets the kernel has taken."""
        return self._out.sent

    def bytes_to_send(self) -> memoryview:
        """Return the next octets for the server, empty if there are none.

        All that may go in one group is returned at once, up to a block.  The
        same octets come again until `sent` says that they have gone.
        """
        return self._out.peek()

    def sent(self, octets: int) -> None:
        """Take note that so many octets have been handed to the kernel."""
        self._out.advance(octets)

    def outcomes(self) -> Iterator[Outcome]:
        """Yield the transactions that are settled, each once."""
        while self._outcomes:
            yield self._outcomes.popleft()

    # What the driver tells.

    def submit(self, transaction: Transaction,
               recipients: Optional[Sequence[str]] = None) -> None:
        """Send a transaction, as soon as it is its turn.

        What this server cannot be sent is refused here and now: an address
        that is no mailbox, or one that needs an extension which it lacks, for
        itself; a message over its size limit for all recipients.

        :param transaction: Whom and what to send.
        :param recipients: The addresses to name to the server instead of the
            transaction's own, one for each of those.
        """
        exchange = Exchange(
            transaction, recipients or transaction.recipients, self._server)
        if exchange.settled:
            self._outcomes.append(exchange.outcome())
            return
        self._exchanges.append(exchange)
        self._queued.append(exchange)
        self._advance()

    # What is sent, and when.

    def _advance(self) -> None:
        """Queue for sending whatever may be sent now."""
        while True:
            exchange = self._open
            if exchange is None:
                if self._interlude.is_in_doubt:
                    self._ask_for_proof()
                    return
                if not self._queued or not self._may_begin():
                    return
                by_bdat = (self._queued[0].unanswered <= MANY and
                           self._chunker.wants_next(not self._awaited))
                if self._interlude.must_reset:
                    self._sending.between(self._interlude.reset(), RESET)
                    if not self._pipelining:
                        return
                self._begin(self._queued.popleft(), by_bdat)
            elif self._pipelining or self._awaited:
                return
            else:
                self._next_command(exchange)

    def _may_begin(self) -> bool:
        if self._pipelining:
            return self._chunker.trial is None
        return not self._awaited

    def _ask_for_proof(self) -> None:
        if not self._awaited or self._awaited[-1][2] != HELLO:
            self._sending.between(self._interlude.question(), HELLO)

    def _begin(self, exchange: Exchange, by_bdat: bool) -> None:
        if by_bdat:
            self._sending.whole(exchange)
            self._interlude.must_reset = True
            self._chunker.begin(exchange)
            return
        self._open = exchange
        if self._pipelining:
            self._sending.group(exchange)
        else:
            exchange.move(Event.envelope)
            self._sending.one(exchange)

    def _next_command(self, exchange: Exchange) -> None:
        """The plain dialogue: one command, then its reply."""
        if exchange.hopeless:
            self._interlude.must_reset = exchange.mail_accepted
            self._settle(exchange, Event.declined)
        else:
            self._sending.one(exchange)

    # What is settled.

    def _settle(self, exchange: Exchange, event: str) -> None:
        if not self._interlude.doubts(exchange):
            self._finish(exchange, event)
        elif self._open is exchange:
            self._open = None

    def _finish(self, exchange: Exchange, event: str) -> None:
        exchange.move(event)
        self._exchanges.remove(exchange)
        if self._open is exchange:
            self._open = None
        self._outcomes.append(exchange.outcome())
