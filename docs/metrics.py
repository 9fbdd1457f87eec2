# SPDX-License-Identifier: GPL-3.0-or-later
"""The reference of the metrics, made of their table."""

from docs.modules import module_or_none
from public import public


METRICS = 'mailman_mta_pool.monitoring.metrics'
public(METRICS=METRICS)


def _running(text):
    return ' '.join(text.split()).replace('`', '``').replace('*', r'\*')


def _one(prefix, metric):
    labels = ', '.join(f'``{label}``' for label in metric.labels)
    kind = f'{metric.kind}, by {labels}' if labels else metric.kind
    return '\n'.join([
        f'``{prefix}{metric.name}`` : {kind}', f'    {_running(metric.help)}',
        '', f'    Healthy: {_running(metric.healthy)}', '', ''])


@public
def metrics():
    """Draw the metrics in reStructuredText.

    :return: A list with an item for each entry of `METRICS` in the module of
        that name.
    """
    module = module_or_none(METRICS)
    return ''.join(
        _one(module.PREFIX, metric)
        for metric in getattr(module, 'METRICS', ())) or (
        'This release has none.\n')
