# SPDX-License-Identifier: GPL-3.0-or-later
"""`mailman mta-pool status`: what is being delivered, and what needs you."""

import os
import sys
import json
import math
import time
import click

from mailman_mta_pool.console.screen import watch as watch_page
from mailman_mta_pool.console.subcommand import Subcommand
from mailman_mta_pool.console.terminal import (
    clock,
    Line,
    padded,
    Terminal,
    terminal_of,
)
from mailman_mta_pool.current import current_overview
from mailman_mta_pool.durations import duration
from public import public
from typing import Any, Dict, Iterator, List, Optional


#: What the JSON has.
Values = Dict[str, Any]
BAR_WIDTH = 40
LEAST_INTERVAL, USUAL_INTERVAL, MOST_INTERVAL = 0.1, 1.0, 3600.0
# The outcomes that a line of a post names after those accepted.
OTHER_OUTCOMES = ('refused', 'deferred', 'in_doubt', 'shunted', 'discarded')
STYLE_OF_RELAY = {'up': 'good', 'paused': 'warning', 'down': 'bad'}


class Seconds(click.ParamType):
    """A number of seconds that a person can wait for."""

    name = 'seconds'

    def convert(self, value: Any, param: Optional[click.Parameter],
                ctx: Optional[click.Context]) -> float:
        """See `click.ParamType`."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not LEAST_INTERVAL <= number <= MOST_INTERVAL:
            self.fail(f'{value!r} is not a number of seconds from '
                      f'{LEAST_INTERVAL} to {MOST_INTERVAL:.0f}', param, ctx)
        return number


@click.command(
    cls=Subcommand,
    help="""\
    Show what is being delivered, and what needs you.

    The first lines say what to do.  Below are the posts in delivery, the mail
    servers, Mailman's queues and the last posts.  The exit status is 1 if
    something needs you, and otherwise 0.""")
@click.option('--watch', is_flag=True, help='Show it again and again, until '
              'Ctrl-C; the exit status is 0 then.')
@click.option('--json', 'as_json', is_flag=True, help='Print JSON; with '
              '--watch one object on each line.')
@click.option('--interval', type=Seconds(), metavar='S', help='With --watch, '
              f'how often, in seconds; {USUAL_INTERVAL:.0f} by default.')
@click.pass_context
def command(ctx: click.Context, watch: bool, as_json: bool,
            interval: Optional[float]) -> None:
    """See the help of the command."""
    if watch:
        watch_page(_json_lines if as_json else _lines,
                   USUAL_INTERVAL if interval is None else interval)
        return
    if interval is not None:
        raise click.UsageError('--interval goes with --watch.')
    values = current_overview().to_dict()
    if as_json:
        click.echo(json.dumps(values, indent=2))
    else:
        terminal = terminal_of(sys.stdout, os.environ)
        for line in page(values, terminal):
            click.echo(terminal.styled(line))
    ctx.exit(1 if values['needs_operator'] else 0)


public(command=command)


def _json_lines(terminal: Terminal) -> List[Line]:
    return [Line(json.dumps(current_overview().to_dict()))]


def _lines(terminal: Terminal) -> List[Line]:
    return page(current_overview().to_dict(), terminal)


@public
def page(values: Values, terminal: Terminal) -> List[Line]:
    """Return the lines that show the state of the pool.

    :param values: See `monitoring.overview`.
    :param terminal: Where they are to be shown.
    """
    return [*_head(values, terminal), *_posts(values, terminal),
            *_relays(values, terminal), *_queues(values),
            *_last_posts(values, terminal)]


def _head(values: Values, terminal: Terminal) -> Iterator[Line]:
    moment = time.strftime(
        '%Y-%m-%d %H:%M:%S', time.localtime(values['time']))
    yield Line(f'Mailman MTA pool, {moment}', 'heading')
    style = 'bad' if values['needs_operator'] else 'warning'
    for sentence in values['advice']:
        for line in terminal.wrapped(f'* {terminal.harmless(sentence)}'):
            yield Line(line, style)
    if not values['advice']:
        yield Line('Nothing needs you.', 'good')
    counted = _outcomes(values['recipients'], ('accepted', *OTHER_OUTCOMES))
    if counted:
        yield Line(f'Recipients so far: {counted}')


def _outcomes(counts: Dict[str, int], names: Any) -> str:
    """Return how many recipients had which outcome; '' for none."""
    return ', '.join(f'{counts[name]} {name.replace("_", " ")}'
                     for name in names if counts.get(name))


def _posts(values: Values, terminal: Terminal) -> Iterator[Line]:
    yield from _title('In delivery')
    if not values['posts']:
        yield Line('  nothing')
    for post in values['posts']:
        yield from _name(post, terminal)
        part = post['accepted'] / post['total'] if post['total'] else 0.0
        words = (f'{post["accepted"]} of {post["total"]} accepted, '
                 f'{post["rate"]:.0f}/s')
        if post['time_left'] is not None:
            words += f', {duration(post["time_left"])} left'
        bar = terminal.bar(part, min(
            BAR_WIDTH, terminal.width - len(words) - 5))
        if len(bar) > 10:
            words = f'{bar} {words}'
        yield Line(f'    {words}')
        others = _outcomes(post['outcomes'], OTHER_OUTCOMES)
        if others:
            yield Line(f'    {others}')
        if post['waits_for']:
            yield from _indented(
                f'waits for {post["waits_for"]}', terminal, 'warning')
        if post['stalled']:
            yield from _indented(
                'its runner was killed, or hangs', terminal, 'bad')


def _name(post: Values, terminal: Terminal, moment: str = '',
          ) -> Iterator[Line]:
    words = (f'{moment}{terminal.harmless(post["list"])} '
             f'{terminal.harmless(post["message_id"])}')
    for line in terminal.wrapped(words, 2, 4):
        yield Line(line)


def _indented(text: str, terminal: Terminal, style: str = '',
              ) -> Iterator[Line]:
    for line in terminal.wrapped(terminal.harmless(text), 4, 6):
        yield Line(line, style)


def _relays(values: Values, terminal: Terminal) -> Iterator[Line]:
    yield from _title('Mail servers')
    if not values['relays']:
        yield Line('  none so far')
    for relay in values['relays']:
        words = (f'{relay["name"]}: {relay["state"]}, '
                 f'connections {relay["connections"]} of {relay["ceiling"]}, '
                 f'in flight {relay["in_flight"]}')
        if relay['pause']:
            words += f', nothing is sent for {duration(relay["pause"])}'
        for line in terminal.wrapped(terminal.harmless(words), 2, 4):
            yield Line(line, STYLE_OF_RELAY.get(relay['state'], ''))
        if relay['reason']:
            yield from _indented(relay['reason'], terminal)


def _queues(values: Values) -> Iterator[Line]:
    yield from _title('Queues   entries  recipients  oldest')
    for name, queue in values['queues'].items():
        yield Line(f'  {padded(name, 6)} {queue["entries"]:>7}  '
                   f'{queue["recipients"]:>10}  '
                   f'{duration(queue["oldest_age"])}')


def _last_posts(values: Values, terminal: Terminal) -> Iterator[Line]:
    if not values['last_posts']:
        return
    yield from _title('Last posts')
    for post in values['last_posts']:
        ended = post['ended']
        yield from _name(
            post, terminal, f'{clock(ended, values["time"])}  ')
        others = _outcomes(post['outcomes'], OTHER_OUTCOMES)
        yield Line(
            f'    {post["accepted"]} of {post["total"]} accepted' +
            (f', {others}' if others else '') +
            f', in {duration(ended - post["started"])}',
            'warning' if others else '')
        for failures in post['failures']:
            outcome = failures['outcome'].replace('_', ' ')
            yield from _indented(
                f'{failures["count"]} {outcome}: {failures["reply"]}',
                terminal)


def _title(text: str) -> Iterator[Line]:
    yield Line('')
    yield Line(text, 'heading')
