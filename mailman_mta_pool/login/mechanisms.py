# SPDX-License-Identifier: GPL-3.0-or-later
"""The contract of the mechanisms of AUTH, and the simple ones.

A mechanism (RFC 4422) turns challenges into responses, octets into octets.
"""

import hmac

from mailman_mta_pool.errors import BadChallenge
from public import public
from typing import Optional, Protocol


@public
class Mechanism(Protocol):
    """A SASL mechanism (RFC 4422), for one exchange.

    :ivar name: What it is called in AUTH.
    :ivar strength: The server's offer and our settings allow several: the
        highest goes first.
    :ivar sends_secret: True if whoever reads what we send can log in as we
        do.
    :ivar is_slow: True if `answer` computes for so long that the network
        thread cannot wait for it.
    :ivar hides_responses: True if no text may show a part of a response; if
        it is False, what may not show is the secret alone.
    :ivar challenges: How many challenges there are at most after the initial
        response, or in all where there is none.
    :ivar explanation: What the server has said of the reason for which it is
        going to refuse the login; '' if it has not.
    """

    name: str
    strength: int
    sends_secret: bool
    is_slow: bool
    hides_responses: bool
    challenges: int
    explanation: str

    def initial(self) -> Optional[bytes]:
        """Return the initial response; None if the server speaks first."""

    def answer(self, challenge: bytes) -> bytes:
        """Return the response to the next challenge.

        :raises BadChallenge: if the challenge is none of this mechanism's.
        """

    def verify(self) -> None:
        """Check what the server had to prove before it accepts the login.

        :raises ServerNotTrusted: if it has not.
        """


@public
class Simple:
    """What most mechanisms have in common.  See `Mechanism`."""

    name = ''
    strength = 0
    sends_secret = False
    is_slow = False
    hides_responses = True
    challenges = 0
    explanation = ''

    def initial(self) -> Optional[bytes]:
        """See `Mechanism`."""
        return None

    def answer(self, challenge: bytes) -> bytes:
        """See `Mechanism`."""
        raise BadChallenge('there is no answer to a challenge')

    def verify(self) -> None:
        """See `Mechanism`; the server proves nothing."""


@public
class CramMD5(Simple):
    """CRAM-MD5 (RFC 2195)."""

    name = 'CRAM-MD5'
    strength = 30
    challenges = 1

    def __init__(self, user: bytes, password: bytes) -> None:
        """Prepare one exchange.

        :raises ValueError: if there is no MD5 here, as with FIPS 140.
        """
        self._user = user
        self._digest = hmac.new(password, digestmod='md5')

    def answer(self, challenge: bytes) -> bytes:
        """See `Mechanism`."""
        if not challenge:
            raise BadChallenge('the challenge of CRAM-MD5 is empty')
        self._digest.update(challenge)
        return self._user + b' ' + self._digest.hexdigest().encode('ascii')


@public
class Plain(Simple):
    """PLAIN (RFC 4616)."""

    name = 'PLAIN'
    strength = 20
    sends_secret = True

    def __init__(self, user: bytes, password: bytes) -> None:
        """Prepare one exchange."""
        self._message = b'\0' + user + b'\0' + password

    def initial(self) -> Optional[bytes]:
        """See `Mechanism`."""
        return self._message


@public
class Login(Simple):
    """LOGIN (draft-murchison-sasl-login-00).

    There is no initial response: the draft has none, and not every server
    takes one.
    """

    name = 'LOGIN'
    strength = 10
    sends_secret = True
    challenges = 2

    def __init__(self, user: bytes, password: bytes) -> None:
        """Prepare one exchange."""
        self._responses = iter([user, password])

    def answer(self, challenge: bytes) -> bytes:
        """See `Mechanism`; servers differ in the words of the prompts."""
        return next(self._responses)


@public
class External(Simple):
    """EXTERNAL (RFC 4422, appendix A): our certificate says who we are."""

    name = 'EXTERNAL'
    strength = 90
    hides_responses = False

    def __init__(self, user: bytes) -> None:
        """Prepare one exchange.

        :param user: As whom we want to act; empty for whom the server takes
            us for.
        """
        self._user = user

    def initial(self) -> Optional[bytes]:
        """See `Mechanism`."""
        return self._user
