# SPDX-License-Identifier: GPL-3.0-or-later
"""From configuration files to settings.

[mta] of mailman.cfg says which server and how many connections, unless the
plugin's own file names other servers; that file, whose schema is
`schema.cfg`, says the rest.
"""

import os

from dataclasses import dataclass, field, replace
from lazr.config import as_boolean
from mailman.config import config
from mailman_mta_pool.configuration.answers import answers_in, shipped_answers
from mailman_mta_pool.configuration.files import (
    ConfigurationError,
    hidden_in,
    OwnFile,
    parsed,
    read_configuration,
    read_named_file,
    RELAY_MTA,
    relay_names,
    Section,
)
from mailman_mta_pool.configuration.relays import (
    limit_settings,
    limit_storage,
    relay_settings,
)
from mailman_mta_pool.configuration.secrets import (
    Exposure,
    exposure,
    password_key_of,
    read_secret,
    run_for_password,
)
from mailman_mta_pool.programs import arguments_in, can_run
from mailman_mta_pool.secret import Secret
from mailman_mta_pool.settings import (
    DeliverySettings,
    EXPLICIT_MECHANISMS,
    MetricsSettings,
    MTA,
    PoolSettings,
    RelaySettings,
    Settings,
)
from public import public
from typing import Any, Callable, Collection, List, Mapping, Optional, Tuple


# What a path begins with that is a module's, as in `load_external`.
PYTHON = 'python:'
# Nobody has more Mailman hosts.
MAX_HOSTS = 1000
# The keys of a relay that name a file with a secret, which is read for each
# post.
SECRET_FILES = ('password_file', 'client_secret_file')
# The key of a program that prints a password.
PROGRAM = 'password_command'
public(PROGRAM=PROGRAM)
# What a file has that a key names, for a warning.
_HELD = {
    'password_file': 'a password',
    'client_secret_file': 'a client secret',
    'refresh_token_file': 'a refresh token',
    }
PLUGIN_CLASS = 'mailman_mta_pool.plugin.MTAPoolPlugin'


# Returns the password that the program of a relay's section prints.
Run = Callable[[Section], Secret]
# A secret by the name of a section and the key that says where it is.
_Secrets = Mapping[Tuple[str, str], Secret]


@public
def load(run: Run = run_for_password) -> Settings:
    """Read and check the whole configuration as it stands now.

    Whether there is a factory for `secure_mode` is for `relays.factories` to
    say.

    :param run: Returns the password that the program of a section prints.
    :return: The settings.
    :raises ConfigurationError: naming the file, the section and the key of
        the first value that is no good.
    """
    path = configuration_path()
    return with_mta(settings_of_plugin(path, read_configuration(path), run))


@public
def exposures_in_force() -> List[Exposure]:
    """Return a warning for each file with a secret that others may read.

    :raises ConfigurationError: as with `load`.
    """
    path = configuration_path()
    return exposures(sources_of(path, read_configuration(path), no_password))


@public
def gives_relays() -> bool:
    """Return True if the plugin's own file gives relays, good or not.

    False for one that cannot be read.
    """
    path = configuration_path()
    try:
        return bool(relay_names(parsed(read_configuration(path), path)))
    except ConfigurationError:
        return False


@public
def is_ours(plugin: Any) -> bool:
    """Return True for a section [plugin.NAME] of this plugin.

    :param plugin: The section, or another mapping of keys to texts.
    """
    return plugin['class'].strip() == PLUGIN_CLASS


@public
def configuration_path() -> str:
    """Return the path of the plugin's own configuration file.

    :return: [plugin.mta_pool] configuration; '' where there is none, or
        where the plugin is not enabled.
    """
    for _, section in config.plugin_configs:
        if is_ours(section) and as_boolean(section['enabled']):
            return section['configuration'].strip()
    return ''


@public
def mailman_path() -> str:
    """Return the path of Mailman's own configuration file."""
    return config.filename or 'mailman.cfg'


@public
@dataclass(frozen=True)
class Sources:
    """The files that settings are made of, and what they say.

    Its repr shows no text, as passwords are in it.

    :ivar path: The plugin's own configuration file, or '' for the defaults.
    :ivar text: Its text.
    :ivar answers_path: The site's own answers, or '' for none.
    :ivar answers_text: The text of these.
    :ivar printed: The passwords that programs have printed, by the section
        of the relay and the key.
    :ivar read: The secrets that were read from files, likewise.
    :ivar readers: The sections of the relays that name files with secrets,
        each with the key.
    """

    path: str = ''
    text: str = field(default='', repr=False)
    answers_path: str = ''
    answers_text: str = field(default='', repr=False)
    printed: _Secrets = field(default_factory=dict, repr=False)
    read: _Secrets = field(default_factory=dict, repr=False)
    readers: Tuple[Tuple[Section, str], ...] = field(
        default=(), compare=False, repr=False)


@public
def sources_of(path: str, text: str,
               run: Run = run_for_password) -> Sources:
    """Read the files that the plugin's own configuration file names.

    :param path: The file, for error messages, or '' for the defaults.
    :param text: What it says.
    :param run: Returns the password that the program of a section prints.
    :raises ConfigurationError: for a mistake in the file by which what it
        names cannot be found, and for a file that cannot be read.
    :raises SecretUnavailable: for a program that prints no password.
    """
    own = OwnFile(path, text)
    sections = own.relays
    sources = read_again(Sources(
        path, text, own.section('delivery').text('answers'),
        readers=tuple(
            (section, key) for section in sections for key in SECRET_FILES
            if section.text(key) and (
                # With two passwords the mistake is that, whatever the file
                # has.
                key != 'password_file' or password_key_of(section) == key))))
    # A program may take long, so the relays are looked at before.
    _relays(own, sources)
    return replace(sources, printed={
        (section.name, PROGRAM): run(section) for section in sections
        if section.name != RELAY_MTA and section.text(PROGRAM)})


@public
def read_again(sources: Sources) -> Sources:
    """Read the files that the plugin's own configuration file names again.

    Programs that print passwords are not run again.

    :param sources: What was read before.
    :raises ConfigurationError: for a file that cannot be read.
    """
    return replace(
        sources,
        answers_text=read_answers(sources.path, sources.answers_path),
        read={(section.name, key): read_secret(section, key)
              for section, key in sources.readers})


@public
def run_again(sources: Sources, names: Collection[str],
              run: Callable[[Section], Optional[Secret]]) -> Sources:
    """Run programs that print passwords again.

    :param sources: What was read before.
    :param names: The relays whose passwords are wanted.
    :param run: Returns the password that the program of a section prints;
        None if that is not to be asked for now.
    :raises SecretUnavailable: for a program that prints no password.
    """
    wanted = {(f'relay.{name}', PROGRAM) for name in names}
    if not wanted.intersection(sources.printed):
        return sources
    found = {(section.name, PROGRAM): run(section)
             for section in OwnFile(sources.path, sources.text).relays
             if (section.name, PROGRAM) in wanted.intersection(
                 sources.printed)}
    return replace(sources, printed={
        **sources.printed, **{place: secret for place, secret in found.items()
                              if secret is not None}})


@public
def read_answers(path: str, answers_path: str) -> str:
    """Return the text of a site's own answers.

    :param path: The plugin's own configuration file, which names them.
    :param answers_path: As in [delivery] answers: a file, a `python:` path,
        or '' for none.
    :raises ConfigurationError: for a file that cannot be read or decoded.
    """
    return read_named_file(answers_path, path, '[delivery] answers')


@public
def exposures(sources: Sources) -> List[Exposure]:
    """Return a warning for each file with a secret that others may read.

    :param sources: The files.
    """
    own = OwnFile(sources.path, sources.text)
    held = {section.text(key): what for key, what in _HELD.items()
            for section in own.relays if section.text(key)}
    storage = own.section('limits').text('storage')
    if not sources.path.startswith(PYTHON) and (
            hidden_in('storage', storage) != storage or
            any(section.text('password') for section in own.relays)):
        held = {sources.path: 'a password', **held}
    for section in own.relays:
        key = section.text('tls_key') or section.text('tls_cert')
        if key:
            held.setdefault(key, 'a private key')
    return [found for found in map(exposure, held, held.values())
            if found is not None]


@public
def program_warnings(settings: Settings, path: str) -> List[str]:
    """Return a line for each program of `token_command` that is not there.

    No program is run: a token is fetched when a login needs one.

    :param settings: The settings.
    :param path: The plugin's own configuration file.
    """
    return [
        f'{path}: [relay.{relay.name}] token_command: the program is not '
        'there, or the user of Mailman may not run it; correct the key, or '
        'install the program'
        for relay in settings.relays
        if relay.auth.token is not None and relay.auth.token.command and
        not can_run(arguments_in(relay.auth.token.command.reveal()))]


@public
def settings_of_plugin(path: str, text: str,
                       run: Run = run_for_password) -> Settings:
    """Return the settings that the plugin's own configuration file makes.

    :param path: The file, for error messages, or '' for the defaults.
    :param text: What it says.
    :param run: Returns the password that the program of a section prints.
    :return: As with `settings_of`.
    :raises ConfigurationError: as with `sources_of` and `settings_of`.
    """
    return settings_of(sources_of(path, text, run))


@public
def no_password(section: Section) -> Secret:
    """Return none, where no program is to be run for a password; a `Run`.

    :param section: The section of a relay.
    """
    return Secret()


@public
def settings_of(sources: Sources) -> Settings:
    """Return the settings that the plugin's own files make.

    :param sources: The files.
    :return: The settings; what comes from [mta] is left at its default.
    :raises ConfigurationError: naming the file, the section and the key of
        the first value that is no good.
    """
    own = OwnFile(sources.path, sources.text)
    limits = own.section('limits')
    return Settings(
        relays=_relays(own, sources),
        pool=_pool(own.section('pool')),
        delivery=_delivery(own.section('delivery'), sources),
        metrics=_metrics(own.section('metrics')),
        limits=tuple(map(limit_settings, own.limits)),
        limit_storage=limit_storage(limits),
        hosts=limits.whole('hosts', least=1, most=MAX_HOSTS),
        )


def _relays(own: OwnFile, sources: Sources) -> Tuple[RelaySettings, ...]:
    secrets = {**sources.printed, **sources.read}
    depth = own.section('delivery').whole('pipeline_depth', least=1)
    return tuple(relay_settings(section, depth, secrets)
                 for section in own.relays)


def _pool(pool: Section) -> PoolSettings:
    return PoolSettings(
        idle_timeout=pool.seconds('idle_timeout', zero=True),
        max_lifetime=pool.seconds('max_lifetime', zero=True),
        )


def _delivery(delivery: Section, sources: Sources) -> DeliverySettings:
    return DeliverySettings(
        coalesce=delivery.boolean('coalesce'),
        attempts=delivery.whole('attempts', least=1),
        patience=delivery.seconds('patience', zero=True),
        message_rejected=delivery.choice(
            'message_rejected', 'shunt', 'bounce'),
        journal=delivery.choice('journal', 'process', 'power', 'no'),
        keep_records=delivery.seconds('keep_records', zero=True),
        records_size=delivery.whole('records_size'),
        stop_timeout=delivery.seconds('stop_timeout'),
        time_slice=delivery.seconds('time_slice', zero=True),
        split=delivery.whole('split'),
        server_verp=delivery.automatic('server_verp'),
        max_recipients_server_verp=delivery.whole(
            'max_recipients_server_verp', least=1),
        dsn=delivery.boolean('dsn'),
        answers=answers_in(sources.answers_text, sources.answers_path) +
        shipped_answers(),
        )


def _metrics(metrics: Section) -> MetricsSettings:
    def absolute(text: str) -> str:
        if text and not os.path.isabs(text):
            raise ValueError(text)
        return text
    return MetricsSettings(
        textfile=metrics.value(
            'textfile', absolute, 'the absolute path of a file'),
        lists=metrics.whole('lists'),
        )


@public
def with_mta(settings: Settings) -> Settings:
    """Add what [mta] of mailman.cfg says.

    :param settings: Those of the plugin's own configuration file.
    :return: The settings, complete.
    :raises ConfigurationError: naming the file, the section and the key of
        the first value that is no good.
    """
    return with_mta_section(settings, Section(
        mailman_path(), 'mta', config.mta))


@public
def with_mta_section(settings: Settings, mta: Section) -> Settings:
    """Add what a section [mta] says.

    :param settings: Those of the plugin's own configuration file.
    :param mta: The section, with all its keys.
    :return: The settings, complete.
    :raises ConfigurationError: as with `with_mta`.
    """
    _check_login(settings, mta)
    relays = tuple(
        replace(
            relay,
            host=mta.text('smtp_host'),
            # The resolver would take the remainder of a greater one.
            port=mta.whole('smtp_port', least=1, most=65535),
            secure_mode=mta.text('smtp_secure_mode').lower(),
            user=mta.text('smtp_user'),
            password=Secret(mta.text('smtp_pass')),
            verify_cert=mta.boolean('smtp_verify_cert'),
            verify_hostname=mta.boolean('smtp_verify_hostname'),
            max_sessions_per_connection=max(
                0, mta.whole('max_sessions_per_connection', least=-2**31)),
            ) if relay.name == MTA else relay for relay in settings.relays)
    return replace(
        settings,
        relays=relays,
        pool=replace(
            settings.pool,
            max_connections=max(1, mta.whole('max_delivery_threads')),
            ),
        delivery=replace(
            settings.delivery,
            max_recipients=max(0, mta.whole('max_recipients', least=-2**31)),
            ),
        )


def _check_login(settings: Settings, mta: Section) -> None:
    """Check that [mta] has what the plugin's own file needs to log in.

    :raises ConfigurationError: if it has not.
    """
    for relay in settings.relays:
        auth = relay.auth
        if relay.name != MTA or mta.text('smtp_user'):
            continue
        if auth.token is not None:
            raise mta.mistake(
                'smtp_user', 'is empty, and the tokens of [relay.mta] in the '
                "plugin's own file need a user; set it")
        if set(auth.mechanisms) - set(EXPLICIT_MECHANISMS):
            raise mta.mistake(
                'smtp_user', 'is empty, and [relay.mta] auth in the '
                "plugin's own file names what needs a user; set it, or remove "
                'that key')
