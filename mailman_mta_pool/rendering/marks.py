# SPDX-License-Identifier: GPL-3.0-or-later
"""Marks around personal values, by which they are found in what is rendered.

A mark is made of ASCII letters and digits, so it passes through every charset
and every transfer encoding that the email package uses, and it decides
nothing: whether the text is ASCII, or can be encoded in the list's charset,
depends on the value inside as it would without the mark.
"""

import re
import secrets

from email.utils import formataddr
from mailman_mta_pool.rendering.members import MemberValues, Values
from public import public
from typing import Callable, Dict, List, Tuple


#: What can stand in a slot, and how it is made from a recipient's values.
#: `member` is the one that Mailman's decorate handler builds from two.
SLOTS: Dict[str, Callable[[Values], str]] = {
    'recipient': lambda values: values.recipient,
    'name': lambda values: values.member.name,    # type: ignore[union-attr]
    'address_name':
        lambda values: values.member.address_name,    # type: ignore
    'email': lambda values: values.member.email,    # type: ignore[union-attr]
    'original_email':
        lambda values: values.member.original_email,    # type: ignore
    'language': lambda values: values.member.language,    # type: ignore
    'member': lambda values: formataddr(
        (values.member.address_name, values.member.email)),    # type: ignore
    }
public(SLOTS=SLOTS)


@public
class Unspliceable(Exception):
    """This cannot be rendered by splicing; the reference does it."""


@public
class Marked:
    """The values of one recipient, with marks around them.

    :ivar values: The marked values; an empty one has no mark, since whether
        it is empty decides what Mailman puts in its place.
    :ivar token: What every mark begins with.
    """

    def __init__(self, values: Values) -> None:
        self.token = f'm{secrets.token_hex(6)}'
        member = values.member
        self.values = Values(
            self._mark('recipient', values.recipient),
            None if member is None else MemberValues(*(
                self._mark(field, getattr(member, field))
                for field in MemberValues._fields)),
            values.user_name and self._mark('user_name', values.user_name))
        # Longest first: the mark of `member` holds those of two others.
        self._slots: Dict[str, str] = {}
        for slot, make in SLOTS.items():
            if slot == 'recipient' or member is not None:
                text = make(self.values)
                if text and self._is_personal(text):
                    self._slots.setdefault(text, slot)

    def _mark(self, field: str, value: str) -> str:
        if not value:
            return value
        return f'{self.token}{field.replace("_", "")}b{value}{self.token}e'

    def _is_personal(self, text: str) -> bool:
        # A name that is not ASCII is in an encoded word, token and all.
        return self.token in text or '=?' in text

    def split(self, octets: bytes, charset: str) -> Tuple[List[bytes],
                                                          List[str]]:
        """Split a text at the marked values.

        :param octets: The text, in the charset.
        :param charset: Its name.
        :return: The pieces around the values, one more than there are
            values; and the slot of each value.
        :raises Unspliceable: if there are remains of marks between.
        """
        by_octets = {
            text.encode(charset, 'replace'): slot
            for text, slot in self._slots.items()}
        pattern = b'|'.join(
            re.escape(key)
            for key in sorted(by_octets, key=len, reverse=True))
        if not pattern:
            return [octets], []
        pieces = re.split(b'(' + pattern + b')', octets)
        token = self.token.encode('ascii')
        if any(token in piece for piece in pieces[::2]):
            raise Unspliceable('a value was changed on its way')
        return pieces[::2], [by_octets[piece] for piece in pieces[1::2]]
