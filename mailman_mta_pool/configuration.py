# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading lazr.config files so that a mistake is named by its place."""

import os

from configparser import Error as ConfigParserError
from functools import lru_cache
from importlib.resources import read_text
from io import StringIO
from lazr.config import as_boolean, as_timedelta, ConfigSchema
from lazr.config.interfaces import ConfigErrors
from mailman.config.config import load_external
from mailman.interfaces.configuration import InvalidConfigurationError
from public import public
from typing import Any, Callable, Optional, Tuple


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
        return f'{self.place}: {self.key}: {self.value}'


@public
class Section:
    """A section that names file, section and key when a value is bad."""

    def __init__(self, place: str, name: str, section: Any) -> None:
        """Wrap a section.

        :param place: The file, as the operator knows it.
        :param name: The section's name without brackets.
        :param section: The lazr.config section.
        """
        self._place = place
        self._name = name
        self._section = section

    def text(self, key: str) -> str:
        """The value as it stands."""
        return self._section[key].strip()

    def _read(self, key: str, convert: Callable[[str], Any],
              remedy: str) -> Any:
        text = self.text(key)
        try:
            return convert(text)
        except (ValueError, KeyError):
            raise ConfigurationError(
                self._place, f'[{self._name}] {key}',
                f'{text!r} is not {remedy}') from None

    def whole(self, key: str, least: int = 0) -> int:
        """A whole number, of `least` or more."""
        def convert(text: str) -> int:
            number = int(text)
            if number < least:
                raise ValueError(text)
            return number
        return self._read(key, convert, f'a whole number of {least} or more')

    def seconds(self, key: str, zero: bool = False) -> float:
        """A duration in seconds; 0 only where `zero` is True."""
        def convert(text: str) -> float:
            if text == '0':
                duration = 0.0
            else:
                duration = as_timedelta(text).total_seconds()
            if duration == 0 and not zero:
                raise ValueError(text)
            return duration
        return self._read(
            key, convert, 'a duration such as 90s, 10m or 1h30m' +
            (', or 0' if zero else ''))

    def boolean(self, key: str) -> bool:
        """Yes or no."""
        return self._read(key, as_boolean, 'yes or no')

    def automatic(self, key: str) -> bool:
        """True for auto, False for no."""
        choices = dict(auto=True, no=False)
        return self._read(
            key, lambda text: choices[text.lower()], 'auto or no')


@public
def plugin_configuration(path: str) -> Any:
    """Read the plugin's own configuration file over its schema.

    :param path: As in [plugin.mta_pool] configuration: a file, a `python:`
        path, or '' for the defaults.
    :return: The validated lazr.config configuration.
    :raises ConfigurationError: for a file that cannot be read, an unknown
        section or an unknown key.
    """
    changed = None
    if path and os.path.exists(path):
        changed = os.stat(path).st_mtime_ns
    return _load(path, changed)


@lru_cache(maxsize=8)
def _load(path: str, changed: Optional[int]) -> Any:
    schema = ConfigSchema(
        'schema.cfg', StringIO(read_text('mailman_mta_pool', 'schema.cfg')))
    try:
        text = load_external(path) if path else ''
    except (OSError, UnicodeError, ImportError) as error:
        raise ConfigurationError(
            'mailman.cfg', '[plugin.mta_pool] configuration',
            f'{path}: {error}') from error
    try:
        loaded = schema.loadFile(StringIO(text), path or 'schema.cfg')
        loaded.validate()
    except ConfigErrors as error:
        raise ConfigurationError(
            path, *_what_is_unknown(error.errors[0])) from None
    except ConfigParserError as error:
        raise ConfigurationError(
            path, 'the file', ' '.join(str(error).split())) from None
    for section in loaded.getByCategory('relay', []):
        if section.name not in ('relay.master', 'relay.mta'):
            raise ConfigurationError(
                path, f'[{section.name}]', 'no such relay; [relay.mta] is '
                'the server named by [mta] smtp_host in mailman.cfg')
    return loaded


def _what_is_unknown(error: Exception) -> Tuple[str, str]:
    # lazr.config says "SECTION does not have a KEY key." and "FILE does not
    # have a SECTION section."
    where, _, what = str(error).partition(' does not have a ')
    name, _, kind = what.rstrip('.').rpartition(' ')
    if kind == 'key':
        return (f'[{where}] {name}',
                'unknown key; the schema.cfg of the package lists them all')
    if kind == 'section':
        return (f'[{name}]',
                'unknown section; the schema.cfg of the package lists them '
                'all')
    return 'the file', str(error)
