# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line."""

import os
import sys
import argparse

from benchmarks import tables
from benchmarks.cases import GROWTH, POSTS, QUICK, TABLE, WIRE
from benchmarks.growing import grow
from benchmarks.measuring import REPEATS
from benchmarks.relays import many_relays
from benchmarks.running import Runner
from benchmarks.server_verp import RECIPIENTS, server_verp
from benchmarks.sinks import available, Sinks
from benchmarks.site import LIST, site
from benchmarks.tuning import MEMBERS as TUNING_MEMBERS, tune, tune_slices
from mailman_mta_pool.demo.compare import PLUGIN
from mailman_mta_pool.demo.site import ThrowawaySite
from public import public
from tests.servers import postfix


MEMBERS = 2_000
# Seconds for a measurement where there are many to make.
BRIEFLY = 0.5
UNITS = 'Recipients per second; the median, measured in turn.'
RATIOS = 'Ratios of recipients per second; the median, measured in turn.'


def _parser():
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks',
        description='Measure stock Mailman, mailman_mta_pool and smtp-source '
        'side by side.  Without options: whatever --wire, --posts, '
        '--server-verp and the big table have.')
    parser.add_argument('--quick', action='store_true',
                        help='a choice of it, in less than two minutes')
    parser.add_argument('--wire', action='store_true',
                        help='only messages that are rendered beforehand')
    parser.add_argument('--posts', action='store_true',
                        help='only the posts that have a goal')
    parser.add_argument('--server-verp', action='store_true',
                        help='only VERP that Postfix makes, to 5,000')
    parser.add_argument('--large', action='store_true',
                        help='only growth and memory, up to 200,000')
    parser.add_argument('--tuning', action='store_true',
                        help='only what the settings do')
    parser.add_argument('--relays', action='store_true',
                        help='only one post over several relays')
    parser.add_argument('--rounds', metavar='N', type=int, default=REPEATS,
                        help='of --tuning and --relays; %(default)s if not '
                        'given')
    parser.add_argument('--write', metavar='DOCUMENT',
                        help='put the tables into docs/design/performance.rst '
                        'or, with --tuning, docs/operate/tuning.rst or, with '
                        '--relays, docs/scaling.rst')
    return parser


def _say(text):
    print(text, file=sys.stderr, flush=True)


def _run(runner, sinks, cases):
    found = []
    for number, case in enumerate(cases, 1):
        missing = sinks.missing(case.sink)
        if missing:
            _say(f'skipped: {case.sink}: {missing}')
            continue
        figures = runner.run(case)
        found.append(figures)
        heads, rows = tables.comparison([figures])
        label, values = rows[0]
        _say(f'{number}/{len(cases)} {label}: ' + ', '.join(
            f'{head} {value}' for head, value in zip(heads, values)))
    return found


def _in_site(options, everything):
    with Sinks() as sinks, site(MEMBERS) as mailman:
        runner = Runner(sinks, mailman)
        if options.quick:
            runner = Runner(sinks, mailman, BRIEFLY)
            yield 'A choice', tables.overview(_run(runner, sinks, QUICK))
        if options.wire or everything:
            yield 'The wire alone', tables.comparison(
                _run(runner, sinks, WIRE))
        if options.posts or everything:
            yield 'Posts with a goal', tables.comparison(
                _run(runner, sinks, POSTS))
        if everything:
            runner = Runner(sinks, mailman, BRIEFLY)
            yield 'Everything', tables.overview(_run(runner, sinks, TABLE))


def _large():
    _say('This takes some minutes.')
    with Sinks() as sinks, ThrowawaySite(extra=PLUGIN) as throwaway:
        throwaway.create_list(LIST, GROWTH[-1])
        port = sinks.port('smtp-sink', 0)
        found = [size for mode in ('verp', 'individual')
                 for size in throwaway.call(
                     grow, throwaway.directory, port, GROWTH, mode)]
    yield 'Growth', tables.growth(found)


def _verp():
    with Sinks() as sinks, ThrowawaySite(extra=PLUGIN) as throwaway:
        missing = sinks.missing('postfix')
        if missing:
            _say(f'skipped: postfix: {missing}')
            return
        throwaway.create_list(LIST, RECIPIENTS)
        yield 'VERP by the mail server', throwaway.call(
            server_verp, throwaway.directory)


def _tuning(rounds):
    missing = postfix.available()
    if missing:
        _say(f'skipped: postfix: {missing}')
    else:
        with ThrowawaySite(extra=PLUGIN) as throwaway:
            throwaway.create_list(LIST, TUNING_MEMBERS)
            found = throwaway.call(tune, throwaway.directory, rounds)
        yield from ((title, table) for title, *table in found)
    title, *table = tune_slices(rounds)
    yield title, table


def _sections(options):
    in_site = options.quick or options.wire or options.posts
    everything = not (in_site or options.server_verp or options.large or
                      options.tuning or options.relays)
    if everything or in_site:
        yield from _in_site(options, everything)
    if everything or options.server_verp:
        yield from _verp()
    if options.large:
        yield from _large()
    if options.tuning:
        yield from _tuning(options.rounds)
    if options.relays:
        yield 'Several relays', many_relays(options.rounds)


@public
def main(arguments=None):
    """Run what the command line asks for.

    :return: The exit status.
    """
    options = _parser().parse_args(arguments)
    missing = available()
    if missing:
        _say(missing)
        return 1
    # Figures of a busy machine are worth little.
    load = os.getloadavg()[0]
    sections = [(title, *table) for title, table in _sections(options)]
    units = RATIOS if options.relays else UNITS
    conditions = f'{tables.conditions(load)}\n{units}'
    print(conditions)
    for section in sections:
        print(tables.as_text(*section))
    if options.write:
        tables.write(options.write, '\n'.join([
            conditions, '',
            *(tables.as_rst(*section) for section in sections)]))
    return 0
