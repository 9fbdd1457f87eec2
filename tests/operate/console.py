# SPDX-License-Identifier: GPL-3.0-or-later
"""`mailman mta-pool` as an operator runs it: processes, pipes, a terminal."""

import os
import re
import pty
import sys
import json
import time
import fcntl
import select
import signal
import struct
import termios
import unittest
import subprocess

from codecs import getincrementaldecoder
from mailman_mta_pool.commands.mta_pool import SUBCOMMANDS
from mailman_mta_pool.monitoring.files import state_directory, write_whole
from mailman_mta_pool.monitoring.state import (
    Failures,
    PostState,
    RelayState,
    SliceState,
)
from pathlib import Path
from tests.fault.syscalls import start_without_rights
from tests.operate.command import mta_pool
from tests.site import SCRIPT
from tests.site_case import SiteTestCase


ROOT = Path(__file__).resolve().parents[2]
# The longest wait for what comes at once, on a machine that has much to do.
DEADLINE_S = 60
# An interval that ends after the tests.
FOR_EVER = '3600'
# What may stand on a terminal between the characters: going to the top,
# clearing to the end of the line and below, colours, hiding the cursor, and
# the alternate screen.
OUR_SEQUENCES = re.compile(
    r'\x1b\[(?:H|K|J|[0-9;]*m|\?25[hl]|\?1049[hl])')
LEAVE = '\x1b[?25h\x1b[?1049l'
HOSTILE = '\x1b]0;root\x07\x1b[2J\x9b1;1H'
# It prints what importing the commands and asking for help brings along.
IMPORTED = """\
import sys, json
from mailman_mta_pool.commands.mta_pool import MTAPool
MTAPool.command.main(['--help'], standalone_mode=False)
print(json.dumps(sorted(sys.modules)))
"""
# No `mailman` command is to wait for these.
HEAVY = {'asyncio', 'concurrent.futures', 'multiprocessing', 'sqlalchemy',
         'ssl'}


def state_of(accepted=500, **changes):
    """The state of a slice that is in the middle of a post."""
    now = time.time()
    values = dict(
        slice='out-0-of-1', written=now, working=True,
        recipients={'accepted': accepted},
        posts=[PostState(
            message_id='<big@example.com>', list_name='ant@example.com',
            total=2000, outcomes={'accepted': accepted}, started=now - 5,
            rate=100.0)],
        relays=[RelayState(
            name='mail.example.com:25', state='up', ceiling=8)])
    return SliceState(**{**values, **changes})


class Terminal:
    """A pseudoterminal, and a process on it.

    :param start: Starts a process; it is given options of `Popen`.
    :param size: Lines and columns.
    :ivar text: What the process has written so far.
    """

    def __init__(self, start, size=(40, 100)):
        self._master, slave = pty.openpty()
        self.resize(*size)
        self.before = termios.tcgetattr(slave)
        self.text = ''
        # What is read may end in the middle of a character.
        self._decode = getincrementaldecoder('utf-8')().decode
        self.process = start(
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            # Only then are its signals those of the terminal's keys.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        self._slave = slave

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self._slave)

    def resize(self, lines, columns):
        fcntl.ioctl(self._master, termios.TIOCSWINSZ,
                    struct.pack('HHHH', lines, columns, 0, 0))

    def press(self, key):
        os.write(self._master, key)

    def attributes(self):
        return termios.tcgetattr(self._slave)

    def read_until(self, pattern):
        """Read until something new matches; return the match."""
        start = len(self.text)
        deadline = time.monotonic() + DEADLINE_S
        while True:
            match = re.search(pattern, self.text[start:])
            if match is not None:
                return match
            if not self._read(deadline - time.monotonic()):
                raise TimeoutError(
                    f'no {pattern!r} in {self.text[start:]!r}')

    def _read(self, timeout):
        ready, _, _ = select.select([self._master], [], [], max(0, timeout))
        if ready:
            self.text += self._decode(os.read(self._master, 65536))
        return bool(ready)

    def end(self):
        """Wait for the end of the process; return its status."""
        status = self.process.wait(DEADLINE_S)
        while self._read(0):
            pass
        return status

    def screen(self):
        """The lines of what was drawn last."""
        drawn = self.text.rpartition('\x1b[H')[2]
        return [OUR_SEQUENCES.sub('', line).rstrip('\r')
                for line in drawn.split('\n')]


class ConsoleTestCase(SiteTestCase):
    def site(self, server=None, **options):
        """Make a site that looks as if Mailman ran."""
        site = super().site(server, **options)
        site.hold_master_lock()
        return site

    def start(self, site, *arguments, environment=(), by=(), **options):
        """Start `mailman mta-pool`.

        :param arguments: What follows.
        :param environment: Variables of its own.
        :param by: The command that runs it, if there is one.
        :param options: Of `Popen`.
        """
        inherited = {
            name: value for name, value in os.environ.items()
            if not name.startswith(('MAILMAN_', 'LC_', 'NO_COLOR'))}
        return subprocess.Popen(
            [*by, sys.executable, '-c', SCRIPT.format('mailman'),
             '--run-as-root', '-C', str(site.configuration), 'mta-pool',
             *arguments],
            cwd=site.directory, env={
                **inherited, 'PYTHONPATH': str(ROOT), 'LANG': 'C.UTF-8',
                'TERM': 'xterm-256color', **dict(environment)}, **options)

    def ended(self, site, *arguments, start=None):
        """Run `mailman mta-pool`.

        :param start: Calls what starts the process; by default one is forked.
        :return: Its status, its output, and the lines of its errors.
        """
        if start is None:
            done = mta_pool(site, *arguments)
            status, output, errors = done._replace(
                output=done.output.decode())
        else:
            process = start(lambda: self.start(
                site, *arguments, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
            output, errors = process.communicate(timeout=DEADLINE_S)
            status, errors = process.returncode, errors.splitlines()
        self.assertNotIn('Traceback', output + '\n'.join(errors))
        return status, output, errors

    def directory(self, site):
        """The directory of the state files."""
        path = Path(state_directory(str(site.var)))
        path.mkdir(parents=True, exist_ok=True)
        return path

    def write(self, site, state):
        write_whole(str(self.directory(site) / f'{state.slice}.json'),
                    state.to_json(), 0o600)

    def terminal(self, site, *arguments, size=(40, 100), **options):
        return self.use(Terminal(
            lambda **more: self.start(site, *arguments, **options, **more),
            size))


class TestImports(unittest.TestCase):
    def test_what_every_process_imports(self):
        ended = subprocess.run(
            [sys.executable, '-c', IMPORTED], capture_output=True, text=True,
            env={**os.environ, 'PYTHONPATH': str(ROOT)}, timeout=DEADLINE_S)
        self.assertEqual(ended.returncode, 0, ended.stderr)
        imported = json.loads(ended.stdout.splitlines()[-1])
        self.assertEqual(
            [name for name in imported if name.startswith('mailman_mta_pool')],
            ['mailman_mta_pool', 'mailman_mta_pool.commands',
             'mailman_mta_pool.commands.mta_pool'])
        self.assertEqual(HEAVY & set(imported), set())


class TestCommand(ConsoleTestCase):
    def test_readme(self):
        # The five lines are all that the configuration has of us.
        readme = (ROOT / 'README.rst').read_text('utf-8')
        lines = re.search(
            r'(?m)^    \[plugin\.mta_pool\]\n(?:    .+\n)+', readme)[0]
        site = self.site(plugin=False, extra='\n'.join(
            line.strip() for line in lines.splitlines()))
        status, output, errors = self.ended(site, '--help')
        self.assertEqual((status, errors), (0, []))
        for name in SUBCOMMANDS:
            self.assertRegex(output, rf'(?m)^  {name} ')
        self.assertIn('mta-pool', site.mailman('--help'))
        status, output, errors = self.ended(site, 'status')
        self.assertEqual((status, errors), (0, []))
        self.assertIn('Nothing has been delivered', output)

    def test_unknown(self):
        status, output, errors = self.ended(self.site(), 'stauts')
        self.assertEqual((status, output), (2, ''))
        self.assertIn("No such command 'stauts'", errors[-1])

    def test_broken_file_in_force(self):
        site = self.site(settings='[delivery]\natempts: 3\n')
        mistake = (f'{site.directory}/mta_pool.cfg: [delivery] atempts: '
                   'unknown key; the schema.cfg of the package lists them all')
        status, output, errors = self.ended(site, 'config')
        self.assertEqual((status, errors), (1, [mistake]))
        self.assertIn('smtp_host: 127.0.0.1', output)
        status, output, errors = self.ended(site, 'config', '--json')
        self.assertEqual((status, errors), (1, []))
        self.assertEqual(json.loads(output)['problem'], mistake)
        # It is checked on its own.
        good = site.directory / 'good.cfg'
        good.write_text('[delivery]\nattempts: 3\n')
        self.assertEqual(self.ended(site, 'config', '--check', str(good)),
                         (0, f'{good}: good\n', []))
        # Mailman cannot be started again.
        status, output, errors = self.ended(site, 'status')
        self.assertEqual((status, errors), (1, []))
        self.assertIn(mistake, ' '.join(output.split()))
        self.assertIn('Queues', output)
        status, output, errors = self.ended(site, 'status', '--json')
        self.assertEqual((status, errors), (1, []))
        values = json.loads(output)
        self.assertTrue(values['needs_operator'])
        self.assertIn(mistake, values['advice'][0])

    def test_mailman_that_is_stopped(self):
        site = SiteTestCase.site(self)
        status, output, errors = self.ended(site, 'status')
        self.assertEqual((status, errors), (1, []))
        self.assertIn('run `mailman start`', ' '.join(output.split()))
        master = site.start_master()
        site.wait_for((site.var / 'master.pid').exists, 'the master')
        status, output, errors = self.ended(site, 'status')
        self.assertEqual((status, errors), (0, []))
        self.assertNotIn('does not run', output)
        master.kill()
        master.wait(DEADLINE_S)
        status, output, errors = self.ended(site, 'status', '--json')
        self.assertEqual((status, errors), (1, []))
        self.assertIn('run `mailman start --force`',
                      json.loads(output)['advice'][0])

    def test_queues(self):
        site = self.site(members=5)
        site.post()
        site.post(queue='shunt')
        entry = site.post(queue='out')
        # It is in delivery.
        entry.rename(entry.with_suffix('.bak'))
        status, output, errors = self.ended(site, 'status', '--json')
        self.assertEqual((status, errors), (1, []))
        queues = json.loads(output)['queues']
        self.assertEqual(
            {name: (queue['entries'], queue['recipients'])
             for name, queue in queues.items()},
            {'out': (2, 10), 'retry': (0, 0), 'shunt': (1, 5), 'bad': (0, 0)})
        status, output, errors = self.ended(site, 'status')
        self.assertEqual((status, errors), (1, []))
        self.assertRegex(output, r'(?m)^  out +2 +10  \d')
        self.assertRegex(output, r'(?m)^  shunt +1 +5  \d')
        # What to do stands at the top.
        self.assertRegex(output.splitlines()[1], r'^\* .*shunt')


def without_rights(path):
    path.chmod(0)


def half_written(path):
    path.write_text(path.read_text()[:100])


def other_version(path):
    path.write_text('{"version": 99}\n')


def no_directory(path):
    path.unlink()
    path.rmdir()


class TestErrors(ConsoleTestCase):
    """One clear line, and its exit status."""

    def test_state_files(self):
        site = self.site()
        directory = self.directory(site)
        path = directory / 'out-0-of-1.json'
        for what, change in (
                (path, without_rights), (directory, without_rights),
                (path, half_written), (path, other_version)):
            with self.subTest(what=what, change=change.__name__):
                self.write(site, state_of())
                change(what)
                for arguments in ((), ('--json',)):
                    status, output, errors = self.ended(
                        site, 'status', *arguments,
                        start=start_without_rights)
                    self.assertIn(status, (0, 1))
                    self.assertEqual(errors, [])
                    self.assertEqual(sum(
                        str(what) in line
                        for line in output.splitlines()), 1, output)
                directory.chmod(0o700)
                path.unlink()

    def test_output_that_has_no_place(self):
        site = self.site(settings='[delivery]\n')
        commands = (
            (['status'], 1), (['status', '--json'], 1),
            (['status', '--watch'], 1), (['config'], 1),
            (['config', '--json'], 1), (['report', '--html', '-'], 1),
            (['trace', '--json', 'x', 'y'], 1), (['check'], 1),
            (['check', '--monitoring'], 3))
        for arguments, expected in commands:
            with self.subTest(arguments=arguments), \
                    open('/dev/full', 'wb') as full:
                process = self.start(
                    site, *arguments, stdin=subprocess.DEVNULL, stdout=full,
                    stderr=subprocess.PIPE, text=True,
                    # Otherwise nothing is left in the buffer.
                    environment={'PYTHONUNBUFFERED': ''})
                _, errors = process.communicate(timeout=DEADLINE_S)
                self.assertEqual((process.returncode, errors), (
                    expected, 'Error: standard output: No space left on '
                    'device\n'))

    def test_output_that_is_closed(self):
        site = self.site(settings='[delivery]\n')
        for command in 'status', 'config':
            with self.subTest(command=command):
                process = self.start(
                    site, command, stdin=subprocess.DEVNULL,
                    stderr=subprocess.PIPE, text=True,
                    by=['sh', '-c', '"$@" >&-', 'sh'])
                _, errors = process.communicate(timeout=DEADLINE_S)
                self.assertEqual((process.returncode, errors), (0, ''))

    def test_no_state_directory(self):
        status, output, errors = self.ended(self.site(), 'status')
        self.assertEqual((status, errors), (0, []))
        self.assertEqual(output.count('Nothing has been delivered'), 1)

    def test_queue_without_rights(self):
        site = self.site()
        queue = site.var / 'queue' / 'shunt'
        queue.mkdir(parents=True, exist_ok=True)
        queue.chmod(0)
        status, output, errors = self.ended(
            site, 'status', start=start_without_rights)
        self.assertIn(status, (0, 1))
        self.assertEqual(errors, [])
        self.assertEqual(sum(str(queue) in line
                             for line in output.splitlines()), 1, output)

    def test_configuration_without_rights(self):
        site = self.site(settings='[delivery]\nattempts: 3\n')
        path = site.directory / 'mta_pool.cfg'
        path.chmod(0)
        for arguments in ((), ('--check', str(path))):
            with self.subTest(arguments=arguments):
                status, output, errors = self.ended(
                    site, 'config', *arguments, start=start_without_rights)
                self.assertEqual(status, 1)
                line, = errors
                self.assertIn(str(path), line)
                self.assertIn('Permission denied', line)


class TestTerminal(ConsoleTestCase):
    """`status --watch` on a terminal."""

    def assertSane(self, terminal):
        """The screen is the shell's again, and shows what was seen last."""
        before, _, after = terminal.text.rpartition(LEAVE)
        self.assertIn('\x1b[?1049h\x1b[?25l', before)
        self.assertIn('Mailman MTA pool', after)
        self.assertTrue(after.endswith('\n'), after[-100:])
        self.assertEqual(terminal.attributes(), terminal.before)

    def assertOnlyOurs(self, terminal):
        """Nothing on the terminal but text, and sequences of ours."""
        text = OUR_SEQUENCES.sub('', terminal.text)
        for character in set(text):
            self.assertTrue(
                character.isprintable() or character in '\r\n',
                repr(character))

    def test_from_the_beginning(self):
        site = self.site()
        terminal = self.terminal(site, 'status', '--watch', '--interval',
                                 '0.1')
        terminal.read_until('Nothing has been delivered')
        for accepted in (500, 1000, 2000):
            self.write(site, state_of(accepted))
            terminal.read_until(f'{accepted} of 2000 accepted')
        terminal.press(b'\x03')
        self.assertEqual(terminal.end(), 0)
        self.assertSane(terminal)
        self.assertOnlyOurs(terminal)

    def test_resize(self):
        site = self.site()
        self.write(site, state_of())
        terminal = self.terminal(
            site, 'status', '--watch', '--interval', FOR_EVER)
        terminal.read_until(r'bad .*\x1b\[J')
        self.assertGreater(len(max(terminal.screen(), key=len)), 40)
        # Only the signal can have it drawn again.
        for lines, columns in ((10, 40), (5, 10), (1, 1), (60, 200)):
            with self.subTest(lines=lines, columns=columns):
                terminal.resize(lines, columns)
                terminal.read_until(r'\x1b\[H(?s:.)*\x1b\[J')
                screen = terminal.screen()
                self.assertLessEqual(len(screen), lines)
                self.assertLessEqual(len(max(screen, key=len)), columns)
        terminal.press(b'\x03')
        self.assertEqual(terminal.end(), 0)
        self.assertSane(terminal)

    def test_stop_and_continue(self):
        site = self.site()
        terminal = self.terminal(
            site, 'status', '--watch', '--interval', FOR_EVER)
        terminal.read_until(r'bad .*\x1b\[J')
        terminal.process.send_signal(signal.SIGTSTP)
        terminal.read_until(re.escape(LEAVE))
        stopped, status = os.waitpid(terminal.process.pid, os.WUNTRACED)
        self.assertTrue(os.WIFSTOPPED(status))
        terminal.process.send_signal(signal.SIGCONT)
        terminal.read_until(r'\x1b\[\?1049h(?s:.)*bad .*\x1b\[J')
        terminal.press(b'\x03')
        self.assertEqual(terminal.end(), 0)
        self.assertSane(terminal)

    def test_ctrl_c_below_su(self):
        # `su -c`, and with it Debian's mailman-wrapper, runs a command in a
        # session of its own, where Ctrl-C does not reach it.
        terminal = self.terminal(
            self.site(), 'status', '--watch', '--interval', FOR_EVER,
            by=('sh', '-c', 'trap : INT; setsid --fork --wait "$@"; read line',
                'sh'))
        terminal.read_until(r'bad .*\x1b\[J')
        terminal.press(b'\x03')
        terminal.read_until(re.escape(LEAVE) + r'(?s:.)*bad .*\n')
        self.assertSane(terminal)

    def test_sigterm(self):
        terminal = self.terminal(
            self.site(), 'status', '--watch', '--interval', FOR_EVER)
        terminal.read_until(r'bad .*\x1b\[J')
        terminal.process.terminate()
        self.assertEqual(terminal.end(), 128 + signal.SIGTERM)
        self.assertTrue(terminal.text.endswith(LEAVE))

    def test_hostile_words(self):
        site = self.site()
        state = state_of(relays=[RelayState(
            name=f'{HOSTILE}:25', state='paused', reason=f'421 {HOSTILE}',
            pause=40.0)])
        state.posts[0].list_name = f'{HOSTILE}@example.com'
        state.last_posts = [PostState(
            message_id=f'<{HOSTILE}>', list_name='ant@example.com', total=2,
            outcomes={'refused': 1}, started=1.0, ended=2.0,
            failures=[Failures('refused', f'550 {HOSTILE}', 1)])]
        self.write(site, state)
        for arguments in ((), ('--json',)):
            terminal = self.terminal(site, 'status', *arguments)
            self.assertIn(terminal.end(), (0, 1))
            self.assertIn('550', terminal.text)
            self.assertOnlyOurs(terminal)
        terminal = self.terminal(site, 'status', '--watch')
        terminal.read_until('550')
        terminal.press(b'\x03')
        self.assertEqual(terminal.end(), 0)
        self.assertOnlyOurs(terminal)

    def test_colours_and_characters(self):
        site = self.site()
        self.write(site, state_of())
        for environment, colours, is_ascii in (
                ({}, True, False), ({'NO_COLOR': '1'}, False, False),
                ({'TERM': 'dumb'}, False, False),
                ({'LANG': 'C'}, True, True), ({'LC_ALL': 'C'}, True, True)):
            with self.subTest(**environment):
                terminal = self.terminal(
                    site, 'status', environment=environment)
                # By now it may be taken for a slice that was killed.
                self.assertIn(terminal.end(), (0, 1))
                self.assertIn('500 of 2000', terminal.text)
                self.assertEqual('\x1b' in terminal.text, colours)
                self.assertEqual(terminal.text.isascii(), is_ascii)


class TestPipe(ConsoleTestCase):
    """`status --watch` where there is no terminal."""

    def watch(self, *arguments):
        site = self.site()
        self.write(site, state_of())
        process = self.start(
            site, 'status', '--watch', '--interval', '0.1', *arguments,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def interrupted(self, process):
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=DEADLINE_S)
        self.assertEqual((process.returncode, errors), (0, ''))
        return rest

    def test_blocks(self):
        process = self.watch()
        lines = iter(process.stdout.readline, '')
        seen = []
        while sum('Mailman MTA pool' in line for line in seen) < 3:
            seen.append(next(lines))
        text = ''.join(seen) + self.interrupted(process)
        self.assertNotIn('\x1b', text)
        self.assertIn('500 of 2000 accepted', text)

    def test_json(self):
        process = self.watch('--json')
        for _ in range(3):
            values = json.loads(process.stdout.readline())
            self.assertEqual(values['version'], 1)
            self.assertEqual(values['posts'][0]['accepted'], 500)
        self.interrupted(process)

    def test_reader_that_leaves(self):
        process = self.watch()
        process.stdout.readline()
        process.stdout.close()
        self.assertEqual(process.wait(DEADLINE_S), 1)
        errors = process.stderr.read()
        process.stderr.close()
        self.assertNotIn('Traceback', errors)
