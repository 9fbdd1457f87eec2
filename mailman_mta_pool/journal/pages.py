# SPDX-License-Identifier: GPL-3.0-or-later
"""A file that is appended to in memory.

The kernel has what is in a shared mapping, whatever becomes of the process.
A system call for each line would cost little, but while it lasts another
thread takes its turn, and that costs a tenth of the throughput.  Where the
lines end, the file goes on with NUL.
"""

import os
import mmap

from contextlib import suppress
from public import public
from typing import Optional


PAGE_OCTETS = mmap.PAGESIZE
# The file doubles, but grows by no more than this at once, in octets.
MAX_GROWTH_OCTETS = 1024 * 1024


@public
class Pages:
    """Appends to a file."""

    def __init__(self, fd: int, end: int) -> None:
        """Nothing is mapped before there is something to append.

        :param fd: The file, open for reading and writing.
        :param end: Where to go on, in octets; the file ends there.
        """
        self._fd = fd
        self._end = end
        # Up to where there is to be room for what is necessary.
        self._promised = end
        self._is_full = False
        self._size = 0
        self._map: Optional[mmap.mmap] = None

    def append(self, octets: bytes) -> None:
        """Append octets to the file.

        :raises OSError: if there is no room; nothing is appended then.
        """
        end = self._end + len(octets)
        if end > self._size:
            self._grow(end)
        assert self._map is not None
        self._map[self._end:end] = octets
        self._end = end

    def reserve(self, octets: int) -> None:
        """Make room for so many octets more, if there is any."""
        self._promised = self._end + octets
        size = _whole_pages(self._promised)
        if size > self._size:
            try:
                self._reserve(size)
            except OSError:
                # Some file systems keep the part that there was room for.
                with suppress(OSError):
                    os.ftruncate(self._fd, max(self._size, self._end))

    def spare(self, octets: int) -> bool:
        """Make room beside what was reserved, for what is not necessary.

        :param octets: How many are to be appended.
        :return: False if there is no room, and none is looked for any more.
        """
        if self._is_full:
            return False
        promised, end = self._promised, self._end
        promised = (promised if promised > end else end) + octets
        if promised > self._size:
            try:
                self._grow(promised)
            except OSError:
                self._is_full = True
                return False
        self._promised = promised
        return True

    def _grow(self, least: int) -> None:
        step = min(max(self._size, PAGE_OCTETS), MAX_GROWTH_OCTETS)
        try:
            self._reserve(_whole_pages(max(least, self._size + step)))
        except OSError:
            # There may be room for the octets alone.
            self._reserve(_whole_pages(least))

    def _reserve(self, size: int) -> None:
        # Without this a full disk would be a SIGBUS instead of an error.
        os.posix_fallocate(self._fd, 0, size)
        larger = mmap.mmap(self._fd, size)
        self._unmap()
        self._map, self._size = larger, size

    def _unmap(self) -> None:
        if self._map is not None:
            self._map.close()
            self._map = None

    def close(self) -> None:
        """Unmap the file, and cut off what was reserved."""
        self._unmap()
        with suppress(OSError):
            os.ftruncate(self._fd, self._end)


def _whole_pages(octets: int) -> int:
    return -(-octets // PAGE_OCTETS) * PAGE_OCTETS
