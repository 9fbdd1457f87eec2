# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules of the package of which documents are made."""

from importlib import import_module
from public import public


@public
def module_or_none(name):
    """Import a module.

    :param name: Its dotted name.
    :return: The module; None where this release has none of that name.
    :raises ImportError: where the module itself cannot import something.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f'{name}.'.startswith(f'{error.name}.'):
            raise
        return None
