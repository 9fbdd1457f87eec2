# SPDX-License-Identifier: GPL-3.0-or-later
"""Signals held back to a safe point, and the time slices of big posts.

Mailman's runner raises an exception out of its signal handler, wherever it
happens to be.  In the middle of a delivery that would put the post into the
shunt queue though some have got it.
"""

import time
import signal
import logging

from contextlib import contextmanager, suppress
from mailman.interfaces.runner import RunnerInterrupt
from mailman_mta_pool.interfaces import ITurn
from mailman_mta_pool.settings import DeliverySettings
from public import public
from types import CodeType, FrameType
from typing import Any, Callable, Dict, Iterator, Optional, Tuple
from zope.interface import implementer


log = logging.getLogger('mailman.runner')

# The signals on which a runner stops.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
# The names of two methods of Mailman's runner: an exception does no harm in
# the first, but for the time that it spends in the second.
LOOP_METHOD, BUSY_METHOD = 'run', '_one_iteration'


@public
@implementer(ITurn)
class Turn:
    """See `ITurn`: a delivery's turn ends with a signal or a time slice.

    :ivar signum: The signal that ended it, or None.
    """

    def __init__(self, delivery: DeliverySettings,
                 clock: Callable[[], float] = time.monotonic,
                 others_wait: Callable[[], bool] = lambda: True) -> None:
        """Begin now.

        :param delivery: For `time_slice` and `stop_timeout`.
        :param others_wait: Returns True if other posts are in the queue.
        :param clock: Seconds that only grow.
        """
        self._clock = clock
        self._others_wait = others_wait
        self._stop_timeout = delivery.stop_timeout
        self._time_slice = delivery.time_slice
        self._ends: Optional[float] = None
        self._stopped_at = 0.0
        self.signum: Optional[int] = None
        self.renew()

    def renew(self) -> None:
        """See `ITurn`: begin a new time slice."""
        if self._time_slice > 0:
            self._ends = self._clock() + self._time_slice

    def stop(self, signum: int) -> None:
        """End it because of a signal; to be called by its handler."""
        if self.signum is None:
            self._stopped_at = self._clock()
            self.signum = signum

    @property
    def is_over(self) -> bool:
        """See `ITurn`."""
        return self.signum is not None or (
            self._ends is not None and self._ends <= self._clock())

    @property
    def is_urgent(self) -> bool:
        """See `ITurn`."""
        return self.signum is not None

    @property
    def is_awaited(self) -> bool:
        """See `ITurn`."""
        return self._others_wait()

    @property
    def is_too_late(self) -> bool:
        """See `ITurn`."""
        return (self.signum is not None and
                self._stopped_at + self._stop_timeout <= self._clock())


Handler = Callable[[int, Optional[FrameType]], Any]


class _Guard:
    """Takes the place of the signal handlers, from the first post on.

    The guard stays, because an exception is no better in the moment between
    the end of a delivery and that of its queue entry.
    """

    def __init__(self) -> None:
        self._behind: Dict[int, Tuple[Handler, Handler]] = {}
        self.turn: Optional[Turn] = None
        # The signal that came between two turns while the runner was at work.
        self.early: Optional[int] = None

    def stand(self) -> None:
        """Take the place of the present handlers."""
        for signum in SIGNALS:
            current = signal.getsignal(signum)
            if not callable(current) or current == self._ours(signum):
                # With the system's own handler nobody is interrupted.
                continue
            handler = self._handler(current)
            try:
                signal.signal(signum, handler)
            except ValueError:
                # Not the main thread, so nobody is interrupted.
                return
            self._behind[signum] = current, handler

    def _ours(self, signum: int) -> Optional[Handler]:
        return self._behind.get(signum, (None, None))[1]

    def _handler(self, behind: Any) -> Handler:
        def handle(signum: int, frame: Optional[FrameType]) -> None:
            if self.turn is not None:
                self.turn.stop(signum)
            elif _is_busy(frame):
                self.early = signum
                tell(behind, signum, frame)
            elif _has_ended(behind, frame):
                tell(behind, signum, frame)
            else:
                behind(signum, frame)
        return handle

    def begin(self, turn: Turn) -> None:
        """Let signals end a turn from now on."""
        self.turn = turn
        early, self.early = self.early, None
        if early is not None:
            turn.stop(early)

    def pass_on(self, signum: int) -> None:
        """Call the handler that was there before."""
        tell(self._behind[signum][0], signum, None)


def _codes(frame: Optional[FrameType]) -> Iterator[CodeType]:
    while frame is not None:
        yield frame.f_code
        frame = frame.f_back


def _is_busy(frame: Optional[FrameType]) -> bool:
    """Return True if the runner is at work on a queue entry."""
    return any(code.co_name == BUSY_METHOD for code in _codes(frame))


def _has_ended(handler: Handler, frame: Optional[FrameType]) -> bool:
    """Return True if the handler's runner has left the loop that catches."""
    loop = getattr(getattr(handler, '__self__', None), LOOP_METHOD, None)
    code = getattr(loop, '__code__', None)
    return code is not None and code not in _codes(frame)


def tell(handler: Handler, signum: int, frame: Optional[FrameType]) -> None:
    """Let Mailman's handler do its work but for the exception.

    The runner has been told to stop then, and does when the entry is done.
    """
    with suppress(RunnerInterrupt):
        handler(signum, frame)


_guard = _Guard()


@public
def stand_guard() -> None:
    """Let no signal break off what is done to a queue entry from now on."""
    _guard.stand()


@public
@contextmanager
def signals_held_back(turn: Turn) -> Iterator[None]:
    """Let signals end the turn, and hear of them when it is left.

    :param turn: What a SIGTERM, SIGINT or SIGUSR1 ends.
    """
    _guard.stand()
    _guard.begin(turn)
    try:
        yield
    finally:
        _guard.turn = None
        if turn.signum is not None:
            log.info('Stopped sending because of signal %d', turn.signum)
            _guard.pass_on(turn.signum)
