# SPDX-License-Identifier: GPL-3.0-or-later

"""The relays that a process keeps from post to post."""

import unittest

from mailman.testing.layers import ConfigLayer
from mailman_mta_pool.network.border import border
from mailman_mta_pool.relays.limiting import close_limiter, use_limits
from mailman_mta_pool.relays.relay import close_relays, relays_for
from mailman_mta_pool.settings import (
    PoolSettings,
    Rate,
    RelaySettings,
    Settings,
)
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
            first, second = relays_for(keys, keys)
            for relay in first, second:
                self.assertFalse(self.connect(relay))
            # This post goes over one of them only.
            self.assertEqual(relays_for(keys[1:], keys), [second])
            self.assertEqual(relays_for(keys[::-1], keys), [second, first])
            for relay in first, second:
                self.assertTrue(self.connect(relay))
            self.assertEqual(relays_for(keys[1:], keys[1:]), [second])
            one.wait_for(lambda server: not server.open)
            self.assertEqual(first.pool.statistics().idle, 0)
            self.assertTrue(self.connect(second))
            self.assertIsNot(relays_for(keys, keys)[0], first)

    def test_another_login(self):
        with Scripted() as server:
            keys = [self.settings(server, user=name, password=name)
                    for name in ('anne', 'bart')]
            first, second = relays_for(keys, keys)
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
            relay, = relays_for([key], [key])
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
            relays = relays_for(keys, keys)
            for relay in relays:
                self.connect(relay)
            close_relays()
            for server in one, other:
                server.wait_for(lambda server: not server.open)
            for before, now in zip(relays, relays_for(keys, keys)):
                self.assertIsNot(before, now)
