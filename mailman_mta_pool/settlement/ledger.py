# SPDX-License-Identifier: GPL-3.0-or-later
"""The settlement of a post: who got it, who did not and why, who is left."""

import sys
import time
import logging

from dataclasses import dataclass
from mailman_mta_pool.errors import RelayPaused
from mailman_mta_pool.interfaces import Failure
from mailman_mta_pool.settings import About
from mailman_mta_pool.settlement.catalogue import Catalogue
from mailman_mta_pool.settlement.contrast import Contrast, Decision, Place
from mailman_mta_pool.settlement.memory import Memory
from mailman_mta_pool.settlement.orders import (
    HALT_ORDERS,
    NO_ORDERS,
    Notice,
    notice_of,
    Orders,
)
from mailman_mta_pool.settlement.rejection import Rejection
from mailman_mta_pool.settlement.table import (
    CONTENT,
    Judge,
    Judgement,
    limit_in,
    limit_of,
    may_mind_verp,
    needs_login,
    OF_THE_RELAY,
    over_the_limit,
    refuses_verp,
    says_too_many_recipients,
)
from mailman_mta_pool.wire.replies import Reply
from mailman_mta_pool.wire.transaction import (
    Fate,
    Outcome,
    Result,
    Stage,
    Transaction,
)
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
    Tuple,
)


log = logging.getLogger('mailman.smtp')

# Temporary, unspecified: what stock Mailman uses where there was no reply.
NO_REPLY_CODE = 444
# The failure of those who may have got the post all the same.
IN_DOUBT: Failure = (
    NO_REPLY_CODE, b'The connection was lost before the server answered')
# So many recipients in a row, for whom only the plain sender is accepted, show
# that the relay does not take the senders of VERP.
VERP_REFUSALS = 3
public(IN_DOUBT=IN_DOUBT, NO_REPLY_CODE=NO_REPLY_CODE)


@public
@dataclass(frozen=True)
class Post:
    """What the settlement has to know of a post.

    :ivar message_id: Its Message-ID.
    :ivar count: How many recipients it has.
    :ivar plain_sender: The envelope sender to be used where the server
        refuses the VERP'd one; None where there is none.
    :ivar is_notice: True if it is Mailman's own and no list's post: a welcome
        or a probe, say.
    :ivar suspects: Recipients who were suspected at an earlier attempt.
    """

    message_id: str = ''
    count: int = sys.maxsize
    plain_sender: Optional[str] = None
    is_notice: bool = False
    suspects: FrozenSet[str] = frozenset()


class _Reading:
    """One outcome, and what of it goes again.

    :ivar late: The indices of those who came too late for this transaction.
    :ivar served: The indices of those who have got the post.
    :ivar again: The indices of those who go again as they are.
    :ivar plain: The indices of those who go again with the plain sender.
    :ivar singles: The indices of those who go again alone.
    :ivar content: The indices of those for whom the content was refused, in
        words that the table does not decide on.
    """

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.transaction = outcome.transaction
        self.late = over_the_limit(outcome)
        self.served: List[int] = []
        self.again: List[int] = sorted(self.late)
        self.plain: List[int] = []
        self.singles: List[int] = []
        self.content: List[int] = []
        self.refusal: Optional[Judgement] = None
        self.notice: Optional[Notice] = None
        self.limit = limit_of(outcome) if any(
            says_too_many_recipients(outcome.results[index]) or
            outcome.results[index].stage in CONTENT
            for index in self.late) else None
        self.sender: Optional[Judgement] = None

    def recipient(self, index: int) -> str:
        return self.transaction.recipients[index]

    def to(self, indices: Sequence[int]) -> Transaction:
        """Return the transaction to some of its recipients."""
        if len(indices) == len(self.transaction.recipients):
            return self.transaction
        return self.transaction._replace(recipients=tuple(
            self.transaction.recipients[index] for index in indices))

    def place(self, index: int) -> Place:
        return Place(self.outcome.span, index)


@public
class Ledger:
    """The settlement of one post, recipient by recipient.

    While the post is on its way, the network thread alone calls `settle`,
    `hear_of_opening`, `hear_of_closing` and `conclude`.

    :ivar served: Those for whom the server took responsibility.
    :ivar messages: How many transactions served them.
    :ivar bounced: Code and text of those refused for good.
    :ivar deferred: Code and text of those refused for the time being.
    :ivar rejected: Those for whom the server did not want the message.
    :ivar untried: Those for whom the relay, or the template, was not
        available.
    :ivar suspects: Those who were refused, but not charged: they go last at
        the next attempt.
    :ivar in_doubt: How many of the deferred may have got it all the same.
    """

    def __init__(self, record: Any = None, *, post: Post = Post(),
                 catalogue: Catalogue = Catalogue(()),
                 memory: Optional[Memory] = None, relay: str = '',
                 shunts: bool = True) -> None:
        """Begin with nobody settled.

        :param record: The `IRecord` that is told what is settled; None for
            nobody.
        :param post: The post.
        :param catalogue: What servers are known to say.
        :param memory: What the relay said to other posts; None for nothing.
        :param relay: Its name, for the log.
        :param shunts: False if a rejected message is a bounce of everybody.
        """
        self._record: Any = _Nobody() if record is None else record
        self._post = post
        self._relay = relay
        self._shunts = shunts
        self._memory = Memory(time.monotonic) if memory is None else memory
        self._judge = Judge(catalogue)
        self._contrast = Contrast(
            self._judge, self._memory, relay, plain_sender=post.plain_sender,
            count=post.count, suspects=post.suspects)
        self._rejection = Rejection(
            self._memory, post.message_id, post.count, post.is_notice,
            post.suspects)
        self._used_up: Optional[Judgement] = None
        # Recipients in a row for whom the sender of VERP was refused.
        self._verp_refusals = 0
        self._is_paused = False
        self.served: Set[str] = set()
        self.messages = 0
        self.bounced: Dict[str, Failure] = {}
        self.deferred: Dict[str, Failure] = {}
        self.rejected: Dict[str, Failure] = {}
        self.untried: List[str] = []
        self.suspects: List[str] = []
        self.in_doubt = 0

    def carry_over(self, bounced: Dict[str, Failure]) -> None:
        """Enter those whom an earlier delivery has recorded as refused."""
        self.bounced.update(bounced)

    @property
    def rejection(self) -> Optional[Reply]:
        """The reply that rejected the message for all, or None."""
        found = self._rejection.rejection
        return None if found is None else found.reply

    @property
    def denial(self) -> Optional[Judgement]:
        """The refusal that is about *us*, or None."""
        return self._contrast.denial or self._rejection.denial

    @property
    def used_up(self) -> Optional[Judgement]:
        """The refusal that says that a quota is used up, or None."""
        return self._used_up

    @property
    def is_paused(self) -> bool:
        """True if those who are left wait because the relay said so."""
        return self._used_up is not None or self._is_paused

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

    @property
    def _halts(self) -> bool:
        return (self._used_up is not None or self._rejection.is_over or
                self._contrast.denial is not None)

    # What the network thread reports.

    def settle(self, outcome: Outcome) -> Orders:
        """Enter an outcome, and return what is to be done about it."""
        if outcome.transaction.asks:
            return self._hear(outcome)
        alike = outcome.alike
        if alike is not None and alike.fate is Fate.accepted:
            orders = self._note_served(
                outcome, range(len(outcome.results)))
            if orders is not NO_ORDERS or self._verp_refusals:
                return orders._replace(
                    halt=self._halts,
                    plain_sender=self._compare_sender(outcome))
            return HALT_ORDERS if self._halts else NO_ORDERS
        reading = _Reading(outcome)
        self._read(reading)
        return self._orders(reading)

    def hear_of_opening(self, word: str, reply: Reply) -> Optional[Notice]:
        """Judge a reply that kept a connection from being opened.

        :param word: 'greeting', 'EHLO' or 'AUTH'.
        :param reply: The refusal.
        :return: What it says of the relay; None if it is about us.
        """
        return notice_of(self._judge.judge_opening(word, reply))

    def hear_of_closing(self, outcome: Outcome) -> Optional[Notice]:
        """Judge what the server said when it closed the connection.

        :param outcome: Of a transaction of which nothing was accepted.
        :return: What it says of the relay, or None.
        """
        for result in outcome.results:
            if result.fate is Fate.not_attempted and (
                    result.reply is not None and
                    result.stage is not Stage.connect):
                notice = notice_of(self._judge.judge(
                    result.stage, result.reply))
                if notice is not None and notice.about is About.quota:
                    self._exhaust(notice)
                return notice
        return None

    def conclude(self) -> Orders:
        """Decide on those who are held, now that all others are settled.

        :return: What is to be sent before the post is done with.
        """
        if self._halts:
            return NO_ORDERS
        orders, decided = self._contrast.conclude()
        self._decide(decided)
        if orders != NO_ORDERS:
            return orders
        orders, decided = self._rejection.conclude()
        self._decide(decided)
        return orders

    def _hear(self, outcome: Outcome) -> Orders:
        """Take the answer to a question."""
        orders, decided, again = self._contrast.hear(outcome)
        self._decide(decided)
        if orders.notice is not None and orders.halt:
            self._exhaust(orders.notice)
        if orders == NO_ORDERS or again:
            more, decided = self._contrast.weigh()
            self._decide(decided)
            orders = more._replace(
                again=(*more.again, *again),
                plain_sender=orders.plain_sender,
                halt=orders.halt or more.halt)
        return orders

    def _exhaust(self, notice: Notice) -> None:
        self._used_up = Judgement(
            notice.about, Stage.rcpt, notice.reply, notice.wait,
            notice.remedy)

    # One outcome.

    def _compare_sender(self, outcome: Outcome) -> bool:
        """Return True if the plain sender is accepted, and VERP's are not."""
        transaction = outcome.transaction
        if (transaction.sender != self._post.plain_sender or
                transaction.verp is not None):
            self._verp_refusals = 0
        return self._verp_refusals >= VERP_REFUSALS

    def _read(self, reading: _Reading) -> None:
        """Sort the recipients of an outcome by what became of them."""
        judged: Dict[Tuple[Stage, Reply], Judgement] = {}
        for index, result in enumerate(reading.outcome.results):
            if result.fate is Fate.accepted:
                reading.served.append(index)
            elif result.fate is not Fate.refused:
                self._read_unanswered(reading, index, result)
            elif index not in reading.late:
                assert result.reply is not None
                # A server says the same of many.
                key = result.stage, result.reply
                if key not in judged:
                    judged[key] = self._judge.judge(*key)
                self._read_refusal(reading, index, judged[key])

    def _read_unanswered(self, reading: _Reading, index: int,
                         result: Result) -> None:
        recipient = reading.recipient(index)
        if result.reply is not None and needs_login(result.reply):
            # On each of several connections that had authenticated.
            self._contrast.hold(
                reading.to([index]), Judgement(
                    About.us, Stage.mail, result.reply),
                reading.place(index))
        elif result.fate is Fate.in_doubt:
            self.in_doubt += 1
            self.deferred[recipient] = IN_DOUBT
            self._record.in_doubt((recipient,), self._relay)
        else:
            # Whatever the server said, it did not say it of this recipient.
            self._defer(recipient, (NO_REPLY_CODE, b'Not sent' + (
                b'' if result.reply is None else b': ' + result.reply.text)))

    def _read_refusal(self, reading: _Reading, index: int,
                      judgement: Judgement) -> None:
        about = judgement.about
        if judgement.stage is Stage.here:
            # An address that we do not send to this server: 5.1.3, 5.6.7.
            self._refuse(reading.recipient(index), judgement)
        elif about in OF_THE_RELAY:
            reading.notice = notice_of(judgement)
            reading.again.append(index)
        elif self._minds_verp(reading, judgement):
            reading.sender = judgement
            reading.plain.append(index)
        elif judgement.stage in CONTENT:
            self._read_refused_content(reading, index, judgement)
        elif (about is About.message and judgement.is_final and
              not self._rejection.has_accepted):
            self._rejection.reject(judgement)
        elif not judgement.is_final and about in (
                None, About.message, About.recipients) or (
                about in (About.recipient, About.recipients)):
            self._refuse_for_now(reading.recipient(index), judgement)
        else:
            self._contrast.hold(
                reading.to([index]), judgement, reading.place(index))

    def _refuse_for_now(self, recipient: str, judgement: Judgement) -> None:
        """Charge only what is about the recipient."""
        if judgement.about is About.recipients and judgement.is_permanent:
            self._suspect(recipient, judgement)
        else:
            self._refuse(recipient, judgement)

    def _minds_verp(self, reading: _Reading, judgement: Judgement) -> bool:
        """Return True if the sender of VERP may be the reason."""
        transaction = reading.transaction
        if transaction.verp is not None:
            return judgement.about is About.sender or (
                judgement.stage is Stage.mail and may_mind_verp(judgement))
        if self._post.plain_sender in (None, transaction.sender):
            return False
        if judgement.about is About.sender:
            return True
        return judgement.stage is Stage.mail and judgement.is_final and (
            judgement.about is None or
            # It cannot be sent here, for it is not ASCII.
            judgement.about is About.message and not judgement.is_size)

    def _read_refused_content(self, reading: _Reading, index: int,
                              judgement: Judgement) -> None:
        about, recipients = judgement.about, reading.transaction.recipients
        accepted = limit_of(reading.outcome)
        if not judgement.is_final:
            self._refuse(reading.recipient(index), judgement)
        elif about is About.recipient and accepted > 1:
            reading.singles.append(index)
        elif about is About.recipient:
            self._refuse(reading.recipient(index), judgement)
        elif about is About.recipients and len(recipients) > 1:
            reading.limit = limit_in(judgement.reply, accepted)
            reading.again.append(index)
        elif judgement.is_size and not self._rejection.has_accepted:
            self._rejection.reject(judgement)
        else:
            reading.refusal = judgement
            reading.content.append(index)

    def _orders(self, reading: _Reading) -> Orders:
        """Return what is to be done about an outcome that was read."""
        again: List[Transaction] = []
        if reading.served:
            divided = self._note_served(reading.outcome, reading.served)
            again.extend(divided.again)
            reading.limit = reading.limit or divided.limit
        elif self._contrast.is_watching or not self._contrast.good:
            self._note_named(reading)
        orders = self._weigh(reading)
        again.extend(orders.again)
        again.extend(self._again(reading))
        sender = reading.sender
        if reading.transaction.verp is None:
            self._verp_refusals += len(reading.plain)
        if reading.notice is not None and (
                reading.notice.about is About.quota):
            self._exhaust(reading.notice)
        return orders._replace(
            again=tuple(again), notice=reading.notice,
            limit=reading.limit or orders.limit,
            plain_sender=bool(reading.served and self._verp_refusals) and (
                self._compare_sender(reading.outcome)),
            no_verp=(sender is not None and sender.stage is Stage.mail and
                     reading.transaction.verp is not None and
                     refuses_verp(sender)),
            halt=orders.halt or self._halts)

    def _note_named(self, reading: _Reading) -> None:
        """Take note of the recipients whom the server accepted at RCPT."""
        for index in range(len(reading.outcome.results) - 1, -1, -1):
            result = reading.outcome.results[index]
            if result.stage in CONTENT and result.fate is Fate.refused:
                self._contrast.note_accepted(
                    reading.place(index), reading.recipient(index))
                return

    def _weigh(self, reading: _Reading) -> Orders:
        """Compare what is held."""
        orders = NO_ORDERS
        decided: List[Decision] = []
        if reading.content:
            assert reading.refusal is not None
            orders, decided = self._rejection.hold(
                reading.to(reading.content), reading.refusal,
                reading.place(reading.content[0]))
        elif not reading.served:
            orders = self._rejection.give_up_trial(
                reading.transaction, bool(reading.again or reading.plain))
        self._decide(decided)
        if self._contrast.is_watching and not self._contrast.is_asking:
            more, decided = self._contrast.weigh()
            self._decide(decided)
            orders = orders._replace(
                again=orders.again + more.again,
                first=orders.first or more.first,
                elsewhere=orders.elsewhere | more.elsewhere,
                halt=orders.halt or more.halt)
        return orders

    def _again(self, reading: _Reading) -> List[Transaction]:
        again = []
        if reading.again:
            again.append(reading.to(reading.again))
        again.extend(reading.to([index]) for index in reading.singles)
        if reading.plain and reading.transaction.verp is not None:
            # If it is the message that it minds, it will say so again.
            again.extend(reading.to(reading.plain).individually())
        elif reading.plain:
            assert self._post.plain_sender is not None
            again.append(reading.to(reading.plain)._replace(
                sender=self._post.plain_sender))
        return again

    def _note_served(self, outcome: Outcome, indices: Sequence[int],
                     ) -> Orders:
        """Enter those who have got the post; return what follows."""
        recipients = outcome.transaction.recipients
        if len(indices) < len(recipients):
            recipients = tuple(recipients[index] for index in indices)
        self.served.update(recipients)
        self.messages += 1
        self._record.served(
            recipients, outcome.results[indices[0]].reply, self._relay)
        if self._memory.note_content_accepted():
            log.info('%s takes mail from us again', self._relay)
        last = indices[-1]
        place = Place(outcome.span, last)
        self._contrast.note_accepted(place, recipients[-1])
        return self._rejection.note_accepted(place, outcome.transaction)

    def _decide(self, decisions: Iterable[Decision]) -> None:
        for recipient, judgement, is_own in decisions:
            if is_own:
                self._refuse(recipient, judgement)
            else:
                self._suspect(recipient, judgement)

    def _refuse(self, recipient: str, judgement: Judgement) -> None:
        """The recipient is refused, for good or for the time being."""
        self._contrast.note_ended(recipient)
        reply = judgement.reply
        failure = reply.code, reply.text
        if judgement.is_permanent:
            self._bounce(recipient, failure)
        else:
            self._defer(recipient, failure)

    def _suspect(self, recipient: str, judgement: Judgement) -> None:
        """The recipient was refused, but it may not be the recipient's own."""
        self._contrast.note_ended(recipient)
        self._defer(recipient, (judgement.reply.code, judgement.reply.text))
        self.suspects.append(recipient)

    def _bounce(self, recipient: str, failure: Failure) -> None:
        self.bounced[recipient] = failure
        self._record.bounced(recipient, *failure, self._relay)

    def _defer(self, recipient: str, failure: Failure) -> None:
        self.deferred[recipient] = failure
        self._record.deferred((recipient,), *failure, self._relay)

    # The end.

    def close(self, recipients: Iterable[str],
              unavailable: Optional[Exception]) -> List[str]:
        """Decide on all that is not decided: nothing more comes.

        :param recipients: Those of the post.
        :param unavailable: Why the relay could not be used, or what was
            missing for those who are left; or None.
        :return: Those who still have to be served.
        """
        recipients = list(recipients)
        self._is_paused = isinstance(unavailable, RelayPaused)
        self._memory.remember_good(self._contrast.good)
        self._rejection.close()
        held = {**self._contrast.held, **self._rejection.held}
        is_out = unavailable is not None or self._halts
        left = self.unsettled(recipients)
        rejection = self._rejection.rejection
        if rejection is not None:
            self._reject({
                recipient: held.get(recipient, rejection).reply
                for recipient in left})
            return []
        if not is_out and not self._is_broken_off(left, held):
            for recipient in left:
                self._suspect(recipient, held[recipient])
            return []
        for recipient in left:
            if recipient in held and is_out:
                self._suspect(recipient, held[recipient])
            elif recipient in held:
                self.suspects.append(recipient)
        left = self.unsettled(left)
        if is_out:
            self.untried = left
            return []
        return left

    @staticmethod
    def _is_broken_off(left: List[str], held: Dict[str, Judgement]) -> bool:
        """Return True if the turn ended before everybody was tried."""
        return any(recipient not in held for recipient in left)

    def _reject(self, replies: Dict[str, Reply]) -> None:
        """The server did not want the message, in these words."""
        alike: Dict[Failure, List[str]] = {}
        for recipient, reply in replies.items():
            failure = reply.code, reply.text
            if self._shunts:
                self.rejected[recipient] = failure
                alike.setdefault(failure, []).append(recipient)
            else:
                self._bounce(recipient, failure)
        for failure, recipients in alike.items():
            # They are in the shunt queue next.
            self._record.deferred(recipients, *failure, self._relay)


class _Nobody:
    """An `IRecord` that keeps nothing."""

    def served(self, recipients: Iterable[str],
               reply: Optional[Reply] = None, relay: str = '') -> None:
        pass

    def bounced(self, recipient: str, code: int, text: bytes,
                relay: str = '') -> None:
        pass

    def deferred(self, recipients: Iterable[str], code: int, text: bytes,
                 relay: str = '') -> None:
        pass

    def in_doubt(self, recipients: Iterable[str], relay: str = '') -> None:
        pass
