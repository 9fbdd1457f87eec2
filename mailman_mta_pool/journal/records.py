# SPDX-License-Identifier: GPL-3.0-or-later
"""The lines of a journal, written and read back.

Each line is a JSON array and ends in LF.  A line without one was torn when
the machine or the disk gave out, and says nothing.
"""

import json

from json.encoder import encode_basestring_ascii
from mailman_mta_pool.interfaces import Failure
from mailman_mta_pool.wire.replies import Reply
from public import public
from typing import (
    Any,
    BinaryIO,
    Collection,
    Dict,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Set,
)


SERVED, BOUNCED, BEGUN, DONE = 'served', 'bounced', 'handing over', 'handed'
ENTRY = 'entry'
# These lines, and the reply at the end of the served ones, are for `trace`
# alone; a release that does not know them passes over them.
POST, PLACE = 'post', 'at'
DEFERRED, IN_DOUBT, DISCARDED = 'deferred', 'in doubt', 'discarded'
public(SERVED=SERVED, BOUNCED=BOUNCED, POST=POST, PLACE=PLACE,
       DEFERRED=DEFERRED, IN_DOUBT=IN_DOUBT, DISCARDED=DISCARDED)
RENAMED = 'was'
# The octets of a line beside the recipients, at most.
LINE_OCTETS = 64
# How much of a journal is read at once, in octets.
PART_OCTETS = 64 * 1024
# How much of a reply is recorded for `trace`, in octets.
MAX_REPLY_OCTETS = 400
# How the lines begin that are of use when the delivery has ended.
KEPT_BEGINNINGS = tuple(
    f'["{kind}",'.encode('ascii') for kind in (
        SERVED, BOUNCED, POST, PLACE, DEFERRED, IN_DOUBT, DISCARDED))
EVENT_BEGINNINGS = tuple(
    f'["{kind}",'.encode('ascii') for kind in (
        SERVED, BOUNCED, DEFERRED, IN_DOUBT, DISCARDED))


# How a reply begins, by its code.
_CODES = {code: f'{code} ' for code in range(1000)}

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
class PostHead(NamedTuple):
    """What a journal says of the post.

    :ivar message_id: Its Message-ID, with angle brackets.
    :ivar list_id: The List-ID; '' for a message of no list.
    :ivar total: How many recipients the queue entry has.
    :ivar time: When the delivery began, in seconds since 1970.
    :ivar sender: The address of the author.
    """

    message_id: str
    list_id: str
    total: int
    time: float
    sender: str = ''


@public
def post_line(post: PostHead) -> bytes:
    """Return the line that says which post it is."""
    return _line(POST, *post)


@public
def place_line(second: int, relay: str) -> bytes:
    """Return the line with the time and the relay of the lines after it.

    :param second: The time in seconds since 1970.
    :param relay: The name of the relay.
    """
    return f'["{PLACE}",{second},{encode_basestring_ascii(relay)}]\n'.encode(
        'ascii')


@public
def text_in_line(reply: Reply) -> str:
    """Return what `served_line` takes for a reply.

    :param reply: The reply to the end of the content.
    """
    code, lines = reply
    text = lines[0] if len(lines) == 1 else reply.text
    if len(text) > MAX_REPLY_OCTETS:
        text = text[:MAX_REPLY_OCTETS]
    return encode_basestring_ascii(_CODES[code] + text.decode('latin-1'))


@public
def served_line(recipients: Collection[str], text: str = '') -> bytes:
    """Return the line that records recipients as served.

    :param recipients: Those of the transaction.
    :param text: What the server said; see `text_in_line`.
    """
    # One for every transaction: this is quicker than `json`, and is JSON.
    if len(recipients) == 1:
        recipient, = recipients
        names = encode_basestring_ascii(recipient)
    else:
        names = ','.join(map(encode_basestring_ascii, recipients))
    # Another release reads the names, and passes over an array.
    line = (f'["served",{names},[{text}]]\n' if text else
            f'["served",{names}]\n')
    return line.encode('ascii')


@public
def bounced_line(recipient: str, code: int, text: bytes) -> bytes:
    """Return the line that records a recipient as refused for good."""
    return _line(BOUNCED, recipient, code, text.decode('latin-1'))


@public
def deferred_line(recipients: Iterable[str], code: int,
                  text: bytes) -> bytes:
    """Return the line that records recipients as refused for the moment."""
    return _line(DEFERRED, code, text[:MAX_REPLY_OCTETS].decode('latin-1'),
                 *recipients)


@public
def in_doubt_line(recipients: Iterable[str]) -> bytes:
    """Return the line that records that the reply was lost."""
    return _line(IN_DOUBT, *recipients)


@public
def discarded_line(recipients: Iterable[str]) -> bytes:
    """Return the line that records that nobody tries again."""
    return _line(DISCARDED, *recipients)


@public
def begun_line(token: str, recipients: Iterable[str]) -> bytes:
    """Return the line before another queue entry is made for recipients."""
    return _line(BEGUN, token, *recipients)


@public
def done_line(token: str) -> bytes:
    """Return the line after that queue entry has been made."""
    return _line(DONE, token)


@public
def lines_of(text: bytes) -> Iterator[List[Any]]:
    """Yield the kind and the values of each complete line.

    :param text: A journal, which may end in the middle of a line.
    """
    for line in text[:text.rfind(b'\n') + 1].splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            # The line was torn in the middle of the file: a full disk that
            # had room again.
            continue
        if isinstance(values, list) and values:
            yield values


@public
def kept_parts(journal: BinaryIO) -> Iterator[bytes]:
    """Yield what a kept record says of a journal, part by part.

    A journal of a million recipients takes hundreds of megabytes, and no
    other thread runs while such a text is divided into its lines.

    :param journal: The journal, open for reading.
    """
    # Of a line that goes on in the next part; some name a whole post.
    begun: List[bytes] = []
    for part in iter(lambda: journal.read(PART_OCTETS), b''):
        end = part.rfind(b'\n') + 1
        if end > 0:
            text = b''.join((*begun, part[:end]))
            begun = []
            yield text if _is_kept_whole(text) else b''.join(
                line for line in text.splitlines(True)
                if line.startswith(KEPT_BEGINNINGS))
        if b'\0' in part[end:]:
            # What is reserved for more lines, or what a power failure has
            # left.
            begun = [b'\0']
        else:
            begun.append(part[end:])


def _is_kept_whole(text: bytes) -> bool:
    """Return True for most parts of a journal, quickly: all is kept."""
    return text.startswith(KEPT_BEGINNINGS) and (
        text.count(b'\n["served",') + text.count(b'\n["at",') + 1 ==
        text.count(b'\n'))


@public
def has_events(text: bytes) -> bool:
    """Return True if a record says anything of a recipient.

    :param text: The record, or a part of it.
    """
    return text.startswith(EVENT_BEGINNINGS) or any(
        b'\n' + beginning in text for beginning in EVENT_BEGINNINGS)


@public
def head_in(text: bytes) -> Optional[PostHead]:
    """Return what a journal says of the post, without reading all of it.

    :param text: The journal.
    :return: None if it does not say.
    """
    start = (b'\n' + text).find(f'\n["{POST}",'.encode('ascii'))
    if start >= 0:
        for kind, *values in lines_of(
                text[start:text.find(b'\n', start) + 1]):
            if len(values) >= len(PostHead._fields) and (
                    isinstance(values[0], str)):
                return PostHead(*values[:len(PostHead._fields)])
    return None


@public
class Settled:
    """The contents of a journal.

    :ivar served: Those for whom the server took responsibility.
    :ivar messages: How many transactions served them.
    :ivar bounced: Code and text for those refused for good.
    :ivar handed_over: The recipients that another queue entry has, by the
        token of that entry.
    :ivar handing_over: Likewise, the recipients that another entry may have
        or may not.
    :ivar identity: The identity of its queue entry; None if it has none.
    :ivar message_id: The Message-ID of the post; None if it is not recorded.
    :ivar former_entry: The name that the entry had before; '' if it always
        had this one.
    :ivar end: Where the last complete line ends, in octets.
    """

    def __init__(self, text: bytes = b'') -> None:
        """Read a journal.

        :param text: The journal.
        """
        self.served: Set[str] = set()
        self.messages = 0
        self.bounced: Dict[str, Failure] = {}
        self.handed_over: Dict[str, List[str]] = {}
        self.handing_over: Dict[str, List[str]] = {}
        self.identity: Optional[str] = None
        self.message_id: Optional[str] = None
        self.former_entry = ''
        self.end = text.rfind(b'\n') + 1
        for kind, *values in lines_of(text):
            try:
                self._enter(kind, values)
            except (ValueError, TypeError, LookupError, AttributeError):
                # It is no line of ours, or one of another release.
                continue

    def __bool__(self) -> bool:
        """Return True if anything is recorded of any recipient."""
        return bool(self.served or self.bounced or self.handed_over or
                    self.handing_over)

    def _enter(self, kind: str, values: List[Any]) -> None:
        if kind == SERVED:
            if values and isinstance(values[-1], list):
                # That is the reply.
                values.pop()
            self.served.update(values)
            self.messages += 1
        elif kind == BOUNCED:
            recipient, code, text = values
            self.bounced[recipient] = code, text.encode('latin-1')
        elif kind == BEGUN:
            self.handing_over[values[0]] = values[1:]
        elif kind == DONE and values[0] in self.handing_over:
            self.handed_over[values[0]] = self.handing_over.pop(values[0])
        elif kind == ENTRY:
            self.identity, = values
        elif kind == POST and isinstance(values[0], str):
            self.message_id = values[0]
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
