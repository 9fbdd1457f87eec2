# SPDX-License-Identifier: GPL-3.0-or-later
"""Who tries again, and how often.

All decisions of one post about another attempt are in this file.  `RULES` is
the table; `Retry` keeps the counts that its bounds are compared with.
"""

import enum
import time

from mailman_mta_pool.errors import PhaseTimeout, RelayUnavailable
from mailman_mta_pool.settings import DeliverySettings
from mailman_mta_pool.wire.transaction import Transaction
from public import public
from typing import Callable, Dict, Iterable, List, NamedTuple, Optional


# Pauses between two attempts to open a connection, in seconds.
FIRST_PAUSE, LAST_PAUSE = 0.5, 5.0
# So many transactions in a row, each tried as often as allowed, without
# anything else getting through: it is not the transactions that are at fault.
HOPELESS = 3


@public
class Event(enum.Enum):
    """What went wrong."""

    cannot_open = 'no connection can be opened, and waiting may help'
    cannot_open_for_all = 'no connection can be opened, but others are open'
    cannot_open_here = 'no connection can be opened, but another relay is up'
    cannot_open_ever = 'no connection can be opened, and waiting is no help'
    lost_stale = 'a connection kept from an earlier post was lost at once'
    lost_first = 'a fresh connection was lost with its first transaction'
    lost_later = 'a connection was lost that had answered to others'
    told_apart = 'some recipients of a transaction were answered to'
    in_doubt = 'the reply to the end of the content was lost'
    no_progress = 'connections are lost again and again'


@public
class Rule(NamedTuple):
    """What is done about an event.

    :ivar who: Who tries again.
    :ivar bound: How often, or for how long.
    :ivar attempts: What the event adds to the attempts of each transaction
        that goes again; a transaction may have `[delivery] attempts` of them.
    """

    who: str
    bound: str
    attempts: float = 0.0


RULES: Dict[Event, Rule] = {
    Event.cannot_open: Rule(
        'the same agent, after a pause of 0.5 s that doubles to 5 s',
        '[delivery] patience since the first failure'),
    Event.cannot_open_for_all: Rule(
        'nobody: the other agents take the work',
        'until a connection is opened after an outage'),
    Event.cannot_open_here: Rule(
        'nobody: the other relay takes the work',
        "until the relay's breaker lets another attempt be made"),
    Event.cannot_open_ever: Rule(
        'nobody: the relay is unavailable', 'at once'),
    Event.lost_stale: Rule(
        'the transactions, on a fresh connection', 'once a connection'),
    Event.lost_first: Rule(
        'the transactions, at once, on a fresh connection',
        '[delivery] attempts, over each relay', attempts=1.0),
    # The transactions only happened to be in flight.
    Event.lost_later: Rule(
        'the transactions, at once, on a fresh connection',
        'ten times [delivery] attempts', attempts=0.1),
    Event.told_apart: Rule(
        'first those who were accepted, last the one the server was told of '
        'when the connection ended', 'each time there are fewer'),
    Event.in_doubt: Rule(
        'nobody in this turn: the retry queue', 'never'),
    Event.no_progress: Rule(
        'nobody: the relay is unavailable',
        'a timeout for each agent, three exhausted transactions, or three '
        'losses for each agent or attempt'),
    }
public(RULES=RULES)


@public
class ConnectionUse:
    """What happens while an agent uses one connection.

    :ivar lost: Transactions of which nothing was accepted, to go again first.
    :ivar suspects: Transactions that may have ended it, to go again last.
    :ivar is_fruitless: True until the server has answered to anybody.
    :ivar is_stale: True while the connection, kept from an earlier post, has
        answered nothing in this one.
    :ivar is_lazy: True if the connection connects when it first sends.
    :ivar answers_before: What `Retry.answers` was with its last answer, or
        when it was last given something after it had had nothing to do.
    :ivar in_hand: How many transactions it has that are not settled.
    :ivar known: The lessons that the relay had taught us when it was opened.
    :ivar accepted: How many messages the server has accepted over it.
    :ivar is_condemned: True if the server wants fewer connections, or other
        processes wait for this one: it is to be given nothing more, and
        closed.
    """

    def __init__(self, answers: int, is_stale: bool = False,
                 is_lazy: bool = False,
                 known: Iterable[str] = ()) -> None:
        self.lost: List[Transaction] = []
        self.suspects: List[Transaction] = []
        self.is_fruitless = True
        self.is_stale = is_stale
        self.is_lazy = is_lazy
        self.answers_before = answers
        self.in_hand = self.accepted = 0
        self.known = frozenset(known)
        self.is_condemned = False

    @property
    def event(self) -> Event:
        """What the loss of this connection is to its transactions."""
        if self.is_stale:
            return Event.lost_stale
        return Event.lost_first if self.is_fruitless else Event.lost_later


@public
class Retry:
    """The counts of one post over one relay.

    :ivar is_outage: True if there was a pause since a connection was opened.
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
        self.is_outage = False
        self.answers = 0

    # Of connections that cannot be opened.

    def opening(self) -> None:
        """Take note that an agent begins to open a connection."""
        if not self.is_outage:
            self._since = self._clock()

    def opened(self) -> None:
        """Take note that a connection could be opened."""
        self.is_outage = False
        self._pause = FIRST_PAUSE

    def cannot_open(self, error: RelayUnavailable, others: int,
                    has_other_relay: bool = False) -> Event:
        """Say which event it is that no connection can be opened.

        :param error: Why not.
        :param others: How many other agents have a connection, or may yet
            have one.
        :param has_other_relay: True if another relay can take all that waits.
        """
        if others:
            return Event.cannot_open_for_all
        if has_other_relay:
            # When there is none any more, the patience begins.
            self.is_outage = False
            return Event.cannot_open_here
        self.is_outage = True
        if (not error.waiting_helps or
                self._since + self._patience <= self._clock()):
            return Event.cannot_open_ever
        return Event.cannot_open

    def pause(self) -> float:
        """Return how long to wait before the next try, in seconds."""
        remaining = self._since + self._patience - self._clock()
        return max(0.0, min(self.rest(), remaining))

    def rest(self) -> float:
        """Return for how long another relay takes the work, in seconds."""
        pause = self._pause
        self._pause = min(2 * self._pause, LAST_PAUSE)
        return pause

    # Of connections that are lost.

    def progress(self) -> None:
        """Take note that the server has answered."""
        self._exhausted = self._losses = self._timeouts = 0
        self.answers += 1

    def may_go_again(self, tried: float) -> bool:
        """Say whether a transaction is to be sent once more.

        :param tried: Its attempts by `RULES`, this one included.
        """
        if tried < self._attempts:
            return True
        self._exhausted += 1
        return False

    def may_be_tried(self, tried: float, relays: int) -> bool:
        """Say whether a transaction may be sent to some other relay.

        :param tried: Its attempts by `RULES`, over all relays.
        :param relays: How many relays there are; each may be tried as often.
        """
        return tried < self._attempts * relays

    def lost(self, error: Exception, use: ConnectionUse,
             agents: int) -> Optional[RelayUnavailable]:
        """Count a lost connection, and say whether it is the relay's failure.

        A timeout has cost so much that one for each agent is enough.  What is
        in doubt is not sent again, but to go on for ever would leave
        everybody in doubt.

        :param error: How it was lost.
        :param use: What happened on it.
        :param agents: How many are at work.
        :return: The verdict, or None as long as there is none.
        """
        if use.event is Event.lost_stale:
            return None
        if use.answers_before == self.answers:
            self._losses += 1
            self._timeouts += isinstance(error, PhaseTimeout)
        if (self._timeouts < agents and self._exhausted < HOPELESS and
                self._losses < HOPELESS * max(agents, self._attempts)):
            return None
        return RelayUnavailable(
            self._relay, 'dialogue',
            f'connections are lost without any progress: {error}')
