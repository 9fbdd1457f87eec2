# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs of the operator's that print a password or a token.

It is not for the network thread, for it waits.
"""

import os
import time
import shlex
import atexit
import shutil
import signal
import subprocess

from contextlib import suppress
from public import public
from typing import Callable, List, Optional, Set


# How many seconds a program may take.
COMMAND_TIMEOUT = 10.0
# How many seconds there are between two looks at what it has printed.
LOOK_INTERVAL = 0.02
# How many seconds a program that has failed is not run again.
FAILURE_PAUSE = 60.0
# No server takes a longer password or token; in octets.
MAX_LENGTH = 8192
public(COMMAND_TIMEOUT=COMMAND_TIMEOUT, FAILURE_PAUSE=FAILURE_PAUSE,
       MAX_LENGTH=MAX_LENGTH)
# Those that run now.
_running: Set['subprocess.Popen[bytes]'] = set()


@public
class ProgramFailed(Exception):
    """A program printed nothing of use; the text is what it did."""


@public
def output_of(arguments: List[str], most: int = MAX_LENGTH, *,
              clock: Callable[[], float] = time.monotonic,
              sleep: Callable[[float], None] = time.sleep) -> bytes:
    """Run a program, and return what it prints.

    What the program prints to standard error is read by nobody, as it may
    hold a secret, too.

    :param arguments: The program and its arguments; no shell looks at them.
    :param most: How many octets it may print, beside the end of the line.
    :param clock: Seconds that only grow.
    :param sleep: Waits for so many seconds.
    :raises ProgramFailed: if it cannot be started, does not end within
        `COMMAND_TIMEOUT`, fails, or prints too much.
    """
    try:
        # In a session of its own, so that what it starts ends with it.
        process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, start_new_session=True)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        number = getattr(error, 'errno', None)
        raise ProgramFailed('cannot be started: ' + (
            os.strerror(number) if number else 'no such program')) from None
    _running.add(process)
    try:
        octets = _output_of(
            process, most, clock() + COMMAND_TIMEOUT, clock, sleep)
    finally:
        _end(process)
        _running.discard(process)
    if octets is None:
        raise ProgramFailed(
            f'has printed nothing to its end within {COMMAND_TIMEOUT:g} s')
    if len(octets) > most + 2:
        raise ProgramFailed(f'printed what is longer than {most} octets')
    if process.returncode:
        raise ProgramFailed(f'ended with status {process.returncode}')
    return octets


@public
def can_run(arguments: List[str]) -> bool:
    """Return True if the program is there, and this user may run it.

    Nothing is run.

    :param arguments: The program and its arguments.
    """
    return shutil.which(arguments[0]) is not None


@public
def arguments_in(command: str) -> List[str]:
    """Return a command as arguments; no shell looks at them.

    :param command: The text of a key.
    :raises ValueError: for a text that cannot be divided into arguments; it
        says why, and does not show the text.
    """
    return shlex.split(command)


@public
def line_in(octets: bytes) -> str:
    """Return the only line of some octets.

    :param octets: What a program has printed, or a file holds.
    :raises ValueError: if it is no line that can be a secret; it says why,
        after 'it', and shows nothing.
    """
    line = octets
    for end in (b'\r\n', b'\n'):
        if octets.endswith(end):
            line = octets[:-len(end)]
            break
    problem = _problem_with(line)
    if problem is not None:
        raise ValueError(problem)
    return line.decode('utf-8')


def _problem_with(line: bytes) -> Optional[str]:
    """Return why some octets are no password, or None."""
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


def _output_of(process: 'subprocess.Popen[bytes]', most: int, deadline: float,
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
            while len(octets) <= most + 2:
                more = os.read(descriptor, most + 3)
                octets += more
                if not more:
                    break
        if has_ended or len(octets) > most + 2:
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
        _kill(process)
        process.wait()


def _kill(process: 'subprocess.Popen[bytes]') -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@atexit.register
def _end_all() -> None:
    """End the programs that run when this process ends.

    The threads that wait for them end without a chance to do so.
    """
    for process in list(_running):
        if process.poll() is None:
            _kill(process)
