# SPDX-License-Identifier: GPL-3.0-or-later

"""Whose senders a mail server can make, and who shares a transaction."""

import unittest

from mailman_mta_pool.rendering.senders import Senders
from mailman_mta_pool.strategies.coalescing import MAX_OPEN_OCTETS
from mailman_mta_pool.strategies.server_verp import ServerVERP, verp_of
from mailman_mta_pool.wire.content import Content, SplicedContent
from mailman_mta_pool.wire.transaction import Transaction
from mailman_mta_pool.wire.verp import Verp
from public import public


FORMAT = '${bounces}+${local}=${domain}'
BOUNCES = 'ant-bounces@example.com'
# Addresses of which no two servers need think alike.
ODD = (
    'a=b@example.org', '"a b"@example.org', '"ab"@example.org',
    'j\u00fcrgen@example.de', 'anne@b\u00fccher.example',
    'anne@[192.0.2.1]', 'anne@under_score.example', 'anne',
    )
SIMPLE = (
    'anne@example.org', 'Anne.Person@Example.COM', 'a+b@example.org',
    "!#$%&'*/?^_`{|}~-@example.org", '.a..@docomo.example', 'a-b@x-y.example',
    )
public(BOUNCES=BOUNCES)


@public
def members(count):
    """Make up so many addresses, in the order in which they are served."""
    return [f'member-{number:03}@example.org' for number in range(count)]


@public
def verped(recipient):
    """What Mailman's default verp_format makes."""
    local, _, domain = recipient.rpartition('@')
    return f'ant-bounces+{local}={domain}@example.com'


class TestFormat(unittest.TestCase):
    def test_what_a_server_can_be_told(self):
        for template, delimiters in (
                (FORMAT, '+='), ('$bounces+$local=$domain', '+='),
                ('${bounces}-$local=${domain}', '-='),
                ('${bounces}=${local}=${domain}', '=='),
                (f' {FORMAT}\n', '+=')):
            with self.subTest(template=template):
                self.assertEqual(verp_of(template), Verp(delimiters))

    def test_what_it_cannot(self):
        for template in (
                '', '$bounces', '${bounces}+${local}', 'x' + FORMAT,
                FORMAT + 'x', '${bounces}++${local}=${domain}',
                '${bounces}+${local}==${domain}', '${bounces}${local}=$domain',
                # These are no delimiters of Postfix's.
                '${bounces}.${local}=${domain}', '$bounces+$local@$domain',
                '${bounces}#${local}=${domain}', '$bounces_$local=$domain',
                '${bounces}\n${local}=${domain}',
                # Another order.
                '${bounces}+${domain}=${local}', '${local}+$bounces=${domain}',
                '${BOUNCES}+${LOCAL}=${DOMAIN}', '$$bounces+$local=$domain',
                '${bounces+$local=$domain', '$bounces}+$local=$domain',
                '${list_id}+${local}=${domain}'):
            with self.subTest(template=template):
                self.assertIsNone(verp_of(template))

    def test_sender(self):
        for sender, delimiters, recipient, made in (
                ('a@b.c', '+=', 'd@e.f', 'a+d=e.f@b.c'),
                ('a-bounces@b', '-=', 'd+x@e', 'a-bounces-d+x=e@b'),
                ('a@b', '==', '"d@e"@f', 'a="d@e"=f@b')):
            with self.subTest(recipient=recipient):
                self.assertEqual(
                    Verp(delimiters).sender(sender, recipient), made)

    def test_individually(self):
        content = Content(b'x')
        transaction = Transaction(
            'a@b', ('c@d', 'e@f'), content, Verp('+='), 'id')
        self.assertEqual(transaction.individually(), [
            Transaction('a+c=d@b', ('c@d',), content, None, 'id'),
            Transaction('a+e=f@b', ('e@f',), content, None, 'id')])


class TestGroups(unittest.TestCase):
    """Which recipients share a transaction."""

    def setUp(self):
        self.content = Content(b'Subject: x\r\n\r\nx\r\n')

    def transactions(self, recipients, size=1000, flagged=(), delimiters='+=',
                     sender=verped, content=lambda recipient: None):
        found = []
        together = ServerVERP(
            found.append, Verp(delimiters), BOUNCES, size, flagged)
        senders = Senders(sender)
        for recipient in recipients:
            together.add([recipient], content(recipient) or self.content,
                         senders)
        together.flush()
        return found

    def assertAlone(self, transactions, recipients):
        """These go alone, and nobody else is there."""
        self.assertEqual(transactions, [
            Transaction(verped(recipient), (recipient,), self.content)
            for recipient in recipients])

    def test_together(self):
        transaction, = self.transactions(SIMPLE)
        self.assertEqual(transaction, Transaction(
            BOUNCES, SIMPLE, self.content, Verp('+=')))

    def test_size(self):
        for size, sizes in ((3, [3, 3, 2]), (8, [8]), (9, [8]), (4, [4, 4])):
            found = self.transactions(members(8), size)
            self.assertEqual(
                [len(each.recipients) for each in found], sizes)
            self.assertEqual(
                [name for each in found for name in each.recipients],
                members(8))
            self.assertEqual({each.verp for each in found}, {Verp('+=')})

    def test_one(self):
        self.assertAlone(self.transactions(members(1)), members(1))
        self.assertAlone(self.transactions(members(3), size=1), members(3))
        # What is left of five in twos.
        self.assertAlone(
            self.transactions(members(5), size=2)[2:], members(5)[4:])

    def test_odd_addresses(self):
        self.assertAlone(self.transactions(ODD), ODD)
        found = self.transactions([*ODD, *SIMPLE])
        self.assertAlone(found[:-1], ODD)
        self.assertEqual(found[-1].recipients, SIMPLE)

    def test_delimiters_that_cannot_be_told_apart(self):
        verp = Verp('++')

        def sender(recipient):
            return verp.sender(BOUNCES, recipient)
        found = self.transactions(
            ['a+b@x.example', 'a=b@x.example', 'c@x.example'],
            delimiters='++', sender=sender)
        self.assertEqual(found, [
            Transaction(sender('a+b@x.example'), ('a+b@x.example',),
                        self.content),
            Transaction(BOUNCES, ('a=b@x.example', 'c@x.example'),
                        self.content, verp)])

    def test_flagged(self):
        anne, *others = members(4)
        found = self.transactions(members(4), flagged={anne})
        self.assertAlone(found[:1], [anne])
        self.assertEqual(found[1].recipients, tuple(others))

    def test_another_sender(self):
        # Whatever made it, it is not what the server would make.
        def sender(recipient):
            return ('probe@example.com' if recipient == members(1)[0]
                    else verped(recipient))
        self.assertEqual(self.transactions(members(3), sender=sender), [
            Transaction(sender(name), (name,), self.content)
            for name in members(3)])

    def test_several_at_once(self):
        found = []
        together = ServerVERP(found.append, Verp('+='), BOUNCES, 4)
        together.add(
            [*members(9), *ODD[:1], SIMPLE[0]], self.content, Senders(verped))
        together.flush()
        alone = Transaction(verped(ODD[0]), (ODD[0],), self.content)
        self.assertIn(alone, found)
        found.remove(alone)
        self.assertEqual([each.recipients for each in found], [
            tuple(members(9)[:4]), tuple(members(9)[4:8]),
            (members(9)[8], SIMPLE[0])])

    def test_personal_content(self):
        personal = SplicedContent((b'x\r\n',), (b'x\r\n.\r\n',), False)
        anne, *others = members(4)
        alone, together = self.transactions(
            members(4),
            content=lambda name: personal if name == anne else None)
        self.assertEqual(alone, Transaction(
            verped(anne), (anne,), personal))
        self.assertEqual(together.recipients, tuple(others))
        self.assertEqual(together.content, self.content)

    def test_big_ones_do_not_pile_up(self):
        # Rendered one by one, with nothing in common.
        octets = MAX_OPEN_OCTETS // 4
        found = []
        together = ServerVERP(found.append, Verp('+='), BOUNCES, 1000)
        for count, name in enumerate(members(12), start=1):
            together.add([name], Content(
                name.encode() + b'x' * octets), Senders(verped))
            self.assertLessEqual(count - len(found), 4)
        together.flush()
        self.assertEqual(
            [(each.sender, *each.recipients) for each in found],
            [(verped(name), name) for name in members(12)])

    def test_several_contents(self):
        other = Content(b'Subject: y\r\n\r\ny\r\n')
        found = self.transactions(
            members(6), content=lambda name: other if name < 'member-003'
            else Content(self.content.octets))
        self.assertEqual(
            {each.content.octets: each.recipients for each in found},
            {other.octets: tuple(members(6)[:3]),
             self.content.octets: tuple(members(6)[3:])})
