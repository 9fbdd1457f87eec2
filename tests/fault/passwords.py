# SPDX-License-Identifier: GPL-3.0-or-later

"""Programs that print a password, and those that do not."""

import os
import sys
import time
import signal
import unittest
import subprocess

from contextlib import suppress
from mailman_mta_pool.configuration.files import Section
from mailman_mta_pool.configuration.secrets import (
    run_for_password,
    SecretUnavailable,
)
from mailman_mta_pool.programs import COMMAND_TIMEOUT, MAX_LENGTH
from pathlib import Path
from tempfile import TemporaryDirectory


PLACE = '/etc/mailman3/mta_pool.cfg'
SECRET = 'hunter2'
ENDING = """
import sys
import time
from mailman_mta_pool.programs import arguments_in, output_of
from pathlib import Path
from threading import Thread

command, path = sys.argv[1:]
Thread(target=output_of, args=[arguments_in(command)], daemon=True).start()
while not Path(path).read_text().endswith('\\n'):
    time.sleep(0.01)
"""


class Hurried:
    """A clock that is far ahead once somebody has waited for something."""

    def __init__(self, waits_for):
        self.waits_for = waits_for
        self.now = 0.0

    def clock(self):
        return self.now

    def sleep(self, seconds):
        time.sleep(seconds)
        if self.waits_for():
            self.now += COMMAND_TIMEOUT


class TestPrograms(unittest.TestCase):
    def setUp(self):
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)

    def run_program(self, command, **times):
        return run_for_password(Section(
            PLACE, 'relay.a', {'password_command': command}), **times)

    def assertFails(self, command, words, **times):
        with self.assertRaises(SecretUnavailable) as caught:
            self.run_program(command, **times)
        line, = str(caught.exception).splitlines()
        self.assertTrue(line.startswith(
            f'{PLACE}: [relay.a] password_command: the program '), line)
        self.assertIn(words, line)
        self.assertIn('run it by hand', line)
        self.assertNotIn(SECRET, line)

    def assertEnded(self, path):
        """The process whose number is in a file is no more."""
        pid = int(path.read_text())
        with suppress(ProcessLookupError, FileNotFoundError):
            while Path(f'/proc/{pid}/stat').read_text().split()[2] != 'Z':
                os.kill(pid, 0)
                time.sleep(0.01)

    def test_it_prints_one(self):
        for command, password in (
                ('echo formic', 'formic'),
                ("printf '%s' 'for mic'", 'for mic'),
                ("sh -c 'echo $0; echo noise >&2' formic", 'formic'),
                # No shell is between.
                ('echo $HOME ~ *', '$HOME ~ *'),
                # It takes its time, in several pieces.
                ("sh -c 'printf for; sleep 0.1; echo mic'", 'formic'),
                # What it leaves behind keeps the pipe open.
                ("sh -c 'sleep 60 & echo $! >%s; echo formic'" % (
                    self.directory / 'agent'), 'formic')):
            with self.subTest(command=command):
                self.assertEqual(
                    self.run_program(command).reveal(), password)
        # It may be of use for the next time.
        os.kill(int((self.directory / 'agent').read_text()), signal.SIGKILL)

    def test_it_prints_none(self):
        for command, words in (
                ('false', 'status 1'),
                (f"sh -c 'echo {SECRET} >&2; echo {SECRET}; exit 3'",
                 'status 3'),
                ("sh -c 'kill -9 $$'", 'status -9'),
                ('true', 'is empty'),
                (f"printf '{SECRET}\\n{SECRET}\\n'", 'one line'),
                (f'/nonexistent/{SECRET}', 'No such file'),
                (str(self.directory), 'Permission denied'),
                ("''", 'cannot be started'),
                # It would go on for ever.
                (f'yes {SECRET}', f'longer than {MAX_LENGTH}')):
            with self.subTest(command=command):
                self.assertFails(command, words)

    def test_it_hangs(self):
        for text in ('echo $$ >{0}; exec sleep 600',
                     'echo hunter2; sleep 600 & echo $! >{0}; wait'):
            with self.subTest(text=text):
                path = self.directory / 'pid'
                path.write_text('')
                times = Hurried(lambda: path.read_text().endswith('\n'))
                self.assertFails(
                    "sh -c '%s'" % text.format(path),
                    f'within {COMMAND_TIMEOUT:g} s',
                    clock=times.clock, sleep=times.sleep)
                self.assertEnded(path)

    def test_it_is_interrupted(self):
        path = self.directory / 'pid'
        path.write_text('')

        def interrupted(seconds):
            time.sleep(seconds)
            if path.read_text().endswith('\n'):
                raise KeyboardInterrupt
        with self.assertRaises(KeyboardInterrupt):
            self.run_program(
                f"sh -c 'echo $$ >{path}; exec sleep 600'",
                sleep=interrupted)
        self.assertEnded(path)

    def test_mailman_ends(self):
        # As a runner does while a program prints a token in another thread.
        path = self.directory / 'pid'
        path.write_text('')
        subprocess.run(
            [sys.executable, '-c', ENDING,
             f"sh -c 'echo $$ >{path}; exec sleep 600'", path],
            check=True, timeout=60)
        self.assertEnded(path)
