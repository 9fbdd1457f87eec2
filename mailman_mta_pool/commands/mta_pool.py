# SPDX-License-Identifier: GPL-3.0-or-later
"""`mailman mta-pool`, whose subcommands are imported when they are called.

Mailman imports this module in every process, runners and REST included, so
nothing heavy is imported here.  It asks whatever stands in `__all__` for its
interfaces, so only a class can stand there.
"""

import click

from importlib import import_module
from mailman.interfaces.command import ICLISubCommand
from public import public
from typing import Dict, List, Optional
from zope.interface import implementer


CONSOLE = 'mailman_mta_pool.console'
# Each subcommand, and what --help says of it.  The help is not taken from the
# subcommands, because --help would have to import them all for that.
SUBCOMMANDS: Dict[str, str] = {
    'check': 'Go through a dialogue with the mail server, step by step.',
    'config': 'Show the settings, and where each of them comes from.',
    'report': 'Write a page that shows what was delivered.',
    'status': 'Show what is being delivered, and what needs you.',
    'trace': 'Tell what became of a post, or of one member\'s copy.',
    }


class LazyGroup(click.Group):
    """A group that knows its subcommands without importing them.

    Mailman's own group needs `click` below 9, and so does this one.
    """

    def list_commands(self, ctx: click.Context) -> List[str]:
        """See `click.Group`."""
        return sorted(SUBCOMMANDS)

    def get_command(self, ctx: click.Context,
                    cmd_name: str) -> Optional[click.Command]:
        """See `click.Group`.

        :raises ClickException: for a subcommand that cannot be imported.
        """
        if cmd_name not in SUBCOMMANDS:
            return None
        try:
            return import_module(f'{CONSOLE}.{cmd_name}').command
        except (ImportError, SyntaxError) as error:
            raise click.ClickException(
                f'mta-pool {cmd_name} cannot be loaded: {error}') from error

    def format_commands(self, ctx: click.Context,
                        formatter: click.HelpFormatter) -> None:
        """See `click.Group`."""
        with formatter.section('Commands'):
            formatter.write_dl(sorted(SUBCOMMANDS.items()))


@public
@implementer(ICLISubCommand)
class MTAPool:
    """See `ICLISubCommand`."""

    name = 'mta-pool'
    command = LazyGroup(
        name, help='Show what the pool of SMTP connections does.')
