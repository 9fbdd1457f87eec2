# SPDX-License-Identifier: GPL-3.0-or-later

"""The storage that the configuration names."""

import sys
import asyncio
import unittest

from mailman_mta_pool.limits.file import FileStorage
from mailman_mta_pool.limits.opening import open_storage
from mailman_mta_pool.secret import Secret
from mailman_mta_pool.settings import StorageSettings
from unittest import mock


class TestOpening(unittest.TestCase):
    def setUp(self):
        self.loop = asyncio.new_event_loop()
        self.addCleanup(self.loop.close)

    def test_file(self):
        storage = open_storage(
            StorageSettings(), 1, '/nowhere', self.loop)
        self.assertIsInstance(storage, FileStorage)

    def test_without_redis(self):
        missing = {name: None for name in (
            'redis', 'redis.asyncio', 'mailman_mta_pool.limits.shared')}
        with mock.patch.dict(sys.modules, missing):
            with self.assertRaises(ValueError) as caught:
                open_storage(
                    StorageSettings(
                        'redis://localhost', password=Secret('Zebra-Stripe')),
                    2, '/nowhere',
                    self.loop)
        self.assertIn('[redis]', str(caught.exception))
        self.assertNotIn('Zebra', str(caught.exception))
