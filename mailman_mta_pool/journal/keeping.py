# SPDX-License-Identifier: GPL-3.0-or-later
"""The directory of the journals, and the lifetime of each.

There is one for each delivery in progress.  It outlives the delivery by the
moment that Mailman needs to take the queue entry away: if it went first, a
crash in between would send the whole post again.  What it says of the
recipients then becomes a record; see `archive`.

It stays as long as its entry does.  An entry that Mailman gives up goes into
the `bad` queue under its own name, and back from there when the site's
operator moves it.  One that Mailman shunts gets another name, and one more
from `mailman unshunt`: the journal is found by its identity then, and takes
the new name.
"""

import os
import time
import atexit
import logging
import threading

from contextlib import contextmanager, suppress
from functools import partial
from mailman.config import config
from mailman_mta_pool.journal.archive import Archive, Keeping
from mailman_mta_pool.journal.entry import (
    exists,
    filebases_of,
    identities_in,
    identity_of,
    is_in,
    queue_directory,
    WHICH_QUEUE_KEY,
)
from mailman_mta_pool.journal.file import Journal, Locked
from mailman_mta_pool.journal.records import PostHead, Settled
from mailman_mta_pool.posts import message_id_in
from mailman_mta_pool.settings import DeliverySettings
from public import public
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple


log = logging.getLogger('mailman.smtp')

# How often to look whether a queue entry is gone, and whether another process
# has let go of a journal, in seconds.
LOOK_INTERVAL_S = 0.05
# How often to look after a delivery; after that, the next delivery does.
LOOKS_PER_DELIVERY = 100
# Where an entry may be that is about to find its journal by its identity, in
# the order in which it moves.
UNSHUNT_QUEUES = ('shunt', 'out')


@public
def journal_directory() -> str:
    """Return the directory of the journals in progress."""
    return os.path.join(config.VAR_DIR, 'mta_pool', 'journal')


@public
class FinishedElsewhere(Exception):
    """Another process has delivered the queue entry meanwhile."""


@public
class Keeper:
    """The journals of this process; its methods are for the main thread."""

    def __init__(self) -> None:
        # The journals of deliveries that have ended.
        self._ended: List[Journal] = []
        # Of the queues `out` and `bad`; not to be asked for while Mailman is
        # configured anew.
        self._out = self._bad = ''
        self._lock = threading.Lock()
        self._watcher: Optional[threading.Thread] = None
        self._has_ended = threading.Event()
        self._swept = ''
        self._archive: Optional[Archive] = None
        # One thread at a time makes records.
        self._archiving = threading.Lock()

    def open(self, msg: Any, msgdata: Dict[str, Any],
             delivery: DeliverySettings,
             given_up: Callable[[], bool]) -> Optional[Journal]:
        """Open the journal of the queue entry that is being delivered.

        :param msg: The message.
        :param msgdata: Its metadata.
        :param delivery: For `journal`, `keep_records` and `records_size`.
        :param given_up: Asked, while another process delivers the same
            entry, whether to stop waiting for it.
        :return: The journal; None if the post is from no queue, or if there
            can be no journal.
        :raises FinishedElsewhere: if there is nothing left to deliver.
        :raises KeyboardInterrupt: if it was given up: the runner ends, and
            leaves the entry as it is.
        """
        self._remove_elsewhere()
        self._out, self._bad = queue_directory(), queue_directory('bad')
        archive = self._archive_for(delivery)
        filebases = filebases_of(msg, msgdata)
        if not filebases:
            return None
        directory = journal_directory()
        paths = [os.path.join(directory, filebase) for filebase in filebases]
        try:
            os.makedirs(directory, 0o700, exist_ok=True)
            if self._swept != directory:
                self._swept = directory
                sweep(directory, archive)
            self._let_go(paths)
            identity = identity_of(msg, msgdata)
            if WHICH_QUEUE_KEY in msgdata:
                adopt(directory, identity, paths)
            opening = partial(
                Journal, power=archive.keeping.power,
                details=archive.is_wanted)
            journal = _first_free(paths, opening, given_up)
            journal.begin(identity, msgdata['recipients'],
                          head_of(msg, msgdata))
            return journal
        except OSError as error:
            log.error('There can be no journal in %s, and the delivery goes '
                      'on without it: %s', directory, error)
            return None

    def _archive_for(self, delivery: DeliverySettings) -> Archive:
        keeping = Keeping(
            os.path.join(config.VAR_DIR, 'mta_pool', 'records'),
            delivery.keep_records, delivery.records_size,
            delivery.journal == 'power')
        if self._archive is None or self._archive.keeping != keeping:
            self._archive = Archive(keeping)
        return self._archive

    def _remove_elsewhere(self) -> None:
        """Have the watcher remove journals; a delivery does not wait."""
        if self._watcher is None:
            self.remove_ended()
        else:
            self._has_ended.set()

    def end(self, journal: Journal) -> None:
        """Take note that a delivery has ended.

        Its journal is removed when its queue entry has gone.
        """
        with self._lock:
            self._ended.append(journal)
        if self._watcher is None:
            self._start_watcher()
        self._has_ended.set()

    def _start_watcher(self) -> None:
        watcher = threading.Thread(
            target=self._watch, name='mta-pool-journal', daemon=True)
        try:
            watcher.start()
        except RuntimeError as error:
            # No more threads are left to this process.  The next delivery
            # removes the journal, or the end of the process.
            log.warning('A journal stays longer than it need: %s', error)
        else:
            self._watcher = watcher

    def _watch(self) -> None:
        pause = threading.Event()
        while self._has_ended.wait():
            self._has_ended.clear()
            for _ in range(LOOKS_PER_DELIVERY):
                pause.wait(LOOK_INTERVAL_S)
                self.remove_ended()
                if not self._ended:
                    break

    def remove_ended(self) -> None:
        """Remove the journals whose queue entries have gone, or keep them.

        The journal of an entry that Mailman has given up is closed, and stays.
        What the others say of the recipients becomes records.
        """
        with self._archiving:
            for journal in self._take_gone():
                if self._archive is not None:
                    self._archive.keep(journal.path)
                with suppress(FileNotFoundError):
                    journal.remove()
                journal.close()
            if self._archive is not None:
                self._archive.sweep_hourly()

    def _take_gone(self) -> List[Journal]:
        """Return the journals whose entries have gone; nobody else has them.
        """
        gone = []
        with self._lock:
            for journal in list(self._ended):
                name = os.path.basename(journal.path)
                if is_in(self._out, name):
                    continue
                # The entry may have been on its way back.
                if is_in(self._bad, name) or is_in(self._out, name):
                    self._close(journal)
                else:
                    self._ended.remove(journal)
                    gone.append(journal)
        return gone

    def _let_go(self, paths: List[str]) -> None:
        """Close the journals of ended deliveries whose entries are back."""
        with self._lock:
            for journal in list(self._ended):
                if journal.path in paths:
                    self._close(journal)

    def _close(self, journal: Journal) -> None:
        journal.close()
        self._ended.remove(journal)


def _first_free(paths: List[str], opening: Callable[[str], Journal],
                given_up: Callable[[], bool]) -> Journal:
    for path in paths:
        with suppress(Locked):
            return opening(path)
    name = os.path.basename(paths[0])
    log.warning('Another process is delivering %s; waiting for it', name)
    pause = threading.Event()
    while exists(name):
        pause.wait(LOOK_INTERVAL_S)
        with suppress(Locked):
            journal = opening(paths[0])
            if exists(name):
                return journal
            journal.remove()
            journal.close()
        if given_up():
            raise KeyboardInterrupt
    raise FinishedElsewhere(name)


@public
def head_of(msg: Any, msgdata: Dict[str, Any]) -> PostHead:
    """Return what the journal says of the post.

    :param msg: The message.
    :param msgdata: Its metadata.
    """
    return PostHead(
        message_id_in(msg.raw_items()),
        str(msgdata.get('listid', '')), len(msgdata['recipients']),
        time.time(), str(msg.sender or ''))


@public
def adopt(directory: str, identity: str, paths: List[str]) -> None:
    """Give the journal of an entry that was shunted the entry's new name.

    :param directory: Where the journals are.
    :param identity: The identity of the entry; see `identity_of`.
    :param paths: The names that its journal can have, with the directory.
    """
    free = [path for path in paths if not os.path.exists(path)]
    for path, settled in _orphans(directory):
        if free and settled.identity == identity:
            with suppress(OSError, Locked):
                journal = Journal(path)
                journal.rename(free[0])
                journal.close()
                return


@public
def sweep(directory: str, archive: Archive) -> None:
    """Remove the journals that no delivery needs; they become records.

    A journal whose queue entry is still there stays, however old it is: it
    is from before Mailman was down, and for how long does not matter.

    :param directory: Where they are.
    :param archive: The records.
    """
    orphans = list(_orphans(directory))
    # Whatever was shunted has been in that queue since before its old name
    # was gone.
    wanted = identities_in(UNSHUNT_QUEUES) if any(
        settled for path, settled in orphans) else set()
    for path, settled in orphans:
        if not settled or settled.identity not in wanted:
            with suppress(OSError, Locked):
                journal = Journal(path)
                archive.keep(path)
                journal.remove()
                journal.close()


def _orphans(directory: str) -> Iterator[Tuple[str, Settled]]:
    """Yield the journals for whose names there is no queue entry."""
    for name in os.listdir(directory):
        if not exists(name):
            path = os.path.join(directory, name)
            with suppress(OSError):
                with open(path, 'rb') as fp:
                    settled = Settled(fp.read())
                yield path, settled


_keeper = Keeper()
atexit.register(_keeper.remove_ended)


@public
@contextmanager
def journal_of(msg: Any, msgdata: Dict[str, Any], delivery: DeliverySettings,
               turn: Any) -> Iterator[Optional[Journal]]:
    """Keep the journal of a delivery; see `Keeper.open`.

    :param msg: The message.
    :param msgdata: Its metadata.
    :param delivery: See `Keeper.open`.
    :param turn: The `ITurn` that ends the waiting for another process.
    :return: The journal, or None.
    """
    journal = None
    if delivery.journal != 'no':
        journal = _keeper.open(
            msg, msgdata, delivery, lambda: turn.is_over)
    try:
        yield journal
    finally:
        if journal is not None:
            _keeper.end(journal)
