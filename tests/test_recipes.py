# SPDX-License-Identifier: GPL-3.0-or-later
"""The recipes are good configurations."""

import unittest

from mailman.config import config
from mailman.testing.layers import ConfigLayer
from mailman_mta_pool.configuration.files import ConfigurationError
from mailman_mta_pool.configuration.loading import settings_of_plugin, with_mta
from tests.recipes import recipes


SERVERS = {
    'Postfix': 'localhost',
    'Exim': 'localhost',
    'A server that is known by its certificate': 'mx.example.com',
    'Amazon SES': 'email-smtp.eu-west-1.amazonaws.com',
    'Exchange Online': 'example-com.mail.protection.outlook.com',
    'Gmail and Google Workspace': 'smtp-relay.gmail.com',
    }


class TestRecipes(unittest.TestCase):
    layer = ConfigLayer

    def load(self, mailman, own):
        config.push('recipe', mailman)
        self.addCleanup(config.pop, 'recipe')
        return with_mta(settings_of_plugin('mta_pool.cfg', own))

    def test_each_is_good(self):
        found = {}
        for recipe in recipes():
            with self.subTest(recipe.name):
                relay = self.load(recipe.mailman, recipe.own).relay
                found[recipe.name] = relay.host
                # A password goes over no connection that is in the clear.
                if relay.user:
                    self.assertIn(relay.secure_mode, ('smtps', 'starttls'))
                    self.assertTrue(relay.verify_cert)
        self.assertEqual(found, SERVERS)

    def test_a_mistake_is_found(self):
        postfix = recipes()[0]
        with self.assertRaisesRegex(ConfigurationError, 'server_verp'):
            self.load(postfix.mailman, postfix.own.replace('auto', 'perhaps'))
