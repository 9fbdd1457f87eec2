# SPDX-License-Identifier: GPL-3.0-or-later
"""BDAT, its trial, and what answers out of turn do."""

import unittest

from mailman_mta_pool.errors import ProtocolError
from mailman_mta_pool.wire.content import SplicedContent
from mailman_mta_pool.wire.lessons import Chunking, TRIAL_PAUSE
from mailman_mta_pool.wire.pipeline import Command
from mailman_mta_pool.wire.transaction import Fate, Stage
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
    REST,
    transaction,
    TRIAL,
)


BY_BDAT = 'PIPELINING', 'CHUNKING'
WHAT = '502 5.5.1 What?\r\n'


class TestDepth(unittest.TestCase):
    """More than there is room for may be submitted, and is sent."""

    def test_whole_transactions_in_flight(self):
        dialogue = Dialogue(*BY_BDAT, known=Chunking.proved)
        self.assertEqual(dialogue.conversation.room, 1)
        # RFC 3030, section 4.2: while a BDAT may yet fail, RSET begins the
        # next transaction.
        self.assertEqual(
            dialogue.submit(*map(transaction, 'abc')),
            envelope('a') + BDAT + 'RSET\r\n' + envelope('b') + BDAT +
            'RSET\r\n' + envelope('c') + BDAT)
        self.assertEqual(dialogue.conversation.room, 0)
        self.assertEqual(dialogue.hear(OK, OK, OK), '')
        self.assertEqual(dialogue.fates(), [['accepted']])
        self.assertEqual(dialogue.submit(transaction('d', 'x', 'y')),
                         'RSET\r\n' + envelope('d', 'x', 'y') + BDAT)
        dialogue.hear(OK, OK, NO, '554 5.5.1 Nobody\r\n')
        dialogue.hear(OK, OK, OK, '452 4.3.1 Full\r\n')
        # A reply too many could have refused one of them.
        self.assertEqual(dialogue.hear(OK, OK, OK, NO, OK), HELLO)
        dialogue.hear(OFFER)
        self.assertEqual(dialogue.told(), [
            [(Fate.refused, Stage.rcpt, '550 5.1.1 No')],
            [(Fate.refused, Stage.end, '452 4.3.1 Full')],
            [(Fate.accepted, Stage.end, '250 Ok'),
             (Fate.refused, Stage.rcpt, '550 5.1.1 No')]])
        self.assertTrue(dialogue.conversation.idle)

    def test_one_group(self):
        dialogue = Dialogue(*BY_BDAT, known=Chunking.proved)
        for number in range(32):
            dialogue.conversation.submit(transaction(f'a{number}'))
        self.assertEqual(
            bytes(dialogue.conversation.bytes_to_send()).decode(),
            'RSET\r\n'.join(
                envelope(f'a{number}') + BDAT for number in range(32)))

    def test_content_as_it_is(self):
        dialogue = Dialogue(*BY_BDAT, known=Chunking.proved)
        self.assertEqual(
            dialogue.submit(transaction('a', text='.\n.\rRSET')),
            envelope('a') + 'BDAT 12 LAST\r\n.\r\n.\r\nRSET\r\n')

    def test_not_where_it_is_off(self):
        for keywords, known, how in (
                (('PIPELINING',), Chunking.proved, {}),
                (BY_BDAT, Chunking.off, {}),
                (BY_BDAT, Chunking.on_trial, {}),
                (BY_BDAT, Chunking.proved, {'chunking': False})):
            with self.subTest(keywords=keywords, known=known, **how):
                dialogue = Dialogue(*keywords, known=known, **how)
                self.assertEqual(dialogue.conversation.room, 3)
                self.assertEqual(dialogue.submit(transaction('a')),
                                 envelope('a') + 'DATA\r\n')

    def test_nobody_is_accepted(self):
        # The content has gone all the same; the server has to refuse it.
        dialogue = Dialogue(*BY_BDAT, known=Chunking.proved)
        dialogue.submit(transaction('a', 'x', 'y'))
        dialogue.hear(OK, NO, NO)
        with self.assertRaises(ProtocolError):
            dialogue.hear(OK)
        # Whom it refused, and whether anybody, cannot be told.
        self.assertEqual(dialogue.lose(), [['in_doubt', 'in_doubt']])


class TestTrial(unittest.TestCase):
    """The first BDAT carries one octet."""

    def setUp(self):
        self.dialogue = Dialogue(*BY_BDAT)
        self.lessons = self.dialogue.lessons

    def test_alone(self):
        self.assertEqual(self.dialogue.submit(transaction('a')),
                         envelope('a') + TRIAL)
        self.assertIs(self.lessons.chunking, Chunking.on_trial)
        self.assertEqual(self.dialogue.conversation.room, 0)
        # They wait if they are there all the same.
        self.assertEqual(
            self.dialogue.submit(transaction('b'), transaction('c')), '')
        self.assertEqual(self.dialogue.hear(OK, OK), '')
        self.assertIs(
            self.dialogue.conversation.awaiting, Command.bdat)
        self.assertEqual(
            self.dialogue.hear(OK), REST + 'RSET\r\n' + envelope('b') + BDAT +
            'RSET\r\n' + envelope('c') + BDAT)
        self.assertIs(self.lessons.chunking, Chunking.proved)
        self.assertEqual(self.dialogue.told(), [])
        self.dialogue.hear(*[OK] * 9)
        self.assertEqual(self.dialogue.fates(), [['accepted']] * 3)

    def test_not_over_a_connection_that_may_be_dead(self):
        # Its loss would say nothing of CHUNKING.
        self.dialogue.conversation.begin_anew()
        self.assertEqual(self.dialogue.submit(transaction('a')),
                         envelope('a') + 'DATA\r\n')
        self.assertIs(self.lessons.chunking, Chunking.untried)
        self.assertEqual(self.dialogue.lose(), [['not_attempted']])
        self.assertIs(self.lessons.chunking, Chunking.untried)

    def test_octets_in_any_pieces(self):
        for pieces in ((b'Hi\r\n',), (b'', b'H', b'', b'i\r\n'),
                       (b'', b'Hi', b'\r\n')):
            with self.subTest(pieces=pieces):
                content = SplicedContent(pieces, (b'',), False)
                dialogue = Dialogue(*BY_BDAT)
                self.assertEqual(
                    dialogue.submit(transaction('a')._replace(
                        content=content)), envelope('a') + TRIAL)
                self.assertEqual(dialogue.hear(OK, OK, OK), REST)

    def test_not_to_many(self):
        # If the connection were lost, too many would be in doubt.
        many = [f'x{number}' for number in range(33)]
        self.assertEqual(self.dialogue.submit(transaction('a', *many)),
                         envelope('a', *many) + 'DATA\r\n')
        self.assertIs(self.lessons.chunking, Chunking.untried)

    def test_others_use_data_meanwhile(self):
        self.dialogue.submit(transaction('a'))
        other = Dialogue(*BY_BDAT, lessons=self.lessons)
        self.assertEqual(other.submit(transaction('b')),
                         envelope('b') + 'DATA\r\n')
        self.dialogue.hear(OK, OK, OK)
        # What they hear is true for all connections.
        self.assertEqual(other.submit(transaction('c')), '')
        self.assertEqual(other.hear(OK, OK, GO),
                         HI + envelope('c') + BDAT)

    def test_only_when_nothing_else_is_awaited(self):
        self.dialogue.submit(transaction('a'))
        other = Dialogue(*BY_BDAT, lessons=self.lessons)
        other.submit(transaction('b'), transaction('c'))
        # The trial told nothing, so the next one is free to try.
        self.dialogue.hear('421 4.3.2 Bye\r\n')
        self.assertIs(self.lessons.chunking, Chunking.untried)
        self.assertEqual(other.hear(OK, OK, GO),
                         HI + envelope('c') + 'DATA\r\n')
        self.assertEqual(other.hear(OK, OK, OK, GO, OK), HI)
        self.assertEqual(other.submit(transaction('d')),
                         envelope('d') + TRIAL)

    def test_refused_for_good(self):
        for code in (500, 501, 502, 503, 504, 521, 550, 551, 554, 599):
            with self.subTest(code=code):
                dialogue = Dialogue(*BY_BDAT)
                dialogue.submit(transaction('a', 'x', 'y'), transaction('b'))
                dialogue.hear(OK, OK, NO)
                with self.assertRaisesRegex(ProtocolError, f'BDAT.*{code}'):
                    dialogue.hear(f'{code} What?\r\n')
                # Nobody is refused for that; they go again, by DATA.
                self.assertEqual(dialogue.lose(), [
                    ['not_attempted', 'refused'], ['not_attempted']])
                self.assertIs(dialogue.lessons.chunking, Chunking.off)
                again = Dialogue(*BY_BDAT, lessons=dialogue.lessons)
                self.assertEqual(again.submit(transaction('a')),
                                 envelope('a') + 'DATA\r\n')

    def test_refused_for_the_time_being(self):
        self.dialogue.submit(transaction('a', 'x', 'y'), transaction('b'))
        # RFC 3030, section 4.2; and the next one goes by DATA.
        self.assertEqual(
            self.dialogue.hear(OK, OK, NO, '452 4.3.1 Full\r\n'), HELLO)
        self.assertEqual(self.dialogue.hear(OFFER),
                         envelope('b') + 'DATA\r\n')
        self.assertEqual(self.dialogue.told(), [
            [(Fate.refused, Stage.data, '452 4.3.1 Full'),
             (Fate.refused, Stage.rcpt, '550 5.1.1 No')]])
        self.assertIs(self.lessons.chunking, Chunking.untried)
        self.dialogue.hear(OK, OK, GO, OK)
        self.dialogue.now += TRIAL_PAUSE
        self.assertEqual(self.dialogue.submit(transaction('c')),
                         envelope('c') + TRIAL)
        self.assertEqual(
            self.dialogue.hear(OK, OK, '451 4.3.0 Later\r\n'), '')
        self.assertEqual(self.dialogue.submit(transaction('d')),
                         'RSET\r\n' + envelope('d') + 'DATA\r\n')

    def test_the_rest_is_refused(self):
        # It knows BDAT, and judges the content.
        for reply in ('554 5.6.0 Spam\r\n', '451 4.3.0 Later\r\n',
                      '552 5.3.4 Too big\r\n'):
            with self.subTest(reply=reply):
                dialogue = Dialogue(*BY_BDAT)
                dialogue.submit(transaction('a'))
                dialogue.hear(OK, OK, OK, reply)
                if reply.startswith('5'):
                    dialogue.hear(OFFER)
                self.assertEqual(dialogue.told(), [
                    [(Fate.refused, Stage.end, reply.strip())]])
                self.assertIs(dialogue.lessons.chunking, Chunking.proved)

    def test_for_nobody(self):
        # A server that knows BDAT well may say 503 to that.
        for reply in ('503 5.5.1 RCPT?\r\n', '554 5.5.1 Nobody\r\n', WHAT):
            with self.subTest(reply=reply):
                dialogue = Dialogue(*BY_BDAT)
                dialogue.submit(transaction('a'), transaction('b'))
                # It has told nothing, so the next one is the trial.
                self.assertEqual(
                    dialogue.hear(OK, NO, reply),
                    'RSET\r\n' + envelope('b') + TRIAL)
                self.assertEqual(dialogue.told(), [
                    [(Fate.refused, Stage.rcpt, '550 5.1.1 No')]])
                self.assertIs(dialogue.lessons.chunking, Chunking.on_trial)

    def test_garbage(self):
        for replies in (('hello\r\n',), (OK, OK, GO), (OK, NO, OK),
                        (OK, OK, '999 Ok\r\n')):
            with self.subTest(replies=replies):
                dialogue = Dialogue(*BY_BDAT)
                dialogue.submit(transaction('a'))
                with self.assertRaises(ProtocolError):
                    dialogue.hear(*replies)
                self.assertEqual(dialogue.lose(), [['not_attempted']])
                self.assertIs(dialogue.lessons.chunking, Chunking.off)

    def test_lost(self):
        # Some proxies choke on BDAT: it counts once its octet has gone.
        begin = len(envelope('a') + TRIAL)
        for octets, known in (
                (0, Chunking.untried), (begin - 1, Chunking.untried),
                (begin, Chunking.off)):
            with self.subTest(octets=octets):
                dialogue = Dialogue(*BY_BDAT)
                dialogue.conversation.submit(transaction('a'))
                dialogue.sent(octets)
                self.assertEqual(dialogue.lose(), [['not_attempted']])
                self.assertIs(dialogue.lessons.chunking, known)

    def test_lost_with_the_rest(self):
        # One octet is nothing; all of them may have been taken.
        for missing, fate in ((1, 'not_attempted'), (0, 'in_doubt')):
            with self.subTest(missing=missing):
                dialogue = Dialogue(*BY_BDAT)
                dialogue.submit(transaction('a'))
                dialogue.conversation.receive((OK + OK + OK).encode())
                dialogue.sent(len(REST) - missing)
                self.assertEqual(dialogue.lose(), [[fate]])
                self.assertIs(dialogue.lessons.chunking, Chunking.proved)

    def test_hung_up(self):
        for replies, stage in (((), Stage.connect), ((OK,), Stage.rcpt),
                               ((OK, OK), Stage.data)):
            with self.subTest(replies=replies):
                dialogue = Dialogue(*BY_BDAT)
                dialogue.submit(transaction('a'))
                dialogue.hear(*replies, '421 4.3.2 Bye\r\n')
                (told,), = dialogue.told()
                self.assertIs(told[0], Fate.not_attempted)
                if replies:
                    self.assertIs(told[1], stage)
                # It is no wonder that it did not answer.
                self.assertIs(dialogue.lessons.chunking, Chunking.untried)
                # But if BDAT was what it hung up at, DATA has its turn.
                self.assertIs(
                    dialogue.lessons.claim_trial(), len(replies) < 2)

    def test_proved_and_then_not_understood(self):
        # Another machine behind the same name, perhaps.
        dialogue = Dialogue(*BY_BDAT, known=Chunking.proved)
        dialogue.submit(transaction('a'), transaction('b'), transaction('c'))
        dialogue.hear(OK, OK, WHAT)
        self.assertEqual(dialogue.told(), [
            [(Fate.not_attempted, Stage.data, WHAT.strip())]])
        self.assertIs(dialogue.lessons.chunking, Chunking.off)
        # Each of those in flight gets the answer that is its own.
        dialogue.hear(OK, OK, OK, OK, OK, OK, OK, OK)
        self.assertEqual(dialogue.fates(), [['accepted'], ['accepted']])
        self.assertEqual(dialogue.submit(transaction('d')),
                         'RSET\r\n' + envelope('d') + 'DATA\r\n')


class TestOutOfTurn(unittest.TestCase):
    """Answers that no server may give; nothing it says counts after that."""

    def assertSurprised(self, dialogue, octets, fates):
        with self.assertRaises(ProtocolError):
            dialogue.conversation.receive(octets.encode())
        self.assertEqual(dialogue.lose(), fates)

    def test_to_a_command(self):
        ok = OK + OK + GO
        for octets, fate in (
                (GO, 'not_attempted'), ('334 \r\n', 'not_attempted'),
                (OK + GO, 'not_attempted'),
                # One reply too many, and so each one is for another command.
                (OK + OK + OK, 'not_attempted'),
                (OK + OK + '334 \r\n', 'not_attempted'),
                (NO + OK, 'not_attempted'),
                ('hello\r\n', 'not_attempted'),
                (ok + '999 Ok\r\n', 'in_doubt'),
                (ok + '250\0\r\n', 'in_doubt'),
                (ok + GO, 'in_doubt'),
                (ok + '250-Ok\r\n550 No\r\n', 'in_doubt'),
                (ok + 2049 * '2', 'in_doubt')):
            with self.subTest(octets=octets[:99]):
                dialogue = Dialogue('PIPELINING')
                dialogue.submit(transaction('a'))
                if octets.startswith(ok):
                    dialogue.hear(ok)
                    octets = octets[len(ok):]
                self.assertSurprised(dialogue, octets, [[fate]])

    def test_to_nothing(self):
        dialogue = Dialogue('PIPELINING')
        self.assertSurprised(dialogue, OK, [])
        dialogue = Dialogue('PIPELINING')
        dialogue.submit(transaction('a'))
        dialogue.hear(OK, OK, GO)
        # What it said before is true all the same.
        self.assertSurprised(dialogue, OK + OK, [['accepted']])

    def test_the_beginning_of_one_to_nothing(self):
        dialogue = Dialogue('PIPELINING')
        dialogue.submit(transaction('a'))
        self.assertFalse(dialogue.conversation.surplus)
        dialogue.hear(OK, OK, GO, '250 Ok\r')
        self.assertFalse(dialogue.conversation.surplus)
        dialogue.hear('\n4')
        # It has to be known before the next transaction is submitted.
        self.assertTrue(dialogue.conversation.surplus)

    def test_before_the_question(self):
        dialogue = Dialogue('PIPELINING')
        dialogue.conversation.submit(transaction('a'))
        self.assertSurprised(dialogue, OK, [['not_attempted']])
        dialogue = Dialogue(*BY_BDAT, known=Chunking.proved)
        dialogue.conversation.submit(transaction('a'))
        dialogue.conversation.submit(transaction('b'))
        dialogue.sent(len(envelope('a') + BDAT + 'RSET\r\n'))
        self.assertSurprised(dialogue, 5 * OK,
                             [['accepted'], ['not_attempted']])

    def test_before_the_end_of_the_content(self):
        for octets, sent in ((HI, 'DATA\r\n'), (BDAT, '')):
            with self.subTest(octets=octets):
                known = Chunking.off if sent else Chunking.proved
                dialogue = Dialogue(*BY_BDAT, known=known)
                dialogue.conversation.submit(transaction('a'))
                dialogue.sent(len(envelope('a') + sent))
                replies = OK + OK
                if sent:
                    dialogue.conversation.receive((OK + OK + GO).encode())
                    replies = ''
                dialogue.sent(len(octets) - 1)
                self.assertSurprised(
                    dialogue, replies + OK, [['not_attempted']])

    def test_refused_before_the_end_of_the_content(self):
        # That it may: it knows enough.  The rest is sent all the same.
        dialogue = Dialogue('PIPELINING')
        dialogue.submit(transaction('a'), transaction('b'))
        dialogue.conversation.receive((OK + OK + GO).encode())
        dialogue.sent(1)
        self.assertEqual(dialogue.hear('552 5.3.4 Too big\r\n'),
                         HI[1:] + envelope('b') + 'DATA\r\n')
        dialogue.hear(OK, OK, GO)
        self.assertEqual(dialogue.fates(), [['refused']])

    def test_to_rset(self):
        # Exim's last word before it closes, so it has read nothing more.
        dialogue = Dialogue('PIPELINING')
        dialogue.submit(transaction('a'), transaction('b'))
        dialogue.hear(OK, OK, '451 Later\r\n')
        dialogue.hear(WHAT)
        self.assertEqual(dialogue.conversation.room, 0)
        dialogue.conversation.lose()
        self.assertEqual(
            dialogue.fates(), [['refused'], ['not_attempted']])

    def test_to_rset_and_more(self):
        dialogue = Dialogue(*BY_BDAT, known=Chunking.proved)
        dialogue.submit(transaction('a'), transaction('b'))
        dialogue.hear(3 * OK)
        dialogue.hear(WHAT)
        self.assertSurprised(dialogue, OK, [['accepted'], ['in_doubt']])
