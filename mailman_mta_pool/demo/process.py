# SPDX-License-Identifier: GPL-3.0-or-later

"""Child processes that do not outlive us."""

from __future__ import annotations

import os
import sys
import atexit
import select
import signal
import subprocess

from contextlib import contextmanager
from pathlib import Path
from public import public


# The directory that holds the package, so that the children find the same one
# whether it is installed or run from a checkout.
ROOT = Path(__file__).resolve().parents[2]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@public
@contextmanager
def signals_held():
    """Put signals to stop off until the end of the block.

    A signal between a fork and the assignment of its result would leave a
    process that nobody knows of.
    """
    caught = []

    def remember(signum, frame):
        caught.append(signum)

    try:
        previous = {signum: signal.signal(signum, remember)
                    for signum in SIGNALS}
    except ValueError:
        # This is not the main thread, where no handler runs anyway.
        previous = {}
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(
                signum, signal.SIG_DFL if handler is None else handler)
        for signum in caught:
            signal.raise_signal(signum)


def _environment():
    # Variables that would lead a child to another Mailman site stay here.
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith('MAILMAN_')}
    path = [str(ROOT), environment.get('PYTHONPATH')]
    environment['PYTHONPATH'] = os.pathsep.join(filter(None, path))
    return environment


@public
class Child:
    """A Python process of our own, ended at the latest when we end.

    It gets a session of its own, so that a Ctrl-C at the terminal reaches
    only us, and we decide how it ends.

    :param arguments: What follows the interpreter on the command line.
    :type arguments: sequence of str
    :param options: Passed on to `subprocess.Popen`.
    """

    def __init__(self, *arguments, **options):
        with signals_held():
            self._process = subprocess.Popen(
                (sys.executable,) + arguments, env=_environment(),
                start_new_session=True, **options)
            atexit.register(self.kill)

    def __repr__(self):
        state = 'running' if self.running else f'ended {self.status}'
        return f'<Child {self.pid} [{state}]>'

    @property
    def pid(self):
        """The process id."""
        return self._process.pid

    @property
    def status(self):
        """The exit status, or None while it runs; -9 is a SIGKILL."""
        return self._process.poll()

    @property
    def running(self):
        """True until the process has ended."""
        return self.status is None

    @property
    def idle(self):
        """True while its main thread waits for something, or has ended.

        Where there is no /proc to tell, it is taken to be.
        """
        try:
            stat = Path(f'/proc/{self.pid}/stat').read_text()
        except FileNotFoundError:
            return True
        # The state follows the name, which is in parentheses and may itself
        # contain any; see proc(5).
        return stat.rpartition(')')[2].split()[0] in 'SZ'

    def signal(self, signum):
        """Send a signal, if the process is still there."""
        self._process.send_signal(signum)

    def wait(self, timeout):
        """Wait until it has ended by itself.

        :param timeout: Seconds.
        :return: The exit status.
        :raises subprocess.TimeoutExpired: when it has not.
        """
        return self._process.wait(timeout)

    def communicate(self, data):
        """Feed standard input and wait; the process dies with the wait.

        :return: What came on standard output and standard error.
        :rtype: 2-tuple of bytes
        """
        try:
            return self._process.communicate(data)
        finally:
            self.kill()

    def read_line(self, timeout):
        """The next line of standard output, which must be unbuffered.

        :param timeout: Seconds to wait for it.
        :return: The line; empty when none came in time, or none will.
        :rtype: bytes
        """
        stream = self._process.stdout
        ready = select.select([stream], [], [], timeout)[0]
        return stream.readline() if ready else b''

    def stop(self, timeout=10):
        """End it with SIGTERM, and with SIGKILL after `timeout` seconds.

        :return: The exit status.
        """
        self.signal(signal.SIGTERM)
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            # The process had its chance; the caller sees it in the status.
            pass
        return self.kill()

    def kill(self):
        """End it now.

        :return: The exit status.
        """
        self._process.kill()
        status = self._process.wait()
        for stream in (self._process.stdin, self._process.stdout,
                       self._process.stderr):
            if stream is not None:
                stream.close()
        atexit.unregister(self.kill)
        return status
