# SPDX-License-Identifier: GPL-3.0-or-later
"""A connection of another package, with smtplib's interface, for the pool.

Such a connection blocks, so each of its calls has a thread of its own.
"""

import ssl
import errno
import socket
import asyncio
import smtplib

from mailman_mta_pool.errors import (
    ConnectionLost,
    PhaseTimeout,
    RelayUnavailable,
    UnavailableHere,
)
from mailman_mta_pool.interfaces import (
    Given,
    IConnection,
    ITransactionConnection,
    LATER,
)
from mailman_mta_pool.secret import Secret
from mailman_mta_pool.shown import never_repeated
from mailman_mta_pool.wire.order import tick
from mailman_mta_pool.wire.replies import Reply
from mailman_mta_pool.wire.transaction import (
    Fate,
    Outcome,
    outcome_of_all,
    Result,
    Span,
    Stage,
    Transaction,
)
from public import public
from typing import Any, Callable, Collection, Dict, Iterable, Optional, Tuple
from zope.interface import implementer


@public
def as_transaction_connection(connection: Any, relay: str,
                              quit_timeout: float = 5.0,
                              secrets: Iterable[Secret] = ()) -> Any:
    """Return an `ITransactionConnection` for any `IConnection`.

    :param connection: What an `IConnectionFactory` made.
    :param relay: The server as 'host:port'.
    :param quit_timeout: How many seconds its `quit` may take.
    :param secrets: What it may log in with, which no reply may repeat.
    :raises TypeError: if it is not even that.
    """
    if ITransactionConnection.providedBy(connection):
        return connection
    if IConnection.providedBy(connection):
        return ForeignConnection(
            connection, relay, quit_timeout, never_repeated(
                secret.reveal().encode('utf-8', 'surrogateescape')
                for secret in secrets))
    raise TypeError(f'{connection!r} does not provide IConnection')


def _reply(code: int, text: Any) -> Reply:
    if isinstance(text, str):
        text = text.encode('utf-8', 'replace')
    return Reply(code, tuple(text.split(b'\n')))


_NO_XVERP = Result(Fate.refused, Stage.mail, _reply(
    555, '5.5.4 The connection has no means of XVERP'))
_NEEDS_UTF8 = Result(Fate.refused, Stage.here, _reply(
    553, '5.6.7 The connection cannot send to an address outside ASCII'))
_SENDER_NEEDS_UTF8 = Result(Fate.refused, Stage.here, _reply(
    553, '5.6.7 The connection cannot send from an address outside ASCII'))
_NOT_ATTEMPTED = Result(Fate.not_attempted, Stage.connect, None)
_IN_DOUBT = Result(Fate.in_doubt, Stage.end, None)
_ACCEPTED = Result(Fate.accepted, Stage.end, Reply(250, (b'',)))

# What smtplib raises before MAIL, and in which phase.
_PHASES = (
    (smtplib.SMTPConnectError, 'greeting'),
    (smtplib.SMTPHeloError, 'EHLO'),
    (smtplib.SMTPAuthenticationError, 'AUTH'),
    (smtplib.SMTPNotSupportedError, 'AUTH'),
    (ssl.SSLCertVerificationError, 'TLS'),
    (socket.gaierror, 'connect'),
    (ConnectionRefusedError, 'connect'),
    )
# Of other errors, those that only connect() has.
_OF_CONNECT = frozenset([
    errno.EADDRNOTAVAIL, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EMFILE,
    errno.ENETDOWN, errno.ENETUNREACH, errno.ENFILE])
# Until Python 3.10 they were two.
TIMEOUTS = (TimeoutError, socket.timeout)
# Those that waiting does not mend.
_FINAL = (
    smtplib.SMTPNotSupportedError, ssl.SSLCertVerificationError)


def _unavailable(relay: str, error: Exception) -> Optional[RelayUnavailable]:
    """Return the relay's failure, if the error came before MAIL."""
    if isinstance(error, RelayUnavailable):
        return error
    phase = next((name for kind, name in _PHASES if isinstance(error, kind)),
                 None)
    if phase is None and getattr(error, 'errno', None) in _OF_CONNECT:
        phase = 'connect'
    if phase is None:
        return None
    code = getattr(error, 'smtp_code', None)
    # No text of theirs: they may quote what was sent to authenticate.
    reason = type(error).__name__ if phase == 'AUTH' else str(error)
    unavailable = RelayUnavailable(
        relay, phase, reason if code is None or phase != 'AUTH'
        else f'{code} {reason}', code)
    unavailable.waiting_helps = not isinstance(error, _FINAL) and not (
        phase == 'AUTH' and code is not None and code >= 500)
    return unavailable


@public
@implementer(ITransactionConnection)
class ForeignConnection:
    """Drives an `IConnection` one message at a time."""

    connects_lazily = True

    def __init__(self, connection: Any, relay: str, quit_timeout: float,
                 secrets: Collection[bytes]) -> None:
        """Wrap a connection; see `as_transaction_connection`."""
        self._connection = connection
        self._relay = relay
        self._quit_timeout = quit_timeout
        self._secrets = secrets
        # Its own reconnecting is not seen, and its calls are in order anyhow.
        self._number = tick()
        self._woken: Optional[asyncio.Event] = None
        self._ended: Optional[asyncio.Future] = None
        # True if its thread is busy with a call whose end is not awaited.
        self._is_given_up = False
        # True if there is no connection of which the server has not heard
        # the end.
        self._is_clean = True
        self.is_open = False

    def __repr__(self) -> str:
        return f'<ForeignConnection {self._connection!r}>'

    # See `IConnection`.

    def sendmail(self, envsender: str, recipients: Any, msg: Any) -> Any:
        """See `IConnection`."""
        return self._connection.sendmail(envsender, recipients, msg)

    def quit(self) -> None:
        """See `IConnection`."""
        self._connection.quit()

    # See `ITransactionConnection`.

    async def open(self) -> None:
        """See `ITransactionConnection`; it opens when it first sends."""
        self.is_open = True

    async def disconnect(self) -> bool:
        """See `ITransactionConnection`."""
        is_lost = not (self.is_open or self._is_clean)
        self.is_open = False
        if self._is_given_up:
            return False
        loop = asyncio.get_running_loop()
        try:
            await asyncio.wait_for(
                loop.run_in_executor(None, self._connection.quit),
                self._quit_timeout)
            self._is_clean = not is_lost
        except (OSError, RuntimeError, asyncio.TimeoutError):
            # It is over, one way or the other.
            self._is_clean = False
        return self._is_clean

    def is_alive(self) -> bool:
        """See `ITransactionConnection`; that is the connection's concern."""
        return self.is_open

    def wake(self) -> None:
        """See `ITransactionConnection`."""
        if self._woken is not None:
            self._woken.set()

    def abort(self) -> None:
        """See `ITransactionConnection`.

        A call in progress cannot be ended; its result is not waited for.
        """
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)
            self.wake()

    async def converse(self, feed: Callable[[int], Given],
                       report: Callable[[Outcome], None]) -> None:
        """See `ITransactionConnection`."""
        if not self.is_open:
            await self.open()
        self._woken = asyncio.Event()
        self._ended = asyncio.get_running_loop().create_future()
        while True:
            self._woken.clear()
            given = feed(2 ** 62)
            if given is None:
                return
            if given is LATER:
                await self._woken.wait()
                self._check_aborted()
                continue
            await self._send(given, self._timed(report))

    def _timed(self, report: Callable[[Outcome], None],
               ) -> Callable[[Outcome], None]:
        """Return a `report` for one transaction, which gives it its span."""
        begun = tick()

        def report_with_span(outcome: Outcome) -> None:
            report(outcome._replace(
                span=Span(self._number, begun, tick())))
        return report_with_span

    async def _send(self, transaction: Transaction,
                    report: Callable[[Outcome], None]) -> None:
        assert self._ended is not None
        if transaction.verp is not None:
            # There is no way to tell it.
            report(outcome_of_all(transaction, _NO_XVERP))
            return
        if transaction.asks:
            report(outcome_of_all(transaction, _NOT_ATTEMPTED))
            return
        self._is_clean = False
        try:
            call = asyncio.get_running_loop().run_in_executor(
                None, self._call, transaction)
        except RuntimeError as error:
            # No more threads are left to this process.
            self.is_open = False
            report(outcome_of_all(transaction, _NOT_ATTEMPTED))
            raise RelayUnavailable(
                self._relay, 'connect', f'no thread: {error}') from error
        try:
            await asyncio.wait(
                [call, self._ended], return_when=asyncio.FIRST_COMPLETED)
            if not call.done():
                self._check_aborted()
            outcome, problem = call.result()
        except BaseException:
            self.is_open = False
            self._is_given_up = not call.done()
            report(outcome_of_all(transaction, _IN_DOUBT))
            raise
        report(outcome)
        if problem is not None:
            self.is_open = False
            raise problem

    def _check_aborted(self) -> None:
        assert self._ended is not None
        if self._ended.done():
            self.is_open = False
            raise ConnectionLost('the connection was given up')

    # In the thread of this connection.

    def _call(self, transaction: Transaction,
              ) -> Tuple[Outcome, Optional[Exception]]:
        """Send, and return what became of it, and why to go no further."""
        names = list(transaction.names)
        try:
            refused = self._connection.sendmail(
                transaction.sender, names, transaction.content.octets)
        except smtplib.SMTPRecipientsRefused as error:
            # Nobody got it.  Whom it does not name is not refused, though
            # smtplib leaves them out when the server says 421.
            return self._outcome(transaction, error.recipients, Result(
                Fate.not_attempted, Stage.rcpt, None)), None
        except smtplib.SMTPSenderRefused as error:
            return outcome_of_all(transaction, Result(
                Fate.refused, Stage.mail,
                self._reply(error.smtp_code, error.smtp_error))), None
        except UnicodeError as error:
            return self._not_encoded(transaction, error)
        except OSError as error:
            unavailable = _unavailable(self._relay, error)
            if unavailable is not None:
                return outcome_of_all(
                    transaction, _NOT_ATTEMPTED), unavailable
            if isinstance(error, smtplib.SMTPResponseException):
                return outcome_of_all(transaction, Result(
                    Fate.refused, Stage.end,
                    self._reply(error.smtp_code, error.smtp_error))), None
            # How far it got cannot be told from outside.
            kind = (PhaseTimeout if isinstance(error, TIMEOUTS)
                    else ConnectionLost)
            return outcome_of_all(transaction, _IN_DOUBT), kind(
                f'the connection broke: {error or type(error).__name__}')
        return self._outcome(transaction, refused, _ACCEPTED), None

    def _not_encoded(self, transaction: Transaction, error: UnicodeError,
                     ) -> Tuple[Outcome, Exception]:
        """Blame the addresses in what was to be encoded.

        If there are none, it was the name of the server, or a password.
        """
        text = str(getattr(error, 'object', ''))

        def is_to_blame(address: str) -> bool:
            return not address.isascii() and address in text
        if is_to_blame(transaction.sender):
            outcome = outcome_of_all(transaction, _SENDER_NEEDS_UTF8)
        elif any(map(is_to_blame, transaction.names)):
            outcome = Outcome(transaction, tuple(
                _NOT_ATTEMPTED if name.isascii() else _NEEDS_UTF8
                for name in transaction.names))
        else:
            return outcome_of_all(transaction, _NOT_ATTEMPTED), (
                UnavailableHere(self._relay, 'connect', type(error).__name__))
        # It may have stopped in the middle of the dialogue.
        return outcome, ConnectionLost(
            'the connection cannot send an address outside ASCII')

    def _outcome(self, transaction: Transaction,
                 refused: Dict[str, Tuple[int, bytes]],
                 others: Result) -> Outcome:
        return Outcome(transaction, tuple(
            Result(Fate.refused, Stage.rcpt, self._reply(*refused[name]))
            if name in refused else others
            for name in transaction.names))

    def _reply(self, code: int, text: Any) -> Reply:
        return _reply(code, text).without(self._secrets)
