# SPDX-License-Identifier: GPL-3.0-or-later

"""The connection factories, and the modes of other packages."""

import os
import ssl
import time
import errno
import socket
import asyncio
import smtplib
import unittest
import threading

from contextlib import contextmanager, ExitStack, suppress
from dataclasses import replace
from mailman.app.lifecycle import create_list
from mailman.interfaces.configuration import InvalidConfigurationError
from mailman.interfaces.listmanager import IListManager
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
    ForeignConnection,
)
from mailman_mta_pool.deliver import deliver
from mailman_mta_pool.errors import (
    CertificateRefused,
    ConnectionLost,
    PhaseTimeout,
    RelayUnavailable,
    UnavailableHere,
)
from mailman_mta_pool.interfaces import (
    IConnection,
    IConnectionFactory,
    ITransactionConnection,
    LATER,
)
from mailman_mta_pool.relays.factories import (
    connection_for,
    factory_for,
    register,
    smtp,
    smtps,
    starttls,
)
from mailman_mta_pool.relays.relay import close_relays
from mailman_mta_pool.settings import RelaySettings, TLSSettings, WireSettings
from mailman_mta_pool.wire.content import Content
from mailman_mta_pool.wire.lessons import Lessons
from mailman_mta_pool.wire.transaction import Fate, Stage, Transaction
from tempfile import TemporaryDirectory
from tests.scripted import CLOSE, Scripted
from zope.component import getGlobalSiteManager, getUtility, provideUtility
from zope.interface import classImplements, implementer, provider
from zope.interface.verify import verifyObject


PATIENCE = 20
RELAY = 'relay.example.net:25'
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
        close_relays()


class TestAnotherMode(unittest.TestCase):
    layer = ConfigLayer

    def setUp(self):
        self.addCleanup(close_relays)

    def test_its_name_may_be_written_in_any_case(self):
        made = []

        @provider(IConnectionFactory)
        def pigeon(relay, lessons):
            made.append((relay, lessons))
            return SMTPConnection(relay.host, relay.port, 0)
        with registered(pigeon, 'pigeon'), configuration(
                'mta', smtp_secure_mode='Pigeon'):
            settings, lessons = load().relay, Lessons(time.monotonic)
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
            close_relays()
            self.assertEqual(
                server.served, ['anne@example.com', 'cris@example.com'])
        self.assertEqual(caught.exception.temporary_failures, [])
        self.assertEqual(caught.exception.permanent_failures, [
            ('bart@example.com', 550, b'5.1.1 No such user')])
        self.assertEqual(len(quits), 1)


class Fake:
    """A connection that knows `sendmail` and `quit`, and nothing else.

    :param answer: What `sendmail` returns, raises, or gets from a call.
    """

    def __init__(self, answer):
        self._answer = answer
        self.threads = set()
        self.quits = 0

    def sendmail(self, envsender, recipients, msg):
        self.threads.add(threading.current_thread())
        self.got = envsender, recipients, msg
        answer = self._answer() if callable(self._answer) else self._answer
        if isinstance(answer, Exception):
            raise answer
        return answer

    def quit(self):
        self.threads.add(threading.current_thread())
        self.quits += 1


classImplements(Fake, IConnection)


def not_encoded(text):
    """Return the error of an attempt to encode some text in ASCII."""
    try:
        text.encode('ascii')
    except UnicodeEncodeError as error:
        return error


class TestForeignConnection(unittest.TestCase):
    layer = ConfigLayer

    def setUp(self):
        self.outcomes = []

    def make(self, answer):
        self.fake = Fake(answer)
        connection = as_transaction_connection(self.fake, RELAY)
        self.assertIsInstance(connection, ForeignConnection)
        self.connection = connection

    def send(self, answer, count=1, recipients=RECIPIENTS,
             sender='ant@example.com', feed=None):
        """Return what becomes of a transaction that it sends."""
        self.make(answer)
        waiting = [Transaction(sender, tuple(recipients), Content(b'x'))
                   for _ in range(count)]

        async def converse():
            self.assertFalse(self.connection.is_open)
            await self.connection.open()
            self.assertTrue(self.connection.is_alive())
            try:
                await self.connection.converse(
                    feed or (lambda octets: waiting.pop() if waiting
                             else None), self.outcomes.append)
            finally:
                self.is_still_open = self.connection.is_open
                await self.connection.disconnect()
        asyncio.run(converse())
        self.assertEqual(len(self.outcomes), count)
        return self.outcomes.pop()

    def send_in_vain(self, answer, kind, **kws):
        """Return what becomes of it, and the error of the given kind."""
        with self.assertRaises(kind) as caught:
            self.send(answer, **kws)
        self.assertIs(type(caught.exception), kind)
        self.assertFalse(self.is_still_open)
        outcome, = self.outcomes
        self.outcomes.clear()
        return outcome, caught.exception

    def test_interface(self):
        outcome = self.send({})
        connection = as_transaction_connection(self.fake, RELAY)
        verifyObject(ITransactionConnection, connection)
        self.assertIs(
            as_transaction_connection(connection, RELAY), connection)
        self.assertIn('Fake', repr(connection))
        self.assertEqual(outcome.having(Fate.accepted), tuple(RECIPIENTS))
        self.assertEqual(
            self.fake.got, ('ant@example.com', RECIPIENTS, b'x\r\n'))

    def test_all_that_is_fed_is_sent(self):
        self.send({}, count=5)
        self.assertTrue(self.is_still_open)

    def test_it_cannot_ask(self):
        question = Transaction(
            'ant@example.com', tuple(RECIPIENTS), Content(b''), asks=True)
        waiting = [question]
        outcome = self.send(
            {}, feed=lambda octets: waiting.pop() if waiting else None)
        self.assertEqual(
            outcome.alike, (Fate.not_attempted, Stage.connect, None))
        self.assertIs(outcome.transaction, question)
        self.assertFalse(hasattr(self.fake, 'got'))

    def test_spans(self):
        last = self.send({}, count=2).span
        # `send` leaves the first one there.
        first = self.outcomes.pop().span
        self.assertEqual(first.session, last.session)
        self.assertTrue(first.precedes(last))
        self.assertFalse(last.precedes(first))
        self.assertLess(last.begun, last.ended)
        other = self.send({}).span
        self.assertNotEqual(other.session, last.session)
        self.assertTrue(last.precedes(other))

    def test_a_thread_of_its_own(self):
        self.send({}, count=5)
        self.assertEqual(self.fake.quits, 1)
        # It may be another one each time.
        self.assertTrue(self.fake.threads)
        self.assertNotIn(threading.current_thread(), self.fake.threads)

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
        for error, kind in (
                (smtplib.SMTPServerDisconnected('gone'), ConnectionLost),
                (ConnectionResetError(), ConnectionLost),
                (TimeoutError(), PhaseTimeout),
                (socket.timeout('timed out'), PhaseTimeout)):
            with self.subTest(error=error):
                outcome, _ = self.send_in_vain(error, kind)
                self.assertEqual(
                    outcome.having(Fate.in_doubt), tuple(RECIPIENTS))

    def test_the_relay_cannot_be_used(self):
        for error, phase, code, waiting_helps in (
                (ConnectionRefusedError(errno.ECONNREFUSED, 'No'),
                 'connect', None, True),
                (OSError(errno.EHOSTUNREACH, 'No way'), 'connect', None, True),
                (socket.gaierror(socket.EAI_NONAME, 'Who?'),
                 'connect', None, True),
                (smtplib.SMTPConnectError(554, b'No'), 'greeting', 554, True),
                (smtplib.SMTPHeloError(504, b'No'), 'EHLO', 504, True),
                (smtplib.SMTPAuthenticationError(454, b'Later'),
                 'AUTH', 454, True),
                (smtplib.SMTPAuthenticationError(535, b'No'),
                 'AUTH', 535, False),
                (smtplib.SMTPNotSupportedError('No AUTH'),
                 'AUTH', None, False),
                (ssl.SSLCertVerificationError('self-signed'),
                 'TLS', None, False)):
            with self.subTest(error=error):
                outcome, unavailable = self.send_in_vain(
                    error, RelayUnavailable)
                self.assertEqual(
                    outcome.having(Fate.not_attempted), tuple(RECIPIENTS))
                self.assertEqual(
                    (unavailable.relay, unavailable.phase, unavailable.code,
                     unavailable.waiting_helps),
                    (RELAY, phase, code, waiting_helps))

    def test_one_that_knows_our_errors(self):
        error = CertificateRefused(RELAY, 'TLS', 'self-signed')
        self.assertIs(self.send_in_vain(error, CertificateRefused)[1], error)

    def test_what_was_sent_to_authenticate_is_not_shown(self):
        _, error = self.send_in_vain(
            smtplib.SMTPAuthenticationError(535, b'Zebra-7 is wrong'),
            RelayUnavailable)
        self.assertNotIn('Zebra-7', str(error))
        self.assertIn('535', str(error))

    def test_an_address_outside_ascii(self):
        # It alone is refused, and the others go again.
        recipients = ['anne@example.com', 'j\xfcrgen@example.com',
                      'cris@example.com']
        outcome, _ = self.send_in_vain(
            not_encoded('rcpt TO:<j\xfcrgen@example.com>\r\n'),
            ConnectionLost, recipients=recipients)
        self.assertEqual(outcome.having(Fate.refused), (recipients[1],))
        self.assertIs(outcome.results[1].stage, Stage.here)
        self.assertEqual(outcome.results[1].reply.enhanced, '5.6.7')
        self.assertEqual(outcome.having(Fate.not_attempted),
                         (recipients[0], recipients[2]))

    def test_a_sender_outside_ascii(self):
        outcome, _ = self.send_in_vain(
            not_encoded('mail FROM:<\xe4nt@example.com>\r\n'),
            ConnectionLost, sender='\xe4nt@example.com')
        self.assertEqual(outcome.having(Fate.refused), tuple(RECIPIENTS))

    def test_nothing_else_is_blamed_on_an_address(self):
        # A password, or the name of the server.
        for error in (not_encoded('\0user\0p\xe4ssword'),
                      UnicodeError('label empty or too long')):
            for recipients in (RECIPIENTS, ['j\xfcrgen@example.com']):
                with self.subTest(error=error, recipients=recipients):
                    outcome, unavailable = self.send_in_vain(
                        error, UnavailableHere, recipients=recipients)
                    self.assertEqual(outcome.having(Fate.not_attempted),
                                     tuple(recipients))
                    self.assertFalse(unavailable.waiting_helps)
                    self.assertNotIn('ssword', str(unavailable))

    def test_a_mistake_of_its_own(self):
        # Nobody knows how far it got.
        outcome, _ = self.send_in_vain(ZeroDivisionError(), ZeroDivisionError)
        self.assertEqual(outcome.having(Fate.in_doubt), tuple(RECIPIENTS))

    def test_devmode(self):
        # The main thread has put it there; see `Outbound`.
        stand_in = 'zperson@example.com'
        given = [Transaction('ant@example.com', tuple(RECIPIENTS),
                             Content(b'x'), stand_in=stand_in)]
        outcome = self.send(
            {stand_in: (550, b'No such user')},
            feed=lambda octets: given.pop() if given else None)
        self.assertEqual(self.fake.got[1], [stand_in] * 3)
        # Nobody of these was served.
        self.assertEqual(outcome.having(Fate.accepted), ())

    def test_neither(self):
        with self.assertRaises(TypeError):
            as_transaction_connection(object(), RELAY)

    def test_settings_reach_it(self):
        relay = replace(
            RelaySettings(), max_sessions_per_connection=7, port=2525)
        self.assertIn(':2525 ', repr(connection_for(relay)))
        tls = TLSSettings(ca='/ca.pem')
        for mode in ('smtps', 'starttls'):
            self.assertEqual(connection_for(replace(
                relay, secure_mode=mode, tls=tls)).tls, tls)

    def test_how_we_present_ourselves(self):
        with Scripted() as server:
            connection = connection_for(RelaySettings(
                host=server.host, port=server.port,
                wire=WireSettings(hello_name='ant.example.com',
                                  source_address='127.0.0.2')))
            connection.sendmail('ant@example.com', RECIPIENTS, b'x')
            connection.quit()
            self.assertEqual(server.said('EHLO'), ['EHLO ant.example.com'])

    def test_authorities_that_are_gone(self):
        connection = connection_for(RelaySettings(
            secure_mode='smtps', tls=TLSSettings(ca='/nonexistent')))
        with self.assertRaises(RelayUnavailable) as caught:
            connection.sendmail('ant@example.com', RECIPIENTS, b'x')
        self.assertEqual(caught.exception.phase, 'TLS')
        self.assertIn('tls_ca /nonexistent', caught.exception.reason)
        self.assertIn('No such file', caught.exception.reason)

    # What others do while it waits.

    def while_it_sends(self, step, error):
        """Take a step while a call does not return."""
        begun, ended = threading.Event(), threading.Event()
        self.addCleanup(ended.set)

        def hang():
            begun.set()
            ended.wait(PATIENCE)
            return {}
        self.make(hang)
        given = [Transaction(
            'ant@example.com', tuple(RECIPIENTS), Content(b'x'))]

        async def converse():
            task = asyncio.ensure_future(self.connection.converse(
                lambda octets: given.pop(), self.outcomes.append))
            await asyncio.get_running_loop().run_in_executor(
                None, begun.wait, PATIENCE)
            step(task)
            with self.assertRaises(error):
                await task
            # It does not wait for the call.
            await asyncio.wait_for(self.connection.disconnect(), PATIENCE)
            self.assertFalse(ended.is_set())
            ended.set()
        asyncio.run(converse())
        outcome, = self.outcomes
        self.assertEqual(outcome.having(Fate.in_doubt), tuple(RECIPIENTS))
        self.assertEqual(self.fake.quits, 0)

    def test_whether_the_server_knows_of_the_end(self):
        def knows():
            return asyncio.run(self.connection.disconnect())
        self.make({})
        self.assertTrue(knows())
        for answer, is_known in (
                ({}, True), (smtplib.SMTPDataError(554, b'No'), True),
                (smtplib.SMTPServerDisconnected('gone'), False)):
            with self.subTest(answer):
                with suppress(smtplib.SMTPServerDisconnected):
                    self.send(answer)
                self.outcomes.clear()
                self.assertIs(knows(), is_known)

    def test_aborted_while_it_sends(self):
        self.while_it_sends(
            lambda task: self.connection.abort(), ConnectionLost)

    def test_cancelled_while_it_sends(self):
        self.while_it_sends(
            lambda task: task.cancel(), asyncio.CancelledError)

    def while_it_waits(self, *steps):
        """Take steps, each when it has nothing to do; return the answers."""
        self.make({})
        steps, given = iter(steps), []

        def feed(octets):
            if not given:
                asyncio.get_running_loop().call_soon(next(steps), given)
                return LATER
            return given.pop()
        asyncio.run(asyncio.wait_for(
            self.connection.converse(feed, self.outcomes.append), PATIENCE))

    def wake_with(self, what):
        def wake(given):
            given.append(what)
            self.connection.wake()
        return wake

    def test_woken(self):
        self.while_it_waits(
            self.wake_with(Transaction(
                'ant@example.com', tuple(RECIPIENTS), Content(b'x'))),
            lambda given: self.connection.wake(), self.wake_with(None))
        outcome, = self.outcomes
        self.assertEqual(outcome.having(Fate.accepted), tuple(RECIPIENTS))

    def test_aborted_while_it_waits(self):
        with self.assertRaises(ConnectionLost):
            self.while_it_waits(lambda given: self.connection.abort())
        self.assertFalse(self.connection.is_open)


@implementer(IConnection)
class Stock:
    """What smtplib has, opened with the first message."""

    def __init__(self, relay):
        self._relay = relay
        self._smtp = None

    def sendmail(self, envsender, recipients, msg):
        if self._smtp is None:
            smtp = smtplib.SMTP(
                self._relay.host, self._relay.port, timeout=PATIENCE)
            if self._relay.user:
                smtp.login(
                    self._relay.user, self._relay.password.reveal())
            self._smtp = smtp
        return self._smtp.sendmail(envsender, recipients, msg)

    def quit(self):
        smtp, self._smtp = self._smtp, None
        if smtp is not None:
            smtp.quit()


class TestStockConnections(unittest.TestCase):
    """Whole deliveries over connections that are smtplib's."""

    layer = ConfigLayer

    def setUp(self):
        self.resources = ExitStack()
        self.addCleanup(self.resources.close)
        self.addCleanup(close_relays)
        # The plugin's own file, where nothing waits for the relay.
        path = os.path.join(
            self.resources.enter_context(TemporaryDirectory()), 'pool.cfg')
        with open(path, 'w') as fp:
            fp.write('[delivery]\npatience: 0\n')
        self.resources.enter_context(configuration(
            'plugin.mta_pool',
            **{'class': 'mailman_mta_pool.plugin.MTAPoolPlugin'},
            enabled='yes', component_package='mailman_mta_pool',
            configuration=path))

        @provider(IConnectionFactory)
        def stock(relay, lessons):
            return Stock(relay)
        self.resources.enter_context(registered(stock, 'stock'))

    def deliver(self, server, recipients, **mta):
        """Deliver to each recipient alone; return the two kinds of failures.
        """
        mta = dict({'max_recipients': 1, 'max_delivery_threads': 1}, **mta)
        mlist = getUtility(IListManager).get('ant@example.com')
        mlist = mlist or create_list('ant@example.com')
        with server.configured(smtp_secure_mode='stock', **mta):
            try:
                deliver(mlist, mfs('Subject: x\n\nx\n'),
                        dict(recipients=list(recipients)))
            except SomeRecipientsFailed as failed:
                return (sorted(failed.temporary_failures),
                        failed.permanent_failures)
            finally:
                close_relays()
        return [], []

    def test_accepted(self):
        with Scripted() as server:
            self.assertEqual(self.deliver(server, RECIPIENTS), ([], []))
            self.assertEqual(sorted(server.served), RECIPIENTS)
            self.assertEqual(server.connections, 1)
            self.assertEqual(len(server.said('QUIT')), 1)

    def test_eight_at_once(self):
        # None of them goes on before all are there.
        together = threading.Barrier(8)

        def script(command, session):
            if command == '.' and session.number not in met:
                met.add(session.number)
                together.wait(PATIENCE)
        met = set()
        recipients = [f'member-{number:02}@example.com'
                      for number in range(40)]
        with Scripted(script) as server:
            self.assertEqual(self.deliver(
                server, recipients, max_delivery_threads=8), ([], []))
            self.assertEqual(sorted(server.served), recipients)
            self.assertEqual(server.connections, 8)

    def check_unavailable(self, script, **mta):
        with Scripted(script, extensions=('AUTH PLAIN',)) as server:
            self.assertEqual(
                self.deliver(server, RECIPIENTS, **mta), (RECIPIENTS, []))
            self.assertEqual(server.said('MAIL'), [])
            # Not one for each transaction.
            self.assertEqual(server.connections, 1)

    def test_greeting(self):
        self.check_unavailable(lambda command, session: (
            '554 5.7.1 Not you' if command == 'CONNECT' else None))

    def test_helo(self):
        self.check_unavailable(lambda command, session: (
            '504 5.5.2 Not you' if command[:4] in ('ehlo', 'helo', 'EHLO',
                                                   'HELO') else None))

    def test_password(self):
        self.check_unavailable(lambda command, session: (
            '535 5.7.8 No' if command.startswith('AUTH') else None),
            smtp_user='anne', smtp_pass='Zebra-7')

    def test_password_that_is_repeated(self):
        said = {
            'MAIL': '{} {}.7.1 Not for Zebra-7',
            'RCPT': '{} {}.1.1 Zebra-7 is nobody here',
            '.': '{} {}.6.0 WmVicmEtNw== has no taste'}
        for verb, words in said.items():
            for code in (450, 550):
                with self.subTest(verb=verb, code=code), self.assertLogs(
                        'mailman.smtp', 'DEBUG') as refused, Scripted(
                        lambda command, session: (
                            words.format(code, code // 100)
                            if command.upper().startswith(verb) else None),
                        extensions=('AUTH PLAIN',)) as server:
                    self.deliver(server, RECIPIENTS, smtp_user='anne',
                                 smtp_pass='Zebra-7')
                shown = '\n'.join(refused.output)
                self.assertIn('hidden', shown)
                self.assertNotIn('Zebra-7', shown)
                self.assertNotIn('WmVicmEtNw', shown)

    def test_not_encodable_password(self):
        self.check_unavailable(
            lambda command, session: None,
            smtp_user='anne', smtp_pass='Z\xe4bra-7')

    def test_refused(self):
        connects = []

        class Counted(Stock):
            def sendmail(self, *args):
                connects.append(self)
                return super().sendmail(*args)

        @provider(IConnectionFactory)
        def counted(relay, lessons):
            return Counted(relay)
        with Scripted() as server:
            pass
        # Nobody listens there any more.
        with registered(counted, 'stock'):
            self.assertEqual(
                self.deliver(server, RECIPIENTS), (RECIPIENTS, []))
        self.assertEqual(len(connects), 1)

    def test_an_address_outside_ascii(self):
        # Nobody else pays for it.
        recipients = RECIPIENTS + ['j\xfcrgen@example.com']
        with Scripted() as server:
            temporary, permanent = self.deliver(
                server, recipients, max_recipients=10)
            self.assertEqual(sorted(server.served), RECIPIENTS)
        self.assertEqual(temporary, [])
        self.assertEqual([each[:2] for each in permanent], [
            ('j\xfcrgen@example.com', 553)])

    def test_a_server_that_hangs_up(self):
        # Those in doubt are not sent again, and it is not asked for ever.
        with Scripted(lambda command, session: (
                CLOSE if command == '.' else None)) as server:
            recipients = [f'member-{number:02}@example.com'
                          for number in range(40)]
            self.assertEqual(
                self.deliver(server, recipients), (recipients, []))
            self.assertLess(server.connections, 20)
