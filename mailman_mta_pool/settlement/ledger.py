# SPDX-License-Identifier: GPL-3.0-or-later
"""The settlement of a post: who got it, who did not and why, who is left."""

import sys
import logging

from dataclasses import dataclass
from mailman_mta_pool.errors import RelayPaused
from mailman_mta_pool.interfaces import Failure
from mailman_mta_pool.settings import About
from mailman_mta_pool.settlement.case import Case
from mailman_mta_pool.settlement.catalogue import Catalogue
from mailman_mta_pool.settlement.contrast import Contrast, Decision, Place
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

    :ivar case: Of the relay.
    :ivar late: The indices of those who came too late for this transaction.
    :ivar served: The indices of those who have got the post.
    :ivar again: The indices of those who go again as they are.
    :ivar plain: The indices of those who go again with the plain sender.
    :ivar singles: The indices of those who go again alone.
    :ivar content: The indices of those for whom the content was refused, in
        words that the table does not decide on.
    """

    def __init__(self, case: Case, outcome: Outcome) -> None:
        self.case = case
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

    What has become of a recipient is entered once, whichever relay has said
    it.  While the post is on its way, the network thread alone calls
    `settle`, `hear_of_opening`, `hear_of_closing`, `conclude`,
    `has_answered` and `give_up`.

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
                 relays: Sequence[Any] = (), shunts: bool = True) -> None:
        """Begin with nobody settled.

        :param record: The `IRecord` that is told what is settled; None for
            nobody.
        :param post: The post.
        :param catalogue: What servers are known to say.
        :param relays: See `use`.  They are named to the methods, and have a
            `name`, a `memory` and `settings` each.
        :param shunts: False if a rejected message is a bounce of everybody.
        """
        self._record: Any = _Nobody() if record is None else record
        self._post = post
        self._shunts = shunts
        self._catalogue = catalogue
        self._cases: Dict[Any, Case] = {}
        # Those of the relays that the post may go over now.
        self._in_use: List[Case] = []
        # True if nothing could be sent at the end.
        self._is_out = False
        self._is_paused = False
        self.served: Set[str] = set()
        self.messages = 0
        self.bounced: Dict[str, Failure] = {}
        self.deferred: Dict[str, Failure] = {}
        self.rejected: Dict[str, Failure] = {}
        self.untried: List[str] = []
        self.suspects: List[str] = []
        self.in_doubt = 0
        self.use(relays)

    def use(self, relays: Sequence[Any]) -> None:
        """Take note of the relays that the post may go over from now on.

        What relays have said that it went over before still counts.

        :param relays: The relays.
        """
        for relay in relays:
            if relay not in self._cases:
                self._cases[relay] = self._begin(relay)
        self._in_use = [self._cases[relay] for relay in relays]
        for case in self._in_use:
            case.is_given_up = False

    def _begin(self, relay: Any) -> Case:
        """Return an empty case of a relay."""
        post, memory = self._post, relay.memory
        judge = Judge(self._catalogue, relay=relay.settings)
        return Case(
            relay.name, judge, memory,
            Contrast(judge, memory, relay.name,
                     plain_sender=post.plain_sender, count=post.count,
                     suspects=post.suspects),
            Rejection(memory, post.message_id, post.count, post.is_notice,
                      post.suspects))

    def carry_over(self, bounced: Dict[str, Failure]) -> None:
        """Enter those whom an earlier delivery has recorded as refused."""
        self.bounced.update(bounced)

    @property
    def rejection(self) -> Optional[Reply]:
        """The reply of some relay that rejected the message, or None."""
        return next((
            case.rejection.rejection.reply for case in self._cases.values()
            if case.rejection.rejection is not None), None)

    @property
    def is_of_one_relay(self) -> bool:
        """True if the post went over one relay only."""
        return len(self._cases) == 1

    @property
    def denials(self) -> Dict[Any, Judgement]:
        """The refusals that are about *us*, by relay."""
        return {relay: case.denial for relay, case in self._cases.items()
                if case.denial is not None}

    @property
    def denial(self) -> Optional[Judgement]:
        """The first of the refusals that are about *us*, or None."""
        return next(iter(self.denials.values()), None)

    @property
    def used_up(self) -> Optional[Judgement]:
        """A refusal that says that a quota is used up, or None."""
        return next((case.used_up for case in self._cases.values()
                     if case.used_up is not None), None)

    @property
    def is_paused(self) -> bool:
        """True if those who are left wait because the relays said so."""
        return self._is_paused or (
            self.used_up is not None and (self._is_out or self._halts))

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
        """True if no relay is to get the rest of the post."""
        return bool(self._in_use) and all(
            case.halts for case in self._in_use)

    # What the network thread reports.

    def settle(self, outcome: Outcome, relay: Any) -> Orders:
        """Enter an outcome, and return what is to be done about it.

        :param outcome: Of a transaction.
        :param relay: The relay that it was sent to.
        """
        case = self._cases[relay]
        if outcome.transaction.asks:
            return self._hear(case, outcome)
        alike = outcome.alike
        if alike is not None and alike.fate is Fate.accepted:
            orders = self._note_served(
                case, outcome, range(len(outcome.results)))
            if orders is not NO_ORDERS or case.verp_refusals:
                return orders._replace(
                    halt=case.halts,
                    plain_sender=self._compare_sender(case, outcome))
            return HALT_ORDERS if case.halts else NO_ORDERS
        reading = _Reading(case, outcome)
        self._read(reading)
        return self._orders(reading)

    def hear_of_opening(self, word: str, reply: Reply,
                        relay: Any) -> Optional[Notice]:
        """Judge a reply that kept a connection from being opened.

        :param word: 'greeting', 'EHLO' or 'AUTH'.
        :param reply: The refusal.
        :param relay: The relay that gave it.
        :return: What it says of the relay; None if it is about us.
        """
        return notice_of(
            self._cases[relay].judge.judge_opening(word, reply))

    def hear_of_closing(self, outcome: Outcome,
                        relay: Any) -> Optional[Notice]:
        """Judge what the server said when it closed the connection.

        :param outcome: Of a transaction of which nothing was accepted.
        :param relay: The relay that it was sent to.
        :return: What it says of the relay, or None.
        """
        case = self._cases[relay]
        for index in over_the_limit(outcome):
            # It goes again, so that nobody settles it.
            result = outcome.results[index]
            if result.reply is not None:
                case.answers[outcome.transaction.recipients[index]] = (
                    case.judge.judge(result.stage, result.reply))
        for result in outcome.results:
            if result.fate is Fate.not_attempted and (
                    result.reply is not None and
                    result.stage is not Stage.connect):
                notice = notice_of(
                    case.judge.judge(result.stage, result.reply))
                if notice is not None and notice.about is About.quota:
                    case.exhaust(notice)
                return notice
        return None

    def conclude(self, relay: Any) -> Orders:
        """Decide on those who are held, now that all others are settled.

        :param relay: The relay whose refusals are held.
        :return: What is to be sent to it before the post is done with.
        """
        case = self._cases[relay]
        if case.halts:
            return NO_ORDERS
        orders, decided = case.contrast.conclude()
        self._decide(case, decided)
        if orders != NO_ORDERS:
            return orders
        orders, decided = case.rejection.conclude()
        self._decide(case, decided)
        return orders

    def has_answered(self, transaction: Transaction, relay: Any) -> bool:
        """Return True if a transaction may go to this relay only.

        :param transaction: Not settled.
        :param relay: The relay that it was sent to, or was to be sent to.
        """
        return self._cases[relay].has_answered(transaction)

    def give_up(self, relay: Any, transactions: Iterable[Transaction],
                ) -> List[Transaction]:
        """Take note that nothing more is sent to a relay, but to others.

        The recipients whom it has refused, and who were to be sent to it once
        more, are deferred in its words: no other relay may judge them.

        :param relay: The relay.
        :param transactions: What was to be sent to no other relay.
        :return: What other relays may get.
        """
        case = self._cases[relay]
        case.is_given_up = True
        free = case.release_denied()
        for transaction in transactions:
            others = []
            for recipient in transaction.recipients:
                judgement = case.answers.get(recipient)
                if judgement is None:
                    others.append(recipient)
                else:
                    self._suspect(case, recipient, judgement)
            if others:
                free.append(transaction._replace(recipients=tuple(others)))
        return free

    def _hear(self, case: Case, outcome: Outcome) -> Orders:
        """Take the answer to a question."""
        orders, decided, again = case.contrast.hear(outcome)
        self._decide(case, decided)
        if orders.notice is not None and orders.halt:
            case.exhaust(orders.notice)
        if orders == NO_ORDERS or again:
            more, decided = case.contrast.weigh()
            self._decide(case, decided)
            orders = more._replace(
                again=(*more.again, *again),
                plain_sender=orders.plain_sender,
                halt=orders.halt or more.halt)
        return orders

    # One outcome.

    def _compare_sender(self, case: Case, outcome: Outcome) -> bool:
        """Return True if the plain sender is accepted, and VERP's are not."""
        transaction = outcome.transaction
        if (transaction.sender != self._post.plain_sender or
                transaction.verp is not None):
            case.verp_refusals = 0
        return case.verp_refusals >= VERP_REFUSALS

    def _read(self, reading: _Reading) -> None:
        """Sort the recipients of an outcome by what became of them."""
        judged: Dict[Tuple[Stage, Reply], Judgement] = {}
        for index, result in enumerate(reading.outcome.results):
            if result.fate is Fate.accepted:
                reading.served.append(index)
            elif result.fate is not Fate.refused:
                self._read_unanswered(reading, index, result)
            else:
                assert result.reply is not None
                # A server says the same of many.
                key = result.stage, result.reply
                if key not in judged:
                    judged[key] = reading.case.judge.judge(*key)
                self._read_refusal(reading, index, judged[key])

    def _read_unanswered(self, reading: _Reading, index: int,
                         result: Result) -> None:
        recipient = reading.recipient(index)
        if result.reply is not None and needs_login(result.reply):
            # On each of several connections that had authenticated.
            reading.case.contrast.hold(
                reading.to([index]), Judgement(
                    About.us, Stage.mail, result.reply),
                reading.place(index))
        elif result.fate is Fate.in_doubt:
            self.in_doubt += 1
            self.deferred[recipient] = IN_DOUBT
            self._record.in_doubt((recipient,), reading.case.relay)
        else:
            # Whatever the server said, it did not say it of this recipient.
            words = b'' if result.reply is None else b': ' + result.reply.text
            self._defer(
                reading.case, recipient, (NO_REPLY_CODE, b'Not sent' + words))

    def _read_refusal(self, reading: _Reading, index: int,
                      judgement: Judgement) -> None:
        about, case = judgement.about, reading.case
        if about not in OF_THE_RELAY:
            case.answers[reading.recipient(index)] = judgement
        if index in reading.late:
            # It goes again, whatever it is about.
            return
        if judgement.stage is Stage.here:
            # An address that we do not send to this server: 5.1.3, 5.6.7.
            self._refuse(case, reading.recipient(index), judgement)
        elif about in OF_THE_RELAY:
            reading.notice = notice_of(judgement)
            reading.again.append(index)
        elif self._minds_verp(reading, judgement):
            reading.sender = judgement
            reading.plain.append(index)
        elif judgement.stage in CONTENT:
            self._read_refused_content(reading, index, judgement)
        elif (about is About.message and judgement.is_final and
              not case.rejection.has_accepted):
            case.rejection.reject(judgement)
        elif not judgement.is_final and about in (
                None, About.message, About.recipients) or (
                about in (About.recipient, About.recipients)):
            self._refuse_for_now(
                case, reading.recipient(index), judgement)
        else:
            case.contrast.hold(
                reading.to([index]), judgement, reading.place(index))

    def _refuse_for_now(self, case: Case, recipient: str,
                        judgement: Judgement) -> None:
        """Charge only what is about the recipient."""
        if judgement.about is About.recipients and judgement.is_permanent:
            self._suspect(case, recipient, judgement)
        else:
            self._refuse(case, recipient, judgement)

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
        case = reading.case
        accepted = limit_of(reading.outcome)
        if not judgement.is_final:
            self._refuse(case, reading.recipient(index), judgement)
        elif about is About.recipient and accepted > 1:
            reading.singles.append(index)
        elif about is About.recipient:
            self._refuse(case, reading.recipient(index), judgement)
        elif about is About.recipients and len(recipients) > 1:
            reading.limit = limit_in(judgement.reply, accepted)
            reading.again.append(index)
        elif judgement.is_size and not case.rejection.has_accepted:
            case.rejection.reject(judgement)
        else:
            reading.refusal = judgement
            reading.content.append(index)

    def _orders(self, reading: _Reading) -> Orders:
        """Return what is to be done about an outcome that was read."""
        again: List[Transaction] = []
        case = reading.case
        if reading.served:
            divided = self._note_served(case, reading.outcome, reading.served)
            again.extend(divided.again)
            reading.limit = reading.limit or divided.limit
        elif case.contrast.is_watching or not case.contrast.good:
            self._note_named(reading)
        orders = self._weigh(reading)
        again.extend(orders.again)
        again.extend(self._again(reading))
        sender = reading.sender
        if reading.transaction.verp is None:
            case.verp_refusals += len(reading.plain)
        if reading.notice is not None and (
                reading.notice.about is About.quota):
            case.exhaust(reading.notice)
        return orders._replace(
            again=tuple(again), notice=reading.notice,
            limit=reading.limit or orders.limit,
            plain_sender=bool(reading.served and case.verp_refusals) and (
                self._compare_sender(case, reading.outcome)),
            no_verp=(sender is not None and sender.stage is Stage.mail and
                     reading.transaction.verp is not None and
                     refuses_verp(sender)),
            halt=orders.halt or case.halts)

    def _note_named(self, reading: _Reading) -> None:
        """Take note of the recipients whom the server accepted at RCPT."""
        for index in range(len(reading.outcome.results) - 1, -1, -1):
            result = reading.outcome.results[index]
            if result.stage in CONTENT and result.fate is Fate.refused:
                reading.case.contrast.note_accepted(
                    reading.place(index), reading.recipient(index))
                return

    def _weigh(self, reading: _Reading) -> Orders:
        """Compare what is held."""
        case, orders = reading.case, NO_ORDERS
        decided: List[Decision] = []
        if reading.content:
            assert reading.refusal is not None
            orders, decided = case.rejection.hold(
                reading.to(reading.content), reading.refusal,
                reading.place(reading.content[0]))
        elif not reading.served:
            orders = case.rejection.give_up_trial(
                reading.transaction, bool(reading.again or reading.plain))
        self._decide(case, decided)
        if case.contrast.is_watching and not case.contrast.is_asking:
            more, decided = case.contrast.weigh()
            self._decide(case, decided)
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

    def _note_served(self, case: Case, outcome: Outcome,
                     indices: Sequence[int]) -> Orders:
        """Enter those who have got the post; return what follows."""
        recipients = outcome.transaction.recipients
        if len(indices) < len(recipients):
            recipients = tuple(recipients[index] for index in indices)
        self.served.update(recipients)
        self.messages += 1
        self._record.served(
            recipients, outcome.results[indices[0]].reply, case.relay)
        if case.memory.note_content_accepted():
            log.info('%s takes mail from us again', case.relay)
        last = indices[-1]
        place = Place(outcome.span, last)
        case.contrast.note_accepted(place, recipients[-1])
        return case.rejection.note_accepted(place, outcome.transaction)

    def _decide(self, case: Case, decisions: Iterable[Decision]) -> None:
        for recipient, judgement, is_own in decisions:
            if is_own:
                self._refuse(case, recipient, judgement)
            else:
                self._suspect(case, recipient, judgement)

    def _refuse(self, case: Case, recipient: str,
                judgement: Judgement) -> None:
        """The recipient is refused, for good or for the time being."""
        case.contrast.note_ended(recipient)
        reply = judgement.reply
        failure = reply.code, reply.text
        if judgement.is_permanent:
            self._bounce(case, recipient, failure)
        else:
            self._defer(case, recipient, failure)

    def _suspect(self, case: Case, recipient: str,
                 judgement: Judgement) -> None:
        """The recipient was refused, but it may not be the recipient's own."""
        case.contrast.note_ended(recipient)
        self._defer(
            case, recipient, (judgement.reply.code, judgement.reply.text))
        self.suspects.append(recipient)

    def _bounce(self, case: Case, recipient: str, failure: Failure) -> None:
        self.bounced[recipient] = failure
        self._record.bounced(recipient, *failure, case.relay)

    def _defer(self, case: Case, recipient: str, failure: Failure) -> None:
        self.deferred[recipient] = failure
        self._record.deferred((recipient,), *failure, case.relay)

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
        held: Dict[str, Tuple[Case, Judgement]] = {}
        for case in self._cases.values():
            case.memory.remember_good(case.contrast.good)
            case.rejection.close()
            held.update((recipient, (case, judgement))
                        for recipient, judgement in case.held.items())
        self._is_out = is_out = unavailable is not None or self._halts
        self._reject_left(self.unsettled(recipients))
        left = self.unsettled(recipients)
        is_tried = all(recipient in held for recipient in left)
        for recipient in left:
            if recipient not in held:
                continue
            case, judgement = held[recipient]
            if is_out or is_tried or case.is_given_up:
                self._suspect(case, recipient, judgement)
            else:
                # The turn ended before everybody was tried.
                self.suspects.append(recipient)
        left = self.unsettled(left)
        if is_out:
            self.untried = left
            return []
        return left

    def _reject_left(self, left: List[str]) -> None:
        """Settle those for whom a relay did not want the message.

        If all relays reject it, these are all who are left; otherwise those
        to whom one of them has said so.
        """
        rejecting = [(case, case.rejection.rejection)
                     for case in self._cases.values()
                     if case.rejection.rejection is not None]
        is_by_all = bool(self._in_use) and all(
            case.rejection.rejection is not None for case in self._in_use)
        for case, rejection in rejecting:
            held = case.held
            self._reject(case, {
                recipient: held.get(recipient, rejection).reply
                for recipient in left
                if recipient in case.answers or (
                    is_by_all and case is rejecting[-1][0])})
            left = self.unsettled(left)

    def _reject(self, case: Case, replies: Dict[str, Reply]) -> None:
        """The server did not want the message, in these words."""
        alike: Dict[Failure, List[str]] = {}
        for recipient, reply in replies.items():
            failure = reply.code, reply.text
            if self._shunts:
                self.rejected[recipient] = failure
                alike.setdefault(failure, []).append(recipient)
            else:
                self._bounce(case, recipient, failure)
        for failure, recipients in alike.items():
            # They are in the shunt queue next.
            self._record.deferred(recipients, *failure, case.relay)


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
