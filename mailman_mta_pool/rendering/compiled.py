# SPDX-License-Identifier: GPL-3.0-or-later
"""A post rendered once, with slots for what is personal."""

import re

from email.header import Header
from email.message import Message
from email.utils import formataddr
from mailman_mta_pool.rendering.leaves import leaf_of
from mailman_mta_pool.rendering.marks import Marked, Unspliceable
from mailman_mta_pool.rendering.members import Values
from mailman_mta_pool.wire.content import (
    canonical,
    Content,
    flatten,
    SplicedContent,
    stuff,
)
from public import public
from typing import Any, List, Optional, Set


def personal_to(values: Values) -> str:
    """The To: header that `PersonalizedMixin.personalize_to` makes."""
    if values.user_name is None:
        return values.recipient
    return formataddr(
        (Header(values.user_name).encode(), values.recipient))


class _ToHeader:
    """The slot of a personalized To: header."""

    slots = frozenset(['recipient', 'user_name'])
    before = after = b''
    ends_line = True

    def __init__(self, name: str, policy: Any) -> None:
        self._name = name
        self._fold = policy.clone(linesep='\r\n').fold_binary

    def render(self, values: Values) -> bytes:
        """Return the folded header for one recipient, canonical."""
        return canonical(self._fold(self._name, personal_to(values)))


@public
class Compiled:
    """A rendering for all recipients of one kind, with slots.

    :ivar slots: The names of the slots; empty if all get the same octets.
    """

    def __init__(self, message: Message, marked: Marked) -> None:
        """Take apart a message that was rendered with marked values.

        :param message: The message; its slots are taken out of it.
        :param marked: The values.
        :raises Unspliceable: if the values cannot be told from the rest.
        """
        self._holes: List[Any] = []
        self._token = marked.token
        self._take_to(message, marked)
        for part in message.walk():
            if not part.is_multipart():
                leaf = leaf_of(part, marked)
                if leaf is not None:
                    part.set_payload(self._hole(leaf))
        self.slots: Set[str] = set().union(
            *(hole.slots for hole in self._holes))
        self._split(flatten(message))

    def _hole(self, hole: Any) -> str:
        self._holes.append(hole)
        return f'{self._token}hole{len(self._holes) - 1}x'

    def _take_to(self, message: Message, marked: Marked) -> None:
        value = message.get('to')
        if value is None or str(value) != personal_to(marked.values):
            return
        name = next(
            name for name in message.keys() if name.lower() == 'to')
        message.replace_header(
            'to', self._hole(_ToHeader(name, message.policy)))

    def _split(self, flat: bytes) -> None:
        """Keep the octets around the holes, in both forms."""
        token = self._token.encode('ascii')
        # A header's hole is the whole line.
        pattern = rb'(?:^[A-Za-z]+: )?' + token + rb'hole(\d+)x'
        pieces = re.split(pattern, flat, flags=re.MULTILINE)
        order = [int(number) for number in pieces[1::2]]
        if order != list(range(len(self._holes))) or any(
                token in piece for piece in pieces[::2]):
            raise Unspliceable('a value is where none was expected')
        fixed = []
        for index, piece in enumerate(pieces[::2]):
            octets = canonical(piece)
            if index and isinstance(self._holes[index - 1], _ToHeader):
                octets = octets[len(b'\r\n'):]
            fixed.append(octets)
        for index, hole in enumerate(self._holes):
            fixed[index] += hole.before
            fixed[index + 1] = hole.after + fixed[index + 1]
        # Whether a slot that comes last ends its line can depend on the value:
        # a soft line break of quoted-printable does.
        self._is_open = bool(self._holes) and not fixed[-1]
        if not self._is_open and not fixed[-1].endswith(b'\n'):
            fixed[-1] += b'\r\n'
        self._fixed = fixed
        self._stuffed = [
            stuff(piece, index == 0 or self._holes[index - 1].ends_line)
            for index, piece in enumerate(fixed)]
        self._stuffed[-1] += b'.\r\n'
        self._eight_bit = not all(piece.isascii() for piece in fixed)
        self._common: Optional[Content] = None

    def content(self, values: Values) -> Content:
        """Return the content for one recipient.

        :param values: The recipient's values; they must be of the kind that
            this was compiled for.
        """
        if not self._holes:
            if self._common is None:
                self._common = Content(self._fixed[0])
            return self._common
        pieces = [self._fixed[0]]
        stuffed = [self._stuffed[0]]
        eight_bit = self._eight_bit
        for hole, piece, transparent in zip(
                self._holes, self._fixed[1:], self._stuffed[1:]):
            octets = hole.render(values)
            eight_bit = eight_bit or not octets.isascii()
            pieces += octets, piece
            stuffed += stuff(octets), transparent
        if self._is_open and not octets.endswith(b'\n'):
            pieces[-1] = b'\r\n'
            stuffed[-1] = b'\r\n.\r\n'
        return SplicedContent(tuple(pieces), tuple(stuffed), eight_bit)


public(personal_to=personal_to)
