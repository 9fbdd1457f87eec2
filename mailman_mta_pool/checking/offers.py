# SPDX-License-Identifier: GPL-3.0-or-later
"""What a server offers, what we do with it, and which limits are in force."""

from dataclasses import fields
from mailman_mta_pool.checking.steps import Extension, Limit
from mailman_mta_pool.keys import in_words_of, key_of
from mailman_mta_pool.settings import MTA, RelaySettings, Settings
from mailman_mta_pool.shown import printable
from mailman_mta_pool.wire.capabilities import Capabilities
from public import public
from typing import Callable, Dict, List, NamedTuple, Optional, Tuple


class _Offer(NamedTuple):
    """What a server offers, and the settings that say what we make of it."""

    server: Capabilities
    relay: RelaySettings
    settings: Settings
    mechanism: str


@public
def encrypts(relay: RelaySettings) -> bool:
    """Return True if the connection is within TLS."""
    return relay.secure_mode in ('smtps', 'starttls')


# Whether it is used, and the words for that.
_Use = Tuple[bool, str]


def _pipelining(offer: _Offer) -> _Use:
    if not offer.relay.wire.pipelining:
        return False, (
            f'not used, because of [relay.{offer.relay.name}] pipelining: no')
    return True, 'used: commands go in groups'


def _chunking(offer: _Offer) -> _Use:
    if not offer.relay.wire.chunking:
        return False, (
            f'not used, because of [relay.{offer.relay.name}] chunking: no')
    if not (offer.server.pipelining and offer.relay.wire.pipelining):
        return False, 'not used without PIPELINING'
    return True, ('used: contents go by BDAT, one after the other without a '
                  'pause, once the first has shown that it works')


def _eight_bit_mime(offer: _Offer) -> _Use:
    return True, 'used for messages with octets over 127'


def _smtputf8(offer: _Offer) -> _Use:
    return True, 'used for addresses outside ASCII'


def _size(offer: _Offer) -> _Use:
    if offer.server.size:
        return True, (f'used: messages over {offer.server.size} octets are '
                      'not sent')
    return True, 'used: the size of each message is told; no limit is named'


def _dsn(offer: _Offer) -> _Use:
    if not offer.settings.delivery.dsn:
        return False, 'not used, because of [delivery] dsn: no'
    return True, 'used: notices name the address of the member'


def _xverp(offer: _Offer) -> _Use:
    if not offer.settings.delivery.server_verp:
        return False, 'not used, because of [delivery] server_verp: no'
    return True, 'used for VERP: many members share a transaction'


def _limits(offer: _Offer) -> _Use:
    if any(offer.server.limits):
        return True, 'used: they are kept'
    return False, 'not used: no limit that we know is named'


def _starttls(offer: _Offer) -> _Use:
    if offer.relay.secure_mode == 'starttls':
        return True, 'used'
    return False, (f'not used, because of [mta] smtp_secure_mode: '
                   f'{printable(offer.relay.secure_mode)}')


def _enhanced_status_codes(offer: _Offer) -> _Use:
    return True, 'used: they tell whom a refusal is about'


def _auth(offer: _Offer) -> _Use:
    if offer.mechanism:
        return True, f'used: {offer.mechanism}'
    return False, 'not used: [mta] smtp_user and smtp_pass are not both set'


_USES: Dict[str, Callable[[_Offer], _Use]] = {
    'PIPELINING': _pipelining,
    'CHUNKING': _chunking,
    '8BITMIME': _eight_bit_mime,
    'SMTPUTF8': _smtputf8,
    'SIZE': _size,
    'XVERP': _xverp,
    'LIMITS': _limits,
    'DSN': _dsn,
    'ENHANCEDSTATUSCODES': _enhanced_status_codes,
    'STARTTLS': _starttls,
    'AUTH': _auth,
    }
# What it means for us that these are not offered.
_MISSED = {
    'PIPELINING': 'not offered: there is one command at a time, and a pause '
                  'of the round trip after each',
    'CHUNKING': 'not offered: the content goes by DATA',
    'SMTPUTF8': 'not offered: addresses outside ASCII cannot be served',
    'XVERP': 'not offered: members whose copies have a VERP\'d sender get a '
             'transaction each (Postfix: smtpd_authorized_verp_clients)',
    }


@public
def extensions_of(server: Capabilities, in_clear: Optional[Capabilities],
                  relay: RelaySettings, settings: Settings,
                  mechanism: str) -> List[Extension]:
    """Return each extension, those that we know first.

    :param server: What the server offered last.
    :param in_clear: What the server offered before STARTTLS, if that was used.
    :param relay: The server.
    :param settings: All settings.
    :param mechanism: The mechanism of AUTH; '' without.
    """
    keywords = dict(server.keywords)
    if in_clear is not None and in_clear.starttls:
        keywords.setdefault('STARTTLS', in_clear.keywords['STARTTLS'])
    offer = _Offer(server, relay, settings, mechanism)
    found = []
    for keyword, use in _USES.items():
        if keyword in keywords:
            is_used, text = use(offer)
            found.append(Extension(
                keyword, _parameters(keywords[keyword]), True, is_used,
                in_words_of(relay, text, with_file=False)))
        elif keyword in _MISSED:
            found.append(Extension(
                keyword, '', False, False, _MISSED[keyword]))
    for keyword in sorted(set(keywords) - set(_USES)):
        found.append(Extension(
            printable(keyword), _parameters(keywords[keyword]), True, False,
            'not used'))
    return found


def _parameters(words: Tuple[str, ...]) -> str:
    return printable(' '.join(words))


def _least(ours: int, key: str, theirs: Optional[int], word: str,
           ) -> Tuple[Optional[int], str]:
    """Return the lower one of two limits, and where it comes from.

    :param ours: 0 is no limit.
    :param theirs: None is no limit.
    """
    if theirs is not None and (ours <= 0 or theirs < ours):
        return theirs, f'{theirs} (the server\'s LIMITS {word})'
    if ours <= 0:
        return None, f'no limit ({key})'
    return ours, f'{ours} ({key})'


def _connections(relay: RelaySettings, settings: Settings) -> Limit:
    """Return how many connections there may be, from whom."""
    texts = []
    if relay.name == MTA or not relay.max_connections:
        texts.append(f'{settings.pool.max_connections} for each out runner '
                     '([mta] max_delivery_threads)')
    if relay.max_connections:
        texts.append(
            f'{relay.max_connections} for all out runners of this host '
            f'together ([relay.{relay.name}] max_connections), beside that of '
            'this check')
    return Limit('connections', settings.pool_of(relay).max_connections,
                 ', '.join(texts))


@public
def limits_of(server: Capabilities, relay: RelaySettings,
              settings: Settings) -> List[Limit]:
    """Return the limits that are in force.

    :param server: What the server offered.
    :param relay: The server.
    :param settings: All settings.
    """
    delivery = settings.delivery
    limits = [
        _connections(relay, settings),
        Limit('recipients', *_least(
            delivery.max_recipients, '[mta] max_recipients',
            server.limits.rcptmax, 'RCPTMAX'))]
    if server.xverp and delivery.server_verp:
        limits.append(Limit('recipients with XVERP', *_least(
            delivery.max_recipients_server_verp,
            '[delivery] max_recipients_server_verp',
            server.limits.rcptmax, 'RCPTMAX')))
    limits += [
        Limit('messages in a connection', *_least(
            relay.max_sessions_per_connection,
            key_of(relay, 'max_sessions_per_connection'),
            server.limits.mailmax, 'MAILMAX')),
        Limit('message size', server.size or None, (
            f'{server.size} octets (the server\'s SIZE)' if server.size
            else 'no limit (the server names none)')),
        ]
    for phase in fields(relay.wire.timeouts):
        seconds = getattr(relay.wire.timeouts, phase.name)
        limits.append(Limit(
            f'{phase.name}_timeout', seconds,
            f'{seconds:g} s ([relay.{relay.name}])'))
    return limits
