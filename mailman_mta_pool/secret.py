# SPDX-License-Identifier: GPL-3.0-or-later
"""Passwords and tokens, as all the rooms hand them on."""

import hmac

from public import public
from typing import Any, NoReturn


@public
class Secret:
    """A text that nobody is to see.

    Neither `repr`, `str`, `format` nor a traceback with the values of
    variables shows it, and it cannot be pickled.  Two of the same text are
    equal, so that a secret can be a part of settings that are compared.
    """

    __slots__ = ('_text',)

    def __init__(self, text: str = '') -> None:
        """Hide a text; '' is for none.

        :param text: The password or the token.
        """
        self._text = text

    def reveal(self) -> str:
        """Return the text, for whoever sends it."""
        return self._text

    def __bool__(self) -> bool:
        """False if there is none."""
        return bool(self._text)

    def __repr__(self) -> str:
        return '<Secret>' if self._text else '<no Secret>'

    def __format__(self, specification: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(_octets(self), _octets(other))

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __copy__(self) -> 'Secret':
        return self

    def __deepcopy__(self, memo: Any) -> 'Secret':
        # `dataclasses.asdict` copies what it finds.
        return self

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError('a secret cannot be pickled')


def _octets(secret: Secret) -> bytes:
    return secret.reveal().encode('utf-8', 'surrogatepass')
