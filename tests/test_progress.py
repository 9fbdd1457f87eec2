# SPDX-License-Identifier: GPL-3.0-or-later
"""How far a post has come, over all its queue entries."""

import click
import pickle
import unittest

from mailman.bin.master import main as master
from mailman.bin.runner import main as runner
from mailman.testing.helpers import configuration
from mailman.testing.layers import ConfigLayer
from mailman_mta_pool.journal.records import bounced_line, served_line, Settled
from mailman_mta_pool.posts import PROGRESS_KEY
from mailman_mta_pool.runner.progress import Progress
from mailman_mta_pool.runner.slice import slice_of_process
from mailman_mta_pool.settlement.ledger import Ledger


FAILURE = 550, b'No'


def members(*numbers):
    return {f'{number}@example.com' for number in numbers}


class TestProgress(unittest.TestCase):
    def setUp(self):
        self.ledger = Ledger()

    def progress(self, msgdata=None, size=10, earlier=Settled()):
        return Progress(msgdata or {}, size, 'entry', self.ledger, earlier)

    def settle(self, served=0, bounced=0, deferred=0, untried=0):
        numbers = iter(range(100))

        def some(count):
            return [f'{next(numbers)}@example.com' for _ in range(count)]
        self.ledger.served.update(some(served))
        self.ledger.bounced.update(dict.fromkeys(some(bounced), FAILURE))
        self.ledger.deferred.update(dict.fromkeys(some(deferred), FAILURE))
        self.ledger.untried = some(untried)

    def assertOutcomes(self, found, **expected):
        self.assertEqual(
            {outcome: count for outcome, count in found.items() if count},
            expected)

    def carried(self, progress, queue):
        # It goes through a queue file.
        return {PROGRESS_KEY: pickle.loads(pickle.dumps(
            progress.carried(queue)))}

    def test_first_entry(self):
        progress = self.progress()
        self.assertFalse(progress.is_continued)
        self.assertEqual(
            (progress.total, progress.origin), (10, 'entry'))
        self.settle(5, 1, 2, 1)
        self.ledger.in_doubt = 1
        for found in (progress.attempt(), progress.outcomes()):
            self.assertOutcomes(
                found, accepted=5, refused=1, deferred=2, in_doubt=1)

    def test_put_back(self):
        progress = self.progress()
        self.settle(5, deferred=1)
        msgdata = self.carried(progress, 'out')
        progress.note_put('out', 4)
        self.assertTrue(progress.is_put_back)
        self.ledger = Ledger()
        later = self.progress(msgdata, 4)
        self.assertTrue(later.is_continued)
        self.assertEqual((later.total, later.origin), (10, 'entry'))
        self.settle(4)
        self.assertOutcomes(later.attempt(), accepted=4)
        self.assertOutcomes(later.outcomes(), accepted=9, deferred=1)
        cause, = later.causes()
        self.assertEqual((cause.outcome, cause.number), ('deferred', 1))

    def test_put_back_while_the_other_thread_counts(self):
        class Failures(dict):
            def items(self):
                found = super().items()
                if not carried:
                    carried.append(None)
                    carried.append(progress.carried('out'))
                return found

        carried = []
        self.ledger.bounced = Failures({'anne@example.com': FAILURE})
        progress = self.progress()
        cause, = progress.causes()
        self.assertEqual(cause, ('refused', '550 No', 1))
        self.assertEqual(carried[1]['causes'], [cause])

    def test_retry(self):
        progress = self.progress()
        self.settle(5, 2, 3)
        msgdata = self.carried(progress, 'retry')
        self.ledger = Ledger()
        later = self.progress(msgdata, 3)
        self.assertOutcomes(later.outcomes(), accepted=5, refused=2)
        cause, = later.causes()
        self.assertEqual((cause.outcome, cause.number), ('refused', 2))

    def test_resumed(self):
        # Those refused may be told of again, and count once.
        earlier = Settled(
            served_line(members(50, 51)) +
            bounced_line('60@example.com', *FAILURE) +
            bounced_line('61@example.com', *FAILURE))
        progress = self.progress(earlier=earlier)
        self.ledger.carry_over({'60@example.com': FAILURE})
        self.settle(3, 1)
        self.assertOutcomes(progress.attempt(), accepted=5, refused=3)

    def test_discarded(self):
        progress = self.progress()
        self.settle(5, deferred=3)
        progress.note_discarded(3)
        self.assertOutcomes(
            progress.attempt(), accepted=5, deferred=3, discarded=3)
        self.assertOutcomes(progress.outcomes(), accepted=5, discarded=3)

    def test_broken(self):
        # The runner shunts all who are not served.
        progress = self.progress()
        self.settle(5, 2, 1)
        progress.note_broken(5)
        self.assertOutcomes(
            progress.attempt(), accepted=5, refused=2, deferred=1, shunted=5)
        self.assertOutcomes(progress.outcomes(), accepted=5, shunted=5)
        self.assertOutcomes(
            progress.carried('shunt')['outcomes'], accepted=5)

    def test_divided(self):
        progress = self.progress()
        part = {PROGRESS_KEY: progress.of_part(4)}
        progress.note_put('out', 4)
        progress.note_divided(6)
        self.assertEqual(progress.total, 6)
        self.assertFalse(progress.is_put_back)
        later = self.progress(part, 4)
        self.assertEqual(later.total, 4)
        self.assertNotEqual(later.origin, progress.origin)

    def test_untried(self):
        progress = self.progress()
        self.settle(untried=4)
        for _ in range(2):
            progress.note_untried('connect: refused')
        cause, = progress.causes()
        self.assertEqual(
            (cause.outcome, cause.reply, cause.number),
            ('deferred', 'connect: refused', 4))

    def test_whatever_the_metadata_have(self):
        good = self.progress().carried('out')
        for bad in (None, 7, 'x', [], {}, {**good, 'total': '10'},
                    {**good, 'origin': None}, {**good, 'outcomes': [1]},
                    {**good, 'outcomes': {'accepted': None}},
                    {**good, 'outcomes': {'sent': 1}},
                    {**good, 'causes': [('refused', 'No')]},
                    {**good, 'causes': [1]}):
            with self.subTest(bad=bad):
                progress = self.progress({PROGRESS_KEY: bad})
                self.assertFalse(progress.is_continued)
                self.assertEqual(progress.total, 10)
        self.assertTrue(self.progress({PROGRESS_KEY: good}).is_continued)


class TestSlice(unittest.TestCase):
    """Which runner this is; tests/operate/state.py has real ones."""

    layer = ConfigLayer

    def slice_of(self, command, spec, instances=1):
        with configuration('runner.out', instances=instances):
            with click.Context(command) as context:
                context.params['runner_spec'] = spec
                return slice_of_process()

    def test_runners(self):
        for spec, instances, expected in (
                # Without a slice it is called 1 of 1.
                (('out', 1, 1), 1, 'out-0-of-1'),
                (('out', 0, 1), 1, 'out-0-of-1'),
                (('out', 1, 2), 2, 'out-1-of-2'),
                (('retry', 0, 1), 1, None), (None, 1, None)):
            with self.subTest(spec=spec):
                self.assertEqual(
                    self.slice_of(runner, spec, instances), expected)

    def test_no_runner(self):
        self.assertIsNone(slice_of_process())
        self.assertIsNone(self.slice_of(master, ('out', 0, 1)))
