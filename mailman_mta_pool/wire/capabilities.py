# SPDX-License-Identifier: GPL-3.0-or-later
"""What a server says it can do: its reply to EHLO (RFC 5321, 4.1.1.1)."""

from public import public
from types import MappingProxyType
from typing import FrozenSet, Iterable, Mapping, NamedTuple, Optional, Tuple


@public
class Limits(NamedTuple):
    """The LIMITS of RFC 9422; None where the server names none.

    :ivar mailmax: Transactions in one connection.
    :ivar rcptmax: Recipients in one transaction.
    :ivar rcptdomainmax: Domains among the recipients of one transaction.
    """

    mailmax: Optional[int] = None
    rcptmax: Optional[int] = None
    rcptdomainmax: Optional[int] = None


def _positive(text: str) -> Optional[int]:
    # Six digits are what RFC 9422 allows; nothing beyond is a limit of ours.
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    return None


def _limits(parameters: Iterable[str]) -> Limits:
    named = {}
    for parameter in parameters:
        name, _, value = parameter.partition('=')
        if name.lower() in Limits._fields:
            named[name.lower()] = _positive(value)
    return Limits(**named)


@public
class Capabilities:
    """The extensions that a server offers, with their parameters.

    :ivar keywords: Every keyword in upper case with its parameters, those
        that we know and those that we do not.
    """

    __slots__ = ('chunking', 'eight_bit_mime', 'keywords', 'limits',
                 'pipelining', 'size', 'smtputf8')

    def __init__(
            self, keywords: Iterable[Tuple[str, Tuple[str, ...]]] = (),
            ) -> None:
        """Read the keywords.

        :param keywords: Pairs of keyword and parameters, in any case.  Where
            a keyword is repeated its parameters are added up, as servers do
            that list AUTH twice.
        """
        collected: dict = {}
        for keyword, parameters in keywords:
            key = keyword.upper()
            collected[key] = collected.get(key, ()) + tuple(parameters)
        self.keywords: Mapping[str, Tuple[str, ...]] = MappingProxyType(
            collected)
        # These are asked for at every transaction.
        self.pipelining = 'PIPELINING' in collected
        self.chunking = 'CHUNKING' in collected
        self.eight_bit_mime = '8BITMIME' in collected
        self.smtputf8 = 'SMTPUTF8' in collected
        #: The largest message in octets, 0 where no limit is named, None
        #: where SIZE is not offered at all (RFC 1870).
        self.size: Optional[int] = None
        if 'SIZE' in collected:
            self.size = _positive((collected['SIZE'] or ('0',))[0]) or 0
        #: The limits that the server names, RFC 9422.
        self.limits = _limits(collected.get('LIMITS', ()))

    @classmethod
    def from_ehlo(cls, text: bytes) -> 'Capabilities':
        """Read the text of a reply to EHLO.

        :param text: The lines of the reply, joined by LF, without the codes;
            the first one is the server's greeting.
        """
        found = []
        for line in text.decode('latin-1').split('\n')[1:]:
            if line[:5].upper() == 'AUTH=':
                # Some old servers say "AUTH=LOGIN PLAIN".
                line = 'AUTH ' + line[5:]
            words = line.split()
            if words:
                found.append((words[0], tuple(words[1:])))
        return cls(found)

    def __contains__(self, keyword: str) -> bool:
        return keyword in self.keywords

    @property
    def dsn(self) -> bool:
        """Delivery status notifications, RFC 3461."""
        return 'DSN' in self.keywords

    @property
    def starttls(self) -> bool:
        """TLS on request, RFC 3207."""
        return 'STARTTLS' in self.keywords

    @property
    def enhanced_status_codes(self) -> bool:
        """Enhanced status codes in replies, RFC 2034."""
        return 'ENHANCEDSTATUSCODES' in self.keywords

    @property
    def auth(self) -> FrozenSet[str]:
        """The names of the SASL mechanisms, in upper case, RFC 4954."""
        return frozenset(
            name.upper() for name in self.keywords.get('AUTH', ()))

    @property
    def xverp(self) -> bool:
        """Postfix's XVERP."""
        return 'XVERP' in self.keywords

    @property
    def verp(self) -> bool:
        """VERP of draft-nurpmeso-smtp-verp."""
        return 'VERP' in self.keywords

    def __repr__(self) -> str:
        return '<Capabilities {}>'.format(
            ' '.join(sorted(self.keywords)) or 'none')
