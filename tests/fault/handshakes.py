# SPDX-License-Identifier: GPL-3.0-or-later

"""Connections that come to an end, or to nothing, before the first message."""

import socket
import threading
import socketserver

from contextlib import contextmanager
from tests.certificates import server_context
from tests.fault.cases import (
    always,
    ANEW,
    Cases,
    CaseTestCase,
    ends,
    HASTY,
    on,
)
from tests.scripted import CLOSE, HANG, Scripted
from tests.servers.loopback import free_port, HOST
from tests.site_case import SiteTestCase


UNAVAILABLE = 'Mail server unavailable: '
PASSWORD = 'Tr0mbone-Zebra'


class FlakyTLS:
    """A context whose handshakes do not always come to an end.

    :ivar turn: What becomes of the next one: `CLOSE`, `HANG`, or None.
    """

    def __init__(self):
        self.turn = None
        self._context = server_context()

    def wrap_socket(self, sock, **keywords):
        """See `ssl.SSLContext`."""
        turn, self.turn = self.turn, None
        if turn is CLOSE:
            raise OSError('closed on purpose')
        while turn is HANG and sock.recv(4096):
            # The client says hello, and in the end that it gives up.
            pass
        return self._context.wrap_socket(sock, **keywords)


TLS = FlakyTLS()


HANDSHAKE = Cases()


def _handshake(*turns):
    """A script for TLS handshakes that end so; one at a time."""
    turns = iter(turns)

    def script(command, session):
        if command == 'STARTTLS':
            TLS.turn = next(turns, None)
    return script


@HANDSHAKE(served='anne bart')
def close_at_starttls():
    return on('STARTTLS', CLOSE)


@HANDSHAKE(served='anne bart')
def close_in_the_tls_handshake():
    return _handshake(CLOSE, CLOSE)


@HANDSHAKE(served='anne bart')
def no_tls_in_the_tls_handshake():
    return on('STARTTLS', b'220 Ready\r\n250 in clear\r\n')


@HANDSHAKE(served='anne bart')
def stall_in_the_tls_handshake():
    return _handshake(HANG)


@HANDSHAKE(retry='anne bart')
def always_stall_in_the_tls_handshake():
    return _handshake(*[HANG] * 9)


@HANDSHAKE(served='anne bart')
def close_during_auth():
    return on('AUTH', CLOSE, CLOSE)


@HANDSHAKE(served='anne bart')
def stall_during_auth():
    return on('AUTH', HANG)


@HANDSHAKE(retry='anne bart')
def always_stall_during_auth():
    return always('AUTH', HANG)


@HANDSHAKE(served='anne bart')
def not_now_at_auth():
    return on('AUTH', '454 4.7.0 Temporary authentication failure')


class TestHandshake(CaseTestCase):
    def test_handshake(self):
        site, server = self.play(
            HANDSHAKE, one_by_one=True, tls=TLS, max_delivery_threads=1,
            extensions=('PIPELINING', 'STARTTLS', 'AUTH PLAIN'),
            settings={**ANEW, 'relay.mta': HASTY},
            smtp_secure_mode='starttls', smtp_verify_cert='no',
            smtp_user='ant', smtp_pass=PASSWORD)
        for number in range(1, server.connections + 1):
            said = [command.partition(' ')[0]
                    for each, command in server.commands if each == number]
            # Nothing that matters was sent in clear, nor without a name.
            self.assertEqual(
                said[:4], ['EHLO', 'STARTTLS', 'EHLO', 'AUTH'][:len(said)])
        self.assertNotIn(PASSWORD, site.logs())


class Trickle(socketserver.ThreadingTCPServer):
    """A server that says one octet at a time, and never has said it all.

    :ivar times: How often it was tried.
    """

    daemon_threads = True

    def __init__(self, before):
        """Prepare; `before` are the replies that it gives at once."""
        self.replies = before
        self.times = 0
        self.stopping = threading.Event()
        super().__init__((HOST, 0), _Trickling)
        self.host, self.port = self.server_address

    @contextmanager
    def serving(self):
        """Serve, in a `with` statement."""
        thread = threading.Thread(target=self.serve_forever)
        thread.start()
        try:
            yield self
        finally:
            self.stopping.set()
            self.shutdown()
            self.server_close()
            thread.join()


class _Trickling(socketserver.StreamRequestHandler):
    def handle(self):
        self.server.times += 1
        try:
            for reply in self.server.replies:
                self.wfile.write(reply)
                self.rfile.readline()
            while not self.server.stopping.wait(0.1):
                self.wfile.write(b'2')
        except OSError:
            # The client has had enough.
            pass


class TestUnreachable(SiteTestCase):
    settings = {'relay.mta': HASTY, 'delivery': {'patience': 0}}

    def assertWaits(self, site, reason):
        """All is put off, which is said once, and nobody is blamed."""
        site.run({'verp': True})
        self.assertEachOnce(site, (), ['retry'])
        log = site.log('smtp.log')
        self.assertEqual(log.count(UNAVAILABLE), 1)
        self.assertIn(reason, log)
        self.assertQuiet(site)

    def test_black_hole(self):
        # The kernel drops what comes when the backlog is full.
        with socket.create_server((HOST, 0), backlog=0) as hole:
            with socket.create_connection(hole.getsockname()):
                site = self.site(members=200, settings=self.settings,
                                 smtp_port=hole.getsockname()[1])
                self.assertWaits(site, ': connect: ')

    def test_trickle(self):
        ready = b'220 trickle.example.net ESMTP\r\n'
        hello = b'250-trickle.example.net\r\n250 PIPELINING\r\n'
        for before, reason in (
                ((), ': greeting: '),
                ((ready,), ': EHLO: '),
                ((ready, hello), 'no reply to MAIL within 1 s')):
            with self.subTest(reason):
                with Trickle(before).serving() as server:
                    site = self.site(
                        server, members=200, settings=self.settings)
                    self.assertWaits(site, reason)
                    # The default is four connections.
                    self.assertLessEqual(server.times, 4)

    def test_down_for_a_while(self):
        # Within `patience` nobody has to wait for the retry queue.
        server = Scripted(port=free_port())
        site = self.site(server, members=200, settings={
            'delivery': {'patience': '20s'}})
        site.post(verp=True)
        with site.runner():
            site.wait_for(lambda: 'trying again' in site.log('smtp.log'),
                          'the first pause')
            self.use(server)
            site.wait_until_empty()
        self.assertEachOnce(site, server.served)
        self.assertNotIn(UNAVAILABLE, site.log('smtp.log'))

    def test_two_connections_of_eight(self):
        def script(command, session):
            if command == 'CONNECT' and len(server.open) > 2:
                return '421 4.7.0 Too many connections'
        server = self.use(Scripted(script))
        site = self.site(server, members=300, max_delivery_threads=8)
        for verp in (True, False):
            site.run({'verp': verp})
        self.assertEqual(sorted(server.served), sorted(site.members * 2))
        self.assertEqual(site.waiting(), {})
        self.assertNotIn(UNAVAILABLE, site.log('smtp.log'))

    def test_idle_connections_closed_by_the_server(self):
        server = self.use(Scripted(idle=1))
        site = self.site(server, members=50, max_delivery_threads=2)
        with site.runner():
            for number in range(1, 4):
                site.post(verp=True)
                site.wait_until_empty()
                self.assertEqual(
                    ends(site, server.served),
                    {member: ['served'] * number for member in site.members})
                # It has closed all of them.
                server.wait_for(lambda server: not server.open)
        self.assertGreaterEqual(server.connections, 3)
        self.assertQuiet(site)
