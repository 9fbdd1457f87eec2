# SPDX-License-Identifier: GPL-3.0-or-later
"""From nothing to a connection on which mail can be sent.

Connecting, TLS and AUTH are `smtplib`'s; this adds a deadline to each reply,
however slowly its octets trickle in, and names the phase in which a server
turned out to be unavailable.
"""

import ssl
import time
import base64
import socket
import smtplib

from collections import deque
from functools import lru_cache
from mailman_mta_pool.errors import (
    NotOffered,
    PhaseTimeout,
    ProtocolError,
    RelayUnavailable,
    translated,
)
from mailman_mta_pool.settings import Timeouts
from mailman_mta_pool.wire.capabilities import Capabilities
from mailman_mta_pool.wire.replies import Reply, ReplyParser
from public import public
from typing import Callable, Deque, List, Optional, Tuple


@lru_cache(maxsize=None)
def _local_hostname() -> str:
    """The name for EHLO, as smtplib finds it; DNS is asked only once."""
    return smtplib.SMTP().local_hostname


def _as_sent(user: str, password: str) -> List[str]:
    """Both in the shapes that PLAIN and LOGIN give them (RFC 4616)."""
    return [user, password] + [
        base64.b64encode(text.encode('utf-8')).decode('ascii').rstrip('=')
        for text in (user, password, f'\0{user}\0{password}')]


@public
class Handshake(smtplib.SMTP):
    """An SMTP client up to the point where the pipelined dialogue begins."""

    def __init__(self, host: str, port: int, timeouts: Timeouts, *,
                 implicit_tls: Optional[ssl.SSLContext] = None,
                 clock: Callable[[], float] = time.monotonic) -> None:
        """Prepare; nothing is opened.

        :param host: The server's name or address.
        :param port: The server's port.
        :param timeouts: How long to wait for what.
        :param implicit_tls: The context, if TLS starts with the connection
            (RFC 8314, section 3.3).
        :param clock: Seconds that only grow.
        """
        self.relay = f'{host}:{port}'
        self._timeouts = timeouts
        self._reply_timeout = timeouts.greeting
        self._implicit_tls = implicit_tls
        self._clock = clock
        self._parser = ReplyParser()
        self._replies: Deque[Reply] = deque()
        super().__init__(
            local_hostname=_local_hostname(), timeout=timeouts.connect)
        # smtplib takes it from here for the certificate's name, and would
        # connect at once if it were given to the constructor.
        self._host = host
        self._port = port

    def begin(self) -> None:
        """Connect, take the greeting, and say EHLO.

        :raises RelayUnavailable: naming what failed.
        """
        with translated(self.relay, 'greeting'):
            code, text = self.connect(self._host, self._port)
            if code != 220:
                raise smtplib.SMTPConnectError(code, text)
        self._reply_timeout = self._timeouts.hello
        with translated(self.relay, 'EHLO'):
            self.ehlo_or_helo_if_needed()

    def begin_tls(self, context: ssl.SSLContext) -> None:
        """Turn the connection to TLS, or fail (RFC 3207).

        :raises NotOffered: if the server has no STARTTLS.
        :raises RelayUnavailable: naming what else failed.
        """
        with translated(self.relay, 'TLS'):
            code, text = self.starttls(context=context)
            if code != 220:
                raise smtplib.SMTPResponseException(code, text)
            if self._replies or self._parser.pending:
                # RFC 3207, section 4: it came in clear, from anybody.
                raise ProtocolError(
                    'the server sent more before the TLS handshake')
        with translated(self.relay, 'EHLO'):
            self.ehlo_or_helo_if_needed()

    def authenticate(self, user: str, password: str) -> None:
        """Authenticate (RFC 4954).

        :raises AuthenticationRefused: if the server takes neither.
        :raises NotOffered: if the server has no AUTH.
        :raises RelayUnavailable: naming what else failed.
        """
        if not (user + password).isascii():
            # smtplib would say which character it is.
            raise RelayUnavailable(
                self.relay, 'AUTH', 'smtplib sends ASCII only, and there is '
                'something else in what to authenticate with')
        try:
            with translated(self.relay, 'AUTH', _as_sent(user, password)):
                self.login(user, password)
        except RelayUnavailable as error:
            # smtplib's own error has the text as it came.
            error.__context__ = None
            raise

    def hand_over(self) -> Tuple[socket.socket, Capabilities]:
        """Give away the socket: the dialogue is somebody else's from here.

        :return: The socket, and what the server offers.
        :raises RelayUnavailable: if the server sent something unasked.
        """
        sock = self.sock
        if sock is None or self._replies or self._parser.pending:
            raise RelayUnavailable(
                self.relay, 'EHLO', 'the server sent more than its replies')
        self.sock = None
        return sock, Capabilities.from_ehlo(
            (self.ehlo_resp or b'') if self.does_esmtp else b'')

    # What smtplib calls.

    def _get_socket(self, host: str, port: int,
                    timeout: float) -> socket.socket:
        with translated(self.relay, 'connect'):
            sock = socket.create_connection((host, port), timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(self._timeouts.hello)
        if self._implicit_tls is None:
            return sock
        with translated(self.relay, 'TLS'):
            return self._implicit_tls.wrap_socket(
                sock, server_hostname=host)

    def getreply(self) -> Tuple[int, bytes]:
        """Read one reply; see `smtplib.SMTP.getreply`."""
        deadline = self._clock() + self._reply_timeout
        while not self._replies:
            self._read_by(deadline)
        reply = self._replies.popleft()
        return reply.code, reply.text

    def _read_by(self, deadline: float) -> None:
        if self.sock is None:
            raise smtplib.SMTPServerDisconnected('not connected')
        remaining = deadline - self._clock()
        if remaining <= 0:
            raise PhaseTimeout(
                f'no reply within {self._reply_timeout:g} s')
        self.sock.settimeout(remaining)
        data = self.sock.recv(8192)
        if not data:
            raise smtplib.SMTPServerDisconnected(
                'the server closed the connection')
        self._replies.extend(self._parser.feed(data))


@public
def shake_hands(handshake: Handshake, starttls: Optional[ssl.SSLContext],
                user: str, password: str,
                ) -> Tuple[socket.socket, Capabilities]:
    """Do all of it, and leave nothing open if it fails.

    :param handshake: Not yet begun.
    :param starttls: The context, if STARTTLS is to be used.
    :param user: The name to authenticate with; '' not to.
    :param password: The password; '' not to authenticate.
    :return: The connected socket, and what the server offers.
    :raises RelayUnavailable: or the subclass that fits.
    """
    try:
        handshake.begin()
        if starttls is not None:
            if not handshake.has_extn('starttls'):
                raise NotOffered(
                    handshake.relay, 'TLS',
                    'the server does not offer STARTTLS; nothing was sent in '
                    'clear')
            handshake.begin_tls(starttls)
        if user and password:
            handshake.authenticate(user, password)
        return handshake.hand_over()
    finally:
        # After hand_over() there is nothing left to close.
        handshake.close()
