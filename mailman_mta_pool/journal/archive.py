# SPDX-License-Identifier: GPL-3.0-or-later
"""The records: what journals say of the recipients, kept for `trace`.

There is one file for each delivery of a queue entry, so that a crash leaves
the journal, the record, or both, which then say the same.  The name of a file
begins with a digest of the Message-ID, so that all of one post are found
without opening the others.  `zcat` shows what is in one.
"""

import os
import gzip
import time
import hashlib
import logging

from contextlib import suppress
from mailman_mta_pool.journal.records import (
    has_events,
    head_in,
    kept_parts,
    PostHead,
)
from mailman_mta_pool.posts import bare_id
from public import public
from tempfile import NamedTemporaryFile
from typing import Any, BinaryIO, Callable, Iterator, NamedTuple, Optional


log = logging.getLogger('mailman.smtp')

EXTENSION = '.gz'
# A file that is being made.
MAKING_PREFIX = '.making-'
DIGEST_DIGITS = 16
# How often the records are swept, in seconds.
SWEEP_INTERVAL_S = 3600.0
# More takes longer, and less of the disk by a twentieth only.
LEVEL = 1
MIB = 1024 * 1024
# What `os.stat_result.st_blocks` counts.
BLOCK_OCTETS = 512


@public
def prefix_of(message_id: str) -> str:
    """Return how the names of the records of a post begin.

    :param message_id: Its Message-ID, with or without angle brackets.
    """
    return hashlib.sha256(bare_id(message_id).encode(
        'utf-8', 'surrogateescape')).hexdigest()[:DIGEST_DIGITS] + '-'


class _Kept(NamedTuple):
    """A record on disk: when it was made, what it takes, where it is."""

    made: float
    octets: int
    path: str


@public
class Keeping(NamedTuple):
    """Which records are kept.

    :ivar directory: Where they are.
    :ivar period: For how long, in seconds; 0 for no records.
    :ivar size: How much of the disk they may take, in MiB; 0 is no limit.
    :ivar power: True if a record must survive a power failure.
    """

    directory: str
    period: float
    size: int
    power: bool = False


@public
class Archive:
    """The directory of the records; for one thread at a time.

    :ivar keeping: Which records are kept.
    """

    def __init__(self, keeping: Keeping, *,
                 clock: Callable[[], float] = time.time,
                 timer: Callable[[], float] = time.monotonic) -> None:
        """Prepare; nothing is made.

        :param keeping: Which records are kept.
        :param clock: Returns the time in seconds since 1970.
        :param timer: Returns the time of a monotonic clock, in seconds.
        """
        self.keeping = keeping
        self._clock = clock
        self._timer = timer
        self._next_sweep = timer()
        self._is_failing = False

    @property
    def is_wanted(self) -> bool:
        """True if records are made."""
        return self.keeping.period > 0

    def keep(self, path: str) -> None:
        """Make a record of a journal that no delivery needs any more.

        What cannot be written, because the disk is full, say, is logged once.

        :param path: The journal, which stays.
        """
        if not self.is_wanted:
            return
        try:
            with open(path, 'rb') as journal:
                os.makedirs(self.keeping.directory, 0o700, exist_ok=True)
                self._write(journal, os.path.basename(path))
            self._is_failing = False
        except OSError as error:
            if not self._is_failing:
                self._is_failing = True
                log.error('A record for `mailman mta-pool trace` cannot be '
                          'kept in %s: %s', self.keeping.directory, error)

    def _write(self, journal: BinaryIO, entry: str) -> None:
        with NamedTemporaryFile(
                dir=self.keeping.directory, prefix=MAKING_PREFIX,
                delete=False) as fp:
            try:
                head = self._pack(journal, fp)
                fp.flush()
                if head is None:
                    os.unlink(fp.name)
                    return
                if self.keeping.power:
                    os.fsync(fp.fileno())
                os.rename(fp.name, os.path.join(
                    self.keeping.directory,
                    prefix_of(head.message_id) + entry + EXTENSION))
            except BaseException:
                with suppress(OSError):
                    os.unlink(fp.name)
                raise

    @staticmethod
    def _pack(journal: BinaryIO, fp: Any) -> Optional[PostHead]:
        """Compress what is kept of a journal.

        :return: Of which post it is; None if there is nothing to keep.
        """
        head, is_of_use = None, False
        with gzip.GzipFile('', 'wb', LEVEL, fp, 0) as packed:
            for part in kept_parts(journal):
                head = head or head_in(part)
                is_of_use = is_of_use or has_events(part)
                packed.write(part)
        return head if is_of_use else None

    def sweep_hourly(self) -> None:
        """Sweep at the first call, and then at most once an hour."""
        now = self._timer()
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP_INTERVAL_S
            self.sweep()

    def sweep(self) -> None:
        """Remove the records that are too old, and the oldest beyond the cap.
        """
        now = self._clock()
        oldest, allowed = now - self.keeping.period, self.keeping.size * MIB
        records = sorted(self._records(now))
        octets = sum(record.octets for record in records)
        for record in records:
            if record.made > oldest and not 0 < allowed < octets:
                break
            with suppress(OSError):
                os.unlink(record.path)
            octets -= record.octets

    def _records(self, now: float) -> Iterator[_Kept]:
        """Yield the records, and remove what a crash has left half made."""
        try:
            entries = list(os.scandir(self.keeping.directory))
        except OSError:
            # There are none yet.
            return
        for entry in entries:
            with suppress(OSError):
                found = entry.stat(follow_symlinks=False)
                if entry.name.endswith(EXTENSION):
                    yield _Kept(found.st_mtime, max(
                        found.st_size, found.st_blocks * BLOCK_OCTETS),
                        entry.path)
                elif entry.name.startswith(MAKING_PREFIX) and (
                        found.st_mtime < now - SWEEP_INTERVAL_S):
                    os.unlink(entry.path)
