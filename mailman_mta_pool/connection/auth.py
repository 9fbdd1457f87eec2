# SPDX-License-Identifier: GPL-3.0-or-later
"""The client's side of AUTH (RFC 4954), without I/O.

A mechanism turns challenges into responses, octets into octets.
`Authentication` puts a mechanism into lines and judges the replies.
"""

import hmac
import base64
import smtplib
import binascii

from contextlib import suppress
from mailman_mta_pool.errors import BadChallenge, ProtocolError, UnusableValue
from mailman_mta_pool.wire.replies import Reply
from public import public
from typing import (
    Callable,
    FrozenSet,
    Iterator,
    List,
    Mapping,
    Optional,
    Protocol,
    Tuple,
)


# RFC 4954, section 4: the command line is as long as any other, its line
# ending included (RFC 5321, section 4.5.3.1.4); a response may be longer.
MAX_COMMAND = 512
MAX_RESPONSE = 12288
# RFC 4954, section 4: the client gives up.
CANCEL = b'*'
public(CANCEL=CANCEL, MAX_COMMAND=MAX_COMMAND, MAX_RESPONSE=MAX_RESPONSE)


@public
class Mechanism(Protocol):
    """A SASL mechanism (RFC 4422), for one exchange.

    :ivar challenges: How many challenges there are if no initial response is
        sent.
    """

    challenges: int

    def initial(self) -> Optional[bytes]:
        """Return the initial response; None if the server speaks first."""

    def answer(self, challenge: bytes) -> bytes:
        """Return the response to the next challenge.

        :raises BadChallenge: if the challenge is none of this mechanism's.
        """


@public
class CramMD5:
    """CRAM-MD5 (RFC 2195)."""

    challenges = 1

    def __init__(self, user: bytes, password: bytes) -> None:
        """Prepare one exchange.

        :raises ValueError: if there is no MD5 here, as with FIPS 140.
        """
        self._user = user
        self._digest = hmac.new(password, digestmod='md5')

    def initial(self) -> Optional[bytes]:
        """See `Mechanism`."""
        return None

    def answer(self, challenge: bytes) -> bytes:
        """See `Mechanism`."""
        if not challenge:
            raise BadChallenge('the challenge of CRAM-MD5 is empty')
        self._digest.update(challenge)
        return self._user + b' ' + self._digest.hexdigest().encode('ascii')


@public
class Plain:
    """PLAIN (RFC 4616)."""

    challenges = 1

    def __init__(self, user: bytes, password: bytes) -> None:
        """Prepare one exchange."""
        self._message = b'\0' + user + b'\0' + password

    def initial(self) -> Optional[bytes]:
        """See `Mechanism`."""
        return self._message

    def answer(self, challenge: bytes) -> bytes:
        """See `Mechanism`; the challenge has no meaning."""
        return self._message


@public
class Login:
    """LOGIN (draft-murchison-sasl-login-00).

    There is no initial response: the draft has none, and not every server
    takes one.
    """

    challenges = 2

    def __init__(self, user: bytes, password: bytes) -> None:
        """Prepare one exchange."""
        self._responses = iter([user, password])

    def initial(self) -> Optional[bytes]:
        """See `Mechanism`."""
        return None

    def answer(self, challenge: bytes) -> bytes:
        """See `Mechanism`; servers differ in the words of the prompts."""
        return next(self._responses)


# Strongest first, in the order of smtplib.
MECHANISMS: Mapping[str, Callable[[bytes, bytes], Mechanism]] = {
    'CRAM-MD5': CramMD5,
    'PLAIN': Plain,
    'LOGIN': Login,
    }
public(MECHANISMS=MECHANISMS)


def _octets(value: str, what: str) -> bytes:
    """Return a user name or a password in UTF-8 (RFC 4616, section 2).

    :raises UnusableValue: if the value cannot be sent.
    """
    if '\0' in value:
        raise UnusableValue(f'the {what} has a NUL in it')
    with suppress(UnicodeEncodeError):
        return value.encode('utf-8')
    # Not within an `except`: the UnicodeEncodeError holds the value.
    raise UnusableValue(f'the {what} cannot be encoded in UTF-8')


@public
class Credentials:
    """A user name and a password; its repr shows neither."""

    def __init__(self, user: str, password: str) -> None:
        """Check both; none is needed where either is empty.

        :raises UnusableValue: naming the one that cannot be sent.
        """
        self._pair: Optional[Tuple[bytes, bytes]] = None
        if user and password:
            self._pair = _octets(user, 'user'), _octets(
                password, 'password')
            longest = 4 * (sum(map(len, self._pair)) + 36) // 3
            if longest > MAX_RESPONSE:
                raise UnusableValue(
                    'the user and the password are longer than AUTH takes')

    def __bool__(self) -> bool:
        """True if there are both, so that AUTH is demanded."""
        return self._pair is not None

    def authentication(self, offered: FrozenSet[str]) -> 'Authentication':
        """Choose the strongest mechanism that both sides have.

        :param offered: The mechanisms of the server, in upper case.
        :raises smtplib.SMTPNotSupportedError: if there is none.
        """
        assert self._pair is not None
        if not offered:
            raise smtplib.SMTPNotSupportedError(
                'the server does not offer AUTH')
        for name, mechanism in MECHANISMS.items():
            if name in offered:
                # What cannot be computed here is not there.
                with suppress(ValueError):
                    return Authentication(
                        name, mechanism(*self._pair), self._pair)
        raise smtplib.SMTPNotSupportedError(
            'the server offers only AUTH {}, none of which is {}'.format(
                ' '.join(sorted(offered)), ' or '.join(MECHANISMS)))


def _shapes(secret: bytes) -> Iterator[str]:
    """A secret as it may be seen: in clear, in base64, in hexadecimal."""
    yield secret.decode('utf-8', 'backslashreplace')
    yield repr(secret)[2:-1]
    yield secret.hex()
    for before in range(3):
        # Base64 knows three, by how many octets stand before; characters
        # that are not of this secret alone are cut off.
        encoded = base64.b64encode(bytes(before) + secret).decode('ascii')
        yield encoded[-(-before * 4 // 3):(before + len(secret)) * 4 // 3]


@public
class Authentication:
    """One AUTH command, its challenges and its outcome.

    There is no second one: a server that has refused one mechanism is not
    tried with a weaker one.

    :ivar mechanism: The name of the mechanism.
    :ivar command: The command line to begin with, without CRLF.
    :ivar secrets: What no text may show: both secrets, and all that was made
        of them so far, in the shapes in which it may be seen.
    """

    def __init__(self, name: str, mechanism: Mechanism,
                 secrets: Tuple[bytes, ...]) -> None:
        """Prepare the command.

        :param name: The name of the mechanism.
        :param mechanism: A fresh one.
        :param secrets: The user name and the password.
        """
        self.mechanism = name
        self._mechanism = mechanism
        self._due = mechanism.challenges
        self.secrets: List[str] = []
        for secret in secrets:
            self._keep_to_ourselves(secret)
        self.command = b'AUTH ' + name.encode('ascii')
        initial = mechanism.initial()
        if initial is not None:
            self._add_initial(initial)

    def _keep_to_ourselves(self, secret: bytes) -> None:
        self.secrets.extend(filter(None, _shapes(secret)))

    def _add_initial(self, initial: bytes) -> None:
        command = self.command + b' ' + self._encoded(initial)
        if len(command + b'\r\n') <= MAX_COMMAND:
            self.command = command
            self._due -= 1

    def _encoded(self, response: bytes) -> bytes:
        self._keep_to_ourselves(response)
        return base64.b64encode(response)

    def answer(self, reply: Reply) -> Optional[bytes]:
        """Return the line that answers a reply; None once authenticated.

        :param reply: The reply to the last line.
        :return: The next line, without CRLF.
        :raises smtplib.SMTPAuthenticationError: if the server refuses.
        :raises BadChallenge: if `CANCEL` is to be sent, and nothing after.
        :raises ProtocolError: if the reply is none to AUTH.
        """
        if reply.code == 235:
            return None
        if reply.code >= 400:
            raise smtplib.SMTPAuthenticationError(reply.code, reply.text)
        if reply.code != 334:
            raise ProtocolError(f'no reply to AUTH: {reply}')
        if self._due == 0:
            raise BadChallenge(
                f'the server sent a challenge that {self.mechanism} does not '
                'have')
        self._due -= 1
        return self._encoded(self._mechanism.answer(self._challenge(reply)))

    def _challenge(self, reply: Reply) -> bytes:
        with suppress(binascii.Error):
            return base64.b64decode(reply.text.strip(), validate=True)
        raise BadChallenge(
            f'the challenge of {self.mechanism} is not base64: {reply}')
