# SPDX-License-Identifier: GPL-3.0-or-later
"""From nothing to a connection on which mail can be sent.

Connect, TLS, greeting, EHLO, STARTTLS and AUTH are coroutines, and each step
has a deadline.
"""

import re
import ssl
import time
import asyncio
import smtplib

from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from mailman_mta_pool.connection.addresses import Addresses, Use
from mailman_mta_pool.connection.connecting import (
    connect,
    Note,
    Observe,
    unobserved,
)
from mailman_mta_pool.connection.dialogue import Dialogue
from mailman_mta_pool.connection.own_name import own_name
from mailman_mta_pool.connection.srv import certificate_name, is_service
from mailman_mta_pool.connection.tls import Identity
from mailman_mta_pool.connection.tls_socket import Stream, TLSSocket
from mailman_mta_pool.connection.translation import translated
from mailman_mta_pool.errors import (
    AuthenticationRefused,
    BadChallenge,
    ClearTextInjected,
    ClientCertificateRefused,
    ConnectionLost,
    EndlessTLS,
    HandshakeBroken,
    LostAfterHandshake,
    NoGreeting,
    PhaseTimeout,
    ProtocolError,
    RelayUnavailable,
    STARTTLSRefused,
    TLSMissing,
    UnavailableHere,
)
from mailman_mta_pool.login.access import Access, NO_ACCESS
from mailman_mta_pool.login.credentials import Attempt
from mailman_mta_pool.login.exchange import Authentication, CANCEL
from mailman_mta_pool.network.threads import in_thread
from mailman_mta_pool.settings import Timeouts
from mailman_mta_pool.shown import printable, shortened
from mailman_mta_pool.wire.capabilities import Capabilities
from mailman_mta_pool.wire.replies import Reply
from public import public
from typing import Callable, Iterator, NamedTuple, Optional, Tuple


# The replies to EHLO after which HELO is tried (RFC 5321, section 4.1.4).
EHLO_UNKNOWN = frozenset([500, 502])
# What a server says in its first reply within TLS.
ABOUT_OUR_CERTIFICATE = re.compile(
    '(client|ssl|tls) certificate', re.IGNORECASE)
# How the octets show in a text with which a server says in TLS that it has
# waited long enough (RFC 8446, section 5.1).
TLS_ALERT = r"b'\x15\x03"
# What firewalls that meddle with SMTP make of STARTTLS in an offer.
HIDDEN_STARTTLS = frozenset(['XXXXXXXA', 'XXXXXXXX'])
# The last one is what Python 3.9 raises.
HUNG_UP = ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError


@public
@dataclass(frozen=True)
class Endpoint:
    """Where to connect, and how.  Its repr shows no secret.

    :ivar host: The server's host name or address, or its service.
    :ivar port: The server's port; a service has its own.
    :ivar implicit_tls: The TLS context, if TLS starts with the first octet
        (RFC 8314, section 3.3).
    :ivar starttls: The TLS context, if STARTTLS is demanded (RFC 3207).
    :ivar access: Who we are there, and whether there is AUTH.
    :ivar hello_name: The name to give in EHLO; '' for that of this host.
    :ivar source_address: The IP address to connect from; '' for the one that
        the system chooses.
    :ivar relay: What the relay is called in errors; '' for its host and port.
    :ivar identity: Whose the server's certificate has to be, beyond what the
        context verifies.
    """

    host: str
    port: int
    implicit_tls: Optional[ssl.SSLContext] = field(default=None, repr=False)
    starttls: Optional[ssl.SSLContext] = field(default=None, repr=False)
    access: Access = field(default=NO_ACCESS, repr=False)
    hello_name: str = field(default='', repr=False)
    source_address: str = field(default='', repr=False)
    relay: str = field(default='', repr=False)
    identity: Identity = field(default=Identity(), repr=False)

    @property
    def name(self) -> str:
        """The relay's name, the server as 'host:port', or its service."""
        if self.relay:
            return self.relay
        if is_service(self.host):
            return self.host
        return f'{self.host}:{self.port}'

    @property
    def verifies(self) -> bool:
        """True if only the right server can be at the other end."""
        context = self.implicit_tls or self.starttls
        return context is not None and (
            bool(self.identity.fingerprints) or context.check_hostname or
            context.verify_mode == ssl.CERT_REQUIRED and
            bool(self.identity.names))


@public
class Opened(NamedTuple):
    """A connection on which mail can be sent.

    :ivar sock: Connected and non-blocking, with TCP_NODELAY.
    :ivar server: What the server offered last; nothing after HELO.
    :ivar greeting: The text of the 220, on one line, printable.
    :ivar hostname: The name that was given in EHLO.
    :ivar round_trip: The least time in seconds from EHLO or HELO to its
        reply.
    :ivar authenticated: True after AUTH.
    :ivar secrets: What no reply may repeat from now on; see `ReplyParser`.
    :ivar use: The use of the address; to be ended with the connection.
    """

    sock: Stream
    server: Capabilities
    greeting: str
    hostname: str
    round_trip: float
    authenticated: bool
    secrets: Tuple[bytes, ...]
    use: Use


@public
async def open_connection(
        endpoint: Endpoint, timeouts: Timeouts, addresses: Addresses, *,
        clock: Callable[[], float] = time.monotonic,
        observe: Observe = unobserved, note: Note = unobserved) -> Opened:
    """Open a connection up to the point where mail can be sent.

    Nothing is left open if it fails or is cancelled.

    :param endpoint: Where to connect, and how.
    :param timeouts: `connect` is for the look-up of the name, and for each
        attempt to connect; `greeting` for the greeting; `hello` for each
        reply after it and for the TLS handshake.
    :param addresses: What is known of the server's addresses.
    :param clock: Seconds that only grow, to measure the round trip.
    :param observe: Told how many seconds each step took that was taken:
        resolve, connect, greeting, hello (twice with STARTTLS), tls and auth.
    :param note: Told what is found out in a step, before `observe`: what
        `connect` says; the `greeting`, a reply; `tls`, the `ssl.SSLObject`
        after the handshake; `hello`, our own name, the reply and the
        `Capabilities` in it; and the `mechanism` of AUTH.
    :raises RelayUnavailable: or the subclass that fits, whatever goes wrong.
    """
    with translated(endpoint.name, 'AUTH'):
        attempt = await endpoint.access.attempt()
    with translated(endpoint.name, 'connect'):
        sock, use = await connect(
            endpoint.host, endpoint.port, timeouts.connect, addresses,
            source=endpoint.source_address, observe=observe, note=note)
    dialogue = Dialogue(sock, clock)
    try:
        opened = await _Opening(
            endpoint, attempt, timeouts, dialogue, use,
            _Watch(observe, note)).run()
    except BaseException as error:
        dialogue.sock.close()
        # Next time perhaps another address is better.
        _tell_of_failure(use, error)
        raise
    use.worked()
    return opened


def _tell_of_failure(use: Use, error: BaseException) -> None:
    """Tell the use of an address why nothing came of it."""
    if not isinstance(error, RelayUnavailable) or isinstance(
            error, UnavailableHere):
        use.end()
    elif error.code is None:
        use.failed(f'{error.phase}: {error.reason}')
    else:
        use.refused(f'{error.phase}: {error.reason}')


class _Watch(NamedTuple):
    """Who is told of the steps; see `open_connection`."""

    observe: Observe
    note: Note

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Tell how long a step took, unless it fails."""
        clock = asyncio.get_running_loop().time
        begin = clock()
        yield
        self.observe(name, clock() - begin)


class _Opening:
    """The steps after connect, in their order."""

    def __init__(self, endpoint: Endpoint, attempt: Optional[Attempt],
                 timeouts: Timeouts, dialogue: Dialogue, use: Use,
                 watch: _Watch) -> None:
        self._relay = endpoint.name
        self._endpoint = endpoint
        self._attempt = attempt
        self._secrets: Tuple[bytes, ...] = ()
        self._timeouts = timeouts
        self._dialogue = dialogue
        self._use = use
        self._watch = watch
        # The text of the greeting.
        self._greeted = ''

    async def run(self) -> Opened:
        """Take all steps; see `open_connection`."""
        endpoint = self._endpoint
        if endpoint.implicit_tls is not None:
            with translated(self._relay, 'TLS'):
                await self._begin_tls(endpoint.implicit_tls)
        with translated(self._relay, 'greeting'), (
                _first_in_clear() if endpoint.implicit_tls is None
                else self._first_in_tls()):
            await self._greeting()
        with translated(self._relay, 'EHLO'):
            hostname = endpoint.hello_name or await own_name.get(
                self._dialogue.sock)
            server = await self._hello(hostname)
        if endpoint.starttls is not None:
            with translated(self._relay, 'TLS'):
                await self._starttls(endpoint.starttls, server)
            with translated(self._relay, 'EHLO'), self._first_in_tls():
                server = await self._hello(hostname)
        if self._attempt is not None:
            await self._log_in(self._attempt, server)
        with translated(self._relay, 'EHLO'):
            self._dialogue.check_for_surplus()
        return Opened(
            self._dialogue.sock, server, self._greeted, hostname,
            self._dialogue.round_trip, self._attempt is not None,
            self._secrets, self._use)

    async def _greeting(self) -> None:
        with self._watch.step('greeting'):
            greeting = await self._dialogue.reply(self._timeouts.greeting)
            self._watch.note('greeting', greeting)
            _expect(220, greeting)
        self._greeted = printable(greeting.text)

    async def _hello(self, hostname: str) -> Capabilities:
        """Say EHLO, or HELO to a server that does not know EHLO."""
        name = hostname.encode('ascii')
        with self._watch.step('hello'):
            reply = await self._dialogue.hello(
                b'EHLO ' + name, self._timeouts.hello)
            server = Capabilities.from_ehlo(reply.text)
            if reply.code in EHLO_UNKNOWN:
                reply = await self._dialogue.hello(
                    b'HELO ' + name, self._timeouts.hello)
                server = Capabilities()
            self._watch.note('hello', (hostname, reply, server))
            _expect(250, reply)
        return server

    async def _starttls(self, context: ssl.SSLContext,
                        server: Capabilities) -> None:
        if not server.starttls:
            if HIDDEN_STARTTLS.intersection(server.keywords):
                raise TLSMissing(
                    'somebody on the way has hidden the STARTTLS that the '
                    'server offers; nothing was sent in clear',
                    'Switch the inspection of SMTP (fixup) off in the '
                    'firewall or proxy, or use smtps with port 465.')
            raise TLSMissing(
                'the server does not offer STARTTLS; nothing was sent in '
                'clear',
                'Switch TLS on in the mail server; if it is on, somebody on '
                'the way takes it out of the offer: use smtps with port 465.')
        try:
            self._dialogue.check_for_surplus()
        except ProtocolError as error:
            raise ClearTextInjected(
                'there was something in clear before STARTTLS, which nobody '
                'has asked for') from error
        reply = await self._dialogue.ask(b'STARTTLS', self._timeouts.hello)
        if reply.code != 220:
            raise STARTTLSRefused(reply.code, reply.text)
        # RFC 3207, section 4: it came in clear, from anybody.
        if self._dialogue.has_surplus:
            raise ClearTextInjected(
                'there was something in clear between the reply to STARTTLS '
                'and the TLS handshake')
        await self._begin_tls(context)

    async def _begin_tls(self, context: ssl.SSLContext) -> None:
        identity = self._endpoint.identity
        with self._watch.step('tls'), _handshake():
            sock = await self._dialogue.begin_tls(
                context, identity.server_name(
                    certificate_name(self._endpoint.host)),
                self._timeouts.hello)
            self._watch.note('tls', sock.tls)
            identity.check(sock.tls)

    @contextmanager
    def _first_in_tls(self) -> Iterator[None]:
        """Say what it means if the server hangs up instead of a reply.

        With TLS 1.3 the handshake is over for us before the server has seen
        our certificate, and its alert may be lost with the connection.
        """
        try:
            yield
        except PhaseTimeout:
            raise
        except EndlessTLS as error:
            raise RelayUnavailable(
                self._relay, 'TLS', str(error), remedy=error.remedy) from error
        except smtplib.SMTPResponseException as error:
            text = shortened(printable(error.smtp_error))
            if ABOUT_OUR_CERTIFICATE.search(text) is None:
                raise
            # Postfix lets the handshake succeed, and says so then.
            what, remedy = (
                ('does not take our certificate',
                 'Let the mail server know the certificate of tls_cert, or '
                 'the authority that has signed it.')
                if self._endpoint.identity.has_certificate else
                ('demands a certificate of ours',
                 'Set tls_cert and tls_key to a certificate that the mail '
                 'server knows.'))
            raise ClientCertificateRefused(
                self._relay, 'TLS',
                f'the server {what}: {error.smtp_code} {text}',
                remedy=remedy) from error
        except (ConnectionError, ConnectionLost, ssl.SSLEOFError) as error:
            if not self._endpoint.identity.has_certificate:
                raise
            raise LostAfterHandshake(
                'the connection was lost right after the TLS handshake, as '
                'with a server that refuses our certificate') from error

    async def _log_in(self, attempt: Attempt, server: Capabilities) -> None:
        """Log in; with another token once more, if the first is refused."""
        with translated(self._relay, 'AUTH'):
            turn = await self._endpoint.access.turn(self._timeouts.hello)
        with turn:
            with translated(self._relay, 'AUTH'):
                attempt = await attempt.latest()
            try:
                await self._authenticate(attempt, server)
            except AuthenticationRefused as error:
                if not error.is_judged:
                    raise
                with translated(self._relay, 'AUTH'):
                    again = await attempt.renewed()
                if again is None:
                    turn.refused(error.smtp_code, error.smtp_error)
                    raise
            else:
                turn.accepted()
                return
            try:
                await self._authenticate(again, server)
            except AuthenticationRefused as error:
                if error.is_judged:
                    turn.refused(error.smtp_code, error.smtp_error)
                raise
            turn.accepted()

    async def _authenticate(self, attempt: Attempt,
                            server: Capabilities) -> None:
        """Log in, or raise why not."""
        with translated(self._relay, 'AUTH'):
            authentication = attempt.authentication(
                server.auth, self._is_verified)
        self._watch.note('mechanism', authentication.mechanism)
        with translated(self._relay, 'AUTH', authentication.secrets):
            with self._watch.step('auth'):
                await self._exchange(authentication)
            self._dialogue.check_for_surplus()
        self._secrets = authentication.never_repeated

    @property
    def _is_verified(self) -> bool:
        """True if nobody but the server that is meant can read what we send.

        TLS to this host may be a tunnel that ends elsewhere.
        """
        sock = self._dialogue.sock
        if isinstance(sock, TLSSocket):
            return self._endpoint.verifies
        peer = ip_address(sock.getpeername()[0].partition('%')[0])
        return (getattr(peer, 'ipv4_mapped', None) or peer).is_loopback

    async def _exchange(self, authentication: Authentication) -> None:
        dialogue, timeout = self._dialogue, self._timeouts.hello
        line: Optional[bytes] = authentication.command
        while line is not None:
            reply = await dialogue.ask(line, timeout)
            try:
                line = await self._answer(authentication, reply)
            except BadChallenge:
                # RFC 4954, section 4.  The 501 is not waited for: the
                # connection is given up in any case.
                if reply.code == 334:
                    with suppress(OSError):
                        await dialogue.send(CANCEL, timeout)
                raise

    async def _answer(self, authentication: Authentication,
                      reply: Reply) -> Optional[bytes]:
        if not authentication.is_slow or reply.code != 334:
            return authentication.answer(reply)
        return await in_thread(authentication.answer, reply)


@contextmanager
def _first_in_clear() -> Iterator[None]:
    """Say what it may mean if the server does not greet in clear."""
    try:
        yield
    except (ConnectionError, ConnectionLost) as error:
        raise NoGreeting(str(error)) from error
    except ProtocolError as error:
        if TLS_ALERT not in str(error):
            raise
        raise NoGreeting(str(error)) from error


@contextmanager
def _handshake() -> Iterator[None]:
    """Say that it is the handshake in which the connection was lost."""
    try:
        yield
    except PhaseTimeout as error:
        raise HandshakeBroken(str(error)) from error
    except HUNG_UP as error:
        raise HandshakeBroken(
            'the server hung up in the TLS handshake') from error


def _expect(code: int, reply: Reply) -> None:
    if reply.code != code:
        raise smtplib.SMTPResponseException(reply.code, reply.text)
