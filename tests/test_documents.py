# SPDX-License-Identifier: GPL-3.0-or-later
"""The documents leave out nothing of which they say that they have it all."""

import re
import unittest

from configparser import RawConfigParser
from docs.commands import commands, PROGRAM, subcommands
from docs.generated import COMMENT, PACKAGE, PARTS, with_generated
from docs.keys import keys, keys_of
from docs.metrics import metrics
from docs.schemas import schema_files, schemas
from importlib import import_module
from tests.test_architecture import ROOT


DOCS = ROOT / 'docs'
SUBCOMMANDS = {'check', 'config', 'report', 'status', 'trace'}
SCHEMA = (PACKAGE / 'configuration' / 'schema.cfg').read_text('utf-8')
REFERENCE = re.compile(r':doc:`(?:[^`<]*<)?([\w/.-]+)>?`')
# What README.rst, CONTRIBUTING.rst, the news and the code call documents.
PATH = re.compile(r'\bdocs/[\w/-]+\.(?:rst|yml|json|png)\b')


def words(text):
    """The text without markup and line breaks, to look something up in."""
    return ' '.join(re.sub(r'[\\`*]', '', text).split())


class TestKeys(unittest.TestCase):
    def test_each_key_with_its_default(self):
        parser = RawConfigParser()
        parser.read_string(SCHEMA)
        expected = [(section, key, value) for section in parser.sections()
                    for key, value in parser.items(section)]
        self.assertEqual(
            [(key.section, key.name, key.default) for key in keys_of(SCHEMA)],
            expected)
        text = keys(SCHEMA)
        for section, key, value in expected:
            with self.subTest(key):
                default = f'``{value}``' if value else 'empty'
                self.assertIn(
                    f'.. confval:: [{section}] {key}\n'
                    f'   :default: {default}\n', text)

    def test_each_key_is_explained(self):
        for key in keys_of(SCHEMA):
            with self.subTest(key.full_name):
                self.assertRegex(key.comment, r'\S\.$')

    def test_no_word_of_a_comment_is_lost(self):
        text = words(keys(SCHEMA))
        body = SCHEMA[SCHEMA.index('\n['):]
        comments = re.findall(r'(?:^#.*\n)+', body, re.MULTILINE)
        self.assertGreater(len(comments), 20)
        for comment in comments:
            for paragraph in re.sub(
                    '^# ?', '', comment, flags=re.MULTILINE).split('\n\n'):
                with self.subTest(paragraph):
                    self.assertIn(words(paragraph), text)

    def test_markup_in_a_comment(self):
        text = keys('[a]\n# Not *b*, but `c`: d_ and $E/f_g.\nh: i\n')
        self.assertIn(r'Not \*b\*, but ``c``: d\_ and $E/f_g.', text)


class TestCommands(unittest.TestCase):
    def test_each_subcommand(self):
        self.assertEqual(set(subcommands()), SUBCOMMANDS)

    def test_each_option(self):
        text = commands()
        for name, command in subcommands().items():
            start = text.index(f'\n.. program:: {PROGRAM} {name}\n')
            part = text[start:].partition('\n---')[0]
            for parameter in command.params:
                for option in parameter.opts:
                    if option.startswith('-'):
                        with self.subTest(name, option=option):
                            self.assertRegex(
                                part, rf'\.\. option:: .*{option}\b')
                            self.assertTrue(parameter.help)

    def test_man_page_has_them(self):
        page = (DOCS / 'man' / 'mailman-mta-pool.rst').read_text('utf-8')
        self.assertIn(commands(), with_generated(page))


class TestMetrics(unittest.TestCase):
    def test_each_metric(self):
        text = metrics()
        module = import_module('mailman_mta_pool.monitoring.metrics')
        self.assertGreater(len(module.METRICS), 10)
        for metric in module.METRICS:
            with self.subTest(metric.name):
                self.assertIn(f'``{module.PREFIX}{metric.name}`` :', text)
                self.assertTrue(metric.healthy)


class TestSchemas(unittest.TestCase):
    def test_each_schema(self):
        text = schemas(PACKAGE)
        names = {path.name for path in schema_files(PACKAGE)}
        self.assertLessEqual(
            {'status.schema.json', 'check.schema.json'}, names)
        for path in schema_files(PACKAGE):
            self.assertIn(path.relative_to(ROOT).as_posix(), text)


class TestDocuments(unittest.TestCase):
    def setUp(self):
        self.documents = sorted(DOCS.rglob('*.rst'))

    def test_each_generated_part_stands_somewhere(self):
        found = {name for path in self.documents
                 for name in COMMENT.findall(path.read_text('utf-8'))}
        self.assertEqual(found, set(PARTS))

    def test_examples_are_run(self):
        # nose2 looks into packages only.
        with_examples = [path for path in self.documents
                         if '    >>> ' in path.read_text('utf-8')]
        self.assertGreater(len(with_examples), 6)
        for path in with_examples:
            with self.subTest(path.name):
                self.assertTrue((path.parent / '__init__.py').exists())

    def test_references_to_other_documents(self):
        for path in self.documents:
            for name in REFERENCE.findall(path.read_text('utf-8')):
                base = DOCS if name.startswith('/') else path.parent
                target = base / f'{name.lstrip("/")}.rst'
                with self.subTest(path.name, name=name):
                    self.assertTrue(target.exists())

    def test_paths_in_what_is_no_document(self):
        paths = [*ROOT.glob('*.rst'), *ROOT.glob('*.cfg'),
                 *(ROOT / 'newsfragments').glob('*.rst'),
                 *self.documents]
        for directory in (PACKAGE, ROOT / 'tests', ROOT / 'benchmarks'):
            paths += [*directory.rglob('*.py'), *directory.rglob('*.cfg')]
        for path in paths:
            for name in PATH.findall(path.read_text('utf-8')):
                with self.subTest(path.name, name=name):
                    self.assertTrue((ROOT / name).exists(), name)
