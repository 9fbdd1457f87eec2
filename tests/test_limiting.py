# SPDX-License-Identifier: GPL-3.0-or-later

"""One post over relays that limits of our own hold back."""

import sys
import time
import asyncio
import unittest

from collections import deque
from hypothesis import given, settings, strategies as st
from itertools import count
from mailman.testing.layers import ConfigLayer
from mailman_mta_pool.configuration.files import ConfigurationError
from mailman_mta_pool.configuration.rates import parse_rates, rate_words
from mailman_mta_pool.dispatch import lane
from mailman_mta_pool.dispatch.outbound import Outbound
from mailman_mta_pool.errors import RelayPaused
from mailman_mta_pool.interfaces import LATER
from mailman_mta_pool.limits.limit import Limit, Refused, Taken, Unit
from mailman_mta_pool.limits.limiter import Limiter
from mailman_mta_pool.network.border import border
from mailman_mta_pool.relays.limiting import (
    Allowance,
    check_limits,
    close_limiter,
    current_limiter,
    limit_words,
    limits_of,
    PostLimits,
    use_limits,
)
from mailman_mta_pool.relays.pool import Pool
from mailman_mta_pool.sampling import RelayWatch
from mailman_mta_pool.secret import Secret
from mailman_mta_pool.settings import (
    DeliverySettings,
    LimitSettings,
    PoolSettings,
    Rate,
    RelaySettings,
    Settings,
    StorageSettings,
)
from mailman_mta_pool.settlement.ledger import Ledger
from mailman_mta_pool.settlement.orders import Orders
from mailman_mta_pool.wire.transaction import (
    Fate,
    outcome_of_all,
    Result,
    Span,
    Stage,
    was_sent,
)
from mailman_mta_pool.wire.verp import Verp
from tempfile import TemporaryDirectory
from tests.test_dispatch import (
    ACCEPTED,
    FakeConnection as DispatchedConnection,
    NOT_SENT,
    Orderly,
    PATIENCE,
    question,
    transaction,
    Turn,
)
from tests.test_lanes import LanesTestCase, LOSE, member, ScriptedRelay, until
from tests.wire.test_model import PROFILE
from types import SimpleNamespace
from unittest import mock


HOUR, DAY = 3600.0, 86400.0
MESSAGES = Limit('relay.ses', Unit.messages, (
    Rate(14, 1.0), Rate(50000, DAY)))
RECIPIENTS = Limit('limit.news', Unit.recipients, (Rate(100, 60.0),))


class Budget:
    """A storage that lets so much of the first limit through at a time.

    The next period begins when somebody asks again after a refusal.

    :ivar used: How much was taken in each period.
    :ivar flying: How much is in flight.
    :ivar asks: What was asked.
    :ivar renews: False if no period comes after the first.
    :ivar left: How often a place in the line was given up.
    """

    def __init__(self, count, wait=0.001):
        self.count = count
        self.wait = wait
        self.used = [0]
        self.flying = self.unused_count = self.left = 0
        self.asks = []
        self.renews = wait < 1
        self._is_refused = False

    def take(self, ask, answer):
        self.asks.append(ask)
        answer(self.answer_to(ask))

    def answer_to(self, ask):
        limit = ask.limits[0]
        if self._is_refused and self.renews:
            self.used.append(0)
        self._is_refused = False
        left = self.count - self.used[-1]
        recipients = ask.recipients
        if ask.is_divisible and limit.unit is Unit.recipients:
            recipients = min(recipients, left)
        taken = Taken(ask.limits, recipients)
        if left < 1 or left < taken.amount(limit) <= self.count:
            self._is_refused = True
            return Refused(
                frozenset([limit.key]), self.wait, ask.ticket or 1)
        self.used[-1] += taken.amount(limit)
        self.flying += taken.amount(limit)
        return taken

    def replied(self, taken):
        self.flying -= taken.amount(taken.limits[0])

    def unused(self, taken):
        self.unused_count += 1
        self.used[-1] -= taken.amount(taken.limits[0])
        self.replied(taken)

    def leave(self, ask):
        self.left += 1

    def sync(self):
        pass

    async def close(self):
        pass


class Patient(Budget):
    """One whose next period begins when all of the former are answered."""

    def answer_to(self, ask):
        self.renews = not self.flying
        return super().answer_to(ask)


class Remote(Budget):
    """One that answers when the loop goes on."""

    def take(self, ask, answer):
        self.asks.append(ask)
        asyncio.get_running_loop().call_soon(
            lambda: answer(self.answer_to(ask)))


class Greedy(DispatchedConnection):
    """A connection that takes all that it may have at once, as a real one.

    Its relay has the numbers of the connections, in the order of the
    transactions, in `sessions`.
    """

    DEPTH = 4

    def __init__(self, relay):
        super().__init__(None, relay)
        self._number = relay.opened + 1
        self._sessions, self._gate = relay.sessions, relay.gate
        self._asked = asyncio.Event()

    def wake(self):
        self._asked.set()

    async def converse(self, feed, report):
        flying = deque()
        while True:
            self._asked.clear()
            given = LATER
            while len(flying) < self.DEPTH:
                given = feed(2 ** 40)
                if given is None or given is LATER:
                    break
                flying.append(given)
                self._sessions.append(self._number)
            if flying:
                await self._gate()
                report(outcome_of_all(flying.popleft(), ACCEPTED))
            elif given is None:
                return
            else:
                await self._asked.wait()


class LimitedCase(LanesTestCase):
    def limited(self, limits, *relays, **kws):
        """Make the end of the main thread.

        :param limits: For some relays a limit and its `Budget`.
        """
        for relay in relays:
            relay.trouble = ''
        made = {}

        def limiter():
            budget, = {budget for _, budget in limits.values()}
            if not made:
                made[0] = Limiter(budget, asyncio.get_running_loop())
            return made[0]
        return self.use(*relays, limits=PostLimits({
            relay: (limit,) for relay, (limit, _) in limits.items()},
            limiter), **kws)

    def assertAllSettled(self, budget):
        # What was in flight when the post ended has been answered, too.
        self.wait_until(lambda: not budget.flying)

    def wait_until(self, is_true):
        """Wait for what nobody is notified of."""
        deadline = time.monotonic() + PATIENCE
        while not border.wait(is_true, 0.005):
            self.assertLess(time.monotonic(), deadline)


class TestOneRelay(LimitedCase):
    def test_all_go_in_the_end(self):
        for kind in (Budget, Remote):
            for depth, connections in ((1, 1), (4, 3)):
                with self.subTest(kind=kind, depth=depth):
                    relay = ScriptedRelay(
                        'one:25', connections=connections, depth=depth)
                    budget = kind(5)
                    outbound = self.limited({relay: (MESSAGES, budget)}, relay)
                    self.assertEqual(self.send(outbound, 42), [])
                    self.assertEqual(len(relay.served), 42)
                    self.assertLessEqual(max(budget.used), 5)
                    self.assertAllSettled(budget)
                    self.assertEqual(sum(budget.used), 42)

    def test_divided_to_what_is_left(self):
        relay = ScriptedRelay('one:25')
        budget = Budget(4)
        outbound = self.limited({relay: (RECIPIENTS, budget)}, relay)
        self.assertEqual(self.send(outbound, 30, size=10), [])
        sizes = [len(each.recipients) for each in relay.transactions]
        self.assertEqual(max(sizes), 4)
        self.assertEqual(sum(sizes), 30)
        # In their order.
        self.assertEqual(relay.served, [member(each) for each in range(30)])
        self.assertLessEqual(max(budget.used), 4)

    def test_no_more_than_the_server_takes_is_asked_for(self):
        relay = ScriptedRelay('one:25')
        relay.lessons.learn_limit(3)
        budget = Budget(100)
        outbound = self.limited({relay: (RECIPIENTS, budget)}, relay)
        self.send(outbound, 12, size=6)
        asked = [ask.recipients for ask in budget.asks]
        self.assertEqual(asked[-4:], [3, 3, 3, 3])
        self.assertEqual(sum(budget.used), 12)

    def test_senders_of_verp_that_the_server_does_not_make(self):
        relay = ScriptedRelay('one:25')
        relay.lessons.refuse_verp()
        budget = Budget(3)
        outbound = self.limited({relay: (MESSAGES, budget)}, relay)
        self.send(outbound, 12, size=6, verp=Verp('+='))
        self.assertEqual(len(relay.transactions), 12)
        self.assertLessEqual(max(budget.used), 3)

    def test_what_was_never_sent_is_given_back(self):
        # The first one breaks its connection before anything was sent.
        relay = ScriptedRelay('one:25', lambda recipient, relay: (
            LOSE if len(relay.transactions) == 1 else None))
        budget = Budget(50)
        outbound = self.limited({relay: (MESSAGES, budget)}, relay)
        self.send(outbound, 10)
        self.assertEqual(len(relay.served), 10)
        self.assertAllSettled(budget)
        # It may have been sent: its connection had begun with it.
        self.assertEqual(sum(budget.used), 11)

    def test_one_for_each_connection(self):
        # Behind another one the reply would come later, and count for longer.
        relay = ScriptedRelay('one:25', connections=3)
        relay.sessions = []
        budget = Patient(3)
        # All three of a period are in flight before the first is answered.
        relay.gate = until(lambda: budget.used[-1] == 3)
        relay.pool = Pool(lambda: Greedy(relay), relay.pool_settings)
        outbound = self.limited({relay: (MESSAGES, budget)}, relay)
        for number in range(30):
            outbound.submit(transaction(number))
        outbound.finish()
        outbound.close()
        self.assertEqual(len(relay.sessions), 30)
        # One connection was open before the others.
        for start in range(6, 30, 3):
            self.assertEqual(
                sorted(relay.sessions[start:start + 3]), [1, 2, 3])

    def test_nothing_is_asked_without_a_limit(self):
        relay = ScriptedRelay('one:25')

        def limiter():
            raise AssertionError
        outbound = self.use(relay, limits=PostLimits({}, limiter))
        self.assertEqual(self.send(outbound, 10), [])
        self.assertEqual(outbound.limit_of(relay), (0.0, ''))

    def test_too_long_a_wait(self):
        period = mock.patch.object(lane, 'LIMIT_LOOK_PERIOD', 0.01)
        period.start()
        self.addCleanup(period.stop)
        for kind in (Budget, Remote):
            with self.subTest(kind):
                relay = ScriptedRelay('ses:25')
                budget = kind(0, wait=10 * HOUR)
                outbound = self.limited({relay: (MESSAGES, budget)}, relay)
                self.assertEqual(self.send(outbound, 10), [])
                self.assertIsInstance(outbound.unavailable, RelayPaused)
                self.assertIn('message_rate of relay ses: 50000/day',
                              str(outbound.unavailable))
                # Its time is not used up, and nothing was opened for it.
                self.assertTrue(self.ledger.is_paused)
                self.assertEqual(len(self.ledger.untried), 10)
                self.assertEqual(relay.opened, 0)

    def test_too_long_a_wait_later(self):
        relay = ScriptedRelay('one:25')
        budget = Budget(7, wait=10 * HOUR)
        outbound = self.limited({relay: (MESSAGES, budget)}, relay)
        self.assertEqual(self.send(outbound, 10), [])
        self.assertEqual((len(relay.served), len(self.ledger.untried)),
                         (7, 3))
        self.assertTrue(self.ledger.is_paused)
        self.assertAllSettled(budget)

    def test_the_main_thread_waits_for_a_connection(self):
        for kind in (Budget, Remote):
            with self.subTest(kind):
                relay = ScriptedRelay('one:25')
                budget = kind(1)
                budget.used = [1]
                outbound = self.limited({relay: (MESSAGES, budget)}, relay)
                relay.lessons.server = None
                self.assertFalse(outbound.makes_senders)
                self.assertEqual(relay.opened, 1)
                self.send(outbound, 3)
                self.assertEqual(len(relay.served), 3)

    def test_what_the_operator_sees(self):
        relay = ScriptedRelay('one:25')
        budget = Budget(0, wait=600.0)
        turn = Turn()
        outbound = self.limited(
            {relay: (MESSAGES, budget)}, relay, turn=turn)
        watch = RelayWatch(self.ledger)
        watch.use(outbound)
        outbound.submit(transaction(1))
        self.wait_until(lambda: budget.asks)

        async def look():
            return watch.samples()[0].state
        state = border.call(look)
        self.assertEqual(
            (state.state, state.reason),
            ('paused', 'message_rate of relay ses: 50000/day'))
        self.assertTrue(590 < state.pause <= 600)
        self.assertEqual(outbound.limit_of(relay)[1], state.reason)
        self.assertEqual(watch.waits_for, state.reason)
        turn.is_over = turn.is_urgent = True
        outbound.finish()
        outbound.close()
        watch.end()
        self.assertNotEqual(border.call(look).state, 'paused')
        self.assertEqual(watch.waits_for, '')

    def test_a_short_wait_is_no_pause(self):
        relay = ScriptedRelay('ses:25')
        watch = RelayWatch(Ledger())
        for seconds, state in ((0.05, 'up'), (0.999, 'up'), (1.0, 'paused')):
            watch.use(SimpleNamespace(
                relays=(relay,), in_flight_to=lambda relay: 0,
                limit_of=lambda relay: (seconds, 'message_rate')))
            relay.trouble = ''
            found, = watch.samples()
            self.assertEqual(
                (found.state.state, found.state.reason, found.state.pause),
                (state, 'message_rate', seconds))

    def test_what_the_operator_sees_afterwards(self):
        relay = ScriptedRelay('one:25')
        budget = Budget(0, wait=10 * HOUR)
        outbound = self.limited({relay: (MESSAGES, budget)}, relay)
        watch = RelayWatch(self.ledger)
        watch.use(outbound)
        self.send(outbound, 3)
        watch.end()
        state = watch.samples()[0].state
        self.assertEqual(
            (state.state, state.reason),
            ('paused', 'message_rate of relay ses: 50000/day'))
        self.assertGreater(state.pause, 9 * HOUR)


class TestTurns(LimitedCase):
    """What outlives the turn."""

    def play(self, count, is_awaited, wait=600.0):
        relay = ScriptedRelay('one:25')
        budget = Budget(count, wait)
        turn = Turn()
        turn.is_awaited = is_awaited
        turn.ends_for_good = False
        outbound = self.limited(
            {relay: (MESSAGES, budget)}, relay, turn=turn)
        for number in range(9):
            outbound.submit(transaction(number))
        self.wait_until(
            lambda: budget.used[0] == count and outbound.limit_of(relay)[0])
        turn.is_over = True
        return outbound, turn

    def test_somebody_waits_and_nothing_was_sent(self):
        # It would be put back, and taken, time and again.
        outbound, turn = self.play(0, True)
        outbound.finish()
        self.assertIsInstance(outbound.unavailable, RelayPaused)
        outbound.close()

    def test_somebody_waits_and_some_were_sent(self):
        outbound, turn = self.play(3, True)
        outbound.finish()
        self.assertIsNone(outbound.unavailable)
        outbound.close()

    def test_it_goes_on(self):
        # Nobody waits, or it is not for long.
        for served, is_awaited, wait in (
                (0, False, 600.0), (3, False, 600.0), (0, True, 50.0)):
            with self.subTest(served=served, is_awaited=is_awaited):
                outbound, turn = self.play(served, is_awaited, wait)
                was_renewed = turn.renew

                def renew():
                    was_renewed()
                    # The next one ends as well; then there is a signal.
                    turn.is_over = True
                    turn.is_urgent = turn.renewed == 2
                turn.renew = renew
                outbound.finish()
                self.assertIsNone(outbound.unavailable)
                self.assertEqual(turn.renewed, 2)
                outbound.close()


class TestSeveralRelays(LimitedCase):
    def test_the_other_goes_on(self):
        one, other = ScriptedRelay('one:25'), ScriptedRelay('other:25')
        budget = Budget(3, wait=600.0)
        outbound = self.limited({one: (MESSAGES, budget)}, one, other)
        self.assertEqual(self.send(outbound, 50), [])
        self.assertLessEqual(len(one.served), 3)
        self.assertEqual(len(self.ledger.served), 50)

    def test_there_is_nothing_left_for_the_limited_one(self):
        # Whoever waits behind it is not to wait for a lane without work: its
        # place is free long before it would lapse.
        with mock.patch('mailman_mta_pool.limits.limiter.GRACE', HOUR):
            for sent in (0, 1):
                with self.subTest(sent=sent):
                    self.play_without_work(sent)

    def play_without_work(self, sent):
        one, other = ScriptedRelay('one:25'), ScriptedRelay('other:25')
        budget = Budget(sent, wait=0.05)
        budget.renews = False
        left = until(lambda: budget.left)

        async def gate():
            if len(other.served) == 19 - sent:
                await left()
        other.gate = gate
        outbound = self.limited({one: (MESSAGES, budget)}, one, other)
        self.assertEqual(self.send(outbound, 20), [])
        self.assertEqual(
            (len(one.served), len(other.served)), (sent, 20 - sent))

    def test_both_are_limited(self):
        one, other = ScriptedRelay('one:25'), ScriptedRelay('other:25')
        budget = Budget(3)
        outbound = self.limited({
            one: (MESSAGES, budget), other: (MESSAGES, budget)}, one, other)
        self.assertEqual(self.send(outbound, 50), [])
        self.assertEqual(len(self.ledger.served), 50)
        self.assertLessEqual(max(budget.used), 3)

    def test_one_is_used_up(self):
        one, other = ScriptedRelay('one:25'), ScriptedRelay('other:25')
        budget = Budget(2, wait=HOUR)
        other.gate = until(lambda: len(one.served) == 2)
        outbound = self.limited({one: (MESSAGES, budget)}, one, other)
        self.assertEqual(self.send(outbound, 50), [])
        self.assertEqual((len(one.served), len(other.served)), (2, 48))
        self.assertIsNone(outbound.unavailable)

    @settings(PROFILE, max_examples=PROFILE.max_examples // 10)
    @given(number=st.integers(1, 40), size=st.sampled_from([1, 3, 10]),
           relays=st.integers(1, 3), connections=st.integers(1, 3),
           depth=st.integers(1, 4), count=st.integers(1, 20),
           unit=st.sampled_from([Unit.messages, Unit.recipients]),
           kind=st.sampled_from([Budget, Remote]),
           limited=st.integers(1, 3))
    def test_any(self, number, size, relays, connections, depth, count, unit,
                 kind, limited):
        servers = [ScriptedRelay(f'{each}:25', connections=connections,
                                 depth=depth) for each in range(relays)]
        budget = kind(count)
        limit = Limit('relay.any', unit, (Rate(count, 1.0),))
        outbound = self.limited({
            server: (limit, budget) for server in servers[:limited]},
            *servers)
        self.assertEqual(self.send(outbound, number, size), [])
        self.assertEqual(len(self.ledger.served), number)
        self.assertLessEqual(max(budget.used), count)
        self.assertAllSettled(budget)


class TestUndivided(unittest.TestCase):
    def test_a_question(self):
        # It goes as it is, and nothing is asked for a part of it.
        asked = []

        class Storage(Budget):
            def take(self, ask, answer):
                asked.append((ask.recipients, ask.is_divisible))
                super().take(ask, answer)
        storage = Storage(1)

        async def play():
            limiter = Limiter(storage, asyncio.get_running_loop())
            allowance = Allowance((RECIPIENTS,), lambda: limiter, lambda: None)
            each = question(1)._replace(recipients=tuple(
                member(number) for number in range(5)))
            return allowance.request(len(each.recipients), False)
        permit = asyncio.run(play())
        self.assertEqual(asked, [(5, False)])
        # It goes into debt.
        self.assertEqual((permit.recipients, storage.used), (5, [5]))

    def test_who_looks_first_is_first(self):
        # A connection is opened in between, and the other has one.
        async def play():
            limiter = Limiter(Budget(1), asyncio.get_running_loop())
            first, second = (Allowance(
                (MESSAGES,), lambda: limiter, lambda: None) for _ in range(2))
            self.assertTrue(first.look(True))
            self.assertIsNone(second.request())
            # It was begun again before it has sent anything.
            self.assertTrue(first.look(True))
            self.assertIsNotNone(first.request())
            self.assertFalse(first.look(True))
        asyncio.run(play())

    def test_who_has_nothing_to_send_yet_keeps_nothing(self):
        async def play():
            limiter = Limiter(Budget(1), asyncio.get_running_loop())
            first, second = (Allowance(
                (MESSAGES,), lambda: limiter, lambda: None) for _ in range(2))
            self.assertTrue(first.look(False))
            self.assertIsNotNone(second.request())
            self.assertFalse(first.look(False))
        asyncio.run(play())

    def test_was_sent(self):
        each = transaction(1)
        for result, span, expected in (
                (NOT_SENT, Span(1, 3, 3), False),
                (NOT_SENT, Span(1, 3, 4), True),
                (Result(Fate.refused, Stage.here, None), Span(1, 3, 3), False),
                (ACCEPTED, Span(), True)):
            with self.subTest(result=result, span=span):
                self.assertEqual(
                    was_sent(outcome_of_all(each, result, span)), expected)


class TestAllowance(unittest.TestCase):
    def test_another_storage(self):
        # The relay is kept, and its connections have the limit all the same.
        limiters = []

        async def play():
            for most in (1, 3):
                limiters.append(Limiter(
                    Budget(most, 600.0), asyncio.get_running_loop()))
                permits = [allowance.request() for _ in range(most + 1)]
                self.assertIsNone(permits.pop())
                for permit in permits:
                    permit.replied()
                self.assertGreater(allowance.ready_in, 590)
            allowance.close()
            self.assertEqual(limiters[-1].waiting, 0)
        allowance = Allowance(
            (MESSAGES,), lambda: limiters[-1], lambda: None)
        asyncio.run(play())


class FakeConnection:
    is_open = connects_lazily = False

    async def open(self):
        self.is_open = True

    def is_alive(self):
        return self.is_open

    async def disconnect(self):
        self.is_open = False


class TestConnects(unittest.IsolatedAsyncioTestCase):
    """New connections have a limit, and those that are open have none."""

    def pool(self, count, wait=600.0, connections=4):
        self.budget = Budget(count, wait)
        limiter = Limiter(self.budget, asyncio.get_running_loop())
        limit = Limit('relay.ses', Unit.connects, (Rate(2, 60.0),))
        pool = Pool(FakeConnection, PoolSettings(
            max_connections=connections), allowance=lambda wake: Allowance(
                (limit,), lambda: limiter, wake))
        self.addAsyncCleanup(pool.close)
        return pool

    async def test_no_more_than_the_limit(self):
        pool = self.pool(2)
        waiting = [asyncio.ensure_future(pool.acquire()) for _ in range(4)]
        for _ in range(10):
            await asyncio.sleep(0)
        self.assertEqual(pool.statistics().opened, 2)
        self.assertEqual(self.budget.flying, 0)
        # There are some.
        self.assertIsNone(pool.barred_by)
        # One that comes back is used meanwhile.
        for number in range(2):
            (connection, _) = await waiting[number]
            pool.release(connection)
            self.assertEqual(await waiting[number + 2], (connection, True))
        self.assertEqual(pool.statistics().opened, 2)

    async def test_all_are_opened_in_the_end(self):
        pool = self.pool(1, wait=0.001)
        got = await asyncio.gather(*(pool.acquire() for _ in range(4)))
        self.assertEqual([is_reused for _, is_reused in got], [False] * 4)
        self.assertEqual(self.budget.used, [1] * 4)

    async def test_nobody_wants_it_any_more(self):
        pool = self.pool(0)
        self.assertIsNone(await pool.acquire(lambda: False))
        self.assertEqual(
            pool.barred_by.reason, 'connect_rate of relay ses: 2/minute')
        self.assertGreater(pool.barred_by.ready_in, 590)

    async def test_a_failed_attempt_counts(self):
        async def fail(connection):
            raise ConnectionRefusedError
        pool = self.pool(1)
        self.addCleanup(setattr, FakeConnection, 'open', FakeConnection.open)
        FakeConnection.open = fail
        with self.assertRaises(ConnectionRefusedError):
            await pool.acquire()
        self.assertEqual((self.budget.used, self.budget.flying), ([1], 0))

    async def test_another_address_counts(self):
        pool = self.pool(2)
        await pool.acquire()
        is_over = pool.next_attempt()
        self.assertEqual(self.budget.flying, 1)
        is_over()
        self.assertEqual((self.budget.used, self.budget.flying), ([2], 0))
        self.assertIsNone(pool.next_attempt())

    async def test_another_address_without_a_limit(self):
        pool = Pool(FakeConnection, PoolSettings())
        self.addAsyncCleanup(pool.close)
        pool.next_attempt()()

    async def test_nobody_waits_when_another_may_be_opened(self):
        # Its place is free at once.
        pool = self.pool(0, wait=0.001)
        self.budget.renews = False
        self.assertIsNone(pool.next_attempt())
        while not self.budget.left:
            await asyncio.sleep(0.001)
        self.assertEqual(len(self.budget.asks), 1)


class TestConnectsOfPosts(LimitedCase):
    def test_too_long_a_wait(self):
        relay = ScriptedRelay('ses:25', connections=3)
        made = []

        def limiter():
            if not made:
                made.append(Limiter(
                    Budget(0, HOUR), asyncio.get_running_loop()))
            return made[0]
        limit = Limit('relay.ses', Unit.connects, (Rate(2, HOUR),))
        relay.pool = Pool(
            FakeConnection, relay.pool_settings, allowance=lambda wake:
            Allowance((limit,), limiter, wake))
        outbound = self.use(relay)
        self.assertEqual(self.send(outbound, 5), [])
        self.assertIn('connect_rate of relay ses: 2/hour',
                      str(outbound.unavailable))
        self.assertTrue(self.ledger.is_paused)


class TestQuestions(LimitedCase):
    def test_one_goes_as_it_is(self):
        relay = ScriptedRelay('one:25')
        budget = Budget(2)
        outcomes = []
        books = Orderly(outcomes, lambda outcome: Orders(
            first=(question(7),)) if len(outcomes) == 3 else None)
        self.limited({relay: (RECIPIENTS, budget)}, relay)
        limiter = Limiter(budget, border.call(self.loop))
        outbound = Outbound(
            [relay], DeliverySettings(), books, clock=count().__next__,
            limits=PostLimits({relay: (RECIPIENTS,)}, lambda: limiter))
        for number in range(6):
            outbound.submit(transaction(number))
        outbound.finish()
        outbound.close()
        self.assertEqual(len(outcomes), 7)
        self.assertEqual(relay.asked, list(question(7).recipients))
        self.assertLessEqual(max(budget.used), 2)
        # The first one was to see whether a connection is to be opened.
        self.assertEqual(
            [ask.recipients for ask in budget.asks if not ask.is_divisible],
            [1])
        self.assertAllSettled(budget)

    async def loop(self):
        return asyncio.get_running_loop()


class TestStorage(unittest.TestCase):
    layer = ConfigLayer

    def test_redis_is_missing(self):
        configured = Settings(
            limit_storage=StorageSettings(
                'redis://localhost/0', password=Secret('Zebra-Stripe')))
        missing = {name: None for name in (
            'redis', 'redis.asyncio', 'mailman_mta_pool.limits.shared')}
        with mock.patch.dict(sys.modules, missing):
            with self.assertRaises(ConfigurationError) as caught:
                check_limits(configured)
            check_limits(Settings())
        self.assertIn('[limits] storage', str(caught.exception))
        self.assertIn('[redis]', str(caught.exception))
        self.assertNotIn('Zebra', str(caught.exception))

    def test_one_for_all_posts(self):
        with TemporaryDirectory() as one, TemporaryDirectory() as other:
            use_limits(Settings(), one)
            first = border.call(self.limiter)
            self.assertIs(border.call(self.limiter), first)
            # The settings were edited.
            use_limits(Settings(), other)
            second = border.call(self.limiter)
            self.assertIsNot(second, first)
            self.assertIn(other, repr(second))
            border.call(close_limiter)
            self.assertIsNot(border.call(self.limiter), second)
            border.call(close_limiter)

    async def limiter(self):
        return current_limiter()


class TestWords(unittest.TestCase):
    def test_of_rates(self):
        for text in ('14/second', '100/10 minutes', '50000/day', '7/week',
                     '3/36 hours', '9/90 seconds', '1/2 weeks'):
            rate, = parse_rates(text)
            self.assertEqual(rate_words(rate), text)

    @given(count=st.integers(1, 10 ** 9), period=st.integers(1, 10 ** 7))
    def test_any_rate_is_read_again(self, count, period):
        rate = Rate(count, float(period))
        self.assertEqual(parse_rates(rate_words(rate)), (rate,))

    def test_of_limits(self):
        for seconds, words in (
                (0.05, '14/second'), (1.2, '14/second'), (3.0, '50000/day'),
                (2 * DAY, '50000/day')):
            self.assertEqual(limit_words(MESSAGES, seconds),
                             f'message_rate of relay ses: {words}')
        self.assertEqual(limit_words(RECIPIENTS),
                         'recipient_rate of limit news: 100/minute')

    def test_limits_of(self):
        rate, other = (Rate(14, 1.0),), (Rate(5, 60.0),)
        relay = RelaySettings(name='ses', message_rate=rate)
        configured = Settings(relays=(relay,), limits=(
            LimitSettings('news', ('news@example.com',), recipient_rate=other),
            LimitSettings('all', ('*@example.com',), other, other)))
        own = Limit('relay.ses', Unit.messages, rate)
        everybody = (Limit('limit.all', Unit.messages, other),
                     Limit('limit.all', Unit.recipients, other))
        for address, limits in (
                (None, (own,)), ('ant@example.com', (own, *everybody)),
                ('news@example.com', (own, Limit(
                    'limit.news', Unit.recipients, other), *everybody))):
            self.assertEqual(limits_of(configured, relay, address), limits)
        self.assertEqual(limits_of(configured, RelaySettings(), None), ())
