# SPDX-License-Identifier: GPL-3.0-or-later
"""One transaction on its way: its commands, its answers, its legal moves."""

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
from typing import Dict, List, Optional, Sequence, Tuple


# Looking up a member of an Enum takes longer than the rest of what is done for
# a reply.
_MAIL, _RCPT, _END = Stage.mail, Stage.rcpt, Stage.end
_ACCEPTED = Fate.accepted


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

    :ivar commands: MAIL and the RCPTs that are still to be sent.
    :ivar due: For each of those, what its reply will answer: the stage, this
        exchange, and the index of the recipient.
    :ivar begin: The count of octets sent before its first command.
    :ivar end: The count of octets sent once its content has gone; None as
        long as that is not on its way.
    :ivar by_bdat: Was the content sent by BDAT?
    """

    __slots__ = ('_results', '_to_come', 'begin', 'by_bdat', 'commands', 'end',
                 'due', 'mail_accepted', 'state', 'transaction')

    def __init__(self, transaction: Transaction, recipients: Sequence[str],
                 server: Capabilities) -> None:
        self.transaction = transaction
        self.state = State.queued
        self.begin = 0
        self.end: Optional[int] = None
        self.by_bdat = False
        self.mail_accepted = False
        self.commands: List[bytes] = []
        self.due: List[Tuple[Stage, Exchange, int]] = []
        self._results: List[Optional[Result]] = []
        # The recipients to whom the content may still go.
        self._to_come = 0
        refused = refuse_message(transaction, server)
        if refused is None:
            self._prepare(recipients, server)
        else:
            self._results = [refused] * len(recipients)

    def _prepare(self, recipients: Sequence[str],
                 server: Capabilities) -> None:
        results, commands, due = self._results, self.commands, self.due
        commands.append(b'')
        due.append((_MAIL, self, 0))
        international = False
        notify = bool(self.transaction.envid) and server.dsn
        for index, recipient in enumerate(recipients):
            refused = refuse_recipient(recipient, server)
            results.append(refused)
            if refused is None:
                commands.append(rcpt_command(recipient, notify))
                due.append((_RCPT, self, index))
                international = international or not recipient.isascii()
        self._to_come = len(commands) - 1
        commands[0] = mail_command(self.transaction, server, international)

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
        if reply.code < 300:
            self.mail_accepted = True
        elif reply.code < 400:
            raise ProtocolError(f'MAIL was answered with {reply}')
        else:
            self.refuse_rest(_MAIL, reply)

    def take_rcpt(self, index: int, reply: Reply) -> None:
        """The answer to one RCPT."""
        known = self._results[index]
        if reply.code < 300:
            if known is not None:
                # MAIL was refused and has settled it.
                raise ProtocolError(f'RCPT without MAIL was accepted: {reply}')
        elif reply.code < 400:
            raise ProtocolError(f'RCPT was answered with {reply}')
        elif known is None:
            self._results[index] = Result(Fate.refused, _RCPT, reply)
            self._to_come -= 1

    def take_end(self, reply: Reply) -> None:
        """The answer to the end of the content, or to a lone dot."""
        if reply.code < 300:
            self._settle_rest(Result(_ACCEPTED, _END, reply))
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
        if self._to_come == len(self._results) and self._results[0] is None:
            # No one stands out, as nearly always.
            self._results = [result] * self._to_come
        else:
            self._results = [
                result if known is None else known
                for known in self._results]
