# SPDX-License-Identifier: GPL-3.0-or-later

"""Two Postfixes that share the mail, and an Exim that stands by."""

import time
import unittest

from collections import Counter
from tests.fault.relays import relay, RelaysTestCase, sections
from tests.servers import exim, postfix
from tests.servers.exim import Exim
from tests.servers.loopback import wait_until
from tests.servers.postfix import Postfix


REASON = postfix.available() or exim.available()
MEMBERS = 4000
# The recipients of the posts after that.
FEW = 40
WEIGHTS = {'large': 3, 'small': 1}


@unittest.skipIf(REASON, REASON)
class TestThreeServers(RelaysTestCase):
    def setUp(self):
        super().setUp()
        self.large, self.small = (self.use(Postfix()) for _ in range(2))
        self.backup = self.use(Exim(patient=True))

    def make_site(self, members):
        return self.site(members=members, settings=sections(
            large=relay(self.large, weight=WEIGHTS['large']),
            small=relay(self.small, weight=WEIGHTS['small']),
            backup=relay(self.backup, priority=20)))

    def test_shares(self):
        # Of messages of one recipient each: VERP'd, and without XVERP.
        site = self.make_site(MEMBERS)
        site.run({'verp': True}, timeout=120)
        delivered = [server.delivered() for server in (self.large, self.small)]
        self.assertEachOnce(
            site, [each for found in delivered for each in found.elements()])
        self.assertEqual(self.backup.messages(), [])
        large, small = (sum(found.values()) for found in delivered)
        print(f'{large} and {small} messages: {large / MEMBERS:.1%} and '
              f'{small / MEMBERS:.1%}')
        share = WEIGHTS['large'] / sum(WEIGHTS.values())
        self.assertLess(abs(large / MEMBERS - share), 0.05)
        self.assertQuiet(site)

    def test_one_is_killed_and_comes_back(self):
        site = self.make_site(MEMBERS)
        with site.runner():
            site.post(verp=True)
            wait_until(
                lambda: len(self.large.log().delivered()) > MEMBERS / 4,
                'a part of the post')
            self.large.kill()
            killed = time.monotonic()
            site.wait_until_empty(timeout=120)
            print(f'{time.monotonic() - killed:.2f} s after the end of the '
                  'larger one the post was over')
            in_doubt = set(site.waiting().get('retry', ()))
            # It takes the rest from its own queue then.
            self.large.start()
            before = self.large.delivered()
            started = time.monotonic()
            posts = self.post_until_used(site, before)
            print(f'{time.monotonic() - started:.1f} s after its start it '
                  f'was used again, by post {posts}')
        # Those to whom it had been sent, and who were not answered.
        self.assertLessEqual(len(in_doubt), 64)
        self.assertEqual(self.backup.messages(), [])
        first = Counter({name: 1 for name in site.members})
        total = self.large.delivered() + self.small.delivered()
        for name in site.members:
            expected = first[name] + posts * (name in site.members[:FEW])
            allowed = {expected}
            if name in in_doubt:
                allowed.add(expected - 1)
            self.assertIn(total[name], allowed, name)
        self.assertEqual(set(total) | in_doubt, set(site.members))
        self.assertLessEqual(set(site.waiting()), {'retry'})
        self.assertQuiet(site)

    def test_both_are_killed(self):
        # The backup has the rest.
        site = self.make_site(MEMBERS // 2)
        with site.runner():
            site.post(verp=True)
            wait_until(
                lambda: len(self.small.log().delivered()) > MEMBERS / 20,
                'a part of the post')
            self.large.kill()
            self.small.kill()
            site.wait_until_empty(timeout=120)
        in_doubt = set(site.waiting().get('retry', ()))
        self.assertLessEqual(len(in_doubt), 128)
        served = [name for message in self.backup.messages()
                  for name in message.recipients]
        self.assertGreater(len(served), MEMBERS / 20)
        for server in self.large, self.small:
            server.start()
            served.extend(server.delivered().elements())
        self.assertEachOnce(
            site, [name for name in served if name not in in_doubt],
            list(site.waiting()))
        self.assertQuiet(site)

    def post_until_used(self, site, before):
        """Post to some of the members until the larger one is used again.

        :return: How many posts that took.
        """
        for number in range(1, 1000):
            site.post(verp=True, recipients=set(site.members[:FEW]))
            site.wait_until_empty()
            if self.large.delivered() != before:
                return number
            time.sleep(0.1)
