# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said between two transactions: RSET, and EHLO or QUIT for a proof.

Replies are told apart by their order alone.  If a server, or something in
front of it, says one too many, each is taken for the answer to the command
before the one that it answers.  Most of that shows at once; but a refusal can
be the one too many, and then it must not become somebody's bounce.
"""

from mailman_mta_pool.errors import ProtocolError
from mailman_mta_pool.wire.capabilities import Capabilities
from mailman_mta_pool.wire.exchange import Exchange
from mailman_mta_pool.wire.lessons import Lessons
from mailman_mta_pool.wire.pipeline import Command, Pipeline
from mailman_mta_pool.wire.replies import Reply
from mailman_mta_pool.wire.states import Event
from public import public
from typing import List, Optional


@public
class Resync:
    """What one conversation has to say between its transactions.

    :ivar must_reset: True if RSET goes before the next MAIL: a transaction
        was left open, or BDAT was pipelined and may yet fail (RFC 3030,
        section 4.2: the state is indeterminate then).
    :ivar last_word: What RSET was refused with, until the server closes.
    :ivar has_quit: True if QUIT was queued for sending.
    """

    def __init__(self, pipeline: Pipeline, server: Capabilities,
                 lessons: Lessons, *, name: str, one_by_one: bool,
                 authenticated: bool) -> None:
        """Begin after EHLO, TLS and AUTH.

        :param pipeline: Where the commands are queued.
        :param server: What the server offers.
        :param lessons: What is known of the relay.
        :param name: Who we said we are in EHLO.
        :param one_by_one: True if each command waits for its reply.
        :param authenticated: True if we have authenticated, which EHLO might
            undo.
        """
        self._pipeline = pipeline
        self._server = server
        self._lessons = lessons
        self._ehlo = f'EHLO {name}\r\n'.encode()
        self._one_by_one = one_by_one
        self._authenticated = authenticated
        self._doubted: List[Exchange] = []
        self.must_reset = False
        self.last_word: Optional[Reply] = None
        self.has_quit = False
        self._is_refused = False

    def reset(self) -> None:
        """Queue RSET."""
        self.must_reset = False
        self._pipeline.send_between(Command.rset, b'RSET\r\n')

    def take(self, command: Command, reply: Reply) -> None:
        """Take the answer to RSET, EHLO or QUIT.

        :raises ProtocolError: if it is none.
        """
        if command is Command.rset:
            self._take_reset(reply)
        elif command is Command.ehlo:
            self._take_ehlo(reply)
        elif reply.code != 221:
            raise ProtocolError(f'QUIT was answered with {reply}')

    def _take_reset(self, reply: Reply) -> None:
        # RSET has only one answer, 250 (RFC 5321, section 4.1.1.5).
        if (self.last_word is None and reply.code >= 400 and
                not self._one_by_one):
            # Exim says 554 after ten of them, and closes: then it has read
            # nothing of what follows.  Whatever comes instead of the end is
            # a reply to RSET, too.
            self.last_word = reply
            pipeline = self._pipeline
            pipeline.awaited.appendleft(
                (Command.rset, None, pipeline.out.sent))
        elif reply.code >= 300 or self.last_word is not None:
            refusal, self.last_word = self.last_word or reply, None
            raise ProtocolError(f'RSET was answered with {refusal}')

    def _take_ehlo(self, reply: Reply) -> None:
        if reply.code >= 400 and self._doubted:
            # Perhaps it takes no second one: QUIT will tell.
            self._lessons.refuse_ehlo()
            self._is_refused = True
            return
        offered = Capabilities.from_ehlo(reply.text).keywords
        if reply.code >= 300 or self._server.keywords.keys().isdisjoint(
                offered):
            self._lessons.refuse_ehlo()
            raise ProtocolError(f'EHLO was answered with {reply}')

    # The proof that the dialogue is in step.

    def doubts(self, exchange: Exchange) -> bool:
        """Keep a transaction back, if its refusals are to be proved.

        :param exchange: One that has had its last answer.
        :return: True if it is kept back.
        """
        is_doubtful = (bool(self._server.keywords) and
                       exchange.is_doubtful(self._one_by_one))
        if is_doubtful:
            exchange.move(Event.doubted)
            self._doubted.append(exchange)
        return is_doubtful

    @property
    def is_in_doubt(self) -> bool:
        """True if any transaction is kept back."""
        return bool(self._doubted)

    def ask_for_proof(self) -> None:
        """Queue the command whose answer proves that we are in step.

        The answer to EHLO looks like no other: it offers extensions.  EHLO
        does what RSET does (RFC 5321, section 4.1.4), and is the last command
        of its group (RFC 2920, section 3.1).  So does the answer to QUIT,
        which is for servers that do not take EHLO twice, and for sessions
        that would have to authenticate again.
        """
        pipeline = self._pipeline
        if self.has_quit or (
                pipeline.awaited and pipeline.awaited[-1][0] is Command.ehlo):
            return
        self.must_reset = False
        if (self._authenticated or self._is_refused or
                self._lessons.ehlo_refused):
            self.has_quit = True
            pipeline.send_between(Command.quit, b'QUIT\r\n')
        else:
            pipeline.send_between(Command.ehlo, self._ehlo)

    @property
    def is_proved(self) -> bool:
        """False after a refused EHLO, until QUIT is answered."""
        return not self._is_refused or self.has_quit

    def let_go(self) -> List[Exchange]:
        """Return what was kept back, and keep it no longer."""
        doubted, self._doubted = self._doubted, []
        return doubted
