# SPDX-License-Identifier: GPL-3.0-or-later
"""No secret of a whole run of tests is in its logs and exceptions.

The run ends with a test for each; see `tests.leaks`.  What processes of their
own log and keep, `tests.site` looks through when a site is closed.
"""

import unittest

from nose2.events import Plugin
from public import public
from tests.leaks import EXCEPTION, Notes, RECORD, Watch


#: What a failing test shows of what it has found.
MOST_SHOWN = 40


@public
class TestRun(unittest.TestCase):
    """The last tests of each run."""

    def __init__(self, method, notes):
        """Prepare it.

        :param method: The name of the test.
        :param notes: The `Notes` of the run.
        """
        super().__init__(method)
        self._notes = notes

    def _look_at(self, kind):
        needles = self._notes.needles()
        found = self._notes.leaks(kind, needles)
        if found:
            self.fail('\n'.join([
                f'{len(found)} times a secret was found in the {kind}s:',
                *map(str, found[:MOST_SHOWN])]))

    def test_records(self):
        """No record of a logger has a secret, at the level debug."""
        self._look_at(RECORD)

    def test_exceptions(self):
        """No exception has one in its text."""
        self._look_at(EXCEPTION)


class SecrecyPlugin(Plugin):
    """Watches a run; it comes after the plugin for layers."""

    configSection = 'secrecy'
    alwaysOn = True

    def __init__(self):
        self._notes = Notes()
        self._watch = Watch(self._notes)

    def startTestRun(self, event):
        """See `nose2.events.Plugin`."""
        self._watch.start()
        event.suite = unittest.TestSuite([event.suite, *(
            TestRun(method, self._notes)
            for method in ('test_records', 'test_exceptions'))])

    def startTest(self, event):
        """See `nose2.events.Plugin`."""
        self._notes.context = event.test.id()

    def stopTestRun(self, event):
        """See `nose2.events.Plugin`."""
        self._watch.stop()
