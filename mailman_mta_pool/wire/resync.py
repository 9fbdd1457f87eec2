# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said between two transactions: RSET, and EHLO for a proof.

Replies are told apart by their order alone.  If a server, or something in
front of it, says one too many, each is taken for the answer to the command
before the one that it answers.  Most of that shows at once; but a refusal can
be the one too many, and then it must not become somebody's bounce.
"""

from mailman_mta_pool.errors import ProtocolError
from mailman_mta_pool.wire.capabilities import Capabilities
from mailman_mta_pool.wire.exchange import Exchange
from mailman_mta_pool.wire.lessons import Lessons
from mailman_mta_pool.wire.replies import NOT_UNDERSTOOD, Reply
from mailman_mta_pool.wire.states import Event
from public import public
from typing import List, Optional


@public
class Interlude:
    """What one conversation has to say between its transactions.

    :ivar must_reset: RSET goes before the next MAIL: a transaction was left
        open, or BDAT was pipelined and may yet fail (RFC 3030, section 4.2:
        the state is indeterminate then).
    :ivar last_word: What RSET was refused with, until the server closes.
    """

    def __init__(self, server: Capabilities, lessons: Lessons, name: str,
                 one_by_one: bool) -> None:
        """Begin after EHLO.

        :param server: What the server offers.
        :param lessons: What is known of it.
        :param name: Who we said we are in EHLO.
        :param one_by_one: Does each command wait for its reply?
        """
        self._server = server
        self._lessons = lessons
        self._hello = f'EHLO {name}\r\n'.encode()
        self._one_by_one = one_by_one
        self._doubted: List[Exchange] = []
        self.must_reset = False
        self.last_word: Optional[Reply] = None

    def reset(self) -> bytes:
        """Return the command that begins anew."""
        self.must_reset = False
        return b'RSET\r\n'

    def take_reset(self, reply: Reply) -> bool:
        """The answer to RSET.

        :return: Is another reply to come here, too?
        :raises ProtocolError: if there is no sense in it.
        """
        # RSET has only one answer, 250 (RFC 5321, section 4.1.1.5).
        if self.last_word is None and reply.code >= 400:
            # Exim says 554 after ten of them, and closes: then it has read
            # nothing of what follows.
            self.last_word = reply
            return True
        if reply.code >= 300 or self.last_word is not None:
            refusal, self.last_word = self.last_word or reply, None
            raise ProtocolError(f'RSET was answered with {refusal}')
        return False

    # Is the dialogue in step?

    def doubts(self, exchange: Exchange) -> bool:
        """Keep a transaction back, if its refusals are to be proved.

        :param exchange: One that has had its last answer.
        """
        is_doubtful = (
            self._lessons.knows_ehlo and bool(self._server.keywords) and
            exchange.is_doubtful(self._one_by_one))
        if is_doubtful:
            exchange.move(Event.doubted)
            self._doubted.append(exchange)
        return is_doubtful

    @property
    def is_in_doubt(self) -> bool:
        """Is any transaction kept back?"""
        return bool(self._doubted)

    def question(self) -> bytes:
        """Return the command whose answer proves that we are in step.

        The answer to EHLO looks like no other: it offers extensions.  EHLO
        does what RSET does (RFC 5321, section 4.1.4), and is the last command
        of its group (RFC 2920, section 3.1).
        """
        self.must_reset = False
        return self._hello

    def take_hello(self, reply: Reply) -> None:
        """The answer to EHLO.

        :raises ProtocolError: if it is none.
        """
        offered = Capabilities.from_ehlo(reply.text).keywords
        if reply.code < 300 and not self._server.keywords.keys().isdisjoint(
                offered):
            return
        if reply.code in NOT_UNDERSTOOD:
            self._lessons.knows_ehlo = False
        raise ProtocolError(f'EHLO was answered with {reply}')

    def let_go(self) -> List[Exchange]:
        """Return what was kept back, and keep it no longer."""
        doubted, self._doubted = self._doubted, []
        return doubted
