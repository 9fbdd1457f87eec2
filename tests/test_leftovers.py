# SPDX-License-Identifier: GPL-3.0-or-later

"""Transactions of many, of which a part is done when the connection ends."""

import unittest

from collections import Counter
from mailman.interfaces.mta import SomeRecipientsFailed
from mailman_mta_pool.backlog import Backlog
from mailman_mta_pool.wire.content import Content
from mailman_mta_pool.wire.outcome import Transaction
from mailman_mta_pool.wire.verp import Verp
from tests.scripted import CLOSE
from tests.test_server_verp import DeliveryTestCase
from tests.test_verp_groups import BOUNCES, members


TOO_MANY_ERRORS = '421 4.7.0 Error: too many errors'


class Postfix:
    """Hangs up after twenty errors since the last message that it took.

    So do smtpd_hard_error_limit and each RCPT that is refused.
    """

    def __init__(self, is_dead):
        self._is_dead = is_dead
        self._errors = Counter()

    def __call__(self, command, session):
        if command == '.':
            del self._errors[session.number]
        elif self._errors[session.number] >= 20:
            return TOO_MANY_ERRORS
        elif command.startswith('RCPT') and self._is_dead(command):
            self._errors[session.number] += 1
            return '550 5.1.1 Who?'


class TestDeadAddresses(DeliveryTestCase):
    def check(self, count, one_in, connections=1, **msgdata):
        recipients = members(count)
        dead = recipients[::one_in]
        self.serve(Postfix(
            lambda command: any(f'<{name}>' in command for name in dead)))
        self.configure(max_delivery_threads=connections, max_recipients=500)
        with self.assertRaises(SomeRecipientsFailed) as caught:
            self.deliver(recipients, **msgdata)
        self.assertEqual(caught.exception.temporary_failures, [])
        self.assertEqual(sorted(
            name for name, *_ in caught.exception.permanent_failures),
            sorted(dead))
        self.assertEqual(
            sorted(self.server.served), sorted(set(recipients) - set(dead)))

    def test_together(self):
        for one_in in (2, 10, 15):
            for verp in (True, False):
                with self.subTest(one_in=one_in, verp=verp):
                    self.check(400, one_in, verp=verp)

    def test_nobody_is_left(self):
        self.check(150, 1)

    def test_over_several_connections(self):
        self.check(800, 10, connections=4)

    def test_who_was_accepted_is_served_at_once(self):
        # A second refusal cannot keep them from it.
        self.check(200, 5)
        found = [names for sender, names in self.accepted()]
        self.assertIn(76, map(len, found))


class TestOneWhoBreaksIt(DeliveryTestCase):
    def check(self, answer):
        first, *others = members(40)
        broken = others.pop(20)
        self.serve(lambda command, session: (
            answer if f'<{broken}>' in command else None))
        self.configure()
        with self.assertRaises(SomeRecipientsFailed) as caught:
            self.deliver(members(40))
        self.assertEqual(caught.exception.temporary_failures, [broken])
        self.assertEqual(caught.exception.permanent_failures, [])
        self.assertEqual(sorted(self.server.served), sorted([first, *others]))

    def test_says_421(self):
        self.check('421 4.3.0 System not available')

    def test_says_nothing(self):
        self.check(CLOSE)


class TestTooMany(DeliveryTestCase):
    """RFC 5321, section 4.5.3.1.10, and the end of the connection."""

    def test_both(self):
        def script(command, session):
            if command.startswith('RCPT') and session.rcpts > 12:
                return (TOO_MANY_ERRORS if session.rcpts > 15 else
                        '452 4.5.3 Too many recipients')
        for verp in (True, False):
            with self.subTest(verp=verp):
                self.serve(script)
                self.configure(max_recipients=500)
                self.deliver(members(40), verp=verp)
                found = self.accepted()
                self.assertEqual({sender for sender, _ in found}, {BOUNCES})
                self.assertEqual(
                    sorted(name for _, names in found for name in names),
                    members(40))
                # Whoever it hung up at comes last, alone.
                self.assertEqual(
                    sorted(len(names) for _, names in found),
                    [1, 3, 12, 12, 12])


class TestAttempts(unittest.TestCase):
    """Nobody forgets them, and nobody inherits them."""

    def test_divided(self):
        for limit, verp, refused in (
                (2, None, False), (2, Verp('+='), False),
                (None, Verp('+='), True), (1, Verp('+='), True)):
            with self.subTest(limit=limit, verp=verp, refused=refused):
                backlog = Backlog()
                whole = Transaction(
                    BOUNCES, tuple(members(4)), Content(b'x'), verp)
                backlog.append(whole)
                backlog.take(None)
                backlog.release(whole)
                backlog.remember(whole, 2.0)
                backlog.extend_left([whole])
                parts = []
                while (part := backlog.take(limit, refused)) is not None:
                    parts.append(part)
                    self.assertEqual(backlog.release(part), 2.0)
                self.assertEqual(
                    [name for part in parts for name in part.recipients],
                    members(4))
                self.assertEqual(len(parts), 4 if refused else 2)
                # It may have the identity of one that is gone.
                backlog.append(whole)
                self.assertEqual(backlog.release(backlog.take(None)), 0.0)
