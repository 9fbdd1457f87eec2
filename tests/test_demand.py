# SPDX-License-Identifier: GPL-3.0-or-later
"""Which process gets a connection slot, and which gives one up."""

import unittest

from hypothesis import given, settings, strategies as st
from mailman_mta_pool.relays.demand import (
    Demand,
    INSIST,
    LIVE,
    shares_of,
    STEP,
    TURN,
    View,
)


NOW = 1000.0
COUNTS = st.integers(0, 5)


def demand(name, held, wanted, waiting_since=NOW, holding_since=NOW,
           beat=NOW):
    return Demand(name, held, wanted, waiting_since, holding_since, beat)


class TestDemand(unittest.TestCase):
    @given(st.builds(Demand, st.just('x'), *2 * [st.integers(0, 99999)],
                     *3 * [st.integers(0, 10 ** 9).map(lambda n: n / 64)]))
    def test_written_and_read(self, before):
        octets = before.to_octets()
        self.assertEqual(Demand.from_octets('x', octets), before)
        self.assertEqual(len(octets), len(demand('x', 0, 0).to_octets()))

    @given(st.binary(max_size=80))
    def test_garbage(self, octets):
        found = Demand.from_octets('x', octets)
        if found is not None:
            self.assertGreaterEqual(min(found.held, found.wanted), 0)

    def test_half_written(self):
        octets = demand('x', 1, 2).to_octets()
        for end in range(30):
            self.assertIsNone(Demand.from_octets('x', octets[:end]))

    def test_who_is_stopped_does_not_wait(self):
        waiting = demand('x', 0, 1)
        self.assertTrue(waiting.is_waiting(NOW + LIVE / 2))
        self.assertFalse(waiting.is_waiting(NOW + LIVE))
        self.assertFalse(demand('x', 1, 0).is_waiting(NOW))


class TestShares(unittest.TestCase):
    def assertShares(self, maximum, demands, expected):
        found = shares_of(
            [demand(f'{number}', held, wanted)
             for number, (held, wanted) in enumerate(demands)], maximum, NOW)
        self.assertEqual(list(found.values()), expected)

    def test_shares(self):
        self.assertShares(3, [(3, 5), (0, 5)], [2, 1])
        self.assertShares(3, [(0, 5), (3, 5)], [1, 2])
        self.assertShares(8, [(8, 0), (0, 1)], [7, 1])
        self.assertShares(8, [(1, 0), (0, 9)], [1, 7])
        self.assertShares(2, [(1, 0), (1, 0), (0, 1)], [1, 1, 0])
        self.assertShares(0, [(0, 1)], [0])
        self.assertShares(5, [], [])

    @given(st.lists(st.tuples(COUNTS, COUNTS), max_size=6), COUNTS)
    def test_whatever_is_wanted(self, demands, maximum):
        demands = [demand(f'{number}', *each)
                   for number, each in enumerate(demands)]
        shares = shares_of(demands, maximum, NOW)
        needs = {each.name: each.held + each.wanted for each in demands}
        self.assertEqual(
            sum(shares.values()), min(maximum, sum(needs.values())))
        for name, share in shares.items():
            self.assertLessEqual(share, needs[name])
            for other, more in shares.items():
                # Nobody has two more than one who lacks some.
                if share < needs[name]:
                    self.assertLessEqual(more, share + 1)


class TestView(unittest.TestCase):
    def view(self, mine, *others, maximum=3, now=NOW):
        return View(mine, others, maximum, now)

    def test_free_ones_are_taken(self):
        self.assertTrue(self.view(demand('x', 0, 1)).may_take)
        self.assertTrue(self.view(
            demand('x', 2, 1), demand('y', 0, 0)).may_take)
        self.assertFalse(self.view(
            demand('x', 2, 1), demand('y', 1, 0)).may_take)

    def test_who_has_fewer_goes_first(self):
        mine = demand('x', 1, 1, waiting_since=NOW - 9)
        other = demand('y', 0, 1)
        self.assertTrue(self.view(mine, other).may_take)
        self.assertFalse(self.view(
            mine, other, demand('z', 1, 0), maximum=3).may_take)
        # It is stopped, or dead.
        late = NOW + LIVE
        self.assertTrue(self.view(
            mine._replace(beat=late), other, demand('z', 1, 0),
            now=late).may_take)

    def test_who_waits_longer_goes_first(self):
        mine = demand('x', 0, 1)
        for since, may_take in ((NOW - 1, False), (NOW + 1, True)):
            other = demand('y', 0, 1, waiting_since=since)
            self.assertIs(
                self.view(mine, other, maximum=1).may_take, may_take)

    def test_wrong_claims(self):
        mine = demand('x', 0, 1)
        other = demand('y', 99, 0)
        for seconds in (INSIST - 0.1, INSIST):
            self.assertIs(self.view(
                mine._replace(beat=NOW + seconds), other,
                now=NOW + seconds).may_take, seconds == INSIST)

    def test_idle_ones_go_to_whoever_waits(self):
        for wanted, idle in ((0, 0), (1, 1), (2, 2), (9, 2)):
            view = self.view(
                demand('x', 2, 0), demand('y', 1, wanted))
            self.assertEqual(view.idle_to_give, idle)
        # There is one that nobody has.
        self.assertEqual(self.view(
            demand('x', 2, 0), demand('y', 0, 1)).idle_to_give, 0)

    def test_more_than_the_share(self):
        self.assertEqual(self.view(
            demand('x', 3, 5), demand('y', 0, 5)).busy_to_give, 1)
        self.assertEqual(self.view(
            demand('x', 8, 0), demand('y', 0, 9), maximum=8).busy_to_give, 4)
        self.assertEqual(self.view(
            demand('x', 2, 5), demand('y', 1, 5)).busy_to_give, 0)
        self.assertEqual(self.view(
            demand('x', 3, 5), demand('y', 0, 0)).busy_to_give, 0)

    def test_more_processes_than_slots(self):
        others = [demand('y', 1, 0, holding_since=NOW + 1),
                  demand('z', 0, 1, beat=NOW + 99)]
        mine = demand('x', 1, 3)

        def given(mine, others, seconds):
            return self.view(mine, *others, maximum=2,
                             now=NOW + seconds).busy_to_give
        others[1] = others[1]._replace(beat=NOW + TURN)
        self.assertEqual(given(mine, others, TURN - 0.1), 0)
        self.assertEqual(given(mine, others, TURN), 1)
        # The one that is next gives it up later, if it has to.
        second = [mine, others[1]._replace(beat=NOW + 1 + TURN + STEP)]
        self.assertEqual(given(others[0], second, 1 + TURN), 0)
        self.assertEqual(given(others[0], second, 1 + TURN + STEP), 1)
        # Nobody waits.
        self.assertEqual(
            given(mine, [others[0], demand('z', 0, 0)], 2 * TURN), 0)


class Simulation:
    """Processes that look around in turns, and do what `View` says.

    Each wants so many connections for ever, and gives a busy one back as soon
    as it is asked to.
    """

    STEP = 0.1

    def __init__(self, appetites, maximum):
        self.now = NOW
        self.maximum = maximum
        self.appetites = appetites
        self.all = {
            f'{number}': demand(f'{number}', 0, appetite)
            for number, appetite in enumerate(appetites)}
        self.last_had = dict.fromkeys(self.all, NOW)

    def act(self, name):
        mine = self.all[name]._replace(beat=self.now)
        if mine.wanted == 0 and mine.held == 0:
            return
        others = [each for other, each in self.all.items() if other != name]
        view = View(mine, others, self.maximum, self.now)
        held = sum(each.held for each in self.all.values())
        if view.busy_to_give > 0:
            mine = mine._replace(
                held=mine.held - 1, wanted=mine.wanted + 1,
                waiting_since=self.now)
        elif mine.wanted > 0 and held < self.maximum and view.may_take:
            mine = mine._replace(
                held=mine.held + 1, wanted=mine.wanted - 1,
                waiting_since=self.now, holding_since=(
                    mine.holding_since if mine.held else self.now))
        self.all[name] = mine
        if mine.held > 0:
            self.last_had[name] = self.now

    def run(self, order, seconds):
        names = list(self.all)
        end = self.now + seconds
        while self.now < end:
            for number in order:
                self.act(names[number % len(names)])
            for name in names:
                # Everybody looks around once in a while.
                self.act(name)
            self.now += self.STEP


class TestSimulation(unittest.TestCase):
    @settings(max_examples=20, deadline=None)
    @given(st.lists(st.integers(1, 6), min_size=1, max_size=5),
           st.integers(1, 4), st.lists(st.integers(0, 4), max_size=6))
    def test_nobody_starves(self, appetites, maximum, order):
        simulation = Simulation(appetites, maximum)
        simulation.run(order, 3)
        # All slots are used, if there are so many who want one.
        used = min(maximum, sum(appetites))
        held = [each.held for each in simulation.all.values()]
        self.assertLessEqual(sum(held), maximum)
        if len(appetites) <= maximum:
            self.assertEqual(sum(held), used)
            shares = shares_of(
                list(simulation.all.values()), maximum, simulation.now)
            self.assertEqual(
                held, [shares[name] for name in simulation.all])
        simulation.run(order, 3 * TURN * len(appetites))
        longest = (len(appetites) / maximum + 1) * (TURN + 2 * STEP)
        for name, when in simulation.last_had.items():
            self.assertLess(simulation.now - when, longest)

    @settings(max_examples=9, deadline=None)
    @given(st.integers(1, 3), st.integers(1, 6))
    def test_late_comer(self, maximum, appetite):
        # One has all, until another comes.
        simulation = Simulation([9, 0], maximum)
        simulation.run([], 1)
        self.assertEqual(simulation.all['0'].held, maximum)
        simulation.all['1'] = simulation.all['1']._replace(
            wanted=appetite, waiting_since=simulation.now)
        simulation.run([], 1 if maximum > 1 else TURN + 2)
        self.assertGreater(simulation.all['1'].held, 0)
