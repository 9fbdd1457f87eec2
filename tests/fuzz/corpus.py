# SPDX-License-Identifier: GPL-3.0-or-later
"""What was found worth trying: a file for each input."""

from pathlib import Path
from public import public


DATA = Path(__file__).resolve().parent.parent / 'data' / 'fuzz'
#: The modules of this package that have a `one_input`.
TARGETS = (
    'catalogue', 'certificate', 'challenges', 'configuration', 'ehlo',
    'engine', 'grant', 'replies')
public(TARGETS=TARGETS)


@public
def directory_of(target):
    """Return the directory with the corpus of a target."""
    return DATA / target


@public
def inputs_of(target):
    """Yield the names and the octets of the corpus of a target."""
    for path in sorted(directory_of(target).iterdir()):
        yield path.name, path.read_bytes()
