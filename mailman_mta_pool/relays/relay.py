# SPDX-License-Identifier: GPL-3.0-or-later
"""One mail server: its pool, and what it has taught us."""

import time
import atexit
import asyncio

from functools import partial
from mailman_mta_pool.connection import SMTPConnection
from mailman_mta_pool.connection.addresses import Addresses
from mailman_mta_pool.connection.foreign import as_transaction_connection
from mailman_mta_pool.network.border import border
from mailman_mta_pool.relays.factories import connection_for
from mailman_mta_pool.relays.limiting import close_limiter, connect_allowance
from mailman_mta_pool.relays.pool import Pool
from mailman_mta_pool.relays.throttle import Throttle
from mailman_mta_pool.settings import PoolSettings, RelaySettings
from mailman_mta_pool.settlement.memory import Memory
from mailman_mta_pool.wire.lessons import Lessons
from public import public
from typing import Any, Collection, Dict, List, Sequence, Tuple


@public
class Relay:
    """A mail server that takes our mail, and the connections to it.

    :ivar addresses: What is known of its addresses; of the network thread.
    :ivar lessons: What it has taught us; likewise.
    :ivar pool: The connections, likewise.
    :ivar throttle: How fast, and over how many of them, it is sent to;
        likewise.
    :ivar memory: What it said to the posts of the last hour; likewise.
    :ivar trouble: Why it could not be used the last time, in its own words;
        '' if it could, or was not tried yet.  Likewise.
    """

    def __init__(self, settings: RelaySettings, pool: PoolSettings) -> None:
        """Nothing is opened before it is needed.

        :param settings: Which server, and how to talk to it.
        :param pool: How many connections, and for how long.
        """
        self.settings = settings
        self.pool_settings = pool
        self.lessons = Lessons(time.monotonic)
        self.pool = Pool(self._connection, pool,
                         allowance=partial(connect_allowance, settings))
        self.addresses = Addresses(
            relay=self.name, next_attempt=self.pool.next_attempt)
        self.throttle = Throttle(self.name, pool.max_connections)
        self.memory = Memory(time.monotonic)
        self.trouble = ''

    @property
    def name(self) -> str:
        """The server as 'host:port'."""
        return f'{self.settings.host}:{self.settings.port}'

    def __repr__(self) -> str:
        return f'<Relay {self.name} {self.pool!r}>'

    def _connection(self) -> Any:
        connection = connection_for(self.settings, self.lessons)
        if isinstance(connection, SMTPConnection):
            connection.addresses = self.addresses
        return as_transaction_connection(
            connection, self.name, self.settings.wire.timeouts.quit)


# Which server, and how many connections: what a relay is made of.
_Key = Tuple[RelaySettings, PoolSettings]


class _Kept:
    """The relays that this process delivers to, kept from post to post."""

    def __init__(self) -> None:
        self._relays: Dict[_Key, Relay] = {}
        # True if the network thread was there when they were last asked for.
        self._was_running = False
        atexit.register(self.end)

    def get(self, wanted: Sequence[_Key],
            named: Collection[_Key]) -> List[Relay]:
        is_running = border.is_running
        if self._was_running and not is_running:
            # What belonged to a thread that has ended is of no use.
            self._relays.clear()
        self._was_running = is_running
        # The plugin's own configuration file may have been edited.
        self._close([key for key in self._relays if key not in named])
        for key in wanted:
            if key not in self._relays:
                self._relays[key] = Relay(*key)
        return [self._relays[key] for key in wanted]

    def _close(self, keys: List[_Key]) -> None:
        for relay in [self._relays.pop(key) for key in keys]:
            if border.is_running:
                border.call(relay.pool.close)

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
def relays_for(wanted: Sequence[Tuple[RelaySettings, PoolSettings]],
               named: Collection[Tuple[RelaySettings, PoolSettings]],
               ) -> List[Relay]:
    """Return the relays of a post, with their connections.

    They are kept from post to post.  The connections of a relay are closed
    when the process ends, or when the settings do not name it any more.

    :param wanted: The settings of the relays that the post may go over.
    :param named: Those of all relays that the site has, those of the post
        among them.
    :return: One relay for each of `wanted`, in this order.
    """
    return _kept.get(wanted, named)


@public
def relay_for(settings: RelaySettings, pool: PoolSettings) -> Relay:
    """Return the only relay of a site that has no other one.

    :param settings: Which server, and how to talk to it.
    :param pool: How many connections, and for how long.
    """
    key = settings, pool
    return relays_for([key], [key])[0]


@public
def close_relays() -> None:
    """Close all connections; the next post opens new ones."""
    _kept.close()
