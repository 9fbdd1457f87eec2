# SPDX-License-Identifier: GPL-3.0-or-later

"""The limits of several hosts, in a real Redis."""

import signal
import asyncio
import unittest

from contextlib import ExitStack
from mailman_mta_pool.configuration.relays import storage_of
from mailman_mta_pool.settings import StorageSettings
from tempfile import TemporaryDirectory
from tests.limits.conformance import Conformance, limit
from tests.limits.counting import Counter
from tests.limits.simulated import quick_directory, SimulatedClock
from tests.servers.redis import available, PASSWORD, Redis
from tests.test_throttle import kept_lines


REASON = available()
if not REASON:
    from mailman_mta_pool.limits.file import FileStorage
    from mailman_mta_pool.limits.limit import Ask, Refused, Taken
    from mailman_mta_pool.limits.redis_script import RedisScript
    from mailman_mta_pool.limits.shared import GRACE, SharedStorage

HOSTS = 2


@unittest.skipIf(REASON, REASON)
class RedisCase(unittest.TestCase):
    """A server, and the storages of processes on several hosts.

    The clocks of the server and of the hosts are one that is set.
    """

    notice_s = 30.1
    examples = 15
    keeps = False

    def setUp(self):
        self.server = Redis(self.keeps)
        self.server.__enter__()
        self.addCleanup(self.server.__exit__)
        self.resources = ExitStack()
        self.addCleanup(self.resources.close)
        self.log = kept_lines(self)
        self.clock = SimulatedClock()
        self.begin_example()

    def begin_example(self):
        self.loop = asyncio.new_event_loop()
        self.resources.callback(self.loop.close)
        self.directories = {}
        self.alive = []
        self.run_loop(self.prime())

    async def prime(self):
        """Let the server have been in use before, and know nothing else."""
        script = RedisScript(storage_of(self.server.url), self.clock.wall)
        await script.client.flushall()
        await script.call([])
        await script.close()

    def end_example(self):
        self.resources.close()

    def run_loop(self, awaitable):
        return self.loop.run_until_complete(
            asyncio.wait_for(awaitable, 30))

    def new_process(self, host='one', url=None):
        if host not in self.directories:
            self.directories[host] = self.resources.enter_context(
                quick_directory())
        files = FileStorage(
            self.directories[host], self.loop.call_later,
            clock=self.clock, pause=self.clock.wait)
        storage = SharedStorage(
            RedisScript(
                storage_of(url or self.server.url), self.clock.wall),
            HOSTS, files, self.loop)
        self.alive.append(storage)
        self.resources.callback(self.die, storage)
        return storage

    def die(self, storage):
        if storage in self.alive:
            self.alive.remove(storage)
            self.run_loop(storage.close())

    def take(self, storage, ask):
        answered = self.loop.create_future()
        storage.take(ask, answered.set_result)
        return self.run_loop(answered)

    def settle(self):
        for storage in self.alive:
            self.run_loop(storage.settled())

    def wait(self, seconds):
        self.settle()
        self.clock.wait(seconds)
        # Each says that it lives, but for those that are dead.
        self.settle()


class TestConformance(Conformance, RedisCase):
    def wait(self, seconds):
        # A process that lives says so every ten seconds of the loop's clock;
        # here the clock of the server jumps.
        while seconds > 0:
            super().wait(min(seconds, 9))
            seconds -= 9
            for storage in self.alive:
                storage.beat()


class TestShare(RedisCase):
    """The server goes, and comes again."""

    def setUp(self):
        super().setUp()
        self.wanted = (limit((10, 60)),)
        self.storages = [self.new_process(host) for host in ('one', 'two')]

    def use(self, storage):
        """Take what is to be had, and have it replied to."""
        count = 0
        while True:
            taken = self.take(storage, Ask(self.wanted))
            if isinstance(taken, Refused):
                return count
            storage.replied(taken)
            count += 1

    def come_back(self):
        self.server.start()
        for storage in self.storages:
            storage.beat()
        self.settle()

    def test_share(self):
        one, two = self.storages
        self.assertEqual(self.use(one) + self.use(two), 10)
        self.wait(61)
        self.server.kill()
        # It is taken that the other has used the rest of the period.
        self.assertEqual([self.use(one), self.use(two)], [0, 0])
        self.wait(61)
        self.assertEqual([self.use(one), self.use(two)], [5, 5])
        self.assertEqual([self.use(one), self.use(two)], [0, 0])
        self.wait(61)
        self.assertEqual([self.use(one), self.use(two)], [5, 5])
        self.come_back()
        self.assertFalse(one.is_cut_off or two.is_cut_off)
        self.assertEqual([self.use(one), self.use(two)], [0, 0])
        self.wait(61)
        self.assertEqual(self.use(one) + self.use(two), 10)
        self.wait(61)
        # Nobody has to keep to a share any more.
        self.assertEqual([self.use(one), self.use(two)], [10, 0])
        texts = [text for _, text in self.log.lines]
        self.assertEqual(len(texts), 4, texts)
        self.assertEqual(
            sum('one of 2' in text for text in texts), 2)
        self.assertNotIn(PASSWORD, ''.join(texts))

    def test_who_has_returned_first_keeps_to_the_share(self):
        self.wanted = (limit((10, 1)),)
        one, two = self.storages
        self.use(one)
        self.server.kill()
        self.use(one), self.use(two)
        self.server.start()
        one.beat()
        self.run_loop(one.settled())
        self.assertTrue(two.is_cut_off)
        for _ in range(10):
            self.clock.wait(1.01)
            self.assertLessEqual(self.use(one) + self.use(two), 10)
        two.beat()
        self.settle()
        self.clock.wait(GRACE + 1)
        self.assertEqual([self.use(one), self.use(two)], [10, 0])

    def test_started_anew_while_nobody_looked(self):
        one, two = self.storages
        self.assertEqual(self.use(one), 10)
        self.server.kill()
        self.server.start()
        # It has forgotten everything.
        self.assertEqual([self.use(one), self.use(two)], [0, 0])
        one.beat()
        self.settle()
        self.wait(61)
        self.assertEqual(self.use(one) + self.use(two), 10)

    def test_a_server_that_knows_nothing(self):
        # It may be new, or have been started anew while nobody was there: so
        # each host says what it has used, and keeps to its share at first.
        hour, minute = limit((10, 3600)), limit((10, 60), name='relay.bee')
        one = self.storages[0]
        for _ in range(3):
            one.replied(self.take(one, Ask((hour,))))
        self.die(one)
        self.server.kill()
        self.server.start()
        one, two = self.new_process('one'), self.storages[1]
        count = {one: 0, two: 0}
        for storage in (one, two):
            while isinstance(self.take(storage, Ask((hour,))), Taken):
                count[storage] += 1
        self.assertEqual(count[one] + count[two], 7)
        self.assertEqual(self.log.lines, [])
        # What is over soon is waited for.
        self.server.kill()
        self.server.start()
        one = self.new_process('three')
        self.assertIsInstance(self.take(one, Ask((minute,))), Refused)
        self.wait(61)
        self.assertIsInstance(self.take(one, Ask((minute,))), Taken)

    def test_a_process_that_starts_while_the_server_is_gone(self):
        self.server.kill()
        storage = self.new_process('one')
        self.assertEqual(self.use(storage), 0)
        self.wait(61)
        self.assertEqual(self.use(storage), 5)
        self.die(storage)
        # Its successor goes on, and does not wait once more.
        self.wait(61)
        self.assertEqual(self.use(self.new_process('one')), 5)

    def test_what_is_in_flight_counts_all_the_time(self):
        one, two = self.storages
        flights = [self.take(one, Ask(self.wanted)) for _ in range(4)]
        self.server.kill()
        self.use(one), self.use(two)
        self.wait(61)
        self.assertEqual(self.use(one), 1)
        self.wait(61)
        self.come_back()
        self.wait(61)
        self.assertEqual([self.use(two), self.use(one)], [6, 0])
        for taken in flights:
            one.replied(taken)
        self.settle()
        self.assertEqual(self.use(two), 0)
        self.wait(61)
        self.assertEqual(self.use(two), 10)

    def test_a_server_that_does_not_answer(self):
        one, _ = self.storages
        self.assertEqual(self.use(one), 10)
        self.server.suspend(signal.SIGSTOP)
        self.addCleanup(self.server.suspend, signal.SIGCONT)
        began = self.loop.time()
        woken = []
        self.loop.call_later(0.01, lambda: woken.append(self.loop.time()))
        self.assertEqual(self.use(one), 0)
        # The loop went on meanwhile.
        self.assertLess(woken[0] - began, 1.0)
        self.assertTrue(one.is_cut_off)

    def test_a_wrong_password(self):
        storage = self.new_process(
            'three', self.server.url.replace(PASSWORD, 'WrongSecret'))
        self.use(storage)
        (_, text), = self.log.lines
        self.assertNotIn('WrongSecret', text + repr(storage))
        self.assertIn('password', text.lower())

    def test_it_repeats_the_password(self):
        async def serve(reader, writer):
            said = b''.join((await reader.read(1000)).split())
            writer.write(b'-ERR what is ' + said + b'\r\n')
            writer.close()

        async def start():
            return await asyncio.start_server(serve, '127.0.0.1', 0)
        server = self.run_loop(start())
        self.addCleanup(server.close)
        port = server.sockets[0].getsockname()[1]
        self.use(self.new_process(
            'three', f'redis://:{PASSWORD}@127.0.0.1:{port}'))
        (_, text), = self.log.lines
        self.assertNotIn(PASSWORD, text)
        self.assertIn('hidden', text)

    def test_a_url_that_is_none(self):
        for url in ('http://:secret@localhost/', 'redis://:secret@x:port/0'):
            with self.assertRaises(ValueError) as caught:
                RedisScript(StorageSettings(url))
            self.assertNotIn('secret', str(caught.exception))
            self.assertIsNone(caught.exception.__cause__)

    def test_the_clock_of_the_server_is_set_back(self):
        one, two = self.storages
        self.assertEqual(self.use(one), 10)
        self.clock.set_wall(-10 ** 6)
        self.assertEqual(self.use(two), 0)
        self.wait(61)
        self.assertEqual(self.use(two), 10)

    def test_keys_expire(self):
        one, _ = self.storages
        self.use(one)
        self.take(one, Ask(self.wanted))

        async def times():
            client = RedisScript(storage_of(self.server.url)).client
            found = {key: await client.pttl(key)
                     for key in await client.keys('*')}
            await client.aclose()
            return found
        found = self.run_loop(times())
        self.assertGreater(len(found), 3)
        for key, time in found.items():
            self.assertGreater(time, 0, key)


class TestKept(RedisCase):
    """A server that remembers what it knew when it was killed."""

    keeps = True

    def test_started_again(self):
        storage = self.new_process()
        wanted = (limit((10, 60)),)
        for _ in range(4):
            storage.replied(self.take(storage, Ask(wanted)))
        self.settle()
        self.server.kill()
        self.server.start()
        # Nobody knows what the others have used.
        self.assertIsInstance(self.take(storage, Ask(wanted)), Refused)
        storage.beat()
        self.settle()
        self.wait(61)
        taken = [self.take(storage, Ask(wanted)) for _ in range(5)]
        self.assertTrue(all(isinstance(each, Taken) for each in taken))


@unittest.skipIf(REASON, REASON)
class TestHosts(unittest.TestCase):
    """Processes of two hosts, by the real clocks."""

    def test_killed_and_started_again(self):
        with ExitStack() as resources:
            server = resources.enter_context(Redis())
            directory = resources.enter_context(TemporaryDirectory())
            counter = Counter(directory, 14, 0.5)
            numbers = [counter.start(server.url, 2, host)
                       for host in ('one', 'two', 'two')]

            def serve(count):
                end = sum(counter.accepted.values()) + count
                counter.serve(
                    lambda: sum(counter.accepted.values()) >= end)
            try:
                serve(60)
                server.kill()
                serve(60)
                server.start()
                serve(150)
            finally:
                lines = counter.close()
            self.assertEqual(counter.refused, 0)
            for number in numbers:
                self.assertGreater(counter.accepted[number], 10)
                self.assertIn('one of 2', lines[number])
                self.assertIn('can be used again', lines[number])
                self.assertEqual(len(lines[number].splitlines()), 2)
                self.assertNotIn(PASSWORD, lines[number])
