# SPDX-License-Identifier: GPL-3.0-or-later
"""The network thread short of threads and descriptors, and servers that would
have it wait for ever.
"""

import os
import signal
import resource
import unittest
import threading

from itertools import count
from mailman.interfaces.mailinglist import Personalization
from pathlib import Path
from tests.fault.syscalls import call_as, CAN_BECOME, start_as
from tests.scripted import CLOSE, HANG, Scripted
from tests.servers.loopback import make_passable
from tests.site import POST
from tests.site_case import SiteTestCase


UNAVAILABLE = 'Mail server unavailable: '
CONNECTIONS = 4
BY_DATA = 'PIPELINING', 'SIZE 0', '8BITMIME'
BY_CHUNKS = (*BY_DATA, 'CHUNKING')
# Seconds in which a post comes to its end, where the timeouts are minutes.
SOON = 30
# Descriptors that are left, when none is left to the network.
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
        # Mailman asks whether the user may read the configuration.
        make_passable(site.directory)
        runner = start_as(user, site.start_runner)
        self.wait_until_up(site)
        return runner

    @unittest.skipUnless(CAN_BECOME, 'needs root')
    def test_no_threads(self):
        # Neither the network thread, nor one for the look-up of the host.
        for threads in (1, 2):
            with self.subTest(threads=threads):
                server, user = self.use(Scripted()), next(USERS)
                site = self.site(server, members=20)
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
            server, members=60, max_delivery_threads=CONNECTIONS)
        runner = self.start_as(user, site)
        site.post(verp=True)
        server.wait_for(lambda server: len(gate.waiting) == CONNECTIONS)
        before = self.limit_threads(user, runner, 1)
        gate.open(CLOSE)
        site.wait_until_empty(timeout=SOON)
        # The threads that there are look the host up again.
        self.assertEachOnce(site, server.served)
        self.limit_threads(user, runner, before)
        self.assertServed(site, server)

    def limit_threads(self, user, runner, threads):
        """Set the limit; return what it was."""
        return call_as(user, lambda: limited(
            runner, resource.RLIMIT_NPROC, threads))
