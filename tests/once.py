# SPDX-License-Identifier: GPL-3.0-or-later

"""Tests that one environment of tox runs, and the others leave out."""

import os
import unittest

from public import public


#: Nothing in such a test depends on the version of Python or of Mailman, or
#: another test of its kind shows that, and it takes long.
once = unittest.skipIf(
    'MM_POOL_BRIEF' in os.environ, 'once is enough, see tox.ini')
public(once=once)
