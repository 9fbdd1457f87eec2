# SPDX-License-Identifier: GPL-3.0-or-later
"""Which documents are tests, and that no test is to be quick."""

import os

from flufl.testing import nose
from hypothesis import HealthCheck, settings


DOCUMENTS = os.path.join(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'docs', '')
# By default an example fails that takes a fifth of a second.
settings.register_profile(
    'unhurried', deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile('unhurried')


class DocumentsPlugin(nose.NosePlugin):
    """flufl.testing, which sees the documents of docs/ and no others.

    It cuts every path as if it lay within its `package`, and would look for
    README.rst under a mutilated name.
    """

    def handleFile(self, event):
        """See `nose2.events.Plugin`."""
        if event.path.startswith(DOCUMENTS):
            super().handleFile(event)
