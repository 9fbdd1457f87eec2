# SPDX-License-Identifier: GPL-3.0-or-later
"""Threads that come when there is work, and go when there is none."""

import threading

from abc import ABC, abstractmethod
from mailman_mta_pool.dispatch.backlog import Backlog
from public import public
from typing import List, Optional


@public
class Workers(ABC):
    """The threads of one post.

    What one of them does, a subclass knows.

    :ivar changed: The lock of it all, and what the main thread waits for.
    :ivar is_over: Is nothing more to be sent?
    :ivar failure: What a worker died of, if one did.
    """

    def __init__(self, backlog: Backlog, ceiling: int) -> None:
        """Prepare; no thread starts before `_hire` is called.

        :param backlog: The work; to be touched under the lock only.
        :param ceiling: The most workers at once.
        """
        self._backlog = backlog
        self._ceiling = ceiling
        self._lock = threading.RLock()
        self.changed = threading.Condition(self._lock)
        self._work = threading.Condition(self._lock)
        self._working = self._idle = 0
        self._gone: List[threading.Thread] = []
        self.is_over = False
        self.failure: Optional[BaseException] = None

    # For the main thread.  But for `join`, all of it under the lock.

    def make_ready(self, count: int) -> None:
        """Let so many begin, though nothing is waiting yet."""
        while self._working < min(count, self._ceiling):
            self._hire(at_once=True)

    @property
    def is_at_rest(self) -> bool:
        """Has nobody anything to do?"""
        return self._idle == self._working

    def complete(self) -> None:
        """Nothing more comes."""
        self._backlog.is_complete = True
        self._call_all()

    def stop(self) -> None:
        """What is waiting is not sent; nobody hears of it again."""
        self.is_over = True
        self._backlog.clear()
        self.changed.notify()
        self._call_all()

    def join(self) -> None:
        """Wait for the threads that have nothing more to do."""
        for worker in self._gone:
            worker.join()

    # For the workers.

    def _hire(self, at_once: bool = False) -> None:
        self._working += 1
        threading.Thread(
            target=self._labour, args=[at_once], name='mta-pool-worker',
            daemon=True).start()

    def _call_all(self) -> None:
        self._work.notify_all()

    def _labour(self, at_once: bool) -> None:
        try:
            goes_on = at_once or self._wait_for_work()
            while goes_on:
                goes_on = self._serve() and self._wait_for_work()
        except BaseException as error:
            # A mistake of ours: what was learnt is settled, and it goes on
            # up in the main thread.
            with self.changed:
                self.failure = error
                self.stop()
                if threading.current_thread() not in self._gone:
                    self._go()

    @abstractmethod
    def _serve(self) -> bool:
        """Do what there is to do.

        :return: False if this worker has gone.
        """

    def _go(self) -> bool:
        """This worker goes; under the lock that was held to decide it."""
        self._working -= 1
        self._gone.append(threading.current_thread())
        self.changed.notify()
        return False

    def _wait_for_work(self) -> bool:
        with self.changed:
            self._idle += 1
            self.changed.notify()
            self._work.wait_for(
                lambda: (self._backlog or self._backlog.is_complete or
                         self.is_over))
            self._idle -= 1
            return bool(self._backlog) or self._go()
