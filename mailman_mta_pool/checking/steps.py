# SPDX-License-Identifier: GPL-3.0-or-later
"""What a check has found: values, of which text, JSON and perfdata are made.
"""

import enum

from dataclasses import dataclass, field
from mailman_mta_pool.connection.certificate import Certificate
from public import public
from typing import (
    Any,
    Dict,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Tuple,
)


# It changes when a program that reads the JSON would go wrong.
VERSION = 1
public(VERSION=VERSION)


@public
class Status(enum.Enum):
    """How a step ended."""

    ok = 'ok'
    #: Mail goes out all the same.
    warning = 'warning'
    failed = 'failed'
    #: This machine was the reason: nothing is known of the server.
    unknown = 'unknown'


_WORST_FIRST = (Status.failed, Status.unknown, Status.warning)


@public
def worst_of(statuses: Iterable[Status]) -> Status:
    """Return the worst of these, `ok` if there is none."""
    found = set(statuses)
    return next((each for each in _WORST_FIRST if each in found), Status.ok)


@public
@dataclass(frozen=True)
class Problem:
    """What is wrong, and what can be done about it.

    :ivar text: What is wrong, in one sentence.
    :ivar remedy: What to do, in one or more sentences.
    :ivar keys: The keys of the configuration to look at, the first one first.
    :ivar status: Not `ok`.
    """

    text: str
    remedy: str = ''
    keys: Tuple[str, ...] = ()
    status: Status = Status.failed


@public
@dataclass(frozen=True)
class Step:
    """One step of the dialogue.

    :ivar name: One of configuration, passwords, lists and limits, which are
        about no server; resolve, connect, greeting, tls, ehlo, auth, relay,
        verp and xverp.
    :ivar text: What was found out, on one line.
    :ivar milliseconds: How long the step took; None where there was nothing
        to wait for.
    :ivar more: Further lines.
    :ivar problem: What is wrong, if anything is.
    """

    name: str
    text: str
    milliseconds: Optional[float] = None
    more: Tuple[str, ...] = ()
    problem: Optional[Problem] = None

    @property
    def status(self) -> Status:
        """How the step ended."""
        return Status.ok if self.problem is None else self.problem.status

    def to_dict(self) -> Dict[str, Any]:
        """Return what --json prints of it."""
        problem = self.problem
        return {
            'name': self.name,
            'status': self.status.value,
            'milliseconds': _rounded(self.milliseconds),
            'text': self.text,
            'more': list(self.more),
            'problem': None if problem is None else problem.text,
            'remedy': '' if problem is None else problem.remedy,
            'keys': [] if problem is None else list(problem.keys),
            }


@public
class Extension(NamedTuple):
    """One extension, and what is done with it.

    :ivar keyword: Its name in EHLO.
    :ivar parameters: What the server said after it.
    :ivar is_offered: True if the server offers it.
    :ivar is_used: True if we make use of it.
    :ivar text: What we do with it, or why we do not.
    """

    keyword: str
    parameters: str
    is_offered: bool
    is_used: bool
    text: str

    def to_dict(self) -> Dict[str, Any]:
        """Return what --json prints of it."""
        return {'keyword': self.keyword, 'parameters': self.parameters,
                'offered': self.is_offered, 'used': self.is_used,
                'text': self.text}


@public
class Limit(NamedTuple):
    """One limit that is in force.

    :ivar name: What is limited.
    :ivar value: The number; None is no limit.
    :ivar text: The number in words, and where it comes from.
    """

    name: str
    value: Optional[float]
    text: str

    def to_dict(self) -> Dict[str, Any]:
        """Return what --json prints of it."""
        return {'name': self.name, 'value': self.value, 'text': self.text}


@public
@dataclass
class RelayCheck:
    """What was found out of one mail server.

    :ivar name: The server as 'host:port'.
    :ivar section: The section of the configuration that names it.
    :ivar secure_mode: smtp, smtps, starttls or another.
    :ivar steps: The steps so far, in their order.
    :ivar doing: The step that is being taken.
    :ivar certificate: The server's certificate.
    :ivar chain: Who has signed it; see `chain_of`.
    :ivar milliseconds: How long all of it took.
    """

    name: str
    section: str
    secure_mode: str
    steps: List[Step] = field(default_factory=list)
    doing: str = ''
    certificate: Optional[Certificate] = None
    chain: Tuple[str, ...] = ()
    extensions: List[Extension] = field(default_factory=list)
    limits: List[Limit] = field(default_factory=list)
    milliseconds: float = 0.0

    @property
    def status(self) -> Status:
        """How bad it is."""
        return worst_of(step.status for step in self.steps)

    def to_dict(self, now: float) -> Dict[str, Any]:
        """Return what --json prints of it.

        :param now: Seconds since 1970.
        """
        return {
            'name': self.name,
            'section': self.section,
            'secure_mode': self.secure_mode,
            'status': self.status.value,
            'milliseconds': _rounded(self.milliseconds),
            'steps': [step.to_dict() for step in self.steps],
            'certificate': self._certificate(now),
            'extensions': [each.to_dict() for each in self.extensions],
            'limits': [each.to_dict() for each in self.limits],
            }

    def _certificate(self, now: float) -> Optional[Dict[str, Any]]:
        certificate = self.certificate
        if certificate is None:
            return None
        return {
            'subject': certificate.subject,
            'issuer': certificate.issuer,
            'chain': list(self.chain),
            'names': list(certificate.names),
            'not_before': certificate.not_before,
            'not_after': certificate.not_after,
            'days_left': certificate.days_left(now),
            }


@public
@dataclass
class Check:
    """What was found out of all mail servers.

    :ivar time: When it began, in seconds since 1970.
    :ivar steps: What is not about one of them: the configuration.
    :ivar relays: Each of them.
    """

    time: float
    steps: List[Step] = field(default_factory=list)
    relays: List[RelayCheck] = field(default_factory=list)

    def label(self, relay: RelayCheck) -> str:
        """Return what tells a server from the others; '' for the only one.

        :param relay: One of them.
        """
        if len(self.relays) < 2:
            return ''
        if sum(each.name == relay.name for each in self.relays) < 2:
            return relay.name
        # The same server with another login.
        return f'{relay.section.strip("[]")} {relay.name}'

    def labelled(self) -> Iterator[Tuple[str, Step]]:
        """Yield every step, and before it the label of its server."""
        for step in self.steps:
            yield '', step
        for relay in self.relays:
            for step in relay.steps:
                yield self.label(relay), step

    @property
    def all_steps(self) -> List[Step]:
        """Every step, in the order in which they were taken."""
        return [step for _, step in self.labelled()]

    @property
    def status(self) -> Status:
        """How bad it is."""
        return worst_of(step.status for step in self.all_steps)

    def to_dict(self) -> Dict[str, Any]:
        """Return what --json prints; see check.schema.json."""
        return {
            'version': VERSION,
            'time': self.time,
            'status': self.status.value,
            'steps': [step.to_dict() for step in self.steps],
            'relays': [relay.to_dict(self.time) for relay in self.relays],
            }


def _rounded(milliseconds: Optional[float]) -> Optional[float]:
    return None if milliseconds is None else round(milliseconds, 3)
