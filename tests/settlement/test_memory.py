# SPDX-License-Identifier: GPL-3.0-or-later

"""What is remembered of a relay, for how long, and of how much."""

import unittest

from mailman_mta_pool.settlement.memory import Finding, Memory


class MemoryTestCase(unittest.TestCase):
    def setUp(self):
        self.now = 1000.0
        self.memory = Memory(lambda: self.now)

    def take_own(self, count):
        """Of so many refusals, how many are the recipients' own."""
        return sum(self.memory.take_own('no such ant') for _ in range(count))


class TestWords(MemoryTestCase):
    def test_for_an_hour(self):
        self.assertIsNone(self.memory.finding('no such ant'))
        self.memory.learn('no such ant', Finding.us)
        self.now += 3599
        self.assertIs(self.memory.finding('no such ant'), Finding.us)
        self.assertIsNone(self.memory.finding('no such hill'))
        self.now += 1
        self.assertIsNone(self.memory.finding('no such ant'))

    def test_what_is_news(self):
        learn = self.memory.learn
        self.assertTrue(learn('no such ant', Finding.own))
        self.assertFalse(learn('no such ant', Finding.own))
        self.assertTrue(learn('no such ant', Finding.us))
        self.now += 3600
        self.assertTrue(learn('no such ant', Finding.us))

    def test_the_next_fifty(self):
        self.memory.learn('no such ant', Finding.own)
        # A long time after it was found out, though not too long.
        self.now += 3599
        self.assertEqual(self.take_own(60), 50)

    def test_or_ten_seconds(self):
        self.memory.learn('no such ant', Finding.own)
        self.now += 9.9
        self.assertEqual(self.take_own(500), 500)
        self.now += 0.1
        self.assertEqual(self.take_own(1), 0)

    def test_each_question_is_good_for_fifty(self):
        for _ in range(2):
            self.memory.learn('no such ant', Finding.own)
            self.now += 11
            self.assertEqual(self.take_own(60), 50)

    def test_an_hour_is_too_long(self):
        self.memory.learn('no such ant', Finding.own)
        self.now += 3600
        self.assertEqual(self.take_own(60), 0)

    def test_what_is_not_theirs(self):
        self.memory.learn('no such ant', Finding.us)
        self.assertEqual(self.take_own(1), 0)
        # The latest finding counts.
        self.memory.learn('no such ant', Finding.own)
        self.assertEqual(self.take_own(1), 1)
        self.memory.learn('no such ant', Finding.us)
        self.assertEqual(self.take_own(1), 0)

    def test_bounds(self):
        for number in range(257):
            self.memory.learn(f'no {number}', Finding.us)
            # What is learnt again is kept the longest.
            self.memory.learn('no such ant', Finding.us)
        self.assertIs(self.memory.finding('no such ant'), Finding.us)
        self.assertIsNone(self.memory.finding('no 1'))
        self.assertEqual(
            sum(self.memory.finding(f'no {number}') is not None
                for number in range(257)), 255)


class TestGood(MemoryTestCase):
    def test_the_last_first_for_an_hour(self):
        self.memory.remember_good(['anne', 'bart'])
        self.now += 1800
        self.memory.remember_good(['carl', 'anne'])
        self.assertEqual(self.memory.good, ['anne', 'carl', 'bart'])
        self.now += 1800
        self.assertEqual(self.memory.good, ['anne', 'carl'])
        self.now += 1800
        self.assertEqual(self.memory.good, [])

    def test_bounds(self):
        self.memory.remember_good([f'ant{number}' for number in range(9)])
        self.assertEqual(self.memory.good, ['ant8', 'ant7', 'ant6', 'ant5'])


class TestContents(MemoryTestCase):
    """A message that is refused to everybody, each time."""

    def refuse(self, message_id='<ants>', words='virus'):
        """Refuse it; return True if that is about the message by now."""
        is_known = self.memory.has_accepted_others(message_id, words)
        self.memory.note_refused(message_id, words)
        return is_known

    def test_another_was_accepted_between(self):
        self.assertFalse(self.refuse())
        self.now += 900
        # That may be us.
        self.assertFalse(self.refuse())
        self.now += 900
        self.memory.note_content_accepted()
        self.now += 900
        self.assertTrue(self.refuse())

    def test_another_was_accepted_before(self):
        self.memory.note_content_accepted()
        self.now += 900
        self.assertFalse(self.refuse())
        self.now += 900
        self.assertFalse(self.refuse())

    def test_another_message_or_other_words(self):
        self.refuse()
        self.now += 900
        self.memory.note_content_accepted()
        self.assertFalse(self.refuse('<bees>'))
        self.assertFalse(self.refuse(words='spam'))

    def test_for_a_day(self):
        self.refuse()
        self.now += 900
        self.memory.note_content_accepted()
        self.now += 86400
        self.assertFalse(self.refuse())

    def test_bounds(self):
        for number in range(65):
            self.refuse(f'<{number}>')
        self.now += 900
        self.memory.note_content_accepted()
        self.assertTrue(self.refuse('<1>'))
        self.assertFalse(self.refuse('<0>'))


class TestDenials(MemoryTestCase):
    def test_news_once(self):
        self.assertFalse(self.memory.note_content_accepted())
        self.memory.deny()
        self.assertTrue(self.memory.note_content_accepted())
        self.assertFalse(self.memory.note_content_accepted())
