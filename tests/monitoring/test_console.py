# SPDX-License-Identifier: GPL-3.0-or-later
"""`mailman mta-pool`: what status and config say, without processes."""

import io
import os
import sys
import json
import time
import shutil
import unittest
import subprocess

from click import Group
from click.testing import CliRunner
from contextlib import ExitStack
from importlib.resources import files
from jsonschema import Draft202012Validator
from mailman.bin.master import acquire_lock_1
from mailman.config import config
from mailman.interfaces.command import ICLISubCommand
from mailman.testing.helpers import configuration
from mailman.testing.layers import ConfigLayer
from mailman_mta_pool.commands.mta_pool import MTAPool, SUBCOMMANDS
from mailman_mta_pool.configuration.files import NOT_OF_MTA, schema_text
from mailman_mta_pool.console.checked import check_file
from mailman_mta_pool.console.config import command as config_command
from mailman_mta_pool.console.report import command as report_command
from mailman_mta_pool.console.status import command as status_command, page
from mailman_mta_pool.console.terminal import (
    clock,
    columns,
    cut,
    Line,
    padded,
    Terminal,
    terminal_of,
)
from mailman_mta_pool.durations import duration
from mailman_mta_pool.monitoring.files import state_directory, write_whole
from mailman_mta_pool.monitoring.overview import overview
from mailman_mta_pool.monitoring.state import (
    Failures,
    PostState,
    RelayState,
    SliceState,
)
from mailman_mta_pool.resource import StateResource
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from unittest import mock
from zope.interface.verify import verifyObject


# It would set the title of the window, clear the screen, and go to its top.
HOSTILE = '\x1b]0;root\x07\x1b[2J\x9b1;1H\r\nok\u202e\u2028'
PLUGIN_CFG = """\
[plugin.mta_pool]
class: mailman_mta_pool.plugin.MTAPoolPlugin
enabled: yes
component_package: mailman_mta_pool
"""
# What the plugin's own file may be, so that it cannot be read; None is gone.
UNREADABLE = (b'# na\xefve\n', b'[delivery\n', None)


def state_of(**changes):
    """The state of a slice that is in the middle of a post."""
    now = time.time()
    values = dict(
        slice='out-0-of-1', written=now, working=True,
        recipients={'accepted': 1500, 'refused': 4},
        posts=[PostState(
            message_id='<big@example.com>', list_name='ant@example.com',
            total=2000, outcomes={'accepted': 500, 'refused': 3},
            started=now - 5, rate=100.0)],
        last_posts=[PostState(
            message_id='<old@example.com>', list_name='bee@example.com',
            total=1001, outcomes={'accepted': 1000, 'refused': 1},
            started=now - 90, ended=now - 60,
            failures=[Failures('refused', '550 5.1.1 No such user', 1)])],
        relays=[RelayState(
            name='mail.example.com:25', state='paused',
            reason='421 4.7.0 Slow down', pause=40.0,
            connections=3, ceiling=8, in_flight=12)])
    return SliceState(**{**values, **changes})


def validate(values, room='console', name='config'):
    """Check what a subcommand prints with --json against its schema."""
    path = files(f'mailman_mta_pool.{room}') / f'{name}.schema.json'
    schema = json.loads(path.read_text('utf-8'))
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(values)


class Stream(io.StringIO):
    """A stream that is, or is not, a terminal; it has no descriptor."""

    def __init__(self, is_terminal, encoding='utf-8'):
        super().__init__()
        self._is_terminal = is_terminal
        self._encoding = encoding

    def isatty(self):
        return self._is_terminal

    @property
    def encoding(self):
        return self._encoding


# Whether redis-py is installed is not what these tests are about.
with_redis = mock.patch(
    'mailman_mta_pool.relays.limiting.check_storage', lambda name: None)


class TestTerminal(unittest.TestCase):
    def test_harmless(self):
        for is_unicode in (True, False):
            shown = Terminal(is_unicode=is_unicode).harmless(
                f'a{HOSTILE}\u00e9\u87fb')
            self.assertTrue(shown.isprintable(), shown)
            self.assertTrue(shown.startswith('a '), shown)
        self.assertEqual(
            Terminal(is_unicode=True).harmless('\u00e9\u87fb'), '\u00e9\u87fb')
        self.assertEqual(
            Terminal(is_unicode=False).harmless('\u00e9\u87fb'),
            '\\xe9\\u87fb')

    def test_every_control_character(self):
        controls = ''.join(map(chr, [*range(32), *range(127, 160)]))
        self.assertEqual(
            Terminal(is_unicode=True).harmless(controls), ' ' * 65)

    def test_columns(self):
        for text, wide in (('ant', 3), ('\u87fb', 2), ('e\u0301', 1),
                           ('\U0001f41c', 2), ('', 0)):
            with self.subTest(text=text):
                self.assertEqual(columns(text), wide)
        self.assertEqual(cut('\u87fb\u87fb', 3), '\u87fb')
        self.assertEqual(cut('ants', 4), 'ants')
        self.assertEqual(padded('\u87fb', 4), '\u87fb  ')

    def test_bar(self):
        terminal = Terminal(is_unicode=False)
        for part, bar in ((0, '[....]'), (0.5, '[##..]'), (1, '[####]'),
                          (7, '[####]'), (-1, '[....]')):
            with self.subTest(part=part):
                self.assertEqual(terminal.bar(part, 6), bar)
        self.assertFalse(Terminal(is_unicode=True).bar(0.5, 6).isascii())
        self.assertEqual(terminal.bar(0.5, 0), '[]')

    def test_wrapped(self):
        text = 'one two three four'
        narrow = Terminal(width=10, is_terminal=True)
        self.assertEqual(
            list(narrow.wrapped(text, 2, 4)),
            ['  one two', '    three', '    four'])
        # Programs look for words that stand beside each other.
        self.assertEqual(
            list(Terminal(width=10).wrapped(text, 2)), [f'  {text}'])

    def test_fitted(self):
        lines = [Line('ants' * 10)] * 10
        fitted = Terminal(width=20, height=4, is_terminal=True).fitted(lines)
        self.assertEqual([line.text for line in fitted], [
            'antsantsantsantsants'] * 3 + ['(7 lines more)'])

    def test_duration(self):
        for seconds, words in (
                (None, '-'), (-3, '0 s'), (0.4, '0 s'), (59, '59 s'),
                (60, '1 min'), (3600, '1 h'), (4800, '1 h 20 min'),
                (100_000, '1 d 3 h')):
            with self.subTest(seconds=seconds):
                self.assertEqual(duration(seconds), words)

    def test_clock(self):
        now = time.mktime((2026, 11, 27, 12, 0, 0, 0, 0, -1))
        self.assertEqual(clock(now, now), '12:00:00')
        self.assertEqual(clock(now - 86400, now), '2026-11-26 12:00')

    def test_colours(self):
        for is_terminal, environment, expected in (
                (True, {'TERM': 'xterm'}, True),
                (True, {'TERM': 'xterm', 'NO_COLOR': ''}, True),
                (True, {'TERM': 'xterm', 'NO_COLOR': '1'}, False),
                (True, {'TERM': 'dumb'}, False),
                (True, {}, False),
                (False, {'TERM': 'xterm'}, False)):
            with self.subTest(is_terminal=is_terminal, **environment):
                terminal = terminal_of(Stream(is_terminal), environment)
                self.assertEqual(terminal.has_colours, expected)
                shown = terminal.styled(Line('ants', 'bad'))
                self.assertEqual('\x1b' in shown, expected)

    def test_locales(self):
        for environment, expected in (
                ({'LANG': 'en_US.UTF-8'}, True),
                ({'LANG': 'C.UTF-8'}, True),
                ({'LANG': 'de_DE.utf8@euro'}, True),
                ({'LC_ALL': 'C', 'LANG': 'en_US.UTF-8'}, False),
                ({'LC_CTYPE': 'en_US.UTF-8'}, True),
                # Python has set it, because the locale is C.
                ({'LC_CTYPE': 'C.UTF-8'}, False),
                ({'LC_CTYPE': 'C.UTF-8', 'LANG': 'C'}, False),
                ({'LC_CTYPE': 'C.UTF-8', 'LANG': 'C.UTF-8'}, True),
                ({'LANG': 'de_DE.ISO-8859-1'}, False),
                ({}, False)):
            with self.subTest(**environment):
                self.assertEqual(terminal_of(
                    Stream(True), environment).is_unicode, expected)
        self.assertFalse(terminal_of(
            Stream(True, 'ascii'), {'LANG': 'C.UTF-8'}).is_unicode)

    def test_size(self):
        for environment, size in (
                ({}, (80, 24)), ({'COLUMNS': '120', 'LINES': '50'}, (120, 50)),
                ({'COLUMNS': 'wide'}, (80, 24)), ({'COLUMNS': '0'}, (80, 24))):
            with self.subTest(**environment):
                terminal = terminal_of(Stream(False), environment)
                self.assertEqual((terminal.width, terminal.height), size)


class TestGroup(unittest.TestCase):
    def invoke(self, *arguments):
        return CliRunner().invoke(MTAPool.command, arguments)

    def test_interface(self):
        verifyObject(ICLISubCommand, MTAPool())
        self.assertIsInstance(MTAPool.command, Group)

    def test_every_subcommand(self):
        helped = self.invoke('--help')
        self.assertEqual(helped.exit_code, 0)
        for name, sentence in SUBCOMMANDS.items():
            with self.subTest(name=name):
                self.assertIn(f'  {name}', helped.output)
                self.assertIn(sentence, ' '.join(helped.output.split()))
                its = self.invoke(name, '--help')
                self.assertEqual(its.exit_code, 0, its.output)
                self.assertIn('--help', its.output)

    def test_unknown(self):
        ended = self.invoke('stauts')
        self.assertEqual(ended.exit_code, 2)
        self.assertIn("No such command 'stauts'", ended.output)

    def test_subcommand_that_cannot_be_imported(self):
        with mock.patch.dict(
                sys.modules, {'mailman_mta_pool.console.status': None}):
            ended = self.invoke('status')
            self.assertEqual(self.invoke('config', '--help').exit_code, 0)
        self.assertEqual(ended.exit_code, 1)
        line, = ended.output.splitlines()
        self.assertIn('mta-pool status cannot be loaded: ', line)


class ConsoleTestCase(unittest.TestCase):
    layer = ConfigLayer

    def setUp(self):
        resources = ExitStack()
        self.addCleanup(resources.close)
        self.use = resources.enter_context
        self.directory = Path(self.use(TemporaryDirectory()))
        self.lock_master()
        self.states = Path(state_directory(config.VAR_DIR))
        self.states.mkdir(parents=True, exist_ok=True)
        self.addCleanup(shutil.rmtree, self.states)

    def lock_master(self):
        """Hold the lock by which Mailman's master is known to run."""
        self.lock = acquire_lock_1(False)
        self.addCleanup(self.unlock_master)

    def unlock_master(self):
        """Remove the lock, whosever it seems to be by now."""
        lock = Path(config.LOCK_FILE)
        for path in lock.parent.glob(f'{lock.name}*'):
            path.unlink()

    def write(self, state):
        write_whole(
            str(self.states / f'{state.slice}.json'), state.to_json(), 0o600)

    def configure_unreadable(self, text):
        """Push a plugin's own file of one of `UNREADABLE`."""
        self.configure()
        self.own.unlink()
        if text is not None:
            self.own.write_bytes(text)

    def configure(self, own='', mta='', plugin=PLUGIN_CFG):
        """Push a mailman.cfg, which is a file, and the plugin's own file."""
        self.own = self.directory / 'mta_pool.cfg'
        self.own.write_text(own)
        self.file = self.directory / 'mailman.cfg'
        self.file.write_text(
            f'[mta]\n{mta}\n{plugin}configuration: {self.own}\n')
        config.push(str(self.file), self.file.read_text())
        # It is popped by the last part of its path.
        self.addCleanup(config.pop, self.file.name)

    def run_command(self, command, *arguments, exit_code=0):
        """Run a subcommand; return what it has printed, in ASCII."""
        ended = CliRunner(env={'LC_ALL': 'C'}).invoke(command, arguments)
        self.assertEqual(ended.exit_code, exit_code, ended.output)
        self.assertNotIn('Traceback', ended.output)
        return ended.output


class TestStatus(ConsoleTestCase):
    def page(self, **options):
        """The page for a terminal, as texts."""
        terminal = Terminal(is_terminal=True, **options)
        values = overview(
            config.VAR_DIR, config.QUEUE_DIR, time.time()).to_dict()
        return [line.text for line in page(values, terminal)]

    def test_nothing_yet(self):
        shutil.rmtree(self.states)
        self.addCleanup(self.states.mkdir)
        shown = self.run_command(status_command)
        self.assertIn('Nothing has been delivered', shown)
        for queue in ('out', 'retry', 'shunt', 'bad'):
            self.assertRegex(shown, rf'(?m)^  {queue} +0 +0  -$')

    def test_post_in_delivery(self):
        self.write(state_of())
        shown = self.run_command(status_command)
        self.assertIn('ant@example.com <big@example.com>', shown)
        self.assertRegex(
            shown, r'\[#+\.+\] 500 of 2000 accepted, 100/s, 1\d s left')
        self.assertIn('    3 refused\n', shown)
        self.assertRegex(
            shown, 'mail.example.com:25: paused, connections 3 of 8, '
            r'in flight 12, nothing is sent for (40|39) s')
        self.assertIn('421 4.7.0 Slow down', shown)
        self.assertIn('Recipients so far: 1500 accepted, 4 refused', shown)
        self.assertIn('bee@example.com <old@example.com>', shown)
        self.assertIn('1000 of 1001 accepted, 1 refused, in 30 s', shown)
        self.assertIn('1 refused: 550 5.1.1 No such user', shown)

    def test_killed(self):
        self.write(state_of(written=time.time() - 60))
        self.assertIn('its runner was killed, or hangs', '\n'.join(
            self.page()))

    def test_what_to_do_comes_first(self):
        self.write(state_of(relays=[RelayState(
            name='mail.example.com:25', state='down',
            reason='AUTH: 535 5.7.8 authentication failed')]))
        shown = self.run_command(status_command, exit_code=1)
        self.assertTrue(shown.splitlines()[1].startswith('* '), shown)
        self.assertIn('535 5.7.8', shown)

    def test_json(self):
        self.write(state_of())
        shown = json.loads(self.run_command(status_command, '--json'))
        expected = overview(
            config.VAR_DIR, config.QUEUE_DIR, shown['time'], named={
                f'{config.mta.smtp_host}:{config.mta.smtp_port}': 1}).to_dict()
        self.assertEqual(shown, json.loads(json.dumps(expected)))
        self.assertEqual(shown['version'], 1)
        self.assertEqual(shown['posts'][0]['accepted'], 500)

    def test_exit_status_of_json(self):
        self.write(state_of(relays=[RelayState(
            name='mail.example.com:25', state='down',
            reason='AUTH: 535 5.7.8 failed')]))
        shown = self.run_command(status_command, '--json', exit_code=1)
        self.assertTrue(json.loads(shown)['needs_operator'])

    def test_hostile_words(self):
        state = state_of(slice=f'out-0-of-1{HOSTILE}'.replace('/', ''))
        state.posts[0].list_name = f'{HOSTILE}@example.com'
        state.posts[0].message_id = f'<{HOSTILE}>'
        state.last_posts[0].failures[0].reply = f'550 {HOSTILE}'
        state.relays[0].reason = f'421 {HOSTILE}'
        state.relays[0].name = f'{HOSTILE}:25'
        write_whole(
            str(self.states / 'out-0-of-1.json'), state.to_json(), 0o600)
        for is_unicode in (True, False):
            for line in self.page(is_unicode=is_unicode):
                self.assertTrue(line == '' or line.isprintable(), repr(line))
        self.assertNotIn('\x1b', self.run_command(status_command, '--json'))

    def test_narrow(self):
        self.write(state_of())
        for width in (1, 10, 40, 200):
            with self.subTest(width=width):
                terminal = Terminal(width=width, height=5, is_terminal=True)
                lines = terminal.fitted([
                    Line(text) for text in self.page(width=width)])
                self.assertLessEqual(len(lines), 5)
                self.assertLessEqual(
                    max(columns(line.text) for line in lines), width)

    def answer(self):
        """What the REST resource answers, but for the time."""
        response = SimpleNamespace()
        StateResource().on_get(None, response)
        return {**json.loads(response.text), 'time': None}

    def assertSaid(self, *words):
        """Everything that shows the state says these words."""
        shown = self.run_command(status_command, exit_code=1)
        self.assertNotIn('Nothing needs you', shown)
        values = json.loads(
            self.run_command(status_command, '--json', exit_code=1))
        validate(values, 'monitoring', 'status')
        self.assertEqual({**values, 'time': None}, self.answer())
        page = self.run_command(report_command, '--html', '-')
        for each in words:
            self.assertIn(each, ' '.join(shown.split()))
            self.assertIn(each, ' '.join(values['advice']))
            self.assertIn(each, ' '.join(page.split()))

    def test_mailman_is_stopped(self):
        self.write(state_of(working=False, posts=[], relays=[]))
        self.assertIn('Nothing needs you', self.run_command(status_command))
        self.unlock_master()
        self.assertSaid('Mailman does not run')

    def test_mailman_was_killed(self):
        # Nobody has this number: it is that of a process that has ended.
        process = subprocess.Popen([sys.executable, '-c', ''])
        process.wait()
        lock = Path(config.LOCK_FILE)
        lock.write_text(lock.read_text().replace(
            f'|{os.getpid()}|', f'|{process.pid}|'))
        self.assertSaid('mailman start --force')

    def test_lock_of_another_host(self):
        lock = Path(config.LOCK_FILE)
        lock.write_text(lock.read_text().replace(
            self.lock.hostname, 'other.example.com'))
        # Mailman may run there.
        self.assertNotIn('does not run', self.run_command(status_command))

    def test_another_user_asks(self):
        # Whether that process is Mailman's, only Mailman's user can tell, but
        # Mailman 3.3.10 takes the lock of such a one for stale.
        with mock.patch('os.kill', side_effect=PermissionError), mock.patch(
                'os.geteuid', return_value=os.geteuid() + 1):
            self.assertNotIn(
                'does not run', self.run_command(status_command))

    def test_lock_that_cannot_be_read(self):
        self.unlock_master()
        os.mkdir(config.LOCK_FILE)
        self.addCleanup(os.rmdir, config.LOCK_FILE)
        self.assertNotIn('does not run', self.run_command(status_command))

    def test_mistake_in_the_configuration(self):
        self.configure('[delivery]\natempts: 3\n')
        self.assertSaid(f'{self.own}: [delivery] atempts')

    def test_configuration_that_cannot_be_read(self):
        for text in UNREADABLE:
            with self.subTest(text=text):
                self.configure_unreadable(text)
                self.assertSaid(str(self.own))

    def test_bad_value_of_mailman(self):
        self.configure('', 'smtp_port: many')
        self.assertSaid('[mta] smtp_port')

    def test_half_written_file(self):
        path = self.states / 'out-0-of-1.json'
        text = state_of().to_json()
        for length in (0, 1, len(text) // 2, len(text) - 3):
            with self.subTest(length=length):
                path.write_text(text[:length])
                ended = CliRunner().invoke(status_command)
                self.assertIn(ended.exit_code, (0, 1))
                naming = [line for line in ended.output.splitlines()
                          if str(path) in line]
                self.assertEqual(len(naming), 1, ended.output)
                self.assertNotIn('Traceback', ended.output)

    def test_usage(self):
        for interval in ('0', '-1', 'nan', 'inf', 'soon', '1e9'):
            with self.subTest(interval=interval):
                self.assertIn("'--interval'", self.run_command(
                    status_command, '--watch', '--interval', interval,
                    exit_code=2))
        self.assertIn('--watch', self.run_command(
            status_command, '--interval', '2', exit_code=2))


class TestConfig(ConsoleTestCase):
    def settings(self, exit_code=0):
        """What --json prints, and the settings among it."""
        shown = json.loads(self.run_command(
            config_command, '--json', exit_code=exit_code))
        validate(shown)
        return shown, shown['settings']

    def test_origins(self):
        self.configure(
            '[delivery]\npatience: 10s\n[relay.master]\nchunking: no\n'
            'mail_timeout: 1m\n[relay.mta]\nmail_timeout: 2m\n',
            'smtp_host: mail.example.com\nmax_recipients: 10')
        shown, settings = self.settings()
        self.assertIsNone(shown['problem'])
        for name, value, origin in (
                ('mta.smtp_host', 'mail.example.com', self.file),
                # It is said, although it is the default.
                ('mta.max_recipients', '10', self.file),
                ('mta.verp_delivery_interval', '0', 'default'),
                ('delivery.patience', '10s', self.own),
                ('delivery.attempts', '3', 'default'),
                ('relay.mta.chunking', 'no', self.own),
                ('relay.mta.mail_timeout', '2m', self.own),
                ('relay.mta.pipelining', 'auto', 'default'),
                ('relay.master.chunking', 'no', self.own),
                ('relay.master.mail_timeout', '1m', self.own),
                ('plugin.mta_pool.enabled', 'yes', self.file),
                ('plugin.mta_pool.configuration', str(self.own), self.file),
                ('devmode.enabled', 'no', 'default')):
            with self.subTest(name=name):
                self.assertEqual(
                    settings[name], {'value': value, 'origin': str(origin)})
        self.assertNotIn('relay.master.pipelining', settings)

    def test_what_was_pushed_without_a_file(self):
        with configuration('mta', smtp_host='pushed.example.com'):
            _, settings = self.settings()
        setting = settings['mta.smtp_host']
        self.assertEqual(setting['value'], 'pushed.example.com')
        self.assertNotEqual(setting['origin'], 'default')

    def test_every_key(self):
        _, settings = self.settings()
        section = None
        for line in schema_text().splitlines():
            if line.startswith('['):
                section = line.strip('[]').replace('relay.master', 'relay.mta')
            elif line and not line.startswith('#'):
                key, _, value = line.partition(':')
                if section == 'limit.master' or (
                        section == 'relay.mta' and key in NOT_OF_MTA):
                    # There is none that has it.
                    self.assertNotIn(f'{section}.{key}', settings)
                    continue
                # What it holds may be secret.
                shown = '(empty)' if key == 'token_command' else value.strip()
                self.assertEqual(settings[f'{section}.{key}'], {
                    'value': shown, 'origin': 'default'})

    def test_secrets(self):
        for password, shown in (('hunter2', '(hidden)'), ('', '(empty)')):
            with self.subTest(password=password), configuration(
                    'mta', smtp_user='ant', smtp_pass=password):
                _, settings = self.settings()
                self.assertEqual(settings['mta.smtp_pass']['value'], shown)
                self.assertEqual(settings['mta.smtp_user']['value'], 'ant')
                for arguments in ((), ('--json',)):
                    self.assertNotIn('hunter2', self.run_command(
                        config_command, *arguments))

    @with_redis
    def test_relays_and_limits(self):
        self.configure(RELAYS)
        _, settings = self.settings()
        for name, value, origin in (
                ('relay.a.host', 'a.example.com', self.own),
                ('relay.a.priority', '20', self.own),
                ('relay.a.weight', '1', 'default'),
                ('relay.a.password', '(hidden)', self.own),
                ('relay.a.password_file', '', 'default'),
                ('relay.b.password', '(empty)', 'default'),
                ('relay.b.password_command', '(hidden)', self.own),
                ('relay.b.priority', '5', self.own),
                ('relay.master.priority', '20', self.own),
                ('relay.master.password', '(hidden)', self.own),
                ('limit.ants.for', 'ant@example.com', self.own),
                ('limit.ants.recipient_rate', '', 'default'),
                ('limits.storage', 'redis://(hidden)@redis.example.com/0',
                 self.own),
                ('limits.hosts', '1', 'default')):
            with self.subTest(name=name):
                self.assertEqual(
                    settings[name], {'value': value, 'origin': str(origin)})
        self.assertNotIn('relay.master.weight', settings)
        self.assertNotIn('relay.mta.chunking', settings)
        for arguments in ((), ('--json',)):
            shown = self.run_command(config_command, *arguments)
            self.assertNotIn('hunter2', shown)

    def test_text(self):
        self.configure('[delivery]\npatience: 10s\n', 'smtp_pass: hunter2')
        shown = self.run_command(config_command)
        self.assertRegex(shown, rf'(?m)^  patience: 10s +# {self.own}$')
        self.assertRegex(shown, r'(?m)^  attempts: 3 +# default$')
        self.assertIn('\n[delivery]\n', shown)

    def test_broken_file_in_force(self):
        self.configure('[delivery]\npatience: soon\natempts: 3\n')
        text = self.run_command(config_command, exit_code=1)
        self.assertEqual(text.count(f'{self.own}: [delivery] atempts: '), 1)
        self.assertRegex(text, rf'(?m)^  patience: soon +# {self.own}$')
        shown, settings = self.settings(exit_code=1)
        self.assertIn('[delivery] atempts', shown['problem'])
        self.assertNotIn('\n', shown['problem'])
        self.assertEqual(settings['delivery.patience']['value'], 'soon')

    def test_unreadable_file_in_force(self):
        for text in UNREADABLE:
            with self.subTest(text=text):
                self.configure_unreadable(text)
                shown, settings = self.settings(exit_code=1)
                self.assertIn(str(self.own), shown['problem'])
                # What holds in the runners is not in this file.
                self.assertNotIn('delivery.patience', settings)
                self.assertIn('mta.smtp_host', settings)

    def test_bad_value_of_mailman(self):
        self.configure('', 'max_delivery_threads: many')
        shown, settings = self.settings(exit_code=1)
        self.assertIn('[mta] max_delivery_threads', shown['problem'])
        self.assertEqual(
            settings['mta.max_delivery_threads']['value'], 'many')


# A file with each kind of relay, and with passwords in all places.
RELAYS = """\
[relay.master]
user: ant
password: hunter2
priority: 20
[relay.a]
host: a.example.com
[relay.b]
host: srv:_submissions._tcp.example.com
password_command: echo hunter2
priority: 5
[limit.ants]
for: ant@example.com
message_rate: 14/second
[limits]
storage: redis://:hunter2@redis.example.com/0
"""
# Texts of files that are good.
GOOD = {
    'nothing': '',
    'comments': '# Ants are strong.\n',
    'our own': '[delivery]\npatience: 10s\n[relay.mta]\nchunking: no\n',
    'one section': '[pool]\nidle_timeout: 0\n',
    'a part of mailman.cfg': (
        '[mta]\noutgoing: mailman_mta_pool.deliver.deliver\n'
        'max_delivery_threads: 8\nsmtp_secure_mode: STARTTLS\n'),
    'the whole of README': (
        '[mta]\noutgoing: mailman_mta_pool.deliver.deliver\n'
        'max_delivery_threads: 8\n\n' + PLUGIN_CFG),
    'a section again, as Mailman takes it': (
        '[mta]\nsmtp_port: 25\n[webservice]\nport: 8001\n[mta]\n'
        'smtp_port: 587\n'),
    'what Debian has': (
        '[mailman]\nlayout: debian\n[logging.debian]\nlevel: info\n'
        '[paths.debian]\next_dir: $var_dir/ext\n'),
    'a plugin of somebody else': (
        '[plugin.other]\nclass: other.Plugin\nenabled: yes\n'),
    'ours, disabled': PLUGIN_CFG.replace('yes', 'no') + (
        'configuration: /nonexistent\n'),
    }
# Texts of files with a mistake, and what the line about it names.
BAD = {
    '[delivery]\natempts: 3\n': ('[delivery] atempts', 'unknown key'),
    '[delivery]\npatience: soon\n': ('[delivery] patience', "'soon'"),
    '[delivery]\nsplit: 2': ('the last line', 'newline'),
    '[delivery]\nanswers: /nonexistent\n': (
        '[delivery] answers', '/nonexistent'),
    '[pool]\n[pool]\n': ('[pool]', 'line 2'),
    '[relay.a]\nuser: b\npassword: hunter2\n': ('[relay.a] host',),
    '[relay.a]\nhost: a\nsecure_mode: pigeon\n': (
        '[relay.a] secure_mode', "'pigeon'", 'starttls'),
    '[relay.a]\npassword hunter2\n': ('line 2',),
    '[relay.a]\nhost: a\nuser: b\n'
    'password_command: sh -c "echo hunter2; exit 3"\n': (
        '[relay.a] password_command', 'status 3'),
    '[limits]\nstorage: redis://:hunter2@h/x\n': ('[limits] storage',),
    '[delivry]\n': ('[delivry]', 'unknown section'),
    '[delivery]\npatience\n': ('line 2',),
    'smtp_pass: hunter2\n': ('line 1',),
    '[mta]\nsmtp_pass hunter2\n': ('line 2',),
    '[mta]\nsmtp_hots: localhost\n': ('[mta] smtp_hots', 'unknown key'),
    '[mta]\nsmtp_port: smtp\n': ('[mta] smtp_port', "'smtp'"),
    '[mta]\nsmtp_port: 70000\n': ('[mta] smtp_port', '1 to 65535'),
    '[mta]\nsmtp_secure_mode: pigeon\n': (
        '[mta] smtp_secure_mode', "'pigeon'", 'starttls'),
    '[mta]\noutgoing: mailman_mta_pool.deliver.delver\n': (
        '[mta] outgoing', 'delver'),
    '[mta]\noutgoing: mailman_mta_pool\n': ('[mta] outgoing',),
    '[mta]\ndelivery_retry_period: 5\n': ('[mta] delivery_retry_period',),
    '[mta]\nverp_delivery_interval: often\n': (
        '[mta] verp_delivery_interval',),
    '[mta]\n[plugn.mta_pool]\n': ('[plugn.mta_pool]',),
    '[mta]\n[plugin.mta.pool]\n': ('[plugin.mta.pool]', 'dots'),
    '[mta]\n[delivery]\npatience: 1s\n': ('[delivery]',),
    PLUGIN_CFG.replace('enabled', 'enable'): ('[plugin.mta_pool] enable',),
    PLUGIN_CFG.replace('yes', 'maybe'): (
        '[plugin.mta_pool] enabled', "'maybe'"),
    PLUGIN_CFG.replace('Pool', 'Polo'): (
        '[plugin.mta_pool] class', 'Polo'),
    PLUGIN_CFG.replace('package: mailman_mta_pool', 'package: mta_pool'): (
        '[plugin.mta_pool] component_package', "'mta_pool'"),
    PLUGIN_CFG + 'configuration: /nonexistent\n': (
        '[plugin.mta_pool] configuration', '/nonexistent'),
    }


class TestCheck(ConsoleTestCase):
    def setUp(self):
        super().setUp()
        self.path = self.directory / 'new.cfg'

    def check(self, exit_code=0):
        return self.run_command(
            config_command, '--check', str(self.path), exit_code=exit_code)

    def test_good(self):
        for name, text in GOOD.items():
            with self.subTest(name):
                self.path.write_text(text)
                self.assertEqual(self.check(), f'{self.path}: good\n')

    @with_redis
    def test_relays_and_limits(self):
        self.path.write_text(RELAYS)
        self.path.chmod(0o644)
        first, *lines = self.check().splitlines()
        self.assertEqual(first, f'{self.path}: good')
        self.assertIn('[relay.a]', lines)
        text = '\n'.join(lines)
        self.assertRegex(
            text, rf'(?m)^  message_rate: 14/second +# {self.path}$')
        self.assertRegex(text, r'(?m)^  weight: 1 +# default$')
        self.assertIn(f'{self.path} has a password, and every user', text)
        self.assertIn(f'chmod go-r {self.path}', text)
        self.assertNotIn('hunter2', text)
        shown = json.loads(self.run_command(
            config_command, '--check', str(self.path), '--json'))
        validate(shown)
        self.assertIn('every user of this host', shown['warnings'][0])
        self.assertEqual(
            shown['settings']['relay.b.priority']['value'], '5')
        self.assertNotIn('hunter2', json.dumps(shown))

    def test_bad(self):
        for text, words in BAD.items():
            with self.subTest(text):
                self.path.write_text(text)
                line, = self.check(exit_code=1).splitlines()
                self.assertTrue(line.startswith(f'{self.path}: '), line)
                for word in words:
                    self.assertIn(word, line)
                self.assertNotIn('hunter2', line)

    def test_what_it_names(self):
        own = self.directory / 'own.cfg'
        own.write_text('[pool]\nidle_timeout: soon\n')
        self.path.write_text(f'{PLUGIN_CFG}configuration: {own}\n')
        line, = self.check(exit_code=1).splitlines()
        self.assertTrue(line.startswith(f'{own}: [pool] idle_timeout'), line)

    def test_no_file_to_read(self):
        loop = self.directory / 'loop'
        loop.symlink_to(loop)
        latin = self.directory / 'latin'
        latin.write_bytes(b'# na\xefve\n')
        for path, words in ((self.directory, 'directory'), (loop, 'links'),
                            (latin, 'UTF-8'),
                            (self.directory / 'none', 'No such file')):
            with self.subTest(path=path):
                self.path = path
                line, = self.check(exit_code=1).splitlines()
                self.assertIn(f'{path}: ', line)
                self.assertIn(words, line)

    def test_json(self):
        for text, exit_code in (('', 0), ('[delivry]\n', 1)):
            self.path.write_text(text)
            shown = json.loads(self.run_command(
                config_command, '--check', str(self.path), '--json',
                exit_code=exit_code))
            validate(shown)
            self.assertEqual(shown['file'], str(self.path))
            self.assertEqual(shown['problem'] is None, exit_code == 0)

    def test_changes_nothing(self):
        self.path.write_text(
            '[mailman]\nlayout: new\n[paths.new]\nvar_dir: '
            f'{self.directory}/var\n[mta]\nsmtp_port: 2525\n')
        before = config.mta.smtp_port, config.VAR_DIR, len(config.overlays)
        check_file(str(self.path))
        self.assertEqual(
            (config.mta.smtp_port, config.VAR_DIR, len(config.overlays)),
            before)
        self.assertEqual(os.listdir(self.directory), ['new.cfg'])

    def test_mistake_elsewhere(self):
        self.path.write_text('[mta]\nmax_recipients: 50\n')
        with configuration('mta', smtp_port='smtp'):
            self.check()
