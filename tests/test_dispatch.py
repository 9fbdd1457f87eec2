# SPDX-License-Identifier: GPL-3.0-or-later

"""The workers and the bounded queue."""

import unittest
import threading

from contextlib import suppress
from mailman_mta_pool.dispatch.backlog import BATCH_OCTETS
from mailman_mta_pool.dispatch.dispatcher import Dispatch, MAX_OCTETS
from mailman_mta_pool.errors import (
    ConnectionLost,
    NothingMoreToSend,
    PhaseTimeout,
    RelayUnavailable,
)
from mailman_mta_pool.relays.pool import Pool
from mailman_mta_pool.settings import DeliverySettings, PoolSettings
from mailman_mta_pool.settlement.ledger import Ledger
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


def address(number):
    return f'member-{number}@example.com'


def transaction(number, content=None):
    return Transaction('ant@example.com', (address(number),),
                       content or Content(b'Subject: x\r\n\r\nx\r\n'))


class FakeConnection:
    """Does with the transactions what the test's function says."""

    is_open = False

    def __init__(self, converse):
        self._converse = converse

    def open(self):
        self.is_open = True

    def is_alive(self):
        return self.is_open

    def quit(self):
        self.is_open = False

    def converse(self, feed, report, drive=None):
        try:
            self._converse(feed, report)
        except BaseException:
            self.is_open = False
            raise


class FakeRelay:
    """A relay whose connections are fakes."""

    name = 'relay.example.net:25'

    def __init__(self, converse, connections=1):
        self.pool_settings = PoolSettings(max_connections=connections)
        self.lessons = Lessons()
        self.pool = Pool(
            lambda: FakeConnection(converse), self.pool_settings)


def accept_all(feed, report):
    while (each := feed()) is not None:
        report(outcome_of_all(each, ACCEPTED))


def wait_for_workers():
    """A dispatch does not wait for those that were opening a connection."""
    for thread in threading.enumerate():
        if thread.name == 'mta-pool-worker':
            thread.join(PATIENCE)


def after(first, second):
    def both():
        first()
        return second()
    return both


class Turn:
    is_over = is_urgent = is_too_late = False


class DispatchTestCase(unittest.TestCase):
    def setUp(self):
        self.outcomes = []

    def dispatch(self, converse, connections=1, attempts=3, **kws):
        self.relay = FakeRelay(converse, connections)
        self.addCleanup(self.relay.pool.close)
        return Dispatch(
            self.relay, DeliverySettings(attempts=attempts, patience=0),
            self.outcomes.append, **kws)

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
        threads = threading.active_count()
        dispatch = self.dispatch(accept_all, 8)
        self.assertEqual(threading.active_count(), threads)
        dispatch.finish()
        self.assertEqual(self.relay.pool.statistics().opened, 0)

    def test_no_more_workers_than_work(self):
        self.send(self.dispatch(accept_all, 8), 1)
        self.assertEqual(self.relay.pool.statistics().opened, 1)

    def test_no_thread_is_left(self):
        wait_for_workers()
        before = threading.active_count()
        self.send(self.dispatch(accept_all, 8), 50)
        wait_for_workers()
        self.assertEqual(threading.active_count(), before)

    def test_they_go_at_the_same_time(self):
        together = threading.Barrier(4)

        def converse(feed, report):
            # All four have one, or this breaks.
            each = feed()
            together.wait(PATIENCE)
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

        def converse(feed, report):
            # The server is so slow that the queue fills up.
            self.assertTrue(full.wait(PATIENCE))
            accept_all(feed, report)
        octets = b'x' * 2046
        enough = MAX_OCTETS // 2048
        full = threading.Event()
        ledger = Ledger()
        relay = FakeRelay(converse, 2)
        self.addCleanup(relay.pool.close)
        dispatch = Dispatch(relay, DeliverySettings(patience=0), ledger.settle)
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
        def converse(feed, report):
            limit = next(remaining, None)
            taken = []
            while (each := feed()) is not None:
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

        def gated(feed, report):
            gate.wait(PATIENCE)
            converse(feed, report)
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

                    def converse(feed, report):
                        while (each := feed()) is not None:
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
        def converse(feed, report):
            while (each := feed()) is not None:
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

        def converse(feed, report):
            each = feed()
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

        def converse(feed, report):
            calls.append(feed())
            report(outcome_of_all(calls[-1], NOT_SENT))
            raise PhaseTimeout('no reply to MAIL within 300 s')
        dispatch = self.dispatch(converse)
        self.send(dispatch, 20)
        self.assertEqual(len(calls), 1)
        self.assertIn('300 s', str(dispatch.unavailable))
        self.assertEqual(self.outcomes, [])

    def test_no_second_timeout(self):
        # Whoever was fed up first does not begin anew before the others.
        together = threading.Barrier(4)
        for fail in (lambda: PhaseTimeout('no reply to MAIL within 300 s'),
                     lambda: RelayUnavailable('relay:25', 'EHLO', 'late')):
            calls = []

            def converse(feed, report):
                calls.append(feed())
                together.wait(PATIENCE)
                report(outcome_of_all(calls[-1], NOT_SENT))
                raise fail()
            dispatch = self.dispatch(converse, 4)
            self.send(dispatch, 20)
            self.assertEqual(len(calls), 4)
            self.assertIsNotNone(dispatch.unavailable)
            self.assertEqual(self.settled(Fate.accepted), [])

    def test_a_timeout_while_the_others_go_on(self):
        # It goes again over another connection, though nobody else is left.
        done = threading.Event()

        def converse(feed, report):
            each = feed()
            if (each is not None and each.recipients[0] == address(0) and
                    not done.is_set()):
                self.assertTrue(done.wait(PATIENCE))
                report(outcome_of_all(each, NOT_SENT))
                raise PhaseTimeout('no reply to MAIL within 300 s')
            while each is not None:
                report(outcome_of_all(each, ACCEPTED))
                if len(self.outcomes) == 19:
                    done.set()
                each = feed()
        dispatch = self.dispatch(converse, 2)
        self.send(dispatch, 20)
        self.assertEqual(len(self.settled(Fate.accepted)), 20)
        self.assertIsNone(dispatch.unavailable)

    def test_not_everybody_is_left_in_doubt(self):
        def converse(feed, report):
            each = feed()
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

        def converse(feed, report):
            while (each := feed()) is not None:
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

        def converse(feed, report):
            each = feed()
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
        def refuse(feed, report):
            raise RelayUnavailable('relay:25', 'greeting', '554 No', 554)
        dispatch = self.dispatch(refuse, 4)
        self.send(dispatch, 50)
        # What the server said of us is no word about a member.
        self.assertEqual(self.outcomes, [])
        self.assertEqual(dispatch.unavailable.code, 554)

    def test_a_mistake_of_ours(self):
        class Mistake(Exception):
            pass

        def converse(feed, report):
            each = feed()
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
                wait_for_workers()
                self.assertEqual(self.relay.pool.statistics().in_use, 0)

    def test_abandon(self):
        begun, go_on = threading.Event(), threading.Event()

        def converse(feed, report):
            each = feed()
            begun.set()
            go_on.wait(PATIENCE)
            report(outcome_of_all(each, ACCEPTED))
        dispatch = self.dispatch(converse)
        for number in range(10):
            dispatch.submit(transaction(number))
        begun.wait(PATIENCE)
        # It waits for what is in flight, and sends nothing more.
        with mock.patch.object(
                dispatch, '_wait_for_the_rest', after(
                    go_on.set, dispatch._wait_for_the_rest)):
            dispatch.abandon()
        self.assertEqual(self.settled(Fate.accepted), [address(0)])
        self.assertEqual(len(self.outcomes), 1)
        with self.assertRaises(NothingMoreToSend):
            dispatch.submit(transaction(10))
        dispatch.finish()
        dispatch.abandon()


class TestMeeting(DispatchTestCase):
    """What the server can do is asked before the first transaction."""

    def test_a_connection_is_opened(self):
        dispatch = self.dispatch(accept_all, 4)
        dispatch.meet()
        self.assertEqual(self.relay.pool.statistics().opened, 1)
        # The first worker goes on with it.
        self.send(dispatch, 20)
        self.assertAllSettledOnce(20)
        wait_for_workers()
        self.assertEqual(self.relay.pool.statistics().in_use, 0)

    def test_nothing_to_do_after_that(self):
        wait_for_workers()
        before = threading.active_count()
        dispatch = self.dispatch(accept_all, 4)
        dispatch.meet()
        dispatch.finish()
        self.assertEqual(threading.active_count(), before)

    def test_relay_down(self):
        calls = []

        def refuse(feed, report):
            calls.append(feed)
            raise RelayUnavailable('relay:25', 'greeting', 'timed out')
        dispatch = self.dispatch(refuse, 4)
        dispatch.meet()
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

        def stall(feed, report):
            turn.is_over = True
            over.wait(PATIENCE)
        dispatch = self.dispatch(stall, 4, turn=turn)
        # It does not wait until the server says something.
        dispatch.meet()
        with self.assertRaises(NothingMoreToSend):
            dispatch.submit(transaction(0))

    def test_a_time_slice_without_an_answer(self):
        turn = Turn()
        turn.is_over = True
        accepted = threading.Event()

        def converse(feed, report):
            while (each := feed()) is not None:
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
