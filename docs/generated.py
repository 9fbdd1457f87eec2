# SPDX-License-Identifier: GPL-3.0-or-later
"""Parts of the documents that are made of the code.

A document has a comment, `.. generated: NAME`, in the place of such a part.
"""

import re

from docs.catalogue import catalogue_table
from docs.commands import commands
from docs.keys import keys
from docs.metrics import metrics
from docs.schemas import schemas
from pathlib import Path
from public import public


PACKAGE = Path(__file__).parent.parent / 'mailman_mta_pool'
COMMENT = re.compile(r'^\.\. generated: (\w+)\n', re.MULTILINE)
public(PACKAGE=PACKAGE)


def _catalogue():
    path = PACKAGE / 'settlement' / 'answers.cfg'
    return catalogue_table(path.read_text('utf-8'))


def _keys():
    path = PACKAGE / 'configuration' / 'schema.cfg'
    return keys(path.read_text('utf-8'))


def _schemas():
    return schemas(PACKAGE)


PARTS = {
    'catalogue': _catalogue,
    'commands': commands,
    'keys': _keys,
    'metrics': metrics,
    'schemas': _schemas,
    }
public(PARTS=PARTS)


@public
def with_generated(text):
    """Put the generated parts of a document in.

    :param text: The document in reStructuredText.
    :return: The same, each comment replaced by what it names.
    :raises KeyError: for a comment that names nothing.
    """
    return COMMENT.sub(lambda found: PARTS[found[1]](), text)
