# SPDX-License-Identifier: GPL-3.0-or-later
"""Which documents are tests."""

import os

from flufl.testing import nose


DOCUMENTS = os.path.join(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'docs', '')


class DocumentsPlugin(nose.NosePlugin):
    """flufl.testing, which sees the documents of docs/ and no others.

    It cuts every path as if it lay within its `package`, and would look for
    README.rst under a mutilated name.
    """

    def handleFile(self, event):
        """See `nose2.events.Plugin`."""
        if event.path.startswith(DOCUMENTS):
            super().handleFile(event)
