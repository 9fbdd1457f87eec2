# SPDX-License-Identifier: GPL-3.0-or-later

"""When a relay gets the next transaction, by a clock that is set."""

import heapq
import random
import logging
import unittest

from collections import deque
from hypothesis import given, settings, strategies as st
from mailman_mta_pool.relays.throttle import Throttle, ThrottleStatistics
from mailman_mta_pool.wire.replies import Reply


RATE = Reply(454, (b'4.7.0 Throttling failure: Maximum rate exceeded',))
SAID = Reply(450, (b'4.7.1 Too much mail, try again in 5 seconds',))
QUOTA = Reply(454, (b'4.7.0 Daily message quota exceeded',))
MIDDLE = 0.5
# What a pause that the server names lasts longer than the server says.
MARGIN = 0.05


class Clock:
    """Seconds that grow only when they are told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now

    def wait(self, seconds):
        self.now += seconds


class Kept(logging.Handler):
    """A handler that keeps level and text of each line."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append((record.levelname, record.getMessage()))


def kept_lines(case):
    """Return a handler that has our lines to itself until the case ends."""
    handler = Kept()
    logger = logging.getLogger('mailman.smtp')
    case.addCleanup(logger.setLevel, logger.level)
    case.addCleanup(setattr, logger, 'propagate', logger.propagate)
    case.addCleanup(logger.removeHandler, handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    return handler


class ThrottleCase(unittest.TestCase):
    """A throttle for 8 connections whose clock and chance are ours."""

    def setUp(self):
        self.clock = Clock()
        self.chance = MIDDLE
        self.throttle = Throttle(
            'mx:25', 8, self.clock, chance=lambda: self.chance)
        self.log = kept_lines(self)

    def accept(self, count, seconds=0.0):
        """Have messages accepted, evenly over the time; each at once."""
        for _ in range(count):
            self.throttle.accepted(self.throttle.given())
            self.clock.wait(seconds / count)

    def refuse(self, wait=None, reply=RATE, remedy=''):
        """Have one transaction refused, which is given and answered now."""
        self.throttle.slow_down(reply, wait, self.throttle.given(), remedy)

    def hold(self, wait=None, reply=QUOTA, remedy=''):
        self.throttle.hold(reply, wait, self.throttle.given(), remedy)

    def pass_pause(self):
        """Let the pause pass, and a moment more."""
        self.clock.wait(self.throttle.paused_for + 0.001)

    @property
    def rate(self):
        return self.throttle.statistics().rate

    @property
    def lines(self):
        """What was logged since the last time."""
        lines, self.log.lines = self.log.lines, []
        return lines


class TestUnthrottled(ThrottleCase):
    def test_nothing_is_in_the_way(self):
        self.accept(5000, seconds=1)
        self.assertEqual(self.throttle.ready_in(), 0)
        self.assertFalse(self.throttle.may_probe())
        self.assertFalse(self.throttle.is_said)
        self.assertIsNone(self.throttle.reason)
        self.assertIsNone(self.throttle.ceiling_grows_in)
        self.assertEqual(
            self.throttle.statistics(), ThrottleStatistics(0.0, '', None, 8))
        self.assertEqual(self.lines, [])

    def test_repr(self):
        self.assertEqual(
            repr(self.throttle), '<Throttle mx:25 paused for 0.0 s, any rate,'
            ' at most 8 connections>')
        self.accept(20)
        self.refuse()
        self.throttle.limit_connections(3, '432')
        self.assertEqual(
            repr(self.throttle), '<Throttle mx:25 paused for 1.0 s, 10.0/s,'
            ' at most 3 connections>')

    def test_how_long_it_took(self):
        for _ in range(2):
            given_at = self.throttle.given()
            self.clock.now += 0.25
            self.assertEqual(self.throttle.accepted(given_at), 0.25)
            self.refuse()
            self.pass_pause()


class TestPauses(ThrottleCase):
    def test_doubles_to_a_minute(self):
        lengths = []
        for _ in range(8):
            self.refuse()
            self.assertEqual(
                self.throttle.ready_in(), self.throttle.paused_for)
            lengths.append(round(self.throttle.paused_for, 6))
            self.pass_pause()
        self.assertEqual(lengths, [1, 2, 4, 8, 16, 32, 60, 60])

    def test_jitter(self):
        for self.chance, length in ((0.0, 0.8), (1.0, 1.2)):
            with self.subTest(chance=self.chance):
                self.refuse()
                self.assertAlmostEqual(self.throttle.paused_for, length)
                self.pass_pause()
                self.accept(1)

    def test_begins_anew_once_mail_was_accepted(self):
        self.refuse()
        self.pass_pause()
        self.refuse()
        self.pass_pause()
        self.accept(1)
        self.refuse()
        self.assertAlmostEqual(self.throttle.paused_for, 1)

    def test_late_acceptance_proves_nothing(self):
        given_at = self.throttle.given()
        self.refuse()
        self.throttle.accepted(given_at)
        self.pass_pause()
        self.throttle.accepted(given_at)
        self.refuse()
        self.assertAlmostEqual(self.throttle.paused_for, 2)

    def test_answers_in_flight_are_one_event(self):
        self.accept(20)
        given_at = [self.throttle.given() for _ in range(24)]
        for when in given_at[:12]:
            self.throttle.slow_down(RATE, None, when)
        self.clock.wait(0.25)
        for when in given_at[12:18]:
            self.throttle.slow_down(RATE, None, when)
        self.assertAlmostEqual(self.throttle.paused_for, 0.75)
        self.pass_pause()
        for when in given_at[18:]:
            self.throttle.slow_down(RATE, None, when)
        self.assertEqual(self.throttle.paused_for, 0)
        self.assertEqual(self.rate, 10)
        self.assertEqual(len(self.lines), 1)

    def test_longer_wait_extends(self):
        given_at = self.throttle.given()
        self.throttle.slow_down(RATE, None, given_at)
        self.assertFalse(self.throttle.is_said)
        self.throttle.slow_down(SAID, 5, given_at)
        self.assertTrue(self.throttle.is_said)
        self.assertAlmostEqual(self.throttle.paused_for, 5 + MARGIN)
        self.throttle.slow_down(SAID, 2, given_at)
        self.assertAlmostEqual(self.throttle.paused_for, 5 + MARGIN)
        self.assertEqual(len(self.lines), 2)
        # The same again from each of those in flight is no news.
        self.clock.wait(0.1)
        self.throttle.slow_down(SAID, 5, given_at)
        self.assertAlmostEqual(self.throttle.paused_for, 5 + MARGIN)
        self.assertEqual(self.lines, [])

    def test_late_wait_holds_too(self):
        given_at = self.throttle.given()
        self.throttle.slow_down(RATE, None, given_at)
        self.pass_pause()
        follower = self.throttle.given()
        self.clock.wait(0.1)
        self.throttle.slow_down(SAID, 5, given_at)
        self.assertAlmostEqual(self.throttle.paused_for, 5 + MARGIN)
        # What was accepted before that is no sign that the pause helped.
        self.throttle.accepted(follower)
        self.pass_pause()
        self.refuse()
        self.assertAlmostEqual(self.throttle.paused_for, 2)

    def test_acceptance_of_a_probe_ends_a_rate_pause(self):
        self.refuse()
        self.pass_pause()
        self.refuse()
        self.clock.wait(1.1)
        self.assertGreater(self.throttle.paused_for, 0)
        self.assertTrue(self.throttle.may_probe())
        self.accept(1)
        self.assertEqual(self.throttle.paused_for, 0)

    def test_said_wait_is_exact(self):
        for self.chance in (0.0, 1.0):
            with self.subTest(chance=self.chance):
                self.refuse(wait=5)
                self.assertTrue(self.throttle.is_said)
                self.assertAlmostEqual(self.throttle.paused_for, 5 + MARGIN)
                self.pass_pause()
                self.assertFalse(self.throttle.is_said)
                self.accept(1)

    def test_said_wait_is_kept_within_reason(self):
        for wait, low, high in (
                (-3.0, 0, 0.1), (0.0, 0, 0.1),
                (float('inf'), 86400, 86401), (1e300, 86400, 86401)):
            with self.subTest(wait=wait):
                self.refuse(wait=wait)
                self.assertGreater(self.throttle.paused_for, low)
                self.assertLess(self.throttle.paused_for, high)
                self.pass_pause()
                self.accept(1)

    def test_said_wait_that_does_not_help_is_a_second(self):
        self.refuse(wait=0)
        self.pass_pause()
        self.refuse(wait=0)
        self.assertAlmostEqual(self.throttle.paused_for, 1)


class TestRate(ThrottleCase):
    def test_half_of_the_last_second(self):
        self.accept(100, seconds=1)
        self.accept(20, seconds=1)
        self.refuse()
        self.assertAlmostEqual(self.rate, 10, delta=0.5)

    def test_nothing_accepted_nothing_measured(self):
        self.accept(20)
        self.clock.wait(2)
        self.refuse()
        self.assertIsNone(self.rate)

    def test_halved_again(self):
        self.accept(14)
        rates = []
        for _ in range(3):
            self.refuse()
            rates.append(self.rate)
            self.pass_pause()
        # The pauses were too short; of the rate, nothing was seen.
        self.assertEqual(rates, [7, 7, 7])
        self.accept(1)
        before = self.rate
        self.refuse()
        self.assertAlmostEqual(self.rate, before / 2)

    def test_never_more_than_it_was(self):
        self.accept(14)
        self.refuse()
        self.clock.wait(5)
        self.accept(100, seconds=0.5)
        before = self.rate
        self.refuse()
        self.assertAlmostEqual(self.rate, before / 2)

    def test_no_more_than_was_in_use(self):
        self.accept(200)
        self.refuse()
        self.pass_pause()
        # 100/s is allowed, and 10/s are sent.
        self.accept(20, seconds=2)
        self.refuse()
        self.assertAlmostEqual(self.rate, 5, delta=0.5)

    def test_few_messages_beside_a_pause_are_no_measure(self):
        self.accept(200)
        self.refuse()
        self.pass_pause()
        # 100/s is the rate, and one message of those was accepted.
        self.accept(1, seconds=0.01)
        self.refuse()
        self.assertAlmostEqual(self.rate, 50, delta=0.1)

    def test_doubles_in_ten_seconds(self):
        self.accept(14)
        self.refuse()
        self.pass_pause()
        start = self.clock.now
        rates = []
        while self.clock.now < start + 10:
            self.clock.wait(max(self.throttle.ready_in(), 1e-6))
            if self.throttle.ready_in() == 0:
                self.accept(1)
                rates.append(self.rate)
        self.assertAlmostEqual(self.rate, 14, delta=0.5)
        self.assertLess(max(
            after - before for before, after in zip(rates, rates[1:])), 0.1)

    def test_does_not_grow_while_nothing_is_sent(self):
        self.accept(14)
        self.refuse()
        self.clock.wait(1800)
        self.assertEqual(self.rate, 7)

    def test_spacing(self):
        self.accept(20)
        self.refuse()
        self.pass_pause()
        self.accept(1)
        self.clock.wait(100)
        # There is one at once after an idle time, and then one each 1/10 s.
        start = self.clock.now
        times = []
        while len(times) < 20:
            if self.throttle.ready_in() == 0:
                times.append(self.throttle.given() - start)
            self.clock.wait(0.001)
        self.assertEqual(times[0], 0)
        distances = [
            after - before for before, after in zip(times, times[1:])]
        self.assertGreater(min(distances), 0.045)
        self.assertAlmostEqual(times[-1] / 19, 0.1, delta=0.005)

    def test_lateness_does_not_slow_down(self):
        self.accept(200)
        self.refuse()
        self.pass_pause()
        self.accept(1)
        start = self.clock.now
        for _ in range(100):
            # A timer that is always 2 ms late.
            self.clock.wait(self.throttle.ready_in() + 0.002)
            self.throttle.given()
        self.assertAlmostEqual(self.clock.now - start, 1, delta=0.02)

    def test_great_rate_is_none(self):
        self.accept(1990)
        self.refuse()
        self.assertEqual(self.rate, 995)
        self.pass_pause()
        self.accept(80, seconds=0.1)
        self.assertIsNone(self.rate)
        self.assertEqual(self.throttle.ready_in(), 0)

    def test_dropped_after_an_hour(self):
        self.accept(14)
        self.refuse()
        self.clock.wait(3599)
        self.assertEqual(self.rate, 7)
        self.refuse()
        self.clock.wait(3599)
        self.assertEqual(self.rate, 7)
        self.clock.wait(2)
        self.assertIsNone(self.rate)
        self.accept(1)
        self.assertIsNone(self.throttle.reason)

    def test_said_wait_leaves_the_rate(self):
        self.accept(14)
        self.refuse(wait=5)
        self.assertIsNone(self.rate)
        self.pass_pause()
        # All may go now, and not one by one.
        for _ in range(24):
            self.assertEqual(self.throttle.ready_in(), 0)
            self.throttle.given()

    def test_said_wait_that_does_not_help_cuts(self):
        self.accept(14)
        self.refuse(wait=5)
        self.pass_pause()
        self.accept(14)
        self.refuse(wait=5)
        self.assertEqual(self.rate, 7)

    def test_said_wait_much_later_leaves_the_rate(self):
        self.accept(14)
        self.refuse(wait=5)
        self.pass_pause()
        self.clock.wait(11)
        self.accept(14)
        self.refuse(wait=5)
        self.assertIsNone(self.rate)

    def test_refused_sooner_than_the_wait_was_long(self):
        self.accept(14)
        self.refuse(wait=300)
        self.pass_pause()
        self.clock.wait(200)
        self.accept(14)
        self.refuse(wait=300)
        self.assertEqual(self.rate, 7)


class TestTrial(ThrottleCase):
    """After a pause whose length is a guess, one transaction goes ahead."""

    def given_within(self, seconds):
        """Return how many are given in that time."""
        count, end = 0, self.clock.now + seconds
        while self.clock.now < end:
            if self.throttle.ready_in() == 0 and count < 1000:
                self.throttle.given()
                count += 1
            else:
                self.clock.wait(0.01)
        return count

    def test_one_goes_ahead(self):
        self.refuse()
        self.pass_pause()
        self.assertEqual(self.given_within(0.9), 1)

    def test_one_goes_ahead_where_a_said_wait_did_not_help(self):
        self.refuse(wait=5)
        self.pass_pause()
        self.refuse(wait=5)
        self.pass_pause()
        self.assertEqual(self.given_within(0.9), 1)

    def test_others_follow_when_it_is_accepted(self):
        self.accept(20)
        self.refuse()
        self.pass_pause()
        given_at = self.throttle.given()
        self.clock.wait(0.3)
        self.assertGreater(self.throttle.ready_in(), 0)
        self.throttle.accepted(given_at)
        self.assertEqual(self.throttle.ready_in(), 0)

    def test_others_follow_when_nothing_is_heard(self):
        # Its connection was lost, or all of them are about their recipients.
        self.refuse()
        self.pass_pause()
        self.assertEqual(self.given_within(1.2), 2)
        self.assertGreater(self.given_within(2), 100)


class TestQuota(ThrottleCase):
    def test_doubles_to_four_hours(self):
        lengths = []
        for _ in range(6):
            self.hold()
            self.assertEqual(
                self.throttle.ready_in(), self.throttle.paused_for)
            lengths.append(round(self.throttle.paused_for, 6))
            self.pass_pause()
        self.assertEqual(lengths, [900, 1800, 3600, 7200, 14400, 14400])

    def test_said(self):
        self.hold(wait=341)
        self.assertTrue(self.throttle.is_said)
        self.assertAlmostEqual(self.throttle.paused_for, 341 + MARGIN)
        self.clock.wait(300)
        self.assertFalse(self.throttle.may_probe())

    def test_answers_in_flight_count_once(self):
        given_at = self.throttle.given()
        for _ in range(24):
            self.throttle.hold(QUOTA, None, given_at)
        self.assertEqual(self.throttle.paused_for, 900)
        self.pass_pause()
        self.throttle.hold(QUOTA, None, given_at)
        self.assertEqual(self.throttle.paused_for, 0)
        self.hold()
        self.assertAlmostEqual(self.throttle.paused_for, 1800)
        self.assertEqual(len(self.lines), 2)

    def test_probe_once_a_second(self):
        self.hold()
        probes = 0
        for _ in range(1100):
            self.clock.wait(0.01)
            probes += self.throttle.may_probe()
        self.assertEqual(probes, 10)

    def test_refused_probe_leaves_the_pause(self):
        self.hold()
        self.clock.wait(10)
        self.assertTrue(self.throttle.may_probe())
        given_at = self.throttle.given()
        self.clock.wait(0.5)
        self.throttle.hold(QUOTA, None, given_at)
        self.assertEqual(self.throttle.paused_for, 889.5)
        self.throttle.slow_down(RATE, None, given_at)
        self.assertEqual(self.throttle.paused_for, 889.5)
        self.assertEqual(self.throttle.reason, QUOTA)

    def test_accepted_probe_ends_the_pause(self):
        self.hold()
        self.pass_pause()
        self.hold()
        self.clock.wait(10)
        self.accept(1)
        self.assertEqual(self.throttle.ready_in(), 0)
        self.assertIsNone(self.throttle.reason)
        self.hold()
        self.assertAlmostEqual(self.throttle.paused_for, 900)

    def test_late_acceptance_ends_nothing(self):
        given_at = self.throttle.given()
        self.hold()
        self.clock.wait(1)
        self.throttle.accepted(given_at)
        self.assertEqual(self.throttle.paused_for, 899)

    def test_quota_during_a_rate_pause(self):
        given_at = self.throttle.given()
        self.refuse(wait=5)
        self.throttle.hold(QUOTA, None, given_at)
        self.assertEqual(self.throttle.paused_for, 900)
        self.assertEqual(self.throttle.reason, QUOTA)
        # The rate pause is to pass before anything is tried.
        self.clock.wait(4)
        self.assertFalse(self.throttle.may_probe())
        self.clock.wait(1.1)
        self.assertTrue(self.throttle.may_probe())

    def test_no_probe_without_a_quota(self):
        self.refuse()
        self.clock.wait(0.5)
        self.assertFalse(self.throttle.may_probe())


class TestLines(ThrottleCase):
    def test_rate(self):
        self.accept(14)
        self.refuse(remedy='Ask for more.')
        self.assertEqual(self.lines, [(
            'WARNING', 'mx:25: 454 4.7.0 Throttling failure: Maximum rate '
            'exceeded; this is about the rate: nothing is sent for 1.0 s, '
            'then 7.0 messages/s; Ask for more.')])
        self.pass_pause()
        self.accept(20)
        self.assertEqual(self.lines, [])

    def test_said(self):
        self.refuse(wait=5, reply=SAID)
        self.assertEqual(self.lines, [(
            'WARNING', 'mx:25: 450 4.7.1 Too much mail, try again in 5 '
            'seconds; this is about the rate: nothing is sent for 5.0 s, '
            'then as usual')])
        self.pass_pause()
        self.accept(20)
        self.assertEqual(self.lines, [(
            'INFO', 'mx:25: mail is accepted, and goes without a limit again',
            )])

    def test_quota(self):
        self.hold()
        self.assertEqual(self.lines, [(
            'WARNING', 'mx:25: 454 4.7.0 Daily message quota exceeded; this '
            'is about a quota: nothing is sent for 900 s, then as usual')])
        self.clock.wait(10)
        self.accept(20)
        self.assertEqual(len(self.lines), 1)

    def test_quota_beside_a_rate(self):
        self.accept(14)
        self.refuse()
        self.pass_pause()
        self.hold()
        self.assertTrue(self.lines[-1][1].endswith(
            'nothing is sent for 900 s, then 7.0 messages/s'))

    def test_reason_until_the_rate_is_none(self):
        self.accept(14)
        self.refuse()
        self.pass_pause()
        self.accept(1)
        self.assertEqual(self.throttle.reason, RATE)
        self.assertEqual(self.throttle.statistics().reason, str(RATE))
        self.clock.wait(3600)
        self.accept(1)
        self.assertIsNone(self.throttle.reason)
        self.assertEqual(self.lines[-1][0], 'INFO')


class TestCeiling(ThrottleCase):
    def limit(self, live):
        self.throttle.limit_connections(live, '432 4.3.2 Too many')

    def test_what_was_live(self):
        self.limit(3)
        self.assertEqual(self.throttle.ceiling, 3)
        self.assertEqual(self.throttle.statistics().ceiling, 3)
        self.assertEqual(self.throttle.ceiling_grows_in, 60)

    def test_between_one_and_the_present_one(self):
        for live, ceiling in ((20, 8), (3, 3), (5, 3), (0, 1)):
            self.limit(live)
            self.assertEqual(self.throttle.ceiling, ceiling)

    def test_one_more_each_minute(self):
        self.limit(6)
        self.clock.wait(59)
        self.assertEqual(self.throttle.ceiling, 6)
        self.assertEqual(self.throttle.ceiling_grows_in, 1)
        self.clock.wait(1)
        self.assertEqual(self.throttle.ceiling, 7)
        self.clock.wait(60)
        self.assertEqual(self.throttle.ceiling, 8)
        self.assertIsNone(self.throttle.ceiling_grows_in)
        self.clock.wait(1000)
        self.assertEqual(self.throttle.ceiling, 8)

    def test_refused_growth_doubles_the_interval(self):
        self.limit(7)
        intervals = []
        for _ in range(6):
            intervals.append(self.throttle.ceiling_grows_in)
            self.clock.wait(intervals[-1])
            # With the eighth it is at the maximum again, but not for long.
            self.assertEqual(self.throttle.ceiling, 8)
            self.clock.wait(1)
            self.limit(7)
        self.assertEqual(intervals, [60, 120, 240, 480, 600, 600])

    def test_interval_is_forgotten_at_the_maximum(self):
        self.limit(7)
        self.clock.wait(60)
        self.limit(7)
        self.assertEqual(self.throttle.ceiling_grows_in, 120)
        self.clock.wait(240)
        self.assertEqual(self.throttle.ceiling, 8)
        self.limit(7)
        self.assertEqual(self.throttle.ceiling_grows_in, 60)

    def test_refusals_at_once_double_once(self):
        self.limit(3)
        self.clock.wait(60)
        self.assertEqual(self.throttle.ceiling, 4)
        for live in (5, 4, 3, 3):
            self.limit(live)
        self.assertEqual(self.throttle.ceiling, 3)
        self.assertEqual(self.throttle.ceiling_grows_in, 120)

    def test_refusal_at_the_ceiling_puts_growth_off(self):
        self.limit(3)
        self.clock.wait(50)
        self.limit(3)
        self.assertEqual(self.throttle.ceiling, 3)
        self.assertEqual(self.throttle.ceiling_grows_in, 60)

    def test_one_connection(self):
        throttle = Throttle('mx:25', 1, self.clock)
        throttle.limit_connections(0, '432')
        self.assertEqual(throttle.ceiling, 1)
        self.assertIsNone(throttle.ceiling_grows_in)
        self.assertEqual(self.lines, [])

    def test_lines(self):
        self.throttle.limit_connections(7, '432 Too many', 'Ask for more.')
        self.assertEqual(self.lines, [(
            'WARNING', 'mx:25: 432 Too many; beside 7 connections one more '
            'was refused: at most 7 from now on, one more is tried in 60 s; '
            'Ask for more.')])
        self.limit(7)
        self.assertEqual(self.lines, [])
        self.clock.wait(60)
        self.assertEqual(self.throttle.ceiling, 8)
        self.assertEqual(self.lines, [(
            'INFO', 'mx:25: at most 8 connections again, as many as the site '
            'allows')])

    def test_no_flood(self):
        for live in (7, 6, 5, 4, 3):
            self.limit(live)
            self.clock.wait(0.1)
        self.assertEqual(
            [line.partition('at most')[2][:2] for _, line in self.lines],
            [' 7'])
        self.clock.wait(1)
        self.assertEqual(self.throttle.ceiling, 3)
        self.assertEqual(self.throttle.ceiling, 3)
        self.assertEqual(
            [line.partition('at most')[2][:2] for _, line in self.lines],
            [' 3'])

    def test_idle_time_is_one_line(self):
        self.limit(2)
        self.log.lines.clear()
        self.clock.wait(150)
        self.assertEqual(self.throttle.ceiling, 4)
        self.assertEqual(
            self.lines, [('INFO', 'mx:25: at most 4 connections again')])


class Sliding:
    """A server that accepts so many messages in any span of time."""

    def __init__(self, limit, span=1.0):
        self._limit = limit
        self._span = span
        self._accepted = deque()

    def answer(self, now):
        while self._accepted and self._accepted[0] <= now - self._span:
            self._accepted.popleft()
        if len(self._accepted) >= self._limit:
            return False
        self._accepted.append(now)
        return True


class Anvil:
    """Postfix: so many attempts in each period; refused ones count too."""

    def __init__(self, limit, period):
        self._limit = limit
        self._period = period
        self._began = float('-inf')
        self._count = 0

    def answer(self, now):
        if now - self._began >= self._period:
            self._began, self._count = now, 0
        self._count += 1
        return self._count <= self._limit


class Simulation:
    """A client that sends messages to such a server.

    :ivar refused: How many transactions were refused.
    :ivar elapsed: How many seconds it took until all were accepted.
    :ivar given: When each transaction was given, in seconds.
    """

    IN_FLIGHT = 3

    def __init__(self, server, *, connections, round_trip, messages=200,
                 wait=None, limit=100000):
        self.clock = Clock()
        self.throttle = Throttle(
            'mx:25', connections, self.clock, random.Random(1).random)
        self.refused = 0
        self.given = []
        self._begin = self.clock.now
        self._server = server
        self._slots = connections * self.IN_FLIGHT
        self._round_trip = round_trip
        self._backlog = messages
        self._wait = wait
        self._events = []
        while self._backlog > 0 or self._events:
            self._step()
            if self.elapsed > limit:
                raise AssertionError('stuck: %r' % self.throttle)

    @property
    def elapsed(self):
        return self.clock.now - self._begin

    def _step(self):
        ready_in = None
        while self._backlog > 0 and len(self._events) < self._slots:
            ready_in = self.throttle.ready_in()
            if ready_in > 0:
                break
            self._give()
            ready_in = None
        moments = [event[0] for event in self._events[:1]]
        if ready_in is not None:
            moments.append(self.clock.now + ready_in)
        self.clock.now = max(self.clock.now, min(moments))
        while self._events and self._events[0][0] <= self.clock.now:
            self._answered(heapq.heappop(self._events)[2])

    def _give(self):
        self._backlog -= 1
        given_at = self.throttle.given()
        self.given.append(self.elapsed)
        # The server decides when it sees it; the answer is back later.
        heapq.heappush(self._events, (
            given_at + self._round_trip, len(self.given), given_at))

    def _answered(self, given_at):
        if self._server.answer(given_at + self._round_trip / 2):
            self.throttle.accepted(given_at)
        else:
            self.refused += 1
            self._backlog += 1
            self.throttle.slow_down(RATE, self._wait, given_at)


def each_client():
    """The clients of the simulations."""
    for connections in (1, 8):
        for round_trip in (0.001, 0.02, 0.3):
            yield dict(connections=connections, round_trip=round_trip)


class TestSimulation(unittest.TestCase):
    def setUp(self):
        kept_lines(self)

    def test_fourteen_a_second(self):
        # As a new account at Amazon SES.
        for client in each_client():
            with self.subTest(**client):
                simulation = Simulation(Sliding(14), **client)
                self.assertLess(simulation.elapsed, 45)
                self.assertLessEqual(simulation.refused, 80)

    def test_fourteen_a_second_for_long(self):
        for client in each_client():
            with self.subTest(**client):
                simulation = Simulation(
                    Sliding(14), messages=2000, **client)
                self.assertLess(simulation.elapsed, 2000 / 14 * 2)
                self.assertLessEqual(simulation.refused, 200)

    def test_one_a_second(self):
        for client in each_client():
            with self.subTest(**client):
                simulation = Simulation(Sliding(1), messages=50, **client)
                self.assertLess(simulation.elapsed, 50 * 6)
                self.assertLessEqual(simulation.refused, 50)

    def test_a_thousand_a_second(self):
        for client in each_client():
            with self.subTest(**client):
                simulation = Simulation(
                    Sliding(1000), messages=5000, **client)
                fastest = min(
                    client['connections'] * 3 / client['round_trip'], 1000)
                self.assertLess(simulation.elapsed, 5000 / fastest * 3)
                self.assertLessEqual(simulation.refused, 100)

    def test_in_five_seconds(self):
        for client in each_client():
            with self.subTest(**client):
                simulation = Simulation(Sliding(14), wait=5, **client)
                self.assertLess(simulation.elapsed, 90)
                self.assertLessEqual(simulation.refused, 80)
                # What was in flight came in one burst; then five seconds.
                gaps = [after - before for before, after in zip(
                    simulation.given, simulation.given[1:])]
                if simulation.refused > 0:
                    self.assertGreaterEqual(max(gaps), 5)

    def test_thirty_a_minute(self):
        for server in (Anvil, Sliding):
            for client in each_client():
                with self.subTest(server=server.__name__, **client):
                    simulation = Simulation(server(30, 60), **client)
                    # There are 30 in each minute, and the first at once.
                    self.assertLess(simulation.elapsed, 6 * 60 * 2)
                    self.assertLessEqual(simulation.refused, 150)

    def test_thirty_a_minute_as_it_says(self):
        for client in each_client():
            with self.subTest(**client):
                simulation = Simulation(Anvil(30, 60), wait=60, **client)
                self.assertLess(simulation.elapsed, 6 * 60 * 1.5)


CALLS = st.one_of(
    st.tuples(st.just('wait'), st.floats(0, 20000)),
    st.tuples(st.just('wait'), st.floats(0, 2)),
    st.tuples(st.just('give')),
    st.tuples(st.just('accept'), st.integers(0, 9)),
    st.tuples(st.sampled_from(['slow_down', 'hold']), st.integers(0, 9),
              st.none() | st.floats(0, 10) | st.floats()),
    st.tuples(st.just('limit'), st.integers(0, 12)),
    st.tuples(st.just('probe')),
    )


class TestAnyOrder(unittest.TestCase):
    """Whatever comes, in any order."""

    def setUp(self):
        kept_lines(self)

    @settings(deadline=None)
    @given(st.integers(1, 9), st.floats(0, 1), st.lists(CALLS))
    def test_bounded(self, maximum, chance, calls):
        clock = Clock()
        throttle = Throttle('mx:25', maximum, clock, lambda: chance)
        # What was given may be answered in any order, late, or twice.
        given_at = [clock.now]
        for name, *values in calls:
            if name == 'wait':
                clock.wait(values[0])
            elif name == 'give':
                given_at.append(throttle.given())
            elif name == 'accept':
                throttle.accepted(given_at[-1 - values[0] % len(given_at)])
            elif name == 'limit':
                throttle.limit_connections(values[0], '432 Too many')
            elif name == 'probe':
                throttle.may_probe()
            else:
                getattr(throttle, name)(
                    RATE, values[1],
                    given_at[-1 - values[0] % len(given_at)])
            self.check(throttle, maximum)

    def check(self, throttle, maximum):
        self.assertGreaterEqual(throttle.ready_in(), throttle.paused_for)
        self.assertLessEqual(throttle.ready_in(), 90000)
        self.assertIn(throttle.ceiling, range(1, maximum + 1))
        grows_in = throttle.ceiling_grows_in
        self.assertEqual(grows_in is None, throttle.ceiling == maximum)
        if grows_in is not None:
            self.assertLessEqual(grows_in, 600)
        rate = throttle.statistics().rate
        if rate is not None:
            self.assertGreaterEqual(rate, 0.1)
            self.assertLessEqual(rate, 1000)
        if throttle.reason is None:
            self.assertEqual(throttle.ready_in(), 0)
            self.assertIsNone(rate)
