# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a transaction can stand, and what moves it on."""

from public import public
from typing import Dict


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
    #: Refused, but the replies may be out of step with the commands.
    doubted = 'doubted'
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
    #: A refusal was the last answer.
    doubted = 'doubted'
    #: The replies are in step.
    proved = 'proved'
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
