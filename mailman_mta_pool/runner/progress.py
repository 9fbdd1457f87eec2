# SPDX-License-Identifier: GPL-3.0-or-later
"""How far a post has come, over all its queue entries.

A post that is put back, or tried again, is another queue entry.  Its metadata
says how many recipients the whole post has, and what became of those whom
the entry does not name.
"""

import secrets

from mailman_mta_pool.journal.entry import WHICH_QUEUE_KEY
from mailman_mta_pool.journal.records import Settled
from mailman_mta_pool.posts import (
    Carried,
    carried_in,
    FINAL_OUTCOMES,
    OUTCOMES,
)
from mailman_mta_pool.settlement.causes import Cause, Causes
from mailman_mta_pool.settlement.ledger import Ledger
from public import public
from typing import Any, Counter, Dict, List, Optional


# So many causes of failures are told of a post.
CAUSES = 8


@public
class Progress:
    """The progress of the post whose queue entry is being delivered.

    :ivar entry: The name of the queue entry; '' if it is not known.
    :ivar origin: The same for all entries of the post, and for no others.
    :ivar total: How many recipients the whole post has.
    :ivar size: How many recipients this entry has.
    :ivar is_continued: True if the post has had another entry before.
    :ivar before: What became of those whom this entry does not name.
    :ivar causes_before: Why some of them failed.
    :ivar is_unshunted: True if this entry was in the `shunt` queue.
    :ivar is_put_back: True if recipients went back into the `out` queue.
    """

    def __init__(self, msgdata: Dict[str, Any], size: int = 0,
                 entry: str = '', ledger: Optional[Ledger] = None,
                 earlier: Settled = Settled()) -> None:
        """Begin with what the metadata of the entry says.

        :param msgdata: The metadata.
        :param size: How many recipients it names.
        :param entry: The name of the entry, or ''.
        :param ledger: The settlement of its recipients; None if there is none
            yet.
        :param earlier: What its journal says.
        """
        self._ledger = Ledger() if ledger is None else ledger
        self._earlier = earlier
        self._causes, self._untried_causes = Causes(), Causes()
        self._shunted = self._discarded = self._untried = 0
        self._broken = 0
        self.entry = entry
        self.size = self.total = size
        self.origin = entry or secrets.token_hex(8)
        self.before: Dict[str, int] = {}
        self.causes_before: List[Cause] = []
        self.is_put_back = False
        self.is_unshunted = WHICH_QUEUE_KEY in msgdata
        carried = carried_in(msgdata)
        self.is_continued = carried is not None
        if carried is not None:
            self.total = max(size, carried.total)
            self.origin = carried.origin
            self.before = dict(carried.outcomes)
            self.causes_before = [Cause(*each) for each in carried.causes]

    # What becomes of the recipients.

    def attempt(self) -> Dict[str, int]:
        """Return how many recipients of this entry had which outcome.

        Those accepted and refused include the ones that the journal knew.
        Those shunted and discarded are among the others, too.
        """
        ledger, earlier = self._ledger, self._earlier
        # Some refusals may be in both.
        refused = earlier.bounced.keys() | ledger.bounced.keys() if (
            earlier.bounced) else ledger.bounced
        failed = len(ledger.deferred) + len(ledger.untried)
        return {
            'accepted': len(earlier.served) + len(ledger.served),
            'refused': len(refused),
            'deferred': failed - ledger.in_doubt,
            'in_doubt': ledger.in_doubt,
            'shunted': self._broken or self._shunted,
            'discarded': self._discarded}

    def outcomes(self) -> Dict[str, int]:
        """Return what became of the recipients of the post, each once."""
        return self._with_before(self._each_once())

    def _each_once(self) -> Dict[str, int]:
        attempt = self.attempt()
        if self._broken or self._discarded:
            attempt['deferred'] = attempt['in_doubt'] = 0
        if self._broken:
            # Those refused have not been reported.
            attempt['refused'] = 0
        return attempt

    def _with_before(self, outcomes: Dict[str, int]) -> Dict[str, int]:
        return {outcome: outcomes.get(outcome, 0) + self.before.get(outcome, 0)
                for outcome in OUTCOMES}

    def causes(self) -> List[Cause]:
        """Return why recipients of the post failed, the most first.

        It is for the thread that tells of the post while it is in delivery.
        """
        return self._all_causes(self._causes)

    def _all_causes(self, causes: Causes) -> List[Cause]:
        """Return the causes, those of the ledger by way of `causes`."""
        ledger = self._ledger
        causes.read('refused', ledger.bounced)
        causes.read('deferred', ledger.deferred)
        causes.read('shunted', ledger.rejected)
        return _merged(self.causes_before, [
            *causes.most(CAUSES), *self._untried_causes.most(CAUSES)])

    def note_untried(self, why: str) -> None:
        """Take note of why nobody could be tried any more.

        :param why: The reason, as somebody has said it.
        """
        self._untried_causes.add(
            'deferred', why, len(self._ledger.untried) - self._untried)
        self._untried = len(self._ledger.untried)

    def note_discarded(self, count: int) -> None:
        """Take note of recipients who are not tried again.

        :param count: How many these are.
        """
        self._discarded += count

    def note_broken(self, count: int) -> None:
        """Take note that the runner shunts all who are not served.

        :param count: How many these are.
        """
        self._broken = count

    def note_put(self, queue: str, count: int) -> None:
        """Take note that recipients have another queue entry now.

        :param queue: The queue of that entry.
        :param count: How many these are.
        """
        if queue == 'shunt':
            self._shunted += count
        elif queue == 'out':
            self.is_put_back = True

    def note_divided(self, left: int) -> None:
        """Take note that parts of the post are posts of their own.

        :param left: How many recipients are left to this one.
        """
        if left:
            self.total = left
            self.before, self.causes_before = {}, []
            self.is_put_back = False

    # What another queue entry is told.

    def carried(self, queue: str) -> Dict[str, Any]:
        """Return what the metadata says of recipients that are put somewhere.

        :param queue: The queue: `out`, `retry` or `shunt`.
        """
        attempt = self._each_once()
        # The other thread may be counting at this moment.
        causes = self._all_causes(Causes())
        if queue == 'retry':
            # The entry names them.
            attempt['deferred'] = attempt['in_doubt'] = 0
        elif queue == 'shunt':
            attempt['shunted'] = 0
        if queue != 'out':
            causes = [cause for cause in causes
                      if cause.outcome in FINAL_OUTCOMES]
        return Carried(
            self.total, self.origin, {
                outcome: count for outcome, count in self._with_before(
                    attempt).items() if count},
            # Stock Mailman has to read them, so no class of ours.
            [(each.outcome, each.reply, each.number) for each in causes],
            ).to_value()

    @staticmethod
    def of_part(size: int) -> Dict[str, Any]:
        """Return what the metadata says of a part of a divided post.

        :param size: How many recipients the part has.
        """
        return Carried(size, secrets.token_hex(8), {}, []).to_value()


def _merged(before: List[Cause], now: List[Cause]) -> List[Cause]:
    counts = Counter({
        (cause.outcome, cause.reply): cause.number for cause in before})
    for cause in now:
        counts[cause.outcome, cause.reply] += cause.number
    return [Cause(*key, count) for key, count in counts.most_common(CAUSES)]
