# SPDX-License-Identifier: GPL-3.0-or-later

"""Which SQL statements are run."""

from contextlib import contextmanager
from mailman.config import config
from public import public
from sqlalchemy import event


@public
@contextmanager
def statements():
    """Collect the statements that go to Mailman's database.

    :return: A context manager; its value is the list of their texts.
    """
    seen = []

    def note(connection, cursor, statement, *ignore):
        seen.append(statement)
    event.listen(config.db.engine, 'before_cursor_execute', note)
    try:
        yield seen
    finally:
        event.remove(config.db.engine, 'before_cursor_execute', note)
