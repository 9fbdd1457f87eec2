# SPDX-License-Identifier: GPL-3.0-or-later
"""The reference of what is printed as JSON, made of the JSON schemas."""

import json

from public import public


ENDING = '.schema.json'
public(ENDING=ENDING)


@public
def schema_files(package):
    """Return the paths of the JSON schemas that the package brings along.

    :param package: The directory of the package.
    """
    return sorted(package.rglob('*' + ENDING))


def _one(package, path):
    schema = json.loads(path.read_text('utf-8'))
    title = path.name[:-len(ENDING)]
    inside = path.relative_to(package.parent).as_posix()
    lines = [title, '-' * len(title), '']
    for key in ('title', 'description'):
        if key in schema:
            lines += [schema[key].rstrip('.') + '.', '']
    # The path begins at the directory of the documents.
    return '\n'.join([
        *lines, f'.. literalinclude:: /../{inside}', '   :language: json',
        '', ''])


@public
def schemas(package):
    """Draw the JSON schemas in reStructuredText.

    :param package: The directory of the package.
    :return: A section for each.
    """
    return ''.join(_one(package, path) for path in schema_files(package))
