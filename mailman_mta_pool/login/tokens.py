# SPDX-License-Identifier: GPL-3.0-or-later
"""The token that all connections to a relay log in with.

It is fetched when a login needs one, by one fetch at a time.
"""

import time
import asyncio

from mailman_mta_pool.errors import TokenUnavailable
from mailman_mta_pool.login.grant import Grant, Source
from mailman_mta_pool.network.threads import in_thread
from mailman_mta_pool.programs import FAILURE_PAUSE
from mailman_mta_pool.secret import Secret
from public import public
from typing import Callable, NamedTuple, Optional, Tuple


# A token that has fewer seconds left is not used for a login if another one
# can be had.
FEW_SECONDS = 600.0
# The share of its life after which a token of a short life is replaced.
SHARE = 0.5
# How many seconds a fetch may take in all.
FETCH_TIMEOUT = 30.0
# For how many seconds a source can have itself left alone, at most.
LONGEST_PAUSE = 3600.0
public(FETCH_TIMEOUT=FETCH_TIMEOUT, FEW_SECONDS=FEW_SECONDS,
       LONGEST_PAUSE=LONGEST_PAUSE)


class _Held(NamedTuple):
    """A token, and when it is to be replaced, and when it expires."""

    token: Secret
    replace_at: float
    expires_at: float


@public
class Tokens:
    """The tokens of a relay; of the network thread."""

    def __init__(self, source: Source, *,
                 clock: Callable[[], float] = time.monotonic) -> None:
        """Prepare; nothing is fetched before it is needed.

        :param source: Where they come from.
        :param clock: Seconds that only grow.
        """
        self._source = source
        self._clock = clock
        self._held: Optional[_Held] = None
        self._fetch: Optional['asyncio.Future[Grant]'] = None
        # Why there was none the last time, and until when no other is tried.
        self._failure = ''
        self._failed_until = float('-inf')

    def __repr__(self) -> str:
        return f'<Tokens {"held" if self._held else "none"}>'

    @property
    def held(self) -> Optional[Secret]:
        """The token that was fetched last; None if there is none any more."""
        return None if self._held is None else self._held.token

    async def get(self, refused: Optional[Secret] = None,
                  ) -> Tuple[Secret, bool]:
        """Return a token, and True if it was fetched for this call.

        After a failure nothing is fetched for `FAILURE_PAUSE`, or for as long
        as the source says: a program that hangs does so once for all
        connections.

        :param refused: A token that the server has refused.
        :raises TokenUnavailable: if there is none.
        """
        held = self._held
        if held is not None and held.token == refused:
            held = self._held = None
        if held is not None and self._clock() < held.replace_at:
            return held.token, False
        try:
            return await self._fetched(), True
        except TokenUnavailable:
            if held is not None and self._clock() < held.expires_at:
                return held.token, False
            raise

    async def _fetched(self) -> Secret:
        """Fetch a token, or wait for the fetch that is under way."""
        if self._fetch is None:
            if self._clock() < self._failed_until:
                raise TokenUnavailable(self._failure)
            self._fetch = asyncio.ensure_future(self._fetch_once())
            # Perhaps nobody waits any more when it fails.
            self._fetch.add_done_callback(
                lambda fetch: fetch.cancelled() or fetch.exception())
        fetch = self._fetch
        # Who does not wait any more does not end it for the others.
        await asyncio.wait([fetch])
        return fetch.result().token

    async def _fetch_once(self) -> Grant:
        try:
            grant = await self._in_thread()
        except TokenUnavailable as error:
            self._failure = str(error)
            self._failed_until = self._clock() + max(
                FAILURE_PAUSE, min(error.pause, LONGEST_PAUSE))
            raise
        finally:
            self._fetch = None
        self._failed_until = float('-inf')
        now, life = self._clock(), grant.expires_in
        good = life - FEW_SECONDS if life > FEW_SECONDS else SHARE * life
        self._held = _Held(grant.token, now + good, now + life)
        return grant

    async def _in_thread(self) -> Grant:
        call = in_thread(self._source.fetch)
        try:
            await asyncio.wait([call], timeout=FETCH_TIMEOUT)
            if call.done():
                return call.result()
        finally:
            if not call.done():
                self._source.abort()
                # Nobody is there for what comes later, not even the loop.
                call.cancel()
        raise self._source.failure(
            f'has given none within {FETCH_TIMEOUT:g} s')
