# SPDX-License-Identifier: GPL-3.0-or-later
"""How many transactions may be in flight on one connection.

No more than the round trip needs: what is in flight when the connection is
lost is in doubt, and after SIGKILL it is sent twice.  A server works on one
transaction at a time.  While the reply to one and what we send upon it are
under way, others have to be there for the server to work on: two, and as many
as it settles in one round trip.
"""

import math

from mailman_mta_pool.wire.lessons import Lessons
from public import public


# Content in flight, in octets; one transaction may have more.
MAX_OCTETS = 2 ** 20
public(MAX_OCTETS=MAX_OCTETS)

# With DATA: one transaction whose content is on its way, one whose envelope
# is, and one made ready for the moment when the next 354 comes.
DATA_LIMIT = 3
# A server that answers within this many seconds is on the same machine.
LOCAL_ROUND_TRIP = 0.001
# The most that are in flight to such a server.
LOCAL_LIMIT = 3
# About so many replies back the service time is remembered.
MEMORY = 16
DELAY_MEMORY = 8
# For which share of the time a server may have had nothing to do.
IDLE_SHARE = 0.05
# By how much twice as many in flight have to raise the rate, to be worth it.
GAIN = 1.1
# How often the limit is thought about before more is tried again.
FIRST_PAUSE = 4


@public
class Window:
    """The limit, and the measurements that it rests on.

    The service time is what passes between the replies of a server that has
    something to do all the while.  The round trip is what remains of the
    shortest time in which a transaction was answered.

    :ivar limit: How many transactions may be in flight; it begins with 1.
    :ivar is_final: True if nothing more needs to be measured: the server is on
        the same machine, and the limit is what such a server gets.
    :ivar data_limit: The limit where the content goes by DATA.
    """

    def __init__(self, ceiling: int, lessons: Lessons) -> None:
        """Begin with one transaction.

        :param ceiling: The limit's own limit, 1 or more.
        :param lessons: What all conversations know of the relay.
        """
        self.limit = 1
        self.is_final = False
        self.data_limit = min(
            DATA_LIMIT, lessons.window_ceiling or DATA_LIMIT)
        self._ceiling = max(1, ceiling)
        self._lessons = lessons
        # All times are in seconds.  From the end of a content to its reply:
        self._shortest = math.inf
        # How much longer it usually takes, if nothing else is in flight.
        self._delay = 0.0
        self._last_reply = -math.inf
        # How many replies come together.
        self._batch = 1.0
        # What the server has worked, and on how many; both fade.
        self._work = 0.0
        self._served = 0.0
        # Since the limit was last thought about.
        self._since = math.inf
        self._idle = 0.0
        self._replies = 0
        self._was_full = True
        self._has_grown = False
        # It doubles as long as that makes the rate grow, and once more.
        self._is_starting = True
        self._has_missed = False
        # Later more is tried now and then.
        self._is_probing = False
        # The limit from which more was tried, and the rate with it.
        self._tried = 1, 0.0
        # The limit that was found to make the server quicker.
        self._earned = 0
        # How often not to try it, and how often after the next failure.
        self._pause = 0
        self._next_pause = FIRST_PAUSE
        # How many replies to await before that is done again.
        self._due = 1

    def note_replies(self, now: float, handed: float, replies: int,
                     was_full: bool) -> None:
        """Measure by replies to the end of contents that came together.

        :param now: When they came; in seconds, like all that follows.
        :param handed: When the kernel had taken the content of the first.
        :param replies: How many there are.
        :param was_full: True if no more transactions could have been in
            flight.
        """
        if now - handed < self._shortest:
            self._shortest = now - handed
        last, self._last_reply = self._last_reply, now
        # When a server that had nothing to do would have answered the first.
        expected = handed + self._shortest + self._delay
        if last >= expected:
            self._note_work(now - last, replies)
        else:
            self._note_rest(now, handed, last, replies - 1)
        self._batch += (replies - self._batch) / MEMORY
        self._was_full = self._was_full and was_full
        self._replies += replies
        if self._replies >= self._due:
            self._adjust(now)

    def _note_rest(self, now: float, handed: float, last: float,
                   others: int) -> None:
        """Measure what came when the server may have had nothing to do.

        :param last: When the reply before came.
        :param others: How many replies have come together with the first.
        """
        delay = now - handed - self._shortest
        if last < handed + self._shortest and (self._served or not others):
            if others:
                delay = max(0.0, delay - others * self._service_time)
            self._delay += (delay - self._delay) / DELAY_MEMORY
        if others:
            expected = handed + self._shortest + self._delay
            self._note_work(max(0.0, now - max(last, expected)), others)
        round_trip = self._distance + self._delay
        self._idle += min(max(0.0, handed + round_trip - last), round_trip)
        if self._since == math.inf:
            self._since = handed

    def note_pause(self, now: float) -> None:
        """Take note that nothing could be in flight meanwhile.

        :param now: When that was over, in seconds.
        """
        self._begin_anew(now)
        # One round trip has to pass before the server is busy again.
        self._idle = -self._distance - self._delay

    def halve(self) -> None:
        """Take note that something has ended in doubt.

        The next connections to the relay remember it.
        """
        self._lessons.learn_doubt(self.limit)

    def _note_work(self, seconds: float, served: int) -> None:
        fade = MEMORY / (MEMORY + served)
        self._work = fade * self._work + seconds
        self._served = fade * self._served + served

    @property
    def _service_time(self) -> float:
        return self._work / self._served if self._served else math.inf

    @property
    def _distance(self) -> float:
        """What is left of the quickest reply, without the server's work."""
        distance = self._shortest
        if self._lessons.round_trip is not None:
            distance = min(distance, self._lessons.round_trip)
        if self._served:
            distance = min(distance, self._shortest - self._service_time)
        return max(0.0, distance)

    @property
    def _needed(self) -> int:
        service_time = self._service_time
        if service_time <= 0:
            return self._ceiling
        # One for the server to work on, and one for each that it answers
        # before it lets go of the replies.
        return int(min(
            1 + self._batch + (self._distance + self._delay) / service_time,
            self._ceiling))

    def _adjust(self, now: float) -> None:
        """Think about the limit: once in a round trip as long as it grows."""
        elapsed = now - self._since
        has_grown, self._has_grown = self._has_grown, False
        if self._was_full and elapsed > 0:
            if self._is_starting:
                self._start(self._replies / elapsed)
            elif not has_grown:
                # What was measured belongs to this limit alone.
                self._settle(self._replies / elapsed,
                             self._idle > IDLE_SHARE * elapsed)
        self._due = (self.limit if self._has_grown or self._is_starting
                     else max(self.limit, MEMORY))
        self._begin_anew(now)

    def _start(self, rate: float) -> None:
        """Double the limit with each round trip, as long as that helps.

        :param rate: Of the replies, in one second.
        """
        before, rate_before = self._tried
        if rate > GAIN * rate_before:
            self._tried = self.limit, rate
            self._has_missed = False
            self._grow(2 * self.limit)
        elif not self._has_missed:
            # Half of these were sent before there were so many.
            self._has_missed = True
        else:
            self._is_starting = False
            self.limit = max(before, min(self._needed, self.limit))

    def _settle(self, rate: float, is_idle: bool) -> None:
        """Follow the server, once the limit has been found.

        :param rate: Of the replies, in one second.
        :param is_idle: True if the server had nothing to do now and then.
        """
        needed, limit = self._needed, self.limit
        if is_idle:
            # Replies that are held back and come in batches need more than
            # the round trip says.
            self._grow(min(2 * limit, max(needed, limit + limit // 4 + 1)))
        else:
            self._probe(rate, needed)

    def _probe(self, rate: float, needed: int) -> None:
        """Find out whether more in flight makes the server quicker.

        Some settle more in the same time if they can read on: they are woken
        up less often.

        :param rate: Of the replies, in one second.
        """
        before, rate_before = self._tried
        if self._is_probing:
            self._is_probing = False
            if rate <= GAIN * rate_before:
                self.limit = max(before, min(needed, self.limit))
                self._pause = self._next_pause
                self._next_pause *= 2
                return
            self._earned = self.limit
        excess = self.limit - max(needed, self._earned)
        if excess > 0:
            self.limit -= (excess + 3) // 4
            return
        if self._pause:
            self._pause -= 1
            return
        self._tried = self.limit, rate
        self._grow(2 * self.limit)
        self._is_probing = self._has_grown

    def _grow(self, limit: int) -> None:
        lessons = self._lessons
        limit = min(limit, self._ceiling)
        if self._distance < LOCAL_ROUND_TRIP and limit >= LOCAL_LIMIT:
            limit = max(LOCAL_LIMIT, self.limit)
            self.is_final = self._shortest < LOCAL_ROUND_TRIP
        learnt = lessons.window_ceiling
        if learnt is not None and limit > learnt:
            limit = max(self.limit, learnt)
            lessons.raise_ceiling()
            self.is_final = False
        self._has_grown = limit > self.limit
        self.limit = limit

    def _begin_anew(self, now: float) -> None:
        self._since = now
        self._idle = 0.0
        self._replies = 0
        self._was_full = True
