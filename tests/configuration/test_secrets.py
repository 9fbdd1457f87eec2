# SPDX-License-Identifier: GPL-3.0-or-later

"""Passwords: where they come from, and that nobody sees them."""

import os

from contextlib import ExitStack
from hypothesis import given, strategies as st
from mailman.config import config
from mailman.testing.helpers import configuration, LogFileMark
from mailman.testing.layers import ConfigLayer
from mailman_mta_pool.configuration.files import (
    ConfigurationError,
    hidden_in,
    Section,
)
from mailman_mta_pool.configuration.last_good import last_good_settings
from mailman_mta_pool.configuration.loading import (
    exposures,
    no_password,
    read_again,
    settings_of,
    sources_of,
)
from mailman_mta_pool.configuration.secrets import (
    exposure,
    Programs,
    read_secret,
    SecretUnavailable,
)
from mailman_mta_pool.programs import FAILURE_PAUSE, MAX_LENGTH
from mailman_mta_pool.secret import Secret
from tests.configuration.case import FileTestCase, PATH, SECRET


RELAY = '[relay.a]\nhost: a\nuser: ant\n'


def section(**values):
    """The section of a relay."""
    return Section(PATH, 'relay.a', values)


class TestLogins(FileTestCase):
    def test_mistakes(self):
        path = self.file('password', SECRET)
        for text, words in (
                ('', ('[relay.a] user', 'password_file', 'too')),
                (f'user:\npassword: {SECRET}\n', (
                    '[relay.a] password', 'set user')),
                (f'user:\npassword_file: {path}\n', (
                    '[relay.a] password_file', 'set user')),
                (f'password: {SECRET}\npassword_file: {path}\n', (
                    '[relay.a] password_file', 'remove one')),
                (f'password: {SECRET}\npassword_command: echo {SECRET}\n', (
                    '[relay.a] password_command', 'remove one')),
                (f'password_command: echo "{SECRET}\n', (
                    '[relay.a] password_command', 'quotation')),
                (f'password: {SECRET}\n more\n', (
                    '[relay.a] password', 'one line')),
                (f'password: {SECRET}\N{EURO SIGN}\n', (
                    '[relay.a] password', 'password_file', 'ASCII')),
                (f'password_command: {SECRET}\N{EURO SIGN}\n', (
                    '[relay.a] password_command', 'ASCII'))):
            with self.subTest(text=text):
                begin = RELAY if not text.startswith('user') else (
                    '[relay.a]\nhost: a\n')
                self.mistake(begin + text, *words)

    def test_lines_that_make_no_sense(self):
        for text in (f'password {SECRET}\n', f'{RELAY}password {SECRET}\n',
                     f'{RELAY}password {SECRET}:x\n', f'[{SECRET}\n'):
            with self.subTest(text=text):
                error = self.mistake(text)
                self.assertRegex(error.key, r'line \d|\[relay.a\] password$')

    def test_two_in_the_master_section(self):
        self.mistake(
            f'[relay.master]\nuser: ant\npassword: {SECRET}\n'
            'password_command: x\n[relay.a]\nhost: a\n',
            '[relay.master] password_command')

    def test_another_way_than_the_others(self):
        path = self.file('password', f'{SECRET}\n')
        a, b, c = self.loaded(
            f'[relay.master]\nuser: ant\npassword_file: {path}\n'
            '[relay.a]\nhost: a\n[relay.b]\nhost: b\npassword: formic\n'
            '[relay.c]\nhost: c\npassword_command: program\n',
            lambda section: Secret(f'of {section.name}')).relays
        self.assertEqual((a.password, b.password, c.password),
                         (Secret(SECRET), Secret('formic'),
                          Secret('of relay.c')))

    def test_no_secret_in_a_repr(self):
        path = self.file('password', SECRET)
        sources = sources_of(
            PATH, f'{RELAY}password: {SECRET}\n[relay.b]\nhost: b\nuser: u\n'
            f'password_file: {path}\n[relay.c]\nhost: c\nuser: u\n'
            f'password_command: echo {SECRET}\n'
            f'[limits]\nstorage: redis://:{SECRET}@h\n',
            lambda section: Secret(SECRET))
        settings = settings_of(sources)
        for relay in settings.relays:
            self.assertEqual(relay.password, Secret(SECRET))
        for value in (sources, settings, *settings.relays, *sources.readers):
            self.assertNotIn(SECRET, repr(value))
            self.assertNotIn(SECRET, str(value))

    def test_a_good_file_is_looked_at_before_programs_run(self):
        self.mistake(f'{RELAY}password_command: x\nweight: 0\n',
                     '[relay.a] weight')

    def test_hidden(self):
        for key, value, shown in (
                ('password', SECRET, '(hidden)'),
                ('password', '', '(empty)'),
                ('password_command', f'echo {SECRET}', '(hidden)'),
                ('password_file', '/etc/password', '/etc/password'),
                ('storage', 'file', 'file'),
                ('storage', 'redis://h:1/2', 'redis://h:1/2'),
                ('storage', f'redis://:{SECRET}@h/2', 'redis://(hidden)@h/2'),
                ('storage', f'redis://a:{SECRET}@b@h', 'redis://(hidden)@h'),
                ('storage', f'redis://h/?password={SECRET}', 'redis://h/')):
            with self.subTest(key=key, value=value):
                self.assertEqual(hidden_in(key, value), shown)


class TestFiles(FileTestCase):
    def read(self, octets):
        path = self.directory / 'password'
        path.write_bytes(octets)
        return read_secret(
            section(password_file=str(path)), 'password_file')

    def test_one_line(self):
        for octets, password in (
                (b'formic', 'formic'), (b'formic\n', 'formic'),
                (b'formic\r\n', 'formic'), (b' for mic ', ' for mic '),
                (b'#x\n', '#x'), (b'\xe2\x82\xac\n', '\N{EURO SIGN}'),
                (b'x' * MAX_LENGTH + b'\r\n', 'x' * MAX_LENGTH)):
            with self.subTest(octets=octets[:20]):
                self.assertEqual(self.read(octets), Secret(password))

    @given(st.text(st.characters(
        blacklist_categories=['Cs'], blacklist_characters='\r\n\0'),
        min_size=1))
    def test_any_password(self, password):
        self.assertEqual(
            self.read(f'{password}\n'.encode()), Secret(password))

    def test_mistakes(self):
        secret = SECRET.encode()
        for octets, words in (
                (b'', 'is empty'), (b'\n', 'is empty'),
                (secret + b'\nx\n', 'one line'), (secret + b'\n\n', 'one'),
                (secret + b'\rx', 'one line'), (secret + b'\0', 'one line'),
                (secret + b'\xff', 'UTF-8'),
                (secret * MAX_LENGTH, 'longer than')):
            with self.subTest(octets=octets[:20]):
                with self.assertRaises(ConfigurationError) as caught:
                    self.read(octets)
                line = str(caught.exception)
                self.assertIn(f'{PATH}: [relay.a] password_file: ', line)
                self.assertIn(words, line)
                self.assertNotIn(SECRET, line)

    def test_no_file_to_read(self):
        loop = self.directory / 'loop'
        loop.symlink_to(loop)
        pipe = self.directory / 'pipe'
        os.mkfifo(pipe)
        for path, words in (
                ('password', 'absolute'), (self.directory, 'regular'),
                (pipe, 'regular'), (loop, 'links'), ('/dev/zero', 'regular'),
                (self.directory / 'none', 'No such file')):
            with self.subTest(path=path):
                with self.assertRaises(ConfigurationError) as caught:
                    read_secret(
                        section(password_file=str(path)), 'password_file')
                self.assertIn(str(path), str(caught.exception))
                self.assertIn(words, str(caught.exception))

    def test_it_is_read_again(self):
        path = self.file('password', 'formic\n')
        sources = sources_of(PATH, f'{RELAY}password_file: {path}\n')
        self.assertEqual(read_again(sources), sources)
        path.write_text('acid\n')
        again = read_again(sources)
        self.assertNotEqual(again, sources)
        self.assertEqual(settings_of(again).relay.password, Secret('acid'))


class TestPrograms(FileTestCase):
    def test_one_that_fails_is_not_run_at_once_again(self):
        now, runs = [100.0], []

        def run(section):
            runs.append(section.name)
            raise SecretUnavailable(PATH, '[relay.a] password_command', 'no')
        programs = Programs(run, lambda: now[0])
        failing = section(password_command='x')
        for _ in range(3):
            with self.assertRaises(SecretUnavailable):
                programs(failing)
        self.assertEqual(len(runs), 1)
        # Another one is.
        with self.assertRaises(SecretUnavailable):
            programs(section(password_command='y'))
        self.assertEqual(len(runs), 2)
        now[0] += FAILURE_PAUSE
        with self.assertRaises(SecretUnavailable):
            programs(failing)
        self.assertEqual(len(runs), 3)

    def test_success_is_told_each_time(self):
        passwords = ['a', 'b']
        programs = Programs(lambda section: passwords.pop(0), lambda: 0.0)
        self.assertEqual(programs(section(password_command='x')), 'a')
        self.assertEqual(programs(section(password_command='x')), 'b')

    def test_again_once_in_a_while(self):
        now, passwords = [100.0], ['a', 'b', 'c']
        programs = Programs(lambda section: passwords.pop(0), lambda: now[0])
        one = section(password_command='x')
        self.assertEqual(programs(one), 'a')
        self.assertEqual(programs.again(one), 'b')
        for seconds in (0, FAILURE_PAUSE - 1):
            now[0] += seconds
            self.assertIsNone(programs.again(one))
        now[0] += 1
        self.assertEqual(programs.again(one), 'c')


class TestExposure(FileTestCase):
    def test_modes(self):
        path = self.file('password', SECRET)
        for mode, words in (
                (0o600, None), (0o400, None), (0o640, 'its group'),
                (0o644, 'every user'), (0o604, 'every user'),
                (0o620, None)):
            with self.subTest(mode=oct(mode)):
                path.chmod(mode)
                found = exposure(str(path))
                if words is None:
                    self.assertIsNone(found)
                    continue
                line = str(found)
                self.assertIn(words, line)
                self.assertIn(f'{path} has a password', line)
                self.assertRegex(line, f'chmod g?o?-r {path}')
                # The remedy is one.
                path.chmod(mode & ~0o044)
                self.assertIsNone(exposure(str(path)))

    def test_no_file(self):
        self.assertIsNone(exposure(str(self.directory / 'none')))

    def test_which_files(self):
        secret = self.file('password', 'formic')
        own = self.file('mta_pool.cfg', '')
        for path in (secret, own):
            path.chmod(0o644)
        for text, expected in (
                ('', []),
                (f'{RELAY}password: formic\n', [own]),
                (f'{RELAY}password_command: x\n', []),
                (f'{RELAY}password_file: {secret}\n', [secret]),
                (f'{RELAY}password_file: {secret}\n[relay.b]\nhost: b\n'
                 'user: u\npassword: x\n', [own, secret]),
                ('[limits]\nstorage: redis://:formic@h\n', [own]),
                ('[limits]\nstorage: redis://h\n', [])):
            with self.subTest(text=text):
                self.assertEqual(
                    [found.path for found in exposures(
                        sources_of(str(own), text, no_password))],
                    list(map(str, expected)))

    def test_a_module_is_no_file(self):
        sources = sources_of(
            'python:some.module', f'{RELAY}password: formic\n')
        self.assertEqual(exposures(sources), [])


class TestInForce(FileTestCase):
    """What holds in a process that delivers posts."""

    layer = ConfigLayer

    def setUp(self):
        super().setUp()
        resources = ExitStack()
        self.addCleanup(resources.close)
        self.secret = self.file('password', 'formic\n')
        self.secret.chmod(0o600)
        self.own = self.directory / 'mta_pool.cfg'
        resources.enter_context(configuration(
            'plugin.mta_pool',
            **{'class': 'mailman_mta_pool.plugin.MTAPoolPlugin'},
            enabled='yes', component_package='mailman_mta_pool',
            configuration=str(self.own)))
        self.mark = LogFileMark('mailman.smtp')

    def write(self, text):
        self.own.write_text(text)
        self.own.chmod(0o600)

    def lines(self):
        """The lines of smtp.log since the last time."""
        lines, self.mark = self.mark.read(), LogFileMark('mailman.smtp')
        self.assertNotIn(SECRET, lines)
        return lines.splitlines()

    def password(self):
        return last_good_settings().relay.password.reveal()

    def test_a_new_password(self):
        self.write(f'{RELAY}password_file: {self.secret}\n')
        self.assertEqual(self.password(), 'formic')
        self.secret.write_text('acid')
        self.assertEqual(self.password(), 'acid')
        line, = self.lines()
        self.assertIn(f'{self.secret} has changed', line)
        self.assertEqual(self.password(), 'acid')
        # While it is replaced it may be empty, or gone.
        for spoil in (lambda: self.secret.write_text(''), self.secret.unlink):
            spoil()
            for _ in range(2):
                self.assertEqual(self.password(), 'acid')
            line, = self.lines()
            self.assertIn('[relay.a] password_file', line)
            self.assertIn('the last good settings hold', line)
        self.secret.touch(0o600)
        self.secret.write_text(f'{SECRET}\n')
        self.assertEqual(self.password(), SECRET)
        line, = self.lines()
        self.assertIn('in force', line)

    def test_another_password_after_a_refusal(self):
        refused = []

        def password():
            settings = last_good_settings(
                is_refused=lambda relay: relay.password in refused)
            return settings.relay.password.reveal()
        self.write(f'{RELAY}password_command: cat {self.secret}\n')
        self.assertEqual(password(), 'formic')
        self.secret.write_text(f'{SECRET}\n')
        self.assertEqual(password(), 'formic')
        self.assertEqual(self.lines(), [])
        refused.append(Secret('formic'))
        for _ in range(2):
            self.assertEqual(password(), SECRET)
        line, = self.lines()
        self.assertIn('[relay.a] password_command', line)
        self.assertIn('in force', line)
        # It was run a moment before.
        refused.append(Secret(SECRET))
        self.secret.write_text('acid\n')
        self.assertEqual(password(), SECRET)

    def test_a_program_that_fails_after_a_refusal(self):
        self.write(f'{RELAY}password_command: cat {self.secret}\n')
        self.assertEqual(self.password(), 'formic')
        self.secret.unlink()
        for _ in range(2):
            self.assertEqual(last_good_settings(
                is_refused=lambda relay: True).relay.password.reveal(),
                'formic')
        line, = self.lines()
        self.assertIn('the last good settings hold', line)

    def test_changed_settings_that_cannot_be_used(self):
        def check(settings):
            if settings.hosts == 3:
                raise ConfigurationError('x', '[limits] storage', 'is gone')
        self.write('[limits]\nhosts: 1\n')
        self.assertEqual(last_good_settings(check).hosts, 1)
        self.write('[limits]\nhosts: 3\n')
        for _ in range(2):
            self.assertEqual(last_good_settings(check).hosts, 1)
        line, = self.lines()
        self.assertIn(
            'x: [limits] storage: is gone; the last good settings hold', line)
        self.write('[limits]\nhosts: 2\n')
        self.assertEqual(last_good_settings(check).hosts, 2)

    def test_a_warning_once(self):
        self.secret.chmod(0o644)
        self.write(f'{RELAY}password_file: {self.secret}\n')
        for _ in range(3):
            last_good_settings()
        line, = self.lines()
        self.assertIn(f'chmod go-r {self.secret}', line)
        # The same with other settings.
        self.write(f'{RELAY}password_file: {self.secret}\nweight: 2\n')
        last_good_settings()
        self.assertEqual(
            [line for line in self.lines() if 'chmod' in line], [])

    def test_a_mistake_in_a_relay(self):
        self.write(f'{RELAY}password: {SECRET}\n')
        last_good_settings()
        self.lines()
        self.write(f'{RELAY}password {SECRET}\n')
        self.assertEqual(self.password(), SECRET)
        line, = self.lines()
        self.assertIn(f'{self.own}: line 4', line)

    def test_another_relay(self):
        self.write('[relay.a]\nhost: a.example.com\n')
        with configuration('mta', smtp_host='mta.example.com'):
            settings = last_good_settings()
            self.assertEqual(
                [relay.host for relay in settings.relays], ['a.example.com'])
            self.write('[relay.master]\nchunking: no\n')
            relay, = last_good_settings().relays
            self.assertEqual(relay.host, 'mta.example.com')
            self.assertEqual(relay.port, int(config.mta.smtp_port))
            self.assertFalse(relay.wire.chunking)
