# SPDX-License-Identifier: GPL-3.0-or-later

"""The plugin, in processes of its own as Mailman starts them."""

import os
import sys
import signal
import unittest
import subprocess

from mailman.interfaces.plugin import IPlugin
from mailman.testing.layers import ConfigLayer
from mailman_mta_pool.plugin import MTAPoolPlugin
from tempfile import TemporaryDirectory
from textwrap import dedent
from zope.interface.verify import verifyObject


ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MAILMAN_CFG = """\
[mailman]
layout: here
[paths.here]
var_dir: {directory}/var
[mta]
incoming: mailman.testing.mta.FakeMTA
outgoing: mailman_mta_pool.deliver.deliver
smtp_host: 127.0.0.1
{mta}
[plugin.mta_pool]
class: mailman_mta_pool.plugin.MTAPoolPlugin
enabled: yes
component_package: mailman_mta_pool
configuration: {configuration}
"""
# What every runner and every command does first.
START = """\
import os
import sys
import threading

from mailman.config import config
from mailman.core.initialize import initialize


initialize(sys.argv[1])
print('plugins', sorted(config.plugins))
print('threads', threading.active_count())
sockets = []
for name in os.listdir('/proc/self/fd'):
    try:
        target = os.readlink('/proc/self/fd/' + name)
    except OSError:
        continue
    if target.startswith('socket:'):
        sockets.append(target)
print('sockets', sockets)
"""
RUNNER = """\
import sys

from mailman.bin.runner import main


main(['--config', sys.argv[1], '--runner', 'out'])
"""
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


class TestPlugin(unittest.TestCase):
    layer = ConfigLayer

    def setUp(self):
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name
        self.own = os.path.join(self.directory, 'mta_pool.cfg')

    def start(self, text='', mta='', configuration=None, program=START):
        """Start a Mailman process, and return how it ended."""
        with open(self.own, 'w') as fp:
            fp.write(dedent(text))
        path = os.path.join(self.directory, 'mailman.cfg')
        with open(path, 'w') as fp:
            fp.write(MAILMAN_CFG.format(
                directory=self.directory, mta=mta,
                configuration=(
                    self.own if configuration is None else configuration)))
        environment = {
            name: value for name, value in os.environ.items()
            if not name.startswith(('MAILMAN_', 'PYTHON'))}
        return subprocess.run(
            [sys.executable, '-c', program, path], cwd=self.directory,
            env=dict(environment, PYTHONPATH=ROOT), timeout=60,
            stdin=subprocess.DEVNULL, capture_output=True, text=True)

    def assertRefuses(self, *parts, **site):
        """A runner ends with one line that has all of that in it.

        A process that is no runner says the same, and goes on.
        """
        runner = self.start(program=RUNNER, **site)
        other = self.start(**site)
        self.assertEqual(runner.returncode, signal.SIGTERM, runner)
        self.assertEqual(other.returncode, 0, other)
        self.assertIn("plugins ['mta_pool']", other.stdout)
        for ended in (runner, other):
            line, = ended.stderr.splitlines()
            self.assertTrue(line.startswith('mailman_mta_pool: '), line)
            for part in parts:
                self.assertIn(part, line)
            self.assertNotIn('Traceback', ended.stdout + ended.stderr)

    def test_interface(self):
        plugin = MTAPoolPlugin()
        verifyObject(IPlugin, plugin)
        self.assertTrue(callable(plugin.resource.on_get))

    def test_what_only_rest_needs_is_not_loaded(self):
        ended = self.start(program=START + (
            "print('falcon' in sys.modules,"
            " 'mailman_mta_pool.monitoring.overview' in sys.modules)\n"))
        self.assertEqual(ended.stdout.splitlines()[-1], 'False False')

    def test_starts_and_opens_nothing(self):
        for configuration in (
                None, '', 'python:mailman_mta_pool.configuration.schema'):
            with self.subTest(configuration=configuration):
                ended = self.start(
                    '[pool]\nidle_timeout: 0\n', 'max_delivery_threads: 8',
                    configuration)
                self.assertEqual(ended.stderr, '')
                self.assertEqual(ended.returncode, 0)
                self.assertEqual(ended.stdout.splitlines(), [
                    "plugins ['mta_pool']", 'threads 1', 'sockets []'])

    def test_wrong_key(self):
        self.assertRefuses(
            self.own, '[pool] idle_time', 'unknown key',
            text='[pool]\nidle_time: 10s\n')

    def test_wrong_value(self):
        self.assertRefuses(
            self.own, '[pool] idle_timeout', "'soon'",
            text='[pool]\nidle_timeout: soon\n')

    def test_wrong_section(self):
        self.assertRefuses(
            self.own, '[pools]', 'unknown section', text='[pools]\n')

    def test_missing_file(self):
        self.assertRefuses(
            '[plugin.mta_pool] configuration', '/nonexistent/mta_pool.cfg',
            configuration='/nonexistent/mta_pool.cfg')

    def test_wrong_value_in_mailman_cfg(self):
        self.assertRefuses(
            'mailman.cfg', '[mta] max_delivery_threads', "'many'",
            mta='max_delivery_threads: many')

    def test_unknown_secure_mode(self):
        self.assertRefuses(
            'mailman.cfg', '[mta] smtp_secure_mode', 'carrier-pigeon',
            'smtp, smtps, starttls', mta='smtp_secure_mode: carrier-pigeon')

    def log(self, name):
        """What a log of the site says."""
        path = os.path.join(self.directory, 'var', 'logs', name)
        with open(path) as fp:
            return fp.read()

    def test_relays(self):
        self.assertRefuses(
            self.own, '[relay.a] weight', "'0'",
            text='[relay.a]\nhost: a\nweight: 0\n')
        self.assertRefuses(
            self.own, '[relay.a] secure_mode', 'carrier-pigeon',
            'smtp, smtps, starttls',
            text='[relay.a]\nhost: a\nsecure_mode: carrier-pigeon\n')

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
