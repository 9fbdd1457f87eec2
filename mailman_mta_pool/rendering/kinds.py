# SPDX-License-Identifier: GPL-3.0-or-later
"""Which recipients can share one compiled rendering."""

from functools import cached_property
from mailman_mta_pool.rendering.charsets import (
    encodes_each_character,
    text_codec,
)
from mailman_mta_pool.rendering.marks import Unspliceable
from mailman_mta_pool.rendering.members import Values
from public import public
from typing import Any, FrozenSet, Hashable, Optional, Tuple


# Whatever some part of Mailman or of the email package takes for a line end;
# see str.splitlines().
LINE_ENDS = frozenset(
    '\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029')


def _codec(charset: Optional[str]) -> str:
    """Return the codec that tells whether values fit the charset."""
    try:
        codec = text_codec(charset or 'us-ascii')
    except (LookupError, ValueError):
        # Nor can the decorate handler encode anything in it.
        return 'ascii'
    if not encodes_each_character(codec):
        raise Unspliceable(f'no value alone decides what {codec} can encode')
    return codec


def _can_encode(value: str, codec: str) -> bool:
    try:
        value.encode(codec)
    except UnicodeError:
        return False
    return True


@public
class Kinds:
    """Sorts recipients by what decides on the shape of their rendering:
    whether they are members, whether they get the duplicates flag,
    which values are empty, and in which charsets the others can be encoded:
    those that Mailman's decorate handler tries in turn.
    """

    def __init__(self, mlist: Any, msg: Any, msgdata: Any) -> None:
        self._mlist = mlist
        self._msg = msg
        self._flagged = msgdata.get('add-dup-header', {})

    @cached_property
    def _codecs(self) -> Tuple[str, ...]:
        return tuple({
            _codec(self._mlist.preferred_language.charset),
            _codec(self._msg.get_content_charset())})

    def is_flagged(self, recipient: str) -> bool:
        """Return True if the recipient gets the duplicates flag."""
        return recipient in self._flagged

    def kind_of(self, values: Values, fields: FrozenSet[str],
                ) -> Optional[Hashable]:
        """Return the kind of a recipient, which others may share.

        :param values: The recipient's values.
        :param fields: Those that are shown somewhere.
        :return: Something to compare, or None where only the reference will
            do: for a value with a line end in it, or one that is blank but
            not empty, or none at all where there should be one.
        :raises Unspliceable: if no value alone decides on its shape.
        """
        shapes = []
        for field, value in _shown(values, fields):
            shape = self._shape(value)
            if shape is None:
                return None
            shapes.append((field, shape))
        return (self.is_flagged(values.recipient),
                values.member is not None,
                'user_name' in fields and values.user_name is not None,
                tuple(shapes))

    def _shape(self, value: Optional[str]) -> Optional[Hashable]:
        codecs = self._codecs
        if value is None:
            return None
        if not value:
            return 'empty'
        if value.isspace():
            return None
        # No line end is printable, and nothing else that breaks things is.
        if not value.isprintable() and (
                not LINE_ENDS.isdisjoint(value) or
                not _can_encode(value, 'utf-8')):
            return None
        if value.isascii():
            return 'ascii'
        return tuple(_can_encode(value, name) for name in codecs)


def _shown(values: Values, fields: FrozenSet[str],
           ) -> Tuple[Tuple[str, Optional[str]], ...]:
    shown = []
    if 'recipient' in fields:
        shown.append(('recipient', values.recipient))
    if 'user_name' in fields and values.user_name is not None:
        shown.append(('user_name', values.user_name))
    if values.member is not None:
        for field in values.member._fields:
            if field in fields:
                shown.append((field, getattr(values.member, field)))
    return tuple(shown)
