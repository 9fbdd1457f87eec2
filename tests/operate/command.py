# SPDX-License-Identifier: GPL-3.0-or-later
"""`mailman mta-pool …` as a process, as the operator runs it."""

import sys
import subprocess

from mailman_mta_pool.demo.process import ROOT
from public import public
from tests.site import SCRIPT
from typing import NamedTuple


DEADLINE = 60
#: Root's right to pass over permissions is taken away by this.
WITHOUT_RIGHTS = (
    'setpriv', '--bounding-set=-dac_override,-dac_read_search',
    '--inh-caps=-dac_override,-dac_read_search')
public(WITHOUT_RIGHTS=WITHOUT_RIGHTS)


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
    :param options: Passed on to `subprocess.run`.
    :rtype: `Done`
    """
    options.setdefault('stdout', subprocess.PIPE)
    done = subprocess.run(
        [*wrapper, sys.executable, '-c', SCRIPT.format('mailman'),
         '--run-as-root', '-C', str(site.configuration), 'mta-pool',
         *map(str, arguments)],
        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=DEADLINE,
        cwd=options.pop('cwd', ROOT), **options)
    return Done(done.returncode, done.stdout,
                done.stderr.decode(errors='replace').splitlines())
