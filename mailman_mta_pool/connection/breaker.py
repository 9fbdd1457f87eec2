# SPDX-License-Identifier: GPL-3.0-or-later
"""When an address that failed is tried again: a circuit breaker."""

import enum
import logging

from mailman_mta_pool.shown import printable
from public import public
from typing import Callable, Dict, Optional, Tuple


# So many failures in a row open a breaker, or one where there is something
# else to use.
FAILURES = 3
# How long it stays open, in seconds; each time twice as long as before.
FIRST_INTERVAL = 5.0
LONGEST_INTERVAL = 300.0
# An interval is so much longer or shorter, by chance: the processes of a host
# do not come back all at the same moment.
JITTER = 0.2
public(FAILURES=FAILURES, FIRST_INTERVAL=FIRST_INTERVAL, JITTER=JITTER,
       LONGEST_INTERVAL=LONGEST_INTERVAL)


log = logging.getLogger('mailman.smtp')


@public
class BreakerState(enum.Enum):
    """Whether something is used."""

    #: It is used.
    closed = 'closed'
    #: It is not used, unless there is nothing else.
    open = 'open'
    #: One attempt, the probe, is under way to see whether it works again.
    half_open = 'half-open'


@public
class BreakerEvent(enum.Enum):
    """What moves a breaker on."""

    #: So many failures in a row that it is not used for a while.
    enough_failures = 'enough failures'
    #: The time is over, and an attempt has begun.
    probe_began = 'probe began'
    #: That attempt has failed.
    probe_failed = 'probe failed'
    #: That attempt was given up before it had a result.
    probe_abandoned = 'probe abandoned'
    #: An attempt has succeeded, whichever it was.
    succeeded = 'succeeded'


# Every move there is; another event leaves the state as it was.
BREAKER_MOVES: Dict[Tuple[BreakerState, BreakerEvent], BreakerState] = {
    (BreakerState.closed, BreakerEvent.enough_failures): BreakerState.open,
    (BreakerState.open, BreakerEvent.probe_began): BreakerState.half_open,
    (BreakerState.open, BreakerEvent.succeeded): BreakerState.closed,
    (BreakerState.half_open, BreakerEvent.probe_failed): BreakerState.open,
    (BreakerState.half_open, BreakerEvent.probe_abandoned): BreakerState.open,
    (BreakerState.half_open, BreakerEvent.succeeded): BreakerState.closed,
    }
public(BREAKER_MOVES=BREAKER_MOVES)


@public
class Breaker:
    """Tells whether something is to be used that failed before.

    :ivar state: The state it is in.
    :ivar reason: Why the latest attempt failed, in one line; '' if it did
        not.
    """

    def __init__(self, name: str, clock: Callable[[], float],
                 chance: Callable[[], float]) -> None:
        """Begin closed.

        :param name: What it is for, to begin a line of the log with.
        :param clock: Seconds that only grow.
        :param chance: A number from 0 to 1, for the jitter.
        """
        self._name = name
        self._clock = clock
        self._chance = chance
        self._failures = 0
        self._interval = 0.0
        # True once an outage's first probe has been told of.
        self._probe_is_told = False
        self._until = float('-inf')
        self.state = BreakerState.closed
        self.reason = ''

    def __repr__(self) -> str:
        return f'<Breaker {self._name} {self.state.value}>'

    @property
    def is_due(self) -> bool:
        """True if it is open, and an attempt would be the probe."""
        return (self.state is BreakerState.open and
                self._clock() >= self._until)

    @property
    def is_usable(self) -> bool:
        """True if it is closed, or an attempt would be the probe."""
        return self.state is BreakerState.closed or self.is_due

    @property
    def due_in(self) -> float:
        """In how many seconds it is due; 0.0 if it is, or is not open."""
        if self.state is not BreakerState.open:
            return 0.0
        return max(0.0, self._until - self._clock())

    @property
    def is_forgettable(self) -> bool:
        """True if it stands where a new one does, or is long overdue."""
        if self.state is BreakerState.closed:
            return self._failures == 0
        return (self.state is BreakerState.open and
                self._clock() - self._until >= LONGEST_INTERVAL)

    def begin(self) -> bool:
        """Take note that an attempt begins.

        :return: True if it is the probe.  It has to be told of the probe then
            whether that succeeded, failed or was abandoned.
        """
        if not self.is_due:
            return False
        self._move(BreakerEvent.probe_began)
        if not self._probe_is_told:
            self._probe_is_told = True
            log.info('%s: the breaker is half-open: one attempt shows whether '
                     'it still fails with "%s"', self._name, self.reason)
        return True

    def failed(self, reason: str, *, is_probe: bool,
               has_alternative: bool) -> None:
        """Take note that an attempt has failed.

        Where it was not the probe, and the breaker is open, nothing changes:
        what was begun earlier proves no more than what is known.

        :param reason: Why, for the log.
        :param is_probe: What `begin` had returned.
        :param has_alternative: True if there is something else to use; the
            first failure is enough then.
        """
        self.reason = printable(reason)
        if is_probe and self.state is BreakerState.half_open:
            # The outage goes on, of which the log has been told.
            self._open(BreakerEvent.probe_failed)
        elif self.state is BreakerState.closed:
            self._failures += 1
            if has_alternative or self._failures >= FAILURES:
                length = self._open(BreakerEvent.enough_failures)
                log.warning('%s: the breaker is open for %.1f s, because of '
                            '"%s"', self._name, length, self.reason)

    def _open(self, event: BreakerEvent) -> float:
        self._move(event)
        self._interval = min(
            max(2 * self._interval, FIRST_INTERVAL), LONGEST_INTERVAL)
        length = self._interval * (1 + JITTER * (2 * self._chance() - 1))
        self._until = self._clock() + length
        return length

    def abandoned(self) -> None:
        """Take note that the probe has no result; the next attempt is one."""
        self._move(BreakerEvent.probe_abandoned)

    def succeeded(self) -> None:
        """Take note that an attempt has succeeded."""
        if self.state is not BreakerState.closed:
            log.info('%s: the breaker is closed: an attempt has succeeded '
                     'after "%s"', self._name, self.reason)
        self._move(BreakerEvent.succeeded)
        self._failures = 0
        self._interval = 0.0
        self._probe_is_told = False
        self.reason = ''

    def _move(self, event: BreakerEvent) -> None:
        after: Optional[BreakerState] = BREAKER_MOVES.get((self.state, event))
        if after is not None:
            self.state = after
