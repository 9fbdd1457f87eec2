# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration as frozen, validated values.

[mta] of mailman.cfg says which server and how many connections; the plugin's
own file, whose schema is `schema.cfg`, says the rest.  Whoever needs a setting
is given one of these values; nobody reads the configuration deep inside.
"""

from dataclasses import dataclass, field, replace
from lazr.config import as_boolean
from mailman.config import config
from mailman_mta_pool.configuration import (
    plugin_configuration,
    read_configuration,
    Section,
)
from public import public
from typing import Any


PLUGIN_CLASS = 'mailman_mta_pool.plugin.MTAPoolPlugin'


@public
@dataclass(frozen=True)
class Timeouts:
    """How long to wait for the server, in seconds; RFC 5321, 4.5.3.2."""

    connect: float = 30.0
    greeting: float = 300.0
    hello: float = 300.0
    mail: float = 300.0
    rcpt: float = 300.0
    data: float = 120.0
    block: float = 180.0
    end: float = 600.0
    quit: float = 5.0


@public
@dataclass(frozen=True)
class WireSettings:
    """How the dialogue is held.

    :ivar pipelining: Use PIPELINING where it is offered.
    :ivar chunking: Use CHUNKING where it is offered, with PIPELINING.
    :ivar pipeline_depth: Transactions in flight with CHUNKING, at most.
    """

    pipelining: bool = True
    chunking: bool = True
    pipeline_depth: int = 32
    timeouts: Timeouts = Timeouts()


@public
@dataclass(frozen=True)
class RelaySettings:
    """One mail server.  Its repr shows neither user nor password."""

    host: str = 'localhost'
    port: int = 25
    secure_mode: str = 'smtp'
    user: str = field(default='', repr=False)
    password: str = field(default='', repr=False)
    verify_cert: bool = True
    verify_hostname: bool = True
    max_sessions_per_connection: int = 0
    wire: WireSettings = WireSettings()


@public
@dataclass(frozen=True)
class PoolSettings:
    """How many connections there are, and how long they live, in seconds."""

    max_connections: int = 1
    idle_timeout: float = 10.0
    max_lifetime: float = 600.0


@public
@dataclass(frozen=True)
class DeliverySettings:
    """How a post is delivered; durations are in seconds, and 0 is never.

    :ivar max_recipients: Recipients in a transaction, unless the server makes
        the senders; 0 is no limit.
    :ivar coalesce: May individual deliveries whose sender and content turn
        out to be equal share a transaction?
    :ivar attempts: How often a transaction may be the first on a connection
        that is lost before the server has accepted anything, or answered to
        some of its recipients.
    :ivar patience: How long to try again while the server is unavailable.
    :ivar message_rejected: What becomes of the recipients of a message that
        the server rejects: 'shunt' or 'bounce'.
    :ivar journal: What the journal survives: 'process', 'power', or 'no'.
    :ivar stop_timeout: How long what is in flight may take to finish after a
        signal.
    :ivar time_slice: After how long other posts have their turn.
    :ivar split: How many recipients one queue entry may have; 0 is no limit.
    :ivar server_verp: May the server make the VERP'd senders, if it can?
    :ivar max_recipients_server_verp: Recipients in a transaction, then.
    :ivar dsn: Ask for delivery status notifications (RFC 3461)?
    """

    max_recipients: int = 10
    coalesce: bool = False
    attempts: int = 3
    patience: float = 30.0
    message_rejected: str = 'shunt'
    journal: str = 'process'
    stop_timeout: float = 30.0
    time_slice: float = 60.0
    split: int = 0
    server_verp: bool = True
    max_recipients_server_verp: int = 1000
    dsn: bool = False


@public
@dataclass(frozen=True)
class Settings:
    """Everything."""

    relay: RelaySettings = RelaySettings()
    pool: PoolSettings = PoolSettings()
    delivery: DeliverySettings = DeliverySettings()


@public
def load() -> Settings:
    """Read and check the whole configuration as it stands now.

    Whether there is a factory for `secure_mode` is for `components` to say.

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
