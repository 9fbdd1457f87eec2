# SPDX-License-Identifier: GPL-3.0-or-later
"""How the settings of a relay have us log in there."""

from contextlib import suppress
from mailman_mta_pool.connection.opening import Endpoint
from mailman_mta_pool.connection.srv import is_service
from mailman_mta_pool.connection.tls import version_of_file
from mailman_mta_pool.keys import in_words_of, key_of
from mailman_mta_pool.login.access import Access
from mailman_mta_pool.login.credentials import Credentials, KeyNames
from mailman_mta_pool.login.endpoint import EndpointSource
from mailman_mta_pool.login.grant import CommandSource
from mailman_mta_pool.login.record import LoginRecord
from mailman_mta_pool.login.states import login_directory
from mailman_mta_pool.login.tokens import Tokens
from mailman_mta_pool.relays.safety import CLEAR
from mailman_mta_pool.settings import (
    EXPLICIT_MECHANISMS,
    MTA,
    RelaySettings,
    TokenSettings,
)
from public import public
from typing import Optional, Tuple


@public
def name_of(relay: RelaySettings) -> str:
    """Return a relay's section, or 'host:port' for that of [mta].

    :param relay: Its settings.
    """
    if relay.name != MTA:
        return relay.name
    return Endpoint(relay.host, relay.port).name


@public
def access_for(relay: RelaySettings, var_directory: str = '') -> Access:
    """Return how the connections to a relay log in; nothing is opened.

    :param relay: Its settings.
    :param var_directory: Mailman's $VAR_DIR, where the processes of the host
        tell each other what became of logins; '' for a process that is on
        its own.
    """
    if not var_directory:
        return Access(lambda: _credentials(relay))
    return Access(
        lambda: _credentials(relay), _Records(relay, var_directory).get)


@public
def forget_refusal(relay: RelaySettings, var_directory: str) -> None:
    """Let the processes of this host log in at a relay again.

    :param relay: Its settings; they were found to be good.
    :param var_directory: Mailman's $VAR_DIR.
    """
    _Records(relay, var_directory).get().forget()


@public
def is_refused(relay: RelaySettings, var_directory: str) -> bool:
    """True if the processes of this host do not try the login at a relay.

    :param relay: Its settings.
    :param var_directory: Mailman's $VAR_DIR.
    """
    return _Records(relay, var_directory).get().refusal() is not None


class _Records:
    """The records of a relay's logins, the last one of which is kept."""

    def __init__(self, relay: RelaySettings, var_directory: str) -> None:
        self._relay = relay
        self._directory = login_directory(var_directory)
        self._login: Tuple[str, ...] = ()
        self._record: Optional[LoginRecord] = None

    def get(self) -> LoginRecord:
        """Return that of the login as its files make it now."""
        login = login_of(self._relay)
        if self._record is None or login != self._login:
            self._login = login
            self._record = LoginRecord(
                self._directory, login, name_of(self._relay),
                _remedy_of(self._relay))
        return self._record


def _remedy_of(relay: RelaySettings) -> str:
    """Return what mends a refused login, for the log."""
    keys = _keys_of(relay)
    names = set(relay.auth.mechanisms)
    if names and names <= set(EXPLICIT_MECHANISMS):
        user = f', or correct {keys.user}' if relay.user else ''
        return (
            'let the mail server know the certificate of '
            f'[relay.{relay.name}] tls_cert{user}')
    return (
        f'correct {keys.user} and {keys.password}, or name another '
        f'mechanism in {keys.mechanisms}')


@public
def login_of(relay: RelaySettings) -> Tuple[str, ...]:
    """Return all that a login at a relay is made of, its secrets, too.

    Another certificate in the place of the same file is another login.

    :param relay: Its settings.
    """
    token = relay.auth.token or TokenSettings()
    return (
        relay.host, str(relay.port), relay.secure_mode, relay.user,
        relay.password.reveal(), ' '.join(relay.auth.mechanisms),
        # What EXTERNAL is about.
        *map(_file_with_version, (relay.tls.cert, relay.tls.key)),
        token.command.reveal(), token.url, token.client_id,
        token.client_secret.reveal(), token.scope, token.refresh_token_file)


def _file_with_version(path: str) -> str:
    # Whoever needs a file that is not there says so.
    with suppress(OSError):
        return f'{path} {version_of_file(path)}' if path else ''
    return path


def _credentials(relay: RelaySettings) -> Credentials:
    """Return who we are to a relay.

    :raises UnusableValue: naming the key of what cannot be sent.
    """
    return Credentials(
        relay.user, relay.password, auth=relay.auth,
        tokens=_tokens(relay), keys=_keys_of(relay),
        warns=relay.name == MTA, relay=name_of(relay),
        host='' if is_service(relay.host) else relay.host, port=relay.port)


def _tokens(relay: RelaySettings) -> Optional[Tokens]:
    token = relay.auth.token
    if token is None:
        return None
    section = f'[relay.{relay.name}]'
    if token.command:
        return Tokens(CommandSource(
            token.command, f'{section} token_command'))
    return Tokens(EndpointSource(token, section))


def _keys_of(relay: RelaySettings) -> KeyNames:
    """Return where the operator has set who we are."""
    section = f'[relay.{relay.name}]'
    return KeyNames(
        user=key_of(relay, 'smtp_user'),
        password=key_of(relay, 'smtp_pass'),
        secure=_secure_keys_of(relay),
        insecure=f'{section} auth_insecure: yes',
        mechanisms=f'{section} auth')


def _secure_keys_of(relay: RelaySettings) -> str:
    """Return the keys that make the server a verified one, with values."""
    verify = 'smtp_verify_cert: yes and smtp_verify_hostname: yes'
    pin = f'[relay.{relay.name}] tls_fingerprint'
    if relay.secure_mode == CLEAR:
        verify = f'smtp_secure_mode: starttls with {verify}'
        pin = f'with {pin}'
    return in_words_of(
        relay, f'[mta] {verify}', with_file=False) + f', or {pin}'
