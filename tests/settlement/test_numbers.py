# SPDX-License-Identifier: GPL-3.0-or-later

"""Questions over a limit, words that differ for each, and many of them."""

from mailman_mta_pool.wire.transaction import Stage
from tests.settlement.case import ACCEPTED, refused
from tests.settlement.test_contrast import ContrastTestCase, members
from tests.settlement.test_ledger import TestMany as Many
from tests.settlement.world import World


class TestSmallLimits(ContrastTestCase):
    """The question has up to twelve recipients, whatever the limit is."""

    def test_a_question_over_the_limit(self):
        names = members(200)
        dead = names[::7]
        for words in ('452 4.5.3 Too many', '550 5.5.3 Too many',
                      '452 Too many'):
            for size in (1, 10, 500):
                count = 0

                def rule(at, transaction, recipient, number):
                    nonlocal count
                    if at is Stage.mail:
                        count = 0
                    elif at is Stage.rcpt:
                        count += 1
                        if count > 5:
                            return words
                        if recipient in dead:
                            return '550 Nope'
                    return None
                with self.subTest(words=words, size=size):
                    ledger = World(rule).deliver(
                        names, size=size, verp=size == 1)
                    self.assertIsNone(ledger.denial)
                    self.assertEnds(ledger, bounced=dead,
                                    served=set(names) - set(dead))


class TestLocalParts(ContrastTestCase):
    """"User unknown: anne" has other words for each recipient."""

    def test_few_questions(self):
        def name(number):
            return ''.join('aeioumnrst'[int(digit)] for digit in
                           f'{number:04}')
        names = [f'{name(number)}@d{number % 12}.example.com'
                 for number in range(200)]
        dead = names[::7]

        def rule(at, transaction, recipient, number):
            if at is Stage.rcpt and recipient in dead:
                return f'550 User unknown: {recipient.partition("@")[0]}'
            return None
        world = World(rule)
        ledger = world.deliver(names, size=10)
        self.assertEnds(ledger, bounced=dead, served=set(names) - set(dead))
        self.assertLess(sum(each.asks for each in world.transactions), 10)


class TestQuadratic(Many):
    test_held_in_one_domain = test_held_in_the_same_words = None
    test_accepted_while_some_are_held = test_alternately = None

    def test_other_words_each_time(self):
        # Contrast.weigh looks at all groups after each refusal.
        def settle(count):
            self.setUp()
            for number in range(count):
                self.settle(**{f'ant{number}': refused(
                    Stage.rcpt, f'554 5.7.1 No {chr(0x4e00 + number)}')})
        self.assertLinear(settle)

    def test_the_end_of_the_content(self):
        # Rejection.note_accepted looks at all that are held.
        def settle(count):
            self.setUp()
            for number in range(count):
                self.settle(**{f'ant{number}': refused(
                    Stage.end, f'554 5.7.1 No {chr(0x4e00 + number)}')})
                self.settle(**{f'bee{number}': ACCEPTED})
        self.assertLinear(settle)
