# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes as Mailman starts them, each with a site of its own."""

import os
import sys
import signal
import unittest
import subprocess

from mailman.testing.layers import ConfigLayer
from tempfile import TemporaryDirectory
from textwrap import dedent


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


class StartTestCase(unittest.TestCase):
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
