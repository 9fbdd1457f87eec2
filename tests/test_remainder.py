# SPDX-License-Identifier: GPL-3.0-or-later

"""Transactions of many, of which a part is done when the connection ends."""

import unittest
import threading

from collections import Counter
from contextlib import suppress
from hypothesis import given, settings, strategies as st
from mailman.interfaces.mta import SomeRecipientsFailed
from mailman_mta_pool.dispatch.backlog import Backlog, Share
from mailman_mta_pool.errors import NothingMoreToSend
from mailman_mta_pool.wire.content import Content
from mailman_mta_pool.wire.transaction import Transaction
from mailman_mta_pool.wire.verp import Verp
from tests.scripted import CLOSE, Scripted
from tests.test_server_verp import DeliveryTestCase
from tests.test_sharing import CONTENT, SharingTestCase
from tests.test_verp_groups import BOUNCES, members
from tests.wire.test_model import PROFILE


ANY = 2**40
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

    def breakers(self, count, broken, size, connections=1, verp=False,
                 **delivery):
        recipients = members(count)
        broken = [recipients[index] for index in broken]
        self.serve(lambda command, session: (
            '421 4.3.0 System not available' if command.startswith('RCPT') and
            any(f'<{name}>' in command for name in broken) else None))
        self.configure(
            f'max_recipients_server_verp: {size}\n' + ''.join(
                f'{key}: {value}\n' for key, value in delivery.items()),
            max_delivery_threads=connections, max_recipients=size)
        with self.assertRaises(SomeRecipientsFailed) as caught:
            self.deliver(recipients, verp=verp)
        self.assertEqual(
            sorted(caught.exception.temporary_failures), sorted(broken))
        self.assertEqual(caught.exception.permanent_failures, [])
        self.assertEqual(
            sorted(self.server.served), sorted(set(recipients) - set(broken)))

    def test_several(self):
        # One after the other, they would be taken for the server's failure
        # before anybody else had a chance.
        for broken in ((2, 5, 8), (2, 12, 22), range(10, 15),
                       range(0, 300, 30)):
            for size in (10, 100, 300):
                for how in ({}, {'connections': 4}, {'verp': True}):
                    with self.subTest(broken=broken, size=size, **how):
                        self.breakers(300, broken, size, **how)

    def test_says_421(self):
        self.check('421 4.3.0 System not available')

    def test_says_nothing(self):
        self.check(CLOSE)


class TestTired(DeliveryTestCase):
    """Whatever it is about, nobody is in particular."""

    def check(self, script):
        self.serve(script)
        self.configure(max_recipients=500)
        self.deliver(members(400), verp=False)
        self.assertEqual(sorted(self.server.served), members(400))

    def test_of_a_transaction(self):
        self.check(lambda command, session: (
            '421 4.7.0 Too many' if command.startswith('RCPT') and
            session.rcpts > 6 else None))

    def test_of_a_connection(self):
        times = Counter()

        def script(command, session):
            if command.startswith('RCPT'):
                times[session.number] += 1
                if times[session.number] > 20:
                    return '421 4.7.0 Too many'
        self.check(script)


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

    def test_a_full_mailbox_teaches_nothing(self):
        hung_up = []

        def script(command, session):
            if '<member-002@' in command:
                return '452 Mailbox full'
            if '<member-010@' in command and not hung_up:
                hung_up.append(session)
                return TOO_MANY_ERRORS
        self.serve(script)
        self.configure(max_recipients=100)
        with self.assertRaises(SomeRecipientsFailed) as caught:
            self.deliver(members(300), verp=False)
        self.assertEqual(
            caught.exception.temporary_failures, ['member-002@example.org'])
        self.assertEqual(len(self.server.served), 299)
        self.assertEqual(max(
            len(names) for _, names in self.accepted()), 100)

    def test_one_fewer_each_time(self):
        # It serves nobody, and does not go on for ever.
        accepted = []

        def script(command, session):
            if command.startswith('RCPT') and session.rcpts > (
                    min(accepted, default=100) - 1):
                return '452 4.5.3 Too many recipients'
            if command == 'DATA':
                accepted.append(len(session.recipients))
                return TOO_MANY_ERRORS
        self.serve(script)
        self.configure(max_recipients=100)
        with self.assertRaises(SomeRecipientsFailed) as caught:
            self.deliver(members(100), verp=False)
        self.assertEqual(
            sorted(caught.exception.temporary_failures), members(100))
        self.assertLess(self.server.connections, 20)


MOODS = ((200, None), (210, '550 5.1.1 Who?'), (218, '450 4.2.1 Later'),
         (228, '452 4.5.3 Too many'), (242, TOO_MANY_ERRORS), (256, CLOSE))


class TestWhateverItSays(SharingTestCase):
    """Each recipient has one end, and that is true."""

    @settings(PROFILE, max_examples=PROFILE.max_examples // 20)
    @given(octets=st.binary(max_size=150), count=st.integers(1, 60),
           size=st.sampled_from([1, 3, 10, 60]), connections=st.integers(1, 4),
           chunking=st.booleans(), verp=st.booleans())
    def test_any(self, octets, count, size, connections, chunking, verp):
        lock, ahead = threading.Lock(), iter(octets)

        def script(command, session):
            if command[:4] in ('MAIL', 'RCPT', 'DATA', 'BDAT', '.'):
                with lock:
                    octet = next(ahead, 0)
                return next(mood for limit, mood in MOODS if octet < limit)
        names = members(count)
        with Scripted(script, extensions=(
                'PIPELINING', 'XVERP', *['CHUNKING'] * chunking)) as server:
            dispatch = self.use(
                server, connections=connections, idle_timeout=0)
            with suppress(NothingMoreToSend):
                for start in range(0, count, size):
                    dispatch.submit(Transaction(
                        BOUNCES, tuple(names[start:start + size]), CONTENT,
                        Verp('+=') if verp and size > 1 else None))
            dispatch.finish()
            ledger = self.ledger
            left = ledger.close(names, dispatch.unavailable)
        self.assertEqual(sorted([
            *ledger.served, *ledger.bounced, *ledger.deferred,
            *ledger.rejected, *ledger.untried, *left]), names)
        # Nobody twice, and whoever may have it unknown to us is in doubt.
        self.assertEqual(len(server.served), len(set(server.served)))
        unknown = set(server.served) - ledger.served
        self.assertEqual(set(ledger.served) - set(server.served), set())
        self.assertLessEqual(unknown, set(ledger.deferred))
        self.assertLessEqual(len(unknown), ledger.in_doubt)


class TestBacklog(unittest.TestCase):
    def test_the_last_wait_for_all_others(self):
        backlog = Backlog()
        share = Share(backlog)
        suspects = [Transaction(BOUNCES, (name,), CONTENT)
                    for name in members(2)]
        rest = Transaction(BOUNCES, tuple(members(9)[2:]), CONTENT)
        backlog.append(rest)
        backlog.append(suspects[0])
        # One was lost, and is suspected.
        taken = share.take(ANY, None), share.take(ANY, None)
        share.release(taken[1])
        share.set_aside(suspects[0], 1.0)
        share.end_aside(1)
        backlog.last.extend(suspects[:1])
        for _ in range(2):
            self.assertIsNone(share.take(ANY, None))
            backlog.is_complete = True
        # The others are lost; their connection is not done with yet.
        share.release(taken[0])
        share.set_aside(rest, 0.0)
        share.set_aside(suspects[1], 0.0)
        self.assertEqual(len(backlog), 0)
        self.assertIsNone(share.take(ANY, None))
        share.end_aside(2)
        backlog.extend_left([rest])
        backlog.last.extend(suspects[1:])
        self.assertIs(share.take(ANY, None), rest)
        self.assertIsNone(share.take(ANY, None))
        self.assertEqual(len(backlog), 0)
        share.release(rest)
        self.assertEqual(len(backlog), 2)
        self.assertEqual(
            [share.take(ANY, None) for _ in range(3)], [*suspects, None])


class TestAttempts(unittest.TestCase):
    """Nobody forgets them, and nobody inherits them."""

    def test_divided(self):
        for limit, verp, refused in (
                (2, None, False), (2, Verp('+='), False),
                (None, Verp('+='), True), (1, Verp('+='), True)):
            with self.subTest(limit=limit, verp=verp, refused=refused):
                backlog = Backlog()
                share = Share(backlog)
                whole = Transaction(
                    BOUNCES, tuple(members(4)), Content(b'x'), verp)
                backlog.append(whole)
                share.take(ANY, None)
                share.release(whole)
                share.set_aside(whole, 2.0)
                share.end_aside(1)
                backlog.extend_left([whole])
                parts = []
                while (part := share.take(ANY, limit, refused)) is not None:
                    parts.append(part)
                    self.assertEqual(share.release(part), 2.0)
                self.assertEqual(
                    [name for part in parts for name in part.recipients],
                    members(4))
                self.assertEqual(len(parts), 4 if refused else 2)
                # It may have the identity of one that is gone.
                backlog.append(whole)
                self.assertEqual(share.release(share.take(ANY, None)), 0.0)
