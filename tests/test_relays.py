# SPDX-License-Identifier: GPL-3.0-or-later

"""The relays that a process keeps from post to post."""

import unittest

from mailman.testing.layers import ConfigLayer
from mailman_mta_pool.network.border import border
from mailman_mta_pool.relays.relay import close_relays, kept_relays
from mailman_mta_pool.settings import PoolSettings, RelaySettings
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

    def test_another_login(self):
        with Scripted() as server:
            keys = [self.settings(server, user=name, password=name)
                    for name in ('anne', 'bart')]
            first, second = kept_relays(keys, keys)
            self.assertIsNot(first, second)
            self.assertEqual(first.name, second.name)
            self.assertNotIn('anne', repr(first))

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
