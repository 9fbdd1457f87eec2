# SPDX-License-Identifier: GPL-3.0-or-later
"""Mailman's queues, read from outside: how much waits, and since when.

An entry is a file with two pickles, the message and its metadata.  They are
read without Mailman's classes, and none of the classes that a pickle names is
ever called: a program of the operator runs nothing that stands in a queue.

The recipients of an entry never change as long as the entry has its name, and
Mailman names each entry by the time and a digest.  So an entry is read once.
"""

import io
import os
import re
import time
import pickle
import datetime

from dataclasses import dataclass, field, replace
from email.parser import HeaderParser
from functools import lru_cache
from mailman_mta_pool.monitoring.state import MESSAGE_ID_LENGTH
from mailman_mta_pool.posts import bare_id, carried_in, message_id_in
from public import public
from typing import (
    Any,
    Callable,
    Dict,
    FrozenSet,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)


#: The queues that hold posts on their way out, in the order in which they are
#: shown.
QUEUES = ('out', 'retry', 'shunt', 'bad')
public(QUEUES=QUEUES)
# An entry in one of these queues may move to the next while we look.
QUEUES_IN_ORDER = ('shunt', 'retry', 'out', 'bad')
# .pck waits, .bak is in delivery, .psv is given up.
EXTENSIONS = ('.pck', '.bak', '.psv')
# How Mailman names an entry: when the entry was made, and a digest.
NAME = re.compile(r'(\d+(?:\.\d*)?(?:e[+-]?\d+)?)\+')
# How often a directory is listed again that changes meanwhile.
LISTINGS = 3
# The time of a directory's last change is as coarse as a tick of the kernel.
# A change in the same tick as the listing would not be seen, so the listing
# of a directory that changed so recently is not relied on, in seconds.
SETTLED_S = 1.0
# For how long entries are read in one go, in seconds.  Those that are left
# are counted without their recipients, and are read the next time.
READING_S = 2.0


def _octets(text: str, encoding: str) -> bytes:
    """Return the octets that an old protocol of pickles writes as text."""
    return text.encode(encoding)


# What a pickle names and gets.  None of these can do harm.
HARMLESS: Dict[Tuple[str, str], Any] = {
    ('_codecs', 'encode'): _octets,
    ('datetime', 'datetime'): datetime.datetime,
    ('datetime', 'timedelta'): datetime.timedelta,
    ('datetime', 'timezone'): datetime.timezone,
    **{(module, kind.__name__): kind
       for module in ('builtins', '__builtin__')
       for kind in (set, frozenset, list, dict, tuple, bytes, bytearray)},
    }


class _Opaque:
    """Stands for an object of any class, and does nothing."""

    def __new__(cls, *arguments: Any, **keywords: Any) -> '_Opaque':
        return super().__new__(cls)

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """Take an item of a list."""

    extend = add = append


class _Unpickler(pickle.Unpickler):
    """Reads a pickle without importing or calling what is named in it."""

    def find_class(self, module: str, name: str) -> Any:
        """See `pickle.Unpickler`."""
        return HARMLESS.get((module, name), _Opaque)


@public
class QueuedPart(NamedTuple):
    """A post, or a part of a divided one, that has a queue entry.

    :ivar message_id: The Message-ID of the post.
    :ivar list_id: The List-Id of the list, or ''.
    :ivar origin: The same for all queue entries of the part.
    :ivar total: How many recipients the part has.
    :ivar outcomes: What became of those whom the entry does not name.
    """

    message_id: str
    list_id: str
    origin: str
    total: int
    outcomes: Mapping[str, int]


@public
@dataclass(frozen=True)
class QueueSummary:
    """What is in a queue.

    :ivar entries: How many entries, the one in delivery included.
    :ivar recipients: How many recipients these are for.
    :ivar oldest_age: For how many seconds the oldest entry has been in this
        queue; None if there is no entry.
    :ivar counts: How many recipients each entry names that could be read, by
        its name without extension.
    :ivar parts: What the entries are of, where they had an entry before or
        are parts of a divided post, by their names.
    :ivar in_delivery: The names of those entries that are in delivery.
    :ivar unreadable: How many entries cannot be read; they are among
        `entries`, without recipients.
    :ivar unread: How many entries have not been read, because there are too
        many to read in one go; they are among `entries`, without recipients.
    :ivar problem: Why the queue's directory cannot be read, or ''.
    """

    entries: int = 0
    recipients: int = 0
    oldest_age: Optional[float] = None
    counts: Mapping[str, int] = field(default_factory=dict)
    parts: Mapping[str, QueuedPart] = field(default_factory=dict)
    in_delivery: FrozenSet[str] = frozenset()
    unreadable: int = 0
    unread: int = 0
    problem: str = ''


@public
class EntryFound(NamedTuple):
    """A queue entry of a post.

    :ivar queue: The name of the queue.
    :ivar filebase: The name of the entry, without extension.
    :ivar path: Its file, when it was looked at.
    :ivar list_id: The List-Id of the list, or ''.
    :ivar recipients: Whom the entry is for.
    :ivar message_id: The Message-ID of the post, with angle brackets.
    :ivar since: When the entry was put into this queue.
    :ivar next_try: When the entry is delivered next at the latest, where that
        can be told.
    :ivar until: When the retries end, where that is set.
    :ivar in_delivery: True if a runner is at work on it.
    """

    queue: str
    filebase: str
    path: str
    list_id: str
    recipients: Tuple[str, ...]
    message_id: str
    since: float
    next_try: Optional[float]
    until: Optional[float]
    in_delivery: bool


class _Unreadable(Exception):
    """The file is no queue entry."""


class _Listing(NamedTuple):
    """The entries of a queue: their names, and the extension of each."""

    changed: int
    names: Dict[str, str]


class _Known(NamedTuple):
    """What has been found out about a queue, as long as nothing changes."""

    changed: int
    listed: float
    oldest: Optional[float]
    summary: QueueSummary


class _Queue:
    """One queue, and what has been read of its entries.

    :ivar directory: The queue's directory.
    """

    def __init__(self, directory: str, clock: Callable[[], float]) -> None:
        self.directory = directory
        self._clock = clock
        # How many recipients the entries have that have been read.
        self._counts: Dict[str, int] = {}
        self._parts: Dict[str, QueuedPart] = {}
        self._known: Optional[_Known] = None

    def summary(self, now: float, deadline: float) -> QueueSummary:
        """Return what is in the queue.

        :param now: The time, in seconds since 1970.
        :param deadline: When to stop reading entries, by the clock.
        """
        try:
            if self._known is None or not self._is_unchanged(self._known):
                self._known = self._look(now, deadline)
        except FileNotFoundError:
            # Mailman makes the directory when it starts.
            self._known = None
            return QueueSummary()
        except OSError as error:
            self._known = None
            return QueueSummary(
                problem=f'{self.directory}: {error.strerror}')
        oldest, summary = self._known.oldest, self._known.summary
        if oldest is None:
            return summary
        return replace(summary, oldest_age=max(0.0, now - oldest))

    def _is_unchanged(self, known: _Known) -> bool:
        return (known.summary.unreadable == known.summary.unread == 0 and
                known.changed + SETTLED_S * 1e9 < known.listed * 1e9 and
                os.stat(self.directory).st_mtime_ns == known.changed)

    def _look(self, now: float, deadline: float) -> _Known:
        changed, names = _list_entries(self.directory)
        for gone in self._counts.keys() - names.keys():
            del self._counts[gone]
            self._parts.pop(gone, None)
        unreadable = unread = 0
        made: List[float] = []
        for name, extension in list(names.items()):
            if name not in self._counts:
                if self._clock() > deadline:
                    unread += 1
                else:
                    try:
                        self._learn(name, extension)
                    except FileNotFoundError:
                        del names[name]
                        continue
                    except (OSError, _Unreadable):
                        unreadable += 1
            made.append(_made_at(self.directory, name, extension, now))
        return _Known(changed, now, min(made, default=None), QueueSummary(
            len(names), sum(self._counts.values()), None, dict(self._counts),
            dict(self._parts), frozenset(
                name for name, extension in names.items()
                if extension == '.bak'),
            unreadable, unread))

    def _learn(self, name: str, extension: str) -> None:
        path, octets = _read(self.directory, name, extension)
        msg, msgdata = _unpickle(octets)
        self._counts[name] = len(_recipients(msgdata))
        part = _part(msg, msgdata)
        if part is not None:
            self._parts[name] = part


@public
class QueueReader:
    """Tells what is in the queues, and reads an entry only once.

    It is for one thread.
    """

    def __init__(self, queue_root: str,
                 clock: Callable[[], float] = time.monotonic) -> None:
        """Prepare; nothing is read yet.

        :param queue_root: The directory that has a directory for each queue,
            Mailman's $QUEUE_DIR.
        :param clock: Seconds that only grow.
        """
        self._clock = clock
        self._queues = {
            name: _Queue(os.path.join(queue_root, name), clock)
            for name in QUEUES_IN_ORDER}

    def summaries(self, now: float) -> Dict[str, QueueSummary]:
        """Return what is in each of the `QUEUES`.

        :param now: The time, in seconds since 1970.
        """
        deadline = self._clock() + READING_S
        found = {name: queue.summary(now, deadline)
                 for name, queue in self._queues.items()}
        return {name: found[name] for name in QUEUES}


@lru_cache(maxsize=8)
def _reader(queue_root: str) -> QueueReader:
    return QueueReader(queue_root)


@public
def queue_summaries(queue_root: str, now: float) -> Dict[str, QueueSummary]:
    """Return what is in each of the `QUEUES`.

    A process that calls this again reads only the entries that are new.  It
    is to be called from one thread at a time.

    :param queue_root: Mailman's $QUEUE_DIR.
    :param now: The time, in seconds since 1970.
    """
    return _reader(queue_root).summaries(now)


@public
def is_queued(queue_root: str, queue: str, filebase: str) -> bool:
    """Return True if a queue has an entry.

    :param queue_root: Mailman's $QUEUE_DIR.
    :param queue: The name of the queue.
    :param filebase: The name of the entry, without extension.
    """
    # An entry goes from .pck to .bak, and back to .pck when a runner starts.
    path = os.path.join(queue_root, queue, filebase)
    return any(os.path.exists(path + extension)
               for extension in ('.pck', '.bak', '.pck'))


@public
def find_entries(
        queue_root: str, message_id: str,
        retry_interval: Optional[float] = None) -> Iterator[EntryFound]:
    """Yield the queue entries of a post.

    Entries that are damaged are passed over.

    :param queue_root: Mailman's $QUEUE_DIR.
    :param message_id: The Message-ID of the post, with or without angle
        brackets.
    :param retry_interval: How often Mailman's `retry` runner looks into its
        queue, in seconds; None if that is not known.
    :raises OSError: if something may not be read.
    """
    wanted = bare_id(message_id)
    # Most entries are of other posts.  A pickle has a string as it stands,
    # but for some characters, depending on the protocol.
    needle = wanted.encode() if re.fullmatch(r'[!-\[\]-~]+', wanted) else b''
    for queue in QUEUES_IN_ORDER:
        directory = os.path.join(queue_root, queue)
        try:
            _, names = _list_entries(directory)
        except FileNotFoundError:
            # Mailman makes the directory when it starts.
            continue
        for name, extension in sorted(names.items()):
            try:
                path, octets = _read(directory, name, extension)
                if needle not in octets:
                    continue
                msg, msgdata = _unpickle(octets)
            except (FileNotFoundError, _Unreadable):
                continue
            found = _message_id(msg)
            if bare_id(found) == wanted:
                yield _entry_found(
                    queue, name, path, found, msgdata, retry_interval)


def _entry_found(
        queue: str, name: str, path: str, message_id: str,
        msgdata: Mapping[str, Any],
        retry_interval: Optional[float]) -> EntryFound:
    directory, file_name = os.path.split(path)
    extension = os.path.splitext(file_name)[1]
    since = _made_at(directory, name, extension, 0.0)
    list_id, until = msgdata.get('listid'), msgdata.get('deliver_until')
    if isinstance(until, datetime.datetime):
        # Mailman's times are in UTC and do not say so.
        until = until.replace(tzinfo=datetime.timezone.utc).timestamp()
    else:
        until = None
    next_try = None
    if queue == 'retry' and retry_interval is not None:
        next_try = since + retry_interval
    return EntryFound(
        queue, name, path, list_id if isinstance(list_id, str) else '',
        tuple(sorted(map(str, _recipients(msgdata)))), message_id, since,
        next_try, until, extension == '.bak')


def _list_entries(directory: str) -> _Listing:
    """Return the entries in a directory.

    A file that is renamed while the directory is listed can be missed, so the
    directory is listed again if it has changed.

    :raises OSError: if it cannot be listed.
    """
    changed = os.stat(directory).st_mtime_ns
    for _ in range(LISTINGS):
        names: Dict[str, str] = {}
        for file_name in os.listdir(directory):
            name, extension = os.path.splitext(file_name)
            if extension in EXTENSIONS:
                if names.get(name) != '.bak':
                    names[name] = extension
        before, changed = changed, os.stat(directory).st_mtime_ns
        if changed == before:
            break
    return _Listing(changed, names)


def _made_at(directory: str, name: str, extension: str,
             default: float) -> float:
    """Return when an entry was put into its queue."""
    match = NAME.match(name)
    if match is not None:
        return float(match[1])
    # Somebody else has made it.
    try:
        return os.stat(os.path.join(directory, name + extension)).st_mtime
    except OSError:
        return default


def _read(directory: str, name: str, extension: str) -> Tuple[str, bytes]:
    """Return the path of an entry, and what is in it.

    :raises FileNotFoundError: if the entry has gone.
    :raises OSError: if it cannot be read.
    """
    gone: Optional[FileNotFoundError] = None
    # It may have got another extension, and the old one again.
    for each in (extension, *EXTENSIONS, extension):
        path = os.path.join(directory, name + each)
        try:
            with open(path, 'rb') as fp:
                return path, fp.read()
        except FileNotFoundError as error:
            gone = error
    assert gone is not None
    raise gone


def _unpickle(octets: bytes) -> Tuple[Any, Mapping[str, Any]]:
    """Return the message and the metadata of an entry.

    :raises _Unreadable: if it is none.
    """
    fp = io.BytesIO(octets)
    try:
        msg, msgdata = _Unpickler(fp).load(), _Unpickler(fp).load()
    except Exception as error:
        # A pickle can raise anything.
        raise _Unreadable(repr(error)) from error
    if not isinstance(msgdata, dict):
        raise _Unreadable('it has no metadata')
    return msg, msgdata


def _recipients(msgdata: Mapping[str, Any]) -> Sequence[Any]:
    # Entries of other queues, put aside, may not have any yet.
    recipients = msgdata.get('recipients')
    if isinstance(recipients, (set, frozenset, list, tuple, dict)):
        return tuple(recipients)
    return ()


def _part(msg: Any, msgdata: Mapping[str, Any]) -> Optional[QueuedPart]:
    carried = carried_in(msgdata)
    return None if carried is None else QueuedPart(
        _message_id(msg)[:MESSAGE_ID_LENGTH],
        str(msgdata.get('listid', '')), carried.origin,
        carried.total, carried.outcomes)


def _message_id(msg: Any) -> str:
    """Return the Message-ID of an unpickled message, or ''."""
    if isinstance(msg, str):
        # Mailman leaves the parsing to whoever takes it from the queue.
        return message_id_in(HeaderParser().parsestr(msg).raw_items())
    state = getattr(msg, 'state', None)
    headers = state.get('_headers') if isinstance(state, dict) else None
    return message_id_in(
        header for header in (headers if isinstance(headers, list) else ())
        if isinstance(header, tuple) and len(header) == 2)
