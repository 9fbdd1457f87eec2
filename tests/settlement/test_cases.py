# SPDX-License-Identifier: GPL-3.0-or-later

"""The settlement of a post that goes over two relays."""

from itertools import count
from mailman_mta_pool.errors import RelayPaused
from mailman_mta_pool.settings import About
from mailman_mta_pool.settlement.ledger import Ledger, Post
from mailman_mta_pool.settlement.memory import Memory
from mailman_mta_pool.settlement.orders import NO_ORDERS
from mailman_mta_pool.wire.transaction import Fate, Result, Span, Stage
from tests.settlement.case import (
    ACCEPTED,
    address,
    LedgerTestCase,
    outcome,
    Record,
    refused,
)
from tests.settlement.world import PLAIN, Relay, reply


ZORP = refused(Stage.rcpt, '550 Zorp')
DENIED = refused(Stage.mail, '530 5.7.0 Authentication required')
TOO_BIG = refused(Stage.mail, '552 5.3.4 Too big')


class TestTwoRelays(LedgerTestCase):
    def begin(self, **post):
        super().begin(**post)
        self.other = Relay(Memory(lambda: self.now), 'other:25')
        self.record = Record()
        self.ledger = Ledger(
            self.record, relays=[self.relay, self.other],
            post=Post(plain_sender=PLAIN))
        self._later = count(100).__next__

    def over(self, relay, **results):
        return self.ledger.settle(
            outcome(PLAIN, Span(1, self._later(), self._later()), **results),
            relay)

    def refuse_all(self, relay, result, names):
        for name in names.split():
            orders = self.over(relay, **{name: result})
        return orders

    def test_each_recipient_once(self):
        self.over(self.relay, anne=ACCEPTED)
        self.over(self.other, bart=ACCEPTED)
        self.over(self.other, cris=refused(Stage.rcpt, '550 5.1.1 Who?'))
        self.assertEqual(self.close('anne bart cris'), [])
        self.assertSettled(served='anne bart', bounced='cris')
        self.assertEqual(self.record.relays, {'relay:25', 'other:25'})

    def test_accepted_by_the_other(self):
        # That is no proof against those whom this one refuses.
        self.refuse_all(self.relay, ZORP, 'a_a b_b c_c')
        orders = self.over(self.other, anne=ACCEPTED)
        self.assertEqual(orders, NO_ORDERS)
        self.assertTrue(self.over(self.relay, d_d=ZORP).elsewhere)
        self.assertEqual(self.ledger.bounced, {})

    def test_one_takes_no_mail_from_us(self):
        orders = self.refuse_all(self.relay, DENIED, 'a_a b_b c_c')
        self.assertTrue(orders.halt)
        self.assertFalse(self.over(self.other, anne=ACCEPTED).halt)
        self.assertEqual(list(self.ledger.denials), [self.relay])
        self.assertIs(self.ledger.denial.about, About.us)
        free = self.ledger.give_up(self.relay, ())
        self.assertEqual(
            sorted(name for each in free for name in each.recipients),
            sorted(map(address, 'a_a b_b c_c'.split())))
        for each in free:
            self.assertFalse(self.ledger.has_answered(each, self.relay))
        self.assertEqual(self.ledger.give_up(self.relay, ()), [])
        # The turn is over before they are sent over the other one.
        self.assertEqual(
            self.close('anne a_a b_b c_c'),
            list(map(address, 'a_a b_b c_c'.split())))
        self.assertSuspects('')

    def test_both_take_none(self):
        for relay in self.relay, self.other:
            self.refuse_all(relay, DENIED, 'a_a b_b c_c')
        self.assertEqual(len(self.ledger.denials), 2)
        self.assertEqual(self.close('a_a b_b c_c d_d'), [])
        self.assertSettled(deferred='a_a b_b c_c', untried='d_d')
        self.assertFalse(self.ledger.is_paused)

    def test_given_up(self):
        # One is held, one was to be sent again, and one was not attempted.
        self.over(self.relay, anne=ZORP)
        transaction = outcome(
            bart=refused(Stage.rcpt, '550 5.1.8 Sender'), cris=ACCEPTED)[0]
        self.over(self.relay, bart=refused(Stage.rcpt, '550 5.1.8 Sender'))
        self.assertTrue(self.ledger.has_answered(transaction, self.relay))
        self.assertFalse(self.ledger.has_answered(transaction, self.other))
        free, = self.ledger.give_up(self.relay, [transaction])
        self.assertEqual(free.recipients, (address('cris'),))
        self.assertEqual(self.ledger.deferred[address('bart')],
                         (550, b'5.1.8 Sender'))
        # Whoever is held has been judged by that relay alone, too.
        self.assertEqual(self.close('anne bart cris'), [address('cris')])
        self.assertSettled(deferred='anne bart')
        self.assertSuspects('anne bart')

    def test_too_late_when_the_connection_was_closed(self):
        # They may be those whose mailboxes are full.
        late = refused(Stage.rcpt, '452 Later')
        lost = Result(Fate.not_attempted, Stage.data, None)
        each = outcome(anne=lost, bart=late, cris=late)
        self.assertIsNone(self.ledger.hear_of_closing(each, self.relay))
        self.assertFalse(self.ledger.has_answered(
            each.part([0]).transaction, self.relay))
        free, = self.ledger.give_up(self.relay, [each.transaction])
        self.assertEqual(free.recipients, (address('anne'),))
        self.assertEqual(self.close('anne bart cris'), [address('anne')])
        self.assertSettled(deferred='bart cris')

    def test_held_when_the_turn_is_over(self):
        self.over(self.relay, anne=ZORP)
        self.assertEqual(
            self.close('anne bart'), list(map(address, ('anne', 'bart'))))
        self.assertSettled()
        self.assertSuspects('anne')

    def test_the_message_is_rejected_by_one(self):
        self.assertTrue(self.over(self.relay, anne=TOO_BIG).halt)
        self.assertFalse(self.over(self.other, bart=ACCEPTED).halt)
        self.assertEqual(self.close('anne bart cris'), [address('cris')])
        self.assertSettled(rejected='anne', served='bart')
        self.assertEqual(
            self.ledger.rejection, reply('552 5.3.4 Too big'))

    def test_the_message_is_rejected_by_both(self):
        self.over(self.relay, anne=TOO_BIG)
        self.over(self.other, bart=TOO_BIG)
        self.assertEqual(self.close('anne bart cris'), [])
        self.assertSettled(rejected='anne bart cris')

    def test_one_is_paused(self):
        self.close('anne', RelayPaused('relay:25', 'pause', 'Slowly'))
        self.assertTrue(self.ledger.is_paused)

    def test_others_than_before(self):
        # What one has said in an earlier turn still counts.
        self.over(self.relay, anne=ZORP)
        self.ledger.use([self.other])
        self.over(self.other, bart=ACCEPTED)
        self.assertEqual(self.close('anne bart'), [])
        self.assertSettled(served='bart', deferred='anne')
