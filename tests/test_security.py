# SPDX-License-Identifier: GPL-3.0-or-later
"""Each test that docs/security.rst names is there."""

import re
import unittest

from importlib import import_module
from tests.test_architecture import ROOT


DOCUMENT = (ROOT / 'docs' / 'security.rst').read_text('utf-8')
NAME = re.compile(r'``(tests[\w.]+):(\w+)\.(\w+)``')
# Of a title and what is below it, up to the next one.
PART = re.compile(r'^(.+)\n=+\n((?:.*\n)*?)(?=.+\n=+\n|\Z)', re.MULTILINE)
ACTORS = ('A poster', 'A member', 'A server', 'A person on the network',
          'Another user of the host')


class TestAudit(unittest.TestCase):
    def test_each_test_is_there(self):
        names = NAME.findall(DOCUMENT)
        self.assertGreater(len(names), 40)
        for module, case, test in names:
            with self.subTest(f'{module}:{case}.{test}'):
                self.assertTrue(callable(getattr(
                    getattr(import_module(module), case), test)))

    def test_each_actor(self):
        parts = dict(PART.findall(DOCUMENT))
        for actor in ACTORS:
            with self.subTest(actor):
                self.assertGreaterEqual(len(NAME.findall(parts[actor])), 3)
                self.assertIn('Not defended: ', parts[actor])
