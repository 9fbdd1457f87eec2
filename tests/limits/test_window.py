# SPDX-License-Identifier: GPL-3.0-or-later

"""A window never forgets too early, and not much too late."""

import unittest

from array import array
from hypothesis import given, strategies as st
from mailman_mta_pool.limits.window import NUMBERS, part_of, PARTS, Window


SECOND = 1_000_000
DAY = 86400 * SECOND


def new_window(period):
    window = Window(memoryview(array('q', [0] * NUMBERS)))
    window.begin(period)
    return window


@st.composite
def uses(draw):
    """A period, and what is used when, in the order of time."""
    period = draw(st.sampled_from([1, 7, 999, SECOND, 60 * SECOND, DAY]))
    step = st.one_of(
        st.integers(0, 3), st.integers(0, period // 10 + 1),
        st.integers(0, 3 * period))
    now, found = draw(st.integers(0, 10 * period)), []
    for wait, amount in draw(st.lists(
            st.tuples(step, st.integers(1, 50)), max_size=60)):
        now += wait
        found.append((now, amount))
    return period, found


class TestWindow(unittest.TestCase):
    @given(uses())
    def test_exactness(self, example):
        # Everything counts for its period, and two or three parts more.
        period, found = example
        window, part = new_window(period), part_of(period)
        for index, (now, amount) in enumerate(found):
            window.advance(now, 0)
            window.add(now, amount)
            past = found[:index + 1]
            least = sum(n for then, n in past if now - then < period)
            most = sum(n for then, n in past
                       if now - then <= PARTS * part + 2 * part)
            self.assertLessEqual(least, window.used)
            self.assertLessEqual(window.used, most)
            self.assertTrue(window.is_sound(now))
            self.assertEqual(window.used, sum(
                n for _, n in window.parts()))

    @given(uses(), st.integers(1, 200))
    def test_free_at(self, example, wanted):
        period, found = example
        window = new_window(period)
        for now, amount in found:
            window.advance(now, 0)
            window.add(now, amount)
        used = window.used
        then = window.free_at(wanted)
        if wanted > used:
            self.assertEqual(then, 0)
            return
        window.advance(then - 1, 0)
        self.assertGreater(window.used, used - wanted)
        window.advance(then, 0)
        self.assertLessEqual(window.used, used - wanted)

    @given(uses(), st.integers(1, 10))
    def test_debt(self, example, count):
        # What is owed is paid, one count in a period, and no part is lost,
        # however seldom somebody looks.
        period, found = example
        window = new_window(period)
        owed_until = 0
        for now, amount in found:
            window.advance(now, count)
            if window.used == 0:
                window.add(now, amount, count)
                self.assertEqual(window.used, amount)
                # After so many periods it is paid.
                owed_until = now + -(-amount // count) * (
                    (PARTS + 3) * part_of(period))
        now = owed_until
        window.advance(now, count)
        self.assertEqual(window.used, 0)

    def test_debt_counts_period_by_period(self):
        window = new_window(SECOND)
        window.add(0, 25, 10)
        for seconds, used in ((0.99, 25), (1.01, 15), (1.99, 15), (2.01, 5),
                              (2.99, 5), (3.01, 0)):
            window.advance(round(seconds * SECOND), 10)
            self.assertEqual(window.used, used, seconds)

    def test_recount(self):
        window = new_window(SECOND)
        window.add(0, 3)
        window.add(SECOND // 2, 4)
        window.recount()
        self.assertEqual(window.used, 7)

    def test_add_at(self):
        window = new_window(SECOND)
        now = 10 * SECOND
        window.add_at(now - 2 * SECOND, now, 5)
        self.assertEqual(window.used, 0)
        window.add_at(now - SECOND // 4, now, 2)
        window.add_at(now - SECOND // 2, now, 1)
        self.assertEqual(window.used, 3)
        window.advance(now + SECOND * 51 // 100, 0)
        self.assertEqual(window.used, 2)
        window.advance(now + SECOND * 77 // 100, 0)
        self.assertEqual(window.used, 0)

    @given(uses(), st.sampled_from([1, 10, SECOND, 61 * SECOND, DAY]))
    def test_copied_into_another_period(self, example, period):
        # Nothing that counts is lost, whatever the parts are.
        old, new = new_window(example[0]), new_window(period)
        now = 0
        for now, amount in example[1]:
            old.advance(now, 0)
            old.add(now, amount)
        for then, amount in old.parts():
            new.add_at(then, now, amount)
        new.advance(now, 0)
        new.add(now, 1)
        self.assertEqual(new.used, sum(n for _, n in new.parts()))
        least = sum(n for then, n in example[1]
                    if now - then < min(period, example[0]))
        self.assertGreaterEqual(new.used, least + 1)
        self.assertTrue(new.is_sound(now))

    def test_unsound(self):
        numbers = memoryview(array('q', [0] * NUMBERS))
        window = Window(numbers)
        self.assertTrue(window.is_sound(0))
        window.begin(SECOND)
        window.add(5 * SECOND, 3)
        self.assertTrue(window.is_sound(5 * SECOND))
        # It is of the future.
        self.assertFalse(window.is_sound(4 * SECOND))
        for place in (0, 1, 4, 5, 11):
            kept = numbers[place]
            numbers[place] = -3
            self.assertFalse(window.is_sound(5 * SECOND), place)
            numbers[place] = kept


class _Counting:
    """Numbers that count how often they are looked at or changed."""

    def __init__(self, numbers, counter):
        self._numbers = numbers
        self._counter = counter

    def __getitem__(self, index):
        self._counter[0] += 1
        found = self._numbers[index]
        return (_Counting(found, self._counter)
                if isinstance(index, slice) else found)

    def __setitem__(self, index, value):
        self._counter[0] += 1
        self._numbers[index] = value


class TestCost(unittest.TestCase):
    def test_a_million_a_day(self):
        # It takes as much room as one a second; a take is a few steps.
        counter, count = [0], 1_000_000
        window = Window(_Counting(
            memoryview(array('q', [0] * NUMBERS)), counter))
        window.begin(DAY)
        counter[0] = 0
        for number in range(20_000):
            now = number * DAY // 10_000
            window.advance(now, count)
            window.add(now, 100, count)
        self.assertLess(counter[0], 20_000 * 40)
        self.assertLessEqual(window.used, count + 3000)
