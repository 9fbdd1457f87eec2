# SPDX-License-Identifier: GPL-3.0-or-later
"""A server that has forgotten who we are, and wants AUTH again."""

import unittest

from mailman_mta_pool.errors import ProtocolError
from mailman_mta_pool.wire.lessons import Chunking, Pipelining
from mailman_mta_pool.wire.replies import Reply, wants_login
from mailman_mta_pool.wire.transaction import Fate, Stage
from tests.wire.dialogue import (
    BDAT,
    BYE,
    Dialogue,
    envelope,
    GO,
    HI,
    NO,
    OK,
    QUIT,
    transaction,
)
from tests.wire.test_questions import question


WHO = '530 5.7.0 Authentication required\r\n'
GO_SMTP = '502 5.7.0 Please authenticate first.\r\n'
SEQUENCE = '503 5.5.1 MAIL first\r\n'
MAIL_FIRST = '503 5.5.1 RCPT first\r\n'
BY_BDAT = ('PIPELINING', 'CHUNKING')


def authenticated(*keywords, **how):
    return Dialogue(*keywords, **{'authenticated': True, **how})


def by_bdat(**how):
    return authenticated(*BY_BDAT, known=Chunking.proved, **how)


class TestReply(unittest.TestCase):
    def test_wants_login(self):
        for text, expected in (
                (WHO, True), ('530 Log in\r\n', True), (GO_SMTP, True),
                ('550 5.7.0 Must AUTHENTICATE\r\n', True),
                ('554 5.7.1 Not authenticated\r\n', False),
                ('550 5.7.0 Local policy\r\n', False),
                ('450 4.7.0 Authenticate first\r\n', False),
                ('550 Please authenticate\r\n', False)):
            with self.subTest(text=text):
                reply = Reply(int(text[:3]), (text[4:].strip().encode(),))
                self.assertIs(wants_login(reply), expected)


class TestForgotten(unittest.TestCase):
    """Nobody is refused, and the connection ends."""

    def assertForgotten(self, dialogue, *replies):
        """The answer to QUIT ends it with an error."""
        self.assertTrue(dialogue.hear(*replies).endswith(QUIT))
        self.assertTrue(dialogue.conversation.is_over)
        self.assertEqual(dialogue.conversation.room, 0)
        with self.assertRaisesRegex(ProtocolError, 'login'):
            dialogue.hear(BYE)
        self.assertTrue(dialogue.conversation.idle)
        dialogue.conversation.lose()

    def test_mail_one_by_one(self):
        for reply in (WHO, GO_SMTP):
            with self.subTest(reply=reply):
                dialogue = authenticated()
                dialogue.submit(transaction('a'), transaction('b'))
                self.assertForgotten(dialogue, reply)
                first, second = dialogue.told()
                self.assertEqual(first, [
                    (Fate.not_attempted, Stage.mail, reply.strip())])
                self.assertIs(second[0][0], Fate.not_attempted)

    def test_mail_in_a_group(self):
        for reply in (WHO, GO_SMTP):
            for how in (Pipelining.untried, Pipelining.proved):
                with self.subTest(reply=reply, how=how):
                    dialogue = authenticated(
                        'PIPELINING', pipelining_known=how)
                    dialogue.submit(transaction('a'), transaction('b'))
                    self.assertForgotten(
                        dialogue, reply, SEQUENCE, MAIL_FIRST)
                    self.assertEqual(
                        dialogue.fates(), 2 * [['not_attempted']])
                    # That is no fault of the group's.
                    self.assertIs(
                        dialogue.lessons.pipelining, Pipelining.proved)

    def test_go_ahead_for_nobody(self):
        dialogue = authenticated('PIPELINING')
        dialogue.submit(transaction('a'))
        self.assertEqual(dialogue.hear(WHO, SEQUENCE, GO), '.\r\n')
        self.assertForgotten(dialogue, '554 5.5.1 No recipients\r\n')
        self.assertEqual(dialogue.fates(), [['not_attempted']])

    def test_all_at_rcpt(self):
        dialogue = authenticated('PIPELINING')
        dialogue.submit(transaction('a', 'x', 'y'))
        self.assertForgotten(dialogue, OK, WHO, WHO, MAIL_FIRST)
        # Neither of them is to be suspected.
        self.assertEqual(dialogue.told(), [
            2 * [(Fate.not_attempted, Stage.connect, WHO.strip())]])

    def test_at_data(self):
        dialogue = authenticated('PIPELINING')
        dialogue.submit(transaction('a', 'x', 'y'))
        self.assertForgotten(dialogue, OK, OK, NO, GO_SMTP)
        self.assertEqual(dialogue.told(), [[
            (Fate.not_attempted, Stage.data, GO_SMTP.strip()),
            (Fate.refused, Stage.rcpt, '550 5.1.1 No')]])

    def test_those_behind_have_their_own_answers(self):
        dialogue = by_bdat()
        dialogue.submit(*map(transaction, 'abc'))
        self.assertEqual(dialogue.hear(GO_SMTP, SEQUENCE, SEQUENCE), QUIT)
        # The server may want no login for some senders, and take theirs.
        dialogue.hear(OK, OK, OK, OK)
        self.assertEqual(
            dialogue.fates(), [['not_attempted'], ['accepted']])
        dialogue.hear(OK, GO_SMTP, SEQUENCE, SEQUENCE)
        self.assertEqual(dialogue.fates(), [['not_attempted']])
        with self.assertRaisesRegex(ProtocolError, 'login'):
            dialogue.hear(BYE)

    def test_those_behind_that_are_lost(self):
        dialogue = by_bdat()
        dialogue.submit(transaction('a'), transaction('b'))
        dialogue.hear(GO_SMTP, SEQUENCE, SEQUENCE)
        self.assertEqual(dialogue.lose(), [['not_attempted'], ['in_doubt']])

    def test_lost_before_the_last_answer(self):
        for lose in (lambda dialogue: dialogue.conversation.lose(),
                     lambda dialogue: dialogue.hear('421 4.3.2 Bye\r\n')):
            dialogue = authenticated('PIPELINING')
            dialogue.submit(transaction('a'))
            dialogue.hear(WHO)
            lose(dialogue)
            self.assertEqual(dialogue.fates(), [['not_attempted']])

    def test_what_comes_later_is_not_sent(self):
        dialogue = by_bdat()
        dialogue.submit(transaction('a'))
        self.assertEqual(dialogue.hear(GO_SMTP, SEQUENCE, SEQUENCE), QUIT)
        self.assertEqual(dialogue.submit(transaction('b')), '')
        self.assertEqual(dialogue.fates(), 2 * [['not_attempted']])

    def test_a_question(self):
        dialogue = authenticated('PIPELINING')
        dialogue.submit(question('a'))
        self.assertForgotten(dialogue, OK, WHO, OK)
        self.assertEqual(dialogue.fates(), [['not_attempted']])


class TestNotForgotten(unittest.TestCase):
    def test_one_of_several(self):
        for replies in ((WHO, OK), (OK, WHO)):
            dialogue = authenticated('PIPELINING', 'X-OTHER')
            dialogue.submit(transaction('a', 'x', 'y'))
            self.assertEqual(dialogue.hear(OK, *replies, GO, OK), HI)
            fates, = dialogue.fates()
            self.assertEqual(sorted(fates), ['accepted', 'refused'])
            self.assertFalse(dialogue.conversation.is_over)

    def test_others_are_refused_otherwise(self):
        dialogue = authenticated('PIPELINING')
        dialogue.submit(transaction('a', 'x', 'y'))
        dialogue.hear(OK, NO, WHO, '554 5.5.1 No recipients\r\n')
        self.assertEqual(dialogue.fates(), [['refused', 'refused']])

    def test_we_have_not_authenticated(self):
        # It is for the site to configure a user and a password.
        for reply in (WHO, GO_SMTP):
            with self.subTest(reply=reply):
                dialogue = Dialogue('PIPELINING')
                self.assertEqual(
                    dialogue.submit(transaction('a')),
                    envelope('a') + 'DATA\r\n')
                dialogue.hear(reply, SEQUENCE, MAIL_FIRST)
                self.assertEqual(dialogue.fates(), [['refused']])

    def test_at_the_end_of_the_content(self):
        dialogue = by_bdat()
        self.assertEqual(
            dialogue.submit(transaction('a')), envelope('a') + BDAT)
        self.assertEqual(dialogue.hear(OK, OK, WHO), QUIT)
        dialogue.hear(BYE)
        self.assertEqual(dialogue.fates(), [['refused']])
