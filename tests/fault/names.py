# SPDX-License-Identifier: GPL-3.0-or-later

"""Relays with several addresses, and services with several targets."""

import asyncio
import threading

from collections import Counter
from contextlib import contextmanager
from tests.fault.relays import RelaysTestCase, sections
from tests.fault.resolver import NAMES_PLUGIN, tell_names
from tests.scripted import Scripted
from tests.servers.dns import NameServer
from tests.servers.loopback import free_port, HOST


SERVICE = '_submission._tcp.example.net'
# Longer than a test may take.
FOR_EVER = '600s'


@contextmanager
def name_server(**records):
    """A name server in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def complete(awaitable):
        return asyncio.run_coroutine_threadsafe(awaitable, loop).result(10)
    server = NameServer(**records)
    complete(server.__aenter__())
    try:
        yield server
    finally:
        complete(server.__aexit__())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


class NamesTestCase(RelaysTestCase):
    def play(self, relay, addresses, servers, port=None):
        """Send some posts; each member has each of them once."""
        posts = 3
        site = self.site(members=60, extra=NAMES_PLUGIN, settings=sections(
            {'relay.master': {'connect_timeout': FOR_EVER},
             'delivery': {'patience': FOR_EVER}}, one=relay))
        tell_names(site, addresses, port)
        with site.runner():
            for _ in range(posts):
                site.post(verp=True)
                site.wait_until_empty()
        served = Counter()
        for server in servers:
            served.update(server.served)
        self.assertEqual(served, dict.fromkeys(site.members, posts))
        self.assertEqual(site.waiting(), {})
        self.assertQuiet(site)
        return site

    def assertToldOnce(self, site, address):
        """The log tells of the failure of an address once."""
        lines = [line for line in site.log('smtp.log').splitlines()
                 if address in line and 'the breaker is open' in line]
        self.assertEqual(len(lines), 1, lines)


class TestAddresses(NamesTestCase):
    def test_one_of_them_refuses(self):
        first = self.use(Scripted(host='127.0.0.2', delay=0.005))
        second = self.use(Scripted(
            host='127.0.0.3', port=first.port, delay=0.005))
        site = self.play(
            {'host': 'mx.example.net', 'port': first.port},
            {'mx.example.net': ['127.0.0.4', '127.0.0.2', '127.0.0.3']},
            [first, second])
        # The connections are spread over those that work.
        self.assertEqual((first.connections, second.connections), (2, 2))
        self.assertToldOnce(site, f'127.0.0.4:{first.port}')


class TestServices(NamesTestCase):
    def records(self, *targets):
        return [f'600 IN SRV {priority} 1 {port} {host}.'
                for priority, port, host in targets]

    def test_one_target_is_down(self):
        # Where it is as good as the other, and where it is the better one.
        for priority in (10, 0):
            with self.subTest(priority=priority):
                server = self.use(Scripted())
                down = free_port()
                dns = self.use(name_server(**{SERVICE: self.records(
                    (priority, down, 'down.example.net'),
                    (10, server.port, 'up.example.net'))}))
                site = self.play(
                    {'host': f'srv:{SERVICE}'}, {
                        'down.example.net': [HOST], 'up.example.net': [HOST]},
                    [server], dns.port)
                self.assertIn(SERVICE, dns.questions)
                if priority == 0:
                    self.assertToldOnce(site, f'{HOST}:{down}')
