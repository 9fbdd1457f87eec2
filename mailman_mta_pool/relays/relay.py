# SPDX-License-Identifier: GPL-3.0-or-later
"""One mail server: its pool, and what it has taught us."""

import time
import atexit
import asyncio

from dataclasses import replace
from functools import partial
from mailman_mta_pool.connection import SMTPConnection
from mailman_mta_pool.connection.addresses import Addresses
from mailman_mta_pool.connection.foreign import as_transaction_connection
from mailman_mta_pool.network.border import border
from mailman_mta_pool.relays.access import access_for, name_of
from mailman_mta_pool.relays.factories import connection_for
from mailman_mta_pool.relays.limiting import close_limiter, connect_allowance
from mailman_mta_pool.relays.pool import EndlessSlots, Pool
from mailman_mta_pool.relays.slots import slot_directory, Slots
from mailman_mta_pool.relays.throttle import Throttle
from mailman_mta_pool.settings import PoolSettings, RelaySettings
from mailman_mta_pool.settlement.memory import Memory
from mailman_mta_pool.wire.lessons import Lessons
from public import public
from typing import Any, Collection, Dict, List, Sequence, Tuple


@public
class Relay:
    """A mail server that takes our mail, and the connections to it.

    :ivar settings: Which server, and how to talk to it, as the files say now.
    :ivar others: The other relays that the mail in hand may go over.
    :ivar addresses: What is known of its addresses; of the network thread.
    :ivar access: How we log in there; likewise.
    :ivar balance: What it is owed of the transactions; see `Choice`.
        Likewise.
    :ivar lessons: What it has taught us; likewise.
    :ivar pool: The connections, likewise.
    :ivar throttle: How fast, and over how many of them, it is sent to;
        likewise.
    :ivar memory: What it said to the posts of the last hour; likewise.
    :ivar trouble: Why it could not be used the last time, in its own words;
        '' if it could, or was not tried yet.  Likewise.
    """

    def __init__(self, settings: RelaySettings, pool: PoolSettings,
                 var_directory: str = '') -> None:
        """Nothing is opened before it is needed.

        :param settings: Which server, and how to talk to it.
        :param pool: How many connections, and for how long.
        :param var_directory: Mailman's $VAR_DIR, where the processes of the
            host share the connections of a relay with `max_connections`, and
            tell each other what became of logins; '' for a process that is
            on its own.
        """
        self.settings = settings
        self.pool_settings = pool
        self.others: Tuple['Relay', ...] = ()
        self.access = access_for(settings, var_directory)
        self.balance = 0
        self.lessons = Lessons(time.monotonic)
        self.pool = Pool(
            self._connection, pool, slots=self._slots(var_directory),
            allowance=partial(connect_allowance, settings))
        self.addresses = Addresses(
            relay=self.name, has_other_relay=self._has_other_relay,
            next_attempt=self.pool.next_attempt)
        self.throttle = Throttle(self.name, pool.max_connections)
        self.memory = Memory(time.monotonic)
        self.trouble = ''

    @property
    def name(self) -> str:
        """See `name_of`."""
        return name_of(self.settings)

    @property
    def is_up(self) -> bool:
        """False if it cannot be used at present, as far as is known."""
        return self.addresses.is_up

    def _has_other_relay(self) -> bool:
        return any(other.is_up for other in self.others)

    def __repr__(self) -> str:
        return f'<Relay {self.name} {self.pool!r}>'

    def _slots(self, var_directory: str) -> Any:
        settings = self.settings
        if not (settings.max_connections and var_directory):
            return EndlessSlots()
        return Slots(
            slot_directory(var_directory, settings.name, settings.host,
                           settings.port, settings.user),
            self.name, settings.max_connections)

    def _connection(self) -> Any:
        connection = connection_for(self.settings, self.lessons)
        if isinstance(connection, SMTPConnection):
            connection.addresses = self.addresses
            connection.access = self.access
        return as_transaction_connection(
            connection, self.name, self.settings.wire.timeouts.quit,
            [self.settings.password])


# Which server, and how many connections: what a relay is made of.
_Key = Tuple[RelaySettings, PoolSettings]


def _lasting(key: _Key) -> _Key:
    """Leave out what may change while the connections stay open."""
    settings, pool = key
    return replace(
        settings, priority=0, weight=1, lists=(), message_rate=(),
        recipient_rate=()), pool


class _Kept:
    """The relays that this process delivers to, kept from post to post."""

    def __init__(self) -> None:
        self._relays: Dict[_Key, Relay] = {}
        # True if the network thread was there when they were last asked for.
        self._was_running = False
        atexit.register(self.end)

    def get(self, wanted: Sequence[_Key], named: Collection[_Key],
            var_directory: str) -> List[Relay]:
        is_running = border.is_running
        if self._was_running and not is_running:
            # What belonged to a thread that has ended is of no use.
            self._abandon()
        self._was_running = is_running
        # The plugin's own configuration file may have been edited.
        kept = set(map(_lasting, named))
        self._close([key for key in self._relays if key not in kept])
        for key in named:
            self._get(key, var_directory)
        relays = [self._get(key, var_directory) for key in wanted]
        for relay in relays:
            relay.others = tuple(
                other for other in relays if other is not relay)
        return relays

    def _get(self, key: _Key, var_directory: str) -> Relay:
        relay = self._relays.get(_lasting(key))
        if relay is None:
            relay = self._relays[_lasting(key)] = Relay(*key, var_directory)
        relay.settings = key[0]
        return relay

    def all(self) -> List[Relay]:
        return list(self._relays.values())

    def _abandon(self) -> None:
        relays = list(self._relays.values())
        self._relays.clear()
        for relay in relays:
            relay.pool.abandon()

    def _close(self, keys: List[_Key]) -> None:
        for relay in [self._relays.pop(key) for key in keys]:
            if border.is_running:
                border.call(relay.pool.close)
            else:
                relay.pool.abandon()

    def close(self) -> None:
        self._close(list(self._relays))

    def end(self) -> None:
        relays = list(self._relays.values())
        self._relays.clear()
        if relays:
            border.end(
                lambda: _close_all(relays),
                max(relay.settings.wire.timeouts.quit for relay in relays))


async def _close_all(relays: List[Relay]) -> None:
    await asyncio.gather(*(relay.pool.close() for relay in relays))
    await close_limiter()


_kept = _Kept()


@public
def kept_relays(wanted: Sequence[Tuple[RelaySettings, PoolSettings]],
                named: Collection[Tuple[RelaySettings, PoolSettings]],
                var_directory: str = '') -> List[Relay]:
    """Return the relays of a post, with their connections.

    They are kept from post to post.  The connections of a relay are closed
    when the process ends, or when the settings do not name it any more.  What
    has no part in a connection, such as its weight, may change meanwhile.

    :param wanted: The settings of the relays that the post may go over.
    :param named: Those of all relays that the site has, those of the post
        among them.
    :param var_directory: See `Relay`.
    :return: One relay for each of `wanted`, in this order.
    """
    return _kept.get(wanted, named, var_directory)


@public
def other_relays(relays: Collection[Relay]) -> List[Relay]:
    """Return the relays that the site has besides those of a post.

    :param relays: What `kept_relays` has returned last.
    """
    return [relay for relay in _kept.all() if relay not in relays]


@public
def relay_for(settings: RelaySettings, pool: PoolSettings) -> Relay:
    """Return the only relay of a site that has no other one.

    :param settings: Which server, and how to talk to it.
    :param pool: How many connections, and for how long.
    """
    key = settings, pool
    return kept_relays([key], [key])[0]


@public
def close_relays() -> None:
    """Close all connections; the next post opens new ones."""
    _kept.close()
