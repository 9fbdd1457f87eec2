# SPDX-License-Identifier: GPL-3.0-or-later

"""The order in which the recipients of a post go."""

import unittest

from mailman_mta_pool.strategies.order import (
    chunks,
    in_order,
    in_turns,
    SUSPECTS_KEY,
)


class TestOrder(unittest.TestCase):
    def test_by_domain(self):
        self.assertEqual(
            in_order(['zoe@a.com', 'anne@b.com', 'bart@A.com']),
            ['bart@A.com', 'zoe@a.com', 'anne@b.com'])

    def test_chunks(self):
        names = ['anne', 'bart', 'carl', 'd\xf6ra', 'emma']
        self.assertEqual(list(chunks(names, 3)), [
            ('anne', 'bart', 'carl'), ('emma',), ('d\xf6ra',)])
        self.assertEqual(list(chunks(names, 0)), [
            ('anne', 'bart', 'carl', 'emma'), ('d\xf6ra',)])


class TestTurns(unittest.TestCase):
    """Those who are suspected go last."""

    def assertTurns(self, recipients, suspects, *turns):
        msgdata = {'recipients': set(recipients.split())}
        if suspects is not None:
            msgdata[SUSPECTS_KEY] = suspects.split()
        self.assertEqual(
            in_turns(msgdata), [turn.split() for turn in turns])

    def test_nobody(self):
        for suspects in (None, '', 'zoe@a.com'):
            with self.subTest(suspects=suspects):
                # They are no recipients, for they were charged meanwhile.
                self.assertTurns('c@b.com b@a.com a@c.com', suspects,
                                 'b@a.com c@b.com a@c.com')

    def test_some(self):
        self.assertTurns('a@a.com b@a.com c@b.com d@b.com',
                         'c@b.com a@a.com zoe@a.com',
                         'b@a.com d@b.com', 'a@a.com c@b.com')

    def test_all(self):
        self.assertTurns('b@a.com a@a.com', 'a@a.com b@a.com',
                         'a@a.com b@a.com')

    def test_no_recipients(self):
        self.assertEqual(in_turns({}), [])
        self.assertTurns('', 'a@a.com')
