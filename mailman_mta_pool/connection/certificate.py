# SPDX-License-Identifier: GPL-3.0-or-later
"""What a certificate says (RFC 5280), whether or not it can be trusted.

The `ssl` module tells that only of certificates that it has verified, and it
is those that it has not that an administrator wants to see.
"""

from datetime import datetime, timezone
from ipaddress import ip_address
from mailman_mta_pool.shown import printable
from public import public
from typing import (
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)


SECONDS_OF_A_DAY = 86400
# ITU-T X.690, section 8: the tags that are looked at.
_UTC_TIME, _BMP_STRING = 0x17, 0x1E
_VERSION, _EXTENSIONS = 0xA0, 0xA3
_DNS_NAME, _IP_ADDRESS = 0x82, 0x87
# How the attributes of a name are written (RFC 4519), by their OIDs.
_ATTRIBUTES = {
    b'\x55\x04\x03': 'CN', b'\x55\x04\x06': 'C', b'\x55\x04\x07': 'L',
    b'\x55\x04\x08': 'ST', b'\x55\x04\x0a': 'O', b'\x55\x04\x0b': 'OU',
    }
_COMMON_NAME = b'\x55\x04\x03'
_ALTERNATIVE_NAMES = b'\x55\x1d\x11'


@public
class Certificate(NamedTuple):
    """What a certificate says; the texts are printable.

    :ivar subject: Whose it is, such as 'CN=mail.example.com'.
    :ivar issuer: Who has signed it.
    :ivar names: The host names and addresses that it is for.
    :ivar not_before: From when on it is valid, in seconds since 1970.
    :ivar not_after: Until when, likewise.
    :ivar subject_key: The subject in octets, to compare.
    :ivar issuer_key: The issuer, likewise.
    """

    subject: str
    issuer: str
    names: Tuple[str, ...]
    not_before: float
    not_after: float
    subject_key: bytes
    issuer_key: bytes

    @property
    def is_self_signed(self) -> bool:
        """True if the issuer is the subject."""
        return self.subject_key == self.issuer_key

    def days_left(self, now: float) -> int:
        """Return how many whole days are left; negative if it has expired.

        :param now: Seconds since 1970.
        """
        return int((self.not_after - now) // SECONDS_OF_A_DAY)


@public
def listed(names: Sequence[str], most: int = 20) -> str:
    """Return names on one line, of which there may be thousands.

    :param names: The names of a certificate.
    :param most: How many are shown.
    """
    more = f' and {len(names) - most} more' if len(names) > most else ''
    return (', '.join(names[:most]) or 'no name at all') + more


class _Element(NamedTuple):
    tag: int
    content: bytes
    whole: bytes

    @property
    def parts(self) -> List['_Element']:
        return list(_elements(self.content))


def _elements(octets: bytes) -> Iterator[_Element]:
    """Yield the elements of a DER encoding (ITU-T X.690).

    :raises ValueError: if it is none.
    """
    start = 0
    while start < len(octets):
        if len(octets) < start + 2:
            raise ValueError('an element is cut off')
        tag, length = octets[start], octets[start + 1]
        begin = start + 2
        if length >= 0x80:
            size = length & 0x7F
            length = int.from_bytes(octets[begin:begin + size], 'big')
            begin += size
        end = begin + length
        if end > len(octets):
            raise ValueError('an element is cut off')
        yield _Element(tag, octets[begin:end], octets[start:end])
        start = end


def _text(element: _Element) -> str:
    if element.tag == _BMP_STRING:
        return printable(element.content.decode('utf-16-be', 'replace'))
    return printable(element.content)


def _pairs(name: _Element) -> Iterator[Tuple[bytes, str]]:
    """Yield the OIDs and the values of a name."""
    for relative in name.parts:
        for attribute in relative.parts:
            kind, value = attribute.parts
            yield kind.content, _text(value)


def _written(name: _Element) -> str:
    return ', '.join(
        f'{_ATTRIBUTES[kind]}={value}' for kind, value in _pairs(name)
        if kind in _ATTRIBUTES) or '(no name)'


def _moment(element: _Element) -> float:
    """Return a UTCTime or a GeneralizedTime (RFC 5280, section 4.1.2.5)."""
    text = element.content.decode('ascii')
    if element.tag == _UTC_TIME:
        # The years are 1950 to 2049.
        text = ('20' if int(text[:2]) < 50 else '19') + text
    moment = datetime.strptime(text, '%Y%m%d%H%M%SZ')
    return moment.replace(tzinfo=timezone.utc).timestamp()


def _alternative_names(extensions: Iterable[_Element]) -> List[str]:
    names = []
    for extension in extensions:
        kind, *_, value = extension.parts
        if kind.content != _ALTERNATIVE_NAMES:
            continue
        for sequence in value.parts:
            for name in sequence.parts:
                if name.tag == _DNS_NAME:
                    names.append(_text(name))
                elif name.tag == _IP_ADDRESS:
                    names.append(str(ip_address(name.content)))
    return names


@public
def read_certificate(der: bytes) -> Certificate:
    """Return what a certificate says.

    :param der: The certificate, as `ssl.SSLObject.getpeercert(True)` has it.
    :raises ValueError: if it cannot be read.
    """
    try:
        return _read(der)
    except (IndexError, OverflowError, UnicodeError) as error:
        raise ValueError(f'not a certificate: {error}') from error


def _read(der: bytes) -> Certificate:
    certificate, = _elements(der)
    signed, *_ = certificate.parts
    fields = signed.parts
    if fields[0].tag == _VERSION:
        del fields[0]
    # The serial number and the algorithm come first.
    issuer, validity, subject = fields[2:5]
    begin, end = validity.parts
    names: List[str] = []
    for field in fields[5:]:
        if field.tag == _EXTENSIONS:
            extensions, = field.parts
            names = _alternative_names(extensions.parts)
    if not names:
        names = [value for kind, value in _pairs(subject)
                 if kind == _COMMON_NAME]
    return Certificate(
        _written(subject), _written(issuer), tuple(names),
        _moment(begin), _moment(end), subject.whole, issuer.whole)


@public
def chain_of(certificates: Iterable[bytes],
             trusted: Iterable[bytes]) -> Tuple[str, ...]:
    """Return who has signed whom, as far as that is known.

    :param certificates: The server's certificate, and what else it has sent.
    :param trusted: The certificates of the authorities that are trusted.
    :return: The subjects, from that of the server to that of the authority.
        Where nobody knows the certificate of an issuer, that name is the
        last.
    """
    sent = [each for each in map(_readable, certificates) if each is not None]
    if not sent:
        return ()
    known = {each.subject_key: each for each in sent[1:]}
    roots = {each.subject_key: each
             for each in map(_readable, trusted) if each is not None}
    link: Optional[Certificate] = sent[0]
    last, chain, seen = sent[0], [], set()
    while link is not None and link.subject_key not in seen:
        last = link
        seen.add(link.subject_key)
        chain.append(link.subject)
        link = (roots.get(link.issuer_key) or known.get(link.issuer_key))
    if not last.is_self_signed:
        chain.append(last.issuer)
    return tuple(chain)


def _readable(der: bytes) -> Optional[Certificate]:
    try:
        return read_certificate(der)
    except ValueError:
        return None
