# SPDX-License-Identifier: GPL-3.0-or-later
"""What the settings of a relay leave open to people on the network."""

from contextlib import suppress
from ipaddress import ip_address
from mailman_mta_pool.configuration.loading import (
    configuration_path,
    mailman_path,
)
from mailman_mta_pool.keys import key_of
from mailman_mta_pool.login.credentials import MECHANISMS
from mailman_mta_pool.settings import (
    BEARER_MECHANISMS,
    EXPLICIT_MECHANISMS,
    MTA,
    PASSWORD_MECHANISMS,
    RelaySettings,
    Settings,
)
from public import public
from typing import Iterator, List, Tuple


# The mode in which nothing is encrypted.
CLEAR = 'smtp'
public(CLEAR=CLEAR)
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
            f'{place}: {key}: smtp sends {_in_clear(relay)}; set it to '
            'starttls, or to smtps with port 465')
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


def _in_clear(relay: RelaySettings) -> str:
    """Return what goes in clear, and what does not, in words."""
    host = f'to {relay.host} in clear, for everybody on the way to read'
    mail = f'the mail {host}'
    has_token = relay.auth.token is not None
    names = relay.auth.mechanisms or (
        BEARER_MECHANISMS if has_token else PASSWORD_MECHANISMS)
    showing, hiding = (
        [name for name in names if name not in EXPLICIT_MECHANISMS and
         MECHANISMS[name].sends_secret is sends_secret]
        for sends_secret in (True, False))
    what = 'the token' if has_token else 'the password'
    if not (showing or hiding):
        return f'{mail}; EXTERNAL means nothing without TLS'
    if not showing:
        return f'{mail}; {what} does not go with {_or(hiding)}'
    if relay.name != MTA and not relay.auth.is_insecure:
        # See `Credentials`.
        return f'{mail}; ' + (
            f'there is a login only by {_or(hiding)}, for {_or(showing)} '
            f'would show {what}' if hiding else
            f'there is no login, for {_or(showing)} would show {what}')
    if not hiding:
        return f'the mail and {what} {host}'
    return (
        f'{mail}, and {what}, too, if the server, or somebody in its '
        f'place, offers nothing but {_or(showing)}')


def _or(names: List[str]) -> str:
    return ' or '.join(filter(None, [', '.join(names[:-1]), names[-1]]))


def _mode_of(relay: RelaySettings) -> Tuple[str, str]:
    """Return the file and the key that say the secure mode of a relay."""
    key = key_of(relay, 'smtp_secure_mode')
    if relay.name == MTA:
        return mailman_path(), key
    return configuration_path(), key
