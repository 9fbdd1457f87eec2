# SPDX-License-Identifier: GPL-3.0-or-later
"""One transaction on its way: its commands and its answers."""

from mailman_mta_pool.errors import IllegalMove, ProtocolError
from mailman_mta_pool.wire.capabilities import Capabilities
from mailman_mta_pool.wire.envelope import (
    are_plain,
    mail_command,
    rcpt_commands,
    refuse_message,
    refuse_recipient,
)
from mailman_mta_pool.wire.order import tick
from mailman_mta_pool.wire.replies import Reply, wants_login
from mailman_mta_pool.wire.states import Event, MOVES, State
from mailman_mta_pool.wire.transaction import (
    Fate,
    Outcome,
    Result,
    Span,
    Stage,
    Transaction,
)
from public import public
from typing import Dict, List, Optional, Sequence


# Looking up a member of an Enum takes longer than the rest of what is done for
# a reply.
_MAIL, _RCPT, _DATA, _END = Stage.mail, Stage.rcpt, Stage.data, Stage.end
_ACCEPTED = Fate.accepted
_LAST = frozenset([Stage.data, Stage.end])


@public
class Exchange:
    """A transaction that is being sent, and what is known of each recipient.

    :ivar asks: True if it is a question, which has no content.
    :ivar begun: The tick before its first command; 0 as long as none is
        queued for sending.
    :ivar ended: The tick after its last answer, if that has to be proved
        before it counts; otherwise 0.
    :ivar commands: MAIL and the RCPTs that are still to be sent.
    :ivar begin: The count of octets sent before its first command; before its
        content, once that is on its way on its own.
    :ivar end: The count of octets sent once its content has gone; None as
        long as that is not on its way.
    :ivar by_bdat: True if the content goes by BDAT.
    :ivar unanswered: How many recipients have had no answer to their RCPT.
    """

    __slots__ = ('_heard', '_is_firm', '_named', '_results', '_to_come',
                 'asks', 'begin', 'begun', 'by_bdat', 'commands', 'end',
                 'ended', 'mail_accepted', 'state', 'transaction',
                 'unanswered')

    def __init__(self, transaction: Transaction,
                 server: Capabilities) -> None:
        """Refuse what this server cannot be sent, and prepare the rest.

        :param server: What the server offers.
        """
        self.transaction = transaction
        self.state = State.queued
        self.asks = transaction.asks
        self.begin = 0
        self.begun = 0
        self.ended = 0
        self.end: Optional[int] = None
        self.by_bdat = False
        self.mail_accepted = False
        self.commands: List[bytes] = []
        self._results: List[Optional[Result]] = []
        # The indices of the recipients to whom an RCPT goes.
        self._named: Sequence[int] = ()
        # In a question: the results of those who were accepted at RCPT.
        self._heard: Dict[int, Result] = {}
        # The recipients to whom the content may still go.
        self._to_come = 0
        # Was every answer after that to MAIL a refusal for good?
        self._is_firm = True
        self.unanswered = 0
        refused = refuse_message(transaction, server)
        recipients = transaction.names
        if refused is None:
            self._prepare(recipients, server)
        else:
            self._results = [refused] * len(recipients)

    def _prepare(self, recipients: Sequence[str],
                 server: Capabilities) -> None:
        if are_plain(recipients):
            self._results = [None] * len(recipients)
            self._named = range(len(recipients))
            names = recipients
            international = False
        else:
            self._results = [refuse_recipient(recipient, server)
                             for recipient in recipients]
            self._named = [index for index, refused in enumerate(self._results)
                           if refused is None]
            names = [recipients[index] for index in self._named]
            international = not all(map(str.isascii, names))
        self._to_come = self.unanswered = len(names)
        notify = (self.transaction.envid is not None and server.dsn and
                  not self.asks)
        self.commands = [
            mail_command(self.transaction, server, international),
            *rcpt_commands(names, notify)]

    def move(self, event: str) -> None:
        """Go from one state to the next.

        :raises IllegalMove: if there is no such move.
        """
        try:
            self.state = MOVES[self.state][event]
        except KeyError:
            raise IllegalMove(f'{self.state}: {event}') from None
        if event is Event.whole or event is Event.trial:
            self.by_bdat = True

    @property
    def settled(self) -> bool:
        """True if every recipient has a result."""
        return None not in self._results

    @property
    def hopeless(self) -> bool:
        """True if every recipient has been refused."""
        return self._to_come == 0

    def give_up_without_login(self) -> Optional[Reply]:
        """Settle that nobody was attempted, if the server wants a login.

        It is for who has authenticated.  One recipient among others for whom
        it wants a login is only refused.

        :return: What the server said; None if it was something else.
        """
        refused = {
            index: result for index, result in (
                (index, self._results[index]) for index in self._named)
            if result is not None and result.fate is Fate.refused and
            result.stage is not _END and result.reply is not None and
            wants_login(result.reply)}
        if not refused:
            return None
        _, stage, reply = next(iter(refused.values()))
        if stage is not _DATA and len(refused) < len(self._named):
            return None
        # Nobody is to be suspected of what befell all of them.
        not_attempted = Result(
            Fate.not_attempted, Stage.connect if stage is _RCPT else stage,
            reply)
        for index in refused:
            self._results[index] = not_attempted
        return reply

    def is_doubtful(self, one_by_one: bool) -> bool:
        """True if a reply too many could have refused somebody for good.

        If it took the place of the answer to an earlier command, most answers
        to the later ones would have been impossible.

        :param one_by_one: True if each command waits for its reply, so that
            there is none after everybody was refused.
        """
        if self.state is State.abandoned:
            # 354 came after all of them, where it was due.
            return False
        # If everybody was refused, and whatever was said afterwards was a
        # refusal for good, then one of these was meant.
        if self._to_come == len(self._results):
            return False
        stages = {result.stage for result in self._results
                  if result is not None and result.fate is Fate.refused and
                  result.stage is not Stage.here and
                  result.reply is not None and result.reply.code >= 500}
        if not _LAST.isdisjoint(stages) or self.asks and _RCPT in stages:
            # Nor does what follows a question depend on its answers.
            return True
        return bool(stages) and (
            one_by_one or not self._is_firm if self.hopeless
            else self.by_bdat)

    def outcome(self, session: int) -> Outcome:
        """Return the results.

        :param session: The number of the session that it was in.
        :raises IllegalMove: if a recipient has none.
        """
        if not self.settled:
            raise IllegalMove(f'{self.state}: an outcome without results')
        ended = self.ended or tick()
        return Outcome(
            self.transaction, tuple(self._results),    # type: ignore
            Span(session, self.begun or ended, ended))

    # The answers, in the order in which they come.

    def take_mail(self, reply: Reply) -> None:
        """Take the answer to MAIL.

        :raises ProtocolError: if it is none.
        """
        if reply.code < 300:
            self.mail_accepted = True
        elif reply.code < 400:
            raise ProtocolError(f'MAIL was answered with {reply}')
        else:
            self.refuse_rest(_MAIL, reply)

    def take_rcpts(self, reply: Reply, count: int) -> None:
        """Take the answer to each of so many RCPTs in a row.

        :raises ProtocolError: if it is none.
        """
        begin = len(self._named) - self.unanswered
        self.unanswered -= count
        self._is_firm = self._is_firm and reply.code >= 500
        if reply.code < 300:
            if not self.mail_accepted:
                raise ProtocolError(f'RCPT without MAIL was accepted: {reply}')
            if self.asks:
                self._heard.update(dict.fromkeys(
                    self._named[begin:begin + count],
                    Result(Fate.not_attempted, _DATA, reply)))
        elif reply.code < 400:
            raise ProtocolError(f'RCPT was answered with {reply}')
        elif self.mail_accepted:
            refused = Result(Fate.refused, _RCPT, reply)
            for index in self._named[begin:begin + count]:
                self._results[index] = refused
            self._to_come -= count

    def take_end(self, reply: Reply) -> None:
        """Take the answer to the end of the content, or to a lone dot."""
        if reply.code < 300:
            self._settle_rest(Result(_ACCEPTED, _END, reply))
        else:
            self.refuse_rest(Stage.end, reply)

    def take_reset(self) -> None:
        """Take note that RSET was answered: that is all of the question.

        Had there been a reply too many before, RSET would have got the answer
        to the last RCPT.  So somebody was accepted, if anybody seems to be.
        """
        for index, accepted in self._heard.items():
            self._results[index] = accepted

    def refuse_rest(self, stage: Stage, reply: Reply) -> None:
        """Refuse with this reply those who had not been refused before."""
        self._is_firm = self._is_firm and reply.code >= 500
        self._settle_rest(Result(Fate.refused, stage, reply))
        self._to_come = 0

    def distrust(self) -> None:
        """Forget the answers: they may have been meant for other commands."""
        known = [result for result in self._results if result is not None]
        if self.state is State.abandoned or not self.asks and any(
                result.fate is Fate.not_attempted for result in known):
            # Nobody can have got the content, and 354 proved that the
            # refusals are theirs; or BDAT was not understood.
            return
        self._results = [
            result if result is not None and result.stage is Stage.here
            else None for result in self._results]
        self.mail_accepted = False

    def give_up(self, reply: Optional[Reply] = None,
                stage: Stage = Stage.connect) -> None:
        """Settle that nothing was accepted and nothing can have been.

        :param reply: What the server said to that, if anything.
        :param stage: The command to which it said so.
        """
        if self.mail_accepted:
            self._part(reply, stage)
            stage = Stage.connect
        self._settle_rest(Result(Fate.not_attempted, stage, reply))

    def _part(self, reply: Optional[Reply], stage: Stage) -> None:
        """Tell apart how far each recipient had come."""
        answered = len(self._named) - self.unanswered
        accepted = Result(
            Fate.not_attempted, stage if stage in _LAST else _DATA, reply)
        for index in self._named[:answered]:
            self._results[index] = self._results[index] or accepted
        if self.unanswered:
            # It is this one's RCPT that got no answer, or a strange one.
            self._results[self._named[answered]] = Result(
                Fate.not_attempted, _RCPT, reply)

    def lose(self, sent: int) -> None:
        """Take note that the connection is gone.

        :param sent: The count of octets that had been sent.
        """
        if self.end is not None and self.end <= sent:
            self._settle_rest(Result(Fate.in_doubt, Stage.end, None))
        else:
            self.give_up()
        self.move(Event.lost)

    def _settle_rest(self, result: Result) -> None:
        if self._to_come == len(self._results) and self._results[0] is None:
            # No one stands out, as nearly always.
            self._results = [result] * self._to_come
        else:
            self._results = [
                result if known is None else known
                for known in self._results]
