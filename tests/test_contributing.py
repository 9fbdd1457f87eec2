# SPDX-License-Identifier: GPL-3.0-or-later
"""What CONTRIBUTING.rst tells a stranger is true."""

import re
import ast
import unittest

from mailman_mta_pool.dispatch.retry import Event, RULES
from tests.test_architecture import House, PACKAGE, ROOT


CONTRIBUTING = (ROOT / 'CONTRIBUTING.rst').read_text('utf-8')
QUESTIONS = (
    'Where is a reply code judged?', 'Where is a connection chosen?',
    'Who tries again?', 'Which thread runs this line?',
    'Where are bytes made?',
    )
#: What has to do with retries, in the code.
COUNTS = frozenset(
    ['attempts', '_attempts', 'patience', '_patience', 'tried'])
#: Nothing in these rooms is a part of a delivery: the programs of the demo,
#: and what `mailman mta-pool check` says of a server.
BESIDE = frozenset(['demo', 'checking'])


def name_of(node):
    """The name of a variable or an attribute, without what is before it."""
    return getattr(node, 'attr', getattr(node, 'id', None))


class ContributingTestCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.trees = {}
        for module, path in House(ROOT).modules.items():
            name = module.partition('.')[2]
            if name.partition('.')[0] not in BESIDE:
                cls.trees[name] = ast.parse(path.read_text('utf-8'))

    def where(self, applies, *rooms_left_out):
        """The modules in which something applies to a node."""
        return {name for name, tree in self.trees.items()
                if name.partition('.')[0] not in rooms_left_out and
                any(map(applies, ast.walk(tree)))}

    def compares(self, names):
        """A condition: the node compares one of these, not with None."""
        return lambda node: (
            isinstance(node, ast.Compare) and
            not all(isinstance(each, (ast.Is, ast.IsNot))
                    for each in node.ops) and
            any(name_of(each) in names
                for each in [node.left, *node.comparators]))

    def calls(self, name):
        """A condition: the node calls a function of this name."""
        return lambda node: (
            isinstance(node, ast.Call) and name_of(node.func) == name)


class TestText(ContributingTestCase):
    def test_files(self):
        files = set(re.findall(r'``([\w./]+/[\w./]*)``', CONTRIBUTING))
        self.assertIn('tests/fault/cases.py', files)
        for name in files:
            with self.subTest(name):
                self.assertTrue(
                    (ROOT / name).exists() or (ROOT / PACKAGE / name).exists())

    def test_each_question_is_answered_by_a_file(self):
        for question, after in zip(
                QUESTIONS, [*QUESTIONS[1:], 'House style']):
            with self.subTest(question):
                start = CONTRIBUTING.index('\n' + question + '\n')
                answer = CONTRIBUTING[
                    start:CONTRIBUTING.index('\n' + after + '\n')]
                self.assertRegex(answer, r'``mailman_mta_pool/\w+/\w+\.py``')

    def test_modules_that_it_runs(self):
        for name in re.findall(r'nose2 -v (?:-s \. )?(tests[\w.]+)',
                               CONTRIBUTING):
            with self.subTest(name):
                self.assertTrue(
                    (ROOT / (name.replace('.', '/') + '.py')).exists())

    def test_glossary_is_in_order(self):
        start = CONTRIBUTING.index('\nGlossary\n')
        terms = re.findall(r'^([a-z ]+)\n    \S', CONTRIBUTING[start:],
                           re.MULTILINE)
        self.assertGreater(len(terms), 20)
        self.assertEqual(terms, sorted(terms))


class TestAnswers(ContributingTestCase):
    def test_where_a_reply_code_is_judged(self):
        self.assertEqual(
            self.where(lambda node: self.compares({'code'})(node) and any(
                isinstance(each, ast.Attribute)
                for each in ast.iter_child_nodes(node)),
                'wire', 'connection', 'login'), {'settlement.table'})

    def test_where_a_connection_is_chosen(self):
        self.assertEqual(
            self.where(self.calls('acquire')), {'dispatch.agent'})
        # A connection opens itself in `sendmail`.
        self.assertEqual(
            self.where(lambda node: self.calls('open')(node) and
                       not node.args, 'connection'), {'relays.pool'})

    def test_who_tries_again(self):
        self.assertEqual(set(RULES), set(Event))
        self.assertEqual(
            self.where(self.compares(COUNTS)), {'dispatch.retry'})

    def test_which_thread(self):
        design = (ROOT / 'docs/design/design.rst').read_text('utf-8')
        start = design.index('What the other may do')
        table = design[start:design.index('Theory of operation')]
        classes = set(re.findall('``([A-Z]\\w+)``', table))
        self.assertIn('Border', classes)
        self.assertLessEqual(classes, {
            node.name for tree in self.trees.values()
            for node in ast.walk(tree) if isinstance(node, ast.ClassDef)})

    def test_where_bytes_are_made(self):
        def is_command(node):
            return isinstance(node, ast.Constant) and str(
                node.value).startswith(('MAIL FROM:', 'RCPT TO:'))
        self.assertEqual(self.where(is_command), {'wire.envelope'})
        # Who turns a message of Mailman's into octets.
        self.assertEqual(
            self.where(self.calls('Renderer')), {'strategies.individual'})
