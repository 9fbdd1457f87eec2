# SPDX-License-Identifier: GPL-3.0-or-later

"""The demo's one table, and its verdict."""

from __future__ import annotations

from public import public


NOT_AVAILABLE = 'n/a'


def _shown(value):
    if value is None:
        return NOT_AVAILABLE
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    if isinstance(value, float):
        return f'{value:,.2f}'
    if isinstance(value, int):
        return f'{value:,}'
    return value


@public
def table(heads, rows):
    """Lay out a table, a column for each head.

    :param heads: The heads of the columns.
    :type heads: sequence of str
    :param rows: Pairs of a label and one value for each column.  None is
        shown as n/a, a bool as yes or no, a float with two decimals.
    :return: The lines, with a line end after each.
    :rtype: str
    """
    lines = [('', *heads)]
    lines.extend((label, *map(_shown, values)) for label, values in rows)
    widths = [max(map(len, column)) for column in zip(*lines)]
    return ''.join(
        '   '.join([cells[0].ljust(widths[0])] + [
            cell.rjust(width) for cell, width in zip(cells[1:], widths[1:])
            ]) + '\n'
        for cells in lines)


def _same_bytes(results):
    deliveries = [result.record.deliveries for result in results]
    return all(others == deliveries[0] for others in deliveries[1:])


@public
def succeeded(results):
    """True if nobody was lost, nobody served twice, all alike."""
    recorded = all(result.record is not None for result in results)
    return (all(result.complete for result in results)
            and (not recorded or _same_bytes(results)))


@public
def report(results):
    """The table, and below it what it cannot say.

    :param results: What `compare` returned.
    :rtype: str
    """
    def row(label, value):
        return label, [value(result) for result in results]

    def recorded(label, value):
        return row(label, lambda result: (
            None if result.record is None else value(result)))

    return table([result.name for result in results], [
        row('recipients', lambda result: len(result.recipients)),
        row('seconds', lambda result: float(result.seconds)),
        row('recipients/s', lambda result: round(result.rate)),
        recorded('connections', lambda result: result.record.connections),
        recorded('messages accepted', lambda result: result.record.messages),
        recorded('recipients lost', lambda result: len(result.lost)),
        recorded('recipients duplicated',
                 lambda result: len(result.record.duplicated)),
        recorded('same bytes', lambda result: _same_bytes(results)),
        ]) + ''.join(_remarks(results))


def _remarks(results):
    for result in results:
        if result.failures:
            yield f'{result.name}: {result.failures:,} deliveries failed.\n'
        for queue, recipients in result.waiting.items():
            yield (f'{result.name}: {len(recipients):,} recipients were left '
                   f'in the {queue} queue.\n')
