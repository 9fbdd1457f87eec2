# SPDX-License-Identifier: GPL-3.0-or-later
"""The settlement of a post: who got it, who did not and why, who is left."""

from mailman_mta_pool.interfaces import Failure
from mailman_mta_pool.settlement.table import (
    CONTENT,
    limit_of,
    may_mind_verp,
    Meaning,
    meaning_of,
    Orders,
    over_the_limit,
    refuses_sender,
    refuses_verp,
    says_too_many_recipients,
)
from mailman_mta_pool.settlement.verdict import Decision, Verdict
from mailman_mta_pool.wire.replies import Reply
from mailman_mta_pool.wire.transaction import Fate, Outcome, Result
from public import public
from typing import (
    Any,
    Dict,
    FrozenSet,
    Iterable,
    List,
    Optional,
    Sequence,
    Set,
)


# Temporary, unspecified: what stock Mailman uses where there was no reply.
NO_REPLY_CODE = 444

NO_ORDERS = Orders()
HALT_ORDERS = Orders(halt=True)

# What does not show that the server would relay for us.
_NO_SIGN = frozenset([Meaning.denied, Meaning.denied_if_all, Meaning.unsent])


@public
class Ledger:
    """The settlement of one post, recipient by recipient.

    While the post is on its way, the network thread alone calls `settle`.

    :ivar served: Those for whom the server took responsibility.
    :ivar bounced: Code and text of those refused for good.
    :ivar deferred: Code and text of those refused for the time being.
    :ivar rejected: Those for whom the server did not want the message.
    :ivar untried: Those for whom the relay, or the template, was not
        available.
    :ivar in_doubt: How many of the deferred may have got it all the same.
    """

    def __init__(self, record: Any = None, *,
                 plain_sender: Optional[str] = None,
                 shunts: bool = True) -> None:
        """Begin with nobody settled.

        :param record: The `IRecord` that is told what is settled; None for
            nobody.
        :param plain_sender: The envelope sender to be used where the server
            refuses the VERP'd one; None where there is none.
        :param shunts: False if a rejected message is a bounce of everybody.
        """
        self._record: Any = _Nobody() if record is None else record
        self._plain_sender = plain_sender
        self._shunts = shunts
        self._verdict = Verdict()
        self.served: Set[str] = set()
        self.bounced: Dict[str, Failure] = {}
        self.deferred: Dict[str, Failure] = {}
        self.rejected: Dict[str, Failure] = {}
        self.untried: List[str] = []
        self.in_doubt = 0

    def carry_over(self, bounced: Dict[str, Failure]) -> None:
        """Enter those whom an earlier delivery has recorded as refused."""
        self.bounced.update(bounced)

    @property
    def rejection(self) -> Optional[Reply]:
        """The reply that rejected the message for all, or None."""
        return self._verdict.rejection

    @property
    def denial(self) -> Optional[Reply]:
        """The reply that refused *us*, or None."""
        return self._verdict.denial

    @property
    def failures(self) -> Dict[str, Failure]:
        """Delivery failures as defined by `smtplib.SMTP.sendmail`."""
        return {**self.bounced, **self.deferred, **self.rejected}

    def unsettled(self, recipients: Iterable[str]) -> List[str]:
        """Return those of whom nothing is known, each once, in order."""
        return [recipient for recipient in dict.fromkeys(recipients)
                if not (recipient in self.served or
                        recipient in self.bounced or
                        recipient in self.deferred or
                        recipient in self.rejected)]

    def unserved(self, recipients: Iterable[str]) -> List[str]:
        """Return those who have not got the post, each once, in order."""
        return [recipient for recipient in dict.fromkeys(recipients)
                if recipient not in self.served]

    def settle(self, outcome: Outcome) -> Orders:
        """Enter an outcome, and return what is to be done about it."""
        alike = outcome.alike
        if alike is not None and alike.fate is Fate.accepted:
            self._verdict.is_denied_to_all = False
            self._serve(outcome.transaction.recipients)
            self._weigh(outcome)
            return HALT_ORDERS if self._verdict.halts else NO_ORDERS
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
            if result.stage in CONTENT and meaning not in _NO_SIGN:
                self._verdict.is_denied_to_all = False
        if served:
            self._serve(served)
        self._weigh(outcome)
        if not late and not unsuited:
            return HALT_ORDERS if self._verdict.halts else NO_ORDERS
        return self._orders(outcome, late, unsuited)

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
            tuple(again), limit_of(outcome) if any(
                says_too_many_recipients(outcome.results[index])
                for index in late) else None,
            self._verdict.halts)

    def _weigh(self, outcome: Outcome) -> None:
        """Enter those who were held, if it can be decided on them now."""
        if self._verdict.is_holding:
            self._decide(self._verdict.weigh(outcome, bool(self.served)))

    def close(self, recipients: Iterable[str],
              unavailable: Optional[Exception]) -> List[str]:
        """Decide on all that is not decided: nothing more comes.

        :param recipients: Those of the post.
        :param unavailable: Why the relay could not be used, or what was
            missing for those who are left; or None.
        :return: Those who still have to be served.
        """
        self._decide(self._verdict.close())
        left = self.unsettled(recipients)
        if unavailable is not None or self.denial is not None:
            self.untried = left
            return []
        if self.rejection is not None:
            for recipient in left:
                self._refuse(recipient, Meaning.rejected, self.rejection)
            return []
        return left

    # One recipient.

    def _serve(self, recipients: Sequence[str]) -> None:
        self.served.update(recipients)
        self._record.served(recipients)

    def _enter(self, recipient: str, meaning: Meaning,
               result: Result) -> None:
        reply = result.reply
        if not self._shunts and meaning in (
                Meaning.rejected, Meaning.rejected_if_all):
            meaning = Meaning.bounced
        if meaning is Meaning.in_doubt:
            self.in_doubt += 1
            self.deferred[recipient] = (
                NO_REPLY_CODE, b'The connection was lost before the server '
                b'answered')
        elif meaning is Meaning.unsent:
            # Whatever the server said, it did not say it of this recipient.
            self.deferred[recipient] = NO_REPLY_CODE, b'Not sent' + (
                b'' if reply is None else b': ' + reply.text)
        else:
            assert reply is not None
            if not self._verdict.take(recipient, meaning, reply):
                self._refuse(recipient, meaning, reply)

    def _decide(self, decisions: Iterable[Decision]) -> None:
        for recipient, meaning, reply in decisions:
            self._refuse(recipient, meaning, reply)

    def _refuse(self, recipient: str, meaning: Meaning, reply: Reply) -> None:
        failure = reply.code, reply.text
        if meaning is Meaning.bounced:
            self.bounced[recipient] = failure
            self._record.bounced(recipient, *failure)
        elif meaning is Meaning.rejected:
            self.rejected[recipient] = failure
        else:
            self.deferred[recipient] = failure


class _Nobody:
    """An `IRecord` that keeps nothing."""

    def served(self, recipients: Iterable[str]) -> None:
        pass

    def bounced(self, recipient: str, code: int, text: bytes) -> None:
        pass
