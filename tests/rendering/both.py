# SPDX-License-Identifier: GPL-3.0-or-later

"""The same post by stock Mailman's delivery and by ours, side by side.

Stock runs whole, from `mailman.mta.deliver.deliver` down to the flattening in
`smtplib.SMTP.send_message`; only the socket is missing.
"""

import re
import copy
import logging
import smtplib

from contextlib import contextmanager
from dataclasses import replace
from mailman.config import config
from mailman.mta.deliver import deliver
from mailman_mta_pool.configuration.loading import load
from mailman_mta_pool.strategies import strategy_for
from public import public
from typing import Any, NamedTuple
from unittest import mock


# Neither says anything about what is rendered.
ENVELOPE = ('sender@example.com', ['recipient@example.com'])


@public
class Rendered(NamedTuple):
    """What one recipient gets.

    :ivar sender: The envelope sender.
    :ivar octets: The message, with CRLF line endings.
    :ivar stuffed: The same as DATA sends it, up to the lone dot.
    """

    sender: Any
    octets: bytes
    stuffed: bytes


@public
class Delivered(NamedTuple):
    """What became of a post.

    :ivar rendered: What each recipient got, in the order of sending.
    :ivar transactions: The sizes of the transactions, in that order.
    :ivar error: The exception that put an end to it, or None.
    :ivar msgdata: The metadata afterwards.
    """

    rendered: dict
    transactions: list
    error: Any
    msgdata: dict

    @property
    def boundary(self):
        """The number in the MIME boundary that was made for it, or 0."""
        for rendered in self.rendered.values():
            made = re.search(rb'boundary="={15}([0-9]{19})=="',
                             rendered.octets)
            if made is not None:
                return int(made[1])
        return 0


class _Flattener(smtplib.SMTP):
    """smtplib as it is, but for the dialogue with the server."""

    def __init__(self):
        super().__init__(local_hostname='localhost')

    def ehlo_or_helo_if_needed(self):
        """There is nobody to greet."""

    def sendmail(self, from_addr, to_addrs, msg, *ignore):
        self.octets = msg
        return {}


def _on_the_wire(raw):
    """What the pool promises besides: no bare CR or LF, and a last CRLF."""
    octets = re.sub(b'\r\n|\r|\n', b'\r\n', raw)
    return octets if octets.endswith(b'\r\n') else octets + b'\r\n'


def _dotted(octets):
    """RFC 5321, section 4.5.2."""
    return re.sub(rb'(?m)^\.', b'..', octets) + b'.\r\n'


class _StockConnection:
    """Stands for Mailman's connection to the server, and keeps it all."""

    def __init__(self):
        self.rendered = {}
        self.transactions = []

    def sendmail(self, envsender, recipients, msg):
        flattener = _Flattener()
        # Whether an address is international is not what is compared.
        flattener.send_message(msg, *ENVELOPE)
        octets = _on_the_wire(flattener.octets)
        self.transactions.append(len(recipients))
        for recipient in recipients:
            self.rendered[recipient] = Rendered(
                envsender, octets, _dotted(octets))
        return {}

    def quit(self):
        pass


class Outbound:
    """Stands for the pool, and keeps everything that is submitted.

    :ivar makes_senders: See `IOutbound`.
    """

    connections = 4

    def __init__(self, makes_senders=False):
        self.makes_senders = makes_senders
        self.rendered = {}
        self.transactions = []

    def expect(self, transactions):
        """See `IOutbound`."""

    def submit(self, transaction):
        """See `IOutbound`."""
        content = transaction.content
        # Mail may now go out for hours.
        assert not config.db.store.in_transaction()
        octets = content.octets
        # What else the content says of itself must fit.
        assert content.size == len(octets), (content.size, len(octets))
        assert content.eight_bit == (not octets.isascii())
        self.transactions.append(len(transaction.recipients))
        for recipient in transaction.recipients:
            assert recipient not in self.rendered, recipient
            sender = transaction.sender
            if transaction.verp is not None:
                assert self.makes_senders
                sender = transaction.verp.sender(sender, recipient)
            self.rendered[recipient] = Rendered(
                sender, octets, b''.join(content.stuffed))

    def finish(self):
        """See `IOutbound`."""
        return {}


public(Outbound=Outbound)


def _run(deliverer, keeper, mlist, msg, msgdata):
    msg = copy.deepcopy(msg)
    msgdata = copy.deepcopy(msgdata)
    error = None
    try:
        deliverer(mlist, msg, msgdata)
    except Exception as caught:
        error = caught
    return Delivered(keeper.rendered, keeper.transactions, error, msgdata)


@public
def by_stock(mlist, msg, msgdata, boundary=0):
    """Deliver through stock Mailman.

    :param boundary: The number that stock draws for a MIME boundary: the one
        of the post that it is compared with.
    :return: What became of it.
    :rtype: `Delivered`
    """
    connection = _StockConnection()
    with mock.patch(
            'mailman.mta.base.Connection', lambda *ignore: connection), \
            mock.patch('random.randrange', return_value=boundary):
        return _run(deliver, connection, mlist, msg, msgdata)


@public
def by_ours(mlist, msg, msgdata, coalesce=True, makes_senders=False):
    """Deliver through the strategy that our `deliver` takes.

    :param coalesce: See `DeliverySettings`.
    :param makes_senders: See `IOutbound`.
    :return: What became of it.
    :rtype: `Delivered`
    """
    outbound = Outbound(makes_senders)
    settings = replace(load().delivery, coalesce=coalesce)

    def deliverer(mlist, msg, msgdata):
        strategy_for(mlist, msg, msgdata, outbound, settings).deliver(
            mlist, msg, msgdata)
    return _run(deliverer, outbound, mlist, msg, msgdata)


@public
def errors(mlist, msg, msgdata):
    """What puts an end to a post by us, and by stock; None where nothing does.
    """
    return (by_ours(mlist, msg, msgdata).error,
            by_stock(mlist, msg, msgdata).error)


class _Warnings(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


@public
@contextmanager
def warnings():
    """Collect what goes into Mailman's smtp log at level warning or above.

    :return: A context manager; its value is the list of the lines.
    """
    handler = _Warnings()
    log = logging.getLogger('mailman.smtp')
    log.addHandler(handler)
    try:
        yield handler.lines
    finally:
        log.removeHandler(handler)
