# SPDX-License-Identifier: GPL-3.0-or-later
"""Many sessions in one thread.

With a thread for each session, Python's threads would spend their time waking
each other up: on a machine with nothing else to do, eight sessions to a server
nearby did 9,700 messages a second so, and one session 9,300.
"""

import os
import select
import threading

from mailman_mta_pool.connection.steps import Steps, Wait
from public import public
from typing import Dict, List, Optional


# How often sessions look whether the server is late, in milliseconds.
TICK = 100


class _Run:
    """A session that is driven, for a thread that waits until it is done."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.wait: Optional[Wait] = None
        self.is_done = threading.Event()
        self.error: Optional[BaseException] = None

    @property
    def is_put_off(self) -> bool:
        """Does it wait for more to send, and not for its server?"""
        return self.wait is not None and self.wait.seconds is None


@public
class Driver:
    """Drives sessions; its thread ends when there are none left."""

    def __init__(self) -> None:
        """No thread starts before it is needed."""
        self._lock = threading.Lock()
        self._new: List[_Run] = []
        self._is_running = self._is_poked = False
        self._wake = -1

    def drive(self, steps: Steps) -> None:
        """Drive a session to its end, and wait for it.

        :param steps: See `Session.steps`.
        :raises BaseException: whatever the session raises.
        """
        run = _Run(steps)
        with self._lock:
            self._new.append(run)
            if self._is_running:
                self._wake_up()
            else:
                self._is_running = True
                hearing, self._wake = os.pipe()
                threading.Thread(
                    target=self._work, args=[hearing], name='mta-pool-driver',
                    daemon=True).start()
        run.is_done.wait()
        if run.error is not None:
            raise run.error

    def poke(self) -> None:
        """Let the sessions that were put off ask again."""
        with self._lock:
            if self._is_running:
                self._wake_up()

    def _wake_up(self) -> None:
        if not self._is_poked:
            self._is_poked = True
            os.write(self._wake, b'!')

    def _work(self, hearing: int) -> None:
        loop = _Loop(hearing)
        new: List[_Run] = []
        try:
            while True:
                with self._lock:
                    new, self._new = self._new, []
                    self._is_poked = False
                    if not new and not loop.runs:
                        self._end(hearing)
                        return
                for run in new:
                    loop.advance(run, None)
                loop.turn()
        except BaseException as error:
            # A mistake of ours: nobody is to wait for ever.
            with self._lock:
                for run in [*loop.runs.values(), *new, *self._new]:
                    if not run.is_done.is_set():
                        run.error = error
                        run.is_done.set()
                self._new = []
                self._end(hearing)

    def _end(self, hearing: int) -> None:
        self._is_running = False
        os.close(hearing)
        os.close(self._wake)


class _Loop:
    """The sessions that wait for their servers, by file descriptor."""

    def __init__(self, hearing: int) -> None:
        self.runs: Dict[int, _Run] = {}
        self._hearing = hearing
        self._poll = select.poll()
        self._poll.register(hearing, select.POLLIN)

    def turn(self) -> None:
        """Let those go on whose servers have something for them."""
        if len(self.runs) == 1:
            run = next(iter(self.runs.values()))
            waited = run.wait
            # A server that is near has often answered by now.
            if not run.is_put_off:
                self.advance(run, select.POLLIN)
            if run.is_done.is_set() or run.wait is not waited:
                return
        ready = dict(self._poll.poll(TICK))
        is_poked = ready.pop(self._hearing, 0)
        for fileno, events in ready.items():
            self.advance(self.runs[fileno], events)
        if is_poked:
            os.read(self._hearing, 4096)
        if is_poked or not ready:
            self._ask_again(all_of_them=not is_poked)

    def _ask_again(self, all_of_them: bool) -> None:
        """Let those who were put off ask again, and others see the time."""
        for run in list(self.runs.values()):
            if all_of_them or run.is_put_off:
                self.advance(run, 0)

    def advance(self, run: _Run, events: Optional[int]) -> None:
        """Let one go on until it has to wait."""
        before = run.wait
        try:
            run.wait = run.steps.send(events)
        except BaseException as error:
            if before is not None:
                self._poll.unregister(before.fileno)
                del self.runs[before.fileno]
            if not isinstance(error, StopIteration):
                run.error = error
            run.is_done.set()
        else:
            if before is None:
                self.runs[run.wait.fileno] = run
            if before is None or before.events != run.wait.events:
                self._poll.register(run.wait.fileno, run.wait.events)
