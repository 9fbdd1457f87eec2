# SPDX-License-Identifier: GPL-3.0-or-later
"""Which queue entry is being delivered.

Mailman does not tell.  But while a runner works on an entry its file has the
extension .bak, and what is in it is what the runner has got.
"""

import os
import pickle

from mailman.config import config
from public import public
from typing import Any, Dict, Iterator, List


# What the runner itself adds before it calls us.
ADDED = frozenset(['lang', 'original_size', 'verp'])


def _directory() -> str:
    return config.switchboards['out'].queue_directory


@public
def exists(filebase: str) -> bool:
    """Is the entry still in the queue?"""
    # It goes from .pck to .bak, and from there to .pck when a runner starts:
    # whoever looks for each only once may miss it.
    return any(os.path.exists(os.path.join(_directory(), filebase + extension))
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
    path = os.path.join(_directory(), filebase + '.bak')
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


def _in_process() -> Iterator[str]:
    try:
        names = os.listdir(_directory())
    except FileNotFoundError:
        return
    for name in sorted(names):
        filebase, extension = os.path.splitext(name)
        if extension == '.bak':
            yield filebase
