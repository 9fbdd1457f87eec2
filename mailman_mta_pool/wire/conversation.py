# SPDX-License-Identifier: GPL-3.0-or-later
"""The dialogue with one server over one connection, without the connection.

`Conversation` takes transactions and the server's bytes, and gives the bytes
to send and the outcomes.  Here is what an answer does; what is said, and when,
is in `speaking`.
"""

from mailman_mta_pool.errors import ProtocolError
from mailman_mta_pool.wire.capabilities import Capabilities
from mailman_mta_pool.wire.exchange import Exchange
from mailman_mta_pool.wire.lessons import Lessons
from mailman_mta_pool.wire.pipeline import HELLO, RESET
from mailman_mta_pool.wire.replies import Reply, ReplyParser
from mailman_mta_pool.wire.speaking import Speaker
from mailman_mta_pool.wire.states import Event
from mailman_mta_pool.wire.transaction import Stage
from public import public
from typing import Any, Optional


# Looking up a member of an Enum takes longer than the rest of what is done for
# a reply.
_MAIL, _RCPT, _DATA = Stage.mail, Stage.rcpt, Stage.data


@public
class Conversation(Speaker):
    """Transactions in, bytes out; bytes in, outcomes out.

    :ivar answered: How many replies have come.
    """

    def __init__(self, server: Capabilities,
                 lessons: Optional[Lessons] = None, **options: Any) -> None:
        """Begin after EHLO, TLS and AUTH; see `Speaker`."""
        super().__init__(server, lessons, **options)
        self._parser = ReplyParser()
        self.answered = 0

    @property
    def awaiting(self) -> Optional[Stage]:
        """The command whose reply comes next; None if no reply is due."""
        return self._awaited[0][0] if self._awaited else None

    @property
    def surplus(self) -> bool:
        """Has the server begun a reply though none is due?"""
        return not self._awaited and self._parser.pending

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
