# SPDX-License-Identifier: GPL-3.0-or-later
"""The file with the metrics of all slices, for node_exporter."""

import os
import time
import fcntl
import logging

from contextlib import contextmanager, suppress
from mailman_mta_pool.monitoring.files import (
    read_states,
    remove_torn,
    write_whole,
)
from public import public
from typing import Callable, Iterator


log = logging.getLogger('mailman.smtp')

# Anybody may read the metrics: node_exporter is another user.
MODE = 0o644
# What was left half written for so many seconds is nobody's work any more.
TORN_AGE = 60.0


@public
class Textfile:
    """Writes the metrics, from any thread."""

    def __init__(self, state_directory: str, queue_root: str,
                 clock: Callable[[], float] = time.time) -> None:
        """Prepare.

        :param state_directory: The directory of the state files.
        :param queue_root: The directory of Mailman's queues.
        :param clock: Returns the time in seconds since 1970.
        """
        self._state_directory = state_directory
        self._queue_root = queue_root
        self._clock = clock
        # The path that cannot be written, and has been logged; or ''.
        self._failing = ''
        self._path = ''

    def write(self, path: str) -> None:
        """Write the metrics of all slices, as their state files say.

        What goes wrong is logged once.

        :param path: As in [metrics] textfile.
        """
        with _locked(self._state_directory):
            self._write(path)

    def _write(self, path: str) -> None:
        # Loaded only where a site wants it.
        from mailman_mta_pool.monitoring.metrics import render
        from mailman_mta_pool.monitoring.queues import queue_summaries
        if path != self._path:
            self._path = path
            remove_torn(path, TORN_AGE)
        now = self._clock()
        # That may take a while, so that the states come last.
        queues = queue_summaries(self._queue_root, now)
        text = render(
            read_states(self._state_directory).states, queues, now)
        try:
            write_whole(path, text, MODE)
        except OSError as error:
            if self._failing != path:
                self._failing = path
                log.error('[metrics] textfile cannot be written: %s: %s', path,
                          error.strerror)
            return
        if self._failing == path:
            log.info('[metrics] textfile can be written again: %s', path)
        self._failing = ''


@contextmanager
def _locked(directory: str) -> Iterator[None]:
    """Keep other slices, and other threads, waiting.

    One that has read the states before this one and writes after it would let
    counters fall, which Prometheus takes for a beginning at 0.
    """
    fd = None
    try:
        with suppress(OSError):
            # There may be no states yet, and NFS has not always locks.
            fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        if fd is not None:
            os.close(fd)
