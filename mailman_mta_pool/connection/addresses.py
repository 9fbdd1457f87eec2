# SPDX-License-Identifier: GPL-3.0-or-later
"""The addresses of a relay: which there are, and which one answers."""

import os
import time
import errno
import random
import socket
import asyncio

from collections import deque
from contextlib import suppress
from itertools import zip_longest
from mailman_mta_pool.connection.breaker import Breaker, BreakerState
from mailman_mta_pool.connection.srv import (
    Ask,
    in_order_of_service,
    is_service,
    Target,
    Targets,
)
from mailman_mta_pool.errors import ConnectionLost, LOCAL_LIMITS, PhaseTimeout
from mailman_mta_pool.network.limits import check_descriptors
from public import public
from typing import (
    Any,
    Callable,
    Deque,
    Dict,
    Iterable,
    List,
    NamedTuple,
    Optional,
    Tuple,
)
from weakref import WeakSet


# Is told the name of a step, and how many seconds it took.  The steps are
# resolve, connect, greeting, hello, tls and auth.
Observe = Callable[[str, float], None]
# Is told the name of what was found out, and the value.
Note = Callable[[str, Any], None]
# RFC 8305, section 5, "Connection Attempt Delay".
STAGGER = 0.25
# How long an attempt at an address that works may take before those that
# failed of late are tried as well, in seconds.
LAST_RESORT_STAGGER = 2.0
# A relay without a connection, to which the first one has not come about for
# so many seconds, is not waited for where there is another one.
STALL = 2.0
public(LAST_RESORT_STAGGER=LAST_RESORT_STAGGER, Note=Note,
       Observe=Observe, STAGGER=STAGGER, STALL=STALL)


@public
def unobserved(name: str, value: Any) -> None:
    """Take no notice; an `Observe` and a `Note`."""


# How many addresses of one host name are looked at; anybody may have answered
# for DNS.
MAX_ADDRESSES = 32
public(MAX_ADDRESSES=MAX_ADDRESSES)


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
        if _local_limit(error) is None:
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


@public
async def connect(host: str, port: int, timeout: float,
                  addresses: Addresses, *, source: str = '',
                  observe: Observe = unobserved,
                  note: Note = unobserved) -> Tuple[socket.socket, Use]:
    """Connect to the first address of a relay that answers (RFC 8305).

    :param host: The relay's host name or address, or its service.
    :param port: The relay's port.
    :param timeout: How many seconds the look-up of the name may take, and
        then each attempt to connect.
    :param addresses: What is known of the relay's addresses, to be added to.
    :param source: The IP address to connect from, if it matters.  Addresses
        of the other family are left out then.
    :param observe: Told how long the steps resolve and connect took.
    :param note: Told the `addresses`, in the order in which they are tried,
        and the `address` that answered.
    :return: The socket, connected and non-blocking, and the use of its
        address, which has to be told what becomes of it.
    :raises OSError: naming what went wrong with each address.
    :raises Exception: see `Addresses.resolve`.
    """
    clock = asyncio.get_running_loop().time
    begin = clock()
    candidates = reachable_from(
        source, await addresses.resolve(host, port, timeout))
    resolved = clock()
    note('addresses', candidates)
    observe('resolve', resolved - begin)
    sock, use = await _Race(candidates, timeout, addresses, source).run()
    note('address', use.address)
    observe('connect', clock() - resolved)
    return sock, use


@public
def reachable_from(source: str, candidates: List[Address]) -> List[Address]:
    """Return those addresses that can be connected to from another one.

    :param source: An IP address; '' for whatever the system chooses.
    :param candidates: The addresses.
    :raises OSError: if there is no such address.
    """
    if not source:
        return candidates
    family = socket.AF_INET6 if ':' in source else socket.AF_INET
    reachable = [address for address in candidates
                 if address.family == family]
    if candidates and not reachable:
        raise OSError(
            errno.EAFNOSUPPORT, f'{", ".join(map(str, candidates))} cannot '
            f'be reached from {source}, the source_address')
    return reachable


class _Race:
    """Attempts to connect to several addresses, one begun after the other.

    It is made of callbacks, so that there is nothing to wait for when the
    waiting coroutine is cancelled.
    """

    def __init__(self, candidates: List[Address], timeout: float,
                 addresses: Addresses, source: str) -> None:
        self._source = source
        self._loop = asyncio.get_running_loop()
        self._waiting: Deque[Address] = deque(candidates)
        self._timeout = timeout
        self._addresses = addresses
        # Those under way, oldest first, each with the timer that ends it.
        self._attempts: Dict[
            socket.socket, Tuple[Use, asyncio.TimerHandle]] = {}
        self._next: Optional[asyncio.TimerHandle] = None
        # To be called when all is over, by each attempt that was allowed.
        self._allowed: List[Callable[[], None]] = []
        self._is_first = True
        self._winner: Optional[Tuple[socket.socket, Use]] = None
        self._over = self._loop.create_future()
        self._errors: List[Tuple[Address, Exception]] = []

    async def run(self) -> Tuple[socket.socket, Use]:
        """Return the first socket that is connected; see `connect`."""
        self._begin_next()
        try:
            await self._over
            if self._winner is None:
                raise self._failure()
            winner, self._winner = self._winner, None
            return winner
        finally:
            self._stop()
            for is_over in self._allowed:
                is_over()
            if self._winner is not None:
                # Cancelled before it was taken.
                sock, use = self._winner
                sock.close()
                use.end()

    def _stop(self) -> None:
        """Begin no more attempts, and give up those under way."""
        self._stop_timer()
        for sock in list(self._attempts):
            use = self._end(sock)
            sock.close()
            use.end()

    def _begin_next(self) -> None:
        """Begin an attempt, or the one after it if that fails at once."""
        self._stop_timer()
        while self._waiting and self._may_begin():
            address = self._waiting.popleft()
            is_hopeful = self._addresses.is_usable(address)
            use = self._addresses.begin(address)
            try:
                self._begin(use)
            except Exception as error:
                # Of whatever kind: nobody catches what a callback raises.
                self._note(use, error)
                continue
            if self._waiting:
                is_resort = is_hopeful and not self._addresses.is_usable(
                    self._waiting[0])
                self._next = self._loop.call_later(
                    LAST_RESORT_STAGGER if is_resort else STAGGER,
                    self._begin_next)
            return
        if not self._attempts:
            self._finish()

    def _may_begin(self) -> bool:
        """Return False if so many connections may not be opened now.

        The next attempt is looked at again when one under way has failed.
        """
        if self._is_first:
            # Whoever opens the connection has asked for this one.
            self._is_first = False
            return True
        is_over = self._addresses.next_attempt()
        if is_over is None:
            return False
        self._allowed.append(is_over)
        return True

    def _finish(self) -> None:
        # It is done already if the waiting coroutine has been cancelled.
        if not self._over.done():
            self._over.set_result(None)

    def _stop_timer(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _begin(self, use: Use) -> None:
        check_descriptors()
        address = use.address
        sock = socket.socket(address.family, address.type, address.proto)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._source:
                _bind(sock, self._source)
            with suppress(BlockingIOError):
                sock.connect(address.sockaddr)
            self._loop.add_writer(sock.fileno(), self._answered, sock)
        except BaseException:
            sock.close()
            raise
        self._attempts[sock] = use, self._loop.call_later(
            self._timeout, self._fail, sock, PhaseTimeout(
                f'no answer within {self._timeout:g} s'))

    def _end(self, sock: socket.socket) -> Use:
        use, timer = self._attempts.pop(sock)
        timer.cancel()
        self._loop.remove_writer(sock.fileno())
        return use

    def _answered(self, sock: socket.socket) -> None:
        number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number != 0:
            self._fail(sock, OSError(number, os.strerror(number)))
            return
        winner = self._attempts[sock][0].address
        for other, (use, _) in self._attempts.items():
            if other is sock:
                break
            # With its head start it is as good as dead.
            use.failed(f'no answer before that of {winner}')
        self._winner = sock, self._end(sock)
        self._stop()
        self._finish()

    def _fail(self, sock: socket.socket, error: OSError) -> None:
        use = self._end(sock)
        sock.close()
        self._note(use, error)
        self._begin_next()

    def _note(self, use: Use, error: Exception) -> None:
        self._errors.append((use.address, error))
        if _local_limit(error) is None:
            use.failed(str(error))
        else:
            use.end()

    def _failure(self) -> OSError:
        """One error for all addresses; a limit of this machine shows."""
        text = '; '.join([
            f'{address}: {error}' for address, error in self._errors] + [
            f'{address}: not tried, because of connect_rate'
            for address in self._waiting])
        for _, error in self._errors:
            number = _local_limit(error)
            if number is not None:
                return OSError(number, text)
        return ConnectionLost(text or 'the host name has no address')


def _bind(sock: socket.socket, source: str) -> None:
    """Have a socket connect from an IP address.

    :raises OSError: naming the address.
    """
    try:
        sock.bind((source, 0))
    except OSError as error:
        raise OSError(
            error.errno, f'{error.strerror or error}: {source}, the '
            'source_address') from error


def _local_limit(error: Exception) -> Optional[int]:
    """The `errno` of a limit of this machine, else None."""
    number = getattr(error, 'errno', None)
    return number if number in LOCAL_LIMITS else None
