# SPDX-License-Identifier: GPL-3.0-or-later
"""One transaction on its way: its commands, its answers, its legal moves."""

from collections import deque
from mailman_mta_pool.errors import IllegalMove, ProtocolError
from mailman_mta_pool.wire.capabilities import Capabilities
from mailman_mta_pool.wire.envelope import (
    mail_command,
    rcpt_command,
    refuse_message,
    refuse_recipient,
)
from mailman_mta_pool.wire.outcome import (
    Fate,
    Outcome,
    Result,
    Stage,
    Transaction,
)
from mailman_mta_pool.wire.replies import Reply
from public import public
from typing import Deque, Dict, List, Optional, Sequence, Tuple


@public
class State:
    """Where a transaction stands."""

    queued = 'queued'
    #: MAIL and what follows it has been sent; the content has not.
    envelope = 'envelope'
    #: The content is on its way; its answer settles the transaction.
    content = 'content'
    #: 354 though nobody was accepted: a lone dot has been sent.
    abandoned = 'abandoned'
    done = 'done'


@public
class Event:
    """What moves it on."""

    #: MAIL, RCPT (and DATA) were queued for sending.
    envelope = 'envelope sent'
    #: Envelope and BDAT … LAST were queued for sending in one group.
    whole = 'envelope and content sent'
    #: 354 after at least one accepted recipient; the content was queued.
    go_ahead = 'go ahead'
    #: 354 after every recipient was refused; the lone dot was queued.
    nobody = 'go ahead for nobody'
    #: No content is wanted, or wanted for nobody.
    declined = 'declined'
    #: The end of the content was answered.
    answered = 'answered'
    #: The connection is gone.
    lost = 'lost'


# Every legal move; whatever is not here raises `IllegalMove`.
MOVES: Dict[str, Dict[str, str]] = {
    State.queued: {
        Event.envelope: State.envelope,
        Event.whole: State.content,
        Event.lost: State.done,
        },
    State.envelope: {
        Event.go_ahead: State.content,
        Event.nobody: State.abandoned,
        Event.declined: State.done,
        Event.lost: State.done,
        },
    State.content: {
        Event.answered: State.done,
        Event.lost: State.done,
        },
    State.abandoned: {
        Event.answered: State.done,
        Event.lost: State.done,
        },
    State.done: {},
    }
public(MOVES=MOVES)


@public
class Exchange:
    """A transaction that is being sent, and what is known of each recipient.

    :ivar commands: MAIL and the RCPTs that are still to be sent, each with
        its stage and the index of its recipient.
    :ivar begin: The count of octets sent before its first command.
    :ivar end: The count of octets sent once its content has gone; None as
        long as that is not on its way.
    :ivar by_bdat: Was the content sent by BDAT?
    """

    __slots__ = ('_results', '_to_come', 'begin', 'by_bdat', 'commands', 'end',
                 'mail_accepted', 'state', 'transaction')

    def __init__(self, transaction: Transaction, recipients: Sequence[str],
                 server: Capabilities) -> None:
        self.transaction = transaction
        self.state = State.queued
        self.begin = 0
        self.end: Optional[int] = None
        self.by_bdat = False
        self.mail_accepted = False
        self.commands: Deque[Tuple[Stage, int, bytes]] = deque()
        refused = refuse_message(
            transaction.sender, transaction.content, server)
        self._results: List[Optional[Result]] = [
            refused or refuse_recipient(recipient, server)
            for recipient in recipients]
        # The recipients to whom the content may still go.
        self._to_come = self._results.count(None)
        if self._to_come:
            self._prepare(recipients, server)

    def _prepare(self, recipients: Sequence[str],
                 server: Capabilities) -> None:
        named = [
            (index, recipient)
            for index, recipient in enumerate(recipients)
            if self._results[index] is None]
        international = not all(name.isascii() for _, name in named)
        self.commands.append((Stage.mail, 0, mail_command(
            self.transaction.sender, self.transaction.content, server,
            international)))
        self.commands.extend(
            (Stage.rcpt, index, rcpt_command(recipient))
            for index, recipient in named)

    def move(self, event: str) -> None:
        """Go from one state to the next.

        :raises IllegalMove: if there is no such move.
        """
        try:
            self.state = MOVES[self.state][event]
        except KeyError:
            raise IllegalMove(f'{self.state}: {event}') from None
        if event is Event.whole:
            self.by_bdat = True

    @property
    def settled(self) -> bool:
        """Does every recipient have its result?"""
        return None not in self._results

    @property
    def hopeless(self) -> bool:
        """Has every recipient been refused?"""
        return self._to_come == 0

    def outcome(self) -> Outcome:
        """Return the results.

        :raises IllegalMove: if a recipient has none.
        """
        if not self.settled:
            raise IllegalMove(f'{self.state}: an outcome without results')
        return Outcome(
            self.transaction, tuple(self._results))    # type: ignore

    # The answers, in the order in which they come.

    def take_mail(self, reply: Reply) -> None:
        """The answer to MAIL."""
        if 300 <= reply.code < 400:
            raise ProtocolError(f'MAIL was answered with {reply}')
        if reply.code < 300:
            self.mail_accepted = True
        else:
            self.refuse_rest(Stage.mail, reply)

    def take_rcpt(self, index: int, reply: Reply) -> None:
        """The answer to one RCPT."""
        if 300 <= reply.code < 400:
            raise ProtocolError(f'RCPT was answered with {reply}')
        if self._results[index] is not None:
            # MAIL was refused and has settled it.
            if reply.code < 300:
                raise ProtocolError(f'RCPT without MAIL was accepted: {reply}')
        elif reply.code >= 400:
            self._results[index] = Result(Fate.refused, Stage.rcpt, reply)
            self._to_come -= 1

    def take_end(self, reply: Reply) -> None:
        """The answer to the end of the content, or to a lone dot."""
        if reply.code < 300:
            self._settle_rest(Result(Fate.accepted, Stage.end, reply))
        else:
            self.refuse_rest(Stage.end, reply)

    def refuse_rest(self, stage: Stage, reply: Reply) -> None:
        """Those who had not been refused yet are refused with this reply."""
        self._settle_rest(Result(Fate.refused, stage, reply))
        self._to_come = 0

    def give_up(self, reply: Optional[Reply] = None,
                stage: Stage = Stage.connect) -> None:
        """Nothing was accepted and nothing can have been."""
        self._settle_rest(Result(Fate.not_attempted, stage, reply))

    def lose(self, sent: int) -> None:
        """The connection is gone, after so many octets had been sent."""
        if self.end is not None and self.end <= sent:
            self._settle_rest(Result(Fate.in_doubt, Stage.end, None))
        else:
            self.give_up()
        self.move(Event.lost)

    def _settle_rest(self, result: Result) -> None:
        self._results = [
            result if known is None else known for known in self._results]
