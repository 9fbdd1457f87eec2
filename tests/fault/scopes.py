# SPDX-License-Identifier: GPL-3.0-or-later

"""Whom an answer is about: the members, or us, the sender, the message."""

import sqlite3

from functools import partial
from mailman.app.bounces import send_probe
from mailman.app.notifications import send_welcome_message
from mailman.config import config
from mailman.core.pipelines import process
from mailman.interfaces.listmanager import IListManager
from mailman_mta_pool.strategies.order import in_order
from tests.fault.cases import several
from tests.fault.passes import (
    BULK_1,
    BULK_8,
    EVERYBODY,
    Passes,
    PassesTestCase,
    refusing,
    SHORT_TURN,
    SOME,
    VERP_1,
    VERP_8,
)
from tests.scripted import Scripted
from tests.site import LIST, OURS, STOCK
from zope.component import getUtility


# Stages and replies that public reports quote.
ABOUT_US = (
    ('RCPT', '550 relay not permitted'),
    ('RCPT', '504 5.5.2 <mailman-core>: Helo command rejected: need'
             ' fully-qualified hostname'),
    ('RCPT', '554 5.7.1 <{rcpt}>: Relay access denied'),
    ('AUTH', '550 5.7.30 Basic authentication is not supported for Client'
             ' Submission.'),
    ('AUTH', '535 5.7.139 Authentication unsuccessful,'
             ' SmtpClientAuthentication is disabled for the Tenant.'),
)
ABOUT_THE_SENDER = (
    ('RCPT', '550-Verification failed for <{sender}>\n'
             '550 Sender verify failed'),
    ('RCPT', '550 5.1.8 <{sender}>: Sender address rejected: Domain not'
             ' found'),
    ('RCPT', '550 5.1.0 <{sender}>: Sender address rejected: User unknown in'
             ' local recipient table'),
    ('end', '554 Message rejected: Email address is not verified.'),
    ('end', '554 5.2.252 SendAsDenied; anne@example.com not allowed to send'
            ' as {sender}'),
)
UNLISTED_SENDER = ABOUT_THE_SENDER[2][1]
# Nobody's words.
UNKNOWN = tuple(
    (stage, reply) for stage in ('RCPT', 'MAIL', 'end')
    for reply in ('550 Zorp.', '554 5.7.1 Blorb', '571 Fnord'))
# What a server says of a member who is gone.
DEAD = ('550 5.1.1 <{rcpt}>: Recipient address rejected: User unknown',
        '550 No such user here', '550 Nope')
ACCESS_DENIED = '554 5.7.1 <{rcpt}>: Recipient address rejected: Access denied'
RELAY_DENIED = '554 5.7.1 <{rcpt}>: Relay access denied'
FIRST_DOMAIN = frozenset(EVERYBODY[:30])
LAST_DOMAIN = frozenset(EVERYBODY[-30:])
# Every domain has some of these.
SCATTERED = frozenset(EVERYBODY[3::7] + EVERYBODY[5:6])
# Three who come before the others, in one domain and in three.
IN_ONE_DOMAIN = tuple(f'{name}@aaa.example.com' for name in 'abc')
IN_THREE_DOMAINS = tuple(f'anne@{name}.example.com' for name in 'abc')
REFUSED_AT_THE_END = (
    '550 5.7.1 Message content rejected', '554 spam',
    '550 5.7.1 This mail is not wanted here', '554 This looks like spam')


class TestNotTheMembers(PassesTestCase):
    """What the server says to everybody is charged to nobody."""

    def test_us_bulk_1(self):
        self.spare_all(BULK_1, ABOUT_US)

    def test_us_bulk_8(self):
        self.spare_all(BULK_8, ABOUT_US)

    def test_us_verp_1(self):
        self.spare_all(VERP_1, ABOUT_US)

    def test_us_verp_8(self):
        self.spare_all(VERP_8, ABOUT_US)

    def test_sender_bulk_1(self):
        self.spare_all(BULK_1, ABOUT_THE_SENDER)

    def test_sender_bulk_8(self):
        self.spare_all(BULK_8, ABOUT_THE_SENDER)

    def test_sender_verp_1(self):
        self.spare_all(VERP_1, ABOUT_THE_SENDER)

    def test_sender_verp_8(self):
        self.spare_all(VERP_8, ABOUT_THE_SENDER)

    def test_unknown_bulk_1(self):
        self.spare_all(BULK_1, UNKNOWN)

    def test_unknown_bulk_8(self):
        self.spare_all(BULK_8, UNKNOWN)

    def test_unknown_verp_1(self):
        self.spare_all(VERP_1, UNKNOWN)

    def test_unknown_verp_8(self):
        self.spare_all(VERP_8, UNKNOWN)


class TestVERPSender(PassesTestCase):
    """Where only the senders of VERP are refused, the plain one serves."""

    def plain_sender(self, way, stage):
        refuse = refusing(stage, UNLISTED_SENDER)

        def script(command, session):
            sender = command if stage == 'MAIL' else session.sender
            if '+' in (sender or ''):
                return refuse(command, session)
        with Passes(way) as passes:
            passes.post(SOME, script)
            passes.finish()
            self.assertTrue(passes.refusals)
            self.assertEnds(passes, served=SOME)
            # It is remembered: hardly anybody of the next post is tried with
            # a sender of VERP.
            passes.post(SOME, script)
            passes.finish()
            self.assertEnds(passes, served=SOME)
            self.assertLessEqual(len(passes.refusals), 3)
            self.assertQuiet(passes.site)

    def test_rcpt_1(self):
        self.plain_sender(VERP_1, 'RCPT')

    def test_rcpt_8(self):
        self.plain_sender(VERP_8, 'RCPT')

    def test_mail_1(self):
        self.plain_sender(VERP_1, 'MAIL')


class TestDeadMembers(PassesTestCase):
    """Dead members are charged in the first pass, and nobody else is."""

    def charged(self, passes, reply, dead):
        passes.post(EVERYBODY, refusing('RCPT', reply, dead))
        passes.finish()
        self.assertEnds(
            passes, bounced=dead, served=set(EVERYBODY) - dead)

    def charge_all(self, way):
        with Passes(way) as passes:
            self.each(passes, [
                ((reply, name), partial(self.charged, passes, reply, dead))
                for reply in DEAD for name, dead in (
                    ('scattered', SCATTERED), ('first domain', FIRST_DOMAIN),
                    ('last domain', LAST_DOMAIN))])

    def test_members(self):
        self.assertEqual(
            [len(FIRST_DOMAIN), len(LAST_DOMAIN), len(SCATTERED)], [30] * 3)
        self.assertEqual(
            [len({email.partition('@')[2] for email in dead})
             for dead in (FIRST_DOMAIN, LAST_DOMAIN, SCATTERED)], [1, 1, 12])

    def test_bulk_1(self):
        self.charge_all(BULK_1)

    def test_bulk_8(self):
        self.charge_all(BULK_8)

    def test_verp_1(self):
        self.charge_all(VERP_1)

    def test_verp_8(self):
        self.charge_all(VERP_8)


class TestFirstThree(PassesTestCase):
    """Three refusing members at the front do not keep others from mail."""

    def first_three(self, passes, reply, three, end):
        everybody = in_order(three + SOME)
        self.assertEqual(everybody[:3], list(three))
        passes.post(everybody, refusing('RCPT', reply, frozenset(three)))
        passes.finish()
        self.assertEnds(passes, served=SOME, **{end: three})

    def both(self, way):
        # Each of them comes first in half of the ways.
        groups = [('one domain', IN_ONE_DOMAIN),
                  ('three domains', IN_THREE_DOMAINS)]
        if way.verp:
            groups.reverse()
        with Passes(way, members=(
                *IN_ONE_DOMAIN, *IN_THREE_DOMAINS, *SOME)) as passes:
            self.each(passes, [
                ((reply, name), partial(
                    self.first_three, passes, reply, three, end))
                for reply, end in (
                    (ACCESS_DENIED, 'bounced'), (RELAY_DENIED, 'retry'))
                for name, three in groups])

    def test_bulk_1(self):
        self.both(BULK_1)

    def test_bulk_8(self):
        self.both(BULK_8)

    def test_verp_1(self):
        self.both(VERP_1)

    def test_verp_8(self):
        self.both(VERP_8)


class TestSuspects(PassesTestCase):
    """Whoever is suspected and not charged goes last the next time."""

    def suspects_last(self, way):
        three = IN_THREE_DOMAINS
        everybody = in_order(three + SOME)
        # With ten recipients in each, all transactions would be in flight.
        with Passes(way, members=everybody, settings=SHORT_TURN,
                    max_recipients=2) as passes:
            passes.post(everybody, refusing('RCPT', '550 Zorp.'))
            passes.finish()
            self.assertEnds(passes, retry=everybody)
            tried = {command.partition('<')[2].partition('>')[0]
                     for command in passes.said('RCPT')}
            if way.connections == 1:
                # With more of them, all may be in flight before an answer.
                self.assertLess(len(tried), len(everybody))
            suspects = [
                suspect for entry in passes.site.queue('retry').entries
                for suspect in entry.msgdata.get('mta_pool_suspects', ())]
            self.assertEqual(sorted(suspects), sorted(tried))
            self.assertLessEqual(set(three), tried)
            passes.refuse = refusing('RCPT', '550 Zorp.', frozenset(three))
            passes.again()
            self.assertEnds(passes, served=SOME, bounced=three)
            self.assertQuiet(passes.site)

    def test_bulk_1(self):
        self.suspects_last(BULK_1)

    def test_bulk_8(self):
        self.suspects_last(BULK_8)

    def test_verp_1(self):
        self.suspects_last(VERP_1)

    def test_verp_8(self):
        self.suspects_last(VERP_8)


def make_notices(probed, welcomed):
    """Let Mailman make probes and welcomes, and put them into `out`.

    This runs in a site's process.

    :param probed: The addresses of the members that are probed.
    :param welcomed: The addresses of those that are welcomed.
    """
    mlist = getUtility(IListManager).get(LIST)
    for email in probed:
        send_probe(mlist.members.get_member(email),
                   message_id='<post@example.com>')
    for email in welcomed:
        member = mlist.members.get_member(email)
        send_welcome_message(mlist, member, member.preferred_language)
    virgin = config.switchboards['virgin']
    # As the virgin runner does.
    for name in virgin.files:
        msg, msgdata = virgin.dequeue(name)
        process(mlist, msg, {**msgdata, '_fasttrack': True}, 'virgin')
        virgin.finish(name)


class TestNotices(PassesTestCase):
    """A probe or a welcome refused at the end is registered as by stock."""

    def events(self, outgoing, extensions):
        probed, welcomed = SOME[0:20:10], SOME[20:40:10]
        replies = dict(zip((*probed, *welcomed), REFUSED_AT_THE_END))
        server = self.use(Scripted(
            several(*(refusing('end', reply, frozenset([recipient]))
                      for recipient, reply in replies.items())),
            extensions=extensions))
        site = self.site(
            server, members=[(email, '') for email in SOME],
            outgoing=outgoing)
        site.call(make_notices, probed, welcomed)
        self.assertEqual(sorted(
            ('probe_token' in entry.msgdata, 'to_list' in entry.msgdata,
             *entry.recipients) for entry in site.queue('out').entries),
            sorted([(True, False, email) for email in probed] +
                   [(False, False, email) for email in welcomed]))
        with site.runner():
            site.wait_until_empty()
        self.assertQuiet(site)
        self.assertEqual(site.waiting(), {})
        self.assertEqual(server.accepted, [])
        database = sqlite3.connect(site.var / 'data' / 'mailman.db')
        try:
            return sorted(database.execute(
                'SELECT email, context FROM bounceevent'))
        finally:
            database.close()

    def test_as_stock(self):
        stock = self.events(STOCK, ('PIPELINING',))
        self.assertEqual(len(stock), 4)
        for extensions in (('PIPELINING',), ('PIPELINING', 'CHUNKING')):
            with self.subTest(extensions):
                self.assertEqual(self.events(OURS, extensions), stock)
