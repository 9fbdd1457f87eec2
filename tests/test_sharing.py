# SPDX-License-Identifier: GPL-3.0-or-later

"""How the transactions of a post are shared among its connections."""

import unittest
import threading

from contextlib import suppress
from itertools import count
from mailman.testing.layers import ConfigLayer
from mailman_mta_pool.dispatch.outbound import Outbound
from mailman_mta_pool.errors import NothingMoreToSend
from mailman_mta_pool.network.border import border
from mailman_mta_pool.relays.relay import Relay
from mailman_mta_pool.settings import (
    DeliverySettings,
    PoolSettings,
    RelaySettings,
)
from mailman_mta_pool.settlement.ledger import Ledger
from mailman_mta_pool.wire.content import Content
from mailman_mta_pool.wire.lessons import Chunking
from mailman_mta_pool.wire.transaction import Transaction
from tests.scripted import CLOSE, Scripted


CONNECTIONS = 4
PATIENCE = 20
CONTENT = Content(b'Subject: x\r\n\r\nx\r\n')
BY_BDAT = ('PIPELINING', 'CHUNKING')


def transaction(name, recipients=1):
    return Transaction(
        f'{name}@example.com',
        tuple(f'{name}-{number}@example.org' for number in range(recipients)),
        CONTENT)


class SharingTestCase(unittest.TestCase):
    layer = ConfigLayer

    def use(self, server, connections=CONNECTIONS, idle_timeout=10,
            **delivery):
        """Make a dispatch to a server.

        :ivar relay: The relay.
        :ivar ledger: What has become of the recipients.
        """
        self.relay = Relay(
            RelaySettings(host=server.host, port=server.port),
            PoolSettings(
                max_connections=connections, idle_timeout=idle_timeout))
        self.addCleanup(border.call, self.relay.pool.close)
        return self.another(**delivery)

    def another(self, **delivery):
        self.ledger = Ledger(relays=[self.relay])
        # A second passes whenever it looks, so nothing waits for more to come.
        dispatch = Outbound(
            [self.relay], DeliverySettings(**{'patience': 0, **delivery}),
            self.ledger, clock=count().__next__)
        self.addCleanup(dispatch.close)
        return dispatch

    def meet(self, dispatch):
        """Have the server greeted, before anything is sent to it."""
        self.assertFalse(dispatch.makes_senders)


class TestExpecting(SharingTestCase):
    def test_too_late_to_be_of_use(self):
        over = threading.Event()

        def script(command, session):
            if command == 'CONNECT' and session.number == 2:
                over.wait(PATIENCE)
        with Scripted(script) as server:
            dispatch = self.use(server, connections=2, idle_timeout=0)
            self.meet(dispatch)
            dispatch.expect(2)
            server.wait_for(lambda server: server.connections == 2)
            dispatch.submit(transaction('a'))
            dispatch.finish()
            over.set()
            # Nobody else would close it before the next post.
            server.wait_for(lambda server: not server.open)
            self.assertEqual(len(server.said('QUIT')), 2)

    def test_they_open_while_the_first_is_made(self):
        with Scripted() as server:
            dispatch = self.use(server)
            self.meet(dispatch)
            dispatch.expect(3)
            server.wait_for(lambda server: len(server.said('EHLO')) == 3)
            self.assertEqual(server.said('MAIL'), [])
            dispatch.submit(transaction('a'))
            dispatch.finish()
            self.assertEqual(server.served, ['a-0@example.org'])
            self.assertEqual(server.connections, 3)

    def test_whoever_cannot_open_goes_on_trying(self):
        # Though there is nothing to send yet, the main thread waits for it.
        def script(command, session):
            if command == 'CONNECT' and session.number == 1:
                return '421 4.3.2 Not yet'
        with Scripted(script) as server:
            dispatch = self.use(server, patience=1000)
            self.meet(dispatch)
            self.assertEqual(server.connections, 2)
            dispatch.submit(transaction('a'))
            dispatch.finish()
            self.assertEqual(server.served, ['a-0@example.org'])

    def test_one_is_enough_for_one(self):
        ready = threading.Event()

        def script(command, session):
            if command == 'CONNECT':
                ready.wait(PATIENCE)
        with Scripted(script) as server:
            dispatch = self.use(server)
            dispatch.expect(1)
            # It is made before the server has said who it is.
            dispatch.submit(transaction('a'))
            ready.set()
            dispatch.finish()
            self.assertEqual(server.served, ['a-0@example.org'])
            self.assertEqual(server.connections, 1)

    def test_no_more_than_there_may_be(self):
        with Scripted() as server:
            dispatch = self.use(server)
            self.meet(dispatch)
            dispatch.expect(1000)
            server.wait_for(
                lambda server: len(server.said('EHLO')) == CONNECTIONS)
            dispatch.finish()
            self.assertEqual(server.connections, CONNECTIONS)

    def test_one_of_a_server_that_was_never_reached(self):
        # A wrong password is refused once, and not once for each connection.
        def script(command, session):
            if command == 'CONNECT':
                return '554 5.7.1 Not you'
        with Scripted(script) as server:
            dispatch = self.use(server)
            dispatch.expect(1000)
            # Whether it has been refused by now or not.
            with suppress(NothingMoreToSend):
                dispatch.submit(transaction('a'))
            dispatch.finish()
            self.assertEqual(server.connections, 1)
        self.assertIsNotNone(dispatch.unavailable)


class TestLargeOnes(SharingTestCase):
    def check(self, extensions):
        """Each connection gets one, though it could take several."""
        everywhere = threading.Event()
        busy = set()

        def script(command, session):
            if command.startswith('RCPT'):
                busy.add(session.number)
                if len(busy) == CONNECTIONS:
                    everywhere.set()
                self.assertTrue(everywhere.wait(PATIENCE))
        with Scripted(script, extensions=extensions) as server:
            dispatch = self.use(server)
            self.relay.lessons.learn_chunking(Chunking.proved)
            for name in 'abcd':
                dispatch.submit(transaction(name, 100))
            dispatch.finish()
            self.assertEqual(len(server.served), 400)
            self.assertEqual(server.connections, CONNECTIONS)

    def test_by_bdat(self):
        self.check(BY_BDAT)

    def test_by_data(self):
        self.check(BY_BDAT[:1])


class TestNothingToDo(SharingTestCase):
    """A connection stays where it is until there is more to send."""

    def send(self, dispatch, server, name):
        dispatch.submit(transaction(name))
        server.wait_for(lambda server: f'{name}-0@example.org' in
                        server.served)

    def test_it_goes_on(self):
        with Scripted() as server:
            dispatch = self.use(server, connections=1)
            for name in 'abc':
                self.send(dispatch, server, name)
            dispatch.finish()
            self.assertEqual(len(server.served), 3)
        statistics = self.relay.pool.statistics()
        self.assertEqual((statistics.opened, statistics.reused), (1, 0))

    def test_the_server_closes_it(self):
        with Scripted() as server:
            dispatch = self.use(server, connections=1, attempts=1)
            self.send(dispatch, server, 'a')
            server.drop_connections()
            server.wait_for(lambda server: not server.open)
            self.send(dispatch, server, 'b')
            dispatch.finish()
            # Nothing was on its way, so nothing is in doubt or counted.
            self.assertEqual(self.ledger.failures, {})
            self.assertEqual(len(server.served), 2)
            self.assertEqual(server.connections, 2)

    def test_the_server_says_421(self):
        sessions = []

        def script(command, session):
            if command == 'CONNECT':
                sessions.append(session)
        with Scripted(script) as server:
            dispatch = self.use(server, connections=1, attempts=1)
            self.send(dispatch, server, 'a')
            sessions[0].say(b'421 4.4.2 Timeout\r\n')
            self.send(dispatch, server, 'b')
            dispatch.finish()
            self.assertEqual(self.ledger.failures, {})
            self.assertEqual(len(server.served), 2)

    def test_the_next_post(self):
        with Scripted() as server:
            dispatch = self.use(server, connections=1)
            self.send(dispatch, server, 'a')
            dispatch.finish()
            self.send(self.another(), server, 'b')
        self.assertEqual(self.relay.pool.statistics().opened, 1)

    def test_it_is_abandoned(self):
        with Scripted() as server:
            dispatch = self.use(server, connections=1)
            self.send(dispatch, server, 'a')
            dispatch.close()
            self.assertTrue(border.wait(
                lambda: self.relay.pool.statistics().in_use == 0, PATIENCE))


class TestHangingUp(SharingTestCase):
    """The server bears fewer connections, or messages, than we would have."""

    def send(self, server, count, **how):
        dispatch = self.use(server, **how)
        for number in range(count):
            dispatch.submit(transaction(f'{number:03}'))
        dispatch.finish()
        self.assertEqual(self.ledger.failures, {})
        self.assertEqual(
            sorted(server.served),
            [f'{number:03}-0@example.org' for number in range(count)])
        return dispatch

    def test_fewer_connections_than_wanted(self):
        def script(command, session):
            if command == 'CONNECT' and session.number > 2:
                return '421 4.7.0 Too many connections'
        with Scripted(script) as server:
            dispatch = self.send(server, 200, connections=8)
        self.assertIsNone(dispatch.unavailable)

    def test_connections_that_last_for_three_messages(self):
        def script(command, session):
            if command.startswith('MAIL'):
                session.mails = getattr(session, 'mails', 0) + 1
                if session.mails > 3:
                    return CLOSE
        with Scripted(script) as server:
            self.send(server, 60, connections=2)
