# SPDX-License-Identifier: GPL-3.0-or-later
"""What the conversations with one relay have taught us about it.

A lesson that takes something away from the relay says when it was learnt, and
is put to the test again after a while.
"""

import re
import enum

from collections import deque
from mailman_mta_pool.durations import Durations, no_durations
from mailman_mta_pool.wire.capabilities import Capabilities
from public import public
from typing import Callable, Deque, Dict, FrozenSet, Optional, Tuple


# In seconds.
FIRST_LIFETIME = 3600.0
LONGEST_LIFETIME = 86400.0
# For how long CHUNKING is not tried after a trial that was put off with 4xx.
TRIAL_PAUSE = 60.0
public(TRIAL_PAUSE=TRIAL_PAUSE)

# What a greeting has that is not always the same: dates, times and zones.
_CALENDAR = frozenset(
    'mon tue wed thu fri sat sun jan feb mar apr may jun jul aug sep oct nov '
    'dec monday tuesday wednesday thursday friday saturday sunday january '
    'february march april june july august september october november '
    'december am pm utc gmt cet cest est edt cst cdt mst mdt pst pdt bst jst '
    'ist'.split())
_HOST = re.compile(r'[a-z0-9-]+(?:\.[a-z0-9-]+)*\.[a-z-]+')
_DIGIT = re.compile('[0-9]')
# Dovecot's submission service (2.3.19 and 2.4.1, in Debian 12 and 13) crashes
# upon commands that come before it has answered to a content, and leaves that
# in doubt.
# Where the greeting does not name it, its offer does: few others know BURL
# (RFC 4468).
_DOVECOT = re.compile(r'\bdovecot\b', re.IGNORECASE)


@public
class Chunking(enum.Enum):
    """What is known of a relay's CHUNKING (RFC 3030), where it is offered."""

    #: Never seen at work.
    untried = 'untried'
    #: One conversation has sent its first BDAT and waits for the answer;
    #: all others use DATA meanwhile.
    on_trial = 'on trial'
    #: Seen at work.
    proved = 'proved'
    #: Tried and found wanting.
    off = 'off'


@public
class Pipelining(enum.Enum):
    """What is known of a relay's PIPELINING (RFC 2920), where it is offered.
    """

    #: Never seen at work.
    untried = 'untried'
    #: Seen at work.
    proved = 'proved'
    #: Tried and found wanting.
    off = 'off'


class _Lesson:
    """When something was learnt, and for how long it holds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lifetime = 0.0
        self._is_tested = False
        self.learnt: Optional[float] = None

    @property
    def holds(self) -> bool:
        return (self.learnt is not None and
                self._clock() < self.learnt + self._lifetime)

    def learn(self) -> None:
        """Learn it, for twice as long if it was learnt before."""
        if self.holds and not self._is_tested:
            # Several connections have met the same.
            return
        self._lifetime = min(
            max(2 * self._lifetime, FIRST_LIFETIME), LONGEST_LIFETIME)
        self._is_tested = False
        self.learnt = self._clock()

    def test(self) -> None:
        """Begin another lifetime, in which to learn it is to confirm it."""
        self._is_tested = True
        self.learnt = self._clock()

    def forget(self) -> None:
        self._lifetime = 0.0
        self._is_tested = False
        self.learnt = None


@public
class Lessons:
    """Shared by all connections to one relay.

    :ivar server: What the relay offered last; None before the first
        connection.
    :ivar chunking: What is known of its CHUNKING; `off` stays until the lesson
        has expired and the trial is claimed again.
    :ivar round_trip: The quickest answer to EHLO, in seconds; None as long
        as none was measured.
    :ivar durations: How long the phases of its connections and messages took,
        by their names.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """Begin with nothing learnt.

        :param clock: Seconds that only grow.
        """
        self._clock = clock
        self.server: Optional[Capabilities] = None
        self.round_trip: Optional[float] = None
        self.durations: Dict[str, Durations] = no_durations()
        # Greetings and offers of late: several machines may take turns.
        self._seen: Deque[Tuple[str, FrozenSet[str]]] = deque(maxlen=16)
        self._greeting = ''
        self.chunking = Chunking.untried
        self._next_trial = clock()
        self._pipelining = Pipelining.untried
        self._limit = 0
        self._ceiling = 0
        self._lessons: Dict[str, _Lesson] = {
            name: _Lesson(clock) for name in (
                'chunking', 'pipelining', 'ehlo', 'verp', 'recipients',
                'sender', 'window')}

    @property
    def learnt(self) -> Dict[str, float]:
        """When each lesson that holds was learnt, by the clock."""
        return {name: lesson.learnt for name, lesson in self._lessons.items()
                if lesson.learnt is not None and lesson.holds}

    # The relay itself.

    def learn_server(self, server: Capabilities, greeting: str = '') -> None:
        """Remember what the relay says with each connection.

        What it was found to do and not to do is forgotten if it offers other
        extensions, or greets otherwise, than ever of late: it is another
        version then, or another machine.  Machines that take turns behind one
        name are known when they have all been met.  Who is known to crash upon
        PIPELINING gets none.

        :param server: Its answer to EHLO.
        :param greeting: The text of its greeting; '' if that is not known.
        """
        known, self.server = self.server, server
        offers_others = (
            known is not None and
            known.keywords.keys() != server.keywords.keys())
        is_dovecot = bool('BURL' in server or _DOVECOT.search(greeting))
        greeting = _what_stays(greeting)
        greets_otherwise = bool(
            greeting and self._greeting and greeting != self._greeting)
        self._greeting = greeting or self._greeting
        seen = self._greeting, frozenset(server.keywords)
        is_new = seen not in self._seen
        if is_new:
            self._seen.append(seen)
        if is_new and (offers_others or greets_otherwise):
            self._forget(offers_others)
        if is_dovecot:
            self.learn_pipelining(Pipelining.off)

    def _forget(self, everything: bool) -> None:
        for lesson in self._lessons.values():
            lesson.forget()
        self._next_trial = self._clock()
        if self.chunking is Chunking.proved:
            self.chunking = Chunking.untried
        if everything:
            self.round_trip = None
            self._pipelining = Pipelining.untried

    def learn_round_trip(self, seconds: float) -> None:
        """Remember how long the answer to EHLO took.

        :param seconds: From the sending of EHLO to its answer; the least that
            was ever measured holds.
        """
        if self.round_trip is None or seconds < self.round_trip:
            self.round_trip = seconds

    # CHUNKING and PIPELINING.

    def claim_trial(self) -> bool:
        """Ask to be the one that tries CHUNKING.

        :return: True to one conversation at a time, as long as nothing is
            known.
        """
        if (self.chunking is Chunking.off and
                not self._lessons['chunking'].holds):
            self.chunking = Chunking.untried
        if (self.chunking is not Chunking.untried or
                self._clock() < self._next_trial):
            return False
        self.chunking = Chunking.on_trial
        return True

    def learn_chunking(self, verdict: Chunking) -> None:
        """Remember how CHUNKING did, and end the trial of it, if any.

        :param verdict: `untried` if the trial told nothing.
        """
        self.chunking = verdict
        if verdict is Chunking.off:
            self._lessons['chunking'].learn()

    def postpone_trial(self) -> None:
        """End the trial, which the relay did not want now."""
        self.chunking = Chunking.untried
        self._next_trial = self._clock() + TRIAL_PAUSE

    @property
    def pipelining(self) -> Pipelining:
        """What is known of its PIPELINING."""
        if (self._pipelining is Pipelining.off and
                not self._lessons['pipelining'].holds):
            self._pipelining = Pipelining.untried
        return self._pipelining

    def learn_pipelining(self, verdict: Pipelining) -> None:
        """Remember how PIPELINING did."""
        self._pipelining = verdict
        if verdict is Pipelining.off:
            self._lessons['pipelining'].learn()

    # What it does not take.

    @property
    def ehlo_refused(self) -> bool:
        """True if EHLO in the middle of a dialogue is not to be tried."""
        return self._lessons['ehlo'].holds

    def refuse_ehlo(self) -> None:
        """Remember that EHLO in the middle of a dialogue was not taken."""
        self._lessons['ehlo'].learn()

    @property
    def verp_refused(self) -> bool:
        """True if it has refused to make senders, though it offers to."""
        return self._lessons['verp'].holds

    def refuse_verp(self) -> None:
        """Remember that it refused to make senders."""
        self._lessons['verp'].learn()

    @property
    def verp_sender_refused(self) -> bool:
        """True if it has refused the senders of VERP, but not the plain one.
        """
        return self._lessons['sender'].holds

    def refuse_verp_sender(self) -> None:
        """Remember that it refused the senders of VERP."""
        self._lessons['sender'].learn()

    @property
    def max_recipients(self) -> Optional[int]:
        """The most recipients to name in a transaction; None is no limit.

        It is what the relay says in its offer (RFC 9422) and what it was
        found to take, which doubles with each lifetime of the lesson.
        """
        lesson = self._lessons['recipients']
        offered = self.server.limits.rcptmax if self.server else None
        if lesson.learnt is None:
            return offered
        if not lesson.holds:
            self._limit *= 2
            lesson.test()
        return self._limit if offered is None else min(offered, self._limit)

    def learn_limit(self, recipients: int) -> None:
        """Remember that it takes no more recipients in a transaction.

        :param recipients: The number; 0 counts as one.
        """
        known = self.max_recipients
        if known is None or recipients < known:
            self._limit = max(1, recipients)
            self._lessons['recipients'].learn()

    # The window.

    @property
    def window_ceiling(self) -> Optional[int]:
        """The most transactions that may be in flight on a connection.

        None is no limit: nothing has ended in doubt for a while.
        """
        return self._ceiling if self._lessons['window'].holds else None

    def learn_doubt(self, in_flight: int) -> None:
        """Remember that a connection was lost with something in doubt.

        :param in_flight: How many transactions its window allowed; half of
            them are the most that new connections begin with.
        """
        half = max(1, in_flight // 2)
        known = self.window_ceiling
        self._ceiling = half if known is None else min(known, half)
        self._lessons['window'].learn()

    def raise_ceiling(self) -> None:
        """Allow one more: a connection has filled its window without harm."""
        self._ceiling += 1


def _what_stays(greeting: str) -> str:
    """Take digits, times, dates and queue ids out of a greeting."""
    words = []
    for word in greeting.lower().split():
        bare = word.strip('()[]<>,;:')
        if _HOST.fullmatch(bare):
            # The names of machines that stand in for each other.
            bare = '.'.join(label for label in bare.split('.')
                            if not _DIGIT.search(label))
        if bare and not _DIGIT.search(bare) and bare not in _CALENDAR:
            words.append(bare)
    return ' '.join(words)
