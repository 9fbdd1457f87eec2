# SPDX-License-Identifier: GPL-3.0-or-later
"""The reference of the metrics, made of their table."""

import csv

from docs.modules import module_or_none
from io import StringIO
from public import public


METRICS = 'mailman_mta_pool.monitoring.metrics'
HEAD = """\
.. csv-table::
   :header: metric, type, labels, what it says, healthy
   :widths: 30, 10, 14, 26, 30

"""
public(METRICS=METRICS)


def _cell(value):
    if isinstance(value, (list, tuple)):
        return ', '.join(f'``{each}``' for each in value)
    return ' '.join(str(value).split()).replace('`', '``')


@public
def metrics():
    """Draw the metrics as a table in reStructuredText.

    :return: The table, with a row for each entry of `METRICS` in the module
        of that name.
    """
    module = module_or_none(METRICS)
    rows = StringIO()
    writer = csv.writer(rows, quoting=csv.QUOTE_ALL, lineterminator='\n')
    for metric in getattr(module, 'METRICS', ()):
        writer.writerow((
            f'``{metric.name}``', _cell(metric.type), _cell(metric.labels),
            _cell(metric.help), _cell(metric.healthy)))
    table = ''.join(f'   {row}\n' for row in rows.getvalue().splitlines())
    return HEAD + table if table else 'This release has none.\n'
