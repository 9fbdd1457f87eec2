# SPDX-License-Identifier: GPL-3.0-or-later
"""Envelope senders that the mail server makes: Postfix's XVERP.

There is no RFC; Postfix's VERP_README says what it does.
"""

from public import public
from typing import NamedTuple


# What Postfix takes unless its verp_delimiter_filter says otherwise.
DELIMITERS = frozenset('-=+')
public(DELIMITERS=DELIMITERS)


@public
class Verp(NamedTuple):
    """How a recipient is put into the sender.

    :ivar delimiters: The two characters before the recipient's local part
        and before its domain.
    """

    delimiters: str

    def sender(self, sender: str, recipient: str) -> str:
        """Return the sender that the server makes for a recipient."""
        local, _, origin = sender.rpartition('@')
        mailbox, _, domain = recipient.rpartition('@')
        before, between = self.delimiters[0], self.delimiters[1]
        return f'{local}{before}{mailbox}{between}{domain}@{origin}'
