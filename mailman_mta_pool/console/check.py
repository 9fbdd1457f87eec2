# SPDX-License-Identifier: GPL-3.0-or-later
"""`mailman mta-pool check`: a dialogue with the mail server, step by step."""

import os
import sys
import json
import click

from mailman_mta_pool.checking.checker import Checker
from mailman_mta_pool.checking.monitoring import (
    monitoring_line,
    UNKNOWN,
    unknown_line,
)
from mailman_mta_pool.checking.steps import (
    Check,
    Problem,
    RelayCheck,
    Status,
    Step,
)
from mailman_mta_pool.console.subcommand import Subcommand
from mailman_mta_pool.console.terminal import Line, Terminal, terminal_of
from mailman_mta_pool.keys import OWN_FILE
from mailman_mta_pool.wire.envelope import is_mailbox
from public import public
from typing import Any, Iterator, List, Optional


# The longest time for a step, in seconds: nobody looks at a screen for the
# five minutes of RFC 5321.
TIMEOUT = 15.0
# As a shell has it for SIGINT.
INTERRUPTED = 130
MONITORING = '--monitoring'
_STATUS = {
    Status.ok: ('ok', 'good'),
    Status.warning: ('warning', 'warning'),
    Status.failed: ('FAILED', 'bad'),
    Status.unknown: ('unknown', 'bad'),
    }
_NAME_COLUMN, _TIME_COLUMN, _STATUS_COLUMN = 14, 12, 9
_INDENT = _STATUS_COLUMN + _NAME_COLUMN + _TIME_COLUMN


class _Command(Subcommand):
    """Exits with 3, in one line, for mistakes of ours with --monitoring.

    A monitoring system takes the 2 of `click` for a broken mail server.
    """

    def make_context(self, info_name: Optional[str], args: List[str],
                     parent: Optional[click.Context] = None,
                     **extra: Any) -> click.Context:
        """See `click.Command`."""
        # `click` takes the arguments out of the list.
        given = list(args)
        try:
            context = super().make_context(info_name, args, parent, **extra)
            if context.params['as_json'] and context.params['monitoring']:
                raise click.UsageError(
                    '--json and --monitoring exclude each other.', context)
            return context
        except click.UsageError as error:
            if MONITORING not in given:
                raise
            click.echo(unknown_line(error.format_message()))
            sys.exit(UNKNOWN)

    def failure_status(self, ctx: click.Context) -> int:
        """See `Subcommand`."""
        return UNKNOWN if ctx.params['monitoring'] else 1


def _address(context: click.Context, parameter: click.Parameter,
             value: Optional[str]) -> Optional[str]:
    if value is not None and not is_mailbox(value):
        raise click.BadParameter(f'{value!r} is not an address.')
    return value


@click.command(
    cls=_Command,
    help="""\
    Go through a dialogue with the mail server, as a delivery does, and show
    each step.

    Nothing is sent: the server is asked whether it would take a message, and
    told to forget it.  The exit status is 1 if a step fails; then the keys of
    the configuration to look at are named.""")
@click.option('--to', metavar='ADDRESS', callback=_address, help="""\
    Whom the server is asked to relay to.  By default it is the owner of the
    site, or of a list.""")
@click.option('--json', 'as_json', is_flag=True, help='Print JSON.')
@click.option(MONITORING, is_flag=True, help="""\
    Print one line with performance data, and exit with 0 (OK), 1 (WARNING),
    2 (CRITICAL) or 3 (UNKNOWN), as plugins of monitoring systems do.""")
@click.option('--timeout', metavar='SECONDS', default=TIMEOUT,
              show_default=True, type=click.FloatRange(0.1, 300.0), help="""\
    The longest time for one step; all of them may take four times as long.
    A shorter timeout of the configuration holds all the same.""")
@click.pass_context
def command(ctx: click.Context, to: Optional[str], as_json: bool,
            monitoring: bool, timeout: float) -> None:
    """See the help of the command."""
    checker = Checker(to, timeout)
    try:
        checker.run()
    except KeyboardInterrupt:
        _give_up(ctx, f'Interrupted at this step: {checker.doing}.',
                 INTERRUPTED, monitoring)
    except Exception as error:
        # Whatever it is, an administrator gets a line, and not a traceback.
        _give_up(ctx, f'The check cannot go on at this step: {checker.doing}: '
                 f'{_told(error)}.', 1, monitoring)
    check = checker.check
    if monitoring:
        line, status = monitoring_line(check)
        click.echo(line)
        ctx.exit(status)
    if as_json:
        click.echo(json.dumps(check.to_dict(), indent=2))
    else:
        terminal = terminal_of(sys.stdout, os.environ)
        for each in _lines(check, terminal):
            click.echo(terminal.styled(each))
    ctx.exit(
        1 if check.status in (Status.failed, Status.unknown) else 0)


public(command=command)


def _give_up(ctx: click.Context, reason: str, status: int,
             monitoring: bool) -> None:
    if monitoring:
        click.echo(unknown_line(reason))
        ctx.exit(UNKNOWN)
    terminal = terminal_of(sys.stderr, os.environ)
    click.echo(terminal.harmless(reason), err=True)
    ctx.exit(status)


def _told(error: Exception) -> str:
    """Return an error that nobody expected on one line, with its place."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = '' if trace is None else (
        f' ({os.path.basename(trace.tb_frame.f_code.co_filename)}, line '
        f'{trace.tb_lineno})')
    return f'{type(error).__name__}: {error}{place}'


def _lines(check: Check, terminal: Terminal) -> Iterator[Line]:
    for step in check.steps:
        yield from _step(step, terminal)
    for relay in check.relays:
        yield from _relay(relay, terminal)
    yield Line('')
    yield from _summary(check, terminal)


def _relay(relay: RelayCheck, terminal: Terminal) -> Iterator[Line]:
    yield Line('')
    yield Line(terminal.harmless(
        f'{relay.name}, {relay.secure_mode} ({relay.section})'), 'heading')
    for step in relay.steps:
        yield from _step(step, terminal)
    if relay.extensions:
        yield Line('')
        yield Line('Extensions', 'heading')
        for extension in relay.extensions:
            name = ' '.join(filter(
                None, (extension.keyword, extension.parameters)))
            yield from _wrapped(f'{name}: {extension.text}', terminal)
    if relay.limits:
        yield Line('')
        yield Line('Limits', 'heading')
        for limit in relay.limits:
            yield from _wrapped(f'{limit.name}: {limit.text}', terminal)


def _wrapped(text: str, terminal: Terminal, indent: int = 2,
             style: str = '') -> Iterator[Line]:
    for line in terminal.wrapped(terminal.harmless(text), indent):
        yield Line(line, style)


def _step(step: Step, terminal: Terminal) -> Iterator[Line]:
    word, style = _STATUS[step.status]
    took = ('' if step.milliseconds is None
            else f'{step.milliseconds:.1f} ms')
    head = (f'{word:<{_STATUS_COLUMN}}{step.name:<{_NAME_COLUMN}}'
            f'{took:>{_TIME_COLUMN - 2}}  ')
    first, *others = terminal.wrapped(
        terminal.harmless(step.text), _INDENT, _INDENT)
    yield Line((head + first[_INDENT:]).rstrip(),
               '' if step.problem is None else style)
    for line in others:
        yield Line(line)
    for text in step.more:
        yield from _wrapped(text, terminal, _INDENT)


def _summary(check: Check, terminal: Terminal) -> Iterator[Line]:
    """Yield what is wrong and what to do, the most important thing last."""
    bad = [(label, step) for label, step in check.labelled()
           if step.problem is not None]
    bad.sort(key=lambda found: found[1].status is not Status.warning)
    for label, step in bad:
        assert step.problem is not None
        yield from _problem(f'{label}: ' * bool(label) + step.name,
                            step.problem, terminal)
    if check.status in (Status.ok, Status.warning):
        for relay in check.relays:
            yield from _wrapped(
                f'{check.label(relay) or relay.name} accepts mail from us; '
                'nothing was sent.',
                terminal, 0, 'good')


def _problem(name: str, problem: Problem,
             terminal: Terminal) -> Iterator[Line]:
    word, style = _STATUS[problem.status]
    yield from _wrapped(f'{word} at {name}: {problem.text}', terminal, 0,
                        style)
    if problem.remedy:
        yield from _wrapped(f'What to do: {problem.remedy}', terminal)
    if problem.keys:
        where = ', '.join(problem.keys)
        if '[relay.' in where:
            where += f' in {OWN_FILE}'
        yield from _wrapped(f'Where: {where}', terminal)
