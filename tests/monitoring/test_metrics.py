# SPDX-License-Identifier: GPL-3.0-or-later
"""The text that Prometheus reads."""

import re
import unittest

from hypothesis import given, settings, strategies
from mailman_mta_pool.monitoring.metrics import METRICS, PREFIX, render
from mailman_mta_pool.monitoring.queues import QueueSummary
from mailman_mta_pool.monitoring.state import (
    BUCKETS,
    Counted,
    Durations,
    Failures,
    OUTCOMES,
    PHASES,
    PostState,
    RelayState,
    SliceState,
)
from pathlib import Path


MONITORING = Path(__file__).resolve().parent.parent.parent / (
    'docs/monitoring')
NOW = 1_764_200_000.25
MEMBER = 'anne@member.example'
COMMENT = re.compile(r'# (HELP|TYPE) ([a-z_]+) (\S.*)')
SAMPLE = re.compile(r'([a-z_]+)(?:\{(.*)\})? (\S+)')
LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\["\\n])*)"(?:,|\Z)')
UNESCAPED = {r'\\': '\\', r'\"': '"', r'\n': '\n'}
EXAMPLES = 25
KINDS = {'counter', 'gauge', 'histogram'}


def parsed(text):
    """Parse the text format, and refuse what Prometheus would refuse.

    :return: The kind of each metric, and the value of each sample by its name
        and a tuple of its labels and their values.
    """
    if not text.endswith('\n'):
        raise AssertionError('the last line has no end')
    kinds, helps, samples = {}, {}, {}
    for line in text[:-1].split('\n'):
        comment, sample = COMMENT.fullmatch(line), SAMPLE.fullmatch(line)
        if comment is not None:
            known = {'HELP': helps, 'TYPE': kinds}[comment[1]]
            if comment[2] in known:
                raise AssertionError(f'twice: {line}')
            known[comment[2]] = comment[3]
        elif sample is None:
            raise AssertionError(f'no sample: {line!r}')
        else:
            name, inside, value = sample.groups()
            key = name, labels_of(inside or '')
            family = re.sub('_(bucket|sum|count)$', '', name)
            if name not in kinds and kinds.get(family) != 'histogram':
                raise AssertionError(f'no TYPE before: {line}')
            if key in samples:
                raise AssertionError(f'twice: {line}')
            samples[key] = float(value)
    if helps.keys() != kinds.keys():
        raise AssertionError('HELP and TYPE are not of the same')
    return kinds, samples


def labels_of(inside):
    labels, end = [], 0
    for match in LABEL.finditer(inside):
        if match.start() != end:
            break
        end = match.end()
        labels.append((match[1], re.sub(
            r'\\.', lambda found: UNESCAPED[found[0]], match[2])))
    if end != len(inside):
        raise AssertionError(f'no labels: {inside!r}')
    return tuple(labels)


def sample(text, name, **labels):
    """Return the value of a sample."""
    return parsed(text)[1][PREFIX + name, tuple(labels.items())]


def state(name='out-0-of-1', **values):
    return SliceState(slice=name, software='1.0', **{
        'written': NOW - 1, **values})


class TestMetrics(unittest.TestCase):
    def test_table(self):
        names = [metric.name for metric in METRICS]
        self.assertEqual(len(set(names)), len(names))
        for metric in METRICS:
            with self.subTest(metric=metric.name):
                self.assertIn(metric.kind, KINDS)
                self.assertEqual(
                    metric.name.endswith('_total'), metric.kind == 'counter')
                for text in metric.help, metric.healthy:
                    self.assertRegex(text, r'\A[^\n\\]*\.\Z')

    def test_table_is_what_is_rendered(self):
        kinds, samples = parsed(render([state(
            relays=[RelayState('a:25')], lists={'a@b': {}})], {}, NOW))
        self.assertEqual(kinds, {
            PREFIX + metric.name: metric.kind for metric in METRICS})
        labels = {}
        for name, pairs in samples:
            labels.setdefault(name, set()).add(
                tuple(label for label, value in pairs))
        for metric in METRICS:
            names = [PREFIX + metric.name]
            expected = {metric.labels}
            if metric.kind == 'histogram':
                names = [f'{names[0]}_bucket']
                expected = {(*metric.labels, 'le')}
            for name in names:
                self.assertEqual(labels[name], expected, name)

    def test_known_labels_begin_at_0(self):
        text = render([], {}, NOW)
        for outcome in ('accepted', 'refused', 'deferred', 'in_doubt',
                        'shunted'):
            self.assertEqual(
                sample(text, 'recipients_total', outcome=outcome), 0)
        self.assertEqual(sample(text, 'discarded_recipients_total'), 0)
        self.assertEqual(sample(text, 'last_accepted_timestamp_seconds'), 0)
        for queue in ('out', 'retry', 'shunt', 'bad'):
            for name in ('entries', 'recipients', 'oldest_entry_age_seconds'):
                self.assertEqual(
                    sample(text, f'queue_{name}', queue=queue), 0)
        for phase in PHASES:
            self.assertEqual(
                sample(text, 'phase_duration_seconds_count', phase=phase), 0)
        self.assertNotIn('discarded"', text)

    def test_counters_of_all_slices(self):
        text = render([
            state('out-0-of-1', messages=5, posts_ended=2, last_accepted=7.5,
                  recipients=dict(zip(OUTCOMES, range(1, 7)))),
            state('out-0-of-2', messages=1, posts_ended=1, last_accepted=9.5,
                  recipients=dict(zip(OUTCOMES, range(10, 70, 10))),
                  written=NOW),
            ], {}, NOW)
        for outcome, count in zip(OUTCOMES[:-1], (11, 22, 33, 44, 55)):
            self.assertEqual(
                sample(text, 'recipients_total', outcome=outcome), count)
        self.assertEqual(sample(text, 'discarded_recipients_total'), 66)
        self.assertEqual(sample(text, 'messages_total'), 6)
        self.assertEqual(sample(text, 'posts_total'), 3)
        self.assertEqual(sample(text, 'last_accepted_timestamp_seconds'), 9.5)
        # The file of the other number of slices will never be written again.
        self.assertNotIn('slice="out-0-of-1"', text)
        self.assertEqual(sample(
            text, 'state_written_timestamp_seconds', slice='out-0-of-2'), NOW)

    def test_queues(self):
        text = render([state(counted={'a': Counted(3, 1)})], {
            'out': QueueSummary(2, 20, 12.5, {'a': 10, 'b': 10})}, NOW)
        self.assertEqual(sample(text, 'queue_entries', queue='out'), 2)
        self.assertEqual(sample(text, 'queue_recipients', queue='out'), 16)
        self.assertEqual(sample(
            text, 'queue_oldest_entry_age_seconds', queue='out'), 12.5)

    def test_relays(self):
        text = render([state(working=True, relays=[
            RelayState('a:25', 'down', 'no', 4.0, 5, 2, opened=7, reused=8,
                       lost=9),
            RelayState('b:25', 'paused')])], {}, NOW)
        for name, labels, value in (
                ('relay_up', {}, 0), ('relay_pause_seconds', {}, 3),
                ('connections', {'state': 'idle'}, 2),
                ('connections', {'state': 'in_use'}, 3),
                ('connections_opened_total', {}, 7),
                ('connections_reused_total', {}, 8),
                ('connections_lost_total', {}, 9)):
            self.assertEqual(
                sample(text, name, relay='a:25', **labels), value, name)
        self.assertEqual(sample(text, 'relay_up', relay='b:25'), 1)

    def test_slices(self):
        text = render([state('out-0-of-2', working=True),
                       state('out-1-of-2')], {}, NOW)
        self.assertEqual(sample(text, 'slice_working', slice='out-0-of-2'), 1)
        self.assertEqual(sample(text, 'slice_working', slice='out-1-of-2'), 0)
        self.assertEqual(text.count(f'{PREFIX}build_info{{'), 1)
        self.assertIn('version="1.0",python="3.', text)

    def test_histogram(self):
        counts = list(range(len(BUCKETS) + 1))
        text = render([
            state(f'out-{number}-of-2', phases={'tls': Durations(counts, 2.5)})
            for number in (0, 1)], {}, NOW)
        name, total = 'phase_duration_seconds', 0
        for bound, count in zip((*map(repr, BUCKETS), '+Inf'), counts):
            total += 2 * count
            self.assertEqual(sample(
                text, f'{name}_bucket', phase='tls',
                le=re.sub(r'\.0$', '', bound)), total)
        self.assertEqual(sample(text, f'{name}_count', phase='tls'), total)
        self.assertEqual(sample(text, f'{name}_sum', phase='tls'), 5)

    def test_nobody_is_named(self):
        text = render([state(
            working=True,
            posts=[PostState('a', 'b', f'<{MEMBER}>', 'list@example.com')],
            last_posts=[PostState(failures=[Failures('refused', MEMBER)])],
            relays=[RelayState('a:25', 'down', f'550 <{MEMBER}> is unknown')],
            )], {'out': QueueSummary(1, 1, 1.0, {MEMBER: 1})}, NOW)
        for word in (MEMBER, '550', 'unknown', 'list@example.com'):
            self.assertNotIn(word, text)

    def test_order_is_stable(self):
        relays = [RelayState(name) for name in ('b:25', 'a:25')]
        lists = {name: outcomes for name, outcomes in (
            ('b@c', {'refused': 1}), ('a@c', {'accepted': 2}))}
        slices = [state('out-0-of-2', relays=relays, lists=lists),
                  state('out-1-of-2', relays=relays[::-1])]
        text = render(slices, {}, NOW)
        self.assertEqual(render(slices[::-1], {}, NOW), text)
        self.assertEqual(re.findall(r'relay_up\{relay="(.)', text), ['a', 'b'])
        self.assertEqual(
            re.findall(r'list="(.)@c",outcome="accepted"', text), ['a', 'b'])

    @settings(max_examples=EXAMPLES)
    @given(strategies.dictionaries(
        strategies.text(strategies.characters(codec='utf-8')),
        strategies.integers(0, 2 ** 53), max_size=4))
    def test_names_of_lists(self, counts):
        text = render([state(lists={
            name: {'accepted': count} for name, count in counts.items()})],
            {}, NOW)
        for name, count in counts.items():
            self.assertEqual(sample(text, 'list_recipients_total', list=name,
                                    outcome='accepted'), count)

    def test_half_of_a_surrogate_pair(self):
        text = render([state(relays=[RelayState('\udcff:25')])], {}, NOW)
        text.encode('utf-8')
        self.assertEqual(sample(text, 'relay_up', relay='?:25'), 1)

    @settings(max_examples=EXAMPLES)
    @given(strategies.text(), strategies.floats(0, 1e12))
    def test_any_name_and_number(self, name, number):
        text = render([state(written=number, relays=[RelayState(name)])],
                      {}, NOW)
        found = sample(
            text, 'state_written_timestamp_seconds', slice='out-0-of-1')
        self.assertAlmostEqual(found, number, delta=number * 1e-14)


class TestDocuments(unittest.TestCase):
    """The alert rules and the dashboard name metrics that there are."""

    def test_names(self):
        known = {PREFIX + metric.name for metric in METRICS}
        known.update(f'{PREFIX}{metric.name}_{part}' for metric in METRICS
                     if metric.kind == 'histogram'
                     for part in ('bucket', 'sum', 'count'))
        for name in ('alerts.yml', 'alerts_test.yml', 'dashboard.json'):
            with self.subTest(name=name):
                text = (MONITORING / name).read_text('utf-8')
                found = set(re.findall(rf'\b{PREFIX}\w+', text))
                self.assertGreater(len(found), 5)
                self.assertEqual(found - known, set())
