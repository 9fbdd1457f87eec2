# SPDX-License-Identifier: GPL-3.0-or-later
"""The other end of a session's socket, and a clock that the test winds."""

import time
import socket
import threading

from contextlib import contextmanager
from mailman_mta_pool.connection.session import Session
from mailman_mta_pool.connection.smtp.steps import drive_alone
from mailman_mta_pool.settings import Timeouts
from public import public


#: Enough for any machine; no test waits so long unless it fails.
PATIENCE = 30


@public
def pair():
    """Return two connected TCP sockets with small buffers."""
    with socket.create_server(('127.0.0.1', 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        ours = socket.socket()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        ours.connect(listener.getsockname())
        theirs, _ = listener.accept()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    for sock in (ours, theirs):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    theirs.settimeout(PATIENCE)
    return ours, theirs


@public
@contextmanager
def served(serve, wrap=None):
    """Let a function be the server, in a thread of its own.

    :param serve: Called with its socket.  What it raises is raised on exit.
    :param wrap: If given, the function that turns its socket into one for
        TLS.
    :return: A context manager; its value is our socket.
    """
    errors = []

    def run():
        try:
            with (theirs if wrap is None else wrap(theirs)) as sock:
                serve(sock)
        except Exception as error:
            errors.append(error)
    ours, theirs = pair()
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield ours
    finally:
        ours.close()
        thread.join(PATIENCE)
        theirs.close()
    if errors:
        raise errors[0]
    if thread.is_alive():
        raise TimeoutError('the server hangs')


@public
def read(sock, octets):
    """Read exactly so many octets, or until the end."""
    parts = []
    while octets:
        part = sock.recv(min(octets, 65536))
        if not part:
            break
        octets -= len(part)
        parts.append(part)
    return b''.join(parts)


@public
class Client:
    """A session, and all that happens in it.

    :ivar conversation: Its engine.
    :ivar session: The session itself.
    :ivar outcomes: What it has reported.
    :ivar sends: The octets of each send, as text.
    :ivar heard: All that was read.
    :ivar looks: How often it has looked at the clock: once before each wait.
    :ivar now: What its own clock says.
    """

    def __init__(self, sock, dialogue, on_look=None, step=None, **timeouts):
        """Take over a socket.

        :param dialogue: A `Dialogue`, whose conversation is used.
        :param on_look: Called with the client whenever it looks at the
            clock, when all that can be sent has been sent.
        :param step: How many seconds pass between two looks at a clock of
            its own; None is for the real one.
        :param timeouts: Those that differ from a generous default.
        """
        self.conversation = dialogue.conversation
        self.outcomes = []
        self.sends = []
        self.heard = b''
        self.looks = 0
        self.now = 0.0
        self._on_look = on_look
        self._step = step
        self.session = Session(
            sock, self.conversation, Timeouts(**dict(
                dict.fromkeys(('mail', 'rcpt', 'data', 'block', 'end'),
                              PATIENCE), **timeouts)),
            clock=self._look, trace=self._trace)

    def _look(self):
        self.looks += 1
        if self._on_look is not None:
            self._on_look(self)
        if self._step is None:
            return time.monotonic()
        self.now += self._step
        return self.now

    def _trace(self, direction, octets):
        if direction == '>':
            self.sends.append(octets.decode('latin-1'))
        else:
            self.heard += octets

    def run(self, *transactions):
        """Send them, and return what has become of each recipient."""
        waiting = list(reversed(transactions))

        def feed():
            if not waiting:
                return None
            transaction = waiting.pop()
            return transaction, transaction.recipients
        drive_alone(self.session.steps(feed, self.outcomes.append))
        return self.fates()

    def fates(self):
        """Return the names of all that was reported so far."""
        return [[result.fate.name for result in outcome.results]
                for outcome in self.outcomes]
