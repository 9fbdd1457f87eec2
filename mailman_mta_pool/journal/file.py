# SPDX-License-Identifier: GPL-3.0-or-later
"""One journal: a file that is locked, appended to, and removed at the end."""

import os
import time
import fcntl
import logging
import threading

from mailman_mta_pool.interfaces import IRecord
from mailman_mta_pool.journal.pages import Pages
from mailman_mta_pool.journal.records import (
    begun_line,
    bounced_line,
    deferred_line,
    discarded_line,
    done_line,
    entry_line,
    in_doubt_line,
    octets_for,
    place_line,
    post_line,
    PostHead,
    renamed_line,
    served_line,
    Settled,
    text_in_line,
)
from mailman_mta_pool.wire.replies import Reply
from public import public
from typing import Callable, Collection, Iterable, Optional, Tuple
from zope.interface import implementer


log = logging.getLogger('mailman.smtp')


@public
class Locked(Exception):
    """Another process is delivering the same queue entry."""


@public
@implementer(IRecord)
class Journal:
    """An `IRecord` that also records what other queue entries take over.

    What cannot be written, because the disk is full, say, is logged once;
    the delivery goes on without the journal.

    :ivar settled: What was recorded before it was opened now.
    """

    def __init__(self, path: str, power: bool = False, *,
                 details: bool = False,
                 clock: Callable[[], float] = time.time) -> None:
        """Open, lock and read the file, or make it.

        :param path: The file; its directory exists.
        :param power: True if it must survive a power failure.
        :param details: True to record for `trace`, too: what the servers
            said, when, and who was refused for the time being.
        :param clock: Returns the time in seconds since 1970.
        :raises Locked: if another process has it.
        :raises OSError: if it cannot be made or read.
        """
        self.path = path
        self._fd, without_lock = _opened(path)
        self._broken = False
        self._pages: Optional[Pages] = None
        self._flush: Optional[_Flush] = None
        self._details = details
        self._clock = clock
        # What the last line of time and relay said.
        self._second, self._relay = 0.0, ''
        try:
            with open(os.dup(self._fd), 'rb') as fp:
                self.settled = Settled(fp.read())
            if without_lock is not None:
                # What is in the file is true all the same, but another
                # process may be about to write there.
                self._give_up(without_lock)
                return
            # What comes next starts a line.
            os.ftruncate(self._fd, self.settled.end)
            self._pages = Pages(self._fd, self.settled.end)
            if power:
                _sync_directory(os.path.dirname(path))
                self._flush = _Flush(self._fd)
        except BaseException:
            os.close(self._fd)
            raise

    @property
    def is_kept(self) -> bool:
        """True if everything was recorded that this process knows."""
        return not self._broken

    def begin(self, identity: str, recipients: Collection[str],
              post: Optional[PostHead] = None) -> None:
        """Record which entry this is, and make room for all that may come.

        When the disk is full later, the room is there.

        :param identity: See `identity_of`; only the first one counts.
        :param recipients: Those of the entry.
        :param post: The post; only the first one counts.
        """
        if self.settled.identity is None:
            self._append(entry_line(identity))
        if post is not None and self.settled.message_id is None:
            # `trace` finds the journal by it, also where no records are kept.
            self._append_spare(post_line(post))
        if not self._broken and self._pages is not None:
            self._pages.reserve(octets_for(recipients))

    def served(self, recipients: Collection[str],
               reply: Optional[Reply] = None, relay: str = '') -> None:
        """See `IRecord`."""
        if not self._details or self._pages is None:
            self._append(served_line(recipients))
            return
        place = self._place(relay)
        text = '' if reply is None else text_in_line(reply)
        # A comma and two brackets are around it.
        if self._pages.spare(len(place) + len(text) + 3):
            self._append(place + served_line(recipients, text))
        else:
            self._append(served_line(recipients))

    def bounced(self, recipient: str, code: int, text: bytes,
                relay: str = '') -> None:
        """See `IRecord`."""
        self._append_details(b'', relay)
        self._append(bounced_line(recipient, code, text))

    def deferred(self, recipients: Collection[str], code: int, text: bytes,
                 relay: str = '') -> None:
        """See `IRecord`."""
        self._append_details(deferred_line(recipients, code, text), relay)

    def in_doubt(self, recipients: Collection[str], relay: str = '') -> None:
        """See `IRecord`."""
        self._append_details(in_doubt_line(recipients), relay)

    def discarded(self, recipients: Collection[str]) -> None:
        """Record that recipients are given up and in no queue any more.

        :param recipients: Who was refused for the time being for too long.
        """
        self._append_details(discarded_line(recipients), self._relay)

    def _append_details(self, line: bytes,
                        relay: Optional[str] = None) -> None:
        """Append what is for `trace` alone, where there is room to spare.

        :param line: The line; b'' for the relay and the time alone.
        :param relay: The name of the relay; None where there is none.
        """
        if self._details:
            if relay is not None:
                line = self._place(relay) + line
            self._append_spare(line)

    def _append_spare(self, line: bytes) -> None:
        """Append what the delivery can do without, if there is room."""
        if line and not self._broken and self._pages is not None:
            if self._pages.spare(len(line)):
                self._append(line)

    def _place(self, relay: str) -> bytes:
        """Return the line with relay and time, if either has changed."""
        now = self._clock()
        # Floats alone are quicker than a float and an integer.
        if 0.0 <= now - self._second < 1.0 and relay == self._relay:
            return b''
        second = int(now)
        self._second, self._relay = float(second), relay
        return place_line(second, relay)

    def handing_over(self, token: str, recipients: Iterable[str]) -> None:
        """Record that another queue entry is about to be made.

        :param token: What is in its metadata, to find the entry by.
        :param recipients: The recipients of that entry.
        """
        self._append(begun_line(token, recipients))
        if self._flush is not None:
            self._flush.now()

    def handed_over(self, token: str) -> None:
        """Record that the queue entry with that token is there."""
        self._append(done_line(token))

    def _append(self, line: bytes) -> None:
        if self._broken or self._pages is None:
            return
        try:
            self._pages.append(line)
        except OSError as error:
            self._give_up(error)
        else:
            if self._flush is not None:
                self._flush.wanted()

    def _give_up(self, error: OSError) -> None:
        self._broken = True
        log.error('The journal %s cannot be written, and the delivery goes '
                  'on without it: %s', self.path, error)

    def rename(self, path: str) -> None:
        """Move the file; what is recorded stays, and so does the lock."""
        former = os.path.basename(self.path)
        os.rename(self.path, path)
        self.path = path
        self._append(renamed_line(former))

    def close(self) -> None:
        """Close the file, which stays where it is."""
        if self._flush is not None:
            self._flush.end()
        if self._pages is not None:
            self._pages.close()
        os.close(self._fd)

    def remove(self) -> None:
        """Delete the file, which is still open."""
        os.unlink(self.path)


@public
def name_of(journal: Optional[Journal]) -> str:
    """Return the name of the queue entry that a journal is of.

    :param journal: The journal, or None.
    :return: The name without extension; '' without a journal.
    """
    return '' if journal is None else os.path.basename(journal.path)


def _opened(path: str) -> Tuple[int, Optional[OSError]]:
    """Open and lock a file.

    :return: The descriptor, and the error if the file system has no locks.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise Locked(path) from None
        except OSError as error:
            # NFS has not always.
            return fd, error
        if os.fstat(fd).st_nlink:
            return fd, None
        # The file was removed before we had the lock.
        os.close(fd)


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class _Flush:
    """Flushes to the disk what was written meanwhile, group by group."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._wanted = threading.Event()
        self._over = False
        self._thread = threading.Thread(
            target=self._run, name='mta-pool-journal', daemon=True)
        self._thread.start()

    def wanted(self) -> None:
        self._wanted.set()

    def now(self) -> bool:
        try:
            os.fsync(self._fd)
        except OSError as error:
            log.error('The journal is not safe from a power failure: %s',
                      error)
            return False
        return True

    def end(self) -> None:
        self._over = True
        self._wanted.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over:
            self._wanted.wait()
            self._wanted.clear()
            if not self.now():
                return
