# SPDX-License-Identifier: GPL-3.0-or-later
"""`mailman mta-pool check`, as administrators and monitoring systems see it.

Each case has a server that misbehaves in one way, and names the key of the
configuration that the first failure has to name.
"""

import os
import re
import json
import signal
import socket
import unittest
import threading

from contextlib import contextmanager, ExitStack, suppress
from importlib.resources import files
from jsonschema import Draft202012Validator
from mailman_mta_pool.demo.compare import PLUGIN
from mailman_mta_pool.demo.process import Child
from mailman_mta_pool.demo.site import ThrowawaySite
from subprocess import DEVNULL, PIPE
from tests.certificates import server_context
from tests.documentation import trusted_test_certificate
from tests.fault.cases import always
from tests.operate.authority import Authority
from tests.operate.command import mta_pool
from tests.scripted import CLOSE, HANG, Scripted
from tests.servers.loopback import HOST
from tests.servers.postfix import available, Postfix
from tests.site import SCRIPT, Site
from typing import NamedTuple
from unittest import mock


SCHEMA = json.loads((files('mailman_mta_pool') / 'checking' /
                     'check.schema.json').read_text('utf-8'))
USER, PASSWORD = 'zaphod', 'Tr0mbone-Zebra'
LOGIN = {'smtp_user': USER, 'smtp_pass': PASSWORD}
WITH_AUTH = 'PIPELINING', 'AUTH PLAIN'
# "label=value;warn;crit;min", as the Monitoring Plugins Guidelines have it.
PERFDATA = re.compile(
    r"('[^'=]+'|[^ '=]+)=-?[0-9.]+(ms)?(;[0-9:.]*){0,3}")
# For a step, in seconds: when the answer comes, and when it does not.
PATIENT, IMPATIENT = '120', 2
STEPS = ['resolve', 'connect', 'greeting', 'ehlo', 'relay', 'verp']


class Place(NamedTuple):
    """Where to connect."""

    host: str
    port: int


class Ran(NamedTuple):
    """What a command printed, and its exit status."""

    status: int
    output: str
    errors: str


def run_check(site, *options):
    """Run `mailman mta-pool check` at a site."""
    done = mta_pool(site, 'check', *options)
    return Ran(done.status, done.output.decode(), '\n'.join(done.errors))


@contextmanager
def reached(server, context=None, host=HOST):
    """Let a server be reached in another way.

    It yields something with a `host` and a `port`.

    :param server: Listens at `HOST`.
    :param context: The server's context for TLS from the first octet; None
        is clear text.
    :param host: The address to listen at.
    """
    def pass_on(source, target):
        with suppress(OSError):
            while True:
                octets = source.recv(65536)
                if not octets:
                    break
                target.sendall(octets)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def serve():
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            try:
                outer = (sock if context is None else
                         context.wrap_socket(sock, server_side=True))
            except OSError:
                # The client does not like the certificate.
                sock.close()
                continue
            inner = socket.create_connection((server.host, server.port))
            for pair in (outer, inner), (inner, outer):
                threading.Thread(
                    target=pass_on, args=pair, daemon=True).start()

    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield Place(host, listener.getsockname()[1])
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


class CheckTestCase(unittest.TestCase):
    """A site whose configuration each test writes anew."""

    maxDiff = 4000

    @classmethod
    def setUpClass(cls):
        cls.resources = ExitStack()
        cls.addClassCleanup(cls.resources.close)
        # Making a site takes longer than a check.
        cls.site = cls.resources.enter_context(Site(members=2))

    def setUp(self):
        self.used = ExitStack()
        self.addCleanup(self.used.close)

    def server(self, script=lambda command, session: None, **options):
        """Start a scripted server, and let the site deliver to it."""
        server = self.used.enter_context(Scripted(script, **options))
        self.site.set_up(server)
        return server

    def configure(self, server, **options):
        """Let the site deliver to a server; see `Site.set_up`."""
        self.site.set_up(server, **options)

    def check(self, *options, timeout=PATIENT):
        """Run the command."""
        ran = run_check(self.site, '--timeout', timeout, *options)
        self.assertNotIn('Traceback', ran.output + ran.errors)
        return ran

    def report(self, **options):
        """Return what --json prints, which fits the schema."""
        ran = self.check('--json', **options)
        report = json.loads(ran.output)
        Draft202012Validator(SCHEMA).validate(report)
        self.assertEqual(ran.status, report['status'] in ('failed', 'unknown'))
        return report

    def step(self, report, name):
        """Return the step of that name with the only relay."""
        relay, = report['relays']
        return next(step for step in relay['steps'] if step['name'] == name)

    def assertFails(self, name, key, *words, **options):
        """The first failure is at this step, and names this key and these.

        :return: The report.
        """
        report = self.report(**options)
        steps = report['steps'] + [
            step for relay in report['relays'] for step in relay['steps']]
        step = next(step for step in steps if step['status'] == 'failed')
        self.assertEqual(step['name'], name, step)
        self.assertEqual(step['keys'][:1], [key], step)
        self.assertTrue(step['remedy'], step)
        for word in words:
            self.assertIn(word, f'{step["problem"]} {step["remedy"]}')
        # What comes after a failure is not tried.
        self.assertIs(steps[-1], step)
        return report

    def assertWarns(self, name, key, *words):
        """Mail goes out all the same.

        :return: The report.
        """
        report = self.report()
        self.assertEqual(report['status'], 'warning', report)
        step = self.step(report, name)
        self.assertEqual(step['status'], 'warning', step)
        self.assertEqual(step['keys'][:1], [key], step)
        for word in words:
            self.assertIn(word, f'{step["problem"]} {step["remedy"]}')
        return report

    def assertPerfdata(self, line):
        """A monitoring system can read the line; return the values."""
        self.assertEqual(line.count('\n'), 1)
        text, _, perfdata = line.strip().partition(' | ')
        self.assertNotIn('|', perfdata)
        values = {}
        for each in perfdata.split():
            self.assertRegex(each, f'^{PERFDATA.pattern}$')
            label, _, value = each.partition('=')
            values[label] = value
        self.assertIn('total', values)
        return values


class TestGreen(CheckTestCase):
    def test_steps(self):
        server = self.server()
        report = self.report()
        self.assertEqual(report['status'], 'ok')
        relay, = report['relays']
        self.assertEqual([step['name'] for step in relay['steps']], STEPS)
        self.assertTrue(all(
            step['milliseconds'] > 0 for step in relay['steps']))
        self.assertEqual(relay['name'], f'{HOST}:{server.port}')
        self.assertEqual(
            self.step(report, 'greeting')['text'],
            '220 scripted.example.net ESMTP')
        self.assertIn('the server is scripted.example.net',
                      self.step(report, 'ehlo')['text'])
        limits = {limit['name']: limit['value'] for limit in relay['limits']}
        self.assertEqual(limits['connections'], 4)
        self.assertEqual(limits['recipients'], 10)
        # Not that of the check.
        self.assertEqual(limits['greeting_timeout'], 300)

    def test_nothing_is_sent(self):
        server = self.server()
        ran = self.check('--to', 'cris@example.net')
        self.assertEqual(ran.status, 0, ran)
        self.assertIn('accepts mail from us; nothing was sent', ran.output)
        self.assertEqual(server.accepted, [])
        self.assertEqual(server.said('DATA') + server.said('BDAT'), [])
        self.assertEqual(server.said('MAIL'), [
            'MAIL FROM:<ant-bounces@example.com>',
            'MAIL FROM:<ant-bounces+cris=example.net@example.com>'])
        self.assertEqual(
            server.said('RCPT'), ['RCPT TO:<cris@example.net>'] * 2)
        self.assertEqual(len(server.said('RSET')), 2)
        # One connection, and a polite end of it.
        self.assertEqual(server.connections, 1)
        self.assertEqual(len(server.said('QUIT')), 1)

    def test_extensions(self):
        self.server(extensions=(
            'PIPELINING', 'SIZE 1000000', 'LIMITS RCPTMAX=5 MAILMAX=7',
            'X-ODD one two', 'DSN'))
        relay, = self.report()['relays']
        uses = {each['keyword']: each for each in relay['extensions']}
        self.assertEqual(
            [word for word, each in uses.items() if each['used']],
            ['PIPELINING', 'SIZE', 'LIMITS'])
        self.assertEqual(uses['X-ODD']['parameters'], 'one two')
        self.assertIn('[delivery] dsn: no', uses['DSN']['text'])
        self.assertFalse(uses['CHUNKING']['offered'])
        limits = {limit['name']: limit['value'] for limit in relay['limits']}
        self.assertEqual(limits['recipients'], 5)
        self.assertEqual(limits['messages in a connection'], 7)
        self.assertEqual(limits['message size'], 1000000)

    def test_one_message_in_a_connection(self):
        server = self.server()
        self.configure(server, max_sessions_per_connection=1)
        self.assertEqual(self.check().status, 0)
        self.assertEqual(server.connections, 2)

    def test_helo(self):
        server = self.server(always('EHLO', '502 What?'))
        report = self.report()
        self.assertEqual(report['status'], 'ok')
        self.assertEqual(len(server.said('HELO')), 1)

    def test_login(self):
        server = self.server(extensions=WITH_AUTH)
        self.configure(server, **LOGIN)
        report = self.report()
        self.assertEqual(report['status'], 'ok')
        self.assertEqual(self.step(report, 'auth')['text'], 'PLAIN')

    def test_host_outside_ascii(self):
        self.configure(Scripted(port=25), smtp_host='b\xfccher.invalid')
        self.assertFails('resolve', '[mta] smtp_host', 'b\xfccher.invalid')

    def test_several_addresses(self):
        server = self.server()
        self.configure(server, smtp_host='localhost')
        report = self.report()
        self.assertEqual(report['status'], 'ok')
        self.assertIn(HOST, self.step(report, 'resolve')['text'])
        self.assertIn(HOST, self.step(report, 'connect')['text'])

    def test_ipv6(self):
        front = self.used.enter_context(reached(self.server(), host='::1'))
        self.configure(front)
        report = self.report()
        self.assertEqual(report['status'], 'ok')
        self.assertIn('::1, port', self.step(report, 'connect')['text'])

    def test_devmode(self):
        server = self.server()
        self.configure(server, extra=(
            '[devmode]\nenabled: yes\nrecipient: dev@example.net\n'))
        self.assertWarns('relay', '[devmode] enabled', 'dev@example.net')
        self.assertEqual(
            set(server.said('RCPT')), {'RCPT TO:<dev@example.net>'})

    def test_without_a_list(self):
        with ThrowawaySite() as site, Scripted() as server:
            site.configure(
                {'smtp_host': HOST, 'smtp_port': server.port}, PLUGIN)
            ran = run_check(site)
            self.assertEqual(ran.status, 0, ran)
            self.assertEqual(
                server.said('MAIL')[0],
                'MAIL FROM:<mailman-bounces@example.com>')


class TestNoConnection(CheckTestCase):
    def test_refused(self):
        self.configure(None)
        self.assertFails('connect', '[mta] smtp_host', 'refused',
                         'systemctl status postfix')

    def test_no_such_name(self):
        self.configure(None, smtp_host='nowhere.invalid')
        self.assertFails('resolve', '[mta] smtp_host', 'nowhere.invalid')

    def test_no_name(self):
        for host in 'a' * 64 + '\xfc.example', '':
            self.configure(None, smtp_host=host)
            self.assertFails('resolve', '[mta] smtp_host', 'is no host name')

    def test_closed(self):
        self.server(always('CONNECT', CLOSE))
        self.assertFails('greeting', '[mta] smtp_host', 'does not greet')

    def test_another_protocol(self):
        self.server(always('CONNECT', b'SSH-2.0-OpenSSH_9.2\r\n'))
        self.assertFails('greeting', '[mta] smtp_port', 'no mail server')

    def test_tls_record(self):
        self.server(always('CONNECT', b'\x15\x03\x01\x00\x02\x02\x46\r\n'))
        self.assertFails('greeting', '[mta] smtp_secure_mode', 'smtps')

    def test_not_welcome(self):
        self.server(always('CONNECT', '554 5.7.1 Go away'))
        self.assertFails('greeting', '[mta] smtp_host', '554 5.7.1 Go away')

    def test_name_refused(self):
        self.server(always('EHLO', '550 5.7.1 Bad name'))
        self.assertFails('ehlo', '[mta] smtp_host', 'hostname')

    def test_lost_after_greeting(self):
        self.server(always('EHLO', CLOSE))
        self.assertFails('ehlo', '[mta] smtp_host', 'closed')


class TestNoAnswer(CheckTestCase):
    """Nobody answers in time, however fast this machine is."""

    def test_black_hole(self):
        # The kernel drops what comes when the backlog is full.
        with socket.create_server((HOST, 0), backlog=0) as hole:
            with socket.create_connection(hole.getsockname()):
                self.configure(Place(*hole.getsockname()))
                self.assertFails('connect', '[mta] smtp_host',
                                 'does not answer', 'firewall',
                                 timeout=IMPATIENT)

    def test_no_greeting(self):
        self.server(always('CONNECT', HANG))
        self.assertFails('greeting', '[mta] smtp_host', 'does not greet',
                         timeout=IMPATIENT)

    def test_ends(self):
        # Each of eight answers takes less than its time, and all of them more
        # than four times that.
        def script(command, session):
            if command.startswith(('CONNECT', 'EHLO', 'MAIL', 'RCPT', 'RSET')):
                waiting.wait(0.55 * timeout)
        waiting = threading.Event()
        self.addCleanup(waiting.set)
        server = self.server(script, extensions=())
        # On a slow machine one answer may take more than its time.
        for timeout in 1, 4, 16, 64:
            before = len(server.commands)
            report = self.report(timeout=timeout)
            self.assertEqual(report['status'], 'failed')
            remedy = report['relays'][0]['steps'][-1]['remedy']
            if 'allow more with --timeout' in remedy:
                break
        else:
            self.fail(remedy)
        self.assertGreater(len(server.commands) - before, 4)


class TestTLS(CheckTestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.authority = cls.resources.enter_context(Authority())

    def trusting(self):
        """Let this authority be trusted."""
        self.used.enter_context(mock.patch.dict(
            os.environ, SSL_CERT_FILE=str(self.authority.certificate)))

    def starttls(self, context, **mta):
        server = self.server(tls=context, extensions=('STARTTLS', *WITH_AUTH))
        self.configure(server, **{
            'smtp_host': 'localhost', 'smtp_secure_mode': 'starttls', **mta})
        return server

    def smtps(self, context, **mta):
        server = self.used.enter_context(Scripted(extensions=WITH_AUTH))
        front = self.used.enter_context(reached(server, context))
        self.configure(front, **{
            'smtp_host': 'localhost', 'smtp_secure_mode': 'smtps', **mta})
        return server

    def both(self):
        """Yield both ways, each as a function, a name and steps."""
        for way in (self.starttls, self.smtps):
            with self.subTest(way=way.__name__):
                yield way

    def test_green(self):
        self.trusting()
        context = self.authority.context('DNS:localhost', 'IP:192.0.2.1')
        for way in self.both():
            way(context, **LOGIN)
            report = self.report()
            self.assertEqual(report['status'], 'ok', report)
            step = self.step(report, 'tls')
            self.assertRegex(step['text'], 'TLSv1.[23], [A-Z0-9_-]+')
            self.assertIn('90 days left', step['more'])
            certificate = report['relays'][0]['certificate']
            self.assertEqual(certificate['days_left'], 90)
            self.assertEqual(certificate['names'], ['localhost', '192.0.2.1'])
            self.assertEqual(
                certificate['chain'], ['CN=the server', 'CN=The Ants'])
            self.assertEqual(self.step(report, 'auth')['text'], 'PLAIN')
            line = self.check('--monitoring').output
            self.assertEqual(
                self.assertPerfdata(line)['days_left'], '90;14:;0:')

    def test_few_days(self):
        self.trusting()
        for way in self.both():
            way(self.authority.context('DNS:localhost', days=13))
            report = self.assertWarns('tls', '[mta] smtp_verify_cert', '13')
            self.assertEqual(
                report['relays'][0]['certificate']['days_left'], 13)
            ran = self.check('--monitoring')
            self.assertEqual(ran.status, 1, ran)
            self.assertTrue(ran.output.startswith('MTA_POOL WARNING - tls'))

    def test_expired(self):
        self.trusting()
        for way in self.both():
            server = way(
                self.authority.context('DNS:localhost', days=-3), **LOGIN)
            report = self.assertFails(
                'tls', '[mta] smtp_verify_cert', 'expired on', 'The Ants')
            self.assertEqual(
                report['relays'][0]['certificate']['days_left'], -3)
            ran = self.check('--monitoring')
            self.assertEqual(ran.status, 2, ran)
            self.assertEqual(
                self.assertPerfdata(ran.output)['days_left'], '-3;14:;0:')
            self.assertEqual(server.said('AUTH'), [])

    def test_another_name(self):
        self.trusting()
        for way in self.both():
            way(self.authority.context('DNS:mail.example.com'))
            self.assertFails('tls', '[mta] smtp_host', 'mail.example.com',
                             'smtp_verify_hostname')

    def test_unknown_authority(self):
        for way in self.both():
            way(self.authority.context('DNS:localhost'))
            self.assertFails('tls', '[mta] smtp_verify_cert', 'The Ants',
                             'update-ca-certificates')

    def test_self_signed(self):
        for way in self.both():
            way(server_context())
            self.assertFails(
                'tls', '[mta] smtp_verify_cert', 'self-signed')
        with trusted_test_certificate():
            self.assertIn(
                'localhost',
                self.report()['relays'][0]['certificate']['names'])

    def test_unreadable_authorities(self):
        with mock.patch.dict(os.environ, SSL_CERT_FILE='/nowhere/ca.pem'):
            for way in self.both():
                way(self.authority.context('DNS:localhost'))
                self.assertFails('tls', '[mta] smtp_verify_cert',
                                 '/nowhere/ca.pem', 'cannot be read')

    def test_not_verified(self):
        for way in self.both():
            way(self.authority.context('DNS:ant.example'),
                smtp_verify_cert='no')
            report = self.report()
            self.assertEqual(report['status'], 'ok')
            self.assertTrue(any(
                'not verified' in line
                for line in self.step(report, 'tls')['more']))

    def test_tls_on_a_plain_port(self):
        for mode in 'smtp', 'starttls':
            with self.subTest(mode=mode):
                self.smtps(self.authority.context('DNS:localhost'),
                           smtp_secure_mode=mode)
                # Each of them waits for the other one.
                self.assertFails('greeting', '[mta] smtp_secure_mode',
                                 'smtp_secure_mode: smtps', timeout=IMPATIENT)

    def test_plain_on_a_tls_port(self):
        for extensions, mode in ((), 'smtp'), (('STARTTLS',), 'starttls'):
            with self.subTest(mode=mode):
                server = self.server(extensions=extensions)
                self.configure(server, smtp_secure_mode='smtps')
                self.assertFails('tls', '[mta] smtp_secure_mode',
                                 f'smtp_secure_mode: {mode}, or')

    def test_starttls_not_offered(self):
        server = self.server()
        self.configure(server, smtp_secure_mode='starttls', **LOGIN)
        self.assertFails('tls', '[mta] smtp_secure_mode', 'STARTTLS')
        self.assertEqual(server.said('AUTH'), [])

    def test_starttls_refused(self):
        server = self.server(always('STARTTLS', '454 4.7.0 No TLS now'),
                             extensions=('STARTTLS',))
        self.configure(server, smtp_secure_mode='starttls')
        self.assertFails('tls', '[mta] smtp_secure_mode', '454 4.7.0')


class TestLogin(CheckTestCase):
    def login(self, script=lambda command, session: None,
              extensions=WITH_AUTH, **mta):
        server = self.server(script, extensions=extensions)
        self.configure(server, **{**LOGIN, **mta})
        return server

    def test_wrong_password(self):
        self.login(always('AUTH', '535 5.7.8 Wrong'))
        report = self.assertFails(
            'auth', '[mta] smtp_user', '535 5.7.8 Wrong')
        self.assertIn('[mta] smtp_pass',
                      self.step(report, 'auth')['keys'])

    def test_password_is_not_shown(self):
        # Servers that echo what they got, at AUTH and later.
        def echo(command, session):
            verb = command.partition(' ')[0]
            if verb == 'AUTH':
                said.append(command)
            if verb == refusing:
                return f'550 5.7.1 {PASSWORD} {said[0]} is not for you'
        for refusing in ('AUTH', 'MAIL', 'RCPT'):
            with self.subTest(refusing=refusing):
                said = []
                self.login(echo)
                for options in ((), ('--json',), ('--monitoring',)):
                    ran = self.check(*options)
                    self.assertNotEqual(ran.status, 0)
                    secret = said[0].split()[2].rstrip('=')
                    for hidden in (PASSWORD, secret):
                        self.assertNotIn(hidden, ran.output + ran.errors)

    def test_refused_for_now(self):
        self.login(always('AUTH', '454 4.7.0 Try later'))
        self.assertFails('auth', '[mta] smtp_user', 'cannot check')

    def test_not_offered(self):
        self.login(extensions=())
        self.assertFails('auth', '[mta] smtp_user', 'does not offer AUTH')

    def test_nothing_in_common(self):
        self.login(extensions=('AUTH XOAUTH2',))
        self.assertFails('auth', '[mta] smtp_user', 'XOAUTH2')

    def test_only_within_tls(self):
        self.login(extensions=('STARTTLS',))
        self.assertFails('auth', '[mta] smtp_secure_mode', 'starttls')
        self.login(always('AUTH', '538 5.7.11 Encryption required'))
        self.assertFails('auth', '[mta] smtp_secure_mode', 'starttls')

    def test_half_of_it(self):
        self.login(smtp_pass='')
        self.assertWarns('auth', '[mta] smtp_user', 'Only one')

    def test_wanted(self):
        self.server(always('MAIL', '530 5.7.0 Authentication required'))
        self.assertFails('relay', '[mta] smtp_user', 'smtp_pass', 'mynetworks')


class TestRefusals(CheckTestCase):
    def test_relay_denied(self):
        self.server(always(
            'RCPT', '554 5.7.1 <cris@example.net>: Relay access denied'))
        report = self.assertFails(
            'relay', '[mta] smtp_user', 'Relay access denied', 'mynetworks')
        self.assertIn('[mta] smtp_host', self.step(report, 'relay')['keys'])

    def test_only_with_tls(self):
        # As Postfix has it, with smtpd_tls_security_level = encrypt.
        self.server(always('MAIL', '530 5.7.0 Must issue a STARTTLS command '
                           'first'), extensions=('STARTTLS',))
        self.assertFails('relay', '[mta] smtp_secure_mode', 'starttls')

    def test_sender_refused(self):
        for verb in ('MAIL', 'RCPT'):
            with self.subTest(verb=verb):
                self.server(always(
                    verb, '553 5.1.8 <ant-bounces@example.com>: Sender '
                    'address rejected: Domain not found'))
                self.assertFails('relay', '[mta] smtp_host', 'the sender',
                                 'DNS')

    def test_recipient_refused(self):
        self.server(always('RCPT', '550 5.1.1 No such user'))
        self.assertFails('relay', '[mailman] site_owner', '--to')

    def test_greylisting(self):
        self.server(always(
            'RCPT', '450 4.2.0 Recipient address rejected: Greylisted'))
        self.assertFails('relay', '[mta] smtp_host', 'greylisting')

    def test_not_now(self):
        self.server(always('RCPT', '451 4.3.0 Not now'))
        self.assertFails('relay', '[mta] smtp_host', 'at present')

    def test_unknown_words(self):
        self.server(always('RCPT', '550 Computer says no'))
        self.assertFails('relay', '[mta] smtp_user', 'Computer says no')

    def test_lost(self):
        for extensions in ((), ('PIPELINING',)):
            for verb in ('MAIL', 'RCPT'):
                with self.subTest(verb=verb, extensions=extensions):
                    self.server(always(verb, CLOSE), extensions=extensions)
                    self.assertFails('relay', '[mta] smtp_host', 'broke')

    def test_verp_refused(self):
        self.server(always(
            'MAIL', '550 5.1.0 Sender unknown', who='+changeme='))
        self.assertWarns(
            'verp', '[mta] verp_format', 'recipient_delimiter')
        self.assertEqual(self.check().status, 0)
        ran = self.check('--monitoring')
        self.assertEqual(ran.status, 1)
        self.assertPerfdata(ran.output)

    def test_verp_makes_no_address(self):
        server = self.server()
        self.configure(server, verp_format='${bounces} ${local}')
        self.assertWarns('verp', '[mta] verp_format', 'is no address')

    def test_no_smtputf8(self):
        self.server()
        ran = self.check('--to', 'cris@b\xfccher.example')
        self.assertEqual(ran.status, 1, ran)
        self.assertIn('needs SMTPUTF8', ran.output)
        self.assertNotIn('relay for', ran.output)

    def test_xverp_refused(self):
        self.server(always('MAIL', '501 5.5.4 Bad delimiters', who='XVERP'),
                    extensions=('PIPELINING', 'XVERP'))
        self.assertWarns('xverp', '[delivery] server_verp', '501 5.5.4')

    def test_control_characters(self):
        red = '\x1b[31m'
        self.server(always('CONNECT', f'554 {red}red\u202e\x07'))
        for options in ((), ('--json',), ('--monitoring',)):
            ran = self.check(*options)
            self.assertNotEqual(ran.status, 0)
            self.assertIn('red', ran.output)
            self.assertTrue(set(ran.output) <= set(
                map(chr, range(32, 127))) | {'\n'}, ran.output)

    def test_no_address(self):
        server = self.server()
        for address in ('cris', 'a@b>\r\nDATA', '', 'a@b c@d'):
            ran = self.check('--to', address)
            self.assertEqual(ran.status, 2, ran)
        self.assertEqual(server.connections, 0)


class TestConfiguration(CheckTestCase):
    """A mistake keeps the command from nothing that it can do."""

    def test_own_file(self):
        server = self.server()
        self.configure(server, settings={'delivery': {'atempts': 3}})
        report = self.report()
        step, = report['steps']
        self.assertEqual(step['keys'], ['[delivery] atempts'])
        self.assertIn('atempts', step['text'])
        # The server is tried with the defaults.
        self.assertEqual(report['relays'][0]['status'], 'ok')
        self.assertEqual(self.check('--monitoring').status, 2)

    def test_mta(self):
        server = self.server()
        for key, value in (('smtp_port', 'smtp'), ('smtp_port', '70000'),
                           ('smtp_secure_mode', 'ssl'),
                           ('smtp_verify_cert', 'perhaps')):
            with self.subTest(key=key):
                self.configure(server, **{key: value})
                self.assertFails('configuration', f'[mta] {key}', value)
        self.assertEqual(server.connections, 0)


class TestMonitoring(CheckTestCase):
    def test_ok(self):
        self.server()
        ran = self.check('--monitoring')
        self.assertEqual((ran.status, ran.errors), (0, ''))
        self.assertRegex(
            ran.output,
            r'^MTA_POOL OK - \S+ accepts mail from us in \d+ ms \|')
        self.assertEqual(
            list(self.assertPerfdata(ran.output)), [*STEPS, 'total'])

    def test_critical(self):
        self.server(always('RCPT', '554 5.7.1 a | b Relay access denied'))
        ran = self.check('--monitoring')
        self.assertEqual((ran.status, ran.errors), (2, ''))
        self.assertRegex(ran.output, '^MTA_POOL CRITICAL - relay: .*smtp_user')
        self.assertEqual(
            list(self.assertPerfdata(ran.output)), [*STEPS[:-1], 'total'])

    def test_bad_options(self):
        server = self.server()
        for options in (
                ('--monitoring', '--no-such'), ('--to', '--monitoring'),
                ('--monitoring', '--to'), ('--monitoring', 'something'),
                ('--monitoring', '--timeout', 'soon'),
                ('--monitoring', '--json'), ('--monitoring', '--to', 'cris')):
            with self.subTest(options=options):
                ran = self.check(*options)
                self.assertEqual((ran.status, ran.errors), (3, ''))
                self.assertRegex(ran.output, '^MTA_POOL UNKNOWN - .+\n$')
        self.assertEqual(self.check('--no-such').status, 2)
        self.assertEqual(server.connections, 0)


class TestProcess(CheckTestCase):
    """A process of its own, which has imported nothing before."""

    def start(self, *options):
        return Child(
            '-c', SCRIPT.format('mailman'), '--run-as-root', '-C',
            str(self.site.configuration), 'mta-pool', 'check', '--timeout',
            PATIENT, *options, cwd=self.site.directory, stdin=DEVNULL,
            stdout=PIPE, stderr=PIPE)

    def finished(self, child):
        output, errors = child.communicate(None)
        return Ran(child.status, output.decode(), errors.decode())

    def interrupted(self, *options):
        server = self.server(always('EHLO', HANG))
        child = self.start(*options)
        server.wait_for(lambda server: server.said('EHLO'))
        child.signal(signal.SIGINT)
        return self.finished(child)

    def test_green(self):
        server = self.server()
        ran = self.finished(self.start())
        self.assertEqual((ran.status, ran.errors), (0, ''))
        self.assertEqual(len(server.said('QUIT')), 1)

    def test_one_line(self):
        ran = self.interrupted()
        self.assertEqual(ran.status, 130, ran)
        self.assertEqual(ran.output, '')
        self.assertRegex(
            ran.errors, r'^Interrupted at this step: ehlo of \S+\.\n$')

    def test_monitoring(self):
        ran = self.interrupted('--monitoring')
        self.assertEqual((ran.status, ran.errors), (3, ''))
        self.assertRegex(ran.output, '^MTA_POOL UNKNOWN - Interrupted.*\n$')


@unittest.skipIf(available(), available())
class TestPostfix(CheckTestCase):
    """A real server, with a configuration of Postfix's own defaults."""

    def postfix(self, **parameters):
        server = self.used.enter_context(Postfix(**parameters))
        self.configure(server)
        return server

    def test_green(self):
        server = self.postfix(smtpd_authorized_verp_clients='127.0.0.0/8')
        report = self.report()
        self.assertEqual(report['status'], 'ok', report)
        self.assertEqual(
            [step['name'] for step in report['relays'][0]['steps']],
            [*STEPS, 'xverp'])
        self.assertIn('XVERP=+=', self.step(report, 'xverp')['text'])
        self.assertEqual(server.received(), [])

    def test_relay_denied(self):
        self.postfix(
            mynetworks='192.0.2.1/32', smtpd_relay_restrictions=(
                'permit_mynetworks, reject_unauth_destination'))
        self.assertFails('relay', '[mta] smtp_user', 'Relay access denied',
                         'mynetworks')

    def test_unknown_verp_sender(self):
        self.postfix(
            mydestination='example.com', recipient_delimiter='',
            local_recipient_maps='inline:{ant-bounces=x changeme=x}',
            smtpd_sender_restrictions='reject_unlisted_sender')
        self.assertWarns('verp', '[mta] verp_format', 'recipient_delimiter')

    def test_stopped(self):
        server = self.postfix()
        server.stop()
        self.assertFails('connect', '[mta] smtp_host',
                         'systemctl status postfix')
