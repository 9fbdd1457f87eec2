# SPDX-License-Identifier: GPL-3.0-or-later
"""The three kinds of connection to a mail server.

`sendmail` and `quit` are for any thread; they hand the work to the network
thread and wait for it.  All else is for the network thread alone.
"""

import ssl
import sys
import time
import logging
import smtplib

from dataclasses import replace
from email.message import Message
from functools import lru_cache
from mailman_mta_pool.connection.addresses import Addresses, Use
from mailman_mta_pool.connection.connecting import Note, Observe, unobserved
from mailman_mta_pool.connection.devmode import stand_in
from mailman_mta_pool.connection.opening import Endpoint, open_connection
from mailman_mta_pool.connection.session import Session
from mailman_mta_pool.connection.tls import context_for, identity_for
from mailman_mta_pool.connection.translation import translated
from mailman_mta_pool.interfaces import Given, ITransactionConnection
from mailman_mta_pool.login.access import Access, access_of
from mailman_mta_pool.network.border import border
from mailman_mta_pool.secret import Secret
from mailman_mta_pool.settings import TLSSettings, WireSettings
from mailman_mta_pool.wire.content import as_content
from mailman_mta_pool.wire.conversation import Conversation
from mailman_mta_pool.wire.lessons import Lessons
from mailman_mta_pool.wire.transaction import Fate, Outcome, Stage, Transaction
from public import public
from typing import Callable, Dict, List, Optional, Sequence, Tuple, Union
from zope.interface import implementer


log = logging.getLogger('mailman.smtp')

# The commands whose lines may show in the debug log.
_COMMANDS = frozenset([b'MAIL', b'RCPT', b'DATA', b'BDAT', b'RSET', b'QUIT'])


@public
@implementer(ITransactionConnection)
class SMTPConnection:
    """A connection in clear text."""

    connects_lazily = False

    def __init__(self, host: str, port: int, sessions_per_connection: int,
                 smtp_user: Optional[str] = None,
                 smtp_pass: Union[str, Secret, None] = None, *,
                 wire: WireSettings = WireSettings(),
                 lessons: Optional[Lessons] = None,
                 addresses: Optional[Addresses] = None,
                 access: Optional[Access] = None) -> None:
        """Prepare a connection; nothing is opened before the first message.

        :param host: The host name of the server, or its service.
        :param port: The port number of the server.
        :param sessions_per_connection: The number of messages after which
            the connection is closed; the next message opens a new one.  Zero
            or less is no limit.
        :param smtp_user: The user name to authenticate with.
        :param smtp_pass: The password.  There is no authentication unless
            both are given and not empty.
        :param wire: How the dialogue is held.
        :param lessons: What is known of the server already, to be shared by
            all connections to it.
        :param addresses: What is known of the server's addresses, likewise;
            None for what is known of this host and port.  The attribute may
            be set before the connection is opened.
        :param access: Who we are there, to be shared by all connections; None
            for the user and the password.  The attribute may be set, too.
        """
        self.host = host
        self.port = port
        self.debug = False
        self.addresses = (
            _addresses_of(host, port) if addresses is None else addresses)
        self._sessions_per_connection = max(0, sessions_per_connection)
        self.access = access or access_of(
            self.addresses.relay, smtp_user or '', smtp_pass or '')
        self._wire = wire
        self._lessons = Lessons(time.monotonic) if lessons is None else lessons
        self._session: Optional[Session] = None
        self._use: Optional[Use] = None
        self._max_messages = sys.maxsize
        self._messages = 0
        # True unless the last connection was closed without an answer.
        self._is_clean = True

    def __repr__(self) -> str:
        state = (f'{self._messages} messages' if self.is_open else 'closed')
        return f'<{type(self).__name__} {self.host}:{self.port} {state}>'

    # See `IConnection`.

    def sendmail(self, envsender: str, recipients: Sequence[str],
                 msg: Union[str, bytes, Message],
                 ) -> Dict[str, Tuple[int, bytes]]:
        """See `IConnection`."""
        if isinstance(recipients, str):
            # So does smtplib.
            recipients = [recipients]
        transaction = Transaction(
            envsender, tuple(recipients), as_content(msg),
            stand_in=stand_in())
        log.debug('envsender: %s, recipients: %s, size(msg): %s',
                  envsender, recipients, transaction.content.size)
        return _as_smtplib_tells(border.call(self._send, transaction))

    def quit(self) -> None:
        """See `IConnection`."""
        if self._session is not None:
            border.call(self.disconnect)

    async def _send(self, transaction: Transaction) -> Outcome:
        outcome = await self._send_alone(transaction)
        if outcome.having(Fate.not_attempted) and not any(
                result.reply is not None and result.reply.code == 421
                for result in outcome.results):
            # It offers CHUNKING or PIPELINING and gets it wrong.  That is
            # known now.
            outcome = await self._send_alone(transaction)
        return outcome

    async def _send_alone(self, transaction: Transaction) -> Outcome:
        if self.is_open and not self.is_alive():
            await self.disconnect()
        waiting = [transaction]
        outcomes: List[Outcome] = []
        try:
            await self.converse(
                lambda octets: waiting.pop() if waiting else None,
                outcomes.append)
        except smtplib.SMTPServerDisconnected:
            # What had been answered by then is told all the same.
            if not outcomes or any(
                    result.reply is None for result in outcomes[0].results):
                raise
        return outcomes[0]

    # See `ITransactionConnection`.

    @property
    def is_open(self) -> bool:
        """See `ITransactionConnection`."""
        return self._session is not None

    def is_alive(self) -> bool:
        """See `ITransactionConnection`."""
        return self._session is not None and self._session.is_alive()

    async def open(self, *, observe: Observe = unobserved,
                   note: Note = unobserved) -> None:
        """See `ITransactionConnection`.

        :param observe: See `open_connection`.
        :param note: Likewise.
        """
        def took(phase: str, seconds: float) -> None:
            self._lessons.durations[phase].note(seconds)
            observe(phase, seconds)
        log.debug('Connecting to %s:%s', self.host, self.port)
        opened = await open_connection(
            self._endpoint(), self._wire.timeouts, self.addresses,
            observe=took, note=note)
        self._lessons.learn_server(opened.server, opened.greeting)
        self._lessons.learn_round_trip(opened.round_trip)
        # RFC 9422: how many messages it takes in a connection.
        limits = (self._sessions_per_connection, opened.server.limits.mailmax)
        self._max_messages = min(filter(None, limits), default=sys.maxsize)
        conversation = Conversation(
            opened.server, self._lessons, time.monotonic,
            name=opened.hostname,
            pipelining=self._wire.pipelining,
            chunking=self._wire.chunking,
            pipeline_depth=self._wire.pipeline_depth,
            authenticated=opened.authenticated, secrets=opened.secrets)
        self._session = Session(
            opened.sock, conversation, self._wire.timeouts,
            trace=self._log_octets if self.debug else None)
        self._use = opened.use
        self._messages = 0

    async def disconnect(self) -> bool:
        """See `ITransactionConnection`."""
        session, self._session = self._session, None
        use, self._use = self._use, None
        try:
            if session is not None:
                self._is_clean = False
                self._is_clean = await session.quit()
        finally:
            if use is not None:
                use.end()
        return self._is_clean

    def abort(self) -> None:
        """See `ITransactionConnection`."""
        if self._session is not None:
            self._session.abort()

    def wake(self) -> None:
        """See `ITransactionConnection`."""
        if self._session is not None:
            self._session.wake()

    async def converse(self, feed: Callable[[int], Given],
                       report: Callable[[Outcome], None]) -> None:
        """See `ITransactionConnection`."""
        if self._session is None:
            await self.open()
        session = self._session
        assert session is not None

        def next_message(octets: int) -> Given:
            if self._is_worn_out:
                return None
            given = feed(octets)
            self._messages += isinstance(given, Transaction)
            return given
        try:
            await session.run(next_message, report)
        except BaseException:
            # For safety: the next message opens a new connection.
            self._session = None
            self._is_clean = False
            session.close()
            use, self._use = self._use, None
            if use is not None:
                use.end()
            raise
        if self._is_worn_out:
            await self.disconnect()

    @property
    def _is_worn_out(self) -> bool:
        return self._messages >= self._max_messages

    def _endpoint(self) -> Endpoint:
        return Endpoint(
            self.host, self.port, access=self.access,
            hello_name=self._wire.hello_name,
            source_address=self._wire.source_address,
            relay=self.addresses.relay)

    def _log_octets(self, direction: str, octets: bytes) -> None:
        # A session begins after AUTH, so there is no secret in it; members'
        # mail is none of the log's business.
        for line in octets.split(b'\r\n', 20)[:20]:
            if direction == '<' or line[:4].upper() in _COMMANDS:
                log.debug('%s:%s %s %r', self.host, self.port, direction, line)


class _TLSConnection(SMTPConnection):
    def __init__(self, host: str, port: int, sessions_per_connection: int,
                 verify_cert: bool = True, verify_hostname: bool = True,
                 smtp_user: Optional[str] = None,
                 smtp_pass: Union[str, Secret, None] = None, *,
                 wire: WireSettings = WireSettings(),
                 lessons: Optional[Lessons] = None,
                 addresses: Optional[Addresses] = None,
                 access: Optional[Access] = None,
                 tls: TLSSettings = TLSSettings()) -> None:
        """Prepare a connection; nothing is opened before the first message.

        :param verify_cert: True if the server needs a certificate that a
            trusted certification authority has signed.
        :param verify_hostname: True if that certificate has to be for this
            host (RFC 6125).  Without `verify_cert` it means nothing.
        :param tls: What else TLS is to be like.

        The others are those of `SMTPConnection`.
        """
        super().__init__(
            host, port, sessions_per_connection, smtp_user, smtp_pass,
            wire=wire, lessons=lessons, addresses=addresses, access=access)
        self.verify_cert = verify_cert
        self.verify_hostname = verify_hostname and verify_cert
        self.tls = tls

    def _context(self) -> ssl.SSLContext:
        with translated(super()._endpoint().name, 'TLS'):
            return context_for(
                self.verify_cert, self.verify_hostname, self.tls)

    def _endpoint(self) -> Endpoint:
        return replace(super()._endpoint(), identity=identity_for(
            self.verify_cert, self.verify_hostname, self.tls))


@public
class SMTPSConnection(_TLSConnection):
    """A connection that is TLS from the start (RFC 8314, section 3.3)."""

    def _endpoint(self) -> Endpoint:
        return replace(super()._endpoint(), implicit_tls=self._context())


@public
class STARTTLSConnection(_TLSConnection):
    """A connection that turns to TLS at once, or is given up (RFC 3207)."""

    def _endpoint(self) -> Endpoint:
        return replace(super()._endpoint(), starttls=self._context())


@lru_cache(maxsize=64)
def _addresses_of(host: str, port: int) -> Addresses:
    """Return what all connections to a server know of its addresses."""
    return Addresses(relay=Endpoint(host, port).name)


def _as_smtplib_tells(outcome: Outcome) -> Dict[str, Tuple[int, bytes]]:
    """Return or raise what `smtplib.SMTP.sendmail` would."""
    transaction, results, _ = outcome
    refused: Dict[str, Tuple[int, bytes]] = {}
    # Was it an answer to RCPT that ended it?
    is_cut_short = any(
        result.fate is Fate.not_attempted and result.stage is Stage.rcpt
        for result in results)
    for recipient, result in zip(transaction.recipients, results):
        if result.fate is Fate.accepted:
            continue
        assert result.reply is not None
        code, text = result.reply.code, result.reply.text
        if result.stage is Stage.mail:
            raise smtplib.SMTPSenderRefused(code, text, transaction.sender)
        if result.stage in (Stage.data, Stage.end) and not is_cut_short:
            raise smtplib.SMTPDataError(code, text)
        refused[recipient] = (code, text)
    if len(refused) == len(set(transaction.recipients)):
        raise smtplib.SMTPRecipientsRefused(refused)
    return refused
