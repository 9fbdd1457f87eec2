# SPDX-License-Identifier: GPL-3.0-or-later
"""The limits that the configuration names, as a post meets them.

The network thread has one `Limiter`, which is kept from post to post.
"""

import os
import asyncio

from mailman_mta_pool.configuration.files import ConfigurationError
from mailman_mta_pool.configuration.loading import configuration_path
from mailman_mta_pool.configuration.rates import rate_words
from mailman_mta_pool.limits.limit import Limit, Unit
from mailman_mta_pool.limits.limiter import Claimant, Limiter, Permit
from mailman_mta_pool.limits.opening import check_storage, open_storage
from mailman_mta_pool.relays.routing import limits_for
from mailman_mta_pool.settings import (
    LimitSettings,
    RelaySettings,
    Settings,
    StorageSettings,
)
from public import public
from typing import (
    Any,
    Callable,
    Dict,
    List,
    Mapping,
    Optional,
    Set,
    Tuple,
    Union,
)


# The key in the configuration of what each unit counts.
KEYS = {
    Unit.messages: 'message_rate',
    Unit.recipients: 'recipient_rate',
    Unit.connects: 'connect_rate',
    }
# By so much a wait may be longer than the period that it is for, as a part of
# the period and in seconds: what is in flight counts until its reply.
SLACK, SLACK_S = 0.01, 1.0


# Where it is counted, by how many hosts, and the directory of the files.
_Wanted = Tuple[StorageSettings, int, str]


class _Kept:
    """The limiter of the network thread, and what it is made for."""

    def __init__(self) -> None:
        # Set by the main thread, and read by the network thread.
        self.wanted: _Wanted = (StorageSettings(), 1, '')
        self._made_for: Optional[_Wanted] = None
        self._limiter: Optional[Limiter] = None
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._closing: Set[Any] = set()

    def get(self) -> Limiter:
        loop = asyncio.get_running_loop()
        former = self._limiter
        if former is not None and self._loop is not loop:
            # What belonged to a thread that has ended is of no use.
            former = self._limiter = None
        if former is not None and self._made_for != self.wanted:
            self._limiter = None
            task = asyncio.ensure_future(former.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        if self._limiter is None:
            storage, hosts, directory = self._made_for = self.wanted
            self._loop = loop
            self._limiter = Limiter(
                open_storage(storage, hosts, directory, loop), loop)
        return self._limiter

    async def close(self) -> None:
        limiter, self._limiter = self._limiter, None
        if limiter is not None and (
                self._loop is asyncio.get_running_loop()):
            await limiter.close()


_kept = _Kept()


@public
def check_limits(settings: Settings) -> None:
    """Check that there can be such a storage of the limits.

    :param settings: The settings.
    :raises ConfigurationError: if a package is missing that it needs, or the
        server's URL is none.
    """
    try:
        check_storage(settings.limit_storage)
    except ValueError as error:
        raise ConfigurationError(
            configuration_path(), '[limits] storage', str(error)) from None


@public
def use_limits(settings: Settings, directory: str) -> None:
    """Let the network thread's limiter be as the settings say.

    :param settings: The settings.
    :param directory: Where the files of the limits are.
    :raises ConfigurationError: as with `check_limits`.
    """
    check_limits(settings)
    _kept.wanted = settings.limit_storage, settings.hosts, directory


@public
def limits_directory(var_dir: str) -> str:
    """Return where the files of the limits are.

    :param var_dir: Mailman's `VAR_DIR`.
    """
    return os.path.join(var_dir, 'mta_pool', 'limits')


@public
def current_limiter() -> Limiter:
    """Return the limiter of the network thread, where this is called."""
    return _kept.get()


@public
async def close_limiter() -> None:
    """Close the limiter of the network thread; the next post makes another.
    """
    await _kept.close()


@public
class Allowance:
    """What some limits let somebody send, or open.

    :ivar is_waiting: True from a refusal until it is worth asking again.
    """

    def __init__(self, limits: Tuple[Limit, ...],
                 limiter: Callable[[], Limiter],
                 wake: Callable[[], None]) -> None:
        """Prepare; nothing is asked yet.

        :param limits: The limits that apply, at least one.
        :param limiter: Returns the limiter of the network thread.
        :param wake: Called when it is worth asking again.
        """
        self._limits = limits
        self._limiter = limiter
        self._wake = wake
        # The claimant, and the limiter that has made it.
        self._claimant: Optional[Claimant] = None
        self._made_by: Optional[Limiter] = None
        self.is_waiting = False

    def request(self, recipients: int = 1,
                is_divisible: bool = True) -> Optional[Permit]:
        """Ask for a permit; see `Claimant.request`."""
        limiter = self._limiter()
        if self._claimant is None or self._made_by is not limiter:
            # It is the first time, or the storage that is configured has
            # changed.
            self._made_by = limiter
            self._claimant = limiter.claimant(self._limits, self._woken)
        permit = self._claimant.request(recipients, is_divisible)
        self.is_waiting = permit is None
        return permit

    def _woken(self) -> None:
        self.is_waiting = False
        self._wake()

    def look(self, is_needed: bool) -> bool:
        """Return True if there is a permit.

        :param is_needed: True to keep the permit for `request`; False to give
            it back at once.
        """
        permit = self.request()
        if permit is None:
            return False
        if is_needed and self._claimant is not None:
            self._claimant.keep(permit)
        else:
            permit.unused()
        return True

    def leave(self) -> None:
        """Give up the place in the line: there is nothing to send now."""
        self.is_waiting = False
        if self._claimant is not None:
            self._claimant.leave()

    @property
    def ready_in(self) -> float:
        """Seconds until there may be a permit.

        0.0 if that may be now, and as long as a shared storage is being
        asked.
        """
        # The main thread asks, too; it may be closed meanwhile.
        claimant = self._claimant
        if claimant is None or not self.is_waiting:
            return 0.0
        return claimant.ready_in

    @property
    def reason(self) -> str:
        """What it waits for, such as 'message_rate of relay ses: 14/second'.

        '' if it waits for nothing.
        """
        claimant = self._claimant
        if claimant is None or not self.is_waiting:
            return ''
        lacking = claimant.lacking
        seconds = claimant.ready_in
        return next((limit_words(limit, seconds) for limit in self._limits
                     if limit.key in lacking), '')

    def close(self) -> None:
        """Give up the place in the line."""
        claimant, self._claimant = self._claimant, None
        self.is_waiting = False
        if claimant is not None:
            claimant.close()


@public
def limit_words(limit: Limit, seconds: float = 0.0) -> str:
    """Return a limit in the words of the configuration.

    :param limit: The limit, which has a rate.
    :param seconds: How long it lets nothing through: of several rates it is
        the one of the shortest period that may take so long.
    """
    kind, _, name = limit.name.partition('.')
    rates = sorted(limit.rates, key=lambda rate: rate.period)
    rate = next((rate for rate in rates if seconds <=
                 rate.period * (1 + SLACK) + SLACK_S), rates[-1])
    return f'{KEYS[limit.unit]} of {kind} {name}: {rate_words(rate)}'


@public
class PostLimits:
    """The limits of one post, for each of its relays."""

    def __init__(self, limits: Mapping[Any, Tuple[Limit, ...]] = {},
                 limiter: Callable[[], Limiter] = current_limiter) -> None:
        """Keep them.

        :param limits: The limits of each relay that has any.
        :param limiter: Returns the limiter of the network thread.
        """
        self._limits: Dict[Any, Tuple[Limit, ...]] = dict(limits)
        self._limiter = limiter

    def allowance(self, relay: Any,
                  wake: Callable[[], None]) -> Optional[Allowance]:
        """Return what may be sent over a relay; None if it has no limit.

        :param relay: One of the post's relays.
        :param wake: See `Allowance`.
        """
        limits = self._limits.get(relay)
        return Allowance(limits, self._limiter, wake) if limits else None


@public
def limits_of(settings: Settings, relay: RelaySettings,
              posting_address: Optional[str]) -> Tuple[Limit, ...]:
    """Return the limits of a list's mail over a relay.

    :param settings: The settings.
    :param relay: One of its relays.
    :param posting_address: The list's posting address; None for mail without
        a list.
    """
    owners: List[Tuple[str, Union[RelaySettings, LimitSettings]]] = [
        (f'relay.{relay.name}', relay)]
    owners += [(f'limit.{limit.name}', limit)
               for limit in limits_for(settings, posting_address)]
    limits = (
        Limit(name, unit, rates) for name, owner in owners
        for unit, rates in ((Unit.messages, owner.message_rate),
                            (Unit.recipients, owner.recipient_rate)))
    return tuple(limit for limit in limits if limit.rates)


@public
def connect_allowance(relay: RelaySettings,
                      wake: Callable[[], None]) -> Optional[Allowance]:
    """Return what may be opened to a relay; None if there is no limit.

    :param relay: Its settings.
    :param wake: See `Allowance`.
    """
    if not relay.connect_rate:
        return None
    limit = Limit(f'relay.{relay.name}', Unit.connects, relay.connect_rate)
    return Allowance((limit,), current_limiter, wake)
