# SPDX-License-Identifier: GPL-3.0-or-later
"""The first use of CHUNKING and of PIPELINING on a relay.

There are proxies that offer either for a server that has none, and servers
that offer what they do wrongly.  So neither is relied on before it was seen at
work, and after a surprise the transactions go by the simpler dialogue, on a
new connection.
"""

from mailman_mta_pool.errors import ProtocolError
from mailman_mta_pool.wire.exchange import Exchange
from mailman_mta_pool.wire.lessons import Chunking, Lessons, Pipelining
from mailman_mta_pool.wire.pipeline import Command
from mailman_mta_pool.wire.replies import NOT_UNDERSTOOD, Reply, wants_login
from public import public
from typing import Optional


# Looking up a member of an Enum takes longer than the rest of what is done for
# a transaction.
_PROVED = Chunking.proved

# "Unrecognized", "not implemented" and "bad sequence": what a server says that
# has lost the thread of a group of commands (RFC 5321, section 4.2.2).
LOST_THREAD = frozenset([500, 502, 503])
public(LOST_THREAD=LOST_THREAD)


@public
class ChunkingTrial:
    """Which transactions of one conversation go by BDAT (RFC 3030).

    The first BDAT that a relay ever gets carries one octet, so that a server
    which does not know BDAT never reads a member's text as commands.  It is
    alone on its connection, and the other connections use DATA meanwhile.

    :ivar exchange: The transaction whose first octet waits for its answer;
        None if there is none.
    """

    def __init__(self, is_offered: bool, lessons: Lessons) -> None:
        """Begin with what is known.

        :param is_offered: True if BDAT may be used at all.
        :param lessons: What all conversations know of the relay.
        """
        self._is_offered = is_offered
        self._lessons = lessons
        self._end = 0
        self.exchange: Optional[Exchange] = None

    @property
    def is_proved(self) -> bool:
        """True if several transactions may be in flight."""
        return self._is_offered and self._lessons.chunking is _PROVED

    def claim(self) -> bool:
        """Ask for the next transaction to be the trial."""
        return self._is_offered and self._lessons.claim_trial()

    def begin(self, exchange: Exchange, end: int) -> None:
        """Take note that the trial is queued for sending.

        :param end: The count of octets sent once its first octet is.
        """
        self.exchange = exchange
        self._end = end

    def judge(self, exchange: Exchange, reply: Reply) -> None:
        """Take note of the answer to the chunk of one octet.

        :raises ProtocolError: if BDAT is not understood, or was accepted for
            nobody; the octet has to die with the connection.
        """
        if reply.code < 400:
            if exchange.hopeless or reply.code >= 300:
                raise ProtocolError(f'BDAT was answered with {reply}')
            self._conclude(_PROVED)
        elif exchange.hopeless:
            # Nobody had been accepted, which says nothing of BDAT.
            self._conclude(Chunking.untried)
        elif reply.code < 500:
            self.postpone()
        else:
            exchange.give_up(reply)
            raise ProtocolError(
                f'CHUNKING is offered, but BDAT was answered with {reply}')

    def judge_whole(self, exchange: Exchange, reply: Reply) -> None:
        """Take note of the answer to BDAT … LAST.

        A relay that knew BDAT may be another machine by now.
        """
        if not exchange.hopeless and reply.code in NOT_UNDERSTOOD:
            self._lessons.learn_chunking(Chunking.off)
            exchange.give_up(reply)

    def postpone(self) -> None:
        """Take note that the relay answered the trial with 4xx."""
        self.exchange = None
        self._lessons.postpone_trial()

    def fail(self) -> None:
        """Take note that the dialogue made no sense during the trial."""
        if self.exchange is not None:
            self._conclude(Chunking.off)

    def lose(self, sent: int, said_so: bool) -> None:
        """Take note that the connection is gone.

        :param sent: The count of octets that had been sent.
        :param said_so: True if the server announced it.
        """
        if self.exchange is not None:
            self._conclude(
                Chunking.off if self._end <= sent and not said_so
                else Chunking.untried)

    def _conclude(self, verdict: Chunking) -> None:
        self.exchange = None
        self._lessons.learn_chunking(verdict)


@public
class PipeliningTrial:
    """Whether the groups of one conversation are understood (RFC 2920).

    :ivar is_open: True as long as this conversation sends groups and has not
        had all answers to one.
    """

    def __init__(self, is_used: bool, lessons: Lessons) -> None:
        """Begin with what is known.

        :param is_used: True if commands go in groups.
        :param lessons: What all conversations know of the relay.
        """
        self._lessons = lessons
        self.is_open = is_used and not self._is_proved

    @property
    def _is_proved(self) -> bool:
        return self._lessons.pipelining is Pipelining.proved

    def judge(self, command: Command, exchange: Exchange,
              reply: Reply) -> None:
        """Look at a reply to MAIL, RCPT, DATA or RSET, before it counts.

        :raises ProtocolError: if the server has lost the thread of the group.
        """
        if (reply.code not in LOST_THREAD or self._is_proved or
                wants_login(reply)):
            return
        if (command is Command.mail or exchange.mail_accepted and
                (command is Command.rcpt or not exchange.hopeless)):
            self._lessons.learn_pipelining(Pipelining.off)
            raise ProtocolError(
                f'PIPELINING is offered, but {command.value} in a group was '
                f'answered with {reply}')

    def pass_(self) -> None:
        """Take note that all commands of a group have been answered."""
        self.is_open = False
        if self._lessons.pipelining is Pipelining.untried:
            self._lessons.learn_pipelining(Pipelining.proved)

    def stall(self, command: Command) -> None:
        """Take note that the server has fallen silent.

        :param command: The command whose reply is awaited; after the first
            one of a group, the server has read nothing of the rest.
        """
        if (self.is_open and not self._is_proved and
                command in (Command.rcpt, Command.data, Command.rset)):
            self._lessons.learn_pipelining(Pipelining.off)
