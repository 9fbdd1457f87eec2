# SPDX-License-Identifier: GPL-3.0-or-later
"""Servers that DNS names by service records, and their certificates."""

import ssl
import asyncio
import smtplib
import unittest
import dns.rcode
import dns.asyncresolver

from collections import Counter
from functools import partial
from hypothesis import given, settings, strategies as st
from mailman_mta_pool.connection.addresses import Addresses
from mailman_mta_pool.connection.opening import Endpoint, open_connection
from mailman_mta_pool.connection.srv import (
    ask_dns,
    certificate_name,
    in_order_of_service,
    is_service,
    LONGEST_STALE,
    LONGEST_TTL,
    MAX_TARGETS,
    service_of,
    SHORTEST_TTL,
    STALE_TTL,
    Target,
    Targets,
)
from mailman_mta_pool.connection.tls import context_for
from mailman_mta_pool.errors import (
    CertificateRefused,
    ConnectionLost,
    NotOffered,
    PhaseTimeout,
    RelayUnavailable,
)
from mailman_mta_pool.settings import Timeouts
from tests.certificates import server_context
from tests.documentation import trusted_test_certificate
from tests.opening import HOST, Peer, QuickLoop
from tests.servers.dns import NameServer
from tests.test_throttle import Clock, kept_lines


SERVICE = 'srv:_submissions._tcp.example.com'
QUERY = '_submissions._tcp.example.com'
TIMEOUT = 30.0
# So long the test waits for an answer that does not come.
SHORT = 0.05
LABELS = st.from_regex(r'[a-z0-9](-?[a-z0-9]){0,5}', fullmatch=True)


class TestServiceName(unittest.TestCase):
    def test_good(self):
        for host, service, domain in (
                (SERVICE, 'submissions', 'example.com'),
                ('SRV:_Submission._TCP.Example.COM.', 'Submission',
                 'Example.COM'),
                ('srv:_smtp._tcp.test', 'smtp', 'test'),
                ('srv:_smtp._tcp.müller.example', 'smtp', 'müller.example')):
            with self.subTest(host=host):
                self.assertTrue(is_service(host))
                self.assertEqual(service_of(host), (service, domain))
                self.assertEqual(certificate_name(host), domain)
        self.assertEqual(service_of(SERVICE).query, QUERY)

    def test_bad(self):
        for name in ('', 'example.com', '_submissions._tcp',
                     '_submissions._tcp.', '_submissions._tcp..',
                     '_submissions._udp.example.com', '_._tcp.example.com',
                     'submissions._tcp.example.com',
                     '_submissions._tcp.example..com',
                     '_submissions._tcp.exam ple.com',
                     ' _submissions._tcp.example.com',
                     '_submissions._tcp.example.com:465'):
            with self.subTest(name=name):
                with self.assertRaisesRegex(
                        ValueError, f'look like {SERVICE}'):
                    service_of('srv:' + name)
        with self.assertRaises(ValueError):
            service_of('host:' + QUERY)

    def test_other_hosts(self):
        for host, name in (('mx.example.net', 'mx.example.net'),
                           ('mx.example.net.', 'mx.example.net'),
                           ('192.0.2.1', '192.0.2.1'), ('::1', '::1')):
            self.assertFalse(is_service(host))
            self.assertEqual(certificate_name(host), name)

    @given(LABELS, st.lists(LABELS, min_size=1, max_size=4))
    def test_whatever_is_a_name(self, service, labels):
        domain = '.'.join(labels)
        self.assertEqual(
            service_of(f'srv:_{service}._tcp.{domain}'), (service, domain))

    @given(st.text())
    def test_whatever_is_none(self, text):
        try:
            name = service_of('srv:' + text)
        except ValueError:
            return
        self.assertEqual(
            name.query.lower().rstrip('.'), text.lower().rstrip('.'))


class TestOrder(unittest.TestCase):
    def test_priorities(self):
        targets = [Target(priority, 0, f'{priority}', 25)
                   for priority in (3, 1, 2)]
        self.assertEqual(
            [target.priority for target in in_order_of_service(
                targets, lambda: 0.5)], [1, 2, 3])

    def test_weights_are_shares(self):
        targets = [Target(0, weight, f'{weight}', 25)
                   for weight in (30, 60, 10)]
        firsts = Counter(
            in_order_of_service(targets, lambda: number / 1000)[0].weight
            for number in range(1000))
        for weight, count in firsts.items():
            self.assertAlmostEqual(count, 10 * weight, delta=10)

    def test_weight_zero(self):
        # RFC 2782: a very small chance, if there is another.
        targets = [Target(0, 99, 'much', 25), Target(0, 0, 'none', 25)]
        for chance, first in ((0.0, 'none'), (0.009, 'none'),
                              (0.01, 'much'), (0.999, 'much')):
            self.assertEqual(in_order_of_service(
                targets, lambda: chance)[0].host, first)

    @given(st.lists(st.builds(
        Target, st.integers(0, 3), st.integers(0, 65535), st.just('x'),
        st.integers(1, 65535))), st.floats(0, 1, exclude_max=True))
    def test_all_are_there_by_priority(self, targets, chance):
        ordered = in_order_of_service(targets, lambda: chance)
        self.assertCountEqual(ordered, targets)
        self.assertEqual([target.priority for target in ordered],
                         sorted(target.priority for target in targets))


class TestTargets(unittest.TestCase):
    """For how long an answer is used."""

    def setUp(self):
        self.clock = Clock()
        self.asked = 0
        self.ttl = 300.0
        self.answer = [Target(0, 1, 'mx.test', 465)]
        self.targets = Targets(SERVICE, self.clock, self.ask)

    async def ask(self, query, timeout):
        self.assertEqual((query, timeout), (QUERY, TIMEOUT))
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer, self.ttl

    def get(self):
        return asyncio.run(self.targets.get(TIMEOUT))

    def assertAskedAfter(self, seconds):
        self.get()
        before = self.asked
        self.clock.wait(seconds - 1)
        self.get()
        self.assertEqual(self.asked, before)
        self.clock.wait(2)
        self.get()
        self.assertEqual(self.asked, before + 1)

    def test_time_to_live(self):
        for ttl, seconds in ((300.0, 300.0), (0.0, SHORTEST_TTL),
                             (1e9, LONGEST_TTL)):
            with self.subTest(ttl=ttl):
                self.ttl = ttl
                self.clock.wait(1e6)
                self.assertAskedAfter(seconds)

    def test_most_targets(self):
        self.answer = [Target(number % 40, 1, f'mx{number}.test', 465)
                       for number in range(2000)]
        found = self.get()
        self.assertEqual(len(found), MAX_TARGETS)
        self.assertEqual({target.priority for target in found}, {0})

    def test_no_name_server_answers(self):
        with self.assertRaises(PhaseTimeout):
            self.answer = PhaseTimeout('no answer')
            self.get()
        self.answer = known = [Target(0, 1, 'mx.test', 465)]
        self.get()
        self.answer = PhaseTimeout('no answer')
        self.clock.wait(self.ttl)
        # What was known is used, and nobody asks each time.
        self.assertEqual(self.get(), known)
        self.assertAskedAfter(STALE_TTL)
        self.clock.wait(LONGEST_STALE)
        with self.assertRaises(PhaseTimeout):
            self.get()

    def test_withdrawn(self):
        self.get()
        self.clock.wait(self.ttl)
        self.answer = []
        with self.assertRaisesRegex(
                ConnectionLost, f'no SRV record {QUERY}; give the server'):
            self.get()
        self.answer = PhaseTimeout('no answer')
        with self.assertRaises(PhaseTimeout):
            self.get()

    def test_not_offered(self):
        self.answer = [Target(0, 0, '', 0)]
        with self.assertRaisesRegex(
                smtplib.SMTPNotSupportedError, 'not offered there; give the'):
            self.get()

    def test_not_offered_by_one(self):
        good = Target(1, 0, 'mx.test', 465)
        self.answer = [Target(0, 0, '', 0), good]
        self.assertEqual(self.get(), [good])
        self.assertEqual(self.get(), [good])


class TestAskDNS(unittest.TestCase):
    """dnspython against a name server on a loopback port."""

    def ask(self, *lines, timeout=TIMEOUT, query=QUERY, **attributes):
        async def main():
            async with NameServer() as server:
                if lines:
                    server.records[QUERY] = [line for line in lines if line]
                for name, value in attributes.items():
                    setattr(server, name, value)
                resolver = dns.asyncresolver.Resolver(configure=False)
                resolver.nameservers = [HOST]
                resolver.port = server.port
                try:
                    return await ask_dns(query, timeout, resolver)
                finally:
                    self.questions = server.questions
        return asyncio.run(main())

    def test_records(self):
        targets, ttl = self.ask(
            '120 IN SRV 10 60 465 one.test.', '120 IN SRV 20 0 466 two.test.')
        self.assertCountEqual(targets, [
            Target(10, 60, 'one.test', 465), Target(20, 0, 'two.test', 466)])
        self.assertEqual(ttl, 120)
        self.assertEqual(self.questions, [QUERY])

    def test_by_tcp(self):
        targets, _ = self.ask('60 IN SRV 1 2 465 one.test.', truncates=True)
        self.assertEqual(targets, [Target(1, 2, 'one.test', 465)])
        self.assertEqual(self.questions, 2 * [QUERY])

    def test_root_is_not_offered(self):
        targets, _ = self.ask('60 IN SRV 0 0 0 .')
        self.assertEqual(targets, [Target(0, 0, '', 0)])

    def test_nothing(self):
        # There is no such name; and there is, but no such record.
        for lines in ((), ('',)):
            with self.subTest(lines=lines):
                self.assertEqual(self.ask(*lines)[0], [])

    def test_no_answer(self):
        with self.assertRaisesRegex(
                PhaseTimeout, f'record {QUERY} had no answer within 0.05 s'):
            self.ask(timeout=SHORT, is_silent=True)

    def test_name_server_fails(self):
        with self.assertRaisesRegex(ConnectionLost, 'see /etc/resolv.conf'):
            self.ask(rcode=dns.rcode.REFUSED)

    def test_names_that_cannot_be_asked_for(self):
        for label in ('a' * 64, '.'.join(9 * ['a' * 30]), 'a..b'):
            with self.subTest(label=label):
                with self.assertRaises(UnicodeError):
                    self.ask(query=f'_submissions._tcp.{label}')


class TestOpening(unittest.TestCase):
    """A connection to a service, up to the certificate."""

    def setUp(self):
        self.lines = kept_lines(self).lines
        self.loop = QuickLoop()
        self.loop.set_exception_handler(lambda loop, context: None)
        self.addCleanup(self.loop.close)
        self.targets = [Target(0, 1, 'mx.provider.test', 465)]

    async def ask(self, query, timeout):
        return self.targets, 60

    def open(self, domain):
        """Open a connection to the service of a domain.

        The certificate is for localhost.
        """
        async def main():
            async with Peer(b'220 mx\r\n', b'250 mx\r\n',
                            tls=server_context()) as peer:
                self.loop.found = [(HOST, peer.port)]
                opened = await open_connection(
                    Endpoint(f'srv:_submissions._tcp.{domain}', 0,
                             implicit_tls=context_for(True, True)),
                    Timeouts(), Addresses(self.loop.time, ask=self.ask))
                name = opened.sock.tls.server_hostname
                opened.sock.close()
                return name
        with trusted_test_certificate():
            return self.loop.complete(main())

    def test_certificate_for_the_domain(self):
        self.assertEqual(self.open('localhost'), 'localhost')
        self.assertEqual(self.open('localhost.'), 'localhost')

    def test_certificate_for_the_target(self):
        # Whoever answers in DNS's place has one for a name of their own.
        self.targets = [Target(0, 1, 'localhost', 465)]
        with self.assertRaises(CertificateRefused) as caught:
            self.open('example.com')
        self.assertIsInstance(caught.exception, ssl.SSLCertVerificationError)
        # A service has no port of its own.
        self.assertTrue(str(caught.exception).startswith(
            'srv:_submissions._tcp.example.com: TLS: '))

    def test_not_offered(self):
        self.targets = [Target(0, 0, '', 0)]
        with self.assertRaises(NotOffered) as caught:
            self.open('localhost')
        self.assertEqual(caught.exception.phase, 'connect')
        self.assertFalse(caught.exception.waiting_helps)

    def test_no_record(self):
        self.targets = []
        with self.assertRaises(RelayUnavailable) as caught:
            self.open('localhost')
        self.assertIn('no SRV record', str(caught.exception))


class TestResolver(unittest.TestCase):
    @settings(max_examples=20, deadline=None)
    @given(st.lists(st.tuples(
        st.integers(0, 65535), st.integers(0, 65535),
        st.integers(0, 65535), LABELS), min_size=1, max_size=5, unique=True))
    def test_whatever_the_records_are(self, records):
        lines = [f'60 IN SRV {priority} {weight} {port} {label}.test.'
                 for priority, weight, port, label in records]
        ask = partial(TestAskDNS().ask, *lines)
        self.assertCountEqual(ask()[0], [
            Target(priority, weight, f'{label}.test', port)
            for priority, weight, port, label in records])
