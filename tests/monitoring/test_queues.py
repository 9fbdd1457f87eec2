# SPDX-License-Identifier: GPL-3.0-or-later
"""What is in Mailman's queues, as Mailman itself puts it there."""

import os
import pickle
import unittest

from datetime import datetime, timezone
from mailman.core.switchboard import Switchboard
from mailman_mta_pool.demo.population import as_queued
from mailman_mta_pool.monitoring.queues import (
    find_entries,
    is_queued,
    queue_summaries,
    QueueReader,
    QUEUES,
)
from tempfile import TemporaryDirectory
from tests.site import LIST_ID, POST


ANNE, BART, CRIS = 'anne@example.com', 'bart@example.com', 'cris@example.com'
NOW = 2_000_000_000.0
# Long after the directory has changed.
LATER = 4_000_000_000.0
REPLY = POST.replace(
    b'<post@example.com>', b'<reply@example.com>\n'
    b'In-Reply-To: <post@example.com>')


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return open, (self._path, 'w')


class QueuesTestCase(unittest.TestCase):
    def setUp(self):
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.root = directory.name

    def switchboard(self, queue, **options):
        directory = os.path.join(self.root, queue)
        os.makedirs(directory, exist_ok=True)
        return Switchboard(queue, directory, **options)

    def enqueue(self, queue, *recipients, content=POST, **msgdata):
        """Put an entry into a queue as Mailman does.

        :return: Its name.
        """
        return self.switchboard(queue).enqueue(*as_queued(
            content, LIST_ID, recipients=set(recipients), **msgdata))

    def path(self, queue, name):
        return os.path.join(self.root, queue, name)

    def write(self, queue, name, octets):
        os.makedirs(os.path.join(self.root, queue), exist_ok=True)
        with open(self.path(queue, name), 'wb') as fp:
            fp.write(octets)

    def summary(self, queue, now=NOW):
        return queue_summaries(self.root, now)[queue]


class TestSummaries(QueuesTestCase):
    def assertHolds(self, queue, entries, recipients):
        summary = self.summary(queue)
        self.assertEqual(
            (summary.entries, summary.recipients), (entries, recipients))

    def test_before_mailman_started(self):
        summaries = queue_summaries(self.root, NOW)
        self.assertEqual(list(summaries), list(QUEUES))
        for summary in summaries.values():
            self.assertEqual((summary.entries, summary.recipients,
                              summary.oldest_age, summary.problem),
                             (0, 0, None, ''))

    def test_entries(self):
        self.enqueue('out', ANNE, BART)
        self.enqueue('out', CRIS)
        self.enqueue('shunt', ANNE)
        self.assertHolds('out', 2, 3)
        self.assertHolds('shunt', 1, 1)
        self.assertHolds('retry', 0, 0)

    def test_oldest_age(self):
        for age in (5, 300, 60):
            name = self.enqueue('out', ANNE)
            os.rename(self.path('out', f'{name}.pck'),
                      self.path('out', f'{NOW - age}+{age:040x}.pck'))
        self.assertEqual(self.summary('out').oldest_age, 300)
        self.assertEqual(self.summary('out', NOW + 7).oldest_age, 307)

    def test_in_delivery(self):
        name = self.enqueue('out', ANNE, BART)
        self.assertHolds('out', 1, 2)
        self.switchboard('out').dequeue(name)
        self.assertHolds('out', 1, 2)
        self.assertEqual(self.summary('out').in_delivery, {name})
        self.switchboard('out').finish(name)
        self.assertHolds('out', 0, 0)

    def test_left_over_from_a_crash(self):
        # Mailman writes the metadata again, by another protocol.
        name = self.enqueue('out', ANNE, BART)
        self.switchboard('out').dequeue(name)
        self.switchboard('out', recover=True)
        self.assertTrue(os.path.exists(self.path('out', f'{name}.pck')))
        self.assertHolds('out', 1, 2)

    def test_text_that_is_parsed_later(self):
        self.enqueue('out', ANNE, BART, _plaintext=True)
        self.assertHolds('out', 1, 2)

    def test_a_list_of_recipients(self):
        self.switchboard('retry').enqueue(*as_queued(
            POST, LIST_ID, recipients=[ANNE, BART]))
        self.assertHolds('retry', 1, 2)

    def test_nobody_yet(self):
        # An entry of the `in` queue was shunted.
        self.switchboard('shunt').enqueue(*as_queued(POST, LIST_ID))
        self.assertHolds('shunt', 1, 0)
        self.assertEqual(self.summary('shunt').unreadable, 0)

    def test_given_up(self):
        name = self.enqueue('bad', ANNE)
        os.rename(self.path('bad', f'{name}.pck'),
                  self.path('bad', f'{name}.psv'))
        self.assertHolds('bad', 1, 1)

    def test_other_files(self):
        self.write('out', '1764200000.0+00.pck.tmp', b'half')
        os.mkdir(self.path('out', 'mta_pool_making-x'))
        self.assertHolds('out', 0, 0)

    def test_a_name_that_is_not_of_mailman(self):
        self.write('out', 'mine.pck', b'')
        os.utime(self.path('out', 'mine.pck'), (NOW - 50, NOW - 50))
        self.assertHolds('out', 1, 0)
        self.assertEqual(self.summary('out').oldest_age, 50)

    def test_unreadable(self):
        name = self.enqueue('out', ANNE, BART)
        path = self.path('out', f'{name}.pck')
        with open(path, 'rb') as fp:
            whole = fp.read()
        for octets in (b'', b'garbage', whole[:-9], pickle.dumps(1) * 2):
            with self.subTest(octets=octets[:9]):
                self.write('out', f'{name}.pck', octets)
                self.assertHolds('out', 1, 0)
                self.assertEqual(self.summary('out').unreadable, 1)
        # It has been put right.
        self.write('out', f'{name}.pck', whole)
        self.assertHolds('out', 1, 2)
        self.assertEqual(self.summary('out').unreadable, 0)

    def test_unreadable_directory(self):
        self.write('.', 'out', b'')
        summary = self.summary('out')
        self.assertEqual(summary.entries, 0)
        self.assertEqual(
            summary.problem, self.path('out', '')[:-1] + ': Not a directory')

    def test_nothing_in_a_pickle_is_called(self):
        touched = os.path.join(self.root, 'touched')
        self.write('out', '1764200000.0+00.pck', pickle.dumps(
            Touch(touched)) + pickle.dumps(
            {'recipients': [ANNE], 'other': Touch(touched)}))
        self.assertHolds('out', 1, 1)
        self.assertEqual(list(find_entries(self.root, 'x')), [])
        self.assertFalse(os.path.exists(touched))

    def test_an_entry_is_read_once(self):
        name = self.enqueue('out', ANNE, BART)
        self.assertHolds('out', 1, 2)
        self.write('out', f'{name}.pck', b'not read again')
        self.enqueue('out', CRIS)
        self.assertHolds('out', 2, 3)

    def test_directory_that_does_not_change(self):
        name = self.enqueue('out', ANNE)
        directory = os.path.join(self.root, 'out')
        self.summary('out', LATER)
        before = os.stat(directory)
        os.unlink(self.path('out', f'{name}.pck'))
        os.utime(directory, ns=(before.st_atime_ns, before.st_mtime_ns))
        # It was not listed.
        self.assertEqual(self.summary('out', LATER).entries, 1)
        os.utime(directory)
        self.assertEqual(self.summary('out', LATER).entries, 0)

    def test_directory_that_has_just_changed(self):
        # The clock of the file system may not have ticked since.
        name = self.enqueue('out', ANNE)
        directory = os.path.join(self.root, 'out')
        before = os.stat(directory)
        now = before.st_mtime + 0.5
        self.assertEqual(self.summary('out', now).entries, 1)
        os.unlink(self.path('out', f'{name}.pck'))
        os.utime(directory, ns=(before.st_atime_ns, before.st_mtime_ns))
        self.assertEqual(self.summary('out', now).entries, 0)

    def test_more_than_can_be_read_in_time(self):
        for number in range(5):
            self.enqueue('out', ANNE, BART)
        clock = iter(range(1000))
        reader = QueueReader(self.root, lambda: next(clock))
        first = reader.summaries(NOW)['out']
        self.assertEqual(first.entries, 5)
        self.assertGreater(first.unread, 0)
        self.assertEqual(first.recipients, 2 * (5 - first.unread))
        # What has been read by then is not read again.
        reader.summaries(NOW)
        last = reader.summaries(NOW)['out']
        self.assertEqual((last.recipients, last.unread), (10, 0))


class TestFind(QueuesTestCase):
    def found(self, message_id, **options):
        return list(find_entries(self.root, message_id, **options))

    def test_spellings_of_the_id(self):
        name = self.enqueue('out', BART, ANNE)
        for message_id in ('<post@example.com>', 'post@example.com',
                           ' <post@example.com>\n'):
            with self.subTest(message_id=message_id):
                entry, = self.found(message_id)
                self.assertEqual(
                    (entry.queue, entry.filebase, entry.list_id,
                     entry.recipients, entry.message_id, entry.in_delivery),
                    ('out', name, LIST_ID, (ANNE, BART),
                     '<post@example.com>', False))
                self.assertTrue(os.path.exists(entry.path))

    def test_others(self):
        # A reply names the post, too.
        self.enqueue('out', ANNE, content=REPLY)
        self.assertEqual(self.found('post@example.com'), [])
        self.assertEqual(len(self.found('reply@example.com')), 1)
        for message_id in ('', '<>', 'st@example.com', '(', 'ä'):
            self.assertEqual(self.found(message_id), [], message_id)

    def test_forms_of_a_message(self):
        self.enqueue('out', ANNE, _plaintext=True)
        self.enqueue('out', ANNE, content=POST.replace(
            b'Message-ID: ', b'Message-ID:\n '))
        self.enqueue('out', ANNE, content=POST.replace(
            b'Message-ID', b'message-id'))
        self.assertEqual(len(self.found('post@example.com')), 3)

    def test_an_id_that_a_pickle_writes_otherwise(self):
        for message_id in (r'a\b@example.com', 'ä@example.com'):
            with self.subTest(message_id=message_id):
                self.enqueue(
                    'shunt', ANNE, _plaintext=True, content=POST.replace(
                        b'post@example.com', message_id.encode()))
                queued = self.found(message_id)
                # Mailman itself cannot say what an octet above 127 means.
                self.assertEqual(len(queued), int(message_id.isascii()))

    def test_in_delivery(self):
        name = self.enqueue('out', ANNE)
        self.switchboard('out').dequeue(name)
        entry, = self.found('post@example.com')
        self.assertTrue(entry.in_delivery)
        self.assertTrue(is_queued(self.root, 'out', name))
        self.switchboard('out').finish(name)
        self.assertFalse(is_queued(self.root, 'out', name))

    def test_every_queue(self):
        for queue in QUEUES:
            self.enqueue(queue, ANNE)
        self.assertEqual(
            {entry.queue for entry in self.found('post@example.com')},
            set(QUEUES))

    def test_next_try(self):
        until = datetime(2026, 1, 5, 10)
        name = self.enqueue('retry', ANNE, deliver_until=until)
        entry, = self.found('post@example.com', retry_interval=900.0)
        self.assertEqual(entry.since, float(name.partition('+')[0]))
        self.assertEqual(entry.next_try, entry.since + 900)
        self.assertEqual(
            entry.until, until.replace(tzinfo=timezone.utc).timestamp())
        entry, = self.found('post@example.com')
        self.assertIsNone(entry.next_try)

    def test_ids_that_are_folded_or_not_ascii(self):
        for message_id, octets in (
                ('po st@example.com', b'<po\r\n st@example.com>'),
                ('письмо@example.com', '<письмо@example.com>'.encode())):
            with self.subTest(message_id=message_id):
                self.enqueue('shunt', ANNE, content=POST.replace(
                    b'<post@example.com>', octets))
                entry, = self.found(message_id)
                self.assertEqual(entry.message_id, f'<{message_id}>')

    def test_damaged_entries(self):
        self.write('out', '1764200000.0+00.pck', b'post@example.com')
        self.enqueue('out', ANNE)
        self.assertEqual(len(self.found('post@example.com')), 1)

    def test_no_rights(self):
        # Even root cannot read a directory as a file: "no queue has it" would
        # be a guess.
        self.enqueue('retry', ANNE)
        os.mkdir(self.path('retry', '1764200000.0+00.pck'))
        with self.assertRaises(IsADirectoryError):
            self.found('post@example.com')

    def test_no_rights_to_a_queue(self):
        self.write('.', 'out', b'')
        with self.assertRaises(NotADirectoryError):
            self.found('post@example.com')
