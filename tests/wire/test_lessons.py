# SPDX-License-Identifier: GPL-3.0-or-later
"""What is learnt of a relay, for how long, and when it is forgotten."""

import unittest

from mailman_mta_pool.errors import ProtocolError
from mailman_mta_pool.wire.capabilities import Capabilities
from mailman_mta_pool.wire.lessons import (
    Chunking,
    Lessons,
    Pipelining,
    TRIAL_PAUSE,
)
from tests.wire.dialogue import (
    Dialogue,
    envelope,
    GO,
    NO,
    OK,
    transaction,
    TRIAL,
)


HOUR = 3600
DAY = 24 * HOUR
OFFER = Capabilities([('PIPELINING', ()), ('CHUNKING', ())])
OTHER = Capabilities([('PIPELINING', ())])
LOST_THREAD = ('500 5.5.2 What?\r\n', '502 5.5.1 What?\r\n',
               '503 5.5.1 When?\r\n')


class Taught(unittest.TestCase):
    def setUp(self):
        self.now = 1000.0
        self.lessons = Lessons(lambda: self.now)

    def taught(self):
        """Return lessons that have learnt everything bad."""
        lessons = self.lessons
        lessons.learn_server(OFFER, 'mail.example.com ESMTP')
        lessons.learn_chunking(Chunking.off)
        lessons.learn_pipelining(Pipelining.off)
        lessons.refuse_ehlo()
        lessons.refuse_verp()
        lessons.learn_limit(50)
        lessons.learn_doubt(8)
        lessons.learn_round_trip(0.02)
        return lessons

    def assertForgotten(self, forgotten=True):
        lessons = self.lessons
        self.assertIs(lessons.claim_trial(), forgotten)
        self.assertIs(
            lessons.pipelining,
            Pipelining.untried if forgotten else Pipelining.off)
        self.assertIs(lessons.ehlo_refused, not forgotten)
        self.assertIs(lessons.verp_refused, not forgotten)
        self.assertEqual(
            lessons.max_recipients, None if forgotten else 50)
        self.assertEqual(lessons.window_ceiling, None if forgotten else 4)
        self.assertEqual(
            lessons.learnt, {} if forgotten else dict.fromkeys(
                ('chunking', 'pipelining', 'ehlo', 'verp', 'recipients',
                 'window'), 1000.0))


class TestTime(Taught):
    def test_an_hour(self):
        self.taught()
        self.now += HOUR - 1
        self.assertForgotten(False)
        self.lessons.max_recipients
        self.now += 1
        self.assertIs(self.lessons.pipelining, Pipelining.untried)
        self.assertFalse(self.lessons.ehlo_refused)
        self.assertFalse(self.lessons.verp_refused)
        self.assertIsNone(self.lessons.window_ceiling)
        self.assertTrue(self.lessons.claim_trial())

    def test_doubling_up_to_a_day(self):
        for learn, holds in (
                (self.lessons.refuse_verp,
                 lambda: self.lessons.verp_refused),
                (self.lessons.refuse_ehlo,
                 lambda: self.lessons.ehlo_refused),
                (lambda: self.lessons.learn_pipelining(Pipelining.off),
                 lambda: self.lessons.pipelining is Pipelining.off)):
            for hours in (1, 2, 4, 8, 16, 24, 24):
                learn()
                # Several connections meet the same at once.
                learn()
                self.now += hours * HOUR - 1
                self.assertTrue(holds(), hours)
                self.now += 1
                self.assertFalse(holds(), hours)

    def test_when_it_was_learnt(self):
        self.lessons.refuse_verp()
        self.now += 60
        self.lessons.refuse_ehlo()
        self.assertEqual(
            self.lessons.learnt, {'verp': 1000.0, 'ehlo': 1060.0})

    def test_what_was_proved_stays(self):
        self.lessons.learn_chunking(Chunking.proved)
        self.lessons.learn_pipelining(Pipelining.proved)
        self.now += 100 * DAY
        self.assertIs(self.lessons.chunking, Chunking.proved)
        self.assertIs(self.lessons.pipelining, Pipelining.proved)


class TestServer(Taught):
    """Another offer, or another greeting: perhaps another version."""

    def test_the_same(self):
        self.taught().learn_server(OFFER, 'mail.example.com ESMTP')
        self.assertForgotten(False)
        self.assertEqual(self.lessons.round_trip, 0.02)

    def test_another_offer(self):
        self.taught().learn_server(OTHER, 'mail.example.com ESMTP')
        self.assertForgotten()
        self.assertIs(self.lessons.server, OTHER)
        self.assertIsNone(self.lessons.round_trip)

    def test_other_parameters(self):
        # SIZE may depend on the space that is free.
        self.lessons.learn_server(Capabilities([('SIZE', ('1000',))]))
        self.lessons.refuse_verp()
        self.lessons.learn_server(Capabilities([('SIZE', ('2000',))]))
        self.assertTrue(self.lessons.verp_refused)

    def test_another_greeting(self):
        self.taught().learn_server(OFFER, 'mail.example.com ESMTP Exim')
        self.assertForgotten()

    def test_no_greeting(self):
        self.taught().learn_server(OFFER)
        self.assertForgotten(False)
        self.lessons.learn_server(OFFER, 'mail.example.com ESMTP Exim')
        # The one before that is still known.
        self.assertFalse(self.lessons.verp_refused)

    def test_what_changes_in_a_greeting(self):
        for first, second in (
                ('mx.example.com ESMTP Exim 4.96 Thu, 26 Nov 2026 20:41:31 '
                 '+0000', 'mx.example.com ESMTP Exim 4.96 Fri, 4 Dec 2026 '
                 '08:01:02 +0100'),
                ('mx.google.com ESMTP 98e67ed59e1d1-2ecbb4f2.45 - gsmtp',
                 'mx.google.com ESMTP a640c23a62f3a-ae95f1b8f.12 - gsmtp'),
                ('SJ5PEPF000001F1.mail.protection.outlook.com Microsoft ESMTP '
                 'MAIL Service ready at Thu, 26 Nov 2026 20:41:31 +0000 '
                 '[08DE2C1A]', 'BL02EPF0001A0F9.mail.protection.outlook.com '
                 'Microsoft ESMTP MAIL Service ready at Wed, 1 Jan 2025 '
                 '01:02:03 +0000 [08DD0001]'),
                ('mx1.example.com ESMTP', 'mx2.example.com ESMTP')):
            with self.subTest(first=first):
                lessons = Lessons(lambda: self.now)
                lessons.learn_server(OFFER, first)
                lessons.refuse_verp()
                lessons.learn_server(OFFER, second)
                self.assertTrue(lessons.verp_refused)

    def test_what_was_proved(self):
        for server, greeting, known in (
                (OFFER, 'b.example.org', True), (OTHER, '', False)):
            # Another machine may know no BDAT, though it offers CHUNKING.
            with self.subTest(server=server):
                lessons = Lessons(lambda: self.now)
                lessons.learn_server(OFFER, 'a.example.com')
                lessons.learn_chunking(Chunking.proved)
                lessons.learn_pipelining(Pipelining.proved)
                lessons.learn_server(server, greeting)
                self.assertIs(lessons.chunking, Chunking.untried)
                self.assertIs(lessons.pipelining is Pipelining.proved, known)

    def test_machines_that_take_turns(self):
        lessons = Lessons(lambda: self.now)
        greetings = ['a.example.com', 'b.example.org', 'c.example.net']
        for greeting in greetings:
            lessons.learn_server(OFFER, greeting)
        lessons.learn_chunking(Chunking.off)
        lessons.learn_doubt(8)
        for greeting in 4 * greetings:
            lessons.learn_server(OFFER, greeting)
            self.assertIs(lessons.chunking, Chunking.off)
            self.assertEqual(lessons.window_ceiling, 4)

    def test_servers_that_crash(self):
        burl = Capabilities([('PIPELINING', ()), ('BURL', ('imap',))])
        for server, greeting, known in (
                (OFFER, 'mx.example.com Dovecot (Debian) ready.', True),
                (OFFER, 'DOVECOT', True), (burl, 'mx.example.com', True),
                (OFFER, 'dovecote.example.com ESMTP', False),
                (OFFER, '', False)):
            with self.subTest(server=server, greeting=greeting):
                lessons = Lessons(lambda: self.now)
                lessons.learn_pipelining(Pipelining.proved)
                for _ in range(3):
                    lessons.learn_server(server, greeting)
                    self.assertIs(
                        lessons.pipelining is Pipelining.off, known)
                    self.now += DAY

    def test_a_trial_goes_on(self):
        self.lessons.learn_server(OFFER)
        self.assertTrue(self.lessons.claim_trial())
        self.lessons.learn_server(OTHER)
        self.assertFalse(self.lessons.claim_trial())

    def test_the_first_lifetime_after_a_change(self):
        for _ in range(3):
            self.lessons.refuse_verp()
            self.now += DAY
        self.lessons.learn_server(OFFER)
        self.lessons.learn_server(OTHER)
        self.lessons.refuse_verp()
        self.now += HOUR
        self.assertFalse(self.lessons.verp_refused)


class TestLimit(Taught):
    def test_the_smallest_holds(self):
        for told, known in ((100, 100), (50, 50), (70, 50), (0, 1)):
            self.lessons.learn_limit(told)
            self.assertEqual(self.lessons.max_recipients, known)

    def test_offered(self):
        self.lessons.learn_server(
            Capabilities([('LIMITS', ('RCPTMAX=30',))]))
        self.assertEqual(self.lessons.max_recipients, 30)
        self.lessons.learn_limit(20)
        self.assertEqual(self.lessons.max_recipients, 20)
        # It says so itself, so no more is tried.
        self.now += HOUR
        self.assertEqual(self.lessons.max_recipients, 30)
        self.now += DAY
        self.assertEqual(self.lessons.max_recipients, 30)

    def test_tried_again_upward(self):
        self.lessons.learn_limit(20)
        self.now += HOUR
        self.assertEqual(self.lessons.max_recipients, 40)
        self.now += HOUR - 1
        self.assertEqual(self.lessons.max_recipients, 40)
        # It does not take so many: the next try comes later.
        self.lessons.learn_limit(20)
        self.now += 2 * HOUR - 1
        self.assertEqual(self.lessons.max_recipients, 20)
        self.now += 1
        self.assertEqual(self.lessons.max_recipients, 40)
        # It takes them.
        self.now += 2 * HOUR
        self.assertEqual(self.lessons.max_recipients, 80)


class TestWindow(Taught):
    def test_half(self):
        self.assertIsNone(self.lessons.window_ceiling)
        for limit, ceiling in ((8, 4), (8, 4), (6, 3), (1, 1)):
            self.lessons.learn_doubt(limit)
            self.assertEqual(self.lessons.window_ceiling, ceiling)
        self.lessons.raise_ceiling()
        self.assertEqual(self.lessons.window_ceiling, 2)

    def test_the_least_round_trip(self):
        for seconds, least in ((0.2, 0.2), (0.1, 0.1), (0.3, 0.1)):
            self.lessons.learn_round_trip(seconds)
            self.assertEqual(self.lessons.round_trip, least)


class TestTrial(Taught):
    def test_one_at_a_time(self):
        self.assertTrue(self.lessons.claim_trial())
        self.assertIs(self.lessons.chunking, Chunking.on_trial)
        self.assertFalse(self.lessons.claim_trial())
        self.lessons.learn_chunking(Chunking.untried)
        self.assertTrue(self.lessons.claim_trial())

    def test_the_last_word(self):
        for verdict in (Chunking.proved, Chunking.off):
            lessons = Lessons(lambda: self.now)
            lessons.claim_trial()
            lessons.learn_chunking(verdict)
            self.assertIs(lessons.chunking, verdict)
            self.assertFalse(lessons.claim_trial())

    def test_postponed(self):
        self.lessons.claim_trial()
        self.lessons.postpone_trial()
        self.assertIs(self.lessons.chunking, Chunking.untried)
        self.now += TRIAL_PAUSE - 1
        self.assertFalse(self.lessons.claim_trial())
        self.now += 1
        self.assertTrue(self.lessons.claim_trial())


class TestPipelining(unittest.TestCase):
    """Groups that are not understood, and those that are."""

    def lost(self, dialogue, *replies):
        with self.assertRaisesRegex(ProtocolError, 'PIPELINING'):
            dialogue.hear(*replies)
        self.assertIs(dialogue.lessons.pipelining, Pipelining.off)
        return dialogue.lose()

    def test_thread_lost(self):
        for reply in LOST_THREAD:
            for before in ((), (OK,), (OK, OK), (OK, NO), (OK, OK, OK),
                           (OK, NO, OK)):
                with self.subTest(reply=reply, before=before):
                    dialogue = Dialogue('PIPELINING')
                    dialogue.submit(
                        transaction('a', 'x', 'y'), transaction('b'))
                    self.assertEqual(
                        self.lost(dialogue, *before, reply),
                        [['not_attempted'] * 2, ['not_attempted']])

    def test_the_plain_dialogue_after_it(self):
        dialogue = Dialogue('PIPELINING', 'CHUNKING')
        dialogue.submit(transaction('a'))
        self.lost(dialogue, OK, LOST_THREAD[0])
        again = Dialogue(
            'PIPELINING', 'CHUNKING', lessons=dialogue.lessons)
        self.assertEqual(again.conversation.room, 1)
        self.assertEqual(again.submit(transaction('a')),
                         'MAIL FROM:<a@example.com>\r\n')
        # There the same answer is a refusal.
        again.hear(OK)
        again.hear('503 5.5.1 Not you\r\n')
        self.assertEqual(again.hear('250-mail\r\n250 PIPELINING\r\n'), '')
        self.assertEqual(again.fates(), [['refused']])

    def test_two_connections_meet_it(self):
        # What the first has learnt does not make a refusal for the second.
        first = Dialogue('PIPELINING')
        second = Dialogue('PIPELINING', lessons=first.lessons)
        for dialogue in (first, second):
            dialogue.submit(transaction('a'))
        for dialogue in (first, second):
            self.assertEqual(
                self.lost(dialogue, OK, LOST_THREAD[1]), [['not_attempted']])

    def test_it_makes_sense(self):
        # After MAIL or all RCPTs were refused, 503 is what is due.
        for replies in ((NO, LOST_THREAD[2], LOST_THREAD[2]),
                        (OK, NO, LOST_THREAD[2]), (OK, OK, GO),
                        (OK, OK, '554 5.7.1 No\r\n'),
                        (OK, '450 4.2.1 Full\r\n', '554 Nobody\r\n')):
            with self.subTest(replies=replies):
                dialogue = Dialogue('PIPELINING')
                dialogue.submit(transaction('a'))
                dialogue.hear(*replies)
                self.assertIs(
                    dialogue.lessons.pipelining, Pipelining.proved)

    def test_proved_and_then_refused(self):
        dialogue = Dialogue('PIPELINING')
        dialogue.submit(transaction('a'), transaction('b', 'x', 'y'))
        dialogue.hear(OK, OK, GO, OK)
        dialogue.hear(OK, OK, LOST_THREAD[2], GO)
        dialogue.hear(OK)
        self.assertEqual(
            dialogue.fates(), [['accepted'], ['accepted', 'refused']])
        # On every connection.
        other = Dialogue('PIPELINING', lessons=dialogue.lessons)
        other.submit(transaction('a', 'x', 'y'))
        other.hear(OK, LOST_THREAD[0], OK, GO, OK)
        self.assertEqual(other.fates(), [['refused', 'accepted']])

    def test_silence_in_a_group(self):
        for replies, known in (
                # It may be busy, or away.
                ((), Pipelining.untried),
                # It has read no more than the first command.
                ((OK,), Pipelining.off), ((OK, OK), Pipelining.off),
                ((OK, OK, OK), Pipelining.off),
                # All has been answered that was in the group.
                ((OK, OK, OK, GO), Pipelining.proved)):
            with self.subTest(replies=replies):
                dialogue = Dialogue('PIPELINING')
                dialogue.submit(transaction('a', 'x', 'y'))
                dialogue.hear(*replies)
                dialogue.lose(silent=True)
                self.assertIs(dialogue.lessons.pipelining, known)

    def test_silence_that_says_nothing(self):
        # Closed by the server; proved before; or no groups at all.
        closed = Dialogue('PIPELINING')
        closed.submit(transaction('a'))
        closed.hear(OK)
        closed.lose()
        self.assertIs(closed.lessons.pipelining, Pipelining.untried)
        proved = Dialogue(
            'PIPELINING', pipelining_known=Pipelining.proved)
        proved.submit(transaction('a'))
        proved.hear(OK)
        proved.lose(silent=True)
        self.assertIs(proved.lessons.pipelining, Pipelining.proved)
        plain = Dialogue()
        plain.submit(transaction('a'))
        plain.hear(OK)
        plain.lose(silent=True)
        self.assertIs(plain.lessons.pipelining, Pipelining.untried)

    def test_chunking_goes_with_it(self):
        # BDAT is one of a group, and answered as such.
        dialogue = Dialogue('PIPELINING', 'CHUNKING')
        self.assertEqual(dialogue.submit(transaction('a')),
                         envelope('a') + TRIAL)
        dialogue.hear(OK, OK, OK)
        self.assertIs(dialogue.lessons.pipelining, Pipelining.proved)
        silent = Dialogue('PIPELINING', 'CHUNKING')
        silent.submit(transaction('a'))
        silent.hear(OK, OK)
        silent.lose(silent=True)
        # It is BDAT that it has no answer to.
        self.assertIs(silent.lessons.chunking, Chunking.off)
        self.assertIs(silent.lessons.pipelining, Pipelining.untried)
