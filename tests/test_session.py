# SPDX-License-Identifier: GPL-3.0-or-later
"""A session over a real socket, with a server that does as it likes."""

import ssl
import socket
import asyncio
import unittest
import threading

from contextlib import suppress
from mailman_mta_pool.connection.tls_socket import TLSSocket
from mailman_mta_pool.errors import ConnectionLost, PhaseTimeout, ProtocolError
from mailman_mta_pool.interfaces import LATER
from mailman_mta_pool.wire.lessons import Chunking
from mailman_mta_pool.wire.transaction import Fate
from tests.certificates import server_context
from tests.peer import Client, PATIENCE, read, served
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
from unittest import mock


MEGABYTE = 2 ** 20
RESET = 'RSET\r\n'
LINE = 1023 * 'x' + '\n'
#: As long as a reply may be; no socket here can take it all at once.
TOO_BIG = 99 * ('552-' + 150 * 'x' + '\r\n') + '552 5.3.4 Too big\r\n'


def by_bdat(depth=4):
    return Dialogue('PIPELINING', 'CHUNKING', known=Chunking.proved,
                    pipeline_depth=depth)


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
    tls = TLSSocket(sock, context, 'localhost')
    while True:
        # The socket blocks, and each call reads once.
        with suppress(ssl.SSLWantReadError):
            tls.do_handshake()
            return tls


def tls_server(sock):
    return server_context().wrap_socket(sock, server_side=True)


class SessionTestCase(unittest.TestCase):
    def client(self, sock, dialogue=None, *args, **kws):
        """Make a `Client`, which is closed when the test ends."""
        client = Client(sock, dialogue or Dialogue('PIPELINING'), *args, **kws)
        self.addCleanup(client.close)
        return client


class TestGroups(SessionTestCase):
    """One send for each group, and one group for each round trip."""

    def check(self, dialogue, pairs, *transactions):
        with served(answering(*pairs)) as sock:
            client = self.client(sock, dialogue)
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
        # The window begins with one, and is two after the first answer.
        self.check(by_bdat(2), [
            (envelope('a') + BDAT, 3 * OK),
            (RESET + envelope('b') + BDAT + RESET + envelope('c') + BDAT,
             8 * OK)], *map(transaction, 'abc'))

    def test_plain(self):
        self.check(Dialogue(), [
            ('MAIL FROM:<a@example.com>\r\n', OK),
            ('RCPT TO:<x@example.com>\r\n', OK), ('DATA\r\n', GO), (HI, OK)],
            transaction('a'))

    def test_one_post_after_the_other(self):
        pairs = [(envelope('a') + 'DATA\r\n', OK + OK + GO), (HI, OK),
                 (envelope('b') + 'DATA\r\n', OK + NO + GO), ('.\r\n', NO)]
        with served(answering(*pairs)) as sock:
            client = self.client(sock)
            client.run(transaction('a'))
            self.assertTrue(client.session.is_alive())
            # One that we refuse needs no server.
            client.run(transaction('c', '"'))
            self.assertEqual(client.run(transaction('b')),
                             [['accepted'], ['refused'], ['refused']])


class TestSpans(SessionTestCase):
    """In which order the server has seen what was in flight."""

    def test_question_behind_a_transaction(self):
        pairs = [(envelope('a') + 'DATA\r\n', OK + OK + GO),
                 (HI + envelope('b') + RESET, 4 * OK)]
        with served(answering(*pairs)) as sock:
            client = self.client(sock)
            fates = client.run(
                transaction('a'), transaction('b')._replace(asks=True))
        self.assertEqual(fates, [['accepted'], ['not_attempted']])
        first, second = [outcome.span for outcome in client.outcomes]
        self.assertEqual(first.session, second.session)
        self.assertTrue(first.precedes(second))
        self.assertFalse(second.precedes(first))

    def test_two_connections(self):
        def span():
            pairs = [(envelope('a') + 'DATA\r\n', OK + OK + GO), (HI, OK)]
            with served(answering(*pairs)) as sock:
                client = self.client(sock)
                client.run(transaction('a'))
            return client.outcomes[0].span
        first, second = span(), span()
        self.assertNotEqual(first.session, second.session)
        self.assertTrue(first.precedes(second))
        self.assertFalse(second.precedes(first))


class TestFullBuffers(SessionTestCase):
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
            # No second one is taken beside so much content.  So the client
            # has to ask whether it is in step.
            answering((HELLO, OFFER))(sock)
            answering(*[(envelope('b') + 'DATA\r\n', OK + OK + GO), (HI, OK)]
                      if last else [(envelope('b') + BDAT, OK * 3)])(sock)

        def on_look(client):
            if (client.conversation.unsent and
                    client.conversation.octets_sent > len(first)):
                stuck.set()
            if client.heard.endswith(TOO_BIG.encode()):
                heard.set()
        with served(serve, theirs) as sock:
            client = self.client(ours(sock), dialogue, on_look)
            # The first is over long before its content is through.
            fates = client.run(transaction('a', text=text), transaction('b'))
            client.close()
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


class TestTLS(SessionTestCase):
    def test_many_replies_at_once(self):
        # More than one record holds; the selector knows nothing of what TLS
        # has decrypted already.
        names = [f'x{number}' for number in range(400)]
        ok = '250 ' + 50 * 'x' + '\r\n'
        with served(answering(
                (envelope('a', *names) + 'DATA\r\n', 401 * ok + GO),
                (HI, ok)), tls_server) as sock:
            client = self.client(over_tls(sock))
            fates = client.run(transaction('a', *names))
            client.close()
        self.assertEqual(fates, [400 * ['accepted']])

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
            client = self.client(over_tls(sock))
            with self.assertRaises(ConnectionLost):
                client.run(transaction('a', text=text))
            client.close()
        self.assertEqual(client.fates(), [['not_attempted']])
        sent = sum(map(len, client.sends[1:]))
        self.assertGreaterEqual(sent, got[0])
        self.assertLess(sent, len(content))
        self.assertLessEqual(max(map(len, client.sends)), 16384)


class TestLost(SessionTestCase):
    def lost(self, serve, *transactions, error=ConnectionLost,
             dialogue=None, **kws):
        with served(serve) as sock:
            client = self.client(sock, dialogue, **kws)
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
            client = self.client(sock, Dialogue('PIPELINING'), on_look)
            with self.assertRaisesRegex(ConnectionLost, 'Broken pipe'):
                client.run(transaction('a', text=1024 * LINE))
        self.assertEqual(client.fates(), [['refused']])


class TestForgottenLogin(SessionTestCase):
    """A server that has forgotten that we have authenticated."""

    def test_ends_with_an_error(self):
        pairs = [(envelope('a') + 'DATA\r\n',
                  '502 5.7.0 Please authenticate first.\r\n' + 2 * NO),
                 ('QUIT\r\n', '221 2.0.0 Bye\r\n')]
        with served(answering(*pairs)) as sock:
            client = self.client(
                sock, Dialogue('PIPELINING', authenticated=True))
            with self.assertRaisesRegex(ProtocolError, 'login'):
                client.run(transaction('a'), transaction('b'))
            self.assertEqual(client.fates(), 2 * [['not_attempted']])
            self.assertFalse(client.session.is_alive())


class TestAbort(SessionTestCase):
    """What the server has said by then still counts."""

    def abort(self, replies, *wraps):
        """Abort when the server has said something in reply to BDAT.

        :param replies: What it says, each with a call of its own.
        """
        said = threading.Event()
        ours, theirs = wraps or (lambda sock: sock, None)

        def serve(sock):
            read(sock, len(envelope('a') + BDAT))
            for reply in replies:
                sock.sendall(reply.encode())
            said.set()
            # Until the client closes.
            with suppress(OSError):
                sock.recv(1)

        def on_look(client):
            if client.sends:
                self.assertTrue(said.wait(PATIENCE))
                client.loop.call_soon_threadsafe(client.session.abort)
        with served(serve, theirs) as sock:
            client = self.client(ours(sock), by_bdat(), on_look)
            with self.assertRaisesRegex(ConnectionLost, 'given up'):
                client.run(transaction('a'))
            # Once more does no harm.
            client.session.abort()
            client.close()
        return client.fates()

    def test_nothing_was_said(self):
        self.assertEqual(self.abort([]), [['in_doubt']])

    def test_all_was_said(self):
        self.assertEqual(self.abort([OK, OK, OK]), [['accepted']])

    def test_over_tls(self):
        # Each reply is in a record of its own.
        self.assertEqual(
            self.abort([OK, OK, OK], over_tls, tls_server), [['accepted']])


class Stepwise(SessionTestCase):
    """The server says something whenever the client waits for it."""

    def setUp(self):
        # Not TCP, whose octets are on their way for a while.
        self.sock, self.server = socket.socketpair()
        self.addCleanup(self.server.close)

    def talk(self, dialogue, *sayings, **timeouts):
        """Make a client.

        :param sayings: What the server says, one wait after the other: text,
            or a function to be called in the client's loop.
        """
        turns = iter(sayings)

        def on_look(client):
            saying = next(turns, '')
            if callable(saying):
                client.loop.call_soon_threadsafe(saying)
            elif saying:
                self.server.sendall(saying.encode())
        return self.client(self.sock, dialogue, on_look, 10, **timeouts)


class TestMistakes(Stepwise):
    """What `feed` and `report` raise ends it, and all are reported."""

    class Mistake(Exception):
        pass

    def check(self, client, feed, report=None):
        with self.assertRaises(self.Mistake):
            client.converse(feed, report)
        self.assertTrue(client.conversation.idle)

    def test_report(self):
        for mistakes in (1, 3):
            with self.subTest(mistakes=mistakes):
                self.setUp()
                left = list(range(mistakes))
                taken = list(map(transaction, 'cba'))
                client = self.talk(
                    Dialogue('PIPELINING'), OK + OK + GO, OK)

                def report(outcome):
                    client.outcomes.append(outcome)
                    if left:
                        left.pop()
                        raise self.Mistake
                self.check(client, lambda octets: (
                    taken.pop() if taken else None), report)
                self.assertEqual(taken, [])
                self.assertEqual(client.fates(), [
                    ['accepted'], ['not_attempted'], ['not_attempted']])

    def test_feed(self):
        client = self.talk(by_bdat(), 3 * OK)
        taken = list(map(transaction, 'ba'))

        def feed(octets):
            if not taken:
                raise self.Mistake
            return taken.pop()
        self.check(client, feed)
        self.assertEqual(
            [outcome.transaction.sender[0] for outcome in client.outcomes],
            ['a', 'b'])
        # What it had not sent then is not sent.
        self.assertEqual(client.fates(), [['accepted'], ['not_attempted']])

    def test_one_that_no_future_takes(self):
        def feed(octets):
            raise StopIteration('ant')
        client = self.talk(Dialogue('PIPELINING'))
        with self.assertRaisesRegex(RuntimeError, 'ant'):
            client.converse(feed, None)

    def test_feed_at_once(self):
        def feed(octets):
            raise self.Mistake
        client = self.talk(Dialogue('PIPELINING'))
        self.check(client, feed)
        self.assertEqual(client.sends, [])


class TestCancelled(Stepwise):
    def cancel(self, *sayings, also=lambda client: None):
        """Cancel it in the place of the last saying."""
        waiting = list(map(transaction, 'cba'))

        def cancel():
            also(client)
            task.cancel()
        client = self.talk(Dialogue('PIPELINING'), *sayings, cancel)
        task = client.loop.create_task(client.session.run(
            lambda octets: waiting.pop() if waiting else None,
            client.outcomes.append))
        with self.assertRaises(asyncio.CancelledError):
            client.complete(task)
        self.assertEqual(
            [outcome.transaction.sender[0] for outcome in client.outcomes],
            ['a', 'b', 'c'])
        return client.fates()

    def test_before_anything_was_sent(self):
        self.assertEqual(self.cancel(), 3 * [['not_attempted']])

    def test_in_the_middle(self):
        self.assertEqual(
            self.cancel(OK + OK + GO, OK + OK + OK + GO),
            [['accepted'], ['in_doubt'], ['not_attempted']])

    def test_when_it_has_just_ended(self):
        self.assertEqual(
            self.cancel(OK + OK + GO,
                        also=lambda client: client.session.abort()),
            [['in_doubt'], ['not_attempted'], ['not_attempted']])


class TestWaking(Stepwise):
    """`feed` has nothing yet, and then something."""

    def test_from_within_report(self):
        # What it finds is asked for once `report` has returned.
        waiting, more = [transaction('a')], [transaction('b')]
        reporting = []

        def feed(octets):
            self.assertEqual(reporting, [])
            if waiting:
                return waiting.pop()
            return LATER if len(client.outcomes) < 2 else None

        def report(outcome):
            reporting.append(outcome)
            client.outcomes.append(outcome)
            waiting.extend(more)
            more.clear()
            client.session.wake()
            reporting.pop()
        client = self.talk(Dialogue('PIPELINING'),
                           OK + OK + GO, OK, OK + OK + GO, OK)
        client.converse(feed, report)
        self.assertEqual(client.fates(), 2 * [['accepted']])
        # Not even now is it asked for.
        client.session.wake()
        self.assertTrue(client.session.is_alive())

    def test_with_nothing_to_do(self):
        waiting = [transaction('a')]

        def wake(*given):
            waiting.extend(given)
            client.session.wake()
        client = self.talk(
            Dialogue('PIPELINING'), OK + OK + GO, OK,
            wake, lambda: wake(transaction('b')), OK + OK + GO, OK,
            lambda: wake(None))
        client.converse(lambda octets: waiting.pop() if waiting else LATER)
        self.assertEqual(client.fates(), 2 * [['accepted']])
        self.assertEqual(waiting, [])

    def test_nobody_asks_before(self):
        asked = []

        def feed(octets):
            asked.append(octets)
            return LATER if len(asked) == 1 else None
        client = self.talk(
            Dialogue('PIPELINING'),
            lambda: self.assertEqual(len(asked), 1),
            lambda: client.session.wake())
        client.converse(feed)
        self.assertEqual(len(asked), 2)

    def test_the_server_closes_with_its_answer(self):
        # Nothing was on its way, so nothing is lost.
        for last in ('', '421 4.4.2 Timeout\r\n'):
            with self.subTest(last=last):
                self.setUp()
                waiting = [transaction('a')]

                def report(outcome):
                    client.outcomes.append(outcome)
                    self.server.sendall(last.encode())
                    self.server.shutdown(socket.SHUT_WR)
                client = self.talk(
                    Dialogue('PIPELINING'), OK + OK + GO, OK)
                client.converse(
                    lambda octets: waiting.pop() if waiting else LATER,
                    report)
                self.assertEqual(client.fates(), [['accepted']])
                self.assertFalse(client.session.is_alive())

    def test_the_server_closes_meanwhile(self):
        client = self.talk(
            Dialogue('PIPELINING'), lambda: self.server.close())
        client.converse(lambda octets: LATER)
        self.assertFalse(client.session.is_alive())


class TestStale(Stepwise):
    """A connection that was idle proves itself before content goes."""

    def reuse(self, dialogue, first, *sayings, **timeouts):
        client = self.talk(dialogue, *first, *sayings, **timeouts)
        client.run(transaction('a'))
        client.sends.clear()
        client.outcomes.clear()
        return client

    def test_half_open(self):
        # Its octets go nowhere, and nobody says so.
        for dialogue, first in (
                (by_bdat(), [3 * OK]),
                (Dialogue('PIPELINING'), [OK + OK + GO, OK])):
            with self.subTest(first=first):
                self.setUp()
                client = self.reuse(dialogue, first)
                self.assertTrue(client.session.is_alive())
                with self.assertRaises(PhaseTimeout):
                    client.run(transaction('b'), transaction('c'))
                self.assertEqual(client.fates(), 2 * [['not_attempted']])

    def test_nothing_is_proved_by_a_part(self):
        client = self.reuse(by_bdat(), [3 * OK], OK + OK)
        with self.assertRaises(PhaseTimeout):
            client.run(transaction('b'), transaction('c'))
        self.assertEqual(client.sends, [RESET + envelope('b') + 'DATA\r\n'])
        self.assertEqual(client.fates(), 2 * [['not_attempted']])

    def test_alive(self):
        # Once it has answered, it goes on as before.
        client = self.reuse(
            by_bdat(), [3 * OK], OK + OK + OK + GO, OK + 3 * OK)
        client.run(transaction('b'), transaction('c'))
        self.assertEqual(client.fates(), 2 * [['accepted']])
        self.assertEqual(client.sends, [
            RESET + envelope('b') + 'DATA\r\n',
            HI + envelope('c') + BDAT])

    def test_each_time(self):
        client = self.reuse(by_bdat(), [3 * OK], OK + OK + OK + GO, OK)
        client.run(transaction('b'))
        with self.assertRaises(PhaseTimeout):
            client.run(transaction('c'))
        self.assertEqual(client.fates(), [['accepted'], ['not_attempted']])


class TestBetweenTwoPosts(SessionTestCase):
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
        client = self.client(context.__enter__(), Dialogue('PIPELINING'))
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
            sock.shutdown(socket.SHUT_WR)
            got.append(sock.recv(1))
        client = self.idle(serve)
        self.assertTrue(client.session.is_alive())
        self.assertTrue(client.session.is_alive())
        self.assertTrue(client.quit())
        self.doCleanups()
        self.assertEqual(got, [b'QUIT\r\n', b''])

    def test_the_server_counts_it_until_it_closes(self):
        steps, later = [], threading.Event()

        def serve(sock):
            read(sock, 6)
            sock.sendall(b'221 Bye\r\n')
            # Nobody sets it: so long it has something else to do.
            later.wait(0.1)
            steps.append('closed')
            sock.shutdown(socket.SHUT_WR)
        client = self.idle(serve)
        self.assertTrue(client.quit())
        self.assertEqual(steps, ['closed'])

    def test_the_server_does_not_close(self):
        got = []

        def serve(sock):
            read(sock, 6)
            sock.sendall(b'221 Bye\r\n')
            got.append(sock.recv(1))
        client = self.idle(serve)
        with mock.patch(
                'mailman_mta_pool.connection.session.CLOSE_TIMEOUT', 0.01):
            self.assertTrue(client.quit())
        self.doCleanups()
        self.assertEqual(got, [b''])

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
                self.assertFalse(client.quit())
                self.doCleanups()
                self.assertEqual(b''.join(got), b'')

    def test_begun_to_speak(self):
        # With its last reply came the beginning of another one.
        got = []
        client = self.idle(lambda sock: got.append(sock.recv(1)), OK + '4')
        self.assertFalse(client.session.is_alive())
        client.quit()
        self.doCleanups()
        self.assertEqual(got, [b''])

    def test_in_the_middle_of_one(self):
        # What is going on is broken off without a QUIT.
        got = []

        def serve(sock):
            got.append(read(sock, 1000))
        client = self.idle(serve)
        client.conversation.submit(transaction('b'))
        self.assertFalse(client.quit())
        self.doCleanups()
        self.assertEqual(got, [b''])
