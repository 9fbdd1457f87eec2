# SPDX-License-Identifier: GPL-3.0-or-later
"""What a process does that has been forked to run `mailman`."""

import os
import sys

from public import public
from tests.leaks import watch_here


@public
def run(arguments, directory, environment, output, errors):
    """Become `mailman`; the exit status is that of this process.

    :param arguments: Its arguments.
    :param directory: Its working directory.
    :param environment: All of its environment.
    :param output: The path of the file that is its standard output.
    :param errors: The path of the file that is its standard error.
    """
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in (1, output), (2, errors):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)
    for stream in sys.stdout, sys.stderr:
        stream.reconfigure(encoding='utf-8')
    watch_here()
    sys.argv = ['mailman', *arguments]
    # It has been imported before.
    from mailman.bin.mailman import main
    main()
