# SPDX-License-Identifier: GPL-3.0-or-later
"""What became of the logins with some credentials, for all of a host.

A refused login is one login on the server: it may count them, and lock the
account.  So the first login with unknown credentials is judged before another
one is tried, by whichever connection of whichever process, and a refusal
holds until the credentials change or for a while.

The state of each credentials is a file, whose name is a keyed digest of them.
Whoever logs in with unknown ones has it locked; however that process dies,
the kernel frees the lock.

Everything here is in the network thread.  The files are small and local, and
nothing waits for a lock but by a timer.
"""

import os
import hmac
import json
import math
import time
import errno
import fcntl
import random
import asyncio
import logging
import secrets
import smtplib

from contextlib import suppress
from mailman_mta_pool.errors import PhaseTimeout, printable
from mailman_mta_pool.network.limits import check_descriptors
from public import public
from typing import Any, Callable, NamedTuple, Optional, Tuple, Union


log = logging.getLogger('mailman.smtp')

# How long a refusal holds, in seconds.
REFUSAL_PERIOD = 900.0
# How long after a login was accepted others need not wait for their turn, in
# seconds.
TRUST_PERIOD = 10.0
# Who waits for its turn looks again after so many seconds, up to twice as
# many by chance.
LOOK_PERIOD = 0.05
# The files of credentials that were not used for so many seconds go.
KEEP_PERIOD = 86400.0
PERMISSIONS = 0o600
DIRECTORY_PERMISSIONS = 0o700
KEY_SIZE = 32
# The size of a file in octets, which no state is longer than.
STATE_SIZE = 4096
# So much of a reply is kept, in characters.
MAX_TEXT = 500
public(KEEP_PERIOD=KEEP_PERIOD, LOOK_PERIOD=LOOK_PERIOD,
       REFUSAL_PERIOD=REFUSAL_PERIOD, TRUST_PERIOD=TRUST_PERIOD)


@public
def login_directory(var_directory: str) -> str:
    """Return the directory of the states of logins.

    :param var_directory: Mailman's $VAR_DIR.
    """
    return os.path.join(var_directory, 'mta_pool', 'logins')


class _State(NamedTuple):
    """What became of the last login that was judged.

    :ivar at: When, in seconds since 1970.
    :ivar code: The reply code of a refusal; 0 if the login was accepted.
    :ivar text: The text of the refusal, which shows no secret.
    """

    at: float
    code: int
    text: str


_UNKNOWN = _State(float('-inf'), 0, '')


@public
class Turn:
    """The right to try a login; a context manager.

    This one is for a connection that is on its own.
    """

    def __enter__(self) -> 'Turn':
        return self

    def __exit__(self, *ignore: object) -> None:
        """Let the next one have its turn."""

    def accepted(self) -> None:
        """Take note that the server has accepted the login."""

    def refused(self, code: int, text: Union[bytes, str]) -> None:
        """Take note that the server has refused the login for good.

        :param code: Its reply code.
        :param text: Its text, which shows no secret.
        """


class _SharedTurn(Turn):
    """A turn of which the other connections hear."""

    def __init__(self, record: 'LoginRecord',
                 descriptor: Optional[int]) -> None:
        """Prepare.

        :param record: Where the outcome is told.
        :param descriptor: Of the locked file; None if there is no lock.
        """
        self._record = record
        self._descriptor = descriptor

    def __exit__(self, *ignore: object) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def accepted(self) -> None:
        """See `Turn`."""
        self._record.note_accepted()

    def refused(self, code: int, text: Union[bytes, str]) -> None:
        """See `Turn`."""
        self._record.note_refused(code, printable(text)[:MAX_TEXT])


@public
class LoginRecord:
    """What all processes of this host know of the logins at a relay.

    Where the files cannot be used, it knows what this process knows.
    """

    def __init__(self, directory: str, credentials: Tuple[str, ...],
                 relay: str, remedy: str, *,
                 clock: Callable[[], float] = time.time,
                 chance: Callable[[], float] = random.SystemRandom().random,
                 ) -> None:
        """Prepare; no file is made before the first login.

        :param directory: See `login_directory`.
        :param credentials: All that a login is made of: server, user, secret
            and so on.  They are not written anywhere.
        :param relay: The relay's name, for the log.
        :param remedy: What mends a refusal, for the log: 'correct …'.
        :param clock: Seconds since 1970; the processes have to agree.
        :param chance: A number from 0 to 1, for the jitter.
        """
        self._files = _Files(directory, credentials)
        self._relay = relay
        self._remedy = remedy
        self._clock = clock
        self._chance = chance
        # What this process knows, for want of files; and whether it tries.
        self._own = _UNKNOWN
        self._is_trying = False
        self._is_without = False

    def refusal(self) -> Optional[Tuple[int, bytes]]:
        """Return the code and the text of a refusal that holds, or None."""
        return self._refusal_in(self._state_by_now())

    def forget(self) -> None:
        """Forget a refusal: the login was found to be good.

        Whoever finds that out may be another user, so that no file is made.
        """
        self._own = _UNKNOWN
        if self._refusal_in(self._state()) is not None:
            with suppress(OSError):
                self._files.remove()

    def _refusal_in(self, state: _State) -> Optional[Tuple[int, bytes]]:
        now = self._clock()
        left = min(state.at, now) + REFUSAL_PERIOD - now
        if not state.code or left <= 0:
            return None
        return state.code, (
            f'{state.text} (the login is not tried again for '
            f'{left / 60:.0f} min)').encode()

    def _is_trusted(self, state: _State) -> bool:
        return not state.code and (
            0 <= self._clock() - state.at < TRUST_PERIOD)

    async def turn(self, timeout: float) -> Turn:
        """See `Access.turn`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while True:
            turn = self._try()
            if turn is not None:
                return turn
            if loop.time() >= deadline:
                raise PhaseTimeout(
                    'another login with the same password had no answer '
                    f'within {timeout:g} s')
            await asyncio.sleep(LOOK_PERIOD * (1 + self._chance()))

    def _try(self) -> Optional[Turn]:
        """Return a turn; None if another login is under way.

        :raises smtplib.SMTPAuthenticationError: if one was refused.
        """
        state = self._state_by_now()
        refusal = self._refusal_in(state)
        if refusal is not None:
            raise smtplib.SMTPAuthenticationError(*refusal)
        if self._is_trusted(state):
            return _SharedTurn(self, None)
        try:
            descriptor = self._files.lock(self._clock())
        except OSError as error:
            return self._turn_without(error)
        self._note_files()
        if descriptor is None:
            return None
        # Perhaps it was judged just before.
        if self._state() != state:
            os.close(descriptor)
            return self._try()
        return _SharedTurn(self, descriptor)

    # What the turns tell.

    def note_accepted(self) -> None:
        """Take note that a login was accepted."""
        now = self._clock()
        if not self._is_trusted(self._state()):
            self._write(_State(now, 0, ''))

    def note_refused(self, code: int, text: str) -> None:
        """Take note that a login was refused; say so, unless it was said.

        :param code: The reply code.
        :param text: Its text, which shows no secret.
        """
        was_refused = self._refusal_in(self._state()) is not None
        self._write(_State(self._clock(), code, text))
        if not was_refused:
            log.error(
                '%s: the login is refused with "%s"; %s; nobody on this host '
                'tries it again until that has changed, or for %.0f min',
                self._relay, f'{code} {text}', self._remedy,
                REFUSAL_PERIOD / 60)

    # The files, or what there is in their place.

    def _state(self) -> _State:
        with suppress(OSError):
            found = self._files.read()
            if found is not None:
                return max(found, self._own)
        return self._own

    def _state_by_now(self) -> _State:
        """Return the state, after a look at the clock.

        If that was set back, a refusal is no older than now; it would hold
        for too long, or another login would be refused.
        """
        state, now = self._state(), self._clock()
        if state.code and state.at > now:
            state = state._replace(at=now)
            self._write(state)
        return state

    def _write(self, state: _State) -> None:
        self._own = _UNKNOWN
        try:
            self._files.write(state)
        except OSError as error:
            self._own = state
            self._tell(error)

    def _turn_without(self, error: OSError) -> Optional[Turn]:
        self._tell(error)
        return None if self._is_trying else _OwnTurn(self)

    def _tell(self, error: OSError) -> None:
        if not self._is_without:
            self._is_without = True
            log.warning(
                '%s: a login that is refused may be tried by each process, '
                'because of "%s"; mend %s', self._relay, error,
                self._files.directory)

    def _note_files(self) -> None:
        if self._is_without:
            self._is_without = False
            log.info('%s: a login that is refused is tried by one process '
                     'again', self._relay)

    def begin(self) -> None:
        """Take note that this process tries a login without a file."""
        self._is_trying = True

    def end(self) -> None:
        """Take note of the end of that."""
        self._is_trying = False


class _OwnTurn(_SharedTurn):
    """The turn of a process that cannot use the files."""

    def __init__(self, record: LoginRecord) -> None:
        super().__init__(record, None)
        record.begin()

    def __exit__(self, *ignore: object) -> None:
        self._record.end()


class _Files:
    """The file of some credentials, and the key of its name."""

    def __init__(self, directory: str, credentials: Tuple[str, ...]) -> None:
        self.directory = directory
        self._credentials = '\0'.join(credentials).encode(
            'utf-8', 'surrogatepass')
        self._path = ''

    def read(self) -> Optional[_State]:
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
        descriptor = os.open(
            path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PERMISSIONS)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink == 0:
                # It was removed since it was opened.
                raise BlockingIOError
            # A disk that becomes full keeps nobody from writing the outcome.
            size = os.fstat(descriptor).st_size
            _write_at(descriptor, b' ' * (STATE_SIZE - size), size)
            os.utime(descriptor, (now, now))
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
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

    def write(self, state: _State) -> None:
        """Write the state, whoever has the lock.

        :raises OSError: if that cannot be done.
        """
        octets = json.dumps(state._asdict(), ensure_ascii=False).encode()
        descriptor = os.open(self._found(), os.O_RDWR | os.O_CREAT |
                             os.O_CLOEXEC, PERMISSIONS)
        try:
            # In its place, so that there is always a whole one.
            _write_at(descriptor, octets.ljust(STATE_SIZE), 0)
            os.utime(descriptor, (state.at, state.at))
        finally:
            os.close(descriptor)


def _write_at(descriptor: int, octets: bytes, offset: int) -> None:
    """Write octets, all of them.

    :raises OSError: if that cannot be done.
    """
    if os.pwrite(descriptor, octets, offset) != len(octets):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _state_in(octets: bytes) -> Optional[_State]:
    """Return the state that a file holds; None if it is none."""
    try:
        found: Any = json.loads(octets)
        state = _State(float(found['at']), int(found['code']),
                       str(found['text']))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    if not math.isfinite(state.at) or (
            state.code and not 400 <= state.code <= 599):
        return None
    return state._replace(text=printable(state.text)[:MAX_TEXT])
