# SPDX-License-Identifier: GPL-3.0-or-later
"""What all subcommands have in common: their output may have no place."""

import os
import sys
import click
import errno

from contextlib import suppress
from public import public
from typing import Any


@public
class Subcommand(click.Command):
    """A subcommand that ends in one line where it cannot write."""

    def invoke(self, ctx: click.Context) -> Any:
        """See `click.Command`."""
        try:
            return super().invoke(ctx)
        except OSError as error:
            # `click` ends without a word where the reader has left.
            if error.errno == errno.EPIPE:
                raise
            _forget_output()
            click.ClickException(
                f'{error.filename or "standard output"}: '
                f'{error.strerror or error}').show()
            ctx.exit(self.failure_status(ctx))

    def failure_status(self, ctx: click.Context) -> int:
        """Return the exit status for output that cannot be written.

        :param ctx: Has the options.
        """
        return 1


def _forget_output() -> None:
    # What is left in the buffer would fail again at the end.
    with suppress(AttributeError, OSError, ValueError):
        output = sys.stdout.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, output)
        os.close(null)
