# SPDX-License-Identifier: GPL-3.0-or-later
"""A VERP'd post to a Postfix that makes the senders itself."""

import time
import socket

from benchmarks.measuring import Contender, in_turn
from benchmarks.site import content, Site
from concurrent.futures import ThreadPoolExecutor
from public import public
from tests.servers.loopback import HOST, wait_until
from tests.servers.postfix import Postfix


RECIPIENTS, TOGETHER, SIZE, CONNECTIONS = 5_000, 1_000, 2_000, 8
SENDER = 'bench-bounces@example.com'
INDIVIDUALLY = (('delivery', 'server_verp', 'no'),)
# Postfix keeps all processors busy, so that one measurement tells little.
REPEATS = 15
# How long Postfix may take to forget a post, in seconds.
PATIENCE = 120
# What issue 6 asks for.
GOALS = {'stock': 80, 'ours, individually': 4, 'injector': 0.9}
public(RECIPIENTS=RECIPIENTS)


@public
class Injector:
    """As fast as it gets: everything that can be is prepared beforehand.

    :param port: The server's.
    :param connections: How many.
    :param recipients: Whom to send to: those of the post, for the server has
        more to do for some than for others.
    """

    def __init__(self, port, connections, recipients):
        self._port = port
        self._connections = connections
        self._recipients = recipients
        self._content = content(SIZE).replace(b'\n', b'\r\n') + b'.\r\n'

    def run(self, count):
        """Send a message to so many recipients.

        :return: The seconds it took.
        """
        recipients = self._recipients[:count]
        chunks = [self._commands(recipients[start:start + TOGETHER])
                  for start in range(0, count, TOGETHER)]
        start = time.perf_counter()
        with ThreadPoolExecutor(self._connections) as workers:
            # For what they raise.
            list(workers.map(self._send, chunks))
        return time.perf_counter() - start

    def _commands(self, recipients):
        """A transaction, and how many answers it has."""
        lines = [f'MAIL FROM:<{SENDER}> XVERP=+=', *(
            f'RCPT TO:<{recipient}>' for recipient in recipients), 'DATA', '']
        return '\r\n'.join(lines).encode(), len(lines) - 1

    def _send(self, chunk):
        commands, answers = chunk
        with socket.create_connection((HOST, self._port)) as sock:
            file = sock.makefile('rb')
            _expect(file, b'220 ')
            sock.sendall(b'EHLO bench.example.com\r\n')
            while _expect(file, b'250').startswith(b'250-'):
                pass
            sock.sendall(commands)
            for _ in range(answers - 1):
                _expect(file, b'250 ')
            _expect(file, b'354 ')
            sock.sendall(self._content)
            _expect(file, b'250 ')
            sock.sendall(b'QUIT\r\n')


def _expect(file, code):
    line = file.readline()
    if not line.startswith(code):
        raise AssertionError(f'{code!r} was expected, not {line!r}')
    return line


def _deliver(mailman, port, by, settings=()):
    def deliver(recipients):
        with mailman.configured(port, CONNECTIONS, settings=settings):
            return mailman.deliver(by, 'verp', SIZE, recipients)
    return deliver


def _measure(mailman, postfix):
    port = postfix.port
    contenders = [
        Contender('stock', _deliver(mailman, port, 'stock'), 25, RECIPIENTS),
        Contender('ours, individually', _deliver(
            mailman, port, 'ours', INDIVIDUALLY), RECIPIENTS, RECIPIENTS),
        Contender('injector', Injector(
            port, CONNECTIONS, mailman.members).run, RECIPIENTS, RECIPIENTS),
        Contender('ours', _deliver(mailman, port, 'ours'),
                  RECIPIENTS, RECIPIENTS),
        ]
    in_turn(contenders, lambda: wait_until(
        lambda: not postfix.queued(), 'an empty queue', PATIENCE), REPEATS)
    return contenders


def _row(ours, rival):
    ratios = [mine / other for mine, other in zip(ours.rates, rival.rates)]
    return rival.name, [f'{value:,.2f}' for value in (
        rival.rate, ours.rate, ours.rate / rival.rate, min(ratios),
        max(ratios), GOALS[rival.name])]


@public
def server_verp(directory):
    """Measure, in a process of a site.

    :param directory: Where files can be put.
    :return: The head and the rows of a table.
    """
    with Postfix(default_process_limit=40,
                 smtpd_authorized_verp_clients='127.0.0.0/8') as postfix:
        *rivals, ours = _measure(Site(directory), postfix)
    return (('its', 'ours', 'ratio', 'from', 'to', 'goal'),
            [_row(ours, rival) for rival in rivals])
