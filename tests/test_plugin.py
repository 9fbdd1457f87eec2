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
