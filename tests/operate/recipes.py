# SPDX-License-Identifier: GPL-3.0-or-later
"""`mailman mta-pool config --check` finds the recipes good."""

from mailman_mta_pool.demo.site import SiteError
from tests.recipes import recipes
from tests.site_case import SiteTestCase


class TestRecipes(SiteTestCase):
    def setUp(self):
        super().setUp()
        self.mailman = self.site(members=1)

    def check(self, name, text):
        path = self.mailman.directory / name
        path.write_text(text)
        self.assertEqual(
            self.mailman.mailman(
                'mta-pool', 'config', '--check', str(path)).strip(),
            f'{path}: good')

    def test_each_recipe(self):
        found = recipes()
        self.assertGreater(len(found), 4)
        for recipe in found:
            with self.subTest(recipe.name):
                self.check('part-of-mailman.cfg', recipe.mailman)
                self.check('part-of-mta_pool.cfg', recipe.own)

    def test_a_mistake(self):
        postfix = recipes()[0]
        for name, text, key in (
                ('part-of-mailman.cfg',
                 postfix.mailman.replace('25', 'smtp'), r'\[mta\] smtp_port'),
                ('part-of-mta_pool.cfg',
                 postfix.own.replace('auto', 'perhaps'),
                 r'\[delivery\] server_verp')):
            with self.subTest(key), self.assertRaisesRegex(SiteError, key):
                self.check(name, text)
