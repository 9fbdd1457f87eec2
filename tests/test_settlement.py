# SPDX-License-Identifier: GPL-3.0-or-later

"""What an answer means, and what the answers of a post mean together."""

import sys
import unittest

from mailman_mta_pool.errors import RelayUnavailable
from mailman_mta_pool.interfaces import IRecord
from mailman_mta_pool.settlement.ledger import Ledger
from mailman_mta_pool.settlement.table import (
    Meaning,
    meaning_of,
    over_the_limit,
)
from mailman_mta_pool.wire.content import Content
from mailman_mta_pool.wire.replies import Reply
from mailman_mta_pool.wire.transaction import (
    Fate,
    Outcome,
    Result,
    Stage,
    Transaction,
)
from zope.interface import implementer
from zope.interface.verify import verifyObject


CONTENT = Content(b'Subject: Ants\r\n\r\nAnts are strong.\r\n')
PLAIN = 'ant-bounces@example.com'
MAIL, RCPT, DATA, END = Stage.mail, Stage.rcpt, Stage.data, Stage.end
ACCEPTED = Result(Fate.accepted, END, Reply(250, (b'2.0.0 Ok',)))
IN_DOUBT = Result(Fate.in_doubt, END, None)
UNSENT = Result(Fate.not_attempted, Stage.connect, None)
DENIED = '554 5.7.1 Relay access denied'
TOO_MANY = '452 4.5.3 Too many recipients'


def refused(stage, reply):
    """A refusal, for example at RCPT with '550 5.1.1 No such ant'."""
    code, _, text = reply.partition(' ')
    return Result(Fate.refused, stage, Reply(int(code), (text.encode(),)))


def outcome(sender=PLAIN, **results):
    """The outcome of one transaction.

    :param results: The result of each recipient, by name; an underscore
        divides the local part from a domain that is not the usual one.
    """
    return Outcome(
        Transaction(sender, tuple(map(address, results)), CONTENT),
        tuple(results.values()))


def address(name):
    local, _, domain = name.partition('_')
    return f'{local}@{domain or "a"}.example.com'


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


@implementer(IRecord)
class Record:
    """Remembers what it was told."""

    def __init__(self):
        self.told = []

    def served(self, recipients):
        self.told.extend((recipient, 'served') for recipient in recipients)

    def bounced(self, recipient, code, text):
        self.told.append((recipient, code))


class TestMeaning(unittest.TestCase):
    def test_rows(self):
        for stage, answer, meaning in (
                (Stage.here, '553 5.1.3 No mailbox', Meaning.bounced),
                (Stage.here, '553 5.6.7 SMTPUTF8', Meaning.bounced),
                (RCPT, '550 5.1.1 No such ant', Meaning.bounced),
                (RCPT, '550 No such ant', Meaning.bounced),
                (RCPT, '599 5.7 Not an enhanced code', Meaning.bounced),
                (RCPT, '553 4.7.1 Nor this', Meaning.bounced),
                (RCPT, '552 5.2.2 Full', Meaning.deferred),
                (RCPT, '552 Too many', Meaning.deferred),
                (RCPT, '450 4.2.1 Later', Meaning.deferred),
                (RCPT, '451 4.7.1 Greylisted', Meaning.deferred),
                (RCPT, '499', Meaning.deferred),
                (RCPT, DENIED, Meaning.denied_if_all),
                (RCPT, '550 5.7.25 No reverse name', Meaning.denied_if_all),
                (RCPT, '530 5.7.0 Authenticate', Meaning.denied_if_all),
                (RCPT, '530 Authenticate', Meaning.denied_if_all),
                (MAIL, '530 5.7.0 Authenticate', Meaning.denied),
                (DATA, '530 5.7.0 Authenticate', Meaning.denied),
                (MAIL, '550 5.7.1 Bad sender', Meaning.rejected),
                (MAIL, '552 5.3.4 Too big', Meaning.rejected),
                (MAIL, '451 4.3.0 Later', Meaning.deferred),
                (DATA, '554 5.5.1 No', Meaning.rejected_if_all),
                (DATA, '451 4.3.0 Later', Meaning.deferred),
                (END, '554 5.6.0 Virus', Meaning.rejected_if_all),
                (END, '550 5.7.1 Spam', Meaning.rejected_if_all),
                (END, '552 5.3.4 Too big', Meaning.rejected),
                (END, '452 4.3.1 No room', Meaning.deferred),
                (END, '421 4.3.2 Closing', Meaning.deferred)):
            with self.subTest(stage=stage, answer=answer):
                self.assertIs(meaning_of(refused(stage, answer)), meaning)

    def test_without_a_refusal(self):
        self.assertIs(meaning_of(ACCEPTED), Meaning.served)
        self.assertIs(meaning_of(IN_DOUBT), Meaning.in_doubt)
        self.assertIs(meaning_of(UNSENT), Meaning.unsent)
        # Whatever it said when it closed the connection.
        self.assertIs(
            meaning_of(Result(Fate.not_attempted, RCPT, Reply(
                421, (b'4.3.2 Closing',)))), Meaning.unsent)


class TestOverTheLimit(unittest.TestCase):
    def assertLate(self, indices, **results):
        self.assertEqual(over_the_limit(outcome(**results)), set(indices))

    def test_after_accepted_ones(self):
        for reply in (TOO_MANY, '452 Too many', '552 5.5.3 Too many',
                      '552 Too many'):
            with self.subTest(reply):
                late = refused(RCPT, reply)
                self.assertLate({1, 2}, anne=ACCEPTED, bart=late, carl=late)

    def test_whatever_becomes_of_the_content(self):
        late = refused(RCPT, TOO_MANY)
        self.assertLate({1}, anne=refused(END, '451 4.3.0 No'), bart=late)
        self.assertLate({1}, anne=refused(DATA, '451 4.3.0 No'), bart=late)
        self.assertLate({1}, anne=IN_DOUBT, bart=late)

    def test_other_reasons(self):
        for reply in ('452 4.2.2 Full', '552 5.2.2 Full', '450 4.5.3 What?',
                      '451 Later', '550 5.5.3 No', '554 5.1.1 No'):
            with self.subTest(reply):
                self.assertLate((), anne=ACCEPTED, bart=refused(RCPT, reply))

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


class LedgerTestCase(unittest.TestCase):
    def setUp(self):
        self.record = Record()
        self.ledger = Ledger(self.record, plain_sender=PLAIN)

    def assertSettled(self, **ends):
        """Each recipient has ended so, by names with spaces between them."""
        for name in ('served', 'bounced', 'deferred', 'rejected', 'untried'):
            with self.subTest(name):
                self.assertEqual(
                    sorted(getattr(self.ledger, name)),
                    sorted(map(address, ends.get(name, '').split())))

    def settle(self, sender=PLAIN, **results):
        return self.ledger.settle(outcome(sender, **results))

    def close(self, names, unavailable=None):
        return self.ledger.close(map(address, names.split()), unavailable)


class TestLedger(LedgerTestCase):
    def test_record(self):
        self.assertTrue(verifyObject(IRecord, self.record))

    def test_each_as_they_are_told(self):
        orders = self.settle(
            anne=ACCEPTED, bart=refused(RCPT, '550 5.1.1 No such ant'),
            carl=refused(RCPT, '450 4.2.1 Later'), dora=ACCEPTED)
        self.assertEqual((orders.again, orders.limit, orders.halt),
                         ((), None, False))
        self.assertSettled(served='anne dora', bounced='bart', deferred='carl')
        self.assertEqual(self.record.told, [
            (address('bart'), 550), (address('anne'), 'served'),
            (address('dora'), 'served')])
        self.assertEqual(self.ledger.failures, {
            address('bart'): (550, b'5.1.1 No such ant'),
            address('carl'): (450, b'4.2.1 Later')})
        self.assertEqual(self.close('anne bart carl dora emma'),
                         [address('emma')])
        self.assertEqual(
            self.ledger.unserved(map(address, ('anne', 'bart', 'emma'))),
            [address('bart'), address('emma')])

    def test_in_doubt(self):
        self.settle(anne=IN_DOUBT, bart=IN_DOUBT)
        self.assertSettled(deferred='anne bart')
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
        self.assertEqual(self.ledger.in_doubt, 0)

    def test_too_many(self):
        late = refused(RCPT, TOO_MANY)
        orders = self.settle(anne=ACCEPTED, bart=ACCEPTED, carl=late,
                             dora=refused(RCPT, '550 5.1.1 No'), emma=late)
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

    def test_carried_over(self):
        self.ledger.carry_over({address('anne'): (550, b'No')})
        self.assertSettled(bounced='anne')
        # The journal has it already.
        self.assertEqual(self.record.told, [])

    def test_unavailable(self):
        self.settle(anne=ACCEPTED, bart=refused(RCPT, '550 5.1.1 No'))
        error = RelayUnavailable('relay:25', 'connect', 'refused')
        self.close('anne bart carl dora', error)
        self.assertSettled(served='anne', bounced='bart', untried='carl dora')

    def test_each_once(self):
        self.assertEqual(self.close('anne bart anne'),
                         [address('anne'), address('bart')])


class TestDenied(LedgerTestCase):
    """The relay refuses us, or them: the words are the same."""

    def test_somebody_refused_for_a_reason_of_their_own(self):
        # Only somebody accepted shows that the server relays for us.
        denied = refused(RCPT, DENIED)
        for reply in ('550 5.1.1 No such ant', '450 4.7.1 Greylisted',
                      '452 4.3.1 Insufficient system storage'):
            with self.subTest(reply=reply):
                self.setUp()
                self.assertTrue(self.settle(
                    anne=refused(RCPT, reply), bart_b=denied, carl_c=denied,
                    dora_d=denied).halt)
                self.assertEqual(self.ledger.denial.code, 554)
                self.assertNotIn(address('bart_b'), self.ledger.bounced)

    def test_three_in_two_domains(self):
        denied = refused(RCPT, DENIED)
        self.assertFalse(self.settle(anne=denied).halt)
        self.assertFalse(self.settle(bart=denied, carl=denied).halt)
        # Three, but of one domain.
        self.assertIsNone(self.ledger.denial)
        self.assertSettled()
        self.assertTrue(self.settle(dora_b=denied).halt)
        self.assertEqual(self.ledger.denial.code, 554)
        self.assertSettled(deferred='anne bart carl dora_b')
        # Whoever was on the way then fares no worse, nor do those after.
        self.assertTrue(self.settle(emma_c=denied).halt)
        self.close('anne bart carl dora_b emma_c fred_c')
        self.assertSettled(
            deferred='anne bart carl dora_b emma_c', untried='fred_c')
        self.assertEqual(self.record.told, [])

    def test_fewer(self):
        denied = refused(RCPT, DENIED)
        for results in ({'anne': denied, 'bart_b': denied},
                        {'anne': denied, 'bart': denied, 'carl': denied}):
            with self.subTest(results=list(results)):
                self.setUp()
                self.assertFalse(self.settle(**results).halt)
                self.close(' '.join(results))
                self.assertSettled(bounced=' '.join(results))

    def test_someone_was_accepted_before(self):
        denied = refused(RCPT, DENIED)
        self.settle(zoe=ACCEPTED)
        self.settle(anne=denied, bart_b=denied, carl_c=denied)
        self.assertSettled(served='zoe', bounced='anne bart_b carl_c')
        self.assertIsNone(self.ledger.denial)

    def test_someone_is_accepted_after(self):
        denied = refused(RCPT, DENIED)
        self.settle(anne=denied, bart_b=denied)
        self.assertSettled()
        self.settle(zoe=ACCEPTED)
        self.assertSettled(served='zoe', bounced='anne bart_b')
        self.assertEqual(self.record.told, [
            (address('zoe'), 'served'), (address('anne'), 554),
            (address('bart_b'), 554)])

    def test_in_one_transaction_with_accepted_ones(self):
        denied = refused(RCPT, DENIED)
        self.settle(anne=denied, bart_b=denied, carl_c=denied, zoe=ACCEPTED)
        self.assertSettled(served='zoe', bounced='anne bart_b carl_c')

    def test_a_lost_connection_is_no_sign(self):
        denied = refused(RCPT, DENIED)
        self.settle(zoe=Result(
            Fate.not_attempted, RCPT, Reply(421, (b'4.3.2 Closing',))))
        self.settle(anne=denied, bart_b=denied, carl_c=denied)
        self.assertSettled(deferred='zoe anne bart_b carl_c')
        self.assertIsNotNone(self.ledger.denial)

    def test_authentication_required(self):
        orders = self.settle(anne=refused(RCPT, '530 5.7.0 Authenticate'))
        self.assertTrue(orders.halt)
        self.assertEqual(self.ledger.denial.code, 530)
        self.close('anne bart')
        self.assertSettled(deferred='anne', untried='bart')

    def test_authentication_required_of_one(self):
        # The others are not to wait for that for ever.
        odd = refused(RCPT, '530 5.7.0 Authenticate')
        for first, second in ((ACCEPTED, odd), (odd, ACCEPTED)):
            self.setUp()
            orders = self.settle(anne=first, bart=second)
            self.assertFalse(orders.halt)
            self.assertEqual(len(self.ledger.served), 1)
            self.assertEqual(len(self.ledger.bounced), 1)

    def test_many_in_one_domain(self):
        # Twice as many outcomes take twice as many steps, not four times.
        many, twice_as_many = (
            steps(lambda: self.settle_each(count)) for count in (1000, 2000))
        self.assertLess(twice_as_many, 2.5 * many)
        self.close('')
        self.assertEqual(len(self.ledger.bounced), 2000)

    def settle_each(self, count):
        """Settle refusals of recipients of one domain, one by one."""
        self.setUp()
        for number in range(count):
            self.settle(**{f'ant{number}': refused(RCPT, DENIED)})

    def test_authentication_required_for_mail(self):
        orders = self.settle(
            verp('anne'), anne=refused(MAIL, '530 5.7.0 STARTTLS first'))
        self.assertTrue(orders.halt)
        self.assertEqual(orders.again, ())
        self.assertSettled(deferred='anne')


class TestRejected(LedgerTestCase):
    """It is the message; nobody is charged with a bounce for it."""

    VIRUS = refused(END, '554 5.6.0 Virus')

    def test_several(self):
        self.settle(zoe=ACCEPTED)
        orders = self.settle(anne=self.VIRUS, bart=self.VIRUS)
        self.assertTrue(orders.halt)
        self.close('zoe anne bart carl')
        self.assertSettled(served='zoe', rejected='anne bart carl')
        self.assertEqual(self.ledger.rejection.code, 554)
        self.assertEqual(self.record.told, [(address('zoe'), 'served')])

    def test_one_of_others_that_were_accepted(self):
        self.settle(zoe=ACCEPTED)
        self.assertFalse(self.settle(anne=self.VIRUS).halt)
        self.assertSettled(served='zoe', bounced='anne')

    def test_one_before_the_first_that_is_accepted(self):
        self.settle(anne=self.VIRUS)
        self.settle(bart=self.VIRUS)
        self.assertSettled()
        self.settle(zoe=ACCEPTED)
        self.assertSettled(served='zoe', bounced='anne bart')
        self.assertIsNone(self.ledger.rejection)

    def test_the_first_three(self):
        self.assertFalse(self.settle(anne=self.VIRUS).halt)
        self.assertFalse(self.settle(bart=self.VIRUS).halt)
        self.assertTrue(self.settle(carl=self.VIRUS).halt)
        # This one was on its way.
        self.settle(dora=self.VIRUS)
        self.close('anne bart carl dora emma')
        self.assertSettled(rejected='anne bart carl dora emma')
        self.assertEqual(self.record.told, [])

    def test_fewer_and_no_others(self):
        self.settle(anne=self.VIRUS)
        self.assertEqual(self.close('anne'), [])
        self.assertSettled(rejected='anne')
        self.assertEqual(self.ledger.rejection.code, 554)

    def test_one_accepted_recipient_of_several(self):
        dead = refused(RCPT, '550 5.1.1 No such ant')
        self.assertFalse(self.settle(anne=self.VIRUS, dead=dead).halt)
        self.settle(zoe=ACCEPTED)
        self.assertSettled(served='zoe', bounced='anne dead')

    def test_too_big(self):
        self.settle(zoe=ACCEPTED)
        self.assertTrue(
            self.settle(anne=refused(END, '552 5.3.4 Too big')).halt)
        self.assertSettled(served='zoe', rejected='anne')

    def test_and_unavailable(self):
        self.settle(anne=self.VIRUS, bart=self.VIRUS)
        self.close('anne bart carl', RelayUnavailable('relay:25', 'x', 'y'))
        self.assertSettled(rejected='anne bart', untried='carl')

    def test_bounce(self):
        self.ledger = Ledger(self.record, plain_sender=PLAIN, shunts=False)
        self.assertFalse(self.settle(anne=self.VIRUS, bart=self.VIRUS).halt)
        self.settle(carl=refused(MAIL, '550 5.1.8 Bad sender'))
        self.assertEqual(self.close('anne bart carl dora'), [address('dora')])
        self.assertSettled(bounced='anne bart carl')
        self.assertIsNone(self.ledger.rejection)


class TestSender(LedgerTestCase):
    LONG = refused(MAIL, '553 5.1.7 Local part too long')

    def test_plain_sender_for_a_verped_one(self):
        orders = self.settle(verp('anne'), anne=self.LONG)
        self.assertEqual(orders.again, (Transaction(
            PLAIN, (address('anne'),), CONTENT),))
        self.assertIsNone(orders.limit)
        self.assertFalse(orders.halt)
        self.assertSettled()

    def test_refused_again(self):
        self.settle(verp('anne'), anne=self.LONG)
        self.assertTrue(self.settle(PLAIN, anne=self.LONG).halt)
        self.assertSettled(rejected='anne')

    def test_not_for_the_size_nor_for_the_time_being(self):
        for reply, end in (('552 5.3.4 Too big', 'rejected'),
                           ('451 4.3.0 Later', 'deferred')):
            with self.subTest(reply):
                self.setUp()
                orders = self.settle(verp('anne'), anne=refused(MAIL, reply))
                self.assertEqual(orders.again, ())
                self.assertSettled(**{end: 'anne'})

    def test_there_is_no_other(self):
        self.ledger = Ledger(self.record)
        self.assertEqual(self.settle(verp('anne'), anne=self.LONG).again, ())
        self.assertSettled(rejected='anne')
