# SPDX-License-Identifier: GPL-3.0-or-later
"""The state of this process's slice, sampled while a post is in delivery.

The keeper is given functions that return plain numbers, and calls them twice
a second: nothing is counted here for each recipient.  Everything is in the
network thread; only where that cannot be had, the main thread does it.
"""

import os
import time
import logging

from collections import deque
from dataclasses import dataclass, field, replace
from mailman_mta_pool.durations import Durations, no_durations
from mailman_mta_pool.monitoring.files import (
    read_states,
    remove_torn,
    write_whole,
)
from mailman_mta_pool.monitoring.state import (
    Counted,
    Failures,
    MESSAGE_ID_LENGTH,
    OUTCOMES,
    PostState,
    RelayState,
    SliceState,
    state_from_json,
)
from mailman_mta_pool.posts import FINAL_OUTCOMES
from public import public
from typing import (
    Callable,
    Deque,
    Dict,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
)


log = logging.getLogger('mailman.smtp')

#: How many posts that have ended are told of.
LAST_POSTS = 20
#: For how many minutes it is told how many recipients were accepted.
MINUTES = 60
#: How many relays are told of, those of earlier settings included.
MAX_RELAYS = 8
public(LAST_POSTS=LAST_POSTS, MINUTES=MINUTES, MAX_RELAYS=MAX_RELAYS)
# Over how many seconds the rate is measured.
RATE_SPAN = 10.0


@public
class Tally(NamedTuple):
    """What has become of a queue entry by now.

    :ivar attempt: How many of its recipients had which of `OUTCOMES`, those
        included who had it when the delivery began.
    :ivar outcomes: The same for the whole post, where each counts once.
    :ivar messages: How many messages the server has accepted, likewise.
    :ivar failures: Why recipients of the post failed.
    :ivar waits_for: What the post waits for, in words; '' for nothing.
    """

    attempt: Mapping[str, int]
    outcomes: Mapping[str, int]
    messages: int
    failures: List[Failures]
    waits_for: str = ''


@public
class RelaySample(NamedTuple):
    """A mail server at a moment.

    :ivar source: The object that counts; another one counts from 0.
    :ivar state: What holds now; the counters are those of `source`.
    :ivar durations: Those of the phases, likewise.
    :ivar is_in_use: True if the post in delivery may go over it.
    """

    source: object
    state: RelayState
    durations: Mapping[str, Durations]
    is_in_use: bool = True


@public
@dataclass
class Delivery:
    """The delivery of one queue entry, as the keeper is told of it.

    :ivar post: The post; its `outcomes` are those of its earlier entries.
    :ivar size: How many recipients the entry has.
    :ivar is_continued: True if the post had earlier entries.
    :ivar is_unshunted: True if this one was in the `shunt` queue.
    :ivar known: What its journal said when it began.
    :ivar tally: Returns the `Tally`.
    """

    post: PostState
    size: int
    is_continued: bool
    is_unshunted: bool
    known: Counted
    tally: Callable[[], Tally]


@dataclass
class _Sampled:
    """What was seen last of an object that counts."""

    source: object = None
    opened: int = 0
    reused: int = 0
    lost: int = 0
    durations: Dict[str, Durations] = field(default_factory=no_durations)


class _Now:
    """The delivery that is going on, and what of it has been counted."""

    def __init__(self, delivery: Delivery, now: float) -> None:
        self.delivery = delivery
        self.began = now
        self.counted = dict.fromkeys(OUTCOMES, 0)
        self.messages = 0
        self.known = delivery.known.accepted
        self.accepted = 0
        # Times, and how many were accepted by then.
        self.rates: Deque[Tuple[float, int]] = deque([(now, 0)])

    def rate(self, now: float) -> float:
        """Return how many are accepted a second."""
        self.rates.append((now, self.accepted))
        while now - self.rates[0][0] > RATE_SPAN and len(self.rates) > 2:
            self.rates.popleft()
        begin, before = self.rates[0]
        return _rate(self.accepted - before, now - begin)

    def mean_rate(self, now: float) -> float:
        """Return how many were accepted a second, all in all."""
        return _rate(self.accepted, now - self.began)


def _rate(count: int, seconds: float) -> float:
    return round(count / seconds, 3) if seconds > 0 else 0.0


@public
class Keeper:
    """Samples the numbers of this slice, and writes its state file.

    What cannot be written is kept in memory and tried again; that is logged
    once.

    :ivar is_working: True if a post is in delivery.
    """

    def __init__(self, directory: str, name: str, *, software: str = '',
                 look_at_relays: Callable[[], Sequence[RelaySample]],
                 has_journal: Callable[[str], bool] = lambda entry: True,
                 clock: Callable[[], float] = time.time) -> None:
        """Go on from what the state file says, if there is one.

        :param directory: The directory of the state files.
        :param name: The name of the slice, such as 'out-0-of-1'.
        :param software: The version of this package.
        :param look_at_relays: Returns the relays in use.
        :param has_journal: Returns True if a queue entry has a journal.
        :param clock: Returns the time in seconds since 1970.
        """
        self._directory = directory
        self._path = os.path.join(directory, f'{name}.json')
        self._look_at_relays = look_at_relays
        self._has_journal = has_journal
        self._clock = clock
        self._now: Optional[_Now] = None
        self._sampled: Dict[str, _Sampled] = {}
        # Entries whose journals were gone at the last look.
        self._gone: Set[str] = set()
        self._max_lists = 0
        self._is_failing = False
        self._state = self._read()
        self._state.slice, self._state.software = name, software
        self._state.working, self._state.posts = False, []

    @property
    def is_working(self) -> bool:
        """True if a post is in delivery."""
        return self._now is not None

    # The file.

    def _read(self) -> SliceState:
        remove_torn(self._path)
        try:
            with open(self._path, encoding='utf-8') as fp:
                return state_from_json(fp.read())
        except FileNotFoundError:
            log.info('%s is not there yet; the counters of this runner begin '
                     'at 0', self._path)
        except (OSError, ValueError) as error:
            log.warning('%s cannot be read: %s; the counters of this runner '
                        'begin at 0', self._path, error)
        return SliceState()

    def write(self) -> None:
        """Look at everything, and write the state file."""
        self.sample()
        self._prune()
        state = self._state
        state.written = self._clock()
        try:
            os.makedirs(self._directory, 0o700, exist_ok=True)
            write_whole(self._path, state.to_json(), 0o600)
        except OSError as error:
            if not self._is_failing:
                self._is_failing = True
                log.error('%s cannot be written: %s; `mailman mta-pool status`'
                          ' shows what was before until it can', self._path,
                          error)
            return
        if self._is_failing:
            self._is_failing = False
            log.info('%s can be written again', self._path)

    def _prune(self) -> None:
        """Forget the entries that nobody can deliver again.

        A journal whose entry gets another name has neither name for a moment,
        so the entry is forgotten at the second look.
        """
        current = self._now and self._now.delivery.post.entry
        gone = {entry for entry in self._state.counted
                if entry != current and not self._has_journal(entry)}
        for entry in gone & self._gone:
            del self._state.counted[entry]
        self._gone = gone

    # A delivery.

    def begin(self, delivery: Delivery, max_lists: int = 0,
              former_entry: str = '') -> PostState:
        """Take note that a delivery begins.

        :param delivery: The delivery.
        :param max_lists: How many lists have counters of their own.
        :param former_entry: The name that the entry and its journal had
            before, or ''.
        :return: The post, with what is known of its other entries.
        """
        now = self._clock()
        self._max_lists = max_lists
        self._now = current = _Now(delivery, now)
        post, state = delivery.post, self._state
        states = [state]
        if delivery.is_continued or any(delivery.known):
            # Another slice may have had the entry, or the post.
            states.extend(
                each for each in read_states(self._directory).states
                if each.slice != state.slice)
        counted = _largest(states, (post.entry, former_entry))
        current.counted['accepted'] = counted.accepted
        current.counted['refused'] = counted.refused
        current.messages = counted.messages
        self._look_back(delivery, states)
        post.started = now
        post.message_id = post.message_id[:MESSAGE_ID_LENGTH]
        state.working, state.posts = True, [post]
        self._allow_lists(post.list_name)
        return post

    def _look_back(self, delivery: Delivery,
                   states: List[SliceState]) -> None:
        """Learn what became of the post since the entry was made."""
        post = delivery.post
        seen = [each for state in states for each in state.last_posts
                if delivery.is_continued and each.origin == post.origin]
        latest = max(seen, key=_settled, default=post)
        if latest is post or _settled(latest) <= _settled(post):
            return
        outcomes = dict(latest.outcomes)
        left = delivery.size
        for outcome in (('shunted',) if delivery.is_unshunted
                        else ('deferred', 'in_doubt')):
            # The entry names these.
            taken = min(left, outcomes.get(outcome, 0))
            outcomes[outcome] = outcomes.get(outcome, 0) - taken
            left -= taken
        post.outcomes = outcomes
        post.failures = [
            each for each in latest.failures
            if each.outcome in FINAL_OUTCOMES]

    def sample(self) -> None:
        """Look at the relays, and at the post in delivery, if there is one."""
        self._sample_relays()
        if self._now is not None:
            self._sample_post(self._now, self._clock())

    def end(self, is_over: bool = True) -> None:
        """Take note that the delivery has ended, and write the state file.

        :param is_over: False if the rest of its recipients is in the `out`
            queue, or the entry itself stays there.
        """
        current, state = self._now, self._state
        if current is None:
            return
        now = self._clock()
        self.sample()
        self._now = None
        state.working, state.posts = False, []
        if is_over:
            entry = current.delivery.post.entry
            # One that has ended, and was killed before its entry was removed,
            # begins again.
            if entry == '' or all(
                    each.entry != entry for each in state.last_posts):
                state.posts_ended += 1
            post = replace(current.delivery.post, ended=now,
                           rate=current.mean_rate(now), waits_for='')
            state.last_posts = [post, *(
                each for each in state.last_posts
                if post.origin == '' or each.origin != post.origin
                )][:LAST_POSTS]
        self.write()

    def leave(self) -> None:
        """Write the state file for the last time: the process ends."""
        self.sample()
        self._look_at_relays = list
        for relay in self._state.relays:
            relay.connections = relay.idle = relay.in_flight = 0
        self.write()

    # The counters.

    def _sample_post(self, current: _Now, now: float) -> None:
        delivery, state = current.delivery, self._state
        post = delivery.post
        tally = delivery.tally()
        new = {}
        for outcome, before in current.counted.items():
            # What a broken journal has forgotten was counted all the same.
            new[outcome] = max(0, tally.attempt.get(outcome, 0) - before)
            current.counted[outcome] = before + new[outcome]
            state.recipients[outcome] += new[outcome]
        new_messages = max(0, tally.messages - current.messages)
        current.messages += new_messages
        state.messages += new_messages
        if post.entry:
            state.counted[post.entry] = Counted(
                current.counted['accepted'], current.counted['refused'],
                current.messages)
        counters = state.lists.get(post.list_name)
        if counters is not None:
            for outcome, count in new.items():
                counters[outcome] = counters.get(outcome, 0) + count
        self._count_minute(now, new['accepted'])
        accepted = tally.attempt.get('accepted', 0) - current.known
        if accepted > current.accepted:
            current.accepted = accepted
            state.last_accepted = now
        post.outcomes = dict(tally.outcomes)
        post.failures = tally.failures
        post.rate = current.rate(now)
        post.waits_for = tally.waits_for

    def _count_minute(self, now: float, accepted: int) -> None:
        state, minute = self._state, int(now // 60) * 60
        if accepted:
            before = dict(state.minutes)
            before[minute] = before.get(minute, 0) + accepted
            state.minutes = sorted(before.items())
        state.minutes = [(each, count) for each, count in state.minutes
                         if each > minute - 60 * MINUTES]

    def _allow_lists(self, name: str) -> None:
        """See to it that at most so many lists have counters of their own."""
        lists = self._state.lists
        for surplus in list(lists)[self._max_lists:]:
            del lists[surplus]
        if name in lists or len(lists) >= self._max_lists:
            return
        known = {each for state in read_states(self._directory).states
                 for each in state.lists}
        if name in known or len(known) < self._max_lists:
            lists[name] = dict.fromkeys(OUTCOMES, 0)

    # The relays.

    def _sample_relays(self) -> None:
        samples = self._look_at_relays()
        if not samples:
            return
        relays = [self._sampled_relay(sample) for sample in samples]
        names = {relay.name for relay in relays}
        # The settings name the others no more.
        self._state.relays = [*relays, *(
            RelayState(each.name, opened=each.opened, reused=each.reused,
                       lost=each.lost, used=each.used)
            for each in self._state.relays if each.name not in names)
            ][:max(MAX_RELAYS, len(relays))]

    def _sampled_relay(self, sample: RelaySample) -> RelayState:
        """Return what holds of a relay, with the counters of its past."""
        name = sample.state.name
        known = next((each for each in self._state.relays
                      if each.name == name), RelayState(name))
        last = self._sampled.get(name)
        if last is None or last.source is not sample.source:
            last = self._sampled[name] = _Sampled(sample.source)
        seen = sample.state
        relay = replace(
            seen, opened=known.opened + seen.opened - last.opened,
            reused=known.reused + seen.reused - last.reused,
            lost=known.lost + seen.lost - last.lost,
            used=self._clock() if self._now is not None and sample.is_in_use
            else known.used)
        if seen.state == 'unknown':
            # It was used before this process began, and not since.  What it
            # had asked for then is forgotten.
            relay.state, relay.reason = (
                ('up', '') if known.state == 'paused' else
                (known.state, known.reason))
        last.opened, last.reused, last.lost = (
            seen.opened, seen.reused, seen.lost)
        for phase, durations in sample.durations.items():
            _add(self._state.phases.setdefault(phase, Durations()),
                 durations, last.durations[phase])
        return relay


def _add(total: Durations, seen: Durations, last: Durations) -> None:
    """Add to a histogram what another one has more than the last time."""
    total.counts = [
        count + now - before for count, now, before in zip(
            total.counts, seen.counts, last.counts)]
    total.seconds += seen.seconds - last.seconds
    last.counts, last.seconds = list(seen.counts), seen.seconds


def _largest(states: List[SliceState],
             entries: Tuple[str, ...]) -> Counted:
    """Return what of the journal of an entry was counted by anybody."""
    found = [state.counted[entry] for state in states for entry in entries
             if entry in state.counted]
    return Counted(*map(max, zip(Counted(), *found)))


def _settled(post: PostState) -> int:
    return sum(post.outcomes.get(outcome, 0) for outcome in FINAL_OUTCOMES)
