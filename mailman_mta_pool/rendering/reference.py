# SPDX-License-Identifier: GPL-3.0-or-later
"""Mailman's own delivery classes, as far as we need them: without the wire."""

import random

from mailman.config import config
from mailman.mta.base import BaseDelivery
from public import public
from typing import Any


@public
class WithoutConnection(BaseDelivery):
    """Stands before `BaseDelivery` in the method resolution order.

    Everything above it is Mailman's own code: callbacks, senders, strategies.
    """

    def __init__(self) -> None:
        # Not super().__init__(): it would make a connection of stock's, and
        # refuse a secure mode that another package has registered.
        pass


@public
def end_database_transaction() -> None:
    """Commit, so that no lock is held while mail goes out.

    What is loaded stays loaded.  Otherwise the list, with its hundred
    columns, would be read again and again.
    """
    session = config.db.store
    expire = session.expire_on_commit
    session.expire_on_commit = False
    try:
        config.db.commit()
    finally:
        session.expire_on_commit = expire


@public
class SameChance:
    """Lets chance give the same numbers again, for a while."""

    def __init__(self, state: Any) -> None:
        """Nothing changes before it is entered.

        :param state: What `random.getstate()` returned.
        """
        self._state = state

    def __enter__(self) -> None:
        self._before = random.getstate()
        random.setstate(self._state)

    def __exit__(self, *error: Any) -> None:
        random.setstate(self._before)
