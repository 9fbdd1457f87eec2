# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands and replies on a socket of our own, before mail is sent.

The sockets are not those of asyncio's transports: the session that takes a
socket over counts what was handed to the kernel.
"""

import ssl
import socket
import asyncio
import smtplib

from collections import deque
from contextlib import suppress
from functools import partial
from mailman_mta_pool.connection.tls_socket import Stream, TLSSocket
from mailman_mta_pool.errors import ConnectionLost, PhaseTimeout, ProtocolError
from mailman_mta_pool.wire.replies import Reply, ReplyParser
from public import public
from typing import Callable, Deque, Optional, TypeVar


# More than a TLS record holds (RFC 8446, section 5.1), so that TLS keeps
# nothing back of what it has decrypted.
RECEIVE_SIZE = 32 * 1024

Result = TypeVar('Result')


@public
class Dialogue:
    """Commands and replies on one socket, each with a deadline.

    :ivar sock: The socket; another one after TLS has begun.
    :ivar round_trip: The least time in seconds from `hello` to its reply.
    """

    def __init__(self, sock: socket.socket,
                 clock: Callable[[], float]) -> None:
        """Begin; to be called in the network thread.

        :param sock: Connected and non-blocking.
        :param clock: Seconds that only grow, to measure the round trip.
        """
        self.sock: Stream = sock
        self._plain = sock
        self.round_trip = float('inf')
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._parser = ReplyParser()
        self._replies: Deque[Reply] = deque()
        self._broken: Optional[ProtocolError] = None

    async def reply(self, timeout: float) -> Reply:
        """Return the next reply, if it is complete within `timeout` seconds.

        :raises OSError: if it is not, or is none.
        """
        deadline = self._loop.time() + timeout
        while not self._replies:
            if self._broken is not None:
                raise self._broken
            data = await self._when_ready(
                partial(self.sock.recv, RECEIVE_SIZE), deadline,
                f'no reply within {timeout:g} s')
            if not data:
                raise ConnectionLost('the server closed the connection')
            try:
                self._replies.extend(self._parser.feed(data))
            except ProtocolError as error:
                # The good replies before it count.
                self._broken = error
        return self._replies.popleft()

    async def send(self, line: bytes, timeout: float) -> None:
        """Send a line within `timeout` seconds.

        :param line: The line without CRLF.
        :raises OSError: if it cannot be sent.
        """
        deadline = self._loop.time() + timeout
        octets = line + b'\r\n'
        while octets:
            sent = await self._when_ready(
                partial(self.sock.send, octets), deadline,
                f'the server took no octets within {timeout:g} s',
                writing=True)
            octets = octets[sent:]

    async def ask(self, line: bytes, timeout: float) -> Reply:
        """Send a command, and return the reply to it.

        :param line: The command without CRLF.
        :param timeout: How many seconds each of the two may take.
        :raises OSError: if either is not done by then.
        """
        self.check_for_surplus()
        with suppress(ConnectionError, ssl.SSLEOFError):
            # The server may have said why it has closed the connection.
            await self.send(line, timeout)
        return await self.reply(timeout)

    async def hello(self, line: bytes, timeout: float) -> Reply:
        """See `ask`; the round trip is measured."""
        begin = self._clock()
        reply = await self.ask(line, timeout)
        self.round_trip = min(self.round_trip, self._clock() - begin)
        return reply

    @property
    def has_surplus(self) -> bool:
        """True if there is anything that nobody has asked for."""
        return bool(self._replies or self._parser.pending or
                    self._broken is not None)

    def check_for_surplus(self) -> None:
        """Let nothing that came before a command be taken for its reply.

        :raises smtplib.SMTPResponseException: if there was a refusal, such
            as a 421.
        :raises ProtocolError: if there was anything else.
        """
        if self._replies and self._replies[0].code >= 400:
            reply = self._replies[0]
            raise smtplib.SMTPResponseException(reply.code, reply.text)
        if self._broken is not None:
            raise self._broken
        if self.has_surplus:
            raise ProtocolError('the server sent more than its replies')

    async def begin_tls(self, context: ssl.SSLContext, host: str,
                        timeout: float) -> TLSSocket:
        """Turn the connection to TLS, and return its socket.

        :param context: The TLS context.
        :param host: The name in the server's certificate.
        :param timeout: How many seconds the whole handshake may take.
        :raises OSError: if it fails.
        """
        deadline = self._loop.time() + timeout
        sock = TLSSocket(self._plain, context, host)
        self.sock = sock
        await self._when_ready(
            sock.do_handshake, deadline,
            f'the TLS handshake was not over within {timeout:g} s')
        return sock

    async def _when_ready(self, operation: Callable[[], Result],
                          deadline: float, late: str,
                          writing: bool = False) -> Result:
        """Try a non-blocking operation until the socket lets it be done.

        :param writing: What the operation waits for on a socket without TLS.
        :raises PhaseTimeout: with the text `late` at the deadline.
        """
        while True:
            try:
                return operation()
            except ssl.SSLWantReadError:
                writing = False
            except ssl.SSLWantWriteError:
                writing = True
            except BlockingIOError:
                pass
            if not await self._ready(writing, deadline):
                raise PhaseTimeout(late)

    async def _ready(self, writing: bool, deadline: float) -> bool:
        """Wait for the socket; False if the deadline comes first."""
        loop, descriptor = self._loop, self.sock.fileno()
        if loop.time() >= deadline:
            return False
        ready: 'asyncio.Future[bool]' = loop.create_future()
        add, remove = (
            (loop.add_writer, loop.remove_writer) if writing
            else (loop.add_reader, loop.remove_reader))
        timer = loop.call_at(deadline, _settle, ready, False)
        try:
            add(descriptor, _settle, ready, True)
            return await ready
        finally:
            remove(descriptor)
            timer.cancel()


def _settle(future: 'asyncio.Future[bool]', result: bool) -> None:
    if not future.done():
        future.set_result(result)
