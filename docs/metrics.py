# SPDX-License-Identifier: GPL-3.0-or-later
"""The reference of the metrics, made of their table."""

from mailman_mta_pool.monitoring.metrics import METRICS, PREFIX
from public import public


def _running(text):
    return ' '.join(text.split()).replace('`', '``').replace('*', r'\*')


def _one(metric):
    labels = ', '.join(f'``{label}``' for label in metric.labels)
    kind = f'{metric.kind}, by {labels}' if labels else metric.kind
    return '\n'.join([
        f'``{PREFIX}{metric.name}`` : {kind}', f'    {_running(metric.help)}',
        '', f'    Healthy: {_running(metric.healthy)}', '', ''])


@public
def metrics():
    """Draw the metrics in reStructuredText.

    :return: A list with an item for each entry of `METRICS`.
    """
    return ''.join(map(_one, METRICS))
