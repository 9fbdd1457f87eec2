# SPDX-License-Identifier: GPL-3.0-or-later
"""The state of one runner slice: plain numbers, as its state file says them.

The network thread of the slice writes the file, and everybody else reads it.
Times are seconds since 1970 (UTC), as `time.time` has them.
"""

import json

from dataclasses import dataclass, field, fields, is_dataclass
from mailman_mta_pool.durations import BUCKETS, Durations, no_durations, PHASES
from mailman_mta_pool.posts import OUTCOMES
from public import public
from typing import (
    Any,
    Dict,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Tuple,
    Type,
    TypeVar,
)


# It changes when a reader of an older state file would go wrong.
VERSION = 1
#: The states of a relay, the worst last.
RELAY_STATES = ('unknown', 'up', 'paused', 'down')
public(VERSION=VERSION, OUTCOMES=OUTCOMES, PHASES=PHASES, BUCKETS=BUCKETS,
       RELAY_STATES=RELAY_STATES, Durations=Durations)
#: So many characters of a Message-ID are kept.  One on a line of its own has
#: no more octets (RFC 5322, section 2.1.1), but a folded one may.
MESSAGE_ID_LENGTH = 998
public(MESSAGE_ID_LENGTH=MESSAGE_ID_LENGTH)

Value = TypeVar('Value')


def _no_outcomes() -> Dict[str, int]:
    return dict.fromkeys(OUTCOMES, 0)


@public
@dataclass
class Failures:
    """Recipients who failed for one cause.

    :ivar outcome: One of `OUTCOMES`.
    :ivar reply: The last words of the server, or of ours where it said
        nothing; one line.
    :ivar count: How many recipients.
    """

    outcome: str = 'deferred'
    reply: str = ''
    count: int = 0


@public
@dataclass
class PostState:
    """One post, in delivery or ended.

    A post is in `SliceState.posts` as long as one of its queue entries is in
    delivery.  It is in `SliceState.last_posts` when an entry has ended, and
    nothing of it has gone back into the `out` queue: a post that waits for
    its next turn is in neither.  One that was tried again is there once.

    Of a post that was divided for several runners, each part is a post with
    a `total` of its own.

    :ivar entry: The name of its queue entry; '' if it is from no queue.
    :ivar origin: The same for all queue entries of a post, and for no other
        post: where two slices have one, the one that ended last includes the
        other.  '' if it is not known.
    :ivar message_id: Its Message-ID, with angle brackets.
    :ivar list_name: The posting address of the list.
    :ivar total: How many recipients the whole post has, over all its queue
        entries.
    :ivar outcomes: What became of how many of these by now, by `OUTCOMES`;
        each counts once.  The deferred and those in doubt wait in the `retry`
        queue, once it has ended.
    :ivar started: When this attempt began.
    :ivar ended: When it ended; None while it lasts.
    :ivar rate: Recipients accepted a second: of the last ten seconds while it
        lasts, of the whole attempt when it has ended.
    :ivar failures: By cause, the greatest first.
    :ivar waits_for: What it waits for, in words, a limit or a connection; ''
        if something can be sent, or if it has ended.
    """

    entry: str = ''
    origin: str = ''
    message_id: str = ''
    list_name: str = ''
    total: int = 0
    outcomes: Dict[str, int] = field(default_factory=_no_outcomes)
    started: float = 0.0
    ended: Optional[float] = None
    rate: float = 0.0
    failures: List[Failures] = field(default_factory=list)
    waits_for: str = ''

    @property
    def accepted(self) -> int:
        """How many recipients the server has taken responsibility for."""
        return self.outcomes.get('accepted', 0)


@public
@dataclass
class RelayState:
    """A mail server, as one slice sees it.

    :ivar name: Its section without "relay.", or 'host:port' for that of
        [mta].
    :ivar state: One of `RELAY_STATES`.  It is 'up' if it could be used when
        it was used last, and 'unknown' if this slice has not sent there yet,
        or does not any more.
    :ivar reason: Why it is paused or down, in the server's words, without
        addresses; or the limit of our own that it is at, for less than a
        second where it is 'up'.
    :ivar pause: For how many seconds more it gets nothing.
    :ivar connections: How many there are, in use and idle.
    :ivar idle: How many of these are idle.
    :ivar ceiling: How many there may be.
    :ivar in_flight: Transactions that are given and not answered.
    :ivar rate: Messages a second that it gets at most; None is no limit.
    :ivar opened: Connections opened, since the beginning of the counters.
    :ivar reused: Uses of a connection that was open already, likewise.
    :ivar lost: Connections that broke, or were found closed, likewise.
    :ivar used: When a post that was for it was in delivery last; 0 if it is
        not known.
    """

    name: str = ''
    state: str = 'unknown'
    reason: str = ''
    pause: float = 0.0
    connections: int = 0
    idle: int = 0
    ceiling: int = 0
    in_flight: int = 0
    rate: Optional[float] = None
    opened: int = 0
    reused: int = 0
    lost: int = 0
    used: float = 0.0


@public
class Counted(NamedTuple):
    """What of a queue entry's journal has been counted.

    :ivar accepted: How many recipients.
    :ivar refused: How many recipients.
    :ivar messages: How many transactions.
    """

    accepted: int = 0
    refused: int = 0
    messages: int = 0


@public
@dataclass
class SliceState:
    """What a state file says.

    The counters, from `recipients` on, never fall: a slice that starts again
    goes on from what the file says.

    :ivar version: `VERSION`.
    :ivar slice: The name of the slice, such as 'out-0-of-1'; Mailman counts
        slices from 0.
    :ivar software: The version of this package.
    :ivar written: When the file was written.
    :ivar working: True if a post is in delivery.
    :ivar recipients: What became of how many, by `OUTCOMES`.
    :ivar lists: The same for each list, by its posting address, where
        `[metrics] lists` wants it.
    :ivar messages: Transactions whose content a server accepted.
    :ivar posts_ended: Deliveries that ended, and put nothing back into the
        `out` queue.
    :ivar last_accepted: When a server accepted a message last, or None.
    :ivar phases: The durations, by `PHASES`.
    :ivar minutes: Pairs of a time, which is a multiple of 60, and of the
        number of recipients accepted in that minute; of the last hour.
    :ivar posts: Those in delivery.
    :ivar last_posts: The last ones that ended, the latest first.
    :ivar relays: The mail servers.
    :ivar counted: What of a queue entry's journal has been counted, by the
        name of the entry.
    """

    version: int = VERSION
    slice: str = ''
    software: str = ''
    written: float = 0.0
    working: bool = False
    recipients: Dict[str, int] = field(default_factory=_no_outcomes)
    lists: Dict[str, Dict[str, int]] = field(default_factory=dict)
    messages: int = 0
    posts_ended: int = 0
    last_accepted: Optional[float] = None
    phases: Dict[str, Durations] = field(default_factory=no_durations)
    minutes: List[Tuple[int, int]] = field(default_factory=list)
    posts: List[PostState] = field(default_factory=list)
    last_posts: List[PostState] = field(default_factory=list)
    relays: List[RelayState] = field(default_factory=list)
    counted: Dict[str, Counted] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the text of the state file."""
        # `dataclasses.asdict` copies, and takes many times as long.
        return json.dumps(
            self, default=vars, separators=(',', ':')) + '\n'


@public
def state_from_json(text: str) -> SliceState:
    """Return what a state file says.

    Keys that are missing have their defaults, and unknown ones are passed
    over, so that an older and a newer release can read each other's files.

    :param text: The text of the file.
    :raises ValueError: if it is no state file, or of another version, or torn.
    """
    try:
        values = json.loads(text)
        if values['version'] != VERSION:
            raise ValueError(f'state file of version {values["version"]!r}')
        state = _made(SliceState, values)
        state.phases = {name: _made(Durations, found)
                        for name, found in state.phases.items()}
        for phase in PHASES:
            state.phases.setdefault(phase, Durations())
        state.posts = [_post(found) for found in state.posts]
        state.last_posts = [_post(found) for found in state.last_posts]
        state.relays = [_made(RelayState, found) for found in state.relays]
        state.minutes = [(minute, count) for minute, count in state.minutes]
        state.counted = {name: Counted(*found)
                         for name, found in state.counted.items()}
        _check(_numbers_of(state))
        return state
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f'no state file: {error!r}') from error


def _numbers_of(state: SliceState) -> Iterator[Any]:
    yield from state.recipients.values()
    for found in (*state.lists.values(), *(
            post.outcomes for post in (*state.posts, *state.last_posts))):
        yield from found.values()
    for durations in state.phases.values():
        yield from durations.counts
    for pair in (*state.minutes, *state.counted.values()):
        yield from pair
    for optional in (state.last_accepted, *(
            post.ended for post in (*state.posts, *state.last_posts)), *(
            relay.rate for relay in state.relays)):
        if optional is not None:
            yield optional


def _check(numbers: Iterator[Any]) -> None:
    for number in numbers:
        if not isinstance(number, (int, float)):
            raise TypeError(f'{number!r} is no number')


def _post(values: Any) -> PostState:
    post = _made(PostState, values)
    post.failures = [_made(Failures, found) for found in post.failures]
    return post


def _made(kind: Type[Value], values: Any) -> Value:
    """Return a value of a dataclass, checked as far as its defaults tell."""
    assert is_dataclass(kind)
    made = kind()
    for each in fields(kind):
        if each.name in values:
            default, found = getattr(made, each.name), values[each.name]
            if default is not None and not isinstance(found, type(default)):
                if not (isinstance(default, float) and
                        isinstance(found, int)):
                    raise TypeError(f'{each.name} is {found!r}')
            if isinstance(default, dict) and each.name in (
                    'recipients', 'outcomes'):
                found = {**default, **found}
            setattr(made, each.name, found)
    return made
