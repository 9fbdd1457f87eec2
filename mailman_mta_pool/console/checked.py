# SPDX-License-Identifier: GPL-3.0-or-later
"""A configuration file that is not in force yet: what is wrong with it."""

from configparser import Error as ConfigParserError, RawConfigParser
from contextlib import contextmanager
from importlib.util import find_spec
from lazr.config import as_timedelta
from mailman.config import config
from mailman.utilities.modules import find_name
from mailman_mta_pool.checking.questions import posting_addresses
from mailman_mta_pool.configuration.files import (
    ConfigurationError,
    line_number,
    read_configuration,
    Section,
)
from mailman_mta_pool.configuration.loading import (
    exposures,
    is_ours,
    program_warnings,
    settings_of,
    sources_of,
    with_mta_section,
)
from mailman_mta_pool.configuration.secrets import Exposure
from mailman_mta_pool.relays.factories import factory_for
from mailman_mta_pool.relays.limiting import check_limits
from mailman_mta_pool.relays.routing import routing_warnings
from mailman_mta_pool.settings import Settings
from public import public
from textwrap import dedent
from typing import (
    Any,
    Dict,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
)


OUR_PACKAGE = 'mailman_mta_pool'
PLUGIN_MASTER = 'plugin.master'


@public
class Checked(NamedTuple):
    """A configuration file without a mistake.

    :ivar own: What the plugin's own file says; None for Mailman's.
    :ivar warnings: What is worth a warning, one line each.
    """

    own: Optional[RawConfigParser]
    warnings: Sequence[str] = ()


@public
def check_file(path: str) -> Checked:
    """Check a configuration file as if it were in force; nothing is changed.

    It is the plugin's own file, or a mailman.cfg or a part of one, which has
    sections of Mailman's.

    Programs that print passwords are run.

    :param path: The file.
    :raises ConfigurationError: naming the file, the section and the key of
        the first mistake.
    """
    text = _text_of(path)
    own = _sections_of(path, text)
    if any(_is_mailmans(name) for name in own.sections()):
        return Checked(None, _check_mailman_cfg(path, own))
    warnings = _check_own(path, text)
    if text and not text.endswith('\n'):
        raise ConfigurationError(
            path, 'the last line', 'has no newline at its end, so the file '
            'may be half written')
    return Checked(own, warnings)


@public
def warnings_about(path: str, settings: Settings,
                   exposed: Iterable[Exposure]) -> List[str]:
    """Return what is worth a warning of the plugin's own file.

    :param path: The file.
    :param settings: What it makes.
    :param exposed: The files with a password that others may read.
    """
    return [
        *map(str, exposed), *program_warnings(settings, path), *(
            f'{path}: [relay.NAME] for: {warning}'
            for warning in routing_warnings(settings, posting_addresses()))]


def _check_own(path: str, text: str) -> List[str]:
    """Check the plugin's own file; `python:` paths are files, too.

    :return: Warnings.
    """
    sources = sources_of(path, text)
    settings = settings_of(sources)
    for relay in settings.relays:
        section = f'relay.{relay.name}'
        with _named(path, section, ['secure_mode']):
            factory_for(relay)
    with _named(path, 'limits', ['storage']):
        check_limits(settings)
    return warnings_about(path, settings, exposures(sources))


def _text_of(path: str) -> str:
    try:
        with open(path, encoding='utf-8') as fp:
            return fp.read()
    except UnicodeDecodeError:
        raise ConfigurationError(
            path, 'the file', 'is not text in UTF-8') from None
    except OSError as error:
        raise ConfigurationError(
            path, 'the file',
            f'cannot be read: {error.strerror or error}') from None


def _sections_of(path: str, text: str) -> RawConfigParser:
    """Return what a file says, read as Mailman reads it.

    What stands in a line that makes no sense may be a password, so the line
    is told by its number.
    """
    parser = RawConfigParser(strict=False)
    try:
        parser.read_string(dedent(text), path)
    except ConfigParserError as error:
        raise ConfigurationError(
            path, f'line {line_number(error)}',
            'is neither a [section] nor a "key: value" of one') from None
    return parser


def _is_mailmans(section: str) -> bool:
    return (section == 'meta' or section in config.schema or
            section.partition('.')[0] in config.schema.category_names)


def _check_mailman_cfg(path: str, own: RawConfigParser) -> List[str]:
    warnings: List[str] = []
    for section in own.sections():
        if not _is_mailmans(section):
            raise ConfigurationError(
                path, f'[{section}]', 'no section of mailman.cfg, and Mailman '
                'passes over it')
        if section.count('.') > 1:
            raise ConfigurationError(
                path, f'[{section}]', 'Mailman does not start with a name '
                'that has two dots')
        if section.startswith('plugin.') and section != PLUGIN_MASTER:
            warnings += _check_plugin(path, section, own)
    if own.has_section('mta'):
        _check_mta(path, own)
    return warnings


def _values(path: str, own: RawConfigParser, section: str,
            defaults: Any) -> Dict[str, str]:
    """Return all keys of a section.

    :param defaults: What holds for those that the file does not set.
    :raises ConfigurationError: for a key that Mailman does not know.
    """
    values = {key: defaults[key] for key in defaults}
    for key, value in own.items(section):
        if key not in values:
            raise ConfigurationError(
                path, f'[{section}] {key}',
                'unknown key, and Mailman passes over it')
        values[key] = value
    return values


def _check_mta(path: str, own: RawConfigParser) -> None:
    # A mistake elsewhere is not one of this file.
    section = Section(
        path, 'mta', _values(path, own, 'mta', config.schema['mta']))
    with _named(path, 'mta', ['smtp_secure_mode']):
        factory_for(with_mta_section(Settings(), section).relay)
    section.value('delivery_retry_period', as_timedelta,
                  'a duration such as 90s, 10m or 5d')
    section.value('outgoing', _callable, 'a function that can be imported')
    section.boolean('verp_personalized_deliveries')
    section.whole('verp_delivery_interval')


def _callable(name: str) -> Any:
    """Return the object of that name.

    :raises ValueError: if it cannot be imported or called.
    """
    try:
        found = find_name(name)
    except (ImportError, AttributeError, ValueError):
        found = None
    if not callable(found):
        raise ValueError(name)
    return found


def _check_plugin(path: str, name: str,
                  own: RawConfigParser) -> List[str]:
    schema = config.schema
    in_force = dict(config.plugin_configs).get(
        name.partition('.')[2], schema[PLUGIN_MASTER])
    values = _values(path, own, name, in_force)
    section = Section(path, name, values)
    if not values['class'].strip().startswith(f'{OUR_PACKAGE}.'):
        return []
    section.value('class', _callable, 'the class of a plugin')
    if not is_ours(values) or not section.boolean('enabled'):
        return []
    section.value(
        'component_package',
        lambda text: _package(text or name.partition('.')[2]),
        f'a package; {OUR_PACKAGE} is the one of this plugin')
    configuration = section.text('configuration')
    with _named(path, name, ['configuration']):
        text = read_configuration(configuration)
    return _check_own(configuration, text)


def _package(name: str) -> Any:
    """Return what is known of a package.

    :raises ValueError: if there is none of that name.
    """
    try:
        spec = find_spec(name)
    except ImportError:
        spec = None
    if spec is None or spec.submodule_search_locations is None:
        raise ValueError(name)
    return spec


@contextmanager
def _named(path: str, section: str, keys: Iterable[str]) -> Iterator[None]:
    """Have errors that are about a key of mailman.cfg name the file.

    :param path: The file.
    :param section: The section of the key.
    :param keys: The keys.
    """
    try:
        yield
    except ConfigurationError as error:
        for key in keys:
            if error.key.endswith(f'] {key}'):
                raise ConfigurationError(
                    path, f'[{section}] {key}', error.value) from None
        raise
