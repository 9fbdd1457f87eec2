# SPDX-License-Identifier: GPL-3.0-or-later
"""The meaning of an answer: this is where a reply code is judged.

The table says it for one recipient.  Some answers mean one thing or another
depending on what the server said to others; `Ledger` decides those.
"""

import re
import enum

from mailman_mta_pool.wire.replies import NOT_UNDERSTOOD, Reply
from mailman_mta_pool.wire.transaction import (
    Fate,
    Outcome,
    Result,
    Stage,
    Transaction,
)
from public import public
from typing import Dict, FrozenSet, NamedTuple, Optional, Pattern, Tuple


@public
class Meaning(enum.Enum):
    """The meaning of an answer for one recipient."""

    #: Has got the post.
    served = 'served'
    #: A permanent failure: Mailman registers a bounce.
    bounced = 'bounced'
    #: A temporary failure: Mailman's retry queue has it.
    deferred = 'deferred'
    #: Temporary; and the post may have arrived all the same.
    in_doubt = 'in doubt'
    #: The server does not want *us*: its operator or ours has to mend it.
    denied = 'denied'
    #: `denied`, if it is said to everybody; otherwise `bounced`.
    denied_if_all = 'denied if all'
    #: The server does not want this message, whoever is to get it.
    rejected = 'rejected'
    #: `rejected`, if it is said to everybody; otherwise `bounced`.
    rejected_if_all = 'rejected if all'
    #: Nothing was accepted, and nothing can have been.
    unsent = 'unsent'


class _Row(NamedTuple):
    stages: FrozenSet[Stage]
    #: For the reply code and the enhanced status code, if there is one.
    answer: str
    meaning: Meaning


ANY = frozenset(Stage)
MAIL = frozenset([Stage.mail])
RCPT = frozenset([Stage.rcpt])
CONTENT = frozenset([Stage.data, Stage.end])

# The first row that fits.  The codes are those of RFC 5321, section 4.2.3,
# and RFC 3463.
TABLE: Tuple[_Row, ...] = (
    # An address that we do not send to this server: 5.1.3, 5.6.7.
    _Row(frozenset([Stage.here]), '5', Meaning.bounced),
    # RFC 4954, section 6: authentication required.  Whoever says it of one
    # recipient alone does not keep the others from their mail.
    _Row(RCPT, '530', Meaning.denied_if_all),
    _Row(ANY, '530', Meaning.denied),
    # "Relay access denied", "not from this network".
    _Row(RCPT, r'5\d\d 5\.7\.', Meaning.denied_if_all),
    # RFC 5321, section 4.5.3.1.10: 552 is to be treated as temporary.
    _Row(RCPT, '552', Meaning.deferred),
    _Row(RCPT, '5', Meaning.bounced),
    _Row(MAIL, '5', Meaning.rejected),
    # Too big: nobody gets it.
    _Row(CONTENT, '552', Meaning.rejected),
    _Row(CONTENT, '5', Meaning.rejected_if_all),
    _Row(ANY, '4', Meaning.deferred),
    )


@public
def meaning_of(result: Result) -> Meaning:
    """Look up what became of one recipient.

    :param result: How it ended.
    :return: What that means, as far as one recipient's answer can tell.
    """
    if result.fate is Fate.accepted:
        return Meaning.served
    if result.fate is Fate.in_doubt:
        return Meaning.in_doubt
    if result.fate is Fate.not_attempted:
        return Meaning.unsent
    assert result.reply is not None
    answer = f'{result.reply.code} {result.reply.enhanced or ""}'
    for row in TABLE:
        if result.stage in row.stages and re.match(row.answer, answer):
            return row.meaning
    # The parser lets no other codes through, and the engine no 3xx.
    return Meaning.deferred


# RFC 4954, section 6.
_LOGIN_NEEDED_CODE = 530


@public
def needs_login(reply: Reply) -> bool:
    """Return True if the server demands that we authenticate.

    :param reply: A refusal.
    """
    return reply.code == _LOGIN_NEEDED_CODE


# RFC 5321, section 4.5.3.1.10, and RFC 3463, section 3.5.
_TOO_MANY = re.compile(r'(452|552) ([45]\.5\.3)?$')
_TOO_MANY_RECIPIENTS = re.compile(r'(452|552) [45]\.5\.3$')


@public
def over_the_limit(outcome: Outcome) -> FrozenSet[int]:
    """Return the recipients whose only fault is to have come too late.

    :param outcome: A transaction to several recipients.
    :return: The indices of the recipients that were refused because the
        server had accepted so many before them.
    """
    results = outcome.results
    accepted = [index for index, result in enumerate(results)
                if result.stage in CONTENT]
    if not accepted or len(results) == 1:
        return frozenset()
    # If it took others after them, they are not those too many.
    return frozenset(
        index for index, result in enumerate(results)
        if index > accepted[-1] and result.stage is Stage.rcpt and
        result.fate is Fate.refused and _matches(result, _TOO_MANY))


@public
def says_too_many_recipients(result: Result) -> bool:
    """Return True if the answer names the number of recipients.

    A bare 452 or 552 may also mean a full disk.

    :param result: One of those that are `over_the_limit`.
    """
    return _matches(result, _TOO_MANY_RECIPIENTS)


def _matches(result: Result, pattern: Pattern[str]) -> bool:
    reply = result.reply
    return reply is not None and pattern.match(
        f'{reply.code} {reply.enhanced or ""}') is not None


@public
def limit_of(outcome: Outcome) -> int:
    """Return how many recipients the server accepted.

    :param outcome: A transaction in which some were over the limit.
    """
    return sum(result.stage in CONTENT for result in outcome.results)


# RFC 5321, section 4.1.1.11: it does not know the parameter; and RFC 3463,
# section 3.2: it is about the address.
_UNKNOWN_PARAMETER = NOT_UNDERSTOOD | {555}
_ABOUT_ADDRESS = '5.1.'
# RFC 5321, section 4.1.1.11: it knows it, but not now.
_NOT_NOW = 455
# Authentication required, or too big: that is about no sender.
_ABOUT_OTHERS = frozenset([_LOGIN_NEEDED_CODE, 552])


def _of_mail(outcome: Outcome) -> Dict[int, Reply]:
    """Return the replies that refused the sender, by the recipients' index."""
    return {index: result.reply for index, result in enumerate(outcome.results)
            if result.stage is Stage.mail and result.fate is Fate.refused and
            result.reply is not None}


@public
def refuses_verp(outcome: Outcome) -> bool:
    """Return True if the server does not make senders, whatever it offers.

    :param outcome: Any transaction.
    """
    return outcome.transaction.verp is not None and any(
        reply.code in _UNKNOWN_PARAMETER and
        not (reply.enhanced or '').startswith(_ABOUT_ADDRESS)
        for reply in _of_mail(outcome).values())


@public
def may_mind_verp(outcome: Outcome) -> bool:
    """Return True if XVERP may be the reason for a refusal at MAIL.

    A server that knows nothing of it may have any words for that.

    :param outcome: Any transaction.
    """
    return outcome.transaction.verp is not None and any(
        reply.code == _NOT_NOW or _is_about_sender(reply)
        for reply in _of_mail(outcome).values())


def _is_about_sender(reply: Reply) -> bool:
    return reply.code >= 500 and reply.code not in _ABOUT_OTHERS


@public
def refuses_sender(outcome: Outcome,
                   plain_sender: Optional[str]) -> FrozenSet[int]:
    """Return the recipients whose only fault may be the sender of VERP.

    :param outcome: Any transaction.
    :param plain_sender: The sender without VERP, or None if there is none.
    :return: The indices of the recipients for whom the sender was refused,
        if it was another than that.
    """
    if plain_sender in (None, outcome.transaction.sender):
        return frozenset()
    return frozenset(
        index for index, reply in _of_mail(outcome).items()
        if _is_about_sender(reply))


@public
class Orders(NamedTuple):
    """Instructions for the dispatcher about an outcome.

    :ivar again: To be sent at once.
    :ivar limit: The most recipients that the server takes in a transaction,
        if that is what was learnt.
    :ivar halt: Send nothing more of this post.
    :ivar no_verp: The server does not make senders, whatever it says.
    """

    again: Tuple[Transaction, ...] = ()
    limit: Optional[int] = None
    halt: bool = False
    no_verp: bool = False
