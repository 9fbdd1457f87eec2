# SPDX-License-Identifier: GPL-3.0-or-later

"""Postfix's load generators: `smtp-sink` and `smtp-source`."""

import os
import re
import time
import shutil
import tempfile
import subprocess

from public import public
from tests.servers.loopback import free_port, HOST, is_listening, wait_until


# The display is overwritten after each message, and the last one counts.
COUNTERS = re.compile(r'sess=(\d+) quit=(\d+) mesg=(\d+)')
# Only root may and must give up its privileges.
UNPRIVILEGED = 'nobody'


@public
def available():
    """Tell why the load generators cannot be run here.

    :return: The empty string if they can, else the reason.
    """
    missing = [name for name in ('smtp-sink', 'smtp-source')
               if shutil.which(name) is None]
    return 'not installed: {}'.format(', '.join(missing)) if missing else ''


@public
class SMTPSink:
    """A server that throws away what it is sent, faster than any other.

    It offers PIPELINING, but no CHUNKING.

    :param options: Further options of smtp-sink, for example
        `'-W', 'MAIL:1'` to wait a second at MAIL, or `'-p'` to offer no
        PIPELINING.
    :param counting: Count sessions and messages, see `counters()`.  It costs
        smtp-sink a system call for each message.
    """

    def __init__(self, *options, counting=False):
        self._options = options
        self._counting = counting
        self.host = HOST
        self.port = None
        self.pid = None

    def __enter__(self):
        self.port = free_port()
        command = ['smtp-sink', '-4', *self._options]
        if self._counting:
            command.append('-c')
        if os.geteuid() == 0:
            command += ['-u', UNPRIVILEGED]
        command += ['inet:{}:{}'.format(HOST, self.port), '128']
        self._display = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._display,
            stderr=subprocess.DEVNULL)
        self.pid = self._process.pid
        try:
            wait_until(self._is_ready, 'smtp-sink')
        except BaseException:
            self.__exit__()
            raise
        return self

    def _is_ready(self):
        if self._process.poll() is not None:
            raise OSError('smtp-sink did not start: {}'.format(
                self._process.args))
        return is_listening(self.port)

    def __exit__(self, *ignore):
        self._process.terminate()
        self._process.wait()
        self._display.close()

    def counters(self):
        """Return the numbers of sessions and of messages so far.

        The connections by which a test looks whether the server is up are
        sessions too.

        :return: (sessions, messages), both zero if `counting` is off.
        """
        self._display.seek(0)
        found = COUNTERS.findall(self._display.read().decode())
        return (int(found[-1][0]), int(found[-1][2])) if found else (0, 0)


@public
def smtp_source(port, messages, sessions=1, recipients=1, length=2000,
                reuse=True, options=(), deadline=600):
    """Send messages as fast as `smtp-source` can, without pipelining.

    :param port: The server's port on the loopback interface.
    :param messages: How many messages to send in all.
    :param sessions: How many connections send at the same time.
    :param recipients: How many recipients each message has.
    :param length: The length of the content in octets, headers excluded.
    :param reuse: Send more than one message over each connection.
    :param options: Further options of smtp-source.
    :param deadline: The longest time, in seconds.
    :return: How long it took, in seconds.
    :raises subprocess.CalledProcessError: when the server refuses something.
    :raises subprocess.TimeoutExpired: when the deadline passes.
    """
    command = ['smtp-source', '-4', '-f', 'ant-bounces@example.com',
               '-t', 'anne@example.org', '-m', str(messages),
               '-s', str(sessions), '-r', str(recipients), '-l', str(length)]
    if reuse:
        command.append('-d')
    command += [*options, 'inet:{}:{}'.format(HOST, port)]
    start = time.monotonic()
    subprocess.run(command, check=True, timeout=deadline,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - start
