# SPDX-License-Identifier: GPL-3.0-or-later
"""Fuzz one of the parsers, guided by what the octets reach in the code.

    python -m tests.fuzz replies -max_total_time=600 DIRECTORY

It needs the package `atheris`, which nothing else does.  What comes after the
target is for libFuzzer; DIRECTORY keeps what was found.  `tests.test_fuzz`
tries the small corpus in tests/data/fuzz in every run of the tests.
"""

import sys

from importlib import import_module
from tests.fuzz.corpus import directory_of, TARGETS


def main():
    """Fuzz the target that the command line names."""
    import atheris
    if sys.argv[1:2] == [] or sys.argv[1] not in TARGETS:
        sys.exit(f'Usage: {__spec__.parent} {"|".join(TARGETS)} [option...]')
    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=['mailman_mta_pool']):
        target = import_module(f'tests.fuzz.{name}')
    atheris.Setup(sys.argv + [str(directory_of(name))], target.one_input)
    atheris.Fuzz()


if __name__ == '__main__':
    main()
