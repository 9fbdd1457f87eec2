# SPDX-License-Identifier: GPL-3.0-or-later
"""From the tls_ keys of a section to settings, with a look at the files."""

import os
import re
import ssl

from contextlib import suppress
from ipaddress import ip_address
from mailman_mta_pool.configuration.files import (
    HOST_NAME,
    read_octets,
    Section,
)
from mailman_mta_pool.settings import TLSSettings
from public import public
from typing import Callable, Tuple


# All authorities of a system have 200 KiB; in octets.
MAX_SIZE = 16 * 1024 * 1024
# How many names and fingerprints there may be; a server has one certificate,
# and another one while it changes.
MAX_NAMES = 100
VERSIONS = ('1.2', '1.3')

_CERTIFICATE = re.compile(r'-----BEGIN (TRUSTED |X509 )?CERTIFICATE-----')
_PRIVATE_KEY = re.compile(r'-----BEGIN ([A-Z]+ )*PRIVATE KEY-----')
_ENCRYPTED = re.compile(
    r'-----BEGIN ENCRYPTED PRIVATE KEY-----|^Proc-Type: 4,ENCRYPTED',
    re.MULTILINE)
# The names by which OpenSSL finds certificates in a directory, X509_LOOKUP(3).
_HASHED = re.compile(r'[0-9a-f]{8}\.[0-9]+')
# The beginning of a sequence (ITU-T X.690), whose length is not in one octet.
_BINARY = re.compile('\x30[\x80-\x84]')
_DIGITS = re.compile('[0-9a-f]{64}')
# What stands before a fingerprint that was printed by OpenSSL.
_SHA256 = re.compile('sha-?256( fingerprint)? ?[:=] ?')


@public
def tls_settings(section: Section) -> TLSSettings:
    """Return what a section says of TLS.

    :param section: The section of a relay, with all that it inherits.
    :raises ConfigurationError: naming the first value that is no good, and
        for a file that cannot be read, or does not hold what it is to hold.
    """
    settings = TLSSettings(
        min_version=section.choice('tls_min_version', *VERSIONS),
        ca=_authorities(section),
        cert=_file(section, 'tls_cert', 'Put our certificate there, in PEM, '
                   'with those between it and the authority'),
        key=_file(section, 'tls_key', 'Put the private key of tls_cert '
                  'there, in PEM'),
        names=_several(section, 'tls_names', _name, (
            'host names or IP addresses, with commas between them, and '
            'without a *')),
        fingerprints=_several(section, 'tls_fingerprint', _fingerprint, (
            'the SHA-256 of a certificate, in 64 hexadecimal digits with or '
            'without colons, or several with commas between them; `openssl '
            'x509 -noout -fingerprint -sha256 -in FILE` prints it')),
        )
    _check_pair(section, settings)
    return settings


def _file(section: Section, key: str, remedy: str) -> str:
    """Return the path of a file that can be read; '' for none."""
    path = section.text(key)
    if path:
        _check_absolute(section, key, path)
        _read(section, key, path, remedy)
    return path


def _check_absolute(section: Section, key: str, path: str) -> None:
    if not os.path.isabs(path) or not path.isprintable():
        raise section.mistake(
            key, f'{path!r} is not the absolute path of a file')


def _read(section: Section, key: str, path: str, remedy: str) -> str:
    try:
        return read_octets(path, MAX_SIZE).decode('latin-1')
    except (OSError, ValueError) as error:
        reason = getattr(error, 'strerror', None) or error
        raise section.mistake(
            key, f"{path}: {reason}; it has to be a file that Mailman's user "
            f'may read.  {remedy}') from None


def _authorities(section: Section) -> str:
    """Return the path of a file or a directory that has certificates."""
    key = 'tls_ca'
    path = section.text(key)
    if not path:
        return ''
    _check_absolute(section, key, path)
    if os.path.isdir(path):
        _check_directory(section, path)
        return path
    remedy = 'It has to hold those of the authorities that are trusted'
    text = _read(section, key, path, remedy)
    if _CERTIFICATE.search(text) is None:
        raise section.mistake(
            key, f'{path} has no certificate in PEM{_hint(text)}.  {remedy}')
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError as error:
        raise section.mistake(
            key, f'{path} has a certificate that is damaged '
            f'({_reason(error)}).  {remedy}') from None
    return path


def _check_directory(section: Section, path: str) -> None:
    try:
        names = os.listdir(path)
    except OSError as error:
        raise section.mistake(
            'tls_ca', f'{path}: {error.strerror or error}; it has to be a '
            "directory that Mailman's user may read") from None
    if not any(_HASHED.fullmatch(name) and _has_certificate(
            os.path.join(path, name)) for name in names):
        raise section.mistake(
            'tls_ca', f'{path} has no certificate that OpenSSL can find; put '
            'those of the authorities there, in PEM, a file for each, and run '
            f'`openssl rehash {path}`')


def _has_certificate(path: str) -> bool:
    """Return True if a file is there and can be read as OpenSSL does."""
    with suppress(OSError):
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
        return True
    return False


def _check_pair(section: Section, settings: TLSSettings) -> None:
    """Check that the certificate and its key fit together."""
    cert, key = settings.cert, settings.key
    if key and not cert:
        raise section.mistake(
            'tls_key', 'there is no certificate; set tls_cert, too, or '
            'remove this key')
    if not cert:
        return
    text = _read(section, 'tls_cert', cert, '')
    if _CERTIFICATE.search(text) is None:
        raise section.mistake(
            'tls_cert', f'{cert} has no certificate in PEM{_hint(text)}; put '
            'our certificate there, with those between it and the authority')
    name = 'tls_key' if key else 'tls_cert'
    private = _read(section, name, key or cert, '')
    if _PRIVATE_KEY.search(private) is None:
        raise section.mistake(
            name, f'{key or cert} has no private key in PEM'
            f'{_hint(private)}; ' + (
                'put the key of tls_cert there' if key else
                'name the file of the key in tls_key'))
    if _ENCRYPTED.search(private) is not None:
        raise section.mistake(
            name, f'the private key in {key or cert} has a passphrase, which '
            'nobody is there to type; `openssl pkey` writes it without one, '
            'into a file that only Mailman\'s user may read')
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(
            cert, key or None, lambda: '')
    except ssl.SSLError as error:
        if error.reason == 'KEY_VALUES_MISMATCH':
            raise section.mistake(
                name, f'the private key in {key or cert} does not belong to '
                f'the certificate in {cert}, which has to be the first one '
                'there; set the key that the certificate was made with'
                ) from None
        raise section.mistake(
            'tls_cert', f'{cert} with the key in {key or cert} cannot be '
            f'used ({_reason(error)}); one of them is damaged, or too weak '
            'for OpenSSL') from None
    except (OSError, ValueError) as error:
        raise section.mistake(
            'tls_cert', f'{cert} cannot be used ({error})') from None


def _hint(text: str) -> str:
    """Return how to make PEM of what begins like DER or PKCS #12."""
    return _BINARY.match(text) and (
        ' but is binary, of which `openssl x509`, `openssl pkey` or `openssl '
        'pkcs12` makes PEM') or ''


def _reason(error: OSError) -> str:
    """Return what OpenSSL says, without the line of its code."""
    reason = getattr(error, 'reason', None) or error.strerror or str(error)
    return reason.replace('_', ' ').lower()


def _several(section: Section, key: str, one: Callable[[str], str],
             remedy: str) -> Tuple[str, ...]:
    """Return the parts between commas, each once."""
    def convert(text: str) -> Tuple[str, ...]:
        parts = [one(part.strip()) for part in text.split(',')] if text else []
        if len(parts) > MAX_NAMES:
            raise ValueError(text)
        return tuple(dict.fromkeys(parts))
    return tuple(section.value(key, convert, remedy))


def _name(text: str) -> str:
    """Return a host name in lower case, or an address."""
    with suppress(ValueError):
        return str(ip_address(text))
    if HOST_NAME.fullmatch(text) is None or len(text) > 253:
        raise ValueError(text)
    return text.lower().rstrip('.')


def _fingerprint(text: str) -> str:
    digits = text.lower()
    prefix = _SHA256.match(digits)
    if prefix is not None:
        digits = digits[prefix.end():]
    if ':' in digits:
        pairs = digits.split(':')
        if any(len(pair) != 2 for pair in pairs):
            raise ValueError(text)
        digits = ''.join(pairs)
    if _DIGITS.fullmatch(digits) is None:
        raise ValueError(text)
    return digits
