# SPDX-License-Identifier: GPL-3.0-or-later
"""One line for a monitoring system, and its exit status.

The form is that of the Monitoring Plugins Development Guidelines, which
Nagios, Icinga and their relatives read.
"""

from mailman_mta_pool.checking.relay import FEW_DAYS
from mailman_mta_pool.checking.steps import Check, RelayCheck, Status
from mailman_mta_pool.shown import printable
from public import public
from typing import Dict, Iterator, Tuple


UNKNOWN = 3
public(UNKNOWN=UNKNOWN)
_WORDS = {
    Status.ok: ('OK', 0),
    Status.warning: ('WARNING', 1),
    Status.failed: ('CRITICAL', 2),
    Status.unknown: ('UNKNOWN', UNKNOWN),
    }
LENGTH = 700


@public
def monitoring_line(check: Check) -> Tuple[str, int]:
    """Return the line and the exit status.

    :param check: What was found.
    """
    word, status = _WORDS[check.status]
    values = [
        value for relay in check.relays for value in _perfdata(
            relay, check.time, check.label(relay))]
    # A configuration with a mistake keeps every server from being tried.
    return _line(word, _summary(check), ' '.join(
        values or [_time('total', 0.0)])), status


@public
def unknown_line(reason: str) -> str:
    """Return the line for what kept us from checking at all.

    :param reason: What it was.
    """
    return _line('UNKNOWN', reason, '')


def _line(word: str, text: str, perfdata: str) -> str:
    # A bar divides the text from the perfdata.
    text = printable(text).replace('|', '/')[:LENGTH]
    return f'MTA_POOL {word} - {text}' + (f' | {perfdata}' * bool(perfdata))


def _summary(check: Check) -> str:
    if check.status is Status.ok:
        return ', '.join(
            f'{check.label(relay) or relay.name} accepts mail from us in '
            f'{relay.milliseconds:.0f} ms' for relay in check.relays)
    label, step = next(found for found in check.labelled()
                       if found[1].status is check.status)
    assert step.problem is not None
    keys = ', '.join(step.problem.keys)
    return (f'{label}: ' * bool(label) + f'{step.name}: {step.problem.text}' +
            f' ({keys})' * bool(keys))


def _perfdata(relay: RelayCheck, now: float, label: str) -> Iterator[str]:
    prefix = f'{label}_' * bool(label)
    times: Dict[str, float] = {}
    for step in relay.steps:
        if step.milliseconds is not None:
            # EHLO is said twice with STARTTLS.
            times[step.name] = times.get(step.name, 0) + step.milliseconds
    for name, milliseconds in times.items():
        yield _time(prefix + name, milliseconds)
    yield _time(prefix + 'total', relay.milliseconds)
    if relay.certificate is not None:
        days = relay.certificate.days_left(now)
        yield f'{_label(prefix + "days_left")}={days};{FEW_DAYS}:;0:'


def _time(name: str, milliseconds: float) -> str:
    return f'{_label(name)}={milliseconds:.3f}ms;;;0'


def _label(name: str) -> str:
    if name.replace('_', '').isalnum():
        return name
    return "'{}'".format(name.replace("'", "''").replace('=', '_'))
