# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the weights of relays hold that have as much as they can take."""

import heapq
import unittest

from itertools import count
from mailman_mta_pool.dispatch.choice import Choice
from mailman_mta_pool.dispatch.contest import Contest
from tests.test_choice import Candidate


class Server(Candidate):
    """A relay with so many connections that takes so long for a message."""

    def __init__(self, name, weight=1, seconds=0.01, connections=4):
        super().__init__(name, weight, ceiling=connections)
        self.seconds = seconds
        self.answers = 0
        # From this time on it says nothing more.
        self.hangs_at = float('inf')


def send(servers, messages):
    """Send so many messages, as fast as the servers and the contest allow.

    Nobody is asked but when there was an answer, or when the contest wants to
    look again, as in the dispatcher.

    :return: How many seconds that took.
    """
    now, number = 0.0, count()
    choice = Choice(servers)
    contest = Contest(choice, servers, lambda: now)
    events = [(0.0, next(number), None)]
    left = messages
    while events:
        now, _, server = heapq.heappop(events)
        if server is not None:
            server.in_flight -= 1
            server.answers += 1
        progress = True
        while progress and left:
            progress = False
            for each in servers:
                if contest.is_needed:
                    contest.look()
                if left and each.has_room and choice.ask(each) is each:
                    each.in_flight += 1
                    left -= 1
                    progress = True
                    if now + each.seconds < each.hangs_at:
                        heapq.heappush(events, (
                            now + each.seconds, next(number), each))
        if left and contest.look_in is not None:
            heapq.heappush(events, (
                now + contest.look_in + 0.001, next(number), None))
    return now


class TestContest(unittest.TestCase):
    def test_equal_servers_of_different_weights(self):
        for weights in ((3, 1), (1, 3), (1, 2), (3, 2, 1)):
            with self.subTest(weights=weights):
                servers = [Server(f'{number}', weight)
                           for number, weight in enumerate(weights)]
                send(servers, 4000)
                for server in servers:
                    self.assertAlmostEqual(
                        server.answers / 4000, server.weight / sum(weights),
                        delta=0.02)

    def test_equal_weights_of_different_servers(self):
        # Nobody is waited for.
        for factor in (1, 3, 10):
            with self.subTest(factor=factor):
                quick = Server('quick')
                slow = Server('slow', seconds=factor * quick.seconds)
                took = send([quick, slow], 4000)
                ideal = 4000 / 4 * quick.seconds / (1 + 1 / factor)
                self.assertLess(took, 1.05 * ideal)

    def test_much_slower_than_its_weight(self):
        # It gets what it can take.
        for weights in ((1, 3), (3, 1)):
            with self.subTest(weights=weights):
                quick = Server('quick', weights[0])
                slow = Server('slow', weights[1], 10 * quick.seconds)
                took = send([quick, slow], 4000)
                ideal = 4000 / 4 * quick.seconds / 1.1
                self.assertLess(took, 1.05 * ideal)
                # And nothing is made up for when it is quick again.
                slow.seconds = quick.seconds
                before = quick.answers
                send([quick, slow], 4000)
                self.assertAlmostEqual(
                    (quick.answers - before) / 4000, weights[0] / 4,
                    delta=0.1)

    def test_one_hangs(self):
        # With its connections open, and after the weights have held.
        large, small = Server('large', 3), Server('small')
        large.hangs_at = 2.0
        took = send([large, small], 4000)
        ideal = 2.0 + (4000 - large.answers - 4) / 4 * small.seconds
        self.assertLess(took, 1.2 * ideal)
        self.assertEqual(small.answers + large.answers, 4000 - 4)
