# SPDX-License-Identifier: GPL-3.0-or-later
"""`max_connections` holds for all processes of a host, whatever ends them."""

import sys
import asyncio
import unittest

from asyncio.subprocess import DEVNULL, PIPE
from collections import Counter
from contextlib import AsyncExitStack
from mailman_mta_pool.relays.slots import slot_directory
from pathlib import Path
from tempfile import TemporaryDirectory


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
