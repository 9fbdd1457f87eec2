# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading lazr.config files so that a mistake is named by its place."""

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
from typing import Any, Callable, Iterable, List, Optional


# The server named by [mta], and what is said of all servers.
RELAYS = frozenset(['relay.master', 'relay.mta'])


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

    def __init__(self, place: str, name: str, section: Any) -> None:
        """Wrap a section.

        :param place: The file, as the operator knows it.
        :param name: The section's name without brackets.
        :param section: The lazr.config section, or another mapping of keys
            to texts.
        """
        self._place = place
        self._name = name
        self._section = section

    def text(self, key: str) -> str:
        """Return a value as it stands."""
        return self._section[key].strip()

    def mistake(self, key: str, problem: str) -> ConfigurationError:
        """Return the error that names a key of this section.

        :param key: The key.
        :param problem: What is wrong with it, and what would be right.
        """
        return ConfigurationError(
            self._place, f'[{self._name}] {key}', problem)

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
            raise self.mistake(key, f'{text!r} is not {remedy}') from None

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
def schema_text() -> str:
    """Return the text of schema.cfg: all keys, with their defaults."""
    return (files(__package__) / 'schema.cfg').read_text('utf-8')


@public
def plugin_configuration(path: str, text: str) -> Any:
    """Check the plugin's own configuration against its schema.

    :param path: The file, for error messages, or '' for the defaults.
    :param text: What it says.
    :return: The validated lazr.config configuration.
    :raises ConfigurationError: for text that is not a configuration file, an
        unknown section or key, or one that stands there twice.
    """
    defaults = schema_text()
    place = path or 'schema.cfg'
    schema = ConfigSchema('schema.cfg', StringIO(defaults))
    own = parsed(text, place)
    _refuse_the_unknown(place, own, parsed(defaults, 'schema.cfg'))
    loaded = schema.loadFile(StringIO(_for_lazr(own)), place)
    loaded.validate()
    return loaded


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
            f'line {error.lineno} sets this key again') from None
    except DuplicateSectionError as error:
        raise ConfigurationError(
            place, f'[{error.section}]',
            f'line {error.lineno} begins this section again') from None
    except ConfigParserError as error:
        raise ConfigurationError(place, 'the file', str(error)) from None
    return parser


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
            raise ConfigurationError(
                place, f'[{section}] {key}',
                f'unknown key; the {schema} of the package lists them all')


def _refuse_the_unknown(place: str, own: RawConfigParser,
                        schema: RawConfigParser) -> None:
    """Name the first section or key that means nothing.

    lazr.config's validate() passes over what stands in a section that has a
    master, and over sections that end in .master, .optional or .template.
    For a value outside ASCII it raises an error that names no key.
    """
    for section in sections_of(own):
        if section.startswith('relay.') and section not in RELAYS:
            raise ConfigurationError(
                place, f'[{section}]', 'no such relay; [relay.mta] is the '
                'server named by [mta] smtp_host in mailman.cfg')
        known = 'relay.master' if section in RELAYS else section
        if not schema.has_section(known):
            raise ConfigurationError(
                place, f'[{section}]', 'unknown section; the schema.cfg of '
                'the package lists them all')
        refuse_unknown_keys(
            place, own, section, schema.options(known), 'schema.cfg')
        for key, value in own.items(section):
            if not value.isascii():
                raise ConfigurationError(
                    place, f'[{section}] {key}',
                    f'{value!r} is not plain ASCII text')


def _for_lazr(own: RawConfigParser) -> str:
    """Return the configuration with what is for all relays said for each."""
    merged = RawConfigParser()
    for section in sorted(own.sections()):
        # [relay.master] sorts before [relay.mta].
        target = 'relay.mta' if section in RELAYS else section
        if not merged.has_section(target):
            merged.add_section(target)
        for key, value in own.items(section):
            merged.set(target, key, value)
    text = StringIO()
    merged.write(text)
    return text.getvalue()
