# SPDX-License-Identifier: GPL-3.0-or-later

"""What the answers of a post mean together."""

import sys

from mailman_mta_pool.errors import RelayPaused, RelayUnavailable
from mailman_mta_pool.interfaces import IRecord
from mailman_mta_pool.settings import About, Answer
from mailman_mta_pool.settlement.memory import Finding
from mailman_mta_pool.settlement.orders import NO_ORDERS
from mailman_mta_pool.wire.replies import Reply
from mailman_mta_pool.wire.transaction import (
    Fate,
    Result,
    Span,
    Stage,
    Transaction,
)
from mailman_mta_pool.wire.verp import Verp
from tests.settlement.case import (
    ACCEPTED,
    address,
    IN_DOUBT,
    LedgerTestCase,
    outcome,
    refused,
    TAKEN,
)
from tests.settlement.world import CONTENT, PLAIN, reply
from zope.interface.verify import verifyObject


MAIL, RCPT, DATA, END = Stage.mail, Stage.rcpt, Stage.data, Stage.end
DENIED = '554 5.7.1 Relay access denied'
TOO_MANY = '452 4.5.3 Too many recipients'
DEAD = refused(RCPT, '550 5.1.1 No such ant')
UNAVAILABLE = RelayUnavailable('relay:25', 'connect', 'refused')


def entry(about, text, wait=None):
    """An entry of the catalogue, for any stage and code."""
    return Answer(
        about.value, frozenset(('greeting', 'mail', 'rcpt', 'data', 'end')),
        ('4xx', '5xx'), (), text, about, wait, 'Ask the ants.', 'tests')


def verp(name):
    return f'ant-bounces+{name}@example.com'


def steps(function):
    """Count the calls, of Python and of C, in a call of a function."""
    count = 0

    def profile(frame, event, argument):
        nonlocal count
        count += event in ('call', 'c_call')
    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


class TestOutcomes(LedgerTestCase):
    def test_record(self):
        self.assertTrue(verifyObject(IRecord, self.record))

    def test_each_as_they_are_told(self):
        orders = self.settle(
            anne=ACCEPTED, bart=DEAD, carl=refused(RCPT, '450 4.2.1 Later'),
            dora=ACCEPTED)
        self.assertEqual(orders, NO_ORDERS)
        self.assertSettled(served='anne dora', bounced='bart', deferred='carl')
        self.assertEqual(self.record.told, [
            (address('bart'), 550), (address('anne'), 'served'),
            (address('dora'), 'served')])
        self.assertEqual(self.record.accepted, [
            ((address('anne'), address('dora')), ACCEPTED.reply)])
        self.assertEqual(self.record.for_now, [(address('carl'), 450)])
        self.assertEqual(self.record.relays, {'relay:25'})
        self.assertEqual(self.ledger.failures, {
            address('bart'): (550, b'5.1.1 No such ant'),
            address('carl'): (450, b'4.2.1 Later')})
        self.assertEqual(self.close('anne bart carl dora emma'),
                         [address('emma')])
        self.assertEqual(
            self.ledger.unserved(map(address, ('anne', 'bart', 'emma'))),
            [address('bart'), address('emma')])
        self.assertSuspects('')

    def test_all_accepted(self):
        self.assertIs(self.settle(anne=ACCEPTED, bart=ACCEPTED), NO_ORDERS)
        self.assertSettled(served='anne bart')

    def test_an_address_that_we_do_not_send(self):
        self.settle(anne=refused(Stage.here, '553 5.1.3 No mailbox'),
                    bart=refused(Stage.here, '553 5.6.7 SMTPUTF8'))
        self.assertSettled(bounced='anne bart')

    def test_a_full_mailbox_is_no_bounce(self):
        for text in ('552 5.2.2 Full', '552 Full', '452 4.2.2 Full'):
            with self.subTest(text):
                self.begin()
                self.settle(anne=refused(RCPT, text))
                self.assertSettled(deferred='anne')

    def test_for_the_time_being(self):
        for stage, text in (
                (MAIL, '451 4.3.0 Later'), (RCPT, '451 4.7.1 Greylisted'),
                (DATA, '451 4.3.0 Later'), (END, '452 4.3.1 No room'),
                (END, '421 4.3.2 Closing'), (RCPT, '499')):
            with self.subTest(stage=stage, text=text):
                self.begin()
                result = refused(stage, text)
                orders = self.settle(
                    **{f'ant_{number}': result for number in range(30)})
                self.assertEqual(orders, NO_ORDERS)
                self.assertEqual(len(self.ledger.deferred), 30)
                self.assertSuspects('')

    def test_in_doubt(self):
        self.settle(anne=IN_DOUBT, bart=IN_DOUBT)
        self.assertSettled(deferred='anne bart')
        self.assertEqual(self.record.for_now, [
            (address('anne'), 'in doubt'), (address('bart'), 'in doubt')])
        self.assertEqual(self.ledger.in_doubt, 2)
        self.assertEqual(self.ledger.failures[address('anne')][0], 444)
        self.assertEqual(self.record.told, [])

    def test_unsent(self):
        # What the server said when it closed, it did not say of them.
        self.settle(anne=Result(
            Fate.not_attempted, RCPT, Reply(521, (b'Never',))))
        self.assertSettled(deferred='anne')
        self.assertEqual(self.ledger.failures[address('anne')],
                         (444, b'Not sent: Never'))
        self.assertEqual(self.record.for_now, [(address('anne'), 444)])
        self.assertEqual(self.ledger.in_doubt, 0)

    def test_carried_over(self):
        self.ledger.carry_over({address('anne'): (550, b'No')})
        self.assertSettled(bounced='anne')
        # The journal has it already.
        self.assertEqual(self.record.told, [])

    def test_each_once(self):
        self.assertEqual(self.close('anne bart anne'),
                         [address('anne'), address('bart')])


class TestTheNumberOfRecipients(LedgerTestCase):
    def test_too_many(self):
        late = refused(RCPT, TOO_MANY)
        orders = self.settle(anne=ACCEPTED, bart=ACCEPTED, carl=late,
                             dora=DEAD, emma=late)
        self.assertEqual(orders.limit, 2)
        self.assertEqual(orders.again, (Transaction(
            PLAIN, (address('carl'), address('emma')), CONTENT),))
        self.assertFalse(orders.halt)
        self.assertSettled(served='anne bart', bounced='dora')

    def test_a_full_mailbox(self):
        # It goes again, but teaches no limit.
        orders = self.settle(
            anne=ACCEPTED, bart=refused(RCPT, '452 Mailbox full'))
        self.assertIsNone(orders.limit)
        self.assertEqual(orders.again[0].recipients, (address('bart'),))
        # The second time, it is alone.
        orders = self.settle(bart=refused(RCPT, '452 Mailbox full'))
        self.assertEqual(orders, NO_ORDERS)
        self.assertSettled(served='anne', deferred='bart')

    def test_data_is_refused_for_it(self):
        no, late = refused(DATA, '554 Too many'), refused(RCPT, '552 No more')
        orders = self.settle(anne=no, bart=no, carl=late, dora=late)
        self.assertEqual(orders.limit, 2)
        self.assertEqual(orders.again, (outcome(
            anne=no, bart=no, carl=late, dora=late).transaction,))
        self.assertSettled()

    def test_the_content_is_refused_for_it(self):
        no = refused(END, '554 5.5.3 At most 2')
        orders = self.settle(anne=no, bart=no, carl=no)
        self.assertEqual(orders.limit, 2)
        self.assertEqual(orders.again[0].recipients,
                         tuple(map(address, ('anne', 'bart', 'carl'))))
        self.assertSettled()

    def test_one_is_too_many(self):
        # Nothing can be done about that, and it is not the recipient's.
        self.settle(anne=refused(RCPT, '550 5.5.3 Too many'))
        self.assertSettled(deferred='anne')
        self.assertSuspects('anne')
        self.settle(bart=refused(RCPT, '450 4.5.3 Too many'))
        self.assertSettled(deferred='anne bart')
        self.assertSuspects('anne')


class TestQuestions(LedgerTestCase):
    """Refusals that prove nothing, when the server can be asked."""

    NO = refused(RCPT, DENIED)

    def suspicion(self):
        """Three refused after one who was accepted; return the question."""
        self.settle(zoe=ACCEPTED)
        orders = self.settle(anne=self.NO, bart_b=self.NO, carl_c=self.NO)
        question, = orders.first
        return question

    def test_the_question(self):
        question = self.suspicion()
        self.assertTrue(question.asks)
        self.assertEqual(question.sender, PLAIN)
        # Those who are held, between two who had been accepted.
        self.assertEqual(question.recipients, tuple(map(
            address, ('zoe', 'anne', 'bart_b', 'carl_c', 'zoe'))))
        self.assertSettled(served='zoe')
        # One at a time.
        self.assertEqual(self.settle(dora_d=self.NO).first, ())

    def test_their_own(self):
        question = self.suspicion()
        orders = self.answer(question, TAKEN, *3 * [self.NO], TAKEN)
        self.assertEqual(orders, NO_ORDERS)
        self.assertSettled(served='zoe', bounced='anne bart_b carl_c')
        self.assertIsNone(self.ledger.denial)
        # And so are the next ones, without another question.
        self.now += 60
        self.assertEqual(
            self.settle(dora_d=self.NO, emma_e=self.NO), NO_ORDERS)
        self.assertSettled(
            served='zoe', bounced='anne bart_b carl_c dora_d emma_e')
        self.assertSuspects('')

    def test_about_us(self):
        question = self.suspicion()
        orders = self.answer(question, *5 * [self.NO])
        self.assertTrue(orders.halt)
        self.assertEqual(self.ledger.denial.reply, reply(DENIED))
        # Whoever was on the way then fares no worse.
        self.assertTrue(self.settle(dora_d=self.NO).halt)
        self.close('zoe anne bart_b carl_c dora_d emma_e')
        self.assertSettled(served='zoe', deferred='anne bart_b carl_c dora_d',
                           untried='emma_e')
        self.assertSuspects('anne bart_b carl_c dora_d')
        self.assertEqual(self.record.told, [(address('zoe'), 'served')])

    def test_about_us_when_asked_about_the_last(self):
        question = self.suspicion()
        self.assertTrue(self.answer(question, TAKEN, *4 * [self.NO]).halt)
        self.assertSettled(served='zoe')

    def test_taken_now(self):
        question = self.suspicion()
        orders = self.answer(question, TAKEN, TAKEN, self.NO, self.NO, TAKEN)
        self.assertEqual([each.recipients for each in orders.again],
                         [(address('anne'),)])
        self.assertFalse(orders.again[0].asks)
        self.assertEqual(orders.again[0].content, CONTENT)
        self.assertSettled(served='zoe', bounced='bart_b carl_c')

    def test_not_for_ever(self):
        # It takes whom it is asked about, and refuses the post.
        for _ in range(4):
            question = self.suspicion()
            orders = self.answer(question, *5 * [TAKEN])
        self.assertEqual(orders.again, ())
        self.assertSettled(served='zoe', deferred='anne bart_b carl_c')
        self.assertSuspects('anne bart_b carl_c')

    def test_other_words_when_asked(self):
        question = self.suspicion()
        self.answer(question, TAKEN, DEAD, self.NO,
                    refused(RCPT, '550 5.7.1 Odd'), TAKEN)
        # The third one is compared anew.
        self.assertSettled(served='zoe', bounced='anne bart_b')

    def test_somebody_good_is_dead_by_now(self):
        question = self.suspicion()
        orders = self.answer(question, DEAD, *3 * [self.NO], DEAD)
        # There is nobody else, and others may be accepted.
        self.assertFalse(orders.halt)
        self.assertSettled(served='zoe')
        question, = self.settle(yan=ACCEPTED, dora_d=self.NO,
                                emma_e=self.NO, fred_f=self.NO).first
        self.assertEqual(question.recipients[0], address('yan'))

    def test_no_answer(self):
        question = self.suspicion()
        lost = Result(Fate.not_attempted, MAIL, None)
        orders = self.answer(question, *5 * [lost])
        # Once more.
        question, = orders.first
        orders = self.answer(question, *5 * [lost])
        self.assertEqual(orders.first, ())
        self.assertSettled(served='zoe')
        self.settle(yan=ACCEPTED)
        # Nothing can be asked, so they are sent the post once more.
        self.assertEqual(
            [transaction.recipients for transaction in
             self.conclude().again],
            [(address(name),) for name in ('anne', 'bart_b', 'carl_c')])
        self.settle(anne=ACCEPTED)
        self.settle(bart_b=self.NO)
        self.settle(carl_c=self.NO)
        self.assertEqual(self.conclude(), NO_ORDERS)
        self.assertSettled(served='anne yan zoe', bounced='bart_b carl_c')

    def test_the_server_wants_less(self):
        self.begin(answers=(entry(About.rate, 'slow', 5.0),
                            entry(About.quota, 'quota')))
        question = self.suspicion()
        orders = self.answer(question, *5 * [refused(MAIL, '450 slow')])
        self.assertEqual(orders.notice.about, About.rate)
        self.assertEqual(orders.notice.usual, 5.0)
        self.assertEqual(orders.first, (question,))
        orders = self.answer(question, *5 * [refused(MAIL, '450 quota')])
        self.assertEqual(orders.notice.about, About.quota)
        self.assertTrue(orders.halt)
        self.assertTrue(self.ledger.is_paused)
        self.assertSettled(served='zoe')

    def test_only_three_in_two_domains(self):
        self.settle(zoe=ACCEPTED)
        self.assertEqual(self.settle(
            anne=self.NO, bart=self.NO, carl=self.NO), NO_ORDERS)
        self.assertEqual(self.settle(
            dora_d=refused(RCPT, '554 5.7.1 Other words')), NO_ORDERS)
        self.assertNotEqual(self.settle(emma_e=self.NO).first, ())

    def test_ten_in_one_domain(self):
        self.settle(zoe=ACCEPTED)
        for number in range(9):
            self.assertEqual(
                self.settle(**{f'ant{number}': self.NO}), NO_ORDERS)
        question, = self.settle(ant9=self.NO).first
        self.assertEqual(len(question.recipients), 12)

    def test_somebody_accepted_since(self):
        self.settle(anne=self.NO, bart_b=self.NO, zoe=ACCEPTED,
                    carl_c=self.NO)
        self.assertEqual(self.settle(dora_d=self.NO), NO_ORDERS)
        self.assertSettled(served='zoe')
        # Once all others are settled, the server is asked about all of them.
        question, = self.conclude().first
        self.assertEqual(question.recipients[1:-1], tuple(map(
            address, ('anne', 'bart_b', 'carl_c', 'dora_d'))))
        self.answer(question, TAKEN, *4 * [self.NO], TAKEN)
        self.assertEqual(self.conclude(), NO_ORDERS)
        self.assertSettled(served='zoe',
                           bounced='anne bart_b carl_c dora_d')

    def test_accepted_at_the_same_time(self):
        # Over another connection: nobody knows which of the two was first.
        self.settle(anne=self.NO, bart_b=self.NO)
        self.settle(zoe=ACCEPTED, span=Span(2, 1, 100))
        self.assertNotEqual(self.settle(carl_c=self.NO).first, ())

    def test_when_the_turn_is_over(self):
        # Only those who were tried are judged, and they go last.
        self.settle(zoe=ACCEPTED, anne=self.NO)
        self.assertEqual(self.close('zoe anne bart'),
                         [address('anne'), address('bart')])
        self.assertSettled(served='zoe')
        self.assertSuspects('anne')

    def test_everybody_was_tried(self):
        self.settle(zoe=ACCEPTED, anne=self.NO)
        self.assertEqual(self.close('zoe anne'), [])
        self.assertSettled(served='zoe', deferred='anne')
        self.assertSuspects('anne')


class TestNobodyAccepted(LedgerTestCase):
    """Refusals that prove nothing, and nobody to ask about."""

    NO = refused(RCPT, DENIED)

    def refuse(self, count, domains=12):
        """Refuse so many, one by one, until nothing more is to be sent."""
        for number in range(count):
            orders = self.settle(**{f'ant{number}_d{number % domains}':
                                    self.NO})
            if orders.halt:
                return number + 1, orders
        return count, orders

    def test_others_first(self):
        count, orders = self.refuse(3)
        self.assertFalse(orders.halt)
        self.assertEqual(orders.first, ())
        self.assertEqual(orders.elsewhere, {
            f'd{number}.example.com' for number in range(3)})

    def test_ten_others_in_five_domains(self):
        count, orders = self.refuse(100)
        self.assertEqual(count, 13)
        self.assertTrue(orders.halt)
        self.assertEqual(self.ledger.denial.reply, reply(DENIED))
        self.close('zoe')
        self.assertSettled(untried='zoe')

    def test_twenty_others_in_two_domains(self):
        self.assertEqual(self.refuse(100, 2)[0], 23)

    def test_not_as_many(self):
        self.refuse(5)
        orders = self.conclude()
        self.assertTrue(orders.halt)
        self.close(' '.join(f'ant{number}_d{number}' for number in range(5)))
        self.assertEqual(len(self.ledger.deferred), 5)
        self.assertFalse(self.ledger.bounced)

    def test_a_reason_of_their_own_is_no_acceptance(self):
        for text in ('550 5.1.1 No such ant', '450 4.7.1 Greylisted',
                     '452 4.3.1 Insufficient system storage'):
            with self.subTest(text):
                self.begin()
                self.settle(zoe=refused(RCPT, text))
                self.assertEqual(self.refuse(100)[0], 13)

    def test_a_lost_connection_is_no_acceptance(self):
        self.settle(zoe=Result(
            Fate.not_attempted, RCPT, Reply(421, (b'4.3.2 Closing',))))
        self.assertEqual(self.refuse(100)[0], 13)
        self.assertSettled(deferred='zoe')

    def test_recipients_of_the_last_post(self):
        self.memory.remember_good([address('zoe')])
        for number in range(2):
            self.settle(**{f'ant{number}_d{number}': self.NO})
        question, = self.settle(anne=self.NO).first
        self.assertEqual(question.recipients[0], address('zoe'))
        # Not being accepted any more, zoe says nothing of us.
        orders = self.answer(question, *5 * [self.NO])
        self.assertFalse(orders.halt)
        self.assertEqual(orders.first, ())
        self.assertEqual(len(orders.elsewhere), 3)

    def test_those_of_this_post_for_the_next(self):
        self.settle(zoe=ACCEPTED)
        self.close('zoe')
        self.assertEqual(self.memory.good, [address('zoe')])

    def test_a_recipient_accepted_at_rcpt_alone(self):
        # To be accepted, the content need not be.
        self.settle(zoe=refused(END, '554 5.7.1 Spam'))
        self.settle(anne=self.NO, bart_b=self.NO)
        question, = self.settle(carl_c=self.NO).first
        self.assertEqual(question.recipients[0], address('zoe'))


class TestUs(LedgerTestCase):
    """What is about us by its own words, or about the sender."""

    LOGIN = '530 5.7.0 Authenticate'

    def test_at_mail(self):
        orders = self.settle(anne=refused(MAIL, self.LOGIN))
        self.assertTrue(orders.halt)
        self.assertEqual(self.ledger.denial.reply.code, 530)
        self.close('anne bart')
        self.assertSettled(deferred='anne', untried='bart')

    def test_not_answered_for_that(self):
        # On each of several connections that had authenticated.
        orders = self.settle(anne=Result(
            Fate.not_attempted, MAIL, reply(self.LOGIN)))
        self.assertTrue(orders.halt)
        self.close('anne bart')
        self.assertSettled(deferred='anne', untried='bart')

    def test_of_some(self):
        # The others are not to wait for that for ever.
        odd = refused(RCPT, self.LOGIN)
        self.assertFalse(self.settle(anne=odd, bart_b=odd, carl_c=odd,
                                     zoe=ACCEPTED).halt)
        self.settle(yan=ACCEPTED)
        self.close('anne bart_b carl_c yan zoe')
        self.assertSettled(served='yan zoe', deferred='anne bart_b carl_c')
        self.assertSuspects('anne bart_b carl_c')

    def test_it_is_not_learnt_of_them(self):
        self.settle(zoe=ACCEPTED)
        odd = refused(RCPT, self.LOGIN)
        question, = self.settle(anne=odd, bart_b=odd, carl_c=odd).first
        self.answer(question, TAKEN, odd, odd, odd, TAKEN)
        self.assertSettled(served='zoe', deferred='anne bart_b carl_c')
        self.assertSuspects('anne bart_b carl_c')
        self.settle(dora_d=odd)
        self.assertNotIn(address('dora_d'), self.ledger.bounced)

    def test_an_outage_then(self):
        self.settle(anne=ACCEPTED, bart=DEAD, carl=refused(RCPT, DENIED))
        self.close('anne bart carl dora', UNAVAILABLE)
        self.assertSettled(served='anne', bounced='bart', deferred='carl',
                           untried='dora')
        self.assertSuspects('carl')
        self.assertFalse(self.ledger.is_paused)


class TestTheRelay(LedgerTestCase):
    """What is about the rate, a quota or connections, and nobody."""

    def setUp(self):
        super().setUp()
        self.answers = (
            entry(About.rate, 'slow', 5.0), entry(About.quota, 'quota'),
            entry(About.connections, 'connections'))
        self.begin(answers=self.answers)

    def test_they_go_again(self):
        for stage in (MAIL, RCPT, DATA, END):
            for text, about, wait, usual in (
                    ('550 slow', About.rate, None, 5.0),
                    ('450 slow; in 341 seconds', About.rate, 341.0, 5.0),
                    ('421 connections', About.connections, None, None)):
                with self.subTest(stage=stage, text=text):
                    self.begin(answers=self.answers)
                    orders = self.settle(
                        anne=DEAD, bart=refused(stage, text),
                        carl=refused(stage, text))
                    self.assertEqual(
                        (orders.notice.about, orders.notice.wait,
                         orders.notice.reply, orders.notice.remedy,
                         orders.notice.usual),
                        (about, wait, reply(text), 'Ask the ants.', usual))
                    self.assertEqual(
                        [each.recipients for each in orders.again],
                        [(address('bart'), address('carl'))])
                    self.assertFalse(orders.halt)
                    self.assertSettled(bounced='anne')

    def test_a_quota(self):
        orders = self.settle(zoe=ACCEPTED, anne=refused(RCPT, '550 quota'))
        self.assertEqual(orders.notice.about, About.quota)
        self.assertTrue(orders.halt)
        self.assertTrue(self.ledger.is_paused)
        self.assertEqual(self.ledger.used_up.reply, reply('550 quota'))
        self.assertIsNone(self.ledger.denial)
        self.close('zoe anne bart')
        self.assertSettled(served='zoe', untried='anne bart')
        self.assertSuspects('')

    def test_a_pause_that_is_too_long(self):
        self.close('anne', RelayPaused('relay:25', 'pause', 'too long'))
        self.assertTrue(self.ledger.is_paused)
        self.assertSettled(untried='anne')

    def test_opening(self):
        notice = self.ledger.hear_of_opening(
            'greeting', reply('421 connections'), self.relay)
        self.assertIs(notice.about, About.connections)
        self.assertIsNone(self.ledger.hear_of_opening(
            'greeting', reply('554 We do not like you'), self.relay))


class TestFew(LedgerTestCase):
    """A welcome or a probe: there is nobody to compare it with."""

    NO = refused(RCPT, DENIED)

    def test_as_stock(self):
        for count, names in ((1, ['anne']), (2, ['anne', 'bart_b'])):
            with self.subTest(names):
                self.begin(count=count)
                for name in names:
                    self.settle(**{name: self.NO})
                self.assertEqual(self.conclude(), NO_ORDERS)
                self.close(' '.join(names))
                self.assertSettled(bounced=' '.join(names))

    def test_three_are_not_few(self):
        self.begin(count=3)
        for name in ('anne', 'bart_b', 'carl_c'):
            self.settle(**{name: self.NO})
        self.assertTrue(self.conclude().halt)
        self.close('anne bart_b carl_c')
        self.assertSettled(deferred='anne bart_b carl_c')

    def test_what_it_said_in_the_last_hour(self):
        self.memory.learn('554 5.7.1 relay access denied', Finding.us)
        for seconds, end in ((3599, 'deferred'), (1, 'bounced')):
            self.now += seconds
            self.begin(count=1)
            self.settle(anne=self.NO)
            self.conclude()
            self.close('anne')
            self.assertSettled(**{end: 'anne'})

    def test_somebody_accepted_in_the_last_hour(self):
        self.memory.remember_good([address('zoe')])
        self.begin(count=1)
        self.settle(anne=self.NO)
        question, = self.conclude().first
        self.assertEqual(question.recipients,
                         tuple(map(address, ('zoe', 'anne', 'zoe'))))
        self.answer(question, TAKEN, self.NO, TAKEN)
        self.assertSettled(bounced='anne')

    def test_who_was_suspected_before(self):
        # They are left because nobody was to be charged for them.
        self.begin(count=1, suspects=frozenset([address('anne')]))
        self.settle(anne=self.NO)
        self.conclude()
        self.close('anne')
        self.assertSettled(deferred='anne')

    def test_the_content_of_mailmans_own(self):
        for text, is_notice, end in (
                ('554 5.6.0 Spam', True, 'bounced'),
                ('550 5.1.1 No such ant', True, 'bounced'),
                ('550 5.1.1 No such ant', False, 'bounced'),
                ('554 5.6.0 Spam', False, 'rejected')):
            with self.subTest(text=text, is_notice=is_notice):
                self.begin(count=1, is_notice=is_notice)
                self.settle(anne=refused(END, text))
                self.conclude()
                self.close('anne')
                self.assertSettled(**{end: 'anne'})


class TestContent(LedgerTestCase):
    """Refusals at DATA and at the end of the content."""

    VIRUS = refused(END, '554 5.6.0 Virus')
    ODD = refused(END, '554 5.7.1 Blorb')

    def test_the_message(self):
        # One of ten may be what the server minds, so two are tried alone.
        orders = self.settle(anne=self.VIRUS, bart=self.VIRUS)
        self.assertEqual([each.recipients for each in orders.first],
                         [(address('anne'),)])
        orders = self.settle(anne=self.VIRUS)
        self.assertEqual([each.recipients for each in orders.first],
                         [(address('bart'),)])
        # This one was on its way.
        self.settle(carl=self.VIRUS)
        self.assertTrue(self.settle(bart=self.VIRUS).halt)
        self.close('anne bart carl dora')
        self.assertSettled(rejected='anne bart carl dora')
        self.assertEqual(self.ledger.rejection, reply('554 5.6.0 Virus'))
        self.assertEqual(self.record.told, [])
        # The words of the server are told of all, though nobody is charged.
        self.assertEqual(sorted(self.record.for_now), [
            (address(name), 554) for name in ('anne', 'bart', 'carl', 'dora')])
        self.assertSuspects('')

    def test_as_a_bounce(self):
        self.begin(shunts=False)
        self.settle(anne=self.VIRUS, bart=self.VIRUS)
        self.settle(anne=self.VIRUS)
        self.settle(bart=self.VIRUS)
        self.close('anne bart carl')
        self.assertSettled(bounced='anne bart carl')
        self.assertEqual(len(self.record.told), 3)

    def test_too_big(self):
        for stage in (END, MAIL, RCPT):
            with self.subTest(stage=stage):
                self.begin()
                self.assertTrue(self.settle(
                    anne=refused(stage, '552 5.3.4 Too big')).halt)
                self.close('anne bart')
                self.assertSettled(rejected='anne bart')

    def test_not_too_big_for_others(self):
        for stage, text in ((END, '552 5.3.4 Too big'), (END, '552 Full'),
                            (MAIL, '552 5.3.4 Too big'),
                            (RCPT, '552 5.3.4 Too big')):
            with self.subTest(stage=stage, text=text):
                self.begin()
                self.settle(zoe=ACCEPTED)
                self.assertFalse(self.settle(anne=refused(stage, text)).halt)
                self.conclude()
                self.close('zoe anne')
                self.assertSettled(served='zoe', deferred='anne')

    def test_before_one_that_is_accepted(self):
        self.settle(anne=self.ODD)
        self.assertSettled()
        self.settle(zoe=ACCEPTED)
        # It may have been the moment.
        orders = self.conclude()
        self.assertEqual([each.recipients for each in orders.again],
                         [(address('anne'),)])
        self.settle(anne=self.ODD)
        self.conclude()
        self.assertSettled(served='zoe', bounced='anne')
        self.assertIsNone(self.ledger.rejection)

    def test_once_only(self):
        self.settle(anne=self.ODD)
        self.settle(zoe=ACCEPTED)
        self.conclude()
        self.settle(anne=ACCEPTED)
        self.assertEqual(self.conclude(), NO_ORDERS)
        self.assertSettled(served='anne zoe')

    def test_words_that_were_taken_back(self):
        # Two are refused, and then one of them is not: so it is nobody's own.
        self.settle(anne=self.ODD)
        self.settle(bart_b=self.ODD)
        self.settle(zoe=ACCEPTED)
        self.assertEqual(len(self.conclude().again), 2)
        self.settle(anne=self.ODD)
        self.settle(bart_b=ACCEPTED)
        self.conclude()
        self.assertSettled(served='bart_b zoe', deferred='anne')
        self.assertSuspects('anne')

    def test_three_in_the_same_words(self):
        self.settle(zoe=ACCEPTED)
        self.assertFalse(self.settle(anne=self.ODD).halt)
        self.assertFalse(self.settle(bart=self.ODD).halt)
        # One domain alone may not like it.
        orders = self.settle(carl=self.ODD)
        self.assertFalse(orders.halt)
        self.assertEqual(orders.elsewhere, {'a.example.com'})
        self.assertTrue(self.settle(dora_d=self.ODD).halt)
        # Whoever had been accepted before shows that it is not the message.
        self.assertEqual(self.ledger.denial.reply, reply('554 5.7.1 Blorb'))
        self.assertIsNone(self.ledger.rejection)
        self.close('zoe anne bart carl dora_d emma')
        self.assertSettled(served='zoe', deferred='anne bart carl dora_d',
                           untried='emma')

    def test_three_in_other_words(self):
        for number, name in enumerate(('anne', 'bart', 'carl', 'dora')):
            orders = self.settle(**{name: refused(
                END, f'554 5.7.1 {"x" * number} no')})
            self.assertFalse(orders.halt)

    def test_one_of_several_alone(self):
        orders = self.settle(anne=self.ODD, bart=self.ODD, carl=self.ODD,
                             dead=DEAD)
        trial, = orders.first
        self.assertEqual((trial.recipients, trial.asks),
                         ((address('anne'),), False))
        self.assertSettled(bounced='dead')
        # It was their number: the others go in halves.
        orders = self.settle(anne=ACCEPTED)
        self.assertEqual([each.recipients for each in orders.again],
                         [(address('bart'),), (address('carl'),)])
        self.assertSettled(served='anne', bounced='dead')

    def test_nor_to_one_of_them_alone(self):
        trial, = self.settle(anne=self.ODD, bart=self.ODD).first
        # The first one may have a reason of its own.
        trial, = self.settle(anne=self.ODD).first
        self.assertEqual(trial.recipients, (address('bart'),))
        self.assertTrue(self.settle(bart=self.ODD).halt)
        self.close('anne bart carl')
        self.assertSettled(deferred='anne bart', untried='carl')

    def test_about_the_recipient(self):
        no = refused(END, '550 5.1.1 No such ant')
        # Nobody knows which of them.
        orders = self.settle(anne=no, bart=no)
        self.assertEqual([each.recipients for each in orders.again],
                         [(address('anne'),), (address('bart'),)])
        self.settle(anne=no)
        self.settle(bart=ACCEPTED)
        self.assertSettled(served='bart', bounced='anne')
        self.settle(carl=no, dead=DEAD)
        self.assertSettled(served='bart', bounced='anne carl dead')

    def test_and_unavailable(self):
        self.settle(anne=self.ODD)
        self.close('anne bart', UNAVAILABLE)
        self.assertSettled(deferred='anne', untried='bart')
        self.assertSuspects('anne')


class TestSender(LedgerTestCase):
    LONG = refused(MAIL, '553 5.1.7 Local part too long')

    def test_the_plain_sender_for_one_of_verp(self):
        for result in (self.LONG, refused(MAIL, '550 No'),
                       refused(RCPT, '550 5.1.8 Who are you')):
            with self.subTest(result):
                self.begin()
                orders = self.settle(verp('anne'), anne=result)
                self.assertEqual(orders.again, (Transaction(
                    PLAIN, (address('anne'),), CONTENT),))
                self.assertIsNone(orders.limit)
                self.assertFalse(orders.halt)
                self.assertSettled()

    def test_three_in_a_row(self):
        for number, name in enumerate(('anne', 'bart', 'carl')):
            self.settle(verp(name), **{name: self.LONG})
            orders = self.settle(PLAIN, **{name: ACCEPTED})
            self.assertIs(orders.plain_sender, number == 2)

    def test_not_in_a_row(self):
        # One address is too long: that is no reason to give up VERP.
        for name in ('anne', 'bart', 'carl', 'dora'):
            self.settle(verp(name), **{name: self.LONG})
            self.assertFalse(
                self.settle(PLAIN, **{name: ACCEPTED}).plain_sender)
            self.assertFalse(
                self.settle(verp('zoe'), zoe=ACCEPTED).plain_sender)

    def test_refused_again(self):
        # Like us: nobody is charged.
        for name in ('anne', 'bart', 'carl'):
            self.settle(verp(name), **{name: self.LONG})
            orders = self.settle(PLAIN, **{name: self.LONG})
        self.assertTrue(orders.halt)
        self.assertIs(self.ledger.denial.about, About.sender)
        self.close('anne bart carl dora')
        self.assertSettled(deferred='anne bart carl', untried='dora')

    def test_not_for_the_size_nor_for_the_time_being(self):
        for text, end in (('552 5.3.4 Too big', 'rejected'),
                          ('451 4.3.0 Later', 'deferred')):
            with self.subTest(text):
                self.begin()
                orders = self.settle(verp('anne'), anne=refused(MAIL, text))
                self.assertEqual(orders.again, ())
                self.close('anne')
                self.assertSettled(**{end: 'anne'})

    def test_there_is_no_other(self):
        self.begin(plain_sender=None)
        self.assertEqual(self.settle(verp('anne'), anne=self.LONG).again, ())
        self.close('anne')
        self.assertSettled(deferred='anne')

    def test_of_unknown_words_at_rcpt(self):
        # "Sender address rejected", with no code that tells.
        no = refused(RCPT, '550 Zorp.')
        for name in ('anne', 'bart_b', 'carl_c'):
            self.settle(verp(name), **{name: no})
        self.assertSettled()
        question, = self.conclude().first
        self.assertEqual((question.sender, question.recipients), (
            PLAIN, tuple(map(address, ('anne', 'bart_b', 'carl_c')))))
        orders = self.answer(question, TAKEN, TAKEN, TAKEN)
        self.assertTrue(orders.plain_sender)
        self.assertEqual({each.sender for each in orders.again}, {PLAIN})
        self.assertEqual(len(orders.again), 3)


class TestServerVerp(LedgerTestCase):
    """The server is to make the senders."""

    def settle_group(self, text):
        result = refused(MAIL, text)
        each = outcome(anne=result, bart=result,
                       span=Span(1, self._tick(), self._tick()))
        return self.ledger.settle(each._replace(
            transaction=each.transaction._replace(verp=Verp('+='))),
            self.relay)

    def test_it_does_not(self):
        for text, no_verp in (('555 5.5.4 What?', True),
                              ('550 5.7.1 What?', False),
                              ('455 4.5.0 Not now', False),
                              ('501 5.1.7 Bad sender', False)):
            with self.subTest(text):
                self.begin()
                orders = self.settle_group(text)
                self.assertIs(orders.no_verp, no_verp)
                self.assertEqual(
                    [(each.recipients, each.verp) for each in orders.again],
                    [((address('anne'),), None), ((address('bart'),), None)])
                self.assertNotIn(PLAIN, [
                    each.sender for each in orders.again])
                self.assertSettled()

    def test_another_time(self):
        orders = self.settle_group('451 4.3.0 Later')
        self.assertEqual(orders, NO_ORDERS)
        self.assertSettled(deferred='anne bart')


class TestMany(LedgerTestCase):
    """Twice as many outcomes take twice as many steps, not four times."""

    def assertLinear(self, settle):
        many, twice_as_many = (
            steps(lambda: settle(count)) for count in (1000, 2000))
        self.assertLess(twice_as_many, 2.5 * many)

    def test_held_in_one_domain(self):
        def settle(count):
            self.setUp()
            for number in range(count):
                self.settle(**{f'ant{number}': refused(RCPT, DENIED)})
        self.assertLinear(settle)
        self.assertSettled()
        self.assertIsNotNone(self.ledger.denial)

    def test_held_in_the_same_words(self):
        def settle(count):
            self.setUp()
            self.settle(zoe=ACCEPTED)
            question, = self.settle(
                **{f'bee_{number}': refused(RCPT, DENIED)
                   for number in range(10)}).first
            # While it is being asked, these come in.
            for number in range(count):
                self.settle(**{f'ant{number}': refused(RCPT, DENIED)})
            self.answer(question, TAKEN, *10 * [refused(RCPT, DENIED)], TAKEN)
        self.assertLinear(settle)
        # All of them at once, without another question.
        self.assertEqual(len(self.ledger.bounced), 2010)

    def test_accepted_while_some_are_held(self):
        def settle(count):
            self.begin()
            for number in range(300):
                self.settle(**{f'ant{number}': refused(RCPT, DENIED)})
                self.settle(**{f'bee{number}': ACCEPTED})
            for number in range(count):
                self.settle(**{f'cat{number}': ACCEPTED})
        self.assertLinear(settle)
        self.assertEqual(len(self.ledger.served), 2300)

    def test_alternately(self):
        def settle(count):
            self.begin()
            for number in range(count):
                self.settle(**{f'ant{number}': refused(RCPT, DENIED)})
                self.settle(**{f'bee{number}': ACCEPTED})
        self.assertLinear(settle)
        self.assertEqual(len(self.ledger.served), 2000)
