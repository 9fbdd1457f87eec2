# SPDX-License-Identifier: GPL-3.0-or-later

"""The connection factories, and the modes of other packages."""

import smtplib
import unittest

from contextlib import contextmanager
from dataclasses import replace
from mailman.app.lifecycle import create_list
from mailman.interfaces.configuration import InvalidConfigurationError
from mailman.interfaces.mta import SomeRecipientsFailed
from mailman.testing.helpers import (
    configuration,
    specialized_message_from_string as mfs,
)
from mailman.testing.layers import ConfigLayer
from mailman_mta_pool.configuration.loading import load
from mailman_mta_pool.connection import (
    SMTPConnection,
    SMTPSConnection,
    STARTTLSConnection,
)
from mailman_mta_pool.connection.foreign import (
    as_transaction_connection,
    OneAtATime,
)
from mailman_mta_pool.deliver import deliver
from mailman_mta_pool.interfaces import (
    IConnection,
    IConnectionFactory,
    ITransactionConnection,
)
from mailman_mta_pool.relays.factories import (
    connection_for,
    factory_for,
    register,
    smtp,
    smtps,
    starttls,
)
from mailman_mta_pool.relays.relay import close_relay
from mailman_mta_pool.settings import RelaySettings
from mailman_mta_pool.wire.content import Content
from mailman_mta_pool.wire.lessons import Lessons
from mailman_mta_pool.wire.transaction import Fate, Stage, Transaction
from tests.scripted import Scripted
from zope.component import getGlobalSiteManager, getUtility, provideUtility
from zope.interface import implementer, provider
from zope.interface.verify import verifyObject


RECIPIENTS = ['anne@example.com', 'bart@example.com', 'cris@example.com']


@contextmanager
def registered(factory, name):
    """Another package's mode, for as long as it is needed."""
    provideUtility(factory, IConnectionFactory, name)
    try:
        yield
    finally:
        getGlobalSiteManager().unregisterUtility(
            factory, IConnectionFactory, name)


class TestFactories(unittest.TestCase):
    layer = ConfigLayer

    def test_interfaces(self):
        for factory in (smtp, smtps, starttls):
            with self.subTest(factory=factory):
                verifyObject(IConnectionFactory, factory)

    def test_registered_by_name(self):
        register()
        # Once more does no harm.
        register()
        for factory in (smtp, smtps, starttls):
            self.assertIs(
                getUtility(IConnectionFactory, factory.__name__), factory)

    def test_what_was_there_before_stays(self):
        getGlobalSiteManager().unregisterUtility(
            smtps, IConnectionFactory, 'smtps')
        with registered(smtp, 'smtps'):
            register()
            self.assertIs(getUtility(IConnectionFactory, 'smtps'), smtp)
        register()
        self.assertIs(getUtility(IConnectionFactory, 'smtps'), smtps)

    def test_registered_on_first_use(self):
        for factory in (smtp, smtps, starttls):
            getGlobalSiteManager().unregisterUtility(
                factory, IConnectionFactory, factory.__name__)
        self.assertIsInstance(
            connection_for(RelaySettings()), SMTPConnection)

    def test_in_any_case(self):
        for mode, kind in (
                ('smtp', SMTPConnection), ('SMTP', SMTPConnection),
                ('Smtps', SMTPSConnection), ('STARTTLS', STARTTLSConnection)):
            with self.subTest(mode=mode), configuration(
                    'mta', smtp_secure_mode=mode, smtp_verify_cert='yes',
                    smtp_verify_hostname='no'):
                connection = connection_for(load().relay)
                self.assertIs(type(connection), kind)
                verifyObject(ITransactionConnection, connection)
                self.assertFalse(connection.is_open)
                if kind is not SMTPConnection:
                    self.assertTrue(connection.verify_cert)
                    self.assertFalse(connection.verify_hostname)

    def test_unknown(self):
        with configuration('mta', smtp_secure_mode='carrier-pigeon'):
            with self.assertRaises(InvalidConfigurationError) as caught:
                factory_for(load().relay)
        self.assertIn('smtp_secure_mode', str(caught.exception))
        self.assertIn('carrier-pigeon', str(caught.exception))
        self.assertIn('smtp, smtps, starttls', str(caught.exception))

    def test_deliver_with_an_unknown_one(self):
        with configuration('mta', smtp_secure_mode='carrier-pigeon'):
            mlist = create_list('ant@example.com')
            with self.assertRaises(SomeRecipientsFailed) as caught:
                deliver(mlist, mfs('Subject: x\n\nx\n'), dict(
                    recipients=set(RECIPIENTS)))
        self.assertEqual(
            set(caught.exception.temporary_failures), set(RECIPIENTS))
        self.assertEqual(caught.exception.permanent_failures, [])
        close_relay()


class TestAnotherMode(unittest.TestCase):
    layer = ConfigLayer

    def setUp(self):
        self.addCleanup(close_relay)

    def test_its_name_may_be_written_in_any_case(self):
        made = []

        @provider(IConnectionFactory)
        def pigeon(relay, lessons):
            made.append((relay, lessons))
            return SMTPConnection(relay.host, relay.port, 0)
        with registered(pigeon, 'pigeon'), configuration(
                'mta', smtp_secure_mode='Pigeon'):
            settings, lessons = load().relay, Lessons()
            connection_for(settings, lessons)
        self.assertEqual(made, [(settings, lessons)])

    def test_one_that_only_knows_sendmail_delivers_a_post(self):
        @implementer(IConnection)
        class Simple:
            """The smallest connection that there can be."""

            def __init__(self, relay):
                self._relay = relay

            def sendmail(self, envsender, recipients, msg):
                with smtplib.SMTP(self._relay.host, self._relay.port) as it:
                    return it.sendmail(envsender, recipients, msg)

            def quit(self):
                quits.append(self)

        @provider(IConnectionFactory)
        def simple(relay, lessons):
            return Simple(relay)
        quits = []

        def script(command, session):
            if command.startswith('RCPT TO:<bart@'):
                return '550 5.1.1 No such user'
        with Scripted(script) as server, registered(simple, 'simple'):
            with server.configured(smtp_secure_mode='simple'):
                with self.assertRaises(Exception) as caught:
                    deliver(create_list('ant@example.com'),
                            mfs('Subject: x\n\nx\n'),
                            dict(recipients=set(RECIPIENTS)))
            close_relay()
            self.assertEqual(
                server.served, ['anne@example.com', 'cris@example.com'])
        self.assertEqual(caught.exception.temporary_failures, [])
        self.assertEqual(caught.exception.permanent_failures, [
            ('bart@example.com', 550, b'5.1.1 No such user')])
        self.assertEqual(len(quits), 1)


class TestOneAtATime(unittest.TestCase):
    layer = ConfigLayer

    def send(self, answer, count=1):
        """What becomes of transactions that such a connection sends."""
        @implementer(IConnection)
        class Fake:
            def sendmail(self, envsender, recipients, msg):
                self.got = envsender, recipients, msg
                if isinstance(answer, Exception):
                    raise answer
                return answer

            def quit(self):
                pass
        self.fake = Fake()
        connection = as_transaction_connection(self.fake)
        self.assertIsInstance(connection, OneAtATime)
        waiting = [
            Transaction('ant@example.com', tuple(RECIPIENTS), Content(b'x'))
            for _ in range(count)]
        outcomes = []
        connection.open()
        connection.converse(
            lambda: waiting.pop() if waiting else None, outcomes.append)
        self.assertEqual(len(outcomes), count)
        return outcomes[0]

    def test_interface(self):
        outcome = self.send({})
        connection = as_transaction_connection(self.fake)
        verifyObject(ITransactionConnection, connection)
        self.assertIs(as_transaction_connection(connection), connection)
        self.assertIn('Fake', repr(connection))
        self.assertEqual(outcome.having(Fate.accepted), tuple(RECIPIENTS))
        self.assertEqual(
            self.fake.got, ('ant@example.com', RECIPIENTS, b'x\r\n'))

    def test_all_that_is_fed_is_sent(self):
        self.send({}, count=5)

    def test_some_refused(self):
        outcome = self.send({'bart@example.com': (450, 'Later')})
        self.assertEqual(
            outcome.having(Fate.refused), ('bart@example.com',))
        self.assertEqual(outcome.results[1].reply.code, 450)
        self.assertEqual(outcome.results[1].reply.text, b'Later')

    def test_whom_smtplib_forgets_is_not_lost(self):
        # What smtplib raises when the second RCPT is answered with a 421.
        outcome = self.send(smtplib.SMTPRecipientsRefused(
            {'bart@example.com': (421, b'Bye')}))
        self.assertEqual(outcome.having(Fate.accepted), ())
        self.assertEqual(
            outcome.having(Fate.not_attempted),
            ('anne@example.com', 'cris@example.com'))

    def test_refused_as_a_whole(self):
        for error, stage in (
                (smtplib.SMTPSenderRefused(550, b'No', 'ant'), Stage.mail),
                (smtplib.SMTPDataError(554, b'No'), Stage.end)):
            outcome = self.send(error)
            self.assertEqual(
                outcome.having(Fate.refused), tuple(RECIPIENTS))
            self.assertEqual({each.stage for each in outcome.results},
                             {stage})

    def test_lost(self):
        for error in (smtplib.SMTPServerDisconnected('gone'),
                      ConnectionResetError(), TimeoutError()):
            outcome = self.send(error)
            self.assertEqual(
                outcome.having(Fate.in_doubt), tuple(RECIPIENTS))

    def test_devmode(self):
        with configuration('devmode', enabled='yes',
                           recipient='zperson@example.com'):
            outcome = self.send(
                {'zperson@example.com': (550, b'No such user')})
        self.assertEqual(self.fake.got[1], ['zperson@example.com'] * 3)
        # Nobody of these was served.
        self.assertEqual(outcome.having(Fate.accepted), ())

    def test_neither(self):
        with self.assertRaises(TypeError):
            as_transaction_connection(object())

    def test_settings_reach_it(self):
        relay = replace(
            RelaySettings(), max_sessions_per_connection=7, port=2525)
        self.assertIn(':2525 ', repr(connection_for(relay)))
