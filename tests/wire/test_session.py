# SPDX-License-Identifier: GPL-3.0-or-later
"""A session over a real socket, with a server that does as it likes."""

import ssl
import socket
import unittest
import threading

from contextlib import suppress
from itertools import count
from mailman_mta_pool.connection.smtp.steps import drive_alone
from mailman_mta_pool.errors import ConnectionLost, ProtocolError
from mailman_mta_pool.wire.lessons import Chunking
from mailman_mta_pool.wire.transaction import Fate
from tests.test_handshake import server_context
from tests.wire.dialogue import (
    BDAT,
    Dialogue,
    envelope,
    GO,
    HELLO,
    HI,
    NO,
    OFFER,
    OK,
    transaction,
)
from tests.wire.peer import Client, PATIENCE, read, served


MEGABYTE = 2 ** 20
LINE = 1023 * 'x' + '\n'
#: As long as a reply may be; no socket here can take it all at once.
TOO_BIG = 99 * ('552-' + 2000 * 'x' + '\r\n') + '552 5.3.4 Too big\r\n'


def by_bdat(depth=1):
    return Dialogue('PIPELINING', 'CHUNKING', known=Chunking.proved,
                    depth=depth)


def answering(*pairs):
    """Make a server that expects octets and then sends others, in turn."""
    def serve(sock):
        for expected, answer in pairs:
            got = read(sock, len(expected)).decode('latin-1')
            if got != expected:
                raise AssertionError(f'{got!r} is not {expected!r}')
            sock.sendall(answer.encode())
    return serve


def over_tls(sock):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(sock)


def tls_server(sock):
    return server_context().wrap_socket(sock, server_side=True)


class TestGroups(unittest.TestCase):
    """One send for each group, and one group for each round trip."""

    def check(self, dialogue, pairs, *transactions):
        with served(answering(*pairs)) as sock:
            client = Client(sock, dialogue)
            fates = client.run(*transactions)
        self.assertEqual(fates, [['accepted']] * len(transactions))
        self.assertEqual(client.sends, [sent for sent, _ in pairs])
        self.assertTrue(client.conversation.idle)

    def test_pipelining(self):
        self.check(Dialogue('PIPELINING'), [
            (envelope('a') + 'DATA\r\n', OK + OK + GO),
            (HI + envelope('b') + 'DATA\r\n', OK + OK + OK + GO),
            (HI, OK)], transaction('a'), transaction('b'))

    def test_chunking(self):
        first = 'RSET\r\n'.join(envelope(name) + BDAT for name in 'abcd')
        self.check(by_bdat(4), [
            (first, 3 * OK + 12 * OK), ('RSET\r\n' + envelope('e') + BDAT,
                                        4 * OK)],
            *map(transaction, 'abcde'))

    def test_plain(self):
        self.check(Dialogue(), [
            ('MAIL FROM:<a@example.com>\r\n', OK),
            ('RCPT TO:<x@example.com>\r\n', OK), ('DATA\r\n', GO), (HI, OK)],
            transaction('a'))

    def test_one_post_after_the_other(self):
        pairs = [(envelope('a') + 'DATA\r\n', OK + OK + GO), (HI, OK),
                 (envelope('b') + 'DATA\r\n', OK + NO + GO), ('.\r\n', NO)]
        with served(answering(*pairs)) as sock:
            client = Client(sock, Dialogue('PIPELINING'))
            client.run(transaction('a'))
            self.assertTrue(client.session.is_alive())
            # One that we refuse needs no server.
            client.run(transaction('c', '"'))
            self.assertEqual(client.run(transaction('b')),
                             [['accepted'], ['refused'], ['refused']])


class TestFullBuffers(unittest.TestCase):
    """25 megabytes to a server that answers at once and does not read."""

    def check(self, dialogue, dialect, ours=lambda sock: sock, theirs=None):
        text = 25 * 1024 * LINE
        content = 25 * 1024 * LINE.replace('\n', '\r\n')
        first = envelope('a') + dialect.format(len(content))
        last = '' if 'BDAT' in dialect else '.\r\n'
        stuck, heard = threading.Event(), threading.Event()
        rest = []

        def serve(sock):
            read(sock, len(first))
            sock.sendall((OK + OK + (GO if last else '')).encode())
            # It knows enough when it has seen the beginning.
            begun = read(sock, 100)
            # The client can write no more, and has not heard anything.
            self.assertTrue(stuck.wait(PATIENCE))
            # This fills all buffers in the other direction.
            sock.sendall(TOO_BIG.encode())
            self.assertTrue(heard.wait(PATIENCE))
            rest.append(begun + read(sock, len(content + last) - 100))
            answering(
                (envelope('b') + dialect.format(4), OK + OK + GO), (HI, OK),
                )(sock) if last else answering(
                ('RSET\r\n' + envelope('b') + dialect.format(4), OK * 3),
                ('Hi\r\n' + HELLO, OK + OFFER))(sock)

        def on_look(client):
            if (client.conversation.unsent and
                    client.conversation.octets_sent > len(first)):
                stuck.set()
            if client.heard.endswith(TOO_BIG.encode()):
                heard.set()
        with served(serve, theirs) as sock:
            client = Client(ours(sock), dialogue, on_look)
            # The first is over long before its content is through.
            fates = client.run(transaction('a', text=text), transaction('b'))
            client.session.close()
        self.assertEqual(sorted(fates), [['accepted'], ['refused']])
        reply = next(outcome.results[0].reply for outcome in client.outcomes
                     if outcome.having(Fate.refused))
        self.assertEqual((reply.code, len(reply.lines)), (552, 100))
        self.assertEqual(rest, [(content + last).encode()])

    def test_by_data(self):
        self.check(Dialogue('PIPELINING'), 'DATA\r\n')

    def test_by_bdat(self):
        self.check(by_bdat(2), 'BDAT {} LAST\r\n')

    def test_by_data_over_tls(self):
        self.check(
            Dialogue('PIPELINING'), 'DATA\r\n', over_tls, tls_server)

    def test_by_bdat_over_tls(self):
        self.check(by_bdat(2), 'BDAT {} LAST\r\n', over_tls, tls_server)


class TestTLS(unittest.TestCase):
    def test_many_replies_in_one_record(self):
        # More than one read gives; poll() knows nothing of the rest.
        number = 400
        first = 'RSET\r\n'.join(
            envelope(f'a{index}') + BDAT for index in range(number))
        ok = '250 ' + 50 * 'x' + '\r\n'
        with served(answering((first, (4 * number - 1) * ok)),
                    tls_server) as sock:
            client = Client(over_tls(sock), by_bdat(number))
            fates = client.run(*(transaction(f'a{index}')
                                 for index in range(number)))
            self.assertEqual(fates, number * [['accepted']])
            client.session.close()

    def test_what_counts_as_unsent_has_not_been_read(self):
        # However much the kernel takes, the server never has all of it.
        text = 4096 * LINE
        content = text.replace('\n', '\r\n') + '.\r\n'
        got = []

        def serve(sock):
            read(sock, len(envelope('a') + 'DATA\r\n'))
            sock.sendall((OK + OK + GO).encode())
            got.append(len(read(sock, MEGABYTE)))
        with served(serve, tls_server) as sock:
            client = Client(over_tls(sock), Dialogue('PIPELINING'))
            with self.assertRaises(ConnectionLost):
                client.run(transaction('a', text=text))
            client.session.close()
        self.assertEqual(client.fates(), [['not_attempted']])
        sent = sum(map(len, client.sends[1:]))
        self.assertGreaterEqual(sent, got[0])
        self.assertLess(sent, len(content))
        self.assertLessEqual(max(map(len, client.sends)), 16384)


class TestLost(unittest.TestCase):
    def lost(self, serve, *transactions, error=ConnectionLost,
             dialogue=None, **kws):
        with served(serve) as sock:
            client = Client(sock, dialogue or Dialogue('PIPELINING'), **kws)
            with self.assertRaises(error) as caught:
                client.run(*transactions or [transaction('a', 'x', 'y')])
        self.assertTrue(client.conversation.idle)
        return client.fates(), str(caught.exception)

    def test_at_each_phase(self):
        first = envelope('a', 'x', 'y') + 'DATA\r\n'
        for pairs, fates in (
                ([], ['not_attempted'] * 2),
                ([(first, '')], ['not_attempted'] * 2),
                ([(first, OK + NO)], ['refused', 'not_attempted']),
                ([(first, OK + NO + OK)], ['refused', 'not_attempted']),
                ([(first, OK + NO + OK + GO), (HI, '')],
                 ['refused', 'in_doubt']),
                ([(first, OK + NO + OK + GO), (HI, '250 Ok\r')],
                 ['refused', 'in_doubt'])):
            with self.subTest(pairs=pairs):
                self.assertEqual(self.lost(answering(*pairs))[0], [fates])

    def test_421(self):
        fates, text = self.lost(
            answering((envelope('a', 'x', 'y') + 'DATA\r\n',
                       OK + NO + '421 4.3.2 Going\r\n')))
        self.assertEqual(fates, [['refused', 'not_attempted']])
        self.assertIn('421 4.3.2 Going', text)

    def test_garbage(self):
        fates, text = self.lost(
            answering((envelope('a', 'x', 'y') + 'DATA\r\n',
                       OK + 'hello\r\n')), error=ProtocolError)
        self.assertEqual(fates, [['not_attempted'] * 2])
        self.assertIn('hello', text)

    def test_the_last_words_are_heard(self):
        # The kernel takes no more; what the server has said before counts.
        def serve(sock):
            answering((envelope('a') + 'DATA\r\n', OK + OK + GO))(sock)
            # To the end of what can be read.
            read(sock, 2 * MEGABYTE)
            sock.sendall(NO.encode())

        def on_look(client):
            if client.conversation.answered == 3:
                # As if the server had reset the connection in this direction.
                # The next time, both may be shut.
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_WR)
        with served(serve) as sock:
            client = Client(sock, Dialogue('PIPELINING'), on_look)
            with self.assertRaisesRegex(ConnectionLost, 'Broken pipe'):
                client.run(transaction('a', text=1024 * LINE))
        self.assertEqual(client.fates(), [['refused']])

    def test_aborted(self):
        # From another thread, while this one waits for an answer.
        waiting = threading.Event()

        def serve(sock):
            read(sock, len(envelope('a') + 'DATA\r\n'))
            waiting.wait(PATIENCE)
            client.session.abort()
            sock.recv(1)
        with served(serve) as sock:
            client = Client(
                sock, Dialogue('PIPELINING'), lambda client: waiting.set())
            with self.assertRaises(ConnectionLost):
                client.run(transaction('a'))
            self.assertEqual(client.fates(), [['not_attempted']])
            # Once more does no harm.
            client.session.abort()

    def test_reported_whatever_happens(self):
        class Interrupted(BaseException):
            pass
        numbers = count(1)

        def report(outcome):
            outcomes.append(outcome)
            if next(numbers) == 1:
                raise Interrupted
        first = 'RSET\r\n'.join(envelope(name) + BDAT for name in 'abc')
        outcomes = []
        taken = list(map(transaction, 'cba'))
        with served(answering((first, 4 * OK))) as sock:
            client = Client(sock, by_bdat(3))
            with self.assertRaises(Interrupted):
                drive_alone(client.session.steps(
                    lambda: (taken[-1], taken.pop().recipients)
                    if taken else None, report))
        self.assertEqual(
            [outcome.results[0].fate for outcome in outcomes],
            [Fate.accepted, Fate.in_doubt, Fate.in_doubt])


class TestBetweenTwoPosts(unittest.TestCase):
    def idle(self, serve, last=OK):
        """Return a client that has sent one message."""
        first = answering(
            (envelope('a') + 'DATA\r\n', OK + OK + GO), (HI, last))
        ready = threading.Event()

        def run(sock):
            first(sock)
            ready.wait(PATIENCE)
            serve(sock)
        context = served(run)
        client = Client(context.__enter__(), Dialogue('PIPELINING'))
        self.addCleanup(context.__exit__, None, None, None)
        self.addCleanup(ready.set)
        client.run(transaction('a'))
        ready.set()
        return client

    def test_alive_and_quit(self):
        got = []

        def serve(sock):
            got.append(read(sock, 6))
            sock.sendall(b'221 Bye\r\n')
            got.append(sock.recv(1))
        client = self.idle(serve)
        self.assertTrue(client.session.is_alive())
        self.assertTrue(client.session.is_alive())
        client.session.quit()
        self.doCleanups()
        self.assertEqual(got, [b'QUIT\r\n', b''])

    def test_dead(self):
        for said in (b'', b'421 4.4.2 Timeout\r\n', b'4'):
            with self.subTest(said=said):
                done, got = threading.Event(), []

                def serve(sock, said=said):
                    sock.sendall(said)
                    if not said:
                        sock.shutdown(socket.SHUT_WR)
                    done.set()
                    with suppress(ConnectionResetError):
                        got.append(sock.recv(1))
                client = self.idle(serve)
                self.assertTrue(done.wait(PATIENCE))
                self.assertFalse(client.session.is_alive())
                # Nothing more is said to it.
                client.session.quit()
                self.doCleanups()
                self.assertEqual(b''.join(got), b'')

    def test_begun_to_speak(self):
        # With its last reply came the beginning of another one.
        got = []
        client = self.idle(lambda sock: got.append(sock.recv(1)), OK + '4')
        self.assertFalse(client.session.is_alive())
        client.session.quit()
        self.doCleanups()
        self.assertEqual(got, [b''])

    def test_in_the_middle_of_one(self):
        # What is going on is broken off without a QUIT.
        got = []

        def serve(sock):
            got.append(read(sock, 1000))
        client = self.idle(serve)
        client.conversation.submit(transaction('b'))
        client.session.quit()
        self.doCleanups()
        self.assertEqual(got, [b''])
