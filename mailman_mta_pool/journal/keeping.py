# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the journals are kept, and for how long.

There is one for each delivery in progress.  It outlives the delivery by the
moment that Mailman needs to take the queue entry away: if it went first, a
crash in between would send the whole post again.
"""

import os
import atexit
import logging
import threading

from contextlib import contextmanager, suppress
from mailman.config import config
from mailman_mta_pool.journal.entry import (
    exists,
    filebases_of,
    queue_directory,
)
from mailman_mta_pool.journal.file import Journal, Locked
from mailman_mta_pool.settings import DeliverySettings
from public import public
from typing import Any, Callable, Dict, Iterator, List, Optional


log = logging.getLogger('mailman.smtp')

# How often to look whether a queue entry is gone, and whether another process
# has let go of a journal, in seconds.
SOON = 0.05
# How long after a delivery to look; after that, the next delivery does.
ENOUGH = 100


@public
class FinishedElsewhere(Exception):
    """Another process has delivered the queue entry meanwhile."""


@public
class Keeper:
    """The journals of this process; its methods are for the main thread."""

    def __init__(self) -> None:
        # Those of deliveries that have ended.
        self._ended: List[Journal] = []
        # Of the queue; not to be asked for while Mailman is configured anew.
        self._queue = ''
        self._lock = threading.Lock()
        self._watcher: Optional[threading.Thread] = None
        self._has_ended = threading.Event()
        self._swept = ''

    def open(self, msg: Any, msgdata: Dict[str, Any], power: bool,
             given_up: Callable[[], bool]) -> Optional[Journal]:
        """Open the journal of the queue entry that is being delivered.

        :param msg: The message.
        :param msgdata: Its metadata.
        :param power: Must it survive a power failure?
        :param given_up: Asked, while another process delivers the same
            entry, whether to stop waiting for it.
        :return: The journal; None if the post is from no queue, or if there
            can be no journal.
        :raises FinishedElsewhere: if there is nothing left to deliver.
        :raises KeyboardInterrupt: if it was given up: the runner ends, and
            leaves the entry as it is.
        """
        self.remove_ended()
        self._queue = queue_directory()
        filebases = filebases_of(msg, msgdata)
        if not filebases:
            return None
        directory = os.path.join(config.VAR_DIR, 'mta_pool', 'journal')
        paths = [os.path.join(directory, filebase) for filebase in filebases]
        try:
            os.makedirs(directory, 0o700, exist_ok=True)
            if self._swept != directory:
                self._swept = directory
                sweep(directory)
            return _first_free(paths, power, given_up)
        except OSError as error:
            log.error('There can be no journal in %s, and the delivery goes '
                      'on without it: %s', directory, error)
            return None

    def end(self, journal: Journal) -> None:
        """The delivery has ended; the journal goes when its entry has gone."""
        with self._lock:
            self._ended.append(journal)
        if self._watcher is None:
            self._watcher = threading.Thread(
                target=self._watch, name='mta-pool-journal', daemon=True)
            self._watcher.start()
        self._has_ended.set()

    def _watch(self) -> None:
        pause = threading.Event()
        while self._has_ended.wait():
            self._has_ended.clear()
            for _ in range(ENOUGH):
                pause.wait(SOON)
                self.remove_ended()
                if not self._ended:
                    break

    def remove_ended(self) -> None:
        """Remove the journals whose queue entries have gone."""
        with self._lock:
            for journal in list(self._ended):
                if not exists(os.path.basename(journal.path), self._queue):
                    with suppress(FileNotFoundError):
                        journal.remove()
                    journal.close()
                    self._ended.remove(journal)


def _first_free(paths: List[str], power: bool,
                given_up: Callable[[], bool]) -> Journal:
    for path in paths:
        with suppress(Locked):
            return Journal(path, power)
    name = os.path.basename(paths[0])
    log.warning('Another process is delivering %s; waiting for it', name)
    pause = threading.Event()
    directory = queue_directory()
    while exists(name, directory):
        pause.wait(SOON)
        with suppress(Locked):
            journal = Journal(paths[0], power)
            if exists(name, directory):
                return journal
            journal.remove()
            journal.close()
        if given_up():
            raise KeyboardInterrupt
    raise FinishedElsewhere(name)


@public
def sweep(directory: str) -> None:
    """Remove the journals that are of no use to anybody.

    One whose queue entry is still there stays, however old it is: that is
    from before Mailman was down, and for how long does not matter.

    :param directory: Where they are.
    """
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        with suppress(OSError, Locked):
            if not exists(name, queue_directory()):
                journal = Journal(path)
                journal.remove()
                journal.close()


_keeper = Keeper()
atexit.register(_keeper.remove_ended)


@public
@contextmanager
def journal_of(msg: Any, msgdata: Dict[str, Any], delivery: DeliverySettings,
               turn: Any) -> Iterator[Optional[Journal]]:
    """Keep the journal of a delivery; see `Keeper.open`.

    :param msg: The message.
    :param msgdata: Its metadata.
    :param delivery: For `journal`.
    :param turn: The `ITurn` that ends the waiting for another process.
    :return: The journal, or None.
    """
    journal = None
    if delivery.journal != 'no':
        journal = _keeper.open(
            msg, msgdata, delivery.journal == 'power', lambda: turn.is_over)
    try:
        yield journal
    finally:
        if journal is not None:
            _keeper.end(journal)
