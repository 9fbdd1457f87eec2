# SPDX-License-Identifier: GPL-3.0-or-later
"""What became of the recipients of a post, read from journals and records."""

import os
import zlib

from contextlib import suppress
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from mailman_mta_pool.journal.archive import EXTENSION, prefix_of
from mailman_mta_pool.journal.queue_ids import queue_id_of
from mailman_mta_pool.journal.records import (
    BOUNCED,
    DEFERRED,
    DISCARDED,
    head_in,
    IN_DOUBT,
    lines_of,
    PLACE,
    POST,
    PostHead,
    SERVED,
)
from mailman_mta_pool.posts import bare_id
from public import public
from typing import Any, Dict, Iterator, List, NamedTuple, Optional


# gzip, and not zlib alone.
GZIP_WINDOW_BITS = 16 + zlib.MAX_WBITS
# How much is unpacked at once, in octets.
PART_OCTETS = 4096
# What servers say once for each transaction is looked at so often.
REMEMBERED_REPLIES = 1024


@public
class Event(NamedTuple):
    """What happened to one recipient.

    :ivar address: The recipient.
    :ivar outcome: 'accepted', 'refused', 'deferred', 'in doubt' or
        'discarded'.
    :ivar time: When, in seconds since 1970.
    :ivar relay: The name of the server; '' if it is not known.
    :ivar reply: What the server said, code and text; '' for nothing.
    :ivar queue_id: What the server calls the message; '' if it does not say.
    :ivar list_id: The list; '' for a message of no list.
    """

    address: str
    outcome: str
    time: float
    relay: str = ''
    reply: str = ''
    queue_id: str = ''
    list_id: str = ''


@public
class PostKept(NamedTuple):
    """A post to a list.

    :ivar list_id: The list; '' for a message of no list.
    :ivar total: How many recipients there were, at the least.
    :ivar time: When the first delivery began, in seconds since 1970.
    :ivar sender: The address of the author.
    """

    list_id: str
    total: int
    time: float
    sender: str = ''


@public
def events_of(var_directory: str, message_id: str,
              address: Optional[str] = None) -> List[Event]:
    """Return what happened to the recipients of a post, in order of time.

    :param var_directory: Mailman's $VAR_DIR.
    :param message_id: The Message-ID, with or without angle brackets.
    :param address: The only recipient of interest, in any case.
    :raises OSError: if something may not be read.
    """
    wanted = None if address is None else address.lower()
    # A crash can leave both a journal and its record.
    events = dict.fromkeys(
        event for text in _texts_of(var_directory, message_id)
        for event in _events_in(text, wanted))
    return sorted(events, key=lambda event: event.time)


@public
def posts_of(var_directory: str, message_id: str) -> List[PostKept]:
    """Return the posts with a Message-ID: one for each list.

    :param var_directory: Mailman's $VAR_DIR.
    :param message_id: The Message-ID, with or without angle brackets.
    :raises OSError: if something may not be read.
    """
    posts: Dict[str, PostKept] = {}
    for text in _texts_of(var_directory, message_id):
        head = head_in(text)
        if head is None:
            continue
        post = PostKept(head.list_id, head.total, head.time, head.sender)
        known = posts.get(head.list_id, post)
        # The entry that was put back is for those who were left.
        posts[head.list_id] = post._replace(
            total=max(known.total, post.total),
            time=min(known.time, post.time))
    return sorted(posts.values(), key=lambda post: post.time)


@public
def kept_since(var_directory: str) -> Optional[float]:
    """Return when the oldest record was made, in seconds since 1970.

    :param var_directory: Mailman's $VAR_DIR.
    :return: None if there are no records.
    :raises OSError: if the directory may not be read.
    """
    try:
        with os.scandir(_records(var_directory)) as entries:
            return min((entry.stat().st_mtime for entry in entries
                        if entry.name.endswith(EXTENSION)), default=None)
    except FileNotFoundError:
        return None


def _records(var_directory: str) -> str:
    return os.path.join(var_directory, 'mta_pool', 'records')


def _texts_of(var_directory: str, message_id: str) -> Iterator[bytes]:
    """Yield the journals and the records of a post.

    A journal becomes a record, never the other way round, so that each is
    found at least once.
    """
    wanted = bare_id(message_id)
    journals = os.path.join(var_directory, 'mta_pool', 'journal')
    for name in _names_in(journals):
        text = _read(os.path.join(journals, name))
        head = head_in(text)
        if head is not None and bare_id(head.message_id) == wanted:
            yield text
    records, prefix = _records(var_directory), prefix_of(message_id)
    for name in _names_in(records):
        if name.startswith(prefix) and name.endswith(EXTENSION):
            yield _unpacked(_read(os.path.join(records, name)))


def _names_in(directory: str) -> List[str]:
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []


def _read(path: str) -> bytes:
    try:
        with open(path, 'rb') as fp:
            return fp.read()
    except FileNotFoundError:
        return b''


def _unpacked(octets: bytes) -> bytes:
    """Return what can be read of a record, which may have been cut off."""
    unpacking, parts = zlib.decompressobj(GZIP_WINDOW_BITS), []
    with suppress(zlib.error):
        for start in range(0, len(octets), PART_OCTETS):
            parts.append(unpacking.decompress(
                octets[start:start + PART_OCTETS]))
    return b''.join(parts)


def _events_in(text: bytes, wanted: Optional[str]) -> Iterator[Event]:
    """Yield the events of a journal, in their order.

    :param text: The journal.
    :param wanted: The only recipient of interest, in lower case, or None.
    """
    if wanted is not None and wanted.isascii():
        text = _lines_with(text, encode_basestring_ascii(wanted))
    list_id, moment, relay = '', 0.0, ''
    for kind, *values in lines_of(text):
        try:
            if kind == POST:
                head = PostHead(*values[:5])
                list_id, moment = head.list_id, moment or head.time
            elif kind == PLACE:
                moment, relay = values
            else:
                for told in _told(kind, values):
                    if wanted is None or told.address.lower() == wanted:
                        yield told._replace(
                            time=moment, relay=relay, list_id=list_id,
                            queue_id=_queue_id(told))
        except (TypeError, ValueError, IndexError, AttributeError):
            # It is a line of another release.
            continue


def _lines_with(text: bytes, name: str) -> bytes:
    """Return the lines that may say something of a recipient.

    To look for one among many is quicker than to read all of them.

    :param text: The journal.
    :param name: The address as in JSON, in lower case.
    """
    needle, context = name.encode('ascii'), (
        f'["{POST}",'.encode('ascii'), f'["{PLACE}",'.encode('ascii'))
    return b''.join(
        line for line in text[:text.rfind(b'\n') + 1].splitlines(True)
        if needle in line.lower() or line.startswith(context))


def _told(kind: str, values: List[Any]) -> Iterator[Event]:
    """Yield what a line says of each recipient; when is not said there."""
    if kind == SERVED:
        reply = ''
        if isinstance(values[-1], list):
            reply = _text(values.pop()[0])
        for address in values:
            yield Event(address, 'accepted', 0.0, '', reply)
    elif kind == BOUNCED:
        address, code, text = values
        yield Event(address, 'refused', 0.0, '', f'{code} {_text(text)}')
    elif kind == DEFERRED:
        code, text, *addresses = values
        reply = f'{code} {_text(text)}'
        for address in addresses:
            yield Event(address, 'deferred', 0.0, '', reply)
    elif kind in (IN_DOUBT, DISCARDED):
        for address in values:
            yield Event(address, kind, 0.0)


def _text(recorded: str) -> str:
    """Return the words of a server, of which each octet was recorded."""
    return recorded.encode('latin-1').decode('utf-8', 'backslashreplace')


def _queue_id(told: Event) -> str:
    return _queue_id_in(told.reply) if told.outcome == 'accepted' else ''


@lru_cache(maxsize=REMEMBERED_REPLIES)
def _queue_id_in(reply: str) -> str:
    found = queue_id_of(reply)
    return '' if found is None else found.text
