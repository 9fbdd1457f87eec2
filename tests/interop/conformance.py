# SPDX-License-Identifier: GPL-3.0-or-later

"""What holds with every server: the tests that they all inherit."""

from mailman.testing.layers import ConfigLayer
from mailman_mta_pool.wire.content import Content
from mailman_mta_pool.wire.transaction import Fate, Stage, Transaction
from public import public
from tests.interop.sending import (
    arrived,
    connection,
    converse,
    differences,
    dispatch,
    senders,
    WAYS,
)
from tests.interop.shapes import shapes


REFUSED = 'refused.example.org'
LATER = 'later.example.org'
#: The domains whose recipients every server refuses, and with which code.
CODES = {REFUSED: 550, LATER: 450}
public(REFUSED=REFUSED, LATER=LATER, CODES=CODES)
#: Where they are, in the transactions of `mixed`: '+' is a good recipient,
#: '-' one that is refused, '~' one that is refused for the time being.
PATTERNS = ('+', '+-', '-', '++', '~', '-+', '+~+', '--', '+', '~-', '-+~+',
            '+', '~~~', '++++', '-~-', '+')
DOMAINS = {'+': 'example.org', '-': REFUSED, '~': LATER}


def mixed(count, sender):
    """Make transactions, with all or some recipients refused in many.

    :param count: How many.
    :param sender: A function from `senders()`.
    """
    for number in range(count):
        pattern = PATTERNS[number % len(PATTERNS)]
        yield Transaction(
            sender(number),
            tuple(f'person-{number}-{index}@{DOMAINS[kind]}'
                  for index, kind in enumerate(pattern)),
            Content(b'Subject: %d\r\n\r\n.\r\nThis is for %d.\r\n'
                    % (number, number) + b'x' * (number % 7 * 500)))


def sendmail_connection(server, way):
    """A connection for several calls of `sendmail` in that way.

    Between two calls it is kept, and a connection that was kept proves itself
    by DATA.
    """
    return connection(server, WAYS[way], sessions=int(way == 'BDAT'))


def code_of(recipient):
    """Return the code that refuses a recipient, or None."""
    return CODES.get(recipient.partition('@')[2])


@public
class Conformance:
    """Mix this in, with a TestCase and with the methods of a server."""

    layer = ConfigLayer
    maxDiff = 4000
    #: The names of the ways in which to send; see `WAYS`.
    ways = tuple(WAYS)

    def kept(self, content, way):
        """Return what the server makes of a content.

        :param content: The octets as they are sent.
        :param way: The name of the way in which they are sent.
        """
        raise NotImplementedError

    def arrivals(self):
        """Return a list of all `Arrived`, in any order."""
        raise NotImplementedError

    def accepted(self):
        """Return a list of (queue id, sender), in the server's order."""
        raise NotImplementedError

    def queue_id(self, text):
        """Return the queue id that a reply tells.

        :param text: The reply's text as bytes.
        """
        raise NotImplementedError

    def used(self):
        """Return a dictionary: how often the server saw BDAT and DATA."""
        raise NotImplementedError

    def assertArrived(self, sender, expected):
        """All of that, and nothing else, came from that run of `senders()`."""
        prefix = sender(0)[:sender(0).rindex('-') + 1]
        found = [message for message in self.arrivals()
                 if message.sender.startswith(prefix)]
        self.assertEqual(differences(expected, found), [])
        # Whatever was smuggled would have a sender of its own.
        self.assertEqual([message for message in self.arrivals()
                          if not message.sender.startswith('run-')], [])

    def each_way(self):
        """Yield a subtest for each way, and check that it was that way."""
        for way in self.ways:
            with self.subTest(way=way):
                before = self.used()
                yield way, WAYS[way]
                verb = 'BDAT' if way == 'BDAT' else 'DATA'
                self.assertEqual(
                    [name for name, times in sorted(self.used().items())
                     if times > before.get(name, 0)], [verb])

    def shapes(self, way, sender):
        """Return the messages as transactions, and what should arrive."""
        transactions = [
            Transaction(sender(number), (f'anne-{number}@example.org',),
                        Content(shape.raw))
            for number, shape in enumerate(shapes())]
        return transactions, [
            arrived(transaction.sender, transaction.recipients,
                    self.kept(transaction.content.octets, way))
            for transaction in transactions]

    def test_shapes_by_sendmail(self):
        for way, _ in self.each_way():
            sender = senders()
            _, expected = self.shapes(way, sender)
            with sendmail_connection(self.server, way) as client:
                for number, shape in enumerate(shapes()):
                    self.assertEqual(client.sendmail(
                        sender(number), [f'anne-{number}@example.org'],
                        shape.raw), {}, shape.name)
            self.assertArrived(sender, expected)

    def test_shapes_by_dispatch(self):
        for way, wire in self.each_way():
            sender = senders()
            transactions, expected = self.shapes(way, sender)
            outcomes = dispatch(self.server, transactions, wire)
            self.assertEqual(
                {outcome.having(Fate.accepted) for outcome in outcomes},
                {transaction.recipients for transaction in transactions})
            self.assertArrived(sender, expected)

    def test_many_in_flight(self):
        # With BDAT 32 of them, and those that fail are no neighbours' harm.
        for way, wire in self.each_way():
            sender = senders()
            transactions = list(mixed(160, sender))
            with connection(self.server, wire) as client:
                outcomes = converse(client, transactions)
            # What was refused is told once that is proved.
            outcomes.sort(key=lambda outcome: transactions.index(
                outcome.transaction))
            self.assertEqual(
                [outcome.transaction for outcome in outcomes], transactions)
            self.assertOutcomes(outcomes)
            self.assertArrived(sender, self.expected(outcomes, way))
            self.assertInOrder(sender, outcomes)

    def test_many_dispatched(self):
        for way, wire in self.each_way():
            sender = senders()
            transactions = list(mixed(160, sender))
            outcomes = dispatch(self.server, transactions, wire)
            self.assertEqual(
                sorted(outcome.transaction[:2] for outcome in outcomes),
                sorted(transaction[:2] for transaction in transactions))
            self.assertOutcomes(outcomes)
            self.assertArrived(sender, self.expected(outcomes, way))

    def test_many_recipients(self):
        # Some of them are refused, and no transaction is without a good one.
        for way, _ in self.each_way():
            sender = senders()
            recipients = [f'person-{number}@{domain}'
                          for number in range(8)
                          for domain in DOMAINS.values()]
            expected = []
            with sendmail_connection(self.server, way) as client:
                for number in range(20):
                    refused = client.sendmail(
                        sender(number), recipients, b'Subject: x\r\n\r\nx')
                    self.assertEqual(
                        {recipient: code
                         for recipient, (code, text) in refused.items()},
                        {recipient: code_of(recipient)
                         for recipient in recipients if code_of(recipient)})
                    expected.append(arrived(
                        sender(number),
                        [recipient for recipient in recipients
                         if not code_of(recipient)],
                        self.kept(b'Subject: x\r\n\r\nx\r\n', way)))
            self.assertArrived(sender, expected)

    def assertOutcomes(self, outcomes):
        """Each recipient had what the server does with it, and why."""
        for transaction, results, _ in outcomes:
            for recipient, result in zip(transaction.recipients, results):
                code = code_of(recipient)
                if code is None:
                    self.assertIs(result.fate, Fate.accepted, recipient)
                    continue
                self.assertEqual(
                    (result.fate, result.stage, result.reply.code),
                    (Fate.refused, Stage.rcpt, code), recipient)
                self.assertIn(recipient.encode(), result.reply.text)

    def expected(self, outcomes, way):
        """Return what must have arrived after these outcomes."""
        return [
            arrived(transaction.sender, outcome.having(Fate.accepted),
                    self.kept(transaction.content.octets, way))
            for outcome in outcomes
            for transaction in [outcome.transaction]
            if outcome.having(Fate.accepted)]

    def assertInOrder(self, sender, outcomes):
        """The server took them in our order, under the ids that we know."""
        told = []
        for transaction, results, _ in outcomes:
            ids = {self.queue_id(result.reply.text) for result in results
                   if result.fate is Fate.accepted}
            self.assertLessEqual(len(ids), 1)
            told.extend((queue_id, transaction.sender) for queue_id in ids)
        own = {transaction.sender for transaction, _, _ in outcomes}
        self.assertEqual(
            told, [pair for pair in self.accepted() if pair[1] in own])
