# SPDX-License-Identifier: GPL-3.0-or-later
"""The connection to a Redis or Valkey server, and the script that runs there.

What is to be done while a call is on its way waits for the next call.  So
there is one call at a time, and as many as the server can take.
"""

import json
import asyncio
import secrets
import redis.asyncio

from importlib import resources
from mailman_mta_pool.settings import StorageSettings
from mailman_mta_pool.shown import hidden
from public import public
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from typing import Any, Callable, Dict, List, Optional, Tuple


# How long a call may take, with the connection that it needs, in seconds.
CALL_TIMEOUT = 2.0
# A process that has not called for so many microseconds is dead.
LEASE = 30_000_000
public(LEASE=LEASE)

Step = Dict[str, Any]


@public
class CallFailed(Exception):
    """The server cannot be used, or its answer is lost."""


def _script() -> str:
    return resources.files('mailman_mta_pool.limits').joinpath(
        'script.lua').read_text('utf-8')


@public
class RedisScript:
    """Calls the script.

    :ivar client: The client of redis-py.
    :ivar name: The server without user and password.
    :ivar epoch: A name for what is stored there, which changes when the
        server is started anew; None before the first call.
    :ivar is_new: True if nothing was stored there before the latest call.
    """

    def __init__(self, settings: StorageSettings,
                 clock: Optional[Callable[[], int]] = None) -> None:
        """Prepare; nothing is connected.

        :param settings: Where the server is.
        :param clock: Microseconds, in place of the server's clock; for tests.
        :raises ValueError: if it is no such URL.  The message does not show
            it.
        """
        self.check_url(settings.url)
        self._password = settings.password
        self.client: Any = redis.asyncio.from_url(
            settings.url, username=settings.user or None,
            password=settings.password.reveal() or None,
            socket_timeout=CALL_TIMEOUT, socket_connect_timeout=CALL_TIMEOUT,
            # An answer may be lost when all has been done.
            retry=Retry(NoBackoff(), 0), max_connections=1)
        self._function = self.client.register_script(_script())
        known = self.client.connection_pool.connection_kwargs
        self.name = known.get('path') or '{}:{}/{}'.format(
            known.get('host', 'localhost'), known.get('port', 6379),
            known.get('db') or 0)
        self._token = secrets.token_hex(8)
        self._clock = clock
        self.epoch: Optional[str] = None
        self.is_new = False

    @staticmethod
    def check_url(url: str) -> None:
        """Check the URL of a server, without a loop.

        :param url: The URL.
        :raises ValueError: as above.
        """
        try:
            parse_url(url)
        except ValueError:
            # The message of redis-py has the URL in it.
            raise ValueError('not the URL of a Redis server') from None

    def __repr__(self) -> str:
        return f'<RedisScript {self.name}>'

    async def call(self, steps: List[Step],
                   is_renewed: bool = False) -> List[Any]:
        """Have the server do several things, and return its answers.

        :param steps: What to do, in this order.
        :param is_renewed: True if it does not matter whether the server has
            been started anew since the last call.
        :return: An answer for each.
        :raises CallFailed: if it is not known whether that was done; or if
            nothing was done, because the server has been started anew.
        """
        call: Dict[str, Any] = {
            'token': self._token, 'lease': LEASE,
            # The name for the case that there is nothing yet.
            'epoch': secrets.token_hex(8), 'steps': steps}
        if self._clock is not None:
            call['now'] = self._clock()
        if self.epoch is not None and not is_renewed:
            call['expected'] = self.epoch
        try:
            found = json.loads(await asyncio.wait_for(
                self._function(args=[json.dumps(call)]), CALL_TIMEOUT))
        except asyncio.TimeoutError:
            await self._forget_connection()
            raise CallFailed(f'no answer in {CALL_TIMEOUT:g} s') from None
        except (RedisError, OSError, ValueError) as error:
            await self._forget_connection()
            raise self._failure(error) from None
        if found['answers'] is False:
            raise CallFailed('it has been started anew')
        self.epoch, self.is_new = found['epoch'], found['is_new']
        answers: List[Any] = found['answers']
        return answers

    async def _forget_connection(self) -> None:
        """Close the connection: a late answer is not that of the next call."""
        try:
            await asyncio.wait_for(
                self.client.connection_pool.disconnect(), CALL_TIMEOUT)
        except (RedisError, OSError, asyncio.TimeoutError):
            # It is broken, and that is all that is wanted.
            pass

    async def ping(self) -> None:
        """Connect, log in, and have the server answer; nothing is stored.

        :raises CallFailed: if it does not.
        """
        try:
            await asyncio.wait_for(self.client.ping(), CALL_TIMEOUT)
        except asyncio.TimeoutError:
            raise CallFailed(f'no answer in {CALL_TIMEOUT:g} s') from None
        except (RedisError, OSError, ValueError) as error:
            raise self._failure(error) from None
        finally:
            await self._forget_connection()

    def _failure(self, error: Exception) -> CallFailed:
        """Say in one line what is wrong; the server may repeat anything."""
        return CallFailed(hidden(
            [self._password],
            ' '.join(str(error).split()) or type(error).__name__))

    async def close(self) -> None:
        """Close the connection."""
        await self._forget_connection()


@public
def step(name: str, **values: Any) -> Step:
    """Return a step for the script, without what is None.

    :param name: What is to be done.
    """
    return {'name': name, **{
        key: value for key, value in values.items() if value is not None}}


@public
def limit_values(limits: Any, amount: Callable[[Any], int],
                 counts: Callable[[Any], Dict[int, int]],
                 ) -> List[Dict[str, Any]]:
    """Return limits as the script has them.

    :param limits: Each a `Limit`.
    :param amount: Returns how much of a limit it is about.
    :param counts: Returns how many each period of a limit may have.
    """
    return [{
        'key': limit.key, 'amount': amount(limit),
        'recipients': limit.unit.value == 'recipients',
        'rates': _pairs(counts(limit)),
        } for limit in limits]


def _pairs(counts: Dict[int, int]) -> List[Tuple[int, int]]:
    return list(counts.items())
