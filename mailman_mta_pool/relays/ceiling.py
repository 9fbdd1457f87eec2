# SPDX-License-Identifier: GPL-3.0-or-later
"""How many connections a relay was found to take."""

import logging

from public import public
from typing import Callable, Optional


# In seconds.
FIRST_INTERVAL = 60.0
LONGEST_INTERVAL = 600.0
# Connections that are refused within so many seconds are one event.
EVENT = 1.0


log = logging.getLogger('mailman.smtp')


@public
class Ceiling:
    """The most connections to have at once; it grows back with time."""

    def __init__(self, relay: str, maximum: int,
                 clock: Callable[[], float]) -> None:
        """Begin with the maximum.

        :param relay: The relay's name, for the log.
        :param maximum: The most connections that the site allows.
        :param clock: Seconds that only grow.
        """
        self._relay = relay
        self._maximum = maximum
        self._clock = clock
        self._value = maximum
        self._interval = FIRST_INTERVAL
        self._grows_at: Optional[float] = None
        # True from a growth to the next refusal.
        self._has_grown = False
        self._event_began = float('-inf')
        # What remains to be said of an event, once it is over.
        self._untold: Optional[str] = None

    @property
    def value(self) -> int:
        """How many connections there may be now."""
        now = self._clock()
        self._tell_later(now)
        before = self._value
        while self._grows_at is not None and self._grows_at <= now:
            self._grow(self._grows_at)
        if self._value != before:
            log.info('%s: at most %d connections again%s', self._relay,
                     self._value, ', as many as the site allows' if
                     self._value == self._maximum else '')
        return self._value

    @property
    def grows_in(self) -> Optional[float]:
        """Seconds until it grows by one; None if it is at the maximum."""
        if self.value == self._maximum or self._grows_at is None:
            return None
        return self._grows_at - self._clock()

    def _grow(self, now: float) -> None:
        if self._value == self._maximum:
            # As many as ever were not refused for a whole interval.
            self._grows_at = None
            self._has_grown = False
            self._interval = FIRST_INTERVAL
            return
        self._value += 1
        self._has_grown = True
        self._grows_at = now + self._interval

    def limit(self, live: int, words: str, remedy: str) -> None:
        """Take it down to what the relay takes.

        :param live: How many other connections there were, open or opening,
            when one was refused.
        :param words: What the relay said.
        :param remedy: A sentence for the log; '' if there is none.
        """
        before = self.value
        now = self._clock()
        self._value = min(before, max(1, live))
        if self._value == self._maximum:
            return
        if self._has_grown:
            self._interval = min(2 * self._interval, LONGEST_INTERVAL)
            self._has_grown = False
        self._grows_at = now + self._interval
        if self._value == before:
            return
        line = (f'{self._relay}: {words}; beside {live} connections one more '
                f'was refused: at most {self._value} from now on, one more is '
                f'tried in {self._interval:.0f} s'
                f'{"; " * bool(remedy)}{remedy}')
        if now - self._event_began < EVENT:
            # One is told of when the event begins, and one of how it ended.
            self._untold = line
        else:
            self._event_began = now
            log.warning('%s', line)

    def _tell_later(self, now: float) -> None:
        if self._untold is not None and now - self._event_began >= EVENT:
            line, self._untold = self._untold, None
            log.warning('%s', line)
