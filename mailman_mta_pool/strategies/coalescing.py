# SPDX-License-Identifier: GPL-3.0-or-later
"""Same octets, same sender: same transaction."""

from mailman_mta_pool.rendering.senders import Senders
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

    def at_least(self, recipients: int) -> int:
        """Into how many transactions so many recipients go, at the least."""
        return -(-recipients // self._size) if self._size > 0 else 1

    def add(self, recipients: List[str], content: Content,
            senders: Senders) -> None:
        """Take recipients who get the same octets.

        :param recipients: Their addresses.
        :param content: What they get.
        :param senders: What makes their envelope senders.
        """
        for recipient in recipients:
            sender = senders.sender(recipient)
            if self._size == 1:
                self._submit(Transaction(sender, (recipient,), content))
            else:
                self.join(sender, [recipient], content)

    def join(self, sender: str, recipients: List[str],
             content: Content) -> None:
        """Let recipients with the same sender wait for others.

        :param sender: Their envelope sender.
        :param recipients: Their addresses, all of them ASCII or none: those
            who need SMTPUTF8 stay by themselves (RFC 6531, section 3.1).
        :param content: What they get.
        """
        key = sender, recipients[0].isascii(), content.pieces
        _, together = self._open.setdefault(key, (content, []))
        together.extend(recipients)
        while 0 < self._size <= len(together):
            self._submit(Transaction(
                sender, tuple(together[:self._size]), content))
            del together[:self._size]
        if not together:
            del self._open[key]
        elif len(self._open) > MAX_OPEN:
            self._close(next(iter(self._open)))

    def _close(self, key: Key) -> None:
        content, together = self._open.pop(key)
        self._submit(Transaction(key[0], tuple(together), content))

    def flush(self) -> None:
        """Submit whatever is still waiting."""
        for key in list(self._open):
            self._close(key)
