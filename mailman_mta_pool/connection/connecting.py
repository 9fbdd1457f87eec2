# SPDX-License-Identifier: GPL-3.0-or-later
"""Connecting to the first address of a relay that answers (RFC 8305)."""

import os
import errno
import socket
import asyncio

from collections import deque
from contextlib import suppress
from mailman_mta_pool.connection.addresses import Address, Addresses, Use
from mailman_mta_pool.errors import ConnectionLost, local_limit, PhaseTimeout
from mailman_mta_pool.network.limits import check_descriptors
from public import public
from typing import Any, Callable, Deque, Dict, List, Optional, Tuple


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
public(LAST_RESORT_STAGGER=LAST_RESORT_STAGGER, Note=Note,
       Observe=Observe, STAGGER=STAGGER)


@public
def unobserved(name: str, value: Any) -> None:
    """Take no notice; an `Observe` and a `Note`."""


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
        if local_limit(error) is None:
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
            number = local_limit(error)
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
