# SPDX-License-Identifier: GPL-3.0-or-later
"""A few causes instead of many replies, and no address in them."""

import unittest

from hypothesis import given, strategies as st
from mailman_mta_pool.settlement.causes import (
    Cause,
    Causes,
    MAX_CAUSES,
    OTHERS,
)
from mailman_mta_pool.settlement.ledger import IN_DOUBT
from mailman_mta_pool.settlement.words import without_addresses


NAMES = st.text('abcdefghijklmnopqrstuvwxyz0123456789', min_size=3,
                max_size=12)
ADDRESSES = st.builds('{}@{}.example'.format, NAMES, NAMES)


class TestCauses(unittest.TestCase):
    def test_grouped_by_words(self):
        causes = Causes()
        causes.read('refused', {
            f'member-{number}@example.com': (
                550, b'5.1.1 <member-%d@example.com>: no such user, %dAF'
                % (number, number)) for number in range(50)})
        causes.read('deferred', {'anne@example.com': (452, b'4.2.2 Full')})
        self.assertEqual(causes.most(8), [
            Cause('refused', '550 5.1.1 <...>: no such user, 0AF', 50),
            Cause('deferred', '452 4.2.2 Full', 1)])

    def test_only_what_is_new(self):
        causes, failures = Causes(), {}
        for number in range(5):
            failures[f'{number}@example.com'] = 550, b'No'
            causes.read('refused', failures)
        self.assertEqual(causes.most(8), [Cause('refused', '550 No', 5)])

    def test_our_own_words(self):
        causes = Causes()
        causes.read('deferred', {
            'anne@example.com': IN_DOUBT,
            'bart@example.com': (444, b'Not sent')})
        self.assertEqual(
            {(cause.outcome, cause.reply) for cause in causes.most(8)},
            {('in_doubt', IN_DOUBT[1].decode()), ('deferred', 'Not sent')})

    def test_without_a_reply(self):
        causes = Causes()
        causes.add('deferred', 'relay:25: connect: refused', 0)
        self.assertEqual(causes.most(8), [])
        for _ in range(2):
            causes.add('deferred', 'relay:25: connect: refused', 10)
        self.assertEqual(causes.most(8), [
            Cause('deferred', 'relay:25: connect: refused', 20)])

    def test_bounded(self):
        causes = Causes()
        words = [''.join(chr(97 + int(digit)) for digit in str(number))
                 for number in range(5000)]
        causes.read('refused', {
            f'{word}@example.com': (550, f'Because of x{word}y'.encode())
            for word in words})
        found = causes.most(10_000)
        self.assertEqual(len(found), MAX_CAUSES + 1)
        self.assertEqual(sum(cause.number for cause in found), 5000)
        self.assertEqual(found[0].reply, OTHERS)
        self.assertEqual(len(causes.most(8)), 8)

    def test_unprintable(self):
        causes = Causes()
        causes.read('refused', {
            'anne@example.com': (550, b'\x1b[31mNo\r\nnever \xff' * 100)})
        reply = causes.most(1)[0].reply
        self.assertTrue(reply.isprintable())
        self.assertLessEqual(len(reply), 300)


class TestWithoutAddresses(unittest.TestCase):
    def test_shapes(self):
        for text, expected in (
                ('550 <anne@example.com>: no', '550 <...>: no'),
                ('550 anne@example.com... unknown', '550 <...> unknown'),
                ('550 "anne p"@example.com is unknown',
                 '550 <...> is unknown'),
                ('550 see http://spf.example/?id=anne%40example.com&ip=1',
                 '550 see <...>'),
                ('550 sender <ant-bounces+anne=example.com@lists.example> no',
                 '550 sender <...> no'),
                ('550 anne=40example.com', '550 <...>'),
                ('550  two \n lines', '550 two lines')):
            with self.subTest(text=text):
                self.assertEqual(without_addresses(text), expected)

    def test_the_local_part_alone(self):
        self.assertEqual(
            without_addresses(
                '550 user (Anne): unknown here, anne=example.com annexed',
                'anne@example.com'),
            '550 user <...> unknown here, <...> annexed')

    @given(ADDRESSES, st.sampled_from((
        '<{}>', '{}', '[{}]', 'to={},', '"{}"', '({})', 'x:{}:y')),
        NAMES, NAMES)
    def test_never(self, address, shape, before, after):
        text = without_addresses(
            f'550 {before} {shape.format(address)} {after}', address)
        self.assertNotIn(address, text)
