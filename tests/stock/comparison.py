# SPDX-License-Identifier: GPL-3.0-or-later

"""Run a selection of Mailman's tests with one `deliver` and with another."""

import os
import sys
import json
import shutil
import tempfile
import subprocess
import importlib.util

from public import public
from textwrap import dedent
from typing import FrozenSet, NamedTuple


ROOT = os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))))
STOCK = 'mailman.mta.deliver.deliver'
OURS = 'mailman_mta_pool.deliver.deliver'
# Where Mailman's tests and documents are, and which of them are run: the path
# of a document or the dotted name of a test must match.
SELECTION = {
    'mta': '',
    'runners': 'outgoing',
    }
DEADLINE = 600
# What Mailman's own unittest.cfg says, and our plugin.
NOSE = """\
[unittest]
plugins = flufl.testing.nose
          nose2.plugins.layers
          tests.stock.observer

[log-capture]
always-on = False

[flufl.testing]
always-on = True
package = mailman
start_run = mailman.testing.helpers.nose2_start_test_run_callback
default_layer = mailman.testing.layers.SMTPLayer
setup = mailman.testing.documentation.setup
teardown = mailman.testing.documentation.teardown

[observer]
deliver = {deliver}
results = {results}
"""
OUTGOING = """\
[mta]
outgoing: {deliver}
"""
# One of Mailman's tests counts the connections of a post, and expects them to
# be closed at its end.
PLUGIN = """
[plugin.mta_pool]
class: mailman_mta_pool.plugin.MTAPoolPlugin
enabled: yes
component_package: mailman_mta_pool
configuration: {configuration}
"""
POOL = """\
[pool]
idle_timeout: 0
"""


@public
class Results(NamedTuple):
    """What became of the tests, by their names.

    `calls` is how often Mailman called the function under test.
    """

    passed: FrozenSet[str]
    failed: FrozenSet[str]
    calls: int


def _in_own_network(command):
    """Give a command a loopback interface of its own, where that is possible.

    Mailman's layers use fixed ports, and one test expects nobody at port 25.
    """
    if (os.geteuid() != 0 or shutil.which('unshare') is None
            or shutil.which('ip') is None):
        return command
    return ['unshare', '-n', 'sh', '-c',
            'ip link set lo up && exec "$@"', 'sh', *command]


def _write(directory, name, text):
    path = os.path.join(directory, name)
    with open(path, 'w') as fp:
        fp.write(dedent(text))
    return path


def _configure(directory, deliver):
    """Write the configuration that Mailman's layers add to their own.

    They read the file that an environment variable names, before anything is
    initialized; what a test pushes itself comes later and wins.
    """
    text = OUTGOING.format(deliver=deliver)
    if deliver.startswith('mailman_mta_pool.'):
        text += PLUGIN.format(
            configuration=_write(directory, 'mta_pool.cfg', POOL))
    return _write(directory, 'extra.cfg', text)


def _run_part(directory, deliver, part, pattern):
    package = os.path.dirname(importlib.util.find_spec('mailman').origin)
    results = os.path.join(directory, part + '.json')
    config = _write(directory, part + '.cfg', NOSE.format(
        deliver=deliver, results=results))
    command = [sys.executable, '-m', 'nose2', '-c', config,
               '-s', os.path.join(package, part),
               '-t', os.path.dirname(package)]
    if pattern:
        command += ['-P', pattern]
    environment = dict(
        os.environ,
        MAILMAN_EXTRA_TESTING_CFG=_configure(directory, deliver),
        PYTHONPATH=os.pathsep.join(
            filter(None, [ROOT, os.environ.get('PYTHONPATH')])))
    subprocess.run(_in_own_network(command), cwd=directory, env=environment,
                   timeout=DEADLINE)
    if not os.path.exists(results):
        raise OSError('nose2 gave up before the end, see above')
    with open(results) as fp:
        return json.load(fp)


@public
def run(deliver):
    """Run the selected tests.

    Their output goes to this process's own.

    :param deliver: The dotted name of the function for `[mta] outgoing`.
    :return: What became of them.
    :rtype: `Results`
    :raises OSError: when the tests could not be run at all.
    :raises subprocess.TimeoutExpired: when they do not come to an end.
    """
    passed, failed, calls = set(), set(), 0
    with tempfile.TemporaryDirectory() as directory:
        for part, pattern in SELECTION.items():
            results = _run_part(directory, deliver, part, pattern)
            passed.update(part + ': ' + name for name in results['passed'])
            failed.update(part + ': ' + name for name in results['failed'])
            calls += results['calls']
    return Results(frozenset(passed), frozenset(failed), calls)
