# SPDX-License-Identifier: GPL-3.0-or-later
"""Which relays a list's mail may go over, and which limits it has."""

from mailman_mta_pool.configuration.files import ConfigurationError
from mailman_mta_pool.configuration.loading import configuration_path
from mailman_mta_pool.settings import LimitSettings, RelaySettings, Settings
from public import public
from typing import Iterable, List, Optional, Tuple


# How many lists a warning names.
SHOWN_LISTS = 5


@public
def relays_for(settings: Settings,
               posting_address: Optional[str]) -> Tuple[RelaySettings, ...]:
    """Return the relays that a list's mail may go over.

    A list that some relay has a pattern for goes over such relays only, and
    all other mail over those without a pattern.

    :param settings: The settings.
    :param posting_address: The list's posting address; None for mail without
        a list.
    :return: The relays in the order of the settings; empty if none is for
        this mail.
    """
    own = tuple(
        relay for relay in settings.relays
        if matches(relay.lists, posting_address))
    return own or tuple(
        relay for relay in settings.relays if not relay.lists)


@public
def limits_for(settings: Settings,
               posting_address: Optional[str]) -> Tuple[LimitSettings, ...]:
    """Return the limits of a list's mail; all of them hold.

    :param settings: The settings.
    :param posting_address: The list's posting address; None for mail without
        a list, which has no limit of this kind.
    """
    return tuple(
        limit for limit in settings.limits
        if matches(limit.lists, posting_address))


@public
def check_route(settings: Settings, posting_address: Optional[str]) -> None:
    """Check that there is a relay for a list's mail.

    :param settings: The settings.
    :param posting_address: The list's posting address; None for mail without
        a list.
    :raises ConfigurationError: if there is none; it says what to do.
    """
    if not relays_for(settings, posting_address):
        mail, remedy = 'mail without a list', ''
        if posting_address is not None:
            mail = posting_address
            remedy = 'name the list there, or '
        raise ConfigurationError(
            configuration_path(), '[relay.NAME] for',
            f'no relay is for {mail}; {remedy}add a [relay.NAME] without '
            '`for`')


@public
def routing_warnings(settings: Settings,
                     posting_addresses: Iterable[str]) -> List[str]:
    """Return what mail may go over no relay, and what to do about it.

    :param settings: The settings.
    :param posting_addresses: The posting addresses of the site's lists; they
        are not asked for unless it matters.
    :return: One line for mail without a list, and one for lists.
    """
    if relays_for(settings, None):
        # Such a relay is for all that no other is for.
        return []
    warnings = [
        'every relay is for some lists only, and mail without a list, as '
        'notices of the site are, has none; add a [relay.NAME] without `for`']
    lists = [address for address in posting_addresses
             if not relays_for(settings, address)]
    if lists:
        shown = ', '.join(lists[:SHOWN_LISTS])
        if len(lists) > SHOWN_LISTS:
            shown += f' and {len(lists) - SHOWN_LISTS} more'
        warnings.append(
            f'no relay is for {shown}, whose mail has to wait; name them '
            'in `for` of a relay, or add a [relay.NAME] without `for`')
    return warnings


@public
def matches(patterns: Tuple[str, ...], posting_address: Optional[str]) -> bool:
    """Return True if a posting address matches one of some patterns.

    :param patterns: Addresses in lower case, in which a `*` is for any
        characters but `@`.
    :param posting_address: The address; None matches nothing.
    """
    if posting_address is None:
        return False
    name, _, domain = posting_address.lower().partition('@')
    return any(
        _matches_one(own_name, name) and _matches_one(own_domain, domain)
        for own_name, _, own_domain in (
            pattern.partition('@') for pattern in patterns))


def _matches_one(pattern: str, text: str) -> bool:
    """Return True if a text matches a pattern with `*` for any characters.

    A regular expression with many stars could take for ever.
    """
    first, *rest = pattern.split('*')
    if not rest:
        return text == pattern
    *middle, last = rest
    begin, end = len(first), len(text) - len(last)
    if begin > end or not (text.startswith(first) and text.endswith(last)):
        return False
    for part in middle:
        found = text.find(part, begin, end)
        if found < 0:
            return False
        begin = found + len(part)
    return True
