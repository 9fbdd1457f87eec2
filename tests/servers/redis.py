# SPDX-License-Identifier: GPL-3.0-or-later

"""A real Redis or Valkey, unpacked from Debian's package."""

import os
import shutil
import tempfile
import subprocess

from public import public
from tests.servers.loopback import free_port, HOST, is_listening, wait_until


# Where install.sh puts it.
CACHE = os.environ.get('MTA_POOL_CACHE', '/var/cache/mailman-mta-pool')
PASSWORD = 'not-to-be-shown'


@public
def binary():
    """Return the program, or None."""
    return (shutil.which('redis-server', path=os.path.join(
                CACHE, 'redis', 'usr', 'bin')) or
            shutil.which('redis-server') or shutil.which('valkey-server'))


@public
def available():
    """Tell why the server cannot be run here.

    :return: The empty string if it can, else the reason.
    """
    try:
        import redis.asyncio  # noqa: F401
    except ImportError:
        return 'redis-py is not installed'
    if binary() is None:
        return 'no redis-server (see tests/servers/install.sh)'
    return ''


@public
class Redis:
    """A server on a free port that keeps nothing on the disk.

    :param keeps: Keep what is stored when it is killed.
    :param host: The address of the interface on which to listen.
    :ivar url: What goes into the configuration; it has a password.
    """

    def __init__(self, keeps=False, host=HOST):
        self._keeps = keeps
        self._host = host
        self._process = None
        self.port = None
        self.url = None

    def __enter__(self):
        self._directory = tempfile.mkdtemp(prefix='redis-')
        self.port = free_port()
        self.url = f'redis://:{PASSWORD}@{self._host}:{self.port}/0'
        self.start()
        return self

    def start(self):
        """Start the server, on the same port as before."""
        self._process = subprocess.Popen(
            (binary(), '--bind', self._host, '--port', str(self.port),
             '--requirepass', PASSWORD, '--save', '', '--appendonly',
             'yes' if self._keeps else 'no', '--appendfsync', 'always',
             '--dir', self._directory), stdout=subprocess.DEVNULL)
        wait_until(lambda: is_listening(self.port, self._host), 'Redis')

    def kill(self):
        """Kill the server."""
        self._process.kill()
        self._process.wait()

    def suspend(self, signal):
        """Send the server a signal, such as SIGSTOP."""
        self._process.send_signal(signal)

    def __exit__(self, *exc):
        self.kill()
        shutil.rmtree(self._directory)
