# SPDX-License-Identifier: GPL-3.0-or-later
"""Our exceptions, each also the type that callers of smtplib catch.

No text made here holds a user name, a password or what was sent to
authenticate.
"""

import re
import ssl
import errno
import smtplib

from mailman_mta_pool.shown import printable, shortened
from public import public
from typing import Optional, Union


# What the kernel answers where this machine, or this process, has reached a
# limit.  EAGAIN is what a thread that cannot be started gets.
LOCAL_LIMITS = frozenset([
    errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
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
def local_limit(error: Exception) -> Optional[int]:
    """Return the `errno` of a limit of this machine; None for another error.

    :param error: What the system said.
    """
    number = getattr(error, 'errno', None)
    return number if number in LOCAL_LIMITS else None
