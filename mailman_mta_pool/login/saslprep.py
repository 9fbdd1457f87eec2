# SPDX-License-Identifier: GPL-3.0-or-later
"""SASLprep (RFC 4013): user names and passwords, prepared for SCRAM."""

import stringprep
import unicodedata

from public import public


# RFC 5802, section 2.2, prohibits what Unicode 3.2 does not have as well.  A
# server that does so, too, lets nobody choose such a password, and others,
# Dovecot among them, compute with the octets as they are.
_PROHIBITED = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
    )


@public
def saslprep(text: str) -> str:
    """Return a text in the form in which both sides compute with it.

    :param text: A user name or a password.
    :return: The text, perhaps the same; '' if nothing is left of it.
    :raises ValueError: if it holds what none may hold, which is not shown.
    """
    mapped = ''.join(
        ' ' if stringprep.in_table_c12(character) else character
        for character in text if not stringprep.in_table_b1(character))
    prepared = unicodedata.ucd_3_2_0.normalize('NFKC', mapped)
    if any(is_prohibited(character) for character in prepared
           for is_prohibited in _PROHIBITED):
        raise ValueError('a character that SASLprep (RFC 4013) prohibits')
    _check_direction(prepared)
    return prepared


def _check_direction(text: str) -> None:
    """Raise ValueError if the text breaks RFC 3454, section 6."""
    if any(map(stringprep.in_table_d1, text)) and (
            any(map(stringprep.in_table_d2, text)) or
            not stringprep.in_table_d1(text[0]) or
            not stringprep.in_table_d1(text[-1])):
        raise ValueError('a text of two directions, as SASLprep (RFC 4013) '
                         'prohibits')
