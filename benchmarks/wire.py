# SPDX-License-Identifier: GPL-3.0-or-later
"""Messages that are rendered beforehand: the wire alone."""

import gc
import time
import smtplib

from benchmarks.site import content
from contextlib import suppress
from mailman_mta_pool.dispatch.outbound import Outbound
from mailman_mta_pool.errors import NothingMoreToSend
from mailman_mta_pool.network.border import border
from mailman_mta_pool.relays.relay import Relay
from mailman_mta_pool.settings import (
    DeliverySettings,
    PoolSettings,
    RelaySettings,
    WireSettings,
)
from mailman_mta_pool.settlement.orders import NO_ORDERS
from mailman_mta_pool.wire.content import Content
from mailman_mta_pool.wire.transaction import Fate, Transaction
from public import public
from tests.servers.loopback import HOST


SENDER = 'bench-bounces+person-{0}=example.org@example.com'
RECIPIENT = 'person-{0}@example.org'


@public
def messages(count, size):
    """Make messages of one recipient each, no two of them equal."""
    common = content(size)
    for number in range(count):
        yield (SENDER.format(number), RECIPIENT.format(number),
               b'X-Number: %d\n' % number + common)


@public
class Outcomes:
    """Keeps the outcomes, in the place of a ledger.

    :ivar settled: The outcomes, in the order in which they came.
    """

    def __init__(self):
        self.failures = {}
        self.settled = []

    def settle(self, outcome, relay):
        """Keep an outcome."""
        self.settled.append(outcome)
        return NO_ORDERS

    def conclude(self, relay):
        """Nobody is held."""
        return NO_ORDERS

    def hear_of_closing(self, outcome, relay):
        """The server speaks of nothing."""
        return None

    def hear_of_opening(self, word, reply):
        """Whatever the server says, it is about us."""
        return None


@public
class Wire:
    """Our connections, and no posts; a context manager.

    Mailman must have been initialized, for its [devmode].

    :param port: The server's.
    :param connections: How many.
    :param size: Of the messages, in octets.
    :param chunking: Use it where it is offered.
    """

    def __init__(self, port, connections, size, chunking=True):
        self._size = size
        self._relay = Relay(
            RelaySettings(host=HOST, port=port,
                          wire=WireSettings(chunking=chunking)),
            PoolSettings(max_connections=connections, idle_timeout=60))

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        border.call(self._relay.pool.close)

    def run(self, count):
        """Send so many messages.

        :return: The seconds from the first to the last outcome.
        :raises AssertionError: if one is not accepted.
        """
        transactions = [
            Transaction(sender, (recipient,), Content(octets))
            for sender, recipient, octets in messages(count, self._size)]
        outcomes = Outcomes()
        gc.collect()
        start = time.perf_counter()
        outbound = Outbound([self._relay], DeliverySettings(), outcomes)
        with suppress(NothingMoreToSend):
            for transaction in transactions:
                outbound.submit(transaction)
        # It says what went wrong, if anything did.
        outbound.finish()
        took = time.perf_counter() - start
        accepted = sum(len(outcome.having(Fate.accepted))
                       for outcome in outcomes.settled)
        assert accepted == count, f'{accepted} of {count} were accepted'
        return took


@public
def by_smtplib(port, size, count):
    """Send so many messages as stock Mailman's connection does.

    :return: The seconds it took.
    """
    rendered = list(messages(count, size))
    gc.collect()
    start = time.perf_counter()
    with smtplib.SMTP(HOST, port) as connection:
        for sender, recipient, octets in rendered:
            connection.sendmail(sender, [recipient], octets)
    return time.perf_counter() - start
