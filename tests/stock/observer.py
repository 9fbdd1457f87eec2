# SPDX-License-Identifier: GPL-3.0-or-later

"""A nose2 plugin that keeps what became of each test.

It also counts how often Mailman called the function that `[mta] outgoing`
names, which shows that the swap took place.
"""

import json
import functools
import importlib

from nose2.events import Plugin


class Observer(Plugin):
    """See `nose2.events.Plugin`."""

    configSection = 'observer'
    alwaysOn = True

    def __init__(self):
        super().__init__()
        self._deliver = self.config.as_str('deliver')
        self._results = self.config.as_str('results')
        self._failed = set()
        self._passed = set()
        self._calls = 0

    def startTestRun(self, event):
        """See `nose2.events.Plugin`."""
        module_name, _, name = self._deliver.rpartition('.')
        module = importlib.import_module(module_name)
        deliver = getattr(module, name)

        @functools.wraps(deliver)
        def counted(*args, **kws):
            self._calls += 1
            return deliver(*args, **kws)
        # Mailman looks the function up by its name whenever it makes a
        # runner, so that the configuration stays the one that is tested.
        setattr(module, name, counted)

    def testOutcome(self, event):
        """See `nose2.events.Plugin`."""
        if event.outcome == 'skipped':
            return
        as_expected = event.outcome == 'passed' or event.expected
        (self._passed if as_expected else self._failed).add(event.test.id())

    def afterSummaryReport(self, event):
        """See `nose2.events.Plugin`."""
        with open(self._results, 'w') as fp:
            json.dump({
                # A test has several outcomes when it has subtests.
                'passed': sorted(self._passed - self._failed),
                'failed': sorted(self._failed),
                'calls': self._calls,
                }, fp)
