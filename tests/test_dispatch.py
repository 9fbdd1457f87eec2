# SPDX-License-Identifier: GPL-3.0-or-later

"""One post over a relay whose connections are fakes."""

import time
import asyncio
import unittest
import itertools
import threading

from contextlib import suppress
from mailman.testing.layers import ConfigLayer
from mailman_mta_pool.connection.addresses import Addresses
from mailman_mta_pool.dispatch.backlog import BATCH_OCTETS
from mailman_mta_pool.dispatch.outbound import MAX_OCTETS, Outbound
from mailman_mta_pool.errors import (
    ConnectionLost,
    LocalFailure,
    NothingMoreToSend,
    PhaseTimeout,
    RelayPaused,
    RelayUnavailable,
)
from mailman_mta_pool.interfaces import LATER
from mailman_mta_pool.network.border import Border, border
from mailman_mta_pool.relays.pool import Pool
from mailman_mta_pool.relays.throttle import Throttle
from mailman_mta_pool.settings import (
    About,
    DeliverySettings,
    PoolSettings,
    RelaySettings,
)
from mailman_mta_pool.settlement.ledger import Ledger
from mailman_mta_pool.settlement.memory import Memory
from mailman_mta_pool.settlement.orders import (
    HALT_ORDERS,
    NO_ORDERS,
    Notice,
    Orders,
)
from mailman_mta_pool.wire.content import Content
from mailman_mta_pool.wire.lessons import Lessons
from mailman_mta_pool.wire.replies import Reply
from mailman_mta_pool.wire.transaction import (
    Fate,
    outcome_of_all,
    Result,
    Stage,
    Transaction,
)
from unittest import mock


PATIENCE = 20
ACCEPTED = Result(Fate.accepted, Stage.end, Reply(250, (b'Ok',)))
NOT_SENT = Result(Fate.not_attempted, Stage.connect, None)
IN_DOUBT = Result(Fate.in_doubt, Stage.end, None)
REFUSED = Result(Fate.refused, Stage.rcpt, Reply(550, (b'No',)))
# Of a question: the server would take this recipient.
NAMED = Result(Fate.not_attempted, Stage.data, Reply(250, (b'Ok',)))
SLOWLY = Reply(421, (b'Slowly',))
CROWDED = Reply(421, (b'Crowded',))


def address(number):
    return f'member-{number}@example.com'


def transaction(number, content=None):
    return Transaction('ant@example.com', (address(number),),
                       content or Content(b'Subject: x\r\n\r\nx\r\n'))


def question(number):
    return transaction(number)._replace(asks=True)


class FakeConnection:
    """Does with the transactions what the test's coroutine function says.

    That is given `feed`, which it awaits, and `report`.
    """

    connects_lazily = False
    is_open = False

    def __init__(self, converse, relay):
        self._converse = converse
        self._relay = relay
        self._woken = asyncio.Event()

    async def open(self):
        await self._relay.on_open(self)
        self.is_open = True

    def is_alive(self):
        return self.is_open

    async def disconnect(self):
        self.is_open = False

    def wake(self):
        self._woken.set()

    def abort(self):
        pass

    async def converse(self, feed, report):
        async def next_one():
            while True:
                self._woken.clear()
                given = feed(2**40)
                if given is not LATER:
                    return given
                await self._woken.wait()
        try:
            await self._converse(next_one, report)
        except BaseException:
            self.is_open = False
            raise


class FakeRelay:
    """A relay whose connections are fakes."""

    name = 'relay.example.net:25'

    def __init__(self, converse, connections=1, clock=time.monotonic):
        self.settings = RelaySettings()
        self.addresses = Addresses()
        self.balance = 0
        self.pool_settings = PoolSettings(max_connections=connections)
        self.lessons = Lessons(time.monotonic)
        self.throttle = Throttle(self.name, connections, clock)
        self.pool = Pool(
            lambda: FakeConnection(converse, self), self.pool_settings)
        self.memory = Memory(time.monotonic)

    @property
    def is_up(self):
        return self.addresses.is_up

    async def on_open(self, connection):
        pass


async def accept_all(feed, report):
    while (each := await feed()) is not None:
        report(outcome_of_all(each, ACCEPTED))


class Books:
    """Keeps the outcomes, in the place of a ledger."""

    failures = {}

    def __init__(self, outcomes):
        self._outcomes = outcomes

    def settle(self, outcome, relay):
        self._outcomes.append(outcome)
        return NO_ORDERS

    def conclude(self, relay):
        return NO_ORDERS

    def hear_of_opening(self, word, reply, relay):
        return None

    def hear_of_closing(self, outcome, relay):
        return None


class Orderly(Books):
    """Gives orders, as a test's functions say."""

    def __init__(self, outcomes, settle=lambda outcome: None,
                 conclude=lambda: None, hear=lambda word, reply: None):
        super().__init__(outcomes)
        self._settle = settle
        self._conclude = conclude
        self._hear = hear

    def settle(self, outcome, relay):
        super().settle(outcome, relay)
        return self._settle(outcome) or NO_ORDERS

    def conclude(self, relay):
        return self._conclude() or NO_ORDERS

    def hear_of_opening(self, word, reply, relay):
        return self._hear(word, reply)


class Together:
    """Lets so many coroutines go on once all of them are there."""

    def __init__(self, count):
        self._left = count
        self._all = None

    async def wait(self):
        self._all = self._all or asyncio.Event()
        self._left -= 1
        if self._left <= 0:
            self._all.set()
        await asyncio.wait_for(self._all.wait(), PATIENCE)


async def waited(event):
    """Await a `threading.Event`."""
    done = await asyncio.get_running_loop().run_in_executor(
        None, event.wait, PATIENCE)
    assert done


class Turn:
    """A turn that ends when the test says so.

    :ivar ends_for_good: False if another one can be begun.
    :ivar renewed: How often another one was begun.
    """

    is_over = is_urgent = is_too_late = is_awaited = False
    ends_for_good = True
    renewed = 0

    def renew(self):
        self.renewed += 1
        self.is_over = self.ends_for_good


class DispatchTestCase(unittest.TestCase):
    layer = ConfigLayer

    def setUp(self):
        self.outcomes = []

    def dispatch(self, converse, connections=1, attempts=3, patience=0,
                 relay_clock=time.monotonic, books=None, **kws):
        self.relay = FakeRelay(converse, connections, relay_clock)
        self.addCleanup(border.call, self.relay.pool.close)
        return Outbound(
            [self.relay], DeliverySettings(
                attempts=attempts, patience=patience),
            books or Books(self.outcomes), **kws)

    def send(self, dispatch, count):
        with suppress(NothingMoreToSend):
            for number in range(count):
                dispatch.submit(transaction(number))
        dispatch.finish()

    def settled(self, fate):
        return sorted(recipient for outcome in self.outcomes
                      for recipient in outcome.having(fate))

    def assertAllSettledOnce(self, count):
        self.assertEqual(
            sorted(recipient for outcome in self.outcomes
                   for recipient in outcome.transaction.recipients),
            sorted(map(address, range(count))))

    def wait_until(self, is_true):
        self.assertTrue(border.wait(is_true, PATIENCE))

    def assertNothingIsInUse(self):
        self.wait_until(
            lambda: self.relay.pool.statistics().in_use == 0)

    def assertNobodySettledTwice(self):
        settled = [recipient for outcome in self.outcomes
                   for recipient in outcome.transaction.recipients]
        self.assertEqual(len(settled), len(set(settled)))


class TestQueue(DispatchTestCase):
    def test_all_of_them(self):
        for connections in (1, 8):
            with self.subTest(connections=connections):
                self.outcomes.clear()
                self.send(self.dispatch(accept_all, connections), 100)
                self.assertAllSettledOnce(100)
                self.assertEqual(len(self.settled(Fate.accepted)), 100)

    def test_nothing_to_do(self):
        dispatch = self.dispatch(accept_all, 8)
        dispatch.finish()
        self.assertEqual(self.relay.pool.statistics().opened, 0)

    def test_no_more_workers_than_work(self):
        self.send(self.dispatch(accept_all, 8), 1)
        self.assertEqual(self.relay.pool.statistics().opened, 1)

    def test_one_thread_for_all(self):
        self.send(self.dispatch(accept_all, 8), 50)
        before = threading.active_count()
        self.send(self.dispatch(accept_all, 8), 50)
        self.assertEqual(threading.active_count(), before)

    def test_they_go_at_the_same_time(self):
        together = Together(4)

        async def converse(feed, report):
            # All four have one, or this breaks.
            each = await feed()
            await together.wait()
            report(outcome_of_all(each, ACCEPTED))
        self.send(self.dispatch(converse, 4), 4)
        self.assertEqual(len(self.settled(Fate.accepted)), 4)

    def test_200_000_messages_do_not_pile_up(self):
        lock = threading.Lock()

        class Counted(Content):
            alive = most = made = 0

            def __init__(self, raw):
                super().__init__(raw)
                with lock:
                    Counted.made += 1
                    Counted.alive += 1
                    Counted.most = max(Counted.most, Counted.alive)
                if Counted.made > enough:
                    full.set()

            def __del__(self):
                with lock:
                    Counted.alive -= 1

        async def converse(feed, report):
            # The server is so slow that the queue fills up.
            await waited(full)
            await accept_all(feed, report)
        octets = b'x' * 2046
        enough = MAX_OCTETS // 2048
        full = threading.Event()
        relay = FakeRelay(converse, 2)
        ledger = Ledger(relays=[relay])
        self.addCleanup(border.call, relay.pool.close)
        dispatch = Outbound([relay], DeliverySettings(patience=0), ledger)
        for number in range(200_000):
            dispatch.submit(transaction(number, Counted(octets)))
        dispatch.finish()
        self.assertEqual(Counted.made, 200_000)
        # One in the producer's hand, one in that of each worker, and as many
        # outcomes of those.
        self.assertLessEqual(
            Counted.most, enough + 5 + 2 * (BATCH_OCTETS // len(octets) + 1))
        self.assertEqual(Counted.alive, 0)
        self.assertEqual(ledger.unserved(map(address, range(200_000))), [])

    def test_one_may_always_wait(self):
        dispatch = self.dispatch(accept_all, max_octets=10)
        for number in range(20):
            dispatch.submit(transaction(number, Content(b'x' * 1000)))
        dispatch.finish()
        self.assertEqual(len(self.settled(Fate.accepted)), 20)


class TestAgain(DispatchTestCase):
    """Transactions of which nothing was accepted."""

    def losing(self, results, connections=1, attempts=3, count=1):
        """Each connection accepts so many, and is lost then."""
        async def converse(feed, report):
            limit = next(remaining, None)
            taken = []
            while (each := await feed()) is not None:
                if limit is None or limit > 0:
                    order.append(each.recipients[0])
                    report(outcome_of_all(each, ACCEPTED))
                    limit = None if limit is None else limit - 1
                else:
                    taken.append(each)
                    if len(taken) == 3:
                        break
            for each in taken:
                report(outcome_of_all(each, NOT_SENT))
            if taken:
                raise ConnectionLost('lost')
        remaining = iter(results)
        order = []
        gate = threading.Event()

        async def gated(feed, report):
            await waited(gate)
            await converse(feed, report)
        dispatch = self.dispatch(gated, connections, attempts)
        for number in range(count):
            dispatch.submit(transaction(number))
        gate.set()
        dispatch.finish()
        self.assertAllSettledOnce(count)
        return order, dispatch

    def test_in_their_order_and_first(self):
        order, dispatch = self.losing([2, 1, 4], count=12)
        self.assertEqual(order, [address(each) for each in range(12)])
        self.assertIsNone(dispatch.unavailable)

    def test_as_often_as_allowed(self):
        order, dispatch = self.losing([0, 0], count=1)
        self.assertEqual(order, [address(0)])

    def test_not_more_often(self):
        self.losing([0, 0, 0], count=1)
        self.assertEqual(self.settled(Fate.not_attempted), [address(0)])

    def test_one_that_always_breaks_the_connection(self):
        # It is put aside, and the others go out all the same.
        for attempts in (1, 2, 3):
            for count in (5, 30):
                with self.subTest(attempts=attempts, count=count):
                    self.outcomes.clear()

                    async def converse(feed, report):
                        while (each := await feed()) is not None:
                            if each.recipients[0] == address(2):
                                report(outcome_of_all(each, NOT_SENT))
                                raise ConnectionLost('lost')
                            report(outcome_of_all(each, ACCEPTED))
                    self.send(self.dispatch(
                        converse, attempts=attempts), count)
                    self.assertAllSettledOnce(count)
                    self.assertEqual(
                        self.settled(Fate.not_attempted), [address(2)])

    def test_the_first_one_always_breaks_the_connection(self):
        async def converse(feed, report):
            while (each := await feed()) is not None:
                if each.recipients[0] == address(0):
                    report(outcome_of_all(each, NOT_SENT))
                    raise ConnectionLost('lost')
                report(outcome_of_all(each, ACCEPTED))
        self.send(self.dispatch(converse), 10)
        # Otherwise the retry queue would try it first again, each time, and
        # the others would never get anything.
        self.assertEqual(self.settled(Fate.not_attempted), [address(0)])

    def test_lost_again_and_again_without_progress(self):
        calls = []

        async def converse(feed, report):
            each = await feed()
            if each is not None:
                calls.append(each)
                report(outcome_of_all(each, NOT_SENT))
                raise ConnectionLost('lost')
        for connections in (1, 4):
            calls.clear()
            self.outcomes.clear()
            dispatch = self.dispatch(converse, connections)
            self.send(dispatch, 100)
            # The others are for the caller to try again.
            self.assertNobodySettledTwice()
            self.assertEqual(self.settled(Fate.accepted), [])
            self.assertLess(len(self.outcomes), 10)
            # It does not take 300 connections to see that.
            self.assertLess(len(calls), 10 * connections)
            self.assertIsInstance(dispatch.unavailable, RelayUnavailable)
            self.assertIn(self.relay.name, str(dispatch.unavailable))

    def test_a_timeout_for_each_worker_is_enough(self):
        calls = []

        async def converse(feed, report):
            calls.append(await feed())
            report(outcome_of_all(calls[-1], NOT_SENT))
            raise PhaseTimeout('no reply to MAIL within 300 s')
        dispatch = self.dispatch(converse)
        self.send(dispatch, 20)
        self.assertEqual(len(calls), 1)
        self.assertIn('300 s', str(dispatch.unavailable))
        self.assertEqual(self.outcomes, [])

    def test_no_second_timeout(self):
        # Whoever was fed up first does not begin anew before the others.
        for fail in (lambda: PhaseTimeout('no reply to MAIL within 300 s'),
                     lambda: RelayUnavailable('relay:25', 'EHLO', 'late')):
            calls = []
            together = Together(4)

            async def converse(feed, report):
                each = await feed()
                calls.append(each)
                await together.wait()
                report(outcome_of_all(each, NOT_SENT))
                raise fail()
            dispatch = self.dispatch(converse, 4)
            self.send(dispatch, 20)
            self.assertEqual(len(calls), 4)
            self.assertIsNotNone(dispatch.unavailable)
            self.assertEqual(self.settled(Fate.accepted), [])

    def test_a_timeout_while_the_others_go_on(self):
        # It goes again over another connection, though nobody else is left.
        done = threading.Event()

        async def converse(feed, report):
            each = await feed()
            if (each is not None and each.recipients[0] == address(0) and
                    not done.is_set()):
                await waited(done)
                report(outcome_of_all(each, NOT_SENT))
                raise PhaseTimeout('no reply to MAIL within 300 s')
            while each is not None:
                report(outcome_of_all(each, ACCEPTED))
                if len(self.outcomes) == 19:
                    done.set()
                each = await feed()
        dispatch = self.dispatch(converse, 2)
        self.send(dispatch, 20)
        self.assertEqual(len(self.settled(Fate.accepted)), 20)
        self.assertIsNone(dispatch.unavailable)

    def test_not_everybody_is_left_in_doubt(self):
        async def converse(feed, report):
            each = await feed()
            if each is not None:
                report(outcome_of_all(each, IN_DOUBT))
                raise ConnectionLost('lost')
        for connections in (1, 4):
            self.outcomes.clear()
            dispatch = self.dispatch(converse, connections)
            self.send(dispatch, 100)
            self.assertIsNotNone(dispatch.unavailable)
            self.assertNobodySettledTwice()
            self.assertLess(len(self.settled(Fate.in_doubt)), 20)

    def test_in_doubt_is_never_sent_again(self):
        calls = []

        async def converse(feed, report):
            while (each := await feed()) is not None:
                calls.append(each)
                if len(calls) == 2:
                    report(outcome_of_all(each, IN_DOUBT))
                    raise ConnectionLost('lost')
                report(outcome_of_all(each, ACCEPTED))
        self.send(self.dispatch(converse), 4)
        self.assertEqual(len(calls), 4)
        self.assertEqual(self.settled(Fate.in_doubt), [address(1)])
        self.assertEqual(len(self.settled(Fate.accepted)), 3)

    def test_only_those_not_attempted_go_again(self):
        refused = Result(Fate.refused, Stage.rcpt, Reply(550, (b'No',)))
        sent = []

        async def converse(feed, report):
            each = await feed()
            sent.append(each.recipients)
            if len(sent) == 1:
                report(outcome_of_all(each, NOT_SENT)._replace(
                    results=(refused, NOT_SENT, NOT_SENT)))
                raise ConnectionLost('lost')
            report(outcome_of_all(each, ACCEPTED))
        dispatch = self.dispatch(converse)
        dispatch.submit(transaction(0)._replace(
            recipients=tuple(map(address, range(3)))))
        dispatch.finish()
        self.assertEqual(sent, [
            tuple(map(address, range(3))), (address(1), address(2))])
        self.assertAllSettledOnce(3)
        self.assertEqual(self.settled(Fate.refused), [address(0)])


class TestFailures(DispatchTestCase):
    def test_relay_down(self):
        async def refuse(feed, report):
            raise RelayUnavailable('relay:25', 'greeting', '554 No', 554)
        dispatch = self.dispatch(refuse, 4)
        self.send(dispatch, 50)
        # What the server said of us is no word about a member.
        self.assertEqual(self.outcomes, [])
        self.assertEqual(dispatch.unavailable.code, 554)

    def test_a_mistake_of_ours(self):
        class Mistake(Exception):
            pass

        async def converse(feed, report):
            each = await feed()
            if each is None:
                return
            if each.recipients[0] == address(3):
                report(outcome_of_all(each, NOT_SENT))
                raise Mistake
            report(outcome_of_all(each, ACCEPTED))
        for connections in (1, 4):
            with self.subTest(connections=connections):
                self.outcomes.clear()
                dispatch = self.dispatch(converse, connections)
                with self.assertRaises(Mistake):
                    self.send(dispatch, 40)
                self.assertNobodySettledTwice()
                self.assertNotIn(address(3), self.settled(Fate.accepted))
                dispatch.close()
                self.assertNothingIsInUse()

    def test_the_network_thread_ends(self):
        # Only a mistake of ours can end it.
        async def stall(feed, report):
            await feed()
            threads.append(threading.current_thread())
            asyncio.get_running_loop().stop()
            await asyncio.Event().wait()
        own, threads = Border(), []
        dispatch = self.dispatch(stall, border=own)
        self.send(dispatch, 1)
        # It may have had the time to say so of the one in flight.
        self.assertTrue(isinstance(dispatch.unavailable, LocalFailure) or
                        self.settled(Fate.in_doubt) == [address(0)])
        with self.assertRaises(NothingMoreToSend):
            dispatch.submit(transaction(1))
        dispatch.close()
        # The next post has another one.
        threads[0].join(PATIENCE)
        self.outcomes.clear()
        self.send(self.dispatch(accept_all, border=own), 1)
        self.assertAllSettledOnce(1)

    def test_pauses_grow_for_those_who_connect_when_they_send(self):
        async def refuse(feed, report):
            report(outcome_of_all(await feed(), NOT_SENT))
            raise RelayUnavailable('relay:25', 'connect', 'refused')
        dispatch = self.dispatch(refuse, attempts=9, patience=0.8)
        with mock.patch.object(FakeConnection, 'connects_lazily', True), \
                self.assertLogs('mailman.smtp', 'INFO') as logs:
            self.send(dispatch, 1)
        self.assertIn('trying again in 0.5 s', logs.output[0])
        # What is left of the patience.
        self.assertEqual(len(logs.output), 2)
        self.assertIsNotNone(dispatch.unavailable)

    def test_more_work_does_not_cut_a_pause_short(self):
        async def refuse(connection):
            opened.append(connection)
            raise RelayUnavailable('relay:25', 'connect', 'refused')
        opened = []
        dispatch = self.dispatch(accept_all, patience=0.8)
        self.relay.on_open = refuse
        with self.assertRaises(NothingMoreToSend):
            for number in itertools.count():
                dispatch.submit(transaction(number, Content(b'x' * 1000)))
        dispatch.finish()
        # After half a second, and when the patience is over; a machine that
        # does much else may come too late for one of them.
        self.assertIn(len(opened), (2, 3))

    def test_an_outage_charges_no_transaction(self):
        # Of those who connect when they send.
        async def refuse_twice(feed, report):
            each = await feed()
            if len(refused) < 2:
                refused.append(each)
                report(outcome_of_all(each, NOT_SENT))
                raise RelayUnavailable('relay:25', 'connect', 'refused')
            while each is not None:
                report(outcome_of_all(each, ACCEPTED))
                each = await feed()
        refused = []
        dispatch = self.dispatch(refuse_twice, attempts=1, patience=30)
        with mock.patch.object(FakeConnection, 'connects_lazily', True):
            self.send(dispatch, 3)
        self.assertEqual(len(self.settled(Fate.accepted)), 3)

    def test_a_mistake_while_settling(self):
        class Mistake(Exception):
            pass

        def settle(outcome, relay):
            raise Mistake
        self.relay = FakeRelay(accept_all)
        self.addCleanup(border.call, self.relay.pool.close)
        books = Books([])
        books.settle = settle
        dispatch = Outbound([self.relay], DeliverySettings(patience=0), books)
        with self.assertRaises(Mistake):
            self.send(dispatch, 1)

    def test_close(self):
        begun, go_on = threading.Event(), threading.Event()

        async def converse(feed, report):
            each = await feed()
            begun.set()
            await waited(go_on)
            report(outcome_of_all(each, ACCEPTED))
        dispatch = self.dispatch(converse)
        for number in range(10):
            dispatch.submit(transaction(number))
        begun.wait(PATIENCE)
        closing = threading.Thread(target=dispatch.close, daemon=True)
        closing.start()
        # It waits for what is in flight, and sends nothing more.
        self.wait_until(lambda: dispatch.is_over)
        self.assertTrue(closing.is_alive())
        go_on.set()
        closing.join(PATIENCE)
        self.assertEqual(self.settled(Fate.accepted), [address(0)])
        self.assertEqual(len(self.outcomes), 1)
        with self.assertRaises(NothingMoreToSend):
            dispatch.submit(transaction(10))
        dispatch.finish()
        dispatch.close()


class TestMeeting(DispatchTestCase):
    """What the server can do is asked before the first transaction."""

    def test_a_connection_is_opened(self):
        dispatch = self.dispatch(accept_all, 4)
        self.assertFalse(dispatch.makes_senders)
        self.assertEqual(self.relay.pool.statistics().opened, 1)
        # The first agent goes on with it.
        self.send(dispatch, 20)
        self.assertAllSettledOnce(20)
        self.assertNothingIsInUse()

    def test_nothing_to_do_after_that(self):
        dispatch = self.dispatch(accept_all, 4)
        self.assertFalse(dispatch.makes_senders)
        dispatch.finish()
        self.assertNothingIsInUse()

    def test_relay_down(self):
        calls = []

        async def refuse(connection):
            calls.append(connection)
            raise RelayUnavailable('relay:25', 'greeting', 'timed out')
        dispatch = self.dispatch(accept_all, 4)
        self.relay.on_open = refuse
        self.assertFalse(dispatch.makes_senders)
        # That was it: all the others would cost as much again.
        self.assertIsNotNone(dispatch.unavailable)
        self.send(dispatch, 20)
        self.assertEqual(len(calls), 1)
        self.assertEqual(self.outcomes, [])

    def test_a_signal_meanwhile(self):
        turn = Turn()
        turn.is_urgent = True
        over = threading.Event()
        self.addCleanup(over.set)

        async def stall(connection):
            turn.is_over = True
            await waited(over)
        dispatch = self.dispatch(accept_all, 4, turn=turn)
        self.relay.on_open = stall
        # It does not wait until the server says something.
        self.assertFalse(dispatch.makes_senders)
        with self.assertRaises(NothingMoreToSend):
            dispatch.submit(transaction(0))
        over.set()

    def test_a_time_slice_without_an_answer(self):
        turn = Turn()
        turn.is_over = True
        accepted = threading.Event()

        async def converse(feed, report):
            while (each := await feed()) is not None:
                report(outcome_of_all(each, ACCEPTED))
                accepted.set()
        dispatch = self.dispatch(converse, 1, turn=turn)
        # Or a server that says nothing would never run into its timeout.
        dispatch.submit(transaction(0))
        self.assertTrue(accepted.wait(PATIENCE))
        with self.assertRaises(NothingMoreToSend):
            while True:
                dispatch.submit(transaction(1))
        dispatch.finish()
        self.assertIn(address(0), self.settled(Fate.accepted))


class OrdersTestCase(DispatchTestCase):
    """What the ledger wants done."""

    def setUp(self):
        super().setUp()
        # The recipients in the order in which they were begun, and ended.
        self.told = []

    def send_all(self, dispatch, transactions):
        """Submit so much that all of it is queued at once."""
        with suppress(NothingMoreToSend):
            for each in transactions:
                dispatch.submit(each)
        dispatch.finish()

    async def converse(self, feed, report):
        """Accept everything, and let others go on meanwhile."""
        while (each := await feed()) is not None:
            self.told.append(('begin', each))
            for _ in range(5):
                await asyncio.sleep(0)
            self.told.append(('end', each))
            report(outcome_of_all(
                each, NAMED if each.asks else ACCEPTED))

    def begun(self):
        return [each.recipients[0] for word, each in self.told
                if word == 'begin']


class TestOrders(OrdersTestCase):
    def assertAlone(self, *transactions):
        """Nothing was begun between the beginning and the end of these."""
        for each in transactions:
            begun = self.told.index(('begin', each))
            ended = self.told.index(('end', each))
            self.assertNotIn(
                'begin', [word for word, _ in self.told[begun + 1:ended]])

    def test_alone(self):
        questions = question(100), question(101)

        def settle(outcome):
            if outcome.transaction.recipients[0] == address(5):
                return Orders(first=questions)
        for connections in (1, 4):
            with self.subTest(connections=connections):
                self.outcomes.clear()
                self.told.clear()
                self.send(self.dispatch(
                    self.converse, connections,
                    books=Orderly(self.outcomes, settle)), 40)
                self.assertEqual(len(self.settled(Fate.accepted)), 40)
                self.assertEqual(self.settled(Fate.not_attempted),
                                 [address(100), address(101)])
                self.assertAlone(*questions)
                # Those on their way came to their end first.
                begun = self.begun()
                self.assertEqual(
                    begun.index(address(101)), begun.index(address(100)) + 1)
                self.assertLess(begun.index(address(100)), 5 + 2 * connections)

    def test_a_question_is_not_sent_again(self):
        # Whoever was accepted when it was asked is no remainder.
        def settle(outcome):
            if outcome.transaction.recipients[0] == address(0):
                return Orders(first=(question(100),))
        for result in (NAMED, NOT_SENT):
            with self.subTest(result):
                async def converse(feed, report):
                    while (each := await feed()) is not None:
                        asked.append(each.asks)
                        if each.asks:
                            report(outcome_of_all(each, result))
                            raise ConnectionLost('lost')
                        report(outcome_of_all(each, ACCEPTED))
                asked = []
                self.outcomes.clear()
                self.send(self.dispatch(
                    converse, books=Orderly(self.outcomes, settle)), 3)
                self.assertEqual(sum(asked), 1)
                self.assertEqual(len(asked), 4)
                self.assertEqual(
                    self.settled(Fate.not_attempted), [address(100)])
                self.assertEqual(len(self.settled(Fate.accepted)), 3)

    def test_a_question_in_flight_at_the_end(self):
        # Nobody is left in doubt by it.
        turn = Turn()
        turn.is_urgent = True
        asking, over = threading.Event(), threading.Event()
        # A task that nobody holds would be destroyed.
        self.addCleanup(over.set)

        async def converse(feed, report):
            each = await feed()
            report(outcome_of_all(each, ACCEPTED))
            assert (await feed()).asks
            turn.is_over = turn.is_too_late = True
            asking.set()
            await waited(over)
        self.send(self.dispatch(converse, turn=turn, books=Orderly(
            self.outcomes, lambda outcome: Orders(first=(question(100),)))), 1)
        self.assertTrue(asking.is_set())
        self.assertEqual(self.settled(Fate.accepted), [address(0)])
        self.assertEqual(self.settled(Fate.in_doubt), [])

    def test_the_conclusion(self):
        orders = iter((Orders(again=(transaction(100),)),
                       Orders(first=(question(101),)), NO_ORDERS))
        settled = []

        def conclude():
            settled.append(len(self.outcomes))
            return next(orders)
        for connections in (1, 4):
            with self.subTest(connections=connections):
                self.outcomes.clear()
                settled.clear()
                orders = iter((Orders(again=(transaction(100),)),
                               Orders(first=(question(101),)), NO_ORDERS))
                self.send(self.dispatch(
                    self.converse, connections,
                    books=Orderly(self.outcomes, conclude=conclude)), 20)
                # Each time everything had been settled, and then no more.
                self.assertEqual(settled, [20, 21, 22])

    def test_the_conclusion_waits_for_what_goes_again(self):
        settled = []

        async def converse(feed, report):
            while (each := await feed()) is not None:
                if each.recipients[0] == address(3) and not settled:
                    settled.append(None)
                    report(outcome_of_all(each, NOT_SENT))
                    raise ConnectionLost('lost')
                report(outcome_of_all(each, ACCEPTED))
        self.send(self.dispatch(converse, books=Orderly(
            self.outcomes,
            conclude=lambda: settled.append(len(self.outcomes)))), 4)
        self.assertEqual(settled, [None, 4])

    def test_no_conclusion_of_what_was_stopped(self):
        concluded = []
        self.send(self.dispatch(self.converse, books=Orderly(
            self.outcomes, lambda outcome: HALT_ORDERS,
            lambda: concluded.append(None))), 20)
        self.assertEqual(len(self.outcomes), 1)
        self.assertEqual(concluded, [])

    def test_elsewhere(self):
        def elsewhere(outcome):
            return Orders(elsewhere=frozenset(['a.example.com']))
        names = ['1@a', '2@a', '3@b', '4@A', '5@c']
        for fate, order in ((Fate.refused, '13524'), (Fate.accepted, '13245')):
            with self.subTest(fate):
                async def converse(feed, report):
                    while (each := await feed()) is not None:
                        begun.append(each.recipients[0][0])
                        # With whom is accepted, that is over.
                        is_other = each.recipients[0][2] != 'a'
                        report(outcome_of_all(each, (
                            ACCEPTED if is_other and fate is Fate.accepted
                            else REFUSED)))
                begun = []

                def settle(outcome):
                    if len(begun) == 1:
                        return elsewhere(outcome)
                dispatch = self.dispatch(
                    converse, books=Orderly(self.outcomes, settle),
                    # So all of them are queued at once.
                    clock=lambda: 0.0)
                self.send_all(dispatch, [
                    transaction(0)._replace(
                        recipients=(f'{name}.example.com',))
                    for name in names])
                self.assertEqual(''.join(begun), order)

    def test_the_limit(self):
        async def converse(feed, report):
            while (each := await feed()) is not None:
                sizes.append(len(each.recipients))
                report(outcome_of_all(each, ACCEPTED))
        sizes = []
        dispatch = self.dispatch(converse, books=Orderly(
            self.outcomes, lambda outcome: Orders(limit=2)),
            clock=lambda: 0.0)
        self.send_all(dispatch, [
            transaction(0), transaction(1)._replace(
                recipients=tuple(map(address, range(1, 6))))])
        self.assertEqual(sizes, [1, 2, 2, 1])
        self.assertEqual(self.relay.lessons.max_recipients, 2)


class TestPlainSender(OrdersTestCase):
    """The sender that takes the place of those of VERP."""

    PLAIN = 'ant-bounces@example.com'

    def senders(self):
        return [each.sender for word, each in self.told if word == 'begin']

    def test_learnt_earlier(self):
        dispatch = self.dispatch(self.converse, plain_sender=self.PLAIN)
        self.relay.lessons.refuse_verp_sender()
        self.send(dispatch, 3)
        self.assertEqual(self.senders(), 3 * [self.PLAIN])
        self.assertAllSettledOnce(3)

    def test_learnt_now(self):
        dispatch = self.dispatch(
            self.converse, plain_sender=self.PLAIN, clock=lambda: 0.0,
            books=Orderly(self.outcomes,
                          lambda outcome: Orders(plain_sender=True)))
        with self.assertLogs('mailman.smtp', 'WARNING') as logs:
            self.send(dispatch, 4)
        self.assertEqual(self.senders(), [
            transaction(0).sender, *3 * [self.PLAIN]])
        # Once, and not for each.
        self.assertEqual(len(logs.output), 1)
        self.assertIn(self.PLAIN, logs.output[0])
        self.assertTrue(self.relay.lessons.verp_sender_refused)

    def test_there_is_none(self):
        # Of a post that is not VERP'd, the sender is the plain one already.
        dispatch = self.dispatch(self.converse)
        self.relay.lessons.refuse_verp_sender()
        self.send(dispatch, 2)
        self.assertEqual(self.senders(), 2 * [transaction(0).sender])


class TestNotices(OrdersTestCase):
    """What an answer says of the relay."""

    def refuse_once(self, notice, **orders):
        """The first outcome has this notice, and goes again."""
        def settle(outcome):
            if len(self.outcomes) == 1:
                return Orders(notice=notice,
                              again=(outcome.transaction,), **orders)
        return Orderly(self.outcomes, settle)

    def test_the_rate(self):
        async def converse(feed, report):
            while (each := await feed()) is not None:
                begun.append(each.recipients[0])
                times.append(time.monotonic())
                report(outcome_of_all(
                    each, ACCEPTED if len(begun) > 1 else REFUSED))
        begun, times = [], []
        # Zero seconds, with the margin that a pause has, are a twentieth.
        notice = Notice(About.rate, SLOWLY, 0.0)
        self.send(self.dispatch(
            converse, books=self.refuse_once(notice), clock=lambda: 0.0), 4)
        self.assertEqual(begun, [
            address(number) for number in (0, 0, 1, 2, 3)])
        self.assertGreaterEqual(times[1] - times[0], 0.05)
        self.assertEqual(len(self.settled(Fate.accepted)), 4)

    def test_others_wait_too(self):
        async def converse(feed, report):
            # All four are there when the first one is refused.
            each = await feed()
            await together.wait()
            while each is not None:
                times.append(time.monotonic())
                report(outcome_of_all(each, ACCEPTED))
                each = await feed()
        together, times = Together(4), []
        notice = Notice(About.rate, SLOWLY, 0.0)
        self.send(self.dispatch(
            converse, 4, books=self.refuse_once(notice), clock=lambda: 0.0),
            20)
        self.assertEqual(len(times), 21)
        self.assertGreaterEqual(times[4] - times[0], 0.05)

    def test_a_quota(self):
        notice = Notice(About.quota, SLOWLY, None, 'Buy some.')
        with self.assertLogs('mailman.smtp', 'WARNING') as logs:
            dispatch = self.dispatch(
                self.converse, 2, relay_clock=lambda: 0.0,
                books=self.refuse_once(notice, halt=True))
            self.send(dispatch, 20)
        self.assertLessEqual(len(self.begun()), 2)
        self.assertEqual(self.relay.throttle.paused_for, 900)
        self.assertIn('Buy some.', logs.output[0])
        self.assertEqual(len(logs.output), 1)

    def test_a_long_pause(self):
        # It is spent in Mailman's retry queue.
        notice = Notice(About.rate, SLOWLY, 900.0)
        dispatch = self.dispatch(self.converse, relay_clock=lambda: 0.0,
                                 books=self.refuse_once(notice))
        self.send(dispatch, 20)
        self.assertEqual(self.begun(), [address(0)])
        self.assertIsInstance(dispatch.unavailable, RelayPaused)
        self.assertIn('900 s', str(dispatch.unavailable))
        self.assertIn('Slowly', str(dispatch.unavailable))

    def test_a_pause_from_an_earlier_post(self):
        dispatch = self.dispatch(self.converse, 4, relay_clock=lambda: 0.0)
        self.relay.throttle.hold(SLOWLY, 1000.0, 0.0)
        self.send(dispatch, 20)
        self.assertIsInstance(dispatch.unavailable, RelayPaused)
        # It is not worth a connection.
        self.assertEqual(self.relay.pool.statistics().opened, 0)
        self.assertEqual(self.outcomes, [])

    def test_too_many_connections(self):
        async def converse(feed, report):
            numbers.append(None)
            number = len(numbers)
            each = await feed()
            await together.wait()
            is_refused = number == 2
            if not is_refused:
                # The others are still at work when it is.
                await asyncio.sleep(0.01)
            while each is not None:
                given[number] = given.get(number, 0) + 1
                report(outcome_of_all(
                    each, REFUSED if is_refused else ACCEPTED))
                each = await feed()

        def settle(outcome):
            if outcome.having(Fate.refused):
                return Orders(
                    again=(outcome.transaction,),
                    notice=Notice(About.connections, CROWDED))
        together, numbers, given = Together(3), [], {}
        dispatch = self.dispatch(
            converse, 3, books=Orderly(self.outcomes, settle))
        self.send(dispatch, 30)
        self.assertEqual(len(self.settled(Fate.accepted)), 30)
        # It was closed at once, and no other one took its place.
        self.assertEqual(given[2], 1)
        self.assertEqual(self.relay.throttle.ceiling, 2)
        self.assertEqual(len(numbers), 3)
        self.assertEqual(self.relay.throttle.paused_for, 0)
        self.assertNothingIsInUse()
        self.assertEqual(self.relay.pool.statistics().idle, 2)

    def test_the_only_connection_is_too_much(self):
        # Nothing but waiting helps.
        notice = Notice(About.connections, CROWDED, 0.0)
        self.send(self.dispatch(
            self.converse, books=self.refuse_once(notice), clock=lambda: 0.0),
            3)
        self.assertEqual(self.begun(), [
            address(number) for number in (0, 0, 1, 2)])
        self.assertEqual(self.relay.throttle.ceiling, 1)
        self.assertEqual(self.relay.pool.statistics().opened, 2)

    def test_one_more_connection_cannot_be_opened(self):
        async def one_only(connection):
            opened.append(connection)
            if len(opened) > 1:
                raise RelayUnavailable(
                    'relay:25', 'greeting', '421 Crowded', 421)
        opened, heard = [], []
        dispatch = self.dispatch(self.converse, 4, books=Orderly(
            self.outcomes, hear=lambda *words: heard.append(words)))
        self.relay.on_open = one_only
        self.send(dispatch, 30)
        self.assertEqual(len(self.settled(Fate.accepted)), 30)
        self.assertLess(self.relay.throttle.ceiling, 4)
        self.assertIn(('greeting', CROWDED), heard)
        self.assertIsNone(dispatch.unavailable)

    def crowd(self, word, about, opened, code=421):
        """Let none of eight connections be opened at first.

        :param word: What the server says.
        :param about: What that is about; None if it proves nothing.
        :param opened: The connection is opened from this attempt on.
        """
        async def refuse(connection):
            attempts.append(connection)
            if len(attempts) < opened:
                raise error(code, word)

        def error(code, word):
            unavailable = RelayUnavailable(
                'relay:25', 'greeting', f'{code} {word}', code)
            unavailable.waiting_helps = code < 500
            return unavailable
        attempts = []
        with mock.patch('mailman_mta_pool.dispatch.retry.FIRST_PAUSE', 0.01), \
                mock.patch('mailman_mta_pool.relays.pause.SHORTEST_REPEATED',
                           0.0):
            # All eight begin at once, as of a server that is known.
            dispatch = self.dispatch(
                self.converse, 8, clock=lambda: 0.0, patience=60,
                books=Orderly(self.outcomes, hear=lambda word, reply: (
                    None if about is None else Notice(about, reply, 0.0))))
            self.relay.on_open = refuse
            self.send(dispatch, 30)
        self.assertGreaterEqual(len(attempts), opened)
        self.assertEqual(len(self.settled(Fate.accepted)), 30)
        self.assertIsNone(dispatch.unavailable)

    def test_everybody_is_refused_for_a_while(self):
        # There were no connections beside which another was too much.
        for about in (None, About.connections, About.rate):
            with self.subTest(about):
                self.outcomes.clear()
                self.crowd('Crowded', about, 12)
                self.assertEqual(self.relay.throttle.ceiling, 8)

    def test_no_connection_because_of_the_rate(self):
        # It is the rate, though others are open.
        self.crowd('Slowly', About.rate, 5)
        self.assertEqual(self.relay.throttle.ceiling, 8)

    def test_whatever_its_code_the_rate_is_over_some_time(self):
        self.crowd('Slowly', About.rate, 12, code=550)

    def test_too_many_messages_over_one_connection(self):
        # Exim, for one, takes so many; it has nothing against connections.
        async def converse(feed, report):
            numbers.append(None)
            taken = 0
            while (each := await feed()) is not None:
                taken += 1
                await asyncio.sleep(0)
                report(outcome_of_all(
                    each, ACCEPTED if taken <= 10 else REFUSED))

        def settle(outcome):
            if outcome.having(Fate.refused):
                return Orders(
                    again=(outcome.transaction,),
                    notice=Notice(About.connections, CROWDED))
        for connections in (1, 4):
            with self.subTest(connections=connections):
                numbers = []
                self.outcomes.clear()
                self.send(self.dispatch(
                    converse, connections,
                    books=Orderly(self.outcomes, settle)), 100)
                self.assertEqual(len(self.settled(Fate.accepted)), 100)
                self.assertGreaterEqual(len(numbers), 10)
                throttle = self.relay.throttle
                self.assertEqual(throttle.ceiling, connections)
                self.assertIsNone(throttle.statistics().rate)
                self.assertEqual(throttle.paused_for, 0)

    def test_one_pause_after_the_other(self):
        # No turn ends, and nothing is ever accepted.
        async def converse(feed, report):
            while (each := await feed()) is not None:
                report(outcome_of_all(each, REFUSED))
        clock = itertools.count(step=100.0)
        dispatch = self.dispatch(
            converse, clock=lambda: next(clock),
            books=Orderly(self.outcomes, lambda outcome: Orders(
                notice=Notice(About.rate, SLOWLY, 0.0),
                again=(outcome.transaction,))))
        with mock.patch('mailman_mta_pool.relays.pause.SHORTEST_REPEATED',
                        0.0), \
                mock.patch('mailman_mta_pool.relays.pace.HEAD_START', 0.0):
            self.send(dispatch, 3)
        self.assertIsInstance(dispatch.unavailable, RelayPaused)
        self.assertGreater(len(self.outcomes), 1)

    def test_connections_that_are_closed_in_a_pause(self):
        # The server wants nothing, and closes whatever is opened.
        async def converse(feed, report):
            conversations.append(None)
            if len(conversations) == 1:
                report(outcome_of_all(await feed(), REFUSED))
            elif self.relay.throttle.paused_for:
                await asyncio.sleep(0.001)
                return
            await accept_all(feed, report)
        for connections in (1, 4):
            with self.subTest(connections=connections):
                conversations = []
                self.outcomes.clear()
                notice = Notice(About.rate, SLOWLY, 0.3)
                self.send(self.dispatch(
                    converse, connections, books=self.refuse_once(notice),
                    clock=lambda: 0.0), 20)
                self.assertEqual(len(self.settled(Fate.accepted)), 20)
                self.assertLessEqual(len(conversations), 1 + 2 * connections)

    def test_no_connection_can_be_opened(self):
        async def refuse(connection):
            raise RelayUnavailable('relay:25', 'greeting', '421 Slowly', 421)
        for wait, kind in ((1000.0, RelayPaused), (5.0, RelayUnavailable)):
            with self.subTest(wait):
                dispatch = self.dispatch(
                    self.converse, relay_clock=lambda: 0.0,
                    books=Orderly(self.outcomes, hear=lambda word, reply: (
                        Notice(About.rate, reply, wait))))
                self.relay.on_open = refuse
                self.send(dispatch, 3)
                self.assertIs(type(dispatch.unavailable), kind)
                self.assertGreater(self.relay.throttle.paused_for, wait)
                self.assertEqual(self.outcomes, [])


class TestProbes(OrdersTestCase):
    """A post that has waited finds out whether a long pause is over."""

    def pause(self, said=None, **kws):
        dispatch = self.dispatch(
            kws.pop('converse', self.converse), was_in_retry=True, **kws)
        self.relay.throttle.hold(SLOWLY, said, 0.0)
        return dispatch

    def test_it_is_over(self):
        clock = iter([0.0])
        dispatch = self.pause(
            connections=4, relay_clock=lambda: next(clock, 60.0))
        with self.assertLogs('mailman.smtp', 'INFO'):
            self.send(dispatch, 20)
        self.assertAllSettledOnce(20)
        self.assertEqual(self.relay.throttle.paused_for, 0)
        # The others waited for what became of the first.
        self.assertEqual([word for word, _ in self.told][:2], ['begin', 'end'])

    def test_it_is_not(self):
        async def converse(feed, report):
            while (each := await feed()) is not None:
                self.told.append(('begin', each))
                report(outcome_of_all(each, REFUSED))
        clock = iter([0.0])
        dispatch = self.pause(
            connections=4, converse=converse,
            relay_clock=lambda: next(clock, 60.0),
            books=Orderly(self.outcomes, lambda outcome: Orders(
                notice=Notice(About.quota, SLOWLY), halt=True)))
        self.send(dispatch, 20)
        self.assertEqual(len(self.begun()), 1)

    def test_the_server_has_named_the_end(self):
        dispatch = self.pause(said=1000.0, relay_clock=lambda: 0.0)
        self.send(dispatch, 20)
        self.assertEqual(self.begun(), [])
        self.assertIsInstance(dispatch.unavailable, RelayPaused)

    @mock.patch('mailman_mta_pool.dispatch.lane.LONGEST_PROBE_WAIT',
                0.01)
    def test_another_post_has_just_asked(self):
        # There is one probe in a second.
        for step, count in ((0.0, 0), (0.1, 20)):
            with self.subTest(step):
                self.told.clear()
                self.outcomes.clear()
                clock = itertools.count()
                dispatch = self.pause(
                    relay_clock=lambda: step * next(clock),
                    # Seconds are long to the dispatcher in the first case.
                    clock=time.monotonic if count == 0 else lambda: 0.0)
                self.send(dispatch, 20)
                self.assertEqual(len(self.begun()), count)
                self.assertEqual(
                    isinstance(dispatch.unavailable, RelayPaused), not count)


@mock.patch('mailman_mta_pool.dispatch.outbound.TICK', 0.01)
class TestPausesAndTurns(OrdersTestCase):
    """A turn that ends while the relay wants nothing."""

    def pause(self, turn, served):
        """Serve so many, and then there is a pause of a minute."""
        def settle(outcome):
            if len(self.outcomes) == served:
                turn.is_over = True
                return Orders(notice=Notice(About.rate, SLOWLY, 60.0))
        return self.dispatch(
            self.converse, relay_clock=lambda: 0.0, turn=turn,
            books=Orderly(self.outcomes, settle))

    def test_others_wait(self):
        turn = Turn()
        turn.is_awaited = True
        dispatch = self.pause(turn, 3)
        self.send(dispatch, 20)
        self.assertEqual(len(self.settled(Fate.accepted)), 3)
        # Those who are left go back behind the others.
        self.assertIsNone(dispatch.unavailable)
        self.assertTrue(dispatch.is_over)
        self.assertEqual(turn.renewed, 0)

    def test_nobody_waits(self):
        turn = Turn()
        dispatch = self.pause(turn, 3)
        self.send(dispatch, 20)
        self.assertEqual(len(self.settled(Fate.accepted)), 3)
        # It goes on sleeping, but not for ever: after that, a whole turn has
        # brought nothing.
        self.assertEqual(turn.renewed, 1)
        self.assertIsInstance(dispatch.unavailable, RelayPaused)

    def test_each_turn_brings_something(self):
        def settle(outcome):
            # The turn ends with each of them.
            turn.is_over = True
            return Orders(notice=Notice(About.rate, SLOWLY, 0.0))
        turn = Turn()
        turn.ends_for_good = False
        dispatch = self.dispatch(self.converse, turn=turn, books=Orderly(
            self.outcomes, settle), clock=lambda: 0.0)
        with mock.patch('mailman_mta_pool.relays.pause.MARGIN', 0.02), \
                mock.patch('mailman_mta_pool.relays.pause.SHORTEST_REPEATED',
                           0.0):
            self.send(dispatch, 3)
        self.assertEqual(len(self.settled(Fate.accepted)), 3)
        self.assertIsNone(dispatch.unavailable)

    def test_nothing_at_all(self):
        turn = Turn()
        turn.is_over = turn.is_awaited = True
        dispatch = self.dispatch(
            self.converse, relay_clock=lambda: 0.0, turn=turn)
        self.relay.throttle.slow_down(SLOWLY, 60.0, 0.0)
        self.send(dispatch, 20)
        self.assertEqual(self.outcomes, [])
        self.assertIsInstance(dispatch.unavailable, RelayPaused)

    def test_a_signal(self):
        turn = Turn()
        turn.is_urgent = True
        dispatch = self.pause(turn, 3)
        self.send(dispatch, 20)
        self.assertEqual(len(self.settled(Fate.accepted)), 3)
        self.assertIsNone(dispatch.unavailable)
        self.assertEqual(turn.renewed, 0)


class TestOurMistakes(OrdersTestCase):
    """The main thread does not wait for ever for what comes of them."""

    class Mistake(Exception):
        pass

    def fail(self, *args):
        raise self.Mistake

    def test_in_the_conclusion(self):
        # In a step that was posted, and with the last outcome.
        settled = threading.Event()
        for waits in (True, False):
            with self.subTest(waits=waits):
                settled.clear()
                dispatch = self.dispatch(self.converse, books=Orderly(
                    self.outcomes, lambda outcome: settled.set(), self.fail),
                    clock=time.monotonic if waits else lambda: 0.0)
                dispatch.submit(transaction(0))
                if waits:
                    self.assertTrue(settled.wait(PATIENCE))
                with self.assertRaises(self.Mistake):
                    dispatch.finish()
                dispatch.close()
                self.assertNothingIsInUse()

    def test_in_a_step(self):
        dispatch = self.dispatch(self.converse, clock=lambda: 0.0)
        dispatch.submit(transaction(0))
        with mock.patch.object(Throttle, 'ceiling', property(self.fail)), \
                self.assertRaises(self.Mistake):
            dispatch.finish()
        with self.assertRaises(NothingMoreToSend):
            dispatch.submit(transaction(1))

    def test_in_a_timer(self):
        def settle(outcome):
            self.relay.throttle.is_broken = True
            return Orders(notice=Notice(About.rate, SLOWLY, 0.0))
        dispatch = self.dispatch(
            self.converse, books=Orderly(self.outcomes, settle),
            clock=lambda: 0.0)
        with mock.patch.object(
                Throttle, 'ceiling', property(lambda throttle: (
                    self.fail() if hasattr(throttle, 'is_broken') else 1))), \
                self.assertRaises(self.Mistake):
            self.send(dispatch, 3)
