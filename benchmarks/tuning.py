# SPDX-License-Identifier: GPL-3.0-or-later
"""What the settings do that an administrator can turn."""

import os

from benchmarks.measuring import Contender, in_turn
from benchmarks.site import LIST, Site
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count
from mailman_mta_pool.demo.compare import PLUGIN
from mailman_mta_pool.demo.site import ThrowawaySite
from public import public
from tests.servers.loopback import HOST, wait_until
from tests.servers.postfix import Postfix
from tests.servers.proxy import DelayingProxy
from tests.servers.sink import SMTPSink


MEMBERS, SIZE = 5_000, 2_000
CONNECTIONS = (1, 2, 4, 8, 16)
TOGETHER = (1, 10, 50, 100, 500)
SLICES = (1, 2)
ROUND_TRIP_MS = 20
# With how many connections everything but their number is measured.
USUAL = 8
# How long Postfix may take to forget a post, in seconds.
PATIENCE_S = 120
# How long a measurement lasts, about, where a post to all members would take
# longer, and to how many members it is at least.
BRIEFLY_S = 1.0
LEAST = 500
INDIVIDUALLY = (('delivery', 'server_verp', 'no'),)
# The turns are another matter.
WHOLE = (*INDIVIDUALLY, ('delivery', 'time_slice', '0'))
HEADS = ('recipients/s', 'to the first', 'from', 'to')
public(MEMBERS=MEMBERS)


class Servers:
    """The servers of the tables, near and far.

    :param stack: What they end with.
    :type stack: `contextlib.ExitStack`
    :ivar postfix: The Postfix, which may make the senders of VERP.
    :ivar far: The port at which it is a round trip away.
    :ivar sink: The port of smtp-sink.
    """

    def __init__(self, stack):
        self.postfix = stack.enter_context(Postfix(
            default_process_limit=40,
            smtpd_authorized_verp_clients='127.0.0.0/8'))
        self.far = stack.enter_context(DelayingProxy(
            (HOST, self.postfix.port), ROUND_TRIP_MS / 1000)).port
        self.sink = stack.enter_context(SMTPSink()).port

    def rest(self):
        """Wait until Postfix has forgotten what it got."""
        wait_until(lambda: not self.postfix.queued(), 'an empty queue',
                   PATIENCE_S)


def _rows(contenders):
    """Compare each with the first; the rates are of the same rounds."""
    first, rows = contenders[0], []
    for each in contenders:
        ratios = [mine / its for mine, its in zip(each.rates, first.rates)]
        rows.append((each.name, (
            f'{each.rate:,.0f}', f'{each.rate / first.rate:.2f}',
            f'{min(ratios):.2f}', f'{max(ratios):.2f}')))
    return HEADS, rows


class Tables:
    """Makes the tables of one site, in the process that is this site's.

    :param directory: Where files can be put.
    :param servers: The servers.
    :param rounds: How often each contender is measured.
    """

    def __init__(self, directory, servers, rounds):
        self._mailman = Site(directory)
        self._servers = servers
        self._rounds = rounds

    def _deliver(self, port, mode, connections=USUAL, mta=(), settings=WHOLE):
        def deliver(recipients):
            self._mailman.personalize(mode)
            with self._mailman.configured(port, connections, mta, settings):
                return self._mailman.deliver('ours', mode, SIZE, recipients)
        return deliver

    def _compared(self, contenders):
        in_turn(contenders, self._servers.rest, self._rounds)
        return _rows(contenders)

    def connections(self, port, least):
        """The number of connections, for a post with VERP.

        :param port: The server's.
        :param least: The fewest recipients in a measurement.
        """
        return self._compared([
            Contender(str(number), self._deliver(port, 'verp', number),
                      least, MEMBERS, BRIEFLY_S)
            for number in CONNECTIONS])

    def together(self, port, least):
        """The number of recipients in a transaction, for a post without VERP.

        :param port: The server's.
        :param least: The fewest recipients in a measurement.
        """
        return self._compared([
            Contender(str(number), self._deliver(
                port, 'bulk', mta=(('max_recipients', str(number)),)),
                least, MEMBERS, BRIEFLY_S)
            for number in TOGETHER])

    def server_verp(self, port):
        """Who makes the senders of VERP.

        :param port: Postfix's.
        """
        return self._compared([
            Contender(name, self._deliver(port, 'verp', settings=(
                *WHOLE[1:], ('delivery', 'server_verp', value))),
                MEMBERS, MEMBERS, BRIEFLY_S)
            for name, value in (('no', 'no'), ('auto', 'auto'))])

    def all(self):
        """Yield a title, and the heads and rows of its table."""
        near, far = self._servers.postfix.port, self._servers.far
        yield ('Connections, to smtp-sink on this machine',
               *self.connections(self._servers.sink, MEMBERS))
        yield ('Connections, to Postfix on this machine',
               *self.connections(near, MEMBERS))
        yield (f'Connections, to Postfix {ROUND_TRIP_MS} ms away',
               *self.connections(far, LEAST))
        yield ('max_recipients, to Postfix on this machine',
               *self.together(near, MEMBERS))
        yield (f'max_recipients, to Postfix {ROUND_TRIP_MS} ms away',
               *self.together(far, LEAST))
        yield ('server_verp, to Postfix on this machine',
               *self.server_verp(near))
        yield (f'server_verp, to Postfix {ROUND_TRIP_MS} ms away',
               *self.server_verp(far))


@public
def deliver_share(directory, port, share, start):
    """Deliver one slice's share of a post, in a process of its own.

    :param directory: Where files can be put.
    :param port: The server's.
    :param share: How many recipients.
    :param start: A FIFO; the delivery begins when its writer closes it.
    :return: The seconds that it took.
    """
    mailman = Site(directory)
    mailman.personalize('verp')
    with mailman.configured(port, USUAL, settings=WHOLE):
        # What is loaded only once is loaded.
        mailman.deliver('ours', 'verp', SIZE, LEAST)
        with open(start, 'rb') as fp:
            fp.read()
        return mailman.deliver('ours', 'verp', SIZE, share)


class Slices:
    """Delivers with several processes at once, as slices of a runner do.

    :param throwaway: A site with a list of `MEMBERS`.
    :param port: The server's.
    """

    def __init__(self, throwaway, port):
        self._throwaway = throwaway
        self._port = port
        self._numbers = count()

    def with_slices(self, slices):
        """Return a function that serves so many recipients.

        :param slices: How many processes share them.
        """
        def run(recipients):
            fifos = [self._fifo() for _ in range(slices)]
            with ThreadPoolExecutor(slices) as workers:
                shares = [workers.submit(
                    self._throwaway.call, deliver_share,
                    self._throwaway.directory, self._port,
                    recipients // slices, fifo) for fifo in fifos]
                # Opening one waits until its reader is ready.
                writers = [open(fifo, 'wb') for fifo in fifos]
                for writer in writers:
                    writer.close()
                return max(share.result() for share in shares)
        return run

    def _fifo(self):
        path = os.fspath(
            self._throwaway.directory / f'start-{next(self._numbers)}')
        os.mkfifo(path)
        return path


@public
def tune(directory, rounds):
    """Make the tables for one process; call it in a site's.

    :param directory: Where files can be put.
    :param rounds: How often each contender is measured.
    :return: A list of a title, and the heads and rows of its table.
    """
    with ExitStack() as stack:
        return list(Tables(directory, Servers(stack), rounds).all())


@public
def tune_slices(rounds):
    """Compare the numbers of slices of the out runner.

    :param rounds: How often each is measured.
    :return: A title, and the heads and rows of its table.
    """
    with SMTPSink() as sink, ThrowawaySite(extra=PLUGIN) as throwaway:
        throwaway.create_list(LIST, MEMBERS)
        slices = Slices(throwaway, sink.port)
        contenders = [
            Contender(str(number), slices.with_slices(number),
                      MEMBERS, MEMBERS) for number in SLICES]
        in_turn(contenders, lambda: None, rounds)
    return ('Slices of the out runner, to smtp-sink on this machine',
            *_rows(contenders))
