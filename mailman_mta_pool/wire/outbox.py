# SPDX-License-Identifier: GPL-3.0-or-later
"""Octets on their way to the kernel, counted."""

from collections import deque
from public import public
from typing import Deque, List, Sequence


# What is handed to the kernel at once, and the block of content of
# RFC 5321, section 4.5.3.2.5 that has a timeout of its own.
BLOCK = 256 * 1024
_NOTHING = memoryview(b'')


@public
class Outbox:
    """A queue of octets that knows how many have gone.

    :ivar added: How many octets were ever added.
    :ivar sent: How many of those were handed to the kernel.
    """

    __slots__ = '_head', '_pieces', 'added', 'sent'

    def __init__(self) -> None:
        self._pieces: Deque[bytes] = deque()
        self._head = _NOTHING
        self.added = 0
        self.sent = 0

    def __bool__(self) -> bool:
        return self.sent < self.added

    def add(self, octets: bytes) -> None:
        """Put octets at the end."""
        self._pieces.append(octets)
        self.added += len(octets)

    def extend(self, pieces: Sequence[bytes]) -> None:
        """Put several pieces at the end."""
        self._pieces.extend(pieces)
        self.added += sum(map(len, pieces))

    def peek(self) -> memoryview:
        """Return the next octets, at most a block, without taking them."""
        if not self._head and self._pieces:
            self._head = memoryview(self._gather())
        return self._head if len(self._head) <= BLOCK else self._head[:BLOCK]

    def _gather(self) -> bytes:
        """Take as many pieces as fit into a block, but at least one."""
        pieces = self._pieces
        if self.added - self.sent <= BLOCK:
            octets = b''.join(pieces)
            pieces.clear()
            return octets
        first = pieces.popleft()
        gathered: List[bytes] = [first]
        room = BLOCK - len(first)
        while pieces and len(pieces[0]) <= room:
            room -= len(pieces[0])
            gathered.append(pieces.popleft())
        return first if len(gathered) == 1 else b''.join(gathered)

    def advance(self, octets: int) -> None:
        """Take off the first octets: they have gone."""
        self._head = (
            self._head[octets:] if octets < len(self._head) else _NOTHING)
        self.sent += octets

    def clear(self) -> None:
        """Forget what has not gone."""
        self._pieces.clear()
        self._head = _NOTHING
        self.added = self.sent
