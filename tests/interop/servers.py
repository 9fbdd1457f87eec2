# SPDX-License-Identifier: GPL-3.0-or-later

"""The servers that other tests rely on do what those tests believe."""

import os
import time
import socket
import smtplib
import unittest

from importlib.resources import files
from tests.once import once
from tests.servers import exim, nginx, postfix, sink
from tests.servers.exim import Exim
from tests.servers.loopback import HOST, is_listening, wait_until
from tests.servers.maillog import MailLog
from tests.servers.nginx import NginxMailProxy
from tests.servers.postfix import Postfix
from tests.servers.proxy import DelayingProxy
from tests.servers.recorder import Recorder
from tests.servers.sink import smtp_source, SMTPSink


# A dot in each place where one could be lost or end the message, and lines
# that mail servers like to change.
CONTENT = (b'Subject: A test\r\n'
           b'Bcc: bart@example.org\r\n'
           b'\r\n'
           b'.\r\n'
           b'..\r\n'
           b'.dot\r\n'
           b'From here\r\n'
           b'caf\xe9\r\n'
           + 10000 * b'x' + b'\r\n'
           b'\r\n')
SENDER = 'ant-bounces@example.com'


def send(server, *recipients, sender=SENDER, content=CONTENT):
    """Send a message by smtplib, with DATA."""
    with smtplib.SMTP(server.host, server.port) as client:
        return client.sendmail(sender, recipients, content)


def is_alive(pid):
    return os.path.exists('/proc/{}'.format(pid))


class TestMailLog(unittest.TestCase):
    LOG = MailLog("""\
Nov 22 19:02 h postfix/smtpd[1]: A1: client=unknown[127.0.0.1]
Nov 22 19:02 h postfix/qmgr[2]: A1: from=<ant@example.com>, size=170, nrcpt=2 \
(queue active)
Nov 22 19:02 h postfix/qmgr[2]: B2: from=<>, size=170, nrcpt=1 (queue active)
Nov 22 19:02 h postfix/discard[3]: A1: to=<anne@example.org>, relay=none, \
delay=0.01, delays=0.01/0.01/0/0, dsn=2.0.0, status=sent (example.org)
Nov 22 19:02 h postfix/smtp[3]: A1: to=<"b, c"@example.org>, relay=none, \
delay=0.01, delays=0.01/0.01/0/0, dsn=4.4.1, status=deferred (refused)
Nov 22 19:02 h postfix/smtp[4]: B2: to=<anne@example.org>, \
orig_to=<ann@example.org>, relay=none, delay=0, dsn=2.0.0, status=sent (Ok)
Nov 22 19:03 h postfix/qmgr[2]: A1: from=<ant@example.com>, size=170, nrcpt=2 \
(queue active)
Nov 22 19:03 h postfix/smtp[3]: A1: to=<"b, c"@example.org>, relay=none, \
delay=0.01, delays=0.01/0.01/0/0, dsn=2.0.0, status=sent (250 Ok)
""")

    def test_delivered(self):
        self.assertEqual(
            self.LOG.delivered(),
            {'anne@example.org': 2, '"b, c"@example.org': 1})

    def test_received(self):
        self.assertEqual(
            self.LOG.received(),
            [('ant@example.com', ['anne@example.org', '"b, c"@example.org']),
             ('', ['anne@example.org'])])

    def test_senders(self):
        self.assertEqual(
            self.LOG.senders(),
            {'anne@example.org': ['', 'ant@example.com'],
             '"b, c"@example.org': ['ant@example.com']})


class TestRecorder(unittest.TestCase):
    def test_what_arrives_is_kept(self):
        with Recorder() as recorder:
            send(recorder, 'anne@example.org', '"b, c"@example.org')
            send(recorder, 'cris@example.org', sender='')
            messages = recorder.messages(2)
        self.assertEqual(
            messages[0],
            (SENDER, ['anne@example.org', '"b, c"@example.org'], CONTENT))
        self.assertEqual(messages[1].sender, '')
        self.assertFalse(is_listening(recorder.port))


@unittest.skipIf(postfix.available(), postfix.available())
@once
class TestPostfix(unittest.TestCase):
    def test_discards_and_tells(self):
        with Postfix() as server:
            send(server, 'anne@example.org', 'bart@example.org')
            send(server, 'anne@example.org', sender='bee@example.com')
            self.assertEqual(
                server.delivered(),
                {'anne@example.org': 2, 'bart@example.org': 1})
            self.assertEqual(
                {sender for sender, recipients in server.received()},
                {SENDER, 'bee@example.com'})
            self.assertGreater(len(server.pids()), 3)
        self.assertEqual(server.pids(), set())
        self.assertFalse(server.is_listening())
        self.assertFalse(os.path.exists(server.directory))

    def test_hands_on_the_content(self):
        with Recorder() as recorder:
            with Postfix(relay_to=recorder.address) as server:
                send(server, 'anne@example.org')
                self.assertEqual(server.delivered(), {'anne@example.org': 1})
                message, = recorder.messages(1)
        self.assertEqual(message[:2], (SENDER, ['anne@example.org']))
        self.assertTrue(message.content.startswith(b'Received: '))
        self.assertTrue(message.content.endswith(b'\r\n' + CONTENT))

    def test_parameters(self):
        with Postfix(smtpd_authorized_verp_clients='127.0.0.1',
                     smtpd_discard_ehlo_keywords='chunking',
                     smtpd_recipient_limit=1,
                     message_size_limit=4096) as server:
            with smtplib.SMTP(server.host, server.port) as client:
                client.ehlo()
                self.assertTrue(client.has_extn('xverp'))
                self.assertTrue(client.has_extn('pipelining'))
                self.assertFalse(client.has_extn('chunking'))
                self.assertEqual(client.esmtp_features['size'], '4096')
                client.mail(SENDER)
                self.assertEqual(client.rcpt('anne@example.org')[0], 250)
                self.assertEqual(client.rcpt('bart@example.org')[0], 452)

    def test_tls(self):
        testing = files('mailman.testing')
        with Postfix(smtpd_tls_security_level='may',
                     smtpd_tls_cert_file=testing / 'ssl_test_cert.crt',
                     smtpd_tls_key_file=testing / 'ssl_test_key.key',
                     ) as server:
            with smtplib.SMTP(server.host, server.port) as client:
                client.starttls()
                client.sendmail(SENDER, ['anne@example.org'], CONTENT)
            self.assertEqual(server.delivered(), {'anne@example.org': 1})

    def test_stop_and_start(self):
        with Postfix() as server:
            send(server, 'anne@example.org')
            server.stop()
            self.assertFalse(server.is_listening())
            server.start()
            send(server, 'bart@example.org')
            self.assertEqual(
                server.delivered(),
                {'anne@example.org': 1, 'bart@example.org': 1})


@unittest.skipIf(exim.available(), exim.available())
@once
class TestExim(unittest.TestCase):
    def test_keeps_what_arrives_by_data(self):
        with Exim() as server:
            send(server, 'anne@example.org', '"b, c"@example.org')
            message, = server.messages()
            self.assertGreater(len(server.pids()), 0)
        self.assertEqual(message[:2], (
            SENDER, ['anne@example.org', '"b, c"@example.org']))
        self.assertTrue(message.content.startswith(b'Received: '))
        self.assertTrue(message.content.endswith(b'\r\n' + CONTENT))
        self.assertEqual(server.pids(), set())
        self.assertFalse(is_listening(server.port))
        self.assertFalse(os.path.exists(server.directory))

    def test_keeps_what_arrives_by_bdat(self):
        with Exim() as server:
            with smtplib.SMTP(server.host, server.port) as client:
                client.ehlo()
                self.assertTrue(client.has_extn('pipelining'))
                self.assertTrue(client.has_extn('chunking'))
                client.mail(SENDER)
                client.rcpt('anne@example.org')
                client.send(b'BDAT %d LAST\r\n' % len(CONTENT) + CONTENT)
                self.assertEqual(client.getreply()[0], 250)
            message, = server.messages()
        self.assertEqual(message[:2], (SENDER, ['anne@example.org']))
        self.assertTrue(message.content.endswith(b'\r\n' + CONTENT))

    def test_discard(self):
        with Exim(discard=True) as server:
            send(server, 'anne@example.org')
            self.assertEqual(server.messages(), [])
            self.assertIn('<= ' + SENDER, server.log())

    def test_queue_only(self):
        with Exim(queue_only=True) as server:
            send(server, 'anne@example.org')
            self.assertEqual(server.queued(), 1)

    def test_change(self):
        with Exim(rules='  deny\n    message = not yet') as server:
            with self.assertRaises(smtplib.SMTPRecipientsRefused):
                send(server, 'anne@example.org')
            self.assertIn('not yet', server.log('reject'))
            port = server.port
            server.change(rules='')
            self.assertEqual(server.port, port)
            send(server, 'anne@example.org')
            self.assertEqual(
                [message.recipients for message in server.messages()],
                [['anne@example.org']])


@unittest.skipIf(postfix.available() or nginx.available(),
                 postfix.available() or nginx.available())
@once
class TestNginxMailProxy(unittest.TestCase):
    def test_hands_on_what_postfix_can_do(self):
        with Postfix() as server:
            with NginxMailProxy((HOST, server.port)) as proxy:
                send(proxy, 'anne@example.org', 'bart@example.org')
                self.assertEqual(
                    server.delivered(),
                    {'anne@example.org': 1, 'bart@example.org': 1})
                self.assertGreater(len(proxy.pids()), 1)
            self.assertEqual(proxy.pids(), set())
            self.assertFalse(is_listening(proxy.port))
            self.assertFalse(os.path.exists(proxy.directory))

    def test_announces_what_postfix_cannot(self):
        with Postfix(smtpd_discard_ehlo_keywords='chunking') as server:
            with NginxMailProxy((HOST, server.port)) as proxy:
                with smtplib.SMTP(proxy.host, proxy.port) as client:
                    client.ehlo()
                    self.assertTrue(client.has_extn('pipelining'))
                    self.assertTrue(client.has_extn('chunking'))
                    client.mail(SENDER)
                    self.assertEqual(client.rcpt('anne@example.org')[0], 250)
                    client.send(b'BDAT 1\r\nS')
                    self.assertEqual(client.getreply(), (
                        521, b'5.5.1 Error: command not implemented'))
                    with self.assertRaises(smtplib.SMTPServerDisconnected):
                        client.noop()

    def test_hides_why_mail_was_refused(self):
        with Postfix(message_size_limit=4096) as server:
            with NginxMailProxy((HOST, server.port)) as proxy:
                with smtplib.SMTP(proxy.host, proxy.port) as client:
                    client.ehlo()
                    self.assertEqual(
                        client.mail(SENDER, ['SIZE=5000'])[0], 250)
                    self.assertEqual(
                        client.rcpt('anne@example.org'),
                        (451, b'4.3.2 Internal server error'))
                    with self.assertRaises(smtplib.SMTPServerDisconnected):
                        client.noop()


@unittest.skipIf(sink.available(), sink.available())
@once
class TestSMTPSink(unittest.TestCase):
    def test_source_to_sink(self):
        with SMTPSink(counting=True) as server:
            self.assertGreater(
                smtp_source(server.port, 100, sessions=4, recipients=2), 0)
            wait_until(lambda: server.counters()[1] == 100, 'the counter')
        self.assertFalse(is_alive(server.pid))
        self.assertFalse(is_listening(server.port))

    def test_options(self):
        with SMTPSink('-p', '-Q', 'DATA') as server:
            with smtplib.SMTP(server.host, server.port) as client:
                client.ehlo()
                self.assertFalse(client.has_extn('pipelining'))
                client.mail(SENDER)
                client.rcpt('anne@example.org')
                self.assertEqual(client.docmd('DATA')[0], 421)


@once
class TestDelayingProxy(unittest.TestCase):
    ROUND_TRIP = 0.02

    def setUp(self):
        listener = socket.create_server((HOST, 0))
        self.addCleanup(listener.close)
        self._proxy = DelayingProxy(
            listener.getsockname(), self.ROUND_TRIP)
        self._proxy.__enter__()
        self.addCleanup(self._proxy.__exit__)
        self._client = socket.create_connection(
            (self._proxy.host, self._proxy.port), timeout=30)
        self.addCleanup(self._client.close)
        self._server, address = listener.accept()
        self._server.settimeout(30)
        self.addCleanup(self._server.close)

    def test_each_direction_takes_half_a_round_trip(self):
        start = time.monotonic()
        self._client.sendall(b'EHLO')
        self.assertEqual(self._server.recv(10), b'EHLO')
        there = time.monotonic()
        self._server.sendall(b'250')
        self.assertEqual(self._client.recv(10), b'250')
        back = time.monotonic()
        # Only that it is not too short: how long it takes a busy machine to
        # wake a process is not the proxy's affair.
        self.assertGreaterEqual(there - start, self.ROUND_TRIP / 2)
        self.assertGreaterEqual(back - there, self.ROUND_TRIP / 2)

    def test_much_is_under_way(self):
        # Writes that nobody waits for arrive in order, all of them long
        # before they could have arrived one after the other.
        start = time.monotonic()
        for number in range(1000):
            self._client.sendall(b'%04d' % number)
        received = b''
        while len(received) < 4000:
            received += self._server.recv(4000)
        elapsed = time.monotonic() - start
        self.assertEqual(
            received, b''.join(b'%04d' % number for number in range(1000)))
        self.assertLess(elapsed, 1000 * self.ROUND_TRIP / 2)

    def test_none_overtakes_another(self):
        with socket.create_server((HOST, 0)) as listener, DelayingProxy(
                listener.getsockname(), 0.0, jitter=0.005) as proxy:
            with socket.create_connection(
                    (proxy.host, proxy.port), 30) as client:
                server, address = listener.accept()
                with server:
                    self.send_in_pieces(client, server)

    def send_in_pieces(self, client, server):
        server.settimeout(30)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sent = [b'%04d' % number for number in range(200)]
        received = b''
        for number, piece in enumerate(sent):
            client.sendall(piece)
            if number % 10 == 9:
                while len(received) < 4 * (number + 1):
                    received += server.recv(4000)
        self.assertEqual(received, b''.join(sent))

    def test_the_end_of_one_direction(self):
        self._client.sendall(b'QUIT')
        self._client.shutdown(socket.SHUT_WR)
        self.assertEqual(self._server.recv(10), b'QUIT')
        self.assertEqual(self._server.recv(10), b'')
        self._server.sendall(b'221')
        self._server.close()
        self.assertEqual(self._client.recv(10), b'221')
        self.assertEqual(self._client.recv(10), b'')

    def test_a_sender_ahead_of_the_reader_waits(self):
        # The proxy's memory is bounded, and nothing is lost by that.
        size = 100 * 1024 * 1024
        self._client.setblocking(False)
        block, sent = bytes(65536), 0

        def is_stuck():
            nonlocal sent
            before = sent
            try:
                while sent < size:
                    sent += self._client.send(block)
            except BlockingIOError:
                return sent == before and self._is_idle()
            return True
        wait_until(is_stuck, 'back-pressure')
        self.assertLess(sent, size)
        received = 0
        while received < sent:
            received += len(self._server.recv(1 << 20))
        self.assertEqual(received, sent)

    def _is_idle(self):
        with open('/proc/{}/stat'.format(self._proxy.pid)) as fp:
            return fp.read().rpartition(')')[2].split()[0] == 'S'

    def test_gone_afterwards(self):
        with DelayingProxy((HOST, 1)) as proxy:
            self.assertTrue(is_alive(proxy.pid))
            # There is no server, and the connection ends.
            with socket.create_connection((HOST, proxy.port), 30) as client:
                self.assertEqual(client.recv(10), b'')
        self.assertFalse(is_alive(proxy.pid))
        self.assertFalse(is_listening(proxy.port))
