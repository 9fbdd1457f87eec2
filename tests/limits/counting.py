# SPDX-License-Identifier: GPL-3.0-or-later
"""A server that counts what several processes send it, by its own clock."""

import os
import sys
import time
import selectors
import subprocess

from collections import deque
from contextlib import suppress
from public import public
from socket import AF_UNIX, socket


@public
class Counter:
    """A strict server in this process, and the processes that send to it.

    :ivar refused: How many messages came although the limit was used up.
    :ivar accepted: How many came in all, by the number of the connection.
    """

    def __init__(self, directory, count, period):
        self.count, self.period = count, period
        self.refused = 0
        self.accepted = {}
        self.processes = []
        self.silent = set()
        self._times = deque()
        self._path = os.path.join(directory, 'server')
        self._directory = directory
        self._listener = socket(AF_UNIX)
        self._listener.bind(self._path)
        self._listener.listen()
        self._selector = selectors.DefaultSelector()

    def start(self, storage='file', hosts=1, host='', prefix=()):
        """Start a process.

        :param host: Which host it is on.
        :return: Its number.
        """
        number = len(self.processes)
        directory = os.path.join(self._directory, 'limits' + host)
        self.processes.append(subprocess.Popen(
            (*prefix, sys.executable, '-m', 'tests.limits.sender', directory,
             storage, str(hosts), self._path, str(self.count),
             str(self.period)), stderr=subprocess.PIPE))
        connection, _ = self._listener.accept()
        self._selector.register(
            connection, selectors.EVENT_READ, number)
        self.accepted[number] = 0
        return number

    def serve(self, is_over, deadline=60.0):
        """Answer to messages until something is true.

        :raises TimeoutError: if that takes too long.
        """
        end = time.monotonic() + deadline
        while not is_over():
            if time.monotonic() > end:
                raise TimeoutError(
                    'served {} in {} s'.format(self.accepted, deadline))
            for key, _ in self._selector.select(0.1):
                self._hear(key.fileobj, key.data)

    def _hear(self, connection, number):
        try:
            lines = connection.recv(4096).count(b'\n')
        except ConnectionError:
            lines = 0
        if not lines:
            self._selector.unregister(connection)
            connection.close()
            return
        now = time.monotonic()
        for _ in range(lines):
            while self._times and self._times[0] <= now - self.period:
                self._times.popleft()
            self.refused += len(self._times) >= self.count
            self._times.append(now)
            self.accepted[number] += 1
        if number not in self.silent:
            # It may have been killed since.
            with suppress(ConnectionError):
                connection.send(b'reply\n' * lines)

    def close(self):
        """End the processes.

        :return: What each has logged.
        """
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()
        self._selector.close()
        self._listener.close()
        return [process.communicate(timeout=30)[1].decode()
                for process in self.processes]
