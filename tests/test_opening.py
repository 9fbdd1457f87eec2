# SPDX-License-Identifier: GPL-3.0-or-later
"""From nothing to a connection: what must never go wrong before the mail."""

import gc
import os
import ssl
import base64
import socket
import struct
import asyncio
import logging
import smtplib
import resource
import unittest
import warnings
import threading
import traceback

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, ExitStack
from functools import partial
from hypothesis import given, settings, strategies as st
from importlib.resources import files
from itertools import product
from mailman_mta_pool.connection import opening
from mailman_mta_pool.connection.addresses import (
    Address,
    Addresses,
    MAX_ADDRESSES,
)
from mailman_mta_pool.connection.connecting import (
    LAST_RESORT_STAGGER,
    reachable_from,
    STAGGER,
)
from mailman_mta_pool.connection.opening import Endpoint, open_connection
from mailman_mta_pool.connection.own_name import OWN_NAME_TIMEOUT, OwnName
from mailman_mta_pool.connection.tls import context_for
from mailman_mta_pool.connection.tls_socket import TLSSocket
from mailman_mta_pool.errors import (
    AuthenticationRefused,
    CertificateRefused,
    NotOffered,
    RelayUnavailable,
    UnavailableHere,
)
from mailman_mta_pool.login.access import access_of
from mailman_mta_pool.settings import Timeouts, TLSSettings
from tempfile import TemporaryDirectory
from tests.certificates import server_context
from tests.documentation import trusted_test_certificate
from tests.once import once
from tests.opening import CLOSE, HOST, Peer, QuickLoop, TRICKLE
from tests.scripted import Scripted
from unittest import mock


USER, PASSWORD = 'zaphod@heartofgold.test', 'pa55-w0rd'
# So many characters in a row are recognized.
LONG_PART = 5
READY = b'220 mx.example.net ESMTP\r\n'
HELLO = b'250-mx.example.net\r\n250-PIPELINING\r\n250 SIZE 1000\r\n'
HELLO_AUTH = b'250-mx.example.net\r\n250 AUTH PLAIN LOGIN CRAM-MD5\r\n'
HELLO_STARTTLS = b'250-mx.example.net\r\n250 STARTTLS\r\n'
WITH_AUTH = ('PIPELINING', 'AUTH PLAIN LOGIN CRAM-MD5')
# Five different ones, so that each shows whose time it was.
TIMEOUTS = Timeouts(connect=30, greeting=200, hello=100)


def descriptors():
    """The open file descriptors, and that of the listing."""
    return set(os.listdir('/proc/self/fd'))


@contextmanager
def nothing_forgotten(test):
    """No socket may be left to Python to close, which says so then."""
    # What another test has forgotten is none of this one's.
    gc.collect()
    with warnings.catch_warnings(record=True) as forgotten:
        warnings.simplefilter('always', ResourceWarning)
        before = descriptors()
        yield
    test.assertEqual([str(each.message) for each in forgotten], [])
    test.assertEqual(descriptors(), before)


class OpeningTestCase(unittest.TestCase):
    """On a loop whose time passes at once, against a `Peer`."""

    def setUp(self):
        self.complaints = []
        self.loop = self.another_loop()
        self.addCleanup(lambda: self.assertEqual(self.complaints, []))
        self.addresses = Addresses(self.loop.time)

    def another_loop(self):
        """Return a new loop, which is closed in the end."""
        loop = QuickLoop()
        loop.set_exception_handler(
            lambda loop, context: self.complaints.append(context))
        self.addCleanup(loop.close)
        self.addCleanup(lambda: loop.run_until_complete(
            loop.shutdown_default_executor()))
        return loop

    async def outcome(self, host, port, open_one=open_connection,
                      clock=None, user='', password='', **endpoint):
        """Return the `Opened` with its socket closed, or the exception."""
        if user:
            endpoint['access'] = access_of('mx', user, password)
        try:
            opened = await open_one(
                Endpoint(host, port, **endpoint), TIMEOUTS, self.addresses,
                clock=clock or self.loop.time)
        except RelayUnavailable as error:
            return error
        opened.sock.close()
        return opened

    def open(self, *replies, tls=None, **options):
        """Open a connection to a server that gives these replies.

        Whatever happens, the client has closed the connection in the end.
        """
        async def main():
            async with Peer(*replies, tls=tls) as peer:
                self.peer = peer
                outcome = await self.outcome(
                    peer.host, peer.port, **options)
                await peer.all_gone()
                return outcome
        return self.loop.complete(main())

    def open_to(self, serve, **endpoint):
        """Open a connection to a server's coroutine; see `asyncio`."""
        async def main():
            server = await asyncio.start_server(serve, HOST, 0)
            try:
                return await self.outcome(
                    *server.sockets[0].getsockname(), **endpoint)
            finally:
                server.close()
        return self.loop.complete(main())

    def assertFails(self, phase, code, *replies, **endpoint):
        error = self.open(*replies, **endpoint)
        self.assertIsInstance(error, RelayUnavailable)
        self.assertEqual((error.phase, error.code), (phase, code), error)
        self.assertEqual(error.relay, f'{HOST}:{self.peer.port}')
        return error


class TestDialogue(OpeningTestCase):
    def test_what_is_handed_over(self):
        async def main():
            async with Peer(READY, HELLO) as peer:
                opened = await open_connection(
                    Endpoint(HOST, peer.port), TIMEOUTS, self.addresses)
                with opened.sock as sock:
                    self.assertFalse(sock.getblocking())
                    # Or the kernel would hold a group back until the last
                    # is acknowledged.
                    self.assertTrue(sock.getsockopt(
                        socket.IPPROTO_TCP, socket.TCP_NODELAY))
                    self.assertEqual(
                        sock.getpeername(), (HOST, peer.port))
                self.assertEqual(
                    peer.lines, [f'EHLO {opened.hostname}\r\n'.encode()])
                return opened
        opened = self.loop.complete(main())
        self.assertEqual(set(opened.server.keywords), {'PIPELINING', 'SIZE'})
        self.assertEqual(opened.greeting, 'mx.example.net ESMTP')
        self.assertFalse(opened.authenticated)

    def test_given_name(self):
        for name in ('ant.example.com', '[192.0.2.1]'):
            with self.subTest(name=name):
                opened = self.open(READY, HELLO, hello_name=name)
                self.assertEqual(opened.hostname, name)
                self.assertEqual(
                    self.peer.lines, [f'EHLO {name}\r\n'.encode()])

    def test_source_address(self):
        sources = []

        async def serve(reader, writer):
            sources.append(writer.get_extra_info('peername')[0])
            writer.write(READY + HELLO)
            await reader.readline()
            writer.close()
        for source in ('127.0.0.2', '127.0.0.3'):
            self.open_to(serve, source_address=source)
        self.assertEqual(sources, ['127.0.0.2', '127.0.0.3'])

    def test_source_address_of_another_host(self):
        error = self.assertFails('connect', None, source_address='192.0.2.1')
        self.assertIn('192.0.2.1, the source_address', error.reason)

    def test_source_address_of_another_family(self):
        error = self.assertFails('connect', None, source_address='::1')
        self.assertIn(f'{HOST} cannot be reached from ::1', error.reason)

    def test_addresses_that_can_be_reached(self):
        four = Address(socket.AF_INET, 1, 6, ('192.0.2.1', 25))
        six = Address(socket.AF_INET6, 1, 6, ('2001:db8::1', 25, 0, 0))
        for source, expected in (
                ('', [six, four]), ('192.0.2.9', [four]), ('::1', [six])):
            with self.subTest(source=source):
                self.assertEqual(
                    reachable_from(source, [six, four]), expected)
        self.assertEqual(reachable_from('::1', []), [])

    def test_greeting_is_printable(self):
        opened = self.open(b'220-mx\x1b[31m\r\n220 \xff\r\n', HELLO)
        self.assertEqual(opened.greeting, 'mx [31m \\xff')

    def test_greeting(self):
        for reply, code in ((b'554 Go away\r\n', 554), (b'421 Busy\r\n', 421),
                            (CLOSE, None), (b'hello\r\n', None),
                            (b'250 not a greeting\r\n', 250)):
            with self.subTest(reply=reply):
                # A refusal for good is the same the next moment.
                self.assertEqual(
                    self.assertFails('greeting', code, reply).waiting_helps,
                    code != 554)
        self.assertEqual(self.loop.time(), 0)

    def test_hello(self):
        for reply, code in ((b'550 5.7.1 Not you\r\n', 550),
                            (b'421 4.3.2 Later\r\n', 421),
                            (b'451 4.7.1 Later\r\n', 451),
                            (b'220 mx.example.net ESMTP\r\n', 220),
                            (b'501 5.5.4 Bad name\r\n', 501),
                            (CLOSE, None), (b'\0\r\n', None)):
            with self.subTest(reply=reply):
                self.assertFails('EHLO', code, READY, reply)
                # And no HELO.
                self.assertLessEqual(len(self.peer.lines), 1)

    def test_helo(self):
        for code in (b'500', b'502'):
            with self.subTest(code=code):
                opened = self.open(
                    READY, code + b' What?\r\n', b'250 mx PIPELINING\r\n')
                self.assertEqual(dict(opened.server.keywords), {})
                self.assertEqual(self.peer.lines, [
                    f'{verb} {opened.hostname}\r\n'.encode()
                    for verb in ('EHLO', 'HELO')])

    def test_helo_refused(self):
        self.assertFails('EHLO', 550, READY, b'502 What?\r\n', b'550 No\r\n')

    def test_after_helo_nothing_is_offered(self):
        for demanded in ({'starttls': context_for(False, False)},
                         {'user': USER, 'password': PASSWORD}):
            with self.subTest(demanded=list(demanded)):
                error = self.open(READY, b'502 What?\r\n', b'250 mx\r\n',
                                  **demanded)
                self.assertIsInstance(error, NotOffered)
                self.assertEqual(len(self.peer.lines), 2)

    def test_more_than_was_asked_for(self):
        # The second one must not be taken for the reply to EHLO.
        self.assertFails('EHLO', 421, READY + b'421 Busy\r\n')
        self.assertFails('EHLO', None, READY + HELLO)
        self.assertFails('EHLO', None, READY, HELLO + b'250')
        self.assertFails('EHLO', None, READY, HELLO + b'garbage\r\n')
        self.assertEqual(len(self.peer.lines), 1)

    def test_closed_with_a_reason_while_we_speak(self):
        # EHLO cannot be sent any more, but what came before can be read.
        async def main():
            def clock():
                # It is read right before EHLO.
                if theirs.fileno() != -1:
                    theirs.sendall(b'421 4.3.2 Shutting down\r\n')
                    theirs.setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER,
                        struct.pack('ii', 1, 0))
                    theirs.close()
                return 0.0
            with socket.create_server((HOST, 0)) as listener:
                listener.setblocking(False)
                opening = asyncio.ensure_future(self.outcome(
                    *listener.getsockname(), clock=clock))
                theirs, _ = await self.loop.sock_accept(listener)
                await self.loop.sock_sendall(theirs, READY)
                return await opening
        error = self.loop.complete(main())
        self.assertEqual((error.phase, error.code), ('EHLO', 421), error)

    def test_a_refusal_before_garbage_counts(self):
        self.assertFails('greeting', 554, b'554 No\r\n\0\0\r\n')
        self.assertFails('AUTH', 535, READY, HELLO_AUTH, b'535 No\r\nx\r\n',
                         user=USER, password=PASSWORD)

    def test_round_trip_is_the_least_of_all_hellos(self):
        now = [0.0]

        def after(seconds, reply):
            def answer():
                now[0] += seconds
                return reply
            return answer
        opened = self.open(
            after(9, READY), after(0.3, b'502 What?\r\n'),
            after(0.2, b'250 mx\r\n'), clock=lambda: now[0])
        self.assertAlmostEqual(opened.round_trip, 0.2)
        opened = self.open(
            after(9, READY), after(0.4, HELLO_AUTH),
            after(0.1, b'235 Welcome\r\n'), user=USER, password=PASSWORD,
            clock=lambda: now[0])
        self.assertAlmostEqual(opened.round_trip, 0.4)


class TestDeadlines(OpeningTestCase):
    """Each is for a complete reply, however slowly its octets come in."""

    CREDENTIALS = {'user': USER, 'password': PASSWORD}

    def test_replies(self):
        tls = {'starttls': context_for(False, False)}
        for phase, seconds, before, endpoint in (
                ('greeting', 200, (), {}),
                ('EHLO', 100, (READY,), {}),
                ('EHLO', 100, (READY, b'502 What?\r\n'), {}),
                ('TLS', 100, (READY, HELLO_STARTTLS), tls),
                ('TLS', 100, (READY, HELLO_STARTTLS, b'220 Go\r\n'), tls),
                ('AUTH', 100, (READY, HELLO_AUTH), self.CREDENTIALS),
                ('AUTH', 100, (READY, HELLO_AUTH, b'334 eHg=\r\n'),
                 self.CREDENTIALS)):
            for end in ((b'2',), (b'2', TRICKLE)):
                if before[-1:] == (b'220 Go\r\n',):
                    # What is not TLS is found out at once.
                    end = (b'',)
                with self.subTest(phase=phase, before=before, end=end):
                    begin = self.loop.time()
                    error = self.assertFails(
                        phase, None, *before, *end, **endpoint)
                    self.assertEqual(self.loop.time() - begin, seconds)
                    self.assertIn(f'within {seconds} s', str(error))
                    self.assertTrue(error.waiting_helps)

    def test_octets_that_are_always_there(self):
        async def serve(reader, writer):
            while not reader.at_eof():
                writer.write(b'2')
                self.loop.pass_time(10)
                await asyncio.sleep(0)
            writer.close()
        error = self.open_to(serve)
        self.assertEqual(error.phase, 'greeting')
        self.assertIn('within 200 s', str(error))

    def test_tls_handshake(self):
        begin = self.loop.time()
        self.assertFails('TLS', None, b'', implicit_tls=context_for(
            False, False))
        self.assertEqual(self.loop.time() - begin, TIMEOUTS.hello)

    def test_each_reply_has_its_own(self):
        # 90 + 90 seconds, for EHLO and HELO, are not over 100.
        replies = [READY, b'502 What?\r\n', b'250 mx\r\n']

        async def serve(reader, writer):
            writer.write(replies[0])
            for reply in replies[1:]:
                await reader.readline()
                await asyncio.sleep(90)
                writer.write(reply)

        self.assertNotIsInstance(self.open_to(serve), RelayUnavailable)
        self.assertEqual(self.loop.time(), 180)


class TestConnect(OpeningTestCase):
    def setUp(self):
        super().setUp()
        self.exits = ExitStack()
        self.addCleanup(self.exits.close)

    def nobody(self, host=HOST):
        """An address that refuses connections."""
        with socket.create_server((host, 0)) as listener:
            return listener.getsockname()

    def black_hole(self, host=HOST):
        """An address where nobody answers: its backlog is full."""
        listener = self.exits.enter_context(
            socket.create_server((host, 0), backlog=0))
        self.exits.enter_context(
            socket.create_connection(listener.getsockname()))
        return listener.getsockname()

    def connect(self, *found, times=1, peers=1):
        """Connect to what is found, and to a server behind that.

        :return: The last outcome, and the seconds that it took.
        """
        async def main():
            async with Peer(READY, HELLO) as peer:
                self.peer = peer
                self.loop.found = [*found] + peers * [(HOST, peer.port)]
                for _ in range(times):
                    begin = self.loop.time()
                    with nothing_forgotten(self):
                        outcome = await self.outcome('mx.example.net', 25)
                        await peer.all_gone()
                return outcome, self.loop.time() - begin
        return self.loop.complete(main())

    def test_refused_then_the_next_at_once(self):
        outcome, seconds = self.connect(self.nobody(), self.nobody())
        self.assertNotIsInstance(outcome, RelayUnavailable)
        self.assertEqual(seconds, 0)

    def test_silence_then_the_next_soon(self):
        outcome, seconds = self.connect(self.black_hole())
        self.assertNotIsInstance(outcome, RelayUnavailable)
        self.assertEqual(seconds, STAGGER)

    def test_what_was_overtaken_is_tried_last(self):
        outcome, seconds = self.connect(self.black_hole(), times=2)
        self.assertEqual(seconds, 0)

    def test_all_fail(self):
        found = [self.nobody(), self.black_hole('127.0.0.2'),
                 self.black_hole('127.0.0.3')]
        error, seconds = self.connect(*found, peers=0)
        self.assertIsInstance(error, RelayUnavailable)
        self.assertEqual(error.phase, 'connect')
        self.assertTrue(error.waiting_helps)
        # The third began after the second, and has the whole time for it.
        self.assertEqual(seconds, TIMEOUTS.connect + STAGGER)
        for words in ('127.0.0.1: [Errno 111] Connection refused',
                      '127.0.0.2: no answer within 30 s',
                      '127.0.0.3: no answer within 30 s'):
            self.assertIn(words, str(error))

    def allow(self, count):
        """Allow so many attempts besides the first.

        :return: A list, to which each attempt adds its end.
        """
        ends, allowed = [], iter(range(count))
        self.addresses.next_attempt = lambda: (
            None if next(allowed, None) is None else lambda: ends.append(1))
        return ends

    def test_no_more_attempts_than_are_allowed(self):
        for refusing, allowed in ((1, 1), (2, 2), (0, 0)):
            with self.subTest(refusing=refusing):
                ends = self.allow(allowed)
                outcome, _ = self.connect(
                    *(self.nobody() for _ in range(refusing)))
                self.assertNotIsInstance(outcome, RelayUnavailable)
                self.assertEqual(len(ends), allowed)

    def test_another_attempt_is_not_allowed(self):
        found = self.nobody(), self.nobody('127.0.0.2')
        ends = self.allow(1)
        error, _ = self.connect(*found)
        self.assertIsInstance(error, RelayUnavailable)
        self.assertTrue(error.waiting_helps)
        self.assertIn('127.0.0.2: [Errno 111] Connection refused; 127.0.0.1: '
                      'not tried, because of connect_rate', str(error))
        self.assertEqual((self.peer.connections, len(ends)), (0, 1))
        # What was not tried goes first then.
        outcome, _ = self.connect(*found)
        self.assertNotIsInstance(outcome, RelayUnavailable)

    def test_silence_and_another_attempt_is_not_allowed_yet(self):
        # It is when the first one has failed.
        self.addresses.next_attempt = lambda: (
            (lambda: None) if self.loop.time() >= TIMEOUTS.connect else None)
        outcome, seconds = self.connect(self.black_hole())
        self.assertNotIsInstance(outcome, RelayUnavailable)
        self.assertEqual(seconds, TIMEOUTS.connect)

    def test_no_more_addresses_than_make_sense(self):
        nobody = [self.nobody()] * MAX_ADDRESSES
        error, _ = self.connect(*nobody)
        self.assertIsInstance(error, RelayUnavailable)
        self.assertEqual(self.peer.connections, 0)

    def test_a_server_that_cannot_be_used_is_tried_last(self):
        async def main():
            async with Peer(b'421 Busy\r\n') as bad:
                async with Peer(READY, HELLO) as good:
                    self.loop.found = [(HOST, bad.port), (HOST, good.port)]
                    first = await self.outcome('mx.example.net', 25)
                    second = await self.outcome('mx.example.net', 25)
                    return first, second
        first, second = self.loop.complete(main())
        self.assertEqual(first.code, 421)
        self.assertNotIsInstance(second, RelayUnavailable)

    def test_a_server_is_full_beside_other_connections(self):
        # It is no worse than the others: it holds all that it takes.
        # Without them, it is.
        replies = iter(
            [READY] + 2 * [b'421 4.3.2 Too many connections\r\n'])
        # One failure is enough.
        self.addresses.has_other_relay = lambda: True

        async def main():
            async with Peer(lambda: next(replies), HELLO) as peer:
                self.loop.found = [(HOST, peer.port)]
                first = await open_connection(
                    Endpoint('mx.example.net', 25), TIMEOUTS, self.addresses)
                for is_available in (True, False):
                    refused = await self.outcome('mx.example.net', 25)
                    self.assertEqual(refused.code, 421)
                    self.assertEqual(
                        self.addresses.is_available, is_available)
                    first.use.end()
                first.sock.close()
        self.loop.complete(main())
        self.assertIn('421 4.3.2 Too many', self.addresses.trouble)

    def test_what_was_given_up_leaves_nothing(self):
        # A probe that is cancelled has no result, and the next is one.
        hole = self.black_hole()
        self.loop.found = [hole]

        async def main():
            for _ in range(3):
                await self.outcome('mx.example.net', 25)
            self.assertFalse(self.addresses.is_available)
            await asyncio.sleep(self.addresses.available_in)
            self.assertTrue(self.addresses.is_available)
            probe = asyncio.ensure_future(self.outcome('mx.example.net', 25))
            await asyncio.sleep(1)
            self.assertFalse(self.addresses.is_available)
            self.assertEqual(self.addresses.available_in, float('inf'))
            probe.cancel()
            await asyncio.wait([probe])
            self.assertTrue(self.addresses.is_available)
        self.loop.complete(main())

    def test_what_failed_of_late_is_the_last_resort(self):
        # While one that works is slow to answer, the others may rest.
        first, second = self.black_hole(), self.nobody('127.0.0.2')
        outcome, seconds = self.connect(second, first, times=1)
        # Both have failed now: one refused, and one was overtaken.
        self.assertNotIsInstance(outcome, RelayUnavailable)
        self.assertEqual(seconds, STAGGER)
        slow = self.black_hole('127.0.0.3')
        self.loop.found = [first, slow]

        async def main():
            begin = self.loop.time()
            outcome = await self.outcome('mx.example.net', 25)
            return outcome, self.loop.time() - begin
        outcome, seconds = self.loop.complete(main())
        self.assertIsInstance(outcome, RelayUnavailable)
        # The second one began so late, and had the whole time.
        self.assertEqual(seconds, LAST_RESORT_STAGGER + TIMEOUTS.connect)

    def test_connections_are_spread(self):
        async def main():
            async with Peer(READY, HELLO) as one:
                async with Peer(READY, HELLO, host='127.0.0.2') as two:
                    self.loop.found = [
                        (one.host, one.port), (two.host, two.port)]
                    opened = await asyncio.gather(*[
                        open_connection(Endpoint('mx.example.net', 25),
                                        TIMEOUTS, self.addresses)
                        for _ in range(6)])
                    counts = one.connections, two.connections
                    for each in opened[::2]:
                        # Those of the first.
                        each.use.end()
                    more = [await open_connection(
                        Endpoint('mx.example.net', 25), TIMEOUTS,
                        self.addresses) for _ in range(3)]
                    for each in opened + more:
                        each.use.end()
                        each.sock.close()
                    return counts, (one.connections, two.connections)
        self.assertEqual(self.loop.complete(main()), ((3, 3), (6, 3)))

    def test_no_address(self):
        error, _ = self.connect(peers=0)
        self.assertIn('connect: the host name has no address', str(error))

    def test_look_up_fails(self):
        async def fail(*args, **kws):
            raise socket.gaierror(socket.EAI_NONAME, 'Name not known')
        with mock.patch.object(self.loop, 'getaddrinfo', fail):
            error, _ = self.connect()
        self.assertEqual(error.phase, 'connect')
        self.assertIn('Name not known', str(error))
        self.assertTrue(error.waiting_helps)

    def test_look_up_hangs(self):
        # One hangs, all wait for it, each no longer than it may.
        lookups = []

        async def hang(*args, **kws):
            lookups.append(args)
            await asyncio.sleep(3600)
            raise socket.gaierror(socket.EAI_AGAIN, 'nobody asks any more')

        async def main():
            errors = await asyncio.gather(*[
                self.outcome('mx.example.net', 25) for _ in range(9)])
            errors.append(await self.outcome('mx.example.net', 25))
            seconds = self.loop.time()
            await asyncio.sleep(3600)
            return {str(error) for error in errors}, seconds
        with mock.patch.object(self.loop, 'getaddrinfo', hang):
            errors, seconds = self.loop.complete(main())
        self.assertEqual(
            errors,
            {'mx.example.net:25: connect: the look-up of mx.example.net had '
             'no answer within 30 s'})
        self.assertEqual(len(lookups), 1)
        self.assertEqual(seconds, 2 * TIMEOUTS.connect)
        # In the end it failed, of which nobody has to be told.
        self.addresses = None
        gc.collect()

    def test_name_that_cannot_be_encoded(self):
        async def main(name):
            return await open_connection(
                Endpoint(name, 25), TIMEOUTS, Addresses())
        for name in ('a' * 64 + '.example', 'a..example', 'a\ud800'):
            with self.subTest(name=name):
                with self.assertRaises(UnavailableHere) as caught:
                    asyncio.run(main(name))
                self.assertEqual(caught.exception.phase, 'connect')
                self.assertFalse(caught.exception.waiting_helps)

    def test_no_thread_for_the_look_up(self):
        class Exhausted(ThreadPoolExecutor):
            def submit(self, *args, **kws):
                raise RuntimeError("can't start new thread")

        async def main():
            asyncio.get_running_loop().set_default_executor(Exhausted())
            return await open_connection(
                Endpoint('mx.example.net', 25), TIMEOUTS, Addresses())
        with self.assertRaises(UnavailableHere) as caught:
            asyncio.run(main())
        self.assertFalse(caught.exception.waiting_helps)
        self.assertIn('a limit of this machine', str(caught.exception))
        self.assertIn("can't start new thread", str(caught.exception))

    def test_no_descriptor(self):
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        # One failure of the address would be enough.
        self.addresses.has_other_relay = lambda: True

        async def main():
            async with Peer(READY, HELLO) as peer:
                self.loop.found = [(HOST, peer.port)]
                resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
                try:
                    without = await self.outcome('mx.example.net', 25)
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
                return without, Address(
                    socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP,
                    (HOST, peer.port))
        error, address = self.loop.complete(main())
        self.assertIsInstance(error, UnavailableHere)
        self.assertFalse(error.waiting_helps)
        self.assertIn('a limit of this machine', str(error))
        self.assertIn('Too many open files', str(error))
        # It was none of the address's fault.
        self.assertTrue(self.addresses.is_usable(address))
        self.assertTrue(self.addresses.is_available)


class CancelledAt:
    """A coroutine that is cancelled where it waits for the nth time.

    :ivar is_over: True if it came to its end before.
    """

    #: What it waits for has not happened yet; or happens once the future is
    #: cancelled, before the coroutine knows; or has just happened.
    MOMENTS = ('before', 'meanwhile', 'after')

    def __init__(self, coroutine, number, moment):
        """Prepare.

        :param coroutine: The coroutine.
        :param number: How often it waits undisturbed.
        :param moment: One of `MOMENTS`.
        """
        self._coroutine = coroutine
        self._number = number
        self._moment = moment
        self.is_over = False

    def __await__(self):
        """Run the coroutine in the task that awaits this."""
        steps = self._coroutine.__await__()
        try:
            for _ in range(self._number):
                yield steps.send(None)
            future = steps.send(None)
            if self._moment == 'after':
                yield future
            else:
                future.cancel()
            if self._moment == 'meanwhile':
                # One turn of the loop for what happens, one for the callback.
                yield
                yield
            steps.throw(asyncio.CancelledError())
        except StopIteration:
            self.is_over = True
        except asyncio.CancelledError:
            pass


@once
class TestCancel(OpeningTestCase):
    def setUp(self):
        super().setUp()
        # Garbage is looked for a hundred times, and not among what all the
        # other tests have left.
        gc.collect()
        gc.freeze()
        self.addCleanup(gc.unfreeze)

    def test_at_every_await(self):
        replies = [READY, b'250-mx\r\n250 AUTH LOGIN\r\n', b'334 eHg=\r\n',
                   b'334 eHg=\r\n', b'235 Welcome\r\n']

        async def cancelled_at(number, moment, is_first):
            async with Peer(*replies, tls=server_context()) as peer:
                with socket.create_server((HOST, 0), backlog=0) as hole:
                    # Nobody else is let in, so two are open for a while.
                    filler = socket.create_connection(hole.getsockname())
                    self.loop.found = [
                        hole.getsockname(), (HOST, peer.port)]
                    if is_first:
                        self.loop.found.reverse()
                    opening = CancelledAt(self.outcome(
                        'mx.example.net', 25, user=USER, password=PASSWORD,
                        implicit_tls=context_for(False, False)),
                        number, moment)
                    await opening
                    filler.close()
                # The server may not know of the connection yet.
                await asyncio.sleep(1)
                await peer.all_gone()
            return opening.is_over
        # What is kept from the first to the last is open then.
        self.loop.complete(cancelled_at(100, 'before', True))
        for moment, is_first in product(
                CancelledAt.MOMENTS, (True, False)):
            # From the look-up to the fourth reply.
            for number in range(100):
                self.addresses = Addresses()
                with self.subTest(
                        number=number, moment=moment, is_first=is_first):
                    with nothing_forgotten(self):
                        is_over = self.loop.complete(
                            cancelled_at(number, moment, is_first))
                if is_over:
                    break
            self.assertGreater(number, 6)


class TestOwnName(OpeningTestCase):
    """The name for EHLO is smtplib's, and asked for once in a process."""

    def setUp(self):
        super().setUp()
        self.begin_process()

    def begin_process(self):
        """As in a process that has opened no connection yet."""
        patch = mock.patch.object(opening, 'own_name', OwnName())
        patch.start()
        self.addCleanup(patch.stop)

    def name(self):
        opened = self.open(READY, HELLO)
        self.assertEqual(
            self.peer.lines, [f'EHLO {opened.hostname}\r\n'.encode()])
        return opened.hostname

    def named(self, **kws):
        return mock.patch.object(socket, 'getfqdn', **kws)

    def test_once(self):
        with self.named(return_value='lists.example.com') as getfqdn:
            self.assertEqual(self.name(), 'lists.example.com')
            self.assertEqual(self.name(), 'lists.example.com')
        self.assertEqual(getfqdn.call_count, 1)

    def test_not_qualified(self):
        with self.named(return_value='localhost'):
            with mock.patch.object(
                    socket, 'gethostbyname', return_value='192.0.2.1'):
                self.assertEqual(self.name(), '[192.0.2.1]')

    def test_unfit(self):
        for name in ('l\u00efsts.example.com', 'two words.example.com',
                     'lists.example.com\r\nMAIL FROM:<>'):
            self.begin_process()
            with self.subTest(name=name), self.named(return_value=name):
                self.assertEqual(self.name(), '[127.0.0.1]')

    def test_error(self):
        with self.named(side_effect=UnicodeError):
            self.assertEqual(self.name(), '[127.0.0.1]')

    def test_dns_hangs(self):
        answer = threading.Event()
        self.addCleanup(answer.set)
        with self.named(side_effect=lambda: str(answer.wait())) as getfqdn:
            self.assertEqual(self.name(), '[127.0.0.1]')
            self.assertEqual(self.loop.time(), OWN_NAME_TIMEOUT)
            # The second connection does not wait at all.
            self.assertEqual(self.name(), '[127.0.0.1]')
            self.assertEqual(self.loop.time(), OWN_NAME_TIMEOUT)
            self.assertEqual(getfqdn.call_count, 1)

    def test_another_loop(self):
        # It does not wait for a thread of the first one.
        answer = threading.Event()
        self.addCleanup(answer.set)
        with self.named(side_effect=lambda: str(answer.wait())):
            self.assertEqual(self.name(), '[127.0.0.1]')
        self.loop = self.another_loop()
        with self.named(return_value='lists.example.com'):
            self.assertEqual(self.name(), 'lists.example.com')

    def test_no_thread(self):
        with mock.patch.object(
                self.loop, 'run_in_executor', side_effect=RuntimeError):
            self.assertEqual(self.name(), '[127.0.0.1]')


class TestContexts(unittest.TestCase):
    def test_made_once_for_each_configuration(self):
        self.assertIs(context_for(True, True), context_for(True, True))
        self.assertIs(context_for(False, True), context_for(False, False))
        self.assertEqual(len({id(context_for(*each)) for each in (
            (True, True), (True, False), (False, False))}), 3)

    def test_another_environment(self):
        with trusted_test_certificate():
            trusting = context_for(True, True)
            self.assertIs(context_for(True, True), trusting)
        self.assertIsNot(context_for(True, True), trusting)
        usual = context_for(True, True)
        with mock.patch.dict(os.environ, SSL_CERT_DIR='/nowhere'):
            self.assertIsNot(context_for(True, True), usual)

    def test_own_authorities(self):
        with TemporaryDirectory() as directory:
            path = os.path.join(directory, 'ca.pem')
            text = (files('mailman.testing') /
                    'ssl_test_cert.crt').read_text()
            with open(path, 'w') as fp:
                fp.write(text)
            own = TLSSettings(ca=path)
            context = context_for(True, True, own)
            self.assertEqual(context.cert_store_stats()['x509'], 1)
            self.assertIs(context_for(True, True, own), context)
            self.assertIsNot(context_for(True, True), context)
            # The environment has no say in it.
            with trusted_test_certificate():
                self.assertIs(context_for(True, True, own), context)
            os.unlink(path)
            with open(path, 'w') as fp:
                fp.write(f'# Replaced.\n{text}')
            self.assertIsNot(context_for(True, True, own), context)
            with open(path, 'w') as fp:
                fp.write('no certificate')
            with self.assertRaises(OSError):
                context_for(True, True, own)

    def test_what_is_verified(self):
        for cert, hostname, mode, checked in (
                (True, True, ssl.CERT_REQUIRED, True),
                (True, False, ssl.CERT_REQUIRED, False),
                (False, True, ssl.CERT_NONE, False),
                (False, False, ssl.CERT_NONE, False)):
            context = context_for(cert, hostname)
            self.assertEqual(
                (context.verify_mode, context.check_hostname),
                (mode, checked))


class TestObserved(OpeningTestCase):
    """Each step that was taken is told, with its time and what it found."""

    def observed(self, *replies, **endpoint):
        steps, self.found = [], {}
        self.open(*replies, open_one=partial(
            open_connection, observe=lambda *step: steps.append(step),
            note=self.found.__setitem__), **endpoint)
        self.assertTrue(all(seconds >= 0 for _, seconds in steps))
        return [name for name, _ in steps]

    def test_in_clear(self):
        self.assertEqual(
            self.observed(READY, HELLO),
            ['resolve', 'connect', 'greeting', 'hello'])
        self.assertEqual(
            set(self.found), {'addresses', 'address', 'greeting', 'hello'})
        self.assertEqual(str(self.found['address']), HOST)
        self.assertEqual(self.found['greeting'].text, b'mx.example.net ESMTP')
        name, reply, server = self.found['hello']
        self.assertEqual(self.peer.lines, [f'EHLO {name}\r\n'.encode()])
        self.assertEqual(reply.lines[0], b'mx.example.net')
        self.assertIn('PIPELINING', server)

    def test_time(self):
        def late():
            self.loop.pass_time(7)
            return HELLO
        steps = {}
        self.open(READY, late, open_one=partial(
            open_connection, observe=steps.__setitem__))
        self.assertGreaterEqual(steps['hello'], 7)
        self.assertLess(steps['greeting'], 7)

    def test_what_fails_took_no_time_but_is_found(self):
        self.assertEqual(
            self.observed(b'554 Go away\r\n'), ['resolve', 'connect'])
        self.assertEqual(self.found['greeting'].code, 554)

    def test_auth(self):
        replies = READY, HELLO_AUTH, b'334 PDE+\r\n'
        login = {'user': USER, 'password': PASSWORD}
        self.assertEqual(
            self.observed(*replies, b'235 Ok\r\n', **login),
            ['resolve', 'connect', 'greeting', 'hello', 'auth'])
        self.assertEqual(self.found['mechanism'], 'CRAM-MD5')
        self.assertEqual(
            self.observed(*replies, b'535 No\r\n', **login)[-1], 'hello')


class _TLSTests:
    """What holds for TLS from the start and for STARTTLS."""

    @contextmanager
    def serving(self):
        """A server with Mailman's test certificate; yields its port."""
        raise NotImplementedError

    def connect(self, port, host='localhost', cert=True, hostname=True,
                ca='', **watch):
        async def main():
            return await open_connection(
                Endpoint(host, port, **{
                    self.kind: context_for(
                        cert, hostname, TLSSettings(ca=ca))}),
                TIMEOUTS, Addresses(), **watch)
        found = (socket.AF_INET, socket.SOCK_STREAM, 6, '', (HOST, port))
        with mock.patch.object(socket, 'getaddrinfo', return_value=[found]):
            opened = asyncio.run(main())
        with opened.sock as sock:
            self.assertIsInstance(sock, TLSSocket)
            self.assertFalse(sock.getblocking())
        return opened

    def test_verified(self):
        with trusted_test_certificate(), self.serving() as port:
            # The dot of an absolute name stands in no certificate.
            for host in ('localhost', 'localhost.'):
                with self.subTest(host=host):
                    self.assertIn(
                        '8BITMIME', self.connect(port, host).server)

    def test_own_authority(self):
        path = str(files('mailman.testing') / 'ssl_test_cert.crt')
        with self.serving() as port:
            self.connect(port, ca=path)
            with self.assertRaises(CertificateRefused):
                self.connect(port, HOST, ca=path)

    def test_certificate_refused(self):
        # It is signed by nobody whom we know.
        with self.serving() as port:
            with self.assertRaises(CertificateRefused) as caught:
                self.connect(port)
        error = caught.exception
        self.assertEqual(error.phase, 'TLS')
        self.assertEqual(str(error), f'localhost:{port}: TLS: {error.reason}')
        self.assertIsInstance(error, ssl.SSLCertVerificationError)
        self.assertIsInstance(error, smtplib.SMTPException)
        self.assertFalse(error.waiting_helps)

    def test_hostname_refused(self):
        with trusted_test_certificate(), self.serving() as port:
            with self.assertRaises(CertificateRefused):
                self.connect(port, HOST)
            self.connect(port, HOST, hostname=False)

    def test_nothing_verified(self):
        with self.serving() as port:
            for hostname in (True, False):
                self.connect(port, HOST, cert=False, hostname=hostname)

    def test_observed(self):
        steps, found = [], {}
        with self.serving() as port:
            opened = self.connect(
                port, cert=False, note=found.__setitem__,
                observe=lambda name, seconds: steps.append(name))
        self.assertEqual(steps, ['resolve', 'connect', *self.steps])
        self.assertIs(found['tls'], opened.sock.tls)

    def test_broken_handshake(self):
        class Broken:
            def wrap_socket(self, *args, **kws):
                raise OSError('closed on purpose')
        with self.serving(Broken()) as port:
            with self.assertRaises(RelayUnavailable) as caught:
                self.connect(port, cert=False)
        self.assertEqual(caught.exception.phase, 'TLS')
        self.assertTrue(caught.exception.waiting_helps)


class TestSTARTTLS(_TLSTests, unittest.TestCase):
    kind = 'starttls'
    steps = 'greeting', 'hello', 'tls', 'hello'

    @contextmanager
    def serving(self, tls=None):
        with Scripted(extensions=('STARTTLS', '8BITMIME'),
                      tls=tls or server_context()) as server:
            yield server.port
            said = [command.partition(' ')[0]
                    for _, command in server.commands]
            self.assertEqual(said[:2], ['EHLO', 'STARTTLS'])


class TestImplicitTLS(_TLSTests, unittest.TestCase):
    kind = 'implicit_tls'
    steps = 'tls', 'greeting', 'hello'

    @contextmanager
    def serving(self, tls=None):
        context = tls or server_context()
        with socket.create_server((HOST, 0)) as listener:
            def serve():
                while True:
                    try:
                        sock, _ = listener.accept()
                    except OSError:
                        return
                    try:
                        with sock, context.wrap_socket(
                                sock, server_side=True) as secure:
                            secure.sendall(READY)
                            secure.recv(100)
                            secure.sendall(b'250-mx\r\n250 8BITMIME\r\n')
                            secure.recv(100)
                    except OSError:
                        # The client does not like the certificate.
                        pass
            thread = threading.Thread(target=serve)
            thread.start()
            try:
                yield listener.getsockname()[1]
            finally:
                listener.shutdown(socket.SHUT_RDWR)
                thread.join()


class TestSTARTTLSParanoia(OpeningTestCase):
    CONTEXT = context_for(False, False)

    def test_not_offered(self):
        error = self.open(READY, HELLO_AUTH, starttls=self.CONTEXT,
                          user=USER, password=PASSWORD)
        self.assertIsInstance(error, NotOffered)
        self.assertIsInstance(error, smtplib.SMTPNotSupportedError)
        self.assertFalse(error.waiting_helps)
        self.assertEqual(error.phase, 'TLS')
        # Nothing more in clear.
        self.assertEqual(len(self.peer.lines), 1)

    def test_refused(self):
        for reply, code in ((b'454 4.7.0 TLS not available\r\n', 454),
                            (b'250 Ok\r\n', 250), (CLOSE, None)):
            with self.subTest(reply=reply):
                self.assertFails('TLS', code, READY, HELLO_STARTTLS, reply,
                                 starttls=self.CONTEXT)
                self.assertLessEqual(len(self.peer.lines), 2)

    def test_octets_before_the_handshake(self):
        # CVE-2011-0411: whoever sits on the line could put words into the
        # server's mouth.
        for more in (b'250 injected\r\n', b'2', b'\0\r\n'):
            with self.subTest(more=more):
                self.assertFails(
                    'TLS', None, READY, HELLO_STARTTLS,
                    b'220 Ready\r\n' + more, starttls=self.CONTEXT,
                    user=USER, password=PASSWORD)
                self.assertEqual(
                    [line.split()[0] for line in self.peer.lines],
                    [b'EHLO', b'STARTTLS'])

    def test_what_was_offered_in_clear_is_forgotten(self):
        hellos = []

        def script(command, session):
            if command.startswith('EHLO'):
                hellos.append(command)
                if len(hellos) == 1:
                    return '250 clear\n250 STARTTLS\n250 SMTPUTF8'

        async def main(server):
            return await open_connection(
                Endpoint(server.host, server.port, starttls=self.CONTEXT),
                TIMEOUTS, Addresses())
        with Scripted(script, extensions=('8BITMIME',),
                      tls=server_context()) as server:
            opened = asyncio.run(main(server))
            opened.sock.close()
        self.assertEqual(set(opened.server.keywords), {'8BITMIME'})
        self.assertEqual(len(hellos), 2)


class TestAuthentication(OpeningTestCase):
    def authenticate(self, *replies, hello=HELLO_AUTH):
        return self.open(
            READY, hello, *replies, user=USER, password=PASSWORD)

    def said(self):
        """What followed EHLO."""
        return [line.rstrip(b'\r\n') for line in self.peer.lines[1:]]

    def test_good(self):
        # After every connect.
        for _ in range(2):
            opened = self.authenticate(
                b'235 2.7.0 Welcome\r\n',
                hello=b'250-mx\r\n250 AUTH PLAIN\r\n')
            self.assertTrue(opened.authenticated)
            self.assertEqual(self.said(), [
                b'AUTH PLAIN ' + base64.b64encode(
                    f'\0{USER}\0{PASSWORD}'.encode())])

    def test_login(self):
        opened = self.authenticate(
            b'334 VXNlcm5hbWU6\r\n', b'334 UGFzc3dvcmQ6\r\n',
            b'235 2.7.0 Welcome\r\n', hello=b'250-mx\r\n250 AUTH LOGIN\r\n')
        self.assertTrue(opened.authenticated)
        self.assertEqual(self.said(), [b'AUTH LOGIN'] + [
            base64.b64encode(each.encode()) for each in (USER, PASSWORD)])

    def test_empty_is_none(self):
        for user, password in (('', ''), ('', 'x'), ('x', '')):
            with self.subTest(user=user, password=password):
                opened = self.open(
                    READY, HELLO_AUTH, user=user, password=password)
                self.assertFalse(opened.authenticated)
                self.assertEqual(self.said(), [])

    def test_refused_once_for_all(self):
        # No weaker mechanism, even though there are two more; and the reason
        # stays, whether the server closes or not.
        for end in ((), (CLOSE,)):
            for code, helps in ((535, False), (571, False), (454, True),
                                (421, True), (503, False)):
                with self.subTest(code=code, end=end):
                    error = self.assertFails(
                        'AUTH', code, READY, HELLO_AUTH, b'334 eHg=\r\n',
                        b'%d 5.7.8 Not you\r\n' % code, *end,
                        user=USER, password=PASSWORD)
                    self.assertIsInstance(error, AuthenticationRefused)
                    self.assertIsInstance(
                        error, smtplib.SMTPAuthenticationError)
                    self.assertEqual(error.smtp_code, code)
                    self.assertEqual(error.waiting_helps, helps)
                    self.assertEqual(self.said()[0], b'AUTH CRAM-MD5')
                    self.assertEqual(len(self.said()), 2)

    def test_refused_and_closed_at_once(self):
        async def serve(reader, writer):
            writer.write(READY)
            await reader.readline()
            writer.write(HELLO_AUTH)
            await reader.readline()
            writer.write(b'535 5.7.8 Not you\r\n')
            writer.close()

        error = self.open_to(serve, user=USER, password=PASSWORD)
        self.assertEqual(error.code, 535)

    def test_closed_without_a_word(self):
        self.assertFails('AUTH', None, READY, HELLO_AUTH, CLOSE,
                         user=USER, password=PASSWORD)

    def test_malformed_challenges_are_cancelled(self):
        # RFC 4954, section 4.
        for hello, replies in (
                (b'CRAM-MD5', (b'334 x\r\n',)),
                (b'CRAM-MD5', (b'334 \r\n',)),
                (b'CRAM-MD5', (b'334 eHg=\r\n', b'334 eHg=\r\n')),
                (b'LOGIN', (b'334-eHg=\r\n334 eHg=\r\n',)),
                (b'LOGIN', 3 * (b'334 eHg=\r\n',)),
                (b'PLAIN', (b'334 \r\n',))):
            with self.subTest(hello=hello, replies=replies):
                error = self.authenticate(
                    *replies, hello=b'250-mx\r\n250 AUTH ' + hello + b'\r\n')
                self.assertEqual((error.phase, error.code), ('AUTH', None))
                self.assertTrue(error.waiting_helps)
                self.assertNotIsInstance(error, AuthenticationRefused)
                self.assertEqual(self.said()[-1], b'*')
                # It is closed without waiting for the 501.
                self.assertEqual(self.loop.time(), 0)

    def test_no_reply_to_auth(self):
        for reply in (b'250 Ok\r\n', b'220 Ready\r\n', b'354 Go on\r\n',
                      b'garbage\r\n'):
            with self.subTest(reply=reply):
                error = self.authenticate(reply)
                self.assertEqual(error.phase, 'AUTH')
                self.assertTrue(error.waiting_helps)
                self.assertNotIsInstance(error, AuthenticationRefused)
                self.assertEqual(self.said(), [b'AUTH CRAM-MD5'])

    def test_not_offered(self):
        error = self.authenticate(hello=HELLO)
        self.assertIsInstance(error, NotOffered)
        self.assertEqual(error.phase, 'AUTH')
        self.assertEqual(self.said(), [])

    def test_nothing_in_common(self):
        error = self.authenticate(hello=b'250-mx\r\n250 AUTH NTLM GSSAPI\r\n')
        self.assertIsInstance(error, NotOffered)
        self.assertFalse(error.waiting_helps)
        self.assertIn('GSSAPI NTLM', str(error))
        self.assertEqual(self.said(), [])

    def test_unusable_credentials(self):
        for user, password, key in (
                ('sec\0ret', 'x', 'smtp_user'), ('x', 'sec\0ret', 'smtp_pass'),
                ('x', 'sec\ud800ret', 'smtp_pass')):
            with self.subTest(key=key):
                error = self.open(
                    READY, HELLO_AUTH, user=user, password=password)
                self.assertIsInstance(error, UnavailableHere)
                self.assertFalse(error.waiting_helps)
                self.assertIn(f'AUTH: [mta] {key} ', str(error))
                self.assertNotIn('sec', ''.join(traceback.format_exception(
                    type(error), error, error.__traceback__)).replace(
                        'secrets', ''))
                # Nothing was opened, let alone sent.
                self.assertEqual(self.peer.connections, 0)


def parts(user, password):
    """The user name and the password, in pieces, as they might be seen."""
    plain = f'\0{user}\0{password}'
    for secret in (user, password):
        yield secret
        for character in secret:
            if not character.isascii():
                yield character
                # As it stands in the text of a UnicodeError.
                yield ascii(character).strip("'")
    for secret in (user, password, plain):
        encoded = base64.b64encode(secret.encode()).decode().rstrip('=')
        for text in (secret, encoded):
            for start in range(len(text) - LONG_PART + 1):
                yield text[start:start + LONG_PART]


def chain(error):
    """The exception, and those before it."""
    while error is not None:
        yield error
        error = error.__context__


class TestSecrets(OpeningTestCase):
    """No text shows what we authenticate with, nor a part of it."""

    def refused(self, *replies, mechanism='PLAIN', user=USER,
                password=PASSWORD):
        """All that is said of a failed authentication is looked through."""
        hello = f'250-mx\r\n250 AUTH {mechanism}\r\n'.encode()
        with self.assertLogs(level=logging.DEBUG) as logs:
            error = self.open(
                READY, hello, *replies, user=user, password=password)
            self.assertIsInstance(error, RelayUnavailable)
            logging.getLogger().error('failed', exc_info=error)
        texts = logs.output + traceback.format_exception(
            type(error), error, error.__traceback__)
        for each in chain(error):
            texts += str(each), repr(each), repr(each.args), repr(vars(each))
        for text in texts:
            for part in parts(user, password):
                self.assertNotIn(part, text)
        return error

    def test_repr(self):
        endpoint = Endpoint(
            'mx', 25, context_for(True, True), None,
            access_of('mx', USER, PASSWORD))
        self.assertEqual(repr(endpoint), "Endpoint(host='mx', port=25)")
        self.assertEqual(endpoint.name, 'mx:25')

    def test_the_servers_words_are_shown(self):
        error = self.refused(b'535 5.7.8 Not you\r\n')
        self.assertIn('AUTH: 535 5.7.8 Not you', str(error))

    def test_echoes(self):
        plain = base64.b64encode(f'\0{USER}\0{PASSWORD}'.encode()).decode()
        for echo in (USER, USER.upper(), USER.partition('@')[0], PASSWORD,
                     PASSWORD[:6], PASSWORD[2:], plain, plain[:12],
                     plain[-12:], base64.b64encode(USER.encode()).decode(),
                     base64.b64encode(b'x' + PASSWORD.encode()).decode(),
                     PASSWORD.encode().hex()):
            for reply in ('535 5.7.8 Not with {}', '454 4.7.0 Not {} now',
                          '535-5.7.8 No\r\n535 5.7.8 {}: no', '334 {}',
                          '250 {}', '{} is no reply',
                          '235 Ok\r\n421 {}', '235 Ok\r\n{}\r\n'):
                with self.subTest(reply=reply, echo=echo):
                    error = self.refused(
                        reply.format(echo).encode() + b'\r\n')
                    self.assertNotIn(echo, str(error))
                    if reply.startswith('535'):
                        self.assertIn('535 5.7.8 ', str(error))

    def test_echoed_lines(self):
        # Of all mechanisms, at every place.
        for mechanism, count in (('PLAIN', 1), ('LOGIN', 3), ('CRAM-MD5', 2)):
            def echo():
                return b'535 5.7.8 Not with ' + self.peer.lines[-1]
            with self.subTest(mechanism):
                error = self.refused(
                    *(count - 1) * [b'334 eHg=\r\n'], echo,
                    mechanism=mechanism)
                sent = self.peer.lines[-1].split()[-1].decode()
                self.assertNotIn(sent, str(error))
                self.assertIn('535 5.7.8 (the text is hidden', str(error))

    def test_not_ascii(self):
        for user, password in (
                (USER, 'pass\u00fcord'), ('zaph\u00f6d', PASSWORD),
                (USER, '\u8759'), ('zaph\u00f6d', '\U0001f41c')):
            for mechanism in ('PLAIN', 'LOGIN', 'CRAM-MD5'):
                with self.subTest(user=user, password=password,
                                  mechanism=mechanism):
                    self.refused(b'535 5.7.8 Not you\r\n', user=user,
                                 password=password, mechanism=mechanism)

    def test_unknown_exception(self):
        # Whatever a mechanism may raise, such as a UnicodeEncodeError.
        def fail(self, reply):
            PASSWORD.encode('utf-16').decode('ascii')
        with mock.patch.object(
                opening.Authentication, 'answer', fail):
            error = self.refused(b'334 \r\n')
        self.assertEqual(error.phase, 'AUTH')
        self.assertIn('UnicodeDecodeError', str(error))


# What a server may say, for better or worse.
REPLY = st.sampled_from([
    READY, HELLO, HELLO_AUTH, HELLO_STARTTLS, b'235 Ok\r\n', b'334 \r\n',
    b'334 eHg=\r\n', b'421 Bye\r\n', b'454 No\r\n', b'500 What?\r\n',
    b'535 No\r\n', b'250 Ok\r\n', b'250-Ok\r\n', CLOSE])
GARBAGE = st.binary(max_size=40) | st.lists(
    st.sampled_from([b'2', b'250', b'-', b' ', b'\r', b'\n', b'\0', b'\xff',
                     b'\x16\x03\x01', b'2' * 3000]),
    max_size=12).map(b''.join)


class TestAnything(OpeningTestCase):
    """Whatever the server says, it is the relay that is unavailable."""

    PLAIN_TLS = context_for(False, False)
    ENDPOINTS = (
        {}, {'starttls': PLAIN_TLS}, {'implicit_tls': PLAIN_TLS},
        {'user': USER, 'password': PASSWORD},
        {'starttls': PLAIN_TLS, 'user': USER, 'password': PASSWORD})

    @settings(deadline=None)
    @given(st.sampled_from(ENDPOINTS),
           st.integers(0, 4),
           st.lists(REPLY | GARBAGE, max_size=4))
    def test_any_octets_at_any_step(self, endpoint, good, replies):
        challenge = b'334 eHg=\r\n'
        begin = [READY, HELLO_AUTH, challenge, challenge][:good]
        outcome = self.open(*begin, *replies, CLOSE, **endpoint)
        self.assertIsInstance(outcome, (RelayUnavailable, opening.Opened))
        self.assertEqual(self.complaints, [])
