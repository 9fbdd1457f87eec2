# SPDX-License-Identifier: GPL-3.0-or-later

"""Whom a refusal is about that proves nothing by itself."""

import unittest

from hypothesis import given, HealthCheck, settings, strategies as st
from mailman_mta_pool.configuration.answers import shipped_answers
from mailman_mta_pool.wire.transaction import Stage
from tests.settlement.world import PLAIN, World


DEAD_WORDS = '550 Nobody of that name'
US_WORDS = '550 We do not talk to the likes of you'
RATE_WORDS = ('451 4.7.1 Not so many ants', '550 Too many ants at once')
KNOWN_DEAD = '550 5.1.1 No such ant'


def members(count, domains=12):
    return [f'ant{number}@d{number % domains}.example.com'
            for number in range(count)]


class TestTrueCauses(unittest.TestCase):
    """Whatever the true causes are, nobody is charged with another's."""

    @settings(deadline=None, max_examples=300,
              suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def test_no_living_member_is_charged(self, data):
        draw = data.draw
        names = members(draw(st.integers(3, 40)), draw(st.integers(1, 14)))
        dead = frozenset(draw(st.lists(st.sampled_from(names), max_size=12)))
        dead_words = draw(st.sampled_from((DEAD_WORDS, KNOWN_DEAD)))
        stage = draw(st.sampled_from((Stage.rcpt, Stage.mail, Stage.end)))
        begin = draw(st.integers(1, 60))
        end = begin + draw(st.integers(0, 60))
        cause = draw(st.sampled_from(('us', 'rate', 'none')))
        # At the end of the content, nothing can be asked.  So words for good
        # that no catalogue has, and that come and go, deceive us there.
        rate_words = draw(st.sampled_from(
            RATE_WORDS[:1] if stage is Stage.end else RATE_WORDS))
        period = draw(st.integers(2, 9))
        share = draw(st.integers(1, period - 1))
        is_mended = []

        def rule(at, transaction, recipient, number):
            if not is_mended and at is stage:
                if cause == 'us' and begin <= number < end:
                    return US_WORDS
                if cause == 'rate' and number % period >= share:
                    return rate_words
            if at is Stage.rcpt and recipient in dead:
                return dead_words
            return None
        world = World(
            rule, connections=draw(st.sampled_from((1, 2, 8))),
            depth=draw(st.sampled_from((1, 3))),
            choose=lambda options: draw(st.sampled_from(options)))
        verp = draw(st.booleans())
        size = 1 if verp else draw(st.sampled_from((1, 10, 500)))
        first = world.deliver(names, size=size, verp=verp)
        bounced = set(first.bounced)
        self.assertLessEqual(bounced, dead)
        served = set(first.served)
        self.assertFalse(served & dead)
        left = [name for name in names if name not in served | bounced]
        self.assertFalse(first.rejected)
        if left:
            is_mended.append(True)
            world.now += 900
            second = world.deliver(
                left, size=size, verp=verp,
                suspects=[name for name in first.suspects if name in left])
            self.assertLessEqual(set(second.bounced), dead)
            bounced |= set(second.bounced)
            served |= set(second.served)
        self.assertEqual(len(world.served), len(set(world.served)))
        self.assertEqual(sorted(served), sorted(set(names) - dead))
        if served:
            self.assertEqual(sorted(bounced), sorted(dead))


class ContrastTestCase(unittest.TestCase):
    def refuse(self, words, *, names=None, stage=Stage.rcpt):
        """A rule: these recipients are refused, or everybody."""
        def rule(at, transaction, recipient, number):
            if at is not stage:
                return None
            if names is None or recipient in names:
                return words.replace('%', recipient or '')
            return None
        return rule

    def assertEnds(self, ledger, **ends):
        for name in ('served', 'bounced', 'deferred', 'rejected', 'untried'):
            with self.subTest(name):
                self.assertEqual(sorted(getattr(ledger, name)),
                                 sorted(ends.get(name, ())))


class TestContrast(ContrastTestCase):
    def test_to_everybody(self):
        names = members(200)
        for size, verp, stage in (
                (1, True, Stage.rcpt), (1, False, Stage.rcpt),
                (10, False, Stage.rcpt), (500, False, Stage.rcpt),
                (1, True, Stage.mail), (10, False, Stage.mail),
                (1, True, Stage.end), (10, False, Stage.end)):
            with self.subTest(size=size, verp=verp, stage=stage):
                world = World(self.refuse('550 Zorp.', stage=stage))
                ledger = world.deliver(names, size=size, verp=verp)
                self.assertEqual(ledger.denial.reply.text, b'Zorp.')
                self.assertFalse(ledger.bounced)
                self.assertFalse(ledger.rejected)
                self.assertEqual(world.served, [])
                self.assertLess(len(world.transactions), 35)
                self.assertEqual(
                    sorted([*ledger.deferred, *ledger.untried]),
                    sorted(names))

    def test_after_fifty(self):
        names = members(200)
        for size, verp, stage in (
                (1, True, Stage.rcpt), (10, False, Stage.rcpt),
                (1, True, Stage.mail), (10, False, Stage.end)):
            def rule(at, transaction, recipient, number, stage=stage):
                return ('550 Zorp.' if at is stage and len(world.served) >= 50
                        else None)
            with self.subTest(size=size, verp=verp, stage=stage):
                world = World(rule)
                ledger = world.deliver(names, size=size, verp=verp)
                self.assertFalse(ledger.bounced)
                self.assertFalse(ledger.rejected)
                self.assertEqual(len(ledger.served), 50)
                self.assertLess(len(world.transactions), 65)

    def test_some_dead(self):
        names = members(200)
        front = [name for name in names if '@d0.' in name][:15]
        names = front + [name for name in names if name not in front]
        for dead in (front, names[::7], names[-30:], names[:10],
                     [name for name in names if '@d0.' in name],
                     names[:3]):
            for words in ('550 5.1.1 No', '550 Nope',
                          '554 5.7.1 <%>: Access denied'):
                for size, verp in ((1, True), (10, False), (500, False)):
                    with self.subTest(words=words, size=size, verp=verp,
                                      dead=dead[:2]):
                        world = World(self.refuse(words, names=dead))
                        ledger = world.deliver(names, size=size, verp=verp)
                        self.assertEnds(
                            ledger, bounced=dead,
                            served=set(names) - set(dead))
                        self.assertEqual(len(world.served),
                                         len(set(world.served)))

    def test_what_is_about_us_charges_nobody(self):
        names = members(63)
        world = World(self.refuse('530 5.7.0 Authenticate', names=names[:3]))
        ledger = world.deliver(names, verp=True)
        self.assertEnds(ledger, served=names[3:], deferred=names[:3])
        self.assertEqual(sorted(ledger.suspects), names[:3])

    def test_the_sender_of_verp(self):
        names = members(40)
        for stage in (Stage.mail, Stage.rcpt):
            for words in ('550 5.1.8 Who are you', '550 Zorp.'):
                def rule(at, transaction, recipient, number, stage=stage,
                         words=words):
                    return (words if at is stage and
                            transaction.sender != PLAIN else None)
                with self.subTest(stage=stage, words=words):
                    world = World(rule)
                    ledger = world.deliver(names, verp=True)
                    self.assertEnds(ledger, served=names)
                    self.assertLess(len(world.transactions), 60)

    def test_few(self):
        for names in (members(1), members(2)):
            world = World(self.refuse('550 Zorp.'))
            ledger = world.deliver(names)
            self.assertEnds(ledger, bounced=names)

    def test_few_while_we_are_refused(self):
        world = World(self.refuse('550 Zorp.'))
        world.deliver(members(20))
        ledger = world.deliver(members(1))
        self.assertEnds(ledger, deferred=members(1))


class TestUnasked(ContrastTestCase):
    """Where no connection can ask."""

    def test_refused_at_first(self):
        names = members(40)
        dead = names[12]

        def rule(at, transaction, recipient, number):
            if at is Stage.rcpt and (number <= 4 or recipient == dead):
                return '550 Zorp.'
            return None
        world = World(rule, can_ask=False)
        ledger = world.deliver(names)
        self.assertEnds(ledger, bounced=[dead],
                        served=[name for name in names if name != dead])
        self.assertEqual(len(world.served), len(set(world.served)))

    def test_the_sender_of_verp(self):
        def rule(at, transaction, recipient, number):
            return ('550 Zorp.' if at is Stage.rcpt and
                    transaction.sender != PLAIN else None)
        for count in (1, 2, 5, 40):
            with self.subTest(count=count):
                world = World(rule, can_ask=False)
                ledger = world.deliver(members(count), verp=True)
                self.assertEnds(ledger, served=members(count))

    def test_the_sender_of_verp_and_a_dead_domain(self):
        names = sorted(members(80, 2), key=lambda name: name[-14:])

        def rule(at, transaction, recipient, number):
            if at is Stage.rcpt and transaction.sender != PLAIN:
                return '550 Zorp.'
            return ('550 Nope' if at is Stage.rcpt and
                    recipient in names[:40] else None)
        ledger = World(rule).deliver(names, verp=True)
        self.assertEnds(ledger, served=names[40:], bounced=names[:40])

    def test_a_server_that_counts_those_whom_it_refuses(self):
        names = members(40)

        def rule(at, transaction, recipient, number):
            if at is not Stage.rcpt:
                return None
            if transaction.recipients.index(recipient) >= 8:
                return '452 4.5.3 Too many recipients'
            return '550 Nope' if recipient in names[-12:] else None
        ledger = World(rule).deliver(names)
        self.assertEnds(ledger, served=names[:-12], bounced=names[-12:])


class TestContent(ContrastTestCase):
    """Refusals at DATA and at the end of the content."""

    def test_a_limit_in_unknown_words(self):
        names = members(200)

        def rule(at, transaction, recipient, number):
            return ('554 Blorb' if at is Stage.end and
                    len(transaction.recipients) > 50 else None)
        world = World(rule)
        ledger = world.deliver(names, size=500)
        self.assertEnds(ledger, served=names)
        self.assertLess(len(world.transactions), 20)

    def test_the_message(self):
        names = members(30)
        for size in (1, 10):
            world = World(self.refuse('554 5.6.0 Virus', stage=Stage.end))
            ledger = world.deliver(names, size=size)
            self.assertEnds(ledger, rejected=names)

    def test_the_message_in_unknown_words(self):
        names = members(30)
        world = World(self.refuse('554 Blorb', stage=Stage.end))
        ledger = world.deliver(names, message_id='<bad>')
        self.assertFalse(ledger.rejected)
        world._rule = self.refuse('554 Blorb', names=(), stage=Stage.end)
        world.now += 100
        world.deliver(members(3), message_id='<good>')
        world._rule = self.refuse('554 Blorb', stage=Stage.end)
        world.now += 800
        ledger = world.deliver(names, message_id='<bad>')
        self.assertEnds(ledger, rejected=names)

    def test_one_who_does_not_like_ants(self):
        names = members(30)

        def rule(at, transaction, recipient, number):
            return ('550 5.7.1 No ants' if at is Stage.end and
                    names[4] in transaction.recipients else None)
        for size in (1, 10):
            with self.subTest(size=size):
                world = World(rule)
                ledger = world.deliver(names, size=size)
                self.assertEnds(ledger, bounced=names[4:5],
                                served=names[:4] + names[5:])

    def test_few_who_do_not_like_ants(self):
        names = sorted(members(60, 6), key=lambda name: name[-14:])
        for words in ('550 5.7.1 Spam detected', '554 Blorb'):
            for bad in (names[:1], names[:2], names[:3], names[20:23],
                        [names[0], names[30], names[59]]):
                def rule(at, transaction, recipient, number, words=words,
                         bad=bad):
                    return (words if at is Stage.end and
                            set(bad) & set(transaction.recipients) else None)
                for size, verp in ((1, True), (10, False), (500, False)):
                    with self.subTest(words=words, bad=bad, size=size):
                        world = World(rule, answers=shipped_answers())
                        ledger = world.deliver(names, size=size, verp=verp)
                        self.assertEqual(
                            ledger.served, set(names) - set(bad))
                        self.assertFalse(ledger.rejected)

    def test_the_one_on_trial_gets_it_once(self):
        names = members(10)
        for at, words in ((Stage.mail, '450 4.7.1 Ratelimit exceeded'),
                          (Stage.rcpt, '451 4.3.0 Later'),
                          (Stage.end, '451 4.3.0 Later'),
                          (Stage.rcpt, '550 Zorp.')):
            refused = []

            def rule(stage, transaction, recipient, number, at=at,
                     words=words, refused=refused):
                if stage is Stage.end and len(transaction.recipients) > 5:
                    return '554 Blorb'
                if (stage is at and not refused and
                        transaction.recipients == (names[0],)):
                    refused.append(number)
                    return words
                return None
            with self.subTest(at=at, words=words):
                world = World(rule, answers=shipped_answers())
                ledger = world.deliver(names, size=10)
                self.assertEqual(len(world.served), len(set(world.served)))
                self.assertFalse(set(ledger.served) & set(ledger.deferred))
                self.assertEqual(ledger.served, set(world.served))
                self.assertGreaterEqual(len(ledger.served), 9)

    def test_a_welcome(self):
        world = World(self.refuse('554 5.6.0 Spam', stage=Stage.end))
        ledger = world.deliver(members(1), to_list=False)
        self.assertEnds(ledger, bounced=members(1))
