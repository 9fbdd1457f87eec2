# SPDX-License-Identifier: GPL-3.0-or-later

"""A relay, its connections and a dispatch, in miniature and without I/O.

The ledger is the real one.  The relay answers the commands of one connection
in their order; how the connections take turns is for the test to choose.
"""

from collections import deque
from itertools import count
from mailman_mta_pool.settings import RelaySettings
from mailman_mta_pool.settlement.catalogue import Catalogue
from mailman_mta_pool.settlement.ledger import Ledger, Post
from mailman_mta_pool.settlement.memory import Memory
from mailman_mta_pool.wire.content import Content
from mailman_mta_pool.wire.replies import Reply
from mailman_mta_pool.wire.transaction import (
    Fate,
    Outcome,
    Result,
    Span,
    Stage,
    Transaction,
)
from public import public
from typing import NamedTuple


CONTENT = Content(b'Subject: Ants\r\n\r\nAnts are strong.\r\n')
PLAIN = 'ant-bounces@example.com'
OK = Reply(250, (b'2.0.0 Ok',))
public(CONTENT=CONTENT, PLAIN=PLAIN)


@public
def reply(text):
    """Make a `Reply` of '550 5.1.1 No such ant'."""
    code, _, words = text.partition(' ')
    return Reply(int(code), (words.encode(),))


@public
def verp_sender(recipient):
    """The sender that Mailman makes of a recipient."""
    local, _, domain = recipient.partition('@')
    return f'ant-bounces+{local}={domain}@example.com'


@public
class Relay(NamedTuple):
    """A relay as a ledger knows it."""

    memory: Memory
    name: str = 'relay:25'
    settings: RelaySettings = RelaySettings()


@public
class World:
    """A relay that a rule describes, and what it was sent.

    :ivar served: The recipients, as often as the relay took the post for
        them.
    :ivar transactions: All transactions in the order in which the relay
        answered them.
    """

    def __init__(self, rule, *, connections=1, depth=1, choose=None,
                 answers=(), can_ask=True):
        """Describe the relay.

        :param rule: Called with the stage, the transaction, the recipient or
            None, and the number of the MAIL, counted from 1.  It returns the
            text of a refusal, or None.
        :param connections: How many.
        :param depth: How many transactions may be in flight on each.
        :param choose: Called with a list; it returns one of its members.
        :param answers: The catalogue.
        :param can_ask: False if no connection can ask a question.
        """
        self._rule = rule
        self._depth = depth
        self._can_ask = can_ask
        self._choose = choose or (lambda options: options[0])
        self._catalogue = Catalogue(answers)
        self._tick = count(1).__next__
        self._sessions = [
            (self._tick(), deque(), deque()) for _ in range(connections)]
        self.now = 0.0
        self.memory = Memory(lambda: self.now)
        self.relay = Relay(self.memory)
        self.served = []
        self.transactions = []

    # The relay.

    def _answer(self, transaction):
        if transaction.asks and not self._can_ask:
            return [Result(Fate.not_attempted, Stage.connect, None)] * len(
                transaction.recipients)
        self.transactions.append(transaction)
        number = len(self.transactions)

        def ask(stage, recipient=None):
            text = self._rule(stage, transaction, recipient, number)
            return None if text is None else reply(text)
        refusal = ask(Stage.mail)
        if refusal is not None:
            return [Result(Fate.refused, Stage.mail, refusal)] * len(
                transaction.recipients)
        results = []
        for recipient in transaction.recipients:
            refusal = ask(Stage.rcpt, recipient)
            results.append(None if refusal is None else Result(
                Fate.refused, Stage.rcpt, refusal))
        if transaction.asks:
            last = Result(Fate.not_attempted, Stage.data, OK)
        else:
            refusal = ask(Stage.end)
            last = (Result(Fate.accepted, Stage.end, OK) if refusal is None
                    else Result(Fate.refused, Stage.end, refusal))
        named = [name for name, result in zip(
            transaction.recipients, results) if result is None]
        if named and last.fate is Fate.accepted:
            self.served.extend(named)
        return [result or last for result in results]

    # The dispatch.

    def deliver(self, recipients, *, size=1, verp=False, suspects=(),
                to_list=True, message_id='<ants>'):
        """Deliver a post as far as the orders allow.

        :param recipients: Whom, in this order.
        :param size: The most recipients in a transaction.
        :param verp: True if each has a sender of their own.
        :param suspects: Those of them who were suspected before.
        :param to_list: False if it is Mailman's own, a welcome say.
        :return: The ledger, closed.
        """
        recipients = [name for name in recipients if name not in suspects] + [
            name for name in recipients if name in suspects]
        ledger = Ledger(
            post=Post(message_id, len(recipients), PLAIN, not to_list,
                      frozenset(suspects)),
            catalogue=self._catalogue, relays=[self.relay])
        waiting = deque(
            Transaction(verp_sender(chunk[0]) if verp else PLAIN,
                        tuple(chunk), CONTENT)
            for chunk in (recipients[start:start + size]
                          for start in range(0, len(recipients), size)))
        self._run(ledger, waiting)
        left = ledger.close(recipients, None)
        assert not left, left
        return ledger

    def _run(self, ledger, waiting):
        first, alone, halted = deque(), [], False
        plain, limit = False, None
        for _ in range(100 * (len(waiting) + 100)):
            steps = [('hear', session) for session in self._sessions
                     if session[2]]
            steps += [('answer', session) for session in self._sessions
                      if session[1]]
            if not halted and not alone and (waiting or first):
                steps += [
                    ('begin', session) for session in self._sessions
                    if len(session[1]) + len(session[2]) < self._depth]
            if not steps:
                orders = ledger.conclude(self.relay)
                if halted or not (orders.again or orders.first):
                    return
                waiting.extendleft(reversed(orders.again))
                first.extend(orders.first)
                continue
            step, (session, flying, answered) = self._choose(steps)
            if step == 'begin':
                if first:
                    transaction = first.popleft()
                    alone.append(transaction)
                else:
                    transaction = self._prepared(waiting, plain, limit)
                flying.append((transaction, self._tick()))
            elif step == 'answer':
                transaction, begun = flying.popleft()
                answered.append(
                    (transaction, begun, self._answer(transaction)))
            else:
                transaction, begun, results = answered.popleft()
                if alone and alone[0] is transaction:
                    alone.pop()
                orders = ledger.settle(Outcome(
                    transaction, tuple(results),
                    Span(session, begun, self._tick())), self.relay)
                halted = halted or orders.halt
                plain = plain or orders.plain_sender
                limit = orders.limit or limit
                waiting.extendleft(reversed(orders.again))
                first.extend(orders.first)
                if orders.elsewhere:
                    self._look_elsewhere(waiting, orders.elsewhere)
        raise AssertionError('it does not end')

    @staticmethod
    def _look_elsewhere(waiting, domains):
        others = [transaction for transaction in waiting if any(
            name.partition('@')[2] not in domains
            for name in transaction.recipients)]
        if others:
            waiting.remove(others[0])
            waiting.appendleft(others[0])

    @staticmethod
    def _prepared(waiting, plain, limit):
        transaction = waiting.popleft()
        if plain:
            transaction = transaction._replace(sender=PLAIN)
        if limit is not None and len(transaction.recipients) > limit:
            waiting.appendleft(transaction._replace(
                recipients=transaction.recipients[limit:]))
            transaction = transaction._replace(
                recipients=transaction.recipients[:limit])
        return transaction
