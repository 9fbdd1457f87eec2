# SPDX-License-Identifier: GPL-3.0-or-later
"""The reference of the plugin's own configuration file, made of its schema."""

import re

from dataclasses import dataclass, field
from public import public
from typing import List


SECTION = re.compile(r'\[([\w.]+)\]$')
KEY = re.compile(r'(\w+):(.*)$')
LITERAL = re.compile(r'`([^`]*)`')
# What reStructuredText reads as markup in running text.
SPECIAL = re.compile(r'([\\*|`]|_\b)')


@public
@dataclass
class Key:
    """A key of the schema.

    :ivar section: The name of its section, without brackets.
    :ivar name: The key.
    :ivar default: Its default, as it stands in the schema.
    :ivar before: Paragraphs that stand before the key's own comment, and are
        about this and the following keys.
    :ivar comment: The key's own comment, one paragraph.
    """

    section: str
    name: str
    default: str
    before: List[str] = field(default_factory=list)
    comment: str = ''

    @property
    def full_name(self):
        """The section and the key, as error messages name them."""
        return f'[{self.section}] {self.name}'


def _paragraphs(lines):
    """Divide the lines of a comment at those that hold nothing but `#`."""
    text = '\n'.join(line[1:].strip() for line in lines)
    return [' '.join(part.split()) for part in text.split('\n\n')
            if part.strip()]


@public
def keys_of(schema):
    """Read the keys of a schema.

    :param schema: The text of `schema.cfg`.
    :return: A list of `Key`, in the order of the file.
    """
    found, section, comment = [], '', []
    for line in schema.splitlines():
        if line.startswith('#'):
            comment.append(line)
            continue
        in_section, in_key = SECTION.match(line), KEY.match(line)
        if in_section is not None:
            section = in_section[1]
            # What stands above the first section is about the whole file.
            comment = []
        elif in_key is not None:
            *before, own = _paragraphs(comment) or ['']
            found.append(Key(
                section, in_key[1], in_key[2].strip(), before, own))
            comment = []
    return found


def _as_rst(text):
    """Write plain text so that reStructuredText reads it as such."""
    parts = LITERAL.split(text)
    # The odd parts stood between backquotes.
    return ''.join(
        f'``{part}``' if number % 2 else SPECIAL.sub(r'\\\1', part)
        for number, part in enumerate(parts))


@public
def keys(schema):
    """Draw a schema as a reference in reStructuredText.

    :param schema: The text of `schema.cfg`.
    :return: A section for each section of the schema, and in it an entry for
        each key, with its default and its comment.
    """
    lines, section = [], None
    for key in keys_of(schema):
        if key.section != section:
            section = key.section
            lines += [f'[{section}]', '-' * (len(section) + 2), '']
        for paragraph in key.before:
            lines += [_as_rst(paragraph), '']
        default = f'``{key.default}``' if key.default else 'empty'
        lines += [f'.. confval:: {key.full_name}', f'   :default: {default}',
                  '', f'   {_as_rst(key.comment)}', '']
    return '\n'.join(lines) + '\n'
