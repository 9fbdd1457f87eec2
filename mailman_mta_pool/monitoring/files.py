# SPDX-License-Identifier: GPL-3.0-or-later
"""The state files on disk, and files that are written whole or not at all."""

import os
import time

from contextlib import suppress
from mailman_mta_pool.monitoring.state import SliceState, state_from_json
from public import public
from tempfile import NamedTemporaryFile
from typing import List, NamedTuple


@public
class StatesRead(NamedTuple):
    """What the state files say.

    :ivar states: One for each slice, by its name.
    :ivar problems: One line for each file that cannot be read, and for a
        directory that cannot.
    """

    states: List[SliceState]
    problems: List[str]


@public
def state_directory(var_directory: str) -> str:
    """Return the directory of the state files.

    :param var_directory: Mailman's $VAR_DIR.
    """
    return os.path.join(var_directory, 'mta_pool', 'state')


@public
def read_states(directory: str) -> StatesRead:
    """Read all state files.

    :param directory: See `state_directory`.  It may be missing: nothing was
        delivered yet.
    """
    states: List[SliceState] = []
    problems: List[str] = []
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return StatesRead([], [])
    except OSError as error:
        return StatesRead([], [f'{directory}: {error.strerror}'])
    for name in names:
        if name.endswith('.json') and not name.startswith('.'):
            path = os.path.join(directory, name)
            try:
                with open(path, encoding='utf-8') as fp:
                    states.append(state_from_json(fp.read()))
            except FileNotFoundError:
                continue
            except OSError as error:
                problems.append(f'{path}: {error.strerror}')
            except ValueError as error:
                problems.append(f'{path}: {error}')
    return StatesRead(states, problems)


@public
def write_whole(path: str, text: str, mode: int) -> None:
    """Replace a file by another in one step; readers see one or the other.

    :param path: The file.
    :param text: What it is to say.
    :param mode: Its permissions, whatever the umask.
    :raises OSError: if it cannot be written; nothing has changed then.
    """
    directory, name = os.path.split(path)
    with NamedTemporaryFile(
            'w', encoding='utf-8', dir=directory or '.', prefix=f'.{name}.',
            delete=False) as fp:
        try:
            os.fchmod(fp.fileno(), mode)
            fp.write(text)
            fp.flush()
            os.rename(fp.name, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(fp.name)
            raise


@public
def remove_torn(path: str, age: float = 0.0) -> None:
    """Remove what is left of processes that were killed in `write_whole`.

    :param path: The file that they were about to replace.
    :param age: For how many seconds nothing was written to what is removed.
    """
    directory, name = os.path.split(path)
    with suppress(OSError), os.scandir(directory or '.') as entries:
        for entry in entries:
            if entry.name.startswith(f'.{name}.'):
                with suppress(OSError):
                    if entry.stat().st_mtime <= time.time() - age:
                        os.unlink(entry.path)
