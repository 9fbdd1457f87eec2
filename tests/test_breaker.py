# SPDX-License-Identifier: GPL-3.0-or-later
"""When something that failed is tried again, by a clock that is set."""

import unittest

from hypothesis import given, settings, strategies as st
from itertools import product
from mailman_mta_pool.connection.breaker import (
    Breaker,
    BREAKER_MOVES,
    BreakerEvent,
    BreakerState,
    FAILURES,
    FIRST_INTERVAL,
    JITTER,
    LONGEST_INTERVAL,
)
from tests.test_throttle import Clock, kept_lines


class Attempts:
    """A breaker, and attempts of which it is told."""

    def __init__(self, chance=lambda: 0.5):
        self.clock = Clock()
        self.breaker = Breaker('mx:25', self.clock, chance)

    def fail(self, reason='refused', alternative=False):
        is_probe = self.breaker.begin()
        self.breaker.failed(
            reason, is_probe=is_probe, has_alternative=alternative)
        return is_probe

    def succeed(self):
        is_probe = self.breaker.begin()
        self.breaker.succeeded()
        return is_probe

    def open(self):
        for _ in range(FAILURES):
            self.fail()


class TestBreaker(unittest.TestCase):
    def setUp(self):
        self.attempts = Attempts()
        self.breaker = self.attempts.breaker
        self.clock = self.attempts.clock

    def test_three_failures_in_a_row(self):
        for _ in range(5):
            for _ in range(FAILURES - 1):
                self.attempts.fail()
                self.assertTrue(self.breaker.is_usable)
            self.attempts.succeed()
        self.attempts.open()
        self.assertFalse(self.breaker.is_usable)
        self.assertEqual(self.breaker.due_in, FIRST_INTERVAL)

    def test_one_failure_where_there_is_something_else(self):
        self.attempts.fail(alternative=True)
        self.assertIs(self.breaker.state, BreakerState.open)

    def test_one_probe_at_a_time(self):
        self.attempts.open()
        self.clock.wait(FIRST_INTERVAL - 0.001)
        self.assertFalse(self.breaker.begin())
        self.clock.wait(0.002)
        self.assertTrue(self.breaker.is_due)
        self.assertTrue(self.breaker.begin())
        for _ in range(3):
            self.assertFalse(self.breaker.is_usable)
            self.assertFalse(self.breaker.begin())
            # What was begun before proves nothing.
            self.breaker.failed(
                'late', is_probe=False, has_alternative=True)
            self.assertIs(self.breaker.state, BreakerState.half_open)

    def test_abandoned_probe(self):
        self.attempts.open()
        self.clock.wait(FIRST_INTERVAL)
        self.assertTrue(self.breaker.begin())
        self.breaker.abandoned()
        self.assertTrue(self.breaker.begin())

    def test_intervals_double(self):
        self.attempts.open()
        intervals = []
        for _ in range(9):
            intervals.append(self.breaker.due_in)
            self.clock.wait(intervals[-1])
            self.assertTrue(self.attempts.fail())
        self.assertEqual(intervals, [5, 10, 20, 40, 80, 160, 300, 300, 300])
        self.clock.wait(LONGEST_INTERVAL)
        self.assertTrue(self.attempts.succeed())
        self.attempts.open()
        self.assertEqual(self.breaker.due_in, FIRST_INTERVAL)

    def test_jitter(self):
        for chance, factor in ((0.0, 1 - JITTER), (1.0, 1 + JITTER)):
            attempts = Attempts(lambda: chance)
            attempts.open()
            self.assertAlmostEqual(
                attempts.breaker.due_in, factor * FIRST_INTERVAL)

    def test_success_without_a_probe(self):
        # All were open, so one was tried all the same.
        self.attempts.open()
        self.assertFalse(self.attempts.succeed())
        self.assertIs(self.breaker.state, BreakerState.closed)
        self.assertEqual(self.breaker.reason, '')

    def test_probe_fails_after_another_attempt_succeeded(self):
        self.attempts.open()
        self.clock.wait(FIRST_INTERVAL)
        is_probe = self.breaker.begin()
        self.breaker.succeeded()
        self.breaker.failed('x', is_probe=is_probe, has_alternative=False)
        self.assertIs(self.breaker.state, BreakerState.closed)

    def test_each_change_is_told_once(self):
        lines = kept_lines(self).lines
        for _ in range(FAILURES + 3):
            self.attempts.fail('[Errno 111]\r\nrefused')
        for _ in range(3):
            self.clock.wait(self.breaker.due_in)
            self.attempts.fail('timeout')
        self.clock.wait(self.breaker.due_in)
        self.attempts.succeed()
        self.attempts.succeed()
        self.assertEqual(lines, [
            ('WARNING', 'mx:25: the breaker is open for 5.0 s, because of '
             '"[Errno 111]  refused"'),
            ('INFO', 'mx:25: the breaker is half-open: one attempt shows '
             'whether it still fails with "[Errno 111]  refused"'),
            ('INFO', 'mx:25: the breaker is closed: an attempt has succeeded '
             'after "timeout"'),
            ])

    def test_forgettable(self):
        self.assertTrue(self.breaker.is_forgettable)
        self.attempts.fail()
        self.assertFalse(self.breaker.is_forgettable)
        self.attempts.open()
        self.clock.wait(LONGEST_INTERVAL)
        self.assertFalse(self.breaker.is_forgettable)
        self.clock.wait(FIRST_INTERVAL)
        self.assertTrue(self.breaker.is_forgettable)

    def test_repr(self):
        self.assertEqual(repr(self.breaker), '<Breaker mx:25 closed>')

    def test_every_state_can_be_left(self):
        # And a probe has one end in every case.
        for state, event in product(BreakerState, BreakerEvent):
            after = BREAKER_MOVES.get((state, event), state)
            if event is BreakerEvent.succeeded:
                self.assertIs(after, BreakerState.closed)
        self.assertEqual(
            {state for state, _ in BREAKER_MOVES}, set(BreakerState))

    @settings(max_examples=300, deadline=None)
    @given(st.lists(st.one_of(
        st.sampled_from(['begin', 'fail', 'succeed', 'abandon']),
        st.floats(0.1, 400))), st.floats(0, 1))
    def test_whatever_happens(self, steps, chance):
        # There is never more than one probe, and never none for longer than
        # the longest interval.
        attempts = Attempts(lambda: chance)
        breaker, under_way = attempts.breaker, []
        for step in steps:
            if isinstance(step, float):
                attempts.clock.wait(step)
            elif step == 'begin':
                under_way.append(breaker.begin())
            elif under_way:
                is_probe = under_way.pop(0)
                if step == 'fail':
                    breaker.failed(
                        '', is_probe=is_probe, has_alternative=False)
                elif step == 'succeed':
                    breaker.succeeded()
                elif is_probe:
                    breaker.abandoned()
            self.assertLessEqual(
                breaker.due_in, LONGEST_INTERVAL * (1 + JITTER))
            if breaker.state is BreakerState.half_open:
                self.assertFalse(breaker.is_usable)
                self.assertIn(True, under_way)
            if not any(under_way):
                attempts.clock.wait(breaker.due_in)
                self.assertTrue(breaker.is_usable)
