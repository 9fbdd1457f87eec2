# SPDX-License-Identifier: GPL-3.0-or-later

"""The connection classes on their own, measured against smtplib."""

import smtplib
import unittest

from contextlib import suppress
from email.message import Message
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from hypothesis import given, settings, strategies as st
from mailman.testing.helpers import configuration
from mailman.testing.layers import ConfigLayer, SMTPLayer
from mailman_mta_pool.connection import (
    SMTPConnection,
    SMTPSConnection,
    STARTTLSConnection,
)
from mailman_mta_pool.interfaces import IConnection, ITransactionConnection
from mailman_mta_pool.network.border import border
from mailman_mta_pool.settings import Timeouts, WireSettings
from tests.scripted import CLOSE, HANG, Scripted
from zope.interface.verify import verifyObject


MESSAGE = b'Subject: hi\r\nMessage-ID: <a@example.com>\r\n\r\nHello.\r\n'
THREE = ['anne@example.com', 'bart@example.com', 'cris@example.com']
#: The types that callers of smtplib catch, the nearest first.
CAUGHT = (
    smtplib.SMTPRecipientsRefused,
    smtplib.SMTPSenderRefused,
    smtplib.SMTPDataError,
    smtplib.SMTPResponseException,
    smtplib.SMTPServerDisconnected,
    )


def told(sendmail, recipients):
    """What is returned or raised, so that two of them can be compared."""
    try:
        return sendmail('ant@example.com', recipients, MESSAGE)
    except smtplib.SMTPServerDisconnected:
        # There is nothing in it but a text for people.
        return smtplib.SMTPServerDisconnected
    except smtplib.SMTPException as error:
        return next(
            kind for kind in CAUGHT if isinstance(error, kind)), error.args


def answering(**replies):
    """Make a script that answers commands, or `verb_nth`s, in its own way."""
    def script(command, session):
        verb = command.partition(' ')[0].lower().replace('.', 'end')
        nth = f'{verb}_{session.rcpts}'
        return replies.get(nth, replies.get(verb))
    return script


class TestLikeSMTPLib(unittest.TestCase):
    """Each server is asked twice, by smtplib and by us."""

    layer = ConfigLayer

    def both(self, script, recipients=THREE, **kws):
        with Scripted(script, **kws) as server:
            client = smtplib.SMTP(server.host, server.port)
            with client:
                theirs = told(client.sendmail, recipients)
            connection = SMTPConnection(server.host, server.port, 0)
            self.addCleanup(connection.quit)
            ours = told(connection.sendmail, recipients)
            accepted = list(server.accepted)
        self.assertEqual(ours, theirs)
        # Both have got rid of the same messages.
        half = len(accepted) // 2
        self.assertEqual(accepted[:half], accepted[half:])
        return ours

    def test_all_accepted(self):
        self.assertEqual(self.both(answering()), {})

    def test_some_refused(self):
        refused = self.both(answering(
            rcpt_1='550 5.1.1 No such user',
            rcpt_3='451 4.2.1 Later\n451 perhaps'))
        self.assertEqual(refused, {
            'anne@example.com': (550, b'5.1.1 No such user'),
            'cris@example.com': (451, b'4.2.1 Later\nperhaps'),
            })

    def test_all_refused(self):
        kind, _ = self.both(answering(rcpt='550 5.1.1 No such user'))
        self.assertIs(kind, smtplib.SMTPRecipientsRefused)

    def test_all_refused_one_at_a_time(self):
        kind, _ = self.both(
            answering(rcpt='450 4.2.1 Busy'), extensions=())
        self.assertIs(kind, smtplib.SMTPRecipientsRefused)

    def test_no_recipients(self):
        kind, _ = self.both(answering(), recipients=[])
        self.assertIs(kind, smtplib.SMTPRecipientsRefused)

    def test_bare_string_of_a_recipient(self):
        # A bare string is a list of one for smtplib.
        self.assertEqual(self.both(answering(), 'anne@example.com'), {})

    def test_sender_refused(self):
        for code in (421, 451, 550):
            with self.subTest(code=code):
                kind, args = self.both(answering(mail=f'{code} 5.7.1 No'))
                self.assertIs(kind, smtplib.SMTPSenderRefused)
                self.assertEqual(args, (code, b'5.7.1 No', 'ant@example.com'))

    def test_data_refused(self):
        for code in (421, 451, 554):
            with self.subTest(code=code):
                self.assertEqual(
                    self.both(answering(data=f'{code} No')),
                    (smtplib.SMTPDataError, (code, b'No')))

    def test_content_refused(self):
        for code in (421, 451, 554):
            with self.subTest(code=code):
                self.assertEqual(
                    self.both(answering(end=f'{code} No')),
                    (smtplib.SMTPDataError, (code, b'No')))

    def test_connection_lost(self):
        for command in ('mail', 'rcpt_2', 'data', 'end'):
            with self.subTest(command=command):
                self.assertIs(self.both(answering(**{command: CLOSE})),
                              smtplib.SMTPServerDisconnected)

    def test_garbage(self):
        # smtplib calls it a code of -1.  We take it for a lost connection, as
        # nothing that such a server says can be trusted.
        with Scripted(answering(mail=b'hello there\r\n')) as server:
            connection = SMTPConnection(server.host, server.port, 0)
            with self.assertRaises(smtplib.SMTPServerDisconnected):
                connection.sendmail('ant@example.com', THREE, MESSAGE)
            self.assertFalse(connection.is_open)


HEADER = st.text(
    st.characters(min_codepoint=32, max_codepoint=126), max_size=90)
LINES = st.lists(st.sampled_from([
    '', '.', '..', '.x', 'From here', '>From here', 'x' * 1200, 'plain',
    'tab\t', ' blank', 'f\u00fcr', '\u65e5\u672c', 'form\ffeed', 'nul\0',
    ]), max_size=8)
ENDS = st.sampled_from(['\n', '\r\n', '\r'])


@st.composite
def messages(draw):
    """Messages of the kinds that Mailman sends."""
    body = draw(ENDS).join(draw(LINES)) + draw(st.sampled_from(['', '\n']))
    charset = draw(st.sampled_from(['us-ascii', 'utf-8', None]))
    if charset is None:
        msg = Message()
        # Eight bits as they come, which Mailman gets from its parser.
        msg.set_payload(body.encode().decode('ascii', 'surrogateescape'))
    elif body.isascii() or charset == 'utf-8':
        msg = MIMEText(body, 'plain', charset)
    else:
        msg = MIMEText(body, 'plain', 'utf-8')
    if draw(st.booleans()):
        outer = MIMEMultipart()
        outer.preamble = draw(st.sampled_from([None, 'From me', 'x\r\ny']))
        outer.attach(msg)
        outer.set_boundary('=x=')
        msg = outer
    for name in draw(st.permutations(
            ['Bcc', 'Resent-Bcc', 'To', 'Subject', 'bcc'])):
        msg[name] = draw(HEADER)
    return msg


class TestSameBytes(unittest.TestCase):
    """What goes over the wire for a `Message`."""

    layer = ConfigLayer

    def setUp(self):
        self.server = Scripted()
        self.server.__enter__()
        self.addCleanup(self.server.__exit__)
        self.theirs = smtplib.SMTP(self.server.host, self.server.port)
        self.addCleanup(self.theirs.quit)
        self.ours = SMTPConnection(self.server.host, self.server.port, 0)
        self.addCleanup(self.ours.quit)

    @given(messages())
    @settings(max_examples=150, deadline=None)
    def test_of_any_message(self, msg):
        headers = msg.items()
        self.theirs.send_message(msg, 'ant@example.com', ['x@example.com'])
        self.ours.sendmail('ant@example.com', ['x@example.com'], msg)
        self.assertEqual(msg.items(), headers)
        theirs, ours = self.server.accepted[-2:]
        self.assertEqual(ours, theirs)
        self.assertNotIn(b'\nbcc:', ours.content.lower())
        self.assertNotIn(b'\nresent-bcc:', ours.content.lower())

    def test_from_in_the_body(self):
        msg = Message()
        msg['Bcc'] = 'secret@example.com'
        msg['Resent-Bcc'] = 'secret@example.com'
        msg['Subject'] = 'x'
        msg.set_payload('From me\nto you')
        self.ours.sendmail('ant@example.com', ['x@example.com'], msg)
        self.assertEqual(self.server.accepted[-1].content,
                         b'Subject: x\r\n\r\n>From me\r\nto you\r\n')

    def test_str_and_bytes(self):
        for msg, octets in (
                ('Subject: \u00e9\n\nx\n', b'Subject: ?\r\n\r\nx\r\n'),
                (b'Subject: \xe9\n\nx\r\n', b'Subject: \xe9\r\n\r\nx\r\n')):
            self.assertEqual(self.ours.sendmail(
                'ant@example.com', ['x@example.com'], msg), {})
            self.assertEqual(self.server.accepted[-1].content, octets)

    def test_anything_else(self):
        with self.assertRaises(TypeError):
            self.ours.sendmail('ant@example.com', ['x@example.com'], 1)
        self.assertFalse(self.ours.is_open)


class TestLife(unittest.TestCase):
    """When a connection is opened, replaced and closed."""

    layer = SMTPLayer

    def setUp(self):
        self.smtpd = SMTPLayer.smtpd

    def connection(self, sessions=0, **kws):
        connection = SMTPConnection('localhost', 9025, sessions, **kws)
        self.addCleanup(connection.quit)
        return connection

    def send(self, connection, recipients=('anne@example.com',)):
        return connection.sendmail('ant@example.com', recipients, MESSAGE)

    def test_interfaces(self):
        for connection in (
                SMTPConnection('localhost', 25, 0),
                SMTPSConnection('localhost', 465, 0, True, True),
                STARTTLSConnection('localhost', 587, 0, True, True)):
            with self.subTest(connection=connection):
                verifyObject(IConnection, connection)
                verifyObject(ITransactionConnection, connection)

    def test_opened_by_the_first_message(self):
        connection = self.connection()
        self.assertEqual(self.smtpd.get_connection_count(), 0)
        self.assertIn('closed', repr(connection))
        self.assertEqual(self.send(connection), {})
        self.assertEqual(self.smtpd.get_connection_count(), 1)
        self.assertIn('1 messages', repr(connection))
        connection.quit()
        self.assertFalse(connection.is_open)
        # Once more does no harm, and it can be used again.
        connection.quit()
        self.send(connection)
        self.assertEqual(self.smtpd.get_connection_count(), 2)

    def test_messages_per_connection(self):
        for limit, counts in ((2, [1, 1, 2, 2, 3]), (1, [1, 2, 3, 4]),
                              (0, [1] * 10), (-1, [1] * 4)):
            with self.subTest(limit=limit):
                connection = self.connection(limit)
                seen = []
                for _ in counts:
                    self.send(connection)
                    seen.append(self.smtpd.get_connection_count())
                self.assertEqual(seen, counts)
                connection.quit()
                self.smtpd.reset()

    def test_whether_the_server_knows_of_the_end(self):
        def knows(connection):
            return border.call(connection.disconnect)
        connection = self.connection()
        # There was no connection.
        self.assertTrue(knows(connection))
        self.send(connection)
        self.assertTrue(knows(connection))
        self.assertTrue(knows(connection))
        # It was closed after its only message.
        connection = self.connection(1)
        self.send(connection)
        self.assertFalse(connection.is_open)
        self.assertTrue(knows(connection))
        for verb, what in (('.', CLOSE), ('QUIT', CLOSE), ('QUIT', HANG)):
            with self.subTest(verb, what=what), Scripted(
                    lambda command, session:
                    what if command == verb else None) as server:
                connection = SMTPConnection(
                    server.host, server.port, 0,
                    wire=WireSettings(timeouts=Timeouts(quit=0.01)))
                with suppress(smtplib.SMTPServerDisconnected):
                    self.send(connection)
                is_known = verb == 'QUIT' and what is CLOSE
                self.assertIs(knows(connection), is_known)
                self.assertIs(knows(connection), is_known)

    def test_devmode(self):
        connection = self.connection()
        seen = []

        def send():
            self.send(connection, ['anne@example.com', 'bart@example.com'])
            seen.extend(msg['x-rcptto'] for msg in self.smtpd.messages)
        send()
        with configuration('devmode', enabled='yes',
                           recipient='zperson@example.com'):
            send()
        send()
        self.assertEqual(seen, [
            'anne@example.com, bart@example.com',
            'zperson@example.com, zperson@example.com',
            'anne@example.com, bart@example.com',
            ])
        self.assertEqual(self.smtpd.get_connection_count(), 1)

    def test_replaced_when_the_server_has_closed_it(self):
        with Scripted() as server:
            connection = SMTPConnection(server.host, server.port, 0)
            self.addCleanup(connection.quit)
            self.send(connection)
            server.drop_connections()
            self.assertEqual(self.send(connection), {})
            self.assertEqual(server.connections, 2)
            self.assertEqual(len(server.accepted), 2)

    def test_421_between_two_messages(self):
        # It must not be taken for the answer to the second one.
        with Scripted(answering(end=(
                b'250 Ok\r\n421 4.3.2 Going down\r\n'))) as server:
            connection = SMTPConnection(server.host, server.port, 0)
            self.addCleanup(connection.quit)
            self.assertEqual(self.send(connection), {})
            self.assertEqual(self.send(connection), {})
            self.assertEqual(len(server.accepted), 2)

    def test_421_in_the_middle_of_the_recipients(self):
        for extensions in ((), ('PIPELINING',), ('PIPELINING', 'CHUNKING')):
            with self.subTest(extensions=extensions), Scripted(
                    answering(rcpt_3='421 4.7.0 Enough'),
                    extensions=extensions) as server:
                connection = SMTPConnection(server.host, server.port, 0)
                with self.assertRaises(
                        smtplib.SMTPRecipientsRefused) as caught:
                    self.send(connection, THREE + ['dave@example.com'])
                # smtplib would name the third one only.
                self.assertEqual(caught.exception.recipients, dict.fromkeys(
                    THREE + ['dave@example.com'], (421, b'4.7.0 Enough')))
                self.assertEqual(server.accepted, [])

    def test_debug_shows_commands_but_no_mail(self):
        connection = self.connection()
        connection.debug = True
        with self.assertLogs('mailman.smtp', 'DEBUG') as logs:
            self.send(connection)
        text = '\n'.join(logs.output)
        self.assertIn('RCPT TO:<anne@example.com>', text)
        self.assertNotIn('Hello.', text)
