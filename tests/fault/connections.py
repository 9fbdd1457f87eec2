# SPDX-License-Identifier: GPL-3.0-or-later

"""Connections that break, stall, are refused, or come to nothing."""

import socket
import socketserver
import threading

from contextlib import contextmanager
from tests.fault.cases import always, Cases, CaseTestCase, ends, on
from tests.scripted import CLOSE, HANG, Scripted
from tests.servers.loopback import free_port, HOST
from tests.site import POST
from tests.site_case import SiteTestCase


UNAVAILABLE = 'Mail server unavailable: '
PHASES = ('connect', 'greeting', 'hello', 'mail', 'rcpt', 'data', 'block',
          'end', 'quit')
HASTY = {f'{phase}_timeout': '1s' for phase in PHASES}
# The server that is met anew by every post.
ANEW = {'pool': {'idle_timeout': 0}, 'delivery': {'patience': '2s'}}
MANY = ' '.join(f'ant-{number:02}' for number in range(40))
BIG = POST + b'Ants are strong, and they are many.\n' * 1_000_000


# Connections that break, once.

BREAKING = Cases()


@BREAKING(served=MANY)
def close_at_the_banner():
    return on('CONNECT', CLOSE)


@BREAKING(verp=True, served=MANY)
def refused_at_the_banner_verp():
    return on('CONNECT', '554 5.3.2 No', '421 4.3.2 Not yet')


@BREAKING(served=MANY)
def close_during_ehlo():
    return on('EHLO', CLOSE, CLOSE)


@BREAKING(verp=True, served=MANY)
def close_during_ehlo_verp():
    return on('EHLO', CLOSE, CLOSE)


@BREAKING(served=MANY)
def close_in_mid_rcpt():
    return on('RCPT', CLOSE, at=7)


@BREAKING(verp=True, served=MANY)
def close_in_mid_rcpt_verp():
    return on('RCPT', CLOSE, at=7)


@BREAKING(served=MANY)
def close_in_mid_reply():
    return on('RCPT', b'250-2.1.5 Ok\r\n250 2.1', '421 4.3.2 Bye')


@BREAKING(verp=True, served=MANY)
def close_in_mid_content_verp():
    return on('CONTENT', CLOSE, CLOSE)


@BREAKING(served=MANY)
def close_in_mid_content():
    return on('CONTENT', CLOSE)


@BREAKING(retry=MANY)
def close_after_the_dot():
    # One transaction has them all.
    return on('.', CLOSE)


@BREAKING(verp=True, retry='ant-07', served=MANY.replace('ant-07', ''))
def close_after_the_dot_verp():
    return always('.', CLOSE, 'ant-07')


@BREAKING(served=MANY)
def a_421_at_the_fourth_rcpt():
    return on('RCPT', '421 4.7.0 Enough', at=4)


@BREAKING(verp=True, served=MANY)
def a_421_at_the_fourth_rcpt_verp():
    return on('RCPT', '421 4.7.0 Enough', at=4)


@BREAKING(verp=True, served=MANY)
def a_421_after_20_transactions_verp():
    def script(command, session):
        if command.startswith('MAIL'):
            session.mails = getattr(session, 'mails', 0) + 1
            if session.mails > 20:
                return '421 4.7.0 Enough for one connection'
    return script


# Connections that stall, each of them; and nobody knows for how long.

STALLING = Cases()


def _stalling(verb, **ends):
    def make():
        return always(verb, HANG)
    make.__name__ = f'{verb.lower()}_{"verp" if ends.get("verp") else "bulk"}'
    STALLING(**ends)(make)


for _verb in ('CONNECT', 'EHLO', 'MAIL', 'RCPT', 'DATA'):
    _stalling(_verb, retry=MANY)
    _stalling(_verb, retry=MANY, verp=True)


@STALLING(retry='anne bart carl', content=BIG)
def in_mid_content():
    # The server stops reading.
    return always('CONTENT', HANG)


@STALLING(retry=MANY)
def at_the_dot():
    return always('.', HANG)


@STALLING(retry=MANY, verp=True)
def at_the_dot_verp():
    return always('.', HANG)


# Connections of which one stalls; the others do the work.

STALLING_ONCE = Cases()


@STALLING_ONCE(served=MANY)
def once_at_ehlo():
    return on('EHLO', HANG)


@STALLING_ONCE(verp=True, served=MANY)
def once_at_mail():
    return on('MAIL', HANG)


@STALLING_ONCE(served=MANY)
def once_at_rcpt():
    return on('RCPT', HANG, at=5)


@STALLING_ONCE(verp=True, served=MANY)
def once_at_data():
    return on('DATA', HANG)


@STALLING_ONCE(verp=True, served=MANY)
def once_in_mid_content():
    return on('CONTENT', HANG)


@STALLING_ONCE(verp=True, retry='ant-20', served=MANY.replace('ant-20', ''))
def once_at_the_dot():
    return always('.', HANG, 'ant-20')


class TestBreaking(CaseTestCase):
    def test_breaking(self):
        self.play(BREAKING, settings=ANEW, max_delivery_threads=2)

    def test_bdat(self):
        # Those in flight may have got it: they wait, and nobody else does.
        depth = 4

        def script(command, session):
            if command.startswith('BDAT'):
                session.chunks = getattr(session, 'chunks', 0) + 1
                if session.chunks == 10 and session.number <= 2:
                    return CLOSE
        server = self.use(Scripted(
            script, extensions=('PIPELINING', 'CHUNKING')))
        site = self.site(
            server, members=100, max_delivery_threads=2,
            settings={'delivery': {'pipeline_depth': depth}})
        site.run({'verp': True})
        self.assertEachOnce(site, server.served, ['retry'])
        self.assertIn(len(site.waiting()['retry']), range(1, 2 * depth + 1))
        self.assertQuiet(site)

    def test_never_an_answer_to_the_dot(self):
        # Each one of them may have got it, so it does not go on for ever.
        def script(command, session):
            if command == '.':
                lost.append(session.recipients)
                return CLOSE
        lost = []
        server = self.use(Scripted(script))
        site = self.site(server, members=200, settings=ANEW,
                         max_delivery_threads=2)
        site.run({'verp': True})
        self.assertEachOnce(site, server.served, ['retry'])
        self.assertIn(UNAVAILABLE, site.log('smtp.log'))
        self.assertLess(len(lost), 20)


class TestStalling(CaseTestCase):
    threads = 4

    def test_each_connection(self):
        settings = {'relay.mta': HASTY, 'delivery': {'patience': 0},
                    'pool': {'idle_timeout': 0}}
        before = 0
        site, server = self.play(
            STALLING, settings=settings, max_delivery_threads=self.threads)
        log = site.log('smtp.log')
        self.assertEqual(log.count(UNAVAILABLE), len(STALLING.cases))
        # Each post has cost one timeout, not one for each chunk.
        self.assertLessEqual(
            server.connections - before, self.threads * len(STALLING.cases))

    def test_one_of_them(self):
        settings = {'relay.mta': HASTY, 'delivery': {'patience': '2s'},
                    'pool': {'idle_timeout': 0}}
        self.play(STALLING_ONCE, settings=settings,
                  max_delivery_threads=self.threads)


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
            hole.host, hole.port = hole.getsockname()
            with socket.create_connection(hole.getsockname()):
                site = self.site(hole, members=200, settings=self.settings)
                self.assertWaits(site, ': connect: timed out')

    def test_trickle(self):
        ready = b'220 trickle.example.net ESMTP\r\n'
        hello = b'250-trickle.example.net\r\n250 PIPELINING\r\n'
        for before, reason in (
                ((), ': greeting: no reply within 1 s'),
                ((ready,), ': EHLO: no reply within 1 s'),
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
