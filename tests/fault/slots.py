# SPDX-License-Identifier: GPL-3.0-or-later
"""`max_connections` holds for all processes of a host, whatever ends them."""

import sys
import asyncio
import unittest

from asyncio.subprocess import DEVNULL, PIPE
from collections import Counter
from contextlib import AsyncExitStack
from mailman_mta_pool.demo.site import SiteError
from mailman_mta_pool.relays.slots import slot_directory
from pathlib import Path
from tempfile import TemporaryDirectory
from tests.fault.rounds import numbered
from tests.scripted import Scripted
from tests.servers.postfix import available, Postfix
from tests.site_case import SiteTestCase


ROOT = Path(__file__).resolve().parent.parent.parent
HOST = '127.0.0.1'
CEILING = 3
# How long the server takes for a message, in seconds.
MESSAGE = 0.01
# How long the test waits for what has to happen, in seconds.
DEADLINE = 60


class Server:
    """It counts its connections, and the messages of each client.

    :ivar connections: How many there are.
    :ivar most: The most that there were at the same time.
    :ivar of: How many there are of each client.
    :ivar messages: How many each client has sent.
    """

    def __init__(self):
        self.connections = self.most = 0
        self.of = Counter()
        self.messages = Counter()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *ignore):
        self._server.close()
        while self.connections > 0:
            # The clients have ended, of which it is told in a moment.
            await asyncio.sleep(MESSAGE)

    async def _serve(self, reader, writer):
        self.connections += 1
        self.most = max(self.most, self.connections)
        name = None
        try:
            async for line in reader:
                if line == b'QUIT\n':
                    break
                if name is None:
                    name = line.decode().strip()
                    self.of[name] += 1
                await asyncio.sleep(MESSAGE)
                self.messages[name] += 1
                writer.write(b'250 Ok\n')
        except ConnectionError:
            pass
        finally:
            self.connections -= 1
            self.of[name] -= 1
            writer.close()


class TestSlots(unittest.TestCase):
    def setUp(self):
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = slot_directory(
            directory.name, 'server', HOST, 25, '')

    async def start(self, name, count):
        process = await asyncio.create_subprocess_exec(
            sys.executable, '-m', 'tests.slot_holder', self.directory,
            str(CEILING), str(self.server.port), name, str(count),
            stdin=PIPE, stdout=DEVNULL, cwd=ROOT)
        self.processes.push_async_callback(process.wait)
        self.processes.callback(self.kill, process)
        return process

    def kill(self, process):
        if process.returncode is None:
            process.kill()

    async def until(self, is_so):
        async def wait():
            while not is_so():
                await asyncio.sleep(MESSAGE)
        await asyncio.wait_for(wait(), DEADLINE)

    def run_steps(self, steps):
        async def main():
            async with Server() as self.server:
                async with AsyncExitStack() as self.processes:
                    await steps()
        asyncio.run(main())
        self.assertEqual(self.server.most, CEILING)

    def test_one_of_four_is_killed(self):
        async def steps():
            server = self.server
            holders = {name: await self.start(name, CEILING)
                       for name in 'abcd'}
            await self.until(lambda: all(
                server.messages[name] > 20 for name in holders))
            await self.until(lambda: server.connections == CEILING)
            victim = next(name for name in holders if server.of[name] > 0)
            holders.pop(victim).kill()
            before = server.messages.copy()
            # The others have its slot, too.
            await self.until(lambda: all(
                server.of[name] == 1 for name in holders))
            await self.until(lambda: all(
                server.messages[name] > before[name] + 20
                for name in holders))
            self.assertEqual(server.of[victim], 0)
        self.run_steps(steps)

    def test_all_slots_are_those_of_one_that_is_killed(self):
        async def steps():
            server = self.server
            first = await self.start('a', CEILING)
            await self.until(lambda: server.of['a'] == CEILING)
            await self.start('b', CEILING)
            first.kill()
            await self.until(lambda: server.of['b'] == CEILING)
        self.run_steps(steps)

    def test_a_long_post_does_not_keep_all(self):
        async def steps():
            server = self.server
            await self.start('a', CEILING)
            await self.until(lambda: server.of['a'] == CEILING)
            second = await self.start('b', 1)
            await self.until(
                lambda: (server.of['a'], server.of['b']) == (2, 1))
            # And has it back.
            second.kill()
            await self.until(lambda: server.of['a'] == CEILING)
        self.run_steps(steps)


class Strict(Scripted):
    """It counts connections as servers do that refuse one too many.

    :ivar most: The most that there were at the same time.
    """

    def __init__(self, **options):
        super().__init__(self._watch, **options)
        self.most = 0
        self._quitting = set()

    def _watch(self, command, session):
        if command == 'QUIT':
            self._quitting.add(session.number)
        elif command == 'CONNECT':
            self.most = max(self.most, len(self.open - self._quitting))


class TestRunners(SiteTestCase):
    """Real runners, each a slice of the `out` queue."""

    def start(self, instances, posts, members=100, **pool):
        # 5 ms for each reply, so that there is something to share.
        self.server = self.use(Strict(delay=0.005))
        self.instances = instances
        settings = {
            'relay.mx': {'host': self.server.host, 'port': self.server.port,
                         'max_connections': CEILING},
            'delivery': {'split': 10}, 'pool': pool}
        site = self.site(members=members)
        site.set_up(settings=settings,
                    extra=f'[runner.out]\ninstances: {instances}\n')
        for number in range(posts):
            site.post(numbered(number), verp=True)
        return site

    def run_slice(self, site, number):
        return site.start_runner(f'out:{number}:{self.instances}')

    def holders(self, site):
        """Return the numbers of the processes that have taken a slot."""
        return {int(path.read_text() or 0) for path in
                (site.var / 'mta_pool' / 'slots').glob('*/[0-9]')}

    def test_one_of_four_is_killed(self):
        posts = 6
        site = self.start(4, posts)
        runners = [self.run_slice(site, number) for number in range(4)]
        self.server.wait_for(lambda server: len(server.accepted) >= 100)
        victim = site.wait_for(
            lambda: next((runner for runner in runners
                          if runner.pid in self.holders(site)), None),
            'a runner with a connection')
        victim.kill()
        before = len(self.server.accepted)
        # The others go on with what it had.
        self.server.wait_for(
            lambda server: len(server.accepted) >= before + 100)
        self.run_slice(site, runners.index(victim))
        site.wait_until_empty()
        self.assertEqual(self.server.most, CEILING)
        copies = Counter(self.server.served)
        self.assertEqual(set(copies), set(site.members))
        self.assertEqual({times for times in copies.values()
                          if times not in (posts, posts + 1)}, set())
        # One transaction on each of its connections was in flight.
        self.assertLessEqual(sum(copies.values()),
                             posts * len(site.members) + CEILING)
        self.assertEqual(site.waiting(), {})
        self.assertEqual(site.bounced(), [])
        self.assertQuiet(site)

    def test_idle_ones_are_given_up(self):
        # Which slice gets a post is a matter of chance; that one gets all of
        # these will not happen.
        posts = 16
        site = self.start(
            2, posts, members=10, idle_timeout='10m', max_lifetime=0)
        first = self.run_slice(site, 0)
        site.wait_for(
            lambda: first.idle and len(self.server.accepted) >= 10 and
            not any(path.suffix == '.bak'
                    for path in site.queue('out').files),
            'the first to have done its part')
        self.assertLess(len(self.server.accepted), 10 * posts)
        self.assertEqual(len(self.server.open), CEILING)
        self.run_slice(site, 1)
        site.wait_until_empty()
        self.assertEqual(self.server.most, CEILING)
        self.assertEqual(
            sorted(self.server.served), sorted(site.members * posts))
        self.assertQuiet(site)


class TestCheck(SiteTestCase):
    """`mailman mta-pool check` takes no slot."""

    def test_it_opens_one_more(self):
        def script(command, session):
            if command == 'CONNECT' and len(server.open) > CEILING:
                return '421 4.7.0 Error: too many connections'
        # Slow enough for all three.
        server = self.use(Scripted(script, delay=0.02))
        site = self.site(members=20)
        site.set_up(settings={
            'relay.mx': {'host': server.host, 'port': server.port,
                         'max_connections': CEILING},
            'pool': {'idle_timeout': '10m'}})
        site.post(verp=True)
        with site.runner():
            site.wait_until_empty()
            self.assertEqual(len(server.open), CEILING)
            with self.assertRaisesRegex(SiteError, 'too many connections'):
                site.mailman('mta-pool', 'check')
            site.hold_master_lock()
            site.mailman('mta-pool', 'status')
            # Nobody has closed a connection for it.
            self.assertEqual(server.said('QUIT'), [])
            self.assertEqual(server.connections, CEILING + 1)
            site.post(numbered(1), verp=True)
            site.wait_until_empty()
        self.assertEqual(sorted(server.served), sorted(site.members * 2))
        self.assertQuiet(site)


@unittest.skipIf(available(), available())
class TestPostfix(SiteTestCase):
    """A server that refuses one connection too many, as Postfix counts."""

    def test_no_refusal(self):
        server = self.use(Postfix(
            smtpd_client_connection_count_limit=CEILING,
            smtpd_client_event_limit_exceptions=''))
        site = self.site(members=100)
        # Connections come and go all the time.
        site.set_up(settings={
            'relay.mx': {'host': server.host, 'port': server.port,
                         'max_connections': CEILING,
                         'max_sessions_per_connection': 3},
            'delivery': {'split': 10}},
            extra='[runner.out]\ninstances: 4\n')
        posts = 8
        for number in range(posts):
            site.post(numbered(number), verp=True)
        for number in range(4):
            site.start_runner(f'out:{number}:4')
        site.wait_until_empty()
        server.wait_until_delivered()
        log = server.log().text
        self.assertNotIn('concurrency limit exceeded', log)
        self.assertNotIn('too many connections', log)
        self.assertGreaterEqual(log.count(': connect from'), 100)
        self.assertEqual(server.delivered(), {
            member: posts for member in site.members})
        # Not as digits of a duration.
        self.assertNotRegex(site.log('smtp.log'), r'\b421 ')
        self.assertQuiet(site)
