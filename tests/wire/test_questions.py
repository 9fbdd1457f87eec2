# SPDX-License-Identifier: GPL-3.0-or-later
"""A question is MAIL, RCPT and RSET; nobody gets anything by it."""

import unittest

from mailman_mta_pool.errors import ProtocolError
from mailman_mta_pool.wire.capabilities import Capabilities
from mailman_mta_pool.wire.content import Content
from mailman_mta_pool.wire.conversation import Conversation
from mailman_mta_pool.wire.lessons import Chunking, Lessons, Pipelining
from mailman_mta_pool.wire.pipeline import Command
from mailman_mta_pool.wire.transaction import Fate, Span, Stage, Transaction
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
    REST,
    transaction,
    TRIAL,
)


BY_DATA = ('PIPELINING',)
BY_BDAT = ('PIPELINING', 'CHUNKING')
RESET = 'RSET\r\n'
MAIL = 'MAIL FROM:<a@example.com>\r\n'
RCPT = 'RCPT TO:<x@example.com>\r\n'
ACCEPTED = (Fate.not_attempted, Stage.data, '250 Ok')
REFUSED = (Fate.refused, Stage.rcpt, '550 5.1.1 No')
TOO_MANY = '554 Too many nonmail commands\r\n'
BUSY = '421 4.3.2 Busy\r\n'


def question(name, *recipients):
    return transaction(name, *recipients)._replace(
        content=Content(b''), asks=True)


def by_bdat(**how):
    return Dialogue(*BY_BDAT, known=Chunking.proved, **how)


class TestPlain(unittest.TestCase):
    """One command at a time."""

    def test_accepted_and_refused(self):
        dialogue = Dialogue()
        self.assertEqual(dialogue.submit(question('a', 'x', 'y')), MAIL)
        self.assertEqual(
            dialogue.hear(OK, OK),
            RCPT + 'RCPT TO:<y@example.com>\r\n')
        self.assertEqual(dialogue.hear(LATER), RESET)
        self.assertIs(dialogue.conversation.awaiting, Command.rset)
        self.assertEqual(dialogue.told(), [])
        self.assertEqual(dialogue.hear(OK), '')
        self.assertEqual(dialogue.told(), [[
            ACCEPTED, (Fate.refused, Stage.rcpt, '450 4.2.1 Full')]])
        self.assertTrue(dialogue.conversation.idle)

    def test_all_are_refused(self):
        dialogue = Dialogue()
        dialogue.submit(question('a'), transaction('b'))
        dialogue.hear(OK)
        # No DATA goes, and the transaction is closed.
        self.assertEqual(dialogue.hear(LATER), RESET)
        self.assertEqual(dialogue.hear(OK), 'MAIL FROM:<b@example.com>\r\n')
        self.assertEqual(dialogue.fates(), [['refused']])

    def test_mail_is_refused(self):
        dialogue = Dialogue()
        dialogue.submit(question('a', 'x', 'y'), transaction('b'))
        # There is nothing to be closed.
        self.assertEqual(dialogue.hear('451 4.3.0 Later\r\n'),
                         'MAIL FROM:<b@example.com>\r\n')
        self.assertEqual(
            dialogue.told(),
            [2 * [(Fate.refused, Stage.mail, '451 4.3.0 Later')]])


class TestGroup(unittest.TestCase):
    """All of it in one group."""

    def check(self, dialogue, following):
        self.assertEqual(
            dialogue.submit(question('a', 'x', 'y'), transaction('b')),
            envelope('a', 'x', 'y') + RESET + following)
        dialogue.hear(OK, OK, LATER)
        self.assertEqual(dialogue.told(), [])
        dialogue.hear(OK)
        self.assertEqual(dialogue.told(), [[
            ACCEPTED, (Fate.refused, Stage.rcpt, '450 4.2.1 Full')]])

    def test_by_data(self):
        dialogue = Dialogue(*BY_DATA)
        self.check(dialogue, envelope('b') + 'DATA\r\n')
        self.assertEqual(dialogue.hear(OK, OK, GO, OK), HI)
        self.assertEqual(dialogue.fates(), [['accepted']])

    def test_by_bdat(self):
        dialogue = by_bdat()
        # Its RSET is the only one that is needed.
        self.check(dialogue, envelope('b') + BDAT)
        dialogue.hear(OK, OK, OK)
        self.assertEqual(dialogue.fates(), [['accepted']])

    def test_behind_others(self):
        dialogue = by_bdat()
        self.assertEqual(
            dialogue.submit(transaction('b'), question('a')),
            envelope('b') + BDAT + RESET + envelope('a') + RESET)
        dialogue.hear(*7 * [OK])
        self.assertEqual(
            dialogue.fates(), [['accepted'], ['not_attempted']])

    def test_behind_data(self):
        dialogue = Dialogue(*BY_DATA)
        self.assertEqual(dialogue.submit(transaction('b'), question('a')),
                         envelope('b') + 'DATA\r\n')
        self.assertEqual(dialogue.hear(OK, OK, GO),
                         HI + envelope('a') + RESET)
        dialogue.hear(*4 * [OK])
        self.assertEqual(
            dialogue.fates(), [['accepted'], ['not_attempted']])

    def test_is_no_trial_of_chunking(self):
        dialogue = Dialogue(*BY_BDAT)
        self.assertEqual(dialogue.submit(question('a')),
                         envelope('a') + RESET)
        self.assertIs(dialogue.lessons.chunking, Chunking.untried)
        dialogue.hear(OK, OK, OK)
        self.assertEqual(dialogue.fates(), [['not_attempted']])
        self.assertEqual(dialogue.submit(transaction('b')),
                         envelope('b') + TRIAL)
        # The trial is alone.
        self.assertEqual(dialogue.submit(question('a')), '')
        self.assertEqual(dialogue.hear(OK, OK, OK),
                         REST + RESET + envelope('a') + RESET)

    def test_proves_pipelining(self):
        dialogue = Dialogue(*BY_DATA)
        dialogue.submit(question('a'))
        dialogue.hear(OK, OK)
        self.assertIs(dialogue.lessons.pipelining, Pipelining.untried)
        dialogue.hear(OK)
        self.assertIs(dialogue.lessons.pipelining, Pipelining.proved)

    def test_the_thread_is_lost(self):
        dialogue = Dialogue(*BY_DATA)
        dialogue.submit(question('a'))
        with self.assertRaisesRegex(ProtocolError, 'PIPELINING is offered'):
            dialogue.hear(OK, OK, '503 5.5.1 Bad sequence\r\n')
        self.assertIs(dialogue.lessons.pipelining, Pipelining.off)
        self.assertEqual(dialogue.lose(), [['not_attempted']])

    def test_no_answer_to_rset(self):
        dialogue = Dialogue(*BY_DATA)
        dialogue.submit(question('a'))
        dialogue.hear(OK, OK)
        dialogue.lose(silent=True)
        self.assertIs(dialogue.lessons.pipelining, Pipelining.off)

    def test_many_recipients(self):
        # However many they are, its RSET goes with them.
        names = [f'x{number}' for number in range(100)]
        dialogue = by_bdat()
        self.assertEqual(dialogue.submit(question('a', *names)),
                         envelope('a', *names) + RESET)
        dialogue.hear(102 * OK)
        self.assertEqual(dialogue.told(), [100 * [ACCEPTED]])


class TestCommands(unittest.TestCase):
    def setUp(self):
        self.now = 0.0

    def sent(self, *keywords, **parts):
        conversation = Conversation(
            Capabilities([('PIPELINING', ()), *keywords]),
            Lessons(lambda: self.now), lambda: self.now)
        conversation.submit(question('a')._replace(**parts))
        return bytes(conversation.bytes_to_send()).decode()

    def test_no_parameters_of_a_content(self):
        self.assertEqual(
            self.sent(('SIZE', ('1000',)), ('8BITMIME', ()), ('DSN', ()),
                      content=Content('Grüße'.encode()), envid='<1@a>'),
            envelope('a') + RESET)

    def test_outside_ascii(self):
        self.assertEqual(
            self.sent(('SMTPUTF8', ()), recipients=('jürgen@example.de',)),
            'MAIL FROM:<a@example.com> SMTPUTF8\r\n'
            'RCPT TO:<jürgen@example.de>\r\n' + RESET)

    def test_stand_in(self):
        self.assertEqual(
            self.sent(recipients=('anne@example.net', 'bart@example.net'),
                      stand_in='x@example.com'),
            envelope('a', 'x', 'x') + RESET)

    def test_refused_here(self):
        dialogue = Dialogue(*BY_DATA)
        self.assertEqual(
            dialogue.submit(question('a')._replace(
                recipients=('x@example.com', 'no mailbox'))),
            envelope('a') + RESET)
        dialogue.hear(OK, OK, OK)
        (accepted, refused), = dialogue.told()
        self.assertEqual(accepted, ACCEPTED)
        self.assertEqual(refused[:2], (Fate.refused, Stage.here))


class TestLost(unittest.TestCase):
    """A question is never in doubt, and without an answer there is none."""

    def test_at_any_reply(self):
        for how in ((), BY_DATA, BY_BDAT):
            for replies in range(4):
                for end in ('lost', 'hangs up', 'garbage'):
                    with self.subTest(how=how, replies=replies, end=end):
                        self.check(how, replies, end)

    def check(self, how, replies, end):
        dialogue = Dialogue(*how, known=Chunking.proved)
        dialogue.submit(question('a', 'x', 'y'))
        dialogue.hear(*replies * [OK])
        if end == 'garbage':
            with self.assertRaises(ProtocolError):
                dialogue.hear('What?\r\n')
        elif end == 'hangs up':
            dialogue.hear(BUSY)
        dialogue.conversation.lose()
        outcome, = dialogue.conversation.outcomes()
        for result in outcome.results:
            self.assertIs(result.fate, Fate.not_attempted)
            # No answer is taken for one of those who were accepted.
            self.assertNotEqual(getattr(result.reply, 'code', None), 250)

    def test_those_who_were_refused(self):
        dialogue = by_bdat()
        dialogue.submit(question('a', 'x', 'y'))
        dialogue.hear(OK, LATER, OK, BUSY)
        self.assertEqual(dialogue.told(), [[
            (Fate.refused, Stage.rcpt, '450 4.2.1 Full'),
            (Fate.not_attempted, Stage.data, '421 4.3.2 Busy')]])

    def test_rset_is_refused(self):
        # Exim says that, and closes.
        dialogue = by_bdat()
        dialogue.submit(question('a'), transaction('b'))
        dialogue.hear(OK, OK, TOO_MANY)
        self.assertTrue(dialogue.conversation.is_over)
        self.assertEqual(dialogue.told(), [])
        dialogue.conversation.lose()
        self.assertEqual(dialogue.told(), [
            [(Fate.not_attempted, Stage.data, TOO_MANY.strip())],
            [(Fate.not_attempted, Stage.connect, TOO_MANY.strip())]])

    def test_rset_is_refused_where_each_waits(self):
        dialogue = Dialogue()
        dialogue.submit(question('a'))
        with self.assertRaisesRegex(ProtocolError, 'RSET'):
            dialogue.hear(OK, OK, TOO_MANY)
        self.assertEqual(dialogue.lose(), [['not_attempted']])

    def test_answered_before_it_was_sent(self):
        dialogue = by_bdat()
        dialogue.conversation.submit(question('a'))
        dialogue.sent(len(envelope('a')))
        with self.assertRaisesRegex(ProtocolError, 'before it was sent'):
            dialogue.conversation.receive((3 * OK).encode())


class TestProof(unittest.TestCase):
    """A refusal is proved like any other."""

    def test_refused(self):
        for how in ((), BY_DATA, BY_BDAT):
            with self.subTest(how=how):
                dialogue = Dialogue(*how, 'X-OTHER', known=Chunking.proved)
                dialogue.submit(question('a', 'x', 'y'))
                self.assertTrue(
                    dialogue.hear(OK, NO, OK, OK).endswith(HELLO))
                self.assertEqual(dialogue.told(), [])
                dialogue.hear('250-example.net\r\n250 X-OTHER\r\n')
                self.assertEqual(dialogue.told(), [[REFUSED, ACCEPTED]])

    def test_all_are_refused(self):
        dialogue = by_bdat()
        dialogue.submit(question('a', 'x', 'y'))
        # Had one of these answered nothing, RSET would have got that to RCPT.
        self.assertEqual(dialogue.hear(OK, NO, NO, OK), HELLO)
        self.assertEqual(dialogue.hear(OFFER), '')
        self.assertEqual(dialogue.told(), [[REFUSED, REFUSED]])

    def test_by_quit(self):
        dialogue = by_bdat(authenticated=True)
        dialogue.submit(question('a'))
        self.assertEqual(dialogue.hear(OK, NO, OK), QUIT)
        dialogue.hear(BYE)
        self.assertEqual(dialogue.told(), [[REFUSED]])

    def test_by_the_next_go_ahead(self):
        dialogue = Dialogue(*BY_DATA)
        dialogue.submit(question('a'), transaction('b'))
        dialogue.hear(OK, NO, OK, OK, OK)
        self.assertEqual(dialogue.told(), [])
        self.assertEqual(dialogue.hear(GO), HI)
        self.assertEqual(dialogue.told(), [[REFUSED]])

    def test_none_is_needed(self):
        # MAIL was refused, or RCPT could not have been.
        dialogue = by_bdat()
        dialogue.submit(question('a'))
        self.assertEqual(
            dialogue.hear(NO, '503 5.5.1 No MAIL\r\n', OK), '')
        self.assertEqual(
            dialogue.told(), [[(Fate.refused, Stage.mail, '550 5.1.1 No')]])

    def test_out_of_step(self):
        for reply in (OK, NO, LATER):
            with self.subTest(surplus=reply):
                dialogue = by_bdat()
                dialogue.submit(question('a', 'x', 'y'))
                # The first of these answers nothing, and RCPT was refused.
                with self.assertRaises(ProtocolError):
                    dialogue.hear(reply, OK, NO, NO, OK, OFFER)
                self.assertEqual(
                    dialogue.lose(), [['not_attempted', 'not_attempted']])

    def test_out_of_step_after_mail(self):
        dialogue = by_bdat()
        dialogue.submit(question('a', 'x', 'y'))
        self.assertEqual(dialogue.hear(OK, NO, OK, OK), HELLO)
        # What was taken for the answer to EHLO is that to RSET.
        with self.assertRaisesRegex(ProtocolError, 'EHLO'):
            dialogue.hear(OK)
        self.assertEqual(
            dialogue.lose(), [['not_attempted', 'not_attempted']])


class TestSpan(unittest.TestCase):
    """Which of two transactions the server had answered first."""

    def spans(self, dialogue):
        return [outcome.span for outcome in dialogue.conversation.outcomes()]

    def test_one_after_the_other(self):
        first, second = Span(1, 2, 4), Span(3, 5, 6)
        self.assertTrue(first.precedes(second))
        self.assertFalse(second.precedes(first))

    def test_at_the_same_time(self):
        first, second = Span(1, 2, 5), Span(3, 4, 6)
        self.assertFalse(first.precedes(second))
        self.assertFalse(second.precedes(first))

    def test_both_in_flight_in_one_session(self):
        first, second = Span(1, 2, 6), Span(1, 3, 5)
        self.assertTrue(first.precedes(second))
        self.assertFalse(second.precedes(first))

    def test_not_itself(self):
        self.assertFalse(Span(1, 2, 3).precedes(Span(1, 2, 3)))
        self.assertFalse(Span().precedes(Span()))

    def test_in_flight(self):
        dialogue = by_bdat()
        dialogue.submit(transaction('a'), question('b'))
        dialogue.hear(*7 * [OK])
        first, second = self.spans(dialogue)
        self.assertEqual(first.session, second.session)
        # They were begun before the first was answered.
        self.assertLess(second.begun, first.ended)
        self.assertTrue(first.precedes(second))
        self.assertFalse(second.precedes(first))

    def test_two_sessions(self):
        early, late = by_bdat(), by_bdat()
        early.submit(transaction('a'))
        early.hear(OK, OK)
        late.submit(transaction('b'))
        early.hear(OK)
        late.submit(transaction('c'))
        late.hear(*7 * [OK])
        (first,), (second, third) = self.spans(early), self.spans(late)
        self.assertFalse(first.precedes(second))
        self.assertFalse(second.precedes(first))
        self.assertTrue(first.precedes(third))

    def test_never_begun(self):
        dialogue = Dialogue()
        dialogue.submit(transaction('a', 'x', 'y'), transaction('b'),
                        Transaction('no mailbox', ('x',), Content(b'')))
        dialogue.conversation.lose()
        refused, begun, waiting = self.spans(dialogue)
        for span in (refused, waiting):
            self.assertEqual(span.begun, span.ended)
        self.assertLess(begun.begun, begun.ended)
        self.assertTrue(begun.precedes(waiting))
        self.assertFalse(waiting.precedes(begun))

    def test_a_part_keeps_it(self):
        dialogue = Dialogue()
        dialogue.submit(transaction('a', 'x', 'y'))
        dialogue.conversation.lose()
        outcome, = dialogue.conversation.outcomes()
        self.assertEqual(outcome.part([1]).span, outcome.span)
        self.assertNotEqual(outcome.span, Span())
