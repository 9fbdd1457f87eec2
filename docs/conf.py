# SPDX-License-Identifier: GPL-3.0-or-later
"""Sphinx's settings."""

import sys

from configparser import ConfigParser
from pathlib import Path


ROOT = Path(__file__).parent.parent
metadata = ConfigParser()
metadata.read(ROOT / 'setup.cfg', encoding='utf-8')
# For the package docs.
sys.path.insert(0, str(ROOT))

project = 'mailman_mta_pool'
author = 'The mailman_mta_pool developers'
copyright = author
release = version = metadata['metadata']['version']

html_theme = 'furo'
html_title = f'{project} {release}'
# The documents hold whole literal blocks of mail and of configuration, which
# no lexer should guess at.
highlight_language = 'none'
# Options begin with two hyphens, not with a dash.
smartquotes = False
man_pages = [
    ('man/mailman-mta-pool', 'mailman-mta-pool',
     "what becomes of Mailman's outgoing mail", author, 1),
    ]


def setup(app):
    """See Sphinx's extension API."""
    app.connect('source-read', generate)


def generate(app, document, source):
    """Put what is made of the code in the place of its comment."""
    from docs.generated import with_generated
    source[0] = with_generated(source[0])
