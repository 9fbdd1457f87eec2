# SPDX-License-Identifier: GPL-3.0-or-later
"""The figures as tables, for a terminal and for the documents."""

import re
import sys
import platform
import subprocess

from datetime import date
from importlib.metadata import version
from mailman_mta_pool.demo.report import table
from pathlib import Path
from public import public


BEGIN = '.. The rest is written by "python -m benchmarks --write".\n'
MODES = {
    'bulk': 'bulk', 'verp': 'VERP', 'individual': 'individual',
    'full': 'full', 'wire': 'messages',
    }
NOTHING = '–'


def _number(value):
    """Three digits mean something, and no more do."""
    if value is None:
        return NOTHING
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f'{value:,.{digits}f}'


def _size(octets):
    return f'{octets // 1000} kB'


def _what(case):
    words = [MODES[case.mode], _size(case.size), case.sink]
    if case.round_trip:
        words.append(f'{case.round_trip} ms')
    if case.name:
        words.append(case.name)
    return ', '.join(words)


@public
def comparison(found):
    """Heads and rows of what is compared one by one.

    :param found: A list of `Figures`.
    """
    heads = ('rival', 'its', 'conn.', 'ours', 'ratio', 'from', 'to', 'goal')
    rows = []
    for figures in found:
        last = figures.case.connections[-1]
        least, most = figures.spread
        rows.append((_what(figures.case), (
            figures.rival.name, _number(figures.rival.rate), str(last),
            _number(figures.ours[last].rate), _number(figures.ratio),
            _number(least), _number(most), _number(figures.case.goal))))
    return heads, rows


@public
def overview(found):
    """Heads and rows of rates over the number of connections.

    :param found: A list of `Figures`.
    """
    numbers = sorted({number for figures in found
                      for number in figures.case.connections})
    heads = ['stock', *(f'ours {number}' for number in numbers),
             *(f'source {number}' for number in numbers), 'ratio']
    rows = []
    for figures in found:
        def rates(contenders):
            return [contenders[number].rate if number in contenders else None
                    for number in numbers]
        rows.append((_what(figures.case), [_number(value) for value in (
            figures.rival.rate, *rates(figures.ours), *rates(figures.source),
            figures.ratio)]))
    return heads, rows


@public
def growth(found):
    """Heads and rows of how the time grows.

    :param found: A list of `Size`.
    """
    heads = ('seconds', 'µs each', 'to the first', 'MB over idle')
    rows = []
    for size in found:
        rows.append((f'{MODES[size.mode]}, {size.recipients:,}', (
            _number(size.seconds), _number(size.each * 1e6),
            _number(size.proportion), _number(size.megabytes))))
    return heads, rows


@public
def as_text(title, heads, rows):
    """For a terminal."""
    return f'\n{title}\n\n{table(heads, rows)}'


@public
def as_rst(title, heads, rows):
    """For the documents."""
    cells = [('', *heads), *((label, *values) for label, values in rows)]
    lines = [', '.join(f'"{cell}"' for cell in row) for row in cells]
    return '\n'.join([
        title, '-' * len(title), '', '.. csv-table::', '   :header-rows: 1',
        '', *('   ' + line for line in lines), '', ''])


def _processor():
    found = re.search(r'^model name\s*:\s*(.*)$',
                      Path('/proc/cpuinfo').read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def _cores():
    return Path('/proc/cpuinfo').read_text().count('processor\t')


def _postfix():
    try:
        return subprocess.run(
            ('postconf', '-d', '-h', 'mail_version'), check=True,
            capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return 'none'


@public
def conditions(load):
    """When, where, and with what, as a sentence or two.

    :param load: The load average before the first measurement.
    """
    python = '.'.join(map(str, sys.version_info[:3]))
    return (
        f'Measured on {date.today()}, on {_cores()} cores of {_processor()}, '
        f'with Linux {platform.release()}, Python {python}, Mailman '
        f'{version("mailman")} on SQLite, Postfix {_postfix()}.\n'
        f'Before it began the load average was {load:.1f}.')


@public
def write(path, text):
    """Put the tables into a document, in the place of the former ones.

    :param path: The document; what stands above `BEGIN` is kept.
    :raises ValueError: if it has no such line.
    """
    document = Path(path)
    kept, marker, _ = document.read_text('utf-8').partition(BEGIN)
    if not marker:
        raise ValueError(f'{path} has no line {BEGIN!r}')
    document.write_text(f'{kept}{BEGIN}\n{text.rstrip()}\n', 'utf-8')
