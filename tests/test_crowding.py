# SPDX-License-Identifier: GPL-3.0-or-later

"""Posts of a process that shares the connections of a relay with others."""

import asyncio
import unittest

from contextlib import suppress
from mailman.testing.layers import ConfigLayer
from mailman_mta_pool.dispatch.outbound import Outbound
from mailman_mta_pool.errors import NothingMoreToSend, PhaseTimeout
from mailman_mta_pool.network.border import border
from mailman_mta_pool.relays.pool import Pool
from mailman_mta_pool.settings import DeliverySettings
from mailman_mta_pool.wire.transaction import Fate, outcome_of_all
from tests.test_dispatch import (
    accept_all,
    ACCEPTED,
    Books,
    FakeConnection,
    FakeRelay,
    IN_DOUBT,
    PATIENCE,
    Together,
    transaction,
    Turn,
)
from tests.test_pool import FakeSlots


class Relay(FakeRelay):
    """A relay of whose connections the host has a few."""

    def __init__(self, converse, slots, connections=3):
        super().__init__(converse, connections)
        self.opened = 0
        self.pool = Pool(
            lambda: FakeConnection(converse, self), self.pool_settings,
            slots=slots)

    async def on_open(self, connection):
        self.opened += 1


async def until(is_so):
    """Let the network thread go on until something is so."""
    async def wait():
        while not is_so():
            await asyncio.sleep(0.001)
    await asyncio.wait_for(wait(), PATIENCE)


class CrowdingTestCase(unittest.TestCase):
    layer = ConfigLayer

    def setUp(self):
        self.outcomes = []

    def use(self, converse, free):
        self.slots = FakeSlots(free)
        self.relay = Relay(converse, self.slots)
        self.addCleanup(border.call, self.relay.pool.close)

    def outbound(self, **kws):
        return Outbound([self.relay], DeliverySettings(patience=0),
                        Books(self.outcomes), **kws)

    def send(self, count, **kws):
        self.sending = outbound = self.outbound(**kws)
        with suppress(NothingMoreToSend):
            for number in range(count):
                outbound.submit(transaction(number))
        outbound.finish()
        outbound.close()
        return outbound

    def settled(self, fate):
        return sum(len(outcome.having(fate)) for outcome in self.outcomes)

    def later(self, is_so, step):
        """Let others do something once something is so."""
        async def wait():
            await until(is_so)
            step()

        async def begin():
            self.task = asyncio.ensure_future(wait())
        border.call(begin)

    def wait_until(self, is_so):
        border.call(until, is_so)


class TestCrowding(CrowdingTestCase):
    def test_as_many_as_there_are(self):
        both = Together(2)

        async def converse(feed, report):
            await both.wait()
            await accept_all(feed, report)
        self.use(converse, free=2)
        self.send(30)
        self.assertEqual(self.settled(Fate.accepted), 30)
        self.assertEqual(self.relay.opened, 2)
        self.assertEqual(self.slots.wanted, 0)

    def test_it_waits_for_others(self):
        self.use(accept_all, free=0)
        self.later(lambda: self.slots.wanted == 3,
                   lambda: self.slots.let_go(1))
        outbound = self.send(30)
        self.assertEqual(self.settled(Fate.accepted), 30)
        self.assertIsNone(outbound.unavailable)
        self.assertEqual(self.relay.opened, 1)
        # Those who waited for another one do not any more.
        self.assertEqual(self.slots.wanted, 0)

    def test_others_have_it_between_two_transactions(self):
        before = []

        async def converse(feed, report):
            while (each := await feed()) is not None:
                report(outcome_of_all(each, ACCEPTED))
                if len(self.outcomes) == 10:
                    self.slots.ask_for(busy=1)
                    # They have it, and give it back in the end.
                    self.slots.free -= 1
            before.append(len(self.outcomes))
        self.use(converse, free=1)
        self.later(lambda: self.slots.released == [False],
                   lambda: self.slots.let_go(1))
        self.send(30)
        self.assertEqual(before, [10, 30])
        self.assertEqual(self.settled(Fate.accepted), 30)
        self.assertEqual(self.relay.opened, 2)

    def test_who_has_nothing_to_do_is_asked(self):
        self.use(accept_all, free=1)
        outbound = self.outbound()
        self.addCleanup(outbound.close)
        outbound.expect(1)
        self.wait_until(lambda: self.relay.pool.statistics().in_use == 1)

        async def ask():
            self.slots.ask_for(busy=1)
        border.call(ask)
        self.wait_until(lambda: self.slots.released)
        outbound.submit(transaction(1))
        outbound.finish()
        self.assertEqual(self.settled(Fate.accepted), 1)

    def test_an_urgent_end(self):
        # The others have all of them, and keep them.
        self.use(accept_all, free=0)
        turn = Turn()

        def end():
            words.append(self.sending.waits_for)
            turn.is_over = turn.is_urgent = True
        words = []
        self.later(lambda: self.slots.wanted == 3, end)
        outbound = self.send(30, turn=turn)
        self.assertEqual(words, [
            'one of the 3 connections to relay.example.net:25, all of which '
            'other posts have'])
        self.assertEqual(outbound.waits_for, '')
        self.assertIsNone(outbound.unavailable)
        self.assertEqual(self.outcomes, [])
        self.nobody_waits()

    def test_others_posts_do_not_wait_for_it(self):
        self.use(accept_all, free=0)
        turn = Turn()

        def end():
            turn.is_over = turn.is_awaited = True
        self.later(lambda: self.slots.wanted == 3, end)
        self.send(30, turn=turn)
        self.assertEqual(self.outcomes, [])
        self.nobody_waits()

    def test_the_only_post_waits_on(self):
        self.use(accept_all, free=0)
        looks = []

        class Watched(Turn):
            @property
            def is_awaited(self):
                looks.append(self)
                return False
        turn = Watched()
        turn.is_over = True
        # It has looked, and gone on waiting.
        self.later(lambda: len(looks) > 1, lambda: self.slots.let_go(1))
        self.send(3, turn=turn)
        self.assertGreater(len(looks), 1)

    def nobody_waits(self):
        self.wait_until(lambda: self.slots.wanted == 0)

    def test_another_relay_has_it_at_once(self):
        self.use(accept_all, free=0)
        other = Relay(accept_all, FakeSlots(3))
        self.addCleanup(border.call, other.pool.close)
        for count in 1, 7:
            with self.subTest(count):
                outbound = Outbound(
                    [self.relay, other], DeliverySettings(patience=0),
                    Books(self.outcomes))
                for number in range(count):
                    outbound.submit(transaction(number))
                outbound.finish()
                outbound.close()
                self.assertEqual(self.settled(Fate.accepted), count)
                self.assertEqual(self.relay.opened, 0)
                self.outcomes.clear()
                self.nobody_waits()

    def test_one_timeout_is_enough(self):
        # The two who wait for a slot would have another one each.
        async def converse(feed, report):
            given = await feed()
            await until(lambda: self.slots.wanted == 2)
            report(outcome_of_all(given, IN_DOUBT))
            raise PhaseTimeout('no reply to END within 600 s')
        self.use(converse, free=1)
        outbound = self.send(30)
        self.assertIn('600 s', str(outbound.unavailable))
        self.assertEqual(self.relay.opened, 1)
        self.assertEqual(self.settled(Fate.in_doubt), 1)
        self.nobody_waits()
