# SPDX-License-Identifier: GPL-3.0-or-later
"""One counter for this process, by which events are put in order."""

from itertools import count
from public import public


_ticks = count(1)


@public
def tick() -> int:
    """Return the next number; it is greater than any that was returned."""
    return next(_ticks)
