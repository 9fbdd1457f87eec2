# SPDX-License-Identifier: GPL-3.0-or-later
"""The keeper of a slice's state, with a clock of our own."""

import os
import json
import stat
import asyncio
import unittest

from concurrent.futures import Future, ThreadPoolExecutor
from mailman_mta_pool.durations import BUCKETS, Durations, no_durations, PHASES
from mailman_mta_pool.monitoring.files import read_states
from mailman_mta_pool.monitoring.keeper import (
    Delivery,
    Keeper,
    LAST_POSTS,
    MAX_RELAYS,
    RelaySample,
    Tally,
)
from mailman_mta_pool.monitoring.state import (
    Counted,
    Failures,
    OUTCOMES,
    PostState,
    RelayState,
    SliceState,
    state_from_json,
)
from mailman_mta_pool.monitoring.ticker import (
    IDLE_INTERVAL,
    Ticker,
    WORK_INTERVAL,
)
from tempfile import TemporaryDirectory
from tests.opening import QuickLoop


ENTRY = '1000000000.5+abcdef'
OTHER_ENTRY = '1000000001.5+abcdef'
NOON = 1_000_000_800.0


def outcomes(**counts):
    return {**dict.fromkeys(OUTCOMES, 0), **counts}


class Engine:
    """Counts, in the place of a ledger and a relay."""

    def __init__(self):
        self.attempt = outcomes()
        self.before = outcomes()
        self.messages = 0
        self.failures = []
        self.waits_for = ''

    def tally(self):
        whole = {outcome: self.attempt[outcome] + self.before[outcome]
                 for outcome in OUTCOMES}
        return Tally(dict(self.attempt), whole, self.messages, self.failures,
                     self.waits_for)


class Source:
    """A relay that counts."""

    def __init__(self, name='relay.example.net:25'):
        self.name = name
        self.opened = self.lost = 0
        self.durations = no_durations()
        self.state = 'up'
        self.is_in_use = True

    def sample(self):
        return RelaySample(self, RelayState(
            self.name, self.state, connections=self.opened,
            opened=self.opened, lost=self.lost), self.durations,
            self.is_in_use)


class KeeperTestCase(unittest.TestCase):
    def setUp(self):
        resources = TemporaryDirectory()
        self.addCleanup(resources.cleanup)
        self.directory = os.path.join(resources.name, 'state')
        self.now = NOON
        self.relay, self.others = None, []
        self.journals = {ENTRY, OTHER_ENTRY}

    def keeper(self, name='out-0-of-1'):
        return Keeper(
            self.directory, name, software='9.9',
            look_at_relays=lambda: [
                relay.sample() for relay in (self.relay, *self.others)
                if relay is not None],
            has_journal=lambda entry: entry in self.journals,
            clock=lambda: self.now)

    def first_keeper(self, name='out-0-of-1'):
        with self.assertLogs('mailman.smtp', 'INFO') as logs:
            keeper = self.keeper(name)
        self.assertIn('begin at 0', logs.output[0])
        self.assertEqual(logs.records[0].levelname, 'INFO')
        return keeper

    def delivery(self, engine, *, entry=ENTRY, known=(0, 0), size=100,
                 continued=False, unshunted=False, before=None, **post):
        post = PostState(**{
            'entry': entry, 'origin': ENTRY, 'total': 100,
            'message_id': '<ant@example.com>',
            'list_name': 'ant@example.com',
            'outcomes': outcomes(**(before or {})), **post})
        return Delivery(post, size, continued, unshunted, Counted(*known),
                        engine.tally)

    def path(self, name='out-0-of-1'):
        return os.path.join(self.directory, f'{name}.json')

    def state(self, name='out-0-of-1'):
        with open(self.path(name), encoding='utf-8') as fp:
            return state_from_json(fp.read())


class TestCounters(KeeperTestCase):
    def test_one_post(self):
        keeper, engine = self.first_keeper(), Engine()
        keeper.begin(self.delivery(engine))
        self.assertTrue(keeper.is_working)
        engine.attempt.update(accepted=40, deferred=2)
        engine.messages = 21
        self.now += 1
        keeper.write()
        state = self.state()
        self.assertTrue(state.working)
        self.assertEqual(
            (state.slice, state.software, state.written),
            ('out-0-of-1', '9.9', NOON + 1))
        self.assertEqual(
            state.recipients, outcomes(accepted=40, deferred=2))
        self.assertEqual(state.messages, 21)
        self.assertEqual(state.last_accepted, NOON + 1)
        self.assertEqual(state.counted, {ENTRY: (40, 0, 21)})
        post, = state.posts
        self.assertEqual((post.accepted, post.rate), (40, 40.0))
        engine.attempt.update(accepted=97, refused=1)
        engine.failures = [Failures('refused', '550 No', 1)]
        self.now += 3
        keeper.end()
        self.assertFalse(keeper.is_working)
        state = self.state()
        self.assertEqual(
            state.recipients, outcomes(accepted=97, deferred=2, refused=1))
        self.assertEqual(state.posts, [])
        post, = state.last_posts
        self.assertEqual(
            (post.started, post.ended, post.accepted, post.failures),
            (NOON, NOON + 4, 97, [Failures('refused', '550 No', 1)]))
        self.assertAlmostEqual(post.rate, 97 / 4)
        self.assertEqual(state.posts_ended, 1)

    def test_goes_on_from_the_file(self):
        for number in range(1, 4):
            keeper = self.keeper()
            engine = Engine()
            keeper.begin(self.delivery(engine, entry=f'{number}', origin=''))
            engine.attempt.update(accepted=10)
            keeper.end()
            self.assertEqual(self.state().recipients['accepted'], 10 * number)
            self.assertEqual(self.state().posts_ended, number)

    def test_killed(self):
        # The journal knows of ten more than the file.
        keeper, engine = self.first_keeper(), Engine()
        keeper.begin(self.delivery(engine))
        engine.attempt.update(accepted=30, refused=1)
        engine.messages = 15
        keeper.write()
        self.now += 60
        keeper, engine = self.keeper(), Engine()
        engine.attempt.update(accepted=40, refused=2)
        engine.messages = 20
        keeper.begin(self.delivery(engine, known=(40, 2, 20)))
        keeper.write()
        state = self.state()
        self.assertEqual(
            state.recipients, outcomes(accepted=40, refused=2))
        # Nobody was accepted now.
        self.assertEqual(state.last_accepted, NOON)
        self.assertEqual(state.posts[0].rate, 0.0)
        keeper.end()
        self.assertEqual(
            self.state().recipients, outcomes(accepted=40, refused=2))
        self.assertEqual(self.state().messages, 20)

    def test_killed_after_the_end(self):
        # Its entry is still there, and is delivered once more.
        for _ in range(2):
            keeper, engine = self.keeper(), Engine()
            engine.attempt.update(accepted=100)
            keeper.begin(self.delivery(engine, known=(100, 0, 100)))
            keeper.end()
        state = self.state()
        self.assertEqual(state.posts_ended, 1)
        self.assertEqual(state.recipients, outcomes(accepted=100))

    def test_another_slice_takes_over(self):
        keeper, engine = self.first_keeper('out-0-of-2'), Engine()
        keeper.begin(self.delivery(engine))
        engine.attempt.update(accepted=30)
        keeper.write()
        for name, expected in (('out-1-of-2', 10), ('out-2-of-3', 0)):
            keeper, engine = self.first_keeper(name), Engine()
            engine.attempt.update(accepted=40)
            keeper.begin(self.delivery(engine, known=(40, 0)))
            keeper.end()
            self.assertEqual(
                self.state(name).recipients['accepted'], expected)

    def test_entry_with_another_name(self):
        keeper, engine = self.first_keeper(), Engine()
        keeper.begin(self.delivery(engine, entry=OTHER_ENTRY))
        engine.attempt.update(accepted=30)
        keeper.write()
        keeper, engine = self.keeper(), Engine()
        engine.attempt.update(accepted=35)
        keeper.begin(
            self.delivery(engine, known=(35, 0)), former_entry=OTHER_ENTRY)
        keeper.end()
        self.assertEqual(self.state().recipients['accepted'], 35)

    def test_journal_that_has_forgotten(self):
        # A full disk: what is sent again is not counted again.
        keeper, engine = self.first_keeper(), Engine()
        keeper.begin(self.delivery(engine))
        engine.attempt.update(accepted=30)
        keeper.write()
        keeper, engine = self.keeper(), Engine()
        engine.attempt.update(accepted=20)
        keeper.begin(self.delivery(engine, known=(20, 0)))
        keeper.write()
        self.assertEqual(self.state().recipients['accepted'], 30)
        engine.attempt.update(accepted=100)
        keeper.end()
        self.assertEqual(self.state().recipients['accepted'], 100)

    def test_counted_is_pruned(self):
        keeper, engine = self.first_keeper(), Engine()
        keeper.begin(self.delivery(engine))
        engine.attempt.update(accepted=30)
        keeper.end()
        self.journals.remove(ENTRY)
        keeper.write()
        self.assertEqual(self.state().counted, {ENTRY: (30, 0, 0)})
        keeper.write()
        self.assertEqual(self.state().counted, {})

    def test_minutes(self):
        keeper, engine = self.first_keeper(), Engine()
        keeper.begin(self.delivery(engine, size=1000))
        for _ in range(70):
            engine.attempt['accepted'] += 10
            keeper.write()
            self.now += 60
        minutes = self.state().minutes
        self.assertEqual(len(minutes), 60)
        self.assertEqual({count for _, count in minutes}, {10})
        self.assertEqual({minute % 60 for minute, _ in minutes}, {0})
        self.assertEqual(max(minutes)[0] // 60, (self.now - 60) // 60)

    def test_rate_is_of_late(self):
        keeper, engine = self.first_keeper(), Engine()
        keeper.begin(self.delivery(engine, size=1000))
        for step in (10, 1):
            for _ in range(30):
                engine.attempt['accepted'] += step
                self.now += 1
                keeper.write()
        self.assertAlmostEqual(self.state().posts[0].rate, 1, 1)


class TestPosts(KeeperTestCase):
    """The whole post, over all its queue entries."""

    def deliver(self, keeper, is_over=True, **delivery):
        engine = Engine()
        counts = delivery.pop('counts')
        post = keeper.begin(self.delivery(engine, **delivery))
        engine.before.update(post.outcomes)
        engine.attempt.update(counts)
        keeper.end(is_over)
        return post

    def test_put_back(self):
        keeper = self.first_keeper()
        self.deliver(keeper, is_over=False, counts=dict(accepted=60))
        self.assertEqual(self.state().last_posts, [])
        self.assertEqual(self.state().posts_ended, 0)
        self.deliver(
            keeper, entry=OTHER_ENTRY, continued=True, size=40,
            before=dict(accepted=60), counts=dict(accepted=40))
        post, = self.state().last_posts
        self.assertEqual(post.accepted, 100)

    def test_tried_again_after_the_rest(self):
        # The entry was made in the first turn, and its turn comes last.
        keeper = self.first_keeper()
        self.deliver(keeper, is_over=False,
                     counts=dict(accepted=50, deferred=5))
        self.deliver(
            keeper, entry=OTHER_ENTRY, continued=True, size=45,
            before=dict(accepted=50, deferred=5),
            counts=dict(accepted=42, deferred=3))
        post = self.deliver(
            keeper, entry='3', continued=True, size=5,
            before=dict(accepted=50), counts=dict(accepted=5))
        self.assertEqual(post.accepted, 97)
        post, = self.state().last_posts
        # The three of the second turn are still waiting.
        self.assertEqual(post.outcomes, outcomes(accepted=97, deferred=3))
        self.assertEqual(
            self.state().recipients, outcomes(accepted=97, deferred=8))

    def test_another_slice_had_the_rest(self):
        self.deliver(self.first_keeper('out-0-of-2'),
                     counts=dict(accepted=95, in_doubt=5))
        self.deliver(
            self.first_keeper('out-1-of-2'), continued=True, size=5,
            before=dict(accepted=20), counts=dict(accepted=5))
        post, = self.state('out-1-of-2').last_posts
        self.assertEqual(post.outcomes, outcomes(accepted=100))

    def test_unshunted(self):
        keeper = self.first_keeper()
        self.deliver(keeper, counts=dict(accepted=90, shunted=10))
        self.deliver(
            keeper, continued=True, unshunted=True, size=10,
            before=dict(accepted=80), counts=dict(accepted=10))
        post, = self.state().last_posts
        self.assertEqual(post.outcomes, outcomes(accepted=100))

    def test_same_message_again(self):
        keeper = self.first_keeper()
        for origin in ('1', '2'):
            self.deliver(keeper, origin=origin, entry=origin,
                         counts=dict(accepted=100))
        self.assertEqual(
            [post.accepted for post in self.state().last_posts], [100, 100])

    def test_only_the_last_ones(self):
        keeper = self.first_keeper()
        for number in range(LAST_POSTS + 5):
            self.now += 1
            self.deliver(keeper, origin=f'{number}', entry=f'{number}',
                         counts=dict(accepted=1))
        posts = self.state().last_posts
        self.assertEqual(len(posts), LAST_POSTS)
        self.assertEqual(posts[0].ended, self.now)


class TestLists(KeeperTestCase):
    def deliver(self, keeper, name, most):
        engine = Engine()
        keeper.begin(self.delivery(engine, list_name=name, origin=name,
                                   entry=''), most)
        engine.attempt.update(accepted=1)
        keeper.end()

    def test_at_most_so_many(self):
        keeper = self.first_keeper()
        for _ in range(2):
            for name in ('ant@example.com', 'bee@example.com',
                         'cat@example.com'):
                self.deliver(keeper, name, 2)
        self.assertEqual(self.state().lists, {
            'ant@example.com': outcomes(accepted=2),
            'bee@example.com': outcomes(accepted=2)})
        self.assertEqual(self.state().recipients['accepted'], 6)

    def test_none(self):
        keeper = self.first_keeper()
        self.deliver(keeper, 'ant@example.com', 1)
        self.deliver(keeper, 'ant@example.com', 0)
        self.assertEqual(self.state().lists, {})

    def test_the_same_in_all_slices(self):
        first = self.first_keeper('out-0-of-2')
        second = self.first_keeper('out-1-of-2')
        self.deliver(first, 'ant@example.com', 1)
        self.deliver(second, 'bee@example.com', 1)
        self.deliver(second, 'ant@example.com', 1)
        self.assertEqual(
            list(self.state('out-1-of-2').lists), ['ant@example.com'])


class TestRelays(KeeperTestCase):
    def test_another_object_counts_anew(self):
        # The settings were edited.
        keeper = self.first_keeper()
        for _ in range(2):
            self.relay = Source()
            keeper.write()
            self.relay.opened, self.relay.lost = 4, 1
            self.relay.durations['connect'].note(0.003)
            keeper.write()
            keeper.write()
        relay, = self.state().relays
        self.assertEqual(
            (relay.opened, relay.lost, relay.connections), (8, 2, 4))
        connect = self.state().phases['connect']
        self.assertEqual(connect.counts, [0, 2, 0, 0, 0, 0, 0, 0, 0, 0])
        self.assertAlmostEqual(connect.seconds, 0.006)

    def test_another_process_counts_anew(self):
        for number in range(1, 3):
            keeper = self.keeper()
            self.relay = Source()
            self.relay.opened = 4
            keeper.write()
            self.assertEqual(self.state().relays[0].opened, 4 * number)

    def test_another_relay(self):
        keeper = self.first_keeper()
        self.relay = Source()
        self.relay.opened = 4
        keeper.write()
        self.relay = Source('other.example.net:25')
        keeper.write()
        now, before = self.state().relays
        self.assertEqual((now.name, now.state), (
            'other.example.net:25', 'up'))
        self.assertEqual(before, RelayState(
            'relay.example.net:25', 'unknown', opened=4))

    def test_two_at_once(self):
        keeper = self.first_keeper()
        self.relay, other = Source(), Source('other.example.net:25')
        self.others = [other]
        self.relay.opened, other.opened = 4, 2
        keeper.write()
        self.relay.opened, other.opened = 5, 3
        keeper.write()
        self.assertEqual(
            [(relay.name, relay.state, relay.connections, relay.opened)
             for relay in self.state().relays],
            [('relay.example.net:25', 'up', 5, 5),
             ('other.example.net:25', 'up', 3, 3)])

    def test_when_it_was_used(self):
        keeper, self.relay = self.first_keeper(), Source()
        keeper.begin(self.delivery(Engine()))
        self.now += 1
        # A post that is over between two looks.
        keeper.end()
        relay, = self.state().relays
        self.assertEqual(relay.used, NOON + 1)
        self.now += 60
        keeper.write()
        relay, = self.state().relays
        self.assertEqual(relay.used, NOON + 1)
        # Another process goes on with that.
        keeper = self.keeper()
        keeper.write()
        relay, = self.state().relays
        self.assertEqual(relay.used, NOON + 1)

    def test_a_relay_of_other_lists(self):
        keeper = self.first_keeper()
        self.relay, other = Source(), Source('other.example.net:25')
        self.others, other.is_in_use = [other], False
        keeper.begin(self.delivery(Engine()))
        keeper.end()
        self.assertEqual(
            [(relay.name, relay.state, relay.used)
             for relay in self.state().relays],
            [('relay.example.net:25', 'up', NOON),
             ('other.example.net:25', 'up', 0)])

    def test_what_another_process_has_found_out(self):
        for state, expected in (('up', 'up'), ('down', 'down'),
                                ('paused', 'up'), ('unknown', 'unknown')):
            with self.subTest(state=state):
                keeper, self.relay = self.keeper(), Source()
                self.relay.state = state
                keeper.write()
                keeper, self.relay = self.keeper(), Source()
                self.relay.state = 'unknown'
                keeper.write()
                relay, = self.state().relays
                self.assertEqual(relay.state, expected)
                self.relay.state = 'up'
                keeper.write()
                os.remove(os.path.join(self.directory, 'out-0-of-1.json'))

    def test_what_the_post_waits_for(self):
        keeper, engine = self.first_keeper(), Engine()
        keeper.begin(self.delivery(engine))
        engine.waits_for = 'a limit'
        keeper.write()
        self.assertEqual(self.state().posts[0].waits_for, 'a limit')
        keeper.end()
        self.assertEqual(self.state().last_posts[0].waits_for, '')

    def test_so_many_relays(self):
        keeper = self.first_keeper()
        for number in range(MAX_RELAYS + 3):
            self.relay = Source(f'{number}:25')
            keeper.write()
        self.assertEqual(len(self.state().relays), MAX_RELAYS)

    def test_the_end_of_the_process(self):
        keeper = self.first_keeper()
        self.relay = Source()
        self.relay.opened = 4
        keeper.write()
        keeper.leave()
        relay, = self.state().relays
        self.assertEqual((relay.connections, relay.opened), (0, 4))


class TestFile(KeeperTestCase):
    def test_long_message_id(self):
        keeper = self.first_keeper()
        keeper.begin(self.delivery(Engine(), message_id='<' + 'x' * 99_999))
        keeper.write()
        self.assertLess(os.path.getsize(self.path()), 5000)

    def test_private(self):
        self.first_keeper().write()
        for path, mode in ((self.path(), 0o600), (self.directory, 0o700)):
            self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), mode)

    def test_torn(self):
        self.first_keeper().write()
        with open(self.path(), 'r+', encoding='utf-8') as fp:
            fp.truncate(40)
        with self.assertLogs('mailman.smtp', 'WARNING') as logs:
            keeper = self.keeper()
        self.assertEqual(len(logs.output), 1)
        keeper.write()
        self.assertEqual(self.state().recipients, outcomes())

    def test_brackets(self):
        # Of these, Python has enough.
        with self.assertRaises(ValueError):
            state_from_json('[' * 100_000)

    def test_numbers_that_are_none(self):
        # It would keep each later delivery from being told of.
        good = json.loads(SliceState(
            slice='out-0-of-1', relays=[RelayState(rate=1.0)],
            posts=[PostState(ended=1.0)], lists={'ant': outcomes()},
            minutes=[(60, 1)], counted={ENTRY: Counted(1, 1)},
            last_accepted=1.0).to_json())
        state_from_json(json.dumps(good))
        places = [
            (('recipients', 'accepted'), 'x'), (('lists', 'ant'), 'x'),
            (('lists', 'ant', 'refused'), 'x'), (('minutes', 0, 1), 'x'),
            (('minutes', 0), []), (('counted', ENTRY), 'x'),
            (('counted', ENTRY, 0), 'x'), (('last_accepted',), 'x'),
            (('phases', 'auth', 'counts', 0), 'x'),
            (('posts', 0, 'outcomes', 'accepted'), 'x'),
            (('posts', 0, 'ended'), 'x'), (('relays', 0, 'rate'), 'x')]
        for place, value in places:
            with self.subTest(place=place):
                bad = json.loads(json.dumps(good))
                parent = bad
                for key in place[:-1]:
                    parent = parent[key]
                parent[place[-1]] = value
                with self.assertRaises(ValueError):
                    state_from_json(json.dumps(bad))

    def test_left_half_written(self):
        self.first_keeper().write()
        ours, another = (
            os.path.join(self.directory, f'.{name}.json.xyz')
            for name in ('out-0-of-1', 'out-0-of-10'))
        for path in (ours, another):
            with open(path, 'w', encoding='utf-8') as fp:
                fp.write('{')
        self.keeper()
        self.assertFalse(os.path.exists(ours))
        # That one may be another slice's work.
        self.assertTrue(os.path.exists(another))

    def test_cannot_be_written(self):
        keeper, engine = self.first_keeper(), Engine()
        # A file in the place of the directory.
        with open(self.directory, 'w', encoding='utf-8'):
            pass
        keeper.begin(self.delivery(engine))
        engine.attempt.update(accepted=7)
        with self.assertLogs('mailman.smtp', 'ERROR') as logs:
            keeper.write()
            keeper.end()
        self.assertEqual(len(logs.output), 1)
        os.unlink(self.directory)
        with self.assertLogs('mailman.smtp', 'INFO') as logs:
            keeper.write()
        self.assertIn('can be written again', logs.output[0])
        self.assertEqual(self.state().recipients['accepted'], 7)

    def test_read_back(self):
        keeper, engine = self.first_keeper(), Engine()
        self.relay = Source()
        engine.failures = [Failures('deferred', '450 Later', 3)]
        keeper.begin(self.delivery(engine))
        engine.attempt.update(accepted=3, deferred=3)
        keeper.write()
        found = read_states(self.directory)
        self.assertEqual(found.problems, [])
        state, = found.states
        with open(self.path(), encoding='utf-8') as fp:
            self.assertEqual(json.loads(state.to_json()), json.load(fp))
        self.assertEqual(state.posts[0].failures, engine.failures)


class Counting(Keeper):
    """Notes when it writes."""

    loop = None

    def write(self):
        super().write()
        if self.loop is not None:
            self.times.append(self.loop.time())


class AtOnce(ThreadPoolExecutor):
    """Calls a function where it is given it: no time passes meanwhile."""

    def submit(self, function, *args, **keywords):
        future = Future()
        try:
            future.set_result(function(*args, **keywords))
        except Exception as error:
            future.set_exception(error)
        return future


class TestTicker(KeeperTestCase):
    """On a loop whose time passes at once."""

    def setUp(self):
        super().setUp()
        self.loop = QuickLoop()
        self.loop.set_default_executor(AtOnce())
        self.addCleanup(self.loop.close)
        with self.assertLogs('mailman.smtp', 'INFO'):
            self.counting = Counting(
                self.directory, 'out-0-of-1', look_at_relays=list)
        self.counting.loop, self.counting.times = self.loop, []
        self.ticker = Ticker(self.counting)

    def run_for(self, seconds):
        async def main():
            await asyncio.sleep(seconds)
        self.loop.run_until_complete(main())

    def do(self, step, *args):
        async def main():
            step(*args)
        self.loop.run_until_complete(main())

    def test_paces(self):
        self.counting.begin(self.delivery(Engine()))
        self.do(self.ticker.start)
        self.run_for(2.1)
        self.assertEqual(
            self.counting.times,
            [WORK_INTERVAL * number for number in range(1, 5)])
        self.counting.end()
        self.do(self.ticker.stop)
        del self.counting.times[:]
        self.run_for(2 * IDLE_INTERVAL + 1)
        last = 5 * WORK_INTERVAL
        self.assertEqual(self.counting.times, [
            last, last + IDLE_INTERVAL, last + 2 * IDLE_INTERVAL])

    def test_short_deliveries(self):
        # No longer than half the interval, one after the other.
        during = []
        for _ in range(6):
            self.counting.begin(self.delivery(Engine()))
            self.do(self.ticker.start)
            del self.counting.times[:]
            self.run_for(WORK_INTERVAL / 2)
            during.extend(self.counting.times)
            self.counting.end()
            self.do(self.ticker.stop)
        self.assertEqual(
            during, [WORK_INTERVAL * number for number in range(1, 4)])

    def test_another_network_thread(self):
        self.do(self.ticker.start)
        second = QuickLoop()
        self.addCleanup(second.close)
        self.counting.loop, self.loop = second, second
        self.do(self.ticker.start)
        self.run_for(IDLE_INTERVAL + 1)
        self.assertEqual(self.counting.times, [IDLE_INTERVAL])

    def test_publishing(self):
        published = []

        async def main():
            self.ticker.start()
            self.ticker.publish = lambda: published.append(1)
            for _ in range(10):
                # Ten short posts at once.
                self.ticker.publish_soon()
            while len(published) < 2:
                await asyncio.sleep(0.01)
            return self.loop.time()
        # The first at once, and one for all the others when it may be.
        self.assertGreaterEqual(
            self.loop.run_until_complete(main()), WORK_INTERVAL)
        self.run_for(WORK_INTERVAL + 1)
        self.assertEqual(len(published), 2)

    def test_publishing_that_fails(self):
        tries = []

        def publish():
            tries.append(1)
            raise RuntimeError('a mistake of ours')

        async def main():
            self.ticker.start()
            self.ticker.publish = publish
            while len(tries) < 3:
                self.ticker.publish_soon()
                await asyncio.sleep(0.1)
            # What became of the last one.
            await asyncio.sleep(0.1)
        with self.assertLogs('mailman.smtp', 'ERROR') as logs:
            self.loop.run_until_complete(main())
        self.assertEqual(len(logs.output), 1)


class TestDurations(unittest.TestCase):
    def test_buckets(self):
        durations = Durations()
        for seconds in (0, 0.001, 0.0011, 300, 301):
            durations.note(seconds)
        self.assertEqual(durations.counts, [2, 1, 0, 0, 0, 0, 0, 0, 1, 1])
        self.assertAlmostEqual(durations.seconds, 601.0021)
        self.assertEqual(list(BUCKETS), sorted(BUCKETS))

    def test_one_for_each_phase(self):
        durations = no_durations()
        self.assertEqual(tuple(durations), PHASES)
        durations['auth'].note(1)
        self.assertEqual(durations['tls'], Durations())
