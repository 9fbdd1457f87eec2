# SPDX-License-Identifier: GPL-3.0-or-later
"""What the settings of a relay leave open to people on the network."""

from contextlib import suppress
from ipaddress import ip_address
from mailman_mta_pool.configuration.loading import (
    configuration_path,
    mailman_path,
)
from mailman_mta_pool.keys import key_of
from mailman_mta_pool.settings import MTA, RelaySettings, Settings
from public import public
from typing import Iterator, List, Tuple


# The mode in which nothing is encrypted.
CLEAR = 'smtp'
# The names that are for this host alone (RFC 6761, section 6.3), and those
# that Debian puts into /etc/hosts.
LOCAL_NAMES = frozenset([
    'localhost', 'localhost.localdomain', 'ip6-localhost', 'ip6-loopback'])


@public
def is_this_host(host: str) -> bool:
    """Return True if what is sent to a host does not leave this machine.

    Nobody is asked which address a name has.

    :param host: A host name or an address, as in `RelaySettings`.
    """
    with suppress(ValueError):
        return ip_address(host).is_loopback
    name = host.lower().rstrip('.')
    return name in LOCAL_NAMES or name.endswith('.localhost')


@public
def safety_warnings(settings: Settings) -> List[str]:
    """Return what is sent in clear, in lines that name file and key.

    :param settings: The settings.
    """
    return [line for relay in settings.relays if relay.secure_mode == CLEAR
            for line in _warnings(relay)]


def _warnings(relay: RelaySettings) -> Iterator[str]:
    place, key = _mode_of(relay)
    if (relay.user and (relay.password or relay.auth.token is not None) and
            not is_this_host(relay.host)):
        yield (
            f'{place}: {key}: smtp sends the mail and the password to '
            f'{relay.host} in clear, for everybody on the way to read; set it '
            'to starttls, or to smtps with port 465')
    tls = relay.tls
    for name, value in (
            ('tls_fingerprint', tls.fingerprints), ('tls_names', tls.names),
            ('tls_cert', tls.cert)):
        if value:
            yield (
                f'{place}: {key}: with smtp there is no TLS, and {name} means '
                f'nothing for {relay.host}; set it to starttls, or to smtps '
                'with port 465')
            return


def _mode_of(relay: RelaySettings) -> Tuple[str, str]:
    """Return the file and the key that say the secure mode of a relay."""
    key = key_of(relay, 'smtp_secure_mode')
    if relay.name == MTA:
        return mailman_path(), key
    return configuration_path(), key
