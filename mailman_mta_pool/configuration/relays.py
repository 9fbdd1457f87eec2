# SPDX-License-Identifier: GPL-3.0-or-later
"""From sections [relay.NAME] and [limit.NAME] to settings."""

import re

from dataclasses import replace
from ipaddress import ip_address
from mailman_mta_pool.configuration.certificates import tls_settings
from mailman_mta_pool.configuration.files import (
    HOST_NAME,
    PASSWORD_KEYS,
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
from mailman_mta_pool.configuration.secrets import command_of
from mailman_mta_pool.settings import (
    LimitSettings,
    Rate,
    RelaySettings,
    Timeouts,
    WireSettings,
)
from public import public
from typing import Mapping, Tuple
from urllib.parse import urlsplit


# The ports of RFC 8314, section 7.
PORTS = {'smtps': 465, 'starttls': 587}
SMTP_PORT = 25
SRV = 'srv:'
SRV_HOST = (
    'srv: and the name of an SRV record, such as '
    'srv:_submissions._tcp.example.com')

_SRV_NAME = re.compile(
    r'_[A-Za-z0-9-]+\._tcp\.[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?')
_HELLO_LITERAL = re.compile(r'\[(IPv6:)?([0-9A-Fa-f:.]+)\]')


@public
def relay_settings(section: Section, depth: int,
                   passwords: Mapping[str, str]) -> RelaySettings:
    """Return the relay that a section describes.

    :param section: [relay.NAME], with all that it inherits.
    :param depth: [delivery] pipeline_depth.
    :param passwords: Those that do not stand in the section itself, by the
        section's name.
    :return: The settings; what [mta] says of its own server is left at its
        default.
    :raises ConfigurationError: naming the first value that is no good.
    """
    common = RelaySettings(
        name=section.name.partition('.')[2],
        wire=_wire(section, depth),
        tls=tls_settings(section),
        max_connections=(section.whole('max_connections', least=1)
                         if section.text('max_connections') else 0),
        message_rate=_rates(section, 'message_rate'),
        recipient_rate=_rates(section, 'recipient_rate'),
        connect_rate=_rates(section, 'connect_rate'),
        )
    if section.name == RELAY_MTA:
        return common
    return _with_server(section, common, passwords)


def _with_server(section: Section, common: RelaySettings,
                 passwords: Mapping[str, str]) -> RelaySettings:
    """Add what is not said of the server of [mta] in the plugin's file."""
    host, secure_mode = _host(section), section.text('secure_mode').lower()
    return replace(
        common,
        host=host,
        port=_port(section, host, secure_mode),
        secure_mode=secure_mode,
        user=_user(section),
        password=passwords.get(section.name, section.text('password')),
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
def limit_storage(section: Section) -> str:
    """Return where it is counted what was sent.

    :param section: [limits].
    :return: 'file', or the URL of a Redis server.
    :raises ConfigurationError: for anything else.
    """
    return str(section.value(
        'storage', _storage, 'file, or the URL of a Redis server such as '
        'redis://redis.example.com:6379/0'))


def _storage(text: str) -> str:
    if text.lower() == 'file':
        return 'file'
    url = urlsplit(text)
    # Reading the port raises ValueError if it is none.
    if (url.scheme not in ('redis', 'rediss') or not url.hostname or
            url.port == 0 or not re.fullmatch('/?[0-9]*', url.path) or
            re.search(r'\s', text)):
        raise ValueError(text)
    return text


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


def _user(section: Section) -> str:
    """Return the user, after a look at all that goes with one."""
    user = _one_line(section, 'user')
    _one_line(section, 'password')
    said = [key for key in PASSWORD_KEYS if section.text(key)]
    if len(said) > 1:
        raise section.mistake(
            said[1], f'{said[0]} says the password, too; remove one of them')
    if user and not said:
        raise section.mistake(
            'user', 'there is no password; set password, password_file or '
            'password_command, too')
    if said and not user:
        raise section.mistake(
            said[0], 'there is no user; set user, too, or remove this key')
    if said == ['password_command']:
        command_of(section)
    return user


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
