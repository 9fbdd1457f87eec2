# SPDX-License-Identifier: GPL-3.0-or-later
"""Every line that can get into a log has its entry in docs/operating.rst."""

import re
import ast
import textwrap
import unittest

from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from tests.test_architecture import PACKAGE, ROOT
from typing import NamedTuple


DOCUMENT = ROOT / 'docs' / 'operating.rst'
LEVELS = {'debug': 'debug', 'info': 'info', 'warning': 'warning',
          'error': 'error', 'exception': 'error', 'critical': 'critical'}
# The file that Mailman's default configuration has for a logger.
FILES = {'mailman.smtp': 'smtp.log'}
OTHER_FILE = 'mailman.log'
PLACEHOLDER = re.compile(r'%[-#0 +]*[\d*.]*[a-zA-Z]')
ANYTHING = '…'
# The lines of [logging.smtp] are what the site's templates make of them.
STOCK = 'expand'
# An entry: the line, its level, and its file unless that is smtp.log.
ENTRY = re.compile(
    r'^``(?P<line>.+)`` : (?P<level>\w+)(?: : (?P<file>\S+))?\n'
    r'(?P<body>(?:    .*\n|\n(?=    ))+)', re.MULTILINE)
DEBUG = re.compile(f'``(?P<line>[^`\n]*{ANYTHING}[^`\n]*)``')
DEBUG_HEAD = 'With ``[logging.smtp] level: debug``'
WORDS_OF_ADVICE = 8


class Call(NamedTuple):
    """A call that writes a line.

    :ivar place: The module and the line.
    :ivar level: The name of the level.
    :ivar file: The log file that Mailman has for it by default.
    :ivar line: What it writes, with `ANYTHING` for all that varies; '' if
        that cannot be told.
    """

    place: str
    level: str
    file: str
    line: str

    def makes(self, line):
        """True if a documented line can be one that this call writes."""
        parts = (re.escape(part) for part in self.line.split(ANYTHING))
        if letters(self.line) == 0 < letters(line):
            return False
        return re.fullmatch('.*'.join(parts), line) is not None


def letters(line):
    """Count the letters that stand for themselves."""
    return sum(map(str.isalpha, line.replace('HOST:PORT', '')))


class Module:
    """A module, and the log calls in it.

    :ivar calls: The `Call`s.
    :ivar complaints: Where a logger is used so that no call can be told.
    """

    def __init__(self, path, root):
        self._place = path.relative_to(root).as_posix()
        self._tree = ast.parse(path.read_text('utf-8'))
        self.calls, self.complaints = [], []
        self._loggers = {}
        self._texts = {}
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Assign):
                self._note(node)
        self._seen = set()
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Call):
                self._look_at(node)
        for node in ast.walk(self._tree):
            self._complain(node)

    def _note(self, node):
        for target in node.targets:
            if isinstance(target, ast.Name):
                if is_get_logger(node.value):
                    self._loggers[target.id] = node.value.args[0].value
                elif isinstance(node.value, ast.JoinedStr):
                    self._texts[target.id] = text_of(node.value)

    def _look_at(self, node):
        function = node.func
        if (isinstance(function, ast.Attribute) and
                isinstance(function.value, ast.Name) and
                function.value.id in self._loggers and
                function.attr in LEVELS):
            self._seen.add(function.value)
            self.calls.append(Call(
                f'{self._place}:{node.lineno}', LEVELS[function.attr],
                FILES.get(self._loggers[function.value.id], OTHER_FILE),
                self._line(node)))

    def _line(self, node):
        line = text_of(node.args[0])
        if line != ANYTHING:
            return line
        what = node.args[-1]
        if isinstance(what, ast.Call) and what.func.id == STOCK:
            return STOCK
        return self._texts.get(getattr(what, 'id', None), '')

    def _complain(self, node):
        """Find what escapes `_look_at`."""
        where = f'{self._place}:{getattr(node, "lineno", 0)}'
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            if node.id in self._loggers and node not in self._seen:
                self.complaints.append(f'{where}: {node.id} itself')
        if isinstance(node, ast.Attribute) and isinstance(
                node.value, ast.Name) and node.value.id == 'logging':
            if node.attr in (*LEVELS, 'log', 'warn'):
                self.complaints.append(f'{where}: logging.{node.attr}')
        if is_get_logger(node) and node not in [
                each.value for each in ast.walk(self._tree)
                if isinstance(each, ast.Assign) and
                isinstance(each.targets[0], ast.Name)]:
            self.complaints.append(f'{where}: getLogger')


def is_get_logger(node):
    """True for `logging.getLogger('…')`, however it is imported."""
    return (isinstance(node, ast.Call) and
            getattr(node.func, 'attr', getattr(node.func, 'id', '')) ==
            'getLogger')


def text_of(node):
    """Return the line that a format makes; see `Call`."""
    if isinstance(node, ast.JoinedStr):
        line = ''.join(
            part.value if isinstance(part, ast.Constant) else ANYTHING
            for part in node.values)
    elif isinstance(node, ast.Constant):
        line = PLACEHOLDER.sub(ANYTHING, node.value)
    else:
        line = ANYTHING
    return re.sub(f'{ANYTHING}+', ANYTHING, line)


@lru_cache(maxsize=None)
def modules():
    """Return all modules of the package."""
    return [Module(path, ROOT)
            for path in sorted((ROOT / PACKAGE).rglob('*.py'))]


def entries(text):
    """Return the entries of a document.

    :return: Tuples of the line, the level, the file, and what to do.
    """
    found = [(entry['line'], entry['level'], entry['file'] or 'smtp.log',
              ' '.join(entry['body'].split()))
             for entry in ENTRY.finditer(text)]
    debug = text.partition(DEBUG_HEAD)[2].partition('\n\n\n')[0]
    return found + [(entry['line'], 'debug', 'smtp.log', DEBUG_HEAD)
                    for entry in DEBUG.finditer(debug)]


def writers(line, level, calls):
    """Return the calls of a level that write a documented line.

    Where several could, those are meant that have the most of its words.
    """
    able = [call for call in calls if call.level == level and call.makes(line)]
    most = max((letters(call.line) for call in able), default=0)
    return [call for call in able if letters(call.line) == most]


class TestLogs(unittest.TestCase):
    def setUp(self):
        self.calls = [call for module in modules() for call in module.calls
                      if call.line != STOCK]
        self.entries = entries(DOCUMENT.read_text('utf-8'))

    def test_all_calls_can_be_told(self):
        self.assertEqual([complaint for module in modules()
                          for complaint in module.complaints], [])
        self.assertEqual(
            [call.place for call in self.calls if call.line == ''], [])
        self.assertGreater(len(self.calls), 40)

    def test_each_call_has_an_entry(self):
        documented = {call for line, level, _, _ in self.entries
                      for call in writers(line, level, self.calls)}
        missing = [f'{call.place}: {call.level}: {call.line}'
                   for call in self.calls if call not in documented]
        if missing:
            self.fail('not in docs/operating.rst:\n' + '\n'.join(missing))

    def test_each_entry_has_a_call(self):
        stale = [f'{line} : {level}' for line, level, _, _ in self.entries
                 if not writers(line, level, self.calls)]
        if stale:
            self.fail('nobody writes these:\n' + '\n'.join(stale))

    def test_each_entry_names_the_file(self):
        for line, level, file, _ in self.entries:
            for call in writers(line, level, self.calls):
                if level != 'debug':
                    with self.subTest(line):
                        self.assertEqual(call.file, file, call.place)

    def test_each_entry_says_what_to_do(self):
        self.assertEqual(
            [line for line, level, _, body in self.entries
             if level != 'debug' and len(body.split()) < WORDS_OF_ADVICE], [])

    def test_each_level_is_explained(self):
        text = DOCUMENT.read_text('utf-8')
        for level in {call.level for call in self.calls}:
            with self.subTest(level):
                self.assertTrue(
                    re.search(rf'^``{level}`` +[A-Z]', text, re.MULTILINE))
        self.assertIn('[logging.smtp]', text)


class TestFinding(unittest.TestCase):
    """What the tests above rest on."""

    def module(self, text):
        with TemporaryDirectory() as directory:
            path = Path(directory) / 'module.py'
            path.write_text(textwrap.dedent(text), 'utf-8')
            return Module(path, Path(directory))

    def test_calls(self):
        module = self.module("""\
            import logging
            log = logging.getLogger('mailman.smtp')
            other = logging.getLogger('mailman.runner')
            def f(a, line):
                log.info('%s: a %d of %.*f' 'b', a, 1, 2, 3.0)
                other.exception('none')
                log.warning('%s', a)
                text = f'c {a}{a}; d'
                log.warning('%s', text)
                log.info('%s', expand(a))
            """)
        self.assertEqual(module.calls, [
            Call('module.py:5', 'info', 'smtp.log', '…: a … of …b'),
            Call('module.py:6', 'error', 'mailman.log', 'none'),
            Call('module.py:7', 'warning', 'smtp.log', ''),
            Call('module.py:9', 'warning', 'smtp.log', 'c …; d'),
            Call('module.py:10', 'info', 'smtp.log', STOCK)])
        self.assertEqual(module.complaints, [])

    def test_what_would_escape(self):
        head = "import logging\nlog = logging.getLogger('a')\n"
        for bad in ('log.log(20, "a")', 'f = log.info', 'g(log)',
                    'getattr(log, "info")("a")', 'logging.error("a")',
                    'logging.getLogger("a").info("a")',
                    'self.log = logging.getLogger("a")'):
            with self.subTest(bad):
                self.assertNotEqual(self.module(head + bad).complaints, [])

    def test_writers(self):
        calls = [Call('a', 'info', 'smtp.log', '…: …'),
                 Call('b', 'info', 'smtp.log', '… takes mail again'),
                 Call('c', 'info', 'smtp.log', '…: … is …')]
        for line, level, place in (
                ('HOST:PORT: …', 'info', 'a'),
                ('HOST:PORT takes mail again', 'info', 'b'),
                ('…: a list is odd', 'info', 'c'),
                ('…: nobody writes that', 'info', ''),
                ('HOST:PORT takes mail again', 'warning', '')):
            with self.subTest(line):
                found = writers(line, level, calls)
                self.assertEqual(''.join(call.place for call in found), place)

    def test_entries(self):
        self.assertEqual(entries(textwrap.dedent("""\
            ``a … b`` : info
                First
                line.

                Second.

            ``c`` : error : mailman.log
                Third.

            {} :

            * ``d …``: more ``e``
              and ``… f``.


            * ``g …``
            """).format(DEBUG_HEAD)), [
                ('a … b', 'info', 'smtp.log', 'First line. Second.'),
                ('c', 'error', 'mailman.log', 'Third.'),
                ('d …', 'debug', 'smtp.log', DEBUG_HEAD),
                ('… f', 'debug', 'smtp.log', DEBUG_HEAD)])
