# SPDX-License-Identifier: GPL-3.0-or-later
"""Which queue entry is being delivered.

Mailman does not tell.  But while a runner works on an entry its file has the
extension .bak, and what is in it is what the runner has got.
"""

import os
import re
import pickle

from mailman.config import config
from public import public
from typing import Any, Dict, Iterator, List


# What the runner itself adds before it calls us.
ADDED = frozenset(['lang', 'original_size', 'verp'])
# How the metadata of an entry ends that was left over from a crash: with the
# number of times, by the two pickle protocols that
# `Switchboard.recover_backup_files` uses.
RECOVERED = re.compile(
    rb'_bak_count(?:(?:q.|r.{4})?K(?P<octet>.)|'
    rb'\n(?:p\d+\n)?I(?P<digit>\d)\n)[us]\.\Z', re.DOTALL)
ENOUGH = 64


@public
def queue_directory() -> str:
    """Return where the entries of the `out` queue are."""
    return config.switchboards['out'].queue_directory


@public
def exists(filebase: str, directory: str) -> bool:
    """Is the entry still in the queue?

    :param filebase: The name of the entry.
    :param directory: See `queue_directory`.
    """
    # It goes from .pck to .bak, and from there to .pck when a runner starts:
    # whoever looks for each only once may miss it.
    return any(os.path.exists(os.path.join(directory, filebase + extension))
               for extension in ('.pck', '.bak', '.pck'))


@public
def filebases_of(msg: Any, msgdata: Dict[str, Any]) -> List[str]:
    """Return the names of the entries in the `out` queue that this may be.

    There is more than one only where several runners deliver posts that are
    equal in everything, so that they need not be told apart.

    :param msg: The message, as the runner passes it.
    :param msgdata: Its metadata.
    :return: The names without extension; none if it is not from there.
    """
    return [filebase for filebase in _in_process()
            if _is_same(filebase, msg, msgdata)]


def _is_same(filebase: str, msg: Any, msgdata: Dict[str, Any]) -> bool:
    path = os.path.join(queue_directory(), filebase + '.bak')
    try:
        with open(path, 'rb') as fp:
            theirs = pickle.load(fp)
            # What was put there as text has been parsed since.
            return ((isinstance(theirs, str) or
                     theirs.items() == msg.items()) and
                    _lasting(pickle.load(fp)) == _lasting(msgdata))
    except (OSError, EOFError, pickle.UnpicklingError):
        # Another runner has just finished it.
        return False


def _lasting(msgdata: Dict[str, Any]) -> Dict[str, Any]:
    return {key: value for key, value in msgdata.items()
            if not key.startswith('_') and key not in ADDED}


@public
def count_afresh(filebase: str) -> None:
    """Let Mailman forget how often the entry was left over from a crash.

    At three it puts the entry aside.  A single octet of the file changes, so
    that a crash at this moment leaves one entry or the other; a new file
    would take longer to reach the disk than it may have.

    :param filebase: The name of an entry that is being delivered.
    """
    with open(os.path.join(queue_directory(), filebase + '.bak'), 'rb+') as fp:
        offset = max(0, fp.seek(0, os.SEEK_END) - ENOUGH)
        fp.seek(offset)
        end = RECOVERED.search(fp.read())
        if end is not None:
            group = 'octet' if end['digit'] is None else 'digit'
            fp.seek(offset + end.start(group))
            fp.write(b'\0' if group == 'octet' else b'0')


def _in_process() -> Iterator[str]:
    try:
        names = os.listdir(queue_directory())
    except FileNotFoundError:
        return
    for name in sorted(names):
        filebase, extension = os.path.splitext(name)
        if extension == '.bak':
            yield filebase
