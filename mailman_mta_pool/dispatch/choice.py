# SPDX-License-Identifier: GPL-3.0-or-later
"""Which of several relays gets the next transaction.

The relays pull: an agent that could take a transaction asks whether its relay
may have the next one.  `Choice` says yes, or names the relay whose turn it
is, which the caller wakes.  That relay has room, so it takes the transaction,
and nobody waits for a relay that cannot.
"""

from public import public
from typing import Any, Callable, Dict, List, Optional, Sequence


# A relay is owed so many times its weight at most.
MOST_OWED = 1000


@public
class Choice:
    """Smooth weighted round robin over the relays of the best priority.

    Each relay has a balance.  For a transaction everybody who can take it is
    paid its weight, and the one with the highest balance takes it and pays
    what all were paid together.  So of as many transactions as the weights
    amount to each relay gets exactly its weight, well mixed; and a relay that
    could not take part is neither owed anything afterwards, nor in debt.  A
    relay whose connections are still being opened takes part: what the others
    get meanwhile is made up for.

    A relay at a limit of ours is owed nothing.

    :ivar waits: True if nobody takes what a relay at its ceiling is to have.
    :ivar pays_full: True if what others take while a relay is at its ceiling
        is made up for, too.
    """

    def __init__(self, candidates: Sequence[Any]) -> None:
        """Go on with the balances that the candidates have.

        These are kept from post to post, or the first relay would get all
        posts of one transaction.

        :param candidates: The relays; `ICandidate`s.  Of equal ones the
            earlier one goes first.
        """
        self._candidates = list(candidates)
        self.waits = self.pays_full = False

    def __repr__(self) -> str:
        shown = ', '.join(f'{candidate.name} {candidate.balance:+d}'
                          for candidate in self._candidates)
        return f'<Choice {shown}>'

    @property
    def eligible(self) -> List[Any]:
        """The relays of the best priority: they get everything.

        Those are the available ones, or all where none is available: these
        are tried all the same.  A worse priority is for when all better ones
        are unavailable, not for when they are busy.
        """
        usable = [candidate for candidate in self._candidates
                  if candidate.is_available] or self._candidates
        best = min((candidate.priority for candidate in usable), default=0)
        return [candidate for candidate in usable
                if candidate.priority == best]

    def ask(self, asker: Any) -> Optional[Any]:
        """Return the relay whose turn it is.

        :param asker: The relay that could take the next transaction, and does
            so if it is what is returned.
        :return: The asker, whose turn this was; another relay, which has room
            and is to be woken, or is waited for; or None, if the asker is not
            eligible and all that are eligible are busy.  An agent that is not
            to take it asks again when it is woken: after a relay became
            available or unavailable all have to be.
        """
        eligible = self.eligible
        able = [candidate for candidate in eligible
                if self.waits or candidate is asker or candidate.has_room]
        if not able:
            return None
        turn = max(able, key=_claim)
        if turn is asker:
            for candidate in eligible:
                if candidate is asker or self._is_paid(candidate):
                    candidate.balance += candidate.weight
                    turn.balance -= candidate.weight
        return turn

    def first_of(self, candidates: Sequence[Any]) -> Any:
        """Return the relay that goes before all others, if it can.

        :param candidates: Relays, at least one.
        """
        return max(candidates, key=_claim)

    def _is_paid(self, candidate: Any) -> bool:
        """Return True if a relay is owed something for what another takes."""
        is_full = candidate.is_full and not self.pays_full
        return not (is_full or candidate.is_limited) and (
            candidate.balance < MOST_OWED * candidate.weight)

    def turns(self, count: int, candidates: Sequence[Any],
              may_start: Callable[[Any], bool],
              start: Callable[[Any], None]) -> int:
        """Start so many, each where one of the next transactions will go.

        :param count: How many.
        :param candidates: Where.
        :param may_start: Tells whether another one may be started there.
        :param start: Starts one.
        :return: How many could not be started anywhere.
        """
        ahead: Dict[Any, int] = {}
        for number in range(count):
            able = [candidate for candidate in candidates
                    if may_start(candidate)]
            if not able:
                return count - number
            turn = max(able, key=lambda candidate: (
                _claim(candidate) + ahead.get(candidate, 0)))
            for candidate in able:
                ahead[candidate] = ahead.get(candidate, 0) + candidate.weight
                ahead[turn] = ahead.get(turn, 0) - candidate.weight
            start(turn)
        return 0


def _claim(candidate: Any) -> int:
    claim: int = candidate.balance + candidate.weight
    return claim
