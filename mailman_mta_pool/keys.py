# SPDX-License-Identifier: GPL-3.0-or-later
"""How the configuration calls what is to be changed about a mail server.

The catalogue of answers and `mailman mta-pool check` speak of the keys of
[mta] in mailman.cfg.  A relay of the plugin's own file has keys of other
names, in a section of its own.
"""

import re

from mailman_mta_pool.settings import MTA, RelaySettings
from public import public
from typing import Dict, Match


#: The plugin's own file; it may be anywhere.
OWN_FILE = 'mta_pool.cfg'
# Each key of [mta] that is about its server, and what a relay calls that.
OF_RELAYS: Dict[str, str] = {
    'smtp_host': 'host',
    'smtp_port': 'port',
    'smtp_secure_mode': 'secure_mode',
    'smtp_user': 'user',
    'smtp_pass': 'password',
    'smtp_verify_cert': 'verify_cert',
    'smtp_verify_hostname': 'verify_hostname',
    'max_delivery_threads': 'max_connections',
    'max_sessions_per_connection': 'max_sessions_per_connection',
    }
# The keys of [mta] that hold for every relay.
OF_ALL = ('max_recipients', 'verp_format', 'verp_personalized_deliveries')
public(OWN_FILE=OWN_FILE)

# A key, perhaps with a value, as "smtp_secure_mode: smtps".
_KEY = rf'(?:{"|".join(OF_RELAYS)})\b(?:: [a-z]+)?'
# One or several keys, perhaps with their section before and their file after.
_KEYS = re.compile(
    rf'(?P<section>\[[^]]*\] )?\b(?P<keys>{_KEY}(?:(?:, | and | or ){_KEY})*)'
    r'(?P<file> in mailman\.cfg)?')
_SECRET = re.compile(r'(?:, | and | or |\A)smtp_pass\Z')
_ONE = re.compile(rf'\b(?:{"|".join(OF_RELAYS)})\b')
_SHARED = re.compile(rf'(?<!\] )\b(?:{"|".join(OF_ALL)})\b')


@public
def section_of(relay: RelaySettings) -> str:
    """Return the section that names a mail server, in brackets.

    :param relay: The server.
    """
    return '[mta]' if relay.name == MTA else f'[relay.{relay.name}]'


@public
def key_of(relay: RelaySettings, key: str) -> str:
    """Return what a key of [mta] is called for a mail server.

    :param relay: The server.
    :param key: A key such as 'smtp_host'.
    :return: With its section, such as '[relay.backup] host'.
    """
    if key == 'smtp_pass' and (
            relay.name != MTA or relay.auth.token is not None):
        # Tokens for the server of [mta] are a matter of [relay.mta].
        return f'[relay.{relay.name}] {relay.password_key}'
    if relay.name == MTA or key not in OF_RELAYS:
        return f'[mta] {key}'
    return f'{section_of(relay)} {OF_RELAYS[key]}'


@public
def in_words_of(relay: RelaySettings, text: str,
                with_file: bool = True) -> str:
    """Return a text about keys of [mta] as it is to be said of a mail server.

    The first key gets its section, unless it has one.

    :param relay: The server.
    :param text: Such as 'Check smtp_user and smtp_pass in mailman.cfg'.
    :param with_file: Whether the text is to name the file of a relay, too.
    :return: Such as 'Check [relay.backup] user and password in mta_pool.cfg'.
    """
    is_first = True
    has_tokens = relay.name == MTA and relay.auth.token is not None

    def renamed(found: Match[str]) -> str:
        nonlocal is_first
        section = found['section'] or ''
        if section.startswith('[relay.'):
            return found[0]
        file = found['file'] or ''
        keys = found['keys']
        if relay.name != MTA:
            keys = _ONE.sub(
                lambda key: key_of(relay, key[0]).partition('] ')[2], keys)
            file = f' in {OWN_FILE}' * (with_file and (
                is_first or file != ''))
        if is_first or section:
            section = f'{section_of(relay)} '
        is_first = False
        if has_tokens and _SECRET.search(keys):
            return _with_tokens(relay, section, keys, file)
        return f'{section}{keys}{file}'
    return _SHARED.sub(r'[mta] \g<0>', _KEYS.sub(renamed, text))


def _with_tokens(relay: RelaySettings, section: str, keys: str,
                 file: str) -> str:
    """Return keys of [mta], the last of which is that of its tokens.

    They are in another section of another file.
    """
    before = _SECRET.sub('', keys)
    own = key_of(relay, 'smtp_pass') + f' in {OWN_FILE}' * (file != '')
    return f'{section}{before}{file} and {own}' if before else own
