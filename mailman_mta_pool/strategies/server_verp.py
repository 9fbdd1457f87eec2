# SPDX-License-Identifier: GPL-3.0-or-later
"""One content with many senders, which the mail server makes.

Postfix makes of `MAIL FROM:<ant-bounces@example.com> XVERP=+=` what Mailman's
default `[mta] verp_format` makes, so that all who get the same octets share a
transaction.
"""

import re

from mailman_mta_pool.rendering.senders import Senders
from mailman_mta_pool.strategies.coalescing import Coalescing
from mailman_mta_pool.wire.content import Content, SplicedContent
from mailman_mta_pool.wire.transaction import Transaction
from mailman_mta_pool.wire.verp import DELIMITERS, Verp
from public import public
from typing import Callable, Container, List, Optional


# Such as ${bounces}+${local}=${domain}; the braces may be left out.
_FORMAT = re.compile(
    r'\$(?:bounces|{bounces})(.)\$(?:local|{local})(.)\$(?:domain|{domain})')
# Of what local parts are made that no server would write in another way.
_ATEXT = "!#$%&'*+/=?^_`{|}~.-"


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
        self._individually = Coalescing(submit, 1)
        self._together = Coalescing(self._submit_together, max_recipients)
        # What Mailman has to make, if the server is to make the same; see
        # `Senders.template`.
        plain = sender.replace('{', '{{').replace('}', '}}')
        self._template = verp.sender(plain, '{0}@{1}')
        # Where the local part ends, must not be a matter of opinion.
        atext = re.escape(_ATEXT.replace(verp.delimiters[1], ''))
        self._is_simple = re.compile(
            rf'[A-Za-z0-9{atext}]+@[A-Za-z0-9.-]+').fullmatch

    def at_least(self, recipients: int) -> int:
        """See `Coalescing`."""
        return self._together.at_least(recipients)

    def add(self, recipients: List[str], content: Content,
            senders: Senders) -> None:
        """See `Coalescing`."""
        simple: List[str] = []
        if (not isinstance(content, SplicedContent) and
                senders.template(recipients) == self._template):
            simple = [
                recipient for recipient in recipients
                if self._is_simple(recipient) and
                recipient not in self._flagged]
        if simple:
            self._together.join(self._sender, simple, content)
        if len(simple) < len(recipients):
            others = set(recipients).difference(simple)
            self._individually.add(
                [recipient for recipient in recipients if recipient in others],
                content, senders)

    def _submit_together(self, transaction: Transaction) -> None:
        transaction = transaction._replace(verp=self._verp)
        if len(transaction.recipients) > 1:
            self._submit(transaction)
        else:
            self._submit(transaction.individually()[0])

    def flush(self) -> None:
        """Submit whatever is still waiting."""
        self._together.flush()
