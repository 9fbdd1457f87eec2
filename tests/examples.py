# SPDX-License-Identifier: GPL-3.0-or-later

"""How many examples a property is tried with, and which.

They are the same at each run, so that no change is refused because of an
example that it has nothing to do with.  `MM_POOL_EXAMPLES=100000` in the
environment asks for that many, and for other ones each time.
"""

import os

from hypothesis import HealthCheck, settings
from public import public


ASKED = os.environ.get('MM_POOL_EXAMPLES')
# Where MM_POOL_BRIEF is set; see tox.ini.
BRIEFLY = 100


@public
def profile(count):
    """Return the settings of a property.

    :param count: With how many examples the whole suite tries it.
    :rtype: `hypothesis.settings`
    """
    if 'MM_POOL_BRIEF' in os.environ:
        count = min(count, BRIEFLY)
    return settings(
        max_examples=int(ASKED or count), derandomize=not ASKED,
        deadline=None, database=None, print_blob=True,
        suppress_health_check=list(HealthCheck))
