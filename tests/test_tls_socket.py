# SPDX-License-Identifier: GPL-3.0-or-later
"""TLS on a socket whose other end, and whose buffers, are the test's."""

import ssl
import unittest

from contextlib import suppress
from mailman_mta_pool.connection.session import TLS_RECORD
from mailman_mta_pool.connection.tls import context_for
from mailman_mta_pool.connection.tls_socket import (
    MAX_SILENCE,
    READ_SIZE,
    TLSSocket,
)
from mailman_mta_pool.errors import EndlessTLS
from tests.certificates import server_context


class Wire:
    """The kernel, and a server's TLS behind it.

    :ivar server: The server's TLS, to read and to write.
    :ivar room: How many octets the kernel still takes.
    :ivar reads: How often it was read from.
    :ivar is_closed: True if the server has closed.
    """

    def __init__(self, context):
        self._received, self._sent = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.server = context.wrap_bio(
            self._received, self._sent, server_side=True)
        self.room = 2 ** 30
        self.reads = 0
        self.is_closed = False

    def recv(self, size):
        self.reads += 1
        octets = self._sent.read(size)
        if not octets and not self.is_closed:
            raise BlockingIOError
        return octets

    def send(self, octets):
        if not self.room:
            raise BlockingIOError
        taken = octets[:self.room]
        self.room -= len(taken)
        self._received.write(taken)
        return len(taken)

    def put(self, octets):
        """Let something come that is not the server's."""
        self._sent.write(octets)


class TestTLSSocket(unittest.TestCase):
    def connected(self, tickets=2):
        """Both ends after the handshake."""
        context = server_context()
        context.num_tickets = tickets
        wire = Wire(context)
        sock = TLSSocket(wire, context_for(False, False), 'localhost')
        for end in (sock, wire.server, sock, wire.server):
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
        self.assertEqual(sock.tls.version(), 'TLSv1.3')
        wire.reads = 0
        return sock, wire

    def test_all_that_has_come(self):
        # Nothing is kept back of which the selector would not know.
        sock, wire = self.connected()
        for word in (b'250 a\r\n', b'250 b\r\n', b'250 c\r\n'):
            wire.server.write(word)
        self.assertEqual(sock.recv(2 ** 16), b'250 a\r\n250 b\r\n250 c\r\n')
        self.assertEqual(wire.reads, 1)
        with self.assertRaises(ssl.SSLWantReadError):
            sock.recv(2 ** 16)

    def test_a_record_in_pieces(self):
        sock, wire = self.connected()
        wire.server.write(TLS_RECORD * b'x')
        got = []
        while sum(map(len, got)) < TLS_RECORD:
            with suppress(ssl.SSLWantReadError):
                got.append(sock.recv(2 ** 16))
        self.assertEqual(wire.reads, TLS_RECORD // READ_SIZE + 1)

    def test_endless_tickets(self):
        # Each call reads once, and in the end there were enough.
        sock, wire = self.connected(1500)
        calls = 0
        with self.assertRaises(EndlessTLS):
            while True:
                calls += 1
                with suppress(ssl.SSLWantReadError):
                    sock.recv(2 ** 16)
        self.assertEqual(calls, wire.reads)
        self.assertGreaterEqual(calls, MAX_SILENCE // READ_SIZE)

    def test_tickets_between_replies(self):
        sock, wire = self.connected(800)
        wire.server.write(b'220 mx\r\n')
        got = b''
        while not got:
            with suppress(ssl.SSLWantReadError):
                got = sock.recv(2 ** 16)
        self.assertEqual(got, b'220 mx\r\n')
        self.assertGreater(wire.reads, 10)

    def test_data_before_an_error(self):
        sock, wire = self.connected()
        wire.server.write(b'421 Away\r\n')
        wire.put(b'250 in clear\r\n')
        self.assertEqual(sock.recv(2 ** 16), b'421 Away\r\n')
        for _ in range(2):
            with self.assertRaises(ssl.SSLError) as caught:
                sock.recv(2 ** 16)
            self.assertEqual(caught.exception.reason, 'WRONG_VERSION_NUMBER')

    def test_closed(self):
        # With the word for that in TLS, and without.
        for says_so in (True, False):
            sock, wire = self.connected()
            wire.server.write(b'421 Away\r\n')
            with suppress(ssl.SSLWantReadError):
                if says_so:
                    wire.server.unwrap()
            wire.is_closed = True
            self.assertEqual(sock.recv(2 ** 16), b'421 Away\r\n')
            self.assertEqual(sock.recv(2 ** 16), b'')
            self.assertEqual(sock.recv(2 ** 16), b'')

    def test_closed_in_the_handshake(self):
        wire = Wire(server_context())
        sock = TLSSocket(wire, context_for(False, False), 'localhost')
        wire.is_closed = True
        with self.assertRaises(
                (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
            sock.do_handshake()

    def test_all_or_nothing_is_sent(self):
        sock, wire = self.connected()
        octets = TLS_RECORD * b'x'
        wire.room = 1000
        for _ in range(2):
            with self.assertRaises(ssl.SSLWantWriteError):
                sock.send(octets)
            with self.assertRaises(ssl.SSLWantReadError):
                wire.server.read(2 ** 16)
            wire.room = 1000
        wire.room = 2 ** 30
        # It is what was begun, whatever has come after it since.
        self.assertEqual(sock.send(octets + b'y'), TLS_RECORD)
        self.assertEqual(wire.server.read(2 ** 16), octets)
        self.assertEqual(sock.send(b'y'), 1)
        self.assertEqual(wire.server.read(2 ** 16), b'y')

    def test_handshake_that_the_kernel_does_not_take(self):
        wire = Wire(server_context())
        sock = TLSSocket(wire, context_for(False, False), 'localhost')
        wire.room = 10
        with self.assertRaises(ssl.SSLWantWriteError):
            sock.do_handshake()
        wire.room = 2 ** 30
        with self.assertRaises(ssl.SSLWantReadError):
            sock.do_handshake()
        with self.assertRaises(ssl.SSLWantReadError):
            wire.server.do_handshake()
        sock.do_handshake()

    def test_server_is_told_why(self):
        # The alert goes out, though nobody waits for anything any more.
        wire = Wire(server_context())
        sock = TLSSocket(wire, context_for(True, True), 'localhost')
        for end in (sock, wire.server):
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
        with self.assertRaises(ssl.SSLCertVerificationError):
            sock.do_handshake()
        with self.assertRaisesRegex(ssl.SSLError, 'UNKNOWN_CA'):
            wire.server.do_handshake()
