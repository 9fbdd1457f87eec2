# SPDX-License-Identifier: GPL-3.0-or-later
"""What a server says to AUTH, with each of the mechanisms.

The first octet chooses the mechanism, the second one the credentials, and
whether the mechanism gets the challenges themselves or all of the exchange is
tried.  Each line after that is a reply, or after `=` a challenge that is to be
put into base64.
"""

import hmac
import base64
import hashlib
import smtplib
import binascii

from contextlib import suppress
from mailman_mta_pool.connection.translation import translated
from mailman_mta_pool.errors import (
    BadChallenge,
    ProtocolError,
    RelayUnavailable,
)
from mailman_mta_pool.login.bearer import OAuthBearer, XOAuth2
from mailman_mta_pool.login.exchange import (
    Authentication,
    MAX_COMMAND,
    MAX_RESPONSE,
)
from mailman_mta_pool.login.mechanisms import CramMD5, External, Login, Plain
from mailman_mta_pool.login.scram import (
    FEWEST_ITERATIONS,
    MAX_SALT,
    MOST_ITERATIONS,
    ScramSHA1,
    ScramSHA256,
)
from mailman_mta_pool.shown import printable
from mailman_mta_pool.wire.replies import ReplyParser
from public import public


# A part of the examples of RFC 7677.
NONCE = b'rOprNGfwEbeRWgbNEkqO'
USER = 'zebra@example.net'
SECRETS = (
    'Tr0mbone-Formic', 'p\xe4ss w\xf6rd \N{EURO SIGN}\\', 'ab\xa0cd\x7f12',
    'ya29.' + 'Qx7' * 200)
# What stands for octets that nobody finds by chance: the secret, our last
# line, what that is without base64, and the proof that SCRAM demands.
SECRET, LINE, RESPONSE, PROOF = b'\x10', b'\x11', b'\x12', b'\x13'
MAX_MOVES = 12
# So much of what a server says is shown, in characters.
LONGEST_TEXT = 1100
LONGEST_EXPLANATION = 1100


class Salted:
    """In the place of `SaltedPasswords`: it takes no time.

    :ivar key: What the password was made into.
    """

    def __init__(self, password):
        self._password = password.encode()
        self.key = None

    def get(self, digest, salt, iterations):
        """See `SaltedPasswords`."""
        assert FEWEST_ITERATIONS <= iterations <= MOST_ITERATIONS
        assert 1 <= len(salt) <= MAX_SALT
        self.key = hashlib.pbkdf2_hmac(digest, self._password, salt, 1)
        return self.key


class Exchange:
    """A mechanism with its credentials, and what a server may know of it.

    :ivar mechanism: The mechanism.
    :ivar secrets: What it hides.
    """

    def __init__(self, number, secret):
        make = (self._external, self._bearer, self._xoauth2, self._scram,
                self._scram, self._cram_md5, self._plain, self._login)
        self.secret = secret
        self.secrets = (USER.encode(), secret.encode())
        self._kind = ScramSHA1 if number % 8 == 4 else ScramSHA256
        self._salted = None
        self._said = []
        self.mechanism = make[number % 8]()
        initial = self.mechanism.initial()
        self._ours = [] if initial is None else [initial]

    def _external(self):
        self.secrets = ()
        return External(USER.encode())

    def _bearer(self):
        self.secrets = self.secrets[1:]
        return OAuthBearer(USER, self.secret, 'mx.example.com', 587)

    def _xoauth2(self):
        self.secrets = self.secrets[1:]
        return XOAuth2(USER, self.secret)

    def _scram(self):
        self._salted = Salted(self.secret)
        return self._kind(USER, self._salted, NONCE)

    def _cram_md5(self):
        return CramMD5(*self.secrets)

    def _plain(self):
        return Plain(*self.secrets)

    def _login(self):
        return Login(*self.secrets)

    def note(self, challenge, response):
        """Take note of a challenge that was answered."""
        self._said.append(challenge)
        self._ours.append(response)

    @property
    def proof(self):
        """The server's signature of RFC 5802, section 3; b'' for no SCRAM."""
        if self._salted is None or self._salted.key is None:
            return b''
        digest = self._kind.digest
        message = b','.join([
            self._ours[0].partition(b'n,,')[2], self._said[0],
            self._ours[1].rpartition(b',p=')[0]])
        key = hmac.new(self._salted.key, b'Server Key', digest).digest()
        return b'v=' + base64.b64encode(
            hmac.new(key, message, digest).digest())

    @property
    def is_proved(self):
        """True if the server owes no proof any more."""
        if self._salted is None:
            return True
        proof, signature = self.proof, None
        if len(self._said) > 1:
            text = self._said[1].partition(b',')[0]
            with suppress(ValueError):
                # There is more than one way to write the last octet.
                signature = base64.b64decode(text[2:], validate=True)
        return proof != b'' and base64.b64decode(proof[2:]) == signature

    def check(self, text):
        """Check a text that the log will show."""
        assert text.isprintable(), text
        assert len(text) <= LONGEST_TEXT, len(text)
        for secret in self.secrets:
            for shape in shapes_of(secret):
                assert shape not in text, (shape, text)

    def put(self, octets, line):
        """Return what a server says with what it knows in its place."""
        with suppress(ValueError):
            octets = octets.replace(
                RESPONSE, base64.b64decode(line.rpartition(b' ')[2]))
        return octets.replace(SECRET, self.secret.encode()).replace(
            LINE, line).replace(PROOF, self.proof)


def shapes_of(secret):
    """Yield a secret as somebody may see it."""
    yield from (secret.decode(), printable(secret), secret.hex())
    for before in range(3):
        # What stands before it makes three of it; both ends may be of others.
        encoded = base64.b64encode(b'x' * before + secret).decode()
        yield encoded[4 if before else 0:-4]


@public
def one_input(data):
    """Each exchange ends, in the way that it should.

    :raises AssertionError: if something is shown or believed that may not be,
        or a limit does not hold.
    """
    if len(data) < 2:
        return
    exchange = Exchange(data[0], SECRETS[data[1] % len(SECRETS)])
    lines = data[2:].split(b'\n')[:MAX_MOVES]
    if data[1] // len(SECRETS) % 2:
        give_challenges(exchange, lines)
    else:
        talk(exchange, lines)


def give_challenges(exchange, challenges):
    """Give the mechanism as many challenges as it has."""
    mechanism = exchange.mechanism
    with suppress(BadChallenge):
        for challenge in challenges[:mechanism.challenges]:
            challenge = exchange.put(challenge, b'')
            response = mechanism.answer(challenge)
            exchange.note(challenge, response)
            assert len(response) <= MAX_RESPONSE // 4 * 3
            assert len(mechanism.explanation) <= LONGEST_EXPLANATION
            assert mechanism.explanation.isprintable()
        mechanism.verify()
        assert exchange.is_proved, 'nothing was proved'


def talk(exchange, lines):
    """Have the exchange, and see how it ends."""
    authentication = Authentication(exchange.mechanism, exchange.secrets)
    try:
        converse(exchange, authentication, lines)
    except (ProtocolError, smtplib.SMTPAuthenticationError) as error:
        exchange.check(shown(error, authentication.secrets))


def shown(error, secrets):
    """Return the text of an error as a connection raises it."""
    try:
        with translated('a', 'AUTH', secrets):
            raise error
    except RelayUnavailable as problem:
        assert problem.__context__ is None or not secrets
        return str(problem)


def converse(exchange, authentication, lines):
    """Answer what the server says until it is over."""
    line, parser = authentication.command, ReplyParser()
    assert len(line + b'\r\n') <= MAX_COMMAND
    left = exchange.mechanism.challenges + 1
    for said in lines:
        said = exchange.put(said, line)
        if said.startswith(b'='):
            said = b'334 ' + base64.b64encode(said[1:])
        for reply in parser.feed(said + b'\r\n'):
            line = authentication.answer(reply)
            if line is None:
                assert exchange.is_proved, 'nothing was proved'
                return
            with suppress(binascii.Error):
                # A challenge without a meaning need not be base64.
                exchange.note(base64.b64decode(reply.text.strip()),
                              base64.b64decode(line))
            left -= 1
            assert left >= 0, 'there is no end'
            assert len(line) <= MAX_RESPONSE
            assert not set(line) & set(b'\r\n'), line
