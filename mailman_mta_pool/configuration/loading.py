# SPDX-License-Identifier: GPL-3.0-or-later
"""From configuration files to settings.

[mta] of mailman.cfg says which server and how many connections; the plugin's
own file, whose schema is `schema.cfg`, says the rest.
"""

import os

from dataclasses import replace
from lazr.config import as_boolean
from mailman.config import config
from mailman_mta_pool.configuration.answers import answers_in, shipped_answers
from mailman_mta_pool.configuration.files import (
    plugin_configuration,
    read_configuration,
    read_named_file,
    Section,
)
from mailman_mta_pool.settings import (
    DeliverySettings,
    MetricsSettings,
    PoolSettings,
    RelaySettings,
    Settings,
    Timeouts,
    WireSettings,
)
from public import public
from typing import Any, NamedTuple


PLUGIN_CLASS = 'mailman_mta_pool.plugin.MTAPoolPlugin'


@public
def load() -> Settings:
    """Read and check the whole configuration as it stands now.

    Whether there is a factory for `secure_mode` is for `relays.factories` to
    say.

    :return: The settings.
    :raises ConfigurationError: naming the file, the section and the key of
        the first value that is no good.
    """
    path = configuration_path()
    return with_mta(settings_of_plugin(path, read_configuration(path)))


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
class Sources(NamedTuple):
    """The files that settings are made of, and what they say.

    :ivar path: The plugin's own configuration file, or '' for the defaults.
    :ivar text: Its text.
    :ivar answers_path: The site's own answers, or '' for none.
    :ivar answers_text: The text of these.
    """

    path: str
    text: str
    answers_path: str
    answers_text: str


@public
def sources_of(path: str, text: str) -> Sources:
    """Read the files that the plugin's own configuration file names.

    :param path: The file, for error messages, or '' for the defaults.
    :param text: What it says.
    :raises ConfigurationError: for a mistake in the file by which what it
        names cannot be found, and for a file that cannot be read.
    """
    place = path or 'schema.cfg'
    delivery = Section(
        place, 'delivery', plugin_configuration(path, text).delivery)
    answers_path = delivery.text('answers')
    return Sources(path, text, answers_path, read_answers(path, answers_path))


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
def settings_of_plugin(path: str, text: str) -> Settings:
    """Return the settings that the plugin's own configuration file makes.

    :param path: The file, for error messages, or '' for the defaults.
    :param text: What it says.
    :return: As with `settings_of`.
    :raises ConfigurationError: as with `sources_of` and `settings_of`.
    """
    return settings_of(sources_of(path, text))


@public
def settings_of(sources: Sources) -> Settings:
    """Return the settings that the plugin's own files make.

    :param sources: The files.
    :return: The settings; what comes from [mta] is left at its default.
    :raises ConfigurationError: naming the file, the section and the key of
        the first value that is no good.
    """
    own = plugin_configuration(sources.path, sources.text)
    place = sources.path or 'schema.cfg'
    pool = Section(place, 'pool', own.pool)
    delivery = Section(place, 'delivery', own.delivery)
    return Settings(
        relay=RelaySettings(wire=_wire(own, place, delivery)),
        pool=PoolSettings(
            idle_timeout=pool.seconds('idle_timeout', zero=True),
            max_lifetime=pool.seconds('max_lifetime', zero=True),
            ),
        delivery=DeliverySettings(
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
            ),
        metrics=_metrics(Section(place, 'metrics', own.metrics)),
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


def _wire(own: Any, place: str, delivery: Section) -> WireSettings:
    named = {section.name: section
             for section in own.getByCategory('relay', [])}
    name = 'relay.mta' if 'relay.mta' in named else 'relay.master'
    relay = Section(place, name, named[name])
    return WireSettings(
        pipelining=relay.automatic('pipelining'),
        chunking=relay.automatic('chunking'),
        pipeline_depth=delivery.whole('pipeline_depth', least=1),
        timeouts=Timeouts(**{
            phase: relay.seconds(f'{phase}_timeout')
            for phase in Timeouts.__dataclass_fields__}),
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
        config.filename or 'mailman.cfg', 'mta', config.mta))


@public
def with_mta_section(settings: Settings, mta: Section) -> Settings:
    """Add what a section [mta] says.

    :param settings: Those of the plugin's own configuration file.
    :param mta: The section, with all its keys.
    :return: The settings, complete.
    :raises ConfigurationError: as with `with_mta`.
    """
    return replace(
        settings,
        relay=replace(
            settings.relay,
            host=mta.text('smtp_host'),
            # The resolver would take the remainder of a greater one.
            port=mta.whole('smtp_port', least=1, most=65535),
            secure_mode=mta.text('smtp_secure_mode').lower(),
            user=mta.text('smtp_user'),
            password=mta.text('smtp_pass'),
            verify_cert=mta.boolean('smtp_verify_cert'),
            verify_hostname=mta.boolean('smtp_verify_hostname'),
            max_sessions_per_connection=max(
                0, mta.whole('max_sessions_per_connection', least=-2**31)),
            ),
        pool=replace(
            settings.pool,
            max_connections=max(1, mta.whole('max_delivery_threads')),
            ),
        delivery=replace(
            settings.delivery,
            max_recipients=max(0, mta.whole('max_recipients', least=-2**31)),
            ),
        )
