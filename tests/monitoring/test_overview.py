# SPDX-License-Identifier: GPL-3.0-or-later
"""What `status` shows of state files and queues, and what it advises."""

import os
import json
import unittest

from dataclasses import replace
from importlib.resources import files
from jsonschema import Draft202012Validator
from mailman.core.switchboard import Switchboard
from mailman_mta_pool.demo.population import as_queued
from mailman_mta_pool.monitoring.files import state_directory, write_whole
from mailman_mta_pool.monitoring.overview import overview
from mailman_mta_pool.monitoring.state import (
    Failures,
    OUTCOMES,
    PostState,
    RelayState,
    SliceState,
)
from tempfile import TemporaryDirectory
from tests.site import LIST, LIST_ID, POST


NOW = 1_764_200_000.0
POST_ID = '<post@example.com>'
RELAY = '192.0.2.1:25'
BUSY = '450 4.3.2 too busy'
SCHEMA = Draft202012Validator(json.loads(files(
    'mailman_mta_pool.monitoring').joinpath(
    'status.schema.json').read_text('utf-8')))


def outcomes(**counts):
    return {**dict.fromkeys(OUTCOMES, 0), **counts}


def post(total, accepted, entry='', **values):
    return PostState(
        entry, message_id=POST_ID, list_name=LIST, total=total,
        outcomes=outcomes(accepted=accepted),
        **{'started': NOW - 60, **values})


def working(name, *posts, **values):
    return SliceState(slice=name, software='1.0', working=True,
                      posts=list(posts), **{'written': NOW - 1, **values})


def resting(name, *posts, **values):
    return SliceState(slice=name, software='1.0', last_posts=list(posts),
                      **{'written': NOW - 1, **values})


class OverviewTestCase(unittest.TestCase):
    def setUp(self):
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.var = directory.name
        self.queue_root = os.path.join(self.var, 'queue')

    def write(self, *states):
        directory = state_directory(self.var)
        os.makedirs(directory, exist_ok=True)
        for state in states:
            write_whole(os.path.join(directory, f'{state.slice}.json'),
                        state.to_json(), 0o600)

    def enqueue(self, queue, count, age=0.0, extension='.pck', **msgdata):
        """Put an entry into a queue.

        :return: Its name.
        """
        directory = os.path.join(self.queue_root, queue)
        os.makedirs(directory, exist_ok=True)
        name = Switchboard(queue, directory).enqueue(*as_queued(
            POST, LIST_ID, recipients=set(map(str, range(count))), **msgdata))
        new = f'{NOW - age}+{name.partition("+")[2]}'
        os.rename(os.path.join(directory, f'{name}.pck'),
                  os.path.join(directory, f'{new}{extension}'))
        return new

    def values(self, now=NOW, **options):
        """Return what `status --json` says."""
        values = overview(
            self.var, self.queue_root, now, **options).to_dict()
        # As a reader of the text has it.
        values = json.loads(json.dumps(values))
        SCHEMA.validate(values)
        return values

    def post(self, now=NOW):
        values, = self.values(now)['posts']
        return values

    def relay(self, now=NOW):
        values, = self.values(now)['relays']
        return values


class TestSchema(unittest.TestCase):
    def test_it_is_one(self):
        Draft202012Validator.check_schema(SCHEMA.schema)


class TestPosts(OverviewTestCase):
    def test_in_delivery(self):
        self.write(working('out-0-of-1', post(1000, 400, rate=20.0)))
        self.assertEqual(self.post(), {
            'message_id': POST_ID, 'list': LIST, 'total': 1000,
            'accepted': 400, 'rate': 20.0, 'time_left': 30.0,
            'started': NOW - 60, 'slice': 'out-0-of-1', 'stalled': False,
            'outcomes': outcomes(accepted=400), 'waits_for': ''})

    def test_what_it_waits_for(self):
        one = replace(post(600, 100, origin='1'), waits_for='a limit')
        other = replace(post(400, 50, origin='2'), waits_for='a connection')
        for second, words in (
                (other, 'a limit, a connection'), (replace(
                    other, waits_for='a limit'), 'a limit'),
                # That part goes out.
                (replace(other, waits_for=''), '')):
            with self.subTest(words):
                self.write(working('out-0-of-2', one),
                           working('out-1-of-2', second))
                self.assertEqual(self.post()['waits_for'], words)

    def test_no_rate(self):
        self.write(working('out-0-of-1', post(1000, 0)))
        self.assertIsNone(self.post()['time_left'])

    def test_time_left_for_those_who_are_not_settled(self):
        of_all = outcomes(accepted=400, refused=100, deferred=50)
        self.write(working('out-0-of-1', replace(
            post(1000, 0, rate=10.0), outcomes=of_all)))
        self.assertEqual(self.post()['time_left'], 50.0)

    def test_parts_in_two_slices(self):
        self.write(
            working('out-0-of-2', post(600, 100, origin='1', rate=5.0)),
            working('out-1-of-2', post(400, 50, origin='2', rate=3.0,
                                       started=NOW - 90)))
        values = self.post()
        self.assertEqual(
            (values['total'], values['accepted'], values['rate'],
             values['slice'], values['started']),
            (1000, 150, 8.0, 'out-0-of-2, out-1-of-2', NOW - 90))

    def test_part_that_has_ended_in_the_other_slice(self):
        self.write(
            working('out-0-of-2', post(600, 100, origin='1')),
            resting('out-1-of-2', post(400, 400, origin='2', ended=NOW - 5)))
        values = self.values()
        self.assertEqual(values['posts'][0]['total'], 1000)
        self.assertEqual(values['posts'][0]['accepted'], 500)
        self.assertEqual(values['last_posts'], [])

    def test_the_other_slice_had_the_same_entry_before(self):
        self.write(
            working('out-0-of-2', post(1000, 700, origin='1')),
            resting('out-1-of-2', post(1000, 600, origin='1', ended=NOW - 5)))
        values = self.post()
        self.assertEqual((values['total'], values['accepted']), (1000, 700))

    def enqueue_part(self, count, origin, total, **counts):
        return self.enqueue('out', count, mta_pool_progress={
            'origin': origin, 'total': total, 'outcomes': counts,
            'causes': []})

    def test_parts_that_wait(self):
        # One is new, one is between two turns, and one is in delivery.
        self.enqueue_part(300, '1', 300)
        self.enqueue_part(150, '2', 250, accepted=90, refused=10)
        self.enqueue_part(200, '3', 200)
        self.write(working('out-0-of-1', post(200, 20, origin='3', rate=1.0)))
        values = self.post()
        self.assertEqual((values['total'], values['accepted']), (750, 110))
        self.assertEqual(values['time_left'], 630)
        self.assertEqual(values['slice'], 'out-0-of-1')

    def test_part_that_is_being_put_back(self):
        self.enqueue_part(150, '1', 250, accepted=90)
        self.enqueue_part(150, '1', 250, accepted=100)
        self.write(working('out-0-of-1', post(250, 100, origin='1')))
        self.assertEqual(self.post()['total'], 250)

    def test_nobody_has_a_turn(self):
        self.enqueue_part(150, '1', 250, accepted=100)
        self.write(resting('out-0-of-1', post(200, 200, origin='2', ended=1)))
        values = self.values()
        self.assertEqual((values['posts'], values['last_posts']), ([], []))

    def test_entries_of_others(self):
        for progress in (None, {}, {'origin': '1'}, {
                'origin': 1, 'total': 2, 'outcomes': {}}, {
                'origin': '1', 'total': 2, 'outcomes': {'accepted': 'x'}}):
            self.enqueue('out', 3, mta_pool_progress=progress)
        self.write(working('out-0-of-1', PostState(
            message_id=POST_ID, list_name='bee@example.com', total=5)))
        self.enqueue_part(150, '1', 250, accepted=100)
        self.assertEqual(self.post()['total'], 5)

    def test_last_post_that_two_slices_had(self):
        self.write(
            resting('out-0-of-2', post(1000, 900, origin='1', ended=NOW - 5)),
            resting('out-1-of-2', post(1000, 600, origin='1', ended=NOW - 9),
                    post(10, 10, ended=NOW - 20)))
        last, = self.values()['last_posts']
        self.assertEqual((last['total'], last['accepted'], last['ended']),
                         (1010, 910, NOW - 5))

    def test_last_posts_are_in_order(self):
        self.write(
            resting('out-0-of-2', *(
                PostState(message_id=f'<{number}@example.com>', ended=number)
                for number in (40, 20))),
            resting('out-1-of-2', *(
                PostState(message_id=f'<{number}@example.com>', ended=number)
                for number in (30, 10))))
        self.assertEqual(
            [last['ended'] for last in self.values()['last_posts']],
            [40, 30, 20, 10])

    def test_failures(self):
        several = Failures('deferred', BUSY, 3), Failures('refused', 'no', 9)
        self.write(
            resting('out-0-of-2', post(20, 0, ended=NOW, failures=[
                *several])),
            resting('out-1-of-2', post(20, 0, ended=NOW, failures=[
                replace(several[0], count=8)])))
        last, = self.values()['last_posts']
        self.assertEqual(last['failures'], [
            {'outcome': 'deferred', 'reply': BUSY, 'count': 11},
            {'outcome': 'refused', 'reply': 'no', 'count': 9}])

    def test_killed(self):
        entry = self.enqueue('out', 1000, extension='.bak')
        self.write(working(
            'out-0-of-1', post(1000, 400, entry, rate=20.0),
            written=NOW - 11, relays=[RelayState(RELAY, connections=4)]))
        values = self.post()
        self.assertEqual((values['stalled'], values['rate'],
                          values['time_left']), (True, 0, None))
        self.assertEqual(self.relay()['connections'], 0)
        values = self.values()
        self.assertTrue(values['slices'][0]['stalled'])
        self.assertTrue(values['needs_operator'])
        self.assertIn('out-0-of-1 has stalled', values['advice'][0])
        self.assertIn('11 s', values['advice'][0])
        # Nine seconds are no reason.
        self.assertFalse(self.values(NOW - 2)['needs_operator'])

    def test_killed_and_put_aside_since(self):
        self.write(working('out-0-of-1', post(1000, 400, 'gone'),
                           written=NOW - 11))
        values = self.values()
        self.assertEqual(values['posts'], [])
        self.assertFalse(values['slices'][0]['working'])

    def test_no_message_id(self):
        unnamed = PostState(entry='a', total=5), PostState('b', total=7)
        self.write(working('out-0-of-1', *unnamed))
        self.assertEqual(
            sorted(each['total'] for each in self.values()['posts']), [5, 7])


class TestCounters(OverviewTestCase):
    def test_earlier_numbers_of_slices(self):
        self.write(
            resting('out-0-of-1', recipients=outcomes(accepted=5),
                    written=NOW - 100, minutes=[(1_764_199_980, 5)],
                    relays=[RelayState(RELAY, 'down', opened=7)]),
            working('out-0-of-2', recipients=outcomes(accepted=3, refused=1),
                    minutes=[(1_764_199_980, 3), (1_764_199_920, 1)],
                    relays=[RelayState(RELAY, 'up', opened=2)]),
            resting('out-1-of-2'))
        values = self.values()
        self.assertEqual(
            values['recipients'], outcomes(accepted=8, refused=1))
        self.assertEqual([each['name'] for each in values['slices']],
                         ['out-0-of-2', 'out-1-of-2'])
        self.assertEqual(values['minutes'],
                         [[1_764_199_920, 1], [1_764_199_980, 8]])
        self.assertEqual(
            (self.relay()['state'], self.relay()['opened']), ('up', 9))

    def test_minutes_of_the_last_hour(self):
        self.write(resting('out-0-of-1', minutes=[
            (1_764_196_320, 5), (1_764_196_380, 7)]))
        self.assertEqual(self.values()['minutes'], [[1_764_196_380, 7]])


class TestRelays(OverviewTestCase):
    def assertAdvice(self, words, needs_operator, now=NOW):
        values = self.values(now)
        self.assertEqual(values['needs_operator'], needs_operator)
        advice, = values['advice']
        self.assertIn(words, advice)

    def test_summed_over_slices(self):
        one = RelayState(RELAY, 'up', connections=4, idle=1, ceiling=8,
                         in_flight=20, rate=5.0, opened=7, reused=3, lost=2,
                         used=NOW - 1)
        self.write(working('out-0-of-2', relays=[one]),
                   working('out-1-of-2', relays=[one]))
        self.assertEqual(self.relay(), {
            'name': RELAY, 'state': 'up', 'reason': '', 'pause': 0.0,
            'connections': 8, 'idle': 2, 'ceiling': 16, 'in_flight': 40,
            'rate': 10.0, 'opened': 14, 'reused': 6, 'lost': 4,
            'used': NOW - 1})

    def test_no_limit_of_the_rate(self):
        self.write(
            working('out-0-of-2', relays=[RelayState(RELAY, rate=3.0)]),
            working('out-1-of-2', relays=[RelayState(RELAY)]))
        self.assertIsNone(self.relay()['rate'])

    def test_down(self):
        self.write(resting('out-0-of-1', relays=[
            RelayState(RELAY, 'down', '[connect] Connection refused')]))
        self.assertAdvice('`mailman mta-pool check`', True)
        self.assertAdvice('Connection refused', True)

    def test_paused(self):
        self.write(resting('out-0-of-1', relays=[
            RelayState(RELAY, 'paused', BUSY, pause=601.0)]))
        self.assertEqual(self.relay()['pause'], 600.0)
        self.assertAdvice('10 min', False)
        self.assertAdvice(BUSY, False)
        after = self.values(NOW + 601)
        self.assertEqual(after['relays'][0]['state'], 'up')
        self.assertEqual(after['advice'], [])

    def test_the_worst_of_two_slices(self):
        self.write(
            working('out-0-of-2', relays=[RelayState(RELAY, 'up')]),
            working('out-1-of-2', relays=[RelayState(RELAY, 'down', 'no')]))
        self.assertEqual((self.relay()['state'], self.relay()['reason']),
                         ('down', 'no'))

    def test_what_another_slice_found_out_since(self):
        self.write(
            working('out-0-of-2', relays=[
                RelayState(RELAY, 'up', used=NOW - 1)]),
            # It goes on writing while nothing is sent.
            resting('out-1-of-2', relays=[
                RelayState(RELAY, 'down', 'no', used=NOW - 600)]))
        self.assertEqual((self.relay()['state'], self.relay()['reason']),
                         ('up', ''))

    def test_connections_of_a_slice_that_was_killed_while_idle(self):
        self.write(resting('out-0-of-1', relays=[
            RelayState(RELAY, 'up', connections=4, idle=4)]))
        self.assertEqual(self.relay(NOW + 15)['connections'], 4)
        relay = self.relay(NOW + 60)
        self.assertEqual((relay['connections'], relay['idle']), (0, 0))

    def test_relay_of_earlier_settings(self):
        self.write(resting('out-0-of-1', relays=[
            RelayState(RELAY, 'up'), RelayState('old:25', opened=3)]))
        self.assertEqual(self.relay()['name'], RELAY)

    def relays(self, **named):
        return [(relay['name'], relay['state'], relay['ceiling'])
                for relay in self.values(named=named)['relays']]

    def test_all_relays_of_the_settings(self):
        # Also before the first post.
        rows = [('ses', 'unknown', 5), ('backup', 'unknown', 2)]
        self.assertEqual(self.relays(ses=5, backup=2), rows)
        self.write(resting('out-0-of-1', relays=[
            RelayState('backup', 'up', ceiling=2), RelayState('old', 'up'),
            RelayState('older', opened=3)]))
        self.assertEqual(self.relays(ses=5, backup=2), [
            rows[0], ('backup', 'up', 2), ('old', 'up', 0)])


class TestQueues(OverviewTestCase):
    def queue(self, name='out'):
        return self.values()['queues'][name]

    def test_empty(self):
        for name in ('out', 'retry', 'shunt', 'bad'):
            self.assertEqual(self.queue(name), {
                'entries': 0, 'recipients': 0, 'oldest_age': None})

    def test_those_who_are_left(self):
        entry = self.enqueue('out', 100, 30, '.bak')
        self.enqueue('out', 7)
        self.write(working('out-0-of-1', counted={
            entry: (40, 5), 'other': (9, 9)}))
        self.assertEqual(self.queue(), {
            'entries': 2, 'recipients': 62, 'oldest_age': 30.0})

    def test_two_slices_that_counted_the_same(self):
        entry = self.enqueue('out', 100)
        self.write(resting('out-0-of-2', counted={entry: (40, 5)}),
                   resting('out-1-of-2', counted={entry: (70, 5)}))
        self.assertEqual(self.queue()['recipients'], 25)

    def test_more_counted_than_there_are(self):
        entry = self.enqueue('out', 10)
        self.write(resting('out-0-of-1', counted={entry: (40, 5)}))
        self.assertEqual(self.queue()['recipients'], 0)


class TestAdvice(OverviewTestCase):
    def assertAdvice(self, needs_operator, *sentences, **options):
        """The advice has these words, in this order, and no others."""
        values = self.values(**options)
        self.assertEqual(values['needs_operator'], needs_operator)
        self.assertEqual(len(values['advice']), len(sentences), values)
        for advice, words in zip(values['advice'], sentences):
            self.assertIn(words, advice)
            self.assertTrue(advice.endswith('.'), advice)
            self.assertNotIn('\n', advice)

    def test_nothing_yet(self):
        self.assertAdvice(False, 'Nothing has been delivered')

    def test_all_is_well(self):
        self.write(resting('out-0-of-1'))
        self.assertAdvice(False)

    def test_stopped(self):
        self.write(resting('out-0-of-1'))
        self.assertAdvice(
            True, 'Mailman does not run, and nothing is delivered: run '
            '`mailman start`', start='mailman start')

    def test_what_waits_while_stopped(self):
        # A post was in delivery when everything was killed.
        entry = self.enqueue('out', 100, 1000, '.bak')
        self.enqueue('retry', 3, 4000)
        self.write(working('out-0-of-1', post(100, 10, entry),
                           written=NOW - 20))
        self.assertAdvice(
            True, '`mailman start --force`',
            '1 entry for 100 recipients, and waits until Mailman runs',
            '1 entry for 3 recipients, and waits until Mailman runs',
            start='mailman start --force')

    def test_mistake(self):
        self.write(resting('out-0-of-1'))
        self.assertAdvice(
            True, 'has a mistake (no such key): Mailman does not start',
            'Mailman does not run', mistake='no such key',
            start='mailman start')

    def test_in_delivery(self):
        entry = self.enqueue('out', 100, 1000, '.bak')
        self.write(working('out-0-of-1', post(100, 10, entry)))
        self.assertAdvice(False, '1 entry for 100 recipients; a post is in')

    def test_a_moment_before(self):
        self.write(resting('out-0-of-1'))
        self.enqueue('out', 1, 20)
        self.assertAdvice(False, '1 entry for 1 recipient; a runner takes it')

    def test_nobody_takes_it(self):
        self.write(resting('out-0-of-1'))
        self.enqueue('out', 1, 200)
        self.enqueue('out', 1)
        self.assertAdvice(True, 'run `mailman start`')

    def test_stalled(self):
        entry = self.enqueue('out', 100, 1000, '.bak')
        self.write(working('out-0-of-1', post(100, 10, entry),
                           written=NOW - 20))
        self.assertAdvice(True, 'has stalled', 'waits for the runner')

    def test_retry(self):
        self.write(resting('out-0-of-1', post(20, 0, ended=NOW, failures=[
            Failures('refused', 'no', 9), Failures('deferred', BUSY, 3)])))
        self.enqueue('retry', 3, 600)
        self.assertAdvice(False, f'because of "{BUSY}"; Mailman tries')

    def test_retry_while_the_server_wants_nothing(self):
        for state, needs in (('paused', False), ('down', True)):
            with self.subTest(state=state):
                self.write(resting('out-0-of-1', relays=[
                    RelayState(RELAY, state, BUSY, 100)]))
                if state == 'paused':
                    self.enqueue('retry', 3, 600)
                self.assertAdvice(
                    needs, RELAY, f'{RELAY} can be used again')

    def test_retry_that_nobody_empties(self):
        self.write(resting('out-0-of-1'))
        self.enqueue('retry', 3, 4000)
        self.assertAdvice(True, '[runner.retry]')

    def test_put_aside(self):
        self.write(resting('out-0-of-1'))
        self.enqueue('shunt', 3)
        self.enqueue('bad', 4, extension='.psv')
        self.assertAdvice(
            True, '1 entry for 3 recipients, which stay there',
            f'`mailman qfile {self.queue_root}/bad/NAME.psv`')

    def test_torn_state_file(self):
        self.write(resting('out-0-of-1'))
        path = os.path.join(state_directory(self.var), 'out-0-of-1.json')
        with open(path, 'r+') as fp:
            fp.truncate(40)
        self.assertAdvice(True, f'cannot be read ({path}: ')

    def test_state_directory_that_is_none(self):
        os.makedirs(os.path.dirname(state_directory(self.var)))
        with open(state_directory(self.var), 'w'):
            pass
        self.assertAdvice(True, 'Not a directory')

    def test_unreadable_entries(self):
        self.write(resting('out-0-of-1'))
        os.makedirs(os.path.join(self.queue_root, 'out'))
        with open(os.path.join(self.queue_root, 'out', f'{NOW}+0.pck'), 'w'):
            pass
        self.assertAdvice(
            True, '1 entry of the queue `out` cannot be read',
            '1 entry for at least 0 recipients')

    def test_queue_that_is_none(self):
        self.write(resting('out-0-of-1'))
        with open(self.queue_root, 'w'):
            pass
        self.assertAdvice(True, *(
            f'The queue `{name}` cannot be read ({self.queue_root}/{name}: '
            for name in ('out', 'retry', 'shunt', 'bad')))

    def test_words_of_a_server(self):
        self.write(resting('out-0-of-1', relays=[
            RelayState(RELAY, 'down', 'x\r\n' * 999)]))
        advice, = self.values()['advice']
        self.assertLess(len(advice), 400)
        self.assertIn('x x x', advice)
