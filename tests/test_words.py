# SPDX-License-Identifier: GPL-3.0-or-later
"""What two refusals have in common."""

import unittest

from hypothesis import given, strategies as st
from mailman_mta_pool.settlement.words import (
    enhanced_of,
    TEXT_LENGTH,
    text_of,
    WORDS_LENGTH,
    words_of,
)
from mailman_mta_pool.wire.replies import Reply


def reply_of(text):
    """The reply with these lines, each with its code."""
    lines = text.encode().split(b'\n')
    return Reply(int(lines[0][:3]), tuple(line[4:] for line in lines))


CAPITAL_ZHE = '\N{CYRILLIC CAPITAL LETTER ZHE}'
SMALL_ZHE = '\N{CYRILLIC SMALL LETTER ZHE}'
LETTERS = 'abcdefghijklmnopqrstuvwxyz'
NAMES = st.text(LETTERS, min_size=1, max_size=12)
HOSTS = st.lists(NAMES, min_size=2, max_size=4).map('.'.join)
ADDRESSES = st.one_of(
    st.builds('{}@{}'.format, NAMES, HOSTS),
    st.builds('<{}+{}@{}>'.format, NAMES, NAMES, HOSTS),
    st.builds('"{} {}"@{}'.format, NAMES, NAMES, HOSTS))
NUMBERS = st.one_of(
    st.integers(0, 10**9).map(str),
    st.integers(0, 2**64).map('{:016x}'.format).filter(
        lambda text: any(digit in text for digit in '0123456789')),
    st.builds('{}-{:06x}-2X'.format, NAMES, st.integers(0, 2**24)))
# The alphabet of Postfix's long queue ids.
QUEUE_IDS = st.text(
    '0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz', min_size=10,
    max_size=16)
IP_ADDRESSES = st.one_of(
    st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str),
    st.ip_addresses().map('[{}]'.format))
DATES = st.datetimes().map(lambda moment: moment.isoformat())
MAIL_DATES = st.datetimes().map(
    lambda moment: moment.strftime('%a, %d %b %Y %H:%M:%S +0000'))
URLS = st.builds('https://{}/{}?id={}'.format, HOSTS, NAMES, NAMES)
PARTICULARS = (
    ADDRESSES, NUMBERS, QUEUE_IDS, IP_ADDRESSES, DATES, MAIL_DATES, URLS,
    HOSTS)


class TestWords(unittest.TestCase):
    def test_what_is_left(self):
        for text, words in (
                ('554 5.7.1 <anne@example.org>: Relay access denied',
                 '554 5.7.1 relay access denied'),
                ('550-Verification failed for <ant-bounces@example.com>\n'
                 '550 Sender verify failed',
                 '550 verification failed for sender verify failed'),
                ('450 4.7.1 Error: too much mail from 192.0.2.1',
                 '450 4.7.1 error too much mail from'),
                ('550 5.1.1 anne@example.org  User unknown; rejecting',
                 '550 5.1.1 user unknown rejecting'),
                ('553 sorry, that domain is not in my list (#5.7.1)',
                 '553 5.7.1 sorry that domain is not in my list'),
                ('421 4.7.0 Try again. [192.0.2.1 15] a-11si0 - gsmtp',
                 '421 4.7.0 try again gsmtp'),
                ('451 Blocked until Friday, 27-Nov-2026, see '
                 'http://example.org/why',
                 '451 blocked until see'),
                ("550 The server's host-name is wrong",
                 "550 the server's host-name is wrong"),
                (f'550 {CAPITAL_ZHE}', f'550 {SMALL_ZHE}'),
                ('550', '550')):
            with self.subTest(text=text):
                self.assertEqual(words_of(reply_of(text)), words)

    def test_other_words(self):
        replies = [
            '550 5.7.1 Relay access denied', '554 5.7.1 Relay access denied',
            '550 5.1.1 Relay access denied', '550 Relay access denied',
            '550 5.7.1 Access denied', '550 5.7.1 Relay access is denied']
        self.assertEqual(
            len({words_of(reply_of(text)) for text in replies}), len(replies))

    @given(st.data(), st.lists(st.sampled_from(
        ('<>', 'user', 'is', 'Unknown', 'sorry,', '(why?)', 'may')),
        max_size=8))
    def test_particulars_do_not_count(self, data, words):
        one, other = [], []
        for word in words + ['<>']:
            if word != '<>':
                one.append(word)
                other.append(word)
                continue
            kind = data.draw(st.sampled_from(PARTICULARS))
            one.append(data.draw(kind))
            other.append(data.draw(kind))
        self.assertEqual(
            words_of(reply_of('550 ' + ' '.join(one))),
            words_of(reply_of('550 ' + ' '.join(other))))

    @given(st.integers(400, 599), st.lists(st.binary(), min_size=1))
    def test_any_octets(self, code, lines):
        words = words_of(Reply(code, tuple(lines)))
        self.assertTrue(words.startswith(str(code)))
        self.assertLessEqual(len(words), WORDS_LENGTH)
        self.assertNotIn('\n', words)
        self.assertNotIn('@', words)

    def test_bounded(self):
        # Each of these made a careless pattern take quadratic time.
        for unit in (b'a:', b'<', b'"@', b'a.', b'a+', b'1', b'::', b'a ',
                     b'5.7.', b'"a '):
            reply = Reply(550, (unit * 1024,) * 100)
            self.assertLessEqual(len(words_of(reply)), WORDS_LENGTH)

    def test_text(self):
        self.assertEqual(
            text_of(Reply(550, (b' a\tb  c', b'd\xff '))),
            'a b c d\N{REPLACEMENT CHARACTER}')
        self.assertEqual(
            text_of(Reply(550, (b'a' * 9999,))), 'a' * TEXT_LENGTH)


class TestEnhanced(unittest.TestCase):
    def test_wherever_it_stands(self):
        for text in ('550 5.7.1 No', '550 #5.7.1 No', '553 No (#5.7.1)',
                     '554 No [5.7.1]', '550-No\n550 5.7.1 No',
                     '550 No: 5.7.1', '550 This is 5.7.1.', '550 5.7.1',
                     '550 5.7.1: No', '550 4.2.0 No (5.7.1)',
                     '550 version 5.1.5 of 5.1.1.1 says 5.7.1'):
            with self.subTest(text=text):
                self.assertEqual(enhanced_of(reply_of(text)), '5.7.1')

    def test_none(self):
        for text in ('550 No', '550 4.7.1 No', '450 5.7.1 No',
                     '550 5.7.1.2 No', '550 1.5.7.1 No', '550 Foo/5.7.1',
                     '550 v5.7.1', '550 version 5.7.1', '550 5.7', '550 5.7.',
                     '550 On 5.11.26', '550 5.7.1.example.org',
                     '550 5.7.1/24', '550 5.7.1234', '550 No 5.9.1 there'):
            with self.subTest(text=text):
                self.assertIsNone(enhanced_of(reply_of(text)))

    def test_its_own_class(self):
        self.assertEqual(enhanced_of(reply_of('450 (#4.2.1)')), '4.2.1')

    def test_the_first(self):
        self.assertEqual(
            enhanced_of(reply_of('550-5.1.1 No\n550 5.7.1 No')), '5.1.1')

    @given(st.integers(400, 599), st.lists(st.binary(), min_size=1))
    def test_any_octets(self, code, lines):
        enhanced = enhanced_of(Reply(code, tuple(lines)))
        if enhanced is not None:
            self.assertEqual(int(enhanced[0]), code // 100)
