# SPDX-License-Identifier: GPL-3.0-or-later
"""`mailman mta-pool config --check` finds the recipes good."""

from tests.interop.login import CA, REASON
from tests.operate.command import mta_pool
from tests.recipes import recipes, with_files
from tests.servers.dovecot import Dovecot
from tests.servers.recorder import Recorder
from tests.site_case import SiteTestCase
from unittest import skipIf


class TestRecipes(SiteTestCase):
    def setUp(self):
        super().setUp()
        self.mailman = self.site(members=1)

    def check(self, name, text):
        """Write part of a file; return its path and what is said of it."""
        path = self.mailman.directory / name
        path.write_text(with_files(text, self.mailman.directory))
        path.chmod(0o600)
        return path, mta_pool(self.mailman, 'config', '--check', path)

    def assertGood(self, name, text):
        path, done = self.check(name, text)
        self.assertEqual((done.status, done.errors), (0, []))
        self.assertEqual(
            done.output.decode().splitlines()[0], f'{path}: good')

    def test_each_recipe(self):
        found = recipes()
        self.assertGreater(len(found), 12)
        for recipe in found:
            with self.subTest(recipe.name):
                self.assertGood('part-of-mailman.cfg', recipe.mailman)
                self.assertGood('part-of-mta_pool.cfg', recipe.own)

    def test_a_mistake(self):
        postfix = recipes()[0]
        for name, text, key in (
                ('part-of-mailman.cfg',
                 postfix.mailman.replace('25', 'smtp'), '[mta] smtp_port'),
                ('part-of-mta_pool.cfg',
                 postfix.own.replace('auto', 'perhaps'),
                 '[delivery] server_verp')):
            with self.subTest(key):
                _, done = self.check(name, text)
                self.assertEqual(done.status, 1)
                self.assertIn(key, done.errors[0])


@skipIf(REASON, REASON)
class TestDovecot(SiteTestCase):
    def test_each_is_served_once(self):
        # It is what the pipelining of this recipe is about.
        own, = [recipe.own for recipe in recipes()
                if recipe.name.startswith('Dovecot')]
        recorder = self.use(Recorder())
        server = self.use(Dovecot(
            recorder, {'lists@example.com': 'Tr0mbone-Zebra'}))
        site = self.site(members=40)
        site.set_up(settings=with_files(own, site.directory).replace(
            'host: mail.example.com',
            f'host: localhost\nport: {server.tls_port}\ntls_ca: {CA}'))
        site.run({'verp': True})
        self.assertEachOnce(site, [
            recipient for message in recorder.messages()
            for recipient in message.recipients])
        self.assertQuiet(site)
