# SPDX-License-Identifier: GPL-3.0-or-later
"""The check of one mail server, by the code that delivers.

Nothing is ever sent: MAIL and RCPT are followed by RSET.  Everything here is
in the network thread.
"""

import os
import time
import asyncio
import smtplib

from contextlib import suppress
from dataclasses import fields, replace
from mailman_mta_pool.checking.offers import encrypts, extensions_of, limits_of
from mailman_mta_pool.checking.problems import (
    HOST,
    is_loopback,
    LOGIN,
    MODE,
    named,
    problem_of_lost_connection,
    problem_of_opening,
    problem_of_refusal,
    problem_of_verp,
    problem_of_verp_format,
    problem_of_xverp,
    Situation,
)
from mailman_mta_pool.checking.questions import Questions
from mailman_mta_pool.checking.steps import Problem, RelayCheck, Status, Step
from mailman_mta_pool.checking.words import Words
from mailman_mta_pool.connection.addresses import Addresses
from mailman_mta_pool.connection.certificate import (
    chain_of,
    listed,
    read_certificate,
)
from mailman_mta_pool.connection.opening import (
    Endpoint,
    open_connection,
    Opened,
)
from mailman_mta_pool.connection.smtp import SMTPConnection
from mailman_mta_pool.connection.srv import certificate_name, Target
from mailman_mta_pool.connection.tls import (
    unverified_context,
    unverified_identity,
)
from mailman_mta_pool.errors import CertificateRefused, RelayUnavailable
from mailman_mta_pool.keys import key_of
from mailman_mta_pool.login.credentials import MECHANISMS
from mailman_mta_pool.relays.access import forget_refusal
from mailman_mta_pool.relays.factories import connection_for
from mailman_mta_pool.settings import RelaySettings, Settings, Timeouts
from mailman_mta_pool.settlement.catalogue import catalogue_of
from mailman_mta_pool.settlement.table import is_accepted, Judge
from mailman_mta_pool.shown import shortened
from mailman_mta_pool.wire.capabilities import Capabilities
from mailman_mta_pool.wire.content import Content
from mailman_mta_pool.wire.envelope import is_mailbox
from mailman_mta_pool.wire.transaction import Outcome, Result, Transaction
from public import public
from typing import Any, Dict, List, Optional, Sequence, Tuple


# All steps together may take so many times what one of them may.
STEPS = 4
# A certificate that has fewer days left is to be renewed.
FEW_DAYS = 14
public(FEW_DAYS=FEW_DAYS)
# What each phase of the opening is called in the report.
_NAMES = {'hello': 'ehlo'}
_PHASES = {'connect': 'connect', 'greeting': 'greeting', 'EHLO': 'ehlo',
           'TLS': 'tls', 'AUTH': 'auth'}
# What is done after each phase, as far as can be said.
_NEXT = {'resolve': 'connect', 'connect': 'greeting', 'greeting': 'ehlo',
         'tls': 'ehlo', 'hello': 'ehlo', 'auth': 'relay'}
_NOTHING = Content(b'')
_MILLISECONDS = 1000.0


@public
def hastened(timeouts: Timeouts, seconds: float) -> Timeouts:
    """Return timeouts of which none is longer.

    :param timeouts: The configured ones.
    :param seconds: The longest.
    """
    return Timeouts(**{
        phase.name: min(seconds, getattr(timeouts, phase.name))
        for phase in fields(timeouts)})


@public
class RelayChecker:
    """Goes through the dialogue with one server."""

    def __init__(self, check: RelayCheck, relay: RelaySettings,
                 settings: Settings, questions: Questions,
                 timeout: float, now: float,
                 target: Optional[Target] = None) -> None:
        """Prepare.

        :param check: What is found out is put here.
        :param relay: The server.
        :param settings: All settings.
        :param questions: What the server is asked.
        :param timeout: The longest time for a step, in seconds.
        :param now: The time of day, in seconds since 1970.
        :param target: The server, of those that an SRV record names; None
            where there is none.
        """
        self._check = check
        self._target = target
        self._settings = settings
        self._configured = relay
        self._relay = replace(relay, wire=replace(
            relay.wire, timeouts=hastened(relay.wire.timeouts, timeout)))
        self._questions = questions
        self._timeout = timeout
        self._now = now
        self._words = Words(relay)
        self._judge = Judge(catalogue_of(settings.delivery.answers))
        self._found: Dict[str, Any] = {}
        self._in_clear: Optional[Capabilities] = None
        self._secure: Tuple[List[bytes], List[bytes]] = [], []
        self._mark = 0.0

    async def run(self) -> None:
        """Take all steps, up to the first that fails."""
        check, begin = self._check, time.monotonic()
        self._mark, check.doing = begin, 'resolve'
        try:
            await asyncio.wait_for(self._run(), STEPS * self._timeout)
        except asyncio.TimeoutError:
            self._add(check.doing, '', Problem(
                f'{check.name} takes too long: the check was given up after '
                f'{STEPS * self._timeout:g} s.',
                'Look into the log of that mail server, or allow more with '
                '--timeout.', (HOST,)))
        finally:
            check.milliseconds = (time.monotonic() - begin) * _MILLISECONDS

    async def _run(self) -> None:
        connection = connection_for(self._relay)
        if isinstance(connection, SMTPConnection):
            connection.addresses = self._addresses()
        if not isinstance(connection, SMTPConnection):
            self._add('connect', 'not tried', Problem(
                f'smtp_secure_mode {self._words(self._relay.secure_mode)} is '
                'of another package, whose connections cannot be asked.',
                'See the documents of that package.', (MODE,),
                Status.warning))
            return
        try:
            await connection.open(observe=self._took, note=self._note)
        except RelayUnavailable as error:
            # The time until now was for this, not for what comes.
            spent = self._spent()
            await self._explain(error, spent)
            return
        if 'mechanism' in self._found:
            # What the runners know is not true any more.
            forget_refusal(self._configured, self._questions.var_directory)
        try:
            self._look_at_offer()
            await self._ask_all(connection)
        except smtplib.SMTPException as error:
            self._add(self._check.doing, '', problem_of_lost_connection(
                error, self._check.name))
        finally:
            with suppress(smtplib.SMTPException):
                await connection.disconnect()

    def _addresses(self) -> Addresses:
        """Return addresses of which nothing is known; of one target only."""
        if self._target is None:
            return Addresses()
        target = self._target

        async def ask(query: str, timeout: float) -> Any:
            return [target], 0.0
        return Addresses(ask=ask)

    # The opening.

    def _note(self, name: str, value: Any) -> None:
        if name == 'hello' and name in self._found:
            self._in_clear = self._found[name][2]
        self._found[name] = value
        if name == 'tls':
            # To be read while the connection is open.
            self._secure = _certificates_of(value)
        if name == 'mechanism':
            self._check.doing = 'auth'

    def _spent(self) -> float:
        """Return the milliseconds since the last step."""
        mark, self._mark = self._mark, time.monotonic()
        return (self._mark - mark) * _MILLISECONDS

    def _took(self, phase: str, seconds: float) -> None:
        text, more, problem = getattr(self, f'_after_{phase}')()
        self._note_step(_NAMES.get(phase, phase), text,
                        seconds * _MILLISECONDS, more, problem)
        self._check.doing = self._next(phase)
        self._mark = time.monotonic()

    def _next(self, phase: str) -> str:
        mode = self._relay.secure_mode
        if (mode == 'smtps' and phase == 'connect' or
                mode == 'starttls' and phase == 'hello' and
                'tls' not in self._found):
            return 'tls'
        return _NEXT[phase]

    def _after_resolve(self) -> Any:
        found = ', '.join(map(str, self._found['addresses']))
        host = (self._relay.host if self._target is None
                else self._target.host)
        return f'{self._words(host)}: {found}', (), None

    def _after_connect(self) -> Any:
        address = self._found['address']
        return f'{address}, port {address.sockaddr[1]}', (), None

    def _after_greeting(self) -> Any:
        return self._words(self._found['greeting']), (), None

    def _after_hello(self) -> Any:
        name, reply, _ = self._found['hello']
        # RFC 5321, section 4.1.1.1: its name, and perhaps a greeting.
        server = (reply.lines[0].split() or [b'without a name'])[0]
        again = '' if self._in_clear is None else ', again within TLS'
        return (f'we are {name}, the server is '
                f'{self._words(server)}{again}', (), None)

    def _after_auth(self) -> Any:
        problem = None
        shows = MECHANISMS[self._found['mechanism']].sends_secret
        if shows and not encrypts(self._relay) and not is_loopback(
                self._found):
            problem = Problem(
                'The password goes over the network in clear.',
                'Set smtp_secure_mode: starttls.', (MODE,), Status.warning)
        return self._found['mechanism'], (), problem

    def _after_tls(self) -> Any:
        tls = self._found['tls']
        cipher = (tls.cipher() or ('unknown',))[0]
        self._read_certificates()
        return (f'{tls.version()}, {cipher}',
                self._about_certificate(), self._worry_about_certificate())

    def _read_certificates(self) -> None:
        certificates, trusted = self._secure
        with suppress(ValueError, IndexError):
            self._check.certificate = read_certificate(certificates[0])
            self._check.chain = chain_of(certificates, trusted)

    def _about_certificate(self) -> List[str]:
        certificate = self._check.certificate
        if certificate is None:
            return ['the certificate cannot be read']
        days = certificate.days_left(self._now)
        relay = self._relay
        checked = (
            'verified by tls_fingerprint' if relay.tls.fingerprints else
            f'not verified, because of {key_of(relay, "smtp_verify_cert")}: no'
            if not relay.verify_cert else
            'verified, but for the name '
            f'({key_of(relay, "smtp_verify_hostname")}: no)'
            if not relay.verify_hostname else
            f'verified, for {self._words(certificate_name(relay.host))}'
            if self._target is not None else 'verified')
        if relay.verify_cert and 'SSL_CERT_FILE' in os.environ:
            checked += ('; SSL_CERT_FILE is set here, and Mailman hands it on '
                        'to no runner')
        return [
            shortened(f'certificate: {" <- ".join(self._check.chain)}'),
            shortened(f'names: {listed(certificate.names)}'),
            f'{days} days left' if days >= 0 else f'expired {-days} days ago',
            checked]

    def _worry_about_certificate(self) -> Optional[Problem]:
        certificate = self._check.certificate
        if certificate is None:
            return None
        days = certificate.days_left(self._now)
        if days >= FEW_DAYS:
            return None
        name = self._check.name
        return Problem(
            f'The certificate of {name} ' + (
                f'expires in {days} days.' if days >= 0 else
                f'expired {-days} days ago, which nobody checks.'),
            'Renew the certificate of the mail server, and reload it.',
            ('[mta] smtp_verify_cert',), Status.warning)

    # What went wrong.

    async def _explain(self, error: RelayUnavailable, spent: float) -> None:
        situation = Situation(self._relay, self._check.name, self._found)
        if isinstance(error, CertificateRefused):
            unverified = unverified_context(self._relay.tls)
            plain = self._plain_endpoint()
            await self._try_otherwise(
                replace(plain, implicit_tls=unverified)
                if self._relay.secure_mode == 'smtps'
                else replace(plain, starttls=unverified))
            self._read_certificates()
            situation = situation._replace(
                certificate=self._check.certificate)
        elif (error.phase == 'greeting' and error.code is None and
                self._relay.secure_mode != 'smtps'):
            found, _ = await self._try_otherwise(replace(
                self._plain_endpoint(),
                implicit_tls=unverified_context(self._relay.tls)))
            situation = situation._replace(speaks_tls='tls' in found)
        elif error.phase == 'TLS' and self._relay.secure_mode == 'smtps':
            found, opened = await self._try_otherwise(
                self._plain_endpoint())
            situation = situation._replace(
                greets_in_clear='greeting' in found,
                offers_starttls=opened is not None and opened.server.starttls)
        problem = problem_of_opening(error, situation, self._judge)
        self._note_step(
            self._failed_phase(error), self._words(error.reason), spent,
            (), self._words.problem(problem))

    def _failed_phase(self, error: RelayUnavailable) -> str:
        if error.phase == 'connect' and 'addresses' not in self._found:
            return 'resolve'
        return _PHASES[error.phase]

    def _plain_endpoint(self) -> Endpoint:
        """The server without TLS and without a login."""
        return Endpoint(
            self._relay.host, self._relay.port,
            hello_name=self._relay.wire.hello_name,
            source_address=self._relay.wire.source_address,
            identity=unverified_identity(self._relay.tls))

    async def _try_otherwise(
            self, endpoint: Endpoint,
            ) -> Tuple[Dict[str, Any], Optional[Opened]]:
        """Open another connection to find out more; nobody logs in.

        :return: What was found out, and the connection, closed.
        """
        found: Dict[str, Any] = {}

        def note(name: str, value: Any) -> None:
            found[name] = value
            if name == 'tls':
                self._secure = _certificates_of(value)
        try:
            opened = await open_connection(
                endpoint, self._relay.wire.timeouts, self._addresses(),
                note=note)
        except RelayUnavailable:
            return found, None
        opened.sock.close()
        return found, opened

    # The questions.

    def _look_at_offer(self) -> None:
        server = self._found['hello'][2]
        mechanism = self._found.get('mechanism', '')
        self._check.extensions = extensions_of(
            server, self._in_clear, self._relay, self._settings, mechanism)
        # The settings' own timeouts, not those of the check.
        self._check.limits = limits_of(
            server, self._configured, self._settings)
        if not mechanism and (
                bool(self._relay.user) != bool(self._relay.password)):
            self._add('auth', 'no login', Problem(
                'Only one of smtp_user and smtp_pass is set, so there is no '
                'login.', 'Set both, or none.', LOGIN, Status.warning))

    async def _ask_all(self, connection: SMTPConnection) -> None:
        questions = self._questions
        if not await self._ask_to_relay(connection):
            return
        await self._ask_about_verp(connection)
        server = self._found['hello'][2]
        if (server.xverp and questions.verp is not None and
                self._settings.delivery.server_verp):
            await self._ask_about_xverp(connection)

    async def _ask_to_relay(self, connection: SMTPConnection) -> bool:
        questions = self._questions
        result, shown = await self._ask(
            connection, 'relay', self._transaction(questions.sender))
        problem = None
        if result.reply is None or not is_accepted(result):
            problem = self._about_refusal(result, shown)
        elif questions.stand_in is not None:
            problem = Problem(
                'Everything goes to '
                f'{self._words(questions.stand_in)}, not to the members.',
                'Set enabled: no in [devmode] when the tests are over.',
                ('[devmode] enabled',), Status.warning)
        recipient = questions.stand_in or questions.recipient
        self._add('relay', self._words(
            f'MAIL FROM:<{questions.sender}> RCPT TO:<{recipient}>: ') +
            shown, problem)
        return result.reply is not None and is_accepted(result)

    def _about_refusal(self, result: Result, shown: str) -> Problem:
        if result.reply is None:
            return problem_of_lost_connection(
                ConnectionError('no reply'), self._check.name)
        return self._words.problem(problem_of_refusal(
            self._judge.judge(result.stage, result.reply), self._relay,
            shown, self._questions.is_default))

    async def _ask_about_verp(self, connection: SMTPConnection) -> None:
        sender = self._questions.verp_sender
        if not is_mailbox(sender):
            self._add('verp', 'not tried', problem_of_verp_format(
                self._words(sender), self._words(self._questions.recipient)))
            return
        result, shown = await self._ask(
            connection, 'verp', self._transaction(sender))
        problem = None
        if result.reply is None:
            problem = self._about_refusal(result, shown)
        elif not is_accepted(result):
            problem = problem_of_verp(
                self._judge.judge(result.stage, result.reply), shown)
        self._add('verp', self._words(f'MAIL FROM:<{sender}>: ') + shown,
                  problem)

    async def _ask_about_xverp(self, connection: SMTPConnection) -> None:
        questions = self._questions
        verp = questions.verp
        assert verp is not None
        result, shown = await self._ask(
            connection, 'xverp',
            self._transaction(questions.sender)._replace(verp=verp))
        self._add('xverp', self._words(
            f'MAIL FROM:<{questions.sender}> XVERP={verp.delimiters}: ') +
            shown, None if is_accepted(result) else problem_of_xverp(shown))

    def _transaction(self, sender: str) -> Transaction:
        questions = self._questions
        return Transaction(
            sender, (questions.recipient,), _NOTHING,
            stand_in=questions.stand_in, asks=True)

    async def _ask(self, connection: SMTPConnection, name: str,
                   question: Transaction) -> Tuple[Result, str]:
        """Ask a question.

        :return: What became of the recipient, and the reply in words.
        :raises SMTPException: if the connection broke before that.
        """
        self._check.doing = name
        self._mark = time.monotonic()
        waiting = [question]
        outcomes: List[Outcome] = []
        try:
            await connection.converse(
                lambda octets: waiting.pop() if waiting else None,
                outcomes.append)
        except smtplib.SMTPException:
            # A reply that came before counts.
            if not outcomes or outcomes[0].results[0].reply is None:
                raise
        result = outcomes[0].results[0]
        return result, ('no reply' if result.reply is None
                        else self._words(result.reply))

    def _add(self, name: str, text: str,
             problem: Optional[Problem] = None) -> None:
        self._note_step(name, text, self._spent(), (), problem)

    def _note_step(self, name: str, text: str, milliseconds: float,
                   more: Sequence[str], problem: Optional[Problem]) -> None:
        """Add a step, with the keys that this relay has."""
        self._check.steps.append(Step(
            name, text, milliseconds, tuple(more),
            None if problem is None else named(problem, self._configured)))


def _certificates_of(tls: Any) -> Tuple[List[bytes], List[bytes]]:
    """Return the certificates of the server, and the trusted ones.

    :param tls: An `ssl.SSLObject` after the handshake.
    """
    certificates = [tls.getpeercert(True) or b'']
    # It is there from Python 3.13 on.
    chain = getattr(tls, 'get_unverified_chain', None)
    if chain is not None:
        certificates += [each for each in chain() if each != certificates[0]]
    return certificates, tls.context.get_ca_certs(True)
