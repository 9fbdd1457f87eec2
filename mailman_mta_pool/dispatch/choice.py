# SPDX-License-Identifier: GPL-3.0-or-later
"""Which of several relays gets the next transaction.

The relays pull: an agent that could take a transaction asks whether its relay
may have the next one.  `Choice` says yes, or names the relay whose turn it
is, which the caller wakes.  That relay has room, so it takes the transaction,
and nobody waits for a relay that cannot.
"""

from public import public
from typing import Any, Dict, List, Optional, Sequence


@public
class Choice:
    """Smooth weighted round robin over the relays of the best priority.

    Each relay has a balance.  For a transaction everybody who can take it is
    paid its weight, and the one with the highest balance takes it and pays
    what all were paid together.  So of as many transactions as the weights
    amount to each relay gets exactly its weight, well mixed; and a relay that
    could not take part is neither owed anything afterwards, nor in debt.
    """

    def __init__(self, candidates: Sequence[Any]) -> None:
        """All balances are even at first.

        It is to be kept from post to post, or the first relay would get all
        posts of one transaction.

        :param candidates: The relays; `ICandidate`s.  Of equal ones the
            earlier one goes first.
        """
        self._candidates = list(candidates)
        self._balances: Dict[str, int] = {
            candidate.name: 0 for candidate in self._candidates}

    def __repr__(self) -> str:
        shown = ', '.join(f'{name} {balance:+d}'
                          for name, balance in self._balances.items())
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
            and is to be woken; or None, if the asker is not eligible and all
            that are eligible are busy.  An agent that is not to take it asks
            again when it is woken: after a relay became available or
            unavailable all have to be.
        """
        able = [candidate for candidate in self.eligible
                if candidate is asker or candidate.has_room]
        if not able:
            return None
        turn = max(able, key=lambda candidate: (
            self._balances[candidate.name] + candidate.weight))
        if turn is asker:
            for candidate in able:
                self._balances[candidate.name] += candidate.weight
            self._balances[turn.name] -= sum(
                candidate.weight for candidate in able)
        return turn
