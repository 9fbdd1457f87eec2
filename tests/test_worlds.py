# SPDX-License-Identifier: GPL-3.0-or-later

"""Several relays, their limits and their ceilings together."""

import logging
import unittest

from hypothesis import given, note, settings, strategies as st
from mailman.testing.layers import ConfigLayer
from mailman_mta_pool.errors import RelayPaused, UnavailableHere
from mailman_mta_pool.limits.limit import Limit, Unit
from tests.test_pool import FakeSlots
from tests.wire.test_model import PROFILE
from tests.worlds import APost, most_in, names_of, per, World


DAY = 86400.0


class Turn:
    """A turn that ends after some time.

    :ivar renewed: How often another one was begun.
    """

    is_urgent = False

    def __init__(self, world, seconds, is_awaited=False, patience=1e9):
        """Begin.

        :param patience: So long after its end it is too late.
        """
        self._world = world
        self._seconds = seconds
        self._patience = patience
        self.is_awaited = is_awaited
        self.renewed = -1
        self.renew()

    @property
    def is_over(self):
        return self._world.loop.time() >= self._end

    @property
    def is_too_late(self):
        return self.is_urgent and (
            self._world.loop.time() >= self._end + self._patience)

    def renew(self):
        self.renewed += 1
        self._end = self._world.loop.time() + self._seconds


class WorldTestCase(unittest.TestCase):
    layer = ConfigLayer

    def setUp(self):
        self.world = World()
        self.addCleanup(lambda: self.world.close())
        self._members = 0

    def post(self, number, size=1, meets=False, gap=0.0, **options):
        post = APost(self.world, **options)
        names = names_of(number, self._members)
        self._members += number
        post.left = post.send(names, size, meets, gap)
        self.assertOneEnd(post, names)
        return post

    def assertOneEnd(self, post, names):
        """Each has one end, and nobody got the post twice."""
        ledger = post.ledger
        self.assertEqual(sorted([
            *ledger.served, *ledger.bounced, *ledger.deferred,
            *ledger.rejected, *ledger.untried, *post.left]), names)
        served = [name for server in post.servers for name in server.served]
        self.assertEqual(len(served), len(set(served)))
        self.assertEqual(set(served).intersection(names), ledger.served)

    def assertWithin(self, rate, *servers, unit=Unit.messages):
        """No window has more than the limit lets through."""
        (count, period), = [(each.count, each.period) for each in rate]
        self.assertLessEqual(most_in([
            (when, recipients if unit is Unit.recipients else 1)
            for server in servers for when, recipients in server.arrivals],
            period), count)


class TestBusy(WorldTestCase):
    """A relay that waits for its limit is busy, and not unavailable."""

    def test_the_other_gets_the_rest(self):
        rate = per(14)
        one = self.world.add('one', message_rate=rate)
        other = self.world.add('other', seconds=0.05)
        post = self.post(1000)
        self.assertEqual(len(post.ledger.served), 1000)
        self.assertWithin(rate, one)
        # Each goes as fast as it could alone.
        self.assertGreater(len(one.served), 0.95 * 14 * post.seconds)
        self.assertGreater(len(other.served), 0.95 * 2 / 0.06 * post.seconds)

    def test_a_backup_is_not_used(self):
        for rate in (per(14), per(50, 60.0)):
            one = self.world.add('one', message_rate=rate)
            backup = self.world.add('backup', priority=20)
            self.post(150, servers=[one, backup])
            self.assertEqual(
                (len(one.served), len(backup.opened)), (150, 0))

    def test_one_transaction(self):
        # The limit is used up by others once the connection is open.
        one = self.world.add('one', message_rate=per(1, 600.0))
        other = self.world.add('other')
        claimant = self.world.limiter.claimant(
            self.world.limits_of(one), lambda: None)
        one.on_greeting = lambda: claimant.request().replied()
        post = self.post(1)
        self.assertEqual((len(one.opened), len(other.served)), (1, 1))
        self.assertLess(post.seconds, 1.0)

    def test_weights(self):
        # Nobody is kept waiting for a relay that waits for its own limit.
        for weights in (3, 1), (1, 1), (1, 3), (10 ** 9, 1):
            one, other = [self.world.add(
                f'{number} of {weights}', weight=weight, seconds=0.1,
                message_rate=() if number else per(14))
                for number, weight in enumerate(weights)]
            post = self.post(1000, servers=[one, other])
            with self.subTest(weights=weights):
                self.assertGreater(
                    len(other.served), 0.95 * 2 / 0.11 * post.seconds)
                # A message counts until a second after its reply.
                self.assertGreater(
                    len(one.served), 0.95 * 14 / 1.11 * post.seconds)

    def test_no_connection_may_be_opened(self):
        one = self.world.add('one', connect_rate=per(1, 60.0), seconds=0.1)
        other = self.world.add('other', seconds=0.1)
        self.world.at(1.0, one.drop)
        post = self.post(1500)
        self.assertEqual(len(one.opened), 2)
        self.assertGreater(
            len(other.served), 0.95 * 2 / 0.11 * post.seconds)
        # Nothing is made up for: both go on, and neither waits.
        self.assertGreater(one.opened[1] - one.opened[0], 60)


class TestShares(WorldTestCase):
    """Each has its share as long as nobody is at the ceiling."""

    def test_as_the_weights_say(self):
        for number, weights in enumerate(((1, 1, 1), (5, 3, 1), (1,) * 6)):
            for gap in 0.001, 0.003, 0.01:
                with self.subTest(weights=weights, gap=gap):
                    servers = [self.world.add(
                        f'{number}-{gap}-{each}', connections=10, depth=3,
                        weight=weight) for each, weight in enumerate(weights)]
                    self.post(500, gap=gap, servers=servers)
                    for server, weight in zip(servers, weights):
                        self.assertAlmostEqual(
                            len(server.served) / 500, weight / sum(weights),
                            delta=0.02)


class TestUsedUp(WorldTestCase):
    """A limit that is waited for too long ends the lane."""

    def test_a_backup_takes_over(self):
        one = self.world.add('one', message_rate=(*per(100), *per(50, DAY)))
        backup = self.world.add('backup', priority=20)
        for number, meets in ((300, False), (20, True), (20, False)):
            post = self.post(number, meets=meets)
            self.assertEqual(len(post.ledger.served), number)
            self.assertEqual(len(one.served), 50)
            self.assertIsNone(post.outbound.unavailable)
        self.assertEqual(len(backup.served), 290)
        # Who has nothing to send there opens no connection.
        self.assertLessEqual(len(one.opened), 2)

    def test_a_backup_takes_over_without_connections(self):
        for meets in (True, False):
            one = self.world.add(
                f'one {meets}', connect_rate=per(1, DAY), seconds=0.1)
            backup = self.world.add(f'backup {meets}', priority=20)
            self.world.at(1.0, one.drop)
            for number in (50, 20):
                post = self.post(number, meets=meets, servers=[one, backup])
                self.assertIsNone(post.outbound.unavailable)
            self.assertEqual(len(one.opened), 1)
            self.assertGreater(len(backup.served), 50)

    def test_a_quota_of_the_server(self):
        one = self.world.add('one', word=lambda server, name: '450 Enough')
        backup = self.world.add('backup', priority=20)
        for meets in (False, True):
            self.post(20, meets=meets)
        self.assertEqual(
            (len(one.served), len(backup.served)), (0, 40))

    def test_nobody_takes_over(self):
        self.world.add('one', message_rate=per(5, DAY))
        down = self.world.add('down')
        down.die()
        for meets in (True, False):
            post = self.post(20, meets=meets, patience=10.0)
            self.assertIsInstance(post.outbound.unavailable, RelayPaused)
            self.assertTrue(post.ledger.is_paused)

    def test_its_connections_are_closed(self):
        # They are of no use to the rest of the post.
        one = self.world.add('one', message_rate=per(5, DAY))
        other = self.world.add('other', seconds=1.0)
        self.world.at(10.0, lambda: seen.append(
            one.pool.statistics().in_use))
        seen = []
        self.post(50)
        self.assertEqual((seen, len(one.served)), ([0], 5))
        self.assertEqual(len(other.served), 45)


class TestLists(WorldTestCase):
    """The limit of a list holds for all its relays in sum."""

    def test_of_messages(self):
        rate = per(14)
        servers = [self.world.add(name) for name in ('one', 'other')]
        post = self.post(280, list_limits=[
            Limit('limit.list', Unit.messages, rate)])
        self.assertWithin(rate, *servers)
        self.assertLess(post.seconds, 20.0)
        # Neither starves.
        for server in servers:
            self.assertGreater(len(server.served), 100)

    def test_of_recipients(self):
        rate = per(100)
        one = self.world.add('one', recipient_rate=per(50))
        other = self.world.add('other', seconds=0.1)
        post = self.post(2000, size=10, list_limits=[
            Limit('limit.list', Unit.recipients, rate)])
        self.assertWithin(rate, one, other, unit=Unit.recipients)
        self.assertWithin(per(50), one, unit=Unit.recipients)
        self.assertLess(post.seconds, 22.0)

    def test_one_waits_for_its_own_limit(self):
        # The other does not wait for it.
        rate = per(14)
        one = self.world.add('one', message_rate=per(10, 600.0))
        other = self.world.add('other')
        post = self.post(280, list_limits=[
            Limit('limit.list', Unit.messages, rate)])
        self.assertWithin(rate, one, other)
        self.assertLess(post.seconds, 21.0)


class TestDeaths(WorldTestCase):
    def test_idle_connections_are_closed(self):
        # None is opened before there is something to send over it.
        rate = per(5, 60.0)
        one = self.world.add('one', message_rate=rate)
        for seconds in range(10, 60, 10):
            self.world.at(seconds, one.drop)
        post = self.post(10)
        self.assertEqual((len(one.served), len(one.opened)), (10, 4))
        self.assertWithin(rate, one)
        self.assertLess(post.seconds, 62.0)

    def test_it_dies_while_it_waits(self):
        # The backup has the rest then, until the better one is back.
        one = self.world.add('one', message_rate=per(14))
        backup = self.world.add('backup', priority=20, message_rate=per(7))
        # One second has room for 14, and the rest of it is for waiting.
        self.world.at(3.9, one.die)
        self.world.at(30.0, one.come_back)
        self.post(700)
        self.assertWithin(per(14), one)
        self.assertWithin(per(7), backup)
        self.assertEqual(len(one.served) + len(backup.served), 700)
        # It was tried again within its back-off.
        self.assertLess(one.opened[2] - 1000.0, 30.0 + 20.0 * 1.2)
        self.assertGreater(len(backup.served), 7 * 25)
        last = backup.accepted[-1][1]
        self.assertLess(last, one.opened[2] + 1.5)

    def test_both_die_and_come_back(self):
        servers = [self.world.add(name, message_rate=per(14))
                   for name in ('one', 'other')]
        for server in servers:
            self.world.at(2.5, server.die)
            self.world.at(60.0, server.come_back)
        post = self.post(300, patience=600.0)
        self.assertEqual(len(post.ledger.served), 300)
        self.assertLess(post.seconds, 60.0 + 20.0)


class TestTurns(WorldTestCase):
    def test_a_backup_is_no_reason_to_stay(self):
        # Nothing could be sent in the turn, and others wait.
        one = self.world.add('one', message_rate=per(10, 600.0))
        self.world.add('backup', priority=20)
        self.world.border.tick = 0.5
        self.post(10)
        turn = Turn(self.world, 10.0, is_awaited=True)
        post = self.post(50, turn=turn)
        self.assertIsInstance(post.outbound.unavailable, RelayPaused)
        self.assertLess(post.seconds, 11.0)
        self.assertEqual(len(one.served), 10)

    def test_a_backup_is_no_reason_to_go(self):
        # Nobody else waits.
        one = self.world.add('one', message_rate=per(10, 60.0))
        self.world.add('backup', priority=20)
        self.world.border.tick = 0.5
        turn = Turn(self.world, 10.0)
        post = self.post(50, turn=turn)
        self.assertEqual((post.left, len(one.served)), ([], 50))

    def test_it_ends_while_all_wait(self):
        for options in ({'message_rate': per(10, 600.0)},
                        {'connect_rate': per(1, 600.0)}):
            servers = [self.world.add(f'{number} {list(options)}', **options)
                       for number in range(2)]
            self.world.border.tick = 0.5
            turn = Turn(self.world, 10.0)
            turn.is_urgent = True
            for server in servers:
                self.world.at(1.0, server.drop)
            with self.subTest(options=options):
                post = self.post(900, servers=servers, turn=turn)
                self.assertLess(post.seconds, 10.5)
                self.assertGreater(len(post.left), 300)


class TestPermits(WorldTestCase):
    def test_this_process_can_open_no_more_files(self):
        class Full(FakeSlots):
            def take(self):
                raise UnavailableHere('one', 'connect', 'Too many open files')
        self.world.add('one', connect_rate=per(5), slots=Full(0))
        post = self.post(5, patience=1.0)
        self.assertEqual(len(post.ledger.untried), 5)


RATES = st.sampled_from([
    (), (), (), per(1), per(5), per(14), per(3, 60.0), per(40, 3600.0),
    (*per(5), *per(12, 60.0)), (*per(20), *per(30, DAY))])
CONNECT_RATES = st.sampled_from([
    (), (), (), (), per(1, 1.0), per(1, 60.0), per(2, 800.0), per(3, DAY)])
RELAYS = st.fixed_dictionaries({
    'connections': st.integers(1, 3), 'depth': st.integers(1, 3),
    'seconds': st.sampled_from([0.01, 0.1, 1.0]),
    'trip': st.sampled_from([0.0, 0.01, 0.2]),
    'allowed': st.sampled_from([None, None, None, 1, 2]),
    'priority': st.sampled_from([10, 10, 20]),
    'weight': st.sampled_from([1, 1, 3]),
    'message_rate': RATES, 'recipient_rate': RATES,
    'connect_rate': CONNECT_RATES})
EVENTS = st.lists(st.tuples(
    st.sampled_from([0.0, 0.05, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 700.0]),
    st.integers(0, 2),
    st.sampled_from(['die', 'come_back', 'drop', 'hang'])), max_size=8)
POSTS = st.lists(st.fixed_dictionaries({
    'number': st.integers(1, 40), 'size': st.sampled_from([1, 3, 10]),
    'meets': st.booleans(), 'was_in_retry': st.booleans(),
    'patience': st.sampled_from([0.0, 10.0, 600.0])}),
    min_size=1, max_size=3)
TURNS = st.one_of(st.none(), st.tuples(
    st.sampled_from([0.0, 1.0, 20.0]), st.booleans(), st.booleans(),
    st.sampled_from([0.0, 3.0, 1e9])))
# What the servers say; most say nothing against anybody.
MOODS = ((215, None), (225, '550 5.1.1 Who?'), (233, '450 4.2.1 Later'),
         (240, '550 Zorp'), (248, '450 Slowly'), (250, '450 Enough'),
         (256, '421 4.7.0 Zorp'))


class TestWhateverHappens(WorldTestCase):
    """Each post ends, each recipient has one end, and no limit is broken."""

    def setUp(self):
        # Each example has its own world.
        self._members = 0

    def say(self, server, name):
        octet = next(self.octets, 0)
        return next(words for limit, words in MOODS if octet < limit)

    @settings(PROFILE, max_examples=PROFILE.max_examples // 20)
    @given(relays=st.lists(RELAYS, min_size=1, max_size=3), events=EVENTS,
           posts=POSTS, turn=TURNS, octets=st.binary(max_size=60),
           list_rate=RATES, unit=st.sampled_from([
               Unit.messages, Unit.recipients]),
           ceilings=st.lists(st.sampled_from([0, 0, 1, 2, 3]), min_size=3,
                             max_size=3),
           seed=st.integers(0, 9), latency=st.sampled_from([0.0, 0.0, 0.1]))
    def test_any(self, relays, events, posts, turn, octets, list_rate, unit,
                 ceilings, seed, latency):
        self.world = world = World(seed, latency)
        self.octets = iter(octets)
        logging.disable()
        try:
            self.play(world, relays, events, posts, turn, ceilings,
                      [Limit('limit.list', unit, list_rate)]
                      if list_rate else [])
        finally:
            logging.disable(logging.NOTSET)
            world.close()

    def play(self, world, relays, events, posts, turn, ceilings, limits):
        servers = []
        for number, (options, ceiling) in enumerate(zip(relays, ceilings)):
            name = f'relay-{number}'
            server = world.add(name, word=self.say, slots=world.slots(
                name, ceiling) if ceiling else None, **options)
            servers.append(server)
            if ceiling:
                world.compete(server, ceiling, 100.0)
        for seconds, number, what in events:
            server = servers[number % len(servers)]
            world.at(seconds, getattr(server, what))
        for options in posts:
            turns = {}
            if turn is not None:
                seconds, is_awaited, is_urgent, patience = turn
                turns['turn'] = Turn(world, seconds, is_awaited, patience)
                turns['turn'].is_urgent = is_urgent
                world.border.tick = 5.0
            post = self.post(list_limits=limits, **options, **turns)
            note(f'{options}: {post.seconds:.2f} s')
        self.assertAllWithin(servers, limits, ceilings)

    def assertAllWithin(self, servers, limits, ceilings):
        for limit in limits:
            for rate in limit.rates:
                self.assertWithin([rate], *servers, unit=limit.unit)
        for server, ceiling in zip(servers, ceilings):
            if ceiling:
                self.assertLessEqual(server.most, ceiling)
            for limit in self.world.limits_of(server):
                for rate in limit.rates:
                    self.assertWithin([rate], server, unit=limit.unit)
            for rate in server.settings.connect_rate:
                self.assertLessEqual(most_in(
                    [(when, 1) for when in server.opened], rate.period),
                    rate.count)
