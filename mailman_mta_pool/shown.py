# SPDX-License-Identifier: GPL-3.0-or-later
"""What may be shown of a text that is not ours: one line, without secrets."""

import re
import base64

from mailman_mta_pool.secret import Secret
from public import public
from typing import Collection, Iterable, Iterator, NamedTuple, Tuple, Union


# So many characters in a row of a password are not to be shown.
PART_LENGTH = 4
# Of what is so long, such as a token, a few characters say nothing, and would
# be found in many a text by chance.
LONG_LENGTH = 100
LONG_PART_LENGTH = 12
public(LONG_PART_LENGTH=LONG_PART_LENGTH, PART_LENGTH=PART_LENGTH)
# So many characters of what a server says are shown.
SHOWN_LENGTH = 1000
# A shorter password would be found in replies by chance; in octets.
MIN_REPEATED = 6
HIDDEN = '(the text is hidden, for it repeats what we sent)'
public(HIDDEN=HIDDEN)
_ENHANCED = re.compile(r'[245]\.\d{1,3}\.\d{1,3} ')


@public
def printable(text: Union[bytes, str]) -> str:
    """Return what a server said on one line, fit for a log file.

    :param text: Octets are taken for UTF-8; others are shown as `\\xff`.
    """
    if isinstance(text, bytes):
        text = text.decode('utf-8', 'backslashreplace')
    return ''.join(c if c.isprintable() else ' ' for c in text)


@public
def shortened(text: str) -> str:
    """Return a text of which a line in a log can hold all.

    :param text: What a server said, or a certificate.
    """
    return text if len(text) <= SHOWN_LENGTH else f'{text[:SHOWN_LENGTH]} …'


@public
class Hidden(NamedTuple):
    """What no text may show, even if a server echoes a part of it.

    :ivar text: The text.
    :ivar part: So many characters of it in a row may not show; all of a
        shorter text.
    """

    text: str
    part: int = PART_LENGTH

    @property
    def parts(self) -> Iterator[str]:
        """Every part of it that may not show."""
        part = (self.part if len(self.text) < LONG_LENGTH
                else max(self.part, LONG_PART_LENGTH))
        # No more of it is printable than of what repeats it.
        folded = printable(self.text).casefold()
        for start in range(max(1, len(folded) - part + 1)):
            yield folded[start:start + part]


@public
def without(secrets: Collection[Hidden], text: Union[bytes, str]) -> str:
    """Return the text made printable, or hidden if it shows a secret.

    The enhanced status code (RFC 3463) is shown in any case.

    :param secrets: What may not show, neither as a whole nor in part.
    :param text: What a server or the system said.
    """
    shown = shortened(printable(text))
    folded = shown.casefold()
    # Of a secret, too, no more is printable than of what repeats it.
    if not any(part in folded for secret in secrets
               for part in secret.parts):
        return shown
    enhanced = _ENHANCED.match(shown)
    return (enhanced[0] if enhanced else '') + HIDDEN


@public
def hidden(secrets: Iterable[Secret], text: str) -> str:
    """Return a text made printable, or what stands for it.

    :param secrets: What may not show, neither as a whole nor in part.
    :param text: What a server or the system said.
    """
    return without(
        [Hidden(secret.reveal()) for secret in secrets if secret], text)


@public
def shapes_of(secret: bytes) -> Iterator[str]:
    """Yield a secret as it may be seen: in clear, in base64, in hexadecimal.

    :param secret: The password, or the token.
    """
    yield secret.decode('utf-8', 'backslashreplace')
    yield repr(secret)[2:-1]
    yield secret.hex()
    for before in range(3):
        # Base64 knows three, by how many octets stand before; characters
        # that are not of this secret alone are cut off.
        encoded = base64.b64encode(bytes(before) + secret).decode('ascii')
        yield encoded[-(-before * 4 // 3):(before + len(secret)) * 4 // 3]


@public
def never_repeated(secrets: Iterable[bytes]) -> Tuple[bytes, ...]:
    """Return what no reply may show once we are logged in.

    A user name does not belong there: it is in many a reply that an operator
    has to read.

    :param secrets: The password or the token.
    :return: Its shapes, in lower case.
    """
    return tuple(
        shape.encode('utf-8').lower() for secret in secrets
        if len(secret) >= MIN_REPEATED for shape in shapes_of(secret))
