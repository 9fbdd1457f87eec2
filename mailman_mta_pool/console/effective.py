# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings that are in force, and where each of them comes from."""

import os

from configparser import Error as ConfigParserError, RawConfigParser
from contextlib import suppress
from functools import partial
from mailman.config import config
from mailman_mta_pool.configuration.files import (
    ConfigurationError,
    hidden_in,
    LIMIT_MASTER,
    limit_names,
    NOT_OF_MTA,
    parsed,
    read_configuration,
    RELAY_MASTER,
    RELAY_MTA,
    relay_names,
    schema_text,
    with_master,
)
from mailman_mta_pool.configuration.loading import configuration_path, is_ours
from public import public
from textwrap import dedent
from typing import Any, Callable, Iterator, List, NamedTuple, Optional, Tuple


DEFAULT = 'default'
# The keys of [mta] that the delivery reads, and those by which Mailman tells
# it to make VERP'd senders.
MTA_KEYS = (
    'outgoing', 'smtp_host', 'smtp_port', 'smtp_secure_mode', 'smtp_user',
    'smtp_pass', 'smtp_verify_cert', 'smtp_verify_hostname',
    'max_delivery_threads', 'max_recipients', 'max_sessions_per_connection',
    'delivery_retry_period', 'verp_format', 'verp_personalized_deliveries',
    'verp_delivery_interval',
    )
DEVMODE_KEYS = ('enabled', 'recipient')
# The words in the name of a key whose value nobody else is to see.
SECRETS = frozenset(['pass', 'passwd', 'password', 'secret', 'token'])
# The path of a file shows nothing that is in it.
NOT_SECRET = frozenset([
    'client_secret_file', 'password_file', 'refresh_token_file', 'token_url'])
public(DEFAULT=DEFAULT, MTA_KEYS=MTA_KEYS)


@public
class Setting(NamedTuple):
    """A setting that is in force.

    :ivar section: The section that it belongs to, without brackets.
    :ivar key: Its key.
    :ivar value: Its value as text, or what stands for a secret.
    :ivar origin: The file that says so, or `DEFAULT`.
    """

    section: str
    key: str
    value: str
    origin: str


def _setting(section: str, key: str, value: str, origin: str) -> Setting:
    value = hidden_in(key, value.strip())
    if SECRETS & set(key.split('_')) and key not in NOT_SECRET:
        value = '(hidden)' if value and value != '(empty)' else '(empty)'
    return Setting(section, key, value, origin)


class _Origins:
    """Tells which of Mailman's configuration files sets a key."""

    def __init__(self) -> None:
        # The newest first; the last is Mailman's schema, and beside it is the
        # file that Mailman begins with.
        shipped = os.path.dirname(config.schema.filename)
        self._files: List[Tuple[str, Callable[[str, str], bool]]] = []
        for overlay, below in zip(config.overlays, config.overlays[1:]):
            if os.path.dirname(overlay.filename) != shipped:
                parser = _parsed_again(overlay.filename)
                self._files.append((
                    overlay.filename, partial(_differs, overlay, below)
                    if parser is None else parser.has_option))

    def origin(self, section: str, key: str) -> str:
        """Return the file that sets a key, or `DEFAULT`.

        :param section: The section, without brackets.
        """
        for path, sets in self._files:
            if sets(section, key):
                return path
        return DEFAULT


def _differs(overlay: Any, below: Any, section: str, key: str) -> bool:
    """Return True if what was put on top of a configuration changes a key."""
    return section in overlay and (
        section not in below or overlay[section][key] != below[section][key])


def _parsed_again(path: str) -> Optional[RawConfigParser]:
    """Return what a file says; None if it has gone, or was never one."""
    parser = RawConfigParser(strict=False)
    with suppress(OSError, ValueError, ConfigParserError):
        with open(path, encoding='utf-8') as fp:
            parser.read_string(dedent(fp.read()))
        return parser
    return None


@public
def effective_settings() -> Iterator[Setting]:
    """Yield the settings that are in force, section by section.

    Of the plugin's own file as much is shown as can be read.
    """
    origins = _Origins()
    for key in MTA_KEYS:
        yield _setting('mta', key, config.mta[key], origins.origin('mta', key))
    for key in DEVMODE_KEYS:
        yield _setting('devmode', key, config.devmode[key],
                       origins.origin('devmode', key))
    for name, plugin in config.plugin_configs:
        if is_ours(plugin):
            section = f'plugin.{name}'
            for key in plugin:
                yield _setting(
                    section, key, plugin[key], origins.origin(section, key))
    path = configuration_path()
    try:
        own = parsed(read_configuration(path), path)
    except ConfigurationError:
        return
    yield from _own_settings(own, path)


def _own_settings(own: RawConfigParser, path: str) -> Iterator[Setting]:
    """Yield the settings of the plugin's own file.

    :param own: What it says.
    :param path: The file.
    """
    schema = parsed(schema_text(), 'schema.cfg')
    for section in schema.sections():
        if section in (RELAY_MASTER, LIMIT_MASTER):
            yield from with_origins(own, path, section)
            continue
        for key, default in schema.items(section):
            is_set = own.has_option(section, key)
            yield _setting(
                section, key, own.get(section, key) if is_set else default,
                path if is_set else DEFAULT)


@public
def with_origins(own: RawConfigParser, path: str,
                 master: str) -> Iterator[Setting]:
    """Yield the settings of all relays, or of all limits.

    What is said in the master section is yielded first, and again for each
    section that inherits it.

    :param own: What the plugin's own file says.
    :param path: The file.
    :param master: `RELAY_MASTER` or `LIMIT_MASTER`.
    """
    schema = parsed(schema_text(), 'schema.cfg')

    def setting(name: str, key: str, value: str, origin: str) -> Setting:
        if not schema.has_option(master, key):
            # A password whose key is misspelt, say.
            value = '(hidden)'
        return _setting(name, key, value, origin)
    if own.has_section(master):
        for key, value in own.items(master):
            yield setting(master, key, value, path)
    names = limit_names(own)
    if master == RELAY_MASTER:
        names = relay_names(own) or [RELAY_MTA]
    for name in names:
        for key, (value, section) in with_master(
                schema, own, name, master).items():
            if name != RELAY_MTA or key not in NOT_OF_MTA:
                yield setting(name, key, value, path if section else DEFAULT)
