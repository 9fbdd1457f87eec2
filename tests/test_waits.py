# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a server asks us to wait."""

import unittest

from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from hypothesis import given, strategies as st
from mailman_mta_pool.settlement.waits import LONGEST_WAIT, wait_of
from mailman_mta_pool.wire.replies import Reply


NOW = datetime(2026, 11, 27, 10, tzinfo=timezone.utc)
MOMENTS = st.datetimes(
    min_value=datetime(1990, 1, 1), max_value=datetime(2100, 1, 1),
    timezones=st.sampled_from((
        timezone.utc, timezone(timedelta(hours=2)),
        timezone(-timedelta(hours=9, minutes=30)))))
UNITS = (
    (1, ('s', 'sec', 'secs', 'second', 'seconds')),
    (60, ('m', 'min', 'mins', 'minute', 'minutes')),
    (3600, ('h', 'hr', 'hrs', 'hour', 'hours')),
    (86400, ('d', 'day', 'days')),
    )


def wait(text, now=NOW):
    return wait_of(Reply(450, tuple(text.encode().split(b'\n'))), now)


class TestWaits(unittest.TestCase):
    def test_durations(self):
        for text, seconds in (
                ('Greylisted, please try again in 341 seconds', 341),
                ('4.7.1 Try again in 5 minutes', 300),
                ('Too many messages. Try again after 92 seconds.', 92),
                ('come back within 1 hour', 3600),
                ('blocked for 10 min', 600),
                ('Please wait 5 minutes and 3 seconds', 303),
                ('Retry in 1h30m', 5400),
                ('please come back in 00:05:00', 300),
                ('try again in about\n2 hours', 7200),
                ('RETRY IN 90S.', 90),
                ('wait for another 3 mins', 180),
                # The limit is not the time to wait.
                ('over 9 messages in 60 seconds, try again in 5 min', 300),
                ('over 9 messages in 60 seconds', 60),
                ('try again in 0 seconds', 0),
                ('try again in 3 days', LONGEST_WAIT),
                ('try again in 999999999 hours', LONGEST_WAIT)):
            with self.subTest(text=text):
                self.assertEqual(wait(text), seconds)

    def test_every_unit(self):
        for seconds, words in UNITS:
            for word in words:
                for text in (f'in 1 {word}', f'in 1{word}.'):
                    with self.subTest(text=text):
                        self.assertEqual(wait(text), seconds)

    def test_moments(self):
        for text, seconds in (
                ('retry after 2026-11-27T10:01:00Z', 60),
                ('retry after 2026-11-27T10:01:00.123Z', 60),
                ('retry after 2026-11-27 10:01', 60),
                ('retry after 2026-11-27 11:01:00 +0100', 60),
                ('retry after 2026-11-27T05:31:00-04:30', 60),
                ('until Fri, 27 Nov 2026 12:00:00 +0100', 3600),
                ('until 27 Nov 2026 10:10:00', 600),
                ('try again after 10:30 UTC', 1800),
                ('try again after 12:30 +0200', 1800),
                ('try again after 10:00:05 GMT', 5),
                ('try again after 01:00 UTC', 15 * 3600),
                # The moment has come.
                ('retry after 2026-11-27T09:00:00Z', 0),
                ('try again after 09:59 UTC', 0),
                ('retry after 2027-11-27T09:00:00Z', LONGEST_WAIT)):
            with self.subTest(text=text):
                self.assertEqual(wait(text), seconds)

    def test_around_midnight(self):
        late = NOW.replace(hour=23, minute=50)
        self.assertEqual(wait('after 00:10 UTC', late), 1200)
        early = NOW.replace(hour=0, minute=10)
        self.assertEqual(wait('after 23:50 UTC', early), 0)

    def test_nothing_said(self):
        for text in (
                '', 'Try again later', 'in 5 messages', 'in 5 monkeys',
                'Server busy. Try again later from [192.0.2.1]',
                'until 2026-13-45 10:00', 'after 25:99 UTC',
                'after 99 Foo 2026 10:00:00', 'after 10:30',
                # When it was said is not when to come back.
                'Busy [mx.example.org 2026-11-27T11:00:00Z 08DD]'):
            with self.subTest(text=text):
                self.assertIsNone(wait(text))

    @given(MOMENTS, st.sampled_from((
        format_datetime, datetime.isoformat,
        lambda moment: moment.strftime('%Y-%m-%d %H:%M:%S %z'))),
        st.integers(-10**5, 10**5))
    def test_any_moment(self, moment, written, offset):
        now = moment.replace(microsecond=0) - timedelta(seconds=offset)
        self.assertEqual(
            wait('Try again after ' + written(moment), now),
            min(max(0, offset), LONGEST_WAIT))

    @given(st.lists(st.one_of(st.binary(), st.sampled_from(
        (b'in', b'after', b'10', b'99:99:99', b'2026-99-99T10:00:00Z', b's',
         b'+99:99', b'31 Feb 2026 10:00:00', b'0000-01-01 00:00'))),
        min_size=1), MOMENTS)
    def test_any_octets(self, words, now):
        seconds = wait_of(Reply(450, (b' '.join(words),)), now)
        if seconds is not None:
            self.assertGreaterEqual(seconds, 0)
            self.assertLessEqual(seconds, LONGEST_WAIT)
