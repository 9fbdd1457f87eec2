# SPDX-License-Identifier: GPL-3.0-or-later
"""Who we are to a relay, and by which mechanism we say so."""

import logging

from contextlib import suppress
from mailman_mta_pool.errors import (
    LoginMissing,
    NotVerified,
    TokenUnavailable,
    UnusableValue,
)
from mailman_mta_pool.login.bearer import OAuthBearer, XOAuth2
from mailman_mta_pool.login.exchange import Authentication, MAX_RESPONSE
from mailman_mta_pool.login.mechanisms import (
    CramMD5,
    External,
    Login,
    Mechanism,
    Plain,
    Simple,
)
from mailman_mta_pool.login.saslprep import saslprep
from mailman_mta_pool.login.scram import (
    SaltedPasswords,
    ScramSHA1,
    ScramSHA256,
)
from mailman_mta_pool.login.tokens import Tokens
from mailman_mta_pool.secret import Secret
from mailman_mta_pool.settings import (
    AuthSettings,
    BEARER_MECHANISMS,
    EXPLICIT_MECHANISMS,
    PASSWORD_MECHANISMS,
)
from public import public
from typing import (
    Callable,
    Collection,
    Dict,
    FrozenSet,
    List,
    NamedTuple,
    Optional,
    Tuple,
    Type,
)


log = logging.getLogger('mailman.smtp')

_KINDS: Tuple[Type[Simple], ...] = (
    External, OAuthBearer, XOAuth2, ScramSHA256, ScramSHA1, CramMD5, Plain,
    Login)
_SCRAM = (ScramSHA256, ScramSHA1)
#: The mechanisms that there are, by their names, strongest first.
MECHANISMS: Dict[str, Type[Simple]] = {
    kind.name: kind
    for kind in sorted(_KINDS, key=lambda kind: -kind.strength)}
public(MECHANISMS=MECHANISMS)


@public
class KeyNames(NamedTuple):
    """Where the operator finds what he has set, for errors and the log.

    :ivar user: The key of the user name, with its section.
    :ivar password: That of the password or of the token.
    :ivar secure: What makes the server a verified one.
    :ivar insecure: The key that allows another one.
    :ivar mechanisms: The key that names mechanisms.
    """

    user: str = '[mta] smtp_user'
    password: str = '[mta] smtp_pass'
    secure: str = (
        '[mta] smtp_secure_mode: starttls, smtp_verify_cert: yes and '
        'smtp_verify_hostname: yes')
    insecure: str = '[relay.mta] auth_insecure: yes'
    mechanisms: str = '[relay.mta] auth'


#: Those of the server of [mta].
MTA_KEYS = KeyNames()
public(MTA_KEYS=MTA_KEYS)


def _octets(value: str, key: str) -> bytes:
    """Return a user name or a password in UTF-8 (RFC 4616, section 2).

    :raises UnusableValue: if the value cannot be sent.
    """
    if '\0' in value:
        raise UnusableValue(f'{key} has a NUL in it')
    with suppress(UnicodeEncodeError):
        return value.encode('utf-8')
    # Not within an `except`: the UnicodeEncodeError holds the value.
    raise UnusableValue(f'{key} cannot be encoded in UTF-8')


@public
class Credentials:
    """Who we are to a relay; shared by all connections to it.

    Its repr shows nothing.

    :ivar keys: Where these are set.
    """

    def __init__(self, user: str, password: Secret, *,
                 auth: AuthSettings = AuthSettings(),
                 tokens: Optional[Tokens] = None, keys: KeyNames = MTA_KEYS,
                 warns: bool = True, relay: str = '', host: str = '',
                 port: int = 0) -> None:
        """Check what can be checked before the server is met.

        :param user: The user name.
        :param password: The password.
        :param auth: Which mechanisms may be used.
        :param tokens: Those in the place of a password.
        :param keys: Where these are set.
        :param warns: True if a server that is not verified is warned about;
            otherwise it gets no password.
        :param relay: The relay's name, for the log.
        :param host: The host name that we connect to.
        :param port: Its port.
        :raises UnusableValue: naming the key of what cannot be sent.
        """
        self.keys = keys
        self._auth = auth
        self._tokens = tokens
        self._warns = warns
        self._has_warned = False
        self._relay = relay
        self._place = host, port
        self._salted: Optional[SaltedPasswords] = None
        self._user = user
        self._password = password
        self._pair: Optional[Tuple[bytes, bytes]] = None
        # Whether servers differ in what they make of these for SCRAM.
        self._is_ambiguous = False
        _octets(user, keys.user)
        if user and password and tokens is None:
            self._pair = self._checked_pair()
            with suppress(ValueError):
                self._salted = SaltedPasswords(password.reveal())
                self._is_ambiguous = any(
                    saslprep(text) != text
                    for text in (user, password.reveal()))

    def _checked_pair(self) -> Tuple[bytes, bytes]:
        pair = (_octets(self._user, self.keys.user),
                _octets(self._password.reveal(), self.keys.password))
        if _is_too_long(*pair):
            raise UnusableValue(f'{self.keys.user} and {self.keys.password} '
                                'are longer than AUTH takes')
        return pair

    def __bool__(self) -> bool:
        """True if AUTH is demanded."""
        return bool(self._pair or self._tokens is not None or
                    set(EXPLICIT_MECHANISMS) & set(self._auth.mechanisms))

    async def attempt(self, refused: Optional[Secret] = None) -> 'Attempt':
        """Return what one login needs; a token is fetched if need be.

        :param refused: A token that the server has refused.
        :raises TokenUnavailable: if there is no token.
        """
        if self._tokens is None:
            return Attempt(self)
        token, is_new = await self._tokens.get(refused)
        # After a refusal there is only one more attempt, whoever has got the
        # token for it.
        is_new = is_new or refused is not None
        if _is_too_long(self._user.encode('utf-8'),
                        token.reveal().encode('utf-8')):
            raise TokenUnavailable(
                f'the token of {self.keys.password} is longer than AUTH takes')
        return Attempt(self, token, is_new)

    # For `Attempt`.

    @property
    def held(self) -> Optional[Secret]:
        """See `Tokens.held`; None where there is a password."""
        return None if self._tokens is None else self._tokens.held

    def choose(self, offered: FrozenSet[str], is_verified: bool,
               token: Optional[Secret]) -> Authentication:
        """See `Attempt.authentication`."""
        if not offered:
            raise LoginMissing(
                'the server does not offer AUTH',
                'Use a port of the mail server where it lets users log in, '
                f'usually 587 or 465; or leave {self.keys.user} and '
                f'{self.keys.password} empty, if it relays for this host '
                'without a login.')
        ours = self._ours(is_verified)
        unsafe: List[str] = []
        unusable: List[str] = []
        for kind in ours:
            if kind.name not in offered:
                continue
            if kind.sends_secret and not (is_verified or self._may_show):
                unsafe.append(kind.name)
                continue
            try:
                chosen = self._made(kind, token)
            except ValueError as error:
                # What cannot be computed here is not there.
                unusable.append(f'{kind.name} cannot be used: {error}')
                continue
            if kind.sends_secret and not is_verified:
                self._warn(kind.name)
            return chosen
        if unsafe:
            raise self._not_verified(unsafe)
        if unusable:
            raise LoginMissing(
                '; '.join(unusable),
                'Let the mail server offer another mechanism, and '
                f'{self.keys.mechanisms} name it.')
        raise LoginMissing(
            'the server offers only AUTH {}, none of which is {}'.format(
                ' '.join(sorted(offered)),
                ' or '.join(kind.name for kind in ours)),
            f'Let {self.keys.mechanisms} name what the mail server has, or '
            'switch one of these on in it; on another port, usually 587 or '
            '465, it may offer more.')

    def _ours(self, is_verified: bool) -> List[Type[Simple]]:
        """Return the mechanisms that may be used, strongest first.

        What SASLprep changes is not the same for all servers: Dovecot
        computes with the octets as they are, and refuses what RFC 5802 makes
        of them.  For a verified server SCRAM comes last then.
        """
        named: Collection[str] = self._auth.mechanisms
        usable: Collection[str] = ()
        if self._tokens is not None:
            usable = BEARER_MECHANISMS
        elif self._pair is not None:
            usable = PASSWORD_MECHANISMS
        ours = [kind for name, kind in MECHANISMS.items() if (
            name in named and name in (*usable, *EXPLICIT_MECHANISMS)
            if named else name in usable)]
        if is_verified and self._is_ambiguous:
            ours.sort(key=lambda kind: kind in _SCRAM)
        return ours

    @property
    def _may_show(self) -> bool:
        return self._warns or self._auth.is_insecure

    def _not_verified(self, names: List[str]) -> NotVerified:
        return NotVerified(
            f'the server offers {" and ".join(names)}, which would show what '
            'we log in with to a server that is not verified; nothing was '
            'sent', f'Set {self.keys.secure}; or {self.keys.insecure}, if '
            'nobody can be in its place.')

    def _warn(self, name: str) -> None:
        """Say once for all connections that the password is not safe."""
        if self._auth.is_insecure or self._has_warned:
            return
        self._has_warned = True
        log.warning(
            '%s: %s shows what we log in with to whoever is in the place of '
            'the server, which is not verified; set %s, or %s', self._relay,
            name, self.keys.secure, self.keys.insecure)

    def _made(self, kind: Type[Simple],
              token: Optional[Secret]) -> Authentication:
        """Return an exchange by a mechanism.

        :raises ValueError: if it cannot be used here.
        """
        user = self._user.encode('utf-8')
        if kind is External:
            return Authentication(External(user), ())
        if token is not None:
            # The user is no secret, and what the error says of a scope often
            # has a part of it: a domain.
            return Authentication(
                self._bearer(kind, token.reveal()),
                (token.reveal().encode('utf-8'),))
        assert self._pair is not None
        return Authentication(
            self._by_password(kind), self._pair[1:], self._pair[0])

    def _bearer(self, kind: Type[Simple], token: str) -> Mechanism:
        mechanism: Mechanism
        if kind is OAuthBearer:
            mechanism = OAuthBearer(self._user, token, *self._place)
        else:
            mechanism = XOAuth2(self._user, token)
        return mechanism

    def _by_password(self, kind: Type[Simple]) -> Mechanism:
        make: Callable[..., Mechanism] = kind
        if kind in _SCRAM:
            if self._salted is None:
                raise ValueError(
                    f'{self.keys.password} has what SASLprep (RFC 4013) '
                    'prohibits')
            return make(self._user, self._salted)
        assert self._pair is not None
        return make(*self._pair)


@public
class Attempt:
    """What one login needs."""

    def __init__(self, credentials: Credentials,
                 token: Optional[Secret] = None,
                 is_new: bool = True) -> None:
        """Prepare; `Credentials.attempt` makes them.

        :param credentials: Who we are.
        :param token: The token, in the place of a password.
        :param is_new: True if it was got for this login.
        """
        self._credentials = credentials
        self._token = token
        self._is_new = is_new

    def authentication(self, offered: FrozenSet[str],
                       is_verified: bool) -> Authentication:
        """Choose the strongest mechanism that both sides have.

        :param offered: The mechanisms of the server, in upper case.
        :param is_verified: True if nobody but the server that is meant can
            read what we send.
        :raises smtplib.SMTPNotSupportedError: if there is none.
        """
        return self._credentials.choose(offered, is_verified, self._token)

    async def latest(self) -> 'Attempt':
        """Return the attempt for now, after some waiting.

        The server may have refused the token of this attempt meanwhile, when
        another connection had it.

        :raises TokenUnavailable: if there is no other token.
        """
        if self._token is None or self._credentials.held == self._token:
            return self
        return await self._credentials.attempt()

    async def renewed(self) -> Optional['Attempt']:
        """Return another attempt after a refusal; None if there is none.

        There is one with another token, unless the refused token was new.

        :raises TokenUnavailable: if there is no token.
        """
        if self._token is None or self._is_new:
            return None
        attempt = await self._credentials.attempt(self._token)
        # Some sources keep a token until it expires.
        is_the_same = self._credentials.held == self._token
        return None if is_the_same else attempt


def _is_too_long(user: bytes, secret: bytes) -> bool:
    # With room for what a mechanism puts around them, a host name above all.
    return 4 * (len(user) + len(secret) + 36) // 3 > MAX_RESPONSE
