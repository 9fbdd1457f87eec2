# SPDX-License-Identifier: GPL-3.0-or-later
"""Which storage the configuration names."""

import asyncio

from mailman_mta_pool.limits.file import FileStorage
from public import public
from typing import Any, Tuple


#: The storage that needs nothing but a directory.
FILE = 'file'
public(FILE=FILE)


@public
def check_storage(name: str) -> None:
    """Check that there can be such a storage; nothing is opened.

    :param name: See `open_storage`.
    :raises ValueError: as with `open_storage`.
    """
    if name != FILE:
        _shared().check_url(name)


def _shared() -> Any:
    try:
        # Only who has several hosts needs redis-py.
        import mailman_mta_pool.limits.shared as shared
    except ImportError as error:
        raise ValueError(
            'a Redis server needs redis-py, which is not installed; `pip '
            f"install 'mailman-mta-pool[redis]'` does so ({error})",
            ) from error
    return shared


@public
async def reach_storage(name: str) -> Tuple[str, str]:
    """Find out whether a storage can be reached; nothing is stored.

    :param name: See `open_storage`.
    :return: Its name without user and password; and what is wrong, or ''.
    :raises ValueError: as with `open_storage`.
    """
    if name == FILE:
        return FILE, ''
    found: Tuple[str, str] = await _shared().reach(name)
    return found


@public
def open_storage(name: str, hosts: int, directory: str,
                 loop: asyncio.AbstractEventLoop) -> Any:
    """Return the storage of the limits; nothing is opened yet.

    :param name: 'file', or the URL of a Redis or Valkey server.
    :param hosts: How many hosts share the server.
    :param directory: Where the files are, such as $VAR_DIR/mta_pool/limits.
    :param loop: The loop of the network thread.
    :return: An `ILimitStorage`.
    :raises ValueError: if there is no such storage, or redis-py is missing.
    """
    files = FileStorage(directory, loop.call_later)
    if name == FILE:
        return files
    return _shared().open_shared(name, hosts, files, loop)
