# SPDX-License-Identifier: GPL-3.0-or-later
"""`mailman mta-pool …` as a process, as the operator runs it.

Such a process imports for a second, and works for a tenth of one.  There are
hundreds of them, so those that need nothing special are forked from a process
that has imported all modules and done nothing else.
"""

import os
import sys
import mailman
import pkgutil
import subprocess
import multiprocessing

from mailman_mta_pool.demo.process import ROOT
from pathlib import Path
from public import public
from tempfile import TemporaryDirectory
from tests.operate import forked
from tests.site import SCRIPT, Site
from typing import NamedTuple


DEADLINE = 60
#: Root's right to pass over permissions is taken away by this.
WITHOUT_RIGHTS = (
    'setpriv', '--bounding-set=-dac_override,-dac_read_search',
    '--inh-caps=-dac_override,-dac_read_search')
public(WITHOUT_RIGHTS=WITHOUT_RIGHTS)
# What `mailman` looks for in its packages, and imports, when it starts.
COMPONENTS = ('chains', 'commands', 'handlers', 'model', 'pipelines', 'rules',
              'styles')


def _preloaded():
    yield from ('mailman.bin.mailman', 'mailman.app.commands',
                'mailman.app.events', 'mailman.database.factory',
                'mailman.database.sqlite', 'sqlalchemy.dialects.sqlite',
                forked.__name__)
    for component in COMPONENTS:
        for found in pkgutil.iter_modules(
                [os.path.join(mailman.__path__[0], component)]):
            if not found.ispkg:
                yield f'mailman.{component}.{found.name}'
    for found in pkgutil.iter_modules(
            [str(ROOT / 'mailman_mta_pool' / 'console')]):
        yield f'mailman_mta_pool.console.{found.name}'


CONTEXT = multiprocessing.get_context('forkserver')
CONTEXT.set_forkserver_preload(list(_preloaded()))


@public
class Done(NamedTuple):
    """What a command did.

    :ivar status: Its exit status.
    :ivar output: What it wrote to standard output, as octets.
    :ivar errors: The lines that it wrote to standard error.
    """

    status: int
    output: bytes
    errors: list


@public
def mta_pool(site, *arguments, wrapper=(), **options):
    """Run `mailman mta-pool` at a site.

    :param site: The `Site`.
    :param arguments: What follows the name of the command.
    :param wrapper: A program that runs it, and its arguments.
    :param options: Passed on to `subprocess.run`; without any, and without a
        wrapper, the process is a forked one.
    :rtype: `Done`
    """
    arguments = ('--run-as-root', '-C', str(site.configuration), 'mta-pool',
                 *map(str, arguments))
    if not wrapper and not options:
        done = _run_forked(site, arguments)
        _note(site, done)
        return done
    options.setdefault('stdout', subprocess.PIPE)
    done = subprocess.run(
        [*wrapper, sys.executable, '-c', SCRIPT.format('mailman'),
         *arguments],
        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=DEADLINE,
        cwd=options.pop('cwd', ROOT), **options)
    done = Done(done.returncode, done.stdout,
                done.stderr.decode(errors='replace').splitlines())
    _note(site, done)
    return done


def _note(site, done):
    # A site that was made without the tests' own class has no secrets.
    if isinstance(site, Site):
        site.note_output(b'\n'.join(
            [done.output or b'', *map(str.encode, done.errors)]))


def _run_forked(site, arguments):
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith('MAILMAN_')}
    with TemporaryDirectory() as directory:
        output, errors = Path(directory, 'output'), Path(directory, 'errors')
        process = CONTEXT.Process(target=forked.run, args=(
            arguments, str(site.directory), environment, str(output),
            str(errors)))
        process.start()
        process.join(DEADLINE)
        if process.exitcode is None:
            process.kill()
            process.join()
        return Done(process.exitcode, output.read_bytes(),
                    errors.read_text(errors='replace').splitlines())
