# SPDX-License-Identifier: GPL-3.0-or-later
"""How much of a mail server's failures to bear before it is given up."""

import time

from mailman_mta_pool.errors import PhaseTimeout, RelayUnavailable
from mailman_mta_pool.settings import DeliverySettings
from mailman_mta_pool.wire.transaction import Transaction
from public import public
from typing import Callable, List, Optional


# Pauses grow from the first to the last of these, in seconds.
FIRST_PAUSE, LAST_PAUSE = 0.5, 5.0
# So many transactions in a row, each tried as often as allowed, without
# anything else getting through: it is not the transactions that are at fault.
HOPELESS = 3


@public
class Talk:
    """What happens while one connection lasts.

    :ivar lost: The transactions of which nothing was accepted, to go again.
    :ivar suspects: Those that may be what ended it, to go when all have gone.
    :ivar is_fruitless: Has nothing been told of any transaction yet?
    :ivar since: What `Setbacks.answers` was with its last answer, or when it
        was last given something after it had had nothing to do.
    :ivar in_hand: How many transactions it has that are not settled.
    :ivar is_driven: Can it be told to ask again for something to do?
    """

    def __init__(self, since: int) -> None:
        self.lost: List[Transaction] = []
        self.suspects: List[Transaction] = []
        self.is_fruitless = True
        self.since = since
        self.in_hand = 0
        self.is_driven = False


@public
class Setbacks:
    """What has gone wrong with one relay during one post.

    It is not thread-safe; `Dispatch` calls it under its own lock.

    :ivar outage: Has there been a pause since a connection was last opened?
    :ivar answers: How many transactions the server has answered.
    """

    def __init__(self, relay: str, delivery: DeliverySettings,
                 clock: Callable[[], float] = time.monotonic) -> None:
        """Start with a clean slate.

        :param relay: The server as 'host:port'.
        :param delivery: For `attempts` and `patience`.
        :param clock: Seconds that only grow.
        """
        self._relay = relay
        self._attempts = delivery.attempts
        self._patience = delivery.patience
        self._clock = clock
        # Since the last answer: transactions given up, connections lost
        # without having had an answer, and those lost to a timeout.
        self._exhausted = self._losses = self._timeouts = 0
        self._since = clock()
        self._pause = FIRST_PAUSE
        self.outage = False
        self.answers = 0

    def progress(self) -> None:
        """Something was answered: the server is at work."""
        self._exhausted = self._losses = self._timeouts = 0
        self.answers += 1

    def opened(self) -> None:
        """A connection could be opened."""
        self.outage = False
        self._pause = FIRST_PAUSE

    def opening(self) -> None:
        """Somebody begins to open a connection."""
        if not self.outage:
            self._since = self._clock()

    def may_try_again(self, tried: float) -> bool:
        """Say whether a transaction is to be sent once more.

        :param tried: How often it has been sent, and may have been what
            broke the connection.
        """
        if tried < self._attempts:
            return True
        self._exhausted += 1
        return False

    def lost(self, error: Exception, workers: int, since: int,
             ) -> Optional[RelayUnavailable]:
        """A connection was lost; too many of them are the relay's failure.

        A timeout has cost so much that one for each worker is enough.  What
        is in doubt is not sent again, but to go on for ever would leave
        everybody in doubt.

        :param error: How it was lost.
        :param workers: How many are at work.
        :param since: What `answers` was when this connection began to wait.
        :return: The verdict, or None as long as there is none.
        """
        if since == self.answers:
            self._losses += 1
            self._timeouts += isinstance(error, PhaseTimeout)
        if (self._timeouts < workers and self._exhausted < HOPELESS and
                self._losses < HOPELESS * max(workers, self._attempts)):
            return None
        return RelayUnavailable(
            self._relay, 'dialogue',
            f'connections are lost without any progress: {error}')

    def pause(self, error: RelayUnavailable) -> Optional[float]:
        """No connection can be opened: how long to wait before the next try.

        :param error: Why not.
        :return: Seconds; None if waiting does not help, or has been enough.
        """
        self.outage = True
        remaining = self._since + self._patience - self._clock()
        if not error.waiting_helps or remaining <= 0:
            return None
        pause = min(self._pause, remaining)
        self._pause = min(2 * self._pause, LAST_PAUSE)
        return pause
