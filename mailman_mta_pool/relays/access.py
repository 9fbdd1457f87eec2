# SPDX-License-Identifier: GPL-3.0-or-later
"""How the settings of a relay have us log in there."""

from mailman_mta_pool.connection.opening import Endpoint
from mailman_mta_pool.connection.srv import is_service
from mailman_mta_pool.keys import in_words_of, key_of
from mailman_mta_pool.login.access import Access
from mailman_mta_pool.login.credentials import Credentials, KeyNames
from mailman_mta_pool.login.endpoint import EndpointSource
from mailman_mta_pool.login.grant import CommandSource
from mailman_mta_pool.login.record import login_directory, LoginRecord
from mailman_mta_pool.login.tokens import Tokens
from mailman_mta_pool.settings import MTA, RelaySettings, TokenSettings
from public import public
from typing import Any, Tuple


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
    return Access(
        lambda: _credentials(relay),
        _record_of(relay, var_directory) if var_directory else None)


@public
def forget_refusal(relay: RelaySettings, var_directory: str) -> None:
    """Let the processes of this host log in at a relay again.

    :param relay: Its settings; they were found to be good.
    :param var_directory: Mailman's $VAR_DIR.
    """
    _record_of(relay, var_directory).forget()


def _record_of(relay: RelaySettings, var_directory: str) -> LoginRecord:
    keys = _keys_of(relay)
    return LoginRecord(
        login_directory(var_directory), login_of(relay), name_of(relay),
        f'correct {keys.user} and {keys.password}, or name another '
        f'mechanism in {keys.mechanisms}')


@public
def login_of(relay: RelaySettings) -> Tuple[str, ...]:
    """Return all that a login at a relay is made of, its secrets, too.

    :param relay: Its settings.
    """
    token = relay.auth.token or TokenSettings()
    return (
        relay.host, str(relay.port), relay.secure_mode, relay.user,
        relay.password.reveal(), ' '.join(relay.auth.mechanisms),
        # What EXTERNAL is about.
        relay.tls.cert, relay.tls.key,
        token.command.reveal(), token.url, token.client_id,
        token.client_secret.reveal(), token.scope, token.refresh_token_file)


def _credentials(relay: RelaySettings) -> Credentials:
    """Return who we are to a relay.

    :raises UnusableValue: naming the key of what cannot be sent.
    """
    return Credentials(
        relay.user, relay.password, auth=relay.auth,
        tokens=_tokens(relay), keys=_keys_of(relay),
        warns=relay.name == MTA, relay=name_of(relay),
        host='' if is_service(relay.host) else relay.host, port=relay.port)


def _tokens(relay: RelaySettings) -> Any:
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
        secure=in_words_of(relay, KeyNames().secure, with_file=False),
        insecure=f'{section} auth_insecure: yes',
        mechanisms=f'{section} auth')
