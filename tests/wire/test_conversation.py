# SPDX-License-Identifier: GPL-3.0-or-later
"""Which octets go out together, and what each answer does."""

import unittest

from mailman_mta_pool.errors import ProtocolError
from mailman_mta_pool.wire.content import Content
from mailman_mta_pool.wire.lessons import Chunking
from mailman_mta_pool.wire.pipeline import Command
from mailman_mta_pool.wire.transaction import Fate, Stage, Transaction
from tests.wire.case import BAD, GOOD
from tests.wire.dialogue import (
    BDAT,
    Dialogue,
    envelope,
    GO,
    HELLO,
    HI,
    NO,
    OFFER,
    OK,
    transaction,
)


class TestPlain(unittest.TestCase):
    """One command at a time."""

    def check(self, dialogue):
        self.assertEqual(dialogue.conversation.room, 1)
        self.assertEqual(dialogue.submit(transaction('a', 'b', 'c')),
                         'MAIL FROM:<a@example.com>\r\n')
        self.assertEqual(dialogue.conversation.room, 0)
        for reply, sent in (
                (OK, 'RCPT TO:<b@example.com>\r\n'),
                (OK, 'RCPT TO:<c@example.com>\r\n'),
                (NO, 'DATA\r\n'), (GO, HI), ('250 Ok: A1\r\n', '')):
            self.assertEqual(dialogue.hear(reply), sent)
        self.assertEqual(dialogue.told(), [[
            (Fate.accepted, Stage.end, '250 Ok: A1'),
            (Fate.refused, Stage.rcpt, '550 5.1.1 No')]])
        self.assertTrue(dialogue.conversation.idle)
        self.assertEqual(dialogue.conversation.room, 1)

    def test_nothing_is_offered(self):
        self.check(Dialogue())

    def test_both_off(self):
        self.check(Dialogue('PIPELINING', 'CHUNKING', pipelining=False,
                            chunking=False, pipeline_depth=8))

    def test_chunking_needs_pipelining(self):
        self.check(Dialogue('PIPELINING', 'CHUNKING', pipelining=False))
        self.check(Dialogue('CHUNKING', pipeline_depth=8))

    def test_the_next_one_waits(self):
        dialogue = Dialogue()
        dialogue.submit(transaction('a'), transaction('b'))
        for reply, sent in ((OK, 'RCPT TO:<x@example.com>\r\n'),
                            (OK, 'DATA\r\n'), (GO, HI),
                            (OK, 'MAIL FROM:<b@example.com>\r\n')):
            self.assertEqual(dialogue.hear(reply), sent)

    def test_mail_is_refused(self):
        dialogue = Dialogue()
        dialogue.submit(transaction('a'), transaction('b'))
        self.assertEqual(dialogue.hear('451 4.3.0 Later\r\n'),
                         'MAIL FROM:<b@example.com>\r\n')
        self.assertEqual(dialogue.told(), [[
            (Fate.refused, Stage.mail, '451 4.3.0 Later')]])

    def test_all_are_refused(self):
        dialogue = Dialogue()
        dialogue.submit(transaction('a', 'x', 'y'), transaction('b'))
        dialogue.hear(OK)
        dialogue.hear(NO)
        # The transaction is still open, so it is closed.
        self.assertEqual(dialogue.hear(NO), 'RSET\r\n')
        self.assertEqual(dialogue.fates(), [['refused', 'refused']])
        self.assertEqual(dialogue.hear(OK), 'MAIL FROM:<b@example.com>\r\n')

    def test_rset_is_refused(self):
        # No other command has been sent, so no other reply comes.
        dialogue = Dialogue()
        dialogue.submit(transaction('a'), transaction('b'))
        dialogue.hear(OK)
        self.assertEqual(dialogue.hear(NO), 'RSET\r\n')
        with self.assertRaisesRegex(ProtocolError, 'RSET'):
            dialogue.hear('502 5.5.1 What?\r\n')
        self.assertEqual(dialogue.lose(), [['refused'], ['not_attempted']])

    def test_data_is_refused(self):
        dialogue = Dialogue()
        dialogue.submit(transaction('a', 'x', 'y'), transaction('b'))
        dialogue.hear(OK)
        dialogue.hear(OK)
        dialogue.hear(NO)
        self.assertEqual(dialogue.hear('451 Later\r\n'), 'RSET\r\n')
        self.assertEqual(dialogue.told(), [[
            (Fate.refused, Stage.data, '451 Later'),
            (Fate.refused, Stage.rcpt, '550 5.1.1 No')]])


class TestPipelining(unittest.TestCase):
    def setUp(self):
        self.dialogue = Dialogue('PIPELINING')

    def test_groups(self):
        self.assertEqual(self.dialogue.conversation.room, 3)
        # RFC 2920, section 3.1: DATA is the last of its group.
        self.assertEqual(
            self.dialogue.submit(transaction('a', 'b', 'c'),
                                 transaction('d'), transaction('e')),
            envelope('a', 'b', 'c') + 'DATA\r\n')
        self.assertEqual(self.dialogue.conversation.room, 0)
        self.assertEqual(self.dialogue.hear(OK, OK), '')
        self.assertEqual(self.dialogue.hear(NO), '')
        # The content goes with the next envelope.
        self.assertEqual(
            self.dialogue.hear(GO), HI + envelope('d') + 'DATA\r\n')
        self.assertEqual(self.dialogue.hear(OK), '')
        self.assertEqual(self.dialogue.fates(), [['accepted', 'refused']])
        self.assertEqual(self.dialogue.hear(OK, OK, GO),
                         HI + envelope('e') + 'DATA\r\n')
        self.assertEqual(self.dialogue.hear(OK, OK, OK, GO), HI)
        self.assertEqual(self.dialogue.hear(OK), '')
        self.assertEqual(
            self.dialogue.fates(), [['accepted'], ['accepted']])
        self.assertTrue(self.dialogue.conversation.idle)

    def test_group_is_one_piece(self):
        self.dialogue.conversation.submit(transaction('a', *'bcdefgh'))
        self.assertEqual(
            bytes(self.dialogue.conversation.bytes_to_send()).decode(),
            envelope('a', *'bcdefgh') + 'DATA\r\n')

    def test_what_is_awaited(self):
        conversation = self.dialogue.conversation
        self.assertIsNone(conversation.awaiting)
        self.dialogue.submit(transaction('a'))
        for command in (
                Command.mail, Command.rcpt, Command.data, Command.end):
            self.assertIs(conversation.awaiting, command)
            self.dialogue.hear(GO if command is Command.data else OK)
        self.assertIsNone(conversation.awaiting)
        self.assertEqual(conversation.answered, 4)

    def test_go_ahead_for_nobody(self):
        self.dialogue.submit(transaction('a', 'x', 'y'), transaction('b'))
        self.assertEqual(self.dialogue.hear(OK, NO, NO, GO),
                         '.\r\n' + envelope('b') + 'DATA\r\n')
        # Whatever it says to that, it is not a delivery.
        self.dialogue.hear(OK)
        self.assertEqual(self.dialogue.told(), [
            [(Fate.refused, Stage.rcpt, '550 5.1.1 No')] * 2])

    def test_go_ahead_for_nobody_and_then_nothing(self):
        # No content has been sent, so nothing is in doubt.
        self.dialogue.submit(transaction('a', 'x', 'y'))
        self.dialogue.hear(OK, NO, '450 4.2.1 Later\r\n', GO)
        self.assertEqual(self.dialogue.lose(), [['refused', 'refused']])

    def test_mail_is_refused(self):
        self.dialogue.submit(transaction('a', 'x', 'y'), transaction('b'))
        # Nothing was opened, so no RSET is needed.
        self.assertEqual(
            self.dialogue.hear(NO, 2 * '503 MAIL?\r\n', '503 MAIL?\r\n'),
            envelope('b') + 'DATA\r\n')
        self.assertEqual(self.dialogue.told(), [
            [(Fate.refused, Stage.mail, '550 5.1.1 No')] * 2])

    def test_data_is_refused(self):
        self.dialogue.submit(transaction('a', 'x', 'y'), transaction('b'))
        self.assertEqual(
            self.dialogue.hear(OK, OK, NO, '452 4.3.1 Full\r\n'), HELLO)
        self.assertEqual(
            self.dialogue.hear(OFFER), envelope('b') + 'DATA\r\n')
        self.assertEqual(self.dialogue.told(), [[
            (Fate.refused, Stage.data, '452 4.3.1 Full'),
            (Fate.refused, Stage.rcpt, '550 5.1.1 No')]])
        self.dialogue.hear(OK, OK, GO, OK)
        self.assertEqual(self.dialogue.fates(), [['accepted']])

    def test_data_is_refused_for_the_time_being(self):
        self.dialogue.submit(transaction('a'), transaction('b'))
        self.assertEqual(
            self.dialogue.hear(OK, OK, '452 4.3.1 Full\r\n'),
            'RSET\r\n' + envelope('b') + 'DATA\r\n')
        self.assertEqual(self.dialogue.fates(), [['refused']])
        self.dialogue.hear(OK, OK, OK, GO, OK)
        self.assertEqual(self.dialogue.fates(), [['accepted']])

    def test_refused_at_the_end(self):
        self.dialogue.submit(transaction('a', 'x', 'y'))
        self.dialogue.hear(OK, OK, NO, GO)
        self.assertEqual(self.dialogue.hear('554 5.6.0 Spam\r\n'), HELLO)
        self.dialogue.hear(OFFER)
        self.assertEqual(self.dialogue.told(), [[
            (Fate.refused, Stage.end, '554 5.6.0 Spam'),
            (Fate.refused, Stage.rcpt, '550 5.1.1 No')]])

    def test_the_queue_id_survives(self):
        self.dialogue.submit(transaction('a'))
        self.dialogue.hear(OK, OK, GO, '250-2.0.0 Ok\r\n250 2.0.0 id=7\r\n')
        outcome, = self.dialogue.conversation.outcomes()
        self.assertEqual(outcome.results[0].reply.lines,
                         (b'2.0.0 Ok', b'2.0.0 id=7'))
        self.assertEqual(outcome.having(Fate.accepted), ('x@example.com',))
        self.assertEqual(outcome.having(Fate.refused), ())

    def test_odd_addresses_are_refused_alone(self):
        self.assertEqual(self.dialogue.submit(
            Transaction('a@example.com', BAD[:9] + GOOD + BAD[9:],
                        Content(b'Hi'))),
            'MAIL FROM:<a@example.com>\r\n' + ''.join(
                f'RCPT TO:<{address}>\r\n' for address in GOOD) + 'DATA\r\n')
        self.dialogue.hear(OK, len(GOOD) * OK, GO, OK)
        outcome, = self.dialogue.conversation.outcomes()
        self.assertEqual(outcome.having(Fate.accepted), GOOD)
        self.assertEqual(outcome.having(Fate.refused), BAD)

    def test_nobody_is_left(self):
        # Then nothing is sent at all, and it is settled at once.
        for each in (Transaction('a@example.com', BAD, Content(b'')),
                     Transaction('a b', GOOD, Content(b'')),
                     Transaction('a@example.com', (), Content(b''))):
            self.assertEqual(self.dialogue.submit(each), '')
            outcome, = self.dialogue.conversation.outcomes()
            self.assertIs(outcome.transaction, each)
            self.assertEqual(outcome.having(Fate.refused), each.recipients)
            self.assertTrue(self.dialogue.conversation.idle)

    def test_other_names_on_the_wire(self):
        # As [devmode] wants.
        each = transaction('a', 'b', 'c')._replace(stand_in='z@example.com')
        self.dialogue.conversation.submit(each)
        self.assertEqual(
            self.dialogue.sent(), envelope('a', 'z', 'z') + 'DATA\r\n')
        self.dialogue.hear(OK, OK, NO, GO, OK)
        outcome, = self.dialogue.conversation.outcomes()
        self.assertEqual(outcome.having(Fate.refused), ('c@example.com',))

    def test_long_content_and_the_next_envelope(self):
        text = 100000 * '.line\n'
        self.dialogue.submit(transaction('a', text=text), transaction('b'))
        self.assertEqual(
            self.dialogue.hear(OK, OK, GO),
            100000 * '..line\r\n' + '.\r\n' + envelope('b') + 'DATA\r\n')


class TestLoss(unittest.TestCase):
    """In doubt is what was sent to its end, and not answered."""

    def test_before_the_end_of_the_content(self):
        dialogue = Dialogue('PIPELINING')
        dialogue.submit(transaction('a', 'x', 'y'), transaction('b'))
        dialogue.conversation.receive((OK + OK + NO + GO).encode())
        dialogue.sent(len(HI) - 1)
        self.assertEqual(
            dialogue.lose(), [['not_attempted', 'refused'], ['not_attempted']])
        self.assertFalse(dialogue.conversation.unsent)
        self.assertTrue(dialogue.conversation.idle)
        self.assertEqual(dialogue.lose(), [])

    def test_after_the_end_of_the_content(self):
        dialogue = Dialogue('PIPELINING')
        dialogue.submit(transaction('a', 'x', 'y'), transaction('b'))
        dialogue.conversation.receive((OK + OK + NO + GO).encode())
        dialogue.sent(len(HI))
        self.assertEqual(
            dialogue.lose(), [['in_doubt', 'refused'], ['not_attempted']])

    def test_half_a_reply_is_none(self):
        dialogue = Dialogue('PIPELINING')
        dialogue.submit(transaction('a'))
        dialogue.hear(OK, OK, GO, '250 Ok\r')
        self.assertTrue(dialogue.conversation.answered == 3)
        self.assertEqual(dialogue.lose(), [['in_doubt']])

    def test_chunks(self):
        dialogue = Dialogue('PIPELINING', 'CHUNKING', known=Chunking.proved)
        for name in 'abc':
            dialogue.conversation.submit(transaction(name))
        first = envelope('a') + BDAT
        second = 'RSET\r\n' + envelope('b') + BDAT
        dialogue.sent(len(first + second) - 1)
        self.assertEqual(dialogue.lose(), [
            ['in_doubt'], ['not_attempted'], ['not_attempted']])
        # One connection lost is no reason to give up chunking.
        self.assertIs(dialogue.lessons.chunking, Chunking.proved)


class TestHangUp(unittest.TestCase):
    """421: it closes, and has read nothing of what comes after."""

    def hang_up_after(self, *replies, chunking=False):
        dialogue = Dialogue('PIPELINING', *(['CHUNKING'] * chunking),
                            known=Chunking.proved)
        dialogue.submit(transaction('a', 'x', 'y'), transaction('b'))
        dialogue.hear(*replies, '421 4.3.2 Bye\r\n' + OK)
        self.assertEqual(dialogue.conversation.closed_by.code, 421)
        self.assertEqual(dialogue.conversation.room, 0)
        self.assertTrue(dialogue.conversation.is_over)
        self.assertTrue(dialogue.conversation.idle)
        return dialogue

    def test_nobody_is_lost(self):
        for replies in ((), (OK,), (OK, OK), (OK, OK, OK)):
            for chunking in (False, True):
                with self.subTest(replies=replies, chunking=chunking):
                    if chunking and len(replies) == 3:
                        # That is the answer to the content.
                        continue
                    dialogue = self.hang_up_after(
                        *replies, chunking=chunking)
                    self.assertEqual(dialogue.fates(), [
                        ['not_attempted'] * 2, ['not_attempted']])

    def test_the_refused_ones_stay_so(self):
        dialogue = self.hang_up_after(OK, NO)
        self.assertEqual(dialogue.told(), [[
            (Fate.refused, Stage.rcpt, '550 5.1.1 No'),
            (Fate.not_attempted, Stage.rcpt, '421 4.3.2 Bye')],
            [(Fate.not_attempted, Stage.connect, '421 4.3.2 Bye')]])

    def test_as_the_answer_to_the_content(self):
        for replies, chunking in (((OK, OK, NO, GO), False),
                                  ((OK, OK, NO), True)):
            with self.subTest(chunking=chunking):
                dialogue = self.hang_up_after(*replies, chunking=chunking)
                # It has said so: this one is deferred, and not in doubt.
                self.assertEqual(dialogue.told(), [[
                    (Fate.refused, Stage.end, '421 4.3.2 Bye'),
                    (Fate.refused, Stage.rcpt, '550 5.1.1 No')],
                    [(Fate.not_attempted, Stage.connect, '421 4.3.2 Bye')]])

    def test_before_the_content_is_through(self):
        dialogue = Dialogue('PIPELINING')
        dialogue.submit(transaction('a'))
        dialogue.conversation.receive((OK + OK + GO).encode())
        dialogue.sent(len(HI) - 1)
        dialogue.conversation.receive(b'421 Bye\r\n')
        self.assertEqual(dialogue.told(), [[
            (Fate.not_attempted, Stage.end, '421 Bye')]])

    def test_when_nothing_is_going_on(self):
        dialogue = Dialogue('PIPELINING')
        dialogue.hear('421 Timeout\r\n')
        self.assertEqual(str(dialogue.conversation.closed_by), '421 Timeout')
        self.assertEqual(dialogue.conversation.room, 0)
