# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting for a database that another process has locked."""

import logging

from contextlib import contextmanager
from mailman.config import config
from mailman_mta_pool.errors import NothingMoreToSend
from mailman_mta_pool.rendering.reference import end_database_transaction
from public import public
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from typing import Any, Iterator


log = logging.getLogger('mailman.smtp')

# How long SQLite waits by itself, in seconds, as Python's module has it.
SQLITE_DEFAULT_S = 5.0


class _BusyTimeout:
    """Makes SQLite wait longer for a lock, in this process from now on.

    The runner gains, too: it writes the bounces after a delivery.  PostgreSQL
    locks nobody out.
    """

    def __init__(self) -> None:
        self._engine: Any = None
        self._seconds = 0.0

    def extend(self, seconds: float) -> None:
        self._seconds = max(seconds, SQLITE_DEFAULT_S)
        engine = config.db.engine
        if engine is not self._engine and engine.dialect.name == 'sqlite':
            self._engine = engine
            event.listen(engine, 'checkout', self._tell)
            # The next statement is on a connection that has been told.
            end_database_transaction()

    def _tell(self, connection: Any, *ignore: Any) -> None:
        # See https://www.sqlite.org/pragma.html#pragma_busy_timeout.
        connection.execute('PRAGMA busy_timeout = %d' % (1000 * self._seconds))


_busy_timeout = _BusyTimeout()


@public
@contextmanager
def waiting_for_database(seconds: float) -> Iterator[None]:
    """Wait for a database that others have locked, and stop if it has gone.

    :param seconds: How long to wait for it.
    :raises NothingMoreToSend: if that was not enough.
    """
    try:
        _busy_timeout.extend(seconds)
        yield
    except OperationalError as error:
        if not (error.connection_invalidated or 'locked' in str(error.orig)):
            # A mistake, which would be made again.
            raise
        log.error('The database cannot be used, and the rest of the post goes '
                  'out later: %s', error.orig)
        config.db.abort()
        raise NothingMoreToSend from error
