# SPDX-License-Identifier: GPL-3.0-or-later
"""What may take long has a thread of its own; see `Border`."""

import errno
import asyncio

from public import public
from typing import Any, Callable, TypeVar


Result = TypeVar('Result')


@public
def in_thread(function: Callable[..., Result],
              *args: Any) -> 'asyncio.Future[Result]':
    """Begin to call a function in a thread; for the network thread.

    :param function: What is called, with the arguments.
    :return: What it will return or raise.
    :raises OSError: if no thread can be started.
    """
    loop = asyncio.get_running_loop()
    try:
        return loop.run_in_executor(None, function, *args)
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, str(error)) from error
