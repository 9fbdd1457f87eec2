# SPDX-License-Identifier: GPL-3.0-or-later
"""The border between the main thread and the network thread.

The main thread is Mailman's: database, translations, rendering.  The network
thread runs one asyncio event loop, from the first delivery to the end of the
process; every socket, timer, pool and lesson belongs to that loop.  `Border`
is the only class that both threads use, and the only one with a lock.
"""

import asyncio
import threading

from concurrent.futures import (
    Future,
    ThreadPoolExecutor,
    TimeoutError as CallTimeout,
)
from mailman_mta_pool.errors import for_future, LocalFailure
from mailman_mta_pool.network.limits import check_descriptors
from public import public
from typing import Any, Awaitable, Callable, Optional


# How often a call looks whether the network thread is still there, in seconds.
LOOK_PERIOD = 1.0
# How long the end of the process waits for the network thread, in seconds, on
# top of what `at_end` was given.
JOIN_TIMEOUT = 1.0


@public
class Border:
    """Starts the network thread, and carries calls and news across."""

    def __init__(self) -> None:
        """Prepare; no thread starts before the first call."""
        self._changed = threading.Condition()
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._thread: Optional[threading.Thread] = None

    # For the main thread.

    def post(self, function: Callable[..., Any], *args: Any) -> None:
        """Have the network thread call a function soon; do not wait.

        :raises LocalFailure: if the thread cannot be started, or is ending.
        """
        loop = self._started()
        try:
            loop.call_soon_threadsafe(function, *args)
        except RuntimeError as error:
            raise LocalFailure(f'the network thread ends: {error}') from error

    def call(self, function: Callable[..., Awaitable[Any]],
             *args: Any) -> Any:
        """Await a coroutine function in the network thread, and wait for it.

        :param function: Called in the network thread with the arguments.  It
            has deadlines of its own.
        :return: What the coroutine returns.
        :raises LocalFailure: if the thread cannot be started, or has ended.
        :raises BaseException: what the coroutine raises.
        """
        loop = self._started()
        try:
            future = asyncio.run_coroutine_threadsafe(
                _awaited(function, args), loop)
        except RuntimeError as error:
            raise LocalFailure(f'the network thread ends: {error}') from error
        while True:
            try:
                return future.result(LOOK_PERIOD)
            except CallTimeout:
                if future.done():
                    # It is the coroutine's own, or came just now.
                    return future.result()
                if not self.is_running:
                    raise LocalFailure('the network thread has ended')
            except BaseException:
                # A signal may have ended the waiting.
                future.cancel()
                raise

    def wait(self, is_ready: Callable[[], bool], seconds: float) -> bool:
        """Wait until something is true, or for so many seconds.

        :param is_ready: Looked at now, and after each `notify`.
        :return: What it said last.
        """
        with self._changed:
            return self._changed.wait_for(is_ready, seconds)

    # For the network thread.

    def notify(self) -> None:
        """Have the main thread look again at what it waits for."""
        with self._changed:
            self._changed.notify_all()

    # For both.

    @property
    def is_here(self) -> bool:
        """True in the network thread."""
        return threading.current_thread() is self._thread

    @property
    def is_running(self) -> bool:
        """True if the network thread has been started."""
        return self._thread is not None and self._thread.is_alive()

    # The life of the thread.

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._changed:
            if (self._loop is None or self._thread is None or
                    not self._thread.is_alive()):
                self._start()
            assert self._loop is not None
            return self._loop

    def _start(self) -> None:
        loop = None
        try:
            check_descriptors()
            loop = asyncio.new_event_loop()
            loop.set_default_executor(_Unjoined())
            thread = threading.Thread(
                target=_run, args=[loop], name='mta-pool-network', daemon=True)
            thread.start()
        except (OSError, RuntimeError) as error:
            # No descriptors, or no threads, are left to this process.
            if loop is not None:
                loop.close()
            raise LocalFailure(
                f'the network thread cannot be started: {error}') from error
        self._loop, self._thread = loop, thread

    def end(self, at_end: Callable[[], Awaitable[Any]],
            seconds: float) -> None:
        """Stop the network thread, if it runs; the next call starts another.

        :param at_end: A coroutine function that is awaited there first.
        :param seconds: How long it may take.
        """
        with self._changed:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None or not thread.is_alive():
            return
        asyncio.run_coroutine_threadsafe(
            _finish(loop, at_end, seconds), loop)
        thread.join(seconds + JOIN_TIMEOUT)


class _Unjoined(ThreadPoolExecutor):
    """Has a daemon thread for each call, which nothing waits for.

    The end of the process would wait for the threads of another executor,
    for as long as the resolver waits for DNS.
    """

    def submit(self, fn: Callable[..., Any], /, *args: Any,
               **kwargs: Any) -> 'Future[Any]':
        """See `Executor`."""
        future: 'Future[Any]' = Future()

        def work() -> None:
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:
                future.set_exception(for_future(error))
            else:
                future.set_result(result)
        future.set_running_or_notify_cancel()
        threading.Thread(
            target=work, name='mta-pool-call', daemon=True).start()
        return future


async def _awaited(function: Callable[..., Awaitable[Any]], args: Any) -> Any:
    return await function(*args)


async def _finish(loop: asyncio.AbstractEventLoop,
                  at_end: Callable[[], Awaitable[Any]],
                  seconds: float) -> None:
    try:
        await asyncio.wait_for(at_end(), seconds)
    except asyncio.TimeoutError:
        # What has not ended by now ends with the process.
        pass
    finally:
        loop.stop()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        # The tasks close their sockets.
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


border = Border()
public(border=border)
