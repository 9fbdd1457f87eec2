# SPDX-License-Identifier: GPL-3.0-or-later
"""The files by which the processes of a host tell each other of logins.

The state of each credentials is a file, whose name is a keyed digest of them.
Whoever logs in with unknown ones has it locked; however that process dies,
the kernel frees the lock.
"""

import os
import hmac
import json
import math
import errno
import secrets

from contextlib import suppress
from mailman_mta_pool.network.limits import check_descriptors
from mailman_mta_pool.network.locks import open_locked
from mailman_mta_pool.shown import printable
from public import public
from typing import Any, NamedTuple, Optional, Tuple


# The files of credentials that were not used for so many seconds go.
KEEP_PERIOD = 86400.0
PERMISSIONS = 0o600
DIRECTORY_PERMISSIONS = 0o700
KEY_SIZE = 32
# Each state has so many octets in its file, most of them blanks.
STATE_SIZE = 4096
# So much of a reply is kept, in characters.
MAX_TEXT = 500
public(KEEP_PERIOD=KEEP_PERIOD)


@public
def login_directory(var_directory: str) -> str:
    """Return the directory of the states of logins.

    :param var_directory: Mailman's $VAR_DIR.
    """
    return os.path.join(var_directory, 'mta_pool', 'logins')


@public
class State(NamedTuple):
    """What became of the last login that was judged.

    :ivar at: When, in seconds since 1970.
    :ivar code: The reply code of a refusal; 0 if the login was accepted.
    :ivar text: The text of the refusal, which shows no secret.
    """

    at: float
    code: int = 0
    text: str = ''

    def shortened(self) -> 'State':
        """Return the state with as much of its text as a file holds."""
        return self._replace(text=printable(self.text)[:MAX_TEXT])


@public
class StateFile:
    """The file of some credentials, and the key of its name.

    :ivar directory: Where it is.
    """

    def __init__(self, directory: str, credentials: Tuple[str, ...]) -> None:
        self.directory = directory
        self._credentials = '\0'.join(credentials).encode(
            'utf-8', 'surrogatepass')
        self._path = ''

    def read(self) -> Optional[State]:
        """Return the state; None if there is none, or none that is sound.

        :raises OSError: if the file cannot be read.
        """
        try:
            with open(self._found(), 'rb') as file:
                octets = file.read(STATE_SIZE)
        except FileNotFoundError:
            # Somebody may have removed the directory, and the key with it.
            self._path = ''
            return None
        return _state_in(octets)

    def _found(self) -> str:
        if not self._path:
            self._path = self._named(self._read_key())
        return self._path

    def _named(self, key: bytes) -> str:
        digest = hmac.new(key, self._credentials, 'sha256').hexdigest()
        return os.path.join(self.directory, digest[:32])

    def _read_key(self) -> bytes:
        with open(os.path.join(self.directory, 'key'), 'rb') as file:
            key = file.read(KEY_SIZE)
        if len(key) != KEY_SIZE:
            raise OSError(errno.EINVAL, 'The key is too short')
        return key

    def lock(self, now: float) -> Optional[int]:
        """Return a descriptor of the locked file; None if another has it.

        :param now: Seconds since 1970.
        :raises OSError: if it cannot be made, or there are no locks.
        """
        check_descriptors()
        try:
            path = self._found()
        except FileNotFoundError:
            self._make_key()
            path = self._found()
        descriptor = open_locked(path, os.O_CREAT, PERMISSIONS)
        if descriptor is None:
            return None
        try:
            # It may have been removed since it was opened.
            status = os.fstat(descriptor)
            is_there = status.st_nlink > 0
            # A disk that becomes full keeps nobody from writing the outcome.
            _write_at(descriptor, b' ' * (STATE_SIZE - status.st_size),
                      status.st_size)
            os.utime(descriptor, (now, now))
        except BaseException:
            os.close(descriptor)
            raise
        if not is_there:
            os.close(descriptor)
            return None
        self._sweep(now)
        return descriptor

    def remove(self) -> None:
        """Remove the file.

        :raises OSError: if that cannot be done.
        """
        os.unlink(self._found())

    def _make_key(self) -> None:
        """Make the key, unless another process does so first."""
        os.makedirs(self.directory, DIRECTORY_PERMISSIONS, exist_ok=True)
        new = os.path.join(self.directory, f'new-{secrets.token_hex(8)}')
        descriptor = os.open(
            new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC,
            PERMISSIONS)
        try:
            with open(descriptor, 'wb') as file:
                file.write(secrets.token_bytes(KEY_SIZE))
            with suppress(FileExistsError):
                os.link(new, os.path.join(self.directory, 'key'))
        finally:
            os.unlink(new)

    def _sweep(self, now: float) -> None:
        """Remove the files of credentials that nobody uses any more."""
        for name in os.listdir(self.directory):
            path = os.path.join(self.directory, name)
            with suppress(OSError):
                if name != 'key' and path != self._path and (
                        os.stat(path).st_mtime < now - KEEP_PERIOD):
                    os.unlink(path)

    def write(self, state: State) -> None:
        """Write the state, whoever has the lock.

        :param state: The state; see `State.shortened`.
        :raises OSError: if that cannot be done.
        """
        # Not in ASCII, which has twelve octets for some characters.
        octets = json.dumps(
            state.shortened()._asdict(), ensure_ascii=False).encode('utf-8')
        octets = octets.ljust(STATE_SIZE)
        descriptor = os.open(
            self._found(), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PERMISSIONS)
        try:
            # In one write, and over all of the last one: whoever reads it
            # meanwhile finds either.
            _write_at(descriptor, octets, 0)
            os.utime(descriptor, (state.at, state.at))
        finally:
            os.close(descriptor)


def _write_at(descriptor: int, octets: bytes, offset: int) -> None:
    """Write octets, all of them.

    :raises OSError: if that cannot be done.
    """
    if os.pwrite(descriptor, octets, offset) != len(octets):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _state_in(octets: bytes) -> Optional[State]:
    """Return the state that a file holds; None if it is none."""
    try:
        found: Any = json.loads(octets)
        state = State(
            float(found['at']), int(found['code']), str(found['text']))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    if not math.isfinite(state.at) or (
            state.code and not 400 <= state.code <= 599):
        return None
    return state.shortened()
