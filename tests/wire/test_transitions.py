# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of moves, and that there are no others."""

import unittest

from itertools import product
from mailman_mta_pool.errors import IllegalMove
from mailman_mta_pool.wire.capabilities import Capabilities
from mailman_mta_pool.wire.exchange import Exchange
from mailman_mta_pool.wire.replies import Reply
from mailman_mta_pool.wire.states import Event, MOVES, State
from mailman_mta_pool.wire.transaction import Fate, Stage
from tests.wire.dialogue import transaction


def values(names):
    """Return what a class that only lists names has in it."""
    return {value for name, value in vars(names).items()
            if not name.startswith('_')}


STATES, EVENTS = values(State), values(Event)
#: The shortest way to each state.
WAYS = {
    State.queued: (),
    State.envelope: (Event.envelope,),
    State.asked: (Event.question,),
    State.trial: (Event.trial,),
    State.content: (Event.whole,),
    State.abandoned: (Event.envelope, Event.nobody),
    State.doubted: (Event.envelope, Event.doubted),
    State.done: (Event.lost,),
    }
#: Every way from the beginning to the end, written down from the RFCs: plain
#: and pipelined DATA (RFC 5321, RFC 2920), and BDAT (RFC 3030), also after a
#: first chunk of one octet.
STORIES = {
    (Event.envelope, Event.go_ahead, Event.answered),
    (Event.envelope, Event.go_ahead, Event.lost),
    (Event.envelope, Event.nobody, Event.answered),
    (Event.envelope, Event.nobody, Event.lost),
    (Event.envelope, Event.declined),
    (Event.envelope, Event.lost),
    (Event.question, Event.answered),
    (Event.question, Event.lost),
    (Event.trial, Event.go_ahead, Event.answered),
    (Event.trial, Event.go_ahead, Event.lost),
    (Event.trial, Event.declined),
    (Event.trial, Event.lost),
    (Event.whole, Event.answered),
    (Event.whole, Event.lost),
    (Event.lost,),
    } | {
    (*way, Event.doubted, end)
    for way in ((Event.envelope,), (Event.envelope, Event.go_ahead),
                (Event.trial,), (Event.trial, Event.go_ahead),
                (Event.whole,), (Event.question,))
    for end in (Event.proved, Event.lost)
    }


def exchange_in(state, *recipients):
    exchange = Exchange(transaction('a', *recipients), Capabilities())
    for event in WAYS[state]:
        exchange.move(event)
    assert exchange.state == state
    return exchange


class TestTable(unittest.TestCase):
    def test_is_complete(self):
        self.assertEqual(set(MOVES), STATES)
        self.assertEqual(set(WAYS), STATES)
        used = {event for moves in MOVES.values() for event in moves}
        self.assertEqual(used, EVENTS)
        for moves in MOVES.values():
            self.assertLessEqual(set(moves.values()), STATES)

    def test_names_are_different(self):
        for names in (State, Event):
            public = [name for name in vars(names) if not name.startswith('_')]
            self.assertEqual(len(values(names)), len(public))

    def test_all_stories(self):
        def stories(state, *so_far):
            if not MOVES[state]:
                return {so_far}
            return set().union(*(
                stories(after, *so_far, event)
                for event, after in MOVES[state].items()))
        self.assertEqual(stories(State.queued), STORIES)

    def test_any_state_can_be_lost_but_the_last(self):
        for state, moves in MOVES.items():
            self.assertEqual(
                moves.get(Event.lost),
                None if state == State.done else State.done)


class TestMoves(unittest.TestCase):
    def test_begins_queued(self):
        exchange = exchange_in(State.queued)
        self.assertFalse(exchange.settled)
        self.assertFalse(exchange.hopeless)
        self.assertIsNone(exchange.end)

    def test_each_of_them(self):
        for state, event in product(STATES, EVENTS):
            with self.subTest(state=state, event=event):
                exchange = exchange_in(state)
                if event in MOVES[state]:
                    exchange.move(event)
                    self.assertEqual(exchange.state, MOVES[state][event])
                else:
                    with self.assertRaisesRegex(
                            IllegalMove, f'{state}: {event}'):
                        exchange.move(event)
                    self.assertEqual(exchange.state, state)

    def test_unknown_event(self):
        with self.assertRaises(IllegalMove):
            exchange_in(State.queued).move('pigeon sent')

    def test_by_bdat(self):
        for state in STATES:
            with self.subTest(state=state):
                self.assertIs(exchange_in(state).by_bdat,
                              state in (State.trial, State.content))

    def test_no_outcome_without_results(self):
        exchange = exchange_in(State.content, 'x', 'y')
        exchange.take_mail(Reply(250, (b'',)))
        exchange.take_rcpts(Reply(550, (b'',)), 1)
        self.assertFalse(exchange.settled)
        with self.assertRaises(IllegalMove):
            exchange.outcome(1)
        exchange.take_end(Reply(250, (b'',)))
        self.assertTrue(exchange.settled)
        self.assertEqual(
            [result.fate for result in exchange.outcome(1).results],
            [Fate.refused, Fate.accepted])


class TestOneEnd(unittest.TestCase):
    """A recipient who has an end keeps it, whatever comes."""

    ENDS = {
        'accepted': lambda exchange: exchange.take_end(Reply(250, (b'',))),
        'refused at the end': lambda exchange: exchange.take_end(
            Reply(451, (b'',))),
        'refused at DATA': lambda exchange: exchange.refuse_rest(
            Stage.data, Reply(554, (b'',))),
        'given up': lambda exchange: exchange.give_up(),
        'lost': lambda exchange: exchange.lose(0),
        }

    def test_any_two(self):
        for first, second in product(self.ENDS, self.ENDS):
            with self.subTest(first=first, second=second):
                if first == second == 'lost':
                    # There is no such move.
                    continue
                exchange = exchange_in(State.content, 'x', 'y')
                exchange.take_mail(Reply(250, (b'',)))
                exchange.take_rcpts(Reply(250, (b'',)), 1)
                exchange.take_rcpts(Reply(550, (b'5.1.1 No',)), 1)
                self.ENDS[first](exchange)
                results = exchange.outcome(1).results
                self.assertEqual(
                    results[1], (Fate.refused, Stage.rcpt,
                                 Reply(550, (b'5.1.1 No',))))
                self.ENDS[second](exchange)
                self.assertEqual(exchange.outcome(1).results, results)

    def test_lost(self):
        for end, sent, fate in ((None, 99, Fate.not_attempted),
                                (9, 8, Fate.not_attempted),
                                (9, 9, Fate.in_doubt),
                                (9, 10, Fate.in_doubt)):
            with self.subTest(end=end, sent=sent):
                exchange = exchange_in(State.content)
                exchange.end = end
                exchange.lose(sent)
                result, = exchange.outcome(1).results
                self.assertIs(result.fate, fate)
                self.assertIsNone(result.reply)
                self.assertEqual(exchange.state, State.done)
