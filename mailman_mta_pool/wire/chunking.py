# SPDX-License-Identifier: GPL-3.0-or-later
"""Which transactions go by BDAT (RFC 3030), and what its answers teach.

The first BDAT that a server ever gets is a trial, alone on its connection:
there are proxies that offer CHUNKING for a server that has none.
"""

from mailman_mta_pool.errors import ProtocolError
from mailman_mta_pool.wire.exchange import Exchange
from mailman_mta_pool.wire.lessons import Chunking, Lessons
from mailman_mta_pool.wire.replies import NOT_UNDERSTOOD, Reply
from public import public
from typing import Optional


# Asked for at every transaction.
_PROVED = Chunking.proved


@public
class Chunker:
    """What one conversation does about CHUNKING.

    :ivar trial: The transaction by which it is tried, while it is in flight.
    """

    def __init__(self, is_offered: bool, lessons: Lessons) -> None:
        """Begin with what is known.

        :param is_offered: May BDAT be used at all?
        :param lessons: What all conversations know of the server.
        """
        self._is_offered = is_offered
        self._lessons = lessons
        self.trial: Optional[Exchange] = None

    @property
    def is_proved(self) -> bool:
        """May several transactions be in flight?"""
        return self._is_offered and self._lessons.chunking is _PROVED

    def wants_next(self, is_quiet: bool) -> bool:
        """Shall the next transaction go by BDAT?

        :param is_quiet: Is nothing in flight?
        """
        if not self._is_offered:
            return False
        if self._lessons.chunking is _PROVED:
            return True
        return is_quiet and self._lessons.claim_trial()

    def begin(self, exchange: Exchange) -> None:
        """Take note that a transaction goes by BDAT."""
        if self._lessons.chunking is Chunking.on_trial:
            self.trial = exchange

    def lose(self, sent: int, said_so: bool) -> None:
        """Take note that the connection is gone.

        :param sent: How many octets had been sent.
        :param said_so: Did the server announce it?
        """
        trial = self.trial
        if trial is not None:
            # If it was reading the content, that may be what it could not
            # bear.
            assert trial.end is not None
            reading = trial.end - trial.transaction.content.size <= sent
            self._end(Chunking.off if reading and not said_so
                      else Chunking.untried)

    def judge(self, exchange: Exchange, reply: Reply) -> None:
        """Take note of the answer to BDAT … LAST.

        :raises ProtocolError: if what follows may be taken for commands.
        """
        on_trial = self.trial is exchange
        if not exchange.hopeless and reply.code in NOT_UNDERSTOOD:
            self._end(Chunking.off)
            exchange.give_up(reply)
            if on_trial:
                raise ProtocolError(
                    f'CHUNKING is offered, but BDAT was answered with {reply}')
        elif on_trial:
            # That nobody was accepted says nothing of BDAT.
            self._end(Chunking.untried if exchange.hopeless
                      else Chunking.proved)

    def _end(self, verdict: Chunking) -> None:
        self.trial = None
        self._lessons.end_trial(verdict)
