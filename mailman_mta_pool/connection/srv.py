# SPDX-License-Identifier: GPL-3.0-or-later
"""Servers that DNS names by service records (RFC 2782).

dnspython asks, with its asynchronous resolver: its sockets and timers belong
to the loop, so a name server that does not answer takes no thread, and what
is given up ends at once.
"""

import re
import time
import smtplib

from mailman_mta_pool.errors import ConnectionLost, PhaseTimeout
from public import public
from typing import Any, Callable, List, NamedTuple, Optional, Sequence, Tuple


PREFIX = 'srv:'
# An answer is used for as long as it says, but no shorter and no longer, in
# seconds.  RFC 2181, section 8, lets us bound what is too long.
SHORTEST_TTL = 60.0
LONGEST_TTL = 86400.0
# While no name server answers, the records are used for so many seconds after
# their time (RFC 8767, section 5), and asked for again after so many.
LONGEST_STALE = 86400.0
STALE_TTL = 30.0
# How many targets are looked at, those of the best priority; anybody may have
# answered for DNS.
MAX_TARGETS = 20
EXAMPLE = 'srv:_submissions._tcp.example.com'
_SERVICE = re.compile(
    r'_(?P<service>[a-z0-9](?:-?[a-z0-9])*)\._(?P<protocol>tcp)\.'
    r'(?P<domain>[^.\s:/@](?:\.?[^.\s:/@])*)\.?', re.IGNORECASE)
public(LONGEST_STALE=LONGEST_STALE, LONGEST_TTL=LONGEST_TTL,
       MAX_TARGETS=MAX_TARGETS, PREFIX=PREFIX,
       SHORTEST_TTL=SHORTEST_TTL, STALE_TTL=STALE_TTL)


@public
def is_service(host: str) -> bool:
    """Return whether a configured host is the name of a service."""
    return host.lower().startswith(PREFIX)


@public
class ServiceName(NamedTuple):
    """What a host of the form `srv:_submissions._tcp.example.com` means.

    :ivar service: The service, such as 'submissions' (RFC 8314) or
        'submission' (RFC 6186).
    :ivar domain: The domain that offers the service.  The server's
        certificate has to be for this name and not for the target's, for DNS
        says what the target is, and anybody may have answered (RFC 6186,
        section 6; RFC 7817, section 3).
    """

    service: str
    domain: str

    @property
    def query(self) -> str:
        """The name of the records."""
        return f'_{self.service}._tcp.{self.domain}'


@public
def service_of(host: str) -> ServiceName:
    """Return the service that a configured host names.

    :param host: It begins with `PREFIX`.
    :raises ValueError: with the remedy, if it is no service's name.
    """
    match = _SERVICE.fullmatch(host[len(PREFIX):])
    if not is_service(host) or match is None:
        raise ValueError(
            f'{host!r} is not the name of a service; it is to look like '
            f'{EXAMPLE}')
    return ServiceName(match['service'], match['domain'])


@public
def certificate_name(host: str) -> str:
    """Return the name that the server's certificate has to be for.

    :param host: The relay's host name, address or service.
    :return: The domain of a service.  An absolute name ends with a dot, those
        in certificates do not.
    """
    name = service_of(host).domain if is_service(host) else host
    return name[:-1] if name.endswith('.') else name


@public
class Target(NamedTuple):
    """One record: a server of the service.

    :ivar priority: Those with the lowest number come first.
    :ivar weight: The share of what goes to those of one priority.
    """

    priority: int
    weight: int
    host: str
    port: int


@public
def in_order_of_service(targets: Sequence[Target],
                        chance: Callable[[], float]) -> List[Target]:
    """Return the targets in the order in which one connection tries them.

    That is the algorithm of RFC 2782: by priority, and within one priority by
    chance, where the weights are the shares.

    :param targets: In any order.
    :param chance: A number from 0 up to, but without, 1.
    """
    ordered: List[Target] = []
    for priority in sorted({target.priority for target in targets}):
        # Those of weight 0 come first, so that they have a small chance.
        left = sorted((target for target in targets
                       if target.priority == priority),
                      key=lambda target: target.weight > 0)
        while left:
            mark = int(chance() * (1 + sum(each.weight for each in left)))
            for target in left:
                mark -= target.weight
                if mark <= 0:
                    break
            left.remove(target)
            ordered.append(target)
    return ordered


# Asks DNS for the records of a name, with a time limit in seconds.  It returns
# the targets, and for how many seconds they hold.
Ask = Callable[[str, float], Any]
public(Ask=Ask)


@public
class Targets:
    """The targets of a service, kept for as long as the answer says."""

    def __init__(self, host: str,
                 clock: Callable[[], float] = time.monotonic,
                 ask: Optional[Ask] = None) -> None:
        """Prepare; nobody is asked yet.

        :param host: The service, as it is configured.
        :param clock: Seconds that only grow.
        :param ask: A coroutine function that is to be asked instead of the
            name servers in /etc/resolv.conf.
        :raises ValueError: if that is no service's name.
        """
        self._name = service_of(host)
        self._clock = clock
        self._ask = ask_dns if ask is None else ask
        self._targets: List[Target] = []
        self._expires = self._is_useless = float('-inf')

    async def get(self, timeout: float) -> List[Target]:
        """Return the targets.

        :param timeout: How many seconds the name servers may take.
        :raises OSError: if there is no usable answer, or not in time.
        :raises smtplib.SMTPNotSupportedError: if the domain says that it does
            not offer the service.
        """
        now = self._clock()
        if now < self._expires:
            return self._targets
        try:
            targets, ttl = await self._ask(self._name.query, timeout)
        except OSError:
            # An answer that nobody has withdrawn is better than none.
            now = self._clock()
            if now >= self._is_useless:
                raise
            self._expires = now + STALE_TTL
            return self._targets
        self._check(targets)
        now = self._clock()
        self._targets = sorted(
            (target for target in targets if target.host),
            key=lambda target: target.priority)[:MAX_TARGETS]
        self._expires = now + min(max(ttl, SHORTEST_TTL), LONGEST_TTL)
        self._is_useless = self._expires + LONGEST_STALE
        return self._targets

    def _check(self, targets: Sequence[Target]) -> None:
        """Raise the error that fits if the targets are none."""
        query = self._name.query
        if not targets:
            self._forget()
            raise ConnectionLost(
                f'DNS has no SRV record {query}; give the server\'s name as '
                f'host, and its port')
        if not any(target.host for target in targets):
            # RFC 2782, "Target".
            self._forget()
            raise smtplib.SMTPNotSupportedError(
                f'the SRV record {query} says that the service is not '
                f'offered there; give the server\'s name as host, and its '
                f'port')

    def _forget(self) -> None:
        self._targets = []
        self._expires = self._is_useless = float('-inf')


@public
async def ask_dns(query: str, timeout: float, resolver: Any = None,
                  ) -> Tuple[List[Target], float]:
    """Ask DNS for the targets of a service.

    :param query: The absolute name of the records, with or without its dot.
    :param timeout: How many seconds all name servers together may take.
    :param resolver: A `dns.asyncresolver.Resolver`; None for one that asks
        the name servers of /etc/resolv.conf as they are now.
    :return: The targets, none if there is no such name or record; and for how
        many seconds that holds.  A target whose host is '' is not offered.
    :raises OSError: if no name server gives a usable answer in time.
    :raises UnicodeError: if the name cannot be encoded.
    """
    # Whoever has no such relay does not wait for these.
    import dns.name
    import dns.exception
    import dns.rdatatype
    import dns.asyncresolver
    try:
        if resolver is None:
            resolver = dns.asyncresolver.Resolver()
        answer = await resolver.resolve(
            dns.name.from_text(query), dns.rdatatype.SRV,
            raise_on_no_answer=False, lifetime=timeout, search=False)
    except dns.asyncresolver.NXDOMAIN:
        return [], 0.0
    except dns.exception.Timeout as error:
        raise PhaseTimeout(
            f'the look-up of the SRV record {query} had no answer within '
            f'{timeout:g} s') from error
    except (dns.name.LabelTooLong, dns.name.NameTooLong,
            dns.name.EmptyLabel, dns.name.IDNAException) as error:
        raise UnicodeError(f'{query}: {error}') from error
    except dns.exception.DNSException as error:
        raise ConnectionLost(
            f'the look-up of the SRV record {query} failed: {error}; see '
            f'/etc/resolv.conf') from error
    if answer.rrset is None:
        return [], 0.0
    return [Target(record.priority, record.weight,
                   record.target.to_text().rstrip('.'), record.port)
            for record in answer.rrset
            ], float(answer.chaining_result.minimum_ttl)
