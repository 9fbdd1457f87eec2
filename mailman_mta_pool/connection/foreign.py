# SPDX-License-Identifier: GPL-3.0-or-later
"""A connection that only knows `sendmail`, made fit for the pool."""

import smtplib

from mailman_mta_pool.connection.devmode import on_the_wire
from mailman_mta_pool.errors import RelayUnavailable
from mailman_mta_pool.interfaces import IConnection, ITransactionConnection
from mailman_mta_pool.wire.replies import Reply
from mailman_mta_pool.wire.transaction import (
    Fate,
    Outcome,
    outcome_of_all,
    Result,
    Stage,
    Transaction,
)
from public import public
from typing import Any, Callable, Dict, List, Optional, Tuple
from zope.interface import implementer


@public
def as_transaction_connection(connection: Any) -> Any:
    """Return an `ITransactionConnection` for any `IConnection`.

    :raises TypeError: if it is not even that.
    """
    if ITransactionConnection.providedBy(connection):
        return connection
    if IConnection.providedBy(connection):
        return OneAtATime(connection)
    raise TypeError(f'{connection!r} does not provide IConnection')


def _reply(code: int, text: Any) -> Reply:
    if isinstance(text, str):
        text = text.encode('utf-8', 'replace')
    return Reply(code, tuple(text.split(b'\n')))


_NO_XVERP = Result(Fate.refused, Stage.mail, _reply(
    555, '5.5.4 The connection has no means of XVERP'))


@public
@implementer(ITransactionConnection)
class OneAtATime:
    """Drives an `IConnection` one message at a time."""

    def __init__(self, connection: Any) -> None:
        """Wrap a connection; see `IConnection`."""
        self._connection = connection
        self.is_open = False

    def __repr__(self) -> str:
        return f'<OneAtATime {self._connection!r}>'

    def sendmail(self, envsender: str, recipients: Any, msg: Any) -> Any:
        """See `IConnection`."""
        return self._connection.sendmail(envsender, recipients, msg)

    def quit(self) -> None:
        """See `IConnection`."""
        self.is_open = False
        self._connection.quit()

    def open(self) -> None:
        """See `ITransactionConnection`; it opens when it first sends."""
        self.is_open = True

    def is_alive(self) -> bool:
        """See `ITransactionConnection`; that is the connection's concern."""
        return self.is_open

    def abort(self) -> None:
        """See `ITransactionConnection`; there is no way to do it."""

    def converse(self, feed: Callable[[], Optional[Transaction]],
                 report: Callable[[Outcome], None],
                 drive: Any = None) -> None:
        """See `ITransactionConnection`."""
        transaction = feed()
        while transaction is not None:
            try:
                report(self._send(transaction))
            except RelayUnavailable:
                self.is_open = False
                report(outcome_of_all(transaction, Result(
                    Fate.not_attempted, Stage.connect, None)))
                raise
            transaction = feed()

    def _send(self, transaction: Transaction) -> Outcome:
        if transaction.verp is not None:
            # There is no way to tell it.
            return outcome_of_all(transaction, _NO_XVERP)
        names = list(on_the_wire(transaction.recipients))
        try:
            refused = self._connection.sendmail(
                transaction.sender, names, transaction.content.octets)
        except RelayUnavailable:
            raise
        except smtplib.SMTPRecipientsRefused as error:
            # Nobody got it.  Whom it does not name is not refused, though
            # smtplib leaves them out when the server says 421.
            return _outcome(transaction, names, error.recipients, Result(
                Fate.not_attempted, Stage.rcpt, None))
        except smtplib.SMTPSenderRefused as error:
            return outcome_of_all(transaction, Result(
                Fate.refused, Stage.mail,
                _reply(error.smtp_code, error.smtp_error)))
        except smtplib.SMTPResponseException as error:
            return outcome_of_all(transaction, Result(
                Fate.refused, Stage.end,
                _reply(error.smtp_code, error.smtp_error)))
        except OSError:
            # How far it got cannot be told from outside.
            return outcome_of_all(transaction, Result(
                Fate.in_doubt, Stage.end, None))
        return _outcome(transaction, names, refused, Result(
            Fate.accepted, Stage.end, Reply(250, (b'',))))


def _outcome(transaction: Transaction, names: List[str],
             refused: Dict[str, Tuple[int, bytes]],
             others: Result) -> Outcome:
    return Outcome(transaction, tuple(
        Result(Fate.refused, Stage.rcpt, _reply(*refused[name]))
        if name in refused else others
        for name in names))
