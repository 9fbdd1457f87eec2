# SPDX-License-Identifier: GPL-3.0-or-later
"""What the operator is told when Mailman starts."""

import os

from tests.starting import RUNNER, START, StartTestCase


# The outgoing runner, and another one, each for one turn of its loop.
ONCE = RUNNER.replace("'out'", "'out', '--once'")
ONCE_IN = ONCE.replace("'out'", "'in'")
# There is no master to restart.
RESTART = """\
import sys

from mailman.bin.mailman import main


sys.argv[1:] = ['--run-as-root', '-C', sys.argv[1], 'restart']
main()
"""
LIST = """\
import sys

from mailman.config import config
from mailman.core.initialize import initialize
from mailman.app.lifecycle import create_list
from mailman.interfaces.domain import IDomainManager
from zope.component import getUtility


initialize(sys.argv[1])
getUtility(IDomainManager).add('example.com')
create_list('ant@example.com', ['anne@example.com'])
config.db.commit()
"""
RELAY = """\
[relay.a]
host: a.example.com
user: ant
"""


class TestStart(StartTestCase):
    """Warnings, and what is asked for by nobody but who delivers."""

    def log(self, name):
        """What a log of the site says."""
        path = os.path.join(self.directory, 'var', 'logs', name)
        with open(path) as fp:
            return fp.read()

    def test_mail_that_no_relay_is_for(self):
        self.start(program=LIST)
        text = '[relay.a]\nhost: a\nfor: *@example.org\n'
        ended = self.start(text, program=ONCE)
        self.assertEqual(ended.stderr, '')
        lines = [line for line in self.log('smtp.log').splitlines()
                 if self.own in line]
        self.assertEqual(len(lines), 2, lines)
        self.assertIn('mail without a list', lines[0])
        self.assertIn('ant@example.com', lines[1])
        # Who does not deliver has nothing to say.
        self.start(text, program=ONCE_IN)
        self.start(text)
        self.assertEqual(self.log('smtp.log').count(self.own), 2)
        self.start('[relay.b]\nhost: b\n' + text, program=ONCE)
        self.assertEqual(self.log('smtp.log').count(self.own), 2)

    def test_a_file_for_all_eyes(self):
        for umask in (0o077, 0o022):
            with self.subTest(umask=umask):
                before = os.umask(umask)
                self.addCleanup(os.umask, before)
                if os.path.exists(self.own):
                    os.unlink(self.own)
                self.start(RELAY + 'password: formic\n', program=ONCE)
                self.assertEqual(
                    self.log('smtp.log').count(f'chmod go-r {self.own}'),
                    int(umask == 0o022))
                self.assertNotIn('formic', self.log('smtp.log'))

    def test_a_program_that_prints_no_password(self):
        # Only what delivers asks for it, and it may be there for the post.
        text = RELAY + 'password_command: false\n'
        ended = self.start(text, program=ONCE)
        line, = ended.stderr.splitlines()
        for part in (self.own, '[relay.a] password_command', 'status 1',
                     'run it by hand'):
            self.assertIn(part, line)
        self.assertEqual(
            self.log('mailman.log').count('[relay.a] password_command'), 1)
        for program in (ONCE_IN, START):
            self.assertEqual(self.start(text, program=program).stderr, '')

    def test_a_program_for_tokens_that_is_not_there(self):
        text = RELAY + 'token_command: /nonexistent/formic\n'
        ended = self.start(text, program=RESTART)
        said = [line for line in ended.stderr.splitlines()
                if 'token_command' in line]
        self.assertEqual(self.start(text, program=ONCE).stderr, '')
        said += [line for line in self.log('smtp.log').splitlines()
                 if 'token_command' in line]
        self.assertEqual(len(said), 2)
        for line in said:
            self.assertIn(
                f'{self.own}: [relay.a] token_command: the program is not '
                'there', line)
            self.assertNotIn('formic', line)

    def test_what_starts_runners_warns(self):
        self.start(program=LIST)
        ended = self.start(
            RELAY + 'password: formic\nfor: *@example.org\n',
            program=RESTART)
        lines = [line for line in ended.stderr.splitlines()
                 if line.startswith('mailman_mta_pool: ')]
        self.assertEqual(len(lines), 4, ended.stderr)
        for line, words in zip(lines, (
                'chmod', 'in clear', 'mail without a list',
                'ant@example.com')):
            self.assertIn(words, line)
            self.assertIn(self.own, line)
        self.assertNotIn('Traceback', ended.stderr)
        ended = self.start(
            RELAY + 'password_command: false\n', program=RESTART)
        self.assertEqual(
            ended.stderr.count('[relay.a] password_command'), 1)
