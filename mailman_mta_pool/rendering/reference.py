# SPDX-License-Identifier: GPL-3.0-or-later
"""Rendering by Mailman's own delivery classes: the definition of correct.

Mailman's agents decorate, personalize, sign and VERP, and then hand sender,
recipients and message to `BaseDelivery._deliver_to_recipients`.  `Captured`
stands in their method resolution order just before `BaseDelivery` and takes
it from there, so that everything above it is Mailman's own code, called and
not copied.
"""

from mailman.config import config
from mailman.mta.base import BaseDelivery
from mailman_mta_pool.wire.content import as_content, Content
from mailman_mta_pool.wire.outcome import Transaction
from public import public
from typing import Any, Callable, Dict, Iterable, Tuple


@public
def end_database_transaction() -> None:
    """Commit, so that no lock is held while mail goes out.

    What is loaded stays loaded.  Otherwise the list, with its hundred
    columns, would be read again for each recipient.
    """
    session = config.db.store
    expire = session.expire_on_commit
    session.expire_on_commit = False
    try:
        config.db.commit()
    finally:
        session.expire_on_commit = expire


@public
class Captured(BaseDelivery):
    """Turns what Mailman's agents would send into transactions."""

    def __init__(self) -> None:
        # Not super().__init__(): it would make stock's own connection.
        self.submit: Callable[[Transaction], None]

    def _render(self, mlist: Any, msg: Any, msgdata: Dict[str, Any],
                ) -> Tuple[str, Content]:
        """The envelope sender and the content."""
        return self._get_sender(mlist, msg, msgdata), as_content(msg)

    def _deliver_to_recipients(
            self, mlist: Any, msg: Any, msgdata: Dict[str, Any],
            recipients: Iterable[str]) -> Dict[str, Tuple[int, bytes]]:
        """See `BaseDelivery`."""
        sender, content = self._render(mlist, msg, msgdata)
        end_database_transaction()
        ordered = sorted(recipients)
        # A transaction with SMTPUTF8 goes no further than servers that have
        # it too, so those who do not need it go apart (RFC 6531, 3.1).
        plain = tuple(name for name in ordered if name.isascii())
        international = tuple(name for name in ordered if not name.isascii())
        for part in (plain, international):
            if part:
                self.submit(Transaction(sender, part, content))
        return {}
