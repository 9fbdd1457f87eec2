# SPDX-License-Identifier: GPL-3.0-or-later
"""The connections to a relay that all processes of this host may have.

A connection needs a slot, which is a locked file: however a process dies, the
kernel frees its locks.  Whoever waits for one says so in a file of its own,
which is locked as well; see `demand` for who gets one, and who gives one up.

Everything here is in the network thread.  The files are small and local, and
nothing waits for a lock.
"""

import os
import time
import errno
import fcntl
import random
import asyncio
import hashlib
import logging
import secrets

from contextlib import suppress
from mailman_mta_pool.connection.translation import translated
from mailman_mta_pool.errors import LOCAL_LIMITS
from mailman_mta_pool.interfaces import ISlots
from mailman_mta_pool.network.limits import check_descriptors
from mailman_mta_pool.network.locks import open_locked
from mailman_mta_pool.relays.demand import Demand, View
from public import public
from typing import Callable, List, Optional, Set, Tuple
from weakref import finalize
from zope.interface import implementer


# A process that waits looks again after so many seconds, up to twice as many
# by chance; and one that holds slots, after twice that.
WAIT_PERIOD = 0.05
HOLD_PERIOD = 0.1
# So long the slot of a connection that was lost, or of a process that died,
# is used by nobody: the server has to hear of it first.
REST = 1.0
# Where the files cannot be used, they are tried again after so many seconds.
RETRY_AFTER = 60.0
PERMISSIONS = 0o660
# So many names are tried for the file of this process.
NAMES = 10
public(REST=REST, RETRY_AFTER=RETRY_AFTER)


log = logging.getLogger('mailman.smtp')


@public
def slot_directory(var_directory: str, relay: str, host: str, port: int,
                   user: str) -> str:
    """Return the directory of a relay's slots.

    A relay has others once it is another server, or another account there;
    what else is changed, its `max_connections` above all, goes for those who
    are at work as well.

    :param var_directory: Mailman's $VAR_DIR.
    :param relay: The relay's name.
    :param host: The server's host name.
    :param port: The server's port.
    :param user: The user name there; it does not show.
    """
    text = '\0'.join([relay, host, str(port), user])
    digest = hashlib.sha256(text.encode('utf-8', 'surrogateescape'))
    return os.path.join(
        var_directory, 'mta_pool', 'slots', digest.hexdigest()[:24])


@public
class Slot:
    """The right to one connection, from before it opens until it is closed.

    :ivar number: The number of its file; -1 if there is none.
    :ivar rests_until: Until when it is not to be used.
    """

    def __init__(self, number: int, descriptor: int) -> None:
        """Hold an open, locked file; -1 and -1 for none."""
        self.number = number
        self.rests_until = float('-inf')
        self._descriptor = descriptor
        # If it is forgotten, its lock goes all the same.
        self._close: Optional[finalize] = (
            None if descriptor < 0 else finalize(self, os.close, descriptor))

    def __repr__(self) -> str:
        return f'<Slot {self.number}>' if self.number >= 0 else '<Slot>'

    def free(self, is_clean: bool) -> None:
        """Give up the lock.

        :param is_clean: True if the server knows that there is no connection
            any more.
        """
        if self._close is not None and self._close.alive:
            if is_clean:
                with suppress(OSError):
                    os.ftruncate(self._descriptor, 0)
            self._close()


class _Files:
    """The files of one relay's slots, as this process uses them."""

    def __init__(self, directory: str, maximum: int) -> None:
        self._directory = directory
        self._processes = os.path.join(directory, 'processes')
        self._maximum = maximum
        self._mine: Optional[int] = None
        self.name = ''

    # The slots.

    def lock_one(self, now: float) -> Optional[Slot]:
        """Return a slot that nobody has; None if there is none.

        One whose connection has not been closed properly rests first.

        :param now: The time.
        :raises OSError: if the files cannot be used.
        """
        check_descriptors()
        os.makedirs(self._directory, exist_ok=True)
        resting: Optional[Slot] = None
        for number in range(self._maximum):
            slot, is_orphan = self._lock(number)
            if slot is None:
                continue
            if not is_orphan:
                if resting is not None:
                    resting.free(is_clean=False)
                return self._if_below_ceiling(slot)
            if resting is None:
                resting = slot
                resting.rests_until = now + REST
            else:
                slot.free(is_clean=False)
        return None if resting is None else self._if_below_ceiling(resting)

    def _lock(self, number: int) -> Tuple[Optional[Slot], bool]:
        """Lock a slot; say whether its last connection was closed properly."""
        descriptor = open_locked(
            os.path.join(self._directory, str(number)), os.O_CREAT,
            PERMISSIONS)
        if descriptor is None:
            return None, False
        slot = Slot(number, descriptor)
        is_orphan = os.pread(descriptor, 1, 0) != b''
        with suppress(OSError):
            # On a full disk, a death is not recognized.
            os.pwrite(descriptor, b'%d\n' % os.getpid(), 0)
        return slot, is_orphan

    def _if_below_ceiling(self, slot: Slot) -> Optional[Slot]:
        """Return the slot, unless it is one too many.

        While other processes hold slots of a higher ceiling, which was in
        the configuration before, all have to be counted.
        """
        higher = [int(name) for name in os.listdir(self._directory)
                  if name.isdecimal() and int(name) >= self._maximum]
        taken = sum(map(self._is_taken, higher))
        if taken > 0:
            taken += sum(self._is_taken(number)
                         for number in range(self._maximum)
                         if number != slot.number)
        if taken < self._maximum:
            return slot
        slot.free(is_clean=slot.rests_until == float('-inf'))
        return None

    def _is_taken(self, number: int) -> bool:
        path = os.path.join(self._directory, str(number))
        with suppress(FileNotFoundError):
            descriptor = open_locked(path, 0, PERMISSIONS)
            if descriptor is None:
                return True
            os.close(descriptor)
        return False

    # The processes.

    def tell(self, demand: Demand) -> None:
        """Write down what this process holds and wants.

        :raises OSError: if that cannot be written.
        """
        if self._mine is None:
            self._mine = self._join()
        os.pwrite(self._mine, demand.to_octets(), 0)

    def _join(self) -> int:
        """Make a file for this process, locked from when others can see it."""
        os.makedirs(self._processes, exist_ok=True)
        for _ in range(NAMES):
            name = secrets.token_hex(8)
            path = os.path.join(self._processes, name)
            try:
                descriptor = open_locked(
                    path, os.O_CREAT | os.O_EXCL, PERMISSIONS)
            except OSError:
                with suppress(OSError):
                    os.unlink(path)
                raise
            # Another process may have taken it for one of a process that has
            # died, before it was locked.
            if descriptor is not None:
                if os.fstat(descriptor).st_nlink > 0:
                    self.name = name
                    return descriptor
                os.close(descriptor)
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)

    def leave(self) -> None:
        """Remove the file of this process: it neither holds nor wants any."""
        descriptor, self._mine = self._mine, None
        if descriptor is not None:
            with suppress(OSError):
                os.unlink(os.path.join(self._processes, self.name))
            os.close(descriptor)

    def others(self) -> List[Demand]:
        """Return what the other processes hold and want.

        The files of those that have died are removed.

        :raises OSError: if the files cannot be read.
        """
        demands: List[Demand] = []
        try:
            names = os.listdir(self._processes)
        except FileNotFoundError:
            return demands
        for name in names:
            if self._mine is None or name != self.name:
                demand = self._read(name)
                if demand is not None:
                    demands.append(demand)
        return demands

    def _read(self, name: str) -> Optional[Demand]:
        path = os.path.join(self._processes, name)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return Demand.from_octets(name, os.pread(descriptor, 256, 0))
            with suppress(FileNotFoundError):
                os.unlink(path)
            return None
        finally:
            os.close(descriptor)


def _nothing() -> None:
    """Nobody listens."""


@public
@implementer(ISlots)
class Slots:
    """See `ISlots`: this process's slots of one relay.

    A pool takes a slot before it opens a connection, and releases it after
    the connection is closed; an idle connection keeps it.  Where there is
    none to be had, the pool says for how many connections it waits.  It is
    called when it may try again, and when others wait for what it has.  Then
    it closes idle connections while `gives_back_idle` says so; and each agent
    asks `gives_back_busy` between two transactions, and closes its connection
    if that is True.  A connection that is closed for either has to be
    released, too.
    """

    def __init__(self, directory: str, relay: str, maximum: int, *,
                 clock: Callable[[], float] = time.monotonic,
                 chance: Callable[[], float] = random.SystemRandom().random,
                 ) -> None:
        """Prepare; no file is made before the first slot is taken.

        :param directory: See `slot_directory`.
        :param relay: The relay's name, for the log.
        :param maximum: How many slots there are, for all processes.
        :param clock: Seconds that only grow, the same for all processes.
        :param chance: A number from 0 to 1, for the jitter of the timers.
        """
        self._relay = relay
        self._directory = directory
        self._maximum = maximum
        self._clock = clock
        self._chance = chance
        self._files = _Files(directory, maximum)
        self._on_free: Callable[[], None] = _nothing
        self._on_wanted: Callable[[], None] = _nothing
        # All that this process holds; some of them rest, or have rested.
        self._held: Set[Slot] = set()
        self._resting: List[Slot] = []
        self._wanted = 0
        self._waiting_since = self._holding_since = 0.0
        # Connections that are to be closed for others, and are not yet.
        self._promised = 0
        self._idle_to_give = self._busy_to_give = 0
        self._timer: Optional[asyncio.TimerHandle] = None
        # Until when the files are not used, and whether that was told.
        self._without_until = float('-inf')
        self._is_without = False
        # The files of the processes alone may fail, too.
        self._has_told = False

    def __repr__(self) -> str:
        return (f'<Slots {self.held} held, {self._wanted} wanted, of '
                f'{self._maximum}{", without files" * self._is_without}>')

    @property
    def held(self) -> int:
        """How many slots this process holds, used or not yet."""
        return len(self._held)

    def listen(self, on_free: Callable[[], None],
               on_wanted: Callable[[], None]) -> None:
        """Say what is to be called from a timer of the loop.

        :param on_free: Called when `take` may succeed, while some are wanted.
        :param on_wanted: Called when others wait for slots of this process.
        """
        self._on_free = on_free
        self._on_wanted = on_wanted

    # Taking and releasing.

    def take(self) -> Optional[Slot]:
        """Return a slot, if this process may have another one now.

        Others that have waited, and have fewer, go first.

        :raises UnavailableHere: if this process can open no more files.
        """
        now = self._clock()
        for rested in self._resting:
            if rested.rests_until <= now:
                self._resting.remove(rested)
                return rested
        if self.held >= self._maximum:
            return None
        slot = self._locked(now)
        if slot is None:
            return None
        if not self._held:
            self._holding_since = now
        self._held.add(slot)
        # For the next one it is behind those that wait already.
        self._waiting_since = now
        self._tell(now)
        self._set_timer()
        if slot.rests_until > now:
            self._resting.append(slot)
            return None
        return slot

    def _locked(self, now: float) -> Optional[Slot]:
        if now < self._without_until:
            return Slot(-1, -1)
        if not self._view(now, is_asking=True).may_take:
            return None
        with translated(self._relay, 'connect'):
            return self._lock_or_go_without(now)

    def _lock_or_go_without(self, now: float) -> Optional[Slot]:
        try:
            slot = self._files.lock_one(now)
        except OSError as error:
            if error.errno in LOCAL_LIMITS:
                raise
            self._go_without(now, error)
            return Slot(-1, -1)
        if self._is_without:
            self._is_without = False
            log.info('%s: max_connections holds for all processes of this '
                     'host again', self._relay)
        return slot

    def _go_without(self, now: float, error: OSError) -> None:
        self._without_until = now + RETRY_AFTER
        if not self._is_without:
            self._is_without = True
            log.warning(
                '%s: max_connections holds for this process alone, and not '
                'for all of this host, because of "%s"; mend %s',
                self._relay, error, self._directory)

    def release(self, slot: Slot, is_clean: bool = True) -> None:
        """Give a slot back.

        :param slot: One that `take` returned.
        :param is_clean: True if the server has answered QUIT, or was never
            connected to; otherwise it may not know yet that the connection
            is gone, and the slot rests for a while.
        """
        self._held.remove(slot)
        if self._promised > 0:
            # What was counted before is less by one now.
            self._promised -= 1
            self._idle_to_give -= 1
            self._busy_to_give -= 1
        slot.free(is_clean)
        # Whoever gives one up does not get it back before others had theirs.
        self._waiting_since = now = self._clock()
        self._tell(now)

    def want(self, count: int) -> None:
        """Say for how many connections this process waits."""
        now = self._clock()
        if self._wanted == 0:
            self._waiting_since = now
        if count != self._wanted:
            self._wanted = count
            self._tell(now)
        self._set_timer()

    # Giving up what others wait for.

    def gives_back_idle(self) -> bool:
        """Return whether another idle connection is to be closed now."""
        return self._promises(self._idle_to_give)

    def gives_back_busy(self) -> bool:
        """Return whether a connection that has no transaction is to be closed.

        Its process has more than its share, or has had it for long enough
        while others have none.
        """
        return self._promises(self._busy_to_give)

    def _promises(self, count: int) -> bool:
        is_promised = self._promised < min(count, self.held)
        self._promised += is_promised
        return is_promised

    # Looking around.

    def look(self) -> None:
        """Look what the other processes do; a timer of the loop calls it."""
        now = self._clock()
        if self._wanted > 0:
            # That is the beat, too.
            self._tell(now)
        view = self._view(now)
        self._idle_to_give = view.idle_to_give
        self._busy_to_give = view.busy_to_give
        if self._wanted == 0:
            self._free_rested(now)
        elif now < self._without_until or view.may_take or any(
                slot.rests_until <= now for slot in self._resting):
            self._on_free()
        if self._promised < max(self._idle_to_give, self._busy_to_give):
            self._on_wanted()

    def _free_rested(self, now: float) -> None:
        """Give up the slots that have rested, for nobody wants them.

        Until then nobody could use them, here or elsewhere; and whoever wants
        one now and then would never have it if the rest began anew each time.
        """
        rested = [slot for slot in self._resting if slot.rests_until <= now]
        for slot in rested:
            self._resting.remove(slot)
            self._held.remove(slot)
            slot.free(is_clean=True)
        if rested:
            self._tell(now)

    def _view(self, now: float, is_asking: bool = False) -> View:
        mine = self._demand(now)
        if is_asking and self._wanted == 0:
            mine = mine._replace(wanted=1, waiting_since=now)
        others: List[Demand] = []
        if now >= self._without_until:
            try:
                others = self._files.others()
            except OSError as error:
                if not is_asking:
                    # Otherwise the locks are tried first, which say more.
                    self._note_trouble(error)
        return View(mine, others, self._maximum, now)

    def _demand(self, now: float) -> Demand:
        # More than its own ceiling it does not get; others of a higher one
        # are not to wait for it.
        wanted = min(self._wanted, max(0, self._maximum - self.held))
        return Demand(self._files.name, self.held, wanted,
                      self._waiting_since, self._holding_since, now)

    def _tell(self, now: float) -> None:
        """Tell the others what this process holds and wants."""
        if not (self._held or self._wanted):
            self._files.leave()
            self._stop_timer()
        elif now >= self._without_until:
            try:
                self._files.tell(self._demand(now))
            except OSError as error:
                self._note_trouble(error)

    def _note_trouble(self, error: OSError) -> None:
        """The ceiling holds all the same."""
        if not (self._has_told or self._is_without or
                error.errno in LOCAL_LIMITS):
            self._has_told = True
            log.warning('%s: the processes of this host may not share the '
                        'connections evenly, because of "%s"; mend %s',
                        self._relay, error, self._directory)

    # Time.

    def _set_timer(self) -> None:
        if self._timer is None and (self._held or self._wanted):
            period = WAIT_PERIOD if self._wanted else HOLD_PERIOD
            self._timer = asyncio.get_running_loop().call_later(
                period * (1 + self._chance()), self._time_is_over)

    def _time_is_over(self) -> None:
        self._timer = None
        try:
            self.look()
        finally:
            self._set_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """Give back all slots; their connections are closed, or lost."""
        self._stop_timer()
        held, self._held = self._held, set()
        self._resting = []
        self._wanted = self._promised = 0
        for slot in held:
            slot.free(is_clean=False)
        self._files.leave()
