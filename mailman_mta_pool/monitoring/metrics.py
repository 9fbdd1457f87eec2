# SPDX-License-Identifier: GPL-3.0-or-later
"""The metrics, in the text format 0.0.4 of Prometheus.

`METRICS` says what each metric means and what is healthy; the help texts and
docs/reference/metrics.rst are made of that table.  No metric has the address
of a member or the words of a server in it.

See https://prometheus.io/docs/instrumenting/exposition_formats/ and
https://prometheus.io/docs/practices/naming/.
"""

import platform

from importlib import metadata
from itertools import accumulate
from mailman_mta_pool.monitoring.overview import (
    current_slices,
    recipients_left,
    recipients_of,
    relays_of,
)
from mailman_mta_pool.monitoring.queues import QUEUES, QueueSummary
from mailman_mta_pool.monitoring.state import (
    BUCKETS,
    OUTCOMES,
    PHASES,
    RelayState,
    SliceState,
)
from public import public
from typing import (
    Dict,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Sequence,
    Set,
    Tuple,
    Union,
)


#: The media type of the text.
CONTENT_TYPE = 'text/plain; version=0.0.4; charset=utf-8'
PREFIX = 'mailman_mta_pool_'
DISTRIBUTION = 'mailman-mta-pool'
# Recipients who are given up have a metric of their own.
COUNTED_OUTCOMES = tuple(
    outcome for outcome in OUTCOMES if outcome != 'discarded')
ESCAPES = str.maketrans({'\\': r'\\', '"': r'\"', '\n': r'\n'})
public(CONTENT_TYPE=CONTENT_TYPE, PREFIX=PREFIX)

Number = Union[int, float]
# The value of each label, in the order of `Metric.labels`, and the value.
Sample = Tuple[Tuple[str, ...], Number]


@public
class Metric(NamedTuple):
    """A metric, and what the operator should know of it.

    :ivar name: Its name, without `PREFIX`.
    :ivar kind: 'counter', 'gauge' or 'histogram'.
    :ivar labels: The names of its labels.
    :ivar help: What it counts or measures.
    :ivar healthy: What it looks like when all is well.
    """

    name: str
    kind: str
    labels: Tuple[str, ...]
    help: str
    healthy: str


#: All metrics, in the order in which they are rendered.
METRICS: Sequence[Metric] = (
    Metric(
        'recipients_total', 'counter', ('outcome',),
        'Recipients, by what became of them in an attempt at delivery.',
        'Nearly all are accepted; deferred grows for a while after an outage '
        'of the mail server, in_doubt only when connections break, and '
        'shunted never.'),
    Metric(
        'discarded_recipients_total', 'counter', (),
        'Recipients who were given up, because the retries came to their end.',
        'Does not grow.'),
    Metric(
        'list_recipients_total', 'counter', ('list', 'outcome'),
        'Recipients of each list, by what became of them; only with '
        '[metrics] lists.',
        'As recipients_total; one list that stands out has a problem of its '
        'own.'),
    Metric(
        'messages_total', 'counter', (),
        'Transactions whose content a mail server accepted.',
        'Grows with each post; far fewer than the accepted recipients where '
        'the mail server makes the senders of VERP or posts are not '
        'personalized.'),
    Metric(
        'posts_total', 'counter', (),
        'Deliveries of a post that came to their end.',
        'Grows with each post.'),
    Metric(
        'slice_working', 'gauge', ('slice',),
        'Whether a runner slice has a post in delivery (1) or not (0).',
        '0 most of the time; 1 while a post goes out.'),
    Metric(
        'state_written_timestamp_seconds', 'gauge', ('slice',),
        'When a runner slice wrote its state last, in seconds since 1970.',
        'Less than a few seconds ago while slice_working is 1; as old as the '
        'last post otherwise.'),
    Metric(
        'last_accepted_timestamp_seconds', 'gauge', (),
        'When a mail server accepted a message last, in seconds since 1970; '
        '0 if none has yet.',
        'As recent as the last post.'),
    Metric(
        'queue_entries', 'gauge', ('queue',),
        'Entries of a queue, the one in delivery included.',
        'out and retry return to 0; shunt and bad stay at 0.'),
    Metric(
        'queue_recipients', 'gauge', ('queue',),
        'Recipients who are left in the entries of a queue.',
        'Falls while a post is in delivery, and is 0 in the end.'),
    Metric(
        'queue_oldest_entry_age_seconds', 'gauge', ('queue',),
        'For how long the oldest entry has been in its queue; 0 if the queue '
        'is empty.',
        'Of out, seconds, or minutes while a great post goes out; of retry, '
        'at most a quarter of an hour; of shunt and bad, 0.'),
    Metric(
        'relay_up', 'gauge', ('relay',),
        'Whether a mail server could be used when it was used last, or was '
        'not used yet (1), or not (0).',
        '1.'),
    Metric(
        'relay_pause_seconds', 'gauge', ('relay',),
        'For how long a mail server gets nothing more, because of what it '
        'said.',
        '0; where the mail server limits the rate, a few seconds now and '
        'then.'),
    Metric(
        'connections', 'gauge', ('relay', 'state'),
        'Connections to a mail server that are open.',
        'in_use is at most [mta] max_delivery_threads for each slice, or '
        'max_connections of the relay for all of them, and 0 between posts; '
        'idle returns to 0 after [pool] idle_timeout.'),
    Metric(
        'connections_opened_total', 'counter', ('relay',),
        'Connections to a mail server that were opened.',
        'Grows more slowly than messages_total.'),
    Metric(
        'connections_reused_total', 'counter', ('relay',),
        'Uses of a connection that was open already.',
        'Grows on a site with several posts a minute.'),
    Metric(
        'connections_lost_total', 'counter', ('relay',),
        'Connections that broke, or were found closed by the mail server.',
        'Hardly grows; if it does while idle, [pool] idle_timeout is longer '
        'than that of the mail server.'),
    Metric(
        'phase_duration_seconds', 'histogram', ('phase',),
        'How long each phase of a connection and each accepted message took.',
        'resolve, connect and hello take milliseconds on the same machine; a '
        'greeting of seconds is a mail server that is overloaded or checks '
        'its clients; message shows how quick the mail server is.'),
    Metric(
        'build_info', 'gauge', ('version', 'python'),
        'Always 1; the versions of this package, and of Python.',
        'One version, but during an upgrade.'),
    )
public(METRICS=METRICS)


@public
def render(states: Sequence[SliceState], queues: Dict[str, QueueSummary],
           now: float) -> str:
    """Return all metrics as text, with what is known sorted and stable.

    :param states: What all the state files say, those of earlier numbers of
        slices too, so that no counter falls.
    :param queues: What is in the queues.
    :param now: The time, in seconds since 1970.
    """
    relays = relays_of(states, now)
    samples: Dict[str, List[Sample]] = {
        **_delivery_samples(states),
        **_queue_samples(recipients_left(queues, states)),
        **_relay_samples(relays),
        'list_recipients_total': sorted(_list_samples(states)),
        'build_info': sorted(
            ((version, platform.python_version()), 1)
            for version in _versions(states)),
        }
    lines: List[str] = []
    for metric in METRICS:
        name = PREFIX + metric.name
        lines.append(f'# HELP {name} {metric.help}')
        lines.append(f'# TYPE {name} {metric.kind}')
        if metric.kind == 'histogram':
            lines += _histogram_lines(name, states)
        else:
            lines += [_line(name, zip(metric.labels, values), value)
                      for values, value in samples[metric.name]]
    return '\n'.join(lines) + '\n'


def _versions(states: Sequence[SliceState]) -> Set[str]:
    """Return the versions of this package that run."""
    running = {state.software for state in current_slices(states)} - {''}
    if len(running) > 0:
        return running
    try:
        return {metadata.version(DISTRIBUTION)}
    except metadata.PackageNotFoundError:
        # It runs from a checkout that is not installed.
        return {'unknown'}


def _delivery_samples(
        states: Sequence[SliceState]) -> Dict[str, List[Sample]]:
    recipients = recipients_of(states)
    current = sorted(current_slices(states), key=lambda state: state.slice)
    return {
        'recipients_total': [
            ((outcome,), recipients[outcome]) for outcome in COUNTED_OUTCOMES],
        'discarded_recipients_total': [((), recipients['discarded'])],
        'messages_total': [((), sum(state.messages for state in states))],
        'posts_total': [((), sum(state.posts_ended for state in states))],
        'slice_working': [
            ((state.slice,), int(state.working)) for state in current],
        'state_written_timestamp_seconds': [
            ((state.slice,), state.written) for state in current],
        'last_accepted_timestamp_seconds': [((), max(
            (state.last_accepted or 0 for state in states), default=0))],
        }


def _list_samples(states: Sequence[SliceState]) -> Iterator[Sample]:
    counts: Dict[Tuple[str, str], int] = {}
    for state in states:
        for name, outcomes in state.lists.items():
            for outcome in OUTCOMES:
                key = name, outcome
                counts[key] = counts.get(key, 0) + outcomes.get(outcome, 0)
    yield from counts.items()


def _queue_samples(queues: Dict[str, QueueSummary]) -> Dict[
        str, List[Sample]]:
    known = [(name, queues.get(name, QueueSummary())) for name in QUEUES]
    return {
        'queue_entries': [((name,), queue.entries) for name, queue in known],
        'queue_recipients': [
            ((name,), queue.recipients) for name, queue in known],
        'queue_oldest_entry_age_seconds': [
            ((name,), queue.oldest_age or 0) for name, queue in known],
        }


def _relay_samples(relays: Sequence[RelayState]) -> Dict[str, List[Sample]]:
    return {
        'relay_up': [
            ((relay.name,), int(relay.state != 'down')) for relay in relays],
        'relay_pause_seconds': [
            ((relay.name,), relay.pause) for relay in relays],
        'connections': [
            sample for relay in relays for sample in (
                ((relay.name, 'idle'), relay.idle),
                ((relay.name, 'in_use'),
                 max(0, relay.connections - relay.idle)))],
        'connections_opened_total': [
            ((relay.name,), relay.opened) for relay in relays],
        'connections_reused_total': [
            ((relay.name,), relay.reused) for relay in relays],
        'connections_lost_total': [
            ((relay.name,), relay.lost) for relay in relays],
        }


def _histogram_lines(name: str,
                     states: Sequence[SliceState]) -> Iterator[str]:
    bounds = [_number(bound) for bound in BUCKETS] + ['+Inf']
    for phase in PHASES:
        durations = [state.phases[phase] for state in states
                     if phase in state.phases and
                     len(state.phases[phase].counts) == len(bounds)]
        totals = list(accumulate(
            sum(each.counts[index] for each in durations)
            for index in range(len(bounds))))
        for bound, count in zip(bounds, totals):
            yield _line(f'{name}_bucket', [('phase', phase), ('le', bound)],
                        count)
        yield _line(f'{name}_sum', [('phase', phase)],
                    sum(each.seconds for each in durations))
        yield _line(f'{name}_count', [('phase', phase)], totals[-1])


def _line(name: str, labels: Iterable[Tuple[str, str]],
          value: Number) -> str:
    inside = ','.join(
        f'{label}="{_escaped(text)}"' for label, text in labels)
    return f'{name}{{{inside}}} {_number(value)}' if inside else (
        f'{name} {_number(value)}')


def _escaped(text: str) -> str:
    # Half of a surrogate pair cannot be written in UTF-8.
    text = text.encode('utf-8', 'replace').decode('utf-8')
    return text.translate(ESCAPES)


def _number(value: Number) -> str:
    return repr(value) if isinstance(value, int) else f'{value:.15g}'
