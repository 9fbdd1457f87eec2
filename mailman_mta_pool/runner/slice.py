# SPDX-License-Identifier: GPL-3.0-or-later
"""Which runner this process is."""

import click

from mailman.config import config
from public import public
from typing import Optional


PROGRAM = 'mailman.bin.runner'


@public
def slice_of_process(runner: str = 'out') -> Optional[str]:
    """Return the name of the slice of a queue that this process delivers.

    :param runner: The name of the runner.
    :return: Such as 'out-0-of-2', as Mailman counts; None if this process is
        not that runner, but a script, a test or another runner.
    """
    context = click.get_current_context(silent=True)
    if context is None:
        return None
    root = context.find_root()
    if getattr(root.command.callback, '__module__', '') != PROGRAM:
        return None
    name, number, _ = root.params.get('runner_spec') or ('', 0, 0)
    if name != runner:
        return None
    # `mailman.core.runner.Runner` takes the number of slices from here, and
    # passes over the number of the slice where there is only one.
    count = int(getattr(config, f'runner.{name}').instances)
    return f'{name}-{number if count > 1 else 0}-of-{count}'
