# SPDX-License-Identifier: GPL-3.0-or-later
"""Who sees what the client hands to its kernel and which replies it gets.

From these two alone, and from the RFCs, it tells whether the client keeps to
the rules, and what it must believe of each recipient.
"""

from mailman_mta_pool.wire.transaction import Fate, Stage
from public import public
from tests.wire.framing import Broken, Framing
from typing import NamedTuple, Optional


@public
class Verdict(NamedTuple):
    """What a client must say of one recipient.

    :ivar stage: None where it does not matter.
    :ivar answer: The deciding reply of the server; None where there is none.
    """

    fate: Fate
    stage: Optional[Stage] = None
    answer: Optional[tuple] = None


class _Transaction:
    """What of one transaction has been handed to the kernel.

    Each of these is the position of its reply among all the replies.
    """

    def __init__(self, mail):
        self.mail = mail
        self.rcpts = []
        self.data = None
        self.bdat = None
        self.chunk = None
        self.end = None
        self.rset = None


@public
class Witness:
    """Follows the dialogue.

    :ivar heard: The replies of which the client has got every octet.
    :ivar lines: The MAIL and RCPT commands of each transaction.
    """

    def __init__(self, one_by_one, is_proved, authenticated, questions):
        """Begin after EHLO.

        :param one_by_one: Has the client to wait for each reply?
        :param is_proved: Does the client know that groups are understood?
        :param authenticated: Has it authenticated?
        :param questions: Which transactions are questions, counted in MAILs.
        """
        self._one_by_one = one_by_one
        self._is_proved = is_proved
        self._authenticated = authenticated
        self._questions = questions
        self._framing = Framing()
        self._undecided = None
        # A command that is the last of its group, and where its reply is.
        self._last = None
        self._due = 0
        self._transactions = []
        self._by_bdat = False
        self.heard = []
        self.lines = []

    def hand(self, octets):
        """The client has handed octets to its kernel.

        :raises Broken: if it should not have.
        """
        self._framing.add(octets)
        while self._framing.pending:
            self._check_turn()
            item = self._framing.next()
            if item is None:
                return
            if isinstance(item, tuple):
                self._content(*item)
            else:
                self._command(item)

    def _check_turn(self):
        if self._last is not None:
            # So are EHLO and QUIT; and the trial of BDAT is alone.
            command, position = self._last
            if len(self.heard) <= position:
                raise Broken(f'something was sent before the reply to '
                             f'{command}')
            self._last = None
        if self._undecided is not None:
            # RFC 2920, section 3.1: DATA is the last of its group.
            if len(self.heard) <= self._undecided:
                raise Broken('something was sent before the reply to DATA')
            if self.heard[self._undecided].code == 354:
                self._framing.data_follows()
            self._undecided = None
        if (self._one_by_one and not self._framing.in_content and
                len(self.heard) < self._due):
            raise Broken('it does not wait for the reply')

    def _command(self, line):
        verb, position = line[:4], self._due
        if verb == b'MAIL':
            self._transactions.append(_Transaction(position))
            self.lines.append([])
        if verb in (b'MAIL', b'RCPT'):
            self.lines[-1].append(line)
        if (verb in (b'DATA', b'BDAT') and
                len(self._transactions) - 1 in self._questions):
            raise Broken('a content in a question')
        if (verb == b'RSET' and self._transactions and
                self._transactions[-1].rset is None):
            self._transactions[-1].rset = position
        if verb in (b'EHLO', b'QUIT'):
            self._last = verb, position
        if verb == b'RCPT':
            self._transactions[-1].rcpts.append(position)
        elif verb == b'DATA':
            self._transactions[-1].data = self._undecided = position
            if self._one_by_one and self.hopeless(-1):
                raise Broken('DATA for nobody')
        elif verb == b'BDAT':
            # Its reply comes when its content has been read.
            self._transactions[-1].bdat = position
        self._due += verb != b'BDAT'

    def _content(self, content, is_last):
        if is_last:
            self._transactions[-1].end = self._due
        else:
            self._transactions[-1].chunk = self._due
            self._last = 'BDAT', self._due
        self._due += 1

    # What has to be believed.

    def _reply(self, position):
        """Return the reply that is there, if it is one that decides."""
        if position is None or position >= len(self.heard):
            return None
        reply = self.heard[position]
        return None if reply.code == 421 else reply

    def hopeless(self, number):
        """Does the client know that nobody is to get this content?"""
        rcpts = [self._reply(position)
                 for position in self._transactions[number].rcpts]
        return all(reply and reply.code >= 400 for reply in rcpts)

    def not_understood(self, number):
        """Was BDAT answered as by a server that does not know it?"""
        transaction = self._transactions[number]
        reply = transaction.bdat and self._reply(transaction.end)
        return self.trial_failed(number) or (
            bool(reply) and 500 <= reply.code <= 504 and
            not self.hopeless(number))

    def trial_failed(self, number):
        """Was the chunk of one octet refused for good?"""
        reply = self._reply(self._transactions[number].chunk)
        return (bool(reply) and reply.code >= 500 and
                not self.hopeless(number))

    def thread_lost(self, number):
        """Was DATA answered as by a server that does not know groups?

        It counts as long as no group has been answered otherwise.
        """
        if number or self._one_by_one:
            return False
        reply = self._reply(self._transactions[number].data)
        return (bool(reply) and reply.code in (500, 502, 503) and
                not self.hopeless(number))

    def login_forgotten(self, number, total):
        """Is a login wanted for each recipient, though there was one?

        What is said of recipients after MAIL was refused means nothing.

        :param total: How many recipients there are.
        """
        if not self._authenticated or number >= len(self._transactions):
            return False
        mail = self._reply(self._transactions[number].mail)
        if mail is not None and mail.code >= 400:
            return False
        rcpts = self._transactions[number].rcpts
        replies = [self._reply(position) for position in rcpts]
        return len(rcpts) == total and all(
            reply and reply.code == 530 for reply in replies)

    def verdict(self, number, index, total):
        """Say what the client must believe in the end.

        :param number: The number of the transaction, counted in MAILs.
        :param index: The number of the recipient in it, counted in RCPTs.
        :param total: How many recipients there are.
        """
        if number >= len(self._transactions):
            return Verdict(Fate.not_attempted)
        transaction = self._transactions[number]
        rcpt = (transaction.rcpts[index]
                if index < len(transaction.rcpts) else None)
        if not self._is_proved and self.thread_lost(number):
            # Nothing counts that was said in this group.
            return Verdict(Fate.not_attempted)
        if self.login_forgotten(number, total):
            return Verdict(Fate.not_attempted, Stage.connect,
                           self._reply(transaction.rcpts[0]))
        if self.not_understood(number) and self._reply(rcpt).code < 300:
            return self._lost(transaction, index)
        for stage, position in ((Stage.mail, transaction.mail),
                                (Stage.rcpt, rcpt),
                                (Stage.data, transaction.data),
                                (Stage.data, transaction.chunk),
                                (Stage.end, transaction.end)):
            reply = self._reply(position)
            if reply is not None and reply.code >= 400:
                return Verdict(Fate.refused, stage, reply)
        if number in self._questions:
            if self._reply(transaction.rset) is None:
                return self._lost(transaction, index)
            return Verdict(
                Fate.not_attempted, Stage.data, self._reply(rcpt))
        return self._undecided_by_refusal(transaction, index)

    def _undecided_by_refusal(self, transaction, index):
        if transaction.end is None:
            return self._lost(transaction, index)
        reply = self._reply(transaction.end)
        if reply is not None:
            return Verdict(Fate.accepted, Stage.end, reply)
        if self.heard and self.heard[-1].code == 421:
            if len(self.heard) - 1 == transaction.end:
                return Verdict(Fate.refused, Stage.end, self.heard[-1])
            # It answers nothing after that, so it has read nothing either.
            return self._lost(transaction, index)
        return Verdict(Fate.in_doubt)

    def _lost(self, transaction, index):
        """How far had somebody come to whom nothing was sent?"""
        mail = self._reply(transaction.mail)
        if mail is None or mail.code >= 300:
            return Verdict(Fate.not_attempted)
        answered = [self._reply(position) for position in transaction.rcpts]
        answered = [reply for reply in answered if reply is not None]
        return Verdict(
            Fate.not_attempted, Stage.data if index < len(answered) else
            Stage.rcpt if index == len(answered) else Stage.connect)
