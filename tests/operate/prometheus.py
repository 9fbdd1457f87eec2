# SPDX-License-Identifier: GPL-3.0-or-later
"""Metrics, alert rules and the dashboard, judged by Prometheus' own tool.

tests/operate/install.sh gets it.
"""

import json
import shutil
import unittest

from mailman_mta_pool.monitoring.metrics import METRICS, PREFIX, render
from mailman_mta_pool.monitoring.queues import QueueSummary
from mailman_mta_pool.monitoring.state import (
    Durations,
    OUTCOMES,
    PHASES,
    RelayState,
    SliceState,
)
from pathlib import Path
from subprocess import PIPE, run, STDOUT
from tempfile import TemporaryDirectory


MONITORING = Path(__file__).resolve().parent.parent.parent / (
    'docs/monitoring')
NOW = 1_764_200_000.25
# What Grafana puts in the place of its variables.
VARIABLES = {'$__rate_interval': '5m', '$instance': '.*'}


def promtool(*arguments, text=''):
    """Run promtool.

    :param arguments: Its arguments.
    :param text: Its standard input.
    :return: Its exit status and what it printed.
    """
    done = run(['promtool', *arguments], input=text.encode('utf-8'),
               stdout=PIPE, stderr=STDOUT, cwd=MONITORING)
    return done.returncode, done.stdout.decode('utf-8')


def expressions():
    """Yield the expressions of the dashboard, as Prometheus gets them."""
    dashboard = json.loads((MONITORING / 'dashboard.json').read_text('utf-8'))
    for panel in dashboard['panels']:
        for target in panel['targets']:
            expression = target['expr']
            for name, value in VARIABLES.items():
                expression = expression.replace(name, value)
            yield expression


@unittest.skipUnless(shutil.which('promtool'), 'there is no promtool')
class TestPrometheus(unittest.TestCase):
    def assertMetrics(self, text, status=0):
        self.assertEqual(
            promtool('check', 'metrics', text=text)[0], status, text)
        if status == 0:
            self.assertEqual(
                promtool('check', 'metrics', text=text), (0, ''))

    def test_nothing_yet(self):
        self.assertMetrics(render([], {}, NOW))

    def test_everything(self):
        counts = dict(zip(OUTCOMES, range(1, 9)))
        states = [SliceState(
            slice=f'out-{number}-of-2', software='1.0', written=NOW,
            working=True, recipients=counts, messages=5, posts_ended=2,
            last_accepted=NOW - 0.125,
            lists={'ant@example.com': counts, 'a"\\\n{b="c"} 1': counts},
            phases={phase: Durations([1] * 10, 2.5) for phase in PHASES},
            relays=[RelayState(f'[2001:db8::{each}]:25', 'paused', 'x', 4.5,
                               5, 2, 8, 9, 1.5, 10, 11, 12)
                    for each in 'ab']) for number in (0, 1)]
        text = render(states, {'out': QueueSummary(2, 20, 12.5)}, NOW)
        self.assertMetrics(text)
        # The tool does find what is wrong.
        self.assertMetrics(text + 'x{y="z} 1\n', 1)

    def test_rules(self):
        status, printed = promtool('check', 'rules', 'alerts.yml')
        self.assertEqual(status, 0, printed)

    def test_tests_of_the_rules(self):
        status, printed = promtool('test', 'rules', 'alerts_test.yml')
        self.assertEqual(status, 0, printed)

    def test_tests_of_the_rules_can_fail(self):
        with TemporaryDirectory() as directory:
            for name in ('alerts.yml', 'alerts_test.yml'):
                text = (MONITORING / name).read_text('utf-8')
                Path(directory, name).write_text(
                    text.replace('for: 10m', 'for: 100m'), 'utf-8')
            status, printed = promtool(
                'test', 'rules', f'{directory}/alerts_test.yml')
        self.assertEqual(status, 1, printed)
        self.assertIn('MailmanRelayDown', printed)

    def test_dashboard(self):
        rules = [{'record': 'a:b', 'expr': expression}
                 for expression in expressions()]
        self.assertGreater(len(rules), 10)
        with TemporaryDirectory() as directory:
            path = Path(directory, 'rules.yml')
            # JSON is YAML, too.
            path.write_text(json.dumps({'groups': [
                {'name': f'panel {number}', 'rules': [rule]}
                for number, rule in enumerate(rules)]}), 'utf-8')
            status, printed = promtool('check', 'rules', str(path))
        self.assertEqual(status, 0, printed)

    def test_dashboard_shows_every_metric(self):
        shown = ' '.join(expressions())
        for metric in METRICS:
            self.assertIn(PREFIX + metric.name, shown)
