# SPDX-License-Identifier: GPL-3.0-or-later

"""VERP by the mail server, and by us where the server cannot."""

import os
import asyncio
import unittest
import threading

from collections import Counter
from contextlib import ExitStack
from mailman.app.lifecycle import create_list
from mailman.interfaces.mta import SomeRecipientsFailed
from mailman.testing.helpers import (
    configuration,
    LogFileMark,
    specialized_message_from_string as message_from_string,
)
from mailman.testing.layers import ConfigLayer
from mailman_mta_pool.connection.foreign import as_transaction_connection
from mailman_mta_pool.deliver import deliver
from mailman_mta_pool.interfaces import IConnection
from mailman_mta_pool.relays.relay import close_relays
from mailman_mta_pool.wire.content import Content
from mailman_mta_pool.wire.transaction import Fate, Stage, Transaction
from mailman_mta_pool.wire.verp import Verp
from tempfile import TemporaryDirectory
from tests.scripted import HANG, Scripted
from tests.test_verp_groups import BOUNCES, members, verped
from zope.interface import implementer


POST = """\
From: Anne Person <anne@example.com>
To: ant@example.com
Subject: A post
Message-ID: <ant+1=2@example.com>

Ants are strong.
"""
OFFERS = ('PIPELINING', '8BITMIME', 'XVERP')
MAKES = 'MAIL FROM:<ant-bounces@example.com> XVERP=+='
DISCLAIMED = 'does not make the senders of VERP'


@implementer(IConnection)
class PlainConnection:
    """What another plugin may bring along."""

    def sendmail(self, envsender, recipients, msg):
        raise AssertionError('It would get the wrong senders')

    def quit(self):
        pass


class DeliveryTestCase(unittest.TestCase):
    """Whole deliveries to a scripted server."""

    layer = ConfigLayer

    def setUp(self):
        self.addCleanup(close_relays)
        self.servers = ExitStack()
        self.addCleanup(self.servers.close)
        self.settings = ExitStack()
        self.addCleanup(self.settings.close)
        self.mlist = create_list('ant@example.com')

    def serve(self, script=lambda command, session: None, offers=OFFERS):
        """Start a server in the place of the last one."""
        self.servers.close()
        self.server = self.servers.enter_context(
            Scripted(script, extensions=offers))
        self.log = LogFileMark('mailman.smtp')

    def configure(self, settings='', **mta):
        """Send to the server; the connections do not outlive a post."""
        self.settings.close()
        path = os.path.join(
            self.settings.enter_context(TemporaryDirectory()), 'pool.cfg')
        with open(path, 'w') as fp:
            fp.write(f'[pool]\nidle_timeout: 0\n[delivery]\npatience: 0\n'
                     f'{settings}')
        self.settings.enter_context(configuration(
            'plugin.mta_pool',
            **{'class': 'mailman_mta_pool.plugin.MTAPoolPlugin'},
            enabled='yes', component_package='mailman_mta_pool',
            configuration=path))
        self.settings.enter_context(self.server.configured(**mta))

    def deliver(self, recipients, post=POST, **msgdata):
        msgdata.setdefault('verp', True)
        deliver(self.mlist, message_from_string(post),
                dict(msgdata, recipients=list(recipients), listid='ant'))

    def accepted(self):
        """What the server accepted, sorted: (MAIL's sender, recipients)."""
        found = sorted((each.sender, sorted(each.recipients))
                       for each in self.server.accepted)
        self.server.accepted.clear()
        return found

    def assertAllAlone(self, recipients):
        self.assertEqual(self.accepted(), sorted(
            (verped(recipient), [recipient]) for recipient in recipients))

    def mails(self):
        """The MAIL commands since the last call."""
        found = self.server.said('MAIL')
        self.server.commands.clear()
        return found


class TestDelivery(DeliveryTestCase):
    def test_together(self):
        self.serve()
        self.configure()
        self.deliver(members(10))
        self.assertEqual(self.accepted(), [(BOUNCES, members(10))])
        self.assertEqual(self.mails(), [MAKES])

    def test_the_others_in_the_same_post(self):
        self.serve()
        self.configure()
        anne, *others = members(10)
        self.deliver([*members(10), 'a=b@example.org'],
                     **{'add-dup-header': {anne}})
        contents = {recipient: each.content for each in self.server.accepted
                    for recipient in each.recipients}
        self.assertEqual(self.accepted(), sorted([
            (BOUNCES, others), (verped(anne), [anne]),
            (verped('a=b@example.org'), ['a=b@example.org'])]))
        self.assertEqual(
            [recipient for recipient, content in contents.items()
             if b'X-Mailman-Copy: yes' in content], [anne])

    def test_as_many_as_the_setting_says(self):
        self.serve()
        # Stock Mailman's setting is for other posts.
        self.configure('max_recipients_server_verp: 4\n', max_recipients=2)
        self.deliver(members(12))
        self.assertEqual(
            [recipients for _, recipients in self.accepted()],
            [members(12)[:4], members(12)[4:8], members(12)[8:]])

    def test_when_it_is_not_done(self):
        for settings, mta, offers, count in (
                ('server_verp: no\n', {}, OFFERS, 3),
                ('', {'verp_format': '${bounces}.${local}=${domain}'},
                 OFFERS, 3),
                # VERP of the draft is another thing.
                ('', {}, ('PIPELINING', 'VERP'), 3),
                ('', {}, (), 3), ('', {}, OFFERS, 1)):
            with self.subTest(settings=settings, mta=mta, offers=offers):
                self.serve(offers=offers)
                self.configure(settings, **mta)
                self.deliver(members(count))
                senders = [verped(recipient) for recipient in members(count)]
                if mta:
                    senders = [sender.replace('+', '.') for sender in senders]
                self.assertEqual(
                    self.accepted(), [
                        (sender, [recipient]) for sender, recipient in zip(
                            senders, members(count))])
                self.assertFalse(
                    any('XVERP' in mail for mail in self.mails()))

    def test_no_verp_no_xverp(self):
        self.serve()
        self.configure()
        self.deliver(members(3), verp=False)
        self.assertEqual(self.accepted(), [(BOUNCES, members(3))])
        self.assertEqual(self.mails(), ['MAIL FROM:<ant-bounces@example.com>'])

    def test_devmode(self):
        # The senders name the members, as stock Mailman's do.
        self.serve()
        self.configure()
        with configuration('devmode', enabled='yes',
                           recipient='dev@example.com'):
            self.deliver(members(3))
        self.assertEqual(self.accepted(), [
            (verped(recipient), ['dev@example.com'])
            for recipient in members(3)])

    def test_a_recipient_is_refused(self):
        anne, bart, *others = members(10)

        def script(command, session):
            if command.startswith(f'RCPT TO:<{anne}>'):
                return '550 5.1.1 Who?'
            if command.startswith(f'RCPT TO:<{bart}>'):
                return '450 4.2.0 Busy'
        self.serve(script)
        self.configure()
        with self.assertRaises(SomeRecipientsFailed) as caught:
            self.deliver(members(10))
        self.assertEqual(
            [recipient for recipient, *_ in
             caught.exception.permanent_failures], [anne])
        self.assertEqual(self.accepted(), [(BOUNCES, others)])
        self.assertNotIn(DISCLAIMED, self.log.read())


class TestRefusals(DeliveryTestCase):
    """The server offers it, and does not do it."""

    def test_refused(self):
        for code in (501, 504, 555):
            with self.subTest(code=code):
                self.serve(lambda command, session: (
                    f'{code} 5.5.4 What?' if 'XVERP' in command else None))
                self.configure('max_recipients_server_verp: 5\n',
                               max_delivery_threads=2)
                self.deliver([*members(22), 'a=b@example.org'])
                self.assertAllAlone([*members(22), 'a=b@example.org'])
                self.assertIn(MAKES, self.mails())
                self.assertEqual(self.log.read().count(DISCLAIMED), 1)
                # Nobody asks again.
                self.deliver(members(5))
                self.assertAllAlone(members(5))
                self.assertFalse(
                    any('XVERP' in mail for mail in self.mails()))
                self.assertEqual(self.log.read().count(DISCLAIMED), 1)

    def test_refused_by_one_that_is_soon_tired(self):
        # Postfix hangs up after twenty errors, and every RCPT is one.
        errors = Counter()

        def script(command, session):
            if 'XVERP' in command:
                return '555 5.5.4 What?'
            if command.startswith('RCPT') and session.sender is None:
                errors[session.number] += 1
                return ('421 4.7.0 Too many errors'
                        if errors[session.number] > 20 else None)
        self.serve(script)
        self.configure()
        self.deliver(members(100))
        self.assertAllAlone(members(100))
        self.assertEqual(self.log.read().count(DISCLAIMED), 1)

    def test_all_connections_are_used_then(self):
        together = threading.Event()

        def script(command, session):
            if 'XVERP' in command:
                return '555 5.5.4 What?'
            if command.startswith('MAIL'):
                if len(self.server.open) == 4:
                    together.set()
                # Nobody's transaction begins before all are there.
                if not together.wait(20):
                    return '421 4.3.0 Alone'
        self.serve(script)
        self.configure(max_delivery_threads=4)
        self.deliver(members(40))
        self.assertAllAlone(members(40))
        self.assertTrue(together.is_set())

    def test_a_connection_that_knows_nothing_of_it(self):
        connection = as_transaction_connection(
            PlainConnection(), 'relay.example.net:25')
        transaction = Transaction(
            BOUNCES, tuple(members(3)), Content(b'x'), Verp('+='))
        waiting, outcomes = [transaction], []
        asyncio.run(connection.converse(
            lambda octets: waiting.pop() if waiting else None,
            outcomes.append))
        outcome, = outcomes
        self.assertEqual(
            [(result.fate, result.stage, result.reply.code)
             for result in outcome.results], 3 * [(
                 Fate.refused, Stage.mail, 555)])

    def test_an_unavailable_server_is_asked_once(self):
        # It costs one timeout, not one more to find out what it offers.
        for verp in (False, True):
            self.serve(lambda command, session: (
                HANG if command == 'CONNECT' else None))
            self.configure('[relay.mta]\ngreeting_timeout: 1s\n')
            with self.assertRaises(SomeRecipientsFailed) as caught:
                self.deliver(members(5), verp=verp)
            self.assertEqual(
                sorted(caught.exception.temporary_failures), members(5))
            self.assertEqual(self.server.connections, 1)

    def test_a_word_about_the_moment(self):
        self.serve(lambda command, session: (
            '451 4.3.0 Later' if command.startswith('MAIL') else None))
        self.configure()
        with self.assertRaises(SomeRecipientsFailed) as caught:
            self.deliver(members(5))
        self.assertEqual(
            sorted(caught.exception.temporary_failures), members(5))
        self.assertEqual(self.mails(), [MAKES])
        self.assertNotIn(DISCLAIMED, self.log.read())

    def test_a_word_about_something_else(self):
        # To everybody, with every sender: it is about us, whatever it says.
        for code in (550, 553, 554):
            with self.subTest(code=code):
                self.serve(lambda command, session: (
                    f'{code} 5.7.1 No' if command.startswith('MAIL')
                    else None))
                self.configure('message_rejected: bounce\n')
                with self.assertRaises(SomeRecipientsFailed) as caught:
                    self.deliver(members(5))
                # At MAIL nothing is said of a recipient.
                self.assertEqual(
                    sorted(caught.exception.temporary_failures), members(5))
                # They were tried with Mailman's sender, and without VERP.
                # That is known when three of them were refused.
                mails = self.mails()
                self.assertEqual(mails.count(MAKES), 1)
                self.assertIn(mails.count(f'MAIL FROM:<{BOUNCES}>'),
                              range(3, 6))
                self.assertLessEqual(len(mails), 11)
                self.assertNotIn(DISCLAIMED, self.log.read())

    def test_not_the_message(self):
        # To have said so of the group says nothing of the message.
        self.serve(lambda command, session: (
            '554 5.7.1 No' if command.startswith('MAIL') else None))
        self.configure()
        with self.assertRaises(SomeRecipientsFailed) as caught:
            self.deliver(members(500))
        self.assertEqual(len(caught.exception.temporary_failures), 500)
        self.assertLess(len(self.mails()), 50)
        self.assertIn('does not take mail from us', self.log.read())

    def test_strange_words_for_it(self):
        for reply in ('550 5.7.1 What is that?', '554 No',
                      '455 4.5.0 Not now', '501 5.1.7 Bad sender address'):
            with self.subTest(reply=reply):
                self.serve(lambda command, session: (
                    reply if 'XVERP' in command else None))
                self.configure()
                for _ in range(2):
                    # Who knows what it was about: it is asked again.
                    self.deliver(members(5))
                    self.assertAllAlone(members(5))
                    self.assertIn(MAKES, self.mails())
                self.assertNotIn(DISCLAIMED, self.log.read())

    def test_the_same_post_does_not_go_on_asking(self):
        self.serve(lambda command, session: (
            '555 5.5.4 What?' if 'XVERP' in command else None))
        self.configure('max_recipients_server_verp: 5\n',
                       max_delivery_threads=1)
        self.deliver(members(200))
        self.assertAllAlone(members(200))
        # Those that were on their way.
        self.assertLess(self.mails().count(MAKES), 5)


class TestRevoked(DeliveryTestCase):
    """The server stops to offer it."""

    def test_between_two_posts_and_back(self):
        self.serve()
        self.configure()
        self.deliver(members(5))
        self.assertEqual(self.accepted(), [(BOUNCES, members(5))])
        self.server.extensions = ('PIPELINING',)
        for _ in range(2):
            self.deliver(members(5))
            self.assertAllAlone(members(5))
        self.assertEqual(sum('XVERP' in mail for mail in self.mails()), 1)
        # It is allowed again: the first post may still be too early to know.
        self.server.extensions = OFFERS
        self.deliver(members(5))
        self.accepted()
        self.deliver(members(5))
        self.assertEqual(self.accepted(), [(BOUNCES, members(5))])

    def test_in_mid_post(self):
        def script(command, session):
            if command == '.' and len(self.server.accepted) == 2:
                self.server.extensions = ('PIPELINING',)
        self.serve(script)
        self.configure('max_recipients_server_verp: 4\n',
                       max_sessions_per_connection=1)
        self.deliver(members(40))
        found = self.accepted()
        self.assertEqual(
            sorted(name for _, names in found for name in names), members(40))
        together = [names for sender, names in found if sender == BOUNCES]
        self.assertEqual([len(names) for names in together], [4, 4, 4])
        alone = [each for each in found if each[0] != BOUNCES]
        self.assertEqual(alone, [
            (verped(name), [name]) for name in members(40)[12:]])


class TestLimits(DeliveryTestCase):
    def test_rcptmax(self):
        self.serve(offers=(*OFFERS, 'LIMITS RCPTMAX=3'))
        self.configure()
        for verp in (True, False):
            with self.subTest(verp=verp):
                self.deliver(members(10), verp=verp)
                found = self.accepted()
                self.assertEqual({sender for sender, _ in found}, {BOUNCES})
                self.assertEqual([names for _, names in found], [
                    members(10)[start:start + 3] for start in range(0, 10, 3)])

    def test_too_many(self):
        # RFC 5321, section 4.5.3.1.10.
        self.serve(lambda command, session: (
            '452 4.5.3 Too many' if command.startswith('RCPT') and
            session.rcpts > 4 else None))
        self.configure()
        for _ in range(2):
            self.deliver(members(10))
            self.assertEqual(self.accepted(), [
                (BOUNCES, members(10)[:4]), (BOUNCES, members(10)[4:8]),
                (BOUNCES, members(10)[8:])])
        self.assertEqual(
            self.mails()[-3:], [MAKES, MAKES, MAKES])

    def test_mailmax(self):
        for settings, most in (('', 2), ('server_verp: no\n', 2)):
            with self.subTest(settings=settings):
                self.serve(offers=(*OFFERS, f'LIMITS MAILMAX={most}'))
                self.configure('max_recipients_server_verp: 2\n' + settings)
                self.deliver(members(14))
                messages = Counter(
                    number for number, command in self.server.commands
                    if command.startswith('MAIL'))
                self.assertEqual(max(messages.values()), most)
                self.assertEqual(sorted(self.server.served), members(14))

    def test_the_smaller_one(self):
        for sessions, most in ((1, 1), (5, 3), (0, 3)):
            with self.subTest(sessions=sessions):
                self.serve(offers=(*OFFERS, 'LIMITS MAILMAX=3'))
                self.configure('server_verp: no\n',
                               max_sessions_per_connection=sessions)
                self.deliver(members(10))
                messages = Counter(
                    number for number, command in self.server.commands
                    if command.startswith('MAIL'))
                self.assertEqual(max(messages.values()), most)
                self.assertEqual(sorted(self.server.served), members(10))


class TestNotifications(DeliveryTestCase):
    """RFC 3461."""

    ASKED = ' RET=HDRS ENVID=<ant+2B1+3D2@example.com>'

    def test_asked_for(self):
        self.serve(offers=('PIPELINING', 'DSN', 'XVERP'))
        self.configure('dsn: yes\n')
        for verp, parameters in ((True, ' XVERP=+='), (False, '')):
            with self.subTest(verp=verp):
                self.deliver(['a+b@example.org', 'c@example.org'], verp=verp)
                self.assertEqual(
                    sorted(self.server.said('RCPT')), [
                        'RCPT TO:<a+b@example.org> NOTIFY=FAILURE '
                        'ORCPT=rfc822;a+2Bb@example.org',
                        'RCPT TO:<c@example.org> NOTIFY=FAILURE '
                        'ORCPT=rfc822;c@example.org'])
                self.assertEqual(self.mails(), [
                    f'MAIL FROM:<{BOUNCES}>{self.ASKED}{parameters}'])

    def test_individually(self):
        self.serve(lambda command, session: (
            '555 5.5.4 What?' if 'XVERP' in command else None),
            offers=('PIPELINING', 'DSN', 'XVERP'))
        self.configure('dsn: yes\n')
        self.deliver(members(2))
        self.assertEqual(sorted(self.server.served), members(2))
        self.assertEqual(self.mails()[1:], [
            f'MAIL FROM:<{verped(name)}>{self.ASKED}' for name in members(2)])

    def test_not_asked_for(self):
        for settings, offers in (
                ('', ('PIPELINING', 'DSN')), ('dsn: no\n', ('DSN',)),
                ('dsn: yes\n', ('PIPELINING',))):
            with self.subTest(settings=settings, offers=offers):
                self.serve(offers=offers)
                self.configure(settings)
                self.deliver(['a+b@example.org'])
                self.assertEqual(
                    self.server.said('RCPT'), ['RCPT TO:<a+b@example.org>'])
                self.assertEqual(self.mails(), [
                    'MAIL FROM:<ant-bounces+a+b=example.org@example.com>'])

    def test_odd_message_ids(self):
        # There are all of these; no server may refuse the post for them.
        for message_id, parameters in (
                ('Message-ID:\n <a@b>\n', ' RET=HDRS ENVID=<a@b>'),
                ('Message-ID: <a\n\tb@c>\n', ' RET=HDRS ENVID=<a+20b@c>'),
                ('Message-ID: <a\u00e9@b>\n', ' RET=HDRS ENVID=<a@b>'),
                ('Message-ID: \u00e9\n', ' RET=HDRS'), ('', ' RET=HDRS')):
            with self.subTest(message_id=message_id):
                self.serve(offers=('DSN',))
                self.configure('dsn: yes\n')
                self.deliver(['c@d.example'], POST.replace(
                    'Message-ID: <ant+1=2@example.com>\n', message_id),
                    verp=False)
                self.assertEqual(self.server.said('RCPT'), [
                    'RCPT TO:<c@d.example> NOTIFY=FAILURE '
                    'ORCPT=rfc822;c@d.example'])
                self.assertEqual(self.mails(), [
                    f'MAIL FROM:<{BOUNCES}>{parameters}'])
