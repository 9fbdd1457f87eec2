# SPDX-License-Identifier: GPL-3.0-or-later

"""Whom one reply is about, as far as it tells by itself."""

import unittest

from datetime import datetime, timezone
from mailman_mta_pool.settings import About, Answer
from mailman_mta_pool.settlement.catalogue import Catalogue
from mailman_mta_pool.settlement.table import (
    Judge,
    limit_in,
    limit_of,
    may_mind_verp,
    over_the_limit,
    refuses_verp,
    says_too_many_recipients,
)
from mailman_mta_pool.wire.transaction import Stage
from tests.settlement.case import ACCEPTED, IN_DOUBT, outcome, refused
from tests.settlement.world import reply


HERE, MAIL, RCPT = Stage.here, Stage.mail, Stage.rcpt
DATA, END = Stage.data, Stage.end
TOO_MANY = '452 4.5.3 Too many recipients'
NOW = datetime(2026, 11, 27, 12, tzinfo=timezone.utc)


def answer(about, text='', *, stages=('rcpt',), wait=None):
    return Answer('ants', frozenset(stages), ('4xx', '5xx'), (), text, about,
                  wait, 'Ask the ants.', 'tests')


def judge(stage, text, *answers):
    return Judge(Catalogue(answers), lambda: NOW).judge(stage, reply(text))


class TestEnhancedCodes(unittest.TestCase):
    def test_rows(self):
        for stage, text, about in (
                (RCPT, '550 5.1.1 No such ant', About.recipient),
                (RCPT, '550 #5.1.1 No such ant', About.recipient),
                (RCPT, '553 No such ant (#5.1.1)', About.recipient),
                (RCPT, '550 5.1.2 No such hill', About.recipient),
                (RCPT, '550 5.1.3 No address', About.recipient),
                (RCPT, '550 5.1.6 Moved', About.recipient),
                (RCPT, '556 5.1.10 Null MX', About.recipient),
                (RCPT, '550 5.2.1 Disabled', About.recipient),
                (RCPT, '552 5.2.2 Full', About.recipient),
                (RCPT, '552 Full', About.recipient),
                (RCPT, '450 4.2.1 Too quickly', About.recipient),
                (END, '550 5.1.1 No such ant', About.recipient),
                (END, '552 5.2.2 Full', About.recipient),
                (RCPT, '550 5.1.7 Bad sender', About.sender),
                (RCPT, '450 4.1.8 Who are you', About.sender),
                (MAIL, '550 5.1.8 Who are you', About.sender),
                (MAIL, '550 5.1.1 No such ant', About.sender),
                (RCPT, TOO_MANY, About.recipients),
                (RCPT, '550 5.5.3 Too many', About.recipients),
                (END, '554 5.5.3 Too many', About.recipients),
                (MAIL, '530 Authenticate', About.us),
                (RCPT, '530 5.7.0 Authenticate', About.us),
                (RCPT, '550 5.7.0 Authentication needed', About.us),
                (MAIL, '552 5.3.4 Too big', About.message),
                (MAIL, '552 Too big', About.message),
                (RCPT, '552 5.3.4 Too big', About.message),
                (END, '552 Too big', About.message),
                (END, '554 5.6.0 Virus', About.message),
                (DATA, '554 5.6.7 SMTPUTF8', About.message)):
            with self.subTest(stage=stage, text=text):
                self.assertIs(judge(stage, text).about, about)

    def test_what_proves_nothing(self):
        for stage, text in (
                (RCPT, '550 No such ant'), (RCPT, '450 Later'), (RCPT, '550'),
                (RCPT, '554 5.7.1 Relay access denied'),
                (RCPT, '550 5.7.0 Refused'), (RCPT, '450 4.7.0 Authenticate'),
                (RCPT, '550 5.7.25 No reverse name'), (RCPT, '550 5.1.0 No'),
                (RCPT, '550 5.5.1 No'), (RCPT, '554 5.5.4 No'),
                (RCPT, '554 5.6.0 Virus'), (RCPT, '451 4.3.4 Too big'),
                (RCPT, '550 15.1.1 No code'), (RCPT, '550 5.1 No code'),
                (MAIL, '550 5.7.1 No'), (MAIL, '553 No'), (DATA, '554 No'),
                (END, '550 5.7.1 Spam'), (END, '554 Virus')):
            with self.subTest(stage=stage, text=text):
                self.assertIsNone(judge(stage, text).about)

    def test_permanent(self):
        for text, is_permanent in (
                ('550 5.1.1 No', True), ('599 No', True), ('450 Later', False),
                # RFC 5321, section 4.5.3.1.10.
                ('552 5.2.2 Full', False)):
            with self.subTest(text):
                self.assertIs(judge(RCPT, text).is_permanent, is_permanent)

    def test_size(self):
        for text, is_size in (
                ('552 5.3.4 Too big', True), ('554 5.3.4 Too big', True),
                # That may be a mailbox.
                ('552 Too big', False),
                ('554 5.6.0 Virus', False)):
            with self.subTest(text):
                self.assertIs(judge(END, text).is_size, is_size)


class TestCatalogue(unittest.TestCase):
    """It is asked before the enhanced code."""

    def test_it_goes_first(self):
        found = judge(RCPT, '550 5.1.1 Ants', answer(About.us, 'Ants'))
        self.assertIs(found.about, About.us)
        self.assertEqual(found.remedy, 'Ask the ants.')
        self.assertEqual(found.stage, RCPT)
        self.assertEqual(found.reply, reply('550 5.1.1 Ants'))

    def test_each_stage_has_its_word(self):
        for stage in (MAIL, RCPT, DATA, END):
            for word in ('mail', 'rcpt', 'data', 'end'):
                with self.subTest(stage=stage, word=word):
                    found = judge(stage, '550 Ants',
                                  answer(About.quota, stages=(word,)))
                    self.assertIs(found.about, About.quota if
                                  word == stage.name else None)

    def test_how_long_to_wait(self):
        for about in (About.rate, About.quota, About.connections):
            with self.subTest(about):
                entry = answer(about, wait=7.0)
                # What the catalogue knows is a guess.
                self.assertEqual(judge(RCPT, '451 Ants', entry).usual, 7.0)
                self.assertIsNone(judge(RCPT, '451 Ants', entry).wait)
                # The server knows better.
                self.assertEqual(
                    judge(RCPT, '451 Ants in 341 seconds', entry).wait, 341)
                self.assertEqual(
                    judge(RCPT, '451 Try again after '
                          'Fri, 27 Nov 2026 12:05:00 +0000', entry).wait, 300)

    def test_others_do_not_wait(self):
        self.assertIsNone(judge(
            RCPT, '451 In 341 seconds', answer(About.recipient)).wait)

    def test_opening(self):
        judge = Judge(Catalogue((
            answer(About.connections, 'Many', stages=('greeting',)),)))
        self.assertIs(
            judge.judge_opening('greeting', reply('421 Many')).about,
            About.connections)
        for word, text in (('EHLO', '421 Many'), ('greeting', '554 5.1.1 x')):
            with self.subTest(word=word):
                self.assertIsNone(judge.judge_opening(word, reply(text)).about)


class TestOverTheLimit(unittest.TestCase):
    def assertLate(self, indices, **results):
        self.assertEqual(over_the_limit(outcome(**results)), set(indices))

    def test_after_accepted_ones(self):
        for text in (TOO_MANY, '452 Too many', '552 5.5.3 Too many',
                     '552 Too many', '450 4.5.3 Too many',
                     '550 5.5.3 Too many'):
            with self.subTest(text):
                late = refused(RCPT, text)
                self.assertLate({1, 2}, anne=ACCEPTED, bart=late, carl=late)

    def test_whatever_becomes_of_the_content(self):
        late = refused(RCPT, TOO_MANY)
        self.assertLate({1}, anne=refused(END, '451 4.3.0 No'), bart=late)
        self.assertLate({1}, anne=refused(DATA, '451 4.3.0 No'), bart=late)
        self.assertLate({1}, anne=IN_DOUBT, bart=late)

    def test_refused_because_of_them(self):
        # Exim does so unless recipients_max_reject is false.
        no = refused(DATA, '554 Too many')
        for text in ('552 Too many', TOO_MANY):
            with self.subTest(text):
                late = refused(RCPT, text)
                self.assertLate({0, 1, 2, 3}, anne=no, bart=no, carl=late,
                                dora=late)
        # That may be a full disk, and DATA was refused for another reason.
        self.assertLate({1}, anne=no, bart=refused(RCPT, '452 Too full'))

    def test_other_reasons(self):
        for text in ('452 4.2.2 Full', '552 5.2.2 Full', '451 Later',
                     '550 No', '554 5.1.1 No'):
            with self.subTest(text):
                self.assertLate((), anne=ACCEPTED, bart=refused(RCPT, text))

    def test_nobody_was_before_them(self):
        late = refused(RCPT, TOO_MANY)
        self.assertLate((), anne=late)
        self.assertLate((), anne=late, bart=late)
        self.assertLate((), anne=late, bart=ACCEPTED)
        self.assertLate({2}, anne=late, bart=ACCEPTED, carl=late)

    def test_somebody_was_accepted_after_them(self):
        late = refused(RCPT, '452 Too full')
        self.assertLate({3}, anne=ACCEPTED, bart=late, carl=ACCEPTED,
                        dave=late)

    def test_the_limit(self):
        late = refused(RCPT, TOO_MANY)
        self.assertEqual(limit_of(outcome(
            anne=ACCEPTED, dead=refused(RCPT, '550 5.1.1 No'), bart=ACCEPTED,
            carl=late)), 2)
        self.assertTrue(says_too_many_recipients(late))
        self.assertFalse(
            says_too_many_recipients(refused(RCPT, '452 Too full')))
        self.assertFalse(says_too_many_recipients(ACCEPTED))

    def test_a_limit_that_is_stated(self):
        for text, recipients, limit in (
                ('554 At most 50 recipients', 200, 50),
                ('554 200 recipients are more than 50', 200, 50),
                ('554 Too many', 200, 100), ('554 Too many', 3, 1),
                ('554 Too many', 1, 1),
                # Neither a part of an address nor more than there were.
                ('554 192.0.2.50 has too many', 200, 100),
                ('554 At most 500', 200, 100), ('554 At most 0', 200, 100)):
            with self.subTest(text=text, recipients=recipients):
                self.assertEqual(limit_in(reply(text), recipients), limit)


class TestServerVerp(unittest.TestCase):
    """Answers to a MAIL with XVERP."""

    def test_it_does_not_do_that(self):
        for text, refuses in (
                ('555 5.5.4 What?', True), ('501 What?', True),
                ('504 What?', True), ('501 5.1.7 Bad sender', False),
                ('550 5.7.1 No', False), ('455 4.5.0 Not now', False)):
            with self.subTest(text):
                self.assertIs(refuses_verp(judge(MAIL, text)), refuses)

    def test_it_may_be_that(self):
        for text, may in (
                ('550 5.7.1 No', True), ('501 5.1.7 Bad sender', True),
                ('455 4.5.0 Not now', True), ('451 4.3.0 Later', False),
                ('552 5.3.4 Too big', False), ('530 Authenticate', False)):
            with self.subTest(text):
                self.assertIs(may_mind_verp(judge(MAIL, text)), may)
