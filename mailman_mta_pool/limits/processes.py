# SPDX-License-Identifier: GPL-3.0-or-later
"""Which processes of this host use the limits, and which of them are alive.

Each process has a place, which is a locked file.  The kernel frees the lock
when the process ends, however that happens.
"""

import os
import errno
import fcntl
import secrets

from public import public
from typing import Optional


#: So many processes of a host can use the limits at a time.
PLACES = 128
public(PLACES=PLACES)


@public
class Place:
    """The place of this process.

    :ivar number: Which one, from 0 to `PLACES` - 1.
    :ivar token: A number that no other process ever has, not even one that
        has this place later.
    """

    def __init__(self, directory: str) -> None:
        """Take the first place that is free.

        :param directory: Where the files are.
        :raises OSError: if there is none.
        """
        self._directory = directory
        self.token = secrets.randbits(62) + 1
        for number in range(PLACES):
            fd = os.open(self._path(number),
                         os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if _is_locked_by_us(fd):
                break
            os.close(fd)
        else:
            raise OSError(
                errno.EUSERS, f'all {PLACES} places are taken', directory)
        try:
            os.pwrite(fd, str(self.token).ljust(20).encode('ascii'), 0)
        except BaseException:
            os.close(fd)
            raise
        self.number = number
        self._fd: Optional[int] = fd

    def _path(self, number: int) -> str:
        return os.path.join(self._directory, f'process-{number}')

    def is_alive(self, number: int, token: int) -> bool:
        """Tell whether the process that had a place is still there.

        :param number: The place.
        :param token: The token of the process.
        :raises OSError: if that cannot be told.
        """
        if number == self.number:
            return token == self.token
        try:
            fd = os.open(self._path(number), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            if _is_locked_by_us(fd):
                return False
            # Somebody is there; perhaps somebody else.
            return os.pread(fd, 20, 0).strip() == str(token).encode('ascii')
        finally:
            os.close(fd)

    def leave(self) -> None:
        """Free the place."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


def _is_locked_by_us(fd: int) -> bool:
    """Lock a file, unless somebody else has."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
