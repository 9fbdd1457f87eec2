# SPDX-License-Identifier: GPL-3.0-or-later
"""One post over several relays, to one over one of them."""

import time

from benchmarks.measuring import Contender, in_turn
from benchmarks.site import LIST, Site
from contextlib import ExitStack
from mailman_mta_pool.demo.compare import PLUGIN
from mailman_mta_pool.demo.site import ThrowawaySite
from public import public
from tests.scripted import Scripted
from tests.servers.sink import SMTPSink


RELAYS = (1, 3, 6)
CONNECTIONS = 4
SIZE = 2_000
# A slow relay takes so many seconds for a message.
SLOW_S = 0.05
# To how many members a post goes, and how many posts a measurement has.
SLOW_POST, SLOW_POSTS = 480, 1
QUICK_POST, QUICK_POSTS = 5_000, 4
# The turns are another matter.
WHOLE = ('delivery', 'time_slice', '0')
HEADS = ('to the first', 'from', 'to')


def _slowly(command, session):
    if command == '.':
        time.sleep(SLOW_S)


def _settings(ports):
    return (WHOLE, *(
        (f'relay.number-{number}', key, value)
        for number, port in enumerate(ports)
        for key, value in (('host', '127.0.0.1'), ('port', port))))


def _measure(directory, ports, recipients, posts, rounds):
    """Measure in a process of a site.

    :param ports: Where the relays are, as many as there are at most.
    :return: The rates with each number of relays, by that number.
    """
    site = Site(directory)
    site.personalize('verp')

    def contender(number):
        def run(count):
            with site.configured(ports[0], CONNECTIONS,
                                 settings=_settings(ports[:number])):
                return sum(site.deliver('ours', 'verp', SIZE, recipients)
                           for _ in range(posts))
        total = recipients * posts
        return Contender(str(number), run, total, total)
    contenders = [contender(number) for number in RELAYS]
    in_turn(contenders, lambda: None, rounds)
    return {number: (each.rate, each.rates)
            for number, each in zip(RELAYS, contenders)}


def _rows(label, found):
    first_rate, first_rates = found[RELAYS[0]]
    for number, (rate, rates) in found.items():
        ratios = [mine / its for mine, its in zip(rates, first_rates)]
        yield label.format(number), tuple(f'{value:.2f}' for value in (
            rate / first_rate, min(ratios), max(ratios)))


@public
def many_relays(rounds):
    """Measure with servers that are slow, and with some that are not.

    :param rounds: How often each is measured.
    :return: The head and the rows of a table.
    """
    rows = []
    with ThrowawaySite(extra=PLUGIN) as throwaway, ExitStack() as stack:
        throwaway.create_list(LIST, QUICK_POST)
        slow = [stack.enter_context(Scripted(_slowly)).port
                for _ in range(RELAYS[-1])]
        quick = [stack.enter_context(SMTPSink()).port
                 for _ in range(RELAYS[-1])]
        for label, ports, recipients, posts in (
                (f'{{}}, {1000 * SLOW_S:.0f} ms for a message', slow,
                 SLOW_POST, SLOW_POSTS),
                ('{}, smtp-sink', quick, QUICK_POST, QUICK_POSTS)):
            rows.extend(_rows(label, throwaway.call(
                _measure, throwaway.directory, ports, recipients, posts,
                rounds)))
    return HEADS, rows
