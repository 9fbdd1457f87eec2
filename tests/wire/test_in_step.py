# SPDX-License-Identifier: GPL-3.0-or-later
"""A reply too many refuses nobody.

With pipelining it would be taken for the answer to the next command, and all
that come after it for the answers to one command too early.
"""

import unittest

from hypothesis import given, settings, strategies as st
from mailman_mta_pool.errors import ProtocolError
from mailman_mta_pool.wire.lessons import Chunking
from mailman_mta_pool.wire.pipeline import Command
from tests.wire.case import Case
from tests.wire.dialogue import (
    BDAT,
    BYE,
    Dialogue,
    envelope,
    GO,
    HELLO,
    HI,
    LATER,
    NO,
    OFFER,
    OK,
    QUIT,
    transaction,
)
from tests.wire.test_model import ALL, CASES, MANY_THINGS, PROFILE


BY_DATA = ('PIPELINING',)
BY_BDAT = ('PIPELINING', 'CHUNKING')
# They differ from every reply of the model's.
SURPLUS = b'550 5.1.1 Nothing of the kind\r\n'
WELCOME = b'250 2.1.5 Whoever you may be\r\n'


def bdat(**how):
    return Dialogue(*BY_BDAT, known=Chunking.proved, **how)


class TestSurplus(unittest.TestCase):
    """Transactions to one, two and three, and what has become of each."""

    def assertSurprised(self, dialogue, *replies, fates):
        with self.assertRaises(ProtocolError):
            dialogue.hear(*replies)
        self.assertEqual(dialogue.lose(), fates)

    def test_before_rcpt(self):
        dialogue = Dialogue(*BY_DATA)
        dialogue.submit(transaction('a'))
        self.assertSurprised(
            dialogue, OK, NO, OK, fates=[['not_attempted']])

    def test_before_one_of_many(self):
        dialogue = Dialogue(*BY_DATA)
        dialogue.submit(transaction('a', *'xyz'))
        self.assertSurprised(
            dialogue, OK, OK, NO, OK, OK, fates=[3 * ['not_attempted']])

    def test_before_data(self):
        dialogue = Dialogue(*BY_DATA)
        dialogue.submit(transaction('a'))
        # The server waits for the content; it gets another command.
        self.assertEqual(dialogue.hear(OK, OK, NO), HELLO)
        self.assertEqual(dialogue.told(), [])
        self.assertSurprised(dialogue, GO, fates=[['not_attempted']])

    def test_before_the_end(self):
        dialogue = Dialogue(*BY_DATA)
        dialogue.submit(transaction('a'))
        self.assertEqual(dialogue.hear(OK, OK, GO, NO), HI + HELLO)
        # The server has taken it, for all that we can tell.
        self.assertSurprised(dialogue, OK, fates=[['in_doubt']])

    def test_before_the_end_and_the_next(self):
        dialogue = Dialogue(*BY_DATA)
        dialogue.submit(transaction('a'), transaction('b'))
        dialogue.hear(OK, OK, GO, NO, OK)
        self.assertSurprised(
            dialogue, OK, OK, fates=[['in_doubt'], ['not_attempted']])

    def test_before_mail(self):
        dialogue = Dialogue(*BY_DATA)
        dialogue.submit(transaction('a'), transaction('b'))
        dialogue.hear(OK, OK, GO, OK)
        self.assertSurprised(
            dialogue, NO, OK, fates=[['accepted'], ['not_attempted']])

    def test_before_bdat(self):
        dialogue = bdat()
        dialogue.submit(transaction('a'), transaction('b'))
        self.assertEqual(dialogue.hear(OK, OK, NO), HELLO)
        dialogue.hear(OK, OK, OK, OK)
        # What was taken for the answer to BDAT was that to RCPT.
        self.assertEqual(dialogue.fates(), [['accepted']])
        self.assertSurprised(dialogue, OK, fates=[['in_doubt']])

    def test_before_one_of_many_and_bdat(self):
        dialogue = bdat()
        dialogue.submit(transaction('a', *'xyz'))
        self.assertEqual(dialogue.hear(OK, OK, NO, OK, OK), HELLO)
        self.assertEqual(dialogue.told(), [])
        self.assertSurprised(dialogue, OK, fates=[3 * ['in_doubt']])

    def test_every_place(self):
        for how in ({'pipelining': False}, {'chunking': False},
                    {'known': Chunking.proved}, {}):
            # One recipient is refused for the time being.
            case = Case(MANY_THINGS, ALL, bytes([0, 0, 192]), **how)
            total = len(case.run().server.answers)
            for place in range(1, total + 1):
                with self.subTest(place=place, **how):
                    case._replace(surplus=(place, SURPLUS)).run()

    @settings(PROFILE)
    @given(CASES, st.integers(1, 20))
    def test_any_dialogue(self, case, place):
        # This server refuses nobody for good.  And it does not hang up: a
        # refusal that is the last word counts, for many servers do so.
        case._replace(
            surplus=(place, SURPLUS), cut=None, tired_after=None,
            script=bytes(octet % 208 for octet in case.script)).run()

    @settings(PROFILE)
    @given(CASES, st.integers(1, 20))
    def test_questions(self, case, place):
        # Where a question says that somebody was accepted, somebody was.  Half
        # of what this server is asked for, it refuses for the time being.
        case._replace(
            surplus=(place, WELCOME), cut=None, tired_after=None,
            messages=tuple((sender, recipients, None)
                           for sender, recipients, _ in case.messages),
            script=bytes(octet % 2 * 192 for octet in case.script)).run()


class TestProof(unittest.TestCase):
    """How it is made sure that a refusal is one."""

    def test_the_next_go_ahead(self):
        dialogue = Dialogue(*BY_DATA)
        dialogue.submit(transaction('a'), transaction('b'))
        self.assertEqual(dialogue.hear(OK, OK, GO, NO, OK, OK),
                         HI + envelope('b') + 'DATA\r\n')
        self.assertEqual(dialogue.told(), [])
        self.assertEqual(dialogue.hear(GO), HI)
        self.assertEqual(dialogue.fates(), [['refused']])

    def test_ehlo_takes_the_place_of_rset(self):
        dialogue = bdat()
        dialogue.submit(transaction('a'))
        self.assertEqual(dialogue.hear(OK, OK, NO), HELLO)
        # It is the last of its group.
        self.assertEqual(dialogue.submit(transaction('b')), '')
        self.assertEqual(dialogue.hear(OFFER), envelope('b') + BDAT)
        self.assertEqual(dialogue.fates(), [['refused']])

    def test_once_for_many(self):
        dialogue = bdat()
        dialogue.submit(*map(transaction, 'abc'))
        self.assertEqual(
            dialogue.hear(OK, OK, NO, OK, OK, OK, OK, OK, OK, OK, NO), HELLO)
        self.assertEqual(dialogue.fates(), [['accepted']])
        self.assertEqual(dialogue.hear(OFFER), '')
        self.assertEqual(dialogue.fates(), [['refused'], ['refused']])
        self.assertTrue(dialogue.conversation.idle)

    def test_none_is_needed(self):
        # A reply too many could not have led to these.
        for dialogue, last in ((Dialogue(*BY_DATA), 'DATA\r\n'),
                               (bdat(), BDAT)):
            self.assertEqual(dialogue.submit(transaction('a')),
                             envelope('a') + last)
            self.assertEqual(dialogue.hear(OK, NO, NO), '')
            self.assertEqual(dialogue.fates(), [['refused']])
        dialogue = Dialogue(*BY_DATA)
        dialogue.submit(transaction('a', *'xy'))
        self.assertEqual(dialogue.hear(OK, OK, NO, GO, OK), HI)
        self.assertEqual(dialogue.fates(), [['accepted', 'refused']])
        # After 354 for nobody.
        for last in (OK, '554 5.5.1 No valid recipients\r\n'):
            dialogue = Dialogue(*BY_DATA)
            dialogue.submit(transaction('a', *'xy'))
            self.assertEqual(dialogue.hear(OK, LATER, NO, GO), '.\r\n')
            self.assertEqual(dialogue.hear(last), '')
            self.assertEqual(dialogue.fates(), [['refused', 'refused']])
        # Each command waits for its reply.
        dialogue = Dialogue()
        dialogue.submit(transaction('a'))
        dialogue.hear(OK, OK, GO)
        self.assertEqual(dialogue.hear(NO), '')
        self.assertEqual(dialogue.fates(), [['refused']])

    def test_refused_for_the_time_being(self):
        # It costs nobody a bounce, so there is nothing to prove.
        dialogue = bdat()
        dialogue.submit(transaction('a', *'xy'))
        self.assertEqual(
            dialogue.hear(OK, LATER, OK, OK), '')
        self.assertEqual(dialogue.fates(), [['refused', 'accepted']])

    def test_ehlo_is_refused(self):
        # That proves nothing, and QUIT does.  Who was accepted, was.
        for reply in ('554 5.5.1 Too many\r\n', '503 5.5.1 Again?\r\n',
                      '450 4.7.0 Later\r\n'):
            with self.subTest(reply=reply):
                dialogue = bdat()
                dialogue.submit(transaction('a', *'xy'))
                dialogue.hear(OK, OK, NO, OK)
                dialogue.submit(transaction('b'))
                self.assertEqual(dialogue.hear(reply), QUIT)
                self.assertEqual(dialogue.fates(), [])
                dialogue.hear(BYE)
                self.assertTrue(dialogue.conversation.is_over)
                self.assertEqual(dialogue.fates(), [
                    ['accepted', 'refused'], ['not_attempted']])

    def test_ehlo_is_refused_out_of_step(self):
        # The answer to EHLO comes in the place of that to QUIT.
        dialogue = bdat()
        dialogue.submit(transaction('a'))
        dialogue.hear(OK, OK, NO)
        self.assertEqual(dialogue.hear(NO), QUIT)
        with self.assertRaisesRegex(ProtocolError, 'QUIT'):
            dialogue.hear(OFFER)
        self.assertEqual(dialogue.lose(), [['in_doubt']])

    def test_ehlo_is_not_understood(self):
        # So this server is asked for proof by QUIT.
        dialogue = bdat()
        dialogue.submit(transaction('a'))
        dialogue.hear(OK, OK, NO)
        dialogue.hear('503 5.5.1 Again?\r\n', BYE)
        self.assertEqual(dialogue.fates(), [['refused']])
        dialogue = Dialogue(*BY_BDAT, lessons=dialogue.lessons)
        dialogue.submit(transaction('a'))
        self.assertEqual(dialogue.hear(OK, OK, NO), QUIT)
        dialogue.hear(BYE)
        self.assertEqual(dialogue.fates(), [['refused']])

    def test_the_connection_is_lost(self):
        # Many servers close after a refusal.
        dialogue = bdat()
        dialogue.submit(transaction('a'))
        dialogue.hear(OK, OK, NO)
        self.assertEqual(dialogue.lose(), [['refused']])

    def test_ehlo_is_answered_by_something_else(self):
        for reply in ('250 Ok\r\n', '250-Ok\r\n250 queued as 1\r\n', GO):
            with self.subTest(reply=reply):
                dialogue = bdat()
                dialogue.submit(transaction('a'))
                dialogue.hear(OK, OK, NO)
                with self.assertRaisesRegex(ProtocolError, 'EHLO'):
                    dialogue.hear(reply)
                self.assertEqual(dialogue.lose(), [['in_doubt']])

    def test_the_name(self):
        dialogue = bdat(name='lists.example.com')
        dialogue.submit(transaction('a'))
        self.assertEqual(
            dialogue.hear(OK, OK, NO), 'EHLO lists.example.com\r\n')


class TestQuit(unittest.TestCase):
    """Where EHLO cannot be said again, the answer to QUIT is the proof."""

    def refused(self, *others, **how):
        """Return a dialogue in which somebody has been refused by BDAT."""
        dialogue = bdat(**{'authenticated': True, **how})
        dialogue.submit(transaction('a'), *map(transaction, others))
        self.assertFalse(dialogue.conversation.is_over)
        return dialogue

    def test_after_auth(self):
        dialogue = self.refused()
        # EHLO would mean to authenticate again.
        self.assertEqual(dialogue.hear(OK, OK, NO), QUIT)
        self.assertIs(dialogue.conversation.awaiting, Command.quit)
        self.assertTrue(dialogue.conversation.is_over)
        self.assertEqual(dialogue.conversation.room, 0)
        self.assertFalse(dialogue.conversation.idle)
        self.assertEqual(dialogue.told(), [])
        dialogue.hear(BYE)
        self.assertEqual(dialogue.fates(), [['refused']])
        self.assertTrue(dialogue.conversation.idle)
        self.assertTrue(dialogue.conversation.is_over)
        self.assertIsNone(dialogue.conversation.closed_by)

    def test_those_in_flight_are_answered_first(self):
        dialogue = self.refused('b', 'c')
        dialogue.hear(OK, OK, NO, OK, OK, OK, OK)
        self.assertEqual(dialogue.fates(), [['accepted']])
        dialogue.hear(OK, OK, OK, OK)
        self.assertEqual(dialogue.fates(), [['accepted']])
        dialogue.hear(BYE)
        self.assertEqual(dialogue.fates(), [['refused']])

    def test_those_that_wait_are_not_attempted(self):
        dialogue = Dialogue(*BY_DATA, authenticated=True)
        dialogue.submit(*map(transaction, 'abc'))
        dialogue.hear(OK, OK, '554 5.7.1 No\r\n')
        self.assertEqual(dialogue.fates(), [])
        # One that comes after all is not sent, either.
        self.assertEqual(dialogue.submit(transaction('d')), '')
        self.assertEqual(dialogue.fates(), [['not_attempted']])
        self.assertEqual(dialogue.hear(BYE), '')
        self.assertEqual(dialogue.fates(), [
            ['refused'], ['not_attempted'], ['not_attempted']])
        self.assertTrue(dialogue.conversation.idle)

    def test_closed_without_a_word(self):
        dialogue = self.refused()
        dialogue.hear(OK, OK, NO)
        self.assertEqual(dialogue.lose(), [['refused']])

    def test_something_else(self):
        for reply in (OK, '250 2.0.0 Ok: queued\r\n', NO, GO, OFFER,
                      '220 Hello\r\n'):
            with self.subTest(reply=reply):
                dialogue = self.refused()
                dialogue.hear(OK, OK, NO)
                with self.assertRaisesRegex(ProtocolError, 'QUIT'):
                    dialogue.hear(reply)
                self.assertEqual(dialogue.lose(), [['in_doubt']])

    def test_ehlo_was_not_taken_once(self):
        for reply in ('503 5.5.1 Again?\r\n', '421 4.7.0 Twice?\r\n',
                      '250 Ok\r\n'):
            with self.subTest(reply=reply):
                dialogue = bdat()
                dialogue.submit(transaction('a'))
                dialogue.hear(OK, OK, NO)
                try:
                    dialogue.hear(reply)
                except ProtocolError:
                    dialogue.lose()
                other = bdat(lessons=dialogue.lessons)
                other.submit(transaction('a'))
                # To hang up is not to refuse.
                self.assertEqual(
                    other.hear(OK, OK, NO),
                    HELLO if reply.startswith('421') else QUIT)
