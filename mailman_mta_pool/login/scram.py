# SPDX-License-Identifier: GPL-3.0-or-later
"""SCRAM-SHA-256 (RFC 7677) and SCRAM-SHA-1 (RFC 5802).

The password does not travel, and the server has to prove that it knows what
belongs to it.  There is no channel binding: what a certificate proves, TLS
has checked before.
"""

import hmac
import base64
import hashlib
import secrets
import binascii

from mailman_mta_pool.errors import BadChallenge, ServerNotTrusted
from mailman_mta_pool.login.mechanisms import Simple
from mailman_mta_pool.login.saslprep import saslprep
from mailman_mta_pool.shown import printable
from public import public
from typing import ClassVar, Dict, Optional, Tuple


# RFC 5802, section 5.1, and RFC 7677, section 4: fewer let whoever has seen
# the exchange guess the password.  More keep this host busy for a second.
FEWEST_ITERATIONS = 4096
MOST_ITERATIONS = 1_000_000
public(FEWEST_ITERATIONS=FEWEST_ITERATIONS, MOST_ITERATIONS=MOST_ITERATIONS)
# Of what the server says, in octets.
MAX_NONCE = 512
MAX_SALT = 512
# Of its own words about a refusal, in characters.
MAX_SHOWN = 200
# Octets of our own nonce, before base64.
NONCE_SIZE = 18
# RFC 5802, section 7: no channel binding, and no other identity.
GS2_HEADER = b'n,,'
# How many salted passwords are remembered; a relay that has several hosts may
# have a salt on each.
MAX_SALTED = 8

# What a salted password is made of, but for the password.
_Recipe = Tuple[str, bytes, int]


@public
class SaltedPasswords:
    """Remembers what a password was made into (RFC 5802, section 5.1).

    The connections that are opened later need no second of computing each.
    It may be used by several threads.
    """

    def __init__(self, password: str) -> None:
        """Prepare the password.

        :raises ValueError: if SCRAM can do nothing with it.
        """
        prepared = saslprep(password)
        if not prepared:
            raise ValueError('an empty password')
        self._password = prepared.encode('utf-8')
        self._known: Dict[_Recipe, bytes] = {}

    def get(self, digest: str, salt: bytes, iterations: int) -> bytes:
        """Return the salted password; it may take a second.

        OpenSSL lets the other threads go on meanwhile.

        :param digest: The name of the hash.
        :param salt: The server's salt.
        :param iterations: The server's count.
        """
        recipe = digest, salt, iterations
        salted = self._known.get(recipe)
        if salted is None:
            salted = hashlib.pbkdf2_hmac(
                digest, self._password, salt, iterations)
            if len(self._known) >= MAX_SALTED:
                self._known.clear()
            self._known[recipe] = salted
        return salted


class _Scram(Simple):
    """One exchange; the subclasses say which hash is used."""

    digest: ClassVar[str]
    is_slow = True
    challenges = 2

    def __init__(self, user: str, salted: SaltedPasswords,
                 nonce: Optional[bytes] = None) -> None:
        """Prepare one exchange.

        :param user: The user name.
        :param salted: The password.
        :param nonce: Our own nonce, for a test; by default it is made anew.
        :raises ValueError: if SCRAM can do nothing with the user name, or if
            there is no such hash here.
        """
        hashlib.new(self.digest)
        self._salted = salted
        self._nonce = nonce or base64.b64encode(
            secrets.token_bytes(NONCE_SIZE))
        self._first = b'n=%s,r=%s' % (
            escaped(saslprep(user)).encode('utf-8'), self._nonce)
        self._signature: Optional[bytes] = None
        self._is_proved = False
        self.explanation = ''

    def initial(self) -> Optional[bytes]:
        """See `Mechanism`."""
        return GS2_HEADER + self._first

    def answer(self, challenge: bytes) -> bytes:
        """See `Mechanism`; the first answer may take a second."""
        if challenge.startswith(b'e='):
            # The server refuses in its own way, and by its reply after that.
            self.explanation = printable(challenge[2:])[:MAX_SHOWN]
            return b''
        if self._signature is None:
            return self._prove(challenge)
        self._check_signature(challenge)
        return b''

    def _prove(self, challenge: bytes) -> bytes:
        nonce, salt, iterations = self._read(challenge)
        final = b'c=%s,r=%s' % (base64.b64encode(GS2_HEADER), nonce)
        message = b','.join([self._first, challenge, final])
        salted = self._salted.get(self.digest, salt, iterations)
        client_key = self._hmac(salted, b'Client Key')
        stored_key = hashlib.new(self.digest, client_key).digest()
        proof = bytes(a ^ b for a, b in zip(
            client_key, self._hmac(stored_key, message)))
        self._signature = self._hmac(
            self._hmac(salted, b'Server Key'), message)
        return b'%s,p=%s' % (final, base64.b64encode(proof))

    def _read(self, challenge: bytes) -> Tuple[bytes, bytes, int]:
        """Return nonce, salt and count of the server's first message."""
        if challenge.startswith(b'm='):
            raise BadChallenge(f'{self.name}: the server wants an extension')
        parts = challenge.split(b',')
        if [part[:2] for part in parts[:3]] != [b'r=', b's=', b'i=']:
            raise BadChallenge(
                f'{self.name}: the challenge is not one of this mechanism')
        nonce, salt, count = (part[2:] for part in parts[:3])
        if (not nonce.startswith(self._nonce) or nonce == self._nonce or
                len(nonce) > MAX_NONCE):
            raise ServerNotTrusted(
                f'{self.name}: the nonce of the server does not fit to ours')
        return nonce, self._salt(salt), self._iterations(count)

    def _salt(self, text: bytes) -> bytes:
        salt = _decoded(text)
        if not salt or len(salt) > MAX_SALT:
            raise BadChallenge(f'{self.name}: the salt makes no sense')
        return salt

    def _iterations(self, text: bytes) -> int:
        # `int` takes blanks, signs and underscores, too.
        if not text.isdigit() or text.startswith(b'0') or len(text) > 9:
            raise BadChallenge(f'{self.name}: the count makes no sense')
        iterations = int(text)
        if not FEWEST_ITERATIONS <= iterations <= MOST_ITERATIONS:
            raise ServerNotTrusted(
                f'{self.name}: the server wants {iterations} iterations, and '
                f'we compute {FEWEST_ITERATIONS} to {MOST_ITERATIONS}')
        return iterations

    def _check_signature(self, challenge: bytes) -> None:
        kind, _, text = challenge.partition(b'=')
        signature = _decoded(text.partition(b',')[0])
        if kind != b'v' or signature is None:
            raise BadChallenge(
                f'{self.name}: the end is not one of this mechanism')
        assert self._signature is not None
        if not hmac.compare_digest(signature, self._signature):
            raise ServerNotTrusted(
                f'{self.name}: the server does not know the password, as its '
                'signature shows; it may be another server')
        self._is_proved = True

    def verify(self) -> None:
        """See `Mechanism`."""
        if not self._is_proved:
            raise ServerNotTrusted(
                f'{self.name}: the server has accepted the login without '
                'having proved that it knows the password; it may be another '
                'server')

    def _hmac(self, key: bytes, message: bytes) -> bytes:
        return hmac.new(key, message, self.digest).digest()


@public
class ScramSHA256(_Scram):
    """SCRAM-SHA-256 (RFC 7677)."""

    name = 'SCRAM-SHA-256'
    strength = 50
    digest = 'sha256'


@public
class ScramSHA1(_Scram):
    """SCRAM-SHA-1 (RFC 5802)."""

    name = 'SCRAM-SHA-1'
    strength = 40
    digest = 'sha1'


@public
def escaped(user: str) -> str:
    """Return a user name as a `saslname` (RFC 5801, section 4).

    :param user: The user name.
    """
    return user.replace('=', '=3D').replace(',', '=2C')


def _decoded(text: bytes) -> Optional[bytes]:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
