# SPDX-License-Identifier: GPL-3.0-or-later
"""The news fragments are named rightly, and make a good NEWS.rst."""

import re
import sys
import unittest
import subprocess

from docutils.core import publish_doctree
from docutils.nodes import section, title
from pathlib import Path


ROOT = Path(__file__).resolve().parent.parent
FRAGMENTS = ROOT / 'newsfragments'
TYPES = 'feature|bugfix|removal|doc|misc'
NAME = re.compile(r'\d+\.(?:{})(?:\.\d+)?\.rst'.format(TYPES))
#: docutils's level for a warning.
WARNING = 2


class TestNews(unittest.TestCase):
    def setUp(self):
        self.fragments = sorted(
            path for path in FRAGMENTS.iterdir() if path.name != 'README.rst')

    def test_names(self):
        # What towncrier does not recognize, it leaves out without a word.
        wrong = [path.name for path in self.fragments
                 if not NAME.fullmatch(path.name)]
        self.assertEqual(wrong, [])

    def test_types_are_those_of_towncrier(self):
        text = (ROOT / 'pyproject.toml').read_text('utf-8')
        self.assertEqual(
            re.findall('^directory = "([a-z]+)"$', text, re.MULTILINE)[1:],
            TYPES.split('|'))

    def test_each_is_one_paragraph(self):
        for path in self.fragments:
            text = path.read_text('utf-8')
            with self.subTest(path.name):
                self.assertRegex(text, r'\S[.)`]\n\Z')
                self.assertNotIn('\n\n', text)
                # They are indented by two.
                self.assertLessEqual(max(map(len, text.split('\n'))), 77)

    def test_news_renders(self):
        draft = subprocess.run(
            [sys.executable, '-m', 'towncrier', 'build', '--draft',
             '--version', '9.9', '--date', 'today', '--dir', str(ROOT)],
            check=True, capture_output=True, encoding='utf-8').stdout
        head, marker, older = (ROOT / 'NEWS.rst').read_text(
            'utf-8').partition('.. towncrier release notes start\n')
        self.assertNotEqual(marker, '')
        news = draft[draft.index('9.9 ('):]
        tree = publish_doctree(
            f'{head}{marker}\n{news}\n{older}',
            settings_overrides={'halt_level': WARNING, 'report_level': 5})
        titles = [each.next_node(title).astext()
                  for each in tree.findall(section)]
        self.assertEqual(titles[0], '9.9 (today)')
        self.assertIn('0.1.0', titles)
        # Every fragment is there, with the number of its issue.
        text = ' '.join(tree.astext().split())
        for path in self.fragments:
            with self.subTest(path.name):
                first = publish_doctree(path.read_text('utf-8')).astext()
                self.assertIn(' '.join(first.split()), text)
