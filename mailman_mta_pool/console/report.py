# SPDX-License-Identifier: GPL-3.0-or-later
"""`mailman mta-pool report`: a static page for a web server to serve."""

import os
import stat
import click

from mailman.config import config
from mailman_mta_pool.console.subcommand import Subcommand
from mailman_mta_pool.current import current_overview
from mailman_mta_pool.monitoring.files import (
    read_states,
    state_directory,
    write_whole,
)
from mailman_mta_pool.monitoring.report import report_page
from public import public


# A web server is another user than Mailman, and Mailman's umask is 007.
MODE = 0o644
STANDARD_OUTPUT = '-'


@click.command(
    name='report',
    cls=Subcommand,
    help='Write one static page of HTML: what was delivered, what waits, '
    'and what to do about it.')
@click.option(
    '--html', 'path', metavar='FILE', required=True,
    help='The file to write, in one step; - is standard output.')
def command(path: str) -> None:
    """Write the page.

    The page is written whatever the state files are like.  If one cannot be
    read, a line on standard error says so, and the exit status is 1.

    :param path: The file, or `STANDARD_OUTPUT`.
    """
    page = report_page(current_overview().to_dict(), os.uname().nodename)
    if path == STANDARD_OUTPUT:
        # The page says that it is UTF-8, whatever the locale is.
        click.echo(page.encode(), nl=False)
    else:
        try:
            _write(path, page)
        except OSError as error:
            # The error may name another file, for a directory.
            raise click.ClickException(
                f'{path}: {error.strerror}; the report was not written',
                ) from error
    problems = read_states(state_directory(config.VAR_DIR)).problems
    if problems:
        more = f', and {len(problems) - 1} more' if len(problems) > 1 else ''
        raise click.ClickException(
            f'the report is written, but lacks {problems[0]}{more}')


public(command=command)


def _write(path: str, page: str) -> None:
    try:
        is_special = not stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        is_special = False
    if is_special:
        # A device or a pipe stays what it is.
        with open(path, 'w', encoding='utf-8') as fp:
            fp.write(page)
    else:
        # A link stays what it is, too.
        write_whole(os.path.realpath(path), page, MODE)
