# SPDX-License-Identifier: GPL-3.0-or-later

"""A look into Mailman's queue directories from outside."""

from __future__ import annotations

import pickle

from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from public import public


# .pck waits, .bak is being worked on, .psv was given up, .tmp is being made.
EXTENSIONS = ('.pck', '.bak', '.psv', '.tmp')


@public
@dataclass(frozen=True)
class Entry:
    """A message in a queue.

    :param path: Its file.
    :param msg: The message.
    :param msgdata: Its metadata.
    """

    path: Path
    msg: Message
    msgdata: dict

    @property
    def recipients(self):
        """The recipients that are still to be served, sorted."""
        return sorted(self.msgdata.get('recipients', ()))


@public
class Queue:
    """A queue directory, which need not exist yet.

    :param directory: The directory.
    """

    def __init__(self, directory):
        self._directory = Path(directory)

    def __repr__(self):
        return f'<Queue {self._directory.name} [{len(self.files)} files]>'

    @property
    def files(self):
        """The files of its entries, oldest first."""
        if not self._directory.is_dir():
            return []
        return sorted(path for path in self._directory.iterdir()
                      if path.suffix in EXTENSIONS)

    @property
    def entries(self):
        """The entries, oldest first; one that vanishes meanwhile is left out.

        :rtype: list of `Entry`
        """
        entries = [self._read(path) for path in self.files
                   if path.suffix != '.tmp']
        return [entry for entry in entries if entry is not None]

    def _read(self, path):
        try:
            with open(path, 'rb') as queued:
                msg = pickle.load(queued)
                msgdata = pickle.load(queued)
        except FileNotFoundError:
            return None
        return Entry(path, msg, msgdata)
