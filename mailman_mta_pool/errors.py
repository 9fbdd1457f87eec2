# SPDX-License-Identifier: GPL-3.0-or-later
"""Our exceptions, each also the type that callers of smtplib catch.

This is the one place where errors of `socket` and `ssl` are translated.  No
text made here holds a user name, a password or what was sent to
authenticate.
"""

import re
import ssl
import errno
import smtplib

from contextlib import contextmanager
from mailman_mta_pool.secret import Secret
from public import public
from typing import (
    Collection,
    Iterable,
    Iterator,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Type,
    Union,
)


# What the kernel answers where this machine, or this process, has reached a
# limit.  EAGAIN is what a thread that cannot be started gets.
LOCAL_LIMITS = frozenset([
    errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
# So many characters in a row of a password are not to be shown.
PART_LENGTH = 4
# Of what is so long, such as a token, a few characters say nothing, and would
# be found in many a text by chance.
LONG_LENGTH = 100
LONG_PART_LENGTH = 12
public(LONG_PART_LENGTH=LONG_PART_LENGTH, PART_LENGTH=PART_LENGTH)
# So many characters of what a server says are shown.
SHOWN_LENGTH = 1000
HIDDEN = '(the text is hidden, for it repeats what we sent)'
public(HIDDEN=HIDDEN)
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
# What a server says to AUTH that does not look at the credentials, by the
# reply codes (RFC 5321, section 4.2.2; RFC 4954, sections 4 and 6).
_OTHER_MECHANISM = (
    'Name another mechanism in auth, or use a port of the mail server where '
    'it lets users log in, usually 587 or 465.')
_TLS_FIRST = 'Set secure_mode, or smtp_secure_mode, to starttls or smtps.'
_AUTH_REMEDIES = {
    **dict.fromkeys([500, 502, 503, 504], _OTHER_MECHANISM),
    **dict.fromkeys([530, 538], _TLS_FIRST),
    }
# RFC 5248, section 4.2: the server has the password in a form that does not
# fit the mechanism.
_TRANSITION = (
    'Log in by PLAIN until the mail server has made the password over: set '
    'auth to PLAIN for once.')
_ABOUT_TRANSITION = re.compile(r'[45]\.7\.12\b')
_ABOUT_CREDENTIALS = re.compile(r'[45]\.7\.8\b')
_ENHANCED = re.compile(r'[245]\.\d{1,3}\.\d{1,3} ')


@public
class ProtocolError(smtplib.SMTPServerDisconnected):
    """The server said something that is not SMTP; the connection is over."""


@public
class BadChallenge(ProtocolError):
    """A 334 reply to AUTH cannot be answered; the exchange is cancelled."""


@public
class ServerNotTrusted(BadChallenge):
    """The server has not proved to be the one that knows our password.

    The text quotes nothing that the server has said but a number.
    """


@public
class TokenUnavailable(Exception):
    """There is no token to log in with; the text shows no secret.

    :ivar pause: For how many seconds whoever grants tokens does not want to be
        asked; 0 if that was not said.
    """

    def __init__(self, reason: str, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.pause = pause


@public
class UnusableValue(ValueError):
    """A configured value cannot be sent; the text names its key only."""


@public
class ConnectionLost(smtplib.SMTPServerDisconnected):
    """The connection broke, or the server closed it."""


@public
class PhaseTimeout(ConnectionLost, TimeoutError):
    """The server did not answer within the time that this phase has."""


@public
class WrongCertificate(OSError):
    """The server's certificate is not one that the configuration names.

    :ivar remedy: A sentence for the log.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.remedy = remedy


@public
class Missing(smtplib.SMTPNotSupportedError):
    """The server does not offer what the configuration demands.

    :ivar remedy: A sentence for the log.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.remedy = remedy


@public
class TLSMissing(Missing):
    """The server does not offer STARTTLS, or somebody has hidden it."""


@public
class LoginMissing(Missing):
    """The server does not offer AUTH, or no mechanism that can be used."""


@public
class NotVerified(Missing):
    """All that the server offers would show a stranger what we log in with."""


@public
class ClearTextInjected(ProtocolError):
    """There was something in clear before the handshake, unasked."""

    remedy = (
        'Where it comes again somebody on the way puts words into the '
        "server's mouth (RFC 3207, section 6), or the server has the mistake "
        'of CVE-2011-0411; use smtps with port 465.')


@public
class STARTTLSRefused(smtplib.SMTPResponseException):
    """The server does not do what it has offered."""

    remedy = (
        'The server offers STARTTLS and does not do it: its log says why; its '
        'certificate or its private key may be missing.')


@public
class NoGreeting(ConnectionLost):
    """The server, which was to greet in clear, has said nothing."""

    remedy = (
        'Look into the log of the mail server; or, if its port is one that '
        'begins with TLS, as 465 usually is, use smtps.')


@public
class HandshakeBroken(ConnectionLost):
    """The server hung up in the TLS handshake, or fell silent."""

    remedy = (
        'Look into the log of the mail server.  With smtps the port has to be '
        'one that begins with TLS, usually 465, and firewalls on the way have '
        'to let TLS pass.')


@public
class EndlessTLS(ProtocolError):
    """What comes is TLS, and nothing in it is for us."""

    remedy = 'No mail server needs that; see who has got hold of this one.'

    def __init__(self) -> None:
        super().__init__(
            'the server goes on with TLS, such as session tickets, and says '
            'nothing')


@public
class LostAfterHandshake(ConnectionLost):
    """The server hung up right after it had got our certificate."""

    remedy = (
        'The log of the mail server says why; it has to know the certificate '
        'of tls_cert, or the authority that has signed it.')


@public
class IllegalMove(AssertionError):
    """A transaction was to make a move that the table does not have."""


@public
class PoolClosed(RuntimeError):
    """The pool was closed; it hands out no connections any more."""


@public
class NothingMoreToSend(Exception):
    """The rest of the post is not to be sent now; it is not an error."""


@public
class DeliveryBroken(RuntimeError):
    """An `OSError` of our own machine broke a delivery.

    The runner would try again at once, for ever, if it got the original.
    """


@public
class LocalFailure(RuntimeError):
    """This process can have no more threads or descriptors; the post waits."""


@public
class TemplateUnavailable(Exception):
    """A template cannot be had now: the post has to wait for it.

    This is no `OSError`, for Mailman's template loader takes some of these
    for templates that do not exist.
    """

    def __init__(self, uri: str, reason: str) -> None:
        """Say what failed.

        :param uri: Where the template is, without a password.
        :param reason: Why it cannot be had, without a password, too.
        """
        super().__init__(f'{uri}: {reason}')


@public
class RelayUnavailable(smtplib.SMTPException):
    """The server cannot be used: no member and no message is at fault.

    :ivar relay: The server, as 'host:port'.
    :ivar phase: Where it failed: 'connect', 'greeting', 'EHLO', 'TLS' or
        'AUTH'.
    :ivar reason: Why, for the log; after a reply its code and its text.
    :ivar code: The SMTP reply code, or None where there was no reply.
    :ivar remedy: What the operator can do, in a sentence for the log; '' if
        that is not known here.
    :ivar waiting_helps: False where only an operator can mend it, such as a
        wrong password or a certificate that cannot be verified, and where
        this machine has reached a limit.
    """

    waiting_helps = True

    def __init__(self, relay: str, phase: str, reason: str,
                 code: Optional[int] = None, remedy: str = '') -> None:
        # Not super(): the other bases of our subclasses want other arguments.
        smtplib.SMTPException.__init__(self, f'{relay}: {phase}: {reason}')
        self.relay = relay
        self.phase = phase
        self.reason = reason
        self.code = code
        self.remedy = remedy

    def __str__(self) -> str:
        # `SSLError` would show a tuple.
        return f'{self.relay}: {self.phase}: {self.reason}'


@public
class AuthenticationRefused(RelayUnavailable, smtplib.SMTPAuthenticationError):
    """The server did not accept our user name and password.

    :ivar is_judged: True if the server has looked at these, and takes them
        neither now nor later.
    """

    def __init__(self, relay: str, code: int, text: Union[bytes, str],
                 ) -> None:
        words = shortened(printable(text))
        remedy = _auth_remedy(code, words)
        RelayUnavailable.__init__(
            self, relay, 'AUTH', f'{code} {words}', code, remedy)
        self.smtp_code = code
        self.smtp_error = text
        # RFC 4954, section 6: 454 is a temporary failure, 535 is not.
        self.waiting_helps = 400 <= code < 500 and not remedy
        self.is_judged = not self.waiting_helps and not remedy


def _auth_remedy(code: int, text: str) -> str:
    """Return what is to be done if AUTH fails, the credentials aside."""
    if _ABOUT_TRANSITION.match(text) is not None:
        return _TRANSITION
    if _ABOUT_CREDENTIALS.match(text) is not None:
        return ''
    return _AUTH_REMEDIES.get(code, '')


@public
class NotOffered(RelayUnavailable, smtplib.SMTPNotSupportedError):
    """The server lacks what the configuration demands, TLS or AUTH."""

    waiting_helps = False


@public
class RelayPaused(RelayUnavailable):
    """Nothing is sent to the server for a while, because it said so.

    The time that a post waits for that is not the post's own: it does not
    use up `[mta] delivery_retry_period`.
    """

    waiting_helps = False


@public
class CertificateRefused(RelayUnavailable, ssl.SSLCertVerificationError):
    """The server's certificate could not be verified."""

    waiting_helps = False


@public
class ClientCertificateRefused(RelayUnavailable):
    """The server wants a certificate of ours, or not the one it got.

    With TLS 1.3 that is found out only at the first read after the handshake.
    """

    waiting_helps = False


@public
class NoCommonTLS(RelayUnavailable):
    """The server and this host have no version or cipher in common."""

    waiting_helps = False


@public
class UnavailableHere(RelayUnavailable):
    """This machine, or its configuration, is the reason: not the server.

    A limit of threads, descriptors or memory is reached, a host name cannot
    be encoded, or a user name or a password cannot be sent.
    """

    waiting_helps = False


@public
def for_future(error: BaseException) -> Exception:
    """Return an exception that a future takes and that ends no thread.

    :param error: It is returned itself unless it is a `StopIteration`, which
        makes a future that never ends before Python 3.12, or no `Exception`,
        which would end the network thread.
    """
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return RuntimeError(repr(error))


@public
def printable(text: Union[bytes, str]) -> str:
    """Return what a server said on one line, fit for a log file.

    :param text: Octets are taken for UTF-8; others are shown as `\\xff`.
    """
    if isinstance(text, bytes):
        text = text.decode('utf-8', 'backslashreplace')
    return ''.join(c if c.isprintable() else ' ' for c in text)


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


@public
def local_limit(error: Exception) -> Optional[int]:
    """Return the `errno` of a limit of this machine; None for another error.

    :param error: What the system said.
    """
    number = getattr(error, 'errno', None)
    return number if number in LOCAL_LIMITS else None


@public
def shortened(text: str) -> str:
    """Return a text of which a line in a log can hold all.

    :param text: What a server said, or a certificate.
    """
    return text if len(text) <= SHOWN_LENGTH else f'{text[:SHOWN_LENGTH]} …'


@public
class Hidden(NamedTuple):
    """What no text may show, even if a server echoes a part of it.

    :ivar text: The text.
    :ivar part: So many characters of it in a row may not show; all of a
        shorter text.
    """

    text: str
    part: int = PART_LENGTH

    @property
    def parts(self) -> Iterator[str]:
        """Every part of it that may not show."""
        part = (self.part if len(self.text) < LONG_LENGTH
                else max(self.part, LONG_PART_LENGTH))
        # No more of it is printable than of what repeats it.
        folded = printable(self.text).casefold()
        for start in range(max(1, len(folded) - part + 1)):
            yield folded[start:start + part]


def _without(secrets: Collection[Hidden], text: Union[bytes, str]) -> str:
    """Return the text made printable, or hidden if it shows a secret.

    The enhanced status code (RFC 3463) is shown in any case.

    :param secrets: What may not show, neither as a whole nor in part.
    :param text: What a server or the system said.
    """
    shown = shortened(printable(text))
    folded = shown.casefold()
    # Of a secret, too, no more is printable than of what repeats it.
    if not any(part in folded for secret in secrets
               for part in secret.parts):
        return shown
    enhanced = _ENHANCED.match(shown)
    return (enhanced[0] if enhanced else '') + HIDDEN


@public
def hidden(secrets: Iterable[Secret], text: str) -> str:
    """Return a text made printable, or what stands for it.

    :param secrets: What may not show, neither as a whole nor in part.
    :param text: What a server or the system said.
    """
    return _without(
        [Hidden(secret.reveal()) for secret in secrets if secret], text)


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
            _without(secrets, error.smtp_error).encode())
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return NotOffered(
            relay, phase, _without(secrets, str(error)),
            remedy=getattr(error, 'remedy', ''))
    if isinstance(error, smtplib.SMTPResponseException):
        text = _without(secrets, error.smtp_error)
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
        reason = _without(secrets, str(error)) or reason
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
