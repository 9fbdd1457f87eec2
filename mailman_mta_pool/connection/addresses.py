# SPDX-License-Identifier: GPL-3.0-or-later
"""The addresses of a relay: which there are, and which one answers."""

import os
import time
import errno
import socket
import asyncio

from collections import deque
from contextlib import suppress
from itertools import zip_longest
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


# Is told the name of a step, and how many seconds it took.  The steps are
# resolve, connect, greeting, hello, tls and auth.
Observe = Callable[[str, float], None]
# Is told the name of what was found out, and the value.
Note = Callable[[str, Any], None]
# RFC 8305, section 5, "Connection Attempt Delay".
STAGGER = 0.25
# How many seconds an address that failed is tried after the others.
MEMORY = 300.0
public(MEMORY=MEMORY, Note=Note, Observe=Observe, STAGGER=STAGGER)


@public
def unobserved(name: str, value: Any) -> None:
    """Take no notice; an `Observe` and a `Note`."""


@public
class Address(NamedTuple):
    """One address of a relay, as `socket.getaddrinfo` gives it."""

    family: int
    type: int
    proto: int
    sockaddr: Tuple[Any, ...]

    def __str__(self) -> str:
        return str(self.sockaddr[0])


@public
class Addresses:
    """What is known of the addresses of one relay; owned by the loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing is known at first.

        :param clock: Seconds that only grow.
        """
        self._clock = clock
        self._failures: Dict[Address, float] = {}
        self._lookup: Optional['asyncio.Future[List[Address]]'] = None

    def failed(self, address: Address) -> None:
        """No connection could be opened there: try it last for a while."""
        self._failures[address] = self._clock()

    def worked(self, address: Address) -> None:
        """A connection was opened there."""
        self._failures.pop(address, None)

    def in_order(self, addresses: Iterable[Address]) -> List[Address]:
        """Return the addresses in the order in which they are to be tried.

        The families take turns (RFC 8305, section 4); within a family the
        order stays.  What failed within `MEMORY` seconds comes last.

        :param addresses: The most preferred one first (RFC 6724).
        """
        families: Dict[int, List[Address]] = {}
        for address in addresses:
            families.setdefault(address.family, []).append(address)
        since = self._clock() - MEMORY
        self._failures = {
            address: when for address, when in self._failures.items()
            if when > since}
        return sorted(
            (address for turn in zip_longest(*families.values())
             for address in turn if address is not None),
            key=self._failures.__contains__)

    async def resolve(self, host: str, port: int,
                      timeout: float) -> List[Address]:
        """Return the addresses of the relay, in the order of `in_order`.

        There is one look-up at a time, which all connections to be opened
        share: one that hangs takes one thread, not each.

        :param host: The relay's host name or address.
        :param port: The relay's port.
        :param timeout: How many seconds to wait for the answer.
        :raises OSError: if the host has no address, or not in time.
        :raises UnicodeError: if the host name cannot be encoded.
        """
        if self._lookup is None or self._lookup.done():
            self._lookup = asyncio.ensure_future(_look_up(host, port))
            # Perhaps nobody waits any more when it fails.
            self._lookup.add_done_callback(
                lambda lookup: lookup.cancelled() or lookup.exception())
        lookup = self._lookup
        await asyncio.wait([lookup], timeout=timeout)
        if not lookup.done():
            raise PhaseTimeout(
                f'the look-up of {host} had no answer within {timeout:g} s')
        return self.in_order(lookup.result())


async def _look_up(host: str, port: int) -> List[Address]:
    try:
        found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM,
            flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV)
    except socket.gaierror:
        # It is no address, so somebody has to be asked, which takes a thread.
        found = await _ask(host, port)
    return [Address(family, kind, proto, sockaddr)
            for family, kind, proto, _, sockaddr in found]


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
                  note: Note = unobserved) -> Tuple[socket.socket, Address]:
    """Connect to the first address of a relay that answers (RFC 8305).

    :param host: The relay's host name or address.
    :param port: The relay's port.
    :param timeout: How many seconds the look-up of the name may take, and
        then each attempt to connect.
    :param addresses: What is known of the relay's addresses, to be added to.
    :param source: The IP address to connect from, if it matters.  Addresses
        of the other family are left out then.
    :param observe: Told how long the steps resolve and connect took.
    :param note: Told the `addresses`, in the order in which they are tried,
        and the `address` that answered.
    :return: The socket, connected and non-blocking, and its address.
    :raises OSError: naming what went wrong with each address.
    :raises UnicodeError: if the host name cannot be encoded.
    """
    clock = asyncio.get_running_loop().time
    begin = clock()
    candidates = reachable_from(
        source, await addresses.resolve(host, port, timeout))
    resolved = clock()
    note('addresses', candidates)
    observe('resolve', resolved - begin)
    sock, address = await _Race(
        candidates, timeout, addresses, source).run()
    note('address', address)
    observe('connect', clock() - resolved)
    return sock, address


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
            socket.socket, Tuple[Address, asyncio.TimerHandle]] = {}
        self._next: Optional[asyncio.TimerHandle] = None
        self._winner: Optional[Tuple[socket.socket, Address]] = None
        self._over = self._loop.create_future()
        self._errors: List[Tuple[Address, Exception]] = []

    async def run(self) -> Tuple[socket.socket, Address]:
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
            if self._winner is not None:
                # Cancelled before it was taken.
                self._winner[0].close()

    def _stop(self) -> None:
        """Begin no more attempts, and give up those under way."""
        self._stop_timer()
        for sock in list(self._attempts):
            self._end(sock)
            sock.close()

    def _begin_next(self) -> None:
        """Begin an attempt, or the one after it if that fails at once."""
        self._stop_timer()
        while self._waiting:
            address = self._waiting.popleft()
            try:
                self._begin(address)
            except Exception as error:
                # Of whatever kind: nobody catches what a callback raises.
                self._note(address, error)
                continue
            if self._waiting:
                self._next = self._loop.call_later(STAGGER, self._begin_next)
            return
        if not self._attempts:
            self._finish()

    def _finish(self) -> None:
        # It is done already if the waiting coroutine has been cancelled.
        if not self._over.done():
            self._over.set_result(None)

    def _stop_timer(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _begin(self, address: Address) -> None:
        check_descriptors()
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
        self._attempts[sock] = address, self._loop.call_later(
            self._timeout, self._fail, sock, PhaseTimeout(
                f'no answer within {self._timeout:g} s'))

    def _end(self, sock: socket.socket) -> Address:
        address, timer = self._attempts.pop(sock)
        timer.cancel()
        self._loop.remove_writer(sock.fileno())
        return address

    def _answered(self, sock: socket.socket) -> None:
        number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number != 0:
            self._fail(sock, OSError(number, os.strerror(number)))
            return
        for other, (address, _) in self._attempts.items():
            if other is sock:
                break
            # With its head start it is as good as dead.
            self._addresses.failed(address)
        self._winner = sock, self._end(sock)
        self._stop()
        self._finish()

    def _fail(self, sock: socket.socket, error: OSError) -> None:
        address = self._end(sock)
        sock.close()
        self._note(address, error)
        self._begin_next()

    def _note(self, address: Address, error: Exception) -> None:
        self._errors.append((address, error))
        if _local_limit(error) is None:
            self._addresses.failed(address)

    def _failure(self) -> OSError:
        """One error for all addresses; a limit of this machine shows."""
        text = '; '.join(
            f'{address}: {error}' for address, error in self._errors)
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
