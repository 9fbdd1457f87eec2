# SPDX-License-Identifier: GPL-3.0-or-later
"""A server that lets messages through when a test says so.

A post can be looked at in mid-delivery for as long as that takes, on a quick
machine and on a slow one.
"""

import threading

from public import public
from tests.scripted import CLOSE, Scripted
from tests.servers.loopback import wait_until


# For thousands of messages, on a machine that has much else to do.
DEADLINE = 300


@public
class Gated(Scripted):
    """A scripted server; a context manager.

    No message is accepted before `let`: its end is answered later.

    :param options: See `Scripted`.
    """

    def __init__(self, **options):
        super().__init__(self._answer, **options)
        self._gate = threading.Condition()
        self._free = self._held = self._times_dropped = 0
        self._is_open = False

    def __exit__(self, *exception):
        self.drop()
        super().__exit__(*exception)

    def _answer(self, command, session):
        verb, *arguments = command.upper().split()
        if verb != '.' and (verb != 'BDAT' or 'LAST' not in arguments):
            return None
        with self._gate:
            before = self._times_dropped
            self._held += 1
            self._gate.wait_for(
                lambda: self._is_open or self._free or
                self._times_dropped != before)
            self._held -= 1
            if self._times_dropped != before:
                return CLOSE
            if not self._is_open:
                self._free -= 1

    @property
    def is_holding(self):
        """True if a message waits, and none is on its way through."""
        with self._gate:
            return self._held > 0 and not self._free

    def let(self, count):
        """Let so many more messages through, and wait until another waits.

        :param count: How many; there must be more.
        """
        total = len(self.accepted) + count
        with self._gate:
            self._free += count
            self._gate.notify_all()
        wait_until(lambda: len(self.accepted) == total and self.is_holding,
                   f'{count} messages and another', DEADLINE)

    def let_all(self):
        """Let all messages through, from now on."""
        with self._gate:
            self._is_open = True
            self._gate.notify_all()

    def drop(self):
        """Close the connections whose messages wait, and accept none."""
        with self._gate:
            self._times_dropped += 1
            self._gate.notify_all()
