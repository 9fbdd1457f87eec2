# SPDX-License-Identifier: GPL-3.0-or-later

"""The pool, with connections that go nowhere, and a clock that is set."""

import random
import asyncio
import unittest

from mailman_mta_pool.errors import (
    PoolClosed,
    RelayUnavailable,
    UnavailableHere,
)
from mailman_mta_pool.interfaces import IPool, ISlots
from mailman_mta_pool.relays.pool import EndlessSlots, Pool
from mailman_mta_pool.relays.slots import Slots
from mailman_mta_pool.relays.states import Event, MOVES, State
from mailman_mta_pool.settings import PoolSettings
from zope.interface import implementer
from zope.interface.verify import verifyObject


PATIENCE = 20


class FakeConnection:
    """Remembers what was done to it."""

    def __init__(self, maker):
        self._maker = maker
        self.is_open = False
        self.alive = True
        self.quits = self.wakes = 0

    async def open(self):
        await self._maker.on_open(self)
        self.is_open = True

    def is_alive(self):
        return self.is_open and self.alive

    async def disconnect(self):
        self.is_open = False
        self.quits += 1
        return await self._maker.on_quit(self)

    def wake(self):
        self.wakes += 1


class Maker:
    """Makes connections, and is told what happens to them."""

    def __init__(self):
        self.made = []

    def __call__(self):
        connection = FakeConnection(self)
        self.made.append(connection)
        return connection

    async def on_open(self, connection):
        pass

    async def on_quit(self, connection):
        # The server answers.
        return True

    @property
    def open_now(self):
        return [each for each in self.made if each.is_open]


class PoolTestCase(unittest.IsolatedAsyncioTestCase):
    def setUp(self):
        self.now = 1000.0
        self.luck = 0.0
        self.make = Maker()

    def pool(self, **settings):
        return Pool(self.make, PoolSettings(**settings),
                    clock=lambda: self.now, chance=lambda: self.luck)

    async def acquire(self, pool):
        connection, is_reused = await asyncio.wait_for(
            pool.acquire(), PATIENCE)
        return connection

    async def use(self, pool, count=1):
        """Use so many connections at once, and give them back in order."""
        connections = [await self.acquire(pool) for _ in range(count)]
        for connection in connections:
            pool.release(connection)
        await self.rest()
        return connections

    async def rest(self):
        """Let the tasks that were started do what they can."""
        for _ in range(5):
            await asyncio.sleep(0)


class TestUse(PoolTestCase):
    async def test_interface(self):
        verifyObject(IPool, self.pool())

    def test_nothing_before_it_is_needed(self):
        # There need not even be an event loop.
        pool = self.pool(max_connections=4)
        self.assertEqual(self.make.made, [])
        self.assertEqual(repr(pool), '<Pool 0 in use, 0 idle, of at most 4>')

    async def test_the_last_one_used_comes_first(self):
        pool = self.pool(max_connections=3)
        first, second, third = await self.use(pool, 3)
        # `third` came back last.
        self.assertEqual(await self.use(pool, 2), [third, second])
        self.assertEqual(len(self.make.made), 3)

    async def test_it_tells_whether_it_was_open(self):
        pool = self.pool()
        for expected in (False, True):
            connection, is_reused = await pool.acquire()
            self.assertIs(is_reused, expected)
            pool.release(connection)

    async def test_repr_and_statistics(self):
        pool = self.pool(max_connections=2)
        both = [await self.acquire(pool) for _ in range(2)]
        self.assertEqual(repr(pool), '<Pool 2 in use, 0 idle, of at most 2>')
        for each in both:
            pool.release(each)
        before = pool.statistics()
        self.assertEqual(before._asdict(), dict(
            max_connections=2, idle=2, in_use=0, opened=2, reused=0,
            expired=0, stale=0, broken=0))
        await self.use(pool)
        # It is a snapshot, and nobody can change it.
        self.assertEqual(before.reused, 0)
        with self.assertRaises(AttributeError):
            before.reused = 7
        self.assertEqual(pool.statistics().reused, 1)
        pool.note_broken()
        self.assertEqual(pool.statistics().broken, 1)
        await pool.close()
        self.assertEqual(
            repr(pool), '<Pool 0 in use, 0 idle, of at most 2, closed>')

    async def test_never_more_than_allowed(self):
        pool = self.pool(max_connections=2)
        both = [await self.acquire(pool) for _ in range(2)]
        with self.assertRaises(asyncio.TimeoutError):
            await asyncio.wait_for(pool.acquire(), 0.01)
        self.assertEqual(len(self.make.made), 2)
        # Whoever gave up has left nothing behind.
        for each in both:
            pool.release(each)
        self.assertEqual(set(await self.use(pool, 2)), set(both))

    async def test_a_waiter_gets_what_comes_back(self):
        pool = self.pool(max_connections=1)
        mine = await self.acquire(pool)
        waiting = asyncio.ensure_future(self.acquire(pool))
        await self.rest()
        pool.release(mine)
        self.assertIs(await waiting, mine)

    async def test_a_waiter_that_is_cancelled_leaves_it_to_the_next(self):
        pool = self.pool(max_connections=1)
        mine = await self.acquire(pool)
        first = asyncio.ensure_future(pool.acquire())
        second = asyncio.ensure_future(self.acquire(pool))
        await self.rest()
        pool.release(mine)
        # It has been told, but not yet come.
        first.cancel()
        self.assertIs(await second, mine)
        self.assertTrue(first.cancelled())

    async def test_a_waiter_that_does_not_want_it_any_more(self):
        pool = self.pool(max_connections=1)
        mine = await self.acquire(pool)
        first = asyncio.ensure_future(pool.acquire(lambda: False))
        second = asyncio.ensure_future(self.acquire(pool))
        await self.rest()
        pool.release(mine)
        self.assertIs(await second, mine)
        self.assertIsNone(await first)
        self.assertEqual(len(self.make.made), 1)

    async def test_slot_is_free_again_when_it_cannot_be_opened(self):
        async def on_open(connection):
            raise RelayUnavailable('relay:25', 'connect', 'refused')
        self.make.on_open = on_open
        pool = self.pool(max_connections=1)
        for _ in range(3):
            with self.assertRaises(RelayUnavailable):
                await self.use(pool)
        del self.make.on_open
        await self.use(pool)
        self.assertEqual(pool.statistics().opened, 1)

    async def test_slot_is_free_again_when_opening_is_cancelled(self):
        async def on_open(connection):
            await asyncio.Event().wait()
        self.make.on_open = on_open
        pool = self.pool(max_connections=1)
        task = asyncio.ensure_future(self.acquire(pool))
        await self.rest()
        task.cancel()
        await self.rest()
        del self.make.on_open
        await self.use(pool)

    async def test_slot_is_free_again_when_quitting_fails(self):
        # Another package's connection may not be as careful as ours.
        async def on_quit(connection):
            raise OSError('already gone')
        pool = self.pool(max_connections=1, max_lifetime=10)
        self.make.on_quit = on_quit
        connection = await self.acquire(pool)
        self.now += 11
        pool.release(connection)
        self.assertIsNot((await self.use(pool))[0], connection)

    async def test_closed_while_in_use_is_not_kept(self):
        pool = self.pool(max_connections=1)
        connection = await self.acquire(pool)
        # It has carried its maximum of messages, or was lost.
        await connection.disconnect()
        pool.release(connection)
        self.assertEqual(pool.statistics().idle, 0)
        self.assertIsNot((await self.use(pool))[0], connection)


class TestEnds(PoolTestCase):
    async def test_idle_for_too_long(self):
        pool = self.pool(max_connections=2, idle_timeout=10)
        self.assertIsNone(pool.close_expired())
        old, = await self.use(pool)
        self.assertEqual(pool.close_expired(), 10)
        self.now += 9
        self.assertEqual(pool.close_expired(), 1)
        self.assertTrue(old.is_open)
        self.now += 1
        self.assertIsNone(pool.close_expired())
        await self.rest()
        self.assertEqual(old.quits, 1)
        self.assertEqual(pool.statistics().expired, 1)

    async def test_nobody_has_to_ask(self):
        closed = asyncio.Event()

        async def on_quit(connection):
            closed.set()
        self.make.on_quit = on_quit
        loop = asyncio.get_running_loop()
        pool = Pool(self.make, PoolSettings(idle_timeout=0.01),
                    clock=loop.time)
        await self.use(pool)
        await asyncio.wait_for(closed.wait(), PATIENCE)
        self.assertEqual(pool.statistics().expired, 1)

    async def test_use_begins_it_anew(self):
        pool = self.pool(idle_timeout=10)
        for _ in range(5):
            await self.use(pool)
            self.now += 9
        self.assertEqual(len(self.make.made), 1)

    async def test_not_used_after_its_time(self):
        pool = self.pool(idle_timeout=10)
        old, = await self.use(pool)
        self.now += 10
        self.assertIsNot((await self.use(pool))[0], old)
        self.assertEqual(old.quits, 1)

    async def test_zero_keeps_none(self):
        pool = self.pool(max_connections=3, idle_timeout=0)
        await self.use(pool)
        self.assertEqual(self.make.open_now, [])
        self.assertEqual(pool.statistics().idle, 0)

    async def test_lifetime(self):
        pool = self.pool(idle_timeout=1000, max_lifetime=60)
        old, = await self.use(pool)
        for _ in range(5):
            self.now += 11.9
            self.assertEqual(await self.use(pool), [old])
        self.assertAlmostEqual(pool.close_expired(), 0.5)
        self.now += 0.6
        self.assertIsNot((await self.use(pool))[0], old)
        self.assertEqual(pool.statistics().expired, 1)

    async def test_lifetime_ends_while_in_use(self):
        pool = self.pool(max_lifetime=60)
        connection = await self.acquire(pool)
        self.now += 61
        pool.release(connection)
        await self.rest()
        self.assertEqual(connection.quits, 1)
        self.assertEqual(pool.statistics().idle, 0)
        self.assertEqual(pool.statistics().in_use, 0)

    async def test_lifetime_is_up_to_a_tenth_less_by_chance(self):
        pool = self.pool(
            max_connections=3, idle_timeout=1000, max_lifetime=100)
        connections = []
        for self.luck in (0.0, 0.5, 1.0):
            connections.append(await self.acquire(pool))
        for connection in connections:
            pool.release(connection)
        left = []
        for self.now in (1089.9, 1090.1, 1094.9, 1095.1, 1099.9, 1100.1):
            pool.close_expired()
            left.append(pool.statistics().idle)
        self.assertEqual(left, [3, 2, 2, 1, 1, 0])

    async def test_no_limits(self):
        pool = self.pool(idle_timeout=1e9, max_lifetime=0)
        old, = await self.use(pool)
        self.now += 1e8
        self.assertEqual(await self.use(pool), [old])

    async def test_stale_ones_are_replaced(self):
        pool = self.pool(max_connections=3)
        first, second, third = await self.use(pool, 3)
        second.alive = third.alive = False
        self.assertEqual(await self.use(pool), [first])
        self.assertEqual((second.quits, third.quits), (1, 1))
        self.assertEqual(pool.statistics().stale, 2)
        self.assertEqual(pool.statistics().reused, 1)

    async def test_all_idle_ones_at_once(self):
        pool = self.pool(max_connections=3)
        await self.use(pool, 3)
        pool.close_idle()
        await self.rest()
        self.assertEqual(self.make.open_now, [])
        # It goes on with others.
        await self.use(pool)

    async def test_close_while_some_are_in_use(self):
        pool = self.pool(max_connections=2)
        idle, mine = await self.use(pool, 2)
        self.assertIs(await self.acquire(pool), mine)
        await pool.close()
        self.assertTrue(mine.is_open)
        self.assertEqual(idle.quits, 1)
        with self.assertRaises(PoolClosed):
            await self.use(pool)
        pool.release(mine)
        await self.rest()
        self.assertEqual(self.make.open_now, [])
        await pool.close()

    async def test_close_ends_the_waiting(self):
        pool = self.pool(max_connections=1)
        await self.acquire(pool)
        waiting = asyncio.ensure_future(self.acquire(pool))
        await self.rest()
        await pool.close()
        with self.assertRaises(PoolClosed):
            await waiting


class TestSlow(PoolTestCase):
    def stuck(self):
        """What never returns, until `go_on` is set."""
        async def block(connection):
            self.reached += 1
            await self.go_on.wait()
        self.reached = 0
        self.go_on = asyncio.Event()
        return block

    async def test_a_slow_quit_holds_up_nobody(self):
        pool = self.pool(max_connections=2, idle_timeout=10)
        await self.use(pool)
        self.now += 10
        self.make.on_quit = self.stuck()
        pool.close_expired()
        await self.use(pool)
        self.assertEqual(self.reached, 1)
        self.assertEqual(pool.statistics().expired, 1)

    async def test_a_connection_has_its_slot_until_it_is_closed(self):
        # Or the server would see one too many.
        pool = self.pool(max_connections=1, idle_timeout=10)
        await self.use(pool)
        self.now += 10
        self.make.on_quit = self.stuck()
        pool.close_expired()
        another = asyncio.ensure_future(self.acquire(pool))
        await self.rest()
        self.assertFalse(another.done())
        self.go_on.set()
        await another

    async def test_slow_quits_take_place_at_once(self):
        pool = self.pool(max_connections=4)
        await self.use(pool, 4)
        self.make.on_quit = self.stuck()
        closing = asyncio.ensure_future(pool.close())
        await self.rest()
        self.assertEqual(self.reached, 4)
        self.go_on.set()
        await closing

    async def test_a_slow_handshake_holds_up_nobody(self):
        pool = self.pool(max_connections=2)
        await self.use(pool)
        ready = await self.acquire(pool)
        self.make.on_open = self.stuck()
        another = asyncio.ensure_future(self.acquire(pool))
        await self.rest()
        pool.release(ready)
        self.assertEqual(await self.use(pool), [ready])
        self.go_on.set()
        pool.release(await another)
        self.assertEqual(len(await self.use(pool, 2)), 2)

    async def test_hammer(self):
        pool = self.pool(max_connections=4, max_lifetime=50)
        in_use, most = set(), []

        async def hammer(seed):
            chance = random.Random(seed)
            for _ in range(200):
                connection = await self.acquire(pool)
                # Nobody else has it.
                self.assertNotIn(connection, in_use)
                in_use.add(connection)
                most.append(len(in_use))
                self.now += 1
                for _ in range(chance.randrange(3)):
                    await asyncio.sleep(0)
                fate = chance.random()
                if fate < 0.05:
                    await connection.disconnect()
                elif fate < 0.1:
                    connection.alive = False
                in_use.remove(connection)
                pool.release(connection)
                if fate > 0.95:
                    pool.close_expired()
        await asyncio.gather(*map(hammer, range(16)))
        await self.rest()
        stats = pool.statistics()
        self.assertEqual(max(most), 4)
        self.assertEqual(stats.in_use, 0)
        self.assertEqual(stats.idle, len(self.make.open_now))
        self.assertEqual(stats.opened + stats.reused, 16 * 200)
        self.assertEqual(stats.opened, len(self.make.made))
        await pool.close()
        self.assertEqual(self.make.open_now, [])


@implementer(ISlots)
class FakeSlots:
    """As many slots as the test says, and what the pool did with them.

    :ivar free: How many the others have left.
    :ivar wanted: For how many the pool waits.
    :ivar idle_to_give: How many connections are to be closed for others if
        they are idle.
    :ivar busy_to_give: Likewise, if they have no transaction.
    :ivar held: Those that the pool has.
    :ivar released: True or False for each that came back: was it clean?
    :ivar closed: How often it was closed.
    """

    def __init__(self, free):
        self.free = free
        self.wanted = self.idle_to_give = self.busy_to_give = 0
        self.closed = self._count = 0
        self.held = set()
        self.released = []

    def take(self):
        if self.free < 1:
            return None
        self.free -= 1
        self._count += 1
        self.held.add(self._count)
        return self._count

    def release(self, slot, is_clean=True):
        self.held.remove(slot)
        self.free += 1
        self.released.append(is_clean)

    def want(self, count):
        self.wanted = count

    def listen(self, on_free, on_wanted):
        self._on_free, self._on_wanted = on_free, on_wanted

    def gives_back_idle(self):
        self.idle_to_give -= 1
        return self.idle_to_give >= 0

    def gives_back_busy(self):
        self.busy_to_give -= 1
        return self.busy_to_give >= 0

    def close(self):
        self.closed += 1

    # What the others do.

    def let_go(self, count):
        """Others give so many up."""
        self.free += count
        self._on_free()

    def ask_for(self, idle=0, busy=0):
        """Others want so many."""
        self.idle_to_give, self.busy_to_give = idle, busy
        self._on_wanted()


class TestSlots(PoolTestCase):
    """The ceiling of all processes of the host."""

    def with_slots(self, free, **settings):
        self.slots = FakeSlots(free)
        settings = {'max_connections': 3, **settings}
        return Pool(self.make, PoolSettings(**settings), slots=self.slots,
                    clock=lambda: self.now, chance=lambda: self.luck)

    def come(self, pool, count=1, **kws):
        return [asyncio.ensure_future(pool.acquire(**kws))
                for _ in range(count)]

    def done(self, tasks):
        return [task.result()[0] for task in tasks if task.done()]

    async def test_interface(self):
        for slots in EndlessSlots(), FakeSlots(1), Slots('/nowhere', 'mx', 3):
            with self.subTest(slots):
                verifyObject(ISlots, slots)

    async def test_each_connection_has_one(self):
        pool = self.with_slots(3)
        agents = self.come(pool, 2)
        await self.rest()
        self.assertEqual(len(self.slots.held), 2)
        for connection in self.done(agents):
            pool.release(connection)
        # Idle ones count.
        self.assertEqual(len(self.slots.held), 2)
        await self.use(pool)
        self.assertEqual(len(self.slots.held), 2)
        pool.close_idle()
        await self.rest()
        self.assertEqual(self.slots.held, set())
        self.assertEqual(self.slots.released, [True, True])

    async def test_it_waits_for_others(self):
        pool = self.with_slots(1)
        agents = self.come(pool, 3)
        await self.rest()
        self.assertEqual(len(self.done(agents)), 1)
        self.assertEqual(self.slots.wanted, 2)
        self.slots.let_go(1)
        await self.rest()
        self.assertEqual(len(self.done(agents)), 2)
        self.assertEqual(self.slots.wanted, 1)
        # Nothing became free after all.
        self.slots.let_go(0)
        await self.rest()
        self.assertEqual(self.slots.wanted, 1)
        self.slots.let_go(1)
        await self.rest()
        self.assertEqual(len(self.done(agents)), 3)
        self.assertEqual(self.slots.wanted, 0)

    async def test_all_who_wait_are_told_of_several(self):
        pool = self.with_slots(0)
        agents = self.come(pool, 3)
        await self.rest()
        self.slots.let_go(3)
        await self.rest()
        self.assertEqual(len(self.done(agents)), 3)

    async def test_it_wants_no_more_than_it_may_have(self):
        pool = self.with_slots(2, max_connections=3)
        agents = self.come(pool, 7)
        await self.rest()
        self.assertEqual(self.slots.wanted, 1)
        self.slots.let_go(5)
        await self.rest()
        self.assertEqual(self.slots.wanted, 0)
        # One that is closed is its own again, if nobody was quicker.
        self.slots.free = -1
        connection = self.done(agents)[0]
        await connection.disconnect()
        pool.release(connection)
        await self.rest()
        self.assertEqual(self.slots.wanted, 1)

    async def test_a_connection_that_comes_back_is_as_good(self):
        pool = self.with_slots(1)
        mine = await self.acquire(pool)
        waiting = asyncio.ensure_future(self.acquire(pool))
        await self.rest()
        self.assertEqual(self.slots.wanted, 1)
        pool.release(mine)
        self.assertIs(await waiting, mine)
        self.assertEqual(self.slots.wanted, 0)

    async def test_who_does_not_wait_any_more(self):
        pool = self.with_slots(0)
        wanted = [True, True]
        agents = [*self.come(pool, is_wanted=lambda: wanted[0]),
                  *self.come(pool, is_wanted=lambda: wanted[1])]
        await self.rest()
        pool.dismiss_unwanted()
        await self.rest()
        self.assertEqual(self.slots.wanted, 2)
        wanted[0] = False
        pool.dismiss_unwanted()
        self.assertIsNone(await agents[0])
        self.assertEqual(self.slots.wanted, 1)
        self.slots.let_go(1)
        await agents[1]

    async def test_who_is_cancelled(self):
        pool = self.with_slots(0)
        first, second = self.come(pool, 2)
        await self.rest()
        self.slots.let_go(1)
        # It has been told, but not yet come.
        first.cancel()
        await second
        self.assertEqual(self.slots.wanted, 0)

    async def test_time_begins_when_it_opens(self):
        pool = self.with_slots(0)
        steps = []
        told = dict(queued=lambda: steps.append('queued'),
                    opening=lambda: steps.append(len(self.make.made)))
        agent, = self.come(pool, **told)
        await self.rest()
        self.assertEqual(steps, ['queued'])
        self.slots.let_go(1)
        await agent
        self.assertEqual(steps, ['queued', 0])
        pool.release(self.make.made[0])
        # Nothing is opened.
        await pool.acquire(**told)
        self.assertEqual(steps, ['queued', 0])

    async def test_no_more_files(self):
        pool = self.with_slots(0)
        agent, = self.come(pool)
        await self.rest()

        def take():
            raise UnavailableHere('mx:25', 'connect', 'too many open files')
        self.slots.take = take
        self.slots.let_go(1)
        with self.assertRaises(UnavailableHere):
            await agent
        self.assertEqual(self.slots.wanted, 0)
        del self.slots.take
        await self.use(pool)
        self.assertEqual(pool.statistics().opened, 1)

    async def test_idle_ones_are_given_up(self):
        pool = self.with_slots(3)
        first, second, third = await self.use(pool, 3)
        self.slots.ask_for(idle=2)
        await self.rest()
        # The last one that was used is the best.
        self.assertEqual(self.make.open_now, [third])
        self.assertEqual(len(self.slots.held), 1)
        self.assertEqual(pool.statistics().idle, 1)
        self.assertEqual(await self.use(pool), [third])

    async def test_whoever_uses_one_is_asked(self):
        pool = self.with_slots(3)
        mine = await self.acquire(pool)
        self.slots.ask_for(idle=1, busy=1)
        # It may have had nothing to do.
        self.assertEqual(mine.wakes, 1)
        self.assertTrue(mine.is_open)
        self.assertTrue(pool.gives_back_busy())
        self.assertFalse(pool.gives_back_busy())
        await mine.disconnect()
        pool.release(mine)
        await self.rest()
        self.assertEqual(self.slots.released, [True])

    async def test_the_server_may_not_know(self):
        pool = self.with_slots(3)

        async def fail(error):
            raise error
        for opening, is_clean in (
                (RelayUnavailable('mx:25', 'connect', 'refused'), True),
                (RelayUnavailable('mx:25', 'greeting', '421'), False),
                (RelayUnavailable('mx:25', 'AUTH', 'timeout'), False),
                (ValueError('a mistake'), False)):
            with self.subTest(opening):
                self.make.on_open = lambda each: fail(opening)
                with self.assertRaises(type(opening)):
                    await self.acquire(pool)
                self.assertEqual(self.slots.released.pop(), is_clean)
        del self.make.on_open
        for answer, is_clean in (
                (False, False), (None, False), (True, True),
                (OSError('already gone'), False)):
            with self.subTest(answer):
                async def on_quit(connection):
                    if isinstance(answer, OSError):
                        raise answer
                    return answer
                self.make.on_quit = on_quit
                await self.use(pool)
                pool.close_idle()
                await self.rest()
                self.assertEqual(self.slots.released.pop(), is_clean)
        self.assertEqual(self.slots.held, set())

    async def test_nothing_is_kept_after_the_end(self):
        pool = self.with_slots(2)
        idle, mine = await self.use(pool, 2)
        await self.acquire(pool)
        await pool.close()
        # A slot is in use, and its release is to be seen by others.
        self.assertEqual((len(self.slots.held), self.slots.closed), (1, 0))
        pool.release(mine)
        await self.rest()
        self.assertEqual((len(self.slots.held), self.slots.closed), (0, 1))

    async def test_who_waits_at_the_end(self):
        pool = self.with_slots(0)
        agent, = self.come(pool)
        await self.rest()
        await pool.close()
        with self.assertRaises(PoolClosed):
            await agent
        self.assertEqual((self.slots.wanted, self.slots.closed), (0, 1))

    async def test_the_network_thread_has_ended(self):
        pool = self.with_slots(3)
        await self.use(pool, 3)
        pool.abandon()
        self.assertEqual(self.slots.closed, 1)


class Life:
    """A connection with a pool of its own, and what can happen to it.

    The methods named by `Event` make the event happen, as far as the test
    decides: an agent comes, the server answers, time passes.
    """

    def __init__(self, case):
        self._case = case
        self._answers = {}
        case.make = maker = Maker()
        maker.on_open = maker.on_quit = self._until_answered
        self.pool = case.pool(
            max_connections=1, idle_timeout=60, max_lifetime=600)
        self._agent = None
        self._connection = None

    async def _until_answered(self, connection):
        answer = self._answers[connection] = asyncio.Future()
        try:
            await answer
        finally:
            del self._answers[connection]

    def _answer(self, error=None):
        answer = self._answers[self._connection]
        if error is None:
            answer.set_result(None)
        else:
            answer.set_exception(error)

    def _come(self):
        self._agent = asyncio.ensure_future(self.pool.acquire())
        # What becomes of an agent that comes in vain is not told here.
        self._agent.add_done_callback(
            lambda agent: agent.cancelled() or agent.exception())

    @property
    def state(self):
        """The state, by what the pool says and what it does to it."""
        statistics = self.pool.statistics()
        if self._connection in self._answers:
            return (State.closing if self._connection.quits
                    else State.opening)
        if self._connection is None or not self._connection.is_open:
            return State.closed
        return {(0, 1): State.in_use, (1, 0): State.idle}[
            statistics.idle, statistics.in_use]

    async def let(self, event, how=0):
        """Make an event happen, in one of the ways in which it can."""
        ways = {
            Event.wanted: [self._come],
            Event.opened: [self._answer],
            Event.failed: [
                lambda: self._answer(RelayUnavailable('mta:25', 'AUTH', '')),
                lambda: self._agent.cancel()],
            Event.released: [self._release],
            Event.given_up: [self._lose, self._wear_out, self._end],
            Event.taken: [self._come],
            Event.expired: [self._wait, self._wear_out_idle, self._wait_long],
            Event.stale: [self._go_stale],
            Event.dismissed: [self.pool.close_idle, self._end],
            Event.ended: [
                self._answer,
                lambda: self._answer(ConnectionResetError())],
            }[event]
        ways[how]()
        await self._case.rest()
        if self._connection is None:
            self._connection, = self._case.make.made
        return how + 1 < len(ways)

    def _release(self):
        self.pool.release(self._connection)

    def _lose(self):
        self._connection.is_open = False
        self._release()

    def _wear_out(self):
        self._case.now += 600
        self._release()

    def _end(self):
        asyncio.ensure_future(self.pool.close())
        if self.pool.statistics().in_use:
            self._case.now += 1
            asyncio.get_running_loop().call_soon(self._release)

    def _wait(self):
        self._case.now += 60
        self.pool.close_expired()

    def _wear_out_idle(self):
        self._case.now += 600
        self.pool.close_expired()

    def _wait_long(self):
        self._case.now += 60
        self._come()

    def _go_stale(self):
        self._connection.alive = False
        self._come()

    async def let_anything(self, luck):
        """Make something happen, whatever the state is."""
        pool, agent = self.pool, self._agent
        can = [pool.close_idle, self._wait]
        if agent is None or agent.done():
            can += [self._come, self._wait_long, self._go_stale]
        else:
            can += [agent.cancel]
        if self._connection in self._answers:
            can += [self._answer, lambda: self._answer(
                RelayUnavailable('mta:25', 'AUTH', ''))]
        if pool.statistics().in_use:
            can += [self._release, self._lose, self._wear_out, self._end]
        luck.choice(can)()
        await self._case.rest()

    async def end(self):
        """Let go of whatever waits."""
        if self._agent is not None:
            self._agent.cancel()
        for answer in list(self._answers.values()):
            answer.cancel()
        await asyncio.gather(
            *[self._agent] * (self._agent is not None),
            return_exceptions=True)
        await self._case.rest()


#: The shortest way to each state.
WAYS = {
    State.closed: (),
    State.opening: (Event.wanted,),
    State.in_use: (Event.wanted, Event.opened),
    State.idle: (Event.wanted, Event.opened, Event.released),
    State.closing: (Event.wanted, Event.opened, Event.given_up),
    }


class TestLife(PoolTestCase):
    """The table of a connection's states is what the pool does."""

    async def test_each_move(self):
        for state, events in MOVES.items():
            for event, after in events.items():
                how, more = 0, True
                while more:
                    with self.subTest(state=state, event=event, how=how):
                        life = Life(self)
                        self.assertEqual(life.state, State.closed)
                        for step in WAYS[state]:
                            await life.let(step)
                        self.assertEqual(life.state, state)
                        more = await life.let(event, how)
                        self.assertEqual(life.state, after)
                        await life.end()
                    how += 1

    def test_every_name_is_used(self):
        def names(cls):
            return {value for name, value in vars(cls).items()
                    if not name.startswith('_')}
        self.assertEqual(set(MOVES), names(State))
        self.assertEqual(
            {event for events in MOVES.values() for event in events},
            names(Event))

    async def test_there_are_no_other_moves(self):
        # Whatever happens in whatever order: a connection gets from one state
        # to another only as the table has it.
        allowed = {(state, after) for state, events in MOVES.items()
                   for after in events.values()}
        seen = set()
        for seed in range(100):
            luck = random.Random(seed)
            life = Life(self)
            await life.let(Event.wanted)
            states = [life.state]
            for _ in range(12):
                await life.let_anything(luck)
                states.append(life.state)
                if life.state == State.closed:
                    # The next one is another connection.
                    break
            await life.end()
            seen.update(zip([State.closed, *states], states))
        self.assertEqual(
            {(before, after) for before, after in seen if before != after},
            allowed)
