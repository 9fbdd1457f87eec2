# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole check of a site with several relays; see tests/operate/check.py.
"""

import os
import ssl
import sys
import unittest

from contextlib import ExitStack
from importlib.util import find_spec
from jsonschema import Draft202012Validator
from mailman.app.lifecycle import create_list
from mailman.testing.helpers import configuration
from mailman.testing.layers import ConfigLayer
from mailman_mta_pool.checking.checker import Checker
from mailman_mta_pool.checking.monitoring import monitoring_line
from mailman_mta_pool.checking.steps import Status
from mailman_mta_pool.connection.srv import Target
from pathlib import Path
from tempfile import TemporaryDirectory
from tests.fault.cases import always
from tests.operate.authority import Authority, available as no_openssl
from tests.operate.check import SCHEMA
from tests.scripted import Scripted
from tests.site import free_port
from tests.test_tls import only
from unittest import mock


ASK_DNS = 'mailman_mta_pool.connection.srv.ask_dns'
SERVICE = 'srv:_submission._tcp.example.com'
STEPS = ['resolve', 'connect', 'greeting', 'ehlo', 'relay', 'verp']
PASSWORD = 'Tr0mbone-Zebra'


class CheckerTestCase(unittest.TestCase):
    layer = ConfigLayer

    def setUp(self):
        self.used = ExitStack()
        self.addCleanup(self.used.close)
        self.directory = Path(self.used.enter_context(TemporaryDirectory()))
        self.path = self.directory / 'mta_pool.cfg'
        self.used.enter_context(configuration(
            'plugin.mta_pool',
            **{'class': 'mailman_mta_pool.plugin.MTAPoolPlugin'},
            enabled='yes', component_package='mailman_mta_pool',
            configuration=str(self.path)))

    def server(self, script=lambda command, session: None, **options):
        return self.used.enter_context(Scripted(script, **options))

    def check(self, text, mode=0o600):
        """What a check with this file finds."""
        self.path.write_text(text)
        self.path.chmod(mode)
        checker = Checker('anne@example.org', 20)
        checker.run()
        Draft202012Validator(SCHEMA).validate(checker.check.to_dict())
        return checker.check

    def relay(self, name, server, more=''):
        return (f'[relay.{name}]\nhost: {server.host}\nport: {server.port}\n'
                f'{more}')

    def problem(self, check, name):
        """The only problem of a check, at a step of this name."""
        (label, step), = [
            found for found in check.labelled() if found[1].problem]
        self.assertEqual(step.name, name)
        self.label = label
        return step.problem


@unittest.skipIf(no_openssl(), no_openssl())
class TestTLS(CheckerTestCase):
    """What the line in the log says is said here, too."""

    def setUp(self):
        super().setUp()
        self.ants = self.used.enter_context(Authority())
        self.good = self.ants.issue('DNS:localhost')

    def refused(self, context, keys='', script=lambda command, session: None,
                extensions=('STARTTLS',)):
        """The problem of a relay; its key without the section."""
        server = self.server(script, tls=context, extensions=extensions)
        problem = self.problem(self.check(
            f'[relay.a]\nhost: localhost\nport: {server.port}\n'
            f'secure_mode: starttls\ntls_ca: {self.ants.certificate}\n' +
            keys), 'tls')
        return problem.keys[0].partition('[relay.a] ')[2], (
            f'{problem.text} {problem.remedy}')

    def test_in_the_words_of_the_log(self):
        def injecting(command, session):
            if command == 'STARTTLS':
                return b'220 Ready\r\n250 AUTH PLAIN\r\n'

        good = self.good.context()
        for case, key, *words in (
                ((only(self.good.context(), ssl.TLSVersion.TLSv1_2),
                  'tls_min_version: 1.3\n'), 'tls_min_version', '1.2 may do'),
                ((self.ants.context('DNS:localhost', purpose='clientAuth'),),
                 'tls_fingerprint', 'made anew', 'The Ants'),
                ((good, '', injecting), 'secure_mode', 'in clear between',
                 "server's mouth", '-starttls smtp'),
                ((None, '', injecting, ()), 'secure_mode',
                 'does not offer STARTTLS', 'somebody on the way'),
                ((None, '', injecting, ('XXXXXXXA',)), 'secure_mode',
                 'has hidden', 'fixup'),
                ((good, 'tls_fingerprint: ' + 64 * '0'), 'tls_fingerprint',
                 'somebody is in between'),
                ((good, 'tls_names: a.example.com'), 'tls_names', 'for none')):
            with self.subTest(words=words):
                found, text = self.refused(*case)
                self.assertEqual(found, key)
                for word in words:
                    self.assertIn(word, text)

    def test_another_name(self):
        key, text = self.refused(self.ants.context(*(
            f'DNS:h{number}.example.com' for number in range(2000))))
        self.assertEqual(key, 'host')
        self.assertIn('[relay.a] tls_names in mta_pool.cfg to the names', text)
        self.assertIn('h19.example.com and 1980 more', text)

    def test_line_about_names_without_an_end(self):
        names = [f'{9 * (60 * "x" + ".")}h{n}.example.com' for n in range(40)]
        server = self.server(tls=self.ants.context(
            'DNS:localhost', *(f'DNS:{name}' for name in names)),
            extensions=('STARTTLS',))
        step, = [step for _, step in self.check(
            f'[relay.a]\nhost: localhost\nport: {server.port}\n'
            f'secure_mode: starttls\ntls_ca: {self.ants.certificate}\n',
            ).labelled() if step.name == 'tls']
        self.assertIn('names: localhost, xxx', step.more[1])
        self.assertLess(len(step.more[1]), 1100)

    def test_certificate_of_the_name_that_is_asked_for(self):
        # The second connection, which is for the certificate, asks for the
        # same name as the first.
        context, asked = self.good.context(), []
        context.sni_callback = lambda sock, name, _: asked.append(name)
        self.refused(context, 'tls_names: a.example.com\n')
        self.assertEqual(asked, 2 * ['a.example.com'])


class TestRelays(CheckerTestCase):
    def test_each_one(self):
        first, second = self.server(), self.server()
        check = self.check(
            self.relay('first', first) +
            self.relay('backup', second, 'priority: 20\nmax_connections: 3\n'))
        self.assertIs(check.status, Status.ok)
        self.assertEqual([relay.section for relay in check.relays],
                         ['[relay.first]', '[relay.backup]'])
        for relay, server in zip(check.relays, (first, second)):
            self.assertEqual([step.name for step in relay.steps], STEPS)
            self.assertEqual(relay.name, f'{server.host}:{server.port}')
            self.assertEqual(server.connections, 1)
            self.assertEqual(server.accepted, [])
        text = check.relays[1].limits[0].text
        self.assertIn('3 for all out runners of this host together '
                      '([relay.backup] max_connections)', text)
        # The ceiling does not count it.
        self.assertIn('beside that of this check', text)

    def test_one_is_down(self):
        server = self.server()
        check = self.check(
            self.relay('first', server) +
            f'[relay.backup]\nhost: 127.0.0.1\nport: {free_port()}\n')
        problem = self.problem(check, 'connect')
        self.assertEqual(
            problem.keys, ('[relay.backup] host', '[relay.backup] port'))
        self.assertIn('[relay.backup] host and port in mta_pool.cfg',
                      problem.remedy)
        self.assertEqual(self.label, check.relays[1].name)
        line, status = monitoring_line(check)
        self.assertEqual(status, 2)
        self.assertIn(f'{self.label}: connect: Nobody listens', line)
        self.assertIn('[relay.backup] host', line)

    def test_the_keys_of_a_login(self):
        secret = self.directory / 'secret'
        secret.write_text(PASSWORD)
        secret.chmod(0o600)
        for said, key in (
                (f'password: {PASSWORD}', 'password'),
                (f'password_file: {secret}', 'password_file'),
                (f'password_command: cat {secret}', 'password_command')):
            with self.subTest(key=key):
                server = self.server(
                    always('AUTH', '535 5.7.8 No'), extensions=('AUTH PLAIN',))
                check = self.check(
                    self.relay('ses', server, f'user: ant\n{said}\n'))
                problem = self.problem(check, 'auth')
                self.assertEqual(
                    problem.keys, ('[relay.ses] user', f'[relay.ses] {key}'))
                self.assertIn(f'[relay.ses] user and {key} in mta_pool.cfg',
                              problem.remedy)
                self.assertNotIn('smtp_', repr(problem))
                self.assertNotIn(PASSWORD, repr(check))

    def test_no_token(self):
        server = self.server(extensions=('AUTH XOAUTH2',))
        problem = self.problem(self.check(self.relay(
            'ses', server, 'user: ant\ntoken_command: false\n')), 'auth')
        self.assertRegex(problem.text, 'ended with status 1.$')
        self.assertRegex(problem.remedy, '^Run it by hand')
        self.assertEqual(
            problem.keys, ('[relay.ses] user', '[relay.ses] token_command'))

    def test_no_mechanism_in_common(self):
        server = self.server(extensions=('AUTH XOAUTH2 PLAIN',))
        for said, names in (
                (f'password: {PASSWORD}\nauth: SCRAM-SHA-1',
                 'with SCRAM-SHA-1 on'),
                ('token_command: echo x\nauth: OAUTHBEARER',
                 'with OAUTHBEARER on')):
            with self.subTest(said):
                problem = self.problem(self.check(self.relay(
                    'ses', server, f'user: ant\n{said}\n')), 'auth')
                self.assertIn(f'switch AUTH {names}', problem.remedy)

    def test_one_server_with_two_logins(self):
        server = self.server(extensions=('AUTH PLAIN',))
        check = self.check(''.join(
            self.relay(name, server, f'user: {name}\npassword: x\n'
                       f'for: {name}@example.com\n')
            for name in ('ant', 'bee')) + self.relay('other', self.server()))
        self.assertIs(check.status, Status.ok)
        _, _, perfdata = monitoring_line(check)[0].partition(' | ')
        labels = [each.partition('=')[0]
                  for each in perfdata.split("ms;;;0")]
        self.assertEqual(len(labels), len(set(labels)))
        self.assertIn(f'relay.ant {server.host}:{server.port}_total', perfdata)


class TestServices(CheckerTestCase):
    def targets(self, *servers):
        async def ask(query, timeout):
            self.assertEqual(query, '_submission._tcp.example.com')
            return [Target(number, 0, server.host, server.port)
                    for number, server in enumerate(servers)], 60.0
        self.used.enter_context(mock.patch(ASK_DNS, ask))

    def test_each_target(self):
        first, second = self.server(), self.server(
            always('RCPT', '550 5.7.1 Relaying denied'))
        self.targets(first, second)
        check = self.check(f'[relay.a]\nhost: {SERVICE}\n')
        self.assertEqual(
            [(relay.name, relay.section) for relay in check.relays],
            [(f'{each.host}:{each.port}', '[relay.a]')
             for each in (first, second)])
        self.assertIn(f'port {first.port}', check.relays[0].steps[1].text)
        self.assertIs(check.relays[0].status, Status.ok)
        problem = self.problem(check, 'relay')
        self.assertIn('[relay.a] user', problem.keys)
        for server in first, second:
            self.assertEqual(server.connections, 1)

    def test_no_record(self):
        self.targets()
        check = self.check(f'[relay.a]\nhost: {SERVICE}\n')
        problem = self.problem(check, 'resolve')
        self.assertEqual(check.relays[0].name, SERVICE)
        self.assertEqual(problem.keys[0], '[relay.a] host')
        self.assertIn('dig _submission._tcp.example.com SRV', problem.remedy)


class TestSite(CheckerTestCase):
    """What is about no server."""

    def test_lists(self):
        create_list('ant@example.com')
        create_list('bee@example.com')
        server = self.server()
        check = self.check(
            self.relay('a', server, 'for: ant@example.com\n'))
        warnings = [step.problem for step in check.steps
                    if step.name == 'lists']
        self.assertIs(check.status, Status.warning)
        for problem, word in zip(
                warnings, ('mail without a list', 'bee@example.com')):
            self.assertIn(word, problem.text)
            self.assertIn('mta_pool.cfg', problem.remedy)
            self.assertEqual(problem.keys, ('[relay.NAME] for',))
        self.assertEqual(len(warnings), 2)
        check = self.check(
            self.relay('a', server, 'for: ant@example.com\n') +
            self.relay('b', server))
        self.assertIs(check.status, Status.ok)
        self.assertIn('has a relay', check.steps[-1].text)

    def test_password_that_others_may_read(self):
        server = self.server(extensions=('AUTH PLAIN',))
        check = self.check(
            self.relay('a', server, f'user: ant\npassword: {PASSWORD}\n'),
            mode=0o644)
        problem = self.problem(check, 'passwords')
        self.assertIs(check.status, Status.warning)
        self.assertIn('every user of this host', problem.text)
        self.assertIn(f'chmod go-r {self.path}', problem.remedy)

    def test_a_program_that_prints_no_password(self):
        check = self.check(
            '[relay.a]\nhost: localhost\nuser: ant\npassword_command: false\n')
        problem = self.problem(check, 'configuration')
        self.assertIn('[relay.a] password_command', problem.text)
        self.assertIn('Correct the program', problem.remedy)
        # The server of [mta] is none of the site's.
        self.assertEqual(check.relays, [])

    @unittest.skipUnless(find_spec('redis'), 'redis-py is not installed')
    def test_redis(self):
        server = self.server()
        check = self.check(
            self.relay('a', server) +
            f'[limits]\nstorage: redis://ant:{PASSWORD}@127.0.0.1:'
            f'{free_port()}/0\nhosts: 2\n')
        problem = self.problem(check, 'limits')
        # Mail goes out all the same.
        self.assertIs(check.status, Status.warning)
        self.assertIs(check.relays[0].status, Status.ok)
        self.assertIn('cannot be used', problem.text)
        self.assertIn('hosts: 2', problem.remedy)
        self.assertEqual(problem.keys[0], '[limits] storage')
        self.assertNotIn(PASSWORD, repr(check))

    def test_no_redis_py(self):
        missing = {name: None for name in (
            'redis', 'mailman_mta_pool.limits.shared')}
        with mock.patch.dict(sys.modules, missing):
            check = self.check(
                '[relay.a]\nhost: localhost\n'
                '[limits]\nstorage: redis://localhost\n')
        problem = self.problem(check, 'configuration')
        self.assertIn('[limits] storage', problem.keys)
        self.assertIn("pip install 'mailman-mta-pool[redis]'", problem.text)

    def test_files_are_nothing_to_check(self):
        check = self.check(self.relay('a', self.server()))
        self.assertEqual(
            [step.name for step in check.steps], ['configuration'])
        self.assertEqual(os.path.basename(check.steps[0].text),
                         'mta_pool.cfg')
