# SPDX-License-Identifier: GPL-3.0-or-later
"""The other end of a session's socket, and a clock that the test winds."""

import time
import socket
import asyncio
import selectors
import threading

from contextlib import contextmanager
from mailman_mta_pool.connection.session import Session
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


class _Selector(selectors.DefaultSelector):
    """Tells a client whenever the loop is about to wait."""

    def __init__(self, client):
        super().__init__()
        self._client = client

    def select(self, timeout=None):
        if timeout is not None and timeout <= 0:
            return super().select(timeout)
        wound = self._client.look()
        events = super().select(
            0 if wound else PATIENCE if timeout is None else timeout)
        if not events and timeout is None:
            raise TimeoutError('the session would wait for ever')
        self._client.tick()
        return events


class _Loop(asyncio.SelectorEventLoop):
    """A loop with the clock of a dialogue."""

    def __init__(self, client, dialogue):
        self._dialogue = dialogue
        super().__init__(_Selector(client))

    def time(self):
        return self._dialogue.now


@public
class Client:
    """A session, and all that happens in it, on a loop of its own.

    :ivar conversation: Its engine.
    :ivar loop: The loop, whose clock is that of the dialogue.
    :ivar session: The session itself.
    :ivar outcomes: What it has reported.
    :ivar sends: The octets of each send, as text.
    :ivar heard: All that was read.
    :ivar looks: How often it has waited.
    """

    def __init__(self, sock, dialogue, on_look=None, step=None, **timeouts):
        """Take over a socket.

        :param dialogue: A `Dialogue`, whose conversation is used.
        :param on_look: Called with the client whenever it is about to wait,
            when all that can be sent has been sent.  What wakes the loop has
            to go by its `call_soon_threadsafe`, as from another thread.
        :param step: How many seconds pass with each wait, which then takes no
            time in the world; None is for the world's clock.
        :param timeouts: Those that differ from a generous default.
        """
        self.conversation = dialogue.conversation
        self.outcomes = []
        self.sends = []
        self.heard = b''
        self.looks = 0
        self._dialogue = dialogue
        self._on_look = on_look
        self._step = step
        self._begun = time.monotonic()
        self.loop = _Loop(self, dialogue)
        self._timeouts = Timeouts(**dict(
            dict.fromkeys(('mail', 'rcpt', 'data', 'block', 'end'),
                          PATIENCE), **timeouts))
        sock.setblocking(False)
        self.session = self.loop.run_until_complete(self._begin(sock))

    async def _begin(self, sock):
        return Session(
            sock, self.conversation, self._timeouts, trace=self._trace)

    @property
    def now(self):
        """What its clock says."""
        return self._dialogue.now

    def look(self):
        """Take note that the loop is about to wait.

        :return: True if the waiting is to take no time in the world.
        """
        self.looks += 1
        if self._on_look is not None:
            self._on_look(self)
        return self._step is not None

    def tick(self):
        """Let the clock go on after a wait."""
        if self._step is None:
            self._dialogue.now = time.monotonic() - self._begun
        else:
            self._dialogue.now += self._step

    def run(self, *transactions):
        """Send them, and return what has become of each recipient."""
        waiting = list(reversed(transactions))
        self.converse(lambda octets: waiting.pop() if waiting else None)
        return self.fates()

    def converse(self, feed, report=None):
        """Run the session.

        :param feed: See `ITransactionConnection.converse`.
        :param report: Likewise; by default the outcomes are kept.
        """
        self.complete(self.session.run(feed, report or self.outcomes.append))

    def complete(self, main):
        """Run a coroutine to its end; its time begins now.

        :return: What it returns.
        """
        if self._step is None:
            self.tick()
        return self.loop.run_until_complete(main)

    def quit(self):
        """Say QUIT, and close.

        :return: True if the server has answered.
        """
        return self.complete(self.session.quit())

    def close(self):
        """Close the socket and the loop."""
        self.session.close()
        self.loop.close()

    def _trace(self, direction, octets):
        if direction == '>':
            self.sends.append(octets.decode('latin-1'))
        else:
            self.heard += octets

    def fates(self):
        """Return the names of all that was reported so far."""
        return [[result.fate.name for result in outcome.results]
                for outcome in self.outcomes]
