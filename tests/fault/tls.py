# SPDX-License-Identifier: GPL-3.0-or-later

"""A server that is not the right one, or somebody in between, with a runner.

Each case has recipients of its own.  The runner reads the plugin's own file
for each post, so one runner meets all of them.
"""

import unittest

from mailman_mta_pool.demo.site import SiteError
from tests.fault.login import ScramServer
from tests.operate.authority import Authority, available
from tests.scripted import CLOSE, Scripted
from tests.site_case import SiteTestCase
from tests.test_tls import old_context
from typing import Any, NamedTuple, Tuple


PASSWORD = 'Tr0mbone-Zebra'
EXTENSIONS = ('PIPELINING', 'STARTTLS', 'AUTH PLAIN')
#: Instead of a server's context: it does not offer STARTTLS.
STRIPPED = object()


def injecting(command, session):
    """A script: something in clear comes with the reply to STARTTLS."""
    if command == 'STARTTLS':
        return b'220 Ready\r\n250 AUTH PLAIN\r\n'


class Case(NamedTuple):
    """A server, the keys of its relay, and what the log says of both."""

    context: Any
    keys: str
    words: Tuple[str, ...]
    script: Any = lambda command, session: None


class TLSTestCase(SiteTestCase):
    def setUp(self):
        super().setUp()
        self.ants, self.bees = (
            self.use(Authority(name)) for name in ('The Ants', 'The Bees'))
        self.good = self.ants.issue('DNS:localhost')
        self.trust = f'tls_ca: {self.ants.certificate}\n'

    def write(self, server, keys, login=f'password: {PASSWORD}\n'):
        """Make a server the only relay."""
        (self.made.directory / 'mta_pool.cfg').write_text(
            '[delivery]\npatience: 0\n[pool]\nidle_timeout: 0\n'
            '[relay.a]\nhost: localhost\nsecure_mode: '
            f'{"smtps" if server.is_tls_from_start else "starttls"}\n'
            f'port: {server.port}\nuser: ant\n{login}{keys}')

    def post(self, recipients):
        """Let the runner have a post, and return what the log says of it."""
        before = len(self.made.log('smtp.log'))
        self.made.post(recipients=set(recipients))
        self.made.wait_until_empty()
        return self.made.log('smtp.log')[before:]

    def line(self, log):
        """The only line about a relay that cannot be used."""
        line, = [each for each in log.splitlines()
                 if 'Mail server unavailable: ' in each]
        return line


@unittest.skipIf(available(), available())
class TestTLS(TLSTestCase):
    def setUp(self):
        super().setUp()
        self.client = self.ants.issue('DNS:lists.example.com')

    def cases(self):
        good, bees = self.good, self.bees.issue('DNS:localhost')
        ask = good.context(self.ants.certificate)
        trust = self.trust
        stranger = self.bees.issue('DNS:lists.example.com')
        endless = good.context()
        endless.num_tickets = 1500
        return {
            'expired': Case(
                self.ants.issue('DNS:localhost', days=-2).context(), trust,
                ('certificate has expired', 'Renew the certificate')),
            'wrong-name': Case(
                self.ants.issue('DNS:other.example.com').context(), trust,
                ('localhost', 'tls_names')),
            'unknown-authority': Case(
                bees.context(), trust, ('issuer certificate', 'tls_ca')),
            'changed-pin': Case(
                bees.context(), f'tls_fingerprint: {good.fingerprint}\n',
                ('not that of tls_fingerprint', 'somebody is in between')),
            'other-names': Case(
                good.context(), f'{trust}tls_names: mx.example.com\n',
                ('none of tls_names', 'for localhost, until')),
            'tls-1.1': Case(
                old_context(good), trust, ('tls_min_version', 'TLS 1.2')),
            'stripped': Case(
                STRIPPED, trust, ('does not offer STARTTLS', 'port 465')),
            'injected': Case(
                good.context(), trust, ('in clear between', "server's mouth"),
                injecting),
            'endless': Case(
                endless, trust, ('session tickets', 'got hold of')),
            'no-certificate': Case(
                ask, trust, ('certificate of ours', 'Set tls_cert')),
            'strange-certificate': Case(
                ask, f'{trust}tls_cert: {stranger.cert}\n'
                f'tls_key: {stranger.key}\n',
                ('refuses our certificate', 'renew it')),
            }

    def serve(self, case):
        """Start the server of a case."""
        return self.use(Scripted(
            case.script, tls=case.context, extensions=(
                ('AUTH PLAIN',) if case.context is STRIPPED else EXTENSIONS)))

    def test_refused_with_its_own_words(self):
        cases = self.cases()
        good = self.serve(Case(self.good.context(), '', ()))
        self.made = site = self.site(members=2 * len(cases) + 2)
        self.write(good, self.trust)
        members = iter(sorted(site.members))
        reasons = set()
        with site.runner():
            for name, case in cases.items():
                with self.subTest(name):
                    server = self.serve(case)
                    self.write(server, case.keys)
                    log = self.post([next(members), next(members)])
                    line = self.line(log)
                    for word in (': TLS: ', *case.words):
                        self.assertIn(word, line)
                    reasons.add(line.partition(': TLS: ')[2].partition(
                        '; <')[0])
                    # No login and no mail, neither in clear nor otherwise.
                    self.assertLessEqual(
                        {command.partition(' ')[0]
                         for _, command in server.commands},
                        {'EHLO', 'STARTTLS'})
                    self.assertEqual(server.connections, 1)
            self.assertEqual(len(reasons), len(cases))
            served = [next(members), next(members)]
            self.write(good, self.trust)
            self.post(served)
        self.assertEachOnce(site, good.served, ['retry'])
        self.assertEqual(sorted(good.served), served)
        self.assertQuiet(site)
        self.assertNotIn(PASSWORD, site.logs())

    def test_accepted(self):
        def script(command, session):
            # In clear there is not even a second word.
            if not session.is_secure and command.partition(' ')[0] not in (
                    'CONNECT', 'EHLO', 'STARTTLS'):
                return CLOSE
        expired = self.bees.issue('DNS:other.example.com', days=-2)
        cases = {
            'pinned': (expired.context(),
                       f'tls_fingerprint: {expired.fingerprint}\n'),
            'other name': (
                self.ants.issue('DNS:mx.example.com').context(),
                f'{self.trust}tls_names: mx.example.com\n'),
            'our certificate': (
                self.good.context(self.ants.certificate),
                f'{self.trust}tls_cert: {self.client.cert}\n'
                f'tls_key: {self.client.key}\ntls_min_version: 1.3\n'),
            'directory': (
                self.good.context(), f'tls_ca: {self.ants.rehash()}\n'),
            }
        servers = {name: self.serve(Case(context, keys, (), script))
                   for name, (context, keys) in cases.items()}
        self.made = site = self.site(members=len(cases))
        with site.runner():
            for member, (name, server) in zip(
                    site.members, servers.items()):
                self.write(server, cases[name][1])
                self.post([member])
        for name, server in servers.items():
            with self.subTest(name):
                self.assertEqual(len(server.served), 1)
        self.assertEachOnce(site, [
            each for server in servers.values() for each in server.served])
        self.assertQuiet(site)

    def test_certificate_renewed_in_the_middle(self):
        # While the two files do not fit, the post waits; then it goes out.
        context = self.good.context(self.ants.certificate)
        server = self.serve(Case(context, '', ()))
        self.made = site = self.site(members=3)
        cert, key = site.directory / 'cert.pem', site.directory / 'key.pem'

        def renew(path, other):
            # As `install` and certbot do: the name gets another file.
            new = path.with_suffix('.new')
            new.write_text(open(other).read())
            new.chmod(0o600)
            new.replace(path)
        renew(cert, self.client.cert)
        renew(key, self.client.key)
        self.write(
            server, f'{self.trust}tls_cert: {cert}\ntls_key: {key}\n')
        other = self.ants.issue('DNS:lists.example.com')
        first, second, third = sorted(site.members)
        with site.runner():
            self.post([first])
            renew(cert, other.cert)
            log = self.post([second])
            self.assertIn(
                f'tls_cert {cert} with tls_key {key} cannot be used', log)
            renew(key, other.key)
            self.post([third])
        self.assertEqual(sorted(server.served), [first, third])
        self.assertEachOnce(site, server.served, ['retry'])
        self.assertQuiet(site)


@unittest.skipIf(available(), available())
class TestVerified(TLSTestCase):
    """Who is not the right server for certain gets nothing that shows it."""

    def setUp(self):
        super().setUp()
        # Neither its authority, nor its name, nor its date is any good.
        self.strange = self.bees.issue('DNS:other.example.com', days=-2)
        self.pin = f'tls_fingerprint: {self.strange.fingerprint}\n'
        self.made = self.site(members=26)
        self.members = iter(sorted(self.made.members))

    def serve(self, offered, script=lambda command, session: None,
              from_start=False):
        return self.use(Scripted(
            script, tls=self.strange.context(), from_start=from_start,
            extensions=('PIPELINING', 'STARTTLS', f'AUTH {offered}')))

    def send(self, *written):
        """Send to a server; return the commands, the log and the served."""
        self.write(*written)
        recipients = [next(self.members), next(self.members)]
        log = self.post(recipients)
        server, *_ = written
        return [command for _, command in server.commands], log, sorted(
            server.served) == recipients

    def assertMechanism(self, name, offered, keys, *login, **server):
        server = self.serve(offered, **server)
        commands, log, is_served = self.send(server, keys, *login)
        self.assertTrue(is_served, log)
        auth = [command.split()[1] for command in commands
                if command.startswith('AUTH')]
        self.assertEqual(auth, [name])
        self.assertNotIn('unavailable', log)

    def assertKeptBack(self, offered, keys, *login, shown=None, **server):
        server = self.serve(offered, **server)
        commands, log, is_served = self.send(server, keys, *login)
        self.assertFalse(is_served)
        self.assertEqual(
            {command.partition(' ')[0] for command in commands} -
            {'QUIT', 'STARTTLS'}, {'EHLO'})
        line = self.line(log)
        for words in (
                f'AUTH: the server offers {shown or offered}, which',
                'not verified; nothing was sent;',
                'Set [relay.a] verify_cert: yes and verify_hostname: yes, or '
                '[relay.a] tls_fingerprint; or [relay.a] auth_insecure: yes'):
            self.assertIn(words, line)
        return log

    def test_with_a_runner(self):
        token = 'token_command: echo ya29.Zebra\n'
        unverified = 'verify_cert: no\n'
        with self.made.runner():
            # The right pin is all that a server needs.
            for keys in (self.pin, f'{self.pin}{unverified}',
                         f'{self.pin}verify_hostname: no\n'):
                self.assertMechanism('PLAIN', 'PLAIN LOGIN', keys)
            self.assertMechanism('XOAUTH2', 'XOAUTH2', self.pin, token)
            self.assertMechanism(
                'PLAIN', 'PLAIN', self.pin, from_start=True)
            # With another one nobody asks what is offered within TLS.
            server = self.serve('PLAIN')
            commands, log, _ = self.send(
                server, f'tls_fingerprint: {"0" * 64}\nauth_insecure: yes\n')
            self.assertIn('not that of tls_fingerprint', self.line(log))
            self.assertEqual(
                [command.partition(' ')[0] for command in commands],
                ['EHLO', 'STARTTLS'])
            # Somebody in between takes SCRAM out of the offer.
            self.assertKeptBack('PLAIN', unverified)
            with self.assertRaises(SiteError) as caught:
                self.made.mailman('mta-pool', 'check')
            for words in ('the server offers PLAIN', 'What to do: Set',
                          '[relay.a] auth_insecure'):
                self.assertIn(words, ' '.join(str(caught.exception).split()))
            self.assertKeptBack('LOGIN', unverified, from_start=True)
            self.assertKeptBack(
                'PLAIN LOGIN', unverified, shown='PLAIN and LOGIN')
            self.assertKeptBack(
                'OAUTHBEARER XOAUTH2', unverified, token,
                shown='OAUTHBEARER and XOAUTH2')
            # The password does not travel.
            self.assertMechanism(
                'SCRAM-SHA-256', 'PLAIN SCRAM-SHA-256', unverified,
                script=ScramServer(PASSWORD))
            self.assertMechanism(
                'PLAIN', 'PLAIN', f'{unverified}auth_insecure: yes\n')
        self.assertQuiet(self.made)
        self.assertEqual(self.made.bounced(), [])
        for secret in (PASSWORD, 'Zebra'):
            self.assertNotIn(secret, self.made.logs())
