# SPDX-License-Identifier: GPL-3.0-or-later
"""Python's codecs for the charsets that messages name."""

import re
import codecs

from public import public


# Charsets with shift states: what an octet means depends on those before it.
_STATEFUL = re.compile('iso2022|utf[-_](?:7|16|32)|hz')
_ASCII = bytes(range(128)).decode('ascii')


@public
def text_codec(charset: str) -> str:
    """Return the name of the codec for a charset.

    :raises LookupError: if there is none, or one that encodes no text, such as
        base64.
    :raises ValueError: if the charset has a NUL in it.
    """
    try:
        # Of an empty string no codec is looked up.
        ' '.encode(charset)
    except UnicodeError:
        # A codec for text, which cannot encode a space.
        pass
    return codecs.lookup(charset).name


@public
def encodes_each_character(codec: str) -> bool:
    """True if each character can be encoded, or not, by itself.

    With IDNA it does: the labels of a domain name have a limit.
    """
    try:
        _ASCII.encode(codec)
    except UnicodeError:
        return False
    return True


@public
def extends_ascii(codec: str) -> bool:
    """True if texts in the codec can be cut and joined like those in ASCII."""
    return (_STATEFUL.match(codec) is None and
            encodes_each_character(codec) and
            _ASCII.encode(codec) == _ASCII.encode('ascii'))
