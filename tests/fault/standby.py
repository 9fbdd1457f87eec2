# SPDX-License-Identifier: GPL-3.0-or-later

"""A host loses its power in mid-post, and another one goes on.

They have a network, processes and a clock each, and the storage in turn.
"""

import os
import fcntl
import shutil
import socket
import struct
import unittest
import subprocess

from collections import Counter
from contextlib import ExitStack
from mailman_mta_pool.demo.process import Child
from tests.fault.rounds import extra, numbered
from tests.hosts import ADDRESS, available, Host
from tests.scripted import Scripted
from tests.site import SCRIPT
from tests.site_case import SiteTestCase


REASON = available()
CONNECTIONS = 4
# So many transactions at most are under way on a connection.
DEPTH = 8
MEMBERS = 400
# So many have got the post when the power goes.
BEFORE = 100
# The first host has been running for months.
UPTIME = 8_000_000
GOES_ON = 'a delivery that was broken off goes on'
# EXT4_IOC_SHUTDOWN of Linux, and its flag: nothing more is written, not even
# what the file system's own journal has in memory.
SHUTDOWN, NOTHING_MORE = 0x8004587d, struct.pack('I', 2)
IMAGE_SIZE = 64 * 1024 * 1024
MKFS = shutil.which('mkfs.ext4', path='/usr/sbin:/sbin:/usr/bin:/bin')


@unittest.skipIf(REASON, REASON)
class StandbyTestCase(SiteTestCase):
    def setUp(self):
        super().setUp()
        self.provider = self.use(Host('provider'))
        self.provider.be_in_the_middle()
        self.numbers = iter(range(11, 250))

    def start_host(self, name, uptime=0):
        host = self.use(Host(name, uptime))
        self.provider.connect(host, next(self.numbers))
        return host

    def start_server(self, *arguments, **options):
        """Start a server that all hosts reach."""
        listener = self.provider.call(socket.create_server, (ADDRESS, 0))
        return self.use(Scripted(*arguments, listener=listener, **options))

    def start(self, host, site, *options):
        """Call `mailman start` on a host.

        :return: Its exit status, and what it said.
        """
        path = site.directory / f'start-{host.name}.txt'

        def call():
            with open(path, 'wb') as said:
                return Child(
                    '-c', SCRIPT.format('mailman'), '--run-as-root', '-C',
                    str(site.configuration), 'start', *options,
                    cwd=site.directory, stdin=subprocess.DEVNULL,
                    stdout=said, stderr=said).wait(60)
        return host.call(call), path.read_text()

    def assertStarts(self, host, site, *options):
        status, said = self.start(host, site, *options)
        self.assertEqual(status, 0, said)

    def power_off(self, host):
        """End a host: the server hears nothing of it, not even a FIN."""
        self.provider.cut(host)
        host.power_off()

    def assertNobodyLost(self, site, server, in_flight, waiting=()):
        """All were served or wait, and few of them twice.

        :return: How many copies were too many.
        """
        queues = site.waiting()
        self.assertEqual(sorted(queues), sorted(waiting), queues)
        self.assertEqual(site.bounced(), [])
        served = Counter(server.served)
        rest = [name for names in queues.values() for name in names]
        self.assertEqual(set(served).union(rest), set(site.members))
        self.assertLessEqual(extra(served), in_flight)
        self.assertLessEqual(max(served.values()), 2)
        self.assertQuiet(site)
        return extra(served)


class TestSharedStorage(StandbyTestCase):
    """What was written is there, flushed to the disk or not."""

    def setUp(self):
        super().setUp()
        self.one = self.start_host('one', UPTIME)
        self.two = self.start_host('two')

    def fail_over(self, site, server):
        """Let one host begin with a post, and start the other one.

        :return: How many messages came from the first one.
        """
        site.post(verp=True)
        self.assertStarts(self.one, site)
        server.wait_for(lambda server: len(server.accepted) >= BEFORE)
        self.power_off(self.one)
        first = len(server.accepted)
        self.assertLess(first, 3 * BEFORE)
        self.assertStarts(self.two, site, '--force')
        return first

    def finish(self, site):
        site.wait_for(lambda: site.is_empty('out'), 'an empty queue')
        self.assertEqual(site.log('smtp.log').count(GOES_ON), 1)
        # The runner and its master.
        self.assertEqual(len(self.two.processes()), 2)

    def test_by_chunks(self):
        # With DATA, as below, a connection has one message in flight.
        server = self.start_server(
            delay=0.002,
            extensions=('PIPELINING', 'CHUNKING', 'SIZE 0', '8BITMIME'))
        site = self.site(
            server, members=MEMBERS, max_delivery_threads=CONNECTIONS,
            settings={'delivery': {'pipeline_depth': DEPTH}})
        first = self.fail_over(site, server)
        self.finish(site)
        copies = self.assertNobodyLost(site, server, CONNECTIONS * DEPTH)
        print(f'\n{first} messages from the first host, and {copies} copies')

    def test_limits(self):
        # What the first host has sent counts, and so does what it was about to
        # send.
        limit = 2 * BEFORE
        server = self.start_server(delay=0.002)
        site = self.site(server, members=MEMBERS, settings={
            'delivery': {'pipeline_depth': DEPTH},
            'relay.ses': {
                'host': server.host, 'port': server.port,
                'max_connections': CONNECTIONS,
                'message_rate': f'{limit}/hour'}})
        first = self.fail_over(site, server)
        self.finish(site)
        copies = self.assertNobodyLost(site, server, CONNECTIONS, ['retry'])
        self.assertLessEqual(len(server.accepted), limit)
        self.assertGreaterEqual(
            len(server.accepted), limit - CONNECTIONS * DEPTH)
        self.assertGreater(len(server.accepted), first)
        print(f'\n{first} messages from the first host of {limit} that were '
              f'allowed, {len(server.accepted)} in all, {copies} copies')
        # The second host tells nothing of the first one's runner.
        status = self.two.call(site.mailman, 'mta-pool', 'status')
        self.assertIn(f'message_rate of relay ses: {limit}/hour', status)

    def test_connections_of_the_dead(self):
        # The server believes that they are there, and refuses more.
        def script(command, session):
            if command == 'CONNECT' and len(server.open) > CONNECTIONS:
                refused.append(session.peer)
                return '421 4.7.0 Too many connections'
        refused = []
        server = self.start_server(script, delay=0.002)
        site = self.site(
            server, members=MEMBERS, max_delivery_threads=CONNECTIONS)
        self.fail_over(site, server)
        server.wait_for(lambda server: refused)
        # Its timeout is over.
        server.drop_connections()
        self.finish(site)
        copies = self.assertNobodyLost(site, server, CONNECTIONS)
        self.assertEqual(set(refused), {self.two.address})
        print(f'\n{len(refused)} connections refused, {copies} copies')

    def test_master_lock(self):
        server = self.start_server()
        site = self.site(server)
        self.assertStarts(self.one, site)
        site.wait_for(lambda: len(self.one.processes()) == 2, 'the runner')
        # Without --force nothing starts, neither here nor there.
        for host, why in ((self.one, 'already running'),
                          (self.two, 'host_mismatch')):
            status, said = self.start(host, site)
            self.assertNotEqual(status, 0)
            self.assertIn(why, said)
        status, said = self.start(self.one, site, '--force')
        self.assertIn('already running', said)
        self.assertNotEqual(status, 0)
        # Nobody asks whether the master of another host is at work.
        self.assertStarts(self.two, site, '--force')
        site.wait_for(lambda: len(self.two.processes()) == 2, 'the runner')
        self.assertEqual(len(self.one.processes()), 2)

    def test_master_lock_is_empty(self):
        # It was not flushed to the disk in time.
        site = self.site()
        lock = site.var / 'locks' / 'master.lck'
        lock.parent.mkdir(parents=True)
        lock.touch()
        self.start(self.two, site, '--force')
        site.wait_for(lambda: not self.two.processes(), 'the end')
        self.assertNotIn('Master started', site.log('mailman.log'))


@unittest.skipIf(MKFS is None, 'no mkfs.ext4')
class TestPowerFailure(StandbyTestCase):
    """Only what was flushed to the disk is there."""

    def mount(self, image, path):
        """Mount an image of a disk for this process and for later hosts."""
        subprocess.run(['mount', '-o', 'loop', str(image), str(path)],
                       check=True)
        resources = self.use(ExitStack())
        resources.callback(
            subprocess.run, ['umount', '--lazy', str(path)], check=True)
        return resources

    def move_to_disk(self, site):
        """Have a disk for all that is below $VAR_DIR.

        :return: The image, and what unmounts it.
        """
        image = site.directory / 'disk-one'
        with open(image, 'wb') as fp:
            fp.truncate(IMAGE_SIZE)
        subprocess.run([MKFS, '-q', str(image)], check=True)
        saved = site.directory / 'saved'
        site.var.rename(saved)
        site.var.mkdir()
        mounted = self.mount(image, site.var)
        shutil.copytree(saved, site.var, dirs_exist_ok=True)
        return image, mounted

    def fail_over(self, journal):
        """Let one host begin with two posts in turns, and another go on.

        :return: How many copies were too many.
        """
        server = self.start_server(delay=0.004)
        site = self.site(
            server, members=MEMBERS // 2, max_delivery_threads=CONNECTIONS,
            settings={'delivery': {'journal': journal, 'time_slice': '0.3s'}})
        image, mounted = self.move_to_disk(site)
        for number in range(2):
            site.post(numbered(number), verp=True)
        subprocess.run(['sync', '-f', str(site.var)], check=True)
        one = self.start_host('one', UPTIME)
        self.assertStarts(one, site)
        server.wait_for(lambda server: len(server.accepted) >= BEFORE)
        self.provider.cut(one)
        disk = os.open(site.var, os.O_RDONLY)
        try:
            fcntl.ioctl(disk, SHUTDOWN, NOTHING_MORE)
        finally:
            os.close(disk)
        one.power_off()
        copy = site.directory / 'disk-two'
        shutil.copy(image, copy)
        mounted.close()
        self.mount(copy, site.var)
        two = self.start_host('two')
        # They may be empty, which --force does not help against.
        for path in (site.var / 'locks').glob('master.lck*'):
            path.unlink()
        self.assertStarts(two, site)
        site.wait_for(lambda: site.is_empty('out'), 'an empty queue')
        self.assertEqual(site.waiting(), {})
        served = Counter(server.served)
        self.assertEqual(set(served), set(site.members))
        self.assertGreaterEqual(min(served.values()), 2)
        self.assertQuiet(site)
        two.power_off()
        return len(server.served) - 2 * len(site.members)

    def test_power(self):
        copies = self.fail_over('power')
        print(f'\njournal: power: {copies} copies')
        # What was in flight, and what was replied to since the last flush.
        self.assertLess(copies, BEFORE / 2)

    def test_process(self):
        # Without flushing it, the journal knows less, and nobody is lost.
        copies = self.fail_over('process')
        print(f'\njournal: process: {copies} copies')
