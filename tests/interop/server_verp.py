# SPDX-License-Identifier: GPL-3.0-or-later

"""VERP by a real Postfix, from a real runner on to a server that records."""

import signal
import unittest

from functools import lru_cache
from mailman.interfaces.mailinglist import Personalization
from mailman_mta_pool.demo.population import people
from mailman_mta_pool.demo.recording import RecordingServer
from tests.interop.sending import without_first_field
from tests.scripted import Scripted
from tests.servers.loopback import free_port, HOST, is_listening
from tests.servers.postfix import available, Postfix
from tests.servers.proxy import DelayingProxy
from tests.servers.recorder import Recorder
from tests.site import Site, STOCK
from tests.site_case import SiteTestCase
from tests.test_verp_groups import verped


MANY = 5000
BOUNCES = 'ant-bounces@example.com'
# Postfix could not tell where these local parts end.
ODD = tuple((f'odd={number}@example.org', f'Odd {number}')
            for number in range(MANY // 20))
ALLOWED = {'smtpd_authorized_verp_clients': '127.0.0.0/8'}
FOOTER = 'list:member:regular:footer'
# Long enough for an onward delivery of a post to each of many.
DEADLINE = 300


def members(odd=()):
    """So many members, these odd ones among them."""
    return (*odd, *people(MANY - len(odd)))


@lru_cache(maxsize=None)
def stock(odd=()):
    """What stock Mailman sends, and to whom: recipient to (sender, content).

    Without decoration, which takes it very long and no part in the sender.
    """
    with Recorder() as recorder:
        with Site(recorder, members=members(odd), outgoing=STOCK) as site:
            site.post(verp=True, nodecorate=True)
            with site.runner():
                site.wait_until_empty(timeout=DEADLINE)
        return {message.recipients[0]: message.sender
                for message in recorder.messages()}


@unittest.skipIf(available(), available())
class ServerVERPTestCase(SiteTestCase):
    """Mailman, Postfix, and behind it a server that records."""

    def set_up(self, recorder, round_trip=0, settings=None, odd=(), **mta):
        self.recorder = self.use(recorder)
        self.postfix = self.use(Postfix(
            relay_to=(self.recorder.host, self.recorder.port),
            recipient_delimiter='+', **ALLOWED))
        server = self.postfix
        if round_trip:
            server = self.use(DelayingProxy((HOST, server.port), round_trip))
        return self.site(
            server, members=members(odd), settings=settings, **mta)

    def sizes(self):
        """The numbers of recipients of the messages that Postfix was given.

        The log has come to its end, and what is in it is told once.
        """
        found = self.postfix.wait_until_delivered(DEADLINE).received()
        told, self._told = getattr(self, '_told', 0), len(found)
        return [len(recipients) for _, recipients in found[told:]]


class TestSenders(ServerVERPTestCase):
    """Right senders, compared with stock's one by one."""

    def assertSenders(self, site, posts=1):
        self.postfix.wait_until_delivered(DEADLINE)
        record = self.recorder.record
        record.refresh()
        found = {recipient: [sender for sender, _ in each]
                 for recipient, each in record.deliveries.items()}
        expected = {recipient: posts * [sender]
                    for recipient, sender in stock().items()}
        self.assertEqual(len(expected), MANY)
        self.assertEqual(record.messages, posts * MANY)
        # Not by assertEqual: the difference would fill a book.
        wrong = [(recipient, found.get(recipient), expected[recipient])
                 for recipient in expected
                 if found.get(recipient) != expected[recipient]]
        self.assertEqual(wrong[:5], [])
        self.assertEqual(sorted(found), sorted(site.members))
        self.assertEqual(site.waiting(), {})
        self.assertEqual(site.bounced(), [])
        self.assertQuiet(site)

    def test_all_of_them(self):
        site = self.set_up(RecordingServer())
        site.run({'verp': True})
        self.assertSenders(site)
        self.assertEqual(self.sizes(), 5 * [1000])

    def test_revoked_between_two_posts(self):
        site = self.set_up(
            RecordingServer(), settings={'pool': {'idle_timeout': '0'}})
        with site.runner():
            for allowed in (True, False):
                if not allowed:
                    self.postfix.change(smtpd_authorized_verp_clients='')
                    self.postfix.wait_until_changed()
                site.post(verp=True)
                site.wait_until_empty(timeout=DEADLINE)
                sizes = self.sizes()
                self.assertEqual(
                    sizes, 5 * [1000] if allowed else MANY * [1])
        self.assertSenders(site, posts=2)

    def test_revoked_in_mid_post(self):
        # It holds for new connections, so there are many; and they are slow
        # enough for us to come in between.
        site = self.set_up(
            RecordingServer(), round_trip=0.01, settings={
                'delivery': {'max_recipients_server_verp': 250}},
            max_sessions_per_connection=4, max_delivery_threads=2)
        site.post(verp=True)
        with site.runner() as runner:
            site.wait_for(lambda: self.postfix.log().received(), 'a message')
            runner.signal(signal.SIGSTOP)
            self.postfix.change(smtpd_authorized_verp_clients='')
            runner.signal(signal.SIGCONT)
            site.wait_until_empty(timeout=DEADLINE)
        # What was half delivered when it came would wait for minutes.
        self.postfix.flush()
        self.assertSenders(site)
        sizes = self.sizes()
        self.assertEqual(set(sizes), {1, 250})
        self.assertEqual(sum(sizes), MANY)


class TestContents(ServerVERPTestCase):
    """Those who need something of their own get it, in the same post."""

    def test_ten_percent(self):
        site = self.set_up(Recorder(), odd=ODD)
        flagged = set(site.members[len(ODD)::19])
        self.assertEqual(len(flagged), MANY // 20)
        site.run({'verp': True, 'add-dup-header': flagged})
        sizes = self.sizes()
        self.assertEqual(sizes.count(1), MANY // 10)
        self.assertEqual(sum(sizes), MANY)
        messages = self.recorder.messages()
        self.assertEqual(
            sorted(name for message in messages
                   for name in message.recipients), sorted(site.members))
        senders = {message.recipients[0]: message.sender
                   for message in messages}
        self.assertTrue(senders == stock(ODD), 'a sender is wrong')
        self.assertEqual(
            {message.recipients[0] for message in messages
             if b'\r\nX-Mailman-Copy: yes\r\n' in message.content}, flagged)
        # The others' copies are the same but for what Postfix adds.
        contents = {
            without_first_field(message.content) for message in messages
            if message.recipients[0] not in flagged}
        self.assertEqual(len(contents), 1)
        self.assertEqual(site.waiting(), {})
        self.assertQuiet(site)

    def test_a_personal_footer(self):
        self.recorder = self.use(Recorder())
        self.postfix = self.use(Postfix(
            relay_to=self.recorder.address, **ALLOWED))
        site = self.site(
            self.postfix, members=50,
            attributes={'personalize': Personalization.individual})
        site.write_template(FOOTER, 'For $user_address\n')
        site.run({'verp': True})
        self.assertEqual(self.sizes(), 50 * [1])
        found = {message.recipients[0]: message.content
                 for message in self.recorder.messages()}
        self.assertEqual(sorted(found), sorted(site.members))
        for recipient, content in found.items():
            self.assertIn(f'For {recipient}\r\n'.encode(), content)


@unittest.skipIf(available(), available())
class TestDeadAddresses(SiteTestCase):
    """Postfix hangs up after twenty errors: smtpd_hard_error_limit."""

    def test_together(self):
        recorder = self.use(Recorder())
        dead = [f'dead-{number:02}@example.org' for number in range(90)]
        postfix = self.use(Postfix(
            relay_to=recorder.address, smtpd_error_sleep_time='0',
            smtpd_recipient_restrictions='check_recipient_access '
            'inline:{{ {} }}'.format(' '.join(
                f'{{ {name} = 550 5.1.1 Nobody of that name }}'
                for name in dead)), **ALLOWED))
        # One group, in which there is none without somebody dead.
        site = self.site(
            postfix, members=(*people(510), *((name, '') for name in dead)),
            max_delivery_threads=1)
        site.run({'verp': True})
        log = postfix.wait_until_delivered()
        self.assertIn('too many errors', log.text)
        site.wait_for(lambda: site.bounced() == dead, 'bounces')
        self.assertEqual(site.waiting(), {})
        self.assertEqual(
            sorted((message.sender, *message.recipients)
                   for message in recorder.messages()),
            sorted((verped(name), name) for name in site.members
                   if name not in dead))
        # Postfix made the senders; most were served with others.
        self.assertLess(len(log.received()), 20)


@unittest.skipIf(available(), available())
class TestBounces(SiteTestCase):
    """What comes back is understood."""

    def test_registered_for_the_right_members(self):
        for dsn in ('no', 'yes'):
            with self.subTest(dsn=dsn):
                self.bounce(dsn)

    def bounce(self, dsn):
        def script(command, session):
            if command.startswith('RCPT') and any(
                    f'<{name}>' in command for name in dead):
                return '550 5.1.1 Nobody of that name'
        behind = self.use(Scripted(script, extensions=('PIPELINING', 'DSN')))
        lmtp = free_port()
        postfix = self.use(Postfix(
            relay_to=(behind.host, behind.port), recipient_delimiter='+',
            transport_maps='inline:{{ {{ {} = lmtp:[{}]:{} }} }}'.format(
                BOUNCES, HOST, lmtp), **ALLOWED))
        site = self.site(
            postfix, members=(
                *people(30), ('dead+tagged@example.com', 'Tagged')),
            settings={'delivery': {'dsn': dsn}}, lmtp_host=HOST,
            lmtp_port=lmtp)
        dead = [site.members[0], site.members[17], site.members[30]]
        with site.runner('lmtp'), site.runner('bounces'):
            site.wait_for(lambda: is_listening(lmtp), 'LMTP')
            site.run({'verp': True})
            site.wait_for(lambda: len(site.bounced()) >= len(dead), 'bounces')
            site.wait_until_empty('bounces', 'in')
        self.assertEqual(site.bounced(), sorted(dead))
        log = postfix.wait_until_delivered()
        # It came by one transaction, and went on by one each.
        self.assertIn(f'from=<{BOUNCES}>, size=', log)
        self.assertEqual(log.text.count(', nrcpt=31 '), 1)
        self.assertEqual(sorted(behind.served), sorted(
            set(site.members) - set(dead)))
        # The server behind is told of whom a failure is to be reported.
        asked = [rcpt for rcpt in behind.said('RCPT')
                 if 'NOTIFY=FAILURE' in rcpt]
        self.assertEqual(len(asked), 31 if dsn == 'yes' else 0)
        self.assertIn('ORCPT=rfc822;dead+2Btagged@example.com', ''.join(
            rcpt for rcpt in behind.said('RCPT') if dead[2] in rcpt))
        self.assertQuiet(site)
