# SPDX-License-Identifier: GPL-3.0-or-later
"""What is kept of a delivery: written, swept, and read back."""

import io
import os
import gzip
import stat
import random
import string
import resource
import unittest
import tracemalloc

from contextlib import suppress
from hypothesis import given, settings, strategies as st
from mailman_mta_pool.journal.archive import Archive, Keeping, prefix_of
from mailman_mta_pool.journal.file import Journal
from mailman_mta_pool.journal.kept import (
    Event,
    events_of,
    kept_since,
    PostKept,
    posts_of,
)
from mailman_mta_pool.journal.queue_ids import queue_id_of, REPLY_FORMS
from mailman_mta_pool.journal.records import (
    begun_line,
    bounced_line,
    deferred_line,
    discarded_line,
    in_doubt_line,
    kept_parts,
    place_line,
    post_line,
    PostHead,
    served_line,
    text_in_line,
)
from mailman_mta_pool.wire.replies import Reply
from tempfile import TemporaryDirectory


ID = '<post@example.com>'
LIST_ID = 'ant.example.com'
RELAY = 'localhost:25'
NOON = 1767700800
DAY = 86400
MIB = 1024 * 1024
HEAD = PostHead(ID, LIST_ID, 3, NOON, 'anne@example.com')
QUEUED = text_in_line(
    Reply(250, (b'2.0.0 Ok: queued as 4dK3Xw2Yz1z5F',)))
EXCHANGE = (
    '250 2.6.0 <post@example.com> [InternalId=30034771116130, Hostname='
    'AM0PR01MB1234.eurprd01.prod.exchangelabs.com] 9301 bytes in 0.271, '
    '33.464 KB/sec Queued mail for delivery')
# The name of the server, what it says, and the id.
REPLIES = (
    ('Postfix', '250 2.0.0 Ok: queued as 4dK3Xw2Yz1z5F', '4dK3Xw2Yz1z5F'),
    ('Postfix', '250 2.0.0 Ok: queued as 0A3C41E0B9', '0A3C41E0B9'),
    ('Postfix', '250 2.0.0 from MTA(smtp:[127.0.0.1]:10025): 250 2.0.0 Ok: '
     'queued as 5A1B2C3D4E', '5A1B2C3D4E'),
    ('Exim', '250 OK id=1qXyZa-0001Ab-2C', '1qXyZa-0001Ab-2C'),
    ('Exim', '250 OK id=1rABCd-00000000abc-1XyZ', '1rABCd-00000000abc-1XyZ'),
    ('Sendmail', '250 2.0.0 38A7kl3b012345 Message accepted for delivery',
     '38A7kl3b012345'),
    ('Exchange', EXCHANGE, '30034771116130'),
    ('Gmail', '250 2.0.0 OK  1767700800 d2e1a72fcca58-6cb8a1f0abcsi123456pfb.'
     '12 - gsmtp', 'd2e1a72fcca58-6cb8a1f0abcsi123456pfb.12'),
    ('Amazon SES', '250 Ok 0102018c1a2b3c4d-11111111-2222-3333-4444-'
     '555555555555-000000',
     '0102018c1a2b3c4d-11111111-2222-3333-4444-555555555555-000000'),
    ('qmail', '250 ok 1767700800 qp 12345', '12345'),
    ('OpenSMTPD', '250 2.0.0 8f0c5c2a Message accepted for delivery',
     '8f0c5c2a'),
    ('Haraka', '250 Message Queued (59DA8C37-6B1A-4B4D-A3B3-1A5C3E1F2B4E.1)',
     '59DA8C37-6B1A-4B4D-A3B3-1A5C3E1F2B4E.1'),
    ('Courier', '250 Ok. 0000000000012345.00000000657F1234.0000ABCD',
     '0000000000012345.00000000657F1234.0000ABCD'),
    ('Stalwart', '250 2.0.0 Message queued with id 1a2b3c4d5e.', '1a2b3c4d5e'),
    ('KumoMTA', '250 OK ids=7a2c0d5e8f3b11ee9c2f', '7a2c0d5e8f3b11ee9c2f'),
    # Sendinblue, with Postfix's words and an id of its own.
    ('Postfix', '250 2.0.0 OK: queued as <2026.1.2@smtp-relay.mailin.fr>',
     '2026.1.2@smtp-relay.mailin.fr'),
    )


class TestQueueIds(unittest.TestCase):
    def test_servers(self):
        for server, reply, expected in REPLIES:
            with self.subTest(reply):
                found = queue_id_of(reply)
                self.assertEqual((found.form.server, found.text),
                                 (server, expected))
                for command in found.search:
                    self.assertIn(expected, command)

    def test_every_form_is_tried(self):
        self.assertEqual({server for server, *_ in REPLIES},
                         {form.server for form in REPLY_FORMS})

    def test_no_id(self):
        for reply in ('', '250', '250 Ok', '250 2.0.0 Ok', '250 ok dirdel',
                      '250 Queued (0.094 seconds)', '250 Great success'):
            with self.subTest(reply):
                self.assertIsNone(queue_id_of(reply))

    @settings(max_examples=200, deadline=None)
    @given(st.text(max_size=30))
    def test_nothing_for_the_shell(self, text):
        for beginning in ('250 2.0.0 Ok: queued as ', '250 OK id=',
                          '250 Message Queued ('):
            found = queue_id_of(f'{beginning}a{text}) - gsmtp')
            if found is not None:
                self.assertRegex(found.text, r'\A[\w.:=@+-]+\Z')
                self.assertTrue(found.text.isascii())


class KeptTestCase(unittest.TestCase):
    def setUp(self):
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.var = directory.name
        self.journals = os.path.join(self.var, 'mta_pool', 'journal')
        self.records = os.path.join(self.var, 'mta_pool', 'records')
        os.makedirs(self.journals)
        self.now = NOON

    def archive(self, period=10 * DAY, size=500, **options):
        return Archive(Keeping(self.records, period, size),
                       clock=lambda: self.now, **options)

    def write(self, *lines, name='1767700800.1+aa'):
        path = os.path.join(self.journals, name)
        with open(path, 'wb') as fp:
            fp.write(b''.join(lines))
        return path

    def journal(self, name='1767700800.1+aa', **options):
        journal = Journal(os.path.join(self.journals, name), details=True,
                          clock=lambda: self.now, **options)
        self.addCleanup(self.close, journal)
        return journal

    def close(self, journal):
        with suppress(OSError):
            journal.close()


class TestEvents(KeptTestCase):
    def test_nothing(self):
        self.assertEqual(events_of(self.var, ID), [])
        self.assertEqual(posts_of(self.var, ID), [])
        self.assertIsNone(kept_since(self.var))

    def test_each_outcome(self):
        journal = self.journal()
        journal.begin('0123', ['anne', 'bart', 'cate'], HEAD)
        journal.served(['Anne@example.com', 'bart@example.com'],
                       Reply(250, (b'2.0.0 Ok: queued as 4dK3',)), RELAY)
        self.now += 1.25
        journal.deferred(['cate@example.com'], 450, b'4.2.1 caf\xc3\xa9',
                         RELAY)
        journal.in_doubt(['dora@example.com'], RELAY)
        journal.bounced('elle@example.com', 550, b'5.1.1 No\nsuch', 'b:25')
        journal.discarded(['cate@example.com'])
        journal.served(['fred@example.com'], None, 'b:25')
        expected = [
            Event(f'{name}@example.com', 'accepted', NOON, RELAY,
                  '250 2.0.0 Ok: queued as 4dK3', '4dK3', LIST_ID)
            for name in ('Anne', 'bart')] + [
            Event('cate@example.com', 'deferred', NOON + 1, RELAY,
                  '450 4.2.1 café', '', LIST_ID),
            Event('dora@example.com', 'in doubt', NOON + 1, RELAY, '', '',
                  LIST_ID),
            Event('elle@example.com', 'refused', NOON + 1, 'b:25',
                  '550 5.1.1 No\nsuch', '', LIST_ID),
            Event('cate@example.com', 'discarded', NOON + 1, 'b:25', '', '',
                  LIST_ID),
            Event('fred@example.com', 'accepted', NOON + 1, 'b:25', '', '',
                  LIST_ID)]
        self.assertEqual(events_of(self.var, ID), expected)
        self.assertEqual(posts_of(self.var, ID), [
            PostKept(LIST_ID, 3, NOON, 'anne@example.com')])
        for message_id in ('post@example.com', ' <post@example.com> '):
            for address in ('anne@example.com', 'ANNE@Example.COM'):
                self.assertEqual(
                    events_of(self.var, message_id, address), expected[:1])
        self.assertEqual(events_of(self.var, '<other@example.com>'), [])
        # The record says the same, and both together do.
        path = journal.path
        self.archive().keep(path)
        self.assertEqual(events_of(self.var, ID), expected)
        journal.remove()
        self.assertEqual(events_of(self.var, ID), expected)
        self.assertEqual(posts_of(self.var, ID)[0].total, 3)

    def test_as_long_as_there_are_details(self):
        # What an older release has written is read as far as it goes.
        self.write(served_line(['anne@example.com']),
                   post_line(HEAD), b'["unheard of",1]\n', b'["served"]\n',
                   b'["at"]\n', b'["bounced","bart@example.com"]\n',
                   bounced_line('cate@example.com', 550, b'No'),
                   b'["served","torn@exam')
        self.assertEqual(
            [event[:3] for event in events_of(self.var, ID)],
            [('anne@example.com', 'accepted', 0.0),
             ('cate@example.com', 'refused', NOON)])

    def test_several_entries_and_lists(self):
        self.write(post_line(HEAD._replace(total=1, time=NOON + 60)),
                   served_line(['anne@example.com']), name='1.1+aa')
        self.write(post_line(HEAD._replace(total=9)), name='1.2+bb')
        self.write(post_line(HEAD._replace(list_id='bee.example.com')),
                   name='1.3+cc')
        self.write(post_line(HEAD._replace(message_id='<x>')), name='1.4+dd')
        self.assertEqual(
            [post[:3] for post in posts_of(self.var, ID)],
            [(LIST_ID, 9, NOON), ('bee.example.com', 3, NOON)])

    @settings(max_examples=60, deadline=None)
    @given(st.binary(max_size=200))
    def test_any_file(self, octets):
        path = self.write(post_line(HEAD), octets)
        events_of(self.var, ID)
        self.archive().keep(path)
        events_of(self.var, ID)
        os.makedirs(self.records, exist_ok=True)
        with open(os.path.join(self.records, prefix_of(ID) + 'x.gz'),
                  'wb') as fp:
            fp.write(octets)
        events_of(self.var, ID)
        posts_of(self.var, ID)

    def test_a_record_that_was_cut_off(self):
        rng = random.Random(15)
        names = [f'{rng.getrandbits(64):x}@example.com' for _ in range(2000)]
        self.write(post_line(HEAD), *(served_line([n]) for n in names))
        archive = self.archive()
        archive.keep(os.path.join(self.journals, '1767700800.1+aa'))
        os.unlink(os.path.join(self.journals, '1767700800.1+aa'))
        name, = os.listdir(self.records)
        path = os.path.join(self.records, name)
        os.truncate(path, os.path.getsize(path) // 2)
        found = [event.address for event in events_of(self.var, ID)]
        self.assertEqual(found, names[:len(found)])
        self.assertGreater(len(found), 500)


class TestArchive(KeptTestCase):
    def test_great_journal(self):
        # It is not read as a whole, and what is reserved is left out.
        rng = random.Random(15)
        names = [f'{rng.getrandbits(64):x}@example.com' for _ in range(50_000)]
        path = self.write(
            post_line(HEAD), *(served_line([name], QUEUED) for name in names),
            bytes(3 << 20))
        tracemalloc.start()
        try:
            self.archive().keep(path)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        self.assertLess(peak, os.path.getsize(path) / 4)
        os.unlink(path)
        self.assertEqual(
            [event.address for event in events_of(self.var, ID)], names)

    def keep(self, archive, *lines, name='1767700800.1+aa'):
        path = self.write(*lines, name=name)
        archive.keep(path)
        os.unlink(path)
        return os.path.join(self.records, f'{prefix_of(ID)}{name}.gz')

    def test_file(self):
        previous = os.umask(0)
        try:
            path = self.keep(self.archive(), post_line(HEAD),
                             served_line(['anne@example.com'], QUEUED))
        finally:
            os.umask(previous)
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
        self.assertEqual(stat.S_IMODE(os.stat(self.records).st_mode), 0o700)
        self.assertEqual(os.listdir(self.records), [os.path.basename(path)])
        with gzip.open(path) as fp:
            self.assertIn(b'anne@example.com', fp.read())

    def test_what_is_not_kept(self):
        for lines in (
                # Nothing of anybody.
                (post_line(HEAD), place_line(NOON, RELAY)),
                # That is of an older release, or of no post.
                (served_line(['anne@example.com']),)):
            self.keep(self.archive(), *lines)
        self.keep(self.archive(period=0), post_line(HEAD),
                  served_line(['anne@example.com']))
        self.assertEqual(os.listdir(self.records), [])

    def test_who_is_in_another_entry_is_not_kept(self):
        # There is such a line with each attempt, for weeks.
        lines = (post_line(HEAD), in_doubt_line(['anne@example.com']),
                 deferred_line(['bart@example.com'], 450, b'No'),
                 discarded_line(['bart@example.com']))
        self.assertEqual(
            b''.join(kept_parts(io.BytesIO(
                b'["entry","0123"]\n' + b''.join(lines) +
                b'["handing over","01","bart@example.com"]\n'
                b'["handed","01"]\n'))), b''.join(lines))

    def test_lines_of_any_length(self):
        names = [f'{number}@example.com' for number in range(20_000)]
        lines = (deferred_line(names, 450, b'No'), served_line(names[:3]),
                 discarded_line(names[3:]))
        for torn in (b'', b'\0' * 200_000, b'\0' * 200_000 + b'\n'):
            text = (begun_line('01', names) + lines[0] + lines[1] + lines[2] +
                    torn)
            self.assertEqual(
                b''.join(kept_parts(io.BytesIO(text))), b''.join(lines))

    def age(self, path, made):
        os.utime(path, (made, made))

    def test_sweep_by_age(self):
        archive = self.archive()
        for number in range(4):
            self.age(self.keep(
                archive, post_line(HEAD), served_line(['anne@example.com']),
                name=f'{number}.1+aa'), NOON - 4 * DAY * number)
        self.assertEqual(kept_since(self.var), NOON - 12 * DAY)
        archive.sweep()
        self.assertEqual(kept_since(self.var), NOON - 8 * DAY)
        self.archive(period=0).sweep()
        self.assertEqual(os.listdir(self.records), [])

    def test_sweep_by_size(self):
        archive = self.archive(size=1)
        names = [f'{number:x}@{random.getrandbits(400):x}'
                 for number in range(8000)]
        paths = [self.keep(archive, post_line(HEAD), served_line(names),
                           name=f'{number}.1+aa') for number in range(4)]
        octets = os.path.getsize(paths[0])
        self.assertTrue(MIB / 3 < octets < MIB / 2)
        for age, path in enumerate(paths):
            self.age(path, NOON - age)
        self.archive(size=0).sweep()
        self.assertEqual(len(os.listdir(self.records)), 4)
        archive.sweep()
        self.assertEqual(
            [os.path.exists(path) for path in paths],
            [True, True, False, False])

    def test_what_a_crash_has_left(self):
        os.makedirs(self.records)
        for name, age in (('.making-old', 7200), ('.making-new', 60)):
            path = os.path.join(self.records, name)
            with open(path, 'wb'):
                self.age(path, NOON - age)
        self.archive().sweep()
        self.assertEqual(os.listdir(self.records), ['.making-new'])

    def test_once_an_hour(self):
        seconds = [100.0]
        archive = self.archive(timer=lambda: seconds[0])
        swept = []
        archive.sweep = lambda: swept.append(seconds[0])
        for seconds[0] in (100.0, 101.0, 3699.0, 3700.0, 3701.0):
            archive.sweep_hourly()
        self.assertEqual(swept, [100.0, 3700.0])

    def test_no_room(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        archive = self.archive()
        lines = post_line(HEAD), served_line(['anne@example.com'])
        paths = [self.write(*lines, name=f'{number}.1+aa')
                 for number in range(2)]
        with self.assertLogs('mailman.smtp', 'ERROR') as logged:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
            try:
                for path in paths:
                    archive.keep(path)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        self.assertEqual(len(logged.output), 1)
        self.assertIn(self.records, logged.output[0])
        self.assertEqual(os.listdir(self.records), [])
        archive.keep(paths[0])
        self.assertEqual(len(os.listdir(self.records)), 1)

    def test_octets_of_a_recipient(self):
        # What Postfix says to each of a VERP'd post, and addresses that have
        # nothing in common.
        rng = random.Random(15)

        def word(letters, length):
            return ''.join(rng.choices(letters, k=length))
        journal = self.journal()
        names = [f'{word(string.ascii_lowercase, rng.randint(5, 12))}@'
                 f'{word(string.ascii_lowercase, rng.randint(5, 12))}.example'
                 for _ in range(20000)]
        journal.begin('0123', names, HEAD)
        for number, name in enumerate(names):
            self.now = NOON + number // 5000
            queue_id = word(string.digits + string.ascii_letters, 13)
            journal.served([name], Reply(250, (
                f'2.0.0 Ok: queued as {queue_id}'.encode(),)), RELAY)
        self.archive().keep(journal.path)
        name, = os.listdir(self.records)
        octets = os.path.getsize(os.path.join(self.records, name))
        self.assertLess(octets / len(names), 80)
        journal.remove()
        event, = events_of(self.var, ID, names[12345])
        self.assertEqual(event.time, NOON + 2)
