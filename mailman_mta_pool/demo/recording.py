# SPDX-License-Identifier: GPL-3.0-or-later

"""The demo's SMTP server in a process of its own, and its record."""

from __future__ import annotations

import json
import subprocess

from collections import Counter, defaultdict
from dataclasses import dataclass
from mailman_mta_pool.demo.process import Child
from pathlib import Path
from public import public
from tempfile import TemporaryDirectory
from typing import Tuple


@public
class ServerError(Exception):
    """The server did not start."""


@public
@dataclass(frozen=True)
class Accepted:
    """A transaction that the server answered with 250.

    :param time: When, by `time.monotonic`.
    :param connection: The number of the connection, from 1.
    :param sender: The envelope sender.
    :param recipients: The accepted recipients, in the order of the RCPTs.
    :param digest: SHA-256 of the content, dot-stuffing undone, in hex.
    :param octets: The content's length.
    """

    time: float
    connection: int
    sender: str
    recipients: Tuple[str, ...]
    digest: str
    octets: int


@public
class Record:
    """What a server has accepted so far, as read from its record.

    Nothing is read before `refresh`, which reads what is new.

    :param path: The file that the server writes.
    """

    def __init__(self, path):
        self._file = open(path, 'rb')
        self._partial = b''
        self.transactions = []
        self.connections = 0
        self.accepted = 0
        self.recipients = Counter()

    def close(self):
        """Close the file; what was read stays."""
        self._file.close()

    def refresh(self):
        """Read what is new.

        :return: The number of recipients accepted so far; one that was
            accepted twice counts as two.
        """
        data = self._partial + self._file.read()
        lines, newline, self._partial = data.rpartition(b'\n')
        for line in lines.splitlines():
            self._add(json.loads(line))
        return self.accepted

    def _add(self, values):
        if 'recipients' not in values:
            self.connections += 1
            return
        values['recipients'] = tuple(values['recipients'])
        accepted = Accepted(**values)
        self.transactions.append(accepted)
        self.recipients.update(accepted.recipients)
        self.accepted += len(accepted.recipients)

    @property
    def messages(self):
        """How many messages were accepted."""
        return len(self.transactions)

    @property
    def duplicated(self):
        """The recipients served more than once, with their counts."""
        return {recipient: times
                for recipient, times in self.recipients.items() if times > 1}

    @property
    def deliveries(self):
        """What each recipient got: pairs of sender and digest.

        :rtype: dictionary of recipient to sorted list
        """
        received = defaultdict(list)
        for accepted in self.transactions:
            for recipient in accepted.recipients:
                received[recipient].append((accepted.sender, accepted.digest))
        return {recipient: sorted(pairs)
                for recipient, pairs in received.items()}


@public
class RecordingServer:
    """The server as a context manager.

    :param delay: Seconds that each command takes.
    :param pipelining: Whether PIPELINING is offered.
    :param chunking: Whether CHUNKING is offered.
    :param size: The largest message in octets, or None for the default.
    """

    host = '127.0.0.1'

    def __init__(self, delay=0, pipelining=True, chunking=False, size=None):
        self._options = ['--delay', str(delay)]
        if not pipelining:
            self._options.append('--no-pipelining')
        if chunking:
            self._options.append('--chunking')
        if size is not None:
            self._options.extend(['--size', str(size)])
        self._directory = None
        self._process = None
        self.record = None
        self.port = None

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exception):
        self.stop()

    @property
    def pid(self):
        """The server's process id."""
        return self._process.pid

    def start(self):
        """Start it and wait until it listens.

        :raises ServerError: when it does not.
        """
        self._directory = TemporaryDirectory(prefix='mta-pool-server-')
        path = Path(self._directory.name) / 'record'
        path.touch()
        self.record = Record(path)
        self._process = Child(
            '-m', 'mailman_mta_pool.demo.server', '--host', self.host,
            '--record', str(path), *self._options,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            cwd=self._directory.name)
        port = self._process.read_line(timeout=30)
        if not port.strip().isdigit():
            raise ServerError('the SMTP server did not start')
        self.port = int(port)

    def stop(self):
        """End the server; what it recorded has been read."""
        if self._process is not None:
            self._process.stop()
            self._process = None
        if self._directory is not None:
            self.record.refresh()
            self.record.close()
            self._directory.cleanup()
            self._directory = None
