# SPDX-License-Identifier: GPL-3.0-or-later

"""The throwaway site, the recording server and the demo, from outside."""

import io
import os
import pty
import sys
import time
import signal
import socket
import hashlib
import unittest
import subprocess

from contextlib import closing, ExitStack
from mailman.config import config
from mailman.interfaces.listmanager import IListManager
from mailman.model.address import Address
from mailman.model.member import Member
from mailman.model.preferences import Preferences
from mailman.model.user import User
from mailman_mta_pool.demo import population
from mailman_mta_pool.demo.compare import compare, Options, sides
from mailman_mta_pool.demo.dialogue import Dialogue, Features
from mailman_mta_pool.demo.process import ROOT
from mailman_mta_pool.demo.progress import Progress
from mailman_mta_pool.demo.recording import RecordingServer
from mailman_mta_pool.demo.report import report, table
from mailman_mta_pool.demo.site import SiteError, ThrowawaySite
from pathlib import Path
from tempfile import TemporaryDirectory
from tests.once import once
from zope.component import getUtility


BODY = b'Subject: hi\r\n\r\n.\r\n..two\r\nlast\r\n'
STUFFED = b'Subject: hi\r\n\r\n..\r\n...two\r\nlast\r\n'
DIGEST = hashlib.sha256(BODY).hexdigest()
POST = b"""\
From: anne@example.com
To: ant@example.com
Subject: A post
Message-ID: <post@example.com>

Hello.
"""


def envelope(*recipients, sender='ant-bounces@example.com'):
    lines = [f'MAIL FROM:<{sender}> SIZE=100']
    lines.extend(f'RCPT TO:<{recipient}>' for recipient in recipients)
    return ''.join(f'{line}\r\n' for line in lines).encode('utf-8')


class Client:
    """The other end of the server's connection."""

    def __init__(self, server):
        self._socket = socket.create_connection((server.host, server.port), 20)
        self._replies = self._socket.makefile('rb')
        self.codes(1)

    def send(self, data):
        self._socket.sendall(data)

    def codes(self, count):
        """The codes of that many replies."""
        codes = []
        while len(codes) < count:
            line = self._replies.readline()
            if not line:
                break
            if line[3:4] == b' ':
                codes.append(int(line[:3]))
        return codes

    def keywords(self):
        """What the server offers."""
        self.send(b'EHLO client.example.com\r\n')
        lines = []
        while not lines or lines[-1].startswith(b'250-'):
            lines.append(self._replies.readline())
        return [line[4:].decode().split()[0] for line in lines[1:]]

    def close(self):
        self._replies.close()
        self._socket.close()


@once
class TestDialogue(unittest.TestCase):
    """The server's half of a session, octet by octet."""

    def setUp(self):
        self.accepted = []
        self.dialogue = Dialogue(
            Features(chunking=True, size=1000),
            lambda *transaction: self.accepted.append(transaction))

    def feed(self, data, size=None):
        codes = []
        size = size or len(data)
        for start in range(0, len(data), size):
            self.dialogue.receive(data[start:start+size])
            unit = self.dialogue.next_unit()
            while unit is not None:
                codes.append(int(self.dialogue.answer(unit)[:3]))
                unit = self.dialogue.next_unit()
        return codes

    def test_any_split(self):
        # However the octets arrive, they mean the same.
        stream = (
            b'EHLO client\r\n' + envelope('anne@example.com') + b'DATA\r\n'
            + STUFFED + b'.\r\n' + envelope('bart@example.com')
            + b'BDAT 10\r\n' + BODY[:10]
            + b'BDAT %d LAST\r\n' % (len(BODY) - 10) + BODY[10:]
            + envelope('cate@example.com') + b'DATA\r\n.\r\nQUIT\r\n')
        codes = [250, 250, 250, 354, 250, 250, 250, 250, 250, 250, 250, 354,
                 250, 221]
        expected = [
            ('ant-bounces@example.com', ['anne@example.com'], BODY),
            ('ant-bounces@example.com', ['bart@example.com'], BODY),
            ('ant-bounces@example.com', ['cate@example.com'], b''),
            ]
        for size in (1, 2, 3, 7, 64, len(stream)):
            with self.subTest(size=size):
                self.setUp()
                self.assertEqual(self.feed(stream, size), codes)
                self.assertEqual(self.accepted, expected)

    def test_out_of_order(self):
        self.assertEqual(self.feed(b'DATA\r\n'), [503])
        self.assertEqual(self.feed(b'RCPT TO:<anne@example.com>\r\n'), [503])
        self.assertEqual(self.feed(envelope() + envelope()), [250, 503])
        self.assertEqual(self.feed(b'RSET\r\n' + envelope()), [250, 250])
        self.assertEqual(self.feed(b'BDAT 4 LAST\r\nNOOPNOOP\r\n'), [503, 250])
        self.assertEqual(self.feed(b'STARTTLS\r\n'), [500])
        self.assertEqual(self.accepted, [])

    def test_too_big(self):
        self.assertEqual(self.feed(b'MAIL FROM:<> SIZE=1001\r\n'), [552])
        big = b'x' * 1000 + b'\r\n'
        self.assertEqual(
            self.feed(envelope('anne@example.com') + b'DATA\r\n' + big
                      + b'.\r\n'),
            [250, 250, 354, 552])
        self.assertEqual(self.accepted, [])

    def test_odd_addresses(self):
        odd = ['"a>b"@example.com', 'd\u00f6rte@example.com', 'anne']
        self.feed(envelope(*odd, sender='') + b'BDAT 0 LAST\r\n')
        self.assertEqual(self.accepted, [('', odd, b'')])
        self.assertEqual(self.feed(b'MAIL FROM:anne@example.com\r\n'), [501])


@once
class TestServer(unittest.TestCase):
    """The server in its own process, over real sockets."""

    def setUp(self):
        self.resources = ExitStack()
        self.addCleanup(self.resources.close)

    def server(self, **options):
        return self.resources.enter_context(RecordingServer(**options))

    def client(self, server):
        return self.resources.enter_context(closing(Client(server)))

    def test_pipelined_data(self):
        server = self.server()
        client = self.client(server)
        self.assertIn('PIPELINING', client.keywords())
        self.assertNotIn('CHUNKING', client.keywords())
        client.send(
            envelope('anne@example.com', 'bart@example.com') + b'DATA\r\n')
        self.assertEqual(client.codes(4), [250, 250, 250, 354])
        client.send(STUFFED + b'.\r\n' + envelope('anne@example.com')
                    + b'DATA\r\n')
        self.assertEqual(client.codes(4), [250, 250, 250, 354])
        # A reply has been seen, so the record has the transaction.
        record = server.record
        self.assertEqual(record.refresh(), 2)
        client.send(b'.\r\nQUIT\r\n')
        self.assertEqual(client.codes(2), [250, 221])
        self.assertEqual(record.refresh(), 3)
        self.assertEqual(record.messages, 2)
        self.assertEqual(record.connections, 1)
        first = record.transactions[0]
        self.assertEqual(first.sender, 'ant-bounces@example.com')
        self.assertEqual(
            first.recipients, ('anne@example.com', 'bart@example.com'))
        self.assertEqual((first.digest, first.octets), (DIGEST, len(BODY)))
        self.assertEqual(record.duplicated, {'anne@example.com': 2})
        self.assertEqual(record.deliveries['bart@example.com'],
                         [('ant-bounces@example.com', DIGEST)])

    def test_chunks_in_flight(self):
        server = self.server(chunking=True)
        client = self.client(server)
        self.assertIn('CHUNKING', client.keywords())
        client.send(b''.join(
            envelope(f'person-{number}@example.com')
            + b'BDAT %d LAST\r\n' % len(BODY) + BODY
            for number in range(100)))
        self.assertEqual(client.codes(300), [250] * 300)
        self.assertEqual(server.record.refresh(), 100)
        self.assertEqual(
            {accepted.digest for accepted in server.record.transactions},
            {DIGEST})

    def test_every_command_takes_its_time(self):
        server = self.server(delay=0.05)
        client = self.client(server)
        before = time.monotonic()
        client.send(envelope('anne@example.com') + b'DATA\r\n')
        self.assertEqual(client.codes(3), [250, 250, 354])
        client.send(STUFFED + b'.\r\n')
        self.assertEqual(client.codes(1), [250])
        self.assertGreaterEqual(time.monotonic() - before, 4 * 0.05)
        server.record.refresh()
        accepted, = server.record.transactions
        self.assertGreaterEqual(accepted.time - before, 4 * 0.05)

    def test_pipelining_not_offered(self):
        client = self.client(self.server(pipelining=False))
        self.assertNotIn('PIPELINING', client.keywords())

    def test_connections_are_counted(self):
        server = self.server()
        for client in [self.client(server) for number in range(3)]:
            client.keywords()
        self.assertEqual(server.record.refresh(), 0)
        self.assertEqual(server.record.connections, 3)

    def test_stops_cleanly(self):
        server = self.server()
        client = self.client(server)
        server.stop()
        self.assertEqual(client.codes(1), [])
        self.assertEqual(server.record.connections, 1)


def describe_members(add_members, everybody):
    """All that Mailman knows of members so added but numbers and times.

    This runs inside the site.
    """
    population.create_list('ant@example.com')
    add_members('ant@example.com', everybody)
    mlist = getUtility(IListManager).get('ant@example.com')
    known = {}
    for email in sorted(population.member_addresses('ant@example.com')):
        member = mlist.members.get_member(email)
        rows = [member, member.preferences, member.address,
                member.address.preferences, member.user,
                member.user.preferences]
        known[email] = [describe_row(row) for row in rows] + [
            str(member.address), member.display_name,
            member.preferred_language.code, member.delivery_status.name,
            member.subscription_mode.name, str(member.user.preferred_address),
            ]
    totals = [config.db.store.query(model).count()
              for model in (Member, Address, User, Preferences)]
    return known, totals


def describe_row(row):
    values = {}
    for attribute in row.__mapper__.column_attrs:
        value = getattr(row, attribute.key)
        # Numbers and times differ; that they are there does not.
        varies = attribute.key.endswith(('id', '_on'))
        values[attribute.key] = type(value).__name__ if varies else value
    return values


@once
class TestSite(unittest.TestCase):
    """A Mailman of its own, with real runners."""

    maxDiff = None

    def test_inserted_like_subscribed(self):
        everybody = [('anne@example.com', 'Anne Person'),
                     ('Bart@Example.COM', ''),
                     ('cate@example.com', 'C\u00e4te \U0001f41c')]
        described = []
        for function in (population.subscribe_members,
                         population.insert_members):
            with ThrowawaySite() as site:
                described.append(
                    site.call(describe_members, function, everybody))
        subscribed, inserted = described
        self.assertEqual(inserted, subscribed)
        known, totals = inserted
        self.assertEqual(sorted(known), [
            'anne@example.com', 'bart@example.com', 'cate@example.com'])
        self.assertEqual(totals, [3, 3, 3, 9])

    def test_delivery(self):
        with RecordingServer() as server, ThrowawaySite({
                'smtp_port': server.port}) as site:
            expected = site.create_list('ant@example.com', 30)
            path = site.enqueue(
                POST, 'ant@example.com', handlers=('cook-headers',))
            entry, = site.queue('out').entries
            self.assertEqual(entry.path, path)
            self.assertEqual(entry.recipients, sorted(expected))
            self.assertEqual(entry.msg['precedence'], 'list')
            self.assertEqual(entry.msgdata['listid'], 'ant.example.com')
            self.assertFalse(site.is_empty('out'))
            with site.runner() as runner:
                site.wait_until_empty('out', 'retry')
                self.assertTrue(runner.running)
            self.assertFalse(runner.running)
            self.assertIn('for 30 recips', site.log('smtp.log'))
            self.assertEqual(site.queue('shunt').entries, [])
        self.assertEqual(sorted(server.record.deliveries), sorted(expected))
        self.assertFalse(site.directory.exists())

    def test_nobody_listens(self):
        with socket.socket() as reserved:
            # Bound but not listening: connections are refused.
            reserved.bind(('127.0.0.1', 0))
            port = reserved.getsockname()[1]
            with ThrowawaySite({'smtp_port': port}) as site:
                site.create_list('ant@example.com', 2)
                site.enqueue(POST, 'ant@example.com',
                             recipients={'anne@example.com'})
                with site.runner():
                    site.wait_until_empty()
                entry, = site.queue('retry').entries
        self.assertEqual(entry.recipients, ['anne@example.com'])

    def test_a_runner_that_ends(self):
        with ThrowawaySite({'outgoing': 'nowhere.deliver'}) as site:
            site.create_list('ant@example.com', 1)
            site.enqueue(POST, 'ant@example.com')
            with site.runner():
                with self.assertRaisesRegex(SiteError, 'nowhere'):
                    site.wait_until_empty()
            with self.assertRaisesRegex(SiteError, 'BadDomain|Duplicate|List'):
                site.create_list('ant@example.com')


class TestProgress(unittest.TestCase):
    def setUp(self):
        self.now = 0

    def shown(self, terminal):
        stream = io.StringIO()
        stream.isatty = lambda: terminal
        progress = Progress(stream, 'stock', 1000, lambda: self.now)
        for second in range(25):
            self.now = second
            progress.update(second * 40)
        progress.finish(1000)
        return stream.getvalue()

    def test_on_a_terminal(self):
        shown = self.shown(True)
        self.assertEqual(shown.count('\r'), 26)
        self.assertEqual(shown.count('\n'), 1)

    def test_elsewhere(self):
        shown = self.shown(False)
        self.assertNotIn('\r', shown)
        self.assertEqual([line.split()[-3] for line in shown.splitlines()],
                         ['400/1,000', '800/1,000', '1,000/1,000'])

    def test_table(self):
        self.assertEqual(
            table(['one', 'two'], [('seconds', [1.5, 1234.567]),
                                   ('recipients lost', [None, 0]),
                                   ('same bytes', [True, False])]),
            '                   one        two\n'
            'seconds           1.50   1,234.57\n'
            'recipients lost    n/a          0\n'
            'same bytes         yes         no\n')


@once
class TestDemo(unittest.TestCase):
    """`python -m mailman_mta_pool.demo`."""

    def setUp(self):
        resources = ExitStack()
        self.addCleanup(resources.close)
        self.temporary = resources.enter_context(TemporaryDirectory())

    def start(self, *arguments, **options):
        environment = dict(os.environ, TMPDIR=self.temporary,
                           PYTHONPATH=str(ROOT))
        demo = subprocess.Popen(
            (sys.executable, '-m', 'mailman_mta_pool.demo') + arguments,
            env=environment, **options)
        self.addCleanup(demo.wait)
        self.addCleanup(demo.kill)
        return demo

    def run_demo(self, *arguments):
        demo = self.start(*arguments, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, universal_newlines=True)
        output, complaints = demo.communicate(timeout=300)
        return demo.returncode, output, complaints

    def processes(self):
        """The processes that were given our directory for their files."""
        found = []
        for path in Path('/proc').glob('[0-9]*/environ'):
            try:
                if self.temporary.encode() in path.read_bytes():
                    found.append(path.parent.name)
            except OSError:
                # It has ended meanwhile.
                continue
        return found

    def assertClean(self):
        self.assertEqual(self.processes(), [])
        self.assertEqual(os.listdir(self.temporary), [])

    def test_both_sides(self):
        status, output, complaints = self.run_demo('--members', '20')
        self.assertEqual(status, 0, complaints)
        rows = {}
        for line in output.splitlines():
            label, *values = line.rsplit(None, 2)
            rows[label] = values
        self.assertEqual(rows['recipients'], ['20', '20'])
        self.assertEqual(rows['messages accepted'], ['20', '20'])
        self.assertEqual(rows['recipients lost'], ['0', '0'])
        self.assertEqual(rows['recipients duplicated'], ['0', '0'])
        self.assertEqual(rows['same bytes'], ['yes', 'yes'])
        self.assertIn('20/20', complaints)
        self.assertClean()

    def test_ctrl_c(self):
        # The bar is drawn on a terminal only, so give it one: it appears as
        # soon as the runner is at work.
        ours, theirs = pty.openpty()
        self.addCleanup(os.close, ours)
        demo = self.start('--members', '20', '--delay', '5', stderr=theirs,
                          stdout=subprocess.DEVNULL)
        os.close(theirs)
        shown = b''
        while b'stock' not in shown:
            shown += os.read(ours, 1000)
        # The demo, the server and the runner.
        self.assertEqual(len(self.processes()), 3)
        demo.send_signal(signal.SIGINT)
        self.assertEqual(demo.wait(20), 130)
        self.assertTrue(os.read(ours, 100_000).endswith(b'\ninterrupted\r\n'))
        self.assertClean()

    def test_wrong_server(self):
        with socket.socket() as reserved:
            reserved.bind(('127.0.0.1', 0))
            port = reserved.getsockname()[1]
            status, output, complaints = self.run_demo(
                '--smtp', f'127.0.0.1:{port}')
        self.assertEqual((status, output), (2, ''))
        self.assertEqual(len(complaints.splitlines()), 1)
        self.assertIn(f'no SMTP server at 127.0.0.1:{port}', complaints)
        self.assertClean()

    def test_another_server(self):
        with RecordingServer() as server:
            options = Options(members=5, smtp=(server.host, server.port))
            stock, ours = sides(options)
            results = compare(options, [stock], io.StringIO())
            shown = report(results)
        self.assertEqual(server.record.accepted, 5)
        self.assertRegex(shown, r'connections +n/a\n')
        self.assertRegex(shown, r'recipients +5\n')


class TestSlowServer(unittest.TestCase):
    def test_faster_than_stock(self):
        # With 20 ms for each command the dialogue counts for most, so that a
        # busy machine slows both down alike: five to eight times as fast.
        options = Options(members=30, threads=8, delay=0.02)
        stock, ours = compare(options, stream=io.StringIO())
        self.assertTrue(stock.complete)
        self.assertTrue(ours.complete)
        self.assertEqual(ours.record.deliveries, stock.record.deliveries)
        ratio = ours.rate / stock.rate
        print(f'\n20 ms per command, VERP, 8 threads: stock {stock.rate:.1f},'
              f' ours {ours.rate:.1f} recipients/s, {ratio:.1f} times')
        self.assertGreater(ratio, 2)
