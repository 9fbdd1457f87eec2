# SPDX-License-Identifier: GPL-3.0-or-later

"""Messages and recipients that the server does not want, and servers that do
not want us: who is told, who waits, and what becomes of it in the end.
"""

import re
import base64
import random

from tests.certificates import server_context
from tests.fault.cases import always, on, several
from tests.scripted import Scripted
from tests.site import POST
from tests.site_case import SiteTestCase


UNAVAILABLE = 'Mail server unavailable: '
REJECTED = 'The mail server rejects <post@example.com>: '
PASSWORD = 'Tr0mbone-Zebra'
TOO_BIG = '552 5.3.4 Too big'
VIRUS = '554 5.6.0 Virus found'
FAILURE = re.compile(r'delivery to (\S+) failed with code (\d+)')
SEED = 20_260_105
# Some codes come with the words of others.
# But for 421, which is about the connection: see connections.py.  If every
# seventeenth recipient is always answered so, a few in a row are taken for an
# unavailable server.
RANDOM = (
    None, None, None, None, None,
    '450 4.2.1 Come back', '451 4.3.0 Not now', '452 4.2.2 Mailbox full',
    '550 5.1.1 No such ant', '551 5.1.6 Moved',
    '552 5.2.2 Mailbox full', '553 5.1.3 What?', '554 5.7.1 Not from you',
    '550 Never', '499 Odd', '599 Odd',
    )


def contents(server):
    """The content that each recipient got last."""
    return {recipient: message.content for message in server.accepted
            for recipient in message.recipients}


class TestRejected(SiteTestCase):
    """The message is in the shunt queue for those who have not got it."""

    def unshunted(self, site, server):
        """A server that has nothing against the message; everybody has it."""
        mended = self.use(Scripted())
        site.set_up(mended)
        site.mailman('unshunt')
        site.run()
        self.assertEachOnce(site, server.served + mended.served)
        self.assertQuiet(site)
        return mended

    def test_a_chunk_of_many(self):
        server = self.use(Scripted(always('.', VIRUS)))
        site = self.site(server, members=60, max_recipients=10,
                         max_delivery_threads=1)
        site.run({})
        self.assertEachOnce(site, (), ['shunt'])
        # A chunk or two, and four recipients of it alone.
        self.assertLess(len(server.said('MAIL')), 8)
        log = site.log('smtp.log')
        self.assertEqual(log.count(REJECTED), 1)
        self.assertIn(VIRUS, log)
        entry, = site.queue('shunt').entries
        self.assertEqual(entry.recipients, sorted(
            set(site.members) - set(server.served)))
        self.unshunted(site, server)

    def test_not_the_message(self):
        # Others had been accepted, so it waits.
        server = self.use(Scripted(on('.', *([VIRUS] * 99), at=3)))
        site = self.site(server, members=60, max_recipients=10,
                         max_delivery_threads=1)
        site.run({})
        self.assertEqual(len(server.served), 20)
        self.assertEachOnce(site, server.served, ['retry'])
        self.assertIn(VIRUS, site.log('smtp.log'))
        self.assertQuiet(site)

    def test_verp(self):
        server = self.use(Scripted(always('.', VIRUS)))
        site = self.site(server, members=30)
        site.run({'verp': True})
        self.assertEachOnce(site, (), ['shunt'])
        # All are in one domain, which alone might not like it; but it does
        # not take thirty to see that.
        self.assertLess(len(server.said('MAIL')), 25)
        mended = self.unshunted(site, server)
        self.assertEqual(
            {message.sender.count('+') for message in mended.accepted}, {1})

    def test_over_the_size_limit(self):
        server = self.use(Scripted(extensions=('PIPELINING', 'SIZE 2000')))
        for verp in (True, False):
            with self.subTest(verp=verp):
                site = self.site(server)
                site.run({'verp': verp, 'content': POST + b'Ants.\n' * 500})
                self.assertEachOnce(site, (), ['shunt'])
                self.assertEqual(server.said('MAIL'), [])
                log = site.log('smtp.log')
                self.assertIn(REJECTED + '552 5.3.4 ', log)
                self.assertIn('2000 octets', log)
        self.unshunted(site, server)

    def test_bounce(self):
        settings = {'delivery': {'message_rejected': 'bounce'}}
        for script in (always('.', VIRUS), always('MAIL', TOO_BIG)):
            for verp in (True, False):
                with self.subTest(verp=verp):
                    server = self.use(Scripted(script))
                    site = self.site(server, settings=settings)
                    site.run({'verp': verp})
                    self.assertEachOnce(
                        site, (), bounced=sorted(site.members))
                    self.assertNotIn(REJECTED, site.log('smtp.log'))
                    self.assertQuiet(site)


class TestRefused(SiteTestCase):
    """Each recipient gets what is theirs."""

    def test_both_kinds_in_different_chunks(self):
        server = self.use(Scripted(several(
            always('RCPT', '550 5.1.1 No such ant', 'person-000005'),
            always('RCPT', '450 4.2.1 Come back', 'person-000013'))))
        for size in (1, 3):
            with self.subTest(size=size):
                server.accepted.clear()
                site = self.site(server, max_recipients=size)
                site.run({})
                dead, = (each for each in site.members if '-000005@' in each)
                late, = (each for each in site.members if '-000013@' in each)
                self.assertEachOnce(
                    site, server.served, ['retry'], bounced=[dead])
                self.assertEqual(site.waiting(), {'retry': [late]})
                mended = self.use(Scripted())
                site.set_up(mended)
                site.retry()
                site.run()
                self.assertEachOnce(
                    site, server.served + mended.served, bounced=[dead])
                # It is the post, not a notice about somebody else.
                self.assertEqual(contents(mended), {
                    late: contents(server)[site.members[0]]})

    def test_452_beyond_20(self):
        def script(command, session):
            if command.startswith('RCPT') and len(session.recipients) == 20:
                return '452 4.5.3 Too many recipients'
        server = self.use(Scripted(script))
        site = self.site(server, members=230, max_recipients=50)
        site.run({})
        self.assertEachOnce(site, server.served)
        sizes = [len(message.recipients) for message in server.accepted]
        self.assertEqual(max(sizes), 20)
        # It is learnt: at most one chunk for each of the four connections,
        # and what was made ready behind it, was too large.
        self.assertLess(len(server.said('RCPT')), 230 + 9 * 30)
        self.assertQuiet(site)

    def test_at_random(self):
        # What Mailman is told of each, compared with what the server said.
        print(f'seed {SEED}', end=' ')
        chance = random.Random(SEED)
        site = self.site(members=300)
        for verp in (True, False):
            with self.subTest(verp=verp):
                replies = {address: chance.choice(RANDOM)
                           for address in site.members}
                self.compare(replies, verp)

    def compare(self, replies, verp):
        def script(command, session):
            if command.startswith('RCPT'):
                return replies[command.partition('<')[2].partition('>')[0]]
        server = self.use(Scripted(script))
        site = self.site(server, members=300, max_recipients=7,
                         settings={'delivery': {'patience': '2s'}})
        site.run({'verp': verp})
        wanted = {'served': [], 'retry': [], 'bounced': []}
        for address, reply in replies.items():
            wanted[_end(reply)].append(address)
        told = {'bounced': sorted(site.bounced()),
                'served': sorted(server.served),
                'retry': sorted(site.waiting().get('retry', []))}
        if verp:
            self.assertEqual(told, {
                end: sorted(each) for end, each in wanted.items()})
        else:
            self.assertEachOnce(
                site, server.served, ['retry'], bounced=site.bounced())
            self.assertLessEqual(
                set(told['bounced']), set(wanted['bounced']))
            self.assertLessEqual(set(told['served']), set(wanted['served']))
        codes = dict(FAILURE.findall(site.log('smtp.log')))
        for address, code in codes.items():
            if code != '444':
                self.assertEqual(code, replies[address][:3], address)
        self.assertQuiet(site)


def _end(reply):
    if reply is None:
        return 'served'
    return ('retry' if reply[0] == '4' or reply.startswith('552')
            else 'bounced')


class TestRelayRefusesUs(SiteTestCase):
    """Nobody bounces; it is said once; the post goes out when it is mended."""

    def refused(self, server, reason, **mta):
        site = self.site(server, smtp_user='ant', smtp_pass=PASSWORD, **mta)
        half = len(site.members) // 2
        site.run({'verp': True, 'recipients': set(site.members[:half])},
                 {'verp': False, 'recipients': set(site.members[half:])})
        self.assertEqual(server.said('MAIL'), [])
        self.assertEachOnce(site, (), ['retry'])
        lines = [line for line in site.log('smtp.log').splitlines()
                 if UNAVAILABLE in line]
        # One for each post.
        self.assertEqual(len(lines), 2)
        for line in lines:
            self.assertIn(reason, line)
        mended = self.use(Scripted())
        site.set_up(mended)
        site.retry()
        site.run()
        self.assertEachOnce(site, mended.served)
        self.assertQuiet(site)
        self.assertNoSecret(site)

    def assertNoSecret(self, site):
        """The password is in no log and in no queue, in no disguise."""
        logs = site.logs()
        for octets in (PASSWORD, f'\0ant\0{PASSWORD}'):
            encoded = base64.b64encode(octets.encode()).decode()
            self.assertNotIn(octets, logs)
            self.assertNotIn(encoded.rstrip('='), logs)

    def test_wrong_password(self):
        self.refused(
            self.use(Scripted(
                always('AUTH', '535 5.7.8 Authentication failed'),
                extensions=('PIPELINING', 'AUTH PLAIN LOGIN'))),
            ': AUTH: 535 5.7.8 Authentication failed')

    def test_untrusted_certificate(self):
        server = self.use(Scripted(
            tls=server_context(), extensions=('STARTTLS', 'AUTH PLAIN')))
        self.refused(server, ': TLS: self', smtp_secure_mode='starttls',
                     smtp_verify_cert='yes')
        self.assertEqual(server.said('AUTH'), [])

    def test_starttls_not_offered(self):
        server = self.use(Scripted(
            extensions=('PIPELINING', 'AUTH PLAIN LOGIN')))
        self.refused(server, ': TLS: the server does not offer STARTTLS',
                     smtp_secure_mode='starttls')
        self.assertEqual(server.said('AUTH'), [])
