# SPDX-License-Identifier: GPL-3.0-or-later
"""Same octets, same sender: same transaction."""

from mailman_mta_pool.wire.content import Content
from mailman_mta_pool.wire.outcome import Transaction
from public import public
from typing import Callable, Dict, List, Tuple


# How many different contents may wait for another recipient.  With more than
# that the post is as good as individual.
MAX_OPEN = 256
Key = Tuple[str, bool, Tuple[bytes, ...]]


@public
class Coalescing:
    """Puts recipients together whose sender and content are equal."""

    def __init__(self, submit: Callable[[Transaction], None],
                 size: int) -> None:
        """Prepare.

        :param submit: What takes the transactions.
        :param size: The most recipients in one; 0 is no limit, 1 is none
            together.
        """
        self._submit = submit
        self._size = size
        self._open: Dict[Key, Tuple[Content, List[str]]] = {}

    def submit(self, sender: str, recipient: str, content: Content) -> None:
        """Take one recipient; see `IOutbound`."""
        if self._size == 1:
            self._submit(Transaction(sender, (recipient,), content))
            return
        # Those who need SMTPUTF8 stay by themselves (RFC 6531, section 3.1).
        key = sender, recipient.isascii(), content.pieces
        _, together = self._open.setdefault(key, (content, []))
        together.append(recipient)
        if len(together) == self._size:
            self._close(key)
        elif len(self._open) > MAX_OPEN:
            self._close(next(iter(self._open)))

    def _close(self, key: Key) -> None:
        content, together = self._open.pop(key)
        self._submit(Transaction(key[0], tuple(together), content))

    def flush(self) -> None:
        """Submit whatever is still waiting."""
        for key in list(self._open):
            self._close(key)
