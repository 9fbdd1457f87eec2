# SPDX-License-Identifier: GPL-3.0-or-later

"""Mailman on two hosts, which have one account with a provider.

They count in a real Redis what they send.  Each host has a network, processes
and a clock of its own; the provider and Redis are on a third one.
"""

import time
import socket
import unittest

from collections import Counter
from tests import hosts
from tests.fault.limits import ALLOWED, relay_to, StrictProvider
from tests.fault.passes import is_end
from tests.hosts import ADDRESS, Host
from tests.servers.redis import available, PASSWORD, Redis
from tests.site_case import SiteTestCase


REASON = available() or hosts.available()
HOSTS = 2
SHARE = ALLOWED // HOSTS
MEMBERS = 70
# When Redis goes and when it returns, in messages.
GOES, RETURNS = 30, 80


class Provider(StrictProvider):
    """Takes so many messages in any second, of all hosts together.

    :ivar messages: When each message came, and from which address.
    """

    def __init__(self, **options):
        super().__init__(**options)
        self.messages = []

    def judge(self, command, session):
        reply = super().judge(command, session)
        if is_end(command) and reply is None:
            self.messages.append((time.monotonic(), session.peer))
        return reply


@unittest.skipIf(REASON, REASON)
class TestTwoHosts(SiteTestCase):
    def setUp(self):
        super().setUp()
        self.third = self.use(Host('third'))
        self.third.be_in_the_middle()
        self.redis = Redis(host=ADDRESS)
        self.third.call(self.redis.__enter__)
        self.resources.callback(self.redis.__exit__)
        self.server = self.use(Provider(listener=self.third.call(
            socket.create_server, (ADDRESS, 0))))
        self.hosts, self.sites = [], []
        for number in range(HOSTS):
            # One has been running for eleven days longer than the other.
            host = self.use(Host(f'host-{number}', 1_000_000 * number))
            self.third.connect(host, 11 + number)
            self.hosts.append(host)
            self.sites.append(self.site(
                self.server, members=MEMBERS, settings={
                    **relay_to(self.server, max_connections=2),
                    'limits': {'storage': self.redis.url, 'hosts': HOSTS}}))
        for host, site in zip(self.hosts, self.sites):
            site.post(verp=True)
            host.call(site.start_runner)

    def finish(self, what):
        for site in self.sites:
            site.wait_until_empty()
        server = self.server
        print(f'\n{what}: {len(server.ended)} messages, '
              f'{server.share:.1%} of the rate')
        # A machine that does much else can hand a message over late, so that
        # it meets the next ones.
        self.assertLessEqual(len(server.refused), 1)
        # At no time were there more in a second.
        for first, last in zip(server.ended, server.ended[ALLOWED:]):
            self.assertGreater(last - first, 1)
        self.assertEqual(
            Counter(server.served),
            dict.fromkeys(self.sites[0].members, HOSTS))
        self.assertEqual(
            sorted(Counter(peer for _, peer in server.messages).values()),
            [MEMBERS] * HOSTS)
        for site in self.sites:
            self.assertEqual(site.waiting(), {})
            self.assertQuiet(site)
            self.assertNotIn(PASSWORD, site.logs())

    def wait(self, count):
        self.server.wait_for(lambda server: len(server.messages) >= count)

    def test_redis_is_there(self):
        self.finish('Two hosts')

    def test_redis_is_killed_and_started_again(self):
        self.wait(GOES)
        self.redis.kill()
        killed = time.monotonic()
        self.wait(RETURNS)
        started = time.monotonic()
        self.third.call(self.redis.start)
        self.finish('Two hosts, and Redis killed in between')
        # What was allowed before may have been on its way.
        alone = {peer: [moment for moment, of in self.server.messages
                        if of == peer and killed + 1 < moment < started]
                 for _, peer in self.server.messages}
        print('messages without Redis:', {
            peer: len(times) for peer, times in alone.items()})
        for times in alone.values():
            self.assertGreater(len(times), SHARE)
            for first, last in zip(times, times[SHARE:]):
                self.assertGreater(last - first, 1)
        for site in self.sites:
            text = site.log('smtp.log')
            self.assertEqual(text.count(f'one of {HOSTS}'), 1, text)
            self.assertEqual(text.count('can be used again'), 1, text)
