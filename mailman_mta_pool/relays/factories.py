# SPDX-License-Identifier: GPL-3.0-or-later
"""The connection factories, as named utilities of zope.component.

The name of a factory is a value of `[mta] smtp_secure_mode`, and of
`secure_mode` of a relay in the plugin's own file.  Another package adds a mode
by registering a utility of its own for `IConnectionFactory`.
"""

import time

from mailman_mta_pool.configuration.files import ConfigurationError
from mailman_mta_pool.configuration.loading import configuration_path
from mailman_mta_pool.connection import (
    SMTPConnection,
    SMTPSConnection,
    STARTTLSConnection,
)
from mailman_mta_pool.interfaces import IConnectionFactory
from mailman_mta_pool.relays.access import access_for
from mailman_mta_pool.settings import MTA, RelaySettings, Settings
from mailman_mta_pool.wire.lessons import Lessons
from public import public
from typing import Any, Optional
from zope.component import getUtilitiesFor, provideUtility, queryUtility
from zope.interface import provider


@public
@provider(IConnectionFactory)
def smtp(relay: RelaySettings, lessons: Lessons) -> SMTPConnection:
    """See `IConnectionFactory`."""
    return SMTPConnection(
        relay.host, relay.port, relay.max_sessions_per_connection,
        wire=relay.wire, lessons=lessons, access=access_for(relay))


@public
@provider(IConnectionFactory)
def smtps(relay: RelaySettings, lessons: Lessons) -> SMTPSConnection:
    """See `IConnectionFactory`."""
    return SMTPSConnection(
        relay.host, relay.port, relay.max_sessions_per_connection,
        relay.verify_cert, relay.verify_hostname,
        wire=relay.wire, lessons=lessons, access=access_for(relay),
        tls=relay.tls)


@public
@provider(IConnectionFactory)
def starttls(relay: RelaySettings, lessons: Lessons) -> STARTTLSConnection:
    """See `IConnectionFactory`."""
    return STARTTLSConnection(
        relay.host, relay.port, relay.max_sessions_per_connection,
        relay.verify_cert, relay.verify_hostname,
        wire=relay.wire, lessons=lessons, access=access_for(relay),
        tls=relay.tls)


@public
def register() -> None:
    """Register our factories, unless something of that name is there."""
    for factory in (smtp, smtps, starttls):
        if queryUtility(IConnectionFactory, factory.__name__) is None:
            provideUtility(factory, IConnectionFactory, factory.__name__)


@public
def factory_for(relay: RelaySettings) -> Any:
    """Return the factory that the secure mode names.

    :param relay: Its `secure_mode` may be in any case.
    :return: An `IConnectionFactory`.
    :raises ConfigurationError: if there is none of that name.
    """
    register()
    factory = queryUtility(IConnectionFactory, relay.secure_mode.lower())
    if factory is None:
        known = ', '.join(sorted(
            name for name, _ in getUtilitiesFor(IConnectionFactory)))
        place, key = 'mailman.cfg', '[mta] smtp_secure_mode'
        if relay.name != MTA:
            place = configuration_path()
            key = f'[relay.{relay.name}] secure_mode'
        raise ConfigurationError(
            place, key, f'{relay.secure_mode!r} is not one of {known}')
    return factory


@public
def check_modes(settings: Settings) -> None:
    """Check that there is a factory for each relay.

    :param settings: The settings.
    :raises ConfigurationError: as with `factory_for`.
    """
    for relay in settings.relays:
        factory_for(relay)


@public
def connection_for(
        relay: RelaySettings, lessons: Optional[Lessons] = None) -> Any:
    """Make a connection of the kind that the configuration names.

    :param relay: Which server, and how to talk to it.
    :param lessons: What is known of that server already.
    :return: An `IConnection`; nothing is opened.
    :raises ConfigurationError: if its secure mode is unknown.
    """
    return factory_for(relay)(
        relay, Lessons(time.monotonic) if lessons is None else lessons)
