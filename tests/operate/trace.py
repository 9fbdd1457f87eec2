# SPDX-License-Identifier: GPL-3.0-or-later
"""`mailman mta-pool trace`, with real runners: each of its answers."""

import os
import gzip
import json
import stat
import time

from collections import Counter
from itertools import count
from mailman.interfaces.listmanager import IListManager
from mailman.interfaces.member import DeliveryMode, DeliveryStatus
from mailman_mta_pool.demo.population import create_list, people
from tests.fault.rounds import numbered
from tests.operate.command import mta_pool
from tests.scripted import CLOSE, HANG, Scripted
from tests.site import LIST, POST, Site
from tests.site_case import SiteTestCase
from zope.component import getUtility


ID = 'post@example.com'
DAY = 86400


def set_preferences(values):
    """Set preferences of members, in a process of the site."""
    mlist = getUtility(IListManager).get(LIST)
    for address, (name, value) in values.items():
        member = mlist.members.get_member(address)
        setattr(member.preferences, name, value)


def queued_as(numbers):
    """Return what Postfix says at the end of the content, each time anew."""
    return f'250 2.0.0 Ok: queued as 4dK3Xw{next(numbers):05}'


class TraceTestCase(SiteTestCase):
    def run_trace(self, site, *arguments):
        """Return the exit status and what was printed, with both streams."""
        done = mta_pool(site, 'trace', *arguments)
        output, error = done.output.decode(), '\n'.join(done.errors)
        self.assertNotIn('\x1b', output)
        self.assertNotIn('Traceback', error)
        return done.status, output, error

    def trace(self, site, *arguments):
        """Return what is known, by address, from the JSON."""
        status, output, error = self.run_trace(site, *arguments, '--json')
        self.assertEqual((status, error), (0, ''))
        answer = json.loads(output)
        self.assertEqual(sorted(answer), [
            'message_id', 'recipients', 'version'])
        self.assertEqual(answer['version'], 1)
        found = {}
        for recipient in answer['recipients']:
            self.assertEqual(sorted(recipient), [
                'address', 'outcome', 'queue_id', 'reason', 'relay', 'reply',
                'time'])
            # Nobody is there twice.
            self.assertNotIn(recipient['address'], found)
            found[recipient['address']] = recipient
        return found

    def trace_one(self, site, address, message_id=ID):
        """Return what is known of one, from the JSON."""
        recipient, = self.trace(site, message_id, address).values()
        return recipient

    def outcomes(self, found):
        return Counter(each['outcome'] for each in found.values())

    def records(self, site):
        directory = site.var / 'mta_pool' / 'records'
        return sorted(directory.iterdir()) if directory.is_dir() else []

    def wait_for_records(self, site, number):
        site.wait_for(lambda: len(self.records(site)) == number and not any(
            (site.var / 'mta_pool' / 'journal').iterdir()), 'the records')


class TestAnswers(TraceTestCase):
    def test_what_the_server_said(self):
        numbers, members = count(1), list(people(8))
        accepted, refused, deferred, doubtful = [
            email.lower() for email, _ in members[:4]]

        def script(command, session):
            if command == f'RCPT TO:<{refused}>':
                return '550 5.1.1 No such ant'
            if command == f'RCPT TO:<{deferred}>':
                return '450 4.2.1 Not\n450 now'
            if command == '.':
                if session.recipients == [doubtful]:
                    return CLOSE
                return queued_as(numbers)
        server = self.use(Scripted(script))
        site = self.site(server, members=members, max_delivery_threads=1)
        before = time.time()
        site.run({'verp': True})
        after = time.time()
        self.assertEqual(site.bounced(), [refused])
        record, = self.records(site)
        self.assertEqual(stat.S_IMODE(record.stat().st_mode), 0o600)
        found = self.trace(site, ID)
        self.assertEqual(sorted(found), sorted(site.members))
        self.assertEqual(self.outcomes(found), {
            'accepted': 5, 'refused': 1, 'deferred': 1, 'in doubt': 1})
        relay = f'{server.host}:{server.port}'
        for each in found.values():
            self.assertEqual(each['relay'], relay)
            self.assertTrue(int(before) <= each['time'] <= after)
        # The server numbered them as they came.
        said = [message.recipients[0] for message in server.accepted]
        for number, address in enumerate(said, 1):
            queue_id = f'4dK3Xw{found[address]["queue_id"][6:]}'
            self.assertEqual(found[address]['queue_id'], queue_id)
            self.assertEqual(found[address]['reply'],
                             f'250 2.0.0 Ok: queued as {queue_id}')
        self.assertEqual(
            len({found[address]['queue_id'] for address in said}), 5)
        self.assertEqual(found[refused]['reply'], '550 5.1.1 No such ant')
        self.assertEqual(found[deferred]['reply'], '450 4.2.1 Not\nnow')
        for address in deferred, doubtful:
            self.assertIn('in the retry queue; next try by',
                          found[address]['reason'])
        self.assertIn('may arrive twice', found[doubtful]['reason'])
        self.check_text(site, accepted, refused, found)
        self.assertQuiet(site)

    def check_text(self, site, accepted, refused, found):
        queue_id = found[accepted]['queue_id']
        for message_id, address in (
                (ID, accepted), (f'<{ID}>', accepted.upper())):
            status, output, _ = self.run_trace(site, message_id, address)
            self.assertEqual(status, 0)
            for text in (f'<{ID}> to {accepted}', 'accepted ',
                         found[accepted]['relay'], found[accepted]['reply'],
                         f'grep {queue_id} /var/log/mail.log',
                         f"journalctl -u 'postfix*' -g {queue_id}"):
                self.assertIn(text, output)
        status, output, _ = self.run_trace(site, ID)
        self.assertIn('5 accepted', output)
        self.assertIn(f'{refused}: 550 5.1.1 No such ant', output)
        self.assertIn('450 4.2.1 Not now', output)
        # Whoever got it is not listed.
        self.assertNotIn(accepted, output)

    def test_waiting(self):
        site = self.site(members=25, settings={'delivery': {'patience': 0}})
        site.run({'verp': True})
        self.assertEqual(sorted(site.waiting()), ['retry'])
        status, output, _ = self.run_trace(site, ID)
        self.assertEqual(status, 0)
        self.assertIn('25 waiting', output)
        # A screen shows so many, and not a big list that waits.
        self.assertEqual(output.count('waiting   '), 20)
        self.assertIn('(5 more; --json has all)', output)
        for each in self.trace(site, ID).values():
            self.assertEqual(each['outcome'], 'waiting')
            self.assertIn('in the retry queue; next try by', each['reason'])
        # Every retry would add to the records what nobody needs.
        self.assertEqual(self.records(site), [])

    def test_not_yet(self):
        site = self.site(members=3)
        site.post()
        each = self.trace_one(site, site.members[0])
        self.assertEqual(each['outcome'], 'waiting')
        self.assertIn('in the out queue', each['reason'])

    def test_two_lists(self):
        # The same post, and so the same Message-ID.
        server = self.use(Scripted(
            lambda command, session: '450 4.2.1 Not now'
            if command.startswith('RCPT') and len(server.accepted) >= 3
            else None))
        site = self.site(server, members=3)
        site.call(create_list, 'bee@example.com', [])
        site.run({'verp': True})
        site.enqueue(POST, 'bee@example.com', verp=True,
                     recipients=set(site.members[:2]))
        site.run()
        both, _, one = site.members
        status, output, _ = self.run_trace(site, ID, both.upper(), '--json')
        self.assertEqual(status, 0)
        self.assertEqual(
            [(each['address'], each['outcome'],
              each['reason'].partition(':')[0])
             for each in json.loads(output)['recipients']],
            [(both, 'accepted', 'to ant.example.com'),
             (both, 'deferred', 'to bee.example.com')])
        status, output, _ = self.run_trace(site, ID, both)
        self.assertEqual(output.count(both), 1)
        self.assertRegex(
            output, r'(?s)accepted .*to ant\.example.*deferred .*to bee\.')
        each = self.trace_one(site, one)
        self.assertEqual((each['outcome'], each['reason']), (
            'accepted', 'to ant.example.com'))
        status, output, _ = self.run_trace(site, ID)
        self.assertIn('       3 accepted\n       2 deferred', output)

    def test_shunted_and_sent_again(self):
        def script(command, session):
            if command.startswith('MAIL') and server.connections < 2:
                return '552 5.3.4 Too big'
        server = self.use(Scripted(script))
        site = self.site(server, members=3, max_delivery_threads=1,
                         settings={'pool': {'idle_timeout': 0}})
        site.run({})
        self.assertEqual(sorted(site.waiting()), ['shunt'])
        for each in self.trace(site, ID).values():
            self.assertEqual(each['outcome'], 'shunted')
            self.assertEqual(each['reply'], '552 5.3.4 Too big')
            self.assertIn('mailman unshunt', each['reason'])
        site.mailman('unshunt')
        site.run()
        self.assertEqual(
            self.outcomes(self.trace(site, ID)), {'accepted': 3})

    def test_discarded(self):
        # With some refused for good we put the others into the retry queue,
        # otherwise Mailman does, and each of us discards them.
        for ours in False, True:
            with self.subTest(ours=ours):
                self.check_discarded(ours)

    def check_discarded(self, ours):
        site = None

        def script(command, session):
            if command.startswith('RCPT'):
                if ours and f'<{site.members[0]}>' in command:
                    return '550 5.1.1 No such ant' if tries == 2 else (
                        '450 4.2.2 Full')
                return '450 4.2.2 Full'
        tries = 1
        server = self.use(Scripted(script))
        site = self.site(server, members=4, delivery_retry_period='0s')
        site.run({'verp': True})
        self.assertEqual(len(site.waiting()['retry']), 4)
        while site.waiting():
            tries += 1
            site.retry()
            site.run()
        self.assertIn('Discarding message', site.log('smtp.log'))
        found = self.trace(site, ID)
        self.assertEqual(self.outcomes(found), (
            {'refused': 1, 'discarded': 3} if ours else {'discarded': 4}))
        each = found[site.members[1]]
        self.assertEqual(each['reply'], '450 4.2.2 Full')
        self.assertIn('delivery_retry_period', each['reason'])

    def test_not_a_recipient(self):
        server = self.use(Scripted())
        site = self.site(server, members=[
            (f'{name}@example.com', name) for name in (
                'anne', 'bart', 'cate', 'dora', 'elle', 'fred', 'gwen')])
        site.call(set_preferences, {
            'bart@example.com': ('delivery_mode', DeliveryMode.mime_digests),
            'cate@example.com': ('delivery_status', DeliveryStatus.by_user),
            'dora@example.com': (
                'delivery_status', DeliveryStatus.by_bounces),
            'elle@example.com': (
                'delivery_status', DeliveryStatus.by_moderator),
            'anne@example.com': ('receive_own_postings', False),
            })
        site.run({'recipients': {'fred@example.com'}})
        for name, text in (
                ('anne', 'receive_own_postings'), ('bart', 'digests'),
                ('cate', 'by the member'), ('dora', 'bounced'),
                ('elle', 'by a moderator'), ('gwen', 'subscribed'),
                ('zoe', 'no member of ant@example.com')):
            with self.subTest(name):
                each = self.trace_one(site, f'{name}@Example.com')
                self.assertEqual(each['outcome'], 'not a recipient')
                self.assertIn(text, each['reason'])
        status, output, _ = self.run_trace(site, ID, 'zoe@example.com')
        self.assertEqual(status, 0)
        self.assertIn('no member', output)

    def test_nothing_known(self):
        server = self.use(Scripted())
        for settings, text in (
                ({}, 'there are no records yet'),
                ({'keep_records': 0}, 'keep_records is 0')):
            site = self.site(server, members=3,
                             settings={'delivery': settings})
            self.assertNothingKnown(site, text)
        # None is kept, and nothing more is written than before.
        site.run({'verp': True})
        self.assertEqual(self.records(site), [])
        self.assertNothingKnown(site, 'keep_records is 0')
        # A mistake in the file keeps nobody from asking.
        (site.directory / 'mta_pool.cfg').write_text('[delivery]\nx: y\n')
        status, output, error = self.run_trace(site, ID)
        self.assertEqual((status, output), (1, ''))
        self.assertIn(f'Nothing is known of <{ID}>', error)

    def test_in_delivery_without_records(self):
        server = self.use(Scripted(
            lambda command, session: HANG
            if command == '.' and len(server.accepted) == 3 else None))
        site = self.site(server, members=9, max_delivery_threads=1,
                         settings={'delivery': {'keep_records': 0}})
        site.post(verp=True)
        runner = site.start_runner()
        site.wait_for(
            lambda: self.outcomes(self.trace(site, ID)) == {
                'accepted': 3, 'waiting': 6}, 'what the server has accepted')
        runner.kill()
        self.assertEqual(self.outcomes(self.trace(site, ID)), {
            'accepted': 3, 'waiting': 6})

    def assertNothingKnown(self, site, text):
        status, output, error = self.run_trace(site, ID)
        self.assertEqual((status, output), (1, ''))
        self.assertEqual(len(error.splitlines()), 1)
        self.assertIn(text, error)
        status, output, error = self.run_trace(
            site, ID, 'anne@example.com', '--json')
        self.assertEqual((status, error), (1, ''))
        each, = json.loads(output)['recipients']
        self.assertEqual(each['outcome'], 'unknown')
        self.assertIn(text, each['reason'])

    def test_usage(self):
        site = self.site(members=3)
        status, _, error = self.run_trace(site)
        self.assertEqual(status, 2)
        self.assertIn('MESSAGE-ID', error)

    def test_no_rights(self):
        server = self.use(Scripted())
        site = self.site(server, members=3)
        site.run({})
        record, = self.records(site)
        # Even root cannot read a directory as a file.
        record.unlink()
        record.mkdir()
        status, output, error = self.run_trace(site, ID)
        self.assertEqual((status, output), (1, ''))
        self.assertEqual(len(error.splitlines()), 1)
        self.assertIn(str(record), error)

    def test_older_than_what_is_kept(self):
        server = self.use(Scripted())
        site = self.site(server, members=3)
        site.run({})
        record, = self.records(site)
        old = time.time() - 11 * DAY
        os.utime(record, (old, old))
        site.run({'content': numbered(2)})
        self.assertFalse(record.exists())
        status, _, error = self.run_trace(site, ID)
        self.assertEqual(status, 1)
        self.assertIn('the oldest record is of', error)
        self.assertEqual(self.outcomes(
            self.trace(site, 'post-2@example.com')), {'accepted': 3})


class TestKilled(TraceTestCase):
    """In the middle of a delivery, and after SIGKILL."""

    def test_at_any_time(self):
        numbers, begun = count(1), count(1)

        def script(command, session):
            if command.startswith('MAIL') and next(begun) > 20:
                return HANG
            if command == '.':
                return queued_as(numbers)
        server = self.use(Scripted(script))
        site = self.site(server, members=60, max_delivery_threads=2)
        site.post(verp=True)
        runner = site.start_runner()
        server.wait_for(lambda server: len(server.accepted) == 20)

        def check():
            found = self.trace(site, ID)
            self.assertEqual(sorted(found), sorted(site.members))
            accepted = [address for address, each in found.items()
                        if each['outcome'] == 'accepted']
            self.assertEqual(sorted(accepted), sorted(server.served))
            return found
        site.wait_for(
            lambda: self.outcomes(self.trace(site, ID))['accepted'] == 20,
            'the last line of the journal')
        first = check()
        self.assertEqual(self.outcomes(first), {
            'accepted': 20, 'waiting': 40})
        runner.kill()
        self.assertEqual(check(), first)
        mended = self.use(Scripted())
        site.set_up(mended)
        site.run()
        self.wait_for_records(site, 2)
        found = self.trace(site, ID)
        self.assertEqual(self.outcomes(found), {'accepted': 60})
        # What was known before still is.
        for address in server.served:
            self.assertEqual(found[address], first[address])

    def test_between_journal_and_record(self):
        # The runner was killed when the one was there and the other was not
        # yet, or when the one was there still.
        server = self.use(Scripted())
        site = self.site(server, members=5)
        for number in (1, 2):
            site.run({'content': numbered(number), 'verp': True})
        first, second = sorted(self.records(site), key=os.path.getmtime)
        for record in first, second:
            name = record.stem.partition('-')[2]
            (site.var / 'mta_pool' / 'journal' / name).write_bytes(
                gzip.decompress(record.read_bytes()))
        second.unlink()
        ids = [f'post-{number}@example.com' for number in (1, 2)]
        before = [self.trace(site, each) for each in ids]
        site.run({'content': numbered(3), 'verp': True})
        self.wait_for_records(site, 3)
        self.assertEqual([self.trace(site, each) for each in ids], before)
        for found in before:
            self.assertEqual(self.outcomes(found), {'accepted': 5})

    def test_time_slices(self):
        # Each turn ends with a record of its own.
        server = self.use(Scripted(delay=0.005))
        site = self.site(
            server, members=120, max_delivery_threads=1,
            settings={'delivery': {'time_slice': '1s'}})
        site.run({'content': numbered(1), 'verp': True},
                 {'content': numbered(2), 'verp': True})
        self.assertGreater(len(self.records(site)), 2)
        for number in (1, 2):
            found = self.trace(site, f'post-{number}@example.com')
            self.assertEqual(self.outcomes(found), {'accepted': 120})

    def test_many(self):
        # One address of 20,000, of whom each has a transaction.
        numbers = count(1)
        server = self.use(Scripted(
            lambda command, session:
            queued_as(numbers) if command == '.' else None))
        site = self.use(Site(server, members=2000))
        # The database is the same, and the queue entry as big.
        many = set(site.members) | {
            f'Member-{number}@example.net' for number in range(18000)}
        site.post(POST, verp=True, recipients=many)
        runner = site.start_runner()
        site.wait_until_empty(timeout=170)
        runner.stop()
        address = 'Member-17999@example.net'
        begun = time.monotonic()
        each = self.trace_one(site, address)
        print(f'\nfound in {time.monotonic() - begun:.2f} s')
        self.assertEqual((each['address'], each['outcome']),
                         (address, 'accepted'))
        self.assertRegex(each['queue_id'], '^4dK3Xw')
        record, = self.records(site)
        self.assertLess(record.stat().st_size / len(many), 80)
