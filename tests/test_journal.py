# SPDX-License-Identifier: GPL-3.0-or-later
"""The journal: what is written, what is read back, and who has it."""

import os
import stat
import resource
import unittest

from contextlib import ExitStack
from hypothesis import given, settings, strategies as st
from mailman_mta_pool.interfaces import IRecord
from mailman_mta_pool.journal.file import Journal, Locked, name_of
from mailman_mta_pool.journal.records import (
    begun_line,
    bounced_line,
    deferred_line,
    discarded_line,
    done_line,
    entry_line,
    in_doubt_line,
    octets_for,
    place_line,
    post_line,
    PostHead,
    served_line,
    Settled,
    text_in_line,
)
from mailman_mta_pool.wire.replies import Reply
from tempfile import TemporaryDirectory
from zope.interface.verify import verifyObject


def said(text):
    return text_in_line(Reply(250, (text,)))


ADDRESSES = st.text(min_size=1, max_size=12)
TOKENS = st.sampled_from(['0123456789abcdef', 'fedcba9876543210'])
RECORDS = st.one_of(
    st.tuples(st.just(served_line), st.lists(ADDRESSES)),
    st.tuples(st.just(served_line), st.lists(ADDRESSES, min_size=1),
              st.builds(said, st.binary(max_size=20))),
    st.tuples(st.just(deferred_line), st.lists(ADDRESSES),
              st.integers(200, 599), st.binary(max_size=20)),
    st.tuples(st.just(in_doubt_line), st.lists(ADDRESSES)),
    st.tuples(st.just(discarded_line), st.lists(ADDRESSES)),
    st.tuples(st.just(place_line), st.integers(0), ADDRESSES),
    st.tuples(st.just(post_line), st.builds(
        PostHead, ADDRESSES, ADDRESSES, st.integers(0), st.floats(0, 2e9))),
    st.tuples(st.just(bounced_line), ADDRESSES,
              st.integers(200, 599), st.binary(max_size=20)),
    st.tuples(st.just(begun_line), TOKENS, st.lists(ADDRESSES)),
    st.tuples(st.just(done_line), TOKENS),
    st.tuples(st.just(entry_line), TOKENS),
    )


class Expected:
    """What the records say, kept without any journal."""

    def __init__(self, records):
        self.served = set()
        self.bounced = {}
        self.handing_over = {}
        self.handed_over = {}
        self.identity = None
        self.message_id = None
        for line, *values in records:
            getattr(self, line.__name__)(*values)

    def served_line(self, recipients, said=''):
        self.served.update(recipients)

    def deferred_line(self, recipients, code, text):
        # That settles nothing, and neither do the next.
        pass

    def in_doubt_line(self, recipients):
        pass

    def discarded_line(self, recipients):
        pass

    def place_line(self, second, relay):
        pass

    def post_line(self, post):
        self.message_id = post.message_id

    def bounced_line(self, recipient, code, text):
        self.bounced[recipient] = code, text

    def begun_line(self, token, recipients):
        self.handing_over[token] = recipients

    def done_line(self, token):
        if token in self.handing_over:
            self.handed_over[token] = self.handing_over.pop(token)

    def entry_line(self, identity):
        self.identity = identity


class TestSettled(unittest.TestCase):
    def assertSays(self, settled, expected):
        self.assertEqual(settled.served, expected.served)
        self.assertEqual(settled.bounced, expected.bounced)
        self.assertEqual(settled.handing_over, expected.handing_over)
        self.assertEqual(settled.handed_over, expected.handed_over)
        self.assertEqual(settled.identity, expected.identity)
        self.assertEqual(settled.message_id, expected.message_id)

    @settings(max_examples=300, deadline=None)
    @given(st.lists(RECORDS, max_size=6), st.data())
    def test_any_prefix(self, records, data):
        lines = [line(*values) for line, *values in records]
        octets = b''.join(lines)
        length = data.draw(st.integers(0, len(octets)))
        complete = octets[:length].count(b'\n')
        settled = Settled(octets[:length])
        self.assertSays(settled, Expected(records[:complete]))
        self.assertEqual(settled.end, sum(map(len, lines[:complete])))

    @settings(max_examples=100, deadline=None)
    @given(st.lists(RECORDS, max_size=4), RECORDS, st.lists(RECORDS),
           st.data())
    def test_torn_in_the_middle(self, before, torn, after, data):
        # The disk was full for a while.  The next line is lost with it.
        line, *values = torn
        octets = line(*values)
        part = octets[:data.draw(st.integers(0, len(octets) - 2))]
        text = b''.join(line(*values) for line, *values in before)
        text += part + b'\n'
        text += b''.join(line(*values) for line, *values in after)
        self.assertSays(Settled(text), Expected(before + after))

    def test_empty(self):
        self.assertFalse(Settled())
        self.assertFalse(Settled(b'["served","anne@example.com"]'))
        self.assertFalse(Settled(entry_line('0123')))
        for line in (served_line(['anne@example.com']),
                     bounced_line('anne@example.com', 550, b'No'),
                     begun_line('0123', ['anne@example.com'])):
            self.assertTrue(Settled(line))

    def test_left(self):
        settled = Settled(
            served_line(['anne@example.com']) +
            bounced_line('bart@example.com', 550, b'No such ant') +
            begun_line('0123', ['cate@example.com']) + done_line('0123') +
            begun_line('4567', ['dora@example.com']))
        # Whether there is another entry for Dora, the queues must tell.
        self.assertEqual(
            settled.left([
                'elle@example.com', 'dora@example.com', 'cate@example.com',
                'bart@example.com', 'anne@example.com', 'elle@example.com']),
            ['elle@example.com', 'dora@example.com'])

    def test_nonsense(self):
        # It says nothing of anybody, and keeps nobody from the rest.
        rest = served_line(['anne@example.com'])
        for line in (b'', b'1', b'null', b'[]', b'[1]', b'{"a":1}',
                     b'["handing over"]', b'["handed"]', b'["entry"]',
                     b'["bounced","bart@example.com",550]',
                     b'["bounced","bart@example.com",550,null]',
                     b'["served",[]]', b'"\xff"'):
            with self.subTest(line):
                settled = Settled(line + b'\n' + rest)
                self.assertEqual(settled.left(['anne@example.com',
                                               'bart@example.com']),
                                 ['bart@example.com'])

    def test_unreported(self):
        settled = Settled(b''.join(
            bounced_line(f'{name}@example.com', 550, b'No')
            for name in ('anne', 'bart', 'cate')) +
            begun_line('0123', ['bart@example.com']) + done_line('0123'))
        # Bart is reported by the delivery of the other entry.
        self.assertEqual(
            settled.unreported(['anne@example.com', 'bart@example.com']),
            {'anne@example.com': (550, b'No')})


class TestJournal(unittest.TestCase):
    def setUp(self):
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.path = os.path.join(directory.name, 'journal')

    def journal(self, **options):
        journal = Journal(self.path, **options)
        self.addCleanup(self.close, journal)
        verifyObject(IRecord, journal)
        return journal

    def close(self, journal):
        try:
            journal.close()
        except OSError:
            # The test has closed it.
            pass

    def read(self):
        with open(self.path, 'rb') as fp:
            return Settled(fp.read())

    def test_private(self):
        previous = os.umask(0)
        try:
            self.journal()
        finally:
            os.umask(previous)
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o600)

    def test_written_at_once(self):
        for power in (False, True):
            with self.subTest(power=power):
                journal = Journal(self.path, power)
                self.assertFalse(journal.settled)
                journal.served(['anne@example.com', 'bart@example.com'])
                self.assertEqual(self.read().served, {
                    'anne@example.com', 'bart@example.com'})
                journal.bounced('cate@example.com', 550, b'caf\xe9')
                self.assertEqual(self.read().bounced, {
                    'cate@example.com': (550, b'caf\xe9')})
                journal.handing_over('0123', ['dora@example.com'])
                self.assertEqual(self.read().handing_over, {
                    '0123': ['dora@example.com']})
                journal.handed_over('0123')
                self.assertEqual(self.read().handed_over, {
                    '0123': ['dora@example.com']})
                journal.remove()
                journal.close()
                self.assertFalse(os.path.exists(self.path))

    def test_torn_at_every_octet(self):
        whole = served_line(['anne@example.com'])
        last = served_line(['bart@example.com', 'cate@example.com'])
        for length in range(len(last) + 1):
            with open(self.path, 'wb') as fp:
                fp.write(whole + last[:length])
            served = {'anne@example.com'}
            if length == len(last):
                served |= {'bart@example.com', 'cate@example.com'}
            journal = Journal(self.path)
            self.assertEqual(journal.settled.served, served)
            journal.served(['dora@example.com'])
            journal.close()
            self.assertEqual(self.read().served, served | {'dora@example.com'})

    def test_locked(self):
        journal = self.journal()
        with self.assertRaises(Locked):
            Journal(self.path)
        journal.close()
        again = self.journal()
        again.remove()
        # That file is not there any more, so this is another one.
        self.journal()

    def test_another_name(self):
        # The state file knows the entry by the name that it had.
        journal = self.journal()
        journal.served(['anne@example.com'])
        self.assertEqual(self.read().former_entry, '')
        former, self.path = self.path, self.path + '-2'
        journal.rename(self.path)
        journal.close()
        self.assertEqual(
            self.read().former_entry, os.path.basename(former))
        self.assertEqual(self.read().served, {'anne@example.com'})
        self.assertEqual(name_of(journal), os.path.basename(self.path))
        self.assertEqual(name_of(None), '')

    def test_room_is_made_at_once(self):
        journal = self.journal()
        many = [f'person-{number}@example.com' for number in range(1000)]
        journal.begin('0123', many)
        size = os.path.getsize(self.path)
        self.assertGreaterEqual(size, octets_for(many))
        for name in many:
            journal.served([name])
        journal.handing_over('4567', many)
        self.assertEqual(os.path.getsize(self.path), size)
        self.assertTrue(journal.is_kept)
        journal.close()
        self.assertLess(os.path.getsize(self.path), size)
        self.assertEqual(self.read().identity, '0123')
        again = self.journal()
        again.begin('89ab', many)
        again.close()
        self.assertEqual(self.read().identity, '0123')

    def limited(self, octets):
        """Let no file grow beyond so many octets, for a while.

        A limit of the process is as good as a full disk.
        """
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resources = ExitStack()
        self.addCleanup(resources.close)
        resources.callback(
            resource.setrlimit, resource.RLIMIT_FSIZE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_FSIZE, (octets, hard))
        return resources

    def test_details_take_no_room_of_others(self):
        # There is room for what is promised, and for no reply.
        many = [f'person-{number}@example.com' for number in range(1000)]
        journal = self.journal(details=True)
        journal.begin('0123', many, PostHead('<a>', 'ant', 1000, 0.0))
        size = os.path.getsize(self.path)
        with self.limited(size):
            for name in many:
                journal.deferred([name], 450, b'4.2.1 ' + b'No' * 150, 'a:25')
            for name in many:
                journal.served([name], Reply(250, (b'Ok' * 150,)), 'a:25')
            journal.handing_over('4567', many)
            self.assertTrue(journal.is_kept)
        settled = self.read()
        self.assertEqual(settled.served, set(many))
        self.assertEqual(settled.handing_over, {'4567': many})
        self.assertEqual(os.path.getsize(self.path), size)

    def test_time_and_relay_when_they_change(self):
        now = [1000.25]
        journal = self.journal(details=True, clock=lambda: now[0])
        reply = Reply(250, (b'Ok',))
        for now[0], relay in ((1000.25, 'a:25'), (1000.75, 'a:25'),
                              (1001.0, 'a:25'), (1001.5, 'b:25')):
            journal.served(['anne@example.com'], reply, relay)
        journal.close()
        with open(self.path, 'rb') as fp:
            self.assertEqual(
                [line for line in fp.read().splitlines(True)
                 if line.startswith(b'["at"')],
                [place_line(1000, 'a:25'), place_line(1001, 'a:25'),
                 place_line(1001, 'b:25')])

    def test_without_details(self):
        journal, head = self.journal(), PostHead('<a>', 'ant', 1, 0.0)
        journal.begin('0123', ['anne@example.com'], head)
        journal.served(['anne@example.com'], Reply(250, (b'Ok',)), 'a:25')
        journal.bounced('bart@example.com', 550, b'No', 'a:25')
        journal.deferred(['cate@example.com'], 450, b'No', 'a:25')
        journal.in_doubt(['dora@example.com'], 'a:25')
        journal.discarded(['elle@example.com'])
        journal.close()
        with open(self.path, 'rb') as fp:
            self.assertEqual(fp.read(), (
                entry_line('0123') + post_line(head) +
                served_line(['anne@example.com']) +
                bounced_line('bart@example.com', 550, b'No')))

    def test_long_replies(self):
        for line in (served_line(['anne@example.com'], said(b'x' * 9999)),
                     deferred_line(['anne@example.com'], 450, b'x' * 9999)):
            self.assertLess(len(line), 500)

    def test_full_disk(self):
        # A limit of the process is as good as a full disk.
        journal = self.journal()
        journal.served(['anne@example.com'])
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        size = os.path.getsize(self.path)
        many = [f'person-{number}@example.com' for number in range(1000)]
        try:
            with self.assertLogs('mailman.smtp', 'ERROR') as logged:
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
                journal.served(many)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        line, = logged.output
        self.assertIn(self.path, line)
        self.assertIn('goes on without it', line)
        # There is room again, but what would come now would be no use.
        journal.served(['cate@example.com'])
        journal.handing_over('0123', ['dora@example.com'])
        self.assertEqual(os.path.getsize(self.path), size)
        self.assertEqual(self.read().served, {'anne@example.com'})
