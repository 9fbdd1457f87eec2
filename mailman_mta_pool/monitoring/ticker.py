# SPDX-License-Identifier: GPL-3.0-or-later
"""When the state file and the metrics are written, by the network thread."""

import time
import asyncio
import logging

from mailman_mta_pool.monitoring.keeper import Keeper
from public import public
from typing import Callable, Optional


log = logging.getLogger('mailman.smtp')

#: How often the files are written, in seconds: while a post is in delivery,
#: and otherwise.
WORK_INTERVAL = 0.5
IDLE_INTERVAL = 15.0
public(WORK_INTERVAL=WORK_INTERVAL, IDLE_INTERVAL=IDLE_INTERVAL)
# The metrics may take up to a hundredth of the time: with many entries in the
# queues they are written less often.
PAUSE_FACTOR = 100.0


@public
class Ticker:
    """Has the files written, from the first delivery on.

    Its methods are called in the network thread, and only there.

    :ivar publish: Writes the metrics; None for nowhere.  It is called in a
        thread of its own, for it reads Mailman's queues.
    """

    def __init__(self, keeper: Keeper) -> None:
        """Prepare; no timer is set.

        :param keeper: Writes the state file.
        """
        self._keeper = keeper
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._tick_timer: Optional[asyncio.TimerHandle] = None
        self._publish_timer: Optional[asyncio.TimerHandle] = None
        self._may_publish_at = 0.0
        self._is_publishing = self._is_awaited = False
        self._has_complained = False
        self.publish: Optional[Callable[[], None]] = None

    def start(self) -> None:
        """Tick at the pace of a delivery: one has begun."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            # The timers of another network thread ended with it.
            self._loop = loop
            self._tick_timer = self._publish_timer = None
            self._may_publish_at = 0.0
            self._is_publishing = False
        self._set_tick_timer()

    def _set_tick_timer(self) -> None:
        """Tick when it is time, or earlier if that is set already.

        Of many deliveries, each shorter than the interval, some are in the
        state file while they last.
        """
        assert self._loop is not None
        when = self._loop.time() + (
            WORK_INTERVAL if self._keeper.is_working else IDLE_INTERVAL)
        if self._tick_timer is not None:
            if self._tick_timer.when() <= when:
                return
            self._tick_timer.cancel()
        self._tick_timer = self._loop.call_at(when, self._tick)

    def _tick(self) -> None:
        self._tick_timer = None
        # Set first: a mistake of ours in what follows ends no timer.
        self._set_tick_timer()
        self._keeper.write()
        self.publish_soon()

    def stop(self) -> None:
        """Publish what came of the delivery, which has ended."""
        if self._loop is not None:
            self.publish_soon()

    # The metrics.

    def publish_soon(self) -> None:
        """Have the metrics written, as soon as they may be again."""
        if self.publish is None or self._publish_timer is not None:
            return
        if self._is_publishing:
            self._is_awaited = True
            return
        assert self._loop is not None
        wait = self._may_publish_at - self._loop.time()
        if wait <= 0:
            self._begin(self.publish)
        else:
            self._publish_timer = self._loop.call_later(wait, self._go_on)

    def _go_on(self) -> None:
        self._publish_timer = None
        self.publish_soon()

    def _begin(self, publish: Callable[[], None]) -> None:
        assert self._loop is not None
        try:
            future = self._loop.run_in_executor(None, _timed, publish)
        except RuntimeError:
            # There may be no thread to be had; the next tick tries again.
            return
        self._is_publishing, self._is_awaited = True, False
        future.add_done_callback(self._done)

    def _done(self, future: 'asyncio.Future[float]') -> None:
        self._is_publishing = False
        assert self._loop is not None
        took = 0.0
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            took = future.result()
        elif not self._has_complained:
            self._has_complained = True
            log.error('The metrics cannot be made: %r', error)
        self._may_publish_at = self._loop.time() + min(
            IDLE_INTERVAL, max(WORK_INTERVAL, PAUSE_FACTOR * took))
        if self._is_awaited:
            self.publish_soon()


def _timed(publish: Callable[[], None]) -> float:
    """Call a function, and return the seconds of a processor that it took."""
    begin = time.thread_time()
    publish()
    return time.thread_time() - begin
