# SPDX-License-Identifier: GPL-3.0-or-later
"""Limits that several hosts share through a Redis or Valkey server.

What is taken is counted in the files of this host, too.  While the server is
gone the host takes its share of each limit, and the files say what of that
has been used.

Nobody knows what the other hosts have used since a host heard of them last.
So when the server goes, and when it returns, a host takes it that they have
used what was left.  And for a while after it has returned the host keeps to
its share, since the others may not have noticed.
"""

import asyncio
import logging

from collections import deque
from dataclasses import replace
from mailman_mta_pool.interfaces import ILimitStorage
from mailman_mta_pool.limits.clock import MICROSECONDS
from mailman_mta_pool.limits.file import FileStorage, LEASE as LINE_LEASE
from mailman_mta_pool.limits.limit import (
    Answer,
    Ask,
    Limit,
    LONGEST_WAIT,
    Refused,
    SHARE_OF_WAIT,
    Taken,
)
from mailman_mta_pool.limits.mapped import counts_of
from mailman_mta_pool.limits.redis_script import (
    CallFailed,
    LEASE,
    limit_values,
    RedisScript,
    step,
)
from mailman_mta_pool.settings import Rate, StorageSettings
from public import public
from typing import (
    Any,
    Callable,
    Deque,
    Dict,
    FrozenSet,
    List,
    Optional,
    Set,
    Tuple,
)
from zope.interface import implementer


log = logging.getLogger('mailman.smtp')

# How often the server is tried while it is gone, in seconds.
PROBE_PERIOD = 2.0
# For how many seconds a host keeps to its share after the server has come
# back: no other host takes longer to notice.
GRACE = 30.0
# For how many seconds a host that is cut off keeps to its share, unless it
# says otherwise.
CUT_OFF = 3600.0
# A new server is taken for one that was started anew for periods of so many
# seconds at most.  To wait for a day with the first message would be too much.
SHORT_PERIOD = 60.0
# How often a process with something in flight says that it lives.
BEAT_PERIOD = LEASE / MICROSECONDS / 3
public(GRACE=GRACE)

# What becomes of the answer to a step; None if the call failed.
Heard = Callable[[Any], None]


def _nothing(answer: Any) -> None:
    """Have nothing to do with an answer."""


@public
@implementer(ILimitStorage)
class SharedStorage:
    """See `ILimitStorage`.

    :ivar is_cut_off: True while this host takes its share.
    """

    def __init__(self, script: RedisScript, hosts: int, files: FileStorage,
                 loop: asyncio.AbstractEventLoop) -> None:
        """Prepare; nothing is connected before it is needed.

        :param script: Calls the server.
        :param hosts: How many hosts share the limits.
        :param files: What this host has used.
        :param loop: The loop of the network thread.
        """
        self._script = script
        self._hosts = max(1, hosts)
        self._files = files
        self._loop = loop
        self._steps: Deque[Tuple[Dict[str, Any], Heard]] = deque()
        self._caller: Optional['asyncio.Task[None]'] = None
        self._timer: Optional[asyncio.TimerHandle] = None
        # What this process has in flight, by the key of the limit.
        self._flights: Dict[str, int] = {}
        # The limits that were used, by their keys.
        self._limits: Dict[str, Limit] = {}
        # The places in the line of the host, by the keys of the limits.
        self._tickets: Dict[FrozenSet[str], Optional[int]] = {}
        # The limits of which it has been taken that others have used the
        # rest, since the server is gone.
        self._used_up: Set[str] = set()
        # The server is being told what has happened meanwhile.
        self._is_probing = False
        self._is_closed = False
        self.is_cut_off = False

    def __repr__(self) -> str:
        return (f'<SharedStorage {self._script.name}'
                f'{", cut off" * self.is_cut_off}>')

    # What a caller wants.

    def take(self, ask: Ask, answer: Callable[[Answer], None]) -> None:
        """See `ILimitStorage`."""
        self._meet(ask.limits)
        if self.is_cut_off:
            answer(self._take_share(ask))
        elif self._files.share_ends_in(self._shares(ask.limits)) > 0:
            found = self._of_host(ask)
            if isinstance(found, Refused):
                answer(found)
            else:
                self._take_of_all(ask, found, answer)
        else:
            self._take_of_all(ask, None, answer)

    def _meet(self, limits: Tuple[Limit, ...]) -> None:
        """Take note of limits; see to those that a former process left."""
        for limit in limits:
            known = self._limits.get(limit.key)
            self._limits[limit.key] = limit
            share = self._shares((limit,))
            if known is None and not self.is_cut_off and (
                    self._files.share_ends_in(share) > GRACE):
                # It was cut off, and the server has not been told.
                self._tell_rest(limit)

    def _tell_rest(self, limit: Limit) -> None:
        """Take it at the server that others have used what is left."""
        self._call(step('use_up', limits=self._values((limit,))))
        self._files.keep_to_share(self._shares((limit,)), GRACE)

    def _shares(self, limits: Tuple[Limit, ...]) -> Tuple[Limit, ...]:
        """Return the limits of this host alone."""
        return tuple(Limit(limit.name, limit.unit, tuple(
            Rate(rate.count // self._hosts, rate.period)
            for rate in limit.rates)) for limit in limits)

    def _of_host(self, ask: Ask) -> Answer:
        """Take of this host's share."""
        keys = frozenset(limit.key for limit in ask.limits)
        found = self._files.take_now(Ask(
            self._shares(ask.limits), ask.recipients, ask.is_divisible,
            self._tickets.pop(keys, None)))
        if isinstance(found, Refused):
            self._tickets[keys] = found.ticket
            return replace(found, ticket=ask.ticket)
        return found

    def _take_share(self, ask: Ask) -> Answer:
        """Take while the server is gone."""
        self._assume(ask.limits)
        found = self._of_host(ask)
        if isinstance(found, Refused):
            return found
        taken = Taken(ask.limits, found.recipients)
        self._fly(taken, 1)
        if self._is_probing:
            # The server is being told without it.
            self._call(step('charge', limits=self._values(
                taken.limits, taken.amount)))
        return taken

    def _take_of_all(self, ask: Ask, share: Optional[Taken],
                     answer: Callable[[Answer], None]) -> None:
        """Ask the server.

        :param ask: What is wanted.
        :param share: What was taken of this host's share; None if the host
            does not keep to it.
        :param answer: Called with what comes of it.
        """
        recipients = ask.recipients if share is None else share.recipients

        def heard(found: Any) -> None:
            if found is None:
                # What the server has done is not known; it will be told.
                if share is not None:
                    self._files.unused(share)
                answer(self._take_share(ask))
                return
            if 'taken' not in found:
                if share is not None:
                    self._files.unused(share)
                answer(Refused(frozenset(found['lacking']), found['seconds'],
                               int(found['ticket'])))
                return
            taken = Taken(ask.limits, int(found['taken']))
            mirrored = Taken(self._shares(ask.limits), taken.recipients)
            if share is not None:
                self._files.unused(share)
            self._files.charge(mirrored)
            self._fly(taken, 1)
            answer(taken)
        self._call(step(
            'take', limits=self._values(ask.limits), recipients=recipients,
            divisible=ask.is_divisible, ticket=ask.ticket,
            longest=round(LONGEST_WAIT * MICROSECONDS), share=SHARE_OF_WAIT,
            grace=round(LINE_LEASE * MICROSECONDS)), heard)

    def replied(self, taken: Taken) -> None:
        """See `ILimitStorage`."""
        self._files.replied(
            Taken(self._shares(taken.limits), taken.recipients))
        self._give_back(taken, 'replied')

    def unused(self, taken: Taken) -> None:
        """See `ILimitStorage`."""
        self._files.unused(
            Taken(self._shares(taken.limits), taken.recipients))
        self._give_back(taken, 'unused')

    def _give_back(self, taken: Taken, name: str) -> None:
        self._fly(taken, -1)
        if not self.is_cut_off or self._is_probing:
            self._call(step(name, limits=self._values(
                taken.limits, taken.amount)))

    def _fly(self, taken: Taken, sign: int) -> None:
        for limit in taken.limits:
            self._flights[limit.key] = max(0, self._flights.get(
                limit.key, 0) + sign * taken.amount(limit))

    def leave(self, ask: Ask) -> None:
        """See `ILimitStorage`."""
        keys = frozenset(limit.key for limit in ask.limits)
        if self._tickets.pop(keys, None) is not None:
            self._files.leave(Ask(self._shares(ask.limits)))
        if not self.is_cut_off:
            self._call(step('leave', keys=sorted(keys)))

    def _values(self, limits: Tuple[Limit, ...],
                amount: Callable[[Limit], int] = lambda limit: 1,
                ) -> List[Dict[str, Any]]:
        return limit_values(
            limits, amount, lambda limit: counts_of(limit.rates))

    # Calls.

    def _call(self, what: Dict[str, Any], heard: Heard = _nothing) -> None:
        """Have the server do something with the next call."""
        self._steps.append((what, heard))
        self._start(self._call_all)

    def _start(self, work: Callable[[], Any]) -> None:
        if self._caller is None:
            self._caller = self._loop.create_task(work())

    async def _call_all(self) -> None:
        """Call until there is nothing more to be done."""
        try:
            while self._steps and not self.is_cut_off:
                if self._script.epoch is None:
                    await self._call_once([(step('hello', flights={}),
                                            _nothing)])
                    if self._script.is_new:
                        self._tell_history()
                    continue
                steps = list(self._steps)
                self._steps.clear()
                await self._call_once(steps)
        finally:
            self._caller = None
        if any(self._flights.values()) and not self.is_cut_off:
            self._set_timer(BEAT_PERIOD)

    async def _call_once(self, steps: List[Tuple[Dict[str, Any], Heard]],
                         ) -> None:
        try:
            answers = await self._script.call([what for what, _ in steps])
        except CallFailed as error:
            self._cut_off(error)
            # What was to be called next is not called any more, either.
            steps += self._steps
            self._steps.clear()
            answers = [None] * len(steps)
        for (_, heard), answer in zip(steps, answers):
            heard(answer)

    def _tell_history(self) -> None:
        """Tell a server that knows nothing what this host has used.

        It may be new.  But it may as well have been started anew while nobody
        was there to see that.
        """
        limits = tuple(self._limits.values())
        values = self._values(limits)
        for limit, value in zip(limits, values):
            used = self._files.usage(limit)
            value['used'] = [
                used.get(period, []) for period, _ in value['rates']]
        self._steps.appendleft((step(
            'use_up', limits=values,
            short=round(SHORT_PERIOD * MICROSECONDS)), _nothing))
        self._files.keep_to_share(self._shares(limits), GRACE)

    def _set_timer(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._is_closed:
            self._timer = self._loop.call_later(seconds, self.beat)

    def beat(self) -> None:
        """Say that this process lives, or try whether the server does.

        A timer calls this often enough.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.is_cut_off:
            self._start(self._probe)
        elif any(self._flights.values()):
            self._call(step('hello', flights={}))

    # When the server goes and returns.

    def _cut_off(self, error: CallFailed) -> None:
        if self.is_cut_off:
            return
        self.is_cut_off = True
        self._used_up.clear()
        log.warning(
            'The limits in Redis at %s cannot be used (%s): this host takes '
            'its share of them, one of %d', self._script.name, error,
            self._hosts)
        self._assume(tuple(self._limits.values()))
        self._set_timer(PROBE_PERIOD)

    def _assume(self, limits: Tuple[Limit, ...]) -> None:
        """Take it that others have used the rest of limits, once for each.

        If another process of this host has done so, it keeps to its share
        already.
        """
        for limit in limits:
            if limit.key not in self._used_up:
                self._used_up.add(limit.key)
                share = self._shares((limit,))
                if not self._files.share_ends_in(share) > 0:
                    self._files.use_up(share)
                self._files.keep_to_share(share, CUT_OFF)

    async def _probe(self) -> None:
        """Try whether the server is there again, and tell it all."""
        limits = tuple(self._limits.values())
        self._is_probing = True
        try:
            await self._script.call([
                step('hello', flights=dict(self._flights)),
                step('use_up', limits=self._values(limits))], True)
        except CallFailed:
            self._steps.clear()
            self._set_timer(PROBE_PERIOD)
        else:
            self.is_cut_off = False
            self._files.keep_to_share(self._shares(limits), GRACE)
            log.info('The limits in Redis at %s can be used again',
                     self._script.name)
            self._set_timer(BEAT_PERIOD)
            for limit in tuple(self._limits.values())[len(limits):]:
                # It came while the server was being told of the others.
                self._tell_rest(limit)
        finally:
            self._is_probing = False
            self._caller = None
        if self._steps:
            self._start(self._call_all)

    # The end.

    def sync(self) -> None:
        """See `ILimitStorage`."""
        self._files.sync()

    async def settled(self) -> None:
        """Wait until nothing is to be told to the server."""
        while self._caller is not None:
            await asyncio.wait([self._caller])

    async def close(self) -> None:
        """See `ILimitStorage`."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        await self.settled()
        await self._script.close()
        await self._files.close()


@public
def open_shared(settings: StorageSettings, hosts: int, files: FileStorage,
                loop: asyncio.AbstractEventLoop) -> SharedStorage:
    """Return the storage of several hosts.

    :param settings: Where the server is.
    :param hosts: How many hosts share the limits.
    :param files: The storage of this host.
    :param loop: The loop of the network thread.
    :raises ValueError: if it is no such URL; the message does not show it.
    """
    return SharedStorage(RedisScript(settings), hosts, files, loop)


@public
def check_url(url: str) -> None:
    """Check the URL of a server; nothing is connected.

    :param url: The URL.
    :raises ValueError: as with `open_shared`.
    """
    RedisScript.check_url(url)


@public
async def reach(settings: StorageSettings) -> Tuple[str, str]:
    """Find out whether a server can be used; nothing is stored there.

    :param settings: Where the server is.
    :return: The server without user and password; and what is wrong, or ''.
    :raises ValueError: as with `open_shared`.
    """
    script = RedisScript(settings)
    try:
        await script.ping()
    except CallFailed as error:
        return script.name, str(error)
    return script.name, ''
