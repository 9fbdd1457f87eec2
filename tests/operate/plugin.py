# SPDX-License-Identifier: GPL-3.0-or-later

"""The plugin, in processes of its own as Mailman starts them."""

from mailman.interfaces.plugin import IPlugin
from mailman_mta_pool.plugin import MTAPoolPlugin
from tests.starting import START, StartTestCase
from zope.interface.verify import verifyObject


class TestPlugin(StartTestCase):
    def test_interface(self):
        plugin = MTAPoolPlugin()
        verifyObject(IPlugin, plugin)
        self.assertTrue(callable(plugin.resource.on_get))

    def test_what_only_rest_needs_is_not_loaded(self):
        ended = self.start(program=START + (
            "print('falcon' in sys.modules,"
            " 'mailman_mta_pool.monitoring.overview' in sys.modules)\n"))
        self.assertEqual(ended.stdout.splitlines()[-1], 'False False')

    def test_starts_and_opens_nothing(self):
        for configuration in (
                None, '', 'python:mailman_mta_pool.configuration.schema'):
            with self.subTest(configuration=configuration):
                ended = self.start(
                    '[pool]\nidle_timeout: 0\n', 'max_delivery_threads: 8',
                    configuration)
                self.assertEqual(ended.stderr, '')
                self.assertEqual(ended.returncode, 0)
                self.assertEqual(ended.stdout.splitlines(), [
                    "plugins ['mta_pool']", 'threads 1', 'sockets []'])

    def test_wrong_key(self):
        self.assertRefuses(
            self.own, '[pool] idle_time', 'unknown key',
            text='[pool]\nidle_time: 10s\n')

    def test_wrong_value(self):
        self.assertRefuses(
            self.own, '[pool] idle_timeout', "'soon'",
            text='[pool]\nidle_timeout: soon\n')

    def test_wrong_section(self):
        self.assertRefuses(
            self.own, '[pools]', 'unknown section', text='[pools]\n')

    def test_missing_file(self):
        self.assertRefuses(
            '[plugin.mta_pool] configuration', '/nonexistent/mta_pool.cfg',
            configuration='/nonexistent/mta_pool.cfg')

    def test_wrong_value_in_mailman_cfg(self):
        self.assertRefuses(
            'mailman.cfg', '[mta] max_delivery_threads', "'many'",
            mta='max_delivery_threads: many')

    def test_unknown_secure_mode(self):
        self.assertRefuses(
            'mailman.cfg', '[mta] smtp_secure_mode', 'carrier-pigeon',
            'smtp, smtps, starttls', mta='smtp_secure_mode: carrier-pigeon')

    def test_relays(self):
        self.assertRefuses(
            self.own, '[relay.a] weight', "'0'",
            text='[relay.a]\nhost: a\nweight: 0\n')
        self.assertRefuses(
            self.own, '[relay.a] secure_mode', 'carrier-pigeon',
            'smtp, smtps, starttls',
            text='[relay.a]\nhost: a\nsecure_mode: carrier-pigeon\n')
