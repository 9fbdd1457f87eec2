# SPDX-License-Identifier: GPL-3.0-or-later
"""Charts of SVG; their colours stand in report.css."""

import math

from mailman_mta_pool.monitoring.markup import Element
from public import public
from typing import Callable, List, Sequence, Tuple


# All in units of the chart's own; one is a pixel on a small screen.
WIDTH = 440
HEIGHT = 280
LEFT = 48
TOP = 12
BOTTOM = 24
GAP = 1
MINUTES_PER_LABEL = 15
BAR_WIDTH = 96
BAR_HEIGHT = 10
# The greatest value of an axis is one of these, times a power of ten.
ROUND = (1, 2, 3, 4, 5, 8, 10)


@public
def axis_end(peak: int) -> int:
    """Return a round number, even or 1, that is `peak` at least.

    :param peak: The greatest value.
    """
    if peak <= 1:
        return 1
    power = 10 ** int(math.log10(peak))
    return next(end for end in (each * power for each in ROUND)
                if end >= peak and end % 2 == 0)


@public
def minutes_chart(minutes: Sequence[Tuple[int, int]],
                  written: Callable[[int], str]) -> Element:
    """Return a chart with a bar for each minute.

    :param minutes: Pairs of a time and a number, in order of time.
    :param written: Called with a time, it returns the text of a label.
    """
    counts = [count for _, count in minutes]
    peak = max(counts)
    when = written(minutes[counts.index(peak)][0])
    step = (WIDTH - LEFT) / len(minutes)
    return Element(
        'svg',
        Element('title', 'Recipients accepted in each minute of the last hour',
                id='chart-title'),
        Element('desc', f'The most, {peak:,}, were accepted in the minute '
                f'from {when}.  The table beside the chart has each number.',
                id='chart-desc'),
        *_levels(axis_end(peak)), *_bars(counts, axis_end(peak), step),
        *(Element('text', written(minutes[number][0]),
                  x=f'{LEFT + number * step:.1f}', y=HEIGHT - 6)
          for number in range(0, len(minutes), MINUTES_PER_LABEL)),
        viewBox=f'0 0 {WIDTH} {HEIGHT}', role='img', class_='chart',
        aria_labelledby='chart-title chart-desc')


def _levels(end: int) -> List[Element]:
    """Return the lines of the vertical axis, and what stands beside them."""
    parts = []
    for value in (0, end // 2, end) if end > 1 else (0, 1):
        y = f'{_height(end - value, end) + TOP:.1f}'
        parts += [
            Element('line', x1=LEFT, x2=WIDTH, y1=y, y2=y),
            Element('text', f'{value:,}', x=LEFT - 6, y=y, dy='0.35em',
                    text_anchor='end')]
    return parts


def _bars(counts: Sequence[int], end: int, step: float) -> List[Element]:
    return [
        Element('rect', x=f'{LEFT + number * step:.1f}',
                y=f'{_height(end - count, end) + TOP:.1f}',
                width=f'{step - GAP:.1f}',
                height=f'{_height(count, end):.1f}', class_='bar')
        for number, count in enumerate(counts) if count > 0]


def _height(value: float, end: int) -> float:
    return (HEIGHT - TOP - BOTTOM) * value / end


@public
def progress_bar(done: int, total: int) -> Element:
    """Return a bar that says which part is done.

    :param done: How much is done.
    :param total: How much there is.
    """
    part = min(1.0, max(0.0, done / total)) if total > 0 else 0.0
    return Element(
        'svg',
        Element('rect', width=BAR_WIDTH, height=BAR_HEIGHT, rx=3,
                class_='rest'),
        Element('rect', width=f'{BAR_WIDTH * part:.1f}', height=BAR_HEIGHT,
                rx=3, class_='bar'),
        viewBox=f'0 0 {BAR_WIDTH} {BAR_HEIGHT}', width=BAR_WIDTH,
        height=BAR_HEIGHT, role='img', class_='progress',
        # Rounded down: not all before the last one is accepted.
        aria_label=f'{int(100 * part)} percent')
