# SPDX-License-Identifier: GPL-3.0-or-later
"""A mistake in the section of a relay or a limit, as an operator meets it.

Each stands in the plugin's own file once; `config --check`, `config` and
`check` of a real site say the same line of it, and no runner starts.
"""

import json
import signal

from tests.configuration.mistakes import (
    A,
    LOGIN,
    MISTAKES,
    NO_PASSWORD,
    SECRET,
)
from tests.operate.command import mta_pool
from tests.site import SiteError
from tests.site_case import SiteTestCase


#: Every so many of the mistakes is tried with a runner, too, which takes a
#: second each.
STRIDE = 8


class MistakesTestCase(SiteTestCase):
    def setUp(self):
        super().setUp()
        # The file is written anew for each mistake.
        self.one = self.site(settings='', members=1)
        self.path = self.one.directory / 'mta_pool.cfg'

    def write(self, text):
        self.path.write_text(text, encoding='utf-8')

    def said(self, *arguments, status=1):
        """What a command writes to standard error, line by line."""
        done = mta_pool(self.one, *arguments)
        self.assertEqual(done.status, status, done)
        self.assertNotIn(SECRET, done.output.decode())
        return done.errors

    def assertLine(self, line, place, remedy):
        self.assertIn(f'{self.path}: {place}: ', line)
        self.assertIn(remedy, line)
        self.assertNotIn(SECRET, line)


class TestMistakes(MistakesTestCase):
    def test_commands(self):
        for name, (text, place, remedy) in MISTAKES.items():
            with self.subTest(name):
                self.write(text)
                line, = self.said('config', '--check', str(self.path))
                self.assertLine(line, place, remedy)
                line, = self.said('config')
                self.assertLine(line, place, remedy)
                done = mta_pool(self.one, 'check', '--json')
                self.assertEqual((done.status, done.errors), (1, []))
                step = json.loads(done.output)['steps'][0]
                self.assertLine(step['problem'], place, remedy)
                self.assertEqual(step['keys'], [place])
                self.assertEqual(done.output.decode().count(SECRET), 0)

    def test_runners(self):
        cases = list(MISTAKES.items())[::STRIDE]
        for name, (text, place, remedy) in cases:
            with self.subTest(name):
                self.write(text)
                runner = self.one.start_runner()
                self.assertEqual(runner.wait(30), signal.SIGTERM)
                line, = self.one.said().splitlines()[-1:]
                self.assertLine(line, place, remedy)

    def test_start(self):
        text, place, remedy = MISTAKES['one name twice']
        self.write(text)
        with self.assertRaises(SiteError) as caught:
            self.one.mailman('start')
        self.assertLine(str(caught.exception), place, remedy)


class TestPrograms(MistakesTestCase):
    """They may print a password a moment later, so runners start."""

    def test_commands(self):
        for name, command in NO_PASSWORD.items():
            with self.subTest(name):
                self.write(f'{LOGIN}password_command: {command}\n')
                line, = self.said('config', '--check', str(self.path))
                self.assertLine(line, '[relay.a] password_command',
                                'run it by hand as the user of Mailman')
                done = mta_pool(self.one, 'check', '--json')
                step = json.loads(done.output)['steps'][0]
                self.assertLine(step['problem'], '[relay.a] password_command',
                                'run it by hand')
                # It is not run by what only shows things.
                self.assertEqual(self.said('config', status=0), [])


class TestWarnings(MistakesTestCase):
    def test_a_password_that_others_may_read(self):
        self.write(f'{LOGIN}password: {SECRET}\n')
        self.path.chmod(0o644)
        for arguments in (('config', '--check', str(self.path)),
                          ('config',)):
            line, = self.said(*arguments, status=0)
            self.assertIn(f'{self.path} has a password, and every user', line)
            self.assertIn(f'`chmod go-r {self.path}`', line)

    def test_a_program_for_tokens_that_is_not_there(self):
        self.write(f'{LOGIN}token_command: /nonexistent/{SECRET}\n')
        for arguments in (('config', '--check', str(self.path)),
                          ('config',)):
            line, = self.said(*arguments, status=0)
            self.assertLine(
                line, '[relay.a] token_command', 'install the program')
        done = mta_pool(self.one, 'check', '--json')
        problem = json.loads(done.output)['relays'][0]['steps'][-1]
        self.assertIn('[relay.a] token_command', problem['keys'])
        self.assertIn('No such file', problem['problem'])
        self.assertIn('Run it by hand', problem['remedy'])
        self.assertNotIn(SECRET, done.output.decode())

    def test_mail_without_a_relay(self):
        self.write(f'{A}for: bee@example.com\n')
        for arguments in (('config', '--check', str(self.path)),
                          ('config',)):
            notices, lists = self.said(*arguments, status=0)
            for line, words in ((notices, 'mail without a list'),
                                (lists, 'ant@example.com')):
                self.assertIn(f'{self.path}: [relay.NAME] for: ', line)
                self.assertIn(words, line)
                self.assertIn('add a [relay.NAME] without `for`', line)
