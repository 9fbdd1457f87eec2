# SPDX-License-Identifier: GPL-3.0-or-later
"""Our exceptions, each also the type that callers of smtplib catch.

This is the one place where errors of `socket` and `ssl` are translated.  No
text made here holds a user name, a password or what was sent to
authenticate.
"""

import re
import ssl
import socket
import smtplib

from contextlib import contextmanager
from public import public
from typing import Iterable, Iterator, List, Optional, Union


@public
class ProtocolError(smtplib.SMTPServerDisconnected):
    """The server said something that is not SMTP; the connection is over."""


@public
class ConnectionLost(smtplib.SMTPServerDisconnected):
    """The connection broke, or the server closed it."""


@public
class PhaseTimeout(ConnectionLost, TimeoutError):
    """The server did not answer within the time that this phase has."""


@public
class IllegalMove(AssertionError):
    """A transaction was to make a move that the table does not have."""


@public
class PoolTimeout(TimeoutError):
    """No connection became free in time."""


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
    :ivar code: The SMTP reply code, or None where there was no reply.
    :ivar waiting_helps: False where only an operator can mend it, such as a
        wrong password or a certificate that cannot be verified.
    """

    waiting_helps = True

    def __init__(self, relay: str, phase: str, reason: str,
                 code: Optional[int] = None) -> None:
        # Not super(): the other bases of our subclasses want other arguments.
        smtplib.SMTPException.__init__(self, f'{relay}: {phase}: {reason}')
        self.relay = relay
        self.phase = phase
        self.code = code


@public
class AuthenticationRefused(RelayUnavailable, smtplib.SMTPAuthenticationError):
    """The server took neither our name nor our password."""

    def __init__(self, relay: str, code: int, text: Union[bytes, str],
                 ) -> None:
        RelayUnavailable.__init__(
            self, relay, 'AUTH', f'{code} {_printable(text)}', code)
        self.smtp_code = code
        self.smtp_error = text
        # RFC 4954, section 6: 454 is a temporary failure, 535 is not.
        self.waiting_helps = 400 <= code < 500


@public
class NotOffered(RelayUnavailable, smtplib.SMTPNotSupportedError):
    """The server lacks what the configuration demands, TLS or AUTH."""

    waiting_helps = False


@public
class CertificateRefused(RelayUnavailable, ssl.SSLCertVerificationError):
    """The server's certificate could not be verified."""

    waiting_helps = False


# So many characters in a row of a user name, a password or what was made of
# them are not to be shown.
PART_LENGTH = 4
HIDDEN = '(the text is hidden, for it repeats what we sent)'
_ENHANCED = re.compile(r'[245]\.\d{1,3}\.\d{1,3} ')


def _printable(text: Union[bytes, str]) -> str:
    if isinstance(text, bytes):
        text = text.decode('utf-8', 'backslashreplace')
    return ''.join(c if c.isprintable() else ' ' for c in text)


def _parts(secret: str) -> Iterator[str]:
    """Every run of `PART_LENGTH` characters; all of a shorter secret."""
    for start in range(max(1, len(secret) - PART_LENGTH + 1)):
        yield secret[start:start + PART_LENGTH]


def _without(secrets: List[str], text: Union[bytes, str]) -> str:
    """Return the text made printable, or hidden if it shows a secret.

    The enhanced status code (RFC 3463) is shown in any case.

    :param secrets: What may not show, neither as a whole nor in part.
    :param text: What a server or the system said.
    """
    printable = _printable(text)
    folded = printable.casefold()
    if not any(part in folded for secret in secrets
               for part in _parts(secret.casefold())):
        return printable
    enhanced = _ENHANCED.match(printable)
    return (enhanced[0] if enhanced else '') + HIDDEN


@public
@contextmanager
def translated(relay: str, phase: str,
               secrets: Iterable[str] = ()) -> Iterator[None]:
    """Turn what goes wrong while a connection is set up into our own errors.

    :param relay: The server, as 'host:port'.
    :param phase: What was going on; see `RelayUnavailable`.
    :param secrets: What no text may show, even if the server echoes a part
        of it.
    :raises RelayUnavailable: or the subclass that fits.
    """
    secrets = list(secrets)
    try:
        yield
    except RelayUnavailable:
        raise
    except ssl.SSLCertVerificationError as error:
        raise CertificateRefused(
            relay, phase, error.verify_message) from error
    except smtplib.SMTPAuthenticationError as error:
        # Not chained: smtplib's own error has the text as it came.
        raise AuthenticationRefused(
            relay, error.smtp_code,
            _without(secrets, error.smtp_error).encode()) from None
    except smtplib.SMTPNotSupportedError as error:
        raise NotOffered(relay, phase, str(error)) from error
    except smtplib.SMTPResponseException as error:
        raise RelayUnavailable(
            relay, phase,
            f'{error.smtp_code} {_without(secrets, error.smtp_error)}',
            error.smtp_code) from None
    except (socket.timeout, TimeoutError) as error:
        raise RelayUnavailable(
            relay, phase, str(error) or 'timed out') from error
    except (OSError, ValueError) as error:
        # ValueError: a host name that IDNA cannot encode, a challenge that is
        # no base64.
        raise RelayUnavailable(
            relay, phase,
            _without(secrets, str(error) or type(error).__name__)) from None
