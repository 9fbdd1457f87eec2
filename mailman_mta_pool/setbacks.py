# SPDX-License-Identifier: GPL-3.0-or-later
"""How much of a mail server's failures to bear before it is given up."""

import time

from mailman_mta_pool.errors import PhaseTimeout, RelayUnavailable
from mailman_mta_pool.settings import DeliverySettings
from public import public
from typing import Callable, Optional


# Pauses grow from the first to the last of these, in seconds.
FIRST_PAUSE, LAST_PAUSE = 0.5, 5.0
# So many transactions in a row, each tried as often as allowed, without
# anything else getting through: it is not the transactions that are at fault.
HOPELESS = 3


@public
class Setbacks:
    """What has gone wrong with one relay during one post.

    It is not thread-safe; `Dispatch` calls it under its own lock.

    :ivar outage: Has there been a pause since a connection was last opened?
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
        self._exhausted = 0
        self._timeouts = 0
        self._since = clock()
        self._pause = FIRST_PAUSE
        self.outage = False

    def progress(self) -> None:
        """Something was answered: the server is at work."""
        self._exhausted = self._timeouts = 0

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

    def lost(self, error: Exception, workers: int,
             ) -> Optional[RelayUnavailable]:
        """A connection was lost; too many of them are the relay's failure.

        A timeout has cost so much that one for each worker is enough.

        :param error: How it was lost.
        :param workers: How many are at work.
        :return: The verdict, or None as long as there is none.
        """
        self._timeouts += isinstance(error, PhaseTimeout)
        if self._timeouts < workers and self._exhausted < HOPELESS:
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
