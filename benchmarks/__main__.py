# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the benchmarks."""

import sys

from benchmarks.command import main


if __name__ == '__main__':
    sys.exit(main())
