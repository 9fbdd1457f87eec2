# SPDX-License-Identifier: GPL-3.0-or-later

"""What tests with real runners have in common."""

import signal
import unittest

from collections import Counter
from contextlib import ExitStack
from public import public
from tests.site import Site


@public
class SiteTestCase(unittest.TestCase):
    """A test case that makes sites, and does the accounts."""

    maxDiff = 4000

    def setUp(self):
        self.resources = ExitStack()
        self.addCleanup(self.resources.close)

    def use(self, resource):
        """Enter a context manager, which is left when the test ends.

        :return: What it returned.
        """
        return self.resources.enter_context(resource)

    def site(self, server=None, **options):
        """Make a site; see `Site`."""
        return self.use(Site(server, **options))

    def run_together(self, *sites, timeout=60):
        """Let an `out` runner of each site empty its queue, all at once.

        A runner takes a second to start and to stop, and there are several
        cores.

        :param sites: The sites, whose queues hold posts.
        :param timeout: The longest wait for each, in seconds.
        """
        # If this fails the sites end their runners.
        runners = [site.start_runner() for site in sites]
        for site in sites:
            site.wait_until_empty(timeout=timeout)
        for runner in runners:
            runner.signal(signal.SIGTERM)
        for runner in runners:
            self.assertEqual(runner.wait(timeout), signal.SIGTERM)

    def assertEachOnce(self, site, served, waiting=(), bounced=()):
        """Each member was served once, waits in a queue or has bounced.

        Nobody else was served, and no other queue holds anything.

        :param site: The site.
        :param served: The recipients that the server has accepted, as often
            as it has.
        :param waiting: The queues that hold somebody.
        :param bounced: The members that were charged with a bounce.
        """
        queues = site.waiting()
        self.assertEqual(sorted(queues), sorted(waiting), queues)
        self.assertEqual(site.bounced(), sorted(bounced))
        times = Counter(served)
        for recipients in (*queues.values(), bounced):
            times.update(recipients)
        self.assertEqual(
            {recipient: count for recipient, count in times.items()
             if count > 1}, {}, 'more than once')
        self.assertEqual(sorted(set(site.members) - set(times)), [], 'lost')
        self.assertEqual(
            sorted(set(times) - set(site.members)), [], 'nobody asked for')

    def assertQuiet(self, site):
        """No runner had an exception that it did not expect."""
        self.assertNotIn('Traceback', site.logs())
