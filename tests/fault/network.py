# SPDX-License-Identifier: GPL-3.0-or-later
"""The network thread short of threads and descriptors, and servers that would
have it wait for ever.
"""

import os
import re
import signal
import resource
import unittest
import threading

from collections import deque
from itertools import count
from mailman.interfaces.mailinglist import Personalization
from pathlib import Path
from tests.fault.cases import always
from tests.fault.resolver import PLUGIN, SILENT_HOST
from tests.fault.syscalls import call_as, CAN_BECOME, start_as
from tests.scripted import CLOSE, HANG, Scripted
from tests.site import POST
from tests.site_case import SiteTestCase


UNAVAILABLE = 'Mail server unavailable: '
CONNECTIONS = 4
BY_DATA = 'PIPELINING', 'SIZE 0', '8BITMIME'
BY_CHUNKS = (*BY_DATA, 'CHUNKING')
# No address, so that it has to be looked up.
NAME = 'localhost'
# Seconds in which a post comes to its end, where the timeouts are minutes.
SOON = 30
# So many descriptors are left to Mailman when the network may have none; see
# `mailman_mta_pool.network.limits`.
LEFT = 12
# No user of the system has one of these, so the kernel counts no other
# threads.
USERS = count(61_000 + 10 * (os.getpid() % 400))
# No charset of that name can be looked up.
UNRENDERABLE = POST.replace(b'us-ascii', b'"us\0ascii"')


def descriptors(runner):
    """What a process has open, by number."""
    found = {}
    for path in Path(f'/proc/{runner.pid}/fd').iterdir():
        try:
            found[int(path.name)] = os.readlink(path)
        except FileNotFoundError:
            # It was closed meanwhile.
            pass
    return found


def connections_to(server, found):
    """Those of a process's descriptors that are connections to a server."""
    inodes = set()
    for line in Path('/proc/net/tcp').read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[2].partition(':')[2], 16) == server.port:
            inodes.add(f'socket:[{fields[9]}]')
    return [number for number, what in found.items() if what in inodes]


def limited(runner, kind, value):
    """Set a soft limit of a process; return what it was."""
    soft, hard = resource.prlimit(runner.pid, kind)
    # Whoever may not raise the hard limit leaves it as it is.
    resource.prlimit(runner.pid, kind, (value, hard))
    return soft


class Gate:
    """A script that answers to some commands, and lets the others wait.

    :param verb: The verb of the commands.
    :param count: How many are answered.
    """

    def __init__(self, verb, count):
        self._verb = verb
        self._left = count
        self._reply = None
        self._lock = threading.Lock()
        self._is_open = threading.Event()
        #: The numbers of the connections that wait.
        self.waiting = set()

    def __call__(self, command, session):
        if self._is_open.is_set() or command.partition(' ')[0] != self._verb:
            return None
        with self._lock:
            self._left -= 1
            if self._left >= 0:
                return None
            self.waiting.add(session.number)
        self._is_open.wait()
        return self._reply

    def open(self, reply=None):
        """Answer to all who wait, and let others pass.

        :param reply: What to say to those who wait, as a script does.
        """
        self._reply = reply
        self._is_open.set()


class TestLimits(SiteTestCase):
    """Limits of the process are reached, and lifted again."""

    def assertServed(self, site, server, waiting=()):
        """Another post goes out to everybody.

        :param waiting: The queues that hold somebody from before.
        """
        before = site.waiting()
        self.assertEqual(sorted(before), sorted(waiting))
        server.accepted.clear()
        site.post(verp=True)
        site.wait_until_empty(timeout=SOON)
        self.assertEqual(sorted(server.served), sorted(site.members))
        self.assertEqual(site.waiting(), before)
        self.assertQuiet(site)

    def wait_until_up(self, site):
        """Wait until a runner has disposed of a post to nobody."""
        site.post(recipients=set())
        site.wait_until_empty()

    def test_descriptors_in_mid_post(self):
        # Enough are left for Mailman's own files, and none for connections.
        gate = Gate('RCPT', 20)
        server = self.use(Scripted(gate))
        self.addCleanup(gate.open)
        site = self.site(
            server, members=60, max_delivery_threads=CONNECTIONS)
        with site.runner() as runner:
            site.post(verp=True)
            server.wait_for(lambda server: len(gate.waiting) == CONNECTIONS)
            kept = descriptors(runner)
            for number in connections_to(server, kept):
                del kept[number]
            first = next(number for number in count() if number not in kept)
            before = limited(runner, resource.RLIMIT_NOFILE, first + LEFT)
            gate.open(CLOSE)
            site.wait_until_empty(timeout=SOON)
            self.assertEachOnce(site, server.served, ['retry'])
            self.assertEqual(len(server.served), 20)
            self.assertIn('Too many open files', site.log('smtp.log'))
            limited(runner, resource.RLIMIT_NOFILE, before)
            self.assertServed(site, server, ['retry'])

    def test_no_descriptors_for_the_network_thread(self):
        server = self.use(Scripted())
        site = self.site(server, members=20)
        with site.runner() as runner:
            self.wait_until_up(site)
            before = limited(runner, resource.RLIMIT_NOFILE,
                             max(descriptors(runner)) + 1 + LEFT)
            site.post(verp=True)
            site.wait_until_empty(timeout=SOON)
            self.assertEachOnce(site, (), ['retry'])
            self.assertIn('Too many open files', site.log('smtp.log'))
            limited(runner, resource.RLIMIT_NOFILE, before)
            self.assertServed(site, server, ['retry'])

    def start_as(self, user, site):
        """Start a runner to which the limit of threads applies."""
        runner = start_as(user, site.start_runner)
        self.wait_until_up(site)
        return runner

    @unittest.skipUnless(CAN_BECOME, 'needs root')
    def test_no_threads(self):
        # Neither the network thread, nor one for the look-up of the host.
        for threads in (1, 2):
            with self.subTest(threads=threads):
                server, user = self.use(Scripted()), next(USERS)
                site = self.site(server, members=20, smtp_host=NAME)
                runner = self.start_as(user, site)
                before = self.limit_threads(user, runner, threads)
                site.post(verp=True)
                site.wait_until_empty(timeout=SOON)
                self.assertEachOnce(site, (), ['retry'])
                self.assertIn(
                    "can't start new thread", site.log('smtp.log'))
                self.limit_threads(user, runner, before)
                self.assertServed(site, server, ['retry'])
                self.assertEqual(runner.stop(), signal.SIGTERM)

    @unittest.skipUnless(CAN_BECOME, 'needs root')
    def test_threads_in_mid_post(self):
        gate = Gate('RCPT', 20)
        server, user = self.use(Scripted(gate)), next(USERS)
        self.addCleanup(gate.open)
        site = self.site(
            server, members=60, max_delivery_threads=CONNECTIONS,
            smtp_host=NAME)
        runner = self.start_as(user, site)
        site.post(verp=True)
        server.wait_for(lambda server: len(gate.waiting) == CONNECTIONS)
        before = self.limit_threads(user, runner, 1)
        gate.open(CLOSE)
        site.wait_until_empty(timeout=SOON)
        # The host cannot be looked up again.
        self.assertEachOnce(site, server.served, ['retry'])
        self.assertEqual(len(server.served), 20)
        self.limit_threads(user, runner, before)
        self.assertServed(site, server, ['retry'])

    def limit_threads(self, user, runner, threads):
        """Set the limit; return what it was."""
        return call_as(user, lambda: limited(
            runner, resource.RLIMIT_NPROC, threads))


class KeptConnectionsTestCase(SiteTestCase):
    """A runner that keeps its connections from post to post."""

    def post(self, site, server, verp=True, **keywords):
        """Post, and return whom the server has served when that is over."""
        server.accepted.clear()
        site.post(verp=verp, **keywords)
        site.wait_until_empty()
        return sorted(server.served)


class TestUnrenderable(KeptConnectionsTestCase):
    """A post whose connections are wanted, and then never used."""

    def test_between_two_posts(self):
        for connections in (1, CONNECTIONS):
            with self.subTest(connections=connections):
                server = self.use(Scripted())
                site = self.site(server, max_delivery_threads=connections)
                with site.runner():
                    everybody = sorted(site.members)
                    self.assertEqual(self.post(site, server), everybody)
                    # A server that ends its idle time does this.
                    server.drop_connections()
                    self.assertEqual(
                        self.post(site, server, content=UNRENDERABLE), [])
                    self.assertEqual(site.waiting(), {'shunt': everybody})
                    self.assertEqual(self.post(site, server), everybody)
                self.assertEqual(site.waiting(), {'shunt': everybody})


class TestHalfOpen(KeptConnectionsTestCase):
    """Somewhere between us and the server what we send is swallowed."""

    def test_kept_connections(self):
        for extensions in (BY_DATA, BY_CHUNKS):
            for verp in (False, True):
                for connections in (1, CONNECTIONS):
                    with self.subTest(
                            extensions=extensions, verp=verp,
                            connections=connections):
                        self.play(extensions, verp, connections)

    def play(self, extensions, verp, connections):
        def script(command, session):
            if session.number in swallowed:
                return HANG
        swallowed = set()
        server = self.use(Scripted(
            script, extensions=extensions, delay=0.005))
        site = self.site(
            server, members=60, max_delivery_threads=connections,
            settings={'relay.mta': {'mail_timeout': '2s'},
                      'pool': {'idle_timeout': '60s'}})
        with site.runner():
            self.assertEqual(
                self.post(site, server, verp=True), sorted(site.members))
            self.assertEqual(len(server.open), connections)
            swallowed.update(server.open)
            self.assertEqual(
                self.post(site, server, verp=verp), sorted(site.members))
            self.assertEqual(site.waiting(), {})
            self.assertGreater(server.connections, connections)
            # The stalled connections are not forgotten.
            log = site.log('smtp.log')
            self.assertRegex(log, 'no reply to (MAIL|RSET) within 2 s')
            self.assertNotIn(UNAVAILABLE, log)
        self.assertQuiet(site)


class TestQuit(KeptConnectionsTestCase):
    """Servers that never answer QUIT."""

    def server(self):
        """Make a server that notes, with each QUIT, who has closed before.

        :return: The server.
        """
        def script(command, session):
            if command == 'QUIT':
                with lock:
                    quitting.append(session)
                    self.left.append(
                        [each.number for each in quitting if each.is_left])
                return HANG
        quitting = []
        lock = threading.Lock()
        self.left = []
        return self.use(Scripted(script, delay=0.005))

    def assertAtOnce(self, server):
        """All said QUIT before any of them was closed."""
        server.wait_for(lambda server: len(self.left) == CONNECTIONS)
        self.assertEqual(self.left, [[]] * CONNECTIONS)

    def test_next_post(self):
        server = self.server()
        site = self.site(
            server, members=60, max_delivery_threads=CONNECTIONS,
            settings={'relay.mta': {'quit_timeout': '2s'},
                      'pool': {'idle_timeout': '1s'}})
        with site.runner():
            self.post(site, server)
            self.assertEqual(server.connections, CONNECTIONS)
            self.assertAtOnce(server)
            self.assertEqual(self.post(site, server), sorted(site.members))
        self.assertEqual(site.waiting(), {})
        self.assertQuiet(site)

    def test_exit(self):
        server = self.server()
        site = self.site(
            server, members=60, max_delivery_threads=CONNECTIONS,
            settings={'relay.mta': {'quit_timeout': '2s'},
                      'pool': {'idle_timeout': '60s'}})
        runner = site.start_runner()
        self.assertEqual(self.post(site, server), sorted(site.members))
        self.assertEqual(server.connections, CONNECTIONS)
        self.assertEqual(runner.stop(SOON), signal.SIGTERM)
        self.assertAtOnce(server)
        self.assertQuiet(site)


class TestOneOfThem(SiteTestCase):
    """A connection that stalls while others do not."""

    def test_found_out_while_the_others_are_busy(self):
        # They have their hands full until its place is taken.
        pause = threading.Event()
        accepted = []

        def script(command, session):
            if command == 'CONNECT' and session.number > CONNECTIONS:
                accepted.append(len(server.accepted))
                pause.set()
            if command.startswith('MAIL'):
                if session.number == 2:
                    return HANG
                pause.wait(0.05)
        server = self.use(Scripted(script))
        site = self.site(
            server, members=400, max_delivery_threads=CONNECTIONS,
            settings={'relay.mta': {'mail_timeout': '2s'}})
        site.run({'verp': True})
        self.assertEachOnce(site, server.served)
        stalled, = (command for number, command in server.commands
                    if number == 2 and command.startswith('MAIL'))
        # On another connection, with more than that one to come.
        self.assertEqual(
            sum(command == stalled for _, command in server.commands), 2)
        self.assertLess(accepted[0], 390)
        self.assertIn('no reply to MAIL within 2 s', site.log('smtp.log'))
        self.assertQuiet(site)


class TestWindow(SiteTestCase):
    """How much is in flight."""

    def test_server_that_closes_without_a_word(self):
        closed = []

        def script(command, session):
            if command.startswith('MAIL'):
                session.messages = getattr(session, 'messages', 0) + 1
                if session.messages > 10:
                    closed.append(session.number)
                    return CLOSE
        server = self.use(Scripted(script, extensions=BY_CHUNKS))
        site = self.site(
            server, members=300, max_delivery_threads=CONNECTIONS)
        site.run({'verp': True})
        self.assertEachOnce(site, server.served, site.waiting())
        self.assertLessEqual(set(site.waiting()), {'retry'})
        in_doubt = len(site.waiting().get('retry', ()))
        print(f'{in_doubt} in doubt, {len(closed)} connections closed')
        self.assertGreater(len(closed), 15)
        self.assertLessEqual(in_doubt, 3 * len(closed))
        self.assertNotIn(UNAVAILABLE, site.log('smtp.log'))

    def test_scanner(self):
        # It reads nothing while it scans, and scans for longer than the
        # kernel may keep a block.
        scanning = threading.Event()

        def script(command, session):
            if command == '.' or command.startswith('BDAT') and (
                    'LAST' in command):
                scanning.wait(3)
        content = POST + (b'Ants are strong, and many. ' * 2 + b'\n') * 5600
        settings = {'relay.mta': {
            'block_timeout': '2s', 'end_timeout': '20s'}}
        sites = []
        # At the same time, for both take half a minute.
        for extensions in (BY_DATA, BY_CHUNKS):
            server = self.use(Scripted(script, extensions=extensions))
            site = self.site(
                server, members=40, max_delivery_threads=CONNECTIONS,
                settings=settings)
            site.post(content=content, verp=True)
            site.start_runner()
            sites.append((site, server))
        for site, server in sites:
            site.wait_until_empty(timeout=150)
            self.assertEachOnce(site, server.served)
            self.assertQuiet(site)


class TestMemory(SiteTestCase):
    """How much waits to be sent."""

    def test_copies_that_share_nothing(self):
        # Nothing can be spliced into a charset that shifts.
        content = POST.replace(b'us-ascii', b'iso-2022-jp') + (
            '\u87fb\n'.encode('iso-2022-jp')) + (
            b'Ants are strong, and many. ' * 2 + b'\n') * 19_000
        members = 100
        gate = Gate('MAIL', members)
        server = self.use(Scripted(gate, extensions=BY_CHUNKS))
        self.addCleanup(gate.open)
        site = self.site(
            server, members=members, max_delivery_threads=CONNECTIONS,
            attributes={'personalize': Personalization.individual})
        site.write_template(
            'list:member:regular:footer', 'For ${user_name}.\n')
        with site.runner() as runner:
            site.post(verp=True)
            site.wait_until_empty()
            self.assertEqual(sorted(server.served), sorted(site.members))
            server.accepted.clear()
            idle = most_memory(runner)
            site.post(content=content, verp=True)
            server.wait_for(lambda server: gate.waiting)
            site.wait_for(Rest(runner), 'the runner to wait for the server')
            gate.open()
            site.wait_until_empty()
            more = most_memory(runner) - idle
        print(f'{more / 2 ** 20:.1f} MiB over idle')
        self.assertEachOnce(site, server.served)
        self.assertEqual(
            len({message.content for message in server.accepted}), members)
        self.assertLessEqual(more, 64 * 2 ** 20)


def most_memory(runner):
    """The most memory that a process has had so far, in octets."""
    status = Path(f'/proc/{runner.pid}/status').read_text()
    return 1024 * int(re.search(r'VmHWM:\s+(\d+) kB\n', status)[1])


class Rest:
    """True once a process has done next to nothing for many looks."""

    def __init__(self, runner):
        self._path = Path(f'/proc/{runner.pid}/stat')
        # In clock ticks, which are some hundredths of a second.
        self._worked = deque(maxlen=100)

    def __call__(self):
        fields = self._path.read_text().rpartition(')')[2].split()
        # User and system time; see proc(5).
        self._worked.append(int(fields[11]) + int(fields[12]))
        return (len(self._worked) == self._worked.maxlen and
                self._worked[-1] - self._worked[0] <= 2)


class TestOpening(SiteTestCase):
    """Nothing comes back before the first command."""

    def assertWaits(self, site, reason):
        """A post waits in the retry queue, and the runner can be stopped."""
        site.post(verp=True)
        runner = site.start_runner()
        site.wait_until_empty(timeout=SOON)
        self.assertEachOnce(site, (), ['retry'])
        self.assertIn(reason, site.log('smtp.log'))
        self.assertEqual(runner.stop(SOON), signal.SIGTERM)
        self.assertQuiet(site)

    def test_dns_without_an_answer(self):
        site = self.site(
            smtp_host=SILENT_HOST, extra=PLUGIN, settings={
                'relay.mta': {'connect_timeout': '1s'},
                'delivery': {'patience': 0}})
        self.assertWaits(
            site, f': connect: the look-up of {SILENT_HOST} had no answer')

    def test_tls_without_an_answer(self):
        # The server takes our hello, and says nothing.
        server = self.use(Scripted(always('CONNECT', HANG)))
        site = self.site(
            server, smtp_secure_mode='smtps', smtp_verify_cert='no',
            settings={'relay.mta': {'hello_timeout': '1s'},
                      'delivery': {'patience': 0}})
        self.assertWaits(site, ': TLS: the TLS handshake was not over')
