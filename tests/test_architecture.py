# SPDX-License-Identifier: GPL-3.0-or-later
"""The house keeps the shape that docs/design/design.rst draws."""

import ast
import textwrap
import unittest

from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory


PACKAGE = 'mailman_mta_pool'
ROOT = Path(__file__).resolve().parent.parent

# Each room of the package, a module or a subpackage, and the rooms right
# below it.  A room may import what it reaches by following these arrows.
# The composition root and the plugin reach everything; nothing reaches them.
BELOW = {
    'demo': {'deliver', 'plugin'},
    'plugin': {'connection', 'deliver', 'resource'},
    'resource': {'current'},
    'commands': {'console'},
    # The subcommands, each loaded when it is called.
    'console': {'checking', 'current', 'journal'},
    # `check` goes through the steps of the delivering code, and knows how
    # the senders of VERP are made.
    'checking': {'relays', 'strategies'},
    # Whatever shows how things are asks here.
    'current': {'monitoring', 'relays'},
    'deliver': {'dispatch', 'runner', 'sampling', 'strategies'},
    'sampling': {'dispatch', 'monitoring', 'runner'},
    'monitoring': set(),
    'strategies': {'rendering'},
    'rendering': set(),
    'runner': {'journal', 'settlement'},
    'journal': set(),
    'dispatch': {'limits', 'relays', 'settlement'},
    'settlement': set(),
    'relays': {'configuration', 'connection', 'limits', 'settlement'},
    'limits': set(),
    'connection': {'login', 'network', 'wire'},
    # As whom we log in.
    'login': {'network', 'programs'},
    'network': set(),
    'wire': set(),
    'configuration': {'programs'},
    # These hold the words that all the others speak with.
    'durations': set(),
    'errors': set(),
    'interfaces': set(),
    'keys': {'settings'},
    'posts': set(),
    # Programs of the operator's, for passwords and tokens.
    'programs': set(),
    'secret': set(),
    'settings': set(),
    # What may be shown of the words of others.
    'shown': set(),
    }
EVERYBODYS = {
    'durations', 'errors', 'interfaces', 'keys', 'posts', 'secret', 'settings',
    'shown', 'wire.boundaries', 'wire.content', 'wire.replies',
    'wire.transaction', 'wire.verp',
    }

# Who may import which of the world's modules; nobody else may.
ONLY_IN = {
    'mailman': {
        'checking.questions', 'commands', 'configuration',
        'connection.devmode', 'console', 'current', 'deliver', 'demo',
        'journal', 'plugin', 'rendering', 'resource', 'runner', 'sampling',
        'strategies',
        },
    # There is one lock between the two threads, and the journal's.
    'threading': {'journal.file', 'journal.keeping', 'network.border'},
    # What runs in the network thread; the demo's server is a process.
    'asyncio': {
        'checking.relay', 'connection', 'demo.server', 'dispatch',
        'limits', 'login.record', 'login.tokens', 'monitoring.ticker',
        'network', 'relays',
        },
    # A connection of another package blocks, and has a thread to do so.
    'concurrent': {'connection.foreign', 'network.border'},
    'redis': {'limits.redis_script'},
    # Tokens are asked for in one place, and programs run in two.
    'http': {'login.endpoint'},
    'subprocess': {'demo', 'programs', 'rendering.fetching'},
    # `fetching` tells a timeout by its type, `problems` a resolver without an
    # answer by its number, `endpoint` ends what HTTP waits for, and none of
    # them opens anything.
    'socket': {
        'checking.problems', 'connection', 'login.endpoint',
        'rendering.fetching',
        },
    # Files of certificates and keys are looked at when they are named.
    # An exception is one of theirs, too.
    'ssl': {'configuration.certificates', 'connection', 'errors'},
    'select': {'demo'},
    'selectors': set(),
    # Name servers are asked in one place; the system's resolver does the rest.
    'dns': {'connection.srv'},
    }
NEVER_IN = {
    'wire': {
        'asyncio', 'concurrent', 'mailman', 'select', 'selectors', 'socket',
        'ssl', 'threading', 'time',
        },
    }

# Where people write.  The fragments in newsfragments/ become a part of
# NEWS.rst as they stand, so they cannot hold an SPDX line.
DIRECTORIES = (PACKAGE, 'benchmarks', 'docs', 'tests')
FUNCTION_LINES = 60
SPDX = 'SPDX-License-Identifier: GPL-3.0-or-later'
CAN_HOLD_SPDX = {'.cfg', '.ini', '.py', '.rst', '.toml'}


def reach(room):
    """The rooms that are anywhere below `room`."""
    rooms, todo = set(), list(BELOW[room])
    while todo:
        below = todo.pop()
        if below not in rooms:
            rooms.add(below)
            todo.extend(BELOW[below])
    return rooms


def room_of(module):
    """'mailman_mta_pool.wire.replies' is in 'wire'; '' is the package."""
    return module.split('.')[1] if '.' in module else ''


def imported_names(node, module, is_package):
    """The dotted names that one node of a syntax tree imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ''
    if node.level > 0:
        above = module.split('.')
        keep = len(above) - node.level + is_package
        base = '.'.join(above[:keep] + [base] * bool(base))
    return ['{}.{}'.format(base, alias.name) for alias in node.names]


class House:
    """A checkout, and what is wrong with it.

    Each rule yields complaints, one line each: where, what, and what to do.
    """

    def __init__(self, root):
        self.root = root
        self.modules = {}
        self._imported = {}
        for path in sorted((root / PACKAGE).rglob('*.py')):
            parts = path.relative_to(root).with_suffix('').parts
            name = '.'.join(part for part in parts if part != '__init__')
            self.modules[name] = path

    def imports(self, module):
        """The modules that `module` imports, ours or the world's."""
        if module not in self._imported:
            self._imported[module] = sorted(set(self._imports(module)))
        return self._imported[module]

    def _imports(self, module):
        path = self.modules[module]
        for node in ast.walk(ast.parse(path.read_text('utf-8'))):
            for name in imported_names(
                    node, module, path.name == '__init__.py'):
                if name.split('.')[0] == PACKAGE:
                    # The last part may be a name inside the module.
                    while name not in self.modules and '.' in name:
                        name = name.rpartition('.')[0]
                yield name

    def source_files(self):
        """The files that people wrote."""
        yield from self.root.glob('*.*')
        yield from self.root.glob('.ci/*')
        for directory in DIRECTORIES:
            for path in (self.root / directory).rglob('*'):
                if path.is_file() and '__pycache__' not in path.parts:
                    yield path

    def unknown_rooms(self):
        for room in sorted({room_of(name) for name in self.modules} - {''}):
            if room not in BELOW:
                yield '{}: a new room; say in BELOW what is below it'.format(
                    room)

    def imports_up(self):
        for module in self.modules:
            room = room_of(module)
            allowed = reach(room) if room in BELOW else set()
            for name in self.imports(module):
                target = name.partition('.')[2]
                if name.split('.')[0] != PACKAGE or target in EVERYBODYS:
                    continue
                if room_of(name) not in allowed | EVERYBODYS | {room}:
                    yield '{} imports {}, which is not below it'.format(
                        module, name)

    def import_circles(self):
        for module in self.modules:
            seen, todo = set(), [module]
            while todo:
                for name in self.imports(todo.pop()):
                    if name in self.modules and name not in seen:
                        seen.add(name)
                        todo.append(name)
            if module in seen:
                yield '{} imports itself by way of others'.format(module)

    def misplaced_imports(self):
        for module in self.modules:
            room = room_of(module)
            for top in sorted({
                    name.split('.')[0] for name in self.imports(module)}):
                allowed = ONLY_IN.get(top, {room})
                if (not allowed & {room, module.partition('.')[2]} or
                        top in NEVER_IN.get(room, ())):
                    yield '{} must not import {}'.format(module, top)

    def unlicensed_files(self):
        for path in self.source_files():
            if path.suffix in CAN_HOLD_SPDX or path.parent.name == '.ci':
                head = path.read_text('utf-8').splitlines()[:2]
                if not any(SPDX in line for line in head):
                    yield '{} has no SPDX line at its head'.format(path)

    def long_functions(self):
        for path in self.source_files():
            if path.suffix != '.py':
                continue
            for node in ast.walk(ast.parse(path.read_text('utf-8'))):
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    length = node.end_lineno - node.lineno + 1
                    if length > FUNCTION_LINES:
                        yield '{}: {} has {} lines, over {}'.format(
                            path, node.name, length, FUNCTION_LINES)


RULES = (
    House.unknown_rooms, House.imports_up, House.import_circles,
    House.misplaced_imports, House.unlicensed_files, House.long_functions,
    )


class TestHouse(unittest.TestCase):
    def test_rules(self):
        house = House(ROOT)
        self.assertIn(PACKAGE + '.wire', house.modules)
        for rule in RULES:
            with self.subTest(rule=rule.__name__):
                complaints = list(rule(house))
                if len(complaints) > 0:
                    self.fail('\n' + '\n'.join(complaints))

    def test_arrows_point_down(self):
        for room in BELOW:
            with self.subTest(room=room):
                self.assertNotIn(room, reach(room))

    def test_everybodys_rooms_are_at_the_bottom(self):
        for room in ('durations', 'errors', 'interfaces', 'posts', 'secret',
                     'settings'):
            self.assertEqual(reach(room), set())


class TestPublicPaths(unittest.TestCase):
    """Sites and documents name these, so they stay where they are."""

    def test_public_paths(self):
        # See "Rooms" in design.md.
        for module, name in (
                ('mailman_mta_pool.deliver', 'deliver'),
                ('mailman_mta_pool.plugin', 'MTAPoolPlugin'),
                ('mailman_mta_pool.connection', 'SMTPConnection'),
                ('mailman_mta_pool.connection', 'SMTPSConnection'),
                ('mailman_mta_pool.connection', 'STARTTLSConnection')):
            with self.subTest(path='{}.{}'.format(module, name)):
                self.assertEqual(
                    getattr(import_module(module), name).__name__, name)


class TestRules(unittest.TestCase):
    """Every rule catches what it is there for, and nothing else."""

    def complaints(self, rule, path, text, spdx=True):
        with TemporaryDirectory() as directory:
            files = {PACKAGE + '/__init__.py': '', PACKAGE + '/deliver.py': '',
                     PACKAGE + '/wire/__init__.py': '',
                     PACKAGE + '/wire/transaction.py': '',
                     path: textwrap.dedent(text)}
            for name, content in files.items():
                where = Path(directory) / name
                where.parent.mkdir(exist_ok=True, parents=True)
                where.write_text(
                    '# {}\n{}'.format(SPDX if spdx else '', content), 'utf-8')
            return len(list(rule(House(Path(directory)))))

    def assertRule(self, rule, path, good, bad):
        self.assertEqual(self.complaints(rule, path, good), 0)
        self.assertEqual(self.complaints(rule, path, bad), 1)

    def test_unknown_rooms(self):
        for path, count in (('deliver.py', 0), ('utils.py', 1)):
            self.assertEqual(
                self.complaints(
                    House.unknown_rooms, PACKAGE + '/' + path, ''), count)

    def test_imports_up(self):
        for bad in ('from mailman_mta_pool import deliver',
                    'from mailman_mta_pool.deliver import deliver',
                    'import mailman_mta_pool.deliver',
                    'from .. import deliver',
                    'def late():\n    from ..deliver import deliver'):
            with self.subTest(bad=bad):
                self.assertRule(
                    House.imports_up, PACKAGE + '/wire/replies.py',
                    'from mailman_mta_pool.wire.transaction import Fate', bad)

    def test_everybodys_words(self):
        self.assertRule(
            House.imports_up, PACKAGE + '/rendering.py',
            'from .wire.transaction import Fate', 'from .wire import Fate')

    def test_import_circles(self):
        self.assertRule(
            House.import_circles, PACKAGE + '/wire/transaction.py',
            'import mailman_mta_pool.deliver',
            'from mailman_mta_pool.wire.transaction import Outcome')

    def test_misplaced_imports(self):
        for path, good, bad in (
                ('wire/replies.py', 'import re', 'import time'),
                ('wire/__init__.py', '', 'from socket import socket'),
                ('settlement.py', 'import re', 'from mailman import config'),
                ('settlement.py', 'import time', 'import threading')):
            with self.subTest(path=path, bad=bad):
                self.assertRule(
                    House.misplaced_imports, PACKAGE + '/' + path, good, bad)

    def test_unlicensed_files(self):
        for path in ('setup.cfg', '.ci/run', 'docs/index.rst',
                     'tests/test_pool.py'):
            with self.subTest(path=path):
                count = [self.complaints(
                    House.unlicensed_files, path, '', spdx)
                    for spdx in (True, False)]
                # Without, the four files of the package lack it too.
                self.assertEqual(count, [0, 5])

    def test_long_functions(self):
        for head in ('def f():\n', 'async def f():\n'):
            self.assertRule(
                House.long_functions, PACKAGE + '/deliver.py',
                head + '    pass\n' * 59, head + '    pass\n' * 60)
