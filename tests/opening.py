# SPDX-License-Identifier: GPL-3.0-or-later
"""A loop whose time passes at once, and servers on it."""

import socket
import asyncio
import selectors

from contextlib import suppress
from public import public


HOST = '127.0.0.1'
# How many seconds of the world's time something must not have happened
# before it is taken for granted that it will not.
GRACE = 0.05

#: Instead of a reply: close the connection.
CLOSE = object()
#: Instead of a reply: an octet of it every ten seconds.
TRICKLE = object()
public(CLOSE=CLOSE, HOST=HOST, TRICKLE=TRICKLE)


class _Selector(selectors.DefaultSelector):
    """It does not wait for timers: their time comes at once."""

    now = 0.0

    def select(self, timeout=None):
        events = super().select(
            timeout if timeout is None else min(timeout, GRACE))
        if not events and timeout:
            self.now += timeout
        return events


@public
class QuickLoop(asyncio.SelectorEventLoop):
    """An event loop with a clock of its own, which begins at 0.

    :ivar found: What `getaddrinfo` finds, as pairs of host and port; None is
        what it was asked for.
    """

    def __init__(self):
        self._clock = _Selector()
        self.found = None
        super().__init__(self._clock)

    def time(self):
        """See `asyncio.loop.time`."""
        return self._clock.now

    def pass_time(self, seconds):
        """Let so many seconds pass."""
        self._clock.now += seconds

    async def getaddrinfo(self, host, port, **keywords):
        """See `asyncio.loop.getaddrinfo`; nobody else is asked."""
        found = [(host, port)] if self.found is None else self.found
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, '',
                 each) for each in found]

    def complete(self, main):
        """Run a coroutine, and cancel what it leaves behind.

        :param main: The coroutine.
        :return: What it returns.
        """
        try:
            return self.run_until_complete(main)
        finally:
            self.run_until_complete(self._cancel_all())

    async def _cancel_all(self):
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@public
class Peer:
    """A server that gives its replies one after the other.

    The first reply is the greeting, the others are each for a line of the
    client's.  After the last one it says nothing.  It is an asynchronous
    context manager.

    :ivar connections: How many there were.
    :ivar gone: How many of them the client has closed.
    :ivar lines: The lines of the client, in all connections.
    """

    def __init__(self, *replies, tls=None, host=HOST):
        """Prepare it.

        :param replies: Each is bytes, a function to be called that returns
            bytes, `CLOSE` or `TRICKLE`.
        :param tls: The server's context for TLS from the start.
        :param host: The address to listen at.
        """
        self.connections = self.gone = 0
        self.lines = []
        self._replies = replies
        self._tls = tls
        self.host = host

    async def __aenter__(self):
        self._changed = asyncio.Event()
        listener = socket.create_server((self.host, 0))
        self.port = listener.getsockname()[1]
        self._server = await asyncio.start_server(
            self._serve, sock=listener, ssl=self._tls)
        return self

    async def __aexit__(self, *ignore):
        self._server.close()

    async def _serve(self, reader, writer):
        self.connections += 1
        with suppress(ConnectionError, asyncio.CancelledError):
            for reply in self._replies:
                if reply is CLOSE:
                    break
                while reply is TRICKLE:
                    writer.write(b'2')
                    await asyncio.sleep(10)
                writer.write(reply() if callable(reply) else reply)
                line = await reader.readline()
                if not line:
                    break
                self.lines.append(line)
            else:
                self.lines.extend([line async for line in reader])
        writer.close()
        with suppress(OSError, asyncio.CancelledError):
            await writer.wait_closed()
        self.gone += 1
        self._changed.set()

    async def all_gone(self):
        """Wait until the clients have closed all connections.

        :raises asyncio.TimeoutError: if one is left open.
        """
        while self.gone < self.connections:
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), 60)
