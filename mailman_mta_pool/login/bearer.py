# SPDX-License-Identifier: GPL-3.0-or-later
"""OAUTHBEARER (RFC 7628) and XOAUTH2 (Google, Microsoft): bearer tokens.

XOAUTH2 is described at
https://developers.google.com/gmail/imap/xoauth2-protocol
"""

import json

from mailman_mta_pool.login.mechanisms import Simple
from mailman_mta_pool.login.scram import escaped
from mailman_mta_pool.shown import printable
from public import public
from typing import Optional


SEPARATOR = b'\x01'
# Of what an error says, this much is shown of each value, in characters.
MAX_SHOWN = 200
# RFC 7628, section 3.2.2.  `schemes` is of XOAUTH2; what else there may be is
# for programs.
_TOLD = ('status', 'error', 'error_description', 'scope', 'schemes')


class _Bearer(Simple):
    """One exchange; the subclasses say what is sent."""

    sends_secret = True
    # Its framing is in the words of many a refusal: "auth", "user".
    hides_responses = False
    challenges = 1

    def __init__(self, message: bytes, dummy: bytes) -> None:
        """Prepare one exchange.

        :param message: The initial response, with the token.
        :param dummy: What an error is answered with.
        """
        self._message = message
        self._dummy = dummy
        self.explanation = ''

    def initial(self) -> Optional[bytes]:
        """See `Mechanism`."""
        return self._message

    def answer(self, challenge: bytes) -> bytes:
        """See `Mechanism`; the only challenge is an error.

        The refusal itself comes after the answer.
        """
        self.explanation = explanation_of(challenge)
        return self._dummy


@public
class OAuthBearer(_Bearer):
    """OAUTHBEARER (RFC 7628)."""

    name = 'OAUTHBEARER'
    strength = 70

    def __init__(self, user: str, token: str, host: str, port: int) -> None:
        """Prepare one exchange.

        :param user: As whom we want to act.
        :param token: The token.
        :param host: The host name that we connect to; '' if there is none.
        :param port: Its port; 0 if the host does not say.
        """
        pairs = [f'n,a={escaped(user)},']
        if host:
            pairs.append(f'host={host}')
        if port:
            pairs.append(f'port={port}')
        # Section 3.2.3.
        super().__init__(_joined(*pairs, f'auth=Bearer {token}'), SEPARATOR)


@public
class XOAuth2(_Bearer):
    """XOAUTH2."""

    name = 'XOAUTH2'
    strength = 60

    def __init__(self, user: str, token: str) -> None:
        """Prepare one exchange.

        :param user: As whom we want to act.
        :param token: The token.
        """
        super().__init__(
            _joined(f'user={user}', f'auth=Bearer {token}'), b'')


def _joined(*pairs: str) -> bytes:
    return b''.join(
        pair.encode('utf-8') + SEPARATOR for pair in pairs) + SEPARATOR


@public
def explanation_of(challenge: bytes) -> str:
    """Return what an error of a server says, on one line, or ''.

    :param challenge: The error, in JSON.  What is not is shown as it is.
    """
    try:
        found = json.loads(challenge)
    except (ValueError, RecursionError):
        return printable(challenge)[:MAX_SHOWN].strip()
    if not isinstance(found, dict):
        return ''
    return ', '.join(
        f'{key} {printable(str(found[key]))[:MAX_SHOWN]}' for key in _TOLD
        if isinstance(found.get(key), (str, int)) and found[key] != '')
