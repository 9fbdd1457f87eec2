# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes out, and what became of it: values that everybody shares."""

import enum

from mailman_mta_pool.wire.content import Content
from mailman_mta_pool.wire.replies import Reply
from mailman_mta_pool.wire.verp import Verp
from public import public
from typing import List, NamedTuple, Optional, Sequence, Tuple


@public
def domain_of(recipient: str) -> str:
    """Return the domain of an address, in lower case.

    :param recipient: A forward-path without angle brackets.
    """
    return recipient.rpartition('@')[2].lower()


@public
class Fate(enum.Enum):
    """How a recipient of a transaction ended; exactly one of these."""

    # That of Enum is written in Python, and asked for at every reply.
    __hash__ = object.__hash__

    #: The server answered 2xx to the end of the content.
    accepted = 'accepted'
    #: The server answered 4xx or 5xx, or we refused before sending.
    refused = 'refused'
    #: Nothing was accepted and nothing can have been: safe to send again.
    not_attempted = 'not attempted'
    #: The end of the content was sent and its reply never came.
    in_doubt = 'in doubt'


@public
class Stage(enum.Enum):
    """The command whose answer decided; RFC 5321, section 3.3."""

    # That of Enum is written in Python, and asked for at every reply.
    __hash__ = object.__hash__

    #: A recipient that we refuse ourselves; no RCPT was sent.
    here = 'here'
    connect = 'connect'
    mail = 'MAIL'
    rcpt = 'RCPT'
    data = 'DATA'
    #: The end of the content: the lone dot, or BDAT … LAST.
    end = 'end of data'


@public
class Transaction(NamedTuple):
    """One SMTP mail transaction that is still to be sent.

    :ivar sender: The reverse-path without angle brackets; '' is the null
        reverse-path.
    :ivar recipients: The forward-paths without angle brackets, in the order
        in which they are sent.
    :ivar content: What follows DATA or BDAT.
    :ivar verp: How the server is to make the senders; None if `sender` is
        what it is.
    :ivar envid: The envelope identifier of RFC 3461, if delivery status
        notifications are wanted, which may be ''; otherwise None.
    :ivar stand_in: An address that is named to the server in the place of
        each recipient, as Mailman's [devmode] wants; None if the recipients
        are named themselves.
    :ivar asks: True for a question: MAIL, the RCPTs and RSET are sent, and no
        content, so that nobody gets anything.  A recipient whose RCPT was
        accepted ends as not attempted at `Stage.data`, with that reply.
    """

    sender: str
    recipients: Tuple[str, ...]
    content: Content
    verp: Optional[Verp] = None
    envid: Optional[str] = None
    stand_in: Optional[str] = None
    asks: bool = False

    @property
    def names(self) -> Tuple[str, ...]:
        """The addresses that go into the RCPTs, one for each recipient."""
        if self.stand_in is None:
            return self.recipients
        return (self.stand_in,) * len(self.recipients)

    def individually(self) -> List['Transaction']:
        """Return transactions with the senders that the server would make."""
        assert self.verp is not None
        return [
            self._replace(
                sender=self.verp.sender(self.sender, recipient),
                recipients=(recipient,), verp=None)
            for recipient in self.recipients]


@public
class Result(NamedTuple):
    """What became of one recipient.

    :ivar fate: One of the four ends.
    :ivar stage: Which command's answer decided it.  Of those not attempted:
        which one was not answered, or would have been next; it is `connect`
        for those whose turn had not come.
    :ivar reply: The deciding reply; the accepting one keeps the server's
        text, and with it the queue id.  None where no reply came.
    """

    fate: Fate
    stage: Stage
    reply: Optional[Reply]


@public
class Span(NamedTuple):
    """When a transaction was on its way; see `mailman_mta_pool.wire.order`.

    :ivar session: The number of the connection's session.
    :ivar begun: The tick before its first command was sent; if none was, the
        tick at which its outcome was made.
    :ivar ended: The tick at which its outcome was made.
    """

    session: int = 0
    begun: int = 0
    ended: int = 0

    def precedes(self, other: 'Span') -> bool:
        """Return True if one was answered before the other was read.

        A server works on the transactions of one session in their order,
        however many of them are in flight.

        :param other: Of the transaction that may have come later.
        """
        return (self.ended < other.begun or
                self.session == other.session and self.begun < other.begun)


@public
class Outcome(NamedTuple):
    """A transaction, and what became of each of its recipients.

    :ivar transaction: As it was submitted.
    :ivar results: One result for each recipient, in the same order.
    :ivar span: When it was on its way.
    """

    transaction: Transaction
    results: Tuple[Result, ...]
    span: Span = Span()

    @property
    def alike(self) -> Optional[Result]:
        """How all of them ended; None if there are differences, or nobody."""
        results = self.results
        # Nearly always it is one object, which makes this quick.
        if results and results.count(results[0]) == len(results):
            return results[0]
        return None

    def having(self, fate: Fate) -> Tuple[str, ...]:
        """Return the recipients that ended so, in the order of sending."""
        return tuple(
            recipient
            for recipient, result in zip(
                self.transaction.recipients, self.results)
            if result.fate is fate)

    def part(self, indices: Sequence[int]) -> 'Outcome':
        """Return the outcome of some of the recipients.

        :param indices: Which; in the order in which they are to be.
        """
        recipients = self.transaction.recipients
        return Outcome(
            self.transaction._replace(
                recipients=tuple(recipients[index] for index in indices)),
            tuple(self.results[index] for index in indices), self.span)


@public
def was_sent(outcome: Outcome) -> bool:
    """Return False if no command of a transaction was sent.

    :param outcome: What became of it.
    """
    if outcome.span.begun != outcome.span.ended:
        return True
    return any(result.stage not in (Stage.here, Stage.connect) or
               result.reply is not None for result in outcome.results)


@public
def outcome_of_all(transaction: Transaction, result: Result,
                   span: Span = Span()) -> Outcome:
    """Return the outcome in which every recipient ended alike."""
    return Outcome(
        transaction, (result,) * len(transaction.recipients), span)
