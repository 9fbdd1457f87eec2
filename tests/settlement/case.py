# SPDX-License-Identifier: GPL-3.0-or-later

"""Outcomes in few words, and a ledger that they are entered into."""

import unittest

from itertools import count
from mailman_mta_pool.interfaces import IRecord
from mailman_mta_pool.settlement.catalogue import Catalogue
from mailman_mta_pool.settlement.ledger import Ledger, Post
from mailman_mta_pool.settlement.memory import Memory
from mailman_mta_pool.wire.transaction import (
    Fate,
    Outcome,
    Result,
    Span,
    Stage,
    Transaction,
)
from public import public
from tests.settlement.world import CONTENT, OK, PLAIN, Relay, reply
from zope.interface import implementer


ACCEPTED = Result(Fate.accepted, Stage.end, OK)
IN_DOUBT = Result(Fate.in_doubt, Stage.end, None)
# The answer to a question about somebody whom the server takes.
TAKEN = Result(Fate.not_attempted, Stage.data, OK)
public(ACCEPTED=ACCEPTED, IN_DOUBT=IN_DOUBT, TAKEN=TAKEN)


@public
def refused(stage, text):
    """A refusal, for example at RCPT with '550 5.1.1 No such ant'."""
    return Result(Fate.refused, stage, reply(text))


@public
def address(name):
    """An underscore divides the local part from an unusual domain."""
    local, _, domain = name.partition('_')
    return f'{local}@{domain or "a"}.example.com'


@public
def outcome(sender=PLAIN, span=Span(), **results):
    """The outcome of one transaction.

    :param results: The result of each recipient, by name.
    """
    return Outcome(
        Transaction(sender, tuple(map(address, results)), CONTENT),
        tuple(results.values()), span)


@public
@implementer(IRecord)
class Record:
    """Remembers what it was told.

    :ivar told: Who is settled, and how: each one once.
    :ivar accepted: The recipients of a transaction, and the reply.
    :ivar for_now: Who is not settled: deferred, with the code, or in doubt.
    :ivar relays: The names of the relays that were told.
    """

    def __init__(self):
        self.told = []
        self.accepted = []
        self.for_now = []
        self.relays = set()

    def served(self, recipients, reply=None, relay=''):
        self.told.extend((recipient, 'served') for recipient in recipients)
        self.accepted.append((tuple(recipients), reply))
        self.relays.add(relay)

    def bounced(self, recipient, code, text, relay=''):
        self.told.append((recipient, code))
        self.relays.add(relay)

    def deferred(self, recipients, code, text, relay=''):
        self.for_now.extend((recipient, code) for recipient in recipients)
        self.relays.add(relay)

    def in_doubt(self, recipients, relay=''):
        self.for_now.extend((recipient, 'in doubt')
                            for recipient in recipients)
        self.relays.add(relay)


@public
class LedgerTestCase(unittest.TestCase):
    """A post to many, unless a test begins another one."""

    def setUp(self):
        self.now = 0.0
        self.memory = Memory(lambda: self.now)
        self.relay = Relay(self.memory)
        self.begin()

    def begin(self, *, answers=(), shunts=True, **post):
        """Begin another post over the same relay."""
        self.record = Record()
        post.setdefault('message_id', '<ants>')
        post.setdefault('plain_sender', PLAIN)
        self.ledger = Ledger(
            self.record, post=Post(**post), catalogue=Catalogue(answers),
            relays=[self.relay], shunts=shunts)
        self._tick = count(1).__next__

    def settle(self, sender=PLAIN, span=None, **results):
        """Enter an outcome, which is later than all before it."""
        span = span or Span(1, self._tick(), self._tick())
        return self.ledger.settle(outcome(sender, span, **results), self.relay)

    def answer(self, question, *results):
        """Enter the answer to a question."""
        self.assertTrue(question.asks)
        return self.ledger.settle(Outcome(
            question, results, Span(1, self._tick(), self._tick())),
            self.relay)

    def conclude(self):
        """Decide on those who are held."""
        return self.ledger.conclude(self.relay)

    def close(self, names, unavailable=None):
        return self.ledger.close(map(address, names.split()), unavailable)

    def assertSettled(self, **ends):
        """Each recipient has ended so, by names with spaces between them."""
        for name in ('served', 'bounced', 'deferred', 'rejected', 'untried'):
            with self.subTest(name):
                self.assertEqual(
                    sorted(getattr(self.ledger, name)),
                    sorted(map(address, ends.get(name, '').split())))

    def assertSuspects(self, names):
        self.assertEqual(sorted(self.ledger.suspects),
                         sorted(map(address, names.split())))
