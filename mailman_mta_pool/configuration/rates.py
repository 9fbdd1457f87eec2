# SPDX-License-Identifier: GPL-3.0-or-later
"""Rates as they are written in a configuration file: `14/s; 50000/day`."""

import re

from mailman_mta_pool.settings import Rate
from public import public
from typing import Tuple


# The seconds of each unit, and how it may be written besides its plural.
UNITS = (
    (1, ('second', 'sec', 's')),
    (60, ('minute', 'min', 'm')),
    (3600, ('hour', 'h')),
    (86400, ('day', 'd')),
    (604800, ('week', 'w')),
    )
# What is right, for an error message.
REMEDY = (
    'a rate such as 14/second, 100/10 minutes or 50000/day, or several with '
    'a ; between them')
# Nothing is sold in larger numbers or for longer times; see `Rate`.
MAX_COUNT = 10 ** 9
MAX_PERIOD = 366 * 86400
public(REMEDY=REMEDY)

_RATE = re.compile(r'([0-9]{1,10})\s*/\s*([0-9]{0,8})\s*([a-z]+)')
_SECONDS = {
    name: seconds for seconds, names in UNITS
    for word in names for name in (word, word + 's')}
# "ss" is nobody's second.
for _letter in 'smhdw':
    del _SECONDS[_letter + 's']


@public
def parse_rates(text: str) -> Tuple[Rate, ...]:
    """Return the rates that a text names; all of them hold.

    :param text: Such as '14/second; 50000/day'.  Capitals, blanks, and a
        semicolon at the end, make no difference; '' is no rate.
    :return: The rates in the order of the text.
    :raises ValueError: for a text that is none, for a rate of none, and for
        two with the same period.
    """
    parts = text.lower().split(';')
    if not parts[-1].strip():
        del parts[-1]
    rates = tuple(_rate(part.strip()) for part in parts)
    if len({rate.period for rate in rates}) < len(rates):
        raise ValueError(text)
    return rates


@public
def rate_words(rate: Rate) -> str:
    """Return a rate as it is written, such as '14/second'."""
    for seconds, names in reversed(UNITS):
        number, rest = divmod(rate.period, seconds)
        if number >= 1 and not rest:
            break
    unit = names[0] if number == 1 else f'{number:.0f} {names[0]}s'
    return f'{rate.count}/{unit}'


def _rate(text: str) -> Rate:
    found = _RATE.fullmatch(text)
    if found is None or found[3] not in _SECONDS:
        raise ValueError(text)
    count = int(found[1])
    period = int(found[2] or 1) * _SECONDS[found[3]]
    if not (0 < count <= MAX_COUNT and 0 < period <= MAX_PERIOD):
        raise ValueError(text)
    return Rate(count, float(period))
