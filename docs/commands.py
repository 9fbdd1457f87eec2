# SPDX-License-Identifier: GPL-3.0-or-later
"""The reference of the commands, made of the commands themselves."""

import re
import click
import pkgutil

from importlib import import_module
from mailman_mta_pool import console
from public import public


PROGRAM = 'mailman mta-pool'
#: What click prints as it stands begins with this line.
AS_IT_STANDS = '\b'
SPECIAL = re.compile(r'([\\*|]|_\b)')
public(PROGRAM=PROGRAM)


@public
def subcommands():
    """Return the subcommands by their names, as click has them.

    Each is the attribute `command` of a module of `console`.
    """
    found = {}
    for _, name, _ in pkgutil.iter_modules(console.__path__):
        command = getattr(
            import_module(f'{console.__name__}.{name}'), 'command', None)
        if isinstance(command, click.Command):
            found[name] = command
    return found


def _help(text):
    """Turn the paragraphs of a help text into reStructuredText."""
    lines = []
    for paragraph in filter(None, re.split(r'\n\s*\n', text.strip())):
        head, *rest = paragraph.splitlines()
        if head.strip() == AS_IT_STANDS:
            lines += ['::', '', *(f'   {line.strip()}' for line in rest), '']
        else:
            running = ' '.join(paragraph.split())
            lines += [SPECIAL.sub(r'\\\1', running.replace('`', '``')), '']
    return lines


def _option(context, parameter):
    record = parameter.get_help_record(context)
    if record is None:
        # An argument, which the usage line shows, or a hidden option.
        return []
    declaration, text = record
    return [f'.. option:: {declaration}', '',
            *(f'   {line}'.rstrip() for line in _help(text)), '']


def _one(name, command):
    title = f'{PROGRAM} {name}'
    context = click.Context(command, info_name=title)
    usage = ' '.join([title, *command.collect_usage_pieces(context)])
    lines = [title, '-' * len(title), '', '::', '', f'   {usage}', '',
             *_help(command.help or ''), f'.. program:: {title}', '']
    for parameter in command.get_params(context):
        lines += _option(context, parameter)
    if command.epilog:
        lines += _help(command.epilog)
    return '\n'.join(lines) + '\n'


@public
def commands():
    """Draw the subcommands in reStructuredText.

    :return: A section for each, with its usage, its help, and its options.
    """
    return ''.join(_one(*item) for item in sorted(subcommands().items()))
