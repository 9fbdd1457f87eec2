# SPDX-License-Identifier: GPL-3.0-or-later
"""A time in which a relay gets no mail, and how long the next one is."""

from public import public
from typing import Callable, Optional


# In seconds.  A wait that the server names is kept to with a margin, since
# its clock and ours do not tick together.
MARGIN = 0.05
# A server that names a longer wait is asked again after a day all the same.
LONGEST_SAID = 86400.0
# A wait that the server names again, after it did not help, is no shorter.
SHORTEST_REPEATED = 1.0


@public
class Pause:
    """The pauses of one kind; each is twice as long as the one before.

    :ivar began: When the latest one began, by the clock.
    :ivar until: When it ends, or has ended.
    :ivar is_said: True if the server has named that end.
    """

    def __init__(self, first: float, longest: float,
                 jitter: Callable[[], float] = lambda: 1.0) -> None:
        """Begin without a pause.

        :param first: How long the first one is, in seconds.
        :param longest: How long one may become, in seconds.
        :param jitter: Returns what a length is multiplied by, unless the
            server names it.
        """
        self._first = first
        self._longest = longest
        self._jitter = jitter
        self._length = 0.0
        self.began = self.until = float('-inf')
        self.is_said = False

    @property
    def is_repeated(self) -> bool:
        """True if nothing was accepted since the latest pause."""
        return self._length > 0

    def remaining(self, now: float) -> float:
        """Return how many seconds of it are left; 0.0 if none is."""
        return max(0.0, self.until - now)

    def is_shortly_after(self, now: float, span: float) -> bool:
        """Return whether the latest pause is still recent.

        :param span: For how many seconds a pause is recent; a pause that was
            longer is recent for as long as it lasted.
        """
        return now - self.until < max(span, self.until - self.began)

    def begin(self, now: float, wait: Optional[float],
              usual: Optional[float] = None) -> None:
        """Begin another pause.

        :param wait: How long the server says it is, in seconds; None if the
            server does not say.
        :param usual: How long the first one is for such an answer, in
            seconds; None if that is not known.
        """
        was_repeated = self.is_repeated
        first = self._first if usual is None else usual
        self._length = min(
            max(2 * self._length, first), max(self._longest, first))
        self.is_said = wait is not None
        if wait is None:
            length = self._length * self._jitter()
        else:
            length = _bounded(wait) + MARGIN
            if was_repeated:
                length = max(length, SHORTEST_REPEATED)
        self.began = now
        self.until = now + length

    def extend(self, now: float, wait: Optional[float]) -> bool:
        """Make the pause as long as the server says, if that is longer.

        :param wait: As with `begin`.
        :return: True if what is left of the pause has at least doubled.
        """
        if wait is None:
            return False
        until = now + _bounded(wait) + MARGIN
        if until <= self.until:
            return False
        has_doubled = until - now >= 2 * self.remaining(now)
        if self.until <= now:
            # It was over already, so this is another one.
            self.began = now
        self.until = until
        self.is_said = True
        return has_doubled

    def end(self, now: float) -> None:
        """End the pause before its time, if it is not over."""
        self.until = min(self.until, now)

    def restart(self) -> None:
        """Let the next pause be as short as the first: mail was accepted."""
        self._length = 0.0


def _bounded(wait: float) -> float:
    return min(max(0.0, wait), LONGEST_SAID)
