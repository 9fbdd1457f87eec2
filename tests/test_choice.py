# SPDX-License-Identifier: GPL-3.0-or-later
"""Which of several relays gets the next transaction."""

import unittest

from collections import Counter
from hypothesis import given, settings, strategies as st
from mailman_mta_pool.dispatch.choice import Choice, MOST_OWED
from mailman_mta_pool.interfaces import ICandidate
from zope.interface import implementer
from zope.interface.verify import verifyObject


@implementer(ICandidate)
class Candidate:
    """A relay: so many can be in flight, and so many are."""

    def __init__(self, name, weight=1, priority=10, ceiling=1000):
        self.name = name
        self.weight = weight
        self.priority = priority
        self.ceiling = ceiling
        self.in_flight = 0
        self.is_available = True
        self.balance = 0
        # True while its connections are being opened.
        self.is_opening = False
        self.is_limited = False

    @property
    def has_room(self):
        return self.in_flight < self.ceiling and not (
            self.is_opening or self.is_limited)

    @property
    def is_full(self):
        return not (self.has_room or self.is_opening)

    def __repr__(self):
        return self.name


def served(choice, asker):
    """Return who takes the next one, after `asker` has asked; None if nobody.

    Whoever is named is woken, and asks.
    """
    turn = choice.ask(asker)
    if turn is None or turn is asker:
        return turn
    assert turn.has_room
    return turn if choice.ask(turn) is turn else None


class TestChoice(unittest.TestCase):
    def candidates(self, *weights, **attributes):
        return [Candidate(f'{number}', weight, **attributes)
                for number, weight in enumerate(weights)]

    def sequence(self, candidates, length):
        choice = Choice(candidates)
        return ''.join(served(choice, candidates[0]).name
                       for _ in range(length))

    def test_smooth(self):
        # The example of the documentation of nginx.
        self.assertEqual(self.sequence(self.candidates(5, 1, 1), 7), '0010200')
        self.assertEqual(self.sequence(self.candidates(3, 1), 8), '00100010')
        self.assertEqual(self.sequence(self.candidates(1, 1, 1), 6), '012012')

    def test_candidate(self):
        # What the tests choose among has all that the contract names.
        self.assertTrue(verifyObject(ICandidate, Candidate('one')))

    def test_one(self):
        self.assertEqual(self.sequence(self.candidates(7), 3), '000')

    def test_turn_is_kept_until_it_is_taken(self):
        first, second = candidates = self.candidates(1, 1)
        choice = Choice(candidates)
        for _ in range(3):
            self.assertIs(choice.ask(second), first)
        self.assertIs(choice.ask(first), first)
        self.assertIs(choice.ask(first), second)
        self.assertIs(choice.ask(second), second)

    def test_relay_at_its_ceiling_is_skipped(self):
        first, second = candidates = self.candidates(1, 1)
        choice = Choice(candidates)
        first.ceiling = 0
        for _ in range(10):
            self.assertIs(choice.ask(second), second)
        # It is owed nothing.
        first.ceiling = 1000
        self.assertEqual(
            [served(choice, second) for _ in range(4)], 2 * [first, second])

    def test_who_asks_has_room(self):
        first, second = candidates = self.candidates(1, 1, ceiling=0)
        self.assertIs(Choice(candidates).ask(second), second)

    def test_worse_priority_only_if_the_better_are_unavailable(self):
        good, better = self.candidates(1, 1)
        backup = Candidate('backup', priority=20)
        choice = Choice([backup, good, better])
        self.assertEqual(choice.eligible, [good, better])
        self.assertIs(choice.ask(backup), good)
        # They are busy, so it waits.
        good.ceiling = better.ceiling = 0
        self.assertIsNone(choice.ask(backup))
        good.is_available = False
        self.assertIsNone(choice.ask(backup))
        self.assertIsNone(choice.ask(good))
        better.is_available = False
        self.assertIs(choice.ask(backup), backup)
        better.is_available = better.ceiling = True
        self.assertIs(choice.ask(backup), better)

    def test_none_is_available(self):
        # They are tried all the same, the best first.
        first = Candidate('first', priority=10)
        second = Candidate('second', priority=20)
        choice = Choice([second, first])
        first.is_available = second.is_available = False
        self.assertIs(choice.ask(second), first)
        self.assertIs(choice.ask(first), first)

    def test_what_is_taken_while_one_connects_is_made_up_for(self):
        first, second = candidates = self.candidates(3, 1)
        choice = Choice(candidates)
        first.is_opening = True
        for _ in range(4):
            self.assertIs(served(choice, second), second)
        first.is_opening = False
        names = ''.join(served(choice, second).name for _ in range(16))
        self.assertTrue(names.startswith(12 * '0'))
        self.assertEqual(Counter(names + 4 * '1'), {'0': 15, '1': 5})

    def test_it_never_connects(self):
        first, second = candidates = self.candidates(3, 1)
        choice = Choice(candidates)
        first.is_opening = True
        for _ in range(2 * MOST_OWED):
            self.assertIs(choice.ask(second), second)
        self.assertEqual(first.balance, 3 * MOST_OWED)
        self.assertEqual(second.balance, -3 * MOST_OWED)

    def test_posts_of_one_transaction(self):
        # The agent is started where it will be taken.
        candidates = self.candidates(2, 1)
        for candidate in candidates:
            candidate.is_opening = True
        started = []
        for _ in range(6):
            choice = Choice(candidates)
            self.assertEqual(choice.turns(
                1, choice.eligible, lambda candidate: True, started.append),
                0)
            self.assertIs(choice.ask(started[-1]), started[-1])
        self.assertEqual(
            ''.join(candidate.name for candidate in started), '010010')

    def test_where_agents_are_started(self):
        first, second, third = candidates = self.candidates(2, 1, 1)
        third.priority = 20
        started = Counter()
        choice = Choice(candidates)
        left = choice.turns(
            10, choice.eligible, lambda candidate: started[candidate] < 4,
            lambda candidate: started.update([candidate]))
        self.assertEqual(left, 2)
        self.assertEqual(started, {first: 4, second: 4})
        self.assertEqual([each.balance for each in candidates], [0, 0, 0])

    def test_repr(self):
        choice = Choice(self.candidates(3, 1))
        choice.ask(choice.eligible[0])
        self.assertEqual(repr(choice), '<Choice 0 -1, 1 +1>')


WEIGHTS = st.lists(st.integers(1, 20), min_size=1, max_size=6)


class TestWhatever(unittest.TestCase):
    @settings(deadline=None)
    @given(WEIGHTS, st.integers(1, 4), st.data())
    def test_shares_are_exact(self, weights, rounds, data):
        # As long as nobody is at the ceiling: exactly the weights in every
        # round, and never one more than the share in between.
        candidates = [Candidate(f'{number}', weight)
                      for number, weight in enumerate(weights)]
        choice, counts, total = Choice(candidates), Counter(), sum(weights)
        for number in range(1, rounds * total + 1):
            asker = data.draw(st.sampled_from(candidates))
            counts[served(choice, asker).name] += 1
            for candidate in candidates:
                share = number * candidate.weight / total
                count = counts[candidate.name]
                self.assertLess(count - share, 1)
                self.assertLess(share - count, max(1, len(weights) - 1))
                if number % total == 0:
                    self.assertEqual(count, share)

    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.builds(
        Candidate, st.just(''), st.integers(1, 9), st.integers(1, 3),
        st.integers(0, 3)), min_size=1, max_size=6),
        st.lists(st.tuples(st.sampled_from(
            ['ask', 'ask', 'ask', 'end', 'up', 'down', 'more', 'less']),
            st.integers(0, 5)), max_size=120))
    def test_whatever_happens(self, candidates, steps):
        # Somebody takes it whenever somebody eligible could, and never one of
        # a worse priority than the best that is available.
        for number, candidate in enumerate(candidates):
            candidate.name = f'{number}'
            candidate.in_flight = 0
            candidate.is_available = True
        choice = Choice(candidates)
        for step, number in steps:
            candidate = candidates[number % len(candidates)]
            if step == 'end':
                candidate.in_flight = max(0, candidate.in_flight - 1)
            elif step in ('up', 'down'):
                candidate.is_available = step == 'up'
            elif step in ('more', 'less'):
                candidate.ceiling = max(
                    0, candidate.ceiling + (1 if step == 'more' else -1))
            elif candidate.has_room:
                self.take(choice, candidate, candidates)

    def take(self, choice, asker, candidates):
        available = [candidate for candidate in candidates
                     if candidate.is_available] or candidates
        best = min(candidate.priority for candidate in available)
        could = [candidate for candidate in available
                 if candidate.priority == best and candidate.has_room]
        taker = served(choice, asker)
        if could:
            self.assertIn(taker, could)
            taker.in_flight += 1
        else:
            self.assertIsNone(taker)

    @settings(deadline=None)
    @given(WEIGHTS, st.lists(st.integers(0, 5), max_size=200))
    def test_absence_is_neither_a_claim_nor_a_debt(self, weights, absent):
        # Whoever was away, no balance runs off.
        candidates = [Candidate(f'{number}', weight)
                      for number, weight in enumerate(weights)]
        choice, total = Choice(candidates), sum(weights)
        for number in absent:
            for candidate in candidates:
                candidate.ceiling = 1000
            candidates[number % len(candidates)].ceiling = 0
            for candidate in candidates:
                if candidate.has_room:
                    served(choice, candidate)
        for candidate in candidates:
            candidate.ceiling = 1000
        before = Counter()
        for _ in range(10 * total):
            before[served(choice, candidates[0]).name] += 1
        for candidate in candidates:
            self.assertLess(
                abs(before[candidate.name] - 10 * candidate.weight),
                2 * len(weights))
