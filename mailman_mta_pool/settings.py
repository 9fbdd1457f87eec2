# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings as frozen values.

Whoever needs a setting is given one of these values; nobody reads the
configuration deep inside.  `configuration.loading` makes them.
"""

from dataclasses import dataclass, field
from public import public


@public
@dataclass(frozen=True)
class Timeouts:
    """The seconds to wait for the server in each phase; RFC 5321, 4.5.3.2."""

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
    """The settings of the SMTP dialogue with a server.

    :ivar pipelining: Use PIPELINING where it is offered.
    :ivar chunking: Use CHUNKING where it is offered, with PIPELINING.
    :ivar pipeline_depth: The ceiling of the window: transactions in flight
        on one connection with CHUNKING, at most.
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
    """The number of connections, and their lifetimes in seconds."""

    max_connections: int = 1
    idle_timeout: float = 10.0
    max_lifetime: float = 600.0


@public
@dataclass(frozen=True)
class DeliverySettings:
    """The settings of a delivery; durations are in seconds, and 0 is never.

    :ivar max_recipients: Recipients in a transaction, unless the server makes
        the senders; 0 is no limit.
    :ivar coalesce: True if individual deliveries whose sender and content
        turn out to be equal share a transaction.
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
    :ivar server_verp: True if the server makes the VERP'd senders where it
        can.
    :ivar max_recipients_server_verp: Recipients in a transaction, then.
    :ivar dsn: True to ask for delivery status notifications (RFC 3461).
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
    """All settings of a delivery."""

    relay: RelaySettings = RelaySettings()
    pool: PoolSettings = PoolSettings()
    delivery: DeliverySettings = DeliverySettings()
