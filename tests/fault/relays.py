# SPDX-License-Identifier: GPL-3.0-or-later

"""Several relays: which of them gets which mail, and what if one is down.

The servers are written here; a real runner sends to them.
"""

import time
import socket
import threading

from base64 import b64decode
from collections import Counter
from contextlib import closing, contextmanager
from mailman.core.switchboard import Switchboard
from mailman_mta_pool.demo.population import as_queued
from mailman_mta_pool.monitoring.files import read_states, state_directory
from tests.scripted import Scripted
from tests.servers.loopback import free_port, HOST
from tests.site import LIST, POST
from tests.site_case import SiteTestCase


BEE = 'bee@example.org'
BEE_ID = 'bee.example.org'
WITH_LOGIN = ('PIPELINING', 'SIZE 0', '8BITMIME', 'AUTH PLAIN')
# Longer than a test may take, in seconds.
FOR_EVER = '600s'
# How long servers take for a message, in seconds.
QUICK, SLOW = 0.01, 0.1


class Nobody:
    """A port that refuses connections."""

    host = HOST

    def __init__(self):
        self.port = free_port()


@contextmanager
def black_hole():
    """A port that answers to nobody who wants to connect."""
    with socket.create_server((HOST, 0), backlog=0) as listener:
        hole = Nobody()
        hole.port = listener.getsockname()[1]
        # The one that waits to be accepted has the only place.
        with closing(socket.create_connection((HOST, hole.port))):
            yield hole


def relay(server, **keys):
    """The section of a relay; `lists` is its `for`."""
    if 'lists' in keys:
        keys['for'] = keys.pop('lists')
    return {'host': server.host, 'port': server.port, **keys}


def sections(settings=None, **relays):
    """The plugin's configuration with these relays."""
    return {
        **(settings or {}),
        **{f'relay.{name}': section for name, section in relays.items()}}


def user_of(command):
    """The user name in AUTH PLAIN (RFC 4616)."""
    return b64decode(command.split()[2]).split(b'\0')[1].decode()


def users(server):
    """How many messages went over connections of each user."""
    of_session = {number: user_of(command)
                  for number, command in server.commands
                  if command.startswith('AUTH ')}
    return Counter(of_session[number] for number, command in server.commands
                   if command == '.')


class Load:
    """A script of several servers that take their time for a message.

    :param seconds: How long.
    :ivar most: The most messages at the same time.
    :ivar times: When each message came.
    """

    def __init__(self, seconds):
        self._seconds = seconds
        self._lock = threading.Lock()
        self._now = self.most = 0
        self.times = []

    def __call__(self, command, session):
        if command != '.':
            return
        with self._lock:
            self.times.append(time.monotonic())
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(self._seconds)
        with self._lock:
            self._now -= 1


class RelaysTestCase(SiteTestCase):
    def relays_of(self, site):
        """Return the relays in the state file of the runner, by name."""
        state, = read_states(state_directory(str(site.var))).states
        return {each.name: each for each in state.relays}

    def assertServed(self, site, *servers):
        """All were served, by any of these servers."""
        self.assertEachOnce(site, [
            recipient for server in servers for recipient in server.served])
        self.assertQuiet(site)


class TestFor(RelaysTestCase):
    """Relays that are for some lists only."""

    def with_two_lists(self, **settings):
        site = self.site(settings=settings)
        members = site.create_list(BEE, [
            (f'worker-{number}@example.net', '') for number in range(20)])
        return site, members

    def post_to_bee(self, site, members):
        Switchboard('out', str(site.var / 'queue' / 'out')).enqueue(
            *as_queued(POST, BEE_ID, recipients=set(members), verp=True))

    def test_two_lists_with_two_logins(self):
        # Also while the own relay of one of them is down.
        ants, bees = (self.use(Scripted(extensions=WITH_LOGIN))
                      for _ in range(2))
        other = self.use(Scripted(extensions=WITH_LOGIN))
        site, members = self.with_two_lists(**sections(
            {'delivery': {'patience': '1s'}},
            ants=relay(
                ants, user='ant', password='zebra1', lists=LIST.upper()),
            bees=relay(
                bees, user='bee', password='zebra2', lists='*@example.org'),
            other=relay(other, user='other', password='zebra3')))
        with site.runner():
            for number in range(2):
                site.post(verp=True)
                self.post_to_bee(site, members)
            site.wait_until_empty()
            # The kept connections are gone, too.
            bees.__exit__()
            for number in range(2):
                site.post(verp=True)
                self.post_to_bee(site, members)
            site.wait_until_empty()
        self.assertEqual(
            Counter(ants.served), {name: 4 for name in site.members})
        self.assertEqual(
            Counter(bees.served), {name: 2 for name in members})
        self.assertEqual(set(users(ants)), {'ant'})
        self.assertEqual(set(users(bees)), {'bee'})
        self.assertEqual(other.connections, 0)
        self.assertEqual(
            site.waiting(), {'retry': sorted(2 * members)})
        self.assertIn('bees: connect: ', site.logs())
        self.assertQuiet(site)

    def test_two_relays_for_a_list(self):
        # They share its mail, one has it alone while the other is down, and
        # nobody has it while both are.
        one, second, other = (
            self.use(Scripted(extensions=WITH_LOGIN)) for _ in range(3))
        site = self.site(settings=sections(
            {'delivery': {'patience': '1s'}},
            one=relay(one, user='one', password='zebra1', lists=LIST),
            second=relay(second, user='two', password='zebra2',
                         lists='*@example.com'),
            other=relay(other, user='other', password='zebra3')))
        with site.runner():
            for step in (one.__exit__, second.__exit__, lambda: None):
                site.post(verp=True)
                site.wait_until_empty()
                step()
        self.assertEqual(
            Counter(one.served + second.served),
            {name: 2 for name in site.members})
        self.assertGreater(min(len(one.served), len(second.served)), 5)
        self.assertEqual(set(users(one)), {'one'})
        self.assertEqual(set(users(second)), {'two'})
        self.assertEqual(other.connections, 0)
        self.assertEqual(site.waiting(), {'retry': sorted(site.members)})
        self.assertQuiet(site)

    def test_no_relay_is_for_it(self):
        server = self.use(Scripted())
        site = self.site(settings=sections(
            {'delivery': {'split': 5}}, bees=relay(server, lists=BEE)))
        site.run({'verp': True})
        self.assertEachOnce(site, (), ['retry'])
        self.assertEqual(server.connections, 0)
        line, = [line for line in site.log('smtp.log').splitlines()
                 if 'is tried again later' in line]
        self.assertIn(
            f'mta_pool.cfg: [relay.NAME] for: no relay is for {LIST}; name '
            'the list there, or add a [relay.NAME] without `for`', line)
        self.assertIn('for 20 recipients', line)
        self.assertQuiet(site)


class TestSameServer(RelaysTestCase):
    def test_two_logins(self):
        server = self.use(Scripted(extensions=WITH_LOGIN))
        site = self.site(members=100, settings=sections(
            one=relay(server, user='anne', password='zebra1'),
            other=relay(server, user='bart', password='zebra2')))
        site.run({'verp': True})
        self.assertServed(site, server)
        self.assertEqual(sum(users(server).values()), 100)
        for name in ('anne', 'bart'):
            self.assertGreater(users(server)[name], 20)
        found = self.relays_of(site)
        self.assertEqual(set(found), {'one', 'other'})
        for each in found.values():
            self.assertGreater(each.opened, 0)
        logs = site.logs()
        self.assertNotIn('anne', logs.replace('anne@example.com', ''))


class TestDown(RelaysTestCase):
    """What one relay does not take, another one takes at once."""

    def assertTakenByOther(self, down, reason, posts=3, **keys):
        server = self.use(Scripted())
        site = self.site(members=3, settings=sections({
            'relay.master': {'connect_timeout': FOR_EVER,
                             'greeting_timeout': FOR_EVER},
            'delivery': {'patience': FOR_EVER}},
            one=relay(down), other=relay(server, **keys)))
        with site.runner():
            for _ in range(posts):
                # One transaction.
                site.post()
                site.wait_until_empty()
        self.assertEqual(
            Counter(server.served), {name: posts for name in site.members})
        self.assertEqual(site.waiting(), {})
        found = self.relays_of(site)
        self.assertEqual(
            (found['one'].state, found['other'].state), ('down', 'up'))
        self.assertIn(reason, found['one'].reason)
        self.assertQuiet(site)
        return site

    def test_it_refuses_connections(self):
        for priority in (10, 20):
            with self.subTest(priority=priority):
                site = self.assertTakenByOther(
                    Nobody(), 'Connection refused', priority=priority)
                lines = [line for line in site.log('smtp.log').splitlines()
                         if 'one: ' in line and 'the breaker is open' in line]
                self.assertEqual(len(lines), 1, lines)

    def test_it_is_a_black_hole(self):
        for priority in (10, 20):
            with self.subTest(priority=priority):
                self.assertTakenByOther(
                    self.use(black_hole()), 'no connection yet',
                    priority=priority)

    def test_it_says_nothing(self):
        silent = self.use(Scripted(
            lambda command, session: ended.wait() and None))
        self.addCleanup(lambda: ended.set())
        ended = threading.Event()
        self.assertTakenByOther(silent, 'no connection yet')

    def test_all_of_them(self):
        # The post has their patience, not that of each one in turn.
        site = self.site(members=3, settings=sections(
            {'delivery': {'patience': '1s'}},
            one=relay(Nobody()), other=relay(Nobody(), priority=20)))
        site.run({})
        self.assertEachOnce(site, (), ['retry'])
        self.assertQuiet(site)


class TestComesBack(RelaysTestCase):
    def test_in_mid_post(self):
        # A backup takes the rest meanwhile, and no more than that.
        members = 300
        is_back, port = threading.Event(), free_port()

        def hold(command, session):
            # The post is not over before.
            if len(backup.served) > 100 and command == '.':
                is_back.wait()
        backup = self.use(Scripted(hold))
        self.addCleanup(is_back.set)
        first = self.use(Scripted(port=port))
        site = self.site(members=members, settings=sections(
            main=relay(first), backup=relay(backup, priority=20)))
        with site.runner():
            site.post(verp=True)
            first.wait_for(lambda server: len(server.served) >= 50)
            self.assertEqual(backup.connections, 0)
            first.__exit__()
            backup.wait_for(lambda server: len(server.served) > 50)
            again = self.use(Scripted(
                lambda command, session: is_back.set()
                if command == '.' else None, port=port))
            again.wait_for(lambda server: server.served)
            site.wait_until_empty()
        found = self.relays_of(site)
        self.assertEqual(found['main'].state, 'up')
        self.assertEqual(found['main'].reason, '')
        waiting = site.waiting()
        # Those who had been sent to its connections to the end, and were not
        # answered.  It may have taken the responsibility for them.
        in_doubt = set(waiting.get('retry', ()))
        self.assertLessEqual(len(in_doubt), 4)
        self.assertEachOnce(
            site, [*set(first.served) - in_doubt, *backup.served,
                   *again.served], list(waiting))
        self.assertEqual(len(first.served), len(set(first.served)))
        self.assertLess(len(backup.served), 120)
        log = site.log('smtp.log')
        self.assertIn(f'main: {HOST}:{port}: the breaker is open', log)
        self.assertIn(f'main: {HOST}:{port}: the breaker is closed', log)
        self.assertQuiet(site)


class TestOneIsSlow(RelaysTestCase):
    def test_ten_times_slower(self):
        # Four connections to each; nobody waits for those that are slow.
        members, times = 2000, {QUICK: [], SLOW: []}

        def taking(seconds):
            def script(command, session):
                if command == '.':
                    times[seconds].append(time.monotonic())
                    time.sleep(seconds)
                    times[seconds].append(time.monotonic())
            return script
        quick, slow = (self.use(Scripted(taking(seconds)))
                       for seconds in (QUICK, SLOW))
        site = self.site(members=members, settings=sections(
            quick=relay(quick), slow=relay(slow)))
        site.run({'verp': True})
        self.assertServed(site, quick, slow)
        begin = min(map(min, times.values()))
        took = max(map(max, times.values())) - begin
        # What each of them takes in a second while it has something to do.
        rates = [len(server.served) / (max(times[seconds]) - begin)
                 for server, seconds in ((quick, QUICK), (slow, SLOW))]
        ideal, share = members / sum(rates), len(slow.served) / members
        print(f'{took:.2f} s, or {took / ideal:.2f} times {ideal:.2f} s, the '
              f'ideal; the slow server had {share:.1%}, where '
              f'{rates[1] / sum(rates):.1%} are ideal')
        self.assertGreater(share, 0.03)
        self.assertLess(share, 0.2)


class TestTheSame(RelaysTestCase):
    def test_many_servers_are_as_many_times_as_quick(self):
        # Each takes 50 ms for a message, over four connections.
        members, seconds, connections, took = 480, 0.05, 4, {}
        for number in (1, 3, 6):
            load = Load(seconds)
            servers = [self.use(Scripted(load)) for _ in range(number)]
            site = self.site(
                members=members, max_delivery_threads=connections,
                settings=sections(**{
                    f'relay-{each}': relay(server)
                    for each, server in enumerate(servers)}))
            site.run({'verp': True})
            self.assertServed(site, *servers)
            for server in servers:
                self.assertAlmostEqual(
                    len(server.served), members / number, delta=40)
            # They are all at work at the same time.
            self.assertEqual(load.most, number * connections)
            took[number] = max(load.times) - min(load.times)
        print(f'three servers are {took[1] / took[3]:.2f} times as quick as '
              f'one, and six {took[1] / took[6]:.2f} times')
