# SPDX-License-Identifier: GPL-3.0-or-later
"""The words of servers, made fit to be shown."""

import base64

from dataclasses import replace
from mailman_mta_pool.checking.steps import Problem
from mailman_mta_pool.errors import HIDDEN, PART_LENGTH, printable
from mailman_mta_pool.settings import RelaySettings
from mailman_mta_pool.wire.replies import Reply
from public import public
from typing import Iterator, Union


# A server may send a hundred lines of 2 KiB each.
LENGTH = 500


@public
class Words:
    """Makes text fit to be shown: printable, short, and without a password."""

    def __init__(self, relay: RelaySettings) -> None:
        """Remember what may not show.

        :param relay: The server.
        """
        # Of a secret, too, no more is printable than of what repeats it.
        self._secrets = [
            printable(secret) for secret in _shapes(relay)
            if len(secret) >= PART_LENGTH]

    def __call__(self, text: Union[bytes, str, Reply]) -> str:
        """Return the text on one line, without control characters.

        :param text: Octets, a text, or a reply.
        """
        shown = (str(text) if isinstance(text, Reply) else printable(text))
        if any(secret in shown for secret in self._secrets):
            return HIDDEN
        return shown if len(shown) <= LENGTH else f'{shown[:LENGTH]} …'

    def problem(self, problem: Problem) -> Problem:
        """Return a problem that can be shown."""
        return replace(problem, text=self(problem.text),
                       remedy=self(problem.remedy))


def _shapes(relay: RelaySettings) -> Iterator[str]:
    """Yield the password as it may be seen, and what tokens are got with."""
    if relay.auth.token is not None and relay.auth.token.client_secret:
        yield relay.auth.token.client_secret.reveal()
    if not relay.password:
        return
    secret = relay.password.reveal()
    yield secret
    user = relay.user.encode('utf-8', 'replace')
    password = secret.encode('utf-8', 'replace')
    for octets in (password, b'\0' + user + b'\0' + password):
        yield base64.b64encode(octets).decode('ascii').rstrip('=')
