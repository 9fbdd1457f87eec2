# SPDX-License-Identifier: GPL-3.0-or-later
"""What the processes of a test's site do first; see tests/leaks.py."""

import os


# Most processes that inherit the path are not a site's.
if os.path.isdir('watched'):
    from tests.leaks import watch_here
    watch_here()
