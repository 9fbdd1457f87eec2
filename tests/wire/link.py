# SPDX-License-Identifier: GPL-3.0-or-later
"""A conversation, a server, and a bad line between them."""

from mailman_mta_pool.errors import ProtocolError
from public import public
from tests.wire.framing import Broken
from typing import NamedTuple, Optional


SIZES = (1, 2, 3, 7, 20, 64, 300, 100000)


@public
class Cut(NamedTuple):
    """Where the connection dies.

    :ivar way: 'handed' counts the octets that the client's kernel takes,
        'carried' those that reach the server, and 'heard' those that reach
        the client.
    :ivar octets: Before which octet.
    """

    way: str
    octets: int


@public
class Link:
    """Moves octets, a few at a time, in any order.

    :ivar counts: How many octets have gone each way.
    :ivar error: The `ProtocolError` that ended it, or None.
    :ivar outcomes: What the conversation has reported.
    :ivar submitted: What it has taken in.
    """

    def __init__(self, conversation, server, witness, *, eager=0, cut=None,
                 tired_after=None, surplus=None):
        """Connect.

        :param eager: How many transactions are submitted even though the
            conversation says that it has no room.
        :param cut: Where the connection dies, or None.
        :param surplus: After how many replies the server gives one that
            answers nothing, and that reply; or None.
        :param tired_after: After so many octets the server says 421 of its
            own accord; or None.
        """
        self._conversation = conversation
        self._server = server
        self._witness = witness
        self._eager = eager
        self._cut = cut
        self._tired_after = tired_after
        self._surplus = surplus
        self._on_the_way = bytearray()
        self._back = bytearray()
        self._given = 0
        # Where, in the octets sent by the server, each reply ends.
        self._ends = []
        self.counts = {'handed': 0, 'carried': 0, 'heard': 0}
        self.error: Optional[ProtocolError] = None
        self.outcomes = []
        self.submitted = []

    def run(self, transactions, schedule=b''):
        """Send transactions, and return when all is over.

        :param transactions: A list.
        :param schedule: Each octet is a move; when there are none left,
            everything goes as far as it can at once.
        """
        self._waiting = list(reversed(transactions))
        try:
            self._run(schedule)
        except Broken:
            if self._surplus is None:
                raise
            # It was misled.
            self._lose()
        self.outcomes.extend(self._conversation.outcomes())

    def _run(self, schedule):
        moves = (self._submit, self._hand, self._carry, self._hear)
        for octet in schedule:
            if self._over():
                break
            moves[octet % 4](SIZES[octet // 4 % len(SIZES)])
        while not self._over():
            # The list is made first, so that each has its turn.
            if not any([move(SIZES[-1]) for move in moves]):
                if not self._is_down:
                    raise Broken('stuck')
                self._lose()

    @property
    def _is_down(self):
        return self._server.closed or any(map(self._is_cut, self.counts))

    def _is_cut(self, way):
        return (self._cut is not None and way == self._cut.way and
                self.counts[way] >= self._cut.octets)

    def _over(self):
        if self._is_cut('heard'):
            self._lose()
        conversation = self._conversation
        if self.error is not None or conversation.closed_by is not None:
            return True
        return conversation.idle and (
            not self._waiting or self._is_down or conversation.is_over)

    def _lose(self):
        self._conversation.lose()
        self._waiting.clear()

    def _allowed(self, way, octets):
        if self._cut is None or way != self._cut.way:
            return octets
        return min(octets, self._cut.octets - self.counts[way])

    # The moves; each tells whether it did anything.

    def _submit(self, size):
        conversation = self._conversation
        in_flight = len(self.submitted) - len(self.outcomes)
        if not self._waiting or conversation.is_over or not (
                conversation.room or in_flight < self._eager):
            return False
        transaction = self._waiting.pop()
        self.submitted.append(transaction)
        conversation.submit(transaction)
        self.outcomes.extend(conversation.outcomes())
        return True

    def _hand(self, size):
        octets = bytes(self._conversation.bytes_to_send())
        octets = octets[:self._allowed('handed', size)]
        if not octets or self._conversation.closed_by is not None:
            return False
        self._conversation.sent(len(octets))
        self._witness.hand(octets)
        self._on_the_way += octets
        self.counts['handed'] += len(octets)
        return True

    def _carry(self, size):
        octets = bytes(self._on_the_way[:self._allowed('carried', size)])
        if not octets or self._server.closed:
            return False
        del self._on_the_way[:len(octets)]
        self.counts['carried'] += len(octets)
        self._server.receive(octets)
        if (not self._server.closed and self._tired_after is not None and
                self.counts['carried'] >= self._tired_after):
            self._server.hang_up()
        for answer in self._server.answers[len(self._ends):]:
            self._give(answer.octets)
            self._ends.append(self._given)
            if self._surplus and self._surplus[0] == len(self._ends):
                self._give(self._surplus[1])
        return True

    def _give(self, octets):
        self._back += octets
        self._given += len(octets)

    def _hear(self, size):
        octets = bytes(self._back[:self._allowed('heard', size)])
        if not octets or self.error or self._conversation.closed_by:
            return False
        del self._back[:len(octets)]
        self.counts['heard'] += len(octets)
        whole = sum(end <= self.counts['heard'] for end in self._ends)
        self._witness.heard = self._server.answers[:whole]
        try:
            self._conversation.receive(octets)
        except ProtocolError as error:
            self.error = error
            self._conversation.lose()
        self.outcomes.extend(self._conversation.outcomes())
        return True
