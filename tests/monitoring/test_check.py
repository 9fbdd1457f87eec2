# SPDX-License-Identifier: GPL-3.0-or-later
"""What `mailman mta-pool check` makes of what it finds; see tests/operate."""

import os
import ssl
import json
import errno
import socket
import smtplib
import unittest

from click.testing import CliRunner
from hypothesis import given, settings, strategies as st
from importlib.resources import files
from mailman_mta_pool.checking.monitoring import monitoring_line, unknown_line
from mailman_mta_pool.checking.offers import extensions_of, limits_of
from mailman_mta_pool.checking.problems import (
    problem_of_opening,
    problem_of_refusal,
    Situation,
)
from mailman_mta_pool.checking.relay import hastened
from mailman_mta_pool.checking.steps import (
    Check,
    Limit,
    Problem,
    RelayCheck,
    Status,
    Step,
    worst_of,
)
from mailman_mta_pool.checking.words import LENGTH, Words
from mailman_mta_pool.configuration.answers import shipped_answers
from mailman_mta_pool.connection.certificate import (
    Certificate,
    chain_of,
    read_certificate,
)
from mailman_mta_pool.connection.translation import translated, UNTRUSTED
from mailman_mta_pool.console import check as console
from mailman_mta_pool.errors import CertificateRefused, UnavailableHere
from mailman_mta_pool.secret import Secret
from mailman_mta_pool.settings import (
    MTA,
    PoolSettings,
    RelaySettings,
    Settings,
    Timeouts,
)
from mailman_mta_pool.settlement.catalogue import Catalogue
from mailman_mta_pool.settlement.table import Judge
from mailman_mta_pool.shown import HIDDEN
from mailman_mta_pool.wire.capabilities import Capabilities
from mailman_mta_pool.wire.replies import Reply
from mailman_mta_pool.wire.transaction import Stage
from unittest import mock


DAY_S = 86400
NOW = 1_800_000_000.0
DER = ssl.PEM_cert_to_DER_cert(
    (files('mailman.testing') / 'ssl_test_cert.crt').read_text('ascii'))
NO_LOGIN = Problem('It is wrong.', 'Mend it.', ('[mta] smtp_user',))


def certificate(subject='a', issuer='b', days=1.5):
    return Certificate(subject, issuer, (), NOW - DAY_S, NOW + days * DAY_S,
                       subject.encode(), issuer.encode())


def checked(*steps, name='localhost:25', **options):
    """A check of one server with these steps."""
    return Check(NOW, [Step('configuration', 'x.cfg')], [RelayCheck(
        name, '[mta]', 'smtp', list(steps), milliseconds=12.4, **options)])


class TestCertificate(unittest.TestCase):
    def test_as_python_reads_it(self):
        # `ssl` tells what it says of those authorities that it trusts.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=DER)
        theirs, = context.get_ca_certs()
        ours = read_certificate(DER)
        self.assertEqual(
            (ours.not_before, ours.not_after),
            tuple(ssl.cert_time_to_seconds(theirs[key])
                  for key in ('notBefore', 'notAfter')))
        self.assertEqual(
            ours.subject,
            'C=US, ST=MA, O=Mailman test certificate, CN=localhost')
        self.assertEqual(ours.names, ('localhost',))
        self.assertTrue(ours.is_self_signed)

    def test_authorities_of_the_system(self):
        context = ssl.create_default_context()
        theirs = {
            (ssl.cert_time_to_seconds(each['notBefore']),
             ssl.cert_time_to_seconds(each['notAfter']))
            for each in context.get_ca_certs()}
        ours = {(each.not_before, each.not_after) for each in map(
            read_certificate, context.get_ca_certs(True))}
        self.assertEqual(ours, theirs)

    def test_days_left(self):
        for days, left in (1.5, 1), (0.5, 0), (-0.5, -1), (-2, -2):
            self.assertEqual(certificate(days=days).days_left(NOW), left)

    def test_cut_off(self):
        for end in range(len(DER)):
            with self.assertRaises(ValueError):
                read_certificate(DER[:end])

    @settings(max_examples=200, deadline=None)
    @given(st.integers(0, len(DER) - 1), st.integers(0, 255))
    def test_damaged(self, index, octet):
        damaged = DER[:index] + bytes([octet]) + DER[index + 1:]
        try:
            read = read_certificate(damaged)
        except ValueError:
            return
        self.assertTrue(f'{read.subject}{read.issuer}'.isprintable())

    def test_chain(self):
        self.assertEqual(chain_of([DER], [DER]), (
            'C=US, ST=MA, O=Mailman test certificate, CN=localhost',))
        self.assertEqual(chain_of([b'garbage'], [DER]), ())
        self.assertEqual(chain_of([], []), ())


class TestWords(unittest.TestCase):
    def setUp(self):
        self.words = Words(RelaySettings(
            user='zaphod', password=Secret('Tr0mbone-Zebra')))

    def test_usual(self):
        self.assertEqual(self.words(Reply(250, (b'2.1.5 Ok',))),
                         '250 2.1.5 Ok')
        self.assertEqual(self.words(b'a\x1b[31m\xff'), 'a [31m\\xff')
        self.assertEqual(self.words('zaphod'), 'zaphod')

    def test_secrets(self):
        # The last one is PLAIN.
        for secret in ('Tr0mbone-Zebra', 'VHIwbWJvbmUtWmVicmE=',
                       'AHphcGhvZABUcjBtYm9uZS1aZWJyYQ=='):
            reply = Reply(550, (f'No: {secret}'.encode(),))
            self.assertEqual(self.words(reply), HIDDEN)
            problem = self.words.problem(Problem(secret, secret))
            self.assertEqual(problem, Problem(HIDDEN, HIDDEN))

    def test_a_short_one(self):
        words = Words(RelaySettings(user='zaphod', password=Secret('x')))
        self.assertEqual(words(b'No: AHphcGhvZAB4'), HIDDEN)

    def test_without_a_password(self):
        self.assertEqual(Words(RelaySettings(user='a'))('x'), 'x')

    def test_long(self):
        self.assertEqual(
            len(self.words(Reply(250, (b'x' * 2000,) * 99))), LENGTH + 2)


class TestProblems(unittest.TestCase):
    def setUp(self):
        self.judge = Judge(Catalogue(shipped_answers()))

    def opening(self, phase, error, **options):
        try:
            with translated('a:25', phase):
                raise error
        except Exception as problem:
            return problem, problem_of_opening(
                problem, Situation(RelaySettings(), 'a:25', {}, **options),
                self.judge)

    def test_a_limit_of_this_machine_is_nobodys_fault(self):
        raised, problem = self.opening(
            'connect', OSError(errno.EMFILE, 'Too many open files'))
        self.assertIsInstance(raised, UnavailableHere)
        self.assertIs(problem.status, Status.unknown)
        self.assertEqual(problem.keys, ())

    def test_refused_logins(self):
        for code, text, words in (
                (535, b'5.7.8 No', 'smtp_user and smtp_pass'),
                (504, b'5.5.4 What?', 'another mechanism'),
                (538, b'5.7.11 Encryption', 'smtp_secure_mode'),
                (432, b'4.7.12 Transition', 'PLAIN')):
            with self.subTest(code=code):
                _, problem = self.opening(
                    'AUTH', smtplib.SMTPAuthenticationError(code, text))
                self.assertIn(words, problem.remedy)

    def test_look_up_hangs(self):
        _, problem = self.opening('connect', TimeoutError('no answer'))
        self.assertEqual(problem.keys, ('[mta] smtp_host',))
        self.assertIn('resolv.conf', problem.remedy)

    def test_no_name_server(self):
        _, problem = self.opening('connect', socket.gaierror(
            socket.EAI_AGAIN, 'Temporary failure in name resolution'))
        self.assertIn('resolv.conf', problem.remedy)
        _, problem = self.opening('connect', socket.gaierror(
            socket.EAI_NONAME, 'Name or service not known'))
        self.assertIn('getent', problem.remedy)

    def test_a_recipient_whom_we_refuse(self):
        # Only what the server says is about the login and the relaying.
        problem = problem_of_refusal(
            self.judge.judge(Stage.here, Reply(553, (b'5.6.7 SMTPUTF8',))),
            RelaySettings(), 'x', True)
        self.assertEqual(problem.keys, ('[mailman] site_owner',))
        self.assertIn('--to', problem.remedy)

    def test_authorities_that_no_runner_sees(self):
        # Mailman's master hands on no SSL_CERT_FILE.
        error = CertificateRefused('a:25', 'TLS', 'unable to get it')
        error.__cause__ = ssl.SSLCertVerificationError(1, 'unable to get it')
        error.__cause__.verify_code = min(UNTRUSTED)
        for path in None, '', '/nowhere/ca.pem', '/':
            with self.subTest(path=path), mock.patch.dict(
                    os.environ, {} if path is None else {
                        'SSL_CERT_FILE': path}):
                if path is None:
                    os.environ.pop('SSL_CERT_FILE', None)
                remedy = problem_of_opening(
                    error, Situation(RelaySettings(), 'a:25', {}),
                    self.judge).remedy
                self.assertIn('update-ca-certificates', remedy)
                self.assertEqual('no runner' in remedy, path is not None)
                self.assertEqual(
                    'cannot be read' in remedy, path is not None)

    def test_every_refusal_has_a_remedy_and_a_key(self):
        for answer in shipped_answers():
            for code in (450, 550):
                judgement = self.judge.judge(Stage.rcpt, Reply(code, (
                    b'x',)))._replace(about=answer.about,
                                      remedy=answer.remedy)
                problem = problem_of_refusal(
                    judgement, RelaySettings(), 'x', True)
                self.assertTrue(problem.remedy, answer)
                self.assertTrue(problem.keys, answer)

    def test_keys_in_the_words_of_the_catalogue(self):
        judgement = self.judge.judge(Stage.rcpt, Reply(
            530, (b'5.7.0 Must issue a STARTTLS command first',)))
        self.assertIn('smtp_secure_mode', judgement.remedy)
        # With a login or without, as it is the same code.
        for relay in RelaySettings(), RelaySettings(user='a', password='b'):
            problem = problem_of_refusal(judgement, relay, 'x', True)
            self.assertEqual(problem.keys, ('[mta] smtp_secure_mode',))
            self.assertNotIn('login', problem.text)


class TestOffers(unittest.TestCase):
    def test_switched_off(self):
        relay = RelaySettings()
        wire = relay.wire
        off = RelaySettings(wire=type(wire)(pipelining=False, chunking=False))
        server = Capabilities([
            ('PIPELINING', ()), ('CHUNKING', ()), ('AUTH', ('PLAIN',))])
        for each, used in (relay, True), (off, False):
            uses = {extension.keyword: extension for extension in
                    extensions_of(server, None, each, Settings(), '')}
            self.assertIs(uses['PIPELINING'].is_used, used)
            self.assertIs(uses['CHUNKING'].is_used, used)
            self.assertFalse(uses['AUTH'].is_used)
        self.assertIn('[relay.mta] chunking', uses['CHUNKING'].text)

    def test_starttls_was_offered_in_clear(self):
        relay = RelaySettings(secure_mode='starttls')
        uses = {extension.keyword: extension for extension in extensions_of(
            Capabilities(), Capabilities([('STARTTLS', ())]), relay,
            Settings(), '')}
        self.assertTrue(uses['STARTTLS'].is_used)

    def test_limits_of_the_server_are_lower(self):
        server = Capabilities([('LIMITS', ('RCPTMAX=7', 'MAILMAX=3'))])
        limits = {limit.name: limit for limit in limits_of(
            server, RelaySettings(max_sessions_per_connection=2), Settings())}
        self.assertEqual(limits['recipients'].value, 7)
        self.assertEqual(limits['messages in a connection'].value, 2)

    def test_connections_of_one_runner_or_of_all(self):
        site = Settings(pool=PoolSettings(max_connections=4))
        each = '4 for each out runner ([mta] max_delivery_threads)'
        for name, maximum, value, text in (
                (MTA, 0, 4, each), ('mx', 0, 4, each),
                ('mx', 9, 9, '9 for all out runners of this host together '
                 '([relay.mx] max_connections), beside that of this check'),
                (MTA, 9, 4, f'{each}, 9 for all out runners of this host '
                 'together ([relay.mta] max_connections), beside that of '
                 'this check')):
            with self.subTest(name, maximum=maximum):
                limit = limits_of(Capabilities(), RelaySettings(
                    name=name, max_connections=maximum), site)[0]
                self.assertEqual(
                    limit, Limit('connections', value, text))

    def test_hastened(self):
        timeouts = hastened(Timeouts(connect=3), 15)
        self.assertEqual((timeouts.connect, timeouts.greeting), (3, 15))


class TestMonitoringLine(unittest.TestCase):
    def test_ok(self):
        self.assertEqual(
            monitoring_line(checked(
                Step('ehlo', 'x', 1.5), Step('tls', 'x', 2.5),
                Step('ehlo', 'x', 1.0), certificate=certificate())),
            ('MTA_POOL OK - localhost:25 accepts mail from us in 12 ms | '
             'ehlo=2.500ms;;;0 tls=2.500ms;;;0 total=12.400ms;;;0 '
             'days_left=1;14:;0:', 0))

    def test_each_status(self):
        for status, word, number in (
                (Status.warning, 'WARNING', 1), (Status.failed, 'CRITICAL', 2),
                (Status.unknown, 'UNKNOWN', 3)):
            line, code = monitoring_line(checked(Step(
                'auth', 'x', 1, problem=Problem(
                    'a | b\n\x07', keys=('[mta] smtp_user',),
                    status=status))))
            self.assertEqual(
                (line.partition(' | ')[0], code),
                (f'MTA_POOL {word} - auth: a / b   ([mta] smtp_user)',
                 number))

    def test_several_servers(self):
        check = checked(Step('connect', 'x', 1))
        check.relays += checked(name="o'hara=1:25").relays
        self.assertEqual(
            monitoring_line(check)[0].partition(' | ')[2],
            "'localhost:25_connect'=1.000ms;;;0 "
            "'localhost:25_total'=12.400ms;;;0 "
            "'o''hara_1:25_total'=12.400ms;;;0")

    def test_no_server_could_be_tried(self):
        check = Check(NOW, [Step('configuration', 'x', problem=NO_LOGIN)])
        self.assertEqual(
            monitoring_line(check)[0].partition(' | ')[2],
            'total=0.000ms;;;0')

    def test_worst(self):
        self.assertIs(worst_of([]), Status.ok)
        self.assertIs(worst_of([Status.ok, Status.warning]), Status.warning)
        self.assertIs(
            worst_of([Status.unknown, Status.failed, Status.warning]),
            Status.failed)

    def test_unknown(self):
        self.assertEqual(unknown_line('a|b\nc'), 'MTA_POOL UNKNOWN - a/b c')


class TestCommand(unittest.TestCase):
    """The command with a check of the test's own."""

    def command(self, *options, check=None, error=None):
        checker = mock.Mock(check=check, doing='connect of a:25')
        checker.run.side_effect = error
        with mock.patch.object(console, 'Checker', return_value=checker):
            return CliRunner().invoke(console.command, options)

    def test_status(self):
        for status, code in (
                (Status.warning, 0), (Status.failed, 1), (Status.unknown, 1)):
            result = self.command(check=checked(Step(
                'auth', 'x', 1, problem=Problem('Bad.', status=status))))
            self.assertEqual(result.exit_code, code)
        self.assertEqual(
            self.command(check=checked(Step('auth', 'x'))).exit_code, 0)

    def test_text(self):
        lines = self.command(check=checked(
            Step('connect', 'to \x1b[31m', 1.25, ('more',)),
            Step('auth', '535 No', 2, problem=NO_LOGIN))).output.splitlines()
        self.assertIn('localhost:25, smtp ([mta])', lines)
        self.assertIn('ok       connect           1.2 ms  to  [31m', lines)
        self.assertEqual(lines[-3:], [
            'FAILED at auth: It is wrong.', '  What to do: Mend it.',
            '  Where: [mta] smtp_user'])

    def test_json(self):
        report = json.loads(self.command('--json', check=checked(
            Step('auth', '535 No', 2, problem=NO_LOGIN))).output)
        self.assertEqual(report['version'], 1)
        self.assertEqual(
            report['relays'][0]['steps'][0]['keys'], ['[mta] smtp_user'])

    def test_an_error_of_ours(self):
        for options, code in ((), 1), (('--json',), 1), (('--monitoring',), 3):
            result = self.command(*options, error=KeyError('what'))
            self.assertEqual(result.exit_code, code)
            self.assertRegex(
                result.output, "connect of a:25: KeyError: 'what' .*")
            self.assertEqual(result.output.count('\n'), 1)

    def test_interrupted(self):
        for options, code in ((), 130), (('--monitoring',), 3):
            result = self.command(*options, error=KeyboardInterrupt)
            self.assertEqual(result.exit_code, code)
            self.assertEqual(result.output.count('\n'), 1)

    def test_bad_options(self):
        for options in (('--bad',), ('--to', 'x'), ('--timeout', '0'),
                        ('--json', 'extra')):
            self.assertEqual(self.command(*options).exit_code, 2)
            result = self.command(*options, '--monitoring')
            self.assertEqual(result.exit_code, 3)
            self.assertRegex(result.output, '^MTA_POOL UNKNOWN - .*\n$')
