# SPDX-License-Identifier: GPL-3.0-or-later
"""One transaction for recipients with the same octets and sender."""

from mailman_mta_pool.rendering.senders import Senders
from mailman_mta_pool.wire.content import Content, SplicedContent
from mailman_mta_pool.wire.transaction import Transaction
from public import public
from typing import Callable, Dict, List, Tuple


# How many different contents may wait for another recipient, and how many
# octets of them.  With more than that the post is as good as individual.
# Spliced contents share theirs.
MAX_OPEN_CONTENTS = 256
MAX_OPEN_OCTETS = 32 * 1024 * 1024
public(MAX_OPEN_OCTETS=MAX_OPEN_OCTETS)
Key = Tuple[str, bool, Tuple[bytes, ...]]


def _own_octets(content: Content) -> int:
    return 0 if isinstance(content, SplicedContent) else content.size


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
        self._octets = 0

    def at_least(self, recipients: int) -> int:
        """Return the least number of transactions for so many recipients."""
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
        if key not in self._open:
            self._open[key] = content, []
            self._octets += _own_octets(content)
        _, together = self._open[key]
        together.extend(recipients)
        while 0 < self._size <= len(together):
            self._submit(Transaction(
                sender, tuple(together[:self._size]), content))
            del together[:self._size]
        if not together:
            self._close(key)
        while (len(self._open) > MAX_OPEN_CONTENTS or
               self._octets > MAX_OPEN_OCTETS and len(self._open) > 1):
            self._close(next(iter(self._open)))

    def _close(self, key: Key) -> None:
        content, together = self._open.pop(key)
        self._octets -= _own_octets(content)
        if together:
            self._submit(Transaction(key[0], tuple(together), content))

    def flush(self) -> None:
        """Submit whatever is still waiting."""
        for key in list(self._open):
            self._close(key)
