# SPDX-License-Identifier: GPL-3.0-or-later

"""Real servers that refuse a recipient because of somebody else.

What they refuse is the client, the sender, the rate, the number of
connections or a command.  So no member is charged with a bounce.
"""

import re
import unittest

from tests.servers import exim, nginx, postfix
from tests.servers.exim import Exim
from tests.servers.loopback import HOST
from tests.servers.nginx import NginxMailProxy
from tests.servers.postfix import Postfix
from tests.servers.proxy import DelayingProxy
from tests.site_case import SiteTestCase


BOUNCES = 'ant-bounces@example.com'
DOMAINS = tuple(
    f'{name}.example.{top}' for name in ('ant', 'bee', 'cow', 'dog', 'emu')
    for top in ('net', 'org'))
# By default Postfix exempts the clients in mynetworks from its limits.
LIMITED = {'smtpd_client_event_limit_exceptions': ''}
# This rule stands in the configuration that Exim is distributed with.
RELAYING_DENIED = """\
  require
    message = relay not permitted
    domains = example.com
"""


def members(count, domains=DOMAINS):
    """Return addresses and names, spread evenly over the domains."""
    return tuple((f'person-{number:03}@{domains[number % len(domains)]}', '')
                 for number in range(count))


class PostfixTestCase(SiteTestCase):
    """A test case whose mail ends at a Postfix."""

    def assertServed(self, site, server):
        """A Postfix took each member's message once; nothing waits.

        :param site: The site.
        :param server: The Postfix.
        """
        self.assertEachOnce(site, server.delivered().elements())
        self.assertQuiet(site)


@unittest.skipIf(exim.available(), exim.available())
class TestRelayingDenied(SiteTestCase):
    """Exim answers `550 relay not permitted` to each RCPT."""

    def check(self, **msgdata):
        server = self.use(Exim(rules=RELAYING_DENIED, patient=False))
        site = self.site(server, members=members(40, DOMAINS[:8]))
        site.post(**msgdata)
        with site.runner():
            site.wait_until_empty()
            self.assertIn('relay not permitted', server.log('reject'))
            self.assertEachOnce(site, (), waiting=['retry'])
            # It is the same runner, which remembers the refusals.
            server.change(rules='')
            site.retry()
            site.wait_until_empty()
        served = [recipient for message in server.messages()
                  for recipient in message.recipients]
        self.assertEachOnce(site, served)
        self.assertQuiet(site)

    def test_bulk(self):
        self.check()

    def test_verp(self):
        self.check(verp=True)


@unittest.skipIf(postfix.available(), postfix.available())
class TestSenderUnknown(PostfixTestCase):
    """Postfix knows the plain bounces address, and has no delimiter."""

    def test_verp(self):
        server = self.use(Postfix(
            mydestination='example.com', recipient_delimiter='',
            local_recipient_maps=f'inline:{{ {{ {BOUNCES} = yes }} }}',
            smtpd_reject_unlisted_sender='yes'))
        site = self.site(server, members=members(40))
        site.run({'verp': True})
        self.assertServed(site, server)
        log = server.log()
        self.assertIn('Sender address rejected: User unknown in local '
                      'recipient table', log)
        self.assertEqual({sender for sender, _ in log.received()}, {BOUNCES})


@unittest.skipIf(postfix.available(), postfix.available())
class TestLimits(PostfixTestCase):
    """Postfix limits what one client may do."""

    def test_messages(self):
        server = self.use(Postfix(
            smtpd_client_message_rate_limit=20, anvil_rate_time_unit='5s',
            **LIMITED))
        site = self.site(server, members=members(60))
        site.run({'verp': True})
        self.assertServed(site, server)
        self.assertIn('Message delivery request rate limit exceeded',
                      server.log())

    def test_connections(self):
        server = self.use(Postfix(
            smtpd_client_connection_count_limit=3, **LIMITED))
        # To a server close by we would not open eight connections.
        proxy = self.use(DelayingProxy((HOST, server.port)))
        site = self.site(proxy, members=members(400), max_delivery_threads=8)
        site.run({'verp': True})
        self.assertServed(site, server)
        self.assertIn('Connection concurrency limit exceeded', server.log())


@unittest.skipIf(postfix.available(), postfix.available())
class TestTwoDomains(PostfixTestCase):
    """Postfix relays to eight of ten domains."""

    def check(self, **msgdata):
        server = self.use(Postfix(
            mynetworks='', relay_domains=' '.join(DOMAINS[:8]),
            smtpd_relay_restrictions='reject_unauth_destination'))
        site = self.site(server, members=members(40))
        site.run(msgdata)
        denied = [name for name in site.members
                  if name.partition('@')[2] in DOMAINS[8:]]
        self.assertEqual(len(denied), 8)
        self.assertIn('Relay access denied', server.log())
        self.assertEachOnce(
            site, server.delivered().elements(), waiting=['retry'])
        self.assertEqual(site.waiting(), {'retry': sorted(denied)})
        self.assertQuiet(site)

    def test_bulk(self):
        self.check()

    def test_verp(self):
        self.check(verp=True)


@unittest.skipIf(postfix.available() or nginx.available(),
                 postfix.available() or nginx.available())
class TestProxy(PostfixTestCase):
    """nginx announces CHUNKING, and the Postfix behind has no BDAT."""

    def check(self, **msgdata):
        server = self.use(Postfix(smtpd_discard_ehlo_keywords='chunking'))
        proxy = self.use(NginxMailProxy((HOST, server.port)))
        site = self.site(proxy, members=members(40))
        site.run(msgdata)
        self.assertServed(site, server)
        # One connection tried BDAT, and the others did not.
        refused = re.findall(
            ' disconnect from .* bdat=0/1 ', server.log().text)
        self.assertEqual(len(refused), 1)

    def test_bulk(self):
        self.check()

    def test_verp(self):
        self.check(verp=True)
