# SPDX-License-Identifier: GPL-3.0-or-later
"""How many transactions are in flight, with servers that are simulated.

Times are in seconds of a clock that only the simulation winds.
"""

import random
import unittest

from collections import deque
from heapq import heappop, heappush
from hypothesis import given, settings, strategies as st
from itertools import count
from mailman_mta_pool.wire.capabilities import Capabilities
from mailman_mta_pool.wire.content import Content
from mailman_mta_pool.wire.conversation import Conversation
from mailman_mta_pool.wire.lessons import Chunking, Lessons
from mailman_mta_pool.wire.transaction import Transaction
from mailman_mta_pool.wire.window import MAX_OCTETS
from statistics import median
from tests.wire.dialogue import Dialogue, GO, OK, transaction
from typing import NamedTuple


MS = 0.001
MESSAGE = Transaction('a@example.com', ('x@example.com',), Content(b'Hi'))


class Far(NamedTuple):
    """A server and the way to it.

    :ivar round_trip: Of an octet, without any work.
    :ivar service: How long it works on a transaction.
    :ivar jitter: By how much the way can be longer, as a share of it.
    :ivar held: How many transactions it answers at once, if it has so many.
    :ivar spread: How much of the service time is left to chance.
    """

    round_trip: float
    service: float
    jitter: float = 0.0
    held: int = 1
    spread: float = 0.0


class Simulation:
    """One connection, and transactions without end.

    :ivar limits: How many were in flight when each was answered.
    :ivar answered: When each of them was answered.
    """

    def __init__(self, far, seed=0, depth=32, is_fixed=False, lessons=None):
        self._far = far
        self._random = random.Random(seed)
        self._depth = depth
        self._is_fixed = is_fixed
        self.now = 0.0
        self.lessons = lessons or Lessons(self.clock)
        self.lessons.learn_chunking(Chunking.proved)
        self.lessons.learn_round_trip(far.round_trip)
        self.conversation = Conversation(
            Capabilities([('PIPELINING', ()), ('CHUNKING', ())]),
            self.lessons, self.clock, pipeline_depth=depth)
        self._events = []
        self._order = count()
        self._arrivals = {True: 0.0, False: 0.0}
        self._waiting = deque()
        self._is_working = False
        self._done = 0
        self._submitted = 0
        self._is_first = True
        self.limits = []
        self.answered = []

    def clock(self):
        return self.now

    def run(self, messages):
        """Let the server answer so many, and return the simulation."""
        self._fill()
        while len(self.answered) < messages:
            self.now, _, event, number = heappop(self._events)
            event(number)
        return self

    @property
    def rate(self):
        """Messages in a second, once it has settled: the last half."""
        half = len(self.answered) // 2
        return ((len(self.answered) - half) /
                (self.answered[-1] - self.answered[half - 1]))

    def _at(self, when, event, number):
        heappush(self._events, (when, next(self._order), event, number))

    def _travel(self, is_reply):
        """Say when what is sent now arrives; nothing overtakes."""
        far = self._far
        way = far.round_trip / 2 * (1 + far.jitter * self._random.random())
        self._arrivals[is_reply] = max(
            self._arrivals[is_reply], self.now + way)
        return self._arrivals[is_reply]

    def _fill(self):
        conversation = self.conversation
        while (self._submitted - len(self.answered) < self._depth
               if self._is_fixed else conversation.room):
            conversation.submit(MESSAGE)
            self._submitted += 1
            while conversation.unsent:
                conversation.sent(len(conversation.bytes_to_send()))
            self._at(self._travel(False), self._arrive, 1)

    def _arrive(self, number):
        self._waiting.append(number)
        self._work()

    def _work(self):
        if self._waiting and not self._is_working:
            far = self._far
            self._is_working = True
            self._waiting.popleft()
            self._at(self.now + far.service * (
                1 - far.spread + far.spread *
                self._random.expovariate(1)), self._finish, 1)

    def _finish(self, number):
        self._is_working = False
        self._done += number
        if not self._waiting or self._done >= self._far.held:
            self._at(self._travel(True), self._reply, self._done)
            self._done = 0
        self._work()

    def _reply(self, number):
        self.limits.append(self._submitted - len(self.answered))
        replies = number * 4 - self._is_first
        self._is_first = False
        self.conversation.receive(replies * b'250 Ok\r\n')
        self.answered.extend(
            self.now for _ in self.conversation.outcomes())
        self._fill()


class TestRoundTrips(unittest.TestCase):
    def test_begins_with_one(self):
        simulation = Simulation(Far(20 * MS, MS)).run(1)
        self.assertEqual(simulation.limits, [1])
        # Doubles with each round trip until the server is busy.
        simulation.run(500)
        seen = sorted(set(simulation.limits))
        self.assertEqual(seen[:5], [1, 2, 4, 8, 16])

    def test_soon_busy(self):
        for round_trip, service in ((20, 1), (100, 5), (20, 2), (100, 1)):
            far = Far(round_trip * MS, service * MS)
            with self.subTest(far=far):
                simulation = Simulation(far).run(1000)
                usual = median(simulation.limits[500:])
                reached = next(
                    when for when, limit in zip(
                        simulation.answered, simulation.limits)
                    if limit >= 0.8 * usual)
                self.assertLess(
                    reached, 8 * (far.round_trip + far.service))

    def test_as_many_as_needed(self):
        for round_trip, service, needed in (
                (20, 2, 12), (20, 5, 6), (100, 10, 12), (100, 50, 4)):
            with self.subTest(round_trip=round_trip, service=service):
                simulation = Simulation(
                    Far(round_trip * MS, service * MS)).run(1000)
                # More is tried now and then, and is of no use here.
                usual = median(simulation.limits[500:])
                self.assertLessEqual(usual, needed + 1)
                self.assertGreater(simulation.rate * service * MS, 0.9)

    def test_more_where_it_makes_the_server_quicker(self):
        # One that is woken up less often if it can read on.
        class Woken(Simulation):
            def _work(self):
                self._far = self._far._replace(
                    service=max(1, 6 - len(self._waiting)) * MS)
                super()._work()
        simulation = Woken(Far(20 * MS, 5 * MS)).run(1000)
        self.assertGreater(median(simulation.limits[500:]), 16)
        # With few in flight it needs 6 ms for each.
        self.assertGreater(simulation.rate, 0.6 / MS)

    def test_the_ceiling(self):
        for depth in (1, 2, 5):
            simulation = Simulation(Far(100 * MS, MS), depth=depth).run(200)
            self.assertEqual(max(simulation.limits), depth)

    @settings(max_examples=40, derandomize=True, deadline=None, database=None)
    @given(st.sampled_from([5, 20, 50, 100]), st.floats(0.02, 3),
           st.floats(0, 0.15), st.sampled_from([1, 1, 2, 3]),
           st.floats(0, 0.5), st.integers(0, 999))
    def test_as_good_as_with_all(
            self, round_trip, service, jitter, held, spread, seed):
        # The ideal is a fixed depth, which never has too few in flight.
        far = Far(round_trip * MS, service * round_trip * MS, jitter, held,
                  spread)
        ours = Simulation(far, seed).run(1000)
        ideal = Simulation(far, seed, is_fixed=True).run(1000)
        self.assertGreater(ours.rate / ideal.rate, 0.9)

    @settings(max_examples=30, derandomize=True, deadline=None, database=None)
    @given(st.floats(0.01, 0.9), st.floats(0.02, 20), st.floats(0, 0.5),
           st.sampled_from([1, 2, 3, 100]), st.floats(0, 0.9),
           st.integers(0, 999))
    def test_on_the_same_machine(
            self, round_trip, service, jitter, held, spread, seed):
        simulation = Simulation(Far(
            round_trip * MS, service * MS, jitter, held, spread), seed)
        simulation.run(500)
        self.assertIn(max(simulation.limits), (2, 3))


class TestDoubt(unittest.TestCase):
    def lost(self, simulation):
        """Lose its connection, and return how many are in doubt."""
        simulation.conversation.lose()
        return len(list(simulation.conversation.outcomes()))

    def test_half(self):
        simulation = Simulation(Far(20 * MS, MS)).run(500)
        limit = self.lost(simulation)
        self.assertGreater(limit, 15)
        again = Simulation(
            Far(20 * MS, MS), lessons=simulation.lessons)
        again.run(500)
        seen = sorted(set(again.limits))
        # A new connection begins anew; from the half on it is careful.
        self.assertEqual(seen[:4], [1, 2, 4, 8])
        half = limit // 2
        self.assertEqual(seen[4:7], [half, half + 1, half + 2])

    def test_nothing_in_doubt(self):
        simulation = Simulation(Far(20 * MS, MS)).run(500)
        simulation.conversation.receive(b'421 4.3.2 Bye\r\n')
        list(simulation.conversation.outcomes())
        self.assertEqual(self.lost(simulation), 0)
        self.assertIsNone(simulation.lessons.window_ceiling)

    def test_closed_after_every_ten(self):
        # By a server on this machine: at most three in doubt each time.
        lessons = None
        for seed in range(20):
            simulation = Simulation(
                Far(0.1 * MS, MS, spread=0.5), seed, lessons=lessons)
            simulation.run(10)
            lessons = simulation.lessons
            self.assertLessEqual(self.lost(simulation), 3)

    def test_by_data(self):
        dialogue = Dialogue('PIPELINING')
        dialogue.submit(transaction('a'))
        dialogue.hear(OK, OK, GO)
        self.assertEqual(dialogue.lose(), [['in_doubt']])
        self.assertIsNone(dialogue.lessons.window_ceiling)

    def test_what_follows_a_content(self):
        # Perhaps it is what the server could not bear.
        dialogue = Dialogue('PIPELINING')
        dialogue.submit(transaction('a'), transaction('b'))
        dialogue.hear(OK, OK, GO)
        self.assertEqual(
            sorted(dialogue.lose()), [['in_doubt'], ['not_attempted']])
        again = Dialogue('PIPELINING', lessons=dialogue.lessons)
        for name in ('c', 'd'):
            self.assertEqual(again.conversation.room, 1)
            again.submit(transaction(name))
            self.assertEqual(again.conversation.room, 0)
            again.hear(OK, OK, GO, OK)


class TestOctets(unittest.TestCase):
    """One mebibyte in flight, or one transaction."""

    def check(self, conversation):
        half = transaction('a', text=(MAX_OCTETS // 2 - 2) * 'x')
        huge = transaction('b', text=(MAX_OCTETS - 2) * 'x')
        for first in (half, huge):
            # One may always go.
            self.assertGreater(conversation.room_octets, 2 ** 40)
            self.assertGreater(conversation.room, 0)
            conversation.submit(first)
            rest = MAX_OCTETS - first.content.size
            self.assertEqual(conversation.room_octets, rest)
            while conversation.unsent:
                conversation.sent(len(conversation.bytes_to_send()))
            if not rest:
                self.assertEqual(conversation.room, 0)
            yield

    def test_by_data(self):
        dialogue = Dialogue('PIPELINING')
        for _ in self.check(dialogue.conversation):
            self.assertEqual(
                dialogue.conversation.room,
                2 if dialogue.conversation.room_octets else 0)
            dialogue.hear(OK, OK, GO, OK)

    def test_by_bdat(self):
        dialogue = Dialogue(
            'PIPELINING', 'CHUNKING', known=Chunking.proved)
        replies = iter(((OK, OK, OK), (OK, OK, OK, OK)))
        for _ in self.check(dialogue.conversation):
            dialogue.hear(*next(replies))

    def test_none_in_flight_after_a_loss(self):
        dialogue = Dialogue('PIPELINING')
        dialogue.submit(transaction('a'))
        dialogue.lose()
        self.assertEqual(dialogue.conversation.room, 0)
        self.assertTrue(dialogue.conversation.is_over)
        self.assertGreater(dialogue.conversation.room_octets, 2 ** 40)
