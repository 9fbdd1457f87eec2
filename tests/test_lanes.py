# SPDX-License-Identifier: GPL-3.0-or-later

"""One post over several relays whose connections are fakes."""

import time
import asyncio
import logging
import unittest

from collections import Counter, deque
from contextlib import suppress
from hypothesis import given, settings, strategies as st
from itertools import count
from mailman.testing.layers import ConfigLayer
from mailman_mta_pool.dispatch.dispatcher import Dispatcher
from mailman_mta_pool.dispatch.outbound import Outbound
from mailman_mta_pool.errors import (
    ConnectionLost,
    NothingMoreToSend,
    RelayPaused,
    RelayUnavailable,
)
from mailman_mta_pool.interfaces import ICandidate
from mailman_mta_pool.network.border import border
from mailman_mta_pool.settings import (
    About,
    Answer,
    DeliverySettings,
    RelaySettings,
)
from mailman_mta_pool.settlement.catalogue import Catalogue
from mailman_mta_pool.settlement.ledger import Ledger, Post
from mailman_mta_pool.wire.capabilities import Capabilities
from mailman_mta_pool.wire.content import Content
from mailman_mta_pool.wire.replies import Reply
from mailman_mta_pool.wire.transaction import (
    Fate,
    Outcome,
    outcome_of_all,
    Result,
    Span,
    Stage,
    Transaction,
)
from mailman_mta_pool.wire.verp import Verp
from tests.settlement.world import reply
from tests.test_dispatch import FakeRelay, Together
from tests.wire.test_model import PROFILE
from zope.interface.verify import verifyObject


PATIENCE = 20
PLAIN = 'ant-bounces@example.com'
CONTENT = Content(b'Subject: x\r\n\r\nx\r\n')
OK = Reply(250, (b'2.0.0 Ok',))
LOSE, DOUBT = 'lose', 'doubt'
NOT_SENT = Result(Fate.not_attempted, Stage.connect, None)
QUOTA = Answer('quota', frozenset(['rcpt']), ('450',), (), 'Enough',
               About.quota, 3600.0, '', '')
RATE = Answer('rate', frozenset(['rcpt']), ('450',), (), 'Slowly',
              About.rate, 0.0, '', '')
DENIED = Answer('denied', frozenset(['rcpt']), ('550',), (), 'Denied',
                About.us, None, '', '')


def member(number):
    return f'member-{number:03}@d{number % 7}.example.com'


class ScriptedRelay(FakeRelay):
    """A relay that a rule describes.

    :ivar depth: How many transactions a connection has in flight at most.
    :ivar told: The recipients of its transactions, questions excepted, in
        this order.
    :ivar served: Those for whom it took the post.
    """

    def __init__(self, name, rule=lambda recipient, relay: None,
                 connections=1, gate=None, depth=1, clock=lambda: 0.0,
                 **settings):
        super().__init__(self.talk, connections, clock)
        self.settings = RelaySettings(**settings)
        self.name = name
        self.rule = rule
        self.gate = gate
        self.depth = depth
        self.told, self.served, self.asked = [], [], []
        self.transactions = []
        self.opened = 0
        self._session = count(1).__next__

    async def on_open(self, connection):
        self.opened += 1

    async def talk(self, feed, report):
        session, tick = self._session(), count(1).__next__
        flying, feeding = deque(), None
        is_over = False
        while not is_over or flying:
            while not is_over and len(flying) < self.depth:
                feeding = feeding or asyncio.ensure_future(feed())
                await asyncio.sleep(0)
                if flying and not feeding.done():
                    break
                each, feeding = await feeding, None
                is_over = each is None
                if not is_over:
                    flying.append((each, tick()))
            if flying and not await self.answer(
                    *flying.popleft(), session, tick, report):
                if feeding is not None and feeding.done():
                    flying.append((feeding.result(), tick()))
                elif feeding is not None:
                    feeding.cancel()
                for each, begun in flying:
                    if each is not None:
                        report(outcome_of_all(each, NOT_SENT))
                raise ConnectionLost('lost')

    async def answer(self, each, begun, session, tick, report):
        """Return False if the connection is lost then."""
        if self.gate is not None:
            await self.gate()
        (self.asked if each.asks else self.told).extend(each.recipients)
        self.transactions.append(each)
        await asyncio.sleep(0)
        words = [self.rule(name, self) for name in each.recipients]
        report(Outcome(each, tuple(self.results(each, words)),
                       Span(session, begun, tick())))
        return LOSE not in words and DOUBT not in words

    def results(self, transaction, words):
        if LOSE in words:
            return [NOT_SENT for _ in words]
        results = []
        for name, word in zip(transaction.recipients, words):
            if word == DOUBT:
                results.append(Result(Fate.in_doubt, Stage.end, None))
            elif word is not None:
                results.append(Result(Fate.refused, Stage.rcpt, reply(word)))
            elif transaction.asks:
                results.append(Result(Fate.not_attempted, Stage.data, OK))
            else:
                self.served.append(name)
                results.append(Result(Fate.accepted, Stage.end, OK))
        return results


class LanesTestCase(unittest.TestCase):
    layer = ConfigLayer

    def use(self, *relays, attempts=3, patience=0, answers=(), **kws):
        self.relays = relays
        for relay in relays:
            self.addCleanup(border.call, relay.pool.close)
        self.ledger = Ledger(
            relays=relays, catalogue=Catalogue(answers),
            post=Post(count=1000, plain_sender=PLAIN))
        # A second passes at each look, so nothing waits for more to come.
        return Outbound(
            relays, DeliverySettings(attempts=attempts, patience=patience),
            self.ledger, plain_sender=PLAIN, clock=count().__next__, **kws)

    def send(self, outbound, number, size=1, verp=None):
        """Send to so many members, and close the ledger.

        :return: Those who still have to be served.
        """
        names = [member(each) for each in range(number)]
        with suppress(NothingMoreToSend):
            for start in range(0, number, size):
                outbound.submit(Transaction(
                    PLAIN, tuple(names[start:start + size]), CONTENT, verp))
        outbound.finish()
        outbound.close()
        left = self.ledger.close(names, outbound.unavailable)
        self.assertOneEnd(names, left)
        return left

    def assertOneEnd(self, names, left):
        ledger = self.ledger
        self.assertEqual(sorted([
            *ledger.served, *ledger.bounced, *ledger.deferred,
            *ledger.rejected, *ledger.untried, *left]), names)
        served = [name for relay in self.relays for name in relay.served]
        self.assertEqual(len(served), len(set(served)))
        self.assertEqual(set(served), ledger.served)


def until(is_true):
    """A gate that opens when something has come true."""
    async def wait():
        deadline = time.monotonic() + PATIENCE
        while not is_true():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.001)
    return wait


def always(words):
    return lambda recipient, relay: words


def refusing(*numbers, words):
    names = set(map(member, numbers))
    return lambda recipient, relay: words if recipient in names else None


class TestBoth(LanesTestCase):
    def test_both_are_used(self):
        # Each has one at the same time, or this breaks.
        together = Together(2)
        one, other = (ScriptedRelay(name, gate=together.wait)
                      for name in ('one:25', 'other:25'))
        outbound = self.use(one, other)
        self.assertEqual(outbound.connections, 2)
        self.assertEqual(self.send(outbound, 40), [])
        self.assertEqual(len(self.ledger.served), 40)
        self.assertTrue(one.served and other.served)

    def test_one_is_enough_for_one(self):
        relays = [ScriptedRelay(f'{name}:25', connections=4) for name in 'abc']
        self.send(self.use(*relays), 1)
        self.assertEqual(sum(relay.opened for relay in relays), 1)

    def test_what_the_journal_is_told(self):
        told = []

        class Record:
            def served(self, recipients, reply=None, relay=''):
                told.extend((name, relay) for name in recipients)
        one, other = ScriptedRelay('one:25'), ScriptedRelay('other:25')
        outbound = self.use(one, other)
        self.ledger = Ledger(Record(), relays=self.relays)
        outbound = Outbound(self.relays, DeliverySettings(), self.ledger)
        self.send(outbound, 20)
        self.assertEqual(sorted(told), sorted(
            (name, relay.name) for relay in self.relays
            for name in relay.served))


class TestChosen(LanesTestCase):
    """By priority, and by weight."""

    def test_candidate(self):
        relays = [ScriptedRelay(name, weight=2, priority=7) for name in 'ab']
        lane, _ = Dispatcher(
            relays, DeliverySettings(), Ledger(relays=relays), None).lanes
        self.assertTrue(verifyObject(ICandidate, lane))
        self.assertEqual((lane.name, lane.weight, lane.priority), ('a', 2, 7))
        self.assertTrue(lane.is_available)
        # It could start an agent.
        self.assertEqual((lane.has_room, lane.is_full), (False, False))
        lane.balance = 3
        self.assertEqual(relays[0].balance, 3)

    def test_weights(self):
        # Those that wait for a transaction have room.
        one, other = (ScriptedRelay(name, weight=weight)
                      for name, weight in (('one', 3), ('other', 1)))
        self.send(self.use(one, other), 80)
        self.assertAlmostEqual(len(one.served), 60, delta=4)

    def test_posts_of_one_transaction(self):
        one, other = (ScriptedRelay(name, weight=weight)
                      for name, weight in (('one', 2), ('other', 1)))
        found = Counter()
        for _ in range(6):
            self.send(self.use(one, other), 1)
            for relay in one, other:
                found[relay.name] += len(relay.served)
                relay.served.clear()
        self.assertEqual(found, {'one': 4, 'other': 2})

    def test_worse_priority(self):
        # It is not used because the better one is busy.
        for number in (1, 30):
            with self.subTest(number=number):
                one = ScriptedRelay('one', priority=20)
                other = ScriptedRelay('other', priority=10)
                self.send(self.use(one, other), number)
                self.assertEqual((one.opened, one.served), (0, []))
                self.assertEqual(len(other.served), number)

    def test_worse_priority_where_the_better_one_fails(self):
        async def refuse(connection):
            raise RelayUnavailable('one', 'connect', 'refused')
        one = ScriptedRelay('one', priority=10)
        one.on_open = refuse
        other = ScriptedRelay('other', priority=20)
        self.assertEqual(self.send(self.use(one, other, patience=1e9), 30), [])
        self.assertEqual(len(other.served), 30)

    def test_it_works_again_in_mid_post(self):
        # All of the rest is for the better one then.
        tries = []

        async def refuse_once(connection):
            one.opened += 1
            tries.append(connection)
            if len(tries) == 1:
                raise RelayUnavailable('one', 'connect', 'refused')
        one = ScriptedRelay('one', priority=10)
        one.on_open = refuse_once
        backup = ScriptedRelay(
            'backup', priority=20, gate=lambda: asyncio.sleep(0.05))
        self.assertEqual(self.send(self.use(one, backup, patience=1e9), 200),
                         [])
        self.assertEqual(len(one.served) + len(backup.served), 200)
        self.assertGreater(len(one.served), 100)


class TestFailover(LanesTestCase):
    """What was not attempted goes over another relay."""

    def test_no_connection(self):
        async def refuse(connection):
            raise RelayUnavailable('one:25', 'connect', 'refused')
        for patience, number in ((0, 50), (1e9, 50), (0, 1), (1e9, 1)):
            with self.subTest(patience=patience, number=number):
                one, other = ScriptedRelay('one:25'), ScriptedRelay('other:25')
                one.on_open = refuse
                outbound = self.use(one, other, patience=patience)
                self.assertEqual(self.send(outbound, number), [])
                self.assertIsNone(outbound.unavailable)
                self.assertEqual(len(other.served), number)
                self.assertEqual(one.trouble, 'connect: refused')

    def test_no_connection_to_any(self):
        async def refuse(connection):
            raise RelayUnavailable('a:25', 'connect', 'refused')
        relays = [ScriptedRelay(f'{name}:25') for name in 'abc']
        for relay in relays:
            relay.on_open = refuse
        outbound = self.use(*relays)
        self.assertEqual(self.send(outbound, 20), [])
        self.assertIsInstance(outbound.unavailable, RelayUnavailable)
        self.assertEqual(len(self.ledger.untried), 20)

    def test_connections_that_are_lost_at_once(self):
        for number in (1, 30):
            with self.subTest(number):
                one = ScriptedRelay('one:25', always(LOSE))
                other = ScriptedRelay('other:25')
                self.assertEqual(self.send(self.use(one, other), number), [])
                self.assertEqual(len(self.ledger.served), number)

    def test_whoever_breaks_all_connections(self):
        # There is an end to it, and the others get theirs.
        for relays in (1, 2, 3):
            with self.subTest(relays=relays):
                rule = refusing(3, words=LOSE)
                outbound = self.use(*(
                    ScriptedRelay(f'{number}:25', rule)
                    for number in range(relays)))
                self.send(outbound, 30)
                self.assertEqual(list(self.ledger.deferred), [member(3)])
                self.assertEqual(len(self.ledger.served), 29)
                tries = [name for relay in self.relays
                         for name in relay.told].count(member(3))
                # Connections that had answered count for a tenth.
                self.assertLessEqual(tries, 10 * 3 * relays)

    def test_a_quota(self):
        # Whom it was refused to is no more to blame than the others.
        one = ScriptedRelay('one:25', lambda recipient, relay: (
            '450 Enough' if len(relay.told) > 3 else None))
        other = ScriptedRelay('other:25', gate=until(lambda: one.told[3:]))
        with self.assertLogs('mailman.smtp', 'WARNING') as logs:
            left = self.send(self.use(one, other, answers=[QUOTA]), 40)
        self.assertEqual(left, [])
        self.assertEqual(len(self.ledger.served), 40)
        self.assertEqual(len(one.served), 3)
        self.assertEqual(len(logs.output), 1)
        self.assertIsNotNone(self.ledger.used_up)
        self.assertFalse(self.ledger.is_paused)

    def test_the_quotas_of_all(self):
        relays = [ScriptedRelay(f'{name}:25', always('450 Enough'))
                  for name in 'ab']
        with self.assertLogs('mailman.smtp', 'WARNING'):
            left = self.send(self.use(*relays, answers=[QUOTA]), 10)
        self.assertEqual((left, len(self.ledger.untried)), ([], 10))
        self.assertTrue(self.ledger.is_paused)

    def test_pauses_from_an_earlier_post(self):
        for paused in (1, 2):
            with self.subTest(paused=paused):
                one, other = ScriptedRelay('one:25'), ScriptedRelay('other:25')
                outbound = self.use(one, other)
                for relay in (one, other)[:paused]:
                    relay.throttle.hold(reply('450 Enough'), 3600.0, 0.0)
                self.assertEqual(self.send(outbound, 10), [])
                self.assertEqual(one.opened, 0)
                self.assertEqual(len(other.served), 10 * (paused == 1))
                self.assertEqual(self.ledger.is_paused, paused == 2)
                self.assertEqual(isinstance(
                    outbound.unavailable, RelayPaused), paused == 2)

    def test_a_short_pause_that_is_over(self):
        # The other one is busy then, and would be for ever.
        one = ScriptedRelay('one:25', clock=time.monotonic)
        other = ScriptedRelay('other:25', gate=until(lambda: one.told))
        outbound = self.use(one, other)
        one.throttle.slow_down(reply('450 Slowly'), 0.2, 0.0)
        self.assertEqual(self.send(outbound, 30), [])
        self.assertEqual(len(self.ledger.served), 30)

    def test_it_does_not_take_mail_from_us(self):
        one = ScriptedRelay('one:25', always('550 Denied'))
        other = ScriptedRelay(
            'other:25', gate=until(lambda: self.ledger.denials))
        self.assertEqual(
            self.send(self.use(one, other, answers=[DENIED]), 60), [])
        self.assertEqual(len(self.ledger.served), 60)
        self.assertEqual(self.ledger.suspects, [])
        self.assertEqual(list(self.ledger.denials), [one])

    def test_that_is_found_out_at_the_end(self):
        # By the only one whom it was sent.  When another relay refuses the
        # same recipient, there is another conclusion.
        def rule(recipient, relay):
            return '550 Zorp' if recipient in one.told else None
        other = ScriptedRelay('other:25', rule)
        one = ScriptedRelay('one:25', always('550 Denied'), gate=until(
            lambda: len(other.served) == 39))
        self.assertEqual(
            self.send(self.use(one, other, answers=[DENIED]), 40), [])
        self.assertEqual(len(one.told), 1)
        self.assertEqual(list(self.ledger.bounced), one.told)
        self.assertIn(one.told[0], other.asked)

    def test_it_may_not_take_mail_from_us(self):
        # But nobody knows what these words mean.
        one = ScriptedRelay('one:25', always('550 Zorp'))
        other = ScriptedRelay(
            'other:25', gate=until(lambda: self.ledger.denials))
        self.assertEqual(self.send(self.use(one, other), 100), [])
        refused = set(one.told)
        self.assertEqual(set(self.ledger.deferred), refused)
        self.assertEqual(set(self.ledger.suspects), refused)
        self.assertEqual(self.ledger.bounced, {})
        self.assertEqual(len(other.served), 100 - len(refused))
        self.assertTrue(refused.isdisjoint(other.told))


class TestJudgedByOne(LanesTestCase):
    """What a relay has said of a recipient is no other relay's affair."""

    def test_in_clear_words(self):
        rule = refusing(*range(5), words='550 5.1.1 No such ant')
        one = ScriptedRelay('one:25', rule)
        other = ScriptedRelay('other:25', gate=until(lambda: one.told[9:]))
        self.assertEqual(self.send(self.use(one, other), 40), [])
        self.assertTrue(self.ledger.bounced)
        self.assertEqual(
            set(self.ledger.bounced),
            set(map(member, range(5))).difference(other.served))
        self.assertTrue(set(self.ledger.bounced).isdisjoint(other.told))

    def test_in_words_that_prove_nothing(self):
        # Those whom the relay has accepted itself are the proof.
        one = ScriptedRelay(
            'one:25', lambda recipient, relay: (
                '550 Zorp' if relay.told.index(recipient) == 2 else None)
            if recipient in relay.told else None)
        other = ScriptedRelay('other:25', gate=until(lambda: one.told[5:]))
        self.assertEqual(self.send(self.use(one, other), 40), [])
        refused = one.told[2]
        self.assertEqual(list(self.ledger.bounced), [refused])
        self.assertNotIn(refused, other.told + other.asked)
        self.assertIn(refused, one.asked)

    def test_what_another_accepts_proves_nothing(self):
        one = ScriptedRelay('one:25', always('550 Zorp'))
        other = ScriptedRelay('other:25')
        self.send(self.use(one, other), 30)
        self.assertEqual(self.ledger.bounced, {})

    def test_for_the_time_being(self):
        one = ScriptedRelay('one:25', always('450 4.2.2 Mailbox full'))
        other = ScriptedRelay('other:25', gate=until(lambda: one.told))
        self.assertEqual(self.send(self.use(one, other), 30), [])
        self.assertEqual(set(self.ledger.deferred), set(one.told))
        self.assertTrue(set(one.told).isdisjoint(other.told))

    def test_in_doubt(self):
        one = ScriptedRelay('one:25', always(DOUBT))
        other = ScriptedRelay('other:25', gate=until(lambda: one.told))
        self.send(self.use(one, other), 30)
        self.assertEqual(set(self.ledger.deferred), set(one.told))
        self.assertTrue(set(one.told).isdisjoint(other.told))
        self.assertEqual(self.ledger.in_doubt, len(one.told))

    def test_the_rate(self):
        # That is no word about a recipient.
        one = ScriptedRelay('one:25', lambda recipient, relay: (
            '450 Slowly' if len(relay.told) > 1 else None))
        other = ScriptedRelay('other:25', gate=until(lambda: one.told[1:]))
        with self.assertLogs('mailman.smtp', 'WARNING'):
            self.send(self.use(one, other, answers=[RATE]), 30)
        self.assertEqual(len(self.ledger.served), 30)
        self.assertIn(one.told[1], other.served)

    def test_its_lane_ends_before_it_is_sent_again(self):
        # The plain sender is tried next, and with that the quota is used up.
        one = ScriptedRelay('one:25', lambda recipient, relay: (
            '550 5.1.8 Bad sender' if len(relay.transactions) == 1
            else '450 Enough'))
        other = ScriptedRelay(
            'other:25', gate=until(lambda: one.transactions[1:]))
        with self.assertLogs('mailman.smtp', 'WARNING'):
            self.send(self.use(one, other, answers=[QUOTA]), 30,
                      size=3, verp=Verp('+='))
        asked = one.transactions[0].recipients
        self.assertEqual(self.ledger.deferred, dict.fromkeys(
            asked, (550, b'5.1.8 Bad sender')))
        self.assertTrue(set(asked).isdisjoint(other.told))
        self.assertEqual(len(self.ledger.served), 27)

    def test_the_message(self):
        one = ScriptedRelay('one:25', always('552 5.3.4 Too big'))
        other = ScriptedRelay('other:25', gate=until(lambda: one.told))
        self.send(self.use(one, other), 30)
        self.assertEqual(set(self.ledger.rejected), set(one.told))
        self.assertEqual(len(self.ledger.served), 30 - len(one.told))


class TestConnections(LanesTestCase):
    """How many connections a post has shares in."""

    def test_of_those_that_get_the_post(self):
        one, two = ScriptedRelay('one', connections=3), ScriptedRelay(
            'two', connections=4)
        backup = ScriptedRelay('backup', connections=50, priority=20)
        outbound = self.use(one, two, backup)
        self.assertEqual(outbound.connections, 7)
        self.send(outbound, 0)

    def test_of_the_backup(self):
        one = ScriptedRelay('one', connections=3)
        backup = ScriptedRelay('backup', connections=5, priority=20)
        one.throttle.slow_down(Reply(450, (b'Slowly',)), 600.0, 0.0)
        outbound = self.use(one, backup)
        self.assertEqual(outbound.connections, 5)
        self.send(outbound, 10)
        self.assertEqual(len(backup.served), 10)


class TestSendersOfVerp(LanesTestCase):
    def relay(self, name, xverp):
        relay = ScriptedRelay(name)
        relay.lessons.learn_server(Capabilities(
            [('XVERP', ())] * xverp))
        return relay

    def test_who_makes_them(self):
        for verps, makes in (((True, True), True), ((True, False), False),
                             ((False, True), False)):
            with self.subTest(verps):
                outbound = self.use(*(
                    self.relay(f'{number}:25', xverp)
                    for number, xverp in enumerate(verps)))
                self.assertEqual(outbound.makes_senders, makes)
                self.send(outbound, 0)

    def test_not_all_make_them(self):
        one, other = self.relay('one:25', True), self.relay('other:25', False)
        one.gate = other.gate = Together(2).wait
        self.send(self.use(one, other), 40, size=4, verp=Verp('+='))
        self.assertEqual(len(self.ledger.served), 40)
        # What was divided may go over any of them.
        self.assertLessEqual({(len(each.recipients), each.verp is None)
                              for each in one.transactions},
                             {(4, False), (1, True)})
        self.assertEqual({(len(each.recipients), each.verp is None)
                          for each in other.transactions}, {(1, True)})
        self.assertEqual(
            {each.sender for each in other.transactions},
            {Verp('+=').sender(PLAIN, name) for name in other.served})


class TestWhateverTheySay(LanesTestCase):
    """Each recipient has one end, and no relay judges for another."""

    MOODS = ((190, None), (205, '550 5.1.1 Who?'), (215, '450 4.2.1 Later'),
             (225, '550 Zorp'), (235, '550 Denied'), (240, DOUBT),
             (244, '450 Enough'), (256, LOSE))
    OF_RECIPIENTS = {'550 5.1.1 Who?', '450 4.2.1 Later', '550 Zorp', DOUBT}

    @settings(PROFILE, max_examples=PROFILE.max_examples // 10)
    @given(octets=st.binary(max_size=100), number=st.integers(1, 60),
           size=st.sampled_from([1, 3, 10]), relays=st.integers(1, 3),
           connections=st.integers(1, 3), depth=st.integers(1, 4),
           weights=st.lists(st.integers(1, 4), min_size=3, max_size=3),
           priorities=st.lists(st.integers(1, 2), min_size=3, max_size=3),
           closed=st.lists(st.booleans(), max_size=12))
    def test_any(self, octets, number, size, relays, connections, depth,
                 weights, priorities, closed):
        async def on_open(connection):
            if next(doors, False):
                raise RelayUnavailable('relay', 'connect', 'refused')
        doors = iter(closed)

        def rule(recipient, relay):
            octet = next(ahead, 0)
            return next(mood for limit, mood in self.MOODS if octet < limit)
        ahead, judges = iter(octets), {}
        outbound = self.use(*(
            Judging(f'{each}:25', rule, connections, depth=depth,
                    judges=judges, on_open=on_open, weight=weights[each],
                    priority=priorities[each])
            for each in range(relays)), answers=[QUOTA, DENIED])
        logging.disable()
        try:
            self.send(outbound, number, size)
        finally:
            logging.disable(logging.NOTSET)


class Judging(ScriptedRelay):
    """Takes note of whom it judges, and is told of nobody judged by others."""

    def __init__(self, *args, judges, on_open, **kws):
        super().__init__(*args, **kws)
        self._judges = judges
        self.on_open = on_open

    def results(self, transaction, words):
        for name in transaction.recipients:
            assert self._judges.get(name, self) is self, name
        if LOSE not in words:
            self._judges.update(
                (name, self) for name, word in zip(
                    transaction.recipients, words)
                if word in TestWhateverTheySay.OF_RECIPIENTS)
        return super().results(transaction, words)
