# SPDX-License-Identifier: GPL-3.0-or-later
"""What belongs to the network thread is left to it, in whole deliveries."""

import os
import time
import signal
import unittest

from contextlib import ExitStack
from mailman.app.lifecycle import create_list
from mailman.interfaces.mta import SomeRecipientsFailed
from mailman.testing.helpers import (
    configuration,
    get_queue_messages,
    specialized_message_from_string as mfs,
)
from mailman.testing.layers import ConfigLayer
from mailman_mta_pool.connection import SMTPConnection
from mailman_mta_pool.deliver import deliver
from mailman_mta_pool.relays.pool import Pool
from mailman_mta_pool.relays.relay import close_relays
from mailman_mta_pool.settings import PoolSettings
from mailman_mta_pool.wire.lessons import Lessons
from tempfile import TemporaryDirectory
from tests.owned import loop_owned, OWNED
from tests.scripted import CLOSE, Scripted


RECIPIENTS = [f'member-{number:03}@example.com' for number in range(100)]
POST = """\
From: anne@example.com
To: ant@example.com
Subject: A post
Message-ID: <ant>

Ants.
"""
# Before each reply, in seconds: the post takes longer than a look at the turn.
DELAY = 0.02
BY_BDAT = ('PIPELINING', 'CHUNKING', 'XVERP')


class TestWatch(unittest.TestCase):
    """The watch sees what it is there to see."""

    def check(self, name, touch):
        with self.assertRaisesRegex(AssertionError, name):
            with loop_owned():
                touch()

    def test_a_method(self):
        pool = Pool(lambda: None, PoolSettings())
        self.check('Pool.close_idle', lambda: pool.close_idle())

    def test_a_property(self):
        lessons = Lessons(time.monotonic)
        self.check('Lessons.pipelining', lambda: lessons.pipelining)

    def test_what_is_allowed(self):
        pool = Pool(lambda: None, PoolSettings())
        with loop_owned() as watch:
            pool.statistics()
        self.assertEqual(watch.inside, set())

    def test_afterwards(self):
        with loop_owned():
            pass
        Pool(lambda: None, PoolSettings()).close_idle()


class TestDeliveries(unittest.TestCase):
    layer = ConfigLayer

    def setUp(self):
        self.settings = ExitStack()
        self.addCleanup(self.settings.close)
        self.addCleanup(close_relays)
        self.mlist = create_list('ant@example.com')

    def deliver(self, script, settings='', verp=True, delay=0):
        """Deliver over four connections, and close them.

        :return: What the server has served, and who waits in the queue.
        """
        path = os.path.join(
            self.settings.enter_context(TemporaryDirectory()), 'pool.cfg')
        with open(path, 'w') as fp:
            fp.write(f'[delivery]\npatience: 0\n{settings}')
        self.settings.enter_context(configuration(
            'plugin.mta_pool',
            **{'class': 'mailman_mta_pool.plugin.MTAPoolPlugin'},
            enabled='yes', component_package='mailman_mta_pool',
            configuration=path))
        with Scripted(
                script, extensions=BY_BDAT, delay=delay) as server:
            with server.configured(max_delivery_threads=4, max_recipients=5):
                with loop_owned() as watch:
                    try:
                        deliver(self.mlist, mfs(POST), dict(
                            recipients=list(RECIPIENTS), verp=verp,
                            listid='ant.example.com'))
                    except SomeRecipientsFailed as failed:
                        self.failed = failed
                    close_relays()
        # It has seen all of them at work.
        self.assertEqual(
            {name.partition('.')[0] for name in watch.inside},
            {kind.__name__ for kind in OWNED})
        waiting = [recipient for item in get_queue_messages('out')
                   for recipient in item.msgdata['recipients']]
        return server.served, waiting

    def assertEachOnce(self, *parts):
        self.assertEqual(sorted(sum(parts, [])), RECIPIENTS)

    def test_all_goes_well(self):
        for verp in (False, True):
            with self.subTest(verp=verp):
                served, waiting = self.deliver(
                    lambda command, session: None, verp=verp)
                self.assertEachOnce(served)

    def test_not_all_goes_well(self):
        # One is refused, and the server does not make the senders.
        def script(command, session):
            if 'XVERP' in command:
                return '555 5.5.4 What?'
            if command.startswith('RCPT TO:<member-007@'):
                return '550 5.1.1 Who?'
        served, waiting = self.deliver(script)
        self.assertEqual(waiting, [])
        self.assertEqual(self.failed.temporary_failures, [])
        self.assertEachOnce(served, [
            each[0] for each in self.failed.permanent_failures])

    def test_hanging_up(self):
        # Whoever is in doubt may have been served.
        def script(command, session):
            if command.startswith('MAIL'):
                session.mails = getattr(session, 'mails', 0) + 1
                if session.mails > 5:
                    return CLOSE
        served, waiting = self.deliver(script, 'server_verp: no\n')
        self.assertEqual(len(served), len(set(served)))

    def test_time_slice(self):
        served, waiting = self.deliver(
            lambda command, session: None,
            'server_verp: no\ntime_slice: 0.001s\n', delay=DELAY)
        self.assertNotEqual(waiting, [])
        self.assertEachOnce(served, waiting)

    def test_signal(self):
        caught, answered = [], []
        former = signal.signal(
            signal.SIGUSR1, lambda *args: caught.append(args))
        self.addCleanup(signal.signal, signal.SIGUSR1, former)

        def script(command, session):
            if command.startswith('RCPT'):
                answered.append(command)
                if len(answered) == 5:
                    os.kill(os.getpid(), signal.SIGUSR1)
        served, waiting = self.deliver(
            script, 'server_verp: no\n', delay=DELAY)
        self.assertEqual(len(caught), 1)
        self.assertNotEqual(waiting, [])
        self.assertEachOnce(served, waiting)


class TestAlone(unittest.TestCase):
    layer = ConfigLayer

    def test_a_connection_in_any_thread(self):
        with Scripted() as server, loop_owned() as watch:
            connection = SMTPConnection(server.host, server.port, 0)
            self.assertEqual(connection.sendmail(
                'ant@example.com', ['anne@example.com'], b'x'), {})
            connection.quit()
        self.assertIn('Session.quit', watch.inside)
