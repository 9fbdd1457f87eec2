# SPDX-License-Identifier: GPL-3.0-or-later
"""Sphinx's settings."""

from configparser import ConfigParser
from pathlib import Path


metadata = ConfigParser()
metadata.read(Path(__file__).parent.parent / 'setup.cfg', encoding='utf-8')

project = 'mailman_mta_pool'
author = 'The mailman_mta_pool developers'
copyright = author
release = version = metadata['metadata']['version']

# The documents hold whole literal blocks of mail and of configuration, which
# no lexer should guess at.
highlight_language = 'none'
