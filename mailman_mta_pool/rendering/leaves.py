# SPDX-License-Identifier: GPL-3.0-or-later
"""Splicing values into one leaf of a message, in its transfer encoding."""

import re
import binascii

from email.message import Message
from email.quoprimime import body_encode
from mailman_mta_pool.rendering.charsets import extends_ascii, text_codec
from mailman_mta_pool.rendering.marks import Marked, SLOTS, Unspliceable
from mailman_mta_pool.rendering.members import Values
from mailman_mta_pool.wire.content import canonical
from public import public
from typing import Callable, List, Optional, Set, Tuple


FROM = re.compile(rb'^From ', re.MULTILINE)
# 76 characters a line, RFC 2045, section 6.8.
BASE64_LINE = 57


def _identity(octets: bytes) -> bytes:
    return octets


def _base64(octets: bytes) -> bytes:
    encoded = binascii.b2a_base64(octets, newline=False)
    return b''.join(
        encoded[start:start + 76] + b'\n'
        for start in range(0, len(encoded), 76))


def _quoted_printable(octets: bytes) -> bytes:
    return body_encode(octets.decode('latin-1')).encode('latin-1')


def _decoded(leaf: Message, payload: bytes,
             ) -> Tuple[bytes, Callable[[bytes], bytes]]:
    """Return the decoded payload, and the function that encodes it again."""
    encoding = str(leaf.get('content-transfer-encoding', '')).lower()
    if encoding == 'base64':
        return binascii.a2b_base64(payload), _base64
    if encoding == 'quoted-printable':
        return binascii.a2b_qp(payload), _quoted_printable
    return payload, _identity


@public
class Leaf:
    """One leaf with slots in it.

    :ivar slots: The names of its slots.
    :ivar before: The lines before those with slots, encoded and canonical.
    :ivar after: The lines after those.
    :ivar ends_line: True if the lines with slots end in a line ending.
    """

    def __init__(self, octets: bytes, encode: Callable[[bytes], bytes],
                 charset: str, mangle_from: bool, marked: Marked) -> None:
        self._encode = encode
        self._charset = charset
        self._mangle_from = mangle_from
        pieces, names = marked.split(octets, charset)
        self.slots: Set[str] = set(names)
        self._set_apart(pieces, names)
        self.ends_line = self.render(marked.values).endswith(b'\n')

    def _set_apart(self, pieces: List[bytes], names: List[str]) -> None:
        """Encode once what comes before the first slot and after the last."""
        before, *rest = pieces
        if self._encode is _base64:
            cut = len(before) // BASE64_LINE * BASE64_LINE
        else:
            cut = before.rfind(b'\n') + 1
        self.before = self.finish(self._encode(before[:cut]))
        after = b''
        if self._encode is not _base64:
            end = rest[-1].find(b'\n') + 1
            after = rest[-1][end:] if end else b''
            rest[-1] = rest[-1][:len(rest[-1]) - len(after)]
        self.after = self.finish(self._encode(after))
        self._first = before[cut:]
        self._rest = tuple(
            (SLOTS[name], piece) for name, piece in zip(names, rest))

    def finish(self, encoded: bytes) -> bytes:
        """Do what the email package's generator does with a payload."""
        if self._mangle_from and b'From ' in encoded:
            encoded = FROM.sub(b'>From ', encoded)
        return canonical(encoded)

    def render(self, values: Values) -> bytes:
        """Return the lines with slots for one recipient, canonical."""
        parts = [self._first]
        for value, piece in self._rest:
            parts.append(value(values).encode(self._charset, 'replace'))
            parts.append(piece)
        return self.finish(self._encode(b''.join(parts)))


@public
def leaf_of(part: Message, marked: Marked) -> Optional[Leaf]:
    """Find the slots in a leaf of a message.

    :param part: A part that is not multipart.
    :param marked: The values it was rendered with.
    :return: The leaf, or None if there is nothing personal in it.
    :raises Unspliceable: if its values cannot be spliced.
    """
    payload = part.get_payload()
    if not isinstance(payload, str):
        return None
    charset = str(part.get_content_charset() or 'us-ascii')
    try:
        codec = text_codec(charset)
        raw = payload.encode('ascii')
        octets, encode = _decoded(part, raw)
    except (LookupError, ValueError):
        if _is_personal(payload.encode('utf-8', 'replace'), marked, 'utf-8'):
            raise Unspliceable('values in octets of an unknown kind')
        return None
    if not extends_ascii(codec):
        if marked.token in octets.decode(charset, 'replace'):
            raise Unspliceable(f'values in {codec}')
        return None
    if not _is_personal(octets, marked, charset):
        return None
    leaf = Leaf(
        octets, encode, charset, bool(part.policy.mangle_from_), marked)
    if (leaf.before + leaf.render(marked.values) + leaf.after
            != leaf.finish(raw)):
        raise Unspliceable('the encoding cannot be done piece by piece')
    return leaf


def _is_personal(octets: bytes, marked: Marked, charset: str) -> bool:
    """Return True if there is a mark, in clear or in an encoded word."""
    return marked.token.encode('ascii') in octets or (
        b'=?' in octets and bool(marked.split(octets, charset)[1]))
