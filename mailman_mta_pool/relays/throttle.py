# SPDX-License-Identifier: GPL-3.0-or-later
"""What a relay's answers about rate, quota and connections do.

They act on the relay and never on a recipient: it gets nothing for a while,
then fewer messages a second, or over fewer connections.  Everything here is
in the network thread, so there is no lock, and nothing is sent from here.
"""

import time
import random
import logging

from mailman_mta_pool.relays.ceiling import Ceiling
from mailman_mta_pool.relays.pace import Pace
from mailman_mta_pool.relays.pause import Pause
from mailman_mta_pool.wire.replies import Reply
from public import public
from typing import Callable, NamedTuple, Optional


# In seconds.
FIRST_RATE_PAUSE = 1.0
LONGEST_RATE_PAUSE = 60.0
FIRST_QUOTA_PAUSE = 900.0
LONGEST_QUOTA_PAUSE = 14400.0
PROBE_INTERVAL = 1.0
# A refusal so soon after a pause cuts the rate, also where the server names
# how long to wait.
SHORTLY = 10.0


log = logging.getLogger('mailman.smtp')


@public
class ThrottleStatistics(NamedTuple):
    """A snapshot of a throttle."""

    #: Seconds for which nothing is sent; 0.0 is healthy.
    paused_for: float
    #: The reply that led to the pause or the rate; '' is healthy.
    reason: str
    #: Messages a second; None, no limit, is healthy.
    rate: Optional[float]
    #: Connections; as many as the site allows is healthy.
    ceiling: int


@public
class Throttle:
    """When a relay gets the next transaction, and over how many connections.

    It lives as long as its relay, so one post learns from another.

    :ivar reason: The reply that led to the pause or the rate; None without
        both.
    """

    def __init__(self, relay: str, max_connections: int,
                 clock: Callable[[], float] = time.monotonic,
                 chance: Callable[[], float] = random.SystemRandom().random,
                 ) -> None:
        """Begin without any limit but the site's.

        :param relay: The relay's name, for the log.
        :param max_connections: The most connections that the site allows.
        :param clock: Seconds that only grow.
        :param chance: A number from 0 to 1, for the jitter of the pauses.
        """
        self._relay = relay
        self._clock = clock
        self._rate_pause = Pause(
            FIRST_RATE_PAUSE, LONGEST_RATE_PAUSE,
            lambda: 0.8 + 0.4 * chance())
        self._quota_pause = Pause(FIRST_QUOTA_PAUSE, LONGEST_QUOTA_PAUSE)
        self._pace = Pace()
        self._ceiling = Ceiling(relay, max_connections, clock)
        self.reason: Optional[Reply] = None
        self._probed_at = float('-inf')

    def __repr__(self) -> str:
        stats = self.statistics()
        rate = 'any rate' if stats.rate is None else f'{stats.rate:.1f}/s'
        return (f'<Throttle {self._relay} paused for {stats.paused_for:.1f} s,'
                f' {rate}, at most {stats.ceiling} connections>')

    def statistics(self) -> ThrottleStatistics:
        """Return what holds now."""
        return ThrottleStatistics(
            self.paused_for, '' if self.reason is None else str(self.reason),
            self._pace.rate(self._clock()), self.ceiling)

    # The next transaction.

    def ready_in(self) -> float:
        """Return after how many seconds the next transaction may be given.

        :return: 0.0 if it may be given to a connection now.
        """
        if self.reason is None:
            return 0.0
        now = self._clock()
        return max(self._paused_for(now), self._pace.ready_in(now))

    def given(self) -> float:
        """Note that a transaction was given to a connection.

        :return: When that was, by the clock, to be named with its outcome.
        """
        now = self._clock()
        if self.reason is not None:
            self._pace.space(now)
        return now

    def accepted(self, given_at: float) -> float:
        """Note that the server took responsibility for a message.

        :param given_at: What `given` returned.
        :return: How long that took, in seconds.
        """
        now = self._clock()
        self._pace.count(now)
        if self.reason is not None and given_at > max(
                self._rate_pause.began, self._quota_pause.began):
            self._quicken(now)
        return now - given_at

    def _quicken(self, now: float) -> None:
        """Be less careful: what was given since the pause was accepted."""
        self._rate_pause.restart()
        self._quota_pause.restart()
        # It was a probe, or the pause was over.
        self._rate_pause.end(now)
        self._quota_pause.end(now)
        self._pace.quicken(now)
        if self._pace.rate(now) is None and self._paused_for(now) == 0:
            self.reason = None
            log.info('%s: mail is accepted, and goes without a limit again',
                     self._relay)

    # Pauses and rates.

    @property
    def paused_for(self) -> float:
        """Seconds of pause that are left; 0.0 if there is none."""
        return self._paused_for(self._clock())

    def _paused_for(self, now: float) -> float:
        return max(
            self._rate_pause.remaining(now), self._quota_pause.remaining(now))

    @property
    def is_said(self) -> bool:
        """True if the server itself has named the end of the pause."""
        pause = max(
            self._rate_pause, self._quota_pause, key=lambda each: each.until)
        return pause.remaining(self._clock()) > 0 and pause.is_said

    def slow_down(self, reply: Reply, wait: Optional[float], given_at: float,
                  remedy: str = '', usual: Optional[float] = None) -> None:
        """Pause, and cut the rate: the server has spoken of the rate.

        An answer to what was given before the latest pause ended belongs to
        the same event, and at most makes that pause longer.

        :param reply: What the server said.
        :param wait: How long to wait, as the server says, in seconds; None if
            the server does not say.  Then the rate is not cut, unless there
            was a pause shortly before.
        :param given_at: What `given` returned for the transaction.
        :param remedy: A sentence for the log; '' if there is none.
        :param usual: How long to wait at first where the server does not say,
            in seconds; None if nothing is known of such an answer.
        """
        now = self._clock()
        pause = self._rate_pause
        self._pace.refused(now)
        if given_at < max(pause.until, self._quota_pause.until):
            if pause.extend(now, wait):
                self._tell(reply, 'the rate', remedy)
            return
        is_again = pause.is_shortly_after(now, SHORTLY)
        if wait is None or is_again:
            self._pace.cut(now, pause.until)
        if wait is None or pause.is_repeated:
            self._pace.hesitate()
        pause.begin(now, wait, usual)
        self._probed_at = now
        self._tell(reply, 'the rate', remedy)

    def hold(self, reply: Reply, wait: Optional[float], given_at: float,
             remedy: str = '', usual: Optional[float] = None) -> None:
        """Pause for long: the server has spoken of a quota that is used up.

        An answer to what was given before the latest such pause ended, a
        probe too, at most makes that pause longer.

        :param reply: As with `slow_down`.
        :param wait: Likewise.
        :param given_at: Likewise.
        :param remedy: Likewise.
        :param usual: Likewise.
        """
        now = self._clock()
        pause = self._quota_pause
        if given_at < pause.until:
            if pause.extend(now, wait):
                self._tell(reply, 'a quota', remedy)
            return
        if wait is None or pause.is_repeated:
            self._pace.hesitate()
        pause.begin(now, wait, usual)
        self._probed_at = now
        self._tell(reply, 'a quota', remedy)

    def may_probe(self) -> bool:
        """Ask to give a transaction in spite of a pause.

        The end of a pause that the server did not name is a guess.

        :return: True once a second at most, and not in the first second.
        """
        now = self._clock()
        pauses = [pause for pause in (self._rate_pause, self._quota_pause)
                  if pause.remaining(now) > 0]
        if (not pauses or any(pause.is_said for pause in pauses) or
                now - self._probed_at < PROBE_INTERVAL):
            return False
        self._probed_at = now
        return True

    def _tell(self, reply: Reply, about: str, remedy: str) -> None:
        self.reason = reply
        now = self._clock()
        seconds = self._paused_for(now)
        rate = self._pace.rate(now)
        log.warning(
            '%s: %s; this is about %s: nothing is sent for %.*f s, then %s%s',
            self._relay, reply, about, 0 if seconds >= 60 else 1, seconds,
            'as usual' if rate is None else f'{rate:.1f} messages/s',
            remedy and f'; {remedy}')

    # Connections.

    @property
    def ceiling(self) -> int:
        """How many connections may be in use now; it grows with time."""
        return self._ceiling.value

    @property
    def ceiling_grows_in(self) -> Optional[float]:
        """Seconds until the ceiling grows by one; None at the maximum."""
        return self._ceiling.grows_in

    def limit_connections(
            self, live: int, words: str, remedy: str = '') -> None:
        """Use no more connections than the server takes.

        :param live: How many other connections there were, open or opening,
            when one was refused.
        :param words: What the server said.
        :param remedy: A sentence for the log; '' if there is none.
        """
        self._ceiling.limit(live, words, remedy)
