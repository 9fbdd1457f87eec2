# SPDX-License-Identifier: GPL-3.0-or-later
"""`mailman mta-pool config`: the settings, and where each comes from."""

import os
import sys
import json
import click

from mailman_mta_pool.configuration.files import (
    ConfigurationError,
    LIMIT_MASTER,
    RELAY_MASTER,
    relay_names,
)
from mailman_mta_pool.configuration.loading import (
    configuration_path,
    exposures_in_force,
    load,
    no_password,
)
from mailman_mta_pool.console.checked import check_file, warnings_about
from mailman_mta_pool.console.effective import (
    effective_settings,
    Setting,
    with_origins,
)
from mailman_mta_pool.console.subcommand import Subcommand
from mailman_mta_pool.console.terminal import (
    columns,
    Line,
    padded,
    Terminal,
    terminal_of,
)
from mailman_mta_pool.current import problem_in_force
from public import public
from typing import Dict, Iterable, Iterator, List, Optional, Sequence, Tuple


# It changes when a program that reads the JSON would go wrong.
VERSION = 1


@click.command(
    cls=Subcommand,
    help="""\
    Show the settings in force, and the file that each comes from.

    These are the settings of [mta] that the plugin heeds, the plugin's
    section of mailman.cfg, and the plugin's own file.  Passwords are not
    shown.  The exit status is 1 if there is a mistake in them.""")
@click.option('--check', 'path', metavar='FILE', help="""\
    Check a file that is not in force yet, and change nothing: the plugin's
    own, or a mailman.cfg or a part of one.  Of the plugin's own, the relays
    and limits are shown.  The exit status is 1 if there is a mistake in
    it.""")
@click.option('--json', 'as_json', is_flag=True, help='Print JSON.')
@click.pass_context
def command(ctx: click.Context, path: Optional[str], as_json: bool) -> None:
    """See the help of the command."""
    terminal = terminal_of(sys.stdout, os.environ)
    if path is not None:
        problem, warnings, settings = _check(path)
        if as_json:
            click.echo(json.dumps({
                **_values(settings, problem, warnings), 'file': path},
                indent=2))
        elif problem is None:
            click.echo(f'{terminal.harmless(path)}: good')
            for line in _lines(settings, terminal):
                click.echo(terminal.styled(line))
    else:
        problem, warnings = problem_in_force(), _warnings_in_force()
        settings = list(effective_settings())
        if as_json:
            click.echo(json.dumps(
                _values(settings, problem, warnings), indent=2))
        else:
            for line in _lines(settings, terminal):
                click.echo(terminal.styled(line))
    if not as_json:
        for said in warnings if problem is None else [problem]:
            click.echo(terminal.harmless(said), err=True)
    ctx.exit(0 if problem is None else 1)


public(command=command)


def _warnings_in_force() -> Sequence[str]:
    try:
        return warnings_about(
            configuration_path(), load(no_password), exposures_in_force())
    except ConfigurationError:
        return []


def _check(path: str) -> Tuple[
        Optional[str], Sequence[str], List[Setting]]:
    """Check a file that is not in force.

    :return: What is wrong with it, in one line, or None; warnings; and the
        settings of the relays and limits that it gives.
    """
    try:
        own, warnings = check_file(path)
    except ConfigurationError as error:
        return str(error), [], []
    settings: List[Setting] = []
    if own is not None and relay_names(own):
        settings.extend(with_origins(own, path, RELAY_MASTER))
    if own is not None:
        settings.extend(with_origins(own, path, LIMIT_MASTER))
    return None, warnings, settings


def _values(settings: Iterable[Setting],
            problem: Optional[str],
            warnings: Sequence[str]) -> Dict[str, object]:
    return {
        'version': VERSION,
        'problem': problem,
        'warnings': list(warnings),
        'settings': {
            f'{setting.section}.{setting.key}': {
                'value': setting.value, 'origin': setting.origin}
            for setting in settings},
        }


def _lines(settings: Iterable[Setting], terminal: Terminal) -> Iterator[Line]:
    sections: Dict[str, List[Tuple[str, str]]] = {}
    for setting in settings:
        sections.setdefault(setting.section, []).append((
            terminal.harmless(f'{setting.key}: {setting.value}'),
            terminal.harmless(setting.origin)))
    # One long value does not push all the files off the screen.
    width = max((min(columns(words), terminal.width // 2)
                 for pairs in sections.values() for words, _ in pairs),
                default=0)
    for section, pairs in sections.items():
        yield Line(f'[{terminal.harmless(section)}]', 'heading')
        for words, origin in pairs:
            yield Line(f'  {padded(words, width)}  # {origin}')
