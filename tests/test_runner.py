# SPDX-License-Identifier: GPL-3.0-or-later

"""Whole deliveries: a real `out` runner, a real mailman.cfg, real queues."""

import re
import base64
import signal
import unittest
import threading

from mailman.interfaces.mailinglist import Personalization
from tests.once import once
from tests.scripted import Scripted
from tests.servers.postfix import available, Postfix
from tests.site import LIST, OURS, POST, STOCK
from tests.site_case import SiteTestCase


PASSWORD = 'Tr0mbone-Zebra'
UNAVAILABLE = 'Mail server unavailable'
# By the template of Mailman's schema.
SUCCESS = 'post to ant@example.com from'
FOOTER = 'list:member:regular:footer'


def refuses(**replies):
    """A script that answers the RCPTs of some with a reply of their own.

    :param replies: By the local part.
    """
    def script(command, session):
        if command.startswith('RCPT'):
            local_part = command.partition('<')[2].partition('@')[0]
            return replies.get(local_part)
    return script


def contents(server):
    """What each recipient got: a dictionary of senders and contents."""
    return {recipient: (message.sender, message.content)
            for message in server.accepted
            for recipient in message.recipients}


@unittest.skipIf(available(), available())
class TestPostfix(SiteTestCase):
    """Two hundred members behind a real Postfix."""

    def setUp(self):
        super().setUp()
        self.server = self.use(Postfix())
        self.site = self.site(
            self.server, members=200, max_delivery_threads=4)

    def deliver(self, **msgdata):
        """Deliver a post; return the number of connections."""
        before = self.connections()
        self.site.run(msgdata)
        self.assertEachOnce(self.site, self.server.delivered().elements())
        self.assertQuiet(self.site)
        return self.connections() - before

    def connections(self):
        log = self.server.wait_until_delivered()
        return log.text.count(': connect from')

    def test_verp(self):
        connections = self.deliver(verp=True)
        self.assertIn(connections, range(1, 5))
        self.assertEqual(self.server.log().senders(), {
            recipient: ['ant-bounces+{}={}@example.com'.format(
                *recipient.split('@'))]
            for recipient in self.site.members})

    def test_bulk(self):
        connections = self.deliver(verp=False)
        self.assertIn(connections, range(1, 5))
        self.assertEqual(
            {sender for sender, recipients in self.server.received()},
            {'ant-bounces@example.com'})


@once
class TestUnavailable(SiteTestCase):
    """The post waits, and nobody is blamed."""

    def assertOneLine(self, site, text):
        """It is said once in the log what is wrong."""
        lines = [line for line in site.log('smtp.log').splitlines()
                 if UNAVAILABLE in line]
        self.assertEqual(len(lines), 1, lines)
        self.assertIn(text, lines[0])

    def test_unreachable(self):
        sites = {}
        for verp in (True, False):
            sites[verp] = self.site(settings={'delivery': {'patience': 0}})
            sites[verp].post(verp=verp)
        self.run_together(*sites.values())
        for verp, site in sites.items():
            with self.subTest(verp=verp):
                self.assertEachOnce(site, (), waiting=['retry'])
                self.assertOneLine(site, 'refused')
                self.assertQuiet(site)
        # The server is up again, and everybody gets the post.
        server = self.use(Scripted())
        site.set_up(server)
        site.retry()
        site.run()
        self.assertEachOnce(site, server.served)

    def test_wrong_password(self):
        def script(command, session):
            if command.startswith('AUTH'):
                return '535 5.7.8 Authentication credentials invalid'
        played = {}
        for mechanism in ('PLAIN', 'LOGIN'):
            server = self.use(Scripted(
                script, extensions=('PIPELINING', f'AUTH {mechanism}')))
            site = self.site(server, smtp_user='ant', smtp_pass=PASSWORD)
            site.post(verp=True)
            played[mechanism] = server, site
        self.run_together(*(site for server, site in played.values()))
        for mechanism, (server, site) in played.items():
            with self.subTest(mechanism=mechanism):
                self.assertTrue(server.said('AUTH'))
                self.assertEqual(server.said('MAIL'), [])
                self.assertEachOnce(site, (), waiting=['retry'])
                self.assertOneLine(site, '535')
                self.assertSecret(site)

    def assertSecret(self, site):
        """The password is in no log, in no disguise."""
        logs = site.logs()
        for octets in (PASSWORD, f'\0ant\0{PASSWORD}'):
            encoded = base64.b64encode(octets.encode()).decode()
            self.assertNotIn(octets, logs)
            self.assertNotIn(encoded.rstrip('='), logs)
        # A repr would show it so.
        self.assertNotIn(f'ant\\x00{PASSWORD}', logs)

    def test_password_in_an_exception(self):
        # Neither when something unexpected happens after the connect.
        server = self.use(Scripted(
            lambda command, session: (
                b'\xff\0garbage\r\n' if command.startswith('MAIL') else None),
            extensions=('PIPELINING', 'AUTH PLAIN')))
        site = self.site(server, smtp_user='ant', smtp_pass=PASSWORD)
        site.run({'verp': True})
        self.assertTrue(server.said('AUTH'))
        self.assertEachOnce(site, (), waiting=['retry'])
        self.assertSecret(site)


@once
class TestConfiguration(SiteTestCase):
    """A mistake stops the start, and the queue stays as it is."""

    def assertRefused(self, runner, site, path, octets, words):
        """A runner ends with a line that has these words."""
        # Mailman's master does not restart a runner that ends so.
        self.assertEqual(runner.wait(timeout=30), signal.SIGTERM)
        line, = site.said().splitlines()
        for word in words:
            self.assertIn(word, line)
        self.assertEqual(site.queue('out').files, [path])
        self.assertEqual(path.read_bytes(), octets)
        self.assertEachOnce(site, (), waiting=['out'])

    def test_mistakes(self):
        mistakes = {
            'an unknown key': (
                dict(settings={'delivery': {'atempts': 3}}),
                ('mta_pool.cfg', '[delivery]', 'atempts', 'unknown')),
            'an unknown section': (
                dict(settings={'delivry': {'attempts': 3}}),
                ('mta_pool.cfg', '[delivry]', 'unknown')),
            'a bad value': (
                dict(settings={'pool': {'idle_timeout': 'soon'}}),
                ('mta_pool.cfg', '[pool]', 'idle_timeout', "'soon'")),
            'no configuration file': (
                # Such a line may be a password, so its number will do.
                dict(settings='nonsense\n'), ('mta_pool.cfg: line 1',)),
            'a bad value in [mta]': (
                dict(max_delivery_threads='many'),
                ('mailman.cfg', '[mta]', 'max_delivery_threads', "'many'")),
            'an unknown mode': (
                dict(smtp_secure_mode='magic'),
                ('mailman.cfg', '[mta]', 'smtp_secure_mode', "'magic'")),
            }
        started = {}
        for name, (options, words) in mistakes.items():
            site = self.site(**options)
            path = site.post()
            octets = path.read_bytes()
            started[name] = site.start_runner(), site, path, octets, words
        for name, refused in started.items():
            with self.subTest(name):
                self.assertRefused(*refused)
        # Mended, it goes out.
        server = self.use(Scripted())
        site.set_up(server)
        site.run()
        self.assertEachOnce(site, server.served)


class TestPosts(SiteTestCase):
    """Posts and lists that are a little odd."""

    def test_one_member(self):
        server = self.use(Scripted())
        site = self.site(server, members=1)
        site.run({'verp': True}, {'verp': False})
        self.assertEqual(server.served, site.members * 2)
        self.assertEqual(
            [message.sender for message in server.accepted],
            ['ant-bounces+person-000001=example.org@example.com',
             'ant-bounces@example.com'])
        self.assertEqual(server.connections, 1)
        self.assertEqual(site.waiting(), {})
        self.assertQuiet(site)

    def test_no_recipients(self):
        server = self.use(Scripted())
        site = self.site(server, members=1)
        site.run({'recipients': set()}, {'recipients': []},
                 {'recipients': None}, {'recipients': set(site.members)})
        # The last one shows that the runner is alive.
        self.assertEachOnce(site, server.served)
        self.assertEqual(len(server.accepted), 1)
        self.assertQuiet(site)

    def by_both(self, members, personalize, posts, footer):
        """Deliver posts to such a list by stock Mailman and by ours.

        :return: The servers, stock's first, each of which served every member
            once for each post.
        """
        servers, sites = [], []
        for outgoing in (STOCK, OURS):
            servers.append(self.use(Scripted()))
            sites.append(self.site(
                servers[-1], members=members, outgoing=outgoing,
                attributes={'personalize': personalize}))
            sites[-1].write_template(FOOTER, footer)
            for post in posts:
                sites[-1].post(post)
        self.run_together(*sites)
        for server, site in zip(servers, sites):
            self.assertEqual(site.waiting(), {})
            self.assertEqual(site.bounced(), [])
            self.assertEqual(
                sorted(server.served), sorted(site.members * len(posts)))
            self.assertQuiet(site)
        return servers

    def test_names_in_other_scripts(self):
        # The list's language is English, so that names outside ASCII change
        # the charset and the encoding of the whole part.
        names = ['Anne Person', 'Борис Муравьёв', '', 'Zoë "Ant" Ünlü',
                 '蟻', 'Анна', 'A. N. Ant 🐜', 'Борис Муравьёв']
        members = [(f'person-{number}@example.com', name)
                   for number, name in enumerate(names)]
        for personalize in (Personalization.individual, Personalization.full):
            with self.subTest(personalize=personalize):
                stock, ours = [contents(server) for server in self.by_both(
                    members, personalize, [POST],
                    '-- \nFor ${user_name} <${user_address}>,\n'
                    'on ${display_name}.\n')]
                self.assertEqual(ours, stock)
                distinct = {content for sender, content in ours.values()}
                self.assertEqual(len(distinct), len(names))

    @once
    def test_charsets_that_are_none(self):
        # Each is the name of a codec, or cannot even be looked up, and none
        # encodes text as a charset does.
        charsets = ('quoted-printable', 'base64', 'hex', 'rot13', 'zlib',
                    'uu', 'bz2', 'idna', 'undefined', 'punycode',
                    'unicode_escape', 'x-no-such', '"\0"', '"a\0b"')
        members = [('anne@example.com', 'Anne'), ('zoe@example.com', 'Zoë'),
                   ('long@example.com', 'é' * 70)]
        posts = []
        for charset in charsets:
            for kind in ('plain', 'html', 'mixed'):
                # Mailman itself cannot take a text with a name like this.
                if '\0' not in charset or kind != 'plain':
                    posts.append(self.declaring(charset, kind, len(posts)))
        stock, ours = [sorted(
            (message.recipients, re.sub(
                b'={15}[0-9]{19}==', b'boundary', message.content))
            for message in server.accepted) for server in self.by_both(
                members, Personalization.individual, posts,
                'For $user_name\n')]
        self.assertEqual(len(stock), len(posts) * len(members))
        self.assertEqual(ours, stock)

    def declaring(self, charset, kind, number):
        """Return a post with that charset parameter."""
        body = '\nAnts are strong.\n'
        maintype, parameter = 'text', ''
        if kind == 'mixed':
            maintype, parameter = 'multipart', '; boundary="b"'
            body = f'\n--b\n{body}\n--b--\n'
        return POST.partition(b'MIME-Version')[0].replace(
            b'post@', b'post%d@' % number) + (
            f'Content-Type: {maintype}/{kind}; charset={charset}{parameter}\n'
            f'{body}').encode()

    @once
    def test_many_posts(self):
        # One after the other, over connections that are kept, also where
        # there is nothing of ours in mailman.cfg but `outgoing`.
        server = self.use(Scripted())
        site = self.site(
            server, max_delivery_threads=2, plugin=False)
        posts = [
            {'content': POST.replace(b'strong', b'strong %d times' % number),
             'verp': number % 2 == 0} for number in range(20)]
        site.run(*posts)
        self.assertEqual(
            sorted(server.served), sorted(site.members * len(posts)))
        self.assertEqual(site.waiting(), {})
        self.assertLessEqual(server.connections, 2)


@once
class TestAfterwards(SiteTestCase):
    """What SIGTERM leaves behind when the delivery is over."""

    def test_nothing_is_left(self):
        server = self.use(Scripted())
        site = self.site(server)
        self.assertEqual(site.run({'verp': True}), signal.SIGTERM)
        self.assertEachOnce(site, server.served)
        for name in ('out', 'retry', 'shunt', 'bad'):
            self.assertEqual(site.queue(name).files, [])
        self.assertIn('out runner exiting', site.log('mailman.log'))
        # The connections that were kept for the next post were closed in
        # good order.
        self.assertEqual(len(server.said('QUIT')), server.connections)
        self.assertQuiet(site)

    def test_no_success_without_anybody_served(self):
        # It is told to stop while it opens its connections.
        go_on = threading.Event()

        def script(command, session):
            if command == 'CONNECT':
                go_on.wait(60)
        self.addCleanup(go_on.set)
        played = {}
        for verp in (True, False):
            server = self.use(Scripted(script))
            site = self.site(server)
            site.post(verp=verp)
            played[verp] = server, site, site.start_runner()
        for verp, (server, site, runner) in played.items():
            with self.subTest(verp=verp):
                server.wait_for(lambda server: server.connections > 0)
                runner.signal(signal.SIGTERM)
                self.assertEqual(runner.wait(30), signal.SIGTERM)
                self.assertEachOnce(site, (), waiting=['out'])
                self.assertNotIn(SUCCESS, site.log('smtp.log'))
        go_on.set()
        self.run_together(*(site for server, site, runner in played.values()))
        for verp, (server, site, runner) in played.items():
            with self.subTest(verp=verp):
                self.assertEachOnce(site, server.served)
                self.assertEqual(site.log('smtp.log').count(SUCCESS), 1)

    def test_failures_of_both_kinds(self):
        # Stock Mailman would send the later one a notice about the dead one.
        members = [(f'{name}@example.com', name.title())
                   for name in ('anne', 'bart', 'dead', 'later')]
        played = {}
        for verp in (True, False):
            server = self.use(Scripted(refuses(
                dead='550 5.1.1 No such ant', later='450 4.2.1 Come back')))
            site = self.site(server, members=members)
            site.post(verp=verp)
            played[verp] = server, site
        self.run_together(*(site for server, site in played.values()))
        for verp, (server, site) in played.items():
            with self.subTest(verp=verp):
                self.assertEachOnce(site, server.served, ['retry'],
                                    bounced=['dead@example.com'])
                self.assertEqual(
                    site.waiting(), {'retry': ['later@example.com']})
                self.assertIn('No such ant', site.log('smtp.log'))
        mended = self.use(Scripted())
        site.set_up(mended)
        site.retry()
        site.run()
        self.assertEqual(site.waiting(), {})
        self.assertEqual(mended.served, ['later@example.com'])
        # It is the post that the others have had.
        sender, content = contents(mended)['later@example.com']
        self.assertEqual(content, contents(server)['anne@example.com'][1])
        self.assertIn(b'Ants are strong.', content)
        self.assertQuiet(site)

    def test_back_to_stock(self):
        # What we leave in the queue is served by Mailman's own delivery.
        server = self.use(Scripted(refuses(later='451 4.3.0 Not now')))
        site = self.site(server, members=[('anne@example.com', 'Anne'),
                                          ('later@example.com', 'Later')])
        site.run({'verp': True})
        self.assertEqual(site.waiting(), {'retry': ['later@example.com']})
        mended = self.use(Scripted())
        site.set_up(mended, outgoing=STOCK, plugin=False)
        site.retry()
        site.run()
        self.assertEachOnce(site, server.served + mended.served)
        self.assertEqual(mended.accepted[0].sender,
                         'ant-bounces+later=example.com@example.com')
        self.assertIn(LIST.encode(), mended.accepted[0].content)

    def test_under_master(self):
        # As administrators run it: start, restart, unshunt, stop.
        server = self.use(Scripted())
        site = self.site(server)
        master = site.start_master()

        def delivered(times):
            server.wait_for(
                lambda server: len(server.served) == len(site.members) * times)
            site.wait_for(lambda: site.is_empty('out'), 'an empty queue')
        site.post(verp=True)
        delivered(1)
        self.assertIn('Restarting', site.mailman('restart'))
        site.wait_for(
            lambda: site.log('mailman.log').count('out runner started') == 2,
            'the restart')
        site.post(queue='shunt', whichq='out')
        site.mailman('unshunt')
        delivered(2)
        site.mailman('stop')
        self.assertEqual(master.wait(30), 0)
        self.assertEqual(sorted(server.served), sorted(site.members * 2))
        self.assertEqual(site.waiting(), {})
        self.assertEqual(site.bounced(), [])
        self.assertQuiet(site)
