# SPDX-License-Identifier: GPL-3.0-or-later
"""The plugin: components are registered here, and nothing is opened."""

import sys
import click
import signal
import logging

from contextlib import suppress
from mailman.config import config
from mailman.database.transaction import transaction
from mailman.interfaces.listmanager import IListManager
from mailman.interfaces.plugin import IPlugin
from mailman_mta_pool.configuration.files import ConfigurationError
from mailman_mta_pool.configuration.last_good import last_good_settings
from mailman_mta_pool.configuration.loading import (
    configuration_path,
    exposures_in_force,
    load,
    no_password,
    program_warnings,
)
from mailman_mta_pool.configuration.secrets import SecretUnavailable
from mailman_mta_pool.relays.factories import check_modes, register
from mailman_mta_pool.relays.limiting import check_limits
from mailman_mta_pool.relays.routing import routing_warnings
from mailman_mta_pool.relays.safety import safety_warnings
from mailman_mta_pool.resource import StateResource
from public import public
from typing import Iterator, List, Optional
from zope.component import getUtility
from zope.interface import implementer


log = logging.getLogger('mailman.error')
smtp_log = logging.getLogger('mailman.smtp')

# The status with which each program refuses to run.  Mailman's master starts
# a runner again, ten times in a row, unless it exits with the number of
# SIGTERM.
RUNNER = 'mailman.bin.runner'
STATUS_OF_PROGRAM = {
    RUNNER: int(signal.SIGTERM),
    'mailman.bin.master': 1,
    }
# The subcommands that show a mistake in a place of their own.
SHOW_MISTAKES = (
    ['mta-pool', 'check'], ['mta-pool', 'config'], ['mta-pool', 'status'])
# The program that has subcommands, and the status with which those refuse
# whose purpose is to start runners.
COMMANDS = 'mailman.bin.mailman'
STATUS_OF_COMMAND = {
    'start': 1,
    'restart': 1,
    }
START_RUNNERS = tuple([name] for name in STATUS_OF_COMMAND)
OUTGOING_RUNNER = 'mailman.runners.outgoing.OutgoingRunner'


@public
@implementer(IPlugin)
class MTAPoolPlugin:
    """See `IPlugin`."""

    #: See `IPlugin`.
    resource = StateResource()

    def pre_hook(self) -> None:
        """See `IPlugin`."""
        register()

    def post_hook(self) -> None:
        """See `IPlugin`.

        It checks the configuration, in every Mailman process and command.  By
        now every plugin has had its chance to register a factory.  A mistake
        is one line on standard error; it ends runners and what starts them.
        """
        if _subcommand()[:2] in SHOW_MISTAKES:
            return
        try:
            _check_start()
        except SecretUnavailable as error:
            # It may be otherwise when the first post is there.
            log.error('mailman_mta_pool: %s', error)
            _print(error)
        except ConfigurationError as error:
            status = _status_of_refusal()
            if status is not None:
                log.error('mailman_mta_pool: %s', error)
            _print(error)
            if status is not None:
                sys.exit(status)


def _check_start() -> None:
    """Check the configuration, as thoroughly as this process needs it.

    Only what delivers posts, or starts what does, looks for a password that
    a program prints, and warns.

    :raises ConfigurationError: if there is a mistake in it.
    """
    if _is_outgoing_runner():
        settings = last_good_settings()
        check_modes(settings)
        check_limits(settings)
        for warning in safety_warnings(settings):
            smtp_log.warning('Not safe: %s', warning)
        for warning in program_warnings(settings, configuration_path()):
            smtp_log.warning('No token: %s', warning)
        for warning in routing_warnings(settings, _posting_addresses()):
            smtp_log.warning('%s: [relay.NAME] for: %s',
                             configuration_path(), warning)
    elif _subcommand()[:1] in START_RUNNERS:
        settings = load()
        check_modes(settings)
        check_limits(settings)
        for exposed in exposures_in_force():
            _print(exposed)
        for warning in safety_warnings(settings):
            _print(warning)
        for warning in program_warnings(settings, configuration_path()):
            _print(warning)
        for warning in routing_warnings(settings, _posting_addresses()):
            _print(f'{configuration_path()}: [relay.NAME] for: {warning}')
    else:
        check_modes(load(no_password))


def _posting_addresses() -> Iterator[str]:
    """Yield the posting addresses of the site's lists."""
    with transaction():
        yield from getUtility(IListManager).names


def _print(line: object) -> None:
    # The terminal of `mailman start` may have been closed since.
    with suppress(OSError):
        print(f'mailman_mta_pool: {line}', file=sys.stderr)


def _is_outgoing_runner() -> bool:
    """Return True if this process is a runner that delivers posts."""
    if _program() != RUNNER:
        return False
    spec = click.get_current_context().find_root().params['runner_spec']
    return spec is not None and any(
        section.name == f'runner.{spec[0]}' and
        section['class'].strip() == OUTGOING_RUNNER
        for section in config.runner_configs)


def _status_of_refusal() -> Optional[int]:
    """Return the exit status with which this process refuses a bad file.

    :return: The status; None where the process has to go on.
    """
    program = _program()
    if program != COMMANDS:
        return STATUS_OF_PROGRAM.get(program)
    arguments = _subcommand()
    return STATUS_OF_COMMAND.get(arguments[0]) if arguments else None


def _program() -> str:
    """Return the module of Mailman's program that this process runs.

    Mailman's programs are commands of `click`, each with a module of its own,
    so that the program is known however it was started.

    :return: The module; '' in a script that initializes Mailman for a purpose
        of its own.
    """
    context = click.get_current_context(silent=True)
    if context is None:
        return ''
    return getattr(context.find_root().command.callback, '__module__', '')


def _subcommand() -> List[str]:
    """Return the subcommand of `mailman` and its arguments.

    Mailman is initialized while the command line is still being parsed.  This
    parses it without running anything, up to the subcommand.

    :return: The arguments; empty in other programs.
    """
    if _program() != COMMANDS:
        return []
    command = click.get_current_context().find_root().command
    parser = command.make_parser(
        click.Context(command, resilient_parsing=True))
    _, arguments, _ = parser.parse_args(sys.argv[1:])
    return arguments
