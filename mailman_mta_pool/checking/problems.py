# SPDX-License-Identifier: GPL-3.0-or-later
"""From what went wrong to what an administrator can do about it.

Each function returns a `Problem`, which names the keys of the configuration.
"""

import os
import re
import errno
import socket

from dataclasses import replace
from mailman_mta_pool.checking.offers import encrypts
from mailman_mta_pool.checking.steps import Problem, Status
from mailman_mta_pool.connection.certificate import Certificate, listed
from mailman_mta_pool.connection.srv import (
    certificate_name,
    is_service,
    service_of,
)
from mailman_mta_pool.connection.translation import UNTRUSTED
from mailman_mta_pool.errors import (
    AuthenticationRefused,
    CertificateRefused,
    ClientCertificateRefused,
    LOCAL_LIMITS,
    NoCommonTLS,
    NotOffered,
    NotVerified,
    ProtocolError,
    RelayUnavailable,
    UnavailableHere,
    WrongCertificate,
)
from mailman_mta_pool.keys import in_words_of, key_of, OWN_FILE
from mailman_mta_pool.settings import (
    About,
    BEARER_MECHANISMS,
    PASSWORD_MECHANISMS,
    RelaySettings,
)
from mailman_mta_pool.settlement.table import Judge, Judgement
from mailman_mta_pool.shown import printable
from mailman_mta_pool.wire.replies import Reply
from mailman_mta_pool.wire.transaction import Stage
from public import public
from time import gmtime, strftime
from typing import Any, Mapping, NamedTuple, Optional, Tuple


HOST, PORT, MODE = '[mta] smtp_host', '[mta] smtp_port', (
    '[mta] smtp_secure_mode')
LOGIN = '[mta] smtp_user', '[mta] smtp_pass'
VERIFY, VERIFY_NAME = '[mta] smtp_verify_cert', '[mta] smtp_verify_hostname'
VERP = '[mta] verp_format', '[mta] verp_personalized_deliveries'
SITE_OWNER = '[mailman] site_owner'
public(HOST=HOST, LOGIN=LOGIN, MODE=MODE, PORT=PORT, SITE_OWNER=SITE_OWNER)
# The results of X509_verify_cert(3).
_NOT_YET_VALID, _EXPIRED, _SELF_SIGNED, _SELF_SIGNED_ROOT = 9, 10, 18, 19
_WRONG_NAMES = frozenset([62, 63, 64])
# The octets with which TLS records begin (RFC 8446, section 5.1), as they are
# shown of what is not SMTP.
_TLS_RECORD = re.compile(r"b'\\x1[4-7]\\x03")
_ERRNO = re.compile(r'\[Errno (\d+)\]')
_UNREACHABLE = frozenset([errno.ENETUNREACH, errno.EHOSTUNREACH])
# What the remedies of the catalogue call the keys of [mta].  All of this is
# said of these, and `named` puts it into the words of a relay.
_KEY = re.compile(r'\b(?:smtp|max)_[a-z_]+\b')
_GREYLISTING = re.compile(r'gr[ea]y-?list', re.IGNORECASE)
_IS_RUNNING = '`systemctl status postfix` shows whether Postfix runs'


@public
class Situation(NamedTuple):
    """What is known when something has gone wrong.

    :ivar relay: The relay.
    :ivar name: The server as 'host:port'.
    :ivar found: What was found out before; see `open_connection`.
    :ivar certificate: The server's certificate, where there is one.
    :ivar speaks_tls: True if a second connection has shown that TLS begins
        with the first octet.
    :ivar greets_in_clear: True if a second connection has shown that the
        server greets in clear.
    :ivar offers_starttls: True if STARTTLS was offered there.
    """

    relay: RelaySettings
    name: str
    found: Mapping[str, Any]
    certificate: Optional[Certificate] = None
    speaks_tls: bool = False
    greets_in_clear: bool = False
    offers_starttls: bool = False

    @property
    def is_here(self) -> bool:
        """True if the server is on this machine."""
        return is_loopback(self.found)


@public
def is_loopback(found: Mapping[str, Any]) -> bool:
    """Return True if all addresses of the server are of this machine.

    :param found: What was found out; see `open_connection`.
    """
    addresses = [str(each) for each in found.get('addresses', ())]
    return bool(addresses) and all(
        each == '::1' or each.startswith('127.') for each in addresses)


@public
def named(problem: Problem, relay: RelaySettings) -> Problem:
    """Return a problem with the keys that a relay has in its section.

    :param problem: With the keys of [mta].
    :param relay: The relay that it is about.
    """
    return replace(
        problem, text=in_words_of(relay, problem.text, with_file=False),
        remedy=in_words_of(relay, problem.remedy),
        keys=tuple(
            key_of(relay, key.partition(' ')[2]) if key.startswith('[mta] ')
            else key for key in problem.keys))


@public
def problem_of_opening(error: RelayUnavailable, situation: Situation,
                       judge: Judge) -> Problem:
    """Return why no connection could be opened.

    :param error: What `open_connection` has raised.
    :param situation: What else is known.
    :param judge: Knows what servers say.
    """
    if (isinstance(error, UnavailableHere) and
            getattr(error.__cause__, 'errno', None) in LOCAL_LIMITS):
        return Problem(
            f'This machine cannot open a connection: {error.reason}.',
            'Look at the limits of this machine and of this user '
            '(`ulimit -n`, `ulimit -u`, memory).', status=Status.unknown)
    return _PROBLEMS[error.phase](error, situation, judge)


def _connect(error: RelayUnavailable, situation: Situation,
             judge: Judge) -> Problem:
    if 'addresses' not in situation.found:
        return _resolve(error, situation)
    numbers = {int(each) for each in _ERRNO.findall(error.reason)}
    if numbers == {errno.ECONNREFUSED} and 'no answer' not in error.reason:
        where = ('there' if not situation.is_here
                 else f'on this machine ({_IS_RUNNING})')
        return Problem(
            f'Nobody listens at {situation.name}: the connection is refused '
            f'({error.reason}).',
            f'Start the mail server {where}, or correct smtp_host and '
            'smtp_port.', (HOST, PORT))
    if numbers & _UNREACHABLE:
        return Problem(
            f'There is no way to {situation.name}: {error.reason}.',
            'Correct smtp_host, or the routes and the firewall of this '
            'machine.', (HOST, PORT))
    return Problem(
        f'{situation.name} does not answer: {error.reason}.',
        'Correct smtp_host and smtp_port, or let the firewalls between pass '
        'connections to that port; many providers block port 25, and then '
        '587 or 465 is the right one.', (HOST, PORT))


def _resolve(error: RelayUnavailable, situation: Situation) -> Problem:
    host = printable(situation.relay.host)
    cause = error.__cause__
    if is_service(situation.relay.host):
        return _resolve_service(error, host)
    if isinstance(cause, UnicodeError) or not host:
        return Problem(
            f'{host!r} is no host name: {error.reason}.',
            'Correct smtp_host.', (HOST,))
    if (isinstance(cause, TimeoutError) or
            getattr(cause, 'errno', None) == socket.EAI_AGAIN):
        return Problem(
            f'Nobody says which address {host} has: {error.reason}.',
            'Look at the name servers of this machine (/etc/resolv.conf), or '
            'give smtp_host an address.', (HOST,))
    return Problem(
        f'{host!r} has no address: {error.reason}.',
        f'Correct smtp_host; `getent hosts {host}` shows what this machine '
        'finds.', (HOST,))


def _resolve_service(error: RelayUnavailable, host: str) -> Problem:
    query = service_of(host).query
    return Problem(
        f'DNS names no server for {host}: {error.reason}.',
        f'Correct smtp_host; `dig {query} SRV` shows what this machine finds. '
        'Or name the server and its port.', (HOST, PORT))


def _greeting(error: RelayUnavailable, situation: Situation,
              judge: Judge) -> Problem:
    name = situation.name
    if situation.speaks_tls or _TLS_RECORD.search(error.reason):
        return Problem(
            f'{name} speaks TLS from the first octet, and smtp_secure_mode '
            f'is {printable(situation.relay.secure_mode)}.',
            'Set smtp_secure_mode: smtps, or use another port, such as 587 '
            'with starttls.', (MODE, PORT))
    if error.code is not None and error.code != 220:
        return _refused(
            f'{name} does not want to talk to us: {error.reason}.',
            judge.judge_opening('greeting', _reply_of(error)),
            'Look into the log of that mail server: this machine may stand on '
            'one of its lists, or have too many connections.')
    if isinstance(error.__cause__, ProtocolError):
        return Problem(
            f'What listens at {name} is no mail server: {error.reason}.',
            'Correct smtp_host and smtp_port.', (PORT, HOST))
    return Problem(
        f'{name} accepts the connection and does not greet: {error.reason}.',
        'Look into the log of that mail server, which may be overloaded or '
        'wait for DNS; or correct smtp_host and smtp_port.', (HOST, PORT))


def _tls(error: RelayUnavailable, situation: Situation,
         judge: Judge) -> Problem:
    name = situation.name
    if isinstance(error, NotOffered):
        return Problem(
            f'There is no TLS with {name}: {error.reason}.',
            f'{error.remedy}  Only where the server is on this machine will '
            'smtp_secure_mode: smtp do.', (MODE, PORT))
    if isinstance(error.__cause__, WrongCertificate):
        return Problem(f'{name}: {error.reason}.', error.remedy, (
            _of(situation, 'tls_fingerprint' if
                situation.relay.tls.fingerprints else 'tls_names'),))
    if isinstance(error, ClientCertificateRefused):
        return Problem(f'There is no TLS with {name}: {error.reason}.',
                       error.remedy, (_of(situation, 'tls_cert'),))
    if isinstance(error, NoCommonTLS):
        return Problem(f'There is no TLS with {name}: {error.reason}.',
                       error.remedy, tuple(
                           _of(situation, key)
                           for key in ('tls_min_version', 'tls_cert')
                           if key in f'{error.reason} {error.remedy}'))
    if isinstance(error, CertificateRefused):
        return _certificate(error, situation)
    if situation.greets_in_clear:
        better = 'starttls' if situation.offers_starttls else 'smtp'
        return Problem(
            f'{name} begins without TLS, and smtp_secure_mode is smtps.',
            f'Set smtp_secure_mode: {better}, or use the port for TLS from '
            'the first octet, usually 465.', (MODE, PORT))
    if error.code is not None:
        return Problem(
            f'{name} cannot do TLS now: {error.reason}.',
            'Look into the log of that mail server: its certificate or its '
            'key may be missing.', (MODE,))
    return Problem(
        f'There is no TLS with {name}: {error.reason}.',
        f'{error.remedy}  `openssl s_client -connect {name}' + (
            ' -starttls smtp' if situation.relay.secure_mode == 'starttls'
            else '') + '` shows more.', (MODE, PORT))


def _of(situation: Situation, key: str) -> str:
    """Return a key of the plugin's own file with its section."""
    return f'[relay.{situation.relay.name}] {key}'


def _certificate(error: RelayUnavailable, situation: Situation) -> Problem:
    code = getattr(error.__cause__, 'verify_code', 0)
    certificate = situation.certificate
    name = situation.name
    if code in (_EXPIRED, _NOT_YET_VALID) and certificate is not None:
        moment = (certificate.not_after if code == _EXPIRED
                  else certificate.not_before)
        return Problem(
            f'The certificate of {name} '
            f'{"expired on" if code == _EXPIRED else "is valid only from"} '
            f'{_date(moment)} ({certificate.subject}, signed by '
            f'{certificate.issuer}).',
            'Renew the certificate of the mail server, and reload it; or see '
            'to the clock of this machine.  Until then smtp_verify_cert: no '
            'sends without checking whom to.', (VERIFY,))
    if code in _WRONG_NAMES:
        names = '' if certificate is None else (
            f', but for {listed(certificate.names)}')
        return Problem(
            f'The certificate of {name} is not for '
            f'{printable(certificate_name(situation.relay.host))!r}{names}.',
            'Set smtp_host to a name that the certificate is for, or '
            f'{_of(situation, "tls_names")} in {OWN_FILE} to the names that '
            'it has; smtp_verify_hostname: no is for any.',
            (HOST, _of(situation, 'tls_names'), VERIFY_NAME))
    issuer = '' if certificate is None else (
        f' ({certificate.subject}, signed by {certificate.issuer})')
    if code in (_SELF_SIGNED,) or (
            certificate is not None and certificate.is_self_signed):
        return Problem(
            f'The certificate of {name} is self-signed{issuer}.',
            f'{_trust("that certificate", situation)}  Or, where the server '
            'is on this machine, smtp_verify_cert: no.', (VERIFY,))
    if code not in UNTRUSTED:
        return Problem(
            f'The certificate of {name} will not do{issuer}: {error.reason}.',
            error.remedy, (_of(situation, 'tls_fingerprint'),))
    return Problem(
        f'Nobody whom this machine trusts has signed the certificate of '
        f'{name}{issuer}: {error.reason}.',
        f'{_trust("the certificate of that authority", situation)}  Or the '
        'mail server does not send the certificates between.', (VERIFY,))


def _trust(what: str, situation: Situation) -> str:
    """Return how a certificate comes to be trusted."""
    path = os.environ.get('SSL_CERT_FILE')
    remedy = (f'Put {what} into /usr/local/share/ca-certificates and run '
              '`update-ca-certificates`; or name a file with it in '
              f'[relay.{situation.relay.name}] tls_ca in {OWN_FILE}.')
    if path is None:
        return remedy
    cannot = ('' if os.path.isfile(path) and os.access(path, os.R_OK)
              else ', which cannot be read')
    return (f'{remedy}  SSL_CERT_FILE names {printable(path)!r}{cannot}; '
            'Mailman hands it on to no runner.')


def _hello(error: RelayUnavailable, situation: Situation,
           judge: Judge) -> Problem:
    if error.code is None:
        return Problem(
            f'{situation.name} greets, and no more: {error.reason}.',
            'Look into the log of that mail server, or correct smtp_host and '
            'smtp_port.', (HOST, PORT))
    name = situation.found.get('hello', ('', ))[0]
    return _refused(
        f'{situation.name} refuses our name {name}: {error.reason}.',
        judge.judge_opening('EHLO', _reply_of(error)),
        'Give this machine a full host name that DNS knows (`hostname --fqdn` '
        'shows the one it has), or let the mail server take the one it has.')


def _auth(error: RelayUnavailable, situation: Situation,
          judge: Judge) -> Problem:
    relay, name = situation.relay, situation.name
    if isinstance(error, UnavailableHere):
        return _no_login_here(error)
    if isinstance(error, NotOffered):
        return _no_auth(error, situation)
    if not isinstance(error, AuthenticationRefused):
        return Problem(
            f'The login at {name} broke off: {error.reason}.',
            'Look into the log of that mail server.', LOGIN)
    if error.waiting_helps:
        return Problem(
            f'{name} cannot check our login now: {error.reason}.',
            'Look into the log of that mail server: what it asks for '
            'passwords may be down.', LOGIN)
    if situation.found.get('mechanism') == 'EXTERNAL':
        # There is no password to correct.
        return Problem(
            f'{name} does not accept our certificate as a login: '
            f'{error.reason}.', 'Let the mail server know the certificate of '
            'tls_cert, and whom it is for.', (_of(situation, 'tls_cert'),))
    judgement = judge.judge_opening(
        'AUTH', Reply(error.smtp_code, (_octets(error.smtp_error),)))
    if error.smtp_code == 538 or 'secure_mode' in judgement.remedy or (
            error.smtp_code == 530 and not encrypts(relay)):
        return Problem(
            f'{name} takes passwords only within TLS: {error.reason}.',
            'Set smtp_secure_mode: starttls.', (MODE,))
    return Problem(
        f'{name} does not accept our login: {error.reason}.',
        judgement.remedy or error.remedy or
        'Correct smtp_user and smtp_pass.', LOGIN)


def _no_login_here(error: RelayUnavailable) -> Problem:
    """Return the problem of a value that cannot be sent, or of no token."""
    # What a token endpoint says stands before the remedy.
    text, _, remedy = error.reason.rpartition('; ')
    if not text:
        text, remedy = remedy, 'correct what the key names'
    return Problem(f'There is no login: {text}.',
                   f'{remedy[:1].upper()}{remedy[1:]}.', LOGIN)


def _no_auth(error: RelayUnavailable, situation: Situation) -> Problem:
    relay, name = situation.relay, situation.name
    server = situation.found['hello'][2]
    if isinstance(error.__cause__, NotVerified):
        return Problem(
            f'There is no login at {name}: {error.reason}.', error.remedy, (
                MODE, _of(situation, 'auth_insecure')))
    if server.starttls and not encrypts(relay):
        return Problem(
            f'{name} offers no login that we have before TLS: '
            f'{error.reason}.',
            'Set smtp_secure_mode: starttls.', (MODE, *LOGIN))
    return Problem(
        f'There is no login at {name}: {error.reason}.',
        'Leave smtp_user and smtp_pass empty if the server relays for this '
        'machine without; otherwise switch AUTH with '
        f'{_mechanisms_for(relay)} on in the mail server, or use its port for '
        'submission, usually 587.', (*LOGIN, PORT))


def _mechanisms_for(relay: RelaySettings) -> str:
    names = relay.auth.mechanisms or (
        BEARER_MECHANISMS if relay.auth.token is not None else
        PASSWORD_MECHANISMS)
    return ' or '.join(names)


_PROBLEMS = {
    'connect': _connect, 'greeting': _greeting, 'TLS': _tls, 'EHLO': _hello,
    'AUTH': _auth}


def _octets(text: Any) -> bytes:
    return text if isinstance(text, bytes) else str(text).encode()


def _reply_of(error: RelayUnavailable) -> Reply:
    """Return the reply whose code and text are the reason."""
    assert error.code is not None
    return Reply(
        error.code, (error.reason.partition(' ')[2].encode(),))


def _sentence(remedy: str) -> str:
    return f'  {remedy}' if remedy else ''


def _keys_in(remedy: str) -> Tuple[str, ...]:
    return tuple(dict.fromkeys(
        f'[mta] {key}' for key in _KEY.findall(remedy)))


def _refused(text: str, judgement: Judgement, remedy: str) -> Problem:
    """Return the problem of a refusal, with this remedy by default."""
    return Problem(
        text, judgement.remedy or remedy,
        _keys_in(judgement.remedy) or (HOST,))


def _date(moment: float) -> str:
    return strftime('%Y-%m-%d', gmtime(moment))


@public
def problem_of_refusal(judgement: Judgement, relay: RelaySettings,
                       shown: str, is_default: bool) -> Problem:
    """Return why the server takes no mail from us to a recipient.

    :param judgement: Of the refusal of a MAIL or RCPT with a usual sender.
    :param relay: The server.
    :param shown: The reply, fit to be shown.
    :param is_default: True if the recipient is not the one of --to.
    """
    remedy = judgement.remedy
    if judgement.stage is Stage.here:
        return Problem(
            f'The recipient cannot be served: {shown}.',
            'Name another address with --to.', (SITE_OWNER,))
    if judgement.needs_login and MODE in _keys_in(remedy):
        return Problem(
            f'The server takes mail only within TLS: {shown}.', remedy,
            (MODE,))
    if judgement.needs_login:
        if relay.user and (
                relay.password or relay.auth.token is not None):
            return Problem(
                f'The server wants another login: {shown}.',
                'Let the login of smtp_user send for the lists.' +
                _sentence(remedy), LOGIN)
        return Problem(
            f'The server wants a login: {shown}.',
            'Set smtp_user and smtp_pass, or let the mail server relay for '
            'this machine (Postfix: mynetworks).', LOGIN)
    if _GREYLISTING.search(shown):
        return Problem(
            f'The server puts us off (greylisting): {shown}.',
            'Exempt this machine from greylisting in the mail server '
            '(Postfix: permit_mynetworks before check_policy_service), or '
            'use another server; every post would be late.', (HOST,))
    if judgement.about is About.sender:
        return Problem(
            f'The server refuses the sender: {shown}.',
            remedy or 'Let the mail server accept the bounces addresses of '
            'the lists as senders.', (*_keys_in(remedy), HOST))
    if judgement.about is About.recipient:
        return Problem(
            f'The server refuses the recipient: {shown}.',
            'Name an address that exists, elsewhere, with --to.' + (
                '  This one was taken from site_owner, or is an owner of a '
                'list.' if is_default else '') + _sentence(remedy),
            (SITE_OWNER,))
    if judgement.reply.code < 500:
        return Problem(
            f'The server takes no mail at present: {shown}.',
            remedy or 'Try again later, and look into the log of that mail '
            'server.', (*_keys_in(remedy), HOST))
    keys = _keys_in(remedy)
    if 'login' in remedy or 'relay' in remedy.lower() or not remedy:
        keys = (*keys, *LOGIN, HOST)
    return Problem(
        f'The server does not relay for us: {shown}.',
        remedy or 'Let the mail server relay for this machine (Postfix: '
        'mynetworks), or set the login that it demands.',
        tuple(dict.fromkeys(keys or (HOST,))))


@public
def problem_of_verp(judgement: Judgement, shown: str) -> Problem:
    """Return why a VERP'd sender is refused.  Mail goes out all the same.

    :param judgement: Of the refusal, where the plain sender was accepted.
    :param shown: The reply, fit to be shown.
    """
    return Problem(
        f'The server refuses a sender made by VERP: {shown}.',
        'Set recipient_delimiter = + in the mail server (Postfix), so that '
        'it knows these addresses; or do without VERP.  Members get the post '
        'with the plain sender meanwhile, and bounces tell less.', VERP,
        Status.warning)


@public
def problem_of_verp_format(sender: str, recipient: str) -> Problem:
    """Return what it means that VERP makes a sender that is no address.

    :param sender: The sender, fit to be shown.
    :param recipient: The recipient, likewise.
    """
    return Problem(
        f'The sender that VERP makes for {recipient} is no address: {sender}.',
        'Correct verp_format, or name another address with --to.  Members '
        'get the post with the plain sender meanwhile, and bounces tell '
        'less.', VERP, Status.warning)


@public
def problem_of_xverp(shown: str) -> Problem:
    """Return why XVERP is of no use.  Mail goes out all the same.

    :param shown: The reply, fit to be shown.
    """
    return Problem(
        f'The server offers XVERP and does not take it: {shown}.',
        'Look at verp_delimiter_filter in the mail server (Postfix), or set '
        'server_verp: no.', ('[delivery] server_verp', '[mta] verp_format'),
        Status.warning)


@public
def problem_of_lost_connection(error: Exception, name: str) -> Problem:
    """Return what it means that the connection broke after the opening.

    :param error: What was raised.
    :param name: The server as 'host:port'.
    """
    return Problem(
        f'The connection to {name} broke: {printable(str(error))}.',
        'Look into the log of that mail server.', (HOST,))
