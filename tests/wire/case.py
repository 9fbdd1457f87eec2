# SPDX-License-Identifier: GPL-3.0-or-later
"""One example: what is sent, over what, and what has to come of it."""

import re

from itertools import count
from mailman_mta_pool.wire import conversation
from mailman_mta_pool.wire.capabilities import Capabilities
from mailman_mta_pool.wire.content import Content
from mailman_mta_pool.wire.conversation import Conversation
from mailman_mta_pool.wire.lessons import Chunking, Pipelining
from mailman_mta_pool.wire.transaction import Fate, Stage, Transaction
from public import public
from tests.wire.dialogue import lessons_with
from tests.wire.link import Cut, Link
from tests.wire.model import Script, Server
from tests.wire.witness import Witness
from typing import Dict, NamedTuple, Optional, Tuple
from unittest import mock


# Literally, so that nothing depends on how the engine judges an address.
GOOD = ('anne@example.com', 'bart+tag@example.org', '"c, d"@example.com',
        '"<e>"@example.com', 'postmaster', 'f@[127.0.0.1]', '.g.@example.jp')
INTERNATIONAL = ('jürgen@example.de', 'hilde@straße.example')
BAD = ('', 'anne', 'anne@', '@example.com', 'a b@example.com',
       'anne@example.com\r\nRSET', 'anne@example.com\n', 'an\rne@example.com',
       'anne@example.com\0', '<anne@example.com>', 'a>@example.com',
       'anne@example.com, bart@example.com', 'anne@example.com (Anne)',
       '"a"b@example.com', '"a@example.com', '"\r\n"@example.com',
       600 * 'a' + '@example.com', 'anne@exa\u2028mple.com',
       'anne\u00a0@example.com', '\ud800@a.example')
public(BAD=BAD, GOOD=GOOD, INTERNATIONAL=INTERNATIONAL)


@public
class Case(NamedTuple):
    """Everything that makes one example.

    :ivar messages: Sender, recipients and raw content of each; it has none if
        it is a question.
    :ivar offers: What the server offers.
    :ivar script: How the server answers.
    :ivar schedule: Who moves when.
    :ivar depth: How many transactions are submitted at once.
    :ivar many: With how many recipients the content waits for the answers.
    """

    messages: Tuple[Tuple[str, Tuple[str, ...], Optional[bytes]], ...]
    offers: Dict[str, Optional[str]]
    script: bytes = b''
    schedule: bytes = b''
    depth: int = 4
    pipelining: bool = True
    chunking: bool = True
    known: Chunking = Chunking.untried
    pipelining_known: Pipelining = Pipelining.untried
    authenticated: bool = False
    cut: Optional[Cut] = None
    tired_after: Optional[int] = None
    surplus: Optional[Tuple[int, bytes]] = None
    many: int = conversation.MAX_UNANSWERED

    def run(self):
        """Do it.

        :return: What happened.
        :raises AssertionError: if the client breaks a rule, or errs.
        """
        with mock.patch.object(conversation, 'MAX_UNANSWERED', self.many):
            run = Run(self)
        if self.surplus is None:
            run.check()
        else:
            run.check_refusals()
        return run


@public
def canonical(raw):
    """RFC 5321, section 2.3.8, once more and differently."""
    lines = re.split(rb'\r\n|\r|\n', raw)
    if len(lines) > 1 and lines[-1] == b'':
        lines.pop()
    return b''.join(line + b'\r\n' for line in lines)


@public
class Run:
    """One example that has been tried."""

    def __init__(self, case):
        self._case = case
        self.server = Server(
            case.offers, Script(case.script), case.authenticated)
        plain = (not case.pipelining or 'PIPELINING' not in case.offers or
                 case.pipelining_known is Pipelining.off)
        begun = [message for message in case.messages
                 if self._places(message)]
        self.witness = Witness(
            plain, case.pipelining_known is Pipelining.proved,
            case.authenticated,
            [number for number, (*_, raw) in enumerate(begun) if raw is None])
        # Each look at the clock takes its time.
        clock = count().__next__
        self.lessons = lessons_with(clock, case.known, case.pipelining_known)
        self.conversation = Conversation(
            Capabilities.from_ehlo(self.server.greeting), self.lessons, clock,
            pipelining=case.pipelining, chunking=case.chunking,
            pipeline_depth=case.depth, authenticated=case.authenticated)
        self.link = Link(self.conversation, self.server, self.witness,
                         eager=case.depth, cut=case.cut,
                         tired_after=case.tired_after,
                         surplus=case.surplus)
        self.link.run([
            Transaction(sender, recipients, Content(raw or b''),
                        asks=raw is None)
            for sender, recipients, raw in case.messages], case.schedule)

    def check(self):
        """Is everything that it says true?"""
        self._check_reports()
        self._check_order()
        self._check_error()
        outcomes = {id(outcome.transaction): outcome
                    for outcome in self.link.outcomes}
        number = -1
        for message, transaction in zip(
                self._case.messages, self.link.submitted):
            places = self._places(message)
            number += bool(places)
            results = outcomes[id(transaction)].results
            assert len(results) == len(message[1])
            for place, result in enumerate(results):
                if place in places:
                    _compare(result, self.witness.verdict(
                        number, places.index(place), len(places)))
                else:
                    self._check_refused_here(result)
            if places:
                self._check_commands(message, number)
                self._check_truth(message, results, number)

    def check_refusals(self):
        """Nobody is refused for good, but by ourselves.

        Nor is a question answered as if somebody were accepted, if not.
        """
        self._check_reports()
        outcomes = {id(outcome.transaction): outcome
                    for outcome in self.link.outcomes}
        number = -1
        for message, transaction in zip(
                self._case.messages, self.link.submitted):
            number += bool(self._places(message))
            for result in outcomes[id(transaction)].results:
                if result.fate is Fate.refused and result.reply.code >= 500:
                    self._check_refused_here(result)
                if (result.fate is Fate.not_attempted and
                        result.reply is not None and result.reply.code < 300):
                    assert message[2] is None, result
                    assert number in self.server.welcome, result

    def _check_reports(self):
        """Each one exactly once."""
        reported = [id(outcome.transaction) for outcome in self.link.outcomes]
        submitted = [id(transaction) for transaction in self.link.submitted]
        assert sorted(reported) == sorted(submitted)
        assert self.conversation.idle
        assert self.conversation.awaiting is None
        assert not list(self.conversation.outcomes())

    def _check_order(self):
        """What was sent is told in the order of sending.

        But for what was refused for good: that is told when it is proved.
        """
        sent = {id(transaction) for message, transaction in zip(
                    self._case.messages, self.link.submitted)
                if self._places(message)}
        sent -= {id(outcome.transaction) for outcome in self.link.outcomes
                 if any(result.reply is not None and result.reply.code >= 500
                        for result in outcome.results)}
        reported = [id(outcome.transaction) for outcome in self.link.outcomes]
        submitted = [id(transaction) for transaction in self.link.submitted]
        assert ([name for name in reported if name in sent] ==
                [name for name in submitted if name in sent])

    def _check_error(self):
        """What this server does not know are BDAT, groups, or the login."""
        if self.link.error is None:
            return
        begun = filter(None, map(self._places, self._case.messages))
        if any(self.witness.login_forgotten(number, len(places))
               for number, places in enumerate(begun)):
            assert 'login' in str(self.link.error)
            return
        last = len(self.witness.lines) - 1
        if self.witness.trial_failed(last):
            assert self._case.known is Chunking.untried, self.link.error
            assert self.lessons.chunking is Chunking.off
        else:
            assert self.witness.thread_lost(last), self.link.error
            assert self._case.pipelining_known is Pipelining.untried
            assert self.lessons.pipelining is Pipelining.off

    def _places(self, message):
        """Which of the recipients can be named to this server?"""
        sender, recipients, raw = message
        offers = self._case.offers
        good = GOOD + INTERNATIONAL * ('SMTPUTF8' in offers)
        limit = int(offers.get('SIZE') or 0)
        if (sender and sender not in good or
                limit and len(canonical(raw or b'')) > limit):
            return []
        return [place for place, recipient in enumerate(recipients)
                if recipient in good]

    def _check_refused_here(self, result):
        assert result.fate is Fate.refused, result
        assert result.reply.code in (550, 552, 553), result
        assert result.reply.enhanced in (
            '5.1.3', '5.1.7', '5.3.4', '5.6.7'), result

    def _check_commands(self, message, number):
        """The server was told these addresses and no others."""
        if number >= len(self.witness.lines):
            return
        mail, *rcpts = self.witness.lines[number]
        sender, recipients, raw = message
        named = [recipients[place] for place in self._places(message)]
        assert mail.split(b'> ')[0].rstrip(b'>') == (
            f'MAIL FROM:<{sender}'.encode()), mail
        wanted = any(not name.isascii() for name in [sender, *named])
        assert (b' SMTPUTF8' in mail) == wanted, mail
        assert (b' SIZE=' in mail) == (
            'SIZE' in self._case.offers and raw is not None), mail
        assert raw is not None or b' BODY=' not in mail, mail
        assert rcpts == [f'RCPT TO:<{recipient}>'.encode()
                         for recipient in named[:len(rcpts)]]

    def _check_truth(self, message, results, number):
        """What the server has, and what the client says that it has."""
        sender, recipients, raw = message
        accepted = [taken for taken in self.server.accepted
                    if taken.number == number]
        assert len(accepted) <= (raw is not None)
        claimed = tuple(
            recipient for recipient, result in zip(recipients, results)
            if result.fate is Fate.accepted)
        possible = tuple(
            recipient for recipient, result in zip(recipients, results)
            if result.fate in (Fate.accepted, Fate.in_doubt))
        if not accepted:
            assert not claimed, results
            return
        assert accepted[0].sender == sender
        # Of those in doubt some may have been refused, unheard.
        assert set(accepted[0].recipients) <= set(possible), results
        assert not claimed or accepted[0].recipients == claimed, results
        assert accepted[0].content == canonical(raw)


def _compare(result, verdict):
    assert result.fate is verdict.fate, (result, verdict)
    if verdict.stage is not None:
        # What had not been sent had no answer, whatever was said then.
        stage = (Stage.data if result.fate is Fate.not_attempted and
                 result.stage is Stage.end else result.stage)
        assert stage is verdict.stage, (result, verdict)
    if verdict.answer is not None:
        assert tuple(result.reply) == tuple(verdict.answer), (result, verdict)
