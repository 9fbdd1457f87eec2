# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading lazr.config files so that a mistake is named by its place."""

import os
import re
import stat
import errno

from configparser import (
    DuplicateOptionError,
    DuplicateSectionError,
    Error as ConfigParserError,
    RawConfigParser,
)
from importlib.resources import files
from io import StringIO
from lazr.config import as_boolean, as_timedelta, ConfigSchema
from mailman.config.config import load_external
from mailman.interfaces.configuration import InvalidConfigurationError
from public import public
from typing import (
    Any,
    Callable,
    Collection,
    Dict,
    Iterable,
    List,
    Mapping,
    Optional,
    Tuple,
)


# What is said of all sections of a kind.
RELAY_MASTER, LIMIT_MASTER = 'relay.master', 'limit.master'
# The section of the server named by [mta].
RELAY_MTA = 'relay.mta'
# The keys whose values nobody is to see; a program's arguments may be secret.
SECRET_KEYS = frozenset(['password', 'password_command', 'token_command'])
# The keys that say a relay's password, of which a section has one at most.
PASSWORD_KEYS = ('password', 'password_file', 'password_command')
# What else says what to log in with.
TOKEN_KEYS = ('token_command', 'token_url')
# What belongs to `token_url`.
ENDPOINT_KEYS = (
    'client_id', 'client_secret_file', 'scope', 'refresh_token_file')
# Our own certificate.
CERTIFICATE_KEYS = ('tls_cert', 'tls_key')
# The keys that a relay has because it is not the server of [mta], and what
# says the same of that one.
NOT_OF_MTA = {
    'host': 'smtp_host',
    'port': 'smtp_port',
    'secure_mode': 'smtp_secure_mode',
    'user': 'smtp_user',
    'password': 'smtp_pass',
    'password_file': 'smtp_pass',
    'password_command': 'smtp_pass',
    'verify_cert': 'smtp_verify_cert',
    'verify_hostname': 'smtp_verify_hostname',
    'max_sessions_per_connection': 'max_sessions_per_connection',
    'priority': '',
    'weight': '',
    'for': '',
    }
public(
    ENDPOINT_KEYS=ENDPOINT_KEYS, LIMIT_MASTER=LIMIT_MASTER,
    NOT_OF_MTA=NOT_OF_MTA, PASSWORD_KEYS=PASSWORD_KEYS,
    RELAY_MASTER=RELAY_MASTER, RELAY_MTA=RELAY_MTA, TOKEN_KEYS=TOKEN_KEYS)

#: What may be a host name, with or without the dot of an absolute one.
HOST_NAME = re.compile(r'[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?')
public(HOST_NAME=HOST_NAME)

# The name of a relay or of a limit may become the name of a file.
_NAME = re.compile(r'[a-z0-9][a-z0-9_-]{0,39}')
# What comes first in the URL of a Redis server may be a password.
_USER_OF_URL = re.compile(r'(?<=://)[^/?#]*@')
_QUERY_OF_URL = re.compile(r'\?.*', re.DOTALL)


@public
class ConfigurationError(InvalidConfigurationError):
    """A configuration key is unknown or has a bad value.

    :ivar place: The file.
    :ivar key: The key, with its section where there is one.
    :ivar value: What is wrong with it, and what would be right.
    """

    def __init__(self, place: str, key: str, problem: str) -> None:
        super().__init__(key, problem)
        self.place = place

    def __str__(self) -> str:
        # On one line, whatever the file has in a name.
        return ' '.join(f'{self.place}: {self.key}: {self.value}'.split())


@public
class Section:
    """A section that names file, section and key when a value is bad."""

    def __init__(self, place: str, name: str, section: Any,
                 names: Optional[Mapping[str, str]] = None) -> None:
        """Wrap a section.

        :param place: The file, as the operator knows it.
        :param name: The section's name without brackets.
        :param section: The lazr.config section, or another mapping of keys
            to texts.
        :param names: The sections that keys are inherited from, without
            brackets, by the key.
        """
        self.name = name
        self._place = place
        self._section = section
        self._names = names or {}

    def text(self, key: str) -> str:
        """Return a value as it stands."""
        return self._section[key].strip()

    def mistake(self, key: str, problem: str) -> ConfigurationError:
        """Return the error that names a key of this section.

        :param key: The key.
        :param problem: What is wrong with it, and what would be right.
        """
        name = self._names.get(key, self.name)
        return ConfigurationError(self._place, f'[{name}] {key}', problem)

    def mistaken_section(self, problem: str) -> ConfigurationError:
        """Return the error that names this section.

        :param problem: What is wrong with it, and what would be right.
        """
        return ConfigurationError(self._place, f'[{self.name}]', problem)

    def value(self, key: str, convert: Callable[[str], Any],
              remedy: str) -> Any:
        """Return a value of any kind.

        :param key: The key.
        :param convert: Makes a value of its text, and raises ValueError,
            KeyError or OverflowError if it makes no sense.
        :param remedy: What would be right.
        :raises ConfigurationError: if `convert` raises one of these.
        """
        text = self.text(key)
        try:
            return convert(text)
        except (ValueError, KeyError, OverflowError):
            shown = hidden_in(key, text)
            raise self.mistake(key, f'{shown!r} is not {remedy}') from None

    def whole(self, key: str, least: int = 0,
              most: Optional[int] = None) -> int:
        """Return a whole number from `least` to `most`, or without an end."""
        def convert(text: str) -> int:
            number = int(text)
            if number < least or most is not None and number > most:
                raise ValueError(text)
            return number
        return self.value(
            key, convert, f'a whole number of {least} ' +
            ('or more' if most is None else f'to {most}'))

    def seconds(self, key: str, zero: bool = False) -> float:
        """Return a duration in seconds; 0 only where `zero` is True."""
        def convert(text: str) -> float:
            if text == '0':
                duration = 0.0
            else:
                duration = as_timedelta(text).total_seconds()
            if duration == 0 and not zero:
                raise ValueError(text)
            return duration
        return self.value(
            key, convert, 'a duration such as 90s, 10m or 1h30m' +
            (', or 0' if zero else ''))

    def boolean(self, key: str) -> bool:
        """Return True for yes, False for no."""
        return self.value(key, as_boolean, 'yes or no')

    def choice(self, key: str, *values: str) -> str:
        """Return one of several words."""
        choices = {value: value for value in values}
        return self.value(
            key, lambda text: choices[text.lower()],
            ', '.join(values[:-1]) + f' or {values[-1]}')

    def automatic(self, key: str) -> bool:
        """Return True for auto, False for no."""
        return self.choice(key, 'auto', 'no') == 'auto'


@public
def read_configuration(path: str) -> str:
    """Return the text of the plugin's own configuration file.

    :param path: As in [plugin.mta_pool] configuration: a file, a `python:`
        path, or '' for the defaults.
    :return: The text; '' for the defaults.
    :raises ConfigurationError: for a file that cannot be read or decoded.
    """
    return read_named_file(
        path, 'mailman.cfg', '[plugin.mta_pool] configuration')


@public
def read_named_file(path: str, place: str, key: str) -> str:
    """Return the text of a file that a configuration file names.

    :param path: A file, a `python:` path, or '' for none.
    :param place: The configuration file that names it, for error messages.
    :param key: The key that does so, with its section.
    :return: The text; '' for none.
    :raises ConfigurationError: for a file that cannot be read or decoded.
    """
    try:
        return load_external(path) if path else ''
    except (OSError, ValueError, ImportError) as error:
        # The text of an `OSError` would name the file once more.
        reason = getattr(error, 'strerror', None) or error
        raise ConfigurationError(place, key, f'{path}: {reason}') from error


@public
def read_octets(path: str, most: int) -> bytes:
    """Return what a file begins with.

    :param path: A regular file; a pipe could keep the reader waiting for
        ever.
    :param most: How many octets at most.
    :raises OSError: for a file that cannot be read, or is not regular.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, 'Not a regular file')
    with open(path, 'rb') as fp:
        return fp.read(most)


@public
def schema_text() -> str:
    """Return the text of schema.cfg: all keys, with their defaults."""
    return (files(__package__) / 'schema.cfg').read_text('utf-8')


@public
class OwnFile:
    """The plugin's own configuration file, checked against its schema."""

    def __init__(self, path: str, text: str) -> None:
        """Read the sections of a file.

        :param path: The file, for error messages, or '' for the defaults.
        :param text: What it says.
        :raises ConfigurationError: for text that is not a configuration file,
            an unknown section or key, or one that stands there twice.
        """
        defaults = schema_text()
        self.place = path or 'schema.cfg'
        self._schema = parsed(defaults, 'schema.cfg')
        self._own = parsed(text, self.place)
        _refuse_the_unknown(self.place, self._own, self._schema)
        schema = ConfigSchema('schema.cfg', StringIO(defaults))
        self._lazr = schema.loadFile(
            StringIO(_for_lazr(self._own)), self.place)
        self._lazr.validate()

    def section(self, name: str) -> Section:
        """Return a section that is there once, such as [pool].

        :param name: Its name without brackets.
        """
        return Section(self.place, name, self._lazr[name])

    @property
    def relays(self) -> List[Section]:
        """The sections of the relays, in the order of the file.

        There is [relay.mta] alone, even without such a section, where no
        other relay is given.
        """
        return [self._inheriting(name, RELAY_MASTER)
                for name in relay_names(self._own) or [RELAY_MTA]]

    @property
    def limits(self) -> List[Section]:
        """The sections [limit.NAME], in the order of the file."""
        return [self._inheriting(name, LIMIT_MASTER)
                for name in limit_names(self._own)]

    def _inheriting(self, name: str, master: str) -> Section:
        values = with_master(self._schema, self._own, name, master)
        return Section(
            self.place, name,
            {key: value for key, (value, _) in values.items()},
            {key: section for key, (_, section) in values.items() if section})


@public
def relay_names(own: RawConfigParser) -> List[str]:
    """Return the sections of the relays of a file but [relay.mta]."""
    return [name for name in own.sections() if name.startswith('relay.') and
            name not in (RELAY_MASTER, RELAY_MTA)]


@public
def limit_names(own: RawConfigParser) -> List[str]:
    """Return the sections of the limits of a file."""
    return [name for name in own.sections()
            if name.startswith('limit.') and name != LIMIT_MASTER]


@public
def with_master(schema: RawConfigParser, own: RawConfigParser, name: str,
                master: str) -> Dict[str, Any]:
    """Return what a section says together with what it inherits.

    A section that says what to log in with in one way does not inherit
    another way, and one that names a certificate inherits no key.

    :param schema: The schema, which has the defaults in its master section.
    :param own: The file.
    :param name: The section, which the file may not have.
    :param master: Its master section.
    :return: For each key its value and the section of the file that says so,
        '' for the default.
    """
    values = {key: (default, '') for key, default in schema.items(master)}
    for section in (master, name):
        if own.has_section(section):
            items = {key: (value, section)
                     for key, value in own.items(section)}
            values.update({key: ('', '') for key in _other_ways(items)
                           if key in values})
            values.update(items)
    return values


def _other_ways(keys: Collection[str]) -> Collection[str]:
    """Return what is not inherited by a section that sets some keys."""
    ways: Tuple[str, ...] = ()
    if set(PASSWORD_KEYS + TOKEN_KEYS) & set(keys):
        ways = PASSWORD_KEYS + TOKEN_KEYS
        if 'token_url' not in keys:
            ways += ENDPOINT_KEYS
    if set(CERTIFICATE_KEYS) & set(keys):
        ways += CERTIFICATE_KEYS
    return ways


@public
def hidden_in(key: str, value: str) -> str:
    """Return what may be shown of a value.

    :param key: Its key.
    :param value: The value as it stands in a file.
    """
    if key in SECRET_KEYS:
        return '(hidden)' if value else '(empty)'
    if key in ('storage', 'token_url'):
        value = _QUERY_OF_URL.sub('', _USER_OF_URL.sub('(hidden)@', value))
    return value


@public
def parsed(text: str, place: str) -> RawConfigParser:
    """Return the sections of a file.

    :param text: What the file says.
    :param place: The file, for error messages.
    :raises ConfigurationError: for text that is not a configuration file,
        and for a section or a key that stands there twice.
    """
    parser = RawConfigParser()
    try:
        parser.read_string(text, place)
    except DuplicateOptionError as error:
        raise ConfigurationError(
            place, f'[{error.section}] {error.option}',
            f'line {error.lineno} sets this key again; remove one of '
            'them') from None
    except DuplicateSectionError as error:
        raise ConfigurationError(
            place, f'[{error.section}]',
            f'line {error.lineno} begins this section again; put its keys '
            'into the first one, or give it another name') from None
    except ConfigParserError as error:
        raise ConfigurationError(
            place, f'line {line_number(error)}',
            'is neither a [section] nor a "key: value" of one') from None
    return parser


@public
def line_number(error: ConfigParserError) -> int:
    """Return the number of the first line that makes no sense.

    What stands in such a line may be a password, so that the text of the
    error, which has it, is shown to nobody.

    :param error: What configparser has raised.
    """
    number = getattr(error, 'lineno', None)
    if number is None:
        number = getattr(error, 'errors', [(1, '')])[0][0]
    return int(number)


@public
def sections_of(own: RawConfigParser) -> List[str]:
    """Return the sections that a file has, [DEFAULT] among them."""
    return (['DEFAULT'] if own.defaults() else []) + own.sections()


@public
def refuse_unknown_keys(place: str, own: RawConfigParser, section: str,
                        known: Iterable[str], schema: str) -> None:
    """Name the first key of a section that means nothing.

    :param place: The file, for error messages.
    :param own: What it says.
    :param section: The section.
    :param known: The keys that such a section can have.
    :param schema: The file of the package that explains them.
    :raises ConfigurationError: for a key that is not one of these.
    """
    for key, _ in own.items(section):
        if key not in known:
            # After a blank there may be a value whose colon is missing.
            raise ConfigurationError(
                place, f'[{section}] {key.split()[0] if key else key}',
                f'unknown key; the {schema} of the package lists them all')


def _refuse_the_unknown(place: str, own: RawConfigParser,
                        schema: RawConfigParser) -> None:
    """Name the first section or key that means nothing.

    lazr.config's validate() passes over what stands in a section that has a
    master, and over sections that end in .master, .optional or .template.
    For a value outside ASCII it raises an error that names no key.
    """
    seen: Dict[str, str] = {}
    for section in sections_of(own):
        category, dot, name = section.partition('.')
        known = section
        if schema.has_section(f'{category}.master') and dot:
            known = f'{category}.master'
            _check_name(place, section, name, seen)
        if not schema.has_section(known):
            raise ConfigurationError(
                place, f'[{section}]', 'unknown section; the schema.cfg of '
                'the package lists them all')
        refuse_unknown_keys(
            place, own, section, schema.options(known), 'schema.cfg')
        for key, value in own.items(section):
            if not value.isascii():
                raise ConfigurationError(
                    place, f'[{section}] {key}', f'{hidden_in(key, value)!r} '
                    'is not plain ASCII text' + (
                        '; password_file can name a file with any'
                        if key == 'password' else ''))
    _refuse_the_idle(place, own, schema)


def _check_name(place: str, section: str, name: str,
                seen: Dict[str, str]) -> None:
    """Check the name of a relay or a limit.

    :param place: The file, for error messages.
    :param section: Its section.
    :param name: The name.
    :param seen: The sections seen so far, by their names in lower case.
    """
    folded = section.lower()
    if _NAME.fullmatch(name.lower()) is None:
        raise ConfigurationError(
            place, f'[{section}]', 'the name after the dot has to be of '
            'letters, digits, - and _, 40 at most')
    if folded in (RELAY_MASTER, RELAY_MTA, LIMIT_MASTER) and folded != section:
        raise ConfigurationError(
            place, f'[{section}]', f'[{folded}] is written in small letters')
    if folded in seen:
        raise ConfigurationError(
            place, f'[{section}]', 'has the same name as '
            f'[{seen[folded]}], but for capitals; give one of them another')
    seen[folded] = section


def _refuse_the_idle(place: str, own: RawConfigParser,
                     schema: RawConfigParser) -> None:
    """Name the first key that no relay or limit would have a use for."""
    if relay_names(own):
        if own.has_section(RELAY_MTA):
            raise ConfigurationError(
                place, f'[{RELAY_MTA}]', 'is about the server of [mta] in '
                'mailman.cfg, which is not used beside '
                f'[{relay_names(own)[0]}]; remove the section, or give it '
                'another name and a host')
    else:
        for section in filter(own.has_section, (RELAY_MASTER, RELAY_MTA)):
            for key, value in own.items(section):
                if key in NOT_OF_MTA and value != schema.get(
                        RELAY_MASTER, key):
                    _refuse_for_mta(place, section, key)
    if own.has_section(LIMIT_MASTER) and not limit_names(own):
        for key, value in own.items(LIMIT_MASTER):
            if value:
                raise ConfigurationError(
                    place, f'[{LIMIT_MASTER}] {key}', 'there is no limit that '
                    'inherits it; put it into a section [limit.NAME]')


def _refuse_for_mta(place: str, section: str, key: str) -> None:
    same = NOT_OF_MTA[key]
    raise ConfigurationError(
        place, f'[{section}] {key}', (
            f'[mta] {same} in mailman.cfg says this of the only relay'
            if same else 'chooses among several relays, and the server of '
            '[mta] in mailman.cfg is the only one') +
        '; remove the key, or give relays in sections [relay.NAME]')


def _for_lazr(own: RawConfigParser) -> str:
    """Return the sections that have no master."""
    plain = RawConfigParser()
    for section in own.sections():
        if '.' not in section:
            plain.add_section(section)
            for key, value in own.items(section):
                plain.set(section, key, value)
    text = StringIO()
    plain.write(text)
    return text.getvalue()
