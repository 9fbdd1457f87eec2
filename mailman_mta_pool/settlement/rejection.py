# SPDX-License-Identifier: GPL-3.0-or-later
"""Refusals of the content: the message, its size, the recipient, or us.

At DATA and at the end of the content nothing can be asked without sending.
So what counts is who is accepted afterwards, and a run of the same words,
after which the post stops.  If a transaction to several recipients is refused,
one of them is tried alone: it may be their number.
"""

from mailman_mta_pool.settings import About
from mailman_mta_pool.settlement.contrast import (
    Decision,
    FEW_RECIPIENTS,
    Place,
)
from mailman_mta_pool.settlement.memory import Memory
from mailman_mta_pool.settlement.orders import NO_ORDERS, Orders
from mailman_mta_pool.settlement.table import Judgement
from mailman_mta_pool.wire.transaction import domain_of, Transaction
from public import public
from typing import Dict, FrozenSet, List, NamedTuple, Optional, Set, Tuple


# So many recipients refused in the same words, each alone, and none accepted
# since, stop the post; in one domain, it takes more.
RUN_LENGTH, RUN_DOMAINS = 3, 2
RUN_IN_DOMAIN = 10
# A smaller number of recipients is not believed to be a server's limit.  What
# it refused once, for whatever reason, would divide all posts to come.
LEAST_LIMIT = 10


class _Refused(NamedTuple):
    """A refused transaction to one recipient, or a part of one."""

    transaction: Transaction
    judgement: Judgement
    place: Place


class _Divided:
    """A refused transaction that was sent again in halves.

    :ivar size: How many recipients the larger half has.
    :ivar accepted: How many of the halves were accepted.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.accepted = 0


@public
class Rejection:
    """The refusals of a post's content on which nothing is decided yet.

    :ivar rejection: The refusal that is about the message, or None.
    :ivar denial: The refusal that is about us, or None.
    """

    def __init__(self, memory: Memory, message_id: str, count: int,
                 is_notice: bool, suspects: FrozenSet[str] = frozenset(),
                 ) -> None:
        """Begin with nothing refused.

        :param memory: What the relay said to other posts.
        :param message_id: Of the post.
        :param count: How many recipients it has.
        :param is_notice: True if it is no list's post, but Mailman's own: a
            welcome, say, or a probe.
        :param suspects: Those of them who were suspected before.
        """
        self._memory = memory
        self._message_id = message_id
        self._count = count
        self._is_notice = is_notice
        self._suspects = suspects
        self._held: Dict[str, _Refused] = {}
        # The latest acceptance on each connection.  A refusal that has to be
        # proved is reported after the acceptances that followed it.
        self._latest: Dict[int, Place] = {}
        # Those after whom a content was accepted, and the others.
        self._followed: Set[str] = set()
        self._unfollowed: Dict[str, _Refused] = {}
        # Recipients who are tried once more, and the words of their refusals;
        # those who were refused again; and the words that did not last.
        self._retried: Dict[str, str] = {}
        self._refused_twice: Dict[str, _Refused] = {}
        self._passing: Set[str] = set()
        # Transactions refused as a whole, while one recipient is tried alone.
        self._parts: List[_Refused] = []
        self._candidates: List[Transaction] = []
        self._on_trial: Optional[Transaction] = None
        self._number_matters = False
        self._divided: Dict[Tuple[str, ...], _Divided] = {}
        # Those refused alone since somebody was accepted, by their words.  The
        # parts of one transaction may all be refused for one recipient.
        self._run: Dict[str, Dict[str, _Refused]] = {}
        self.has_accepted = False
        self.rejection: Optional[Judgement] = None
        self.denial: Optional[Judgement] = None

    @property
    def is_over(self) -> bool:
        """True if the rest of the post is not to be sent."""
        return self.rejection is not None or self.denial is not None

    @property
    def held(self) -> Dict[str, Judgement]:
        """The undecided refusals, by recipient."""
        found = {name: refused.judgement for name, refused in (
            *self._held.items(), *self._refused_twice.items())}
        for refused in self._parts:
            found.update((name, refused.judgement)
                         for name in refused.transaction.recipients)
        return found

    # What the answers say.

    def note_accepted(self, place: Place, transaction: Transaction,
                      ) -> Orders:
        """Take note that the server accepted a content.

        :param place: Where that stands in the order of the replies.
        :param transaction: Which.
        :return: What is to be done about those that were refused.
        """
        self.has_accepted = True
        self._latest[place.span.session] = place
        if self._run:
            self._shorten_run(place)
        for name, refused in list(self._unfollowed.items()):
            if refused.place.precedes(place):
                self._followed.add(name)
                del self._unfollowed[name]
        if self._retried:
            self._passing.update(
                words for words in map(
                    self._retried.get, transaction.recipients) if words)
        limit = self._limit_by(transaction) if self._divided else None
        if not self._is_trial(transaction):
            return NO_ORDERS if limit is None else Orders(limit=limit)
        self._on_trial = None
        self._number_matters = True
        parts, self._parts = self._parts, []
        return Orders(again=tuple(
            half for refused in parts for half in self._divide(
                _without(refused.transaction, transaction.recipients))))

    def _shorten_run(self, place: Place) -> None:
        """Leave out those who were refused before an acceptance."""
        run = {words: {
            name: refused for name, refused in alike.items()
            if not refused.place.precedes(place)}
            for words, alike in self._run.items()}
        self._run = {words: alike for words, alike in run.items() if alike}

    def _divide(self, transaction: Transaction) -> Tuple[Transaction, ...]:
        halves = _halves(transaction)
        if len(halves) > 1:
            whole = _Divided(len(halves[0].recipients))
            self._divided.update((half.recipients, whole) for half in halves)
        return halves

    def _limit_by(self, transaction: Transaction) -> Optional[int]:
        """Return what is learnt of the number of recipients, if anything.

        If both halves are accepted of what was refused as a whole, nobody
        among them stood out, and it was their number.
        """
        whole = self._divided.pop(transaction.recipients, None)
        if whole is None:
            return None
        whole.accepted += 1
        is_limit = whole.accepted > 1 and whole.size >= LEAST_LIMIT
        return whole.size if is_limit else None

    def _is_trial(self, transaction: Transaction) -> bool:
        return (self._on_trial is not None and
                self._on_trial.recipients == transaction.recipients)

    def reject(self, judgement: Judgement) -> None:
        """Take note that the message is too large, or not to be sent so.

        :param judgement: Of the refusal, which is about the message.
        """
        if not self.is_over:
            self.rejection = judgement

    def hold(self, transaction: Transaction, judgement: Judgement,
             place: Place) -> Tuple[Orders, List[Decision]]:
        """Take a refused content into account.

        :param transaction: To those for whom it was refused.
        :param judgement: Of the refusal: 5xx, about us, the sender, the
            message, or nothing that is known.
        :param place: Where it stands in the order of the replies.
        :return: What is to be done, and what is decided.
        """
        refused = _Refused(transaction, judgement, place)
        if self._is_trial(transaction):
            return self._fail_trial(refused)
        if len(transaction.recipients) > 1:
            return self._hold_several(refused)
        return self._hold_one(refused)

    def _hold_one(self, refused: _Refused) -> Tuple[Orders, List[Decision]]:
        name = refused.transaction.recipients[0]
        judgement = refused.judgement
        if any(map(refused.place.precedes, self._latest.values())):
            self._followed.add(name)
        else:
            self._unfollowed[name] = refused
            self._run.setdefault(judgement.words, {})[name] = refused
        if name in self._retried and _may_be_own(judgement):
            # Others were accepted between the two.
            self._refused_twice[name] = refused
            return Orders(), []
        self._held[name] = refused
        if self._is_mailmans_own and _may_be_own(judgement):
            # As stock: Mailman registers it.
            del self._held[name]
            return Orders(), [Decision(name, judgement, True)]
        return self._weigh(judgement)

    @property
    def _is_mailmans_own(self) -> bool:
        return self._is_notice and self._count <= FEW_RECIPIENTS

    def _hold_several(self, refused: _Refused,
                      ) -> Tuple[Orders, List[Decision]]:
        judgement = refused.judgement
        if not self.has_accepted and (
                judgement.about in (About.us, About.sender)):
            # What these words mean is known, and nothing contradicts.
            self._parts.append(refused)
            return self._conclude_on(judgement)
        if self._number_matters:
            return Orders(again=self._divide(refused.transaction)), []
        self._parts.append(refused)
        if self._on_trial is not None or self.is_over:
            return Orders(), []
        names = refused.transaction.recipients
        # Two of them may be refused for a reason of their own.
        third = len(names) // 3
        chosen = dict.fromkeys(
            (names[0], names[-1], names[third], names[-1 - third]))
        self._candidates = [
            refused.transaction._replace(recipients=(name,))
            for name in reversed(list(chosen))]
        return self._try_next(), []

    def _try_next(self) -> Orders:
        self._on_trial = self._candidates.pop()
        return Orders(first=(self._on_trial,))

    def _fail_trial(self, refused: _Refused) -> Tuple[Orders, List[Decision]]:
        """The same is refused to one recipient alone."""
        self._on_trial = None
        if self._candidates:
            return self._try_next(), []
        return self._conclude_on(refused.judgement)

    def give_up_trial(self, transaction: Transaction,
                      goes_again: bool) -> Orders:
        """Take note that a transaction ended in another way.

        :param transaction: Any; only that on trial matters.
        :param goes_again: True if it is sent once more, and so stays on trial.
        """
        if goes_again or not self._is_trial(transaction):
            return Orders()
        self._on_trial = None
        # Its end is its own.  With the others it would be sent once more.
        self._parts = [
            refused._replace(transaction=_without(
                refused.transaction, transaction.recipients))
            for refused in self._parts]
        return self._try_next() if self._candidates else Orders()

    def _weigh(self, judgement: Judgement) -> Tuple[Orders, List[Decision]]:
        alike = self._run.get(judgement.words, {})
        is_known = judgement.about in (About.us, About.sender)
        if is_known and not self.has_accepted or len(alike) >= RUN_IN_DOMAIN:
            return self._conclude_on(judgement)
        if len(alike) < RUN_LENGTH:
            return Orders(), []
        domains = frozenset(map(domain_of, alike))
        if len(domains) >= RUN_DOMAINS:
            return self._conclude_on(judgement)
        # That domain alone may not like it.
        return Orders(elsewhere=domains), []

    def _conclude_on(self, judgement: Judgement,
                     ) -> Tuple[Orders, List[Decision]]:
        """Stop the post: the server does not want it, or us."""
        if not self.is_over:
            is_message = not self.has_accepted and (
                judgement.about is About.message or
                judgement.about is None and self._was_refused(judgement))
            if is_message:
                self.rejection = judgement
            else:
                self.denial = judgement
                self._memory.deny()
        return Orders(halt=True), []

    def release_denied(self) -> List[Transaction]:
        """Release the refusals that are known to be about us.

        :return: The transactions to those for whom the content was refused.
        """
        released = [refused.transaction for refused in self._parts
                    if refused.judgement.about is About.us]
        self._parts = [refused for refused in self._parts
                       if refused.judgement.about is not About.us]
        for held in (self._held, self._refused_twice):
            for name, refused in list(held.items()):
                if refused.judgement.about is About.us:
                    del held[name]
                    released.append(refused.transaction)
        return released

    def _was_refused(self, judgement: Judgement) -> bool:
        """Return True if it was so at an earlier attempt, and others were
        accepted since."""
        return self._memory.has_accepted_others(
            self._message_id, judgement.words)

    def close(self) -> None:
        """Remember what was refused, for the next attempt."""
        if self.rejection is None:
            for words in {judgement.words for judgement in
                          self.held.values()}:
                self._memory.note_refused(self._message_id, words)

    # When everything else is settled.

    def conclude(self) -> Tuple[Orders, List[Decision]]:
        """Decide on what is held, now that all others are settled."""
        if self.is_over:
            return Orders(halt=True), []
        if self._parts:
            # The trial told nothing.
            return Orders(), []
        again = self._once_more()
        if again:
            return Orders(again=again), []
        if self._refused_twice:
            return Orders(), self._decide_on_refused_twice()
        if self._held and not self.has_accepted:
            return self._conclude_alone()
        return Orders(), []

    def _once_more(self) -> Tuple[Transaction, ...]:
        """Return what goes once more: others were accepted meanwhile."""
        names = [name for name, refused in self._held.items()
                 if name in self._followed and _may_be_own(refused.judgement)]
        self._retried.update(
            (name, self._held[name].judgement.words) for name in names)
        return tuple(self._held.pop(name).transaction for name in names)

    def _decide_on_refused_twice(self) -> List[Decision]:
        """Charge the recipients who were refused at both tries.

        Recipients are spared if the server, after the same words, accepted
        somebody else at the second try.
        """
        twice, self._refused_twice = self._refused_twice, {}
        return [Decision(name, refused.judgement,
                         refused.judgement.words not in self._passing)
                for name, refused in twice.items()]

    def _conclude_alone(self) -> Tuple[Orders, List[Decision]]:
        """Decide though nobody of this post was served."""
        first = next(iter(self._held.values())).judgement
        is_few = self._count <= FEW_RECIPIENTS
        if not (is_few and first.about is None):
            return self._conclude_on(first)
        if any(name in self._suspects for name in self._held):
            if not self._was_refused(first):
                return self._conclude_on(first)
        decided = [Decision(name, refused.judgement, True)
                   for name, refused in self._held.items()]
        self._held.clear()
        return Orders(), decided


def _may_be_own(judgement: Judgement) -> bool:
    return judgement.about in (None, About.message)


def _without(transaction: Transaction, names: Tuple[str, ...]) -> Transaction:
    return transaction._replace(recipients=tuple(
        name for name in transaction.recipients if name not in names))


def _halves(transaction: Transaction) -> Tuple[Transaction, ...]:
    names = transaction.recipients
    middle = (len(names) + 1) // 2
    return tuple(transaction._replace(recipients=half)
                 for half in (names[:middle], names[middle:]) if half)
