# SPDX-License-Identifier: GPL-3.0-or-later
"""Sphinx's settings."""

import sys

from configparser import ConfigParser
from pathlib import Path


ROOT = Path(__file__).parent.parent
CATALOGUE = ROOT / 'mailman_mta_pool' / 'settlement' / 'answers.cfg'
metadata = ConfigParser()
metadata.read(ROOT / 'setup.cfg', encoding='utf-8')
# For docs.catalogue.
sys.path.insert(0, str(ROOT))

project = 'mailman_mta_pool'
author = 'The mailman_mta_pool developers'
copyright = author
release = version = metadata['metadata']['version']

# The documents hold whole literal blocks of mail and of configuration, which
# no lexer should guess at.
highlight_language = 'none'


def setup(app):
    """See Sphinx's extension API."""
    app.connect('source-read', draw_catalogue)


def draw_catalogue(app, document, source):
    """Put the catalogue of answers in the place of its comment."""
    if document == 'answers':
        from docs.catalogue import catalogue_table
        text = CATALOGUE.read_text('utf-8')
        source[0] = source[0].replace(
            '.. catalogue\n', catalogue_table(text))
