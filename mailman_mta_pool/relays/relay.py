# SPDX-License-Identifier: GPL-3.0-or-later
"""One mail server: its pool, and what it has taught us."""

import time
import atexit

from mailman_mta_pool.connection.foreign import as_transaction_connection
from mailman_mta_pool.network.border import border
from mailman_mta_pool.relays.factories import connection_for
from mailman_mta_pool.relays.pool import Pool
from mailman_mta_pool.relays.throttle import Throttle
from mailman_mta_pool.settings import PoolSettings, RelaySettings
from mailman_mta_pool.settlement.memory import Memory
from mailman_mta_pool.wire.lessons import Lessons
from public import public
from typing import Any, Optional


@public
class Relay:
    """A mail server that takes our mail, and the connections to it.

    :ivar lessons: What it has taught us; of the network thread.
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
        self.pool = Pool(self._connection, pool)
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
        return as_transaction_connection(
            connection_for(self.settings, self.lessons), self.name,
            self.settings.wire.timeouts.quit)


class _Current:
    """The relay that this process delivers to; one at a time."""

    def __init__(self) -> None:
        self._relay: Optional[Relay] = None
        # True if the network thread was there when it was last asked for.
        self._was_running = False
        atexit.register(self.end)

    def get(self, settings: RelaySettings, pool: PoolSettings) -> Relay:
        relay = self._relay
        is_running = border.is_running
        if self._was_running and not is_running:
            # What belonged to a thread that has ended is of no use.
            relay = self._relay = None
        self._was_running = is_running
        if (relay is None or relay.settings != settings or
                relay.pool_settings != pool):
            # The plugin's own configuration file has been edited.
            self.close()
            relay = self._relay = Relay(settings, pool)
        return relay

    def close(self) -> None:
        relay, self._relay = self._relay, None
        if relay is not None and border.is_running:
            border.call(relay.pool.close)

    def end(self) -> None:
        relay, self._relay = self._relay, None
        if relay is not None:
            border.end(relay.pool.close, relay.settings.wire.timeouts.quit)


_current = _Current()


@public
def relay_for(settings: RelaySettings, pool: PoolSettings) -> Relay:
    """Return the relay of these settings, with its connections.

    It is kept from post to post.  Its connections are closed when the
    process ends, or when it is asked for with other settings.
    """
    return _current.get(settings, pool)


@public
def close_relay() -> None:
    """Close all connections; the next post opens new ones."""
    _current.close()
