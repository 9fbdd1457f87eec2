# SPDX-License-Identifier: GPL-3.0-or-later
"""Passwords that stand in a file of their own, or that a program prints."""

import os
import stat
import time
import shlex
import signal
import subprocess

from contextlib import suppress
from mailman_mta_pool.configuration.files import (
    ConfigurationError,
    read_octets,
    Section,
)
from public import public
from typing import Callable, Dict, List, Optional, Tuple


# How many seconds a program may take to print a password.
COMMAND_TIMEOUT = 10.0
# How many seconds there are between two looks at what it has printed.
LOOK_INTERVAL = 0.02
# How many seconds a program that has failed is not run again.
FAILURE_PAUSE = 60.0
# No server takes a longer password; in octets.
MAX_LENGTH = 8192
public(
    COMMAND_TIMEOUT=COMMAND_TIMEOUT, FAILURE_PAUSE=FAILURE_PAUSE,
    MAX_LENGTH=MAX_LENGTH)


@public
class SecretUnavailable(ConfigurationError):
    """A program printed no password, which may be otherwise a moment later."""


@public
def read_password(section: Section) -> str:
    """Return the password in the file that `password_file` names.

    :param section: The section of a relay.
    :raises ConfigurationError: for a file that cannot be read, or that holds
        no password.
    """
    key = 'password_file'
    path = section.text(key)
    if not os.path.isabs(path):
        raise section.mistake(
            key, f'{path!r} is not the absolute path of a file')
    try:
        octets = read_octets(path, MAX_LENGTH + 3)
    except (OSError, ValueError) as error:
        raise section.mistake(
            key, f'{path}: {getattr(error, "strerror", None) or error}; it '
            "has to be a file that Mailman's user may read") from None
    problem = _problem_with(octets)
    if problem is not None:
        raise section.mistake(
            key, f'{path} {problem}; it has to hold the password on one line, '
            'and nothing else')
    return _line(octets)


@public
def run_for_password(section: Section, *,
                     clock: Callable[[], float] = time.monotonic,
                     sleep: Callable[[float], None] = time.sleep) -> str:
    """Return the password that the program of `password_command` prints.

    It must not be called in the network thread, for it waits.  What the
    program prints to standard error is read by nobody, as it may hold a
    password, too.

    :param section: The section of a relay.
    :param clock: Seconds that only grow.
    :param sleep: Waits for so many seconds.
    :raises SecretUnavailable: if there is no password within
        `COMMAND_TIMEOUT`, for whatever reason.
    """
    key = 'password_command'

    def failure(problem: str) -> ConfigurationError:
        mistake = section.mistake(key, (
            f'the program {problem}; run it by hand as the user of Mailman, '
            'it has to print the password on one line'))
        return SecretUnavailable(
            mistake.place, mistake.key, str(mistake.value))
    arguments = command_of(section)
    try:
        # In a session of its own, so that what it starts ends with it.
        process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, start_new_session=True)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        number = getattr(error, 'errno', None)
        raise failure('cannot be started: ' + (
            os.strerror(number) if number else 'no such program')) from None
    try:
        octets = _output_of(process, clock() + COMMAND_TIMEOUT, clock, sleep)
    finally:
        _end(process)
    if octets is None:
        raise failure(f'has printed nothing to its end within '
                      f'{COMMAND_TIMEOUT:g} s')
    problem = _problem_with(octets)
    if process.returncode and len(octets) <= MAX_LENGTH:
        problem = f'ended with status {process.returncode}'
    elif problem is not None:
        problem = f'printed what {problem}'
    if problem is not None:
        raise failure(problem)
    return _line(octets)


@public
class Programs:
    """Runs programs for passwords, and none too often that has failed."""

    def __init__(self, run: Callable[[Section], str] = run_for_password,
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

    def __call__(self, section: Section) -> str:
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


@public
def command_of(section: Section) -> List[str]:
    """Return `password_command` as arguments; no shell looks at them.

    :param section: The section of a relay.
    :raises ConfigurationError: for a text that cannot be divided into
        arguments.  The text is not shown, as a password may be among them.
    """
    try:
        return shlex.split(section.text('password_command'))
    except ValueError as error:
        raise section.mistake(
            'password_command', f'{error}; every quotation mark needs '
            'another one that ends it') from None


def _output_of(process: 'subprocess.Popen[bytes]', deadline: float,
               clock: Callable[[], float],
               sleep: Callable[[float], None]) -> Optional[bytes]:
    """Return what a program prints until it ends; None if it does not end.

    Somebody who has inherited the pipe may keep it open for longer, so it is
    the end of the program that counts.
    """
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    os.set_blocking(descriptor, False)
    octets = b''
    while True:
        has_ended = process.poll() is not None
        with suppress(BlockingIOError):
            while len(octets) <= MAX_LENGTH + 2:
                more = os.read(descriptor, MAX_LENGTH + 3)
                octets += more
                if not more:
                    break
        if has_ended or len(octets) > MAX_LENGTH + 2:
            return octets
        if clock() >= deadline:
            return None
        sleep(LOOK_INTERVAL)


def _end(process: 'subprocess.Popen[bytes]') -> None:
    """End a program that is still there, and what it has started.

    What a program leaves behind that has ended by itself, an agent with the
    key for the next time, is left alone.
    """
    assert process.stdout is not None
    process.stdout.close()
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _problem_with(octets: bytes) -> Optional[str]:
    """Return why some octets are no password, or None."""
    line = _without_line_end(octets)
    if not line:
        return 'is empty'
    if len(line) > MAX_LENGTH:
        return f'is longer than {MAX_LENGTH} octets'
    if b'\n' in line or b'\r' in line or b'\0' in line:
        return 'is more than one line of text'
    try:
        line.decode('utf-8')
    except UnicodeDecodeError:
        return 'is not text in UTF-8'
    return None


def _without_line_end(octets: bytes) -> bytes:
    for end in (b'\r\n', b'\n'):
        if octets.endswith(end):
            return octets[:-len(end)]
    return octets


def _line(octets: bytes) -> str:
    return _without_line_end(octets).decode('utf-8')


@public
def exposure(path: str, what: str = 'a password') -> Optional[str]:
    """Return who else may read a file that has a secret, and the remedy.

    A group may be the way by which Mailman's user reads the file of another
    user; so Debian has it.

    :param path: The file.
    :param what: What is in it that nobody else is to know.
    :return: A phrase, or None if nobody else may read it, or if that cannot
        be found out.
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
    return (f'{path} has {what}, and {who} may read it; '
            f'`chmod {remedy} {shlex.quote(path)}` mends that')
