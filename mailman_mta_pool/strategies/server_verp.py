# SPDX-License-Identifier: GPL-3.0-or-later
"""One content, many senders: the mail server makes those.

Postfix makes of `MAIL FROM:<ant-bounces@example.com> XVERP=+=` what Mailman's
default `[mta] verp_format` makes, so that all who get the same octets share a
transaction.
"""

import re

from mailman_mta_pool.strategies.coalescing import Coalescing
from mailman_mta_pool.wire.content import Content, SplicedContent
from mailman_mta_pool.wire.outcome import Transaction
from mailman_mta_pool.wire.verp import DELIMITERS, Verp
from public import public
from typing import Callable, Container, Optional


# Such as ${bounces}+${local}=${domain}; the braces may be left out.
_FORMAT = re.compile(
    r'\$(?:bounces|{bounces})(.)\$(?:local|{local})(.)\$(?:domain|{domain})')
# An address that no server would write in another way.
_SIMPLE = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+@[A-Za-z0-9.-]+")


@public
def verp_of(template: str) -> Optional[Verp]:
    """Read a `[mta] verp_format`.

    :param template: The format.
    :return: How a mail server can be told it; None if it cannot.
    """
    match = _FORMAT.fullmatch(template.strip())
    if match is None or not DELIMITERS.issuperset(match.groups()):
        return None
    return Verp(match[1] + match[2])


@public
class ServerVERP:
    """Puts together those whose senders the server can make.

    The others, those with personal content among them, have a transaction
    each.
    """

    def __init__(self, submit: Callable[[Transaction], None], verp: Verp,
                 sender: str, max_recipients: int,
                 flagged: Container[str] = ()) -> None:
        """Prepare.

        :param submit: What takes the transactions.
        :param verp: What to ask of the server.
        :param sender: The sender without VERP.
        :param max_recipients: The most recipients in a transaction.
        :param flagged: Those who get the duplicates flag.
        """
        self._submit = submit
        self._verp = verp
        self._sender = sender
        self._flagged = flagged
        self._together = Coalescing(self._submit_together, max_recipients)

    def submit(self, sender: str, recipient: str, content: Content) -> None:
        """Take one recipient; see `Coalescing`."""
        if (isinstance(content, SplicedContent) or
                recipient in self._flagged or
                not self._can_make(sender, recipient)):
            self._submit(Transaction(sender, (recipient,), content))
        else:
            self._together.submit(self._sender, recipient, content)

    def _can_make(self, sender: str, recipient: str) -> bool:
        # Where the local part ends, must not be a matter of opinion.
        local = recipient.rpartition('@')[0]
        return (_SIMPLE.fullmatch(recipient) is not None and
                self._verp.delimiters[1] not in local and
                self._verp.sender(self._sender, recipient) == sender)

    def _submit_together(self, transaction: Transaction) -> None:
        transaction = transaction._replace(verp=self._verp)
        if len(transaction.recipients) > 1:
            self._submit(transaction)
        else:
            self._submit(transaction.individually()[0])

    def flush(self) -> None:
        """Submit whatever is still waiting."""
        self._together.flush()
