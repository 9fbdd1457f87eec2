# SPDX-License-Identifier: GPL-3.0-or-later
"""The meaning of several answers of one post together.

Some refusals mean one thing if everybody gets them, and another if only some
do.  `Verdict` holds these until the answers to others tell.
"""

from mailman_mta_pool.settlement.table import Meaning, meaning_of, needs_login
from mailman_mta_pool.wire.replies import Reply
from mailman_mta_pool.wire.transaction import Outcome
from public import public
from typing import Dict, Iterator, Optional, Set, Tuple


# How many recipients in how many domains must be refused with 5.7.x, and how
# many transactions with 5xx at their end, before it counts as a word about
# all of them.
DENIED_RECIPIENTS, DENIED_DOMAINS = 3, 2
REJECTED_TRANSACTIONS = 3

# A recipient, what the answer means after all, and the answer.
Decision = Tuple[str, Meaning, Reply]
public(Decision=Decision)


@public
class Verdict:
    """The answers that are held, and what was found out by them.

    :ivar rejection: The reply that rejected the message for all, or None.
    :ivar denial: The reply that refused *us*, or None.
    :ivar is_denied_to_all: True as long as no answer shows that the server
        would relay for us.
    """

    def __init__(self) -> None:
        """Begin with nothing known."""
        self.rejection: Optional[Reply] = None
        self.denial: Optional[Reply] = None
        self.is_denied_to_all = True
        self._denied: Dict[str, Reply] = {}
        self._denied_domains: Set[str] = set()
        self._needs_login = False
        self._rejected: Dict[str, Reply] = {}
        self._rejected_transactions = 0

    @property
    def halts(self) -> bool:
        """True if nothing more of the post is to be sent."""
        return self.rejection is not None or self.denial is not None

    @property
    def is_holding(self) -> bool:
        """True if some refusals wait for a decision."""
        return bool(self._denied or self._rejected)

    def take(self, recipient: str, meaning: Meaning, reply: Reply) -> bool:
        """Take a refusal into account.

        :param recipient: Who was refused.
        :param meaning: What the table says of it.
        :param reply: The refusal.
        :return: True if it is held: `weigh` or `close` decides on it.
        """
        if meaning is Meaning.denied_if_all:
            self._denied[recipient] = reply
            self._denied_domains.add(recipient.rpartition('@')[2].lower())
            # "Authentication required" needs no second word.
            self._needs_login = self._needs_login or needs_login(reply)
        elif meaning is Meaning.rejected_if_all:
            self._rejected[recipient] = reply
        else:
            if meaning is Meaning.rejected:
                self.rejection = self.rejection or reply
            elif meaning is Meaning.denied:
                self.denial = self.denial or reply
            return False
        return True

    def weigh(self, outcome: Outcome,
              has_served: bool) -> Iterator[Decision]:
        """Decide on the refusals that are held, if that is possible now.

        :param outcome: The last outcome, whose refusals have been taken.
        :param has_served: True if anybody has got the post.
        """
        if self._denied:
            yield from self._weigh_denied()
        if self._rejected:
            yield from self._weigh_rejected(outcome, has_served)

    def _weigh_denied(self) -> Iterator[Decision]:
        if self.denial is None and not self.is_denied_to_all:
            yield from _decided(self._denied, Meaning.bounced)
        elif self.denial is not None or self._is_about_us():
            self.denial = self.denial or next(iter(self._denied.values()))
            yield from _decided(self._denied, Meaning.denied)

    def _is_about_us(self) -> bool:
        """Return True if enough were refused, and nobody was accepted."""
        return self._needs_login or (
            len(self._denied) >= DENIED_RECIPIENTS and
            len(self._denied_domains) >= DENIED_DOMAINS)

    def _weigh_rejected(self, outcome: Outcome,
                        has_served: bool) -> Iterator[Decision]:
        if self.rejection is None:
            ended = [result for result in outcome.results
                     if meaning_of(result) is Meaning.rejected_if_all]
            self._rejected_transactions += bool(ended)
            if len(ended) > 1:
                self.rejection = ended[0].reply
            elif has_served:
                yield from _decided(self._rejected, Meaning.bounced)
            elif self._rejected_transactions >= REJECTED_TRANSACTIONS:
                self.rejection = next(iter(self._rejected.values()))
        if self.rejection is not None:
            yield from _decided(self._rejected, Meaning.rejected)

    def close(self) -> Iterator[Decision]:
        """Decide on all refusals that are held: no more outcomes come."""
        yield from _decided(self._denied, Meaning.bounced)
        if self._rejected:
            self.rejection = self.rejection or next(
                iter(self._rejected.values()))
            yield from _decided(self._rejected, Meaning.rejected)


def _decided(held: Dict[str, Reply], meaning: Meaning) -> Iterator[Decision]:
    """Yield a decision on everybody who is held, and hold them no longer."""
    for recipient, reply in held.items():
        yield recipient, meaning, reply
    held.clear()
