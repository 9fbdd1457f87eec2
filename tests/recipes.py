# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration that the documents tell people to write."""

import re

from importlib import resources
from pathlib import Path
from public import public
from tests.test_architecture import ROOT
from typing import NamedTuple


DOCUMENT = ROOT / 'docs' / 'operate' / 'recipes.rst'
TITLE = re.compile(r'^(\S.*)\n=+\n', re.MULTILINE)
PART = re.compile(
    r'^In ``(mailman|mta_pool)\.cfg``::\n\n((?:    .*\n|\n)+)', re.MULTILINE)


# A file that a recipe names; there may be a line of a secret in it.
FILE = re.compile(r'/etc/mailman3/([\w.-]+)')
KEYS = {'.crt': 'ssl_test_cert.crt', '.key': 'ssl_test_key.key'}


@public
def with_files(text, directory):
    """Put the files that a recipe names into another directory.

    :param text: A part of a recipe.
    :param directory: The directory, which exists.
    :return: The text, naming the files there.
    """
    for name in FILE.findall(text):
        path = Path(directory, name)
        source = KEYS.get(path.suffix)
        path.write_bytes(
            b'Tr0mbone-Zebra\n' if source is None else
            (resources.files('mailman.testing') / source).read_bytes())
        path.chmod(0o600)
    return FILE.sub(lambda found: str(Path(directory, found[1])), text)


@public
class Recipe(NamedTuple):
    """A recipe for a mail server.

    :ivar name: Its title.
    :ivar mailman: What goes into mailman.cfg.
    :ivar own: What goes into the plugin's own file.
    """

    name: str
    mailman: str
    own: str


@public
def recipes():
    """Read the recipes of the document.

    :return: A list of `Recipe`.
    :raises ValueError: if a section has not one part for each file.
    """
    _, _, _, *sections = TITLE.split(DOCUMENT.read_text('utf-8'))
    found = []
    for name, text in zip(sections[::2], sections[1::2]):
        parts = PART.findall(text)
        if [file for file, _ in parts] != ['mailman', 'mta_pool']:
            raise ValueError(f'{name} has not one part for each file')
        found.append(Recipe(name, *(
            re.sub('^    ', '', part, flags=re.MULTILINE).strip() + '\n'
            for _, part in parts)))
    return found
