# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that are locked, for what the processes of a host share.

However a process dies, the kernel frees its locks.
"""

import os
import fcntl

from public import public
from typing import Optional


@public
def open_locked(path: str, flags: int, permissions: int) -> Optional[int]:
    """Return a descriptor of a file that is locked; None if another has it.

    :param path: The file.
    :param flags: What `os.open` is to do beside opening it for both ways.
    :param permissions: Those of the file if it is made.
    :raises OSError: if it cannot be opened, or there are no locks.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, permissions)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
