# SPDX-License-Identifier: GPL-3.0-or-later
"""What became of the logins with some credentials, for all of a host.

A refused login is one login on the server: it may count them, and lock the
account.  So the first login with unknown credentials is judged before another
one is tried, by whichever connection of whichever process, and a refusal
holds until the credentials change or for a while.

Everything here is in the network thread.  The files are small and local, and
nothing waits for a lock but by a timer.
"""

import os
import time
import random
import asyncio
import logging
import smtplib

from contextlib import suppress
from functools import partial
from mailman_mta_pool.errors import LOCAL_LIMITS, PhaseTimeout
from mailman_mta_pool.login.states import State, StateFile
from mailman_mta_pool.shown import printable
from public import public
from typing import Callable, Optional, Tuple, Union


log = logging.getLogger('mailman.smtp')

# How long a refusal holds, in seconds.
REFUSAL_PERIOD = 900.0
# How long after a login was accepted others need not wait for their turn, in
# seconds.
TRUST_PERIOD = 2.0
# How long a login with credentials that were good the last time waits for one
# that has no answer, in seconds.  No server delays a refusal for so long, and
# it may be one of several addresses that hangs.
PATIENCE = 30.0
# Who waits for its turn looks again after so many seconds, up to twice as
# many by chance.
LOOK_PERIOD = 0.05
public(LOOK_PERIOD=LOOK_PERIOD, PATIENCE=PATIENCE,
       REFUSAL_PERIOD=REFUSAL_PERIOD, TRUST_PERIOD=TRUST_PERIOD)

_UNKNOWN = State(float('-inf'))

Text = Union[bytes, str]


def _nothing(*ignore: object) -> None:
    """Nobody is told."""


@public
class Turn:
    """The right to try a login; a context manager."""

    def __init__(self, accepted: Callable[[], None] = _nothing,
                 refused: Callable[[int, Text], None] = _nothing,
                 over: Callable[[], None] = _nothing) -> None:
        """Prepare; without arguments for a connection that is on its own.

        :param accepted: See the method.
        :param refused: Likewise.
        :param over: Called once when the turn is over.
        """
        self._accepted = accepted
        self._refused = refused
        self._over = over

    def __enter__(self) -> 'Turn':
        return self

    def __exit__(self, *ignore: object) -> None:
        """Let the next one have its turn."""
        over, self._over = self._over, _nothing
        over()

    def accepted(self) -> None:
        """Take note that the server has accepted the login."""
        self._accepted()

    def refused(self, code: int, text: Text) -> None:
        """Take note that the server has refused the login for good.

        :param code: Its reply code.
        :param text: Its text, which shows no secret.
        """
        self._refused(code, text)


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
        self._file = StateFile(directory, credentials)
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
                self._file.remove()

    def _refusal_in(self, state: State) -> Optional[Tuple[int, bytes]]:
        now = self._clock()
        left = min(state.at, now) + REFUSAL_PERIOD - now
        if not state.code or left <= 0:
            return None
        return state.code, (
            f'{state.text} (the login is not tried again for '
            f'{left / 60:.0f} min)').encode()

    def _is_trusted(self, state: State) -> bool:
        return not state.code and (
            0 <= self._clock() - state.at < TRUST_PERIOD)

    def _was_good(self, state: State) -> bool:
        return not state.code and state != _UNKNOWN

    async def turn(self, timeout: float) -> Turn:
        """See `Access.turn`.

        :raises OSError: if this process can open no more files.
        """
        loop = asyncio.get_running_loop()
        begin = loop.time()
        while True:
            turn = self._try()
            if turn is not None:
                return turn
            waited = loop.time() - begin
            if waited >= PATIENCE and self._was_good(self._state()):
                return self._turn()
            if waited >= timeout:
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
            return self._turn()
        try:
            descriptor = self._file.lock(self._clock())
        except OSError as error:
            if error.errno in LOCAL_LIMITS:
                raise
            self._go_without(error)
            return self._own_turn()
        if descriptor is None:
            return None
        # Perhaps it was judged just before.
        if self._state() != state:
            os.close(descriptor)
            return self._try()
        return self._turn(partial(os.close, descriptor))

    def _turn(self, over: Callable[[], None] = _nothing) -> Turn:
        return Turn(self._note_accepted, self._note_refused, over)

    def _own_turn(self) -> Optional[Turn]:
        """Return a turn for want of files, unless this process has one."""
        if self._is_trying:
            return None
        self._is_trying = True
        return self._turn(self._end_own_turn)

    def _end_own_turn(self) -> None:
        self._is_trying = False

    # What the turns tell.

    def _note_accepted(self) -> None:
        if not self._is_trusted(self._state()):
            self._write(State(self._clock()))

    def _note_refused(self, code: int, text: Text) -> None:
        """Take note that a login was refused; say so, unless it was said."""
        was_refused = self._refusal_in(self._state()) is not None
        state = State(self._clock(), code, printable(text)).shortened()
        self._write(state)
        if not was_refused:
            log.error(
                '%s: the login is refused with "%s"; %s; nobody on this host '
                'tries it again until that has changed, or for %.0f min',
                self._relay, f'{code} {state.text}', self._remedy,
                REFUSAL_PERIOD / 60)

    # The file, or what there is in its place.

    def _state(self) -> State:
        with suppress(OSError):
            found = self._file.read()
            if found is not None:
                return max(found, self._own)
        return self._own

    def _state_by_now(self) -> State:
        """Return the state, after a look at the clock.

        If that was set back, a refusal is no older than now; it would hold
        for too long, or another login would be refused.
        """
        state, now = self._state(), self._clock()
        if state.code and state.at > now:
            state = state._replace(at=now)
            self._write(state)
        return state

    def _write(self, state: State) -> None:
        try:
            self._file.write(state)
        except OSError as error:
            self._own = state
            self._go_without(error)
            return
        self._own = _UNKNOWN
        if self._is_without:
            self._is_without = False
            log.info('%s: a login that is refused is tried by one process '
                     'again', self._relay)

    def _go_without(self, error: OSError) -> None:
        if not self._is_without:
            self._is_without = True
            log.warning(
                '%s: a login that is refused may be tried by each process, '
                'because of "%s"; mend %s', self._relay, error,
                self._file.directory)
