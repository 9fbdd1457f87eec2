# SPDX-License-Identifier: GPL-3.0-or-later
"""The addresses of a relay: which there are, and which can be used."""

import time
import errno
import random
import socket
import asyncio

from itertools import zip_longest
from mailman_mta_pool.connection.breaker import Breaker, BreakerState
from mailman_mta_pool.connection.srv import (
    Ask,
    in_order_of_service,
    is_service,
    Target,
    Targets,
)
from mailman_mta_pool.errors import local_limit, PhaseTimeout
from public import public
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    List,
    NamedTuple,
    Optional,
    Tuple,
)
from weakref import WeakSet


# A relay without a connection, to which the first one has not come about for
# so many seconds, is not waited for where there is another one.
STALL = 2.0
# How many addresses of one host name are looked at; anybody may have answered
# for DNS.
MAX_ADDRESSES = 32
public(MAX_ADDRESSES=MAX_ADDRESSES, STALL=STALL)


@public
class Address(NamedTuple):
    """One address of a relay, as `socket.getaddrinfo` gives it."""

    family: int
    type: int
    proto: int
    sockaddr: Tuple[Any, ...]

    def __str__(self) -> str:
        return str(self.sockaddr[0])


class _Known:
    """What is known of one address.

    :ivar uses: The connections there, and the attempts under way.
    :ivar turn: The number of the attempt that was begun there last.
    """

    def __init__(self, breaker: Breaker) -> None:
        self.breaker = breaker
        # Weak, so that a connection that is dropped does not count for ever.
        self.uses: 'WeakSet[Use]' = WeakSet()
        self.turn = 0


@public
class Use:
    """One use of an address: an attempt to connect, and the connection.

    :ivar address: The address.
    :ivar is_open: True from `worked` to the end.
    :ivar began: When the attempt began, in seconds.
    """

    def __init__(self, address: Address, known: _Known, began: float,
                 has_alternative: Callable[[Address], bool]) -> None:
        """Begin; `Addresses.begin` makes them."""
        self.address = address
        self.is_open = False
        self.began = began
        self._known = known
        self._has_alternative = has_alternative
        self._is_probe = known.breaker.begin()
        known.uses.add(self)

    def __repr__(self) -> str:
        return f'<Use {self.address} {self._known.breaker.state.value}>'

    def worked(self) -> None:
        """Take note that mail can be sent; the use goes on until `end`."""
        self._is_probe = False
        self.is_open = True
        self._known.breaker.succeeded()

    def failed(self, reason: str) -> None:
        """Take note that it cannot be used, and end.

        :param reason: Why, for the log.
        """
        self._known.uses.discard(self)
        is_probe, self._is_probe = self._is_probe, False
        self._known.breaker.failed(
            reason, is_probe=is_probe,
            has_alternative=self._has_alternative(self.address))

    def refused(self, reason: str) -> None:
        """Take note that the server answered, but not as it should; and end.

        It is a failure, unless the server holds other connections of ours:
        this one may be one too many then.

        :param reason: What the server said, for the log.
        """
        if any(use.is_open for use in self._known.uses):
            self.end()
        else:
            self.failed(reason)

    def end(self) -> None:
        """Take note that the connection, or the attempt, is over."""
        self.is_open = False
        self._known.uses.discard(self)
        if self._is_probe:
            self._is_probe = False
            self._known.breaker.abandoned()


def _no_other_relay() -> bool:
    """There is none."""
    return False


def _nothing() -> None:
    """Take note of nothing."""


def _any_number() -> Optional[Callable[[], None]]:
    """Allow another attempt to connect; nothing counts them."""
    return _nothing


@public
class Addresses:
    """What is known of the addresses of one relay; owned by the loop.

    :ivar relay: The relay's name, for the log; '' if it does not matter.
    :ivar has_other_relay: Tells whether another relay is up, which could take
        what this one cannot.  One failure is enough then for an address not
        to be used for a while.
    :ivar next_attempt: Allows another attempt to connect, besides the first
        one of an opening: it returns what is to be called when that is over,
        or None.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *,
                 relay: str = '',
                 chance: Callable[[], float] = random.SystemRandom().random,
                 has_other_relay: Callable[[], bool] = _no_other_relay,
                 next_attempt: Callable[
                     [], Optional[Callable[[], None]]] = _any_number,
                 ask: Optional[Ask] = None) -> None:
        """Nothing is known at first.

        :param clock: Seconds that only grow.
        :param relay: The relay's name, for the log.
        :param chance: A number from 0 up to 1, for the jitter of the breakers
            and for the order of a service's targets.
        :param has_other_relay: See above.
        :param next_attempt: Likewise.
        :param ask: See `Targets`.
        """
        self.has_other_relay = has_other_relay
        self.next_attempt = next_attempt
        self._clock = clock
        self.relay = relay
        self._chance = chance
        self._ask = ask
        self._known: Dict[Address, _Known] = {}
        self._name = self._breaker('look-up of the name')
        self._turn = 0
        # Those of the latest look-up.
        self._current: List[Address] = []
        self._targets: Optional[Targets] = None
        self._lookup: Optional['asyncio.Future[List[_Found]]'] = None
        self._asked = 0.0

    def _breaker(self, name: str) -> Breaker:
        if self.relay and name != self.relay:
            name = f'{self.relay}: {name}'
        return Breaker(name, self._clock, self._chance)

    def _of(self, address: Address) -> _Known:
        known = self._known.get(address)
        if known is None:
            host, port = address.sockaddr[:2]
            known = self._known[address] = _Known(self._breaker(
                f'[{host}]:{port}' if ':' in host else f'{host}:{port}'))
        return known

    def _has_alternative(self, address: Address) -> bool:
        return self.has_other_relay() or any(
            self._of(other).breaker.state is BreakerState.closed
            for other in self._current if other != address)

    # For whoever has other relays.

    @property
    def is_available(self) -> bool:
        """False if the look-up fails, or every address does, for a while.

        It is True when a probe is due, and False while one is under way.
        """
        return self._name.is_usable and (
            not self._current or any(map(self.is_usable, self._current)))

    @property
    def is_up(self) -> bool:
        """False if it does not work, as far as is known, or stalls.

        A relay with a connection does.  One whose probe is due does not until
        the probe has succeeded.
        """
        works = self._name.state is BreakerState.closed and (
            not self._current or any(
                self._of(address).breaker.state is BreakerState.closed
                for address in self._current))
        return works and self.stalls_in > 0 or any(
            use.is_open for use in self._uses())

    @property
    def stalls_in(self) -> float:
        """In how many seconds the first connection takes too long.

        It is `float('inf')` if there is a connection, or none is attempted.
        """
        uses = self._uses()
        if any(use.is_open for use in uses):
            return float('inf')
        begins = [use.began for use in uses]
        if self._lookup is not None and not self._lookup.done():
            begins.append(self._asked)
        return min((begin + STALL - self._clock() for begin in begins),
                   default=float('inf'))

    def _uses(self) -> List[Use]:
        return [use for known in self._known.values() for use in known.uses]

    @property
    def failure(self) -> str:
        """Why it is not up, in one line; '' if it is."""
        if self.is_up:
            return ''
        reason = self._name.reason or '; '.join(
            f'{address}: {self._of(address).breaker.reason}'
            for address in self._current if self._of(address).breaker.reason)
        return reason or 'connect: no connection yet'

    @property
    def available_in(self) -> float:
        """After how many seconds a probe is due; 0.0 if it is available.

        While a probe is under way there is nothing to wait for but its end;
        `float('inf')` says so.
        """
        if self.is_available:
            return 0.0
        breakers = [self._of(address).breaker for address in self._current]
        if not self._name.is_usable:
            breakers = [self._name]
        return min((breaker.due_in for breaker in breakers
                    if breaker.state is BreakerState.open),
                   default=float('inf'))

    @property
    def trouble(self) -> str:
        """Why it is not available, in one line; '' if it is."""
        if self.is_available:
            return ''
        return self._name.reason or '; '.join(
            f'{address}: {self._of(address).breaker.reason}'
            for address in self._current)

    # For whoever connects.

    def is_usable(self, address: Address) -> bool:
        """Return whether an address works, or the next attempt is a probe."""
        known = self._known.get(address)
        return known is None or known.breaker.is_usable

    def begin(self, address: Address) -> Use:
        """Return a new use of an address; it counts until its end."""
        known = self._of(address)
        self._turn += 1
        known.turn = self._turn
        return Use(address, known, self._clock(), self._has_alternative)

    def in_order(self, addresses: Iterable[Address]) -> List[Address]:
        """Return the addresses in the order in which they are to be tried.

        The connections are spread over those of the family of the first one:
        the one with the fewest goes first, and of two with equally many the
        one that had its turn earlier.  The families take turns (RFC 8305,
        section 4).  In its family, one that may work again is tried before
        the others, which is its probe.  What failed, and is not due, comes
        last, the earliest due one first.

        :param addresses: The most preferred one first (RFC 6724).
        """
        families: Dict[int, List[Address]] = {}
        failed = []
        for address in addresses:
            if self.is_usable(address):
                families.setdefault(address.family, []).append(address)
            else:
                failed.append(address)
        for family in families.values():
            family.sort(key=self._rank)
        return [address for turn in zip_longest(*families.values())
                for address in turn if address is not None] + sorted(
                    failed, key=lambda each: self._of(each).breaker.due_in)

    def _rank(self, address: Address) -> Tuple[bool, int, int]:
        known = self._known.get(address)
        if known is None:
            return True, 0, 0
        return not known.breaker.is_due, len(known.uses), known.turn

    async def resolve(self, host: str, port: int,
                      timeout: float) -> List[Address]:
        """Return the addresses of the relay, in the order of `in_order`.

        Those of a service come target by target (RFC 2782), and those of all
        targets that failed come last.  There is one look-up at a time, which
        all connections to be opened share: one that hangs takes one thread,
        not each.

        :param host: The relay's host name or address, or its service.
        :param port: The relay's port; a service has its own.
        :param timeout: How many seconds to wait for the answer.
        :raises OSError: if the host has no address, or not in time.
        :raises UnicodeError: if the host name cannot be encoded.
        :raises ValueError: if the service's name is none.
        :raises smtplib.SMTPNotSupportedError: if the service is not offered.
        """
        if self._lookup is None or self._lookup.done():
            self._asked = self._clock()
            self._lookup = asyncio.ensure_future(
                self._look_up(host, port, timeout))
            # Perhaps nobody waits any more when it fails.
            self._lookup.add_done_callback(
                lambda lookup: lookup.cancelled() or lookup.exception())
        lookup = self._lookup
        await asyncio.wait([lookup], timeout=timeout)
        if not lookup.done():
            error = PhaseTimeout(
                f'the look-up of {host} had no answer within {timeout:g} s')
            self._note_name(error, is_probe=False)
            raise error
        return self._arranged(lookup.result())

    async def _look_up(self, host: str, port: int,
                       timeout: float) -> List['_Found']:
        is_probe = self._name.begin()
        try:
            if is_service(host):
                found = await self._look_up_service(host, timeout)
            else:
                found = [_Found(Target(0, 0, host, port),
                                await _look_up(host, port))]
        except Exception as error:
            self._note_name(error, is_probe)
            raise
        except BaseException:
            if is_probe:
                self._name.abandoned()
            raise
        self._name.succeeded()
        self._remember(found)
        return found

    def _note_name(self, error: Exception, is_probe: bool) -> None:
        if local_limit(error) is None:
            self._name.failed(
                str(error) or type(error).__name__, is_probe=is_probe,
                has_alternative=self.has_other_relay())
        elif is_probe:
            self._name.abandoned()

    async def _look_up_service(self, host: str,
                               timeout: float) -> List['_Found']:
        if self._targets is None:
            self._targets = Targets(host, self._clock, self._ask)
        targets = await self._targets.get(timeout)
        answers = await asyncio.gather(*[
            _look_up(target.host, target.port) for target in targets],
            return_exceptions=True)
        found = [_Found(target, answer)
                 for target, answer in zip(targets, answers)
                 if not isinstance(answer, BaseException)]
        if not found:
            for answer in answers:
                if isinstance(answer, BaseException):
                    raise answer
        return found

    def _remember(self, found: List['_Found']) -> None:
        """Take note of the addresses that there are, and forget others."""
        self._current = list(dict.fromkeys(
            address for each in found for address in each.addresses))
        self._known = {
            address: known for address, known in self._known.items()
            if address in self._current or known.uses or
            not known.breaker.is_forgettable}

    def _arranged(self, found: List['_Found']) -> List[Address]:
        of = {each.target: each.addresses for each in found}
        ordered = [address for target in in_order_of_service(
            list(of), self._chance) for address in self.in_order(of[target])]
        # Two targets may have an address in common.  The sort is stable.
        return sorted(dict.fromkeys(ordered),
                      key=lambda address: not self.is_usable(address))


class _Found(NamedTuple):
    """A target of a service, or the host itself, and its addresses."""

    target: Target
    addresses: List[Address]


async def _look_up(host: str, port: int) -> List[Address]:
    try:
        found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM,
            flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV)
    except socket.gaierror:
        # It is no address, so somebody has to be asked, which takes a thread.
        found = await _ask(host, port)
    return [Address(family, kind, proto, sockaddr)
            for family, kind, proto, _, sockaddr in found[:MAX_ADDRESSES]]


async def _ask(host: str, port: int) -> List[Any]:
    loop = asyncio.get_running_loop()
    try:
        return await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except RuntimeError as error:
        # The executor cannot start a thread.
        raise OSError(errno.EAGAIN, str(error)) from error
