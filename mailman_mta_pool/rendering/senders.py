# SPDX-License-Identifier: GPL-3.0-or-later
"""The envelope sender of each recipient: VERP, made once and spliced."""

import logging
import secrets

from public import public
from typing import Callable, Optional


log = logging.getLogger('mailman.smtp')


@public
class Senders:
    """Makes the senders that a delivery of Mailman's makes, quicker."""

    def __init__(self, reference: Callable[[str], str]) -> None:
        """Find out how they are made.

        :param reference: Returns the sender for a recipient; Mailman's own
            `_get_sender`, bound to the post.
        """
        self._reference = reference
        token = f'm{secrets.token_hex(6)}'
        local, domain = f'{token}local', f'{token}domain'
        made = reference(f'{local}@{domain}')
        # Templates of str.format(), so braces of the site's own are doubled.
        template = made.replace('{', '{{').replace('}', '}}')
        template = template.replace(local, '{0}').replace(domain, '{1}')
        self._template: Optional[str] = template
        self._is_constant = template == made.replace(
            '{', '{{').replace('}', '}}')
        self._constant = made
        if token in template:
            self._template = None
        self._checked = 0

    def sender(self, recipient: str) -> str:
        """Return the envelope sender for a recipient."""
        if self._is_constant:
            return self._constant
        local, at, domain = recipient.rpartition('@')
        if self._template is None or not at:
            return self._reference(recipient)
        sender = self._template.format(local, domain)
        if self._checked < 2:
            self._checked += 1
            reference = self._reference(recipient)
            if reference != sender:
                log.warning('VERP senders are made one by one: %s, not %s',
                            reference, sender)
                self._template = None
                return reference
        return sender
