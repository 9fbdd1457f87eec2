# SPDX-License-Identifier: GPL-3.0-or-later

"""The relays that a process keeps from post to post."""

import os
import fcntl
import asyncio
import unittest

from mailman.testing.layers import ConfigLayer
from mailman_mta_pool.network.border import border
from mailman_mta_pool.relays.limiting import close_limiter, use_limits
from mailman_mta_pool.relays.relay import (
    close_relays,
    kept_relays,
    other_relays,
)
from mailman_mta_pool.relays.slots import slot_directory
from mailman_mta_pool.settings import (
    PoolSettings,
    Rate,
    RelaySettings,
    Settings,
)
from pathlib import Path
from tempfile import TemporaryDirectory
from tests.scripted import Scripted


POOL = PoolSettings(max_connections=2)


class TestKept(unittest.TestCase):
    layer = ConfigLayer

    def setUp(self):
        self.addCleanup(close_relays)

    def settings(self, server, **kws):
        return RelaySettings(host=server.host, port=server.port, **kws), POOL

    def connect(self, relay):
        async def use():
            connection, is_reused = await relay.pool.acquire()
            relay.pool.release(connection)
            return is_reused
        return border.call(use)

    def test_as_long_as_the_settings_name_it(self):
        with Scripted() as one, Scripted() as other:
            keys = [self.settings(one), self.settings(other)]
            first, second = kept_relays(keys, keys)
            for relay in first, second:
                self.assertFalse(self.connect(relay))
            # This post goes over one of them only.
            self.assertEqual(kept_relays(keys[1:], keys), [second])
            self.assertEqual(kept_relays(keys[::-1], keys), [second, first])
            for relay in first, second:
                self.assertTrue(self.connect(relay))
            self.assertEqual(kept_relays(keys[1:], keys[1:]), [second])
            one.wait_for(lambda server: not server.open)
            self.assertEqual(first.pool.statistics().idle, 0)
            self.assertTrue(self.connect(second))
            self.assertIsNot(kept_relays(keys, keys)[0], first)

    def test_the_others_of_the_site(self):
        with Scripted() as one, Scripted() as other:
            keys = [self.settings(one), self.settings(other)]
            first, = kept_relays(keys[:1], keys)
            second, = other_relays([first])
            self.assertEqual(second.settings, keys[1][0])
            # Nothing was opened.
            self.assertEqual(other.connections, 0)
            self.assertEqual(kept_relays(keys[1:], keys), [second])
            self.assertEqual(other_relays([second]), [first])
            kept_relays(keys[1:], keys[1:])
            self.assertEqual(other_relays([second]), [])

    def test_another_login(self):
        with Scripted() as server:
            keys = [self.settings(server, user=name, password=name)
                    for name in ('anne', 'bart')]
            first, second = kept_relays(keys, keys)
            self.assertIsNot(first, second)
            self.assertEqual(first.name, second.name)
            self.assertNotIn('anne', repr(first))

    def test_every_address_counts(self):
        # The limit is one of connects, and not of connections.
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        use_limits(Settings(), directory.name)
        self.addCleanup(border.call, close_limiter)
        with Scripted() as server:
            key = self.settings(server, connect_rate=(Rate(2, 3600.0),))
            relay, = kept_relays([key], [key])
            self.connect(relay)

            async def attempt():
                is_over = relay.addresses.next_attempt()
                if is_over is not None:
                    is_over()
                return is_over is not None
            self.assertTrue(border.call(attempt))
            self.assertFalse(border.call(attempt))

    def test_all_are_closed(self):
        with Scripted() as one, Scripted() as other:
            keys = [self.settings(one), self.settings(other)]
            relays = kept_relays(keys, keys)
            for relay in relays:
                self.connect(relay)
            close_relays()
            for server in one, other:
                server.wait_for(lambda server: not server.open)
            for before, now in zip(relays, kept_relays(keys, keys)):
                self.assertIsNot(before, now)


class TestHost(unittest.TestCase):
    """The connections that all processes of a host have."""

    layer = ConfigLayer

    def setUp(self):
        self.addCleanup(close_relays)
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name

    def keys(self, server, **kws):
        return [(RelaySettings(
            host=server.host, port=server.port, name='mx', **kws), POOL)]

    def relay(self, keys):
        return kept_relays(keys, keys, self.directory)[0]

    def connect(self, relay):
        async def use():
            connection, is_reused = await relay.pool.acquire()
            relay.pool.release(connection)
        border.call(use)

    def files(self, server, name=''):
        directory = Path(slot_directory(
            self.directory, 'mx', server.host, server.port, ''))
        return sorted((directory / name).glob('[0-9a-f]*'))

    def is_locked(self, path):
        with open(path) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def assertFree(self, server):
        self.assertEqual(self.files(server, 'processes'), [])
        for path in self.files(server):
            self.assertFalse(self.is_locked(path))

    def test_an_idle_connection_has_a_slot(self):
        with Scripted() as server:
            keys = self.keys(server, max_connections=1)
            self.connect(self.relay(keys))
            slot, = self.files(server)
            self.assertTrue(self.is_locked(slot))
            self.assertEqual(len(self.files(server, 'processes')), 1)
            close_relays()
            self.assertFree(server)
            # The server has answered QUIT.
            self.assertEqual(slot.read_bytes(), b'')

    def test_no_ceiling(self):
        with Scripted() as server:
            self.connect(self.relay(self.keys(server)))
            self.assertEqual(os.listdir(self.directory), [])

    def test_the_network_thread_ends(self):
        # Nothing of it is left over that others would wait for.
        with Scripted() as server:
            keys = self.keys(server, max_connections=1)
            self.connect(self.relay(keys))
            border.end(lambda: asyncio.sleep(0), 1)
            self.relay(keys)
            self.assertFree(server)

    def test_other_settings_go_on_with_the_same_slots(self):
        with Scripted() as server:
            self.connect(self.relay(self.keys(server, max_connections=1)))
            keys = self.keys(
                server, max_connections=1, max_sessions_per_connection=9)
            self.connect(self.relay(keys))
            self.assertEqual(len(self.files(server)), 1)
            self.assertEqual(server.connections, 2)
