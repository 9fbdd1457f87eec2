# SPDX-License-Identifier: GPL-3.0-or-later

"""Ways of sending, and what must have arrived after it."""

import re

from benchmarks.wire import Outcomes
from contextlib import contextmanager
from itertools import count
from mailman_mta_pool.connection import SMTPConnection
from mailman_mta_pool.dispatch.outbound import Outbound
from mailman_mta_pool.network.border import border
from mailman_mta_pool.relays.relay import Relay
from mailman_mta_pool.settings import (
    DeliverySettings,
    PoolSettings,
    RelaySettings,
    WireSettings,
)
from mailman_mta_pool.wire.transaction import Fate
from public import public
from typing import NamedTuple


CONNECTIONS = 4
#: How the dialogue is held, by name.
WAYS = {
    'BDAT': WireSettings(),
    'DATA': WireSettings(chunking=False),
    'one command at a time': WireSettings(pipelining=False),
    }
public(WAYS=WAYS)
# RFC 5322, section 3.6.8.
FIELD = re.compile(rb'[!-9;-~]+[ \t]*:')
FIRST_FIELD = re.compile(rb'.*\r\n(?:\t.*\r\n)*')
_runs = count(1)


@public
def senders():
    """Return a function that makes an envelope sender of a number.

    No two of these functions make the same ones, so that a server can serve
    several runs.
    """
    run = next(_runs)
    return lambda number: f'run-{run}-{number:04}@example.com'


@public
@contextmanager
def connection(server, wire=WireSettings(), kind=SMTPConnection, sessions=0,
               **kws):
    """A connection of its own, closed at the end of the block.

    :param sessions: After so many messages it is closed, and opened again;
        0 is never.
    """
    connection = kind(server.host, server.port, sessions, wire=wire, **kws)
    try:
        yield connection
    finally:
        connection.quit()


@public
def converse(connection, transactions):
    """Send transactions over one connection.

    :return: The outcomes, in the order in which they were reported.
    """
    waiting = iter(transactions)
    outcomes = []
    border.call(
        connection.converse, lambda octets: next(waiting, None),
        outcomes.append)
    return outcomes


@public
def dispatch(server, transactions, wire=WireSettings()):
    """Send transactions over several connections.

    The first goes alone: with BDAT, until it has worked once, the other
    connections use DATA.  So does a connection that was kept, to prove itself,
    and therefore none is.

    :return: The outcomes, in any order.
    """
    relay = Relay(
        RelaySettings(host=server.host, port=server.port, wire=wire),
        PoolSettings(max_connections=CONNECTIONS, idle_timeout=0))
    transactions = list(transactions)
    outcomes = Outcomes()
    try:
        for part in transactions[:1], transactions[1:]:
            outbound = Outbound([relay], DeliverySettings(), outcomes)
            for transaction in part:
                outbound.submit(transaction)
            outbound.finish()
    finally:
        border.call(relay.pool.close)
    return outcomes.settled


@public
def fates(outcomes):
    """Tell who met with which fate.

    :return: A dictionary of `Fate` and lists of recipients.
    """
    return {fate: [recipient for outcome in outcomes
                   for recipient in outcome.having(fate)]
            for fate in Fate}


@public
class Arrived(NamedTuple):
    """A message behind the server.

    :ivar sender: The envelope sender.
    :ivar recipients: The envelope recipients, sorted.
    :ivar content: The octets.
    """

    sender: str
    recipients: tuple
    content: bytes


@public
def arrived(sender, recipients, content):
    """Make an `Arrived`."""
    return Arrived(sender, tuple(sorted(recipients)), content)


@public
def differences(expected, found):
    """Tell what is different, briefly: the messages can be long.

    :param expected: A list of `Arrived`.
    :param found: Another; the order does not matter.
    :return: A list of str; empty if they are the same.
    """
    told = []
    left = list(found)
    for message in expected:
        if message in left:
            left.remove(message)
        else:
            told.append(f'missing: {_brief(message)}')
    return told + [f'not expected: {_brief(message)}' for message in left]


def _brief(message):
    content = message.content
    if len(content) > 400:
        content = content[:200] + b' [...] ' + content[-200:]
    return message._replace(content=content)


@public
def without_first_field(content):
    """Take off the Received field that a server has put at the top.

    Its own continuation lines, if any, begin with a tab.
    """
    if not content.startswith(b'Received: '):
        raise ValueError(f'no Received field: {content[:100]!r}')
    return content[FIRST_FIELD.match(content).end():]


@public
def header_end(content, follows_a_field=False):
    """Tell where the header of a message ends.

    :param content: Octets with CRLFs.
    :param follows_a_field: The message comes right after another field, so
        that its first line may continue that.
    :return: The offset of the first line that is no header field.
    """
    end = 0
    while True:
        blank = content[end:end+1] in (b' ', b'\t')
        if not (blank and (end or follows_a_field) or
                FIELD.match(content, end)):
            return end
        end = content.index(b'\r\n', end) + 2


@public
def with_separator(content, follows_a_field=False):
    """Put the empty line between header and body if there is none.

    A message without body stays without.  For the parameters see
    `header_end`.
    """
    end = header_end(content, follows_a_field)
    if end == len(content) or content.startswith(b'\r\n', end):
        return content
    return content[:end] + b'\r\n' + content[end:]
