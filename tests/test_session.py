# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a session waits for what."""

import socket
import unittest

from mailman_mta_pool.connection.session import Session
from mailman_mta_pool.connection.smtp.steps import drive_alone
from mailman_mta_pool.errors import PhaseTimeout
from mailman_mta_pool.settings import Timeouts
from mailman_mta_pool.wire.capabilities import Capabilities
from mailman_mta_pool.wire.content import Content
from mailman_mta_pool.wire.conversation import Conversation
from mailman_mta_pool.wire.transaction import Fate, Transaction


PIPELINING = Capabilities([('PIPELINING', ())])
MESSAGE = Transaction(
    'ant-bounces@example.com', ('anne@example.com',), Content(b'Ants.\n'))
GO_AHEAD = b'250 Ok\r\n250 Ok\r\n354 Go ahead\r\n'
ACCEPTED = b'250 Queued\r\n'
# Nothing really waits longer than the shortest of them.
TIMEOUTS = Timeouts(
    mail=300, rcpt=200, data=0.001, block=180, end=600, quit=0.001)


class ClockAndServer:
    """A clock, and a server that speaks whenever somebody looks at it.

    :param times: What the clock tells, one look after the other.
    :param sayings: What the server says at the same looks.
    """

    def __init__(self, times, sayings=()):
        self._times = iter(times)
        self._sayings = iter(sayings)
        self.client, self._server = socket.socketpair()

    def __call__(self):
        self._server.sendall(next(self._sayings, b''))
        return next(self._times)

    def close(self):
        self.client.close()
        self._server.close()

    def received(self):
        """What the client has said so far."""
        return self._server.recv(65536)


class TestPhases(unittest.TestCase):
    def run_session(self, times, sayings=()):
        """Send one message.

        :return: The fates of its recipient, and why the session ended early.
        """
        clock = self.clock = ClockAndServer(times, sayings)
        self.addCleanup(clock.close)
        session = Session(
            clock.client, Conversation(PIPELINING), TIMEOUTS, clock)
        waiting = [(MESSAGE, MESSAGE.recipients)]
        outcomes = []
        error = None
        try:
            drive_alone(session.steps(
                lambda: waiting.pop() if waiting else None, outcomes.append))
        except PhaseTimeout as timeout:
            error = str(timeout)
        outcome, = outcomes
        result, = outcome.results
        return result.fate, error

    def test_each_phase_has_its_own(self):
        fate, error = self.run_session([0, 301])
        self.assertIs(fate, Fate.not_attempted)
        self.assertEqual(error, 'no reply to MAIL within 300 s')

    def test_a_short_one_cuts_no_other(self):
        # The answer to MAIL is late for DATA, but not for MAIL; that to the
        # content likewise.
        fate, error = self.run_session(
            [0, 299, 300, 899], [b'', GO_AHEAD, b'', ACCEPTED])
        self.assertIsNone(error)
        self.assertIs(fate, Fate.accepted)

    def test_a_complete_reply_begins_anew(self):
        fate, error = self.run_session(
            [0, 299, 300, 501], [b'', b'250 Ok\r\n'])
        self.assertIs(fate, Fate.not_attempted)
        self.assertEqual(error, 'no reply to RCPT within 200 s')

    def test_a_trickle_is_no_reply(self):
        fate, error = self.run_session(
            [0, 100, 200, 299, 301], [b'2', b'5', b'0', b'-', b'x'])
        self.assertIs(fate, Fate.not_attempted)
        self.assertEqual(error, 'no reply to MAIL within 300 s')

    def test_the_content_may_have_arrived(self):
        fate, error = self.run_session(
            [0, 1, 601], [GO_AHEAD, b'', b'2'])
        self.assertIs(fate, Fate.in_doubt)
        self.assertEqual(error, 'no reply to END within 600 s')
        self.assertIn(b'\r\nAnts.\r\n.\r\n', self.clock.received())
