# SPDX-License-Identifier: GPL-3.0-or-later

"""A real PostgreSQL, on a socket and with data of its own."""

import os
import glob
import shutil
import signal
import tempfile
import subprocess
import importlib.util

from public import public
from tests.servers.loopback import make_passable, wait_until


# Debian keeps the programs out of the PATH, by version.
DEBIAN = '/usr/lib/postgresql/*/bin'
# The server refuses to run as root.
USER = 'postgres'
NAMES = ('initdb', 'postgres', 'pg_isready', 'createdb')


def _directory():
    """Return where the programs of the newest version are, or None."""
    places = sorted(glob.glob(DEBIAN), key=lambda name: -int(
        name.split('/')[-2]))
    places += os.get_exec_path()
    for place in places:
        if all(os.access(os.path.join(place, name), os.X_OK)
               for name in NAMES):
            return place
    return None


@public
def available():
    """Tell why PostgreSQL cannot be run here.

    :return: The empty string if it can, else the reason.
    """
    if importlib.util.find_spec('psycopg2') is None:
        return 'not installed: psycopg2'
    if _directory() is None:
        return 'not installed: postgresql (see tests/servers/install.sh)'
    return ''


@public
class PostgreSQL:
    """A PostgreSQL that listens on a Unix socket and nowhere else.

    :ivar url: What Mailman's `[database] url` is for its one database.
    """

    def __init__(self):
        self.directory = None
        self.url = None
        self._server = None
        # Without a name it is whoever we are.
        self._user = USER if os.geteuid() == 0 else None

    def __enter__(self):
        self.directory = tempfile.mkdtemp(prefix='postgresql-')
        try:
            if self._user is not None:
                make_passable(self.directory)
                shutil.chown(self.directory, self._user)
            self._start()
        except BaseException:
            self.__exit__()
            raise
        self.url = (
            'postgresql+psycopg2://mailman@/mailman?host=' + self.directory)
        return self

    def __exit__(self, *ignore):
        if self._server is not None:
            # A fast shutdown, which does not wait for the clients.
            self._server.send_signal(signal.SIGINT)
            self._server.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _command(self, name, *arguments):
        return (os.path.join(_directory(), name),) + arguments

    def _run(self, name, *arguments):
        return subprocess.run(
            self._command(name, *arguments), user=self._user,
            cwd=self.directory, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL).returncode == 0

    def _start(self):
        data = os.path.join(self.directory, 'data')
        if not self._run('initdb', '-D', data, '-U', 'mailman', '-A', 'trust',
                         '-E', 'UTF-8', '--locale=C', '--no-sync'):
            raise OSError('initdb failed')
        # Nobody needs these data after a crash.
        self._server = subprocess.Popen(
            self._command(
                'postgres', '-D', data, '-k', self.directory,
                '-c', 'listen_addresses=', '-c', 'fsync=off'),
            user=self._user, cwd=self.directory, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        wait_until(self._is_ready, 'PostgreSQL')
        if not self._run('createdb', '-h', self.directory, '-U', 'mailman',
                         'mailman'):
            raise OSError('createdb failed')

    def _is_ready(self):
        if self._server.poll() is not None:
            raise OSError('PostgreSQL did not start')
        return self._run(
            'pg_isready', '-h', self.directory, '-U', 'mailman')

    @property
    def pid(self):
        """The id of the server's first process."""
        return self._server.pid
