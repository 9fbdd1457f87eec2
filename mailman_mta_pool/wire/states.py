# SPDX-License-Identifier: GPL-3.0-or-later
"""The states of a transaction, and the events that move it on."""

from public import public
from typing import Dict


@public
class State:
    """Where a transaction stands."""

    #: Nothing of it has been sent.
    queued = 'queued'
    #: MAIL and what follows it has been sent; the content has not.
    envelope = 'envelope'
    #: MAIL and what follows it in a question has been sent.
    asked = 'asked'
    #: The envelope and the first octet of the content have been sent, by the
    #: first BDAT that the server ever got.
    trial = 'trial'
    #: The content is on its way; its answer settles the transaction.
    content = 'content'
    #: 354 though nobody was accepted: a lone dot has been sent.
    abandoned = 'abandoned'
    #: Refused, but the replies may be out of step with the commands.
    doubted = 'doubted'
    #: Every recipient has a result.
    done = 'done'


@public
class Event:
    """What moves a transaction on."""

    #: MAIL, RCPT (and DATA) were queued for sending.
    envelope = 'envelope sent'
    #: MAIL of a question, RCPT (and RSET) were queued for sending.
    question = 'question sent'
    #: Envelope and BDAT 1 were queued for sending in one group.
    trial = 'envelope and one octet sent'
    #: Envelope and BDAT … LAST were queued for sending in one group.
    whole = 'envelope and content sent'
    #: 354, or 2xx to BDAT 1, after at least one accepted recipient; the
    #: content was queued.
    go_ahead = 'go ahead'
    #: 354 after every recipient was refused; the lone dot was queued.
    nobody = 'go ahead for nobody'
    #: No content is wanted, or wanted for nobody.
    declined = 'declined'
    #: The end of the content was answered, or the end of the question.
    answered = 'answered'
    #: A refusal was the last answer.
    doubted = 'doubted'
    #: The replies are in step with the commands.
    proved = 'proved'
    #: The connection is gone.
    lost = 'lost'


# Every legal move; whatever is not here raises `IllegalMove`.
MOVES: Dict[str, Dict[str, str]] = {
    State.queued: {
        Event.envelope: State.envelope,
        Event.question: State.asked,
        Event.trial: State.trial,
        Event.whole: State.content,
        Event.lost: State.done,
        },
    State.envelope: {
        Event.go_ahead: State.content,
        Event.nobody: State.abandoned,
        Event.declined: State.done,
        Event.doubted: State.doubted,
        Event.lost: State.done,
        },
    State.asked: {
        Event.answered: State.done,
        Event.doubted: State.doubted,
        Event.lost: State.done,
        },
    State.trial: {
        Event.go_ahead: State.content,
        Event.declined: State.done,
        Event.doubted: State.doubted,
        Event.lost: State.done,
        },
    State.content: {
        Event.answered: State.done,
        Event.doubted: State.doubted,
        Event.lost: State.done,
        },
    State.doubted: {
        Event.proved: State.done,
        Event.lost: State.done,
        },
    State.abandoned: {
        Event.answered: State.done,
        Event.lost: State.done,
        },
    State.done: {},
    }
public(MOVES=MOVES)
