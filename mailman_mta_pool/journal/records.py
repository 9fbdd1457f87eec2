# SPDX-License-Identifier: GPL-3.0-or-later
"""The lines of a journal, written and read back.

Each line is a JSON array and ends in LF.  A line without one was torn when
the machine or the disk gave out, and says nothing.
"""

import json

from json.encoder import encode_basestring_ascii
from mailman_mta_pool.interfaces import Failure
from public import public
from typing import Any, Collection, Dict, Iterable, List, Optional, Set


SERVED, BOUNCED, BEGUN, DONE = 'served', 'bounced', 'handing over', 'handed'
ENTRY = 'entry'
RENAMED = 'was'
# The octets of a line beside the recipients, at most.
LINE_OCTETS = 64


_encode = json.JSONEncoder(separators=(',', ':')).encode


def _line(*values: object) -> bytes:
    return _encode(values).encode('ascii') + b'\n'


@public
def octets_for(recipients: Collection[str]) -> int:
    """Return the octets of a journal in which each recipient is served.

    There is room to put all of them into another queue entry, too.

    :param recipients: All those of the queue entry.
    """
    return sum(LINE_OCTETS + 2 * len(recipient) for recipient in recipients)


@public
def entry_line(identity: str) -> bytes:
    """Return the line with the identity of the queue entry."""
    return _line(ENTRY, identity)


@public
def renamed_line(former: str) -> bytes:
    """Return the line that says that the entry has another name now.

    :param former: The name that it had.
    """
    return _line(RENAMED, former)


@public
def served_line(recipients: Iterable[str]) -> bytes:
    """Return the line that records recipients as served."""
    # One for every transaction: this is quicker than `json`, and is JSON.
    names = ','.join(map(encode_basestring_ascii, recipients))
    return f'["{SERVED}",{names}]\n'.encode('ascii')


@public
def bounced_line(recipient: str, code: int, text: bytes) -> bytes:
    """Return the line that records a recipient as refused for good."""
    return _line(BOUNCED, recipient, code, text.decode('latin-1'))


@public
def begun_line(token: str, recipients: Iterable[str]) -> bytes:
    """Return the line before another queue entry is made for recipients."""
    return _line(BEGUN, token, *recipients)


@public
def done_line(token: str) -> bytes:
    """Return the line after that queue entry has been made."""
    return _line(DONE, token)


@public
class Settled:
    """The contents of a journal.

    :ivar served: Those for whom the server took responsibility.
    :ivar bounced: Code and text for those refused for good.
    :ivar handed_over: The recipients that another queue entry has, by the
        token of that entry.
    :ivar handing_over: Likewise, the recipients that another entry may have
        or may not.
    :ivar identity: The identity of its queue entry; None if it has none.
    :ivar former_entry: The name that the entry had before; '' if it always
        had this one.
    :ivar end: Where the last complete line ends, in octets.
    """

    def __init__(self, text: bytes = b'') -> None:
        """Read a journal.

        :param text: The journal.
        """
        self.served: Set[str] = set()
        self.bounced: Dict[str, Failure] = {}
        self.handed_over: Dict[str, List[str]] = {}
        self.handing_over: Dict[str, List[str]] = {}
        self.identity: Optional[str] = None
        self.former_entry = ''
        self.end = text.rfind(b'\n') + 1
        for line in text[:self.end].splitlines():
            self._read(line)

    def __bool__(self) -> bool:
        """Return True if anything is recorded of any recipient."""
        return bool(self.served or self.bounced or self.handed_over or
                    self.handing_over)

    def _read(self, line: bytes) -> None:
        try:
            kind, *values = json.loads(line)
            self._enter(kind, values)
        except (ValueError, TypeError, LookupError, AttributeError):
            # The line was torn in the middle of the file: a full disk that
            # had room again.
            return

    def _enter(self, kind: str, values: List[Any]) -> None:
        if kind == SERVED:
            self.served.update(values)
        elif kind == BOUNCED:
            recipient, code, text = values
            self.bounced[recipient] = code, text.encode('latin-1')
        elif kind == BEGUN:
            self.handing_over[values[0]] = values[1:]
        elif kind == DONE and values[0] in self.handing_over:
            self.handed_over[values[0]] = self.handing_over.pop(values[0])
        elif kind == ENTRY:
            self.identity, = values
        elif kind == RENAMED:
            self.former_entry, = values

    def left(self, recipients: Iterable[str]) -> List[str]:
        """Return the recipients not recorded, each once, in order."""
        known = self.served.union(
            self.bounced, *self.handed_over.values())
        return [recipient for recipient in dict.fromkeys(recipients)
                if recipient not in known]

    def unreported(self, recipients: Iterable[str]) -> Dict[str, Failure]:
        """Return code and text for those refused for good.

        Those whom another queue entry has are left out.

        :param recipients: The recipients of the queue entry.
        """
        elsewhere = set().union(*self.handed_over.values())
        return {recipient: self.bounced[recipient]
                for recipient in dict.fromkeys(recipients)
                if recipient in self.bounced and recipient not in elsewhere}
