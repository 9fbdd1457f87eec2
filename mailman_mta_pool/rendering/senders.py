# SPDX-License-Identifier: GPL-3.0-or-later
"""The envelope sender of each recipient: VERP, made once and spliced."""

import logging
import secrets

from public import public
from typing import Callable, List, Optional


log = logging.getLogger('mailman.smtp')

COMPARED_SENDERS = 2


@public
class Senders:
    """Makes the envelope senders of a delivery, quicker than Mailman."""

    def __init__(self, reference: Callable[[str], str]) -> None:
        """Nothing is made before the first sender is wanted.

        :param reference: Returns the sender for a recipient; Mailman's own
            `_get_sender`, bound to the post.
        """
        self._reference = reference
        self._to_check = COMPARED_SENDERS
        self._is_known = False
        self._constant: Optional[str] = None
        self._template: Optional[str] = None

    def _find_out(self) -> None:
        """Find out how Mailman makes the senders."""
        self._is_known = True
        token = f'm{secrets.token_hex(6)}'
        local, domain = f'{token}local', f'{token}domain'
        made = self._reference(f'{local}@{domain}')
        if token not in made:
            self._constant = made
            return
        # Templates of str.format(), so braces of the site's own are doubled.
        template = made.replace('{', '{{').replace('}', '}}')
        template = template.replace(local, '{0}').replace(domain, '{1}')
        if token not in template:
            self._template = template

    def template(self, recipients: List[str]) -> Optional[str]:
        """Return the pattern of the senders, for `str.format`.

        :param recipients: Some of whom to check it with.
        :return: The sender with '{0}' for the local part and '{1}' for the
            domain of a recipient's address; None if that is not all.
        """
        for recipient in recipients[:self._to_check]:
            self.sender(recipient)
        return self._template

    def sender(self, recipient: str) -> str:
        """Return the envelope sender for a recipient."""
        if not self._is_known:
            self._find_out()
        if self._constant is not None:
            return self._constant
        local, at, domain = recipient.rpartition('@')
        if self._template is None or not at or '@' in local:
            # Mailman 3.3.8 ends the local part at the first '@', 3.3.10 at
            # the last.
            return self._reference(recipient)
        sender = self._template.format(local, domain)
        if self._to_check > 0:
            self._to_check -= 1
            reference = self._reference(recipient)
            if reference != sender:
                log.warning('VERP senders are made one by one: %s, not %s',
                            reference, sender)
                self._template = None
                return reference
        return sender
