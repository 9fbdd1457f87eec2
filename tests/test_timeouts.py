# SPDX-License-Identifier: GPL-3.0-or-later
"""No phase without a deadline, however slowly the octets trickle in.

The clock is wound by the test: each time that the loop is about to wait, time
goes on, and the server has said one octet more.  So no wait is a long one.
"""

import socket
import unittest

from mailman_mta_pool.errors import ConnectionLost, PhaseTimeout
from mailman_mta_pool.wire.lessons import Chunking
from mailman_mta_pool.wire.outbox import BLOCK
from tests.peer import Client, PATIENCE, read
from tests.wire.dialogue import Dialogue, envelope, GO, NO, OK, transaction


#: All different, so that one cannot be taken for another.
TIMEOUTS = {'mail': 310, 'rcpt': 320, 'data': 130, 'block': 180, 'end': 600}
STEP = 7
#: What the pipelining client says, in groups.
BEGIN = envelope('a', 'x', 'y') + 'DATA\r\n'
#: Octets of a reply that never ends.
TRICKLE = b'250-' + 1000 * b'x'


class Wound(unittest.TestCase):
    """A client whose clock goes on at each look."""

    def setUp(self):
        # Not TCP, whose timers know nothing of this clock.
        self.sock, self.server = socket.socketpair()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.server.settimeout(PATIENCE)
        self.addCleanup(self.server.close)
        self.addCleanup(self.sock.close)
        self.trickle = iter(TRICKLE)

    def say(self, octets):
        self.server.sendall(octets.encode())

    def say_more(self, client):
        """The server says the next octet."""
        self.server.sendall(bytes([next(self.trickle)]))

    def client(self, dialogue, on_look, **kws):
        client = Client(self.sock, dialogue, on_look,
                        **{**TIMEOUTS, 'step': STEP, **kws})
        self.addCleanup(client.close)
        return client

    def too_late(self, client, *transactions):
        """Run it into the deadline, and return what was said and when."""
        with self.assertRaises(PhaseTimeout) as caught:
            client.run(*transactions or [transaction('a', 'x', 'y')])
        self.assertIsInstance(caught.exception, ConnectionLost)
        self.assertIsInstance(caught.exception, TimeoutError)
        return str(caught.exception)


class TestReplies(Wound):
    """The server is slow to answer."""

    def check(self, phase, replies, fates, dialogue=None):
        """Answer some, and then with a trickle that never ends.

        :param replies: What the server says at each look at the clock.
        """
        replies = iter(replies)

        def on_look(client):
            reply = next(replies, None)
            if reply is None:
                self.say_more(client)
            else:
                since.append(client.now + STEP)
                self.say(reply)
        since = [0]
        client = self.client(
            dialogue or Dialogue('PIPELINING'), on_look)
        text = self.too_late(client)
        self.assertEqual(text, 'no reply to {} within {} s'.format(
            phase.upper(), TIMEOUTS[phase]))
        self.assertEqual(client.fates(), [fates])
        # It is later than the deadline, but was not at the last look.
        late = client.now - since[-1]
        self.assertGreaterEqual(late, TIMEOUTS[phase])
        self.assertLess(late, TIMEOUTS[phase] + STEP)

    def test_mail(self):
        self.check('mail', [], ['not_attempted'] * 2)

    def test_rcpt(self):
        self.check('rcpt', [OK], ['not_attempted'] * 2)
        self.setUp()
        self.check('rcpt', [OK, NO], ['refused', 'not_attempted'])

    def test_data(self):
        self.check('data', [OK, OK + NO], ['not_attempted', 'refused'])

    def test_end(self):
        self.check('end', [OK, OK + NO + GO], ['in_doubt', 'refused'])

    def test_plain(self):
        self.check('mail', [], ['not_attempted'] * 2, Dialogue())
        for replies, phase in (
                ([OK], 'rcpt'), ([OK, OK], 'rcpt'), ([OK, OK, NO], 'data')):
            with self.subTest(replies=replies):
                self.setUp()
                fates = ['not_attempted'] * 2
                if phase == 'data':
                    fates[1] = 'refused'
                self.check(phase, replies, fates, Dialogue())
        self.setUp()
        self.check('end', [OK, OK, OK, GO], ['in_doubt'] * 2, Dialogue())

    def test_chunks(self):
        dialogue = Dialogue(
            'PIPELINING', 'CHUNKING', known=Chunking.proved)
        self.check('mail', [], ['in_doubt'] * 2, dialogue)
        self.setUp()
        dialogue = Dialogue(
            'PIPELINING', 'CHUNKING', known=Chunking.proved)
        self.check('end', [OK + OK + NO], ['in_doubt', 'refused'], dialogue)

    def test_slow_but_steady(self):
        # One reply at a time, each just within its time.
        replies = iter([OK, OK, NO, GO, OK])
        client = self.client(
            Dialogue('PIPELINING'), lambda client: self.say(next(replies)),
            step=129)
        self.assertEqual(client.run(transaction('a', 'x', 'y')),
                         [['accepted', 'refused']])
        self.assertGreater(client.now, TIMEOUTS['mail'])

    def test_a_short_one_cuts_no_other(self):
        # MAIL and the content are answered late for DATA, not for themselves.
        replies = iter(['', '', OK + OK + NO + GO, '', '', '', '', OK])
        client = self.client(
            Dialogue('PIPELINING'), lambda client: self.say(next(replies)),
            step=100, data=1)
        self.assertEqual(client.run(transaction('a', 'x', 'y')),
                         [['accepted', 'refused']])
        self.assertEqual(client.now, 800)

    def test_silence(self):
        # With the real clock: no octet comes, and nothing else wakes it.
        for phase, replies in (('mail', ''), ('rcpt', OK),
                               ('data', OK + OK + OK),
                               ('end', OK + OK + OK + GO)):
            with self.subTest(phase=phase):
                self.setUp()
                self.say(replies)
                client = self.client(Dialogue('PIPELINING'), None,
                                     **{'step': None, phase: 0.01})
                self.assertEqual(
                    self.too_late(client),
                    f'no reply to {phase.upper()} within 0.01 s')
                self.assertEqual(read(self.server, len(BEGIN)),
                                 BEGIN.encode())

    def test_quit(self):
        # The server does not answer.
        client = self.client(
            Dialogue('PIPELINING'), None, quit=5, step=1)
        client.quit()
        self.assertEqual(client.now, 5)
        self.assertEqual(read(self.server, 100), b'QUIT\r\n')
        # Not even to a second one.
        client.quit()


class TestContent(Wound):
    """The server is slow to take the content, or does not take it at all."""

    TEXT = 3 * BLOCK // 64 * (63 * 'x' + '\n')

    def sending(self, on_look, **kws):
        """Return a client that is to send its content from the third look."""
        def look(client):
            if client.looks <= 2:
                self.say((OK + OK, NO + GO)[client.looks - 1])
            else:
                on_look(client)
        return self.client(Dialogue('PIPELINING'), look, **kws)

    def check(self, on_look, **kws):
        client = self.sending(on_look, **kws)
        text = self.too_late(
            client, transaction('a', 'x', 'y', text=self.TEXT))
        self.assertEqual(
            text, 'the server took no more octets within 180 s')
        self.assertEqual(client.fates(), [['not_attempted', 'refused']])
        self.assertLess(client.conversation.octets_sent, BLOCK)
        self.assertLess(client.now, TIMEOUTS['block'] + 5 * STEP)

    def test_not_taken(self):
        self.check(self.say_more)

    def test_taken_drop_by_drop(self):
        # That is progress, but not enough: a block has to get through.
        def on_look(client):
            taken.append(len(self.server.recv(1000)))
            self.say_more(client)
        taken = []
        self.check(on_look, step=1)
        self.assertGreater(sum(taken), BLOCK // 2)

    def test_taken_block_by_block(self):
        # That is slow, but no reason to give up.
        def on_look(client):
            taken.append(len(self.server.recv(2500)))
            if client.conversation.unsent:
                self.say_more(client)
            else:
                self.say('\r\n' + OK)
        taken = []
        client = self.sending(on_look, step=1)
        self.assertEqual(
            client.run(transaction('a', 'x', 'y', text=self.TEXT)),
            [['accepted', 'refused']])
        self.assertGreater(client.now, TIMEOUTS['block'] + 5 * STEP)
        self.assertGreater(sum(taken), 3 * BLOCK // 2)
