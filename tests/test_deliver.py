# SPDX-License-Identifier: GPL-3.0-or-later

"""The callable of `[mta] outgoing`, in this process, beside stock's."""

import re
import logging
import sqlite3
import unittest

from contextlib import contextmanager
from mailman.app.lifecycle import create_list
from mailman.config import config
from mailman.interfaces.mailinglist import Personalization
from mailman.interfaces.mta import SomeRecipientsFailed
from mailman.mta import deliver as stock
from mailman.testing.helpers import (
    get_queue_messages,
    specialized_message_from_string as message_from_string,
    subscribe,
)
from mailman.testing.layers import ConfigLayer
from mailman_mta_pool import deliver as ours
from mailman_mta_pool.network.border import border
from mailman_mta_pool.relays.relay import close_relays
from mailman_mta_pool.settlement.memory import Memory
from mailman_mta_pool.strategies.order import SUSPECTS_KEY
from tests.fault.cases import always, on, several
from tests.scripted import CLOSE, Scripted
from unittest import mock


POST = """\
From: Anne Person <anne@example.com>
To: ant@example.com
Cc: Bart Person <bart@example.com>
Subject: A post
Message-ID: <post@example.com>
MIME-Version: 1.0
Content-Type: text/plain; charset=us-ascii

Ants are strong.
"""
RECIPIENTS = [f'{name}@example.com' for name in (
    'anne', 'bart', 'carl', 'dora', 'emma')]
# Those lines of the log for which there are templates.
TEMPLATES = re.compile(r'<post@example.com> (smtp|post|delivery) to .*')
DEAD = '550 5.1.1 No such ant'
LATE = '450 4.2.1 Come back'


@contextmanager
def logged():
    """The lines that are logged by the templates, but for the times."""
    lines = []

    class Handler(logging.Handler):
        def emit(self, record):
            if TEMPLATES.match(record.getMessage()):
                lines.append(re.sub(
                    r'in \S+ seconds', 'in time', record.getMessage()))
    handler = Handler()
    logger = logging.getLogger('mailman.smtp')
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)


class DeliverTestCase(unittest.TestCase):
    layer = ConfigLayer

    def setUp(self):
        self.mlist = create_list('ant@example.com')
        for name in ('Anne', 'Bart', 'Carl', 'Dora', 'Emma'):
            subscribe(self.mlist, name, email=f'{name.lower()}@example.com')

    def tearDown(self):
        close_relays()

    def deliver(self, server, function=ours.deliver, mta=None, **msgdata):
        """Deliver a post to the members.

        :return: The temporary failures and the permanent ones.
        """
        msg = message_from_string(POST)
        msgdata = {'recipients': set(RECIPIENTS), 'to_list': True,
                   'original_size': 217, **msgdata}
        with server.configured(**(mta or {})):
            try:
                self.assertIsNone(function(self.mlist, msg, msgdata))
            except SomeRecipientsFailed as failed:
                return (sorted(failed.temporary_failures),
                        sorted(failed.permanent_failures))
            return [], []


class TestStockBugs(DeliverTestCase):
    """What must not happen any more."""

    def test_421_at_rcpt(self):
        for reply in ('421 4.3.2 Shutting down', CLOSE):
            with self.subTest(reply=reply):
                with Scripted(on('RCPT', reply, at=3)) as server:
                    self.assertEqual(self.deliver(server), ([], []))
                    self.assertEqual(sorted(server.served), RECIPIENTS)

    def test_421_at_rcpt_in_stock(self):
        # If this fails, Mailman has been mended.
        with Scripted(on('RCPT', '421 4.3.2 Bye', at=3)) as server:
            temporary, permanent = self.deliver(server, stock.deliver)
            self.assertEqual(server.served, [])
            self.assertEqual(len(temporary), 1)

    def test_both_kinds_of_failures(self):
        script = several(always('RCPT', DEAD, 'bart'),
                         always('RCPT', LATE, 'dora'))
        for verp in (False, True):
            with self.subTest(verp=verp), Scripted(script) as server:
                temporary, permanent = self.deliver(server, verp=verp)
                self.assertEqual(temporary, [])
                self.assertEqual(permanent, [
                    ('bart@example.com', 550, b'5.1.1 No such ant')])
                item, = get_queue_messages('retry', expected_count=1)
                self.assertEqual(
                    item.msgdata['recipients'], ['dora@example.com'])
                self.assertEqual(item.msgdata['last_recip_count'], 1)
                self.assertIn('deliver_until', item.msgdata)
                self.assertEqual(item.msg['subject'], 'A post')
                self.assertIn('Ants are strong.', str(item.msg))

    def test_no_database_transaction_is_open(self):
        # Another process can write while mail goes out.
        def script(command, session):
            if command.startswith('RCPT'):
                with sqlite3.connect(path, timeout=0) as database:
                    database.execute('BEGIN IMMEDIATE')
                    database.rollback()
                written.append(command)
        path = config.db.url.partition(':///')[2]
        for verp in (False, True):
            written = []
            with self.subTest(verp=verp), Scripted(script) as server:
                # These have never been decorated: that is an INSERT.
                self.mlist = create_list(f'bee-{verp}@example.com'.lower())
                config.db.commit()
                self.deliver(server, verp=verp)
                self.assertEqual(len(written), len(RECIPIENTS))
                self.assertEqual(sorted(server.served), RECIPIENTS)


class TestForgottenLogin(DeliverTestCase):
    """A server that forgets that we have authenticated."""

    def deliver_to(self, is_known):
        """Deliver to each member alone.

        :param is_known: Called with the number of the connection at each
            MAIL; False if the login of that connection is forgotten.
        :return: The temporary failures, the permanent ones, and the server.
        """
        def script(command, session):
            if command.startswith('MAIL') and not is_known(session.number):
                return '502 5.7.0 Please authenticate first.'
            return None
        with Scripted(script, extensions=(
                'PIPELINING', 'AUTH PLAIN')) as server:
            return (*self.deliver(server, verp=True, mta=dict(
                smtp_user='anne', smtp_pass='Zebra-7',
                max_delivery_threads=1)), server)

    def test_once(self):
        mails = []

        def is_known(connection):
            mails.append(connection)
            return connection > 1 or len(mails) == 1
        temporary, permanent, server = self.deliver_to(is_known)
        self.assertEqual((temporary, permanent), ([], []))
        self.assertEqual(sorted(server.served), RECIPIENTS)
        self.assertEqual(server.connections, 2)

    def test_always(self):
        temporary, permanent, server = self.deliver_to(
            lambda connection: False)
        self.assertEqual((temporary, permanent), (RECIPIENTS, []))
        self.assertEqual(server.served, [])
        # A few for the post, and not a few for each member.
        self.assertGreater(server.connections, 1)
        self.assertLess(server.connections, 2 * len(RECIPIENTS))


class TestSameAsStock(DeliverTestCase):
    """Same results, same exceptions, same lines in the log, same mail."""

    def compare(self, *scripts, **keywords):
        told = []
        for function in (stock.deliver, ours.deliver):
            with Scripted(several(*scripts)) as server, logged() as lines:
                failures = self.deliver(server, function, **keywords)
                told.append((failures, sorted(lines), sorted(
                    (sender, recipient, content)
                    for sender, recipients, content in server.accepted
                    for recipient in recipients)))
                get_queue_messages('retry', expected_count=0)
        self.assertEqual(told[1], told[0])
        return told[1]

    def both(self, *scripts, **keywords):
        """Compare for bulk delivery and for VERP."""
        for verp in (False, True):
            with self.subTest(verp=verp):
                told = self.compare(*scripts, verp=verp, **keywords)
        return told

    def test_all_accepted(self):
        failures, lines, mail = self.both()
        self.assertEqual(failures, ([], []))
        self.assertEqual(len(mail), 5)
        self.assertEqual(len(lines), 2)

    def test_some_dead(self):
        failures, lines, mail = self.both(
            always('RCPT', DEAD, 'bart'), always('RCPT', DEAD, 'emma'))
        self.assertEqual(len(failures[1]), 2)
        self.assertEqual(len(lines), 4)

    def test_some_late(self):
        failures, lines, mail = self.both(
            always('RCPT', LATE, 'bart'),
            always('RCPT', '552 5.2.2 Full', 'anne'))
        self.assertEqual(failures[0], ['anne@example.com', 'bart@example.com'])

    def test_all_dead(self):
        failures, lines, mail = self.both(always('RCPT', DEAD))
        self.assertEqual(len(failures[1]), 5)
        self.assertEqual(mail, [])

    def test_all_late(self):
        self.both(always('RCPT', LATE))

    def test_not_now(self):
        for script in (always('MAIL', '451 4.3.0 Not now'),
                       always('.', '452 4.3.1 No room')):
            failures, lines, mail = self.both(script)
            self.assertEqual(failures, (RECIPIENTS, []))

    def test_one_late_content(self):
        self.compare(always('.', '450 4.7.1 Greylisted', 'carl'), verp=True)

    def test_one_rejected_content(self):
        failures, lines, mail = self.compare(
            always('.', '550 5.7.1 Not wanted', 'carl'), verp=True)
        self.assertEqual(failures[1], [
            ('carl@example.com', 550, b'5.7.1 Not wanted')])

    def test_chunks(self):
        self.compare(always('RCPT', DEAD, 'bart'), mta={'max_recipients': 2})

    def test_personalized(self):
        for personalize in (Personalization.individual, Personalization.full):
            self.mlist.personalize = personalize
            self.compare(always('RCPT', DEAD, 'bart'))

    def test_metadata(self):
        for msgdata in (
                {'to_list': False}, {'nodecorate': True},
                {'sender': 'owner@example.com'}, {'original_size': None},
                {'original-sender': 'zoe@example.com'},
                {'add-dup-header': {'bart@example.com'}},
                {'recipients': ['anne@example.com', 'carl@example.com']}):
            with self.subTest(**msgdata):
                self.both(always('RCPT', DEAD, 'carl'), **msgdata)

    def test_no_recipients(self):
        for recipients in (None, set(), []):
            failures, lines, mail = self.both(recipients=recipients)
            self.assertEqual((failures, lines, mail), (([], []), [], []))

    def test_in_order(self):
        # The first failing line is not sorted among others, nor the success.
        with Scripted(always('RCPT', DEAD, 'bart')) as server:
            with logged() as lines:
                self.deliver(server)
        self.assertEqual(
            [TEMPLATES.match(line)[1] for line in lines],
            ['smtp', 'post', 'delivery'])


class TestMemory(DeliverTestCase):
    """What one delivery leaves to the next."""

    def again(self, script, msgdata):
        """Deliver with the metadata of an earlier attempt.

        :return: The temporary failures and the permanent ones.
        """
        with Scripted(script) as server, server.configured():
            with self.assertRaises(SomeRecipientsFailed) as caught:
                ours.deliver(
                    self.mlist, message_from_string(POST), msgdata)
        failed = caught.exception
        # As Mailman's outgoing runner does.
        msgdata['recipients'] = failed.temporary_failures
        return sorted(failed.temporary_failures), failed.permanent_failures

    def test_suspects_who_could_not_be_tried(self):
        suspects = RECIPIENTS[:2]
        msgdata = {'recipients': list(suspects), 'to_list': True,
                   'original_size': 217, SUSPECTS_KEY: list(suspects)}
        self.assertEqual(
            self.again(always('CONNECT', '554 5.3.2 Not now'), msgdata),
            (suspects, []))
        self.assertEqual(sorted(msgdata[SUSPECTS_KEY]), suspects)
        # So nothing is proved by what the server says to two recipients.
        self.assertEqual(
            self.again(always('RCPT', '550 5.7.1 Blorb'), msgdata),
            (suspects, []))

    def test_suspects_who_are_served(self):
        msgdata = {'recipients': RECIPIENTS[:3], 'to_list': True,
                   'original_size': 217, SUSPECTS_KEY: RECIPIENTS[:2]}
        self.assertEqual(
            self.again(always('RCPT', LATE, 'bart'), msgdata),
            (['bart@example.com'], []))
        self.assertEqual(msgdata[SUSPECTS_KEY], ['bart@example.com'])

    def test_the_first_post_of_a_process(self):
        # The network thread starts in the middle of its delivery.
        async def nothing():
            pass
        close_relays()
        border.end(nothing, 1)
        made, original = [], Memory.__init__
        with Scripted() as server, mock.patch.object(
                Memory, '__init__', autospec=True,
                side_effect=lambda memory, clock: made.append(memory) or (
                    original(memory, clock))):
            self.assertEqual(self.deliver(server), ([], []))
            self.assertEqual(self.deliver(server), ([], []))
        self.assertEqual(len(made), 1)
        self.assertTrue(made[0].good)
