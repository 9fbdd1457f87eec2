# SPDX-License-Identifier: GPL-3.0-or-later
"""Which storage the configuration names."""

import asyncio

from mailman_mta_pool.limits.file import FileStorage
from mailman_mta_pool.settings import FILE, StorageSettings
from public import public
from typing import Any, Tuple


@public
def check_storage(settings: StorageSettings) -> None:
    """Check that there can be such a storage; nothing is opened.

    :param settings: See `open_storage`.
    :raises ValueError: as with `open_storage`.
    """
    if settings.url != FILE:
        _shared().check_url(settings.url)


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
async def reach_storage(settings: StorageSettings) -> Tuple[str, str]:
    """Find out whether a storage can be reached; nothing is stored.

    :param settings: See `open_storage`.
    :return: Its name without user and password; and what is wrong, or ''.
    :raises ValueError: as with `open_storage`.
    """
    if settings.url == FILE:
        return FILE, ''
    found: Tuple[str, str] = await _shared().reach(settings)
    return found


@public
def open_storage(settings: StorageSettings, hosts: int, directory: str,
                 loop: asyncio.AbstractEventLoop) -> Any:
    """Return the storage of the limits; nothing is opened yet.

    :param settings: Where it is.
    :param hosts: How many hosts share the server.
    :param directory: Where the files are, such as $VAR_DIR/mta_pool/limits.
    :param loop: The loop of the network thread.
    :return: An `ILimitStorage`.
    :raises ValueError: if there is no such storage, or redis-py is missing.
    """
    files = FileStorage(directory, loop.call_later)
    if settings.url == FILE:
        return files
    return _shared().open_shared(settings, hosts, files, loop)
