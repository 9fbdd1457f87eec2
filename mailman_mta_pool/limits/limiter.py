# SPDX-License-Identifier: GPL-3.0-or-later
"""Who of this process may send now, and who waits for a limit, in order.

Everything here is in the network thread.
"""

import asyncio
import logging

from dataclasses import replace
from mailman_mta_pool.limits.limit import (
    Answer,
    Ask,
    Limit,
    LONGEST_WAIT,
    Taken,
    Unit,
)
from public import public
from typing import Any, Callable, Dict, FrozenSet, Optional, Set, Tuple


log = logging.getLogger('mailman.smtp')

# So many seconds after it was woken, whoever has not asked again has lost its
# place, and whatever was taken for it.
GRACE = 1.0
# For so many seconds a permit is kept for a claimant that opens a connection
# first.
KEEPING = 5.0
# How often the use of the limits is written to the disk, in seconds; a crash
# of the host may forget what came since.
SYNC_PERIOD = 5.0
public(GRACE=GRACE, KEEPING=KEEPING)


@public
class Permit:
    """The right to send a transaction, or to open a connection.

    Whoever has it calls `replied` or `unused`, once; what is called after
    that does nothing.

    :ivar recipients: How many recipients it covers.
    :ivar was_kept: True if it was asked for before there was a transaction.
    """

    def __init__(self, limiter: 'Limiter', taken: Optional[Taken],
                 recipients: int) -> None:
        """Wrap what was taken.

        :param limiter: What it goes back to.
        :param taken: What was taken; None if there is no limit.
        :param recipients: How many recipients are covered.
        """
        self._limiter = limiter
        self._taken = taken
        self.recipients = recipients
        self.was_kept = False

    def __repr__(self) -> str:
        return f'<Permit for {self.recipients}>'

    def trim(self, recipients: int) -> None:
        """Give back what more recipients would have needed.

        :param recipients: How many there are, at least one.
        """
        surplus = self.recipients - recipients
        if surplus > 0:
            self.recipients = recipients
            if self._taken is not None:
                limits = tuple(limit for limit in self._taken.limits
                               if limit.unit is Unit.recipients)
                self._taken = Taken(self._taken.limits, recipients)
                if limits:
                    self._limiter.give_back(Taken(limits, surplus))

    def cover(self, recipients: int) -> bool:
        """Change the number of the recipients, if that needs no more.

        :param recipients: How many there are, at least one.
        :return: False if the permit is for fewer, and more have to be asked
            for.
        """
        self.trim(recipients)
        if self.recipients < recipients and (
                self._taken is None or self._taken.counts_recipients):
            return False
        self.recipients = recipients
        return True

    def replied(self) -> None:
        """Take note that the server has replied, or that it never will."""
        taken, self._taken = self._taken, None
        if taken is not None:
            self._limiter.count(taken)

    def unused(self) -> None:
        """Take note that nothing was sent."""
        taken, self._taken = self._taken, None
        if taken is not None:
            self._limiter.give_back(taken)


class _Wait:
    """The place of a claimant in the line.

    :ivar lacking: The limits that it waits for; nobody behind it who has one
        of these goes first.
    :ivar due: When it is to ask again; None if another one comes first, or
        the storage is being asked.
    :ivar ready: When it can be served at the earliest, as far as is known.
    :ivar lapses: When its place is lost unless it asks; None if it has not
        been woken.
    :ivar is_asking: True while the storage is being asked.
    """

    def __init__(self) -> None:
        self.lacking: FrozenSet[str] = frozenset()
        self.due: Optional[float] = None
        self.ready: Optional[float] = None
        self.lapses: Optional[float] = None
        self.is_asking = False


@public
class Claimant:
    """Somebody who asks again and again: a post at a relay, say.

    `Limiter.claimant` makes it.  It keeps its place in the line from the
    first refusal until it gets a permit, closes, or does not ask though it
    was woken.
    """

    def __init__(self, limiter: 'Limiter', limits: Tuple[Limit, ...],
                 wake: Callable[[], None]) -> None:
        self._limiter = limiter
        self.limits = limits
        self.keys = frozenset(limit.key for limit in limits)
        self.wake = wake

    def __repr__(self) -> str:
        return f'<Claimant {" ".join(sorted(self.keys))}>'

    def request(self, recipients: int = 1,
                is_divisible: bool = True) -> Optional[Permit]:
        """Ask for a permit, and answer at once.

        :param recipients: How many recipients the transaction has.
        :param is_divisible: True if the permit may be for fewer.
        :return: The permit; None if there is none yet.  Then `wake` is called
            when it is worth asking again, which may be for another
            transaction.
        """
        if not self.limits:
            return Permit(self._limiter, None, recipients)
        return self._limiter.request(self, recipients, is_divisible)

    def keep(self, permit: Permit) -> None:
        """Have the next request return a permit that is not needed yet.

        To give the permit back and to ask again would cost the claimant its
        turn.  And another process that is refused in between would not hear
        that the permit was given back.

        :param permit: What `request` has returned.
        """
        self._limiter.keep(self, permit)

    @property
    def ready_in(self) -> float:
        """Seconds until there may be a permit; 0.0 if that may be now."""
        return self._limiter.ready_in(self)

    @property
    def lacking(self) -> FrozenSet[str]:
        """The keys of the limits that it waits for."""
        return self._limiter.lacking(self)

    def leave(self) -> None:
        """Give up the place in the line: there is nothing to send now."""
        self._limiter.leave(self)

    def close(self) -> None:
        """Give up the place in the line, and what was taken for it."""
        self._limiter.dismiss(self)


@public
class Limiter:
    """Gives permits as the limits allow.

    Those who wait do so in one order.  Nobody goes before another who was
    there first and waits for a limit that both have.
    """

    def __init__(self, storage: Any, loop: asyncio.AbstractEventLoop) -> None:
        """Begin with nobody waiting.

        :param storage: An `ILimitStorage`.
        :param loop: The loop of the network thread.
        """
        self._storage = storage
        self._loop = loop
        # In the order in which they go.
        self._line: Dict[Claimant, _Wait] = {}
        # What was given, and has not been fetched, and when it lapses.
        self._given: Dict[Claimant, Tuple[Permit, float]] = {}
        # What those in line last asked for.
        self._asks: Dict[Claimant, Ask] = {}
        self._timer: Optional[asyncio.TimerHandle] = None
        self._sync_timer: Optional[asyncio.TimerHandle] = None

    def __repr__(self) -> str:
        return f'<Limiter {len(self._line)} waiting, {self._storage!r}>'

    @property
    def waiting(self) -> int:
        """How many are waiting."""
        return len(self._line)

    def claimant(self, limits: Tuple[Limit, ...],
                 wake: Callable[[], None]) -> Claimant:
        """Return somebody who can ask for permits.

        :param limits: The limits that apply; those without rates do not.
        :param wake: Called in the loop when it is worth asking again.
        """
        return Claimant(
            self, tuple(limit for limit in limits if limit.rates), wake)

    async def acquire(self, limits: Tuple[Limit, ...]) -> Permit:
        """Wait for a permit for one connection, or one message.

        :param limits: The limits that apply.
        """
        woken = asyncio.Event()
        claimant = self.claimant(limits, woken.set)
        try:
            while True:
                woken.clear()
                permit = claimant.request()
                if permit is not None:
                    return permit
                await woken.wait()
        finally:
            claimant.close()

    # For a claimant.

    def request(self, claimant: Claimant, recipients: int,
                is_divisible: bool) -> Optional[Permit]:
        """See `Claimant.request`; the claimant has limits."""
        permit = self._fetched(claimant, recipients, is_divisible)
        if permit is not None:
            return permit
        wait = self._line.get(claimant)
        if wait is not None and (wait.is_asking or wait.due is not None and
                                 wait.due > self._loop.time()):
            return None
        behind = self._behind(claimant)
        former = self._asks.get(claimant)
        if behind:
            if former is not None and wait is not None and (
                    wait.ready is not None):
                self._storage.leave(former)
            self._wait(claimant, behind, None)
            return None
        ask = Ask(claimant.limits, recipients, is_divisible,
                  None if former is None else former.ticket)
        # Until the answer is there nobody goes before it.
        wait = self._wait(claimant, claimant.keys, None)
        wait.is_asking = True
        is_at_once = True

        def answer(found: Answer) -> None:
            self._answered(claimant, wait, ask, found, is_at_once)
        self._storage.take(ask, answer)
        is_at_once = False
        return self._fetched(claimant, recipients, is_divisible)

    def _fetched(self, claimant: Claimant, recipients: int,
                 is_divisible: bool) -> Optional[Permit]:
        """Return what has been given to a claimant, if it is of use."""
        permit, _ = self._given.pop(claimant, (None, 0.0))
        if permit is None:
            return None
        if permit.cover(recipients) or (
                is_divisible and not permit.was_kept):
            return permit
        permit.unused()
        return None

    def keep(self, claimant: Claimant, permit: Permit) -> None:
        """See `Claimant.keep`."""
        permit.was_kept = True
        self._given[claimant] = permit, self._loop.time() + KEEPING
        self._set_timer()

    def _behind(self, claimant: Claimant) -> FrozenSet[str]:
        """Return the limits that somebody waits for who was there first."""
        for other, wait in self._line.items():
            if other is claimant:
                break
            common = wait.lacking & claimant.keys
            if common:
                return common
        return frozenset()

    def _wait(self, claimant: Claimant, lacking: FrozenSet[str],
              seconds: Optional[float],
              again: Optional[float] = None) -> _Wait:
        """Have a claimant wait, at its place or at the end of the line.

        :param seconds: Until it can be served; None if that depends on
            others.
        :param again: Until it asks again, if that is earlier.
        """
        wait = self._line.setdefault(claimant, _Wait())
        wait.lacking, wait.lapses = lacking, None
        wait.due = wait.ready = None
        if seconds is not None:
            now = self._loop.time()
            wait.ready = now + seconds
            wait.due = now + min(
                seconds, LONGEST_WAIT if again is None else again,
                LONGEST_WAIT)
        self._promote()
        return wait

    def _promote(self) -> None:
        """Have those ask who waited for nothing but others before them."""
        blocked: Set[str] = set()
        for claimant, wait in self._line.items():
            if (wait.due is None and wait.lapses is None and
                    not wait.is_asking and not claimant.keys & blocked):
                wait.due = self._loop.time()
            blocked |= wait.lacking
        self._set_timer()

    def _answered(self, claimant: Claimant, wait: _Wait, ask: Ask,
                  answer: Answer, is_at_once: bool) -> None:
        wait.is_asking = False
        is_wanted = self._line.get(claimant) is wait
        if isinstance(answer, Taken):
            self._set_sync_timer()
            permit = Permit(self, answer, answer.recipients)
            if not is_wanted:
                permit.unused()
                return
            self._asks.pop(claimant, None)
            del self._line[claimant]
            self._given[claimant] = permit, self._loop.time() + GRACE
            self._promote()
            if not is_at_once:
                claimant.wake()
        elif is_wanted:
            self._asks[claimant] = replace(ask, ticket=answer.ticket)
            self._wait(
                claimant, answer.lacking, answer.seconds, answer.again)
        else:
            self._storage.leave(ask)

    def ready_in(self, claimant: Claimant) -> float:
        """See `Claimant.ready_in`."""
        if claimant not in self._line:
            return 0.0
        # Nobody is served before those in front of it.
        now, ready = self._loop.time(), [0.0]
        # The main thread asks, too: the line must not change meanwhile.
        for other, wait in tuple(self._line.items()):
            when = wait.ready
            if when is not None and (
                    other is claimant or wait.lacking & claimant.keys):
                ready.append(when - now)
            if other is claimant:
                break
        return max(ready)

    def lacking(self, claimant: Claimant) -> FrozenSet[str]:
        """See `Claimant.lacking`."""
        wait = self._line.get(claimant)
        return frozenset() if wait is None else wait.lacking

    def dismiss(self, claimant: Claimant) -> None:
        """See `Claimant.close`."""
        permit, _ = self._given.pop(claimant, (None, 0.0))
        if permit is not None:
            permit.unused()
        self.leave(claimant)

    def leave(self, claimant: Claimant) -> None:
        """See `Claimant.leave`."""
        wait = self._line.pop(claimant, None)
        if wait is not None:
            self._leave_storage(claimant)
            self._promote()

    def _leave_storage(self, claimant: Claimant) -> None:
        ask = self._asks.pop(claimant, None)
        if ask is not None:
            self._storage.leave(ask)

    # For a permit.

    def count(self, taken: Taken) -> None:
        """See `Permit.replied`."""
        self._storage.replied(taken)

    def give_back(self, taken: Taken) -> None:
        """Give back what was taken; the first who waits for it asks again."""
        self._storage.unused(taken)
        keys = {limit.key for limit in taken.limits}
        for wait in self._line.values():
            if wait.lacking & keys and wait.due is not None:
                wait.due = self._loop.time()
                self._set_timer()
                break

    # The timers.

    def _set_timer(self) -> None:
        """Look again when something is due or lapses next."""
        whens = [when for wait in self._line.values()
                 for when in (wait.due, wait.lapses) if when is not None]
        whens += [lapses for _, lapses in self._given.values()]
        when = min(whens, default=None)
        if self._timer is not None:
            if when is not None and self._timer.when() == when:
                return
            self._timer.cancel()
            self._timer = None
        if when is not None:
            self._timer = self._loop.call_at(when, self._look)

    def _look(self) -> None:
        """Wake those who are due, and forget those who did not come."""
        self._timer = None
        now = self._loop.time()
        # A timer may be early by what its clock cannot tell.
        lapsed = [claimant for claimant, wait in self._line.items()
                  if wait.lapses is not None and wait.lapses <= now]
        lapsed += [claimant for claimant, (_, lapses) in self._given.items()
                   if lapses <= now]
        for claimant in lapsed:
            self.dismiss(claimant)
        due = []
        for claimant, wait in self._line.items():
            if wait.due is not None and wait.due <= now:
                wait.due, wait.lapses = None, now + GRACE
                due.append(claimant)
        self._set_timer()
        for claimant in due:
            claimant.wake()

    def _set_sync_timer(self) -> None:
        if self._sync_timer is None:
            self._sync_timer = self._loop.call_later(SYNC_PERIOD, self._sync)

    def _sync(self) -> None:
        self._sync_timer = None
        future = self._loop.run_in_executor(None, self._storage.sync)
        future.add_done_callback(_note_sync)

    async def close(self) -> None:
        """Dismiss everybody, and close the storage."""
        for claimant in [*self._line, *self._given]:
            self.dismiss(claimant)
        for timer in (self._timer, self._sync_timer):
            if timer is not None:
                timer.cancel()
        await self._storage.close()


def _note_sync(future: 'asyncio.Future[None]') -> None:
    if not future.cancelled() and future.exception() is not None:
        log.debug('the limits are not safe from a power failure: %s',
                  future.exception())
