# SPDX-License-Identifier: GPL-3.0-or-later
"""What the outcomes of one post mean, one by one and together."""

from mailman_mta_pool.settlement.books import Books
from mailman_mta_pool.settlement.table import (
    limit_of,
    may_mind_verp,
    Meaning,
    meaning_of,
    Orders,
    over_the_limit,
    refuses_sender,
    refuses_verp,
)
from mailman_mta_pool.wire.replies import Reply
from mailman_mta_pool.wire.transaction import Fate, Outcome, Result, Stage
from public import public
from typing import (
    Any,
    Callable,
    Dict,
    FrozenSet,
    Iterable,
    List,
    Optional,
    Set,
)


# Temporary, unspecified: what stock Mailman uses where there was no reply.
NO_REPLY = 444
# How many recipients in how many domains must be refused with 5.7.x, and how
# many transactions with 5xx at their end, before it counts as a word about
# all of them.
DENIED_RECIPIENTS, DENIED_DOMAINS = 3, 2
REJECTED_TRANSACTIONS = 3

NOTHING = Orders()
HALT = Orders(halt=True)

_PAST_MAIL = frozenset([Stage.rcpt, Stage.data, Stage.end])
# What does not show that the server would relay for us.
_NO_SIGN = frozenset([Meaning.denied, Meaning.denied_if_all, Meaning.unsent])


@public
class Ledger(Books):
    """The outcomes of one post, as they come in.

    It is written to by one thread at a time; `Dispatch` sees to that.

    :ivar in_doubt: How many of the deferred may have got it all the same.
    :ivar rejection: The reply that rejected the message for all, or None.
    :ivar denial: The reply that refused *us*, or None.
    """

    def __init__(self, record: Any = None, *,
                 plain_sender: Optional[str] = None,
                 shunts: bool = True) -> None:
        """Begin the books.

        :param record: See `Books`.
        :param plain_sender: The envelope sender to be used where the server
            refuses the VERP'd one; None where there is none.
        :param shunts: False if a rejected message is a bounce of everybody.
        """
        super().__init__(record)
        self._plain_sender = plain_sender
        self._shunts = shunts
        self.in_doubt = 0
        self.rejection: Optional[Reply] = None
        self.denial: Optional[Reply] = None
        # Those whose answers may mean one thing or another.
        self._denied: Dict[str, Reply] = {}
        self._denied_domains: Set[str] = set()
        self._needs_login = False
        self._rejected: Dict[str, Reply] = {}
        self._rejected_transactions = 0
        self._denied_to_all = True

    def settle(self, outcome: Outcome) -> Orders:
        """Enter an outcome, and say what is to be done about it."""
        alike = outcome.alike
        if alike is not None and alike.fate is Fate.accepted:
            self._denied_to_all = False
            self.serve(outcome.transaction.recipients)
            self._weigh(outcome)
            return HALT if self._halts else NOTHING
        if may_mind_verp(outcome):
            # If it is the message that it minds, it will say so again.
            return Orders(tuple(outcome.transaction.individually()),
                          no_verp=refuses_verp(outcome))
        late = over_the_limit(outcome)
        unsuited = refuses_sender(outcome, self._plain_sender)
        recipients = outcome.transaction.recipients
        served = []
        for index, result in enumerate(outcome.results):
            if index in late or index in unsuited:
                continue
            meaning = meaning_of(result)
            if meaning is Meaning.served:
                served.append(recipients[index])
            else:
                self._enter(recipients[index], meaning, result)
            if result.stage in _PAST_MAIL and meaning not in _NO_SIGN:
                self._denied_to_all = False
        if served:
            self.serve(served)
        self._weigh(outcome)
        if not late and not unsuited:
            return HALT if self._halts else NOTHING
        return self._orders(outcome, late, unsuited)

    @property
    def _halts(self) -> bool:
        return self.rejection is not None or self.denial is not None

    def _orders(self, outcome: Outcome, late: FrozenSet[int],
                unsuited: FrozenSet[int]) -> Orders:
        transaction = outcome.transaction
        again = [
            transaction._replace(
                sender=sender, recipients=tuple(
                    transaction.recipients[index] for index in sorted(those)))
            for those, sender in ((late, transaction.sender),
                                  (unsuited, self._plain_sender or ''))
            if those]
        return Orders(
            tuple(again), limit_of(outcome) if late else None, self._halts)

    def _enter(self, recipient: str, meaning: Meaning,
               result: Result) -> None:
        reply = result.reply
        if not self._shunts and meaning in (
                Meaning.rejected, Meaning.rejected_if_all):
            meaning = Meaning.bounced
        if meaning is Meaning.in_doubt:
            self.in_doubt += 1
            self.deferred[recipient] = (
                NO_REPLY, b'The connection was lost before the server '
                b'answered')
        elif meaning is Meaning.unsent:
            # Whatever the server said, it did not say it of this recipient.
            self.deferred[recipient] = NO_REPLY, b'Not sent' + (
                b'' if reply is None else b': ' + reply.text)
        elif meaning is Meaning.bounced:
            assert reply is not None
            self.bounce(recipient, reply)
        else:
            assert reply is not None
            self._hold(recipient, meaning, reply)

    def _hold(self, recipient: str, meaning: Meaning, reply: Reply) -> None:
        if meaning is Meaning.denied_if_all:
            self._denied[recipient] = reply
            self._denied_domains.add(recipient.rpartition('@')[2].lower())
            # "Authentication required" needs no second word.
            self._needs_login = self._needs_login or reply.code == 530
        elif meaning is Meaning.rejected_if_all:
            self._rejected[recipient] = reply
        elif meaning is Meaning.rejected:
            self.reject(recipient, reply)
            self.rejection = self.rejection or reply
        else:
            self.defer(recipient, reply)
            if meaning is Meaning.denied:
                self.denial = self.denial or reply

    # What several answers mean together.

    def _weigh(self, outcome: Outcome) -> None:
        """Decide on those that are held, if it can be decided now."""
        if self._denied:
            self._weigh_denied()
        if self._rejected:
            self._weigh_rejected(outcome)

    def _weigh_denied(self) -> None:
        if self.denial is None and not self._denied_to_all:
            self._let_go(self._denied, self.bounce)
        elif self.denial is not None or self._is_about_us():
            reply = next(iter(self._denied.values()))
            self.denial = self.denial or reply
            self._let_go(self._denied, self.defer)

    def _is_about_us(self) -> bool:
        """Everybody was refused; is that enough to tell?"""
        return self._needs_login or (
            len(self._denied) >= DENIED_RECIPIENTS and
            len(self._denied_domains) >= DENIED_DOMAINS)

    def _weigh_rejected(self, outcome: Outcome) -> None:
        if self.rejection is None:
            ended = [result for result in outcome.results
                     if meaning_of(result) is Meaning.rejected_if_all]
            self._rejected_transactions += bool(ended)
            if len(ended) > 1:
                self.rejection = ended[0].reply
            elif self.served:
                self._let_go(self._rejected, self.bounce)
            elif self._rejected_transactions >= REJECTED_TRANSACTIONS:
                self.rejection = next(iter(self._rejected.values()))
        if self.rejection is not None:
            self._let_go(self._rejected, self.reject)

    def _let_go(self, held: Dict[str, Reply],
                enter: Callable[[str, Reply], None]) -> None:
        """Enter those who are held, and hold them no longer."""
        for recipient, reply in held.items():
            enter(recipient, reply)
        held.clear()

    def close(self, recipients: Iterable[str],
              unavailable: Optional[Exception]) -> List[str]:
        """Decide on all that is not decided: nothing more comes.

        :param recipients: Those of the post.
        :param unavailable: Why the relay could not be used, or what was
            missing for those who are left; or None.
        :return: Those who still have to be served.
        """
        self._let_go(self._denied, self.bounce)
        if self._rejected:
            self.rejection = self.rejection or next(
                iter(self._rejected.values()))
            self._let_go(self._rejected, self.reject)
        left = self.unsettled(recipients)
        if unavailable is not None or self.denial is not None:
            self.untried = left
            return []
        if self.rejection is not None:
            for recipient in left:
                self.reject(recipient, self.rejection)
            return []
        return left
