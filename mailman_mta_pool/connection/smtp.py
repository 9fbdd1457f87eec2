# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections to a mail server."""

import ssl
import asyncio
import logging
import smtplib

from email.message import Message
from mailman_mta_pool.connection.addresses import Addresses
from mailman_mta_pool.connection.devmode import rerouting
from mailman_mta_pool.connection.opening import Endpoint, open_connection
from mailman_mta_pool.connection.session import Session
from mailman_mta_pool.connection.steps import (
    drive_alone,
    Fed,
    Feed,
    Given,
    Steps,
)
from mailman_mta_pool.connection.tls import context_for
from mailman_mta_pool.interfaces import ITransactionConnection
from mailman_mta_pool.settings import WireSettings
from mailman_mta_pool.wire.content import as_content
from mailman_mta_pool.wire.conversation import Conversation
from mailman_mta_pool.wire.lessons import Lessons
from mailman_mta_pool.wire.outcome import Fate, Outcome, Stage, Transaction
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

    def __init__(self, host: str, port: int, sessions_per_connection: int,
                 smtp_user: Optional[str] = None,
                 smtp_pass: Optional[str] = None, *,
                 wire: WireSettings = WireSettings(),
                 lessons: Optional[Lessons] = None) -> None:
        """Prepare a connection; nothing is opened before the first message.

        :param host: The host name of the server.
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
        """
        self.host = host
        self.port = port
        self.debug = False
        self._sessions_per_connection = max(0, sessions_per_connection)
        self._user = smtp_user or ''
        self._password = smtp_pass or ''
        self._wire = wire
        self._lessons = Lessons() if lessons is None else lessons
        self._session: Optional[Session] = None
        self._mailmax = 0
        self._messages = 0

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
            envsender, tuple(recipients), as_content(msg))
        log.debug('envsender: %s, recipients: %s, size(msg): %s',
                  envsender, recipients, transaction.content.size)
        outcome = self._send_alone(transaction)
        if outcome.having(Fate.not_attempted) and not self._was_421(outcome):
            # It offers CHUNKING, but does not know BDAT.  That is known now.
            outcome = self._send_alone(transaction)
        return _as_smtplib_tells(outcome)

    def _was_421(self, outcome: Outcome) -> bool:
        return any(result.reply is not None and result.reply.code == 421
                   for result in outcome.results)

    def _send_alone(self, transaction: Transaction) -> Outcome:
        if self.is_open and not self.is_alive():
            self.quit()
        waiting = [transaction]
        outcomes: List[Outcome] = []
        try:
            self.converse(
                lambda: waiting.pop() if waiting else None, outcomes.append)
        except smtplib.SMTPServerDisconnected:
            # What had been answered by then is told all the same.
            if not outcomes or any(
                    result.reply is None for result in outcomes[0].results):
                raise
        return outcomes[0]

    def quit(self) -> None:
        """See `IConnection`."""
        session, self._session = self._session, None
        if session is not None:
            session.quit()

    # See `ITransactionConnection`.

    @property
    def is_open(self) -> bool:
        """See `ITransactionConnection`."""
        return self._session is not None

    def is_alive(self) -> bool:
        """See `ITransactionConnection`."""
        return self._session is not None and self._session.is_alive()

    def open(self) -> None:
        """See `ITransactionConnection`."""
        log.debug('Connecting to %s:%s', self.host, self.port)
        opened = asyncio.run(open_connection(
            Endpoint(self.host, self.port, self._implicit_tls(),
                     self._starttls(), self._user, self._password),
            self._wire.timeouts, Addresses()))
        server = opened.server
        self._lessons.learn_server(server)
        # RFC 9422: how many messages it takes in a connection.
        self._mailmax = server.limits.mailmax or 0
        conversation = Conversation(
            server, self._lessons,
            name=opened.hostname,
            pipelining=self._wire.pipelining,
            chunking=self._wire.chunking,
            depth=self._wire.pipeline_depth)
        self._session = Session(
            opened.sock, conversation, self._wire.timeouts,
            trace=self._log_octets if self.debug else None)
        self._messages = 0

    def abort(self) -> None:
        """See `ITransactionConnection`."""
        session = self._session
        if session is not None:
            session.abort()

    def converse(self, feed: Callable[[], Given],
                 report: Callable[[Outcome], None],
                 drive: Callable[[Steps], None] = drive_alone) -> None:
        """See `ITransactionConnection`."""
        if self._session is None:
            self.open()
        session = self._session
        assert session is not None
        reroute = rerouting()

        def next_message() -> Fed:
            if self._is_worn_out:
                return None
            transaction = feed()
            if transaction is None or transaction is Feed.later:
                return transaction
            self._messages += 1
            return transaction, reroute(transaction.recipients)
        try:
            drive(session.steps(next_message, report))
        except BaseException:
            # For safety: the next message opens a new connection.
            self._session = None
            session.close()
            raise
        if self._is_worn_out:
            self.quit()

    @property
    def _is_worn_out(self) -> bool:
        return any(0 < limit <= self._messages for limit in (
            self._sessions_per_connection, self._mailmax))

    def _implicit_tls(self) -> Optional[ssl.SSLContext]:
        return None

    def _starttls(self) -> Optional[ssl.SSLContext]:
        return None

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
                 smtp_pass: Optional[str] = None, *,
                 wire: WireSettings = WireSettings(),
                 lessons: Optional[Lessons] = None) -> None:
        """Prepare a connection; nothing is opened before the first message.

        :param verify_cert: Must the server have a certificate that one of
            the system's certification authorities has signed?
        :param verify_hostname: Must that certificate be for this host
            (RFC 6125)?  It means nothing unless `verify_cert` is true.

        The others are those of `SMTPConnection`.
        """
        super().__init__(
            host, port, sessions_per_connection, smtp_user, smtp_pass,
            wire=wire, lessons=lessons)
        self.verify_cert = verify_cert
        self.verify_hostname = verify_hostname and verify_cert
        self._context = context_for(verify_cert, verify_hostname)


@public
class SMTPSConnection(_TLSConnection):
    """A connection that is TLS from the start (RFC 8314, section 3.3)."""

    def _implicit_tls(self) -> Optional[ssl.SSLContext]:
        return self._context


@public
class STARTTLSConnection(_TLSConnection):
    """A connection that turns to TLS at once, or is given up (RFC 3207)."""

    def _starttls(self) -> Optional[ssl.SSLContext]:
        return self._context


def _as_smtplib_tells(outcome: Outcome) -> Dict[str, Tuple[int, bytes]]:
    """Return or raise what `smtplib.SMTP.sendmail` would."""
    transaction, results = outcome
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
