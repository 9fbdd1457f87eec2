# SPDX-License-Identifier: GPL-3.0-or-later

"""Who waits for a limit, in which order, by a clock that is set."""

import asyncio

from mailman_mta_pool.limits.limit import Ask, Refused, Taken
from mailman_mta_pool.limits.limiter import GRACE, KEEPING, Limiter
from tests.limits.conformance import limit
from tests.limits.test_file import FileCase


class Poster:
    """Asks when it is woken, as long as it wants something.

    :ivar permits: What it was given.
    """

    def __init__(self, limiter, name, log, limits, wants=10 ** 9):
        self.name = name
        self.wants = wants
        self.permits = []
        self._log = log
        self.claimant = limiter.claimant(limits, self.go_on)

    def go_on(self, recipients=1, is_divisible=True):
        while self.wants:
            permit = self.claimant.request(recipients, is_divisible)
            if permit is None:
                return
            self.wants -= 1
            self._log.append(self.name)
            self.permits.append(permit)
            permit.replied()


class LimiterCase(FileCase):
    def setUp(self):
        super().setUp()
        self.limiter = Limiter(self.new_process(), self.loop)
        self.order = []

    def poster(self, name, *limits, limiter=None, **kws):
        return Poster(
            limiter or self.limiter, name, self.order, limits, **kws)


class TestLimiter(LimiterCase):
    def test_no_limit(self):
        for limits in ((), (limit(),)):
            claimant = self.limiter.claimant(limits, self.fail)
            permit = claimant.request(50)
            self.assertEqual(permit.recipients, 50)
            permit.replied()

    def test_woken_when_there_is_room(self):
        poster = self.poster('ant', limit((2, 10)), wants=5)
        poster.go_on()
        self.assertEqual(len(poster.permits), 2)
        self.assertAlmostEqual(poster.claimant.ready_in, 10, delta=0.1)
        self.wait(9.9)
        self.assertEqual(len(poster.permits), 2)
        self.wait(0.2)
        self.assertEqual(len(poster.permits), 4)
        self.wait(10.2)
        self.assertEqual(len(poster.permits), 5)
        self.assertEqual(self.limiter.waiting, 0)
        self.assertEqual(poster.claimant.ready_in, 0)

    def test_a_long_wait_is_told(self):
        poster = self.poster('ant', limit((1, 86400)))
        poster.go_on()
        self.assertAlmostEqual(poster.claimant.ready_in, 86400, delta=200)
        self.wait(40000)
        self.assertAlmostEqual(poster.claimant.ready_in, 46400, delta=200)

    def test_the_line_changes_while_somebody_looks(self):
        # The main thread asks, too.
        late = self.poster('bee', limit((1, 10)))

        class Keys(frozenset):
            def __rand__(self, others):
                late.go_on()
                return others.intersection(self)
        first, poster = (self.poster('ant', limit((1, 10)))
                         for _ in range(2))
        first.go_on()
        poster.go_on()
        poster.claimant.keys = Keys(poster.claimant.keys)
        self.assertAlmostEqual(poster.claimant.ready_in, 10, delta=0.1)
        self.assertEqual(self.limiter.waiting, 3)

    def test_each_is_counted_once(self):
        claimant = self.limiter.claimant((limit((2, 10)),), self.fail)
        permit = claimant.request()
        permit.replied()
        permit.replied()
        permit.unused()
        self.wait(11)
        self.assertIsNotNone(claimant.request())
        self.assertIsNotNone(claimant.request())
        self.assertIsNone(claimant.request())

    def test_in_order(self):
        wanted = limit((1, 1))
        posters = [self.poster(name, wanted) for name in 'abc']
        for poster in posters:
            poster.go_on()
        self.wait(9.5)
        # The first asked twice before the others came.
        self.assertEqual(''.join(self.order), 'aabcabcabc')

    def test_in_order_over_processes(self):
        wanted = limit((1, 1))
        limiters = [self.limiter] + [
            Limiter(self.new_process(), self.loop) for _ in range(2)]
        posters = [self.poster(name, wanted, limiter=limiter)
                   for name, limiter in zip('abc', limiters)]
        for poster in posters:
            poster.go_on()
            self.wait(0.01)
        self.wait(20)
        # The first asked twice before the others came.
        self.assertEqual(''.join(self.order), 'aabcabcabcabcabcabca')

    def test_what_another_process_gives_back_is_heard_of(self):
        # Nobody is told of that.
        wanted = limit((1, 10), (100, 86400))
        claimant = self.limiter.claimant((wanted,), self.fail)
        permit = claimant.request()
        other = Limiter(self.new_process(), self.loop)
        poster = self.poster('a', wanted, limiter=other, wants=1)
        poster.go_on()
        self.assertAlmostEqual(poster.claimant.ready_in, 10, delta=0.1)
        self.wait(3.5)
        permit.unused()
        self.wait(1.1)
        self.assertEqual(self.order, ['a'])

    def test_idle_while_nothing_is_given_back(self):
        wanted = limit((1, 100))
        permit = self.limiter.claimant((wanted,), self.fail).request()
        other = Limiter(self.new_process(), self.loop)
        self.poster('a', wanted, limiter=other, wants=1).go_on()
        permit.replied()
        self.wait(10)
        fired = self.loop.fired
        self.wait(80)
        # It looks as often as ever: each ten seconds.
        self.assertLess(self.loop.fired - fired, 20)
        self.wait(11)
        self.assertEqual(self.order, ['a'])

    def kept(self, wanted):
        """Return a claimant for whom something is kept; it came first."""
        claimant = self.limiter.claimant(wanted, lambda: None)
        permit = claimant.request()
        self.assertIsNotNone(permit)
        claimant.keep(permit)
        return claimant

    def test_kept_until_a_connection_is_open(self):
        # Another process comes meanwhile, and is not the first.
        first = self.kept((limit((1, 10)),))
        second = self.poster('second', limit((1, 10)), limiter=Limiter(
            self.new_process(), self.loop))
        second.go_on()
        self.wait(GRACE + 1)
        self.assertEqual(self.order, [])
        permit = first.request()
        self.assertIsNotNone(permit)
        permit.replied()
        self.wait(10.1)
        self.assertEqual(self.order, ['second'])

    def test_kept_for_nobody(self):
        first = self.kept((limit((1, 10)),))
        self.wait(KEEPING - 1)
        first.keep(first.request())
        second = self.poster('second', limit((1, 10)))
        second.go_on()
        self.wait(KEEPING - 0.1)
        self.assertEqual(self.order, [])
        self.wait(10)
        self.assertEqual(self.order, ['second'])
        self.assertIsNone(first.request())

    def test_kept_and_closed(self):
        first = self.kept((limit((1, 10)),))
        first.close()
        second = self.poster('second', limit((1, 10)))
        second.go_on()
        self.assertEqual(self.order, ['second'])

    def test_kept_before_the_recipients_are_known(self):
        # One message is one message, and recipients are taken anew.
        messages = limit((5, 10))
        recipients = limit((7, 10), unit='recipients')
        for wanted, got in (((messages,), 10), ((messages, recipients), 7)):
            with self.subTest(got=got):
                permit = self.kept(wanted).request(10)
                self.assertEqual(permit.recipients, got)
                permit.unused()
                # All has been given back.
                claimant = self.limiter.claimant(wanted, self.fail)
                found = [claimant.request() for _ in range(5)]
                self.assertNotIn(None, found)
                for permit in found:
                    permit.unused()
                claimant.close()

    def test_leaves_the_line(self):
        wanted = limit((1, 10))
        first, second = self.poster('a', wanted), self.poster('b', wanted)
        first.go_on()
        second.go_on()
        first.claimant.leave()
        self.wait(10.1)
        self.assertEqual(self.order, ['a', 'b'])
        self.assertEqual(self.limiter.waiting, 1)

    def test_who_waits_for_another_limit_is_passed(self):
        slow = limit((1, 1000), name='limit.slow')
        fast = limit((2, 1))
        first = self.poster('slow', slow, fast)
        second = self.poster('fast', fast)
        first.go_on()
        second.go_on()
        self.wait(10)
        self.assertEqual(self.order.count('slow'), 1)
        self.assertGreater(self.order.count('fast'), 18)

    def test_neither_waits_for_ever_for_the_other(self):
        one, two = limit((1, 1)), limit((1, 1.7), name='limit.bee')
        posters = [self.poster('x', one, two), self.poster('y', two, one),
                   self.poster('z', one), self.poster('w', two)]
        for poster in posters:
            poster.go_on()
        self.wait(60)
        for poster in posters:
            self.assertGreater(len(poster.permits), 8, poster.name)

    def test_whoever_is_gone_keeps_nobody_waiting(self):
        wanted = limit((1, 1))
        first = self.poster('a', wanted, wants=2)
        second = self.poster('b', wanted, wants=1)
        first.go_on()
        second.go_on()
        # It does not come when it is woken.
        first.wants = 0
        self.wait(1.01)
        self.assertEqual(second.permits, [])
        self.wait(GRACE + 0.1)
        self.assertEqual(len(second.permits), 1)

    def test_close(self):
        wanted = limit((1, 1))
        first = self.poster('a', wanted, wants=2)
        second = self.poster('b', wanted, wants=1)
        first.go_on()
        second.go_on()
        first.claimant.close()
        self.wait(1.01)
        self.assertEqual(len(second.permits), 1)
        self.assertEqual(self.limiter.waiting, 0)

    def test_what_is_given_back_is_taken_at_once(self):
        wanted = limit((1, 100))
        claimant = self.limiter.claimant((wanted,), self.fail)
        permit = claimant.request()
        poster = self.poster('b', wanted, wants=1)
        poster.go_on()
        permit.unused()
        self.wait(0)
        self.assertEqual(len(poster.permits), 1)

    def test_another_process_gives_a_day_back(self):
        wanted = limit((1, 86400))
        other = Limiter(self.new_process(), self.loop)
        permit = other.claimant((wanted,), self.fail).request()
        poster = self.poster('b', wanted, wants=1)
        poster.go_on()
        permit.unused()
        self.wait(11)
        self.assertEqual(len(poster.permits), 1)

    def test_a_transaction_is_cut(self):
        wanted = limit((25, 60), unit='recipients')
        claimant = self.limiter.claimant((wanted,), self.fail)
        self.assertEqual(
            [claimant.request(10).recipients for _ in range(3)], [10, 10, 5])
        self.assertIsNone(claimant.request(10))

    def test_acquire(self):
        # A connection waits in the loop, and gives up its place.
        wanted = (limit((1, 0.05), unit='connects'),)

        async def connect():
            limiter = Limiter(self.new_process(), asyncio.get_running_loop())
            permit = await limiter.acquire(wanted)
            waiting = asyncio.ensure_future(limiter.acquire(wanted))
            await asyncio.sleep(0)
            self.assertEqual(limiter.waiting, 1)
            permit.unused()
            (await waiting).replied()
            lost = asyncio.ensure_future(limiter.acquire(wanted))
            await asyncio.sleep(0)
            lost.cancel()
            await asyncio.wait([lost])
            self.assertEqual(limiter.waiting, 0)
            await limiter.close()
        asyncio.run(connect())

    def test_what_is_used_is_written_to_the_disk(self):
        storage = self.new_process()
        synced = []
        storage.sync = lambda: synced.append(self.loop.time())
        limiter = Limiter(storage, self.loop)
        poster = self.poster('a', limit((1, 100)), limiter=limiter, wants=1)
        poster.go_on()
        self.wait(50)
        # Once, though nothing more happened.
        self.assertEqual(len(synced), 1)


class Slow:
    """A storage that answers when it is told to.

    :ivar asks: What was asked, and what takes the answer.
    """

    def __init__(self):
        self.asks = []
        self.given_back = []
        self.left = []

    def take(self, ask, answer):
        self.asks.append((ask, answer))

    def replied(self, taken):
        pass

    def unused(self, taken):
        self.given_back.append(taken)

    def leave(self, ask):
        self.left.append(ask)

    def sync(self):
        pass


class TestSlowStorage(LimiterCase):
    def setUp(self):
        super().setUp()
        self.storage = Slow()
        self.limiter = Limiter(self.storage, self.loop)
        self.wanted = (
            limit((9, 60)), limit((99, 60), unit='recipients'))

    def answer(self, recipients=None, seconds=1.0):
        ask, answer = self.storage.asks.pop(0)
        if recipients is None:
            answer(Refused(
                frozenset(each.key for each in ask.limits), seconds, 7))
        else:
            answer(Taken(ask.limits, recipients))

    def test_answered_later(self):
        poster = self.poster('a', *self.wanted, wants=1)
        poster.go_on()
        poster.go_on()
        self.assertEqual(len(self.storage.asks), 1)
        self.answer(1)
        self.assertEqual(len(poster.permits), 1)

    def test_refused_later(self):
        poster = self.poster('a', *self.wanted, wants=1)
        poster.go_on()
        self.answer()
        poster.go_on()
        self.assertEqual(self.storage.asks, [])
        self.wait(1.1)
        ((ask, _),) = self.storage.asks
        self.assertEqual(ask.ticket, 7)

    def test_one_asks_at_a_time(self):
        posters = [self.poster(name, *self.wanted, wants=1) for name in 'ab']
        for poster in posters:
            poster.go_on()
        self.assertEqual(len(self.storage.asks), 1)
        self.answer(1)
        self.wait(0)
        self.assertEqual(len(self.storage.asks), 1)
        self.answer(1)
        self.assertEqual(self.order, ['a', 'b'])

    def test_gone_before_the_answer(self):
        for recipients in (None, 3):
            claimant = self.limiter.claimant(self.wanted, self.fail)
            claimant.request(3)
            claimant.close()
            self.answer(recipients)
        self.assertEqual(len(self.storage.left), 1)
        self.assertEqual(len(self.storage.given_back), 1)

    def test_what_nobody_fetches_is_given_back(self):
        woken = []
        claimant = self.limiter.claimant(
            self.wanted, lambda: woken.append(True))
        claimant.request(3)
        self.answer(3)
        self.assertEqual(woken, [True])
        self.wait(GRACE + 0.1)
        self.assertEqual(
            self.storage.given_back, [Taken(self.wanted, 3)])

    def test_for_another_transaction_meanwhile(self):
        claimant = self.limiter.claimant(self.wanted, lambda: None)
        claimant.request(10)
        self.answer(10)
        permit = claimant.request(4)
        self.assertEqual(permit.recipients, 4)
        # The message goes all the same.
        self.assertEqual(
            self.storage.given_back, [Taken(self.wanted[1:], 6)])
        claimant.request(4)
        self.answer(4)
        self.assertIsNone(claimant.request(10, False))
        self.assertEqual(
            self.storage.given_back[1], Taken(self.wanted, 4))
        self.assertEqual(
            self.storage.asks[0][0], Ask(self.wanted, 10, False))
