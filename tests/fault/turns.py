# SPDX-License-Identifier: GPL-3.0-or-later
"""Posts that have to wait for others, and posts that several runners share."""

import threading

from tests.fault.rounds import numbered
from tests.scripted import Scripted
from tests.site import OURS
from tests.site_case import SiteTestCase


CONFIRM = b"""\
From: ant-confirm+0123456789@example.com
To: new@example.com
Subject: Your confirmation is needed
Message-ID: <confirm@example.com>
MIME-Version: 1.0
Content-Type: text/plain; charset=us-ascii

Please confirm.
"""
NEW = 'new@example.com'


class TestTimeSlice(SiteTestCase):
    """A big post goes to the end of the queue."""

    def test_confirmation(self):
        quick = threading.Event()
        before = []

        def script(command, session):
            if command.startswith('RCPT') and NEW in command:
                before.append(len(server.accepted))
                quick.set()
            # For a second it takes no more than 20 messages.
            quick.wait(0.05)
        server = self.use(Scripted(script))
        site = self.site(
            server, members=200, settings={'delivery': {'time_slice': '1s'}})
        site.post(verp=True)
        with site.runner():
            server.wait_for(lambda server: len(server.accepted) >= 5)
            site.post(CONFIRM, verp=True, recipients={NEW})
            server.wait_for(lambda server: NEW in server.served)
            # It is the second slice that has it, not the last one.
            self.assertLess(before[0], 100)
            site.wait_until_empty()
        served = server.served
        served.remove(NEW)
        self.assertEachOnce(site, served)
        # Each slice is logged as a delivery to those who were served in it.
        log = site.log('smtp.log')
        self.assertGreater(log.count('<post@example.com>'), 1)
        self.assertQuiet(site)

    def test_never(self):
        seen = threading.Event()

        def script(command, session):
            if len(server.accepted) >= 60:
                seen.wait(60)
        server = self.use(Scripted(script))
        site = self.site(
            server, members=100, settings={'delivery': {'time_slice': 0}})
        path = site.post(verp=True)
        with site.runner():
            server.wait_for(lambda server: len(server.accepted) >= 60)
            # It is still the same entry.
            self.assertEqual(
                site.queue('out').files, [path.with_suffix('.bak')])
            seen.set()
            site.wait_until_empty()
        self.assertEachOnce(site, server.served)


class TestSplit(SiteTestCase):
    """A big post becomes several entries."""

    def test_entries(self):
        go = threading.Event()

        def script(command, session):
            go.wait(30)
        server = self.use(Scripted(script))
        site = self.site(
            server, members=100, max_delivery_threads=1,
            settings={'delivery': {'split': 30}})
        site.post(verp=True)
        with site.runner():
            server.wait_for(lambda server: server.connections == 1)
            sizes = [len(entry.recipients)
                     for entry in site.queue('out').entries]
            self.assertEqual(sizes, [30, 30, 30, 10])
            go.set()
            site.wait_until_empty()
        self.assertEachOnce(site, server.served)
        self.assertQuiet(site)

    def test_as_many_as_allowed(self):
        server = self.use(Scripted())
        site = self.site(server, members=20,
                         settings={'delivery': {'split': 20}})
        site.run({'verp': False})
        self.assertEachOnce(site, server.served)
        self.assertIn('for 20 recips', site.log('smtp.log'))

    def test_two_instances(self):
        # Which of them takes an entry is a matter of chance; that one takes
        # all of the 40 will not happen.
        server = self.use(Scripted(delay=0.001))
        site = self.site(
            server, members=200, max_delivery_threads=1,
            settings={'delivery': {'split': 10}})
        site.set_up(
            server, outgoing=OURS, max_delivery_threads=1,
            settings={'delivery': {'split': 10}},
            extra='[runner.out]\ninstances: 2\n')
        for number in range(2):
            site.post(numbered(number), verp=True)
        site.start_runner('out:0:2')
        site.start_runner('out:1:2')
        site.wait_until_empty()
        self.assertEqual(sorted(server.served), sorted(site.members * 2))
        self.assertEqual(site.waiting(), {})
        self.assertEqual(site.bounced(), [])
        # They did share the work.
        self.assertGreaterEqual(server.connections, 2)
        self.assertQuiet(site)
