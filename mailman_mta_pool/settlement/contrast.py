# SPDX-License-Identifier: GPL-3.0-or-later
"""Contrast: what a refusal that proves nothing by itself is about.

Such refusals are held, and compared by their words.  If many recipients are
refused in the same words and nobody is accepted since, the server may speak of
us.  So it is asked, before anybody else is tried: MAIL, RCPT to somebody whom
it has accepted, RCPT to those who are held, RCPT to somebody accepted, and
RSET; nothing is sent.  Only who is refused once more, between two who are
accepted, is charged with it.
"""

import logging

from collections import deque, OrderedDict
from mailman_mta_pool.settings import About
from mailman_mta_pool.settlement.memory import Finding, Memory
from mailman_mta_pool.settlement.orders import notice_of, Orders
from mailman_mta_pool.settlement.table import (
    is_accepted,
    Judge,
    Judgement,
    limit_of,
    OF_THE_RELAY,
    over_the_limit,
)
from mailman_mta_pool.wire.content import Content
from mailman_mta_pool.wire.transaction import (
    domain_of,
    Fate,
    Outcome,
    Result,
    Span,
    Stage,
    Transaction,
)
from public import public
from typing import (
    Deque,
    Dict,
    FrozenSet,
    List,
    NamedTuple,
    Optional,
    Set,
    Tuple,
)


log = logging.getLogger('mailman.smtp')

# So many refusals in the same words, in so many domains, make a suspicion; so
# do so many in one domain.
SUSPICIOUS_RECIPIENTS, SUSPICIOUS_DOMAINS = 3, 2
SUSPICIOUS_IN_DOMAIN = 10
# So many others, in so many domains, or so many in fewer, have to be tried
# before it is about us, if nobody was accepted yet.
WIDE_RECIPIENTS, WIDE_DOMAINS = 10, 5
WIDE_IN_FEW_DOMAINS = 20
# How many are asked about at once: Postfix hangs up after twenty errors.
ASKED_AT_ONCE = 10
# How many recipients who had been accepted may be refused for a reason of
# their own, and how often a connection may be lost, while the server is asked.
MAX_GOOD_TRIED, MAX_LOST = 3, 2
MAX_GOOD = 4
# How often a recipient is sent the post once more, because the server took the
# recipient when it was asked.
MAX_SENT_AGAIN = 3
# So few recipients make no contrast: a welcome, a probe.
FEW_RECIPIENTS = 2
public(FEW_RECIPIENTS=FEW_RECIPIENTS)
_NOTHING = Content(b'')


@public
class Place(NamedTuple):
    """Where an answer stands in the order of the replies.

    :ivar span: When its transaction was answered.
    :ivar position: Of its recipient within that.
    """

    span: Span
    position: int

    def precedes(self, other: 'Place') -> bool:
        """Return True if the server gave this answer before the other."""
        if self.span == other.span:
            return self.position < other.position
        return self.span.precedes(other.span)


@public
class Decision(NamedTuple):
    """What is decided on a recipient who was held.

    :ivar recipient: Who.
    :ivar judgement: Of the last refusal.
    :ivar is_own: True if it was the recipient's own; False if it was not.
    """

    recipient: str
    judgement: Judgement
    is_own: bool


class _Held(NamedTuple):
    """A refusal that is held; the transaction is for this recipient alone."""

    transaction: Transaction
    judgement: Judgement
    place: Place

    @property
    def recipient(self) -> str:
        return self.transaction.recipients[0]


# The scope, the stage and the words.
_Key = Tuple[Optional[About], Stage, str]


class _Group:
    """The refusals in the same words, to commands of one stage.

    :ivar held: The refusals on which nothing is decided yet.
    :ivar run: Those of them since which nobody was accepted.
    :ivar followed: Those after whom somebody was accepted.
    :ivar is_suspected: True since there was a suspicion, until somebody is
        accepted.
    :ivar is_told: True if the log has told of the suspicion.
    """

    def __init__(self, judgement: Judgement, words: str) -> None:
        self.judgement = judgement
        self.words = words
        self.held: Dict[str, _Held] = {}
        self.run: Dict[str, _Held] = {}
        self._domains: Dict[str, int] = {}
        # Those refused since there was a suspicion: their number and domains.
        self._others: Set[str] = set()
        self._other_domains: Set[str] = set()
        self.followed: Set[str] = set()
        self.is_suspected = self.is_told = False
        self._tried_with_plain: Set[str] = set()

    @property
    def is_chargeable(self) -> bool:
        """True if the refusals may be the recipients' own."""
        return (self.judgement.about is None and
                self.judgement.stage is Stage.rcpt)

    @property
    def domains(self) -> FrozenSet[str]:
        """The domains of the run."""
        return frozenset(self._domains)

    @property
    def is_suspicious(self) -> bool:
        if self.judgement.stage is Stage.mail:
            # "Authentication required" needs no second word.
            return (len(self.run) >= SUSPICIOUS_RECIPIENTS or
                    bool(self.run) and self.judgement.needs_login)
        return len(self.run) >= SUSPICIOUS_IN_DOMAIN or (
            len(self.run) >= SUSPICIOUS_RECIPIENTS and
            len(self._domains) >= SUSPICIOUS_DOMAINS)

    @property
    def is_wide(self) -> bool:
        """True if enough have been tried, though nobody was accepted yet."""
        return (self.judgement.stage is Stage.mail or
                len(self._others) >= WIDE_IN_FEW_DOMAINS or
                len(self._others) >= WIDE_RECIPIENTS and
                len(self._other_domains) >= WIDE_DOMAINS)

    def hold(self, held: _Held) -> None:
        domain = domain_of(held.recipient)
        self.held[held.recipient] = held
        if held.recipient not in self.run:
            self._domains[domain] = self._domains.get(domain, 0) + 1
        self.run[held.recipient] = held
        if self.is_suspected:
            self._others.add(held.recipient)
            self._other_domains.add(domain)

    def leave_run(self, recipient: str) -> None:
        """Take a recipient out of the run."""
        if self.run.pop(recipient, None) is not None:
            domain = domain_of(recipient)
            self._domains[domain] -= 1
            if not self._domains[domain]:
                del self._domains[domain]

    def end_run(self) -> None:
        """Begin a new run: somebody was accepted after all of them."""
        self.run.clear()
        self._domains.clear()
        self._begin_again()

    def _begin_again(self) -> None:
        self.is_suspected = False
        self._others.clear()
        self._other_domains.clear()

    def note_accepted(self, place: Place) -> None:
        """End the run of those who were refused before an acceptance."""
        for held in list(self.run.values()):
            if held.place.precedes(place):
                self.followed.add(held.recipient)
                self.leave_run(held.recipient)
        if not self.run:
            self._begin_again()

    def not_asked_plainly(self, sender: Optional[str]) -> List[_Held]:
        """Return those who were refused with the sender of VERP only."""
        if sender is None or self.judgement.about is About.us:
            return []
        return [held for held in self.held.values()
                if _is_verp(held.transaction, sender) and
                held.recipient not in self._tried_with_plain]

    @property
    def was_asked_plainly(self) -> bool:
        """True if somebody was tried with the plain sender."""
        return bool(self._tried_with_plain)

    def note_asked_plainly(self, recipients: List[str]) -> None:
        self._tried_with_plain.update(recipients)


class _Question(NamedTuple):
    """What the server was asked.

    :ivar group: About whose refusals.
    :ivar asked: Who had been refused.
    :ivar good: The two who had been accepted, which may be the same; None
        where there is nobody.
    :ivar is_ours: True if these are recipients of this post.
    """

    group: _Group
    asked: List[_Held]
    good: Optional[Tuple[str, str]]
    is_ours: bool
    transaction: Transaction


def _words_for(judgement: Judgement, recipient: str) -> str:
    """Return the words of a refusal without the recipient's local part."""
    local = recipient.rpartition('@')[0].lower()
    return ' '.join(word for word in judgement.words.split()
                    if word.strip('.,:;()[]"\'') != local)


def _is_verp(transaction: Transaction, plain_sender: str) -> bool:
    return (transaction.sender != plain_sender or
            transaction.verp is not None)


def _spread(held: List[_Held]) -> List[_Held]:
    """Return one of each domain, then the second ones, and so on."""
    seen: Dict[str, int] = {}
    turns: List[Tuple[int, int, _Held]] = []
    for each in held:
        domain = domain_of(each.recipient)
        seen[domain] = seen.get(domain, 0) + 1
        turns.append((seen[domain], len(turns), each))
    return [each for _, _, each in sorted(turns)]


@public
class Contrast:
    """The refusals of one post that are held, and what was found out by them.

    :ivar denial: The refusal that is about us, or None: nothing more of the
        post is to be sent.
    """

    def __init__(self, judge: Judge, memory: Memory, relay: str, *,
                 plain_sender: Optional[str], count: int,
                 suspects: FrozenSet[str] = frozenset()) -> None:
        """Begin with nobody held.

        :param judge: What judges the answers to questions.
        :param memory: What the relay said to other posts.
        :param relay: Its name, for the log.
        :param plain_sender: The envelope sender without VERP; None if there
            is none.
        :param count: How many recipients the post has.
        :param suspects: Those of them who were suspected before.
        """
        self._judge = judge
        self._memory = memory
        self._relay = relay
        self._plain_sender = plain_sender
        self._count = count
        self._suspects = suspects
        # To take the first out of a dict, again and again, is slow.
        self._groups: 'OrderedDict[_Key, _Group]' = OrderedDict()
        # Of these, the ones with a run, and those that something was added to.
        self._running: Dict[_Key, _Group] = {}
        self._to_weigh: Dict[_Key, _Group] = {}
        self._good: Deque[str] = deque(maxlen=MAX_GOOD)
        # Those accepted whom the server refused when it was asked.
        self._spoilt: Set[str] = set()
        self._question: Optional[_Question] = None
        # True until the question has been given to the dispatcher.
        self._is_new_question = False
        self._sent_again: Dict[str, int] = {}
        # What goes again because it cannot be asked about, and to whom that
        # has happened after somebody else was accepted.
        self._unasked: List[Transaction] = []
        self._sent_unasked: Set[str] = set()
        # Those who are sent the post once more, and may be accepted.
        self._under_way: Set[str] = set()
        # True if one of those who were sent it last was.
        self._was_taken = False
        self._lost = 0
        self._bad_good = 0
        self._cannot_ask = False
        self._asked_at_once = ASKED_AT_ONCE
        self.denial: Optional[Judgement] = None

    # What the answers to the post say.

    @property
    def is_watching(self) -> bool:
        """True if an acceptance matters at present."""
        return bool(self._groups)

    @property
    def is_asking(self) -> bool:
        """True if the answer to a question is awaited."""
        return self._question is not None

    @property
    def good(self) -> List[str]:
        """Some recipients of this post whom the server accepted."""
        return list(self._good)

    @property
    def held(self) -> Dict[str, Judgement]:
        """The undecided refusals, by recipient."""
        return {name: held.judgement for group in self._groups.values()
                for name, held in group.held.items()}

    def note_accepted(self, place: Place, recipient: str) -> None:
        """Take note that the server accepted a recipient.

        :param place: Where that stands in the order of the replies.
        :param recipient: Who.
        """
        self._good.appendleft(recipient)
        if self._under_way:
            self._was_taken = True
            self._under_way.clear()
        for key, group in list(self._running.items()):
            group.note_accepted(place)
            if not group.run:
                del self._running[key]

    def note_ended(self, recipient: str) -> None:
        """Take note that a recipient was refused in words that are clear."""
        self._under_way.discard(recipient)

    def hold(self, transaction: Transaction, judgement: Judgement,
             place: Place) -> None:
        """Hold a refusal.

        :param transaction: To the refused recipient alone.
        :param judgement: Of the refusal.
        :param place: Where it stands in the order of the replies.
        """
        words = _words_for(judgement, transaction.recipients[0])
        key = judgement.about, judgement.stage, words
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(judgement, words)
        group.hold(_Held(transaction, judgement, place))
        self._under_way.discard(transaction.recipients[0])
        self._running[key] = self._to_weigh[key] = group

    def weigh(self) -> Tuple[Orders, List[Decision]]:
        """Decide what can be decided now.

        :return: What is to be sent first, and what is decided.
        """
        decided: List[Decision] = []
        elsewhere: Set[str] = set()
        for key, group in list(self._to_weigh.items()):
            if self.is_asking or self.denial is not None:
                break
            decided.extend(self._take_own(group))
            if not group.is_suspicious:
                del self._to_weigh[key]
                continue
            self._tell_of_suspicion(group)
            group.is_suspected = True
            if not self._ask_about(group):
                elsewhere |= group.domains
        return self._orders(frozenset(elsewhere)), decided

    def _orders(self, elsewhere: FrozenSet[str] = frozenset()) -> Orders:
        first: Tuple[Transaction, ...] = ()
        if self._question is not None and self._is_new_question:
            self._is_new_question = False
            first = self._question.transaction,
        again, self._unasked = tuple(self._unasked), []
        return Orders(again=again, first=first, elsewhere=elsewhere,
                      halt=self.denial is not None)

    def _take_own(self, group: _Group) -> List[Decision]:
        """Decide on those whose words were found to be their own lately."""
        decided = []
        if group.is_chargeable:
            while group.held and self._memory.take_own(group.words):
                held = next(iter(group.held.values()))
                decided.append(self._release(group, held, is_own=True))
        return decided

    @staticmethod
    def _release(group: _Group, held: _Held, is_own: bool,
                 judgement: Optional[Judgement] = None) -> Decision:
        del group.held[held.recipient]
        group.leave_run(held.recipient)
        return Decision(held.recipient, judgement or held.judgement, is_own)

    def _ask_about(self, group: _Group) -> bool:
        """Ask the server, or decide that it speaks of us.

        :return: False if others are to be tried first.
        """
        good, is_ours = self._choose_good()
        if self._cannot_ask:
            good = None
        plainly = group.not_asked_plainly(self._plain_sender)
        if good is not None and (group.is_chargeable or is_ours):
            self._ask(group, list(group.held.values()), good, is_ours)
        elif not group.is_wide:
            return False
        elif self._under_way:
            # If one of them is accepted, it is not about us.
            return True
        elif plainly and not self._cannot_ask:
            self._ask(group, plainly, None, False)
        elif plainly and (self._was_taken or not group.was_asked_plainly):
            self._send_unasked(group, _spread(plainly)[:ASKED_AT_ONCE])
        else:
            self._deny(group)
        return True

    def _send_unasked(self, group: _Group, held: List[_Held]) -> None:
        """Send the post once more, with the plain sender, instead of asking.
        """
        group.note_asked_plainly([each.recipient for each in held])
        self._was_taken = False
        for each in held:
            self._release(group, each, is_own=False)
            if each.recipient in group.followed:
                self._sent_unasked.add(each.recipient)
            self._under_way.add(each.recipient)
            self._unasked.append(self._plainly(each.transaction))

    def _plainly(self, transaction: Transaction) -> Transaction:
        if self._plain_sender is None:
            return transaction
        return transaction._replace(sender=self._plain_sender, verp=None)

    def _choose_good(self) -> Tuple[Optional[Tuple[str, str]], bool]:
        """Choose whom the server is to accept again; of this post, if any."""
        for candidates, is_ours in ((self._good, True),
                                    (self._memory.good, False)):
            left = [name for name in candidates if name not in self._spoilt]
            if left:
                return (left[0], left[-1]), is_ours
        return None, False

    def _ask(self, group: _Group, held: List[_Held],
             good: Optional[Tuple[str, str]], is_ours: bool) -> None:
        if good is None:
            # All of one domain may be dead.
            held = _spread(held)
        asked = held[:self._asked_at_once]
        names = tuple(each.recipient for each in asked)
        if good is not None:
            names = (good[0], *names, good[1])
        sender = self._plain_sender
        if sender is None or good is None and not group.not_asked_plainly(
                sender):
            sender = asked[0].transaction.sender
        self._is_new_question = True
        self._question = _Question(
            group, asked, good, is_ours, Transaction(
                sender, names, _NOTHING, asks=True,
                stand_in=asked[0].transaction.stand_in))

    def _deny(self, group: _Group) -> None:
        self.denial = group.judgement
        self._memory.learn(group.words, Finding.us)
        self._memory.deny()

    def release_denied(self) -> List[Transaction]:
        """Release the refusals that are known to be about us.

        :return: The transactions, each to one recipient.
        """
        released: List[Transaction] = []
        for group in self._groups.values():
            if group.judgement.about is About.us:
                released.extend(
                    held.transaction for held in group.held.values())
                group.held.clear()
                group.end_run()
        return released

    # What the answer to a question says.

    def hear(self, outcome: Outcome) -> Tuple[Orders, List[Decision],
                                              List[Transaction]]:
        """Take the answer to the question.

        :param outcome: Of its transaction.
        :return: What is to be done, what is decided, and the transactions
            that are to go again, because their recipients are accepted now.
        """
        question, self._question = self._question, None
        if question is None:
            # It was given up meanwhile.
            return Orders(), [], []
        if over_the_limit(outcome):
            return self._ask_fewer(outcome), [], []
        judgements = [self._judged(result) for result in outcome.results]
        of_relay = next((
            judgement for judgement in judgements
            if judgement is not None and judgement.about in OF_THE_RELAY),
            None)
        if of_relay is not None:
            return self._ask_later(question, of_relay), [], []
        if not all(judgement is not None or is_accepted(result)
                   for judgement, result in zip(judgements, outcome.results)):
            return self._lose(), [], []
        self._lost = 0
        place = Place(outcome.span, len(judgements))
        if question.good is None:
            return self._hear_of(question, judgements, place)
        first, *others, last = judgements
        for name, judgement in zip(question.good, (first, last)):
            if judgement is not None:
                return self._refuse_good(question, name, judgement), [], []
        return self._hear_of(question, others, place)

    def _judged(self, result: Result) -> Optional[Judgement]:
        if result.fate is Fate.refused and result.reply is not None:
            return self._judge.judge(result.stage, result.reply)
        return None

    def _ask_later(self, question: _Question, judgement: Judgement) -> Orders:
        """The server does not want to be asked now."""
        notice = notice_of(judgement)
        if judgement.about is About.quota:
            return Orders(notice=notice, halt=True)
        self._question = question
        return Orders(notice=notice, first=(question.transaction,))

    def _ask_fewer(self, outcome: Outcome) -> Orders:
        """The server takes no more recipients in a transaction."""
        # Two of them are those that had been accepted.
        self._asked_at_once = max(
            limit_of(outcome) - 2, self._asked_at_once // 2)
        if self._asked_at_once < 1:
            self._cannot_ask = True
        return Orders()

    def _lose(self) -> Orders:
        """No answer came, or this connection cannot ask."""
        self._lost += 1
        if self._lost >= MAX_LOST:
            self._cannot_ask = True
        return Orders()

    def _refuse_good(self, question: _Question, name: str,
                     judgement: Judgement) -> Orders:
        """Somebody who had been accepted is not any more."""
        self._spoilt.add(name)
        self._bad_good += 1
        is_own = judgement.about is About.recipient or not question.is_ours
        if not is_own or self._bad_good >= MAX_GOOD_TRIED:
            if question.is_ours:
                self._deny(question.group)
        return self._orders()

    def _hear_of(self, question: _Question,
                 judgements: List[Optional[Judgement]], place: Place,
                 ) -> Tuple[Orders, List[Decision], List[Transaction]]:
        """Decide on those who were asked about."""
        group = question.group
        group.note_asked_plainly([each.recipient for each in question.asked])
        again, decided, refused = [], [], []
        for held, judgement in zip(question.asked, judgements):
            if held.recipient not in group.held:
                continue
            if judgement is None:
                released = self._release(group, held, is_own=False)
                if self._may_go_again(held.recipient):
                    self._under_way.add(held.recipient)
                    again.append(held.transaction._replace(
                        sender=question.transaction.sender, verp=None))
                else:
                    decided.append(released)
            elif judgement.about is About.recipient:
                decided.append(self._release(
                    group, held, True, judgement))
            elif _words_for(judgement, held.recipient) != group.words:
                # The first refusal told nothing; perhaps this one does.
                self._release(group, held, False)
                self.hold(held.transaction, judgement, place)
            else:
                refused.append((held, judgement))
        if question.good is not None:
            decided.extend(self._decide_refused(group, refused))
        elif not again and not self._good:
            self._deny(group)
        orders = self._orders()._replace(plain_sender=(
            question.good is None and bool(again) and not refused and
            self._was_verp(question)))
        return orders, decided, again

    def _may_go_again(self, recipient: str) -> bool:
        """Return True a few times for each recipient.

        A server may accept whom it is asked about, and refuse the post.
        """
        self._sent_again[recipient] = self._sent_again.get(recipient, 0) + 1
        return self._sent_again[recipient] <= MAX_SENT_AGAIN

    def _was_verp(self, question: _Question) -> bool:
        return any(_is_verp(held.transaction, question.transaction.sender)
                   for held in question.asked)

    def _decide_refused(self, group: _Group,
                        refused: List[Tuple[_Held, Judgement]],
                        ) -> List[Decision]:
        """Charge the recipients who were refused again when asked about.

        Recipients whose refusals are about us are released uncharged.
        """
        decided = []
        for held, judgement in refused:
            is_own = group.is_chargeable and judgement.about is None
            decided.append(self._release(group, held, is_own, judgement))
        if decided and group.is_chargeable:
            if self._memory.learn(group.words, Finding.own):
                log.info('%s: "%s" is about the recipients themselves: others '
                         'are accepted', self._relay, group.judgement.reply)
            decided.extend(self._take_own(group))
        group.end_run()
        return decided

    # When everything else is settled.

    def conclude(self) -> Tuple[Orders, List[Decision]]:
        """Decide on those who are held, now that all others are settled.

        :return: What is to be asked, if anything, and what is decided.
        """
        decided: List[Decision] = []
        done: List[_Key] = []
        for key, group in self._groups.items():
            if self.is_asking or self.denial is not None:
                break
            decided.extend(self._take_own(group))
            if group.held:
                decided.extend(self._conclude_group(group))
            elif not self._cannot_ask:
                done.append(key)
        # There may be thousands, and a question about each.
        for key in done:
            for groups in (self._groups, self._running, self._to_weigh):
                groups.pop(key, None)
        return self._orders(), decided

    def _conclude_group(self, group: _Group) -> List[Decision]:
        good, is_ours = self._choose_good()
        plainly = group.not_asked_plainly(self._plain_sender)
        if self._cannot_ask:
            return self._conclude_unasked(group)
        if group.is_chargeable and good is not None:
            self._ask(group, list(group.held.values()), good, is_ours)
        elif plainly:
            self._ask(group, plainly, None, False)
        elif not self._good:
            return self._conclude_alone(group)
        return []

    def _conclude_unasked(self, group: _Group) -> List[Decision]:
        """Decide without a question: by sending the post once more.

        Whoever is refused twice, while somebody was accepted between the two,
        is charged.  To be refused once may have been the moment, or the sender
        of VERP, which those accepted later did not have.
        """
        plainly = group.not_asked_plainly(self._plain_sender)
        if not (self._good or plainly):
            return self._conclude_alone(group)
        names = {each.recipient for each in plainly}
        decided = []
        for name, held in list(group.held.items()):
            if not group.is_chargeable or name not in group.followed:
                continue
            if name in self._sent_unasked:
                decided.append(self._release(group, held, is_own=True))
            else:
                names.add(name)
        self._send_unasked(group, [
            held for name, held in group.held.items() if name in names])
        return decided

    def _conclude_alone(self, group: _Group) -> List[Decision]:
        """Decide though nobody of this post was accepted."""
        is_few = self._count <= FEW_RECIPIENTS and not any(
            name in self._suspects for name in group.held)
        if not (group.is_chargeable and is_few):
            self._tell_of_suspicion(group)
            self._deny(group)
            return []
        if self._memory.finding(group.words) is Finding.us:
            return []
        # As stock: there is nobody to compare them with.
        return [self._release(group, held, is_own=True)
                for held in list(group.held.values())]

    def _tell_of_suspicion(self, group: _Group) -> None:
        if not group.is_told:
            group.is_told = True
            remedy = group.judgement.remedy
            log.info('%s refuses %d recipients in a row with "%s": it may '
                     'speak of us, not of them%s', self._relay, len(group.run),
                     group.judgement.reply, remedy and f'; {remedy}')
