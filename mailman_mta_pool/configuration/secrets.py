# SPDX-License-Identifier: GPL-3.0-or-later
"""Passwords that stand in a file of their own, or that a program prints."""

import os
import stat
import time
import shlex

from mailman_mta_pool.configuration.files import (
    ConfigurationError,
    PASSWORD_KEYS,
    read_octets,
    Section,
    TOKEN_KEYS,
)
from mailman_mta_pool.programs import (
    arguments_in,
    FAILURE_PAUSE,
    line_in,
    MAX_LENGTH,
    output_of,
    ProgramFailed,
)
from mailman_mta_pool.secret import Secret
from public import public
from typing import Callable, Dict, List, NamedTuple, Optional, Tuple


@public
class SecretUnavailable(ConfigurationError):
    """A program printed no password, which may be otherwise a moment later."""


@public
def password_key_of(section: Section) -> str:
    """Return the key that says what to log in at a relay with, '' for none.

    :param section: The section of the relay.
    :raises ConfigurationError: if there are two.
    """
    said = [key for key in PASSWORD_KEYS + TOKEN_KEYS if section.text(key)]
    if len(said) > 1:
        raise section.mistake(
            said[1], f'{said[0]} says what to log in with, too; remove one of '
            'them')
    return said[0] if said else ''


@public
def read_secret(section: Section, key: str) -> Secret:
    """Return the secret in the file that a key names.

    :param section: The section of a relay.
    :param key: The key, such as `password_file`.
    :raises ConfigurationError: for a file that cannot be read, or that holds
        no secret.
    """
    path = section.text(key)
    what = key.rpartition('_')[0].replace('_', ' ')
    if not os.path.isabs(path):
        raise section.mistake(
            key, f'{path!r} is not the absolute path of a file')
    try:
        octets = read_octets(path, MAX_LENGTH + 3)
    except (OSError, ValueError) as error:
        raise section.mistake(
            key, f'{path}: {getattr(error, "strerror", None) or error}; it '
            "has to be a file that Mailman's user may read") from None
    try:
        return Secret(line_in(octets))
    except ValueError as error:
        problem = str(error)
    raise section.mistake(
        key, f'{path} {problem}; it has to hold the {what} on one line, and '
        'nothing else')


@public
def run_for_password(section: Section, *,
                     clock: Callable[[], float] = time.monotonic,
                     sleep: Callable[[float], None] = time.sleep) -> Secret:
    """Return the password that the program of `password_command` prints.

    It must not be called in the network thread, for it waits.

    :param section: The section of a relay.
    :param clock: Seconds that only grow.
    :param sleep: Waits for so many seconds.
    :raises SecretUnavailable: if there is no password within
        `COMMAND_TIMEOUT`, for whatever reason.
    """
    arguments = command_of(section, 'password_command')
    try:
        octets = output_of(arguments, clock=clock, sleep=sleep)
    except ProgramFailed as error:
        problem = str(error)
    else:
        try:
            return Secret(line_in(octets))
        except ValueError as error:
            problem = f'printed what {error}'
    mistake = section.mistake('password_command', (
        f'the program {problem}; run it by hand as the user of Mailman, it '
        'has to print the password on one line'))
    raise SecretUnavailable(mistake.place, mistake.key, str(mistake.value))


@public
class Programs:
    """Runs programs for passwords, and none too often that has failed."""

    def __init__(self, run: Callable[[Section], Secret] = run_for_password,
                 clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing is run yet.

        :param run: Returns the password that the program of a section prints.
        :param clock: Seconds that only grow.
        """
        self._run = run
        self._clock = clock
        # Of each command that has failed, when, and the error.
        self._failures: Dict[
            Tuple[str, ...], Tuple[float, SecretUnavailable]] = {}
        # When each command was last run again.
        self._again: Dict[Tuple[str, ...], float] = {}

    def __call__(self, section: Section) -> Secret:
        """Return the password that the program of a relay's section prints.

        After a failure the same program is not run for `FAILURE_PAUSE`, so
        that one that hangs delays no post but the first.

        :param section: The section of a relay.
        :raises SecretUnavailable: as with `run_for_password`.
        """
        key = section.name, section.text('password_command')
        if key in self._failures:
            when, error = self._failures[key]
            if self._clock() < when + FAILURE_PAUSE:
                raise error
            del self._failures[key]
        try:
            return self._run(section)
        except SecretUnavailable as error:
            self._failures[key] = self._clock(), error
            raise

    def again(self, section: Section) -> Optional[Secret]:
        """Run the program of a relay's section for what may be another one.

        :param section: The section of a relay.
        :return: The password; None if the program was run again within
            `FAILURE_PAUSE`.
        :raises SecretUnavailable: as with `run_for_password`.
        """
        key = section.name, section.text('password_command')
        now = self._clock()
        if key not in self._failures and (
                now < self._again.get(key, float('-inf')) + FAILURE_PAUSE):
            return None
        self._again[key] = now
        return self(section)


@public
def command_of(section: Section, key: str) -> List[str]:
    """Return the program and the arguments that a key names.

    :param section: The section of a relay.
    :param key: The key, such as `password_command`.
    :raises ConfigurationError: for a text that cannot be divided into
        arguments.  The text is not shown, as a password may be among them.
    """
    try:
        return arguments_in(section.text(key))
    except ValueError as error:
        raise section.mistake(
            key, f'{error}; every quotation mark needs another one that ends '
            'it') from None


@public
class Exposure(NamedTuple):
    """A file that has a secret, and that others may read.

    :ivar path: The file.
    :ivar what: What it has, such as 'a password'.
    :ivar who: Who else may read it.
    :ivar remedy: The command that mends that.
    """

    path: str
    what: str
    who: str
    remedy: str

    def __str__(self) -> str:
        return (f'{self.path} has {self.what}, and {self.who} may read it; '
                f'`{self.remedy}` mends that')


@public
def exposure(path: str, what: str = 'a password') -> Optional[Exposure]:
    """Return who else may read a file that has a secret, and the remedy.

    A group may be the way by which Mailman's user reads the file of another
    user; so Debian has it.

    :param path: The file.
    :param what: What it has.
    :return: None if nobody else may read it, or if that cannot be found out.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    is_ours = status.st_uid == os.geteuid()
    groups = {os.getegid(), *os.getgroups()}
    if status.st_mode & stat.S_IROTH:
        who, remedy = 'every user of this host', 'go-r' if is_ours else 'o-r'
    elif status.st_mode & stat.S_IRGRP and (
            is_ours or status.st_gid not in groups):
        who, remedy = 'its group', 'g-r'
    else:
        return None
    return Exposure(path, what, who, f'chmod {remedy} {shlex.quote(path)}')
