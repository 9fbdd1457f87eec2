# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings as frozen values.

Whoever needs a setting is given one of these values; nobody reads the
configuration deep inside.  `configuration.loading` makes them.
"""

import sys
import enum

from dataclasses import dataclass, field, replace
from mailman_mta_pool.secret import Secret
from public import public
from typing import FrozenSet, Optional, Tuple


@public
class About(enum.Enum):
    """Whom or what an answer of a server is about: its scope."""

    #: The recipient that the answer names.
    recipient = 'recipient'
    #: The sender of the envelope, or its domain.
    sender = 'sender'
    #: The message: its size or its content.
    message = 'message'
    #: This site: its address, its name, its login, its right to relay.
    us = 'us'
    #: How quickly messages come.
    rate = 'rate'
    #: How many messages have come in an hour or a day.
    quota = 'quota'
    #: How many connections there are at the same time.
    connections = 'connections'
    #: How many recipients one transaction has.
    recipients = 'recipients'


@public
@dataclass(frozen=True)
class Answer:
    """One entry of the catalogue of answers; see docs/design/answers.rst.

    :ivar name: The entry's name, without "answer.".
    :ivar stages: Where the answer is given: some of greeting, ehlo, auth,
        mail, rcpt, data and end.
    :ivar codes: The reply codes, such as '550', or '5xx' for all of a class.
    :ivar enhanced: The enhanced status codes (RFC 3463), one of which the
        reply has; an 'x' is any number.  Empty: any code, or none.
    :ivar text: A regular expression that is searched in the text of the
        reply; '' is found in every text.
    :ivar about: Whom or what the answer is about.
    :ivar wait: How long to wait, in seconds, where the reply does not say.
    :ivar remedy: One sentence for the log: what the operator can do.
    :ivar source: The server that gives the answer, and where that stands.
    """

    name: str
    stages: FrozenSet[str]
    codes: Tuple[str, ...]
    enhanced: Tuple[str, ...]
    text: str
    about: About
    wait: Optional[float]
    remedy: str
    source: str


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
class Rate:
    """At most so many in a period.

    :ivar count: How many.
    :ivar period: In so many seconds.
    """

    count: int
    period: float


@public
@dataclass(frozen=True)
class TLSSettings:
    """What TLS with a server is to be like.

    :ivar min_version: The oldest version that will do, '1.2' or '1.3'.
    :ivar ca: The file with the certificates of the authorities that are
        trusted, or a directory of such files, which `openssl rehash` has
        prepared; '' for those of the system.
    :ivar cert: The file with our own certificate; '' for none.
    :ivar key: The file with its private key; '' if `cert` has it, too.
    :ivar names: The host names and addresses that are accepted in the place
        of the host's in the server's certificate.
    :ivar fingerprints: The SHA-256 of each certificate that is accepted, in
        64 hexadecimal digits in lower case.  If there is one, neither an
        authority nor a name nor a date counts.
    """

    min_version: str = '1.2'
    ca: str = ''
    cert: str = ''
    key: str = ''
    names: Tuple[str, ...] = ()
    fingerprints: Tuple[str, ...] = ()


@public
@dataclass(frozen=True)
class WireSettings:
    """The settings of the connections and the SMTP dialogue with a server.

    :ivar pipelining: Use PIPELINING where it is offered.
    :ivar chunking: Use CHUNKING where it is offered, with PIPELINING.
    :ivar pipeline_depth: The ceiling of the window: transactions in flight
        on one connection with CHUNKING, at most.
    :ivar hello_name: The name that is given in EHLO; '' for that of this
        host.
    :ivar source_address: The IP address that connections come from; '' for
        the one that the system chooses.
    """

    pipelining: bool = True
    chunking: bool = True
    pipeline_depth: int = 32
    timeouts: Timeouts = Timeouts()
    hello_name: str = ''
    source_address: str = ''


#: The mechanisms of AUTH that a password is for, strongest first.
PASSWORD_MECHANISMS = (
    'SCRAM-SHA-256', 'SCRAM-SHA-1', 'CRAM-MD5', 'PLAIN', 'LOGIN')
#: Those that a token is for.
BEARER_MECHANISMS = ('OAUTHBEARER', 'XOAUTH2')
#: Those that are only used if they are named in the settings.
EXPLICIT_MECHANISMS = ('EXTERNAL',)
public(BEARER_MECHANISMS=BEARER_MECHANISMS,
       EXPLICIT_MECHANISMS=EXPLICIT_MECHANISMS,
       PASSWORD_MECHANISMS=PASSWORD_MECHANISMS)


@public
@dataclass(frozen=True)
class TokenSettings:
    """Where tokens come from: a program, or a token endpoint (RFC 6749).

    :ivar command: The program and its arguments, as in a shell; '' if there
        is an endpoint.  It may have a secret in it.
    :ivar url: The token endpoint.
    :ivar client_id: What the provider calls this site.
    :ivar client_secret: What belongs to it.
    :ivar scope: What the token is to be for; '' for what the provider gives.
    :ivar refresh_token_file: The file with the refresh token (RFC 6749,
        section 6); '' for client credentials (section 4.4).
    """

    command: Secret = Secret()
    url: str = ''
    client_id: str = ''
    client_secret: Secret = Secret()
    scope: str = ''
    refresh_token_file: str = ''


@public
@dataclass(frozen=True)
class AuthSettings:
    """How we log in.

    :ivar mechanisms: The names of the mechanisms that may be used; empty for
        all that what we log in with is for.
    :ivar is_insecure: True if the password may be shown to a server that is
        not verified.
    :ivar token: Where tokens come from; None for a password.
    """

    mechanisms: Tuple[str, ...] = ()
    is_insecure: bool = False
    token: Optional[TokenSettings] = None


#: The name of the relay that [mta] of mailman.cfg describes.
MTA = 'mta'
public(MTA=MTA)


@public
@dataclass(frozen=True)
class RelaySettings:
    """One mail server.  Its repr shows neither user nor password.

    :ivar host: Its host name or address; `srv:` and the name of an SRV record
        (RFC 2782), such as 'srv:_submissions._tcp.example.com', for the
        servers that the record names.
    :ivar port: Its port; 0 where an SRV record says it.
    :ivar secure_mode: The name of an `IConnectionFactory`.
    :ivar password_key: Which key of its section says the password, or where
        tokens come from.
    :ivar auth: By which mechanism we log in, and by a token where it says so.
    :ivar verify_cert: True if the server needs a certificate that a trusted
        authority has signed.
    :ivar verify_hostname: True if that has to be for the host.
    :ivar tls: What TLS with it is to be like.
    :ivar max_sessions_per_connection: The number of messages after which a
        connection is closed; 0 is no limit.
    :ivar name: Its section without "relay.", or `MTA`.
    :ivar max_connections: How many connections all processes of this host
        may have together; 0 is no limit.
    :ivar priority: The relays of the lowest number go first.
    :ivar weight: Its share of the transactions among relays of one priority.
    :ivar lists: Patterns of posting addresses, in lower case; the mail of
        these lists goes over this relay, and no other mail does.  Empty: it
        is for all mail that no other relay has a pattern for.
    :ivar message_rate: How many messages it takes, in each of some periods.
    :ivar recipient_rate: How many recipients, likewise.
    :ivar connect_rate: How many new connections, likewise.
    """

    host: str = 'localhost'
    port: int = 25
    secure_mode: str = 'smtp'
    user: str = field(default='', repr=False)
    password: Secret = Secret()
    password_key: str = 'password'
    auth: AuthSettings = AuthSettings()
    verify_cert: bool = True
    verify_hostname: bool = True
    tls: TLSSettings = TLSSettings()
    max_sessions_per_connection: int = 0
    wire: WireSettings = WireSettings()
    name: str = MTA
    max_connections: int = 0
    priority: int = 10
    weight: int = 1
    lists: Tuple[str, ...] = ()
    message_rate: Tuple[Rate, ...] = ()
    recipient_rate: Tuple[Rate, ...] = ()
    connect_rate: Tuple[Rate, ...] = ()


@public
@dataclass(frozen=True)
class LimitSettings:
    """How much mail of some lists is sent, over whatever relay.

    :ivar name: Its section without "limit.".
    :ivar lists: Patterns of their posting addresses, in lower case.
    :ivar message_rate: How many messages all of these lists may send
        together, in each of some periods.
    :ivar recipient_rate: How many recipients, likewise.
    """

    name: str
    lists: Tuple[str, ...]
    message_rate: Tuple[Rate, ...] = ()
    recipient_rate: Tuple[Rate, ...] = ()


@public
@dataclass(frozen=True)
class PoolSettings:
    """The number of connections to a relay, and their lifetimes in seconds.

    :ivar max_connections: How many this process may have at most.
    """

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
    :ivar keep_records: How long what became of each recipient is kept, in
        seconds; 0 is not at all.
    :ivar records_size: How much of the disk that may take, in MiB; 0 is no
        limit.
    :ivar stop_timeout: How long what is in flight may take to finish after a
        signal.
    :ivar time_slice: After how long other posts have their turn.
    :ivar split: How many recipients one queue entry may have; 0 is no limit.
    :ivar server_verp: True if the server makes the VERP'd senders where it
        can.
    :ivar max_recipients_server_verp: Recipients in a transaction, then.
    :ivar dsn: True to ask for delivery status notifications (RFC 3461).
    :ivar answers: The catalogue of answers in the order of search: a site's
        own, then those that the package brings along.
    """

    max_recipients: int = 10
    coalesce: bool = False
    attempts: int = 3
    patience: float = 30.0
    message_rejected: str = 'shunt'
    journal: str = 'process'
    keep_records: float = 864000.0
    records_size: int = 500
    stop_timeout: float = 30.0
    time_slice: float = 60.0
    split: int = 0
    server_verp: bool = True
    max_recipients_server_verp: int = 1000
    dsn: bool = False
    answers: Tuple[Answer, ...] = ()


@public
@dataclass(frozen=True)
class MetricsSettings:
    """Where the metrics are to be seen.

    :ivar textfile: The file for node_exporter; '' for none.
    :ivar lists: How many lists have a label of their own at most.
    """

    textfile: str = ''
    lists: int = 0


#: The storage of the limits that needs nothing but a directory.
FILE = 'file'
public(FILE=FILE)


@public
@dataclass(frozen=True)
class StorageSettings:
    """Where it is counted what was sent.

    :ivar url: 'file', or the URL of a Redis or Valkey server, without the
        user and the password.
    :ivar user: The user there; '' for the default one.
    :ivar password: Its password; empty for none.
    """

    # Its query may have the password of a private key.
    url: str = field(default=FILE, repr=False)
    user: str = field(default='', repr=False)
    password: Secret = Secret()


@public
@dataclass(frozen=True)
class Settings:
    """All settings of a delivery.

    :ivar relays: The mail servers, in the order of the file; that of [mta]
        alone where no other is given.  There is at least one.
    :ivar limits: What limits the mail of some lists.
    :ivar limit_storage: Where it is counted what was sent.
    :ivar hosts: How many hosts share that storage.
    """

    relays: Tuple[RelaySettings, ...] = (RelaySettings(),)
    pool: PoolSettings = PoolSettings()
    delivery: DeliverySettings = DeliverySettings()
    metrics: MetricsSettings = MetricsSettings()
    limits: Tuple[LimitSettings, ...] = ()
    limit_storage: StorageSettings = StorageSettings()
    hosts: int = 1

    @property
    def relay(self) -> RelaySettings:
        """The relay that goes first; the only one where [mta] names it."""
        return min(self.relays, key=lambda relay: relay.priority)

    def pool_of(self, relay: RelaySettings) -> PoolSettings:
        """Return how many connections to a relay one process may have.

        [mta] max_delivery_threads is the number for its own relay, and for
        one that has no `max_connections`.

        :param relay: One of `relays`.
        """
        count = relay.max_connections
        if relay.name == MTA:
            count = min(count or sys.maxsize, self.pool.max_connections)
        return replace(
            self.pool, max_connections=count or self.pool.max_connections)
