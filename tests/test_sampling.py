# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the numbers of a delivery come from."""

import gc
import weakref
import unittest

from mailman.testing.layers import ConfigLayer
from mailman_mta_pool.dispatch.outbound import Outbound
from mailman_mta_pool.relays.relay import Relay
from mailman_mta_pool.sampling import RelayWatch
from mailman_mta_pool.settings import Settings
from mailman_mta_pool.settlement.ledger import Ledger


class TestRelayWatch(unittest.TestCase):
    layer = ConfigLayer

    def test_nothing_of_a_post_stays(self):
        # It may have had a million recipients.
        settings = Settings()
        relay = Relay(settings.relay, settings.pool)
        ledger = Ledger(relays=[relay])
        watch = RelayWatch(ledger)
        self.assertEqual(watch.samples(), [])
        watch.use(Outbound([relay], settings.delivery, ledger))
        relay.trouble = 'connect: refused'
        during, = watch.samples()
        self.assertEqual(
            (during.state.name, during.state.state, during.state.reason),
            (relay.name, 'down', 'connect: refused'))
        gone = weakref.ref(ledger)
        watch.end()
        del ledger
        gc.collect()
        self.assertIsNone(gone())
        self.assertEqual(watch.samples(), [during])
        relay.trouble = ''
        self.assertEqual(watch.samples()[0].state.state, 'unknown')
