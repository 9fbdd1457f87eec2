# SPDX-License-Identifier: GPL-3.0-or-later

"""Addresses that are none, or that few servers know what to do with.

Mailman lets hardly any of them become a member today; they come from older
versions, from imports, and from other plugins.
"""

from tests.fault.cases import ends
from tests.scripted import Scripted
from tests.site_case import SiteTestCase


GOOD = [
    'anne@example.com', 'bart@example.net', 'Carl@example.org',
    "o'dora+ants@example.com", 'emma@xn--mller-kva.example.com',
    'fred@[192.0.2.1]', 'Postmaster',
    # Quoted, with what would be harmful otherwise (RFC 5321, section 4.1.2).
    '"gina smith"@example.com', '"hugo, jr."@example.com',
    '"<ivan@example.com>"@example.com', '"jane\\"\\\\"@example.com',
    '"(kurt)"@example.com',
    ]
INTERNATIONAL = [
    'zoë@example.com', 'аня@example.com', '蟻@example.org',
    '"zoë ant"@example.com', 'lars@müller.example.com', 'mia@例え.example.com',
    'BJÖRN@example.com',
    ]
BAD = [
    'cr\rat@example.com', 'lf\nat@example.com', 'nul\0at@example.com',
    'smuggled\r\nDATA\r\n@example.com',
    'anne@example.com>\r\nRCPT TO:<victim@example.com',
    'anne@example.com\r\n', '\nanne@example.com', 'anne@example.com\0',
    'anne@example.com,victim@example.com', 'anne,victim@example.com',
    '<anne@example.com>', 'anne@example.com>', 'anne<@example.com',
    'Anne <anne@example.com>', '"Anne" <anne@example.com>',
    'anne@example.com (comment)', '(comment)anne@example.com',
    'anne(comment)@example.com', 'anne@(comment)example.com',
    'anne', 'anne@', '@example.com', 'anne@@example.com', '@', ' ',
    'anne victim@example.com', 'anne@example.com victim@example.com',
    'anne@exam ple.com', 'anne@example.com>ORCPT=x', ' anne@example.com',
    '"anne@example.com', '"anne"victim@example.com', '"anne\n"@example.com',
    'anne;victim@example.com', 'anne:victim@example.com',
    '@relay.example.com:anne@example.com', 'anne\t@example.com',
    'anne@example.com\u2028victim@example.com', 'anne\x7f@example.com',
    'anne\u200b@example.com', 'anne@-example.com', 'a' * 600 + '@example.com',
    ]


class TestAddresses(SiteTestCase):
    """The good ones are served, and each odd one is refused alone."""

    def deliver(self, extensions, served, bounced, **msgdata):
        """Deliver a post to all of them, in large chunks."""
        server = self.use(Scripted(extensions=extensions))
        site = self.site(server, max_recipients=500)
        site.run({'recipients': set(served + bounced), **msgdata})
        self.assertEqual(ends(site, server.served), {
            **{recipient: ['served'] for recipient in served},
            **{recipient: ['bounced'] for recipient in bounced}})
        # Nobody else was ever named, not even in vain.
        self.assertEqual(
            sorted(server.said('RCPT')),
            sorted(f'RCPT TO:<{recipient}>' for recipient in served))
        # No command has come out of an address.
        self.assertLessEqual(
            {command.partition(' ')[0] for _, command in server.commands},
            {'EHLO', 'MAIL', 'RCPT', 'DATA', '.', 'BDAT', 'RSET', 'QUIT'})
        self.assertQuiet(site)
        return server

    def test_without_smtputf8(self):
        for verp in (False, True):
            with self.subTest(verp=verp):
                server = self.deliver(
                    ('PIPELINING', '8BITMIME'), GOOD, INTERNATIONAL + BAD,
                    verp=verp)
                self.assertNotIn('SMTPUTF8', ' '.join(server.said('MAIL')))

    def test_with_smtputf8(self):
        for verp in (False, True):
            with self.subTest(verp=verp):
                server = self.deliver(
                    ('PIPELINING', '8BITMIME', 'SMTPUTF8', 'CHUNKING'),
                    GOOD + INTERNATIONAL, BAD, verp=verp)
                for message in server.accepted:
                    self.assertEqual(
                        {recipient.isascii()
                         for recipient in message.recipients}, {
                             all(map(str.isascii, message.recipients))})

    def test_verp_senders(self):
        server = self.deliver(('PIPELINING',), GOOD, BAD, verp=True)
        senders = {message.recipients[0]: message.sender
                   for message in server.accepted}
        self.assertEqual(
            senders['anne@example.com'],
            'ant-bounces+anne=example.com@example.com')
        # It cannot stand in another local part.
        self.assertEqual(
            senders['"gina smith"@example.com'], 'ant-bounces@example.com')

    def test_nothing_but_odd_ones(self):
        server = self.use(Scripted())
        site = self.site(server)
        for verp in (False, True):
            site.run({'recipients': set(BAD), 'verp': verp})
        self.assertEqual(server.said('MAIL'), [])
        self.assertEqual(site.bounced(), sorted(BAD * 2))
        self.assertEqual(site.waiting(), {})
        self.assertQuiet(site)
