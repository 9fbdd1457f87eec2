# SPDX-License-Identifier: GPL-3.0-or-later
"""From sections [relay.NAME] and [limit.NAME] to settings."""

import re

from dataclasses import replace
from ipaddress import ip_address
from mailman_mta_pool.configuration.certificates import tls_settings
from mailman_mta_pool.configuration.files import (
    ENDPOINT_KEYS,
    HOST_NAME,
    RELAY_MTA,
    Section,
)
from mailman_mta_pool.configuration.lists import (
    parse_lists,
    REMEDY as LISTS_REMEDY,
)
from mailman_mta_pool.configuration.rates import (
    parse_rates,
    REMEDY as RATES_REMEDY,
)
from mailman_mta_pool.configuration.secrets import (
    command_of,
    password_key_of,
    read_secret,
)
from mailman_mta_pool.secret import Secret
from mailman_mta_pool.settings import (
    AuthSettings,
    BEARER_MECHANISMS,
    EXPLICIT_MECHANISMS,
    FILE,
    LimitSettings,
    PASSWORD_MECHANISMS,
    Rate,
    RelaySettings,
    StorageSettings,
    Timeouts,
    TokenSettings,
    WireSettings,
)
from public import public
from typing import Mapping, Optional, Tuple
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit


# The ports of RFC 8314, section 7.
PORTS = {'smtps': 465, 'starttls': 587}
SMTP_PORT = 25
# Each of them is a file and a descriptor.
MAX_CONNECTIONS = 10000
_MECHANISMS = PASSWORD_MECHANISMS + BEARER_MECHANISMS + EXPLICIT_MECHANISMS
SRV = 'srv:'
SRV_HOST = (
    'srv: and the name of an SRV record, such as '
    'srv:_submissions._tcp.example.com')

_SRV_NAME = re.compile(
    r'_[A-Za-z0-9-]+\._tcp\.[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?')
_HELLO_LITERAL = re.compile(r'\[(IPv6:)?([0-9A-Fa-f:.]+)\]')


# The secrets that do not stand in a section itself, by its name and the key
# that says where they are.
Secrets = Mapping[Tuple[str, str], Secret]


@public
def relay_settings(section: Section, depth: int,
                   secrets: Secrets) -> RelaySettings:
    """Return the relay that a section describes.

    :param section: [relay.NAME], with all that it inherits.
    :param depth: [delivery] pipeline_depth.
    :param secrets: Those that do not stand in the section itself, by its name
        and the key that says where they are.
    :return: The settings; what [mta] says of its own server is left at its
        default.
    :raises ConfigurationError: naming the first value that is no good.
    """
    common = RelaySettings(
        name=section.name.partition('.')[2],
        wire=_wire(section, depth),
        password_key=password_key_of(section) or 'password',
        tls=tls_settings(section),
        auth=_auth(section, secrets),
        max_connections=(section.whole(
            'max_connections', least=1, most=MAX_CONNECTIONS)
                         if section.text('max_connections') else 0),
        message_rate=_rates(section, 'message_rate'),
        recipient_rate=_rates(section, 'recipient_rate'),
        connect_rate=_rates(section, 'connect_rate'),
        )
    if section.name == RELAY_MTA:
        # [mta] has a user and a password, or it has not.
        _check_mechanisms(section, common.auth, has_secret=True)
        _check_external(section, common)
        return common
    _check_external(section, common)
    return _with_server(section, common, secrets)


def _with_server(section: Section, common: RelaySettings,
                 secrets: Secrets) -> RelaySettings:
    """Add what is not said of the server of [mta] in the plugin's file."""
    host, secure_mode = _host(section), section.text('secure_mode').lower()
    return replace(
        common,
        host=host,
        port=_port(section, host, secure_mode),
        secure_mode=secure_mode,
        user=_user(section, common.auth),
        password=_password(section, secrets),
        verify_cert=section.boolean('verify_cert'),
        verify_hostname=section.boolean('verify_hostname'),
        max_sessions_per_connection=section.whole(
            'max_sessions_per_connection'),
        priority=section.whole('priority'),
        weight=section.whole('weight', least=1),
        lists=_lists(section),
        )


@public
def limit_settings(section: Section) -> LimitSettings:
    """Return the limit that a section describes.

    :param section: [limit.NAME], with all that it inherits.
    :raises ConfigurationError: naming the first value that is no good, and
        for a limit that limits nothing.
    """
    limit = LimitSettings(
        name=section.name.partition('.')[2],
        lists=_lists(section),
        message_rate=_rates(section, 'message_rate'),
        recipient_rate=_rates(section, 'recipient_rate'),
        )
    if not limit.lists:
        raise section.mistake(
            'for', 'names no list; *@* is for all, and '
            '*@lists.example.org for those of a domain')
    if not (limit.message_rate or limit.recipient_rate):
        raise section.mistaken_section(
            'has neither message_rate nor recipient_rate; set one, such as '
            'message_rate: 14/second, or remove the section')
    return limit


@public
def limit_storage(section: Section) -> StorageSettings:
    """Return where it is counted what was sent.

    :param section: [limits].
    :raises ConfigurationError: for what is neither 'file' nor the URL of a
        Redis server.
    """
    found: StorageSettings = section.value(
        'storage', storage_of, 'file, or the URL of a Redis server such as '
        'redis://redis.example.com:6379/0')
    return found


@public
def storage_of(text: str) -> StorageSettings:
    """Return where a storage is.

    :param text: 'file', or the URL of a Redis server, which may have the user
        and the password in it, as the key `storage` has.
    :raises ValueError: for anything else.
    """
    if text.lower() == FILE:
        return StorageSettings()
    url = urlsplit(text)
    # Reading the port raises ValueError if it is none.
    if (url.scheme not in ('redis', 'rediss') or not url.hostname or
            url.port == 0 or not re.fullmatch('/?[0-9]*', url.path) or
            re.search(r'\s', text)):
        raise ValueError(text)
    # redis-py takes both in the query, too.
    options = dict(parse_qsl(url.query, keep_blank_values=True))
    user, password = (options.pop(key, '') for key in ('username', 'password'))
    return StorageSettings(
        url._replace(netloc=url.netloc.rpartition('@')[2],
                     query=urlencode(options)).geturl(),
        unquote(url.username or '') or user,
        Secret(unquote(url.password or '') or password))


def _wire(section: Section, depth: int) -> WireSettings:
    return WireSettings(
        pipelining=section.automatic('pipelining'),
        chunking=section.automatic('chunking'),
        pipeline_depth=depth,
        timeouts=Timeouts(**{
            phase: section.seconds(f'{phase}_timeout')
            for phase in Timeouts.__dataclass_fields__}),
        hello_name=section.value(
            'hello_name', _hello_name, 'a host name such as '
            'lists.example.com, or an address such as [192.0.2.1]'),
        source_address=section.value(
            'source_address', _address, 'an IP address'),
        )


def _host(section: Section) -> str:
    text = section.text('host')
    if not text:
        raise section.mistake(
            'host', 'is missing; set it to the host name of the server')
    if text.lower().startswith(SRV):
        if _SRV_NAME.fullmatch(text[len(SRV):]) is None:
            raise section.mistake('host', f'{text!r} is not {SRV_HOST}')
        return SRV + text[len(SRV):]
    return str(section.value(
        'host', _name_or_address, 'a host name or an IP address, without a '
        f'port, nor {SRV_HOST}'))


def _name_or_address(text: str) -> str:
    if HOST_NAME.fullmatch(text) is None or len(text) > 253:
        ip_address(text)
    return text


def _port(section: Section, host: str, secure_mode: str) -> int:
    text = section.text('port')
    if host.startswith(SRV):
        if text:
            raise section.mistake(
                'port', 'the SRV record says the port; leave this empty')
        return 0
    if not text:
        return PORTS.get(secure_mode, SMTP_PORT)
    return section.whole('port', least=1, most=65535)


def _user(section: Section, auth: AuthSettings) -> str:
    """Return the user, after a look at all that goes with one."""
    user = _one_line(section, 'user')
    _one_line(section, 'password')
    said = password_key_of(section)
    if user and not said and not (
            set(EXPLICIT_MECHANISMS) & set(auth.mechanisms)):
        raise section.mistake(
            'user', 'there is no password; set password, password_file, '
            'password_command, token_command or token_url, too')
    if said and not user:
        raise section.mistake(
            said, 'there is no user; set user, too, or remove this key')
    if said == 'password_command':
        command_of(section, said)
    _check_mechanisms(section, auth, bool(said))
    return user


def _password(section: Section, secrets: Secrets) -> Secret:
    for key in 'password_file', 'password_command':
        if (section.name, key) in secrets:
            return secrets[section.name, key]
    return Secret(section.text('password'))


def _auth(section: Section, secrets: Secrets) -> AuthSettings:
    return AuthSettings(
        mechanisms=section.value(
            'auth', _mechanisms, 'auto, or some of '
            f'{", ".join(_MECHANISMS)}'),
        is_insecure=section.boolean('auth_insecure'),
        token=_token(section, secrets),
        )


def _mechanisms(text: str) -> Tuple[str, ...]:
    names = text.upper().replace(',', ' ').split()
    if names == ['AUTO']:
        return ()
    for name in names:
        if name not in _MECHANISMS:
            raise ValueError(text)
    if not names:
        raise ValueError(text)
    return tuple(dict.fromkeys(names))


def _check_mechanisms(section: Section, auth: AuthSettings,
                      has_secret: bool) -> None:
    """Check that there is something to log in with by these mechanisms."""
    usable = EXPLICIT_MECHANISMS + (
        BEARER_MECHANISMS if auth.token is not None else
        PASSWORD_MECHANISMS if has_secret else ())
    for name in auth.mechanisms:
        if name not in usable:
            raise section.mistake(
                'auth', f'{name} needs ' + (
                    'a password, and a token is all there is'
                    if auth.token is not None else
                    'a token, and a password is all there is' if has_secret
                    else 'a user, and a password or a token') +
                '; remove the name, or set what it needs')


def _check_external(section: Section, relay: RelaySettings) -> None:
    """Check that there is a certificate for EXTERNAL to be about."""
    if 'EXTERNAL' in relay.auth.mechanisms and not relay.tls.cert:
        raise section.mistake(
            'auth', 'EXTERNAL needs a certificate of ours, by which the '
            'server knows us; set tls_cert and tls_key, or remove the name')


def _token(section: Section, secrets: Secrets) -> Optional[TokenSettings]:
    """Return where tokens come from; None if there are none."""
    if not section.text('token_url'):
        for key in ENDPOINT_KEYS:
            if section.text(key):
                raise section.mistake(
                    key, 'belongs to token_url, which is not set; set it, or '
                    'remove this key')
        if not section.text('token_command'):
            return None
        if not command_of(section, 'token_command'):
            raise section.mistake('token_command', 'names no program')
        return TokenSettings(command=Secret(section.text('token_command')))
    return _endpoint(section, secrets)


def _endpoint(section: Section, secrets: Secrets) -> TokenSettings:
    url = section.value(
        'token_url', _token_url, 'the URL of a token endpoint, such as '
        'https://login.example.com/oauth2/token; with http:// it has to be on '
        'this host')
    for key in 'client_id', 'scope':
        _one_line(section, key)
    if not section.text('client_id'):
        raise section.mistake(
            'client_id', 'is missing; token_url needs what the provider calls '
            'this site')
    path = section.text('refresh_token_file')
    if path:
        # It is read when a token is fetched, and may change then.
        read_secret(section, 'refresh_token_file')
    elif not section.text('client_secret_file'):
        raise section.mistake(
            'client_secret_file', 'is missing; token_url needs this, or '
            'refresh_token_file, or both')
    return TokenSettings(
        url=url,
        client_id=section.text('client_id'),
        client_secret=secrets.get(
            (section.name, 'client_secret_file'), Secret()),
        scope=section.text('scope'),
        refresh_token_file=path,
        )


def _token_url(text: str) -> str:
    url = urlsplit(text)
    # Reading the port raises ValueError if it is none.
    if (url.scheme not in ('https', 'http') or not url.hostname or
            url.port == 0 or url.username is not None or
            url.password is not None or url.fragment or
            not text.isprintable() or ' ' in text):
        raise ValueError(text)
    if url.scheme == 'http' and url.hostname != 'localhost' and (
            not ip_address(url.hostname).is_loopback):
        raise ValueError(text)
    return text


def _one_line(section: Section, key: str) -> str:
    text = section.text(key)
    if not text.isprintable():
        raise section.mistake(
            key, 'goes over several lines, or has control characters; put '
            'it on one line')
    return text


def _lists(section: Section) -> Tuple[str, ...]:
    text = section.text('for')
    try:
        return parse_lists(text)
    except ValueError as error:
        raise section.mistake(
            'for', f'{str(error)!r} is not {LISTS_REMEDY}') from None


def _rates(section: Section, key: str) -> Tuple[Rate, ...]:
    return tuple(section.value(key, parse_rates, RATES_REMEDY))


def _address(text: str) -> str:
    return str(ip_address(text)) if text else ''


def _hello_name(text: str) -> str:
    """Return a name for EHLO (RFC 5321, section 4.1.1.1)."""
    literal = _HELLO_LITERAL.fullmatch(text)
    if literal is not None:
        if (ip_address(literal[2]).version == 6) != bool(literal[1]):
            raise ValueError(text)
    elif text and HOST_NAME.fullmatch(text) is None:
        raise ValueError(text)
    return text
