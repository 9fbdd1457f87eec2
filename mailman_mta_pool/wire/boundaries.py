# SPDX-License-Identifier: GPL-3.0-or-later
"""MIME boundaries that nobody can foresee."""

import sys
import copy
import secrets

from email.message import Message
from itertools import count
from public import public
from typing import Iterator, List, Optional


# As many digits as `email.generator` writes, so that headers are folded alike.
_DIGITS = len(str(sys.maxsize - 1))


def _new_boundary() -> str:
    """Return a boundary of the form that `email.generator` makes."""
    return f'{"=" * 15}{secrets.randbelow(sys.maxsize):0{_DIGITS}}=='


def _parts(message: Message) -> Iterator[Message]:
    """Yield a message and all the parts in it."""
    yield message
    if message.is_multipart():
        for part in message.get_payload():
            # What else stands there is for the generator to refuse.
            if isinstance(part, Message):
                yield from _parts(part)


def _body(part: Message) -> Optional[bytes]:
    """Return the payload as the generator writes it; None if it has parts."""
    if part.is_multipart():
        return None
    # Without these headers nothing is decoded.  Not a shallow copy: that of
    # Mailman's class shares everything.
    bare = copy.deepcopy(part)
    del bare['content-type']
    del bare['content-transfer-encoding']
    body: Optional[bytes] = bare.get_payload(decode=True)    # type: ignore
    return body


def _has_boundary(part: Message) -> Optional[bool]:
    """True or False for a multipart; None if the part needs no boundary."""
    if part.get_content_maintype() != 'multipart' or _body(part) is not None:
        return None
    return bool(part.get_boundary())


def _texts(part: Message) -> Iterator[bytes]:
    """Yield the texts of a part, without those of the parts in it."""
    texts = [part.preamble, part.epilogue]
    if _has_boundary(part):
        texts.append(part.get_boundary())
    for text in filter(None, texts):
        yield text.encode('utf-8', 'surrogateescape')
    yield _body(part) or b''


@public
class Boundaries:
    """The MIME boundaries of one post.

    The `email` package draws boundaries from the generator of the `random`
    module, whose numbers can be computed from earlier ones, and does not see
    a boundary that is in the text before a CRLF.  These boundaries come from
    the operating system's source of randomness.  All renderings of a post get
    the same ones.
    """

    def __init__(self) -> None:
        """Draw no boundary yet."""
        self._drawn: List[str] = []

    def _candidates(self) -> Iterator[str]:
        for index in count():
            if index == len(self._drawn):
                self._drawn.append(_new_boundary())
            yield self._drawn[index]

    def set_in(self, message: Message) -> None:
        """Give each multipart that has no boundary one of its own.

        It is one that occurs nowhere in the message, whatever the line
        endings (RFC 2046, section 5.1.1).

        :param message: The message; headers of its parts are changed in
            place.
        """
        lacking = [part for part in _parts(message)
                   if _has_boundary(part) is False]
        if not lacking:
            return
        texts = [text for part in _parts(message) for text in _texts(part)]
        candidates = self._candidates()
        for part in lacking:
            part.set_boundary(next(
                boundary for boundary in candidates
                if not any(boundary.encode('ascii') in text
                           for text in texts)))
