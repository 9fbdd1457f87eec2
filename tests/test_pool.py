# SPDX-License-Identifier: GPL-3.0-or-later

"""The pool, with connections that go nowhere, and a clock that is set."""

import random
import unittest
import threading

from contextlib import contextmanager, ExitStack
from mailman_mta_pool.errors import PoolClosed, PoolTimeout, RelayUnavailable
from mailman_mta_pool.interfaces import IPool
from mailman_mta_pool.relays.pool import Pool
from mailman_mta_pool.settings import PoolSettings
from zope.interface.verify import verifyObject


PATIENCE = 20


class FakeConnection:
    """Remembers what was done to it."""

    def __init__(self, maker):
        self._maker = maker
        self.is_open = False
        self.alive = True
        self.quits = 0

    def open(self):
        self._maker.on_open(self)
        self.is_open = True

    def is_alive(self):
        return self.is_open and self.alive

    def quit(self):
        self._maker.on_quit(self)
        self.is_open = False
        self.quits += 1


class Maker:
    """Makes connections, and is told what happens to them."""

    def __init__(self):
        self.made = []

    def __call__(self):
        connection = FakeConnection(self)
        self.made.append(connection)
        return connection

    def on_open(self, connection):
        pass

    def on_quit(self, connection):
        pass

    @property
    def open_now(self):
        return [each for each in self.made if each.is_open]


class PoolTestCase(unittest.TestCase):
    def setUp(self):
        self.now = 1000.0
        self.luck = 0.0
        self.make = Maker()

    def pool(self, **settings):
        pool = Pool(self.make, PoolSettings(**settings),
                    clock=lambda: self.now, chance=lambda: self.luck)
        self.addCleanup(pool.close)
        return pool

    def use(self, pool, count=1):
        """Use so many connections at once, and give them back in order."""
        with ExitStack() as stack:
            return [stack.enter_context(pool.connection(0))
                    for _ in range(count)][::-1]

    def in_thread(self, function):
        """Start it; its result or exception is raised by the `join`."""
        results = []

        def run():
            try:
                results.append((function(), None))
            except BaseException as error:
                results.append((None, error))

        def join():
            thread.join(PATIENCE)
            self.assertFalse(thread.is_alive(), 'it hangs')
            result, error = results[0]
            if error is not None:
                raise error
            return result
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return join


class TestLoans(PoolTestCase):
    def test_interface(self):
        verifyObject(IPool, self.pool())

    def test_nothing_before_it_is_needed(self):
        threads = threading.active_count()
        pool = self.pool(max_connections=4)
        self.assertEqual(self.make.made, [])
        self.assertEqual(threading.active_count(), threads)
        self.assertEqual(repr(pool), '<Pool 0 in use, 0 idle, of at most 4>')

    def test_the_last_one_used_comes_first(self):
        pool = self.pool(max_connections=3)
        first, second, third = self.use(pool, 3)
        # `third` came back last.
        with pool.connection() as one, pool.connection() as two:
            self.assertEqual([one, two], [third, second])
        self.assertEqual(self.use(pool), [third])
        self.assertEqual(len(self.make.made), 3)

    def test_repr_and_statistics(self):
        pool = self.pool(max_connections=2)
        with pool.connection(), pool.connection():
            self.assertEqual(
                repr(pool), '<Pool 2 in use, 0 idle, of at most 2>')
        before = pool.statistics()
        self.assertEqual(before._asdict(), dict(
            max_connections=2, idle=2, in_use=0, opened=2, reused=0,
            expired=0, stale=0))
        self.use(pool)
        # It is a snapshot, and nobody can change it.
        self.assertEqual(before.reused, 0)
        with self.assertRaises(AttributeError):
            before.reused = 7
        self.assertEqual(pool.statistics().reused, 1)
        pool.close()
        self.assertEqual(
            repr(pool), '<Pool 0 in use, 0 idle, of at most 2, closed>')

    def test_never_more_than_allowed(self):
        pool = self.pool(max_connections=2)
        with pool.connection(), pool.connection():
            with self.assertRaises(PoolTimeout) as caught:
                self.use(pool)
            self.assertIsInstance(caught.exception, TimeoutError)
            self.assertIn('2 in use', str(caught.exception))
        # Whoever gave up has left nothing behind.
        self.use(pool, 2)

    def test_a_waiter_gets_what_comes_back(self):
        pool = self.pool(max_connections=1)

        def borrow():
            with pool.connection(PATIENCE) as connection:
                return connection
        with pool.connection() as mine:
            join = self.in_thread(borrow)
        self.assertIs(join(), mine)
        self.assertEqual(pool.statistics().in_use, 0)

    def test_slot_is_free_again_when_it_cannot_be_opened(self):
        def on_open(connection):
            raise RelayUnavailable('relay:25', 'connect', 'refused')
        self.make.on_open = on_open
        pool = self.pool(max_connections=1)
        for _ in range(3):
            with self.assertRaises(RelayUnavailable):
                self.use(pool)
        del self.make.on_open
        self.use(pool)
        self.assertEqual(pool.statistics().opened, 1)

    def test_slot_is_free_again_after_any_exception(self):
        pool = self.pool(max_connections=1)
        for kind in (ValueError, KeyboardInterrupt):
            with self.assertRaises(kind):
                with pool.connection(0):
                    raise kind
        self.assertEqual(pool.statistics().in_use, 0)

    def test_slot_is_free_again_when_quitting_fails(self):
        # Another package's connection may not be as careful as ours.
        def on_quit(connection):
            raise OSError('already gone')
        pool = self.pool(max_connections=1, max_lifetime=10)
        self.make.on_quit = on_quit
        with self.assertRaises(OSError):
            with pool.connection():
                self.now += 11
        del self.make.on_quit
        self.assertEqual(pool.statistics().in_use, 0)
        self.use(pool)

    def test_closed_while_in_use_is_not_kept(self):
        pool = self.pool(max_connections=1)
        with pool.connection() as connection:
            # It has carried its maximum of messages, or was lost.
            connection.quit()
        self.assertEqual(pool.statistics().idle, 0)
        self.assertIsNot(self.use(pool)[0], connection)


class TestEnds(PoolTestCase):
    def test_idle_for_too_long(self):
        pool = self.pool(max_connections=2, idle_timeout=10)
        self.assertIsNone(pool.close_expired())
        old, = self.use(pool)
        self.assertEqual(pool.close_expired(), 10)
        self.now += 9
        self.assertEqual(pool.close_expired(), 1)
        self.assertTrue(old.is_open)
        self.now += 1
        self.assertIsNone(pool.close_expired())
        self.assertEqual(old.quits, 1)
        self.assertEqual(pool.statistics().expired, 1)

    def test_use_begins_it_anew(self):
        pool = self.pool(idle_timeout=10)
        for _ in range(5):
            self.use(pool)
            self.now += 9
        self.assertEqual(len(self.make.made), 1)

    def test_not_used_after_its_time(self):
        pool = self.pool(idle_timeout=10)
        old, = self.use(pool)
        self.now += 10
        self.assertIsNot(self.use(pool)[0], old)
        self.assertEqual(old.quits, 1)

    def test_zero_keeps_none_after_a_post(self):
        pool = self.pool(max_connections=3, idle_timeout=0)
        first, = self.use(pool)
        # During a post it is used again all the same.
        self.assertEqual(self.use(pool), [first])
        threads = threading.active_count()
        pool.tend()
        self.assertEqual(threading.active_count(), threads)
        self.assertEqual(self.make.open_now, [])

    def test_lifetime(self):
        pool = self.pool(idle_timeout=1000, max_lifetime=60)
        old, = self.use(pool)
        for _ in range(5):
            self.now += 11.9
            self.assertEqual(self.use(pool), [old])
        self.assertAlmostEqual(pool.close_expired(), 0.5)
        self.now += 0.6
        self.assertIsNot(self.use(pool)[0], old)
        self.assertEqual(pool.statistics().expired, 1)

    def test_lifetime_ends_while_in_use(self):
        pool = self.pool(max_lifetime=60)
        with pool.connection() as connection:
            self.now += 61
        self.assertEqual(connection.quits, 1)
        self.assertEqual(pool.statistics().idle, 0)
        self.assertEqual(pool.statistics().in_use, 0)

    def test_lifetime_is_up_to_a_tenth_less_by_chance(self):
        pool = self.pool(
            max_connections=3, idle_timeout=1000, max_lifetime=100)
        with ExitStack() as stack:
            for self.luck in (0.0, 0.5, 1.0):
                stack.enter_context(pool.connection())
        left = []
        for self.now in (1089.9, 1090.1, 1094.9, 1095.1, 1099.9, 1100.1):
            pool.close_expired()
            left.append(pool.statistics().idle)
        self.assertEqual(left, [3, 2, 2, 1, 1, 0])

    def test_no_limits(self):
        pool = self.pool(idle_timeout=1e9, max_lifetime=0)
        old, = self.use(pool)
        self.now += 1e8
        self.assertEqual(self.use(pool), [old])

    def test_stale_ones_are_replaced(self):
        pool = self.pool(max_connections=3)
        first, second, third = self.use(pool, 3)
        second.alive = third.alive = False
        self.assertEqual(self.use(pool), [first])
        self.assertEqual((second.quits, third.quits), (1, 1))
        self.assertEqual(pool.statistics().stale, 2)
        self.assertEqual(pool.statistics().reused, 1)

    def test_close_while_some_are_in_use(self):
        pool = self.pool(max_connections=2)
        idle, = self.use(pool)
        with pool.connection(), pool.connection() as mine:
            pool.close()
            self.assertTrue(mine.is_open)
            with self.assertRaises(PoolClosed):
                self.use(pool)
        self.assertEqual(self.make.open_now, [])
        self.assertEqual(idle.quits, 1)
        with self.assertRaises(PoolClosed):
            self.use(pool)
        pool.close()

    def test_close_ends_the_waiting(self):
        pool = self.pool(max_connections=1)
        waiting = threading.Event()

        def wait():
            waiting.set()
            with pool.connection(PATIENCE):
                pass
        with pool.connection():
            join = self.in_thread(wait)
            waiting.wait(PATIENCE)
            pool.close()
            with self.assertRaises(PoolClosed):
                join()


class TestTending(unittest.TestCase):
    """The thread that closes idle connections, with the real clock."""

    def setUp(self):
        self.make = Maker()
        self.closed = threading.Semaphore(0)
        self.make.on_quit = lambda connection: self.closed.release()

    def pool(self, idle_timeout=0.02):
        pool = Pool(self.make, PoolSettings(
            max_connections=2, idle_timeout=idle_timeout))
        self.addCleanup(pool.close)
        return pool

    def test_it_closes_and_ends(self):
        pool = self.pool()
        for _ in range(2):
            with pool.connection():
                pass
            pool.tend()
            self.assertTrue(self.closed.acquire(timeout=PATIENCE))
            for thread in threading.enumerate():
                if thread.name == 'mta-pool-idle':
                    thread.join(PATIENCE)
            self.assertNotIn('mta-pool-idle', [
                thread.name for thread in threading.enumerate()])

    def test_what_comes_back_meanwhile_is_seen_to_as_well(self):
        quitting, go_on = threading.Event(), threading.Event()

        def slow_quit(connection):
            quitting.set()
            go_on.wait(PATIENCE)
            self.make.on_quit = lambda connection: self.closed.release()
        self.make.on_quit = slow_quit
        pool = self.pool(0.5)
        with pool.connection():
            with pool.connection():
                pass
            pool.tend()
            quitting.wait(PATIENCE)
        # The second one came back while the first one was being closed.
        go_on.set()
        self.assertTrue(self.closed.acquire(timeout=PATIENCE))


class TestThreads(PoolTestCase):
    @contextmanager
    def stuck(self):
        """A function that blocks whoever calls it, until the end."""
        reached, go_on = threading.Event(), threading.Event()

        def block(connection):
            reached.set()
            go_on.wait(PATIENCE)
        try:
            yield block, reached
        finally:
            go_on.set()

    def test_a_slow_quit_holds_up_nobody(self):
        pool = self.pool(max_connections=2, idle_timeout=10)
        self.use(pool)
        self.now += 10
        with self.stuck() as (self.make.on_quit, reached):
            join = self.in_thread(pool.close_expired)
            self.assertTrue(reached.wait(PATIENCE))
            self.use(pool)
            self.assertEqual(pool.statistics().expired, 1)
            repr(pool)
        join()

    def test_a_slow_handshake_holds_up_nobody(self):
        pool = self.pool(max_connections=2)
        ready, = self.use(pool)
        with pool.connection(), self.stuck() as (self.make.on_open, reached):
            join = self.in_thread(lambda: self.use(pool))
            self.assertTrue(reached.wait(PATIENCE))
            self.assertEqual(pool.statistics().in_use, 2)
        join()
        self.assertEqual(len(self.use(pool, 2)), 2)

    def test_hammer(self):
        pool = self.pool(max_connections=4, max_lifetime=50)
        lock, in_use, most = threading.Lock(), set(), []
        barrier = threading.Barrier(16)

        def hammer(seed):
            chance = random.Random(seed)
            barrier.wait(PATIENCE)
            for _ in range(200):
                with pool.connection(PATIENCE) as connection:
                    with lock:
                        # Nobody else has it.
                        self.assertNotIn(connection, in_use)
                        in_use.add(connection)
                        most.append(len(in_use))
                        self.now += 1
                    fate = chance.random()
                    if fate < 0.05:
                        connection.quit()
                    elif fate < 0.1:
                        connection.alive = False
                    with lock:
                        in_use.remove(connection)
                if fate > 0.95:
                    pool.close_expired()
        for join in [self.in_thread(lambda seed=seed: hammer(seed))
                     for seed in range(16)]:
            join()
        stats = pool.statistics()
        self.assertLessEqual(max(most), 4)
        self.assertEqual(stats.in_use, 0)
        self.assertEqual(stats.idle, len(self.make.open_now))
        self.assertEqual(stats.opened + stats.reused, 16 * 200)
        self.assertEqual(stats.opened, len(self.make.made))
        pool.close()
        self.assertEqual(self.make.open_now, [])
