# SPDX-License-Identifier: GPL-3.0-or-later
"""The one place where errors of `socket` and `ssl` become our own.

No text made here holds a user name, a password or what was sent to
authenticate.
"""

import ssl
import smtplib

from contextlib import contextmanager
from mailman_mta_pool.errors import (
    AuthenticationRefused,
    CertificateRefused,
    ClientCertificateRefused,
    HandshakeBroken,
    LOCAL_LIMITS,
    NoCommonTLS,
    NotOffered,
    RelayUnavailable,
    ServerNotTrusted,
    TokenUnavailable,
    UnavailableHere,
    UnusableValue,
    WrongCertificate,
)
from mailman_mta_pool.shown import Hidden, printable, without
from public import public
from typing import Collection, Iterator, Optional, Sequence, Tuple, Type


# What is to be done about a certificate, by the results of
# X509_verify_cert(3); and about any other one.
_EXPIRED = (
    'Renew the certificate of the mail server and reload it, or set the clock '
    'of the host that is wrong.')
_TOO_EARLY = (
    'Set the clock of the host that is wrong, or let the mail server use its '
    'former certificate until then.')
_WRONG_NAME = (
    'Set the host to a name that the certificate is for, or tls_names to the '
    'names that it has, which `mailman mta-pool check` shows.')
_UNTRUSTED = (
    'Name a file with the certificate of the authority in tls_ca, or have the '
    'mail server send the certificates in between; `mailman mta-pool check` '
    'shows who has signed it.')
_MALFORMED = (
    'That certificate, or the one of its authority, has to be made anew: for '
    'a server, as RFC 5280 says, and with a key and a digest of today; or '
    'name it in tls_fingerprint.')
# All others are about what stands in a certificate, such as a weak key or a
# purpose, and so is what Python 3.13 makes OpenSSL look at.
#: The results of X509_verify_cert(3) if nobody who is trusted has signed it.
UNTRUSTED = frozenset([2, 18, 19, 20, 21, 27, 28])
public(UNTRUSTED=UNTRUSTED)
_REMEDIES = {
    9: _TOO_EARLY, 10: _EXPIRED,
    **dict.fromkeys([62, 63, 64], _WRONG_NAME),
    **dict.fromkeys(UNTRUSTED, _UNTRUSTED),
    }


#: What OpenSSL says, by its reasons; what that is for us, in which words, and
#: what is to be done.
_TLS_PROBLEMS: Sequence[
        Tuple[Collection[str], Type[RelayUnavailable], str, str]] = (
    (frozenset([
        'NO_PROTOCOLS_AVAILABLE', 'TLSV1_ALERT_PROTOCOL_VERSION',
        'UNSUPPORTED_PROTOCOL', 'WRONG_SSL_VERSION']),
     NoCommonTLS,
     'the server has no version of TLS that tls_min_version allows ({})',
     'Bring the mail server up to TLS 1.2 or 1.3, for this host speaks '
     'nothing older; if tls_min_version is 1.3, 1.2 may do.'),
    (frozenset([
        'BAD_KEY_SHARE', 'DH_KEY_TOO_SMALL', 'NO_CIPHERS_AVAILABLE',
        'NO_SHARED_CIPHER', 'NO_SUITABLE_GROUPS',
        'TLSV1_ALERT_INSUFFICIENT_SECURITY', 'UNKNOWN_CIPHER_RETURNED',
        'WRONG_CIPHER_RETURNED']),
     NoCommonTLS,
     'the server and this host have no cipher in common ({})',
     'Let the mail server use the ciphers that OpenSSL has by default.'),
    # The second one is what Exim says with TLS 1.2 of a missing certificate.
    (frozenset(['SSLV3_ALERT_HANDSHAKE_FAILURE', 'TLSV1_ALERT_DECODE_ERROR']),
     NoCommonTLS,
     'the server breaks off the TLS handshake: it has no version or no cipher '
     'in common with this host, or demands a certificate of ours ({})',
     'The log of the mail server says which; the version has to be TLS 1.2 or '
     '1.3, and the certificate would be that of tls_cert.'),
    (frozenset([
        'SSLV3_ALERT_NO_CERTIFICATE', 'TLSV13_ALERT_CERTIFICATE_REQUIRED',
        'TLSV1_ALERT_CERTIFICATE_REQUIRED']),
     ClientCertificateRefused,
     'the server demands a certificate of ours ({})',
     'Set tls_cert and tls_key to a certificate that the mail server knows.'),
    (frozenset([
        'SSLV3_ALERT_BAD_CERTIFICATE', 'SSLV3_ALERT_CERTIFICATE_EXPIRED',
        'SSLV3_ALERT_CERTIFICATE_REVOKED', 'SSLV3_ALERT_CERTIFICATE_UNKNOWN',
        'SSLV3_ALERT_UNSUPPORTED_CERTIFICATE', 'TLSV1_ALERT_ACCESS_DENIED',
        'TLSV1_ALERT_DECRYPT_ERROR', 'TLSV1_ALERT_UNKNOWN_CA']),
     ClientCertificateRefused,
     'the server refuses our certificate ({})',
     'Let the mail server know the certificate of tls_cert, or the authority '
     'that has signed it; or renew it if it has expired.'),
    (frozenset([
        'HTTP_REQUEST', 'PACKET_LENGTH_TOO_LONG', 'UNKNOWN_PROTOCOL',
        'WRONG_VERSION_NUMBER']),
     RelayUnavailable,
     'what came in the place of the TLS handshake is not TLS ({})',
     'With smtps the port has to be one that begins with TLS, usually 465; '
     'with starttls somebody on the way has put in words of their own.'),
    )


def _translation(relay: str, phase: str, secrets: Collection[Hidden],
                 error: Exception) -> RelayUnavailable:
    """Return our own exception for `error`; see `translated`."""
    if isinstance(error, (ssl.SSLError, WrongCertificate)):
        problem = _tls_translation(relay, phase, error)
        if problem is not None:
            return problem
    if isinstance(error, smtplib.SMTPAuthenticationError):
        return AuthenticationRefused(
            relay, error.smtp_code,
            without(secrets, error.smtp_error).encode())
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return NotOffered(
            relay, phase, without(secrets, str(error)),
            remedy=getattr(error, 'remedy', ''))
    if isinstance(error, smtplib.SMTPResponseException):
        text = without(secrets, error.smtp_error)
        unavailable = RelayUnavailable(
            relay, phase, f'{error.smtp_code} {text}', error.smtp_code,
            getattr(error, 'remedy', ''))
        # A refusal for good is the same the next moment.
        unavailable.waiting_helps = error.smtp_code < 500
        return unavailable
    if isinstance(error, ServerNotTrusted):
        untrusted = RelayUnavailable(relay, phase, str(error))
        # Each login would give it more to guess the password by.
        untrusted.waiting_helps = False
        return untrusted
    if isinstance(error, (TokenUnavailable, UnusableValue)):
        return UnavailableHere(relay, phase, str(error))
    reason = type(error).__name__
    if isinstance(error, OSError) or not secrets:
        # The text of others, such as UnicodeEncodeError, quotes their object.
        reason = without(secrets, str(error)) or reason
    if (isinstance(error, MemoryError) or
            getattr(error, 'errno', None) in LOCAL_LIMITS):
        return UnavailableHere(
            relay, phase, f'a limit of this machine is reached: {reason}')
    if isinstance(error, UnicodeError):
        # A host name that IDNA cannot encode.
        return UnavailableHere(relay, phase, reason)
    return RelayUnavailable(
        relay, phase, reason, remedy=getattr(error, 'remedy', ''))


def _tls_translation(relay: str, phase: str,
                     error: OSError) -> Optional[RelayUnavailable]:
    """Return our own exception for what OpenSSL says; None if unknown."""
    if isinstance(error, WrongCertificate):
        return CertificateRefused(
            relay, phase, str(error), remedy=error.remedy)
    if isinstance(error, ssl.SSLCertVerificationError):
        return CertificateRefused(
            relay, phase, printable(error.verify_message),
            remedy=_REMEDIES.get(error.verify_code, _MALFORMED))
    reason = getattr(error, 'reason', None) or ''
    for reasons, kind, text, remedy in _TLS_PROBLEMS:
        if reason in reasons:
            # In TLS 1.3 an alert may come later than the handshake.
            return kind(relay, 'TLS', text.format(_in_words(reason)),
                        remedy=remedy)
    if reason:
        # What `str` shows names the line of the C module.
        return RelayUnavailable(
            relay, phase, f'TLS is broken ({_in_words(reason)})',
            remedy=HandshakeBroken.remedy)
    return None


def _in_words(reason: str) -> str:
    """Return the name of a reason of OpenSSL in words."""
    return reason.replace('_', ' ').lower()


@public
@contextmanager
def translated(relay: str, phase: str,
               secrets: Collection[Hidden] = ()) -> Iterator[None]:
    """Turn what goes wrong while a connection is set up into our own errors.

    :param relay: The server, as 'host:port'.
    :param phase: What is going on; see `RelayUnavailable`.
    :param secrets: What no text may show, even if the server echoes a part
        of it.  It is read when something has gone wrong.  Where there are
        any, the original exception is not kept either.
    :raises RelayUnavailable: or the subclass that fits, for any `Exception`.
    """
    try:
        yield
    except RelayUnavailable:
        raise
    except Exception as error:
        problem = _translation(relay, phase, secrets, error)
        if not secrets:
            raise problem from error
        try:
            raise problem
        finally:
            # `raise` has made the original its context.
            problem.__context__ = None
