# SPDX-License-Identifier: GPL-3.0-or-later
"""Which lists a section is for: `for: *@lists.example.org, ant@example.com`.
"""

import re

from public import public
from typing import Tuple


# What is right, for an error message.
REMEDY = (
    'a posting address such as ant@example.com, or *@lists.example.org for '
    'all lists of a domain; a comma goes between several')
public(REMEDY=REMEDY)

# The characters that the name of a list may have, as in
# `mailman.app.lifecycle`.  It allows a `*`, too, which matches itself.
_NAME = r'[-_.+=!$*{}~0-9a-z]+'
_LABEL = r'[-_*0-9a-z]+'
_PATTERN = re.compile(rf'{_NAME}@{_LABEL}(?:\.{_LABEL})*')


@public
def parse_lists(text: str) -> Tuple[str, ...]:
    """Return the patterns of posting addresses that a text names.

    Mailman makes the names of lists and of their domains lower case when it
    creates them, so capitals make no difference.

    :param text: Addresses with commas or line ends between them, in which a
        `*` is for any characters; '' is none.
    :return: The patterns in lower case, each once.
    :raises ValueError: for a pattern that no posting address can match, with
        the pattern.
    """
    patterns = [
        part.strip() for line in text.lower().splitlines()
        for part in line.split(',') if part.strip()]
    for pattern in patterns:
        if _PATTERN.fullmatch(pattern) is None:
            raise ValueError(pattern)
    return tuple(dict.fromkeys(patterns))
