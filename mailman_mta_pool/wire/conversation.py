# SPDX-License-Identifier: GPL-3.0-or-later
"""The dialogue with one server over one connection, without the connection.

`Conversation` takes transactions and the server's octets, and gives the octets
to send and the outcomes.  It decides what is sent next, and what an answer
does; its parts know how each command is sent (`pipeline`), what is said
between transactions (`resync`), how many are in flight (`window`), what is
tried for the first time (`trials`), and which timeout runs (`timers`).
"""

import sys

from collections import deque
from mailman_mta_pool.errors import ProtocolError
from mailman_mta_pool.wire.capabilities import Capabilities
from mailman_mta_pool.wire.exchange import Exchange
from mailman_mta_pool.wire.lessons import Lessons, Pipelining
from mailman_mta_pool.wire.order import tick
from mailman_mta_pool.wire.pipeline import Command, Pipeline
from mailman_mta_pool.wire.replies import Reply, ReplyParser
from mailman_mta_pool.wire.resync import Resync
from mailman_mta_pool.wire.states import Event
from mailman_mta_pool.wire.timers import Timer, Timers
from mailman_mta_pool.wire.transaction import Fate, Outcome, Stage, Transaction
from mailman_mta_pool.wire.trials import ChunkingTrial, PipeliningTrial
from mailman_mta_pool.wire.window import MAX_OCTETS, Window
from public import public
from typing import Callable, Collection, Deque, Iterator, Optional


# As long as more recipients of a transaction than this wait for their answers,
# the next one is better left to another connection.  Those answered meanwhile
# are as good as a round trip.
#
# Nor does the content of so many go before they are answered.  Servers hang up
# when they have refused some, with what we sent unread, so that the connection
# is reset and the last replies are lost.  With the content on its way, all of
# them would be in doubt then.
MAX_UNANSWERED = 32
public(MAX_UNANSWERED=MAX_UNANSWERED)

# Looking up a member of an Enum takes longer than the rest of what is done for
# a reply.
_MAIL, _RCPT, _DATA, _BDAT, _END = (
    Command.mail, Command.rcpt, Command.data, Command.bdat, Command.end)
_STAGES = {
    Command.mail: Stage.mail,
    Command.rcpt: Stage.rcpt,
    Command.data: Stage.data,
    # It is the word for the content, as DATA is.
    Command.bdat: Stage.data,
    # A question has it in the place of DATA.
    Command.rset: Stage.data,
    Command.end: Stage.end,
    }


@public
class Conversation:
    """Transactions in, octets out; octets in, outcomes out.

    :ivar closed_by: The server's 421, if it has said that.
    :ivar is_over: True if no more transactions may be submitted: the server
        has hung up, QUIT was sent, or the connection is lost.
    :ivar answered: How many replies have come.
    """

    def __init__(self, server: Capabilities, lessons: Lessons,
                 clock: Callable[[], float], *, name: str = 'localhost',
                 pipelining: bool = True, chunking: bool = True,
                 pipeline_depth: int = 32, authenticated: bool = False,
                 secrets: Collection[bytes] = ()) -> None:
        """Begin after EHLO, TLS and AUTH.

        :param server: What the server offers.
        :param lessons: What is known of the relay, shared with the
            conversations over other connections.
        :param clock: Seconds that only grow.
        :param name: Who we said we are in EHLO.
        :param pipelining: False: one command at a time, even if the server
            offers PIPELINING.
        :param chunking: False: no BDAT, even if the server offers CHUNKING.
            BDAT is used with pipelining only.
        :param pipeline_depth: With BDAT, how many transactions may be in
            flight at the most.
        :param authenticated: True if we have authenticated.
        :param secrets: See `ReplyParser`.
        """
        self._server = server
        self._session = tick()
        self._authenticated = authenticated
        # What the server said when it had forgotten the login.
        self._wants_login: Optional[Reply] = None
        self._clock = clock
        self._pipelining = (
            pipelining and server.pipelining and
            lessons.pipelining is not Pipelining.off)
        self._pipeline = Pipeline()
        # Looked at for every reply.
        self._out, self._awaited = self._pipeline.out, self._pipeline.awaited
        self._parser = ReplyParser(secrets)
        self._timers = Timers(clock, self._pipeline)
        self._pipelining_trial = PipeliningTrial(self._pipelining, lessons)
        self._chunking_trial = ChunkingTrial(
            chunking and server.chunking and self._pipelining, lessons)
        self._window = Window(pipeline_depth, lessons)
        self._resync = Resync(
            self._pipeline, server, lessons, name=name,
            one_by_one=not self._pipelining, authenticated=authenticated)
        # Transactions from submission to outcome, oldest first.
        self._exchanges: Deque[Exchange] = deque()
        # Of those, the ones of which nothing has been sent yet.
        self._queued: Deque[Exchange] = deque()
        # The transaction whose envelope is on its way and whose content waits
        # for the server's word.
        self._open: Optional[Exchange] = None
        # The octets of content of all of them.
        self._octets = 0
        self._outcomes: Deque[Outcome] = deque()
        self._is_unproved = False
        # How many contents sent by BDAT were answered by what is taken in at
        # present, and the count of octets sent once the first of them was.
        self._ends = 0
        self._first_end: Optional[int] = None
        self.closed_by: Optional[Reply] = None
        self.is_over = False
        self.answered = 0

    # What the session asks.

    @property
    def idle(self) -> bool:
        """True if nothing is in flight and nothing waits."""
        return not (self._exchanges or self._awaited or self.unsent)

    @property
    def room(self) -> int:
        """How many more transactions may be submitted now."""
        if self.is_over:
            return 0
        if self._chunking_trial.is_proved:
            limit = self._window.limit
        elif self._pipelining and self._chunking_trial.exchange is None:
            limit = self._window.data_limit
        else:
            limit = 1
        exchanges = self._exchanges
        room = limit - len(exchanges)
        if room <= 0 or exchanges and (
                exchanges[-1].unanswered > MAX_UNANSWERED or
                self._octets >= MAX_OCTETS):
            return 0
        return room

    @property
    def room_octets(self) -> int:
        """How many octets of content the next transaction may have.

        Where nothing is in flight it may have any number.
        """
        if not self._exchanges:
            return sys.maxsize
        return max(0, MAX_OCTETS - self._octets)

    @property
    def unsent(self) -> bool:
        """True if there are octets that the kernel has not taken yet."""
        return self._out.sent < self._out.added

    @property
    def octets_sent(self) -> int:
        """How many octets the kernel has taken."""
        return self._out.sent

    @property
    def awaiting(self) -> Optional[Command]:
        """The command whose reply comes next; None if no reply is due."""
        return self._awaited[0][0] if self._awaited else None

    @property
    def timer(self) -> Optional[Timer]:
        """The timer that runs; None if nothing is awaited nor unsent."""
        return self._timers.timer

    @property
    def surplus(self) -> bool:
        """True if the server has begun a reply though none is due."""
        return not self._awaited and self._parser.pending

    def bytes_to_send(self) -> memoryview:
        """Return the next octets for the server, empty if there are none.

        All that may go in one group is returned at once, up to a block.  The
        same octets come again until `sent` says that they have gone.
        """
        return self._out.peek()

    @property
    def has_outcomes(self) -> bool:
        """True if `outcomes` would yield any."""
        return bool(self._outcomes)

    def outcomes(self) -> Iterator[Outcome]:
        """Yield the transactions that are settled, each once."""
        while self._outcomes:
            yield self._outcomes.popleft()

    # What the session tells.

    def begin_anew(self) -> None:
        """Take note that the connection has been idle, and may be dead.

        The content of the next transaction goes after the answers to its
        envelope.  So none is in doubt if no answer ever comes.
        """
        self._is_unproved = True

    def sent(self, octets: int) -> None:
        """Take note that so many octets have been handed to the kernel."""
        self._out.advance(octets)
        self._timers.note_sent()

    def submit(self, transaction: Transaction) -> None:
        """Send a transaction, as soon as it is its turn.

        What this server cannot be sent is refused here and now: an address
        that is no mailbox, or one that needs an extension which it lacks, for
        itself; a message over its size limit for all recipients.  If the
        conversation is over, nothing is attempted.

        :param transaction: Whom and what to send.
        """
        exchange = Exchange(transaction, self._server)
        if self.is_over and not exchange.settled:
            exchange.lose(self._out.sent)
        if exchange.settled:
            self._outcomes.append(exchange.outcome(self._session))
            return
        self._exchanges.append(exchange)
        self._queued.append(exchange)
        self._octets += transaction.content.size
        self._advance()

    def receive(self, data: bytes) -> None:
        """Take in what the server sent.

        :param data: Any number of replies, or parts of one.
        :raises ProtocolError: if it is not SMTP, or answers nothing that was
            asked.  The connection is to be closed and `lose` to be called.
        """
        try:
            self._receive(data, self._clock())
        except ProtocolError:
            self._chunking_trial.fail()
            # Who knows since when the replies have been out of step.
            for exchange in self._exchanges:
                exchange.distrust()
            raise

    def lose(self, silent: bool = False) -> None:
        """Take note that the connection is gone.

        Each recipient that is not settled yet is in doubt if the end of its
        content was handed to the kernel, and was not attempted if not.

        :param silent: True if we have closed it, because the server did not
            answer in time.
        """
        refusal, self._resync.last_word = self._resync.last_word, None
        if refusal is not None:
            self._hang_up(refusal)
            return
        self.is_over = True
        if silent and self._awaited:
            self._pipelining_trial.stall(self._awaited[0][0])
        self._chunking_trial.lose(
            self._out.sent, self.closed_by is not None)
        self._settle_all()
        self._resync.let_go()
        self._pipeline.clear()

    # What is sent, and when.

    def _advance(self) -> None:
        """Queue for sending whatever may be sent now."""
        while True:
            exchange = self._open
            if exchange is None:
                if self._resync.is_in_doubt or self._wants_login is not None:
                    self._resync.ask_for_proof()
                    self.is_over = self._resync.has_quit
                    return
                if not self._queued or not self._may_begin():
                    return
                is_quiet = not self._awaited
                if self._resync.must_reset:
                    self._resync.reset()
                    if not self._pipelining:
                        return
                self._begin(self._queued.popleft(), is_quiet)
            elif self._pipelining or self._awaited:
                return
            elif not exchange.hopeless or (
                    exchange.asks and exchange.mail_accepted):
                self._pipeline.send_next(exchange)
            elif exchange.asks:
                self._settle(exchange, Event.answered)
            else:
                self._resync.must_reset = exchange.mail_accepted
                self._settle(exchange, Event.declined)

    def _may_begin(self) -> bool:
        if self._pipelining:
            return self._chunking_trial.exchange is None
        return not self._awaited

    def _begin(self, exchange: Exchange, is_quiet: bool) -> None:
        pipeline, trial = self._pipeline, self._chunking_trial
        exchange.begun = tick()
        if exchange.asks and self._pipelining:
            # What follows need not wait: whatever is answered, the server's
            # transaction is closed.
            pipeline.send_question(exchange)
            return
        is_small = exchange.unanswered <= MAX_UNANSWERED
        if is_small and trial.is_proved and not self._is_unproved:
            pipeline.send_whole(exchange)
            self._resync.must_reset = True
            return
        self._open = exchange
        if (is_small and is_quiet and not self._is_unproved and
                not exchange.asks and trial.claim()):
            pipeline.send_trial(exchange)
            trial.begin(exchange, self._out.added)
        elif self._pipelining:
            pipeline.send_envelope(exchange)
        else:
            pipeline.send_next(exchange)

    # What an answer does.

    def _receive(self, data: bytes, now: float) -> None:
        in_flight = len(self._exchanges)
        answered = self.answered
        self._ends = 0
        for reply, count in self._parser.runs(data):
            if reply.code == 421:
                self.answered += 1
                self._hang_up(reply)
                return
            while count:
                taken = self._take(reply, count)
                self.answered += taken
                count -= taken
        if self.answered == answered:
            return
        self._is_unproved = False
        if self._ends and not self._window.is_final:
            self._measure(now, in_flight)
        self._timers.note_answered(now)
        self._advance()

    def _measure(self, now: float, in_flight: int) -> None:
        assert self._first_end is not None
        handed = self._timers.when_handed(self._first_end)
        if handed is not None:
            self._window.note_replies(
                now, handed, self._ends, in_flight >= self._window.limit)

    def _take(self, reply: Reply, count: int) -> int:
        """Take a reply that came so many times in a row.

        :return: How many of them were taken: several if they answer the RCPTs
            of one transaction, otherwise one.
        """
        awaited = self._awaited
        if not awaited:
            raise ProtocolError(f'a reply to nothing: {reply}')
        command, exchange, end = awaited.popleft()
        if exchange is None:
            self._take_between(command, reply)
            return 1
        if self._out.sent <= exchange.begin:
            raise ProtocolError(
                f'{command.value} was answered before it was sent: {reply}')
        if command is _END:
            self._take_end(exchange, reply)
            return 1
        if self._pipelining_trial.is_open and command is not _BDAT:
            self._pipelining_trial.judge(command, exchange, reply)
        if command is _RCPT:
            count = min(count, exchange.unanswered, 1 + len(awaited))
            exchange.take_rcpts(reply, count)
            for _ in range(1, count):
                awaited.popleft()
            return count
        if command is _MAIL:
            exchange.take_mail(reply)
        elif command is _DATA:
            self._take_data(exchange, reply)
        elif command is _BDAT:
            self._take_chunk(exchange, reply)
        else:
            self._take_reset(exchange, reply, end)
        return 1

    def _take_between(self, command: Command, reply: Reply) -> None:
        self._resync.take(command, reply)
        if command is Command.rset:
            self.is_over = self._resync.last_word is not None
            return
        if not self._resync.is_proved:
            return
        self._prove()
        self._window.note_pause(self._clock())
        if command is Command.quit:
            # What has not been sent will not be.
            self._settle_all()
            if self._wants_login is not None:
                raise ProtocolError(
                    f'the server forgot our login: {self._wants_login}')

    def _prove(self) -> None:
        """The replies are in step: what was refused, was refused."""
        for exchange in self._resync.let_go():
            self._finish(exchange, Event.proved)

    def _take_data(self, exchange: Exchange, reply: Reply) -> None:
        if reply.code == 354:
            self._prove()
            if exchange.hopeless:
                self._pipeline.send_no_content(exchange)
            else:
                self._pipeline.send_content(exchange)
            self._open = None
        elif reply.code >= 400:
            self._decline(exchange, reply)
        else:
            raise ProtocolError(f'DATA was answered with {reply}')
        if self._pipelining_trial.is_open:
            self._pipelining_trial.pass_()

    def _take_chunk(self, exchange: Exchange, reply: Reply) -> None:
        self._chunking_trial.judge(exchange, reply)
        if reply.code < 300:
            self._pipeline.send_rest(exchange)
            self._open = None
        else:
            self._decline(exchange, reply)
        # Whether it failed or may yet fail: RFC 3030, section 4.2.
        self._resync.must_reset = True
        if self._pipelining_trial.is_open:
            self._pipelining_trial.pass_()

    def _take_reset(self, exchange: Exchange, reply: Reply,
                    end: int) -> None:
        """Take the answer to the RSET that ends a question.

        :param end: The count of octets sent once RSET is.
        """
        if self._out.sent < end:
            raise ProtocolError(f'RSET was answered before it was sent: '
                                f'{reply}')
        self._resync.take(Command.rset, reply)
        if self._resync.last_word is not None:
            self.is_over = True
            return
        if self._pipelining_trial.is_open:
            self._pipelining_trial.pass_()
        exchange.take_reset()
        self._settle(exchange, Event.answered)

    def _decline(self, exchange: Exchange, reply: Reply) -> None:
        """The server does not want the content."""
        self._resync.must_reset = exchange.mail_accepted
        exchange.refuse_rest(Stage.data, reply)
        self._settle(exchange, Event.declined)

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
            if code >= 500:
                self._chunking_trial.judge_whole(exchange, reply)
            if not self._ends:
                self._first_end = exchange.end
            self._ends += 1
            if self._pipelining_trial.is_open:
                self._pipelining_trial.pass_()
        exchange.take_end(reply)
        self._settle(exchange, Event.answered)

    def _hang_up(self, reply: Reply) -> None:
        """The server says 421: it closes, and answers nothing more."""
        self.closed_by = reply
        self.is_over = True
        if self._awaited:
            command, exchange, _ = self._awaited[0]
            if command is _BDAT:
                self._chunking_trial.postpone()
            if (exchange is not None and command is _END and
                    exchange.end is not None and
                    exchange.end <= self._out.sent):
                # It is the answer to this content: refused, for the time
                # being.
                exchange.take_end(reply)
                self._finish(exchange, Event.answered)
            elif exchange is not None:
                exchange.give_up(reply, _STAGES[command])
        # Replies come in order: it has read none of what follows.
        for exchange in self._exchanges:
            exchange.give_up(reply)
        self.lose()

    # What is settled.

    def _settle(self, exchange: Exchange, event: str) -> None:
        if self._authenticated and exchange.hopeless:
            self._look_for_login(exchange)
        if not self._resync.doubts(exchange):
            self._finish(exchange, event)
            return
        exchange.ended = tick()
        if self._open is exchange:
            self._open = None

    def _finish(self, exchange: Exchange, event: str) -> None:
        exchange.move(event)
        self._exchanges.remove(exchange)
        self._octets -= exchange.transaction.content.size
        if self._open is exchange:
            self._open = None
        self._outcomes.append(exchange.outcome(self._session))

    def _look_for_login(self, exchange: Exchange) -> None:
        """Find out whether the server has forgotten that we authenticated.

        Then this connection is done for.  What is in flight has answers of
        its own, perhaps good ones; QUIT goes behind it and ends the dialogue.
        """
        reply = exchange.give_up_without_login()
        if reply is not None:
            self._wants_login = reply

    def _settle_all(self) -> None:
        """Settle what is left, when no more answers come."""
        is_in_doubt = False
        are_several = self._pipelining and len(self._exchanges) > 1
        for exchange in self._exchanges:
            if not exchange.settled:
                exchange.lose(self._out.sent)
            if self._authenticated and exchange.hopeless:
                self._look_for_login(exchange)
            outcome = exchange.outcome(self._session)
            is_in_doubt = is_in_doubt or bool(outcome.having(Fate.in_doubt))
            self._outcomes.append(outcome)
        if is_in_doubt and (are_several or self._chunking_trial.is_proved):
            self._window.halve()
        self._exchanges.clear()
        self._queued.clear()
        self._octets = 0
        self._open = None
