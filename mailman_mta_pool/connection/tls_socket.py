# SPDX-License-Identifier: GPL-3.0-or-later
"""TLS on a socket, of which each call ends whatever the server says.

`ssl.SSLSocket` reads until there are data, or the kernel has nothing more.  A
record holds 900 session tickets (RFC 8446, section 4.6.1), and OpenSSL needs
longer for them than a server for sending them: a server that goes on with
them would keep the network thread in one call for ever, and with it all other
relays.
"""

import ssl
import socket

from contextlib import suppress
from functools import partial
from mailman_mta_pool.errors import EndlessTLS
from public import public
from typing import Any, Callable, List, Optional, TypeVar, Union


# How many octets are read at once.  With the rest of a record they are fewer
# than any caller of `recv` takes, so that nothing is kept back.
READ_SIZE = 8 * 1024
# How many octets may come in a row that have nothing for us in them.  A
# handshake is bounded by OpenSSL as well; the certificates are 100 KiB of it.
MAX_SILENCE = 256 * 1024

Result = TypeVar('Result')


@public
class TLSSocket:
    """A socket in TLS, with those methods of a socket that we use.

    As with `ssl.SSLSocket`, what could not be done yet raises
    `ssl.SSLWantReadError` or `ssl.SSLWantWriteError`, and has to be called
    again then.

    :ivar tls: What is known of the server after the handshake.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext,
                 host: str) -> None:
        """Take over a socket; `do_handshake` comes next.

        :param sock: A connected socket; `close` closes it.
        :param context: The TLS context.
        :param host: The name in the server's certificate.
        """
        self._sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls: ssl.SSLObject = context.wrap_bio(
            self._incoming, self._outgoing, server_hostname=host)
        # What the kernel has not taken of what TLS has made, and how many
        # octets of ours are in it.
        self._unsent = b''
        self._owed = 0
        self._silence = 0
        # It came right after what the last call has returned.
        self._error: Optional[ssl.SSLError] = None

    def __enter__(self) -> 'TLSSocket':
        return self

    def __exit__(self, *ignore: Any) -> None:
        self.close()

    def do_handshake(self) -> None:
        """Do the next part of the handshake.

        :raises OSError: if it failed, or is not over.
        """
        try:
            self._with_octets(self.tls.do_handshake)
        except ssl.SSLWantReadError:
            if self._unsent:
                raise ssl.SSLWantWriteError from None
            raise

    def recv(self, size: int) -> bytes:
        """Return what the server has said; nothing if it has closed.

        :param size: How many octets at most.
        :raises OSError: if there is nothing, or the connection broke.
        """
        if self._error is not None:
            raise self._error
        # There is no use in asking TLS first, and an exception is dear.
        has_read = not self._holds_octets
        try:
            if has_read:
                self._read_once()
            octets = self._with_octets(partial(self.tls.read, size), has_read)
        except ssl.SSLEOFError:
            # Many a server does not say that it closes.
            return b''
        self._silence = 0
        if not self._holds_octets:
            return octets
        parts: List[bytes] = []
        while octets:
            parts.append(octets)
            size -= len(octets)
            try:
                octets = self.tls.read(size) if size else b''
            except ssl.SSLWantReadError:
                break
            except ssl.SSLError as error:
                self._error = error
                break
        return b''.join(parts)

    @property
    def _holds_octets(self) -> bool:
        return bool(self._incoming.pending or self.tls.pending())

    def send(self, octets: Union[bytes, memoryview]) -> int:
        """Send all octets, or none that the server could read.

        In the latter case the next call has to begin with the same octets.

        :param octets: No more than a record holds.
        :return: How many octets the kernel has taken now.
        :raises OSError: if it took none, or the connection broke.
        """
        try:
            if not self._owed:
                self._owed = self.tls.write(octets)
        finally:
            # There may be an answer to the server's TLS.
            self._flush()
        if self._unsent:
            raise ssl.SSLWantWriteError
        sent, self._owed = self._owed, 0
        return sent

    def _with_octets(self, operation: Callable[[], Result],
                     has_read: bool = False) -> Result:
        """Do what may need octets of the server; they are read once.

        :param has_read: True if they were read already.
        """
        while True:
            try:
                return operation()
            except ssl.SSLWantReadError:
                if has_read:
                    raise
            finally:
                if self._outgoing.pending or self._unsent:
                    # If the server has closed, it may have said why.
                    with suppress(OSError):
                        self._flush()
            self._read_once()
            has_read = True

    def _read_once(self) -> None:
        try:
            octets = self._sock.recv(READ_SIZE)
        except BlockingIOError:
            raise ssl.SSLWantReadError from None
        if not octets:
            self._incoming.write_eof()
            return
        self._silence += len(octets)
        if self._silence > MAX_SILENCE:
            raise EndlessTLS
        self._incoming.write(octets)

    def _flush(self) -> None:
        """Give the kernel what it takes of what TLS has made."""
        if self._outgoing.pending:
            self._unsent += self._outgoing.read()
        while self._unsent:
            try:
                sent = self._sock.send(self._unsent)
            except BlockingIOError:
                return
            self._unsent = self._unsent[sent:]

    def setblocking(self, is_blocking: bool) -> None:
        """See `socket.socket`."""
        self._sock.setblocking(is_blocking)

    def getblocking(self) -> bool:
        """See `socket.socket`."""
        return self._sock.getblocking()

    def fileno(self) -> int:
        """See `socket.socket`."""
        return self._sock.fileno()

    def getsockname(self) -> Any:
        """See `socket.socket`."""
        return self._sock.getsockname()

    def getpeername(self) -> Any:
        """See `socket.socket`."""
        return self._sock.getpeername()

    def close(self) -> None:
        """Close the socket, without a word."""
        self._sock.close()


Stream = Union[socket.socket, TLSSocket]
public(Stream=Stream)
