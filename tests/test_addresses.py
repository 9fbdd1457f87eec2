# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known of a relay's addresses, and which one is tried first."""

import gc
import socket
import asyncio
import unittest

from collections import Counter
from hypothesis import given, settings, strategies as st
from mailman_mta_pool.connection.addresses import Address, Addresses
from mailman_mta_pool.connection.breaker import FAILURES, FIRST_INTERVAL
from mailman_mta_pool.connection.srv import Target
from tests.opening import QuickLoop
from tests.test_throttle import Clock, kept_lines
from unittest import mock


TIMEOUT = 30


def address(text):
    family = socket.AF_INET6 if ':' in text else socket.AF_INET
    return Address(family, socket.SOCK_STREAM, 6, (text, 25))


class AddressesTestCase(unittest.TestCase):
    def setUp(self):
        self.clock = Clock()
        self.lines = kept_lines(self).lines
        self.addresses = Addresses(
            self.clock, relay='mx', chance=lambda: 0.5)

    def order(self, found):
        return [str(each) for each in self.addresses.in_order(
            map(address, found.split()))]

    def assertOrder(self, found, expected):
        self.assertEqual(self.order(found), expected.split())

    def fail(self, text, times=FAILURES):
        for _ in range(times):
            self.addresses.begin(address(text)).failed('refused')


class TestInOrder(AddressesTestCase):
    def test_families_take_turns(self):
        # RFC 8305, section 4; the first is the resolver's choice.
        self.assertOrder('::1 ::2 ::3 1.1.1.1', '::1 1.1.1.1 ::2 ::3')
        self.assertOrder('1.1.1.1 1.1.1.2 ::1', '1.1.1.1 ::1 1.1.1.2')
        self.assertOrder('', '')

    def test_fewest_connections_first(self):
        self.addresses.begin(address('::9')).end()
        uses = [self.addresses.begin(address(text))
                for text in ('::1', '::1', '::2')]
        self.assertOrder('::1 ::2 ::3', '::3 ::2 ::1')
        # Twice is once.
        uses[0].end()
        uses[0].end()
        uses[1].end()
        self.assertOrder('::1 ::2 ::3', '::3 ::1 ::2')

    def test_equal_ones_take_turns(self):
        firsts = []
        for _ in range(6):
            first = self.order('::1 ::2 ::3')[0]
            firsts.append(first)
            self.addresses.begin(address(first)).end()
        self.assertEqual(firsts, 2 * ['::1', '::2', '::3'])

    def test_a_family_that_is_not_preferred_has_no_share(self):
        for _ in range(4):
            first = self.order('::1 1.1.1.1')[0]
            self.assertEqual(first, '::1')
            self.addresses.begin(address(first))

    def test_dropped_connections_do_not_count(self):
        use = self.addresses.begin(address('::1'))
        self.assertOrder('::1 ::2', '::2 ::1')
        self.addresses.begin(address('::2')).end()
        self.assertOrder('::1 ::2', '::2 ::1')
        del use
        gc.collect()
        self.assertOrder('::1 ::2', '::1 ::2')

    def test_what_failed_comes_last_until_its_probe(self):
        self.fail('::1')
        self.clock.wait(1)
        self.fail('1.1.1.1')
        self.assertOrder('::1 ::2 1.1.1.1', '::2 ::1 1.1.1.1')
        self.clock.wait(FIRST_INTERVAL - 1)
        self.assertOrder('::1 ::2 1.1.1.1', '::1 ::2 1.1.1.1')
        probe = self.addresses.begin(address('::1'))
        self.assertOrder('::1 ::2 1.1.1.1', '::2 ::1 1.1.1.1')
        probe.worked()
        self.assertOrder('::1 ::2', '::2 ::1')
        probe.end()
        self.assertOrder('::1 ::2', '::2 ::1')

    def test_all_failed(self):
        # The one that is due first is tried first.
        for text in ('::2', '::1', '::3'):
            self.fail(text)
            self.clock.wait(1)
        self.assertOrder('::1 ::2 ::3', '::2 ::1 ::3')

    @settings(deadline=None)
    @given(st.lists(st.integers(0, 3), min_size=1, max_size=4),
           st.lists(st.integers(0, 9), max_size=60))
    def test_spread(self, preferred, ends):
        # However connections come and go, the next is where there are fewest.
        found = ' '.join(f'::{each}' for each in sorted(set(preferred)))
        uses = []
        for end in ends:
            if end < len(uses):
                uses.pop(end).end()
            counts = Counter(str(use.address) for use in uses)
            order = self.order(found)
            self.assertCountEqual(order, found.split())
            self.assertEqual(
                [counts[text] for text in order],
                sorted(counts[text] for text in order))
            uses.append(self.addresses.begin(address(order[0])))
        for use in uses:
            use.end()


class TestUse(AddressesTestCase):
    def test_one_failure_where_another_address_is_up(self):
        found = [address('::1'), address('::2')]
        self.look_up(*found)
        self.fail('::1', 1)
        self.assertFalse(self.addresses.is_usable(found[0]))
        # Now there is nothing else.
        for is_usable in (True, True, False):
            self.fail('::2', 1)
            self.assertIs(self.addresses.is_usable(found[1]), is_usable)

    def test_one_failure_where_another_relay_is_up(self):
        self.addresses.has_other_relay = lambda: True
        self.fail('::1', 1)
        self.assertFalse(self.addresses.is_usable(address('::1')))

    def test_available(self):
        self.assertTrue(self.addresses.is_available)
        self.look_up(address('::1'), address('::2'))
        self.fail('::1', 1)
        self.assertTrue(self.addresses.is_available)
        self.assertEqual(self.addresses.available_in, 0)
        self.assertEqual(self.addresses.trouble, '')
        self.clock.wait(1)
        self.fail('::2')
        self.assertFalse(self.addresses.is_available)
        self.assertEqual(self.addresses.available_in, FIRST_INTERVAL - 1)
        self.assertEqual(
            self.addresses.trouble, '::1: refused; ::2: refused')
        self.clock.wait(FIRST_INTERVAL - 1)
        self.assertTrue(self.addresses.is_available)
        probe = self.addresses.begin(address('::1'))
        self.assertFalse(self.addresses.is_available)
        self.assertEqual(self.addresses.available_in, 1)
        probe.worked()
        self.assertTrue(self.addresses.is_available)

    def test_log(self):
        self.look_up(address('::1'), address('1.1.1.1'))
        self.fail('::1', 1)
        self.fail('1.1.1.1')
        self.assertEqual([line for _, line in self.lines], [
            'mx: [::1]:25: the breaker is open for 5.0 s, because of '
            '"refused"',
            'mx: 1.1.1.1:25: the breaker is open for 5.0 s, because of '
            '"refused"'])
        self.assertEqual(
            repr(self.addresses.begin(address('::1'))), '<Use ::1 open>')

    def look_up(self, *found, host='mx.example.net', ask=None):
        """Return what a look-up of the host's name finds."""
        loop = QuickLoop()
        self.addCleanup(loop.close)

        async def find(host, port, **keywords):
            if not found:
                raise socket.gaierror(socket.EAI_NONAME, 'Name not known')
            return [(*each[:3], '', each.sockaddr) for each in found]
        with mock.patch.object(loop, 'getaddrinfo', find):
            return loop.complete(
                self.addresses.resolve(host, 25, TIMEOUT))

    def test_look_up_fails(self):
        for _ in range(FAILURES):
            self.assertTrue(self.addresses.is_available)
            with self.assertRaises(socket.gaierror):
                self.look_up()
        self.assertFalse(self.addresses.is_available)
        self.assertEqual(self.addresses.available_in, FIRST_INTERVAL)
        self.assertIn('Name not known', self.addresses.trouble)
        # It is tried all the same by whoever has nothing else.
        self.look_up(address('::1'))
        self.assertTrue(self.addresses.is_available)

    def test_addresses_come_and_go(self):
        self.look_up(address('::1'), address('::2'))
        self.fail('::1', 1)
        # What is gone is no alternative, and what comes back is remembered.
        self.look_up(address('::3'))
        self.fail('::3', 1)
        self.assertTrue(self.addresses.is_usable(address('::3')))
        self.look_up(address('::1'), address('::3'))
        self.assertFalse(self.addresses.is_usable(address('::1')))
        # In the end it is forgotten.
        self.clock.wait(400)
        self.look_up(address('::3'))
        self.look_up(address('::1'), address('::3'))
        self.fail('::3', 1)
        self.assertFalse(self.addresses.is_usable(address('::3')))


class TestService(unittest.TestCase):
    """The targets of a service, and their addresses."""

    HOST = 'srv:_submissions._tcp.example.com'

    def setUp(self):
        self.loop = QuickLoop()
        self.addCleanup(self.loop.close)
        self.chances = []
        self.lines = kept_lines(self).lines
        self.hosts = {}
        self.addresses = Addresses(
            self.loop.time, chance=lambda: self.chances.pop(0)
            if self.chances else 0.5, ask=self.ask)

    async def ask(self, query, timeout):
        self.assertEqual(query, '_submissions._tcp.example.com')
        return self.targets, 3600

    def resolve(self):
        async def find(host, port, **keywords):
            if host not in self.hosts:
                raise socket.gaierror(socket.EAI_NONAME, f'no {host}')
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, '', (each, port))
                    for each in self.hosts[host].split()]
        with mock.patch.object(self.loop, 'getaddrinfo', find):
            return [each.sockaddr for each in self.loop.complete(
                self.addresses.resolve(self.HOST, 0, TIMEOUT))]

    def test_priorities_and_ports(self):
        self.targets = [
            Target(20, 1, 'backup.test', 465), Target(10, 1, 'one.test', 466)]
        self.hosts = {'backup.test': '192.0.2.9',
                      'one.test': '192.0.2.1 192.0.2.2'}
        self.assertEqual(self.resolve(), [
            ('192.0.2.1', 466), ('192.0.2.2', 466), ('192.0.2.9', 465)])

    def test_weights(self):
        self.targets = [
            Target(1, 1, 'one.test', 465), Target(1, 3, 'two.test', 465)]
        self.hosts = {'one.test': '192.0.2.1', 'two.test': '192.0.2.2'}
        for chance, first in ((0.1, '192.0.2.1'), (0.5, '192.0.2.2')):
            self.chances = [chance]
            self.assertEqual(self.resolve()[0], (first, 465))

    def test_a_target_that_failed_comes_last(self):
        self.targets = [
            Target(10, 1, 'one.test', 465), Target(20, 1, 'two.test', 465)]
        self.hosts = {'one.test': '192.0.2.1', 'two.test': '192.0.2.2'}
        first = self.resolve()[0]
        self.addresses.begin(Address(
            socket.AF_INET, socket.SOCK_STREAM, 6, first)).failed('down')
        self.assertEqual(
            self.resolve(), [('192.0.2.2', 465), ('192.0.2.1', 465)])

    def test_a_target_without_an_address(self):
        self.targets = [
            Target(10, 1, 'gone.test', 465), Target(20, 1, 'two.test', 465)]
        self.hosts = {'two.test': '192.0.2.2'}
        self.assertEqual(self.resolve(), [('192.0.2.2', 465)])
        self.hosts = {}
        with self.assertRaises(socket.gaierror):
            self.resolve()

    def test_no_service(self):
        with self.assertRaisesRegex(ValueError, 'is to look like srv:_sub'):
            asyncio.run(self.addresses.resolve('srv:x', 0, TIMEOUT))
