# SPDX-License-Identifier: GPL-3.0-or-later
"""A screen that is drawn again and again, until Ctrl-C."""

import os
import sys
import errno
import signal

from contextlib import contextmanager, suppress
from mailman_mta_pool.console.terminal import Line, Terminal, terminal_of
from public import public
from typing import Callable, Iterator, List, Optional


# The alternate screen has what was there before come back; see xterm's
# "Control Sequences".
ENTER = '\x1b[?1049h\x1b[?25l'
LEAVE = '\x1b[?25h\x1b[?1049l'
TO_TOP = '\x1b[H'
CLEAR_LINE = '\x1b[K'
CLEAR_BELOW = '\x1b[J'
# They wait until the screen is whole, and are looked for between two of them.
WAITING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP,
           signal.SIGWINCH)
ENDING = (signal.SIGTERM, signal.SIGHUP)
# How often the parent is looked for, in seconds.
PARENT_INTERVAL = 1.0


@public
def watch(page: Callable[[Terminal], List[Line]], interval: float) -> None:
    """Show a page once in each interval, until Ctrl-C.

    A terminal shows it in place, fitted to its size.  Anything else gets one
    block after the other.

    :param page: Returns the lines for a terminal.
    :param interval: How long each is shown, in seconds.
    :raises SystemExit: after SIGTERM or SIGHUP, with their usual status.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, WAITING)
    # `su -c`, and so Debian's mailman-wrapper, keeps Ctrl-C from its command,
    # ends, and would leave it on the terminal.
    parent = os.getppid() if os.isatty(0) or os.isatty(1) else None
    try:
        if terminal_of(sys.stdout, os.environ).is_terminal:
            last = _in_place(page, interval, parent)
            # So that what was seen last is still there to be read.
            _write(_block(terminal_of(sys.stdout, os.environ), last))
        else:
            _one_after_the_other(page, interval, parent)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        # The terminal was closed.
        sys.exit(1)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _in_place(page: Callable[[Terminal], List[Line]], interval: float,
              parent: Optional[int]) -> List[Line]:
    """Return the last page that was shown."""
    lines: List[Line] = []
    with _alternate_screen(), suppress(KeyboardInterrupt):
        while True:
            terminal = terminal_of(sys.stdout, os.environ)
            with _interruptible():
                lines = page(terminal)
            fitted = terminal.fitted(lines)
            # Without a line feed after the last, which would scroll.
            _write(TO_TOP + '\n'.join(
                terminal.styled(line) + CLEAR_LINE
                for line in fitted) + CLEAR_BELOW)
            _wait(interval, parent)
    return lines


def _one_after_the_other(page: Callable[[Terminal], List[Line]],
                         interval: float, parent: Optional[int]) -> None:
    with suppress(KeyboardInterrupt):
        while True:
            terminal = terminal_of(sys.stdout, os.environ)
            with _interruptible():
                lines = page(terminal)
            _write(_block(terminal, lines))
            _wait(interval, parent)


def _block(terminal: Terminal, lines: List[Line]) -> str:
    return ''.join(terminal.styled(line) + '\n' for line in lines)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


@contextmanager
def _alternate_screen() -> Iterator[None]:
    try:
        _write(ENTER)
        yield
    finally:
        # The terminal may be gone.
        with suppress(OSError):
            _write(LEAVE)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C end what may take long, such as a file that hangs."""
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))


def _wait(interval: float, parent: Optional[int]) -> None:
    """Wait for the end of the interval, or for a signal.

    :param interval: In seconds.
    :param parent: The process that is waited for, too; None if its end means
        nothing.
    :raises KeyboardInterrupt: for Ctrl-C, or after the end of the parent.
    :raises SystemExit: for the other signals that end a process.
    """
    received = None
    while received is None and interval > 0:
        received = signal.sigtimedwait(
            WAITING, min(interval, PARENT_INTERVAL))
        interval -= PARENT_INTERVAL
        if parent not in (None, os.getppid()):
            raise KeyboardInterrupt
    if received is None:
        return
    if received.si_signo == signal.SIGINT:
        raise KeyboardInterrupt
    if received.si_signo in ENDING:
        sys.exit(128 + received.si_signo)
    if received.si_signo == signal.SIGTSTP:
        _stop_for_a_while()


def _stop_for_a_while() -> None:
    """Do what Ctrl-Z asks for, and come back with `fg`."""
    is_terminal = sys.stdout.isatty()
    if is_terminal:
        _write(LEAVE)
    os.kill(os.getpid(), signal.SIGSTOP)
    if is_terminal:
        _write(ENTER)
