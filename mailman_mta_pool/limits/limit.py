# SPDX-License-Identifier: GPL-3.0-or-later
"""The words in which limits are spoken of: what is asked, and the answers."""

import enum

from dataclasses import dataclass
from mailman_mta_pool.settings import Rate
from public import public
from typing import FrozenSet, Optional, Tuple, Union


# Somebody may be gone, or have given something back: whoever waits asks again
# after so many seconds at the latest.
LONGEST_WAIT = 10.0
# Whoever waits for several limits keeps its place in the line of those that
# take so much of the longest of these times, at the least.  The others it
# cannot use before, and whoever needs only those does not wait for it.
SHARE_OF_WAIT = 0.5
public(LONGEST_WAIT=LONGEST_WAIT, SHARE_OF_WAIT=SHARE_OF_WAIT)


@public
class Unit(enum.Enum):
    """What a limit counts."""

    messages = 'messages'
    recipients = 'recipients'
    connects = 'connects'


@public
@dataclass(frozen=True)
class Limit:
    """What a server, or a list, is sent at most.

    :ivar name: Whose limit it is, such as 'relay.ses' or 'limit.news'.
    :ivar unit: What is counted.
    :ivar rates: All of these hold.
    """

    name: str
    unit: Unit
    rates: Tuple[Rate, ...]

    @property
    def key(self) -> str:
        """The name under which the limit's use is stored."""
        return f'{self.name}.{self.unit.value}'


@public
@dataclass(frozen=True)
class Ask:
    """What somebody would like to send, or to open.

    A transaction counts as one message and as many recipients; a connection
    counts as one.

    :ivar limits: All limits that apply; they are taken together or not at
        all.
    :ivar recipients: How many recipients the transaction has.
    :ivar is_divisible: True if a part of the recipients is welcome.
    :ivar ticket: What the last refusal of the same had; None at first.
    """

    limits: Tuple[Limit, ...]
    recipients: int = 1
    is_divisible: bool = True
    ticket: Optional[int] = None

    def amount(self, limit: Limit) -> int:
        """How much of a limit all that is asked for would take."""
        return self.recipients if limit.unit is Unit.recipients else 1

    def least(self, limit: Limit) -> int:
        """How much of a limit has to be left."""
        return 1 if self.is_divisible else self.amount(limit)


@public
@dataclass(frozen=True)
class Taken:
    """What was taken of some limits.

    :ivar limits: Which.
    :ivar recipients: How many recipients are covered.
    """

    limits: Tuple[Limit, ...]
    recipients: int

    @property
    def counts_recipients(self) -> bool:
        """True if more would have to be taken for more recipients."""
        return any(limit.unit is Unit.recipients for limit in self.limits)

    def amount(self, limit: Limit) -> int:
        """How much of a limit was taken."""
        return self.recipients if limit.unit is Unit.recipients else 1


@public
@dataclass(frozen=True)
class Refused:
    """Nothing was taken.

    :ivar lacking: The keys of the limits that have too little left, and
        decide when there may be enough; see `SHARE_OF_WAIT`.
    :ivar seconds: After how many seconds there may be enough.
    :ivar ticket: The place in the line, for the next `Ask`; the lower is the
        earlier.
    :ivar again: After how many seconds it is worth asking again, because
        another process may give back what it has in flight; None if that is
        after `seconds`.
    """

    lacking: FrozenSet[str]
    seconds: float
    ticket: Optional[int]
    again: Optional[float] = None


# What a storage answers.
Answer = Union[Taken, Refused]
public(Answer=Answer)
