# SPDX-License-Identifier: GPL-3.0-or-later
"""`mailman mta-pool config --check` finds the recipes good."""

from tests.operate.command import mta_pool
from tests.recipes import recipes, with_files
from tests.site_case import SiteTestCase


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
