# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine, and a server that says whatever it likes, whenever it likes."""

from itertools import count
from mailman_mta_pool.errors import ProtocolError
from mailman_mta_pool.wire.capabilities import Capabilities
from mailman_mta_pool.wire.content import Content
from mailman_mta_pool.wire.conversation import Conversation
from mailman_mta_pool.wire.lessons import Chunking, Lessons
from mailman_mta_pool.wire.transaction import Fate, Transaction
from public import public


OFFERS = ((), ('PIPELINING',), ('PIPELINING', 'CHUNKING'),
          ('PIPELINING', 'CHUNKING', 'SIZE', '8BITMIME', 'SMTPUTF8'))
REPLIES = (
    b'250 2.0.0 Ok\r\n', b'354 Go\r\n', b'550 5.1.1 No such ant\r\n',
    b'450 4.2.1 Later\r\n', b'421 4.3.2 Away\r\n', b'500 5.5.2 What?\r\n',
    b'503 5.5.1 No\r\n', b'250-a\r\n250 PIPELINING\r\n', b'250-more\r\n',
    b'552 5.3.4 Too big\r\n', b'530 5.7.0 Authenticate\r\n', b'2', b'\r\n',
    b'452 4.5.3 Too many\r\n', b'221 2.0.0 Bye\r\n', b'334 \r\n')
# More recipients than go without an answer.
MANY = 40


class Game:
    """One conversation.

    :ivar outcomes: What it has told of its transactions.
    """

    def __init__(self, octet):
        clock = count().__next__
        lessons = Lessons(clock)
        if octet & 4:
            lessons.learn_chunking(Chunking.proved)
        self._conversation = Conversation(
            Capabilities((word, ()) for word in OFFERS[octet & 3]), lessons,
            clock, pipelining=not octet & 8, authenticated=bool(octet & 16))
        self.submitted, self.outcomes, self.heard = [], [], b''

    def submit(self, octet):
        """Submit a transaction, or a question, if there is room."""
        if not self._conversation.room:
            return
        number = len(self.submitted)
        recipients = tuple(
            f'r{each}@example.com' for each in range(
                MANY if octet & 8 else 1 + octet % 3))
        transaction = Transaction(
            f's{number}@example.com', recipients,
            Content(b'Subject: x\r\n\r\n' + octet * b'.\r\n'),
            asks=octet & 16 > 0)
        self.submitted.append(transaction)
        self._conversation.submit(transaction)

    def hand_over(self, octet):
        """Let the kernel take some octets."""
        octets = self._conversation.bytes_to_send()
        if octets:
            self._conversation.sent(
                len(octets) if octet >= 128 else min(octet, len(octets)))

    def hear(self, octets):
        """Let the server say something.

        :return: False if that was not SMTP.
        """
        self.heard += octets
        try:
            self._conversation.receive(octets)
        except ProtocolError:
            return False
        return True

    def look(self):
        """Take what is settled."""
        conversation = self._conversation
        self.outcomes.extend(conversation.outcomes())
        assert conversation.room >= 0 and conversation.room_octets >= 0

    def end(self):
        """Lose the connection, and do the accounts."""
        self._conversation.lose()
        self.look()
        assert not self._conversation.unsent
        told = [outcome.transaction for outcome in self.outcomes]
        assert len(told) == len(self.submitted)
        assert all(any(each is one for one in told)
                   for each in self.submitted), 'not told of'
        accepted = sum(bool(outcome.having(Fate.accepted))
                       for outcome in self.outcomes
                       if not outcome.transaction.asks)
        # MAIL, RCPT and the end have each had their reply.
        assert self.heard.count(b'2') >= 3 * accepted
        for outcome in self.outcomes:
            assert len(outcome.results) == len(
                outcome.transaction.recipients)


@public
def one_input(data):
    """Each two octets are a move; the first octet is what is offered.

    :raises AssertionError: if a transaction is not told of exactly once.
    """
    if not data:
        return
    game, rest = Game(data[0]), data[1:600]
    while len(rest) >= 2:
        move, octet, rest = rest[0] % 8, rest[1], rest[2:]
        if move == 0:
            game.submit(octet)
        elif move <= 2:
            game.hand_over(octet)
        elif move <= 6:
            if not game.hear(REPLIES[octet % len(REPLIES)]):
                break
        else:
            said, rest = rest[:octet % 16], rest[octet % 16:]
            if not game.hear(said):
                break
        game.look()
    game.end()
