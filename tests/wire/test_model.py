# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever happens, what the engine says of each recipient is true.

In the suite each property is tried with a few thousand examples, the same ones
at each run; see `tests.examples`.
"""

import re
import unittest

from hypothesis import given, settings, strategies as st
from itertools import count
from mailman_mta_pool.errors import ProtocolError
from mailman_mta_pool.wire.capabilities import Capabilities
from mailman_mta_pool.wire.content import Content
from mailman_mta_pool.wire.conversation import Conversation
from mailman_mta_pool.wire.lessons import Chunking, Pipelining
from mailman_mta_pool.wire.transaction import Fate, Transaction
from tests.examples import profile
from tests.wire.case import BAD, Case, GOOD, INTERNATIONAL
from tests.wire.dialogue import lessons_with
from tests.wire.link import Cut


PROFILE = profile(1000)

ADDRESSES = st.sampled_from(3 * GOOD + INTERNATIONAL + BAD)
SENDERS = st.sampled_from(
    3 * (GOOD + ('',)) + INTERNATIONAL + (BAD[4], BAD[5]))
CONTENTS = st.lists(st.sampled_from([
    b'a', b'.', b'\r\n', b'\n', b'\r', b'\n.\n', b'\r.\r', b'\n.\r\n', b'..',
    b'\r\n.\r\n', b'\xe9', b'MAIL FROM:<x@example.com>\r\n', b'DATA\r\n',
    300 * b'x',
    ]), max_size=6).map(b''.join)
MESSAGES = st.lists(st.tuples(
    SENDERS, st.lists(ADDRESSES, max_size=4).map(tuple),
    # None is a question.
    st.one_of(CONTENTS, CONTENTS, CONTENTS, st.none())),
    min_size=1, max_size=8).map(tuple)
CUTS = st.one_of(st.none(), st.builds(
    Cut, st.sampled_from(['handed', 'carried', 'heard']),
    st.one_of(st.integers(0, 300), st.integers(0, 2000))))


EXTENSIONS = ('PIPELINING', 'CHUNKING', 'SIZE', '8BITMIME', 'SMTPUTF8')
OFFERS = st.builds(
    # Most servers offer most of them.
    lambda missing, size: {
        keyword: size if keyword == 'SIZE' else None
        for keyword in EXTENSIONS + ('X-OTHER',) if keyword not in missing},
    st.sampled_from((
        (), (), (), ('SMTPUTF8',), ('8BITMIME',), ('SIZE',), ('CHUNKING',),
        ('PIPELINING',), ('PIPELINING', 'CHUNKING'), EXTENSIONS)),
    st.sampled_from(('10000000', '0', None, '250')))
MOSTLY = st.sampled_from((True, True, True, True, False))

CASES = st.builds(
    Case, MESSAGES, OFFERS,
    script=st.binary(max_size=40),
    schedule=st.binary(max_size=200),
    depth=st.integers(1, 8),
    pipelining=MOSTLY,
    chunking=MOSTLY,
    known=st.sampled_from([
        Chunking.untried, Chunking.proved, Chunking.proved,
        Chunking.on_trial, Chunking.off]),
    pipelining_known=st.sampled_from(Pipelining),
    authenticated=st.booleans(),
    cut=CUTS,
    tired_after=st.one_of(st.none(), st.none(), st.integers(1, 600)),
    surplus=st.none(),
    many=st.sampled_from([32, 32, 1, 2]))


class TestAgainstTheModel(unittest.TestCase):
    @settings(PROFILE)
    @given(CASES)
    def test_outcomes(self, case):
        case.run()

    @settings(PROFILE, max_examples=PROFILE.max_examples // 4)
    @given(CASES)
    def test_good_days(self, case):
        # Nothing goes wrong: all that can be sent arrives.
        run = case._replace(script=b'', cut=None, tired_after=None).run()
        for outcome in run.link.outcomes:
            for result in outcome.results:
                self.assertIn(
                    result.fate, (Fate.accepted, Fate.refused)
                    if not outcome.transaction.asks else
                    (Fate.not_attempted, Fate.refused))
        self.assertEqual(len(run.link.outcomes), len(case.messages))


MANY_THINGS = (
    ('anne@example.com', ('bart+tag@example.org', 'a b', '"c, d"@example.com'),
     b'Subject: One\n\n.\n..\r\rEnd'),
    ('', ('postmaster',), b''),
    ('anne@example.com', ('postmaster', 'anne@example.com'), None),
    ('anne@example.com', ('anne@example.com',), 40 * b'\xe9'),
    )
ALL = {'PIPELINING': None, 'CHUNKING': None, 'SIZE': '', '8BITMIME': None}


class TestEveryCut(unittest.TestCase):
    """The connection dies before any octet in any direction."""

    def check(self, **how):
        # The server refuses the last recipient of the first message.
        case = Case(MANY_THINGS, ALL, bytes([0, 0, 224]), **how)
        counts = case.run().link.counts
        for way, total in counts.items():
            for octets in range(total + 1):
                with self.subTest(way=way, octets=octets):
                    case._replace(cut=Cut(way, octets)).run()

    def test_plain(self):
        self.check(pipelining=False)

    def test_pipelining(self):
        self.check(chunking=False)

    def test_chunking(self):
        self.check(known=Chunking.proved)

    def test_trial(self):
        self.check()

    def test_only_a_few_by_bdat(self):
        self.check(known=Chunking.proved, many=1)

    def test_refusal_at_each_command(self):
        # By every kind of reply, at each place.
        for mood in (176, 208, 240, 248, 249):
            for place in range(16):
                for how in ({'pipelining': False}, {'chunking': False},
                            {'known': Chunking.proved}, {}):
                    with self.subTest(mood=mood, place=place, **how):
                        script = bytes(place) + bytes([mood])
                        Case(MANY_THINGS, ALL, script, **how).run()


PIECES = st.one_of(st.binary(max_size=20), st.sampled_from([
    b'250 Ok\r\n', b'250 Ok\n', b'354 Go\r\n', b'550 No\r\n', b'450 No\r\n',
    b'250-Ok\r\n', b'251 Ok\r\n', b'421 Bye\r\n', b'503 What?\r\n', b'250\r\n',
    b'25', b'0 Ok', b'\r\n', b'\n', b'220 Hello\r\n', b'\0', b'199 Ok\r\n',
    b'600 Ok\r\n', b'abc\r\n', 2049 * b'2', 101 * b'250-x\r\n', b'334 \r\n']))


class TestGarbage(unittest.TestCase):
    @settings(PROFILE)
    @given(st.lists(PIECES, max_size=25), st.lists(
        st.integers(1, 3), min_size=1, max_size=4), st.booleans(),
        st.booleans(), st.booleans(), st.sampled_from(Chunking),
        st.binary(max_size=25))
    def test_nothing_else_is_raised(
            self, pieces, recipients, pipelining, chunking, authenticated,
            known, takes):
        clock = count().__next__
        conversation = Conversation(
            Capabilities([('PIPELINING', ()), ('CHUNKING', ())]),
            lessons_with(clock, known), clock, pipelining=pipelining,
            chunking=chunking, pipeline_depth=3, authenticated=authenticated)
        waiting = [
            Transaction('', tuple(GOOD[:count]), Content(b'Hello'))
            for count in recipients]
        taken, outcomes = [], []
        takes = iter(takes)
        try:
            for piece in pieces:
                while waiting and (
                        conversation.room or next(takes, 0) % 2):
                    taken.append(waiting.pop())
                    conversation.submit(taken[-1])
                octets = len(conversation.bytes_to_send())
                conversation.sent(min(octets, next(takes, octets)))
                conversation.receive(piece)
                outcomes.extend(conversation.outcomes())
        except ProtocolError:
            pass
        conversation.lose()
        outcomes.extend(conversation.outcomes())
        self.assertEqual(
            sorted(id(outcome.transaction) for outcome in outcomes),
            sorted(map(id, taken)))
        self.check_acceptance(outcomes, b''.join(pieces))

    def check_acceptance(self, outcomes, said):
        # Each needs an answer of its own to the content; MAIL and one RCPT
        # need theirs as well.
        good = re.findall(rb'^2[0-9]{2}(?: .*|\r)?$', said, re.MULTILINE)
        accepted = [outcome for outcome in outcomes
                    if outcome.having(Fate.accepted)]
        self.assertLessEqual(3 * len(accepted), len(good))
        for outcome in accepted:
            for result in outcome.results:
                if result.fate is Fate.accepted:
                    self.assertEqual(result.reply.code // 100, 2)
                    self.assertIn(result.reply.lines[-1], said)
