# SPDX-License-Identifier: GPL-3.0-or-later
"""Which timer runs, and since when; the clock is the test's."""

import unittest

from mailman_mta_pool.wire.lessons import Chunking
from mailman_mta_pool.wire.outbox import BLOCK
from mailman_mta_pool.wire.pipeline import Command
from tests.wire.dialogue import (
    BDAT,
    Dialogue,
    envelope,
    GO,
    NO,
    OFFER,
    OK,
    QUIT,
    transaction,
)


LONG = 4 * BLOCK * 'x'


class Timed(unittest.TestCase):
    def begin(self, *keywords, **how):
        self.dialogue = Dialogue('PIPELINING', *keywords, **how)
        self.conversation = self.dialogue.conversation
        self.dialogue.now = 100.0

    def at(self, now, *replies, sent=10 ** 9):
        """Let the server answer, and hand octets to the kernel."""
        self.dialogue.now = now
        for reply in replies:
            self.conversation.receive(reply.encode())
        return self.dialogue.sent(sent)

    def assertTimer(self, command, since):
        # To look at it later changes nothing.
        for later in (0, 1000):
            self.dialogue.now += later
            self.assertEqual(self.conversation.timer, (command, since))
        self.dialogue.now -= 1000


class TestReplies(Timed):
    def test_nothing_is_awaited(self):
        self.begin()
        self.assertIsNone(self.conversation.timer)

    def test_one_after_the_other(self):
        self.begin()
        self.dialogue.submit(transaction('a', 'x', 'y'))
        self.assertTimer(Command.mail, 100)
        self.at(110, OK)
        self.assertTimer(Command.rcpt, 110)
        self.at(125, OK)
        self.assertTimer(Command.rcpt, 125)
        self.at(130, OK)
        self.assertTimer(Command.data, 130)
        # The content is handed over later than the reply came.
        self.conversation.receive(GO.encode())
        self.at(140)
        self.assertTimer(Command.end, 140)
        self.at(150, OK)
        self.assertIsNone(self.conversation.timer)

    def test_a_part_of_a_reply_is_none(self):
        self.begin()
        self.dialogue.submit(transaction('a'))
        for now, octets in ((110, '25'), (120, '0-Ok\r\n250'), (130, ' ')):
            self.at(now, octets)
            self.assertTimer(Command.mail, 100)

    def test_commands_between(self):
        for reply, command in (('451 4.3.0 Later\r\n', Command.rset),
                               ('554 5.7.1 No\r\n', Command.ehlo)):
            with self.subTest(command=command):
                self.begin()
                self.dialogue.submit(transaction('a'), transaction('b'))
                self.at(110, OK, OK, reply)
                self.assertIs(self.conversation.awaiting, command)
                self.assertTimer(command, 110)
        self.at(120, OFFER)
        self.assertTimer(Command.mail, 120)
        self.begin(authenticated=True)
        self.dialogue.submit(transaction('a'))
        self.assertEqual(self.at(110, OK, OK, '554 5.7.1 No\r\n'), QUIT)
        self.assertTimer(Command.quit, 110)

    def test_the_oldest_of_many(self):
        self.begin('CHUNKING', known=Chunking.proved)
        self.dialogue.submit(*map(transaction, 'abc'))
        self.at(110, OK, OK)
        self.assertTimer(Command.end, 110)
        self.at(120, OK)
        self.assertTimer(Command.rset, 120)
        self.at(130, OK, OK, OK, OK)
        # The second is accepted; what it is about does not matter.
        self.assertTimer(Command.rset, 130)

    def test_the_trial(self):
        self.begin('CHUNKING')
        self.dialogue.submit(transaction('a'))
        self.at(110, OK, OK)
        self.assertTimer(Command.bdat, 110)
        self.at(120, OK)
        self.assertTimer(Command.end, 120)

    def test_after_the_end(self):
        for end in (lambda: self.conversation.lose(),
                    lambda: self.conversation.receive(b'421 Bye\r\n')):
            self.begin()
            self.dialogue.submit(transaction('a'))
            end()
            self.assertIsNone(self.conversation.timer)


class TestUnsent(Timed):
    def test_before_the_group_has_gone(self):
        self.begin()
        self.conversation.submit(transaction('a'))
        self.assertTimer(None, 100)
        self.at(110, sent=5)
        self.assertTimer(None, 100)
        self.at(120)
        self.assertTimer(Command.mail, 120)

    def test_block_by_block(self):
        self.begin()
        self.dialogue.submit(transaction('a', text=LONG))
        self.at(110, OK, OK, GO, sent=10)
        self.assertTimer(None, 110)
        # Drop by drop is not enough.
        for now in range(111, 120):
            self.at(now, sent=10)
            self.assertTimer(None, 110)
        self.at(120, sent=BLOCK)
        self.assertTimer(None, 120)
        self.at(130, sent=BLOCK)
        self.assertTimer(None, 130)
        self.at(140)
        self.assertTimer(Command.end, 140)

    def test_a_busy_server_need_not_read(self):
        # The oldest reply that is awaited has the timer, not the octets.
        self.begin('CHUNKING', known=Chunking.proved)
        first = envelope('a') + BDAT
        for each in ('a', 'b'):
            self.conversation.submit(transaction(each, text='Hi'))
        self.conversation.submit(transaction('c', text=LONG))
        self.at(100, sent=len(first))
        self.assertTimer(Command.mail, 100)
        self.at(110, OK, OK, sent=0)
        self.assertTimer(Command.end, 110)
        self.at(400, sent=3)
        self.assertTimer(Command.end, 110)
        # Now it is ready to read, so the time begins.
        self.at(500, OK, sent=0)
        self.assertTimer(None, 500)

    def test_refused_before_its_end(self):
        self.begin()
        self.dialogue.submit(transaction('a', text=LONG))
        self.at(110, OK, OK, GO, sent=1)
        self.at(120, '452 4.3.1 Full\r\n', sent=0)
        self.assertIsNone(self.conversation.awaiting)
        self.assertTimer(None, 120)
        self.at(130)
        self.assertIsNone(self.conversation.timer)


class TestClock(Timed):
    def test_few_looks(self):
        # One for each piece that is read or written, not for each reply.
        self.begin('CHUNKING', known=Chunking.proved)
        for number in range(20):
            self.conversation.submit(transaction(f'a{number}', *'xyz'))
        looks = self.dialogue.looks
        self.dialogue.sent()
        self.conversation.receive(
            (OK + 4 * OK + 19 * (5 * OK + NO)).encode()[:-6])
        self.assertEqual(self.dialogue.looks - looks, 2)

    def test_what_is_not_asked_for_is_not_kept(self):
        self.begin()
        for number in range(300):
            self.dialogue.submit(transaction('a'))
            self.at(100 + number, OK, OK, GO)
            self.assertEqual(self.at(100 + number, OK), '')
        self.dialogue.submit(transaction('b'))
        self.assertTimer(Command.mail, 399)
