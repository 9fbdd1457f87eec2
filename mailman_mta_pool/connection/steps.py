# SPDX-License-Identifier: GPL-3.0-or-later
"""What a session does step by step: what it is fed, and what it waits for."""

import enum
import select

from mailman_mta_pool.wire.transaction import Transaction
from public import public
from typing import Generator, NamedTuple, Optional, Sequence, Tuple, Union


# What poll() takes at the most, in seconds, is little more than this.
LONGEST = 86400.0


@public
class Feed(enum.Enum):
    """What a session can be told instead of being fed."""

    #: Nothing now, but perhaps soon: stay, and ask again when told to.
    later = 'later'


# What a connection is given; None is the end.
Given = Union[Transaction, Feed, None]
# What its session is fed: with the recipients that stand in for the
# transaction's own on the wire.
Fed = Union[Tuple[Transaction, Sequence[str]], Feed, None]


@public
class Wait(NamedTuple):
    """What a session waits for.

    :ivar fileno: The file descriptor of its socket.
    :ivar events: Those of `select.poll`.
    :ivar seconds: For how long at the most; None if it waits for us, and not
        for the server.
    """

    fileno: int
    events: int
    seconds: Optional[float]


# What drives it sends the events of `select.poll` that have come; or 0, for it
# to look at the clock, and to ask again if it was put off.
Steps = Generator[Wait, Optional[int], None]
public(Fed=Fed, Given=Given, Steps=Steps)


@public
def drive_alone(steps: Steps) -> None:
    """Drive a session to its end.

    :param steps: See `Session.steps`.  Nobody can tell it to ask again, so
        what feeds it must not put it off.
    """
    poll = select.poll()
    try:
        wait = next(steps)
        while True:
            # A server that is near has often answered by now.
            now = steps.send(select.POLLIN)
            if now is wait:
                assert wait.seconds is not None
                poll.register(wait.fileno, wait.events)
                ready = poll.poll(min(wait.seconds, LONGEST) * 1000)
                now = steps.send(ready[0][1] if ready else 0)
            wait = now
    except StopIteration:
        pass
