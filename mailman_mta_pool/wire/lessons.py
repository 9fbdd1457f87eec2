# SPDX-License-Identifier: GPL-3.0-or-later
"""What the conversations with one server have taught us about it."""

import enum

from mailman_mta_pool.wire.capabilities import Capabilities
from public import public
from typing import List, Optional


@public
class Chunking(enum.Enum):
    """What is known of a server's CHUNKING (RFC 3030), where it offers it."""

    #: Never seen at work.
    untried = 'untried'
    #: One conversation has sent its first BDAT and waits for the answer;
    #: all others use DATA meanwhile.
    on_trial = 'on trial'
    #: Seen at work.
    proved = 'proved'
    #: Tried and found wanting.
    off = 'off'


@public
class Lessons:
    """Shared by all connections to one server.

    :ivar chunking: Whether its CHUNKING works.
    :ivar max_recipients: The most recipients that it takes in a transaction;
        None as long as nothing is known.
    :ivar server: What it offered last; None before the first connection.
    :ivar verp_refused: Has it refused to make senders, though it offers to?
    :ivar knows_ehlo: Does it answer EHLO in the middle of a dialogue?
    """

    def __init__(self) -> None:
        self.chunking = Chunking.untried
        self.max_recipients: Optional[int] = None
        self.server: Optional[Capabilities] = None
        self.verp_refused = False
        self.knows_ehlo = True
        # Whoever takes it out makes the trial; list.pop() is atomic.
        self._permit: List[bool] = [True]

    def learn_server(self, server: Capabilities) -> None:
        """Remember what it offers, as it says with each connection.

        :param server: Its answer to EHLO.
        """
        self.server = server
        rcptmax = server.limits.rcptmax
        if rcptmax is not None:
            self.learn_limit(rcptmax)

    def learn_limit(self, recipients: int) -> None:
        """Remember that it takes no more recipients in a transaction.

        :param recipients: One or more; the smallest that was ever learnt
            holds.
        """
        known = self.max_recipients
        if known is None or recipients < known:
            self.max_recipients = max(1, recipients)

    def claim_trial(self) -> bool:
        """Ask to be the one that tries CHUNKING.

        :return: True to one conversation at a time, as long as nothing is
            known.
        """
        if self.chunking is not Chunking.untried:
            return False
        try:
            self._permit.pop()
        except IndexError:
            return False
        self.chunking = Chunking.on_trial
        return True

    def end_trial(self, verdict: Chunking) -> None:
        """Say how the trial ended; `untried` if it told nothing."""
        self.chunking = verdict
        if verdict is Chunking.untried:
            self._permit.append(True)
