# SPDX-License-Identifier: GPL-3.0-or-later
"""The words of servers, made fit to be shown."""

from dataclasses import replace
from mailman_mta_pool.checking.steps import Problem
from mailman_mta_pool.settings import RelaySettings, TokenSettings
from mailman_mta_pool.shown import HIDDEN, PART_LENGTH, printable, shapes_of
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
            printable(shape) for secret in _secrets_of(relay)
            for shape in shapes_of(secret)
            if len(shape) >= PART_LENGTH]

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


def _secrets_of(relay: RelaySettings) -> Iterator[bytes]:
    """Yield the password, also as PLAIN has it, and what gets us tokens."""
    token = relay.auth.token or TokenSettings()
    user, password, client_secret = (
        text.encode('utf-8', 'replace') for text in (
            relay.user, relay.password.reveal(), token.client_secret.reveal()))
    yield client_secret
    if password:
        yield password
        # A short one is in no shape of its own.
        yield b'\0' + user + b'\0' + password
