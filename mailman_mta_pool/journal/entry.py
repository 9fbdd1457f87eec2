# SPDX-License-Identifier: GPL-3.0-or-later
"""The queue entry that is being delivered, and other entries.

Mailman does not tell.  But while a runner works on an entry its file has the
extension .bak, and what is in it is what the runner has got.
"""

import os
import re
import json
import pickle
import hashlib
import logging

from email import message_from_string
from mailman.config import config
from mailman.email.message import Message
from public import public
from typing import Any, Dict, Iterable, Iterator, List, Optional, Set, Tuple


log = logging.getLogger('mailman.smtp')


# The keys of the metadata that the runner itself adds before it calls us.
RUNNERS_KEYS = frozenset(['lang', 'original_size', 'verp'])
# How the metadata of an entry ends that was left over from a crash: with the
# number of times, by the two pickle protocols that
# `Switchboard.recover_backup_files` uses.
BAK_COUNT = re.compile(
    rb'_bak_count(?:(?:q.|r.{4})?K(?P<octet>.)|'
    rb'\n(?:p\d+\n)?I(?P<digit>\d)\n)[us]\.\Z', re.DOTALL)
# How much of the end of an entry is searched for that, in octets.
TAIL_OCTETS = 64
# The key of the metadata with which Mailman shunts an entry: the queue that
# `mailman unshunt` puts it back into.
WHICH_QUEUE_KEY = 'whichq'


@public
def queue_directory(queue: str = 'out') -> str:
    """Return the directory with the entries of a queue.

    :param queue: The name of the queue.
    """
    return config.switchboards[queue].queue_directory


@public
def is_in(directory: str, filebase: str) -> bool:
    """Return True if the entry is in the queue of that directory.

    :param directory: See `queue_directory`.
    :param filebase: The name of the entry.
    """
    # An entry goes from .pck to .bak, and back to .pck when a runner starts:
    # looking for each only once may miss the entry.  In `bad` it is a .psv.
    return any(os.path.exists(os.path.join(directory, filebase + extension))
               for extension in ('.pck', '.bak', '.pck', '.psv'))


@public
def exists(filebase: str) -> bool:
    """Return True if the entry is in the `out` queue, or given up.

    Mailman moves what it has given up into the `bad` queue, under the same
    name, and the site's operator moves it back.

    :param filebase: The name of the entry.
    """
    return any(is_in(queue_directory(queue), filebase)
               for queue in ('out', 'bad', 'out'))


@public
def read_entry(path: str) -> Optional[Tuple[Any, Dict[str, Any]]]:
    """Return the message and the metadata of a queue entry.

    :param path: The file.
    :return: None if the file has just gone, or if it cannot be unpickled.
    """
    try:
        with open(path, 'rb') as fp:
            msg, msgdata = pickle.load(fp), pickle.load(fp)
        if isinstance(msg, str):
            # As `Switchboard.dequeue` does.
            msg = message_from_string(msg, Message)
        if not (isinstance(msg, Message) and isinstance(msgdata, dict)):
            raise pickle.UnpicklingError('it is no message with its metadata')
    except FileNotFoundError:
        return None
    except Exception as error:
        # A pickle can raise anything.  Mailman itself preserves such an
        # entry in the `bad` queue when its turn comes.
        log.warning('Skipping the queue entry %s, which cannot be read: %r',
                    path, error)
        return None
    return msg, msgdata


@public
def identity_of(msg: Any, msgdata: Dict[str, Any]) -> str:
    """Return a digest by which an entry with another name is recognized.

    Mailman gives it one when it shunts the entry, and `mailman unshunt` does
    so again.  The headers, the list and the recipients stay.

    :param msg: The message.
    :param msgdata: Its metadata.
    """
    known = (msgdata.get('listid'),
             [(key, str(value)) for key, value in msg.items()],
             sorted(map(str, msgdata.get('recipients') or ())))
    return hashlib.sha256(json.dumps(known).encode('ascii')).hexdigest()


@public
def identities_in(queues: Iterable[str]) -> Set[str]:
    """Return the identities of all the entries in some queues.

    :param queues: The names of the queues, in the order in which an entry
        moves.
    """
    return {identity_of(*entry) for queue in queues
            for entry in entries_in(queue)}


@public
def entries_in(queue: str) -> Iterator[Tuple[Any, Dict[str, Any]]]:
    """Yield the message and the metadata of each entry in a queue.

    :param queue: The name of the queue.
    """
    directory = queue_directory(queue)
    for name in _names_in(directory):
        if name.endswith(('.pck', '.bak', '.psv')):
            entry = read_entry(os.path.join(directory, name))
            if entry is not None:
                yield entry


@public
def filebases_of(msg: Any, msgdata: Dict[str, Any]) -> List[str]:
    """Return the names of the entries in the `out` queue that a post may be.

    There is more than one only where several runners deliver posts that are
    equal in everything, so that they need not be told apart.

    :param msg: The message, as the runner passes it.
    :param msgdata: Its metadata.
    :return: The names without extension; none if it is not from there.
    """
    return [filebase for filebase in _in_process()
            if _is_same(filebase, msg, msgdata)]


def _is_same(filebase: str, msg: Any, msgdata: Dict[str, Any]) -> bool:
    entry = read_entry(os.path.join(queue_directory(), filebase + '.bak'))
    return (entry is not None and entry[0].items() == msg.items() and
            _lasting(entry[1]) == _lasting(msgdata))


def _lasting(msgdata: Dict[str, Any]) -> Dict[str, Any]:
    return {key: value for key, value in msgdata.items()
            if not key.startswith('_') and key not in RUNNERS_KEYS}


@public
def count_afresh(filebase: str) -> None:
    """Let Mailman forget how often the entry was left over from a crash.

    At three it puts the entry aside.  A single octet of the file changes, so
    that a crash at this moment leaves one entry or the other; a new file
    would take longer to reach the disk than it may have.

    :param filebase: The name of an entry that is being delivered.
    """
    with open(os.path.join(queue_directory(), filebase + '.bak'), 'rb+') as fp:
        offset = max(0, fp.seek(0, os.SEEK_END) - TAIL_OCTETS)
        fp.seek(offset)
        end = BAK_COUNT.search(fp.read())
        if end is not None:
            group = 'octet' if end['digit'] is None else 'digit'
            fp.seek(offset + end.start(group))
            fp.write(b'\0' if group == 'octet' else b'0')


def _in_process() -> Iterator[str]:
    for name in sorted(_names_in(queue_directory())):
        filebase, extension = os.path.splitext(name)
        if extension == '.bak':
            yield filebase


def _names_in(directory: str) -> List[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
