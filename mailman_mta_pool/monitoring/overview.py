# SPDX-License-Identifier: GPL-3.0-or-later
"""The state files and the queues put together, and what is to be done.

See `current` for what is shown of this site.
"""

from collections import Counter
from dataclasses import asdict, dataclass, replace
from mailman_mta_pool.monitoring.advice import advice_of, Situation
from mailman_mta_pool.monitoring.files import read_states, state_directory
from mailman_mta_pool.monitoring.queues import (
    is_queued,
    queue_summaries,
    QueuedPart,
    QueueSummary,
)
from mailman_mta_pool.monitoring.state import (
    Failures,
    OUTCOMES,
    PostState,
    RELAY_STATES,
    RelayState,
    SliceState,
)
from mailman_mta_pool.posts import FINAL_OUTCOMES
from public import public
from typing import (
    AbstractSet,
    Any,
    Dict,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
)


# It changes when a program that reads `status --json` would go wrong.
VERSION = 1
#: A slice at work writes its state every half second.  One that has not for
#: so many seconds was killed, or hangs.
STALLED_S = 10.0
# A slice that has nothing to do writes its state every quarter of a minute.
# One that has not for so many seconds is no more.
SILENT_S = 40.0
# What two slices have found out of a relay within so many seconds is of the
# same time.
SAME_TIME_S = 10.0
# How many of the last posts are shown, and how many causes of each.
LAST_POSTS = 20
CAUSES = 10
public(STALLED_S=STALLED_S)
# The outcomes after which nobody tries again, unless the operator does.
ENDED_OUTCOMES = (*FINAL_OUTCOMES, 'shunted')


@public
@dataclass(frozen=True)
class Post:
    """A post in delivery, in all its slices and queue entries.

    :ivar message_id: Its Message-ID, with angle brackets.
    :ivar list: The posting address of the list.
    :ivar total: How many recipients it has.
    :ivar accepted: How many of these a server has taken responsibility for.
    :ivar rate: Recipients accepted a second, of late.
    :ivar time_left: The seconds that the rest takes at this rate, or None.
    :ivar started: When the present attempt began.
    :ivar slice: The names of the slices, separated by a comma and a space.
    :ivar stalled: True if none of these slices is alive.
    :ivar outcomes: What became of how many, by `OUTCOMES`.
    :ivar waits_for: What it waits for, in words; '' if something can be sent.
    """

    message_id: str
    list: str
    total: int
    accepted: int
    rate: float
    time_left: Optional[float]
    started: float
    slice: str
    stalled: bool
    outcomes: Dict[str, int]
    waits_for: str


@public
@dataclass(frozen=True)
class LastPost:
    """A post whose delivery has ended, for the time being or for good.

    :ivar message_id: Its Message-ID, with angle brackets.
    :ivar list: The posting address of the list.
    :ivar total: How many recipients it has.
    :ivar accepted: How many of these a server has taken responsibility for.
    :ivar outcomes: What became of how many, by `OUTCOMES`.
    :ivar started: When the last attempt began.
    :ivar ended: When the last attempt ended.
    :ivar failures: By cause, the greatest first.
    """

    message_id: str
    list: str
    total: int
    accepted: int
    outcomes: Dict[str, int]
    started: float
    ended: float
    failures: List[Failures]


@public
@dataclass(frozen=True)
class Slice:
    """A runner slice.

    :ivar name: Such as 'out-0-of-1'.
    :ivar written: When its state file was written.
    :ivar working: True if a post is in delivery.
    :ivar stalled: True if it was at work and has been killed, or hangs.
    :ivar software: The version of this package that it runs.
    """

    name: str
    written: float
    working: bool
    stalled: bool
    software: str


@public
@dataclass(frozen=True)
class Overview:
    """What `mailman mta-pool status` shows; see status.schema.json.

    :ivar time: When this was put together.
    :ivar posts: Those in delivery, the one that began first at the head.
    :ivar last_posts: The last ones that ended, the latest first.
    :ivar queues: What is in the queues, by name.  Of an entry in delivery
        only those recipients count who are left.
    :ivar relays: The mail servers, summed over the slices.
    :ivar slices: Those that Mailman is configured for.
    :ivar recipients: What became of how many, by `OUTCOMES`, since the
        beginning of the counters.
    :ivar minutes: Pairs of a time, a multiple of 60, and of the number of
        recipients accepted in that minute; of the last hour.
    :ivar advice: A sentence for whatever is not empty or not healthy.
    :ivar needs_operator: True if something does not mend itself.
    """

    time: float
    posts: List[Post]
    last_posts: List[LastPost]
    queues: Dict[str, QueueSummary]
    relays: List[RelayState]
    slices: List[Slice]
    recipients: Dict[str, int]
    minutes: List[Tuple[int, int]]
    advice: List[str]
    needs_operator: bool

    def to_dict(self) -> Dict[str, Any]:
        """Return what `status --json` prints and the REST resource answers."""
        return {
            'version': VERSION,
            'time': self.time,
            'posts': [asdict(post) for post in self.posts],
            'last_posts': [asdict(post) for post in self.last_posts],
            'queues': {name: {
                'entries': queue.entries,
                'recipients': queue.recipients,
                'oldest_age': queue.oldest_age,
                } for name, queue in self.queues.items()},
            'relays': [asdict(relay) for relay in self.relays],
            'slices': [asdict(each) for each in self.slices],
            'recipients': dict(self.recipients),
            'minutes': [list(minute) for minute in self.minutes],
            'advice': list(self.advice),
            'needs_operator': self.needs_operator,
            }


@public
def overview(var_directory: str, queue_root: str, now: float,
             mistake: Optional[str] = None,
             start: Optional[str] = None,
             named: Optional[Mapping[str, int]] = None) -> Overview:
    """Read the state files and the queues, and put them together.

    Whatever cannot be read is told in the advice; nothing is raised for it.

    :param var_directory: Mailman's $VAR_DIR.
    :param queue_root: Mailman's $QUEUE_DIR.
    :param now: The time, in seconds since 1970.
    :param mistake: What is wrong with the configuration, or None.
    :param start: The command that starts Mailman; None if it may be running.
    :param named: The relays that the configuration names, and how many
        connections each may have; None if that cannot be told.
    """
    # The states come first: a post that ends meanwhile is seen in delivery,
    # and never nowhere.
    states, problems = read_states(state_directory(var_directory))
    queues = recipients_left(queue_summaries(queue_root, now), states)
    current = current_slices(states)
    slices = [_slice(state, queue_root, now) for state in current]
    at_work = {each.name for each in slices if each.working}
    stalled = {each.name: now - each.written
               for each in slices if each.stalled}
    known = _posts(states, at_work)
    for parts in known:
        parts += _waiting(parts, queues['out'].parts.values())
    posts = [_in_delivery(parts, stalled.keys()) for parts in known
             if any(part.running for part in parts)]
    posts.sort(key=lambda post: (post.started, post.message_id))
    last_posts = [_last(parts) for parts in known if not any(
        part.running or part.slice == '' for part in parts)]
    last_posts.sort(key=lambda post: post.ended, reverse=True)
    del last_posts[LAST_POSTS:]
    relays = _in_use(relays_of(states, now), named)
    advice = advice_of(Situation(
        mistake, start, queue_root, len(states) > 0, problems, queues, relays,
        sorted(at_work - stalled.keys()), stalled,
        [failures for post in last_posts for failures in post.failures]))
    return Overview(
        now, posts, last_posts, queues, relays, slices,
        recipients_of(states), _minutes(states, now),
        [each.sentence for each in advice],
        any(each.needs_operator for each in advice))


@public
def current_slices(states: Sequence[SliceState]) -> List[SliceState]:
    """Return the states of the slices that Mailman is configured for.

    After a change of `[runner.out] instances` there are state files of other
    numbers of slices.  The number of those that were written last counts.

    :param states: Those of all state files.
    """
    if len(states) == 0:
        return []
    latest = max(states, key=lambda state: state.written)
    return [state for state in states
            if _number_of_slices(state) == _number_of_slices(latest)]


@public
def recipients_of(states: Iterable[SliceState]) -> Dict[str, int]:
    """Return what became of how many recipients, by `OUTCOMES`.

    :param states: Those of all state files, old ones too: a counter does not
        fall.
    """
    return _outcomes(state.recipients for state in states)


@public
def recipients_left(
        queues: Dict[str, QueueSummary],
        states: Sequence[SliceState]) -> Dict[str, QueueSummary]:
    """Return the queues without those who are settled already.

    The file of an entry in delivery names all its recipients to the end, and
    so does one that was left over when its runner was killed.  The state of
    the slice says how many of these are settled.

    :param queues: What is in the queues.
    :param states: Those of all state files.
    """
    settled: Dict[str, int] = {}
    for state in states:
        for name, counts in state.counted.items():
            settled[name] = max(
                settled.get(name, 0), counts.accepted + counts.refused)
    left = dict(queues)
    if 'out' in left:
        done = sum(min(count, settled.get(name, 0))
                   for name, count in left['out'].counts.items())
        left['out'] = replace(
            left['out'], recipients=left['out'].recipients - done)
    return left


@public
def relays_of(states: Sequence[SliceState], now: float) -> List[RelayState]:
    """Return the mail servers, each with what all slices know of it.

    :param states: Those of all state files: the counters of old ones count.
    :param now: The time, in seconds since 1970.
    """
    seen: Dict[str, List[Tuple[SliceState, RelayState]]] = {}
    for state in states:
        for relay in state.relays:
            seen.setdefault(relay.name, []).append((state, relay))
    current = current_slices(states)
    return [_relay(name, pairs, current, now)
            for name, pairs in sorted(seen.items())
            if any(state in current for state, relay in pairs)]


def _relay(name: str, seen: List[Tuple[SliceState, RelayState]],
           current: List[SliceState], now: float) -> RelayState:
    merged = RelayState(
        name,
        opened=sum(relay.opened for state, relay in seen),
        reused=sum(relay.reused for state, relay in seen),
        lost=sum(relay.lost for state, relay in seen),
        used=max(relay.used for state, relay in seen))
    fresh = [_as_of(state, relay, now) for state, relay in seen
             if state in current]
    merged.connections = sum(relay.connections for relay in fresh)
    merged.idle = sum(relay.idle for relay in fresh)
    merged.ceiling = sum(relay.ceiling for relay in fresh)
    merged.in_flight = sum(relay.in_flight for relay in fresh)
    rates = [relay.rate for relay in fresh if relay.rate is not None]
    merged.rate = sum(rates) if len(rates) == len(fresh) > 0 else None
    # What one slice found out long ago counts no more if another has found
    # out something since.
    known = [relay for relay in fresh if relay.state != 'unknown']
    newest = max((relay.used for relay in known), default=0.0)
    worst = max(
        (relay for relay in known if relay.used + SAME_TIME_S >= newest),
        key=lambda relay: (_badness(relay), relay.pause), default=None)
    if worst is not None:
        merged.state, merged.reason = worst.state, worst.reason
        merged.pause = worst.pause
    return merged


def _in_use(relays: List[RelayState],
            named: Optional[Mapping[str, int]]) -> List[RelayState]:
    """Return the relays of the site, without those of earlier settings.

    :param relays: What is known of relays.
    :param named: See `overview`.
    """
    known = {relay.name: relay for relay in relays}
    in_use = [known.get(name) or RelayState(name, ceiling=ceiling)
              for name, ceiling in (named or {}).items()]
    # Of those that the settings name no more nothing is known when the next
    # post has begun.
    in_use += [
        relay for relay in relays if relay.name not in (named or {}) and (
            relay.state != 'unknown' or relay.connections > 0)]
    return in_use or relays


def _badness(relay: RelayState) -> int:
    if relay.state in RELAY_STATES:
        return RELAY_STATES.index(relay.state)
    return 0


def _as_of(state: SliceState, relay: RelayState, now: float) -> RelayState:
    """Return what a slice says of a relay, as it is by now."""
    age = max(0.0, now - state.written)
    relay = replace(relay, pause=max(0.0, relay.pause - age))
    if relay.state == 'paused' and relay.pause == 0 and age > STALLED_S:
        # The pause is over, and there has been nothing to send since.
        relay = replace(relay, state='up', reason='')
    if age > (STALLED_S if state.working else SILENT_S):
        # A slice that was killed has no connections.
        relay = replace(relay, connections=0, idle=0, in_flight=0)
    return relay


def _slice(state: SliceState, queue_root: str, now: float) -> Slice:
    """Return how a slice is doing.

    Where it was killed, the file goes on saying that it is at work; but a
    post that is no longer in the queue is nobody's work.
    """
    is_late = now - state.written > STALLED_S
    working = state.working and (
        not is_late or len(state.posts) == 0 or any(
            post.entry == '' or is_queued(queue_root, 'out', post.entry)
            for post in state.posts))
    return Slice(state.slice, state.written, working, working and is_late,
                 state.software)


def _number_of_slices(state: SliceState) -> str:
    return state.slice.rpartition('-')[2]


def _outcomes(counts: Iterable[Dict[str, int]]) -> Dict[str, int]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return {outcome: total[outcome] for outcome in OUTCOMES}


class _Part(NamedTuple):
    """What a slice says of a post, or of a part of a divided one.

    :ivar slice: The name of the slice; '' if it is said by a queue entry.
    :ivar post: What it says.
    :ivar running: True if it is in delivery.
    """

    slice: str
    post: PostState
    running: bool

    @property
    def ended(self) -> float:
        """When it ended, in seconds since 1970."""
        return (self.post.started if self.post.ended is None
                else self.post.ended)


def _posts(states: Sequence[SliceState],
           at_work: Set[str]) -> List[List[_Part]]:
    """Return the parts of each post.

    Several slices may have had the same queue entry, one after the other; the
    last one of these knows what the others did.

    :param states: Those of all state files.
    :param at_work: The names of the slices at work.
    """
    found: Dict[Tuple[str, str], Dict[str, _Part]] = {}
    for state in states:
        # What is in delivery is newer than what has ended, and of this the
        # latest is at the head.
        parts = [_Part(state.slice, post, False)
                 for post in reversed(state.last_posts)]
        if state.slice in at_work:
            parts += [_Part(state.slice, post, True) for post in state.posts]
        for part in parts:
            post = part.post
            known = found.setdefault(
                (post.message_id or post.entry, post.list_name), {})
            which = post.origin or part.slice
            before = known.get(which)
            if before is None or (part.running, part.ended) >= (
                    before.running, before.ended):
                known[which] = part
    return [list(known.values()) for known in found.values()]


def _waiting(parts: List[_Part],
             queued: Iterable[QueuedPart]) -> List[_Part]:
    """Return those parts of a post that wait for their turn.

    Those that are in delivery still have a queue entry, too, and so may have
    those that are tried again.

    :param parts: The parts that the slices know.
    :param queued: Those that have an entry in the `out` queue.
    """
    message_id, list_name = parts[0].post.message_id, parts[0].post.list_name
    list_id = list_name.replace('@', '.')
    known = {part.post.origin for part in parts}
    found = {each.origin: each for each in queued
             if each.message_id == message_id and each.list_id == list_id and
             each.origin not in known}
    return [_Part('', PostState(
        origin=each.origin, message_id=message_id, list_name=list_name,
        total=each.total, outcomes=dict(each.outcomes)), False)
        for each in found.values()]


def _in_delivery(parts: List[_Part], stalled: AbstractSet[str]) -> Post:
    """Return a post in delivery.

    :param parts: Its parts, some of which are running.
    :param stalled: The names of the slices that were killed, or hang.
    """
    running = [part for part in parts if part.running]
    alive = [part for part in running if part.slice not in stalled]
    total, outcomes = _total(parts)
    rate = sum(part.post.rate for part in alive)
    left = max(0, total - sum(outcomes[each] for each in ENDED_OUTCOMES))
    first = running[0].post
    return Post(
        first.message_id, first.list_name, total, outcomes['accepted'], rate,
        left / rate if rate > 0 else None,
        min(part.post.started for part in running),
        ', '.join(sorted({part.slice for part in running})),
        len(alive) == 0, outcomes, _waits_for(alive))


def _waits_for(alive: List[_Part]) -> str:
    """Return what a post waits for; '' if one of its parts goes out."""
    words = [part.post.waits_for for part in alive]
    return ', '.join(dict.fromkeys(words)) if all(words) else ''


def _last(parts: List[_Part]) -> LastPost:
    total, outcomes = _total(parts)
    last = max(parts, key=lambda part: part.ended)
    return LastPost(
        last.post.message_id, last.post.list_name, total,
        outcomes['accepted'], outcomes, last.post.started, last.ended,
        _failures(parts))


def _total(parts: List[_Part]) -> Tuple[int, Dict[str, int]]:
    """Return how many recipients a post has, and what became of them."""
    return (sum(part.post.total for part in parts),
            _outcomes(part.post.outcomes for part in parts))


def _failures(parts: List[_Part]) -> List[Failures]:
    counts: Counter[Tuple[str, str]] = Counter()
    for part in parts:
        for each in part.post.failures:
            counts[each.outcome, each.reply] += each.count
    return [Failures(outcome, reply, count) for (outcome, reply), count
            in counts.most_common(CAUSES)]


def _minutes(states: Sequence[SliceState],
             now: float) -> List[Tuple[int, int]]:
    counts: Counter[int] = Counter()
    for state in states:
        for minute, count in state.minutes:
            if minute > now - 3660:
                counts[minute] += count
    return sorted(counts.items())
