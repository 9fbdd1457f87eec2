# SPDX-License-Identifier: GPL-3.0-or-later
"""TLS with a server: the contexts, and what its certificate has to be."""

import os
import ssl

from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from ipaddress import ip_address
from mailman_mta_pool.connection.certificate import listed, read_certificate
from mailman_mta_pool.errors import WrongCertificate
from mailman_mta_pool.settings import TLSSettings
from public import public
from time import gmtime, strftime
from typing import Any, Iterable, Tuple


VERSIONS = {'1.2': ssl.TLSVersion.TLSv1_2, '1.3': ssl.TLSVersion.TLSv1_3}
# `ssl.VERIFY_X509_PARTIAL_CHAIN`, which Python 3.9 does not name.
PARTIAL_CHAIN = 0x80000
# How much of the names in a certificate shows in an error.
SHOWN_NAMES = 5
SHOWN_LENGTH = 300


@public
def context_for(verify_cert: bool, verify_hostname: bool,
                tls: TLSSettings = TLSSettings()) -> ssl.SSLContext:
    """Return the TLS context for a relay.

    Making one takes 35 ms, for the certificates of all authorities are read.
    So each is made once in a process, unless the environment names other
    certificates than before, or a file has been replaced.

    :param verify_cert: True if the server needs a certificate that a trusted
        certification authority has signed.
    :param verify_hostname: True if that certificate has to be for the relay's
        host (RFC 6125).  Without `verify_cert` it means nothing.
    :param tls: What TLS with the relay is to be like.  The names and the
        fingerprints in it are for `Identity` to check: OpenSSL does not look
        at the names then, and not at the authorities where there are
        fingerprints.
    :raises OSError: for a file that cannot be read, or does not hold what it
        is to hold.  Its text names the key.
    """
    verify_cert = verify_cert and not tls.fingerprints
    files: Tuple[object, ...] = tuple(
        _version_of(key, path) for key, path in (
            ('tls_ca', tls.ca), ('tls_cert', tls.cert), ('tls_key', tls.key)))
    if not tls.ca:
        # OpenSSL reads both when it loads the certificates.
        files += (
            os.environ.get('SSL_CERT_FILE'), os.environ.get('SSL_CERT_DIR'),
            # In a directory it looks when it needs one.
            _version_of('SSL_CERT_FILE',
                        ssl.get_default_verify_paths().cafile or ''))
    return _context(
        verify_cert, verify_cert and verify_hostname and not tls.names,
        tls.min_version, tls.ca, tls.cert, tls.key, *files)


@public
def unverified_context(tls: TLSSettings) -> ssl.SSLContext:
    """Return a context with which any certificate will do.

    It is for finding out whose certificate that is; no mail goes that way.

    :param tls: What TLS is to be like otherwise.
    :raises OSError: as with `context_for`.
    """
    return context_for(False, False, tls)


@public
def version_of_file(path: str) -> Tuple[int, ...]:
    """Return what changes when a file is replaced.

    :param path: Its path.
    :raises OSError: if it cannot be looked at.
    """
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def _version_of(key: str, path: str) -> object:
    """Return the version of the file of a key; None for no file."""
    try:
        return version_of_file(path) if path else None
    except OSError as error:
        raise _unusable(key, path, error) from error


def _unusable(key: str, path: str, error: OSError) -> OSError:
    """Return the error that names the key and the file."""
    reason = error.strerror or str(error)
    if isinstance(error, ssl.SSLError):
        # Its `strerror` names the line of the C module.
        reason = (error.reason or reason).replace('_', ' ').lower()
    return OSError(f'{key} {path} cannot be used: {reason}')


@lru_cache(maxsize=64)
def _context(verify_cert: bool, verify_hostname: bool, min_version: str,
             ca: str, cert: str, key: str, *files: object) -> ssl.SSLContext:
    try:
        context = _with_authorities(ca)
    except OSError as error:
        raise _unusable('tls_ca', ca, error) from error
    if ca:
        # The certificate of an authority that another one has signed is
        # enough, with every version of Python.
        context.verify_flags |= PARTIAL_CHAIN
    context.check_hostname = verify_hostname
    context.verify_mode = (
        ssl.CERT_REQUIRED if verify_cert else ssl.CERT_NONE)
    context.minimum_version = VERSIONS[min_version]
    if cert:
        try:
            context.load_cert_chain(cert, key or None, _no_passphrase)
        except OSError as error:
            raise _unusable(
                'tls_cert', f'{cert} with tls_key {key or cert}',
                error) from error
    return context


def _with_authorities(ca: str) -> ssl.SSLContext:
    if ca and os.path.isdir(ca):
        return ssl.create_default_context(capath=ca)
    return ssl.create_default_context(cafile=ca or None)


def _no_passphrase() -> str:
    """Say that there is none; OpenSSL would ask on the terminal.

    :raises OSError: always.
    """
    raise OSError('the private key has a passphrase, which is not asked for')


@public
@dataclass(frozen=True)
class Identity:
    """Who the server has to be, beyond what OpenSSL verifies; and who we are.

    :ivar names: See `TLSSettings`; empty if the name does not matter.
    :ivar fingerprints: See `TLSSettings`.
    :ivar has_certificate: True if the context has a certificate of ours.
    :ivar wanted: The name that is asked for; '' for that of the host.
    """

    names: Tuple[str, ...] = ()
    fingerprints: Tuple[str, ...] = ()
    has_certificate: bool = False
    wanted: str = ''

    def server_name(self, host: str) -> str:
        """Return the name that is asked for in the handshake (RFC 6066, 3).

        :param host: The name that the certificate has to be for otherwise.
        """
        return self.wanted or host

    def check(self, tls: ssl.SSLObject) -> None:
        """Check the server's certificate before anything is sent.

        :param tls: What is known of the server after the handshake.
        :raises WrongCertificate: if that certificate is of somebody else.
        """
        der = tls.getpeercert(True) or b''
        if self.fingerprints:
            found = sha256(der).hexdigest()
            if found not in self.fingerprints:
                raise WrongCertificate(
                    'the certificate is not that of tls_fingerprint: its '
                    f'SHA-256 is {with_colons(found)} ({_described(der)})',
                    'If the server has a new certificate, and its '
                    'administrator confirms that, put this into '
                    'tls_fingerprint; otherwise somebody is in between.')
        elif self.names and not has_name_of(
                _names_in(tls.getpeercert()), self.names):
            raise WrongCertificate(
                'the certificate is for none of tls_names, '
                f'{", ".join(self.names)} ({_described(der)})',
                'Correct tls_names, or the certificate of the mail server.')


@public
def identity_for(verify_cert: bool, verify_hostname: bool,
                 tls: TLSSettings) -> Identity:
    """Return what is to be checked after a handshake.

    :param verify_cert: See `context_for`; the others, too.
    """
    return Identity(
        tls.names if verify_cert and verify_hostname else (),
        tls.fingerprints, bool(tls.cert), tls.names[0] if tls.names else '')


@public
def unverified_identity(tls: TLSSettings) -> Identity:
    """Return what goes with `unverified_context`: anybody will do.

    :param tls: See `identity_for`.
    """
    return replace(
        identity_for(False, False, tls), fingerprints=())


@public
def with_colons(fingerprint: str) -> str:
    """Return a fingerprint as `openssl x509 -fingerprint` prints it.

    :param fingerprint: Hexadecimal digits.
    """
    return ':'.join(fingerprint[place:place + 2].upper()
                    for place in range(0, len(fingerprint), 2))


def _names_in(certificate: Any) -> Iterable[Tuple[str, str]]:
    """Return the names in a certificate with their kinds.

    As OpenSSL does for the name of the host, the common name of the subject
    is taken for a DNS name where there is none of these.
    """
    alternatives = (certificate or {}).get('subjectAltName', ())
    if any(kind == 'DNS' for kind, _ in alternatives):
        return alternatives
    return (*alternatives, *(
        ('DNS', value) for pairs in (certificate or {}).get('subject', ())
        for key, value in pairs if key == 'commonName'))


@public
def has_name_of(alternatives: Iterable[Tuple[str, str]],
                names: Iterable[str]) -> bool:
    """Return True if a certificate is for one of several names (RFC 9525).

    OpenSSL can look for one name only.

    :param alternatives: The names in the certificate with their kinds, as
        `ssl.SSLObject.getpeercert` has them.
    :param names: Host names and IP addresses.
    """
    pairs = list(alternatives)
    return any(_is_for(pairs, name) for name in names)


def _is_for(pairs: Iterable[Tuple[str, str]], name: str) -> bool:
    address = _address(name)
    if address is not None:
        return any(kind == 'IP Address' and _address(value.strip()) == address
                   for kind, value in pairs)
    return any(kind == 'DNS' and _matches(value.lower(), name.lower())
               for kind, value in pairs)


def _address(text: str) -> Any:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _matches(pattern: str, name: str) -> bool:
    """Return True if a name in a certificate is, or stands for, a host name.

    A star is the whole first label, and stands for one label, of a domain
    that has two labels or more, as with OpenSSL.
    """
    name = name[:-1] if name.endswith('.') else name
    if not pattern.startswith('*.'):
        return pattern == name
    first, _, domain = name.partition('.')
    return bool(first) and pattern[2:] == domain and '.' in domain


def _described(der: bytes) -> str:
    """Return whose certificate that is, fit for a log."""
    try:
        certificate = read_certificate(der)
    except ValueError:
        return 'a certificate that cannot be read'
    names = listed(certificate.names, SHOWN_NAMES)
    last = strftime('%Y-%m-%d', gmtime(certificate.not_after))
    return f'for {names[:SHOWN_LENGTH]}, until {last}'
