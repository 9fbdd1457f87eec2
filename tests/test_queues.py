# SPDX-License-Identifier: GPL-3.0-or-later
"""The queue entries that we make, and those that we are given."""

import os
import pickle
import unittest

from datetime import datetime, timedelta
from mailman.config import config
from mailman.core.switchboard import Switchboard
from mailman.testing.helpers import (
    get_queue_messages,
    specialized_message_from_string as message_from_string,
)
from mailman.testing.layers import ConfigLayer
from mailman.utilities.datetime import factory, now
from mailman_mta_pool.journal.entry import count_afresh, exists, filebases_of
from mailman_mta_pool.journal.file import Journal
from mailman_mta_pool.journal.records import begun_line, Settled
from mailman_mta_pool.runner.queues import (
    find_handed_over,
    others_wait,
    Queues,
)
from tempfile import TemporaryDirectory


ANNE, BART = 'anne@example.com', 'bart@example.com'


class QueuesTestCase(unittest.TestCase):
    layer = ConfigLayer

    def setUp(self):
        self.msg = message_from_string("""\
From: anne@example.com
To: ant@example.com
Subject: A post
Message-ID: <post@example.com>

Ants are strong.
""")
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.path = os.path.join(directory.name, 'journal')
        for name in ('out', 'retry', 'shunt', 'bad'):
            self.addCleanup(get_queue_messages, name)

    def journal(self):
        journal = Journal(self.path)
        self.addCleanup(journal.close)
        return journal

    def recorded(self):
        with open(self.path, 'rb') as fp:
            return Settled(fp.read())

    def one_in(self, name):
        item, = get_queue_messages(name)
        return item

    def in_process(self, msg=None, **msgdata):
        """Put an entry in the queue, and begin with it as a runner does."""
        switchboard = config.switchboards['out']
        filebase = switchboard.enqueue(
            self.msg if msg is None else msg, msgdata,
            listid='ant.example.com')
        return (filebase,) + switchboard.dequeue(filebase)

    def restart(self):
        """Let a new runner find what the last one has left over."""
        Switchboard(
            'out', config.switchboards['out'].queue_directory, recover=True)


class TestQueues(QueuesTestCase):
    """What is in the new entries."""

    def test_put_back(self):
        msgdata = {'listid': 'ant.example.com', 'recipients': {ANNE, BART},
                   'verp': True, '_bak_count': 2}
        Queues(self.msg, msgdata, None).put_back([BART])
        item = self.one_in('out')
        self.assertEqual(item.msgdata['recipients'], [BART])
        self.assertIs(item.msgdata['verp'], True)
        self.assertNotIn('_bak_count', item.msgdata)
        self.assertEqual(item.msg['message-id'], '<post@example.com>')
        # The delivery that is going on still has its own.
        self.assertEqual(msgdata['recipients'], {ANNE, BART})

    def test_shunt(self):
        Queues(self.msg, {'recipients': [ANNE]}, None).shunt([ANNE])
        # `mailman unshunt` puts it there.
        self.assertEqual(self.one_in('shunt').msgdata['whichq'], 'out')

    def test_without_moved(self):
        queues = Queues(self.msg, {}, None)
        self.assertEqual(queues.without_moved([ANNE, BART]), [ANNE, BART])
        queues.put_back([ANNE])
        self.assertEqual(queues.without_moved([ANNE, BART]), [BART])


class TestRetry(QueuesTestCase):
    """The metadata that `OutgoingRunner._dispose` keeps of retries."""

    def setUp(self):
        super().setUp()
        # Mailman's own clock for tests.
        factory.testing_mode = True
        factory.fast_forward(days=0)
        self.addCleanup(factory.reset)

    def retry(self, recipients, keeps_period=False, **msgdata):
        Queues(self.msg, msgdata, None).retry(recipients, keeps_period)
        return [item.msgdata for item in get_queue_messages('retry')]

    def test_first(self):
        msgdata, = self.retry([ANNE, BART])
        self.assertEqual(msgdata['recipients'], [ANNE, BART])
        self.assertEqual(msgdata['last_recip_count'], 2)
        self.assertEqual(msgdata['deliver_until'], now() + timedelta(days=5))

    def test_progress(self):
        until = datetime(2005, 1, 1)
        msgdata, = self.retry([ANNE], last_recip_count=2, deliver_until=until)
        self.assertEqual(msgdata['last_recip_count'], 1)
        self.assertEqual(msgdata['deliver_until'], now() + timedelta(days=5))

    def test_no_progress(self):
        until = now() + timedelta(days=1)
        msgdata, = self.retry([ANNE], last_recip_count=1, deliver_until=until)
        self.assertEqual(msgdata['deliver_until'], until)

    def test_too_late(self):
        until = now() - timedelta(days=1)
        with self.assertLogs('mailman.smtp', 'ERROR') as logged:
            self.assertEqual(self.retry(
                [ANNE], last_recip_count=1, deliver_until=until), [])
        self.assertIn('<post@example.com>', logged.output[0])

    def test_probe(self):
        self.assertEqual(self.retry([ANNE], probe_token='0123'), [])
        self.assertEqual(
            self.retry([ANNE], keeps_period=True, probe_token='0123'), [])

    def test_a_pause_of_the_relay(self):
        # The time that it takes is not the post's own.
        for days in (1, 0, -1):
            with self.subTest(days=days):
                msgdata, = self.retry(
                    [ANNE], keeps_period=True, last_recip_count=1,
                    deliver_until=now() + timedelta(days=days))
                self.assertEqual(msgdata['recipients'], [ANNE])
                self.assertEqual(msgdata['last_recip_count'], 1)
                self.assertEqual(
                    msgdata['deliver_until'], now() + timedelta(days=5))


class TestOthersWait(QueuesTestCase):
    def test_in_the_queue(self):
        self.assertFalse(others_wait())
        config.switchboards['retry'].enqueue(self.msg, {})
        self.assertFalse(others_wait())
        config.switchboards['out'].enqueue(self.msg, {})
        self.assertTrue(others_wait())

    def test_the_one_that_is_being_delivered(self):
        filebase, msg, msgdata = self.in_process()
        self.assertFalse(others_wait())
        # Nor is it an entry that is still being made.
        path = os.path.join(
            config.switchboards['out'].queue_directory, 'ants.tmp')
        with open(path, 'w'):
            self.addCleanup(os.remove, path)
        self.assertFalse(others_wait())
        config.switchboards['out'].finish(filebase)


class TestHandedOver(QueuesTestCase):
    """What the journal says, and what a replay makes of it."""

    def test_recorded(self):
        queues = Queues(self.msg, {}, self.journal())
        queues.put_back([ANNE])
        token = self.one_in('out').msgdata['mta_pool_token']
        self.assertEqual(self.recorded().handed_over, {token: [ANNE]})

    def test_crash_before_and_after(self):
        # In the first case the entry had not been made, in the second one the
        # journal did not come to know of it.
        for name in ('out', 'retry', 'shunt'):
            with self.subTest(name):
                settled = Settled(begun_line(name, [ANNE]))
                find_handed_over(settled)
                self.assertEqual(settled.left([ANNE, BART]), [ANNE, BART])
                config.switchboards[name].enqueue(
                    self.msg, {'mta_pool_token': name})
                find_handed_over(settled)
                self.assertEqual(settled.left([ANNE, BART]), [BART])

    def test_runner_does_it(self):
        msgdata = {'recipients': {ANNE, BART}}
        Queues(self.msg, msgdata, self.journal()).leave_to_runner([ANNE])
        settled = self.recorded()
        find_handed_over(settled)
        self.assertEqual(settled.left([ANNE, BART]), [ANNE, BART])
        # As `OutgoingRunner._dispose` does.
        msgdata['recipients'] = [ANNE]
        config.switchboards['retry'].enqueue(self.msg, msgdata)
        find_handed_over(settled)
        self.assertEqual(settled.left([ANNE, BART]), [BART])

    def test_unreadable_entry(self):
        directory = config.switchboards['out'].queue_directory
        path = os.path.join(directory, '1.0+00.pck')
        with open(path, 'wb') as fp:
            fp.write(b'nonsense')
        self.addCleanup(os.remove, path)
        settled = Settled(begun_line('0123', [ANNE]))
        find_handed_over(settled)
        self.assertEqual(settled.left([ANNE]), [ANNE])


class TestCrashes(QueuesTestCase):
    """How often an entry may be left over from a crash."""

    def test_count_afresh(self):
        for msg in (self.msg, self.msg.as_string()):
            with self.subTest(type(msg).__name__):
                # The text of a message is kept with another protocol.
                filebase, _, _ = self.in_process(
                    msg, recipients={ANNE, BART},
                    _plaintext=isinstance(msg, str))
                for _ in range(4):
                    self.restart()
                    _, msgdata = config.switchboards['out'].dequeue(filebase)
                    self.assertEqual(msgdata['_bak_count'], 1)
                    self.assertEqual(msgdata['recipients'], {ANNE, BART})
                    count_afresh(filebase)
                config.switchboards['out'].finish(filebase)
        self.assertEqual(
            os.listdir(config.switchboards['bad'].queue_directory), [])

    def test_nothing_to_count(self):
        filebase, _, _ = self.in_process(recipients={ANNE})
        directory = config.switchboards['out'].queue_directory
        path = os.path.join(directory, filebase + '.bak')
        with open(path, 'rb') as fp:
            octets = fp.read()
        count_afresh(filebase)
        with open(path, 'rb') as fp:
            self.assertEqual(fp.read(), octets)
        config.switchboards['out'].finish(filebase)


class TestEntry(QueuesTestCase):
    """Which queue entry it is that is being delivered."""

    def test_found(self):
        filebase, msg, msgdata = self.in_process(recipients={ANNE, BART})
        # What the runner adds.
        msgdata.update(lang='en', verp=True)
        self.assertEqual(filebases_of(msg, msgdata), [filebase])
        self.assertTrue(exists(filebase))
        # After a crash it is the same one.
        self.restart()
        self.assertTrue(exists(filebase))
        self.assertEqual(filebases_of(msg, msgdata), [])
        msg, msgdata = config.switchboards['out'].dequeue(filebase)
        self.assertEqual(filebases_of(msg, msgdata), [filebase])
        config.switchboards['out'].finish(filebase)
        self.assertFalse(exists(filebase))
        self.assertEqual(filebases_of(msg, msgdata), [])

    def test_others(self):
        filebase, msg, msgdata = self.in_process(recipients={ANNE})
        other, *_ = self.in_process(recipients={BART})
        self.msg.replace_header('message-id', '<other@example.com>')
        another, *_ = self.in_process(recipients={ANNE})
        self.assertEqual(filebases_of(msg, msgdata), [filebase])
        for name in (filebase, other, another):
            config.switchboards['out'].finish(name)

    def test_damaged(self):
        filebase, msg, msgdata = self.in_process(recipients={ANNE})
        directory = config.switchboards['out'].queue_directory
        path = os.path.join(directory, '1.0+00.bak')
        with open(path, 'wb') as fp:
            pickle.dump(self.msg, fp)
        self.addCleanup(os.remove, path)
        self.assertEqual(filebases_of(msg, msgdata), [filebase])
        config.switchboards['out'].finish(filebase)
