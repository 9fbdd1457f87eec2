# SPDX-License-Identifier: GPL-3.0-or-later
"""The recipes are good configurations."""

import unittest

from mailman.config import config
from mailman.testing.layers import ConfigLayer
from mailman_mta_pool.configuration.files import ConfigurationError
from mailman_mta_pool.configuration.loading import settings_of_plugin, with_mta
from mailman_mta_pool.relays.routing import relays_for, routing_warnings
from mailman_mta_pool.settings import Rate
from tempfile import TemporaryDirectory
from tests.recipes import recipes, with_files


SERVERS = {
    'Postfix': 'localhost',
    'Postfix with a login': 'smtp.example.com',
    "Dovecot's submission service": 'mail.example.com',
    'Exim': 'localhost',
    'A server that is known by its certificate': 'mx.example.com',
    'Amazon SES': 'email-smtp.eu-west-1.amazonaws.com',
    'Exchange Online': 'example-com.mail.protection.outlook.com',
    'Exchange Online by a certificate':
        'example-com.mail.protection.outlook.com',
    'A mailbox of Microsoft 365': 'smtp.office365.com',
    'Gmail and Google Workspace': 'smtp-relay.gmail.com',
    'Gmail with a token': 'smtp.gmail.com',
    'A provider account for each domain': 'smtp.provider.example',
    'A second smarthost as backup': 'smtp1.example.com',
    '14 a second and 50,000 a day': 'smtp.provider.example',
    }


class TestRecipes(unittest.TestCase):
    layer = ConfigLayer

    def setUp(self):
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name

    def load(self, mailman, own):
        own = with_files(own, self.directory)
        config.push('recipe', mailman)
        self.addCleanup(config.pop, 'recipe')
        return with_mta(settings_of_plugin('mta_pool.cfg', own))

    def test_each_is_good(self):
        found = {}
        for recipe in recipes():
            with self.subTest(recipe.name):
                settings = self.load(recipe.mailman, recipe.own)
                found[recipe.name] = settings.relay.host
                self.assertEqual(routing_warnings(settings, [
                    'ant@example.com', 'bee@lists.example.org']), [])
                # A password goes over no connection that is in the clear.
                for relay in settings.relays:
                    if relay.user:
                        self.assertIn(
                            relay.secure_mode, ('smtps', 'starttls'))
                        self.assertTrue(relay.verify_cert)
        self.assertEqual(found, SERVERS)

    def test_several_relays(self):
        settings = {
            recipe.name: self.load(recipe.mailman, recipe.own)
            for recipe in recipes()}
        accounts = settings['A provider account for each domain']
        for address, names in (
                ('ant@lists.example.org', ['org']),
                ('announce@example.com', ['com']),
                ('ant@example.com', ['site']), (None, ['site'])):
            self.assertEqual(
                [relay.name for relay in relays_for(accounts, address)],
                names)
        self.assertEqual(
            [(relay.host, relay.port, relay.user, relay.message_rate)
             for relay in accounts.relays], [
                ('smtp.provider.example', 587, 'lists@example.org', (
                    Rate(10, 1.0),)),
                ('smtp.provider.example', 587, 'lists@example.com', (
                    Rate(10, 1.0),)),
                ('localhost', 25, '', ())])
        backup = settings['A second smarthost as backup']
        self.assertEqual(
            [(relay.priority, relay.weight) for relay in backup.relays],
            [(10, 3), (10, 1), (20, 1)])
        limited = settings['14 a second and 50,000 a day']
        self.assertEqual(limited.relay.message_rate, (
            Rate(14, 1.0), Rate(50000, 86400.0)))
        self.assertEqual(limited.limits[0].message_rate, (
            Rate(20000, 86400.0),))

    def test_a_mistake_is_found(self):
        postfix = recipes()[0]
        with self.assertRaisesRegex(ConfigurationError, 'server_verp'):
            self.load(postfix.mailman, postfix.own.replace('auto', 'perhaps'))
