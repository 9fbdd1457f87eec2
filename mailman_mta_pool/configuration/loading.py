# SPDX-License-Identifier: GPL-3.0-or-later
"""From configuration files to settings.

[mta] of mailman.cfg says which server and how many connections; the plugin's
own file, whose schema is `schema.cfg`, says the rest.
"""

from dataclasses import replace
from lazr.config import as_boolean
from mailman.config import config
from mailman_mta_pool.configuration.files import (
    plugin_configuration,
    read_configuration,
    Section,
)
from mailman_mta_pool.settings import (
    DeliverySettings,
    PoolSettings,
    RelaySettings,
    Settings,
    Timeouts,
    WireSettings,
)
from public import public
from typing import Any


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
def configuration_path() -> str:
    """Return the path of the plugin's own configuration file.

    :return: [plugin.mta_pool] configuration; '' where there is none, or
        where the plugin is not enabled.
    """
    for _, section in config.plugin_configs:
        if (section['class'].strip() == PLUGIN_CLASS and
                as_boolean(section['enabled'])):
            return section['configuration'].strip()
    return ''


@public
def settings_of_plugin(path: str, text: str) -> Settings:
    """Return the settings that the plugin's own configuration file makes.

    :param path: The file, for error messages, or '' for the defaults.
    :param text: What it says.
    :return: The settings; what comes from [mta] is left at its default.
    :raises ConfigurationError: naming the file, the section and the key of
        the first value that is no good.
    """
    own = plugin_configuration(path, text)
    place = path or 'schema.cfg'
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
            stop_timeout=delivery.seconds('stop_timeout'),
            time_slice=delivery.seconds('time_slice', zero=True),
            split=delivery.whole('split'),
            server_verp=delivery.automatic('server_verp'),
            max_recipients_server_verp=delivery.whole(
                'max_recipients_server_verp', least=1),
            dsn=delivery.boolean('dsn'),
            ),
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
    mta = Section(config.filename or 'mailman.cfg', 'mta', config.mta)
    return Settings(
        relay=replace(
            settings.relay,
            host=mta.text('smtp_host'),
            port=mta.whole('smtp_port'),
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
