# SPDX-License-Identifier: GPL-3.0-or-later
"""The case of one relay in a post: what it has said, and what that proves.

What one relay accepts proves nothing about what another one refuses.  So each
relay of a post is judged by its own answers alone.
"""

from mailman_mta_pool.settings import About
from mailman_mta_pool.settlement.contrast import Contrast
from mailman_mta_pool.settlement.memory import Memory
from mailman_mta_pool.settlement.orders import Notice
from mailman_mta_pool.settlement.rejection import Rejection
from mailman_mta_pool.settlement.table import Judge, Judgement
from mailman_mta_pool.wire.transaction import Stage, Transaction
from public import public
from typing import Dict, List, Optional


@public
class Case:
    """The answers of one relay to the transactions of one post.

    :ivar relay: The name of the relay.
    :ivar judge: Says what its answers are about.
    :ivar memory: What the relay said to other posts.
    :ivar contrast: Its refusals that prove nothing by themselves.
    :ivar rejection: Its refusals of the content.
    :ivar used_up: Its refusal that says that a quota is used up, or None.
    :ivar verp_refusals: How many recipients in a row it has refused with the
        sender of VERP only.
    :ivar answers: Its latest refusals that are not about the relay, by
        recipient.  These recipients are sent to no other relay.
    :ivar is_given_up: True if nothing more is sent to it in this turn, and
        other relays have the rest.
    """

    def __init__(self, relay: str, judge: Judge, memory: Memory,
                 contrast: Contrast, rejection: Rejection) -> None:
        """Begin with nothing said.

        :param relay: The name of the relay.
        :param judge: Says what its answers are about.
        :param memory: What the relay said to other posts.
        :param contrast: Empty.
        :param rejection: Likewise.
        """
        self.relay = relay
        self.judge = judge
        self.memory = memory
        self.contrast = contrast
        self.rejection = rejection
        self.used_up: Optional[Judgement] = None
        self.verp_refusals = 0
        self.answers: Dict[str, Judgement] = {}
        self.is_given_up = False

    @property
    def denial(self) -> Optional[Judgement]:
        """The refusal that is about *us*, or None."""
        return self.contrast.denial or self.rejection.denial

    @property
    def halts(self) -> bool:
        """True if the relay is not to get the rest of the post."""
        return (self.used_up is not None or self.rejection.is_over or
                self.contrast.denial is not None)

    @property
    def held(self) -> Dict[str, Judgement]:
        """The undecided refusals, by recipient."""
        return {**self.contrast.held, **self.rejection.held}

    def exhaust(self, notice: Notice) -> None:
        """Take note that a quota is used up."""
        self.used_up = Judgement(
            notice.about, Stage.rcpt, notice.reply, notice.wait,
            notice.remedy)

    def has_answered(self, transaction: Transaction) -> bool:
        """Return True if the relay has refused one of these recipients."""
        return not self.answers.keys().isdisjoint(transaction.recipients)

    def release_denied(self) -> List[Transaction]:
        """Return whom the relay refused in words that are known to be of us.

        The relay has said nothing about these recipients, so that another
        relay may get them.  What is held in words that only seem to be about
        us stays held.
        """
        if self.denial is None or self.denial.about is not About.us:
            return []
        released = [*self.contrast.release_denied(),
                    *self.rejection.release_denied()]
        for transaction in released:
            for recipient in transaction.recipients:
                self.answers.pop(recipient, None)
        return released
