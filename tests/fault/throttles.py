# SPDX-License-Identifier: GPL-3.0-or-later

"""Answers about the rate, a quota, connections and recipients.

They are about what we send to the server, and not about any member.
"""

import time
import threading

from collections import deque
from datetime import datetime, timedelta, timezone
from tests.fault.passes import (
    after_50,
    BULK_1,
    BULK_8,
    EVERYBODY,
    from_the_start,
    is_end,
    Passes,
    PassesTestCase,
    refusing,
    SOME,
    unavailable,
    VERP_1,
    VERP_8,
    WAYS,
)


# Stages and replies that public reports quote.
ABOUT_THE_RATE = (
    ('RCPT', '450 4.2.1 Peak SMTP relay limit exceeded for this customer'),
    ('RCPT', '450 4.7.1 Error: too much mail from 192.0.2.1'),
    ('end', '454 Throttling failure: Maximum sending rate exceeded.'),
    ('CONNECT', '421 4.7.0 Try again later, closing connection.'),
    ('EHLO', '421 4.7.0 Try again later, closing connection.'),
    ('end', '451 4.7.1 Ratelimit "user" exceeded'),
    ('MAIL', '421 4.4.2 Message submission rate for this client has exceeded'
             ' the configured limit'),
    ('end', '421 4.4.2 Message submission rate for this client has exceeded'
            ' the configured limit'),
    # They quote 92 seconds.
    ('RCPT', '550 Too many messages. Try again in 2 seconds.'),
    ('MAIL', '550 Too many messages. Try again in 2 seconds.'),
)
DAILY_LIMIT = '550 5.4.5 Daily SMTP relay limit exceeded for user'
DAILY_QUOTA = '454 Throttling failure: Daily message quota exceeded.'
ABOUT_A_QUOTA = (
    ('RCPT', '550 5.7.1 Daily SMTP relay limit exceeded for customer'),
    ('RCPT', DAILY_LIMIT),
    ('end', DAILY_QUOTA),
    ('end', '554 5.2.0 STOREDRV.Submission.Exception:'
            'SubmissionQuotaExceededException'),
    ('end', '550 5.4.5 Daily user sending limit exceeded.'),
    ('AUTH', '451 Authentication failed: Maximum credits exceeded'),
    ('end', "554 DED : You've reached your daily relay quota"),
)
TOO_FAST = '454 Throttling failure: Maximum sending rate exceeded.'
TOO_MANY_CONNECTIONS = '432 4.3.2 Concurrent connections limit exceeded'
RECEIVING_TOO_FAST = (
    '450 4.2.1 The user you are trying to contact is receiving email too'
    ' quickly')
IN_FIVE_SECONDS = '450 4.7.1 Error: too much mail. Try again in 5 seconds'
# What a server says to more than 50 recipients, and when.
OVER_50_AT_THE_END = (
    '554 Transaction failed: Recipient count exceeds 50.', '554 Blorb')
OVER_50_AT_RCPT = (
    '550 5.5.3 Too many recipients', '452 4.5.3 Error: too many recipients',
    '451 4.5.3 Too many recipients', '552 5.5.3 Too many recipients')
# A turn that is longer than any of these tests.
LONG_TURN = {'delivery': {'time_slice': '2m', 'patience': '30s'}}


class TestRate(PassesTestCase):
    """A rate that never ends keeps a post for a turn, and charges nobody."""

    def play(self, way):
        # Each row meets one way from the start, and another after 50.
        number = WAYS.index(way)
        with unavailable(way) as passes:
            self.each(passes, [
                from_the_start(self, passes, row)
                for index, row in enumerate(ABOUT_THE_RATE)
                if index % 4 == number])
        with unavailable(way) as passes:
            self.each(passes, [
                # It goes on slowly after that, so there are not many.
                after_50(self, passes, row, SOME, 20)
                for index, row in enumerate(ABOUT_THE_RATE)
                if (index + 1) % 4 == number])

    def test_bulk_1(self):
        self.play(BULK_1)

    def test_bulk_8(self):
        self.play(BULK_8)

    def test_verp_1(self):
        self.play(VERP_1)

    def test_verp_8(self):
        self.play(VERP_8)

    def test_within_the_turn(self):
        # The server is asked again after a pause, not only once.
        with unavailable(VERP_8) as passes:
            passes.post(SOME, refusing('end', TOO_FAST))
            passes.finish()
            self.assertEnds(passes, retry=SOME)
            moments = [moment for moment, command in passes.refusals]
            self.assertGreater(moments[-1], moments[0] + 0.4)
            # Each pause is for all that would be sent.
            self.assertLess(len(moments), len(SOME))
            self.assertQuiet(passes.site)


class SlidingWindow:
    """A server's limit on the messages that it takes in any second.

    :param limit: How many these are.
    """

    def __init__(self, limit):
        self._limit = limit
        self._taken = deque()
        self._lock = threading.Lock()

    def __call__(self, command, session):
        """See `Scripted`."""
        if not is_end(command):
            return None
        with self._lock:
            moment = time.monotonic()
            while self._taken and self._taken[0] <= moment - 1:
                self._taken.popleft()
            if len(self._taken) >= self._limit:
                return TOO_FAST
            self._taken.append(moment)
            return None


class TestPace(PassesTestCase):
    """Posts adapt to the rate that the server allows."""

    def adapt(self, way, recipients, refused, seconds):
        with Passes(way, settings=LONG_TURN) as passes:
            begun = time.monotonic()
            passes.post(recipients, SlidingWindow(14))
            passes.finish(timeout=2 * seconds)
            took = time.monotonic() - begun
            print(f'\n14 messages a second allowed: {len(recipients)} in'
                  f' {took:.1f} s, {len(passes.refusals)} refused, {way}')
            self.assertEnds(passes, served=recipients)
            self.assertTrue(passes.refusals)
            self.assertLessEqual(len(passes.refusals), refused)
            self.assertLess(took, seconds)
            self.assertQuiet(passes.site)

    def test_200_verp_8(self):
        self.adapt(VERP_8, EVERYBODY, 80, 45)

    def test_60_verp_1(self):
        self.adapt(VERP_1, SOME, 24, 20)

    def test_one_member(self):
        # That member's mailbox is busy; the server is not.
        one = SOME[20]
        for way in WAYS:
            with self.subTest(way), Passes(way) as passes:
                passes.post(SOME, refusing(
                    'RCPT', RECEIVING_TOO_FAST, frozenset([one])))
                passes.finish()
                self.assertEnds(
                    passes, retry=[one], served=set(SOME) - {one})
                self.assertEqual(len(passes.refusals), 1)
                self.assertNotIn('too quickly', '\n'.join(passes.log()))
                self.assertQuiet(passes.site)


class TestWait(PassesTestCase):
    """The server says how long to wait, and nothing is sent until then."""

    def five_seconds(self, way):
        begun = []

        def script(command, session):
            if not command.startswith('RCPT'):
                return None
            begun.append(time.monotonic())
            # The clocks of two processes do not begin at the same instant.
            if begun[-1] < begun[0] + 4.9:
                return IN_FIVE_SECONDS
            return None
        with Passes(way, settings=LONG_TURN) as passes:
            passes.post(SOME, script)
            passes.finish()
            self.assertEnds(passes, served=SOME)
            # What was in flight when the server said it has a second.
            meanwhile = [
                command for moment, (_, command) in zip(
                    passes.server.times, passes.server.commands)
                if begun[0] + 1 < moment < begun[0] + 4.9
                and command.split()[0] in ('MAIL', 'RCPT', 'DATA', 'BDAT')]
            self.assertEqual(meanwhile, [])
            self.assertLess(passes.server.times[-1], begun[0] + 20)
            self.assertQuiet(passes.site)

    def test_bulk_1(self):
        self.five_seconds(BULK_1)

    def test_verp_8(self):
        self.five_seconds(VERP_8)


class TestConnections(PassesTestCase):
    """The server allows three connections, and we may open eight."""

    recipients = EVERYBODY[:100]

    def three_allowed(self, way, stage, reply):
        refuse = refusing(stage, reply)

        def script(command, session):
            allowed = sorted(passes.server.open)[:3]
            if session.number in allowed:
                return None
            return refuse(command, session)
        # Answers take a while, so that there is work for all eight.
        with Passes(way, settings=LONG_TURN, delay=0.01) as passes:
            passes.post(self.recipients, script)
            passes.finish()
            self.assertEnds(passes, served=self.recipients)
            self.assertTrue(passes.refusals)
            self.assertLess(len(passes.refusals), 50)
            # The next post knows.
            passes.post(self.recipients, script)
            passes.finish()
            self.assertEnds(passes, served=self.recipients)
            self.assertLessEqual(len(passes.refusals), 2)
            self.assertQuiet(passes.site)

    def test_mail(self):
        for way in (BULK_8, VERP_8):
            with self.subTest(way):
                self.three_allowed(way, 'MAIL', TOO_MANY_CONNECTIONS)

    def test_end(self):
        for way in (BULK_8, VERP_8):
            with self.subTest(way):
                self.three_allowed(way, 'end', TOO_MANY_CONNECTIONS)

    def test_greeting(self):
        for way in (BULK_8, VERP_8):
            with self.subTest(way):
                self.three_allowed(
                    way, 'CONNECT', '421 4.7.0 scripted.example.net Error:'
                    ' too many connections from 127.0.0.1')


class TestRecipients(PassesTestCase):
    """The server allows 50 recipients in a transaction."""

    def fifty_allowed(self, way, script, refused):
        with Passes(way, max_recipients=500) as passes:
            passes.post(EVERYBODY, script)
            passes.finish()
            self.assertEnds(passes, served=EVERYBODY)
            self.assertTrue(passes.refusals)
            # It is remembered, though perhaps more are tried once.
            passes.post(EVERYBODY, script)
            passes.finish()
            self.assertEnds(passes, served=EVERYBODY)
            self.assertLessEqual(len(passes.refusals), refused)
            self.assertQuiet(passes.site)

    def test_end(self):
        for reply in OVER_50_AT_THE_END:
            for way in (BULK_1, BULK_8):
                def script(command, session):
                    if is_end(command) and len(session.recipients) > 50:
                        return reply
                with self.subTest((reply, way)):
                    self.fifty_allowed(way, script, refused=2)

    def test_rcpt(self):
        for index, reply in enumerate(OVER_50_AT_RCPT):
            def script(command, session):
                if (command.startswith('RCPT') and
                        len(session.recipients) >= 50):
                    return reply
            way = (BULK_1, BULK_8)[index % 2]
            with self.subTest((reply, way)):
                self.fifty_allowed(way, script, refused=51)

    def test_exim(self):
        # With recipients_max_reject the ones before are not served either.
        def script(command, session):
            if session.rcpts > 50:
                if command.startswith('RCPT'):
                    return '552 too many recipients'
                if command.startswith(('DATA', 'BDAT')):
                    return '554 Too many recipients'
        for way in (BULK_1, BULK_8):
            with self.subTest(way):
                self.fifty_allowed(way, script, refused=51)

    def test_full_mailbox(self):
        full = SOME[1]
        for way in (BULK_1, BULK_8):
            with self.subTest(way), Passes(way) as passes:
                passes.post(SOME[:2], refusing(
                    'RCPT', '452 Mailbox full', frozenset([full])))
                passes.finish()
                self.assertEnds(passes, served=SOME[:1], retry=[full])
                passes.tidy()
                everybody = EVERYBODY[-100:]
                passes.post(everybody)
                passes.finish()
                self.assertEnds(passes, served=everybody)
                # Mailman's own limit is ten recipients.
                self.assertLessEqual(len(passes.said('MAIL')), 15)
                self.assertQuiet(passes.site)


def in_days(days):
    """Return the time in so many days, as Mailman writes it."""
    # Its own now() wants an initialized configuration.
    return datetime.now(timezone.utc).replace(
        tzinfo=None) + timedelta(days=days)


class TestQuota(PassesTestCase):
    """A quota that is used up holds the relay, and charges nobody."""

    def test_bulk_1(self):
        self.spare_all(BULK_1, ABOUT_A_QUOTA)

    def test_bulk_8(self):
        self.spare_all(BULK_8, ABOUT_A_QUOTA)

    def test_verp_1(self):
        self.spare_all(VERP_1, ABOUT_A_QUOTA)

    def test_verp_8(self):
        self.spare_all(VERP_8, ABOUT_A_QUOTA)

    def held(self, way, stage, reply):
        refuse = refusing(stage, reply)
        with Passes(way) as passes:
            # As it is after days without any progress, when stock Mailman
            # gives the post up.
            passes.post(SOME, refuse, last_recip_count=len(SOME),
                        deliver_until=in_days(-1))
            passes.finish(timeout=30)
            self.assertEnds(passes, retry=SOME)
            self.assertRenewed(passes)
            lines = [line for line in passes.log() if 'Daily' in line]
            self.assertEqual(len(lines), 1, passes.log())
            waiting = passes.site.queue('retry').files
            others = [email for email in EVERYBODY if email not in SOME][:30]
            passes.post(others, refuse)
            passes.finish(timeout=30)
            self.assertLessEqual(len(passes.said('MAIL')), 1)
            ends = passes.ends()
            self.assertEqual(
                [ends[email].count('retry') for email in others], [1] * 30)
            self.assertEqual(len(passes.site.queue('retry').files),
                             len(waiting) + 1)
            self.assertEqual(passes.site.bounced(), [])
            self.assertQuiet(passes.site)

    def assertRenewed(self, passes):
        for entry in passes.site.queue('retry').entries:
            self.assertGreater(entry.msgdata['deliver_until'], in_days(1))

    def test_held_bulk_1(self):
        self.held(BULK_1, 'RCPT', DAILY_LIMIT)

    def test_held_bulk_8(self):
        self.held(BULK_8, 'end', DAILY_QUOTA)

    def test_held_verp_1(self):
        self.held(VERP_1, 'end', DAILY_QUOTA)

    def test_held_verp_8(self):
        self.held(VERP_8, 'RCPT', DAILY_LIMIT)
