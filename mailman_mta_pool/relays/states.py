# SPDX-License-Identifier: GPL-3.0-or-later
"""The states of a pooled connection, and the events that move it on.

`Pool` keeps a connection in the list of the idle ones, among those in use, or
in a task that opens or closes it; this table says what that amounts to.
tests/test_pool.py holds the pool to it.
"""

from public import public
from typing import Dict


@public
class State:
    """Where a connection stands."""

    #: Made, but not opened yet; or closed for good.
    closed = 'closed'
    #: On its way from connect to AUTH; it has a slot.
    opening = 'opening'
    #: With a delivery agent.
    in_use = 'in use'
    #: Open, and waiting for the next post.
    idle = 'idle'
    #: QUIT is being said; it keeps its slot.
    closing = 'closing'


@public
class Event:
    """What moves a connection on."""

    #: An agent needs one, none is idle, and there is a free slot.
    wanted = 'wanted'
    #: The server is ready for MAIL.
    opened = 'opened'
    #: The server cannot be used, or nobody wants it any more.
    failed = 'failed'
    #: The agent is done with it, and it can be used again.
    released = 'released'
    #: The agent is done with it; it was lost or is worn out, connections are
    #: not kept between posts, or the pool is closed.
    given_up = 'given up'
    #: An agent takes it out of the pool.
    taken = 'taken'
    #: It has been idle for too long, or is worn out.
    expired = 'expired'
    #: An agent was to have it, but the server has closed it or spoken.
    stale = 'found stale'
    #: Another one that was kept turned out to be dead, or the pool is closed.
    dismissed = 'dismissed'
    #: The server has answered QUIT, or its time for that is over.
    ended = 'ended'


# Every move there is.
MOVES: Dict[str, Dict[str, str]] = {
    State.closed: {
        Event.wanted: State.opening,
        },
    State.opening: {
        Event.opened: State.in_use,
        Event.failed: State.closed,
        },
    State.in_use: {
        Event.released: State.idle,
        Event.given_up: State.closing,
        },
    State.idle: {
        Event.taken: State.in_use,
        Event.expired: State.closing,
        Event.stale: State.closing,
        Event.dismissed: State.closing,
        },
    State.closing: {
        Event.ended: State.closed,
        },
    }
public(MOVES=MOVES)
