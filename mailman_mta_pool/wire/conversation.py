# SPDX-License-Identifier: GPL-3.0-or-later
"""The dialogue with one server over one connection, without the connection.

`Conversation` takes transactions and the server's bytes, and gives the bytes
to send and the outcomes.  It pipelines as RFC 2920 allows: MAIL, all RCPTs
and DATA in one group, and the end of the content in one group with the next
transaction's MAIL, RCPTs and DATA.  With CHUNKING (RFC 3030) whole
transactions are in flight, up to a given depth.
"""

from collections import deque
from mailman_mta_pool.errors import ProtocolError
from mailman_mta_pool.wire.capabilities import Capabilities
from mailman_mta_pool.wire.chunking import Chunker
from mailman_mta_pool.wire.exchange import Exchange
from mailman_mta_pool.wire.interlude import Interlude
from mailman_mta_pool.wire.lessons import Lessons
from mailman_mta_pool.wire.moves import Event
from mailman_mta_pool.wire.outcome import Outcome, Stage, Transaction
from mailman_mta_pool.wire.replies import Reply, ReplyParser
from mailman_mta_pool.wire.sending import HELLO, RESET, Sending
from public import public
from typing import Deque, Iterator, Optional, Sequence


# Looking up a member of an Enum takes longer than the rest of what is done for
# a reply.
_MAIL, _RCPT, _DATA = Stage.mail, Stage.rcpt, Stage.data
# As long as more recipients of a transaction than this wait for their answers,
# the next one is better left to another connection.  Those answered meanwhile
# are as good as a round trip.
MANY = 32


@public
class Conversation:
    """Transactions in, bytes out; bytes in, outcomes out.

    :ivar answered: How many replies have come.
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
        self._parser = ReplyParser()
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
        self.answered = 0
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
    def awaiting(self) -> Optional[Stage]:
        """The command whose reply comes next; None if no reply is due."""
        return self._awaited[0][0] if self._awaited else None

    @property
    def surplus(self) -> bool:
        """Has the server begun a reply though none is due?"""
        return not self._awaited and self._parser.pending

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

    def receive(self, data: bytes) -> None:
        """Take in what the server sent.

        :param data: Any number of replies, or parts of one.
        :raises ProtocolError: if it is not SMTP, or answers nothing that was
            asked.  The connection is to be closed and `lose` to be called.
        """
        try:
            self._receive(data)
        except ProtocolError:
            # Who knows since when the replies have been out of step.
            for exchange in self._exchanges:
                exchange.distrust()
            raise

    def _receive(self, data: bytes) -> None:
        for reply, count in self._parser.runs(data):
            if reply.code == 421:
                self.answered += 1
                self._hang_up(reply)
                return
            while count:
                taken = self._take(reply, count)
                self.answered += taken
                count -= taken
        self._advance()

    def _take(self, reply: Reply, count: int) -> int:
        """Take a reply that came so many times in a row.

        :return: How many of them were taken: several if they answer the RCPTs
            of one transaction, otherwise one.
        """
        awaited = self._awaited
        if not awaited:
            raise ProtocolError(f'a reply to nothing: {reply}')
        stage, exchange, index = awaited.popleft()
        if exchange is None:
            self._take_between(index, reply)
        elif self._out.sent <= exchange.begin:
            raise ProtocolError(
                f'{stage.value} was answered before it was sent: {reply}')
        elif stage is _RCPT:
            count = min(count, exchange.unanswered, 1 + len(awaited))
            exchange.take_rcpts(reply, count)
            for _ in range(1, count):
                awaited.popleft()
            return count
        elif stage is _MAIL:
            exchange.take_mail(reply)
        elif stage is _DATA:
            self._take_data(exchange, reply)
        else:
            self._take_end(exchange, reply)
        return 1

    def lose(self) -> None:
        """Take note that the connection is gone.

        Each recipient that is not settled yet is in doubt if the end of its
        content was handed to the kernel, and was not attempted if not.
        """
        refusal, self._interlude.last_word = self._interlude.last_word, None
        if refusal is not None:
            self._hang_up(refusal)
            return
        self._chunker.lose(self._out.sent, self.closed_by is not None)
        for exchange in self._exchanges:
            if not exchange.settled:
                exchange.lose(self._out.sent)
            self._outcomes.append(exchange.outcome())
        self._exchanges.clear()
        self._queued.clear()
        self._interlude.let_go()
        self._open = None
        self._sending.clear()

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
                by_bdat = self._chunker.wants_next(not self._awaited)
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

    # What an answer does.

    def _take_between(self, index: int, reply: Reply) -> None:
        if index == HELLO:
            self._interlude.take_hello(reply)
            self._prove()
        elif self._interlude.take_reset(reply):
            self._awaited.appendleft((_MAIL, None, RESET))

    def _prove(self) -> None:
        """The replies are in step: what was refused, was refused."""
        for exchange in self._interlude.let_go():
            self._finish(exchange, Event.proved)

    def _take_data(self, exchange: Exchange, reply: Reply) -> None:
        if reply.code == 354:
            self._prove()
            if exchange.hopeless:
                self._sending.nothing(exchange)
            else:
                self._sending.content(exchange)
            self._open = None
        elif reply.code >= 400:
            self._interlude.must_reset = exchange.mail_accepted
            exchange.refuse_rest(Stage.data, reply)
            self._settle(exchange, Event.declined)
        else:
            raise ProtocolError(f'DATA was answered with {reply}')

    def _take_end(self, exchange: Exchange, reply: Reply) -> None:
        code = reply.code
        if code < 300:
            if exchange.end is not None and self._out.sent < exchange.end:
                raise ProtocolError(
                    f'the content was accepted before its end: {reply}')
            if exchange.hopeless and exchange.by_bdat:
                raise ProtocolError(
                    f'content for nobody was accepted: {reply}')
        elif code < 400:
            raise ProtocolError(f'the content was answered with {reply}')
        if exchange.by_bdat:
            self._chunker.judge(exchange, reply)
        exchange.take_end(reply)
        self._settle(exchange, Event.answered)

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

    def _hang_up(self, reply: Reply) -> None:
        """The server says 421: it closes, and answers nothing more."""
        self.closed_by = reply
        if self._awaited:
            stage, exchange, _ = self._awaited[0]
            if (exchange is not None and stage is Stage.end and
                    exchange.end is not None and
                    exchange.end <= self._out.sent):
                # It is the answer to this content: refused, for the time
                # being.
                exchange.take_end(reply)
                self._finish(exchange, Event.answered)
            elif exchange is not None:
                exchange.give_up(reply, stage)
        # Replies come in order: it has read none of what follows.
        for exchange in self._exchanges:
            exchange.give_up(reply)
        self.lose()
