# SPDX-License-Identifier: GPL-3.0-or-later
"""Which addresses go over the wire, and with which parameters."""

import re
import unittest
import unicodedata

from hypothesis import given, settings, strategies as st
from mailman_mta_pool.wire.capabilities import Capabilities
from mailman_mta_pool.wire.content import Content
from mailman_mta_pool.wire.envelope import (
    are_plain,
    is_mailbox,
    mail_command,
    rcpt_commands,
    refuse_message,
    refuse_recipient,
    unitext,
    xtext,
)
from mailman_mta_pool.wire.transaction import Fate, Stage, Transaction
from mailman_mta_pool.wire.verp import Verp
from tests.wire.case import BAD, GOOD, INTERNATIONAL


ODD_BUT_GOOD = (
    # RFC 5321, section 4.1.2.
    "!#$%&'*+-/=?^_`{|}~@example.com", '"a b"@example.com',
    '"<a>,b(c);d:e@f"@example.com', r'"\"\\\ "@example.com', '""@example.com',
    'a@[192.0.2.1]', 'a@[IPv6:2001:db8::1]', 'a@b', 'A@EXAMPLE.COM',
    'PostMaster', '1@2.3', 'a@xn--bcher-kva.example',
    # Beyond it, but there are people who have them.
    '.a@docomo.example', 'a.@docomo.example', 'a..b@docomo.example',
    'a@under_score.example', 'a@_dmarc.example',
    # RFC 6531.
    'a@b\u00fccher.example', '"\u00fc \u00e9"@example.com',
    '\u05d3\u05d5\u05d2@\u05d3\u05d5\u05d2.example',
    '\u7528\u6237@\u4f8b\u5b50.example', '\U0001f600@example.com',
    )
ODD_AND_BAD = (
    '@', '<>', '<anne@example.com>', 'anne@example.com>', '<anne@example.com',
    'anne@example.com> SIZE=1', 'anne@example.com> NOTIFY=NEVER',
    'anne@example.com>\r\nRCPT TO:<bart@example.com',
    'Anne <anne@example.com>', '"Anne" <anne@example.com>',
    'anne@example.com,bart@example.com', 'anne@example.com;',
    'anne(comment)@example.com', '(c)anne@example.com', 'anne@(c)example.com',
    'anne@example.com(c)', 'anne @example.com', ' anne@example.com',
    'anne@example.com ', 'anne@ example.com', 'anne\t@example.com',
    'anne@@example.com', 'anne@bart@example.com', 'anne:x@example.com',
    'anne@example.com:25', '@a.example:anne@example.com', 'an\\ne@example.com',
    'anne@example.com.', 'anne@.example.com', 'anne@-example.com',
    'anne@example-.', 'anne@[]', 'anne@[192.0.2.1', 'anne@192.0.2.1]',
    'anne@[a]b]', 'anne@[a b]', '"anne@example.com', 'anne"@example.com',
    '"anne"bart@example.com', '"anne" "bart"@example.com',
    '"anne".bart@example.com', '"an"ne"@example.com', '"anne\\"@example.com',
    '"a\\\u00fc"@example.com', '"a\tb"@example.com', 'post master',
    'postmasters', 'po\u017ftmaster', 'mailer-daemon', '"postmaster"',
    )
#: All that Unicode calls a control, a format, a separator or a surrogate.
UNSEEN = [chr(code) for code in (*range(0x3100), 0xd800, 0xdfff, 0xfeff,
                                 0xfffe, 0xffff, 0xe0020, 0x10ffff)
          if unicodedata.category(chr(code))[0] in 'CZ']
SPECIAL = ['<', '>', '(', ')', ',', ';', ':', '@', '\\', '"', '[', ']']
EVERYTHING = Capabilities([
    ('SIZE', ('1000',)), ('8BITMIME', ()), ('SMTPUTF8', ())])


def transaction(sender, content=b'', **further):
    return Transaction(sender, ('b@example.org',), Content(content), **further)


class TestMailbox(unittest.TestCase):
    def test_good(self):
        for address in GOOD + INTERNATIONAL + ODD_BUT_GOOD:
            with self.subTest(address=address):
                self.assertIs(is_mailbox(address), True)

    def test_bad(self):
        for address in BAD + ODD_AND_BAD:
            with self.subTest(address=address):
                self.assertIs(is_mailbox(address), False)

    def test_what_cannot_be_seen(self):
        for character in UNSEEN + SPECIAL:
            for place in range(6):
                address = 'a@b.c'[:place] + character + 'a@b.c'[place:]
                with self.subTest(address=address):
                    self.assertIs(is_mailbox(address), False)

    def test_what_cannot_be_seen_in_quotes(self):
        for character in UNSEEN:
            for address in (f'"a{character}b"@example.com',
                            f'"a\\{character}b"@example.com'):
                with self.subTest(address=address):
                    self.assertIs(is_mailbox(address), character == ' ')

    def test_length(self):
        # RFC 5321, section 4.5.3.1.4: a command line of 512 octets.
        for local, good in ((64 * 'a', True), (486 * 'a', True),
                            (487 * 'a', False), (243 * '\u00fc', True),
                            (244 * '\u00fc', False), (5000 * 'a', False),
                            ('"' + 5000 * ' ' + '"', False)):
            with self.subTest(local=local[:3], length=len(local)):
                self.assertIs(is_mailbox(local + '@example.com'), good)

    @settings(max_examples=1000, deadline=None)
    @given(st.one_of(st.text(), st.lists(st.sampled_from(
        SPECIAL + [' ', '\r', '\n', '\0', 'a', '.', '\u00fc', '\\"',
                   'example.com'])).map(''.join)))
    def test_one_path_and_nothing_else(self, text):
        for address in (text, text + '@example.com', f'"{text}"@example.com'):
            if is_mailbox(address):
                line = rcpt_commands([address])[0].decode()
                match = re.fullmatch(
                    r'RCPT TO:<((?:"(?:[^"\\]|\\.)*"|[^"<>@ ])+'
                    r'(?:@[^"<>@ ]+)?)>\r\n', line)
                self.assertIsNotNone(match, line)
                self.assertEqual(match[1], address)
                self.assertTrue(line[:-2].isprintable(), line)


class TestRefusals(unittest.TestCase):
    def assertRefused(self, result, stage, code, enhanced):
        self.assertEqual(
            (result.fate, result.stage, result.reply.code,
             result.reply.enhanced), (Fate.refused, stage, code, enhanced))

    def test_recipients(self):
        for address in BAD + ODD_AND_BAD:
            for server in (Capabilities(), EVERYTHING):
                with self.subTest(address=address, server=server):
                    self.assertRefused(refuse_recipient(address, server),
                                       Stage.here, 553, '5.1.3')
        for address in GOOD:
            self.assertIsNone(refuse_recipient(address, Capabilities()))

    def test_international_recipients(self):
        for address in INTERNATIONAL + ('a@b\u00fccher.example',):
            with self.subTest(address=address):
                self.assertIsNone(refuse_recipient(address, EVERYTHING))
                self.assertRefused(refuse_recipient(address, Capabilities()),
                                   Stage.here, 553, '5.6.7')

    def test_senders(self):
        for server in (Capabilities(), EVERYTHING):
            for address in BAD + ODD_AND_BAD:
                # '' is the null reverse-path.
                if address:
                    with self.subTest(address=address, server=server):
                        self.assertRefused(
                            refuse_message(transaction(address), server),
                            Stage.mail, 553, '5.1.7')
            for address in ('',) + GOOD:
                self.assertIsNone(
                    refuse_message(transaction(address), server))

    def test_international_senders(self):
        for address in INTERNATIONAL:
            with self.subTest(address=address):
                message = transaction(address)
                self.assertIsNone(refuse_message(message, EVERYTHING))
                self.assertRefused(
                    refuse_message(message, Capabilities()),
                    Stage.mail, 550, '5.6.7')

    def test_size(self):
        for lines, octets, refused in (
                (['SIZE 1000'], 998, False), (['SIZE 1000'], 999, True),
                # RFC 1870, section 4: no limit is known.
                (['SIZE 0'], 5000, False), (['SIZE'], 5000, False),
                ([], 5000, False)):
            with self.subTest(lines=lines, octets=octets):
                server = Capabilities.from_ehlo(
                    '\n'.join(['here'] + lines).encode())
                # Two more for the CRLF.
                result = refuse_message(
                    transaction('a@example.com', octets * b'x'), server)
                if refused:
                    self.assertRefused(result, Stage.mail, 552, '5.3.4')
                    self.assertIn('1001', str(result.reply))
                    self.assertIn('1000', str(result.reply))
                else:
                    self.assertIsNone(result)

    def test_size_as_it_is_sent(self):
        # As many line feeds become twice as many octets.
        for lines, refused in ((500, False), (501, True)):
            result = refuse_message(transaction('', lines * b'\n'), EVERYTHING)
            self.assertEqual(result is not None, refused)

    def test_xverp(self):
        message = transaction('a@example.com', verp=Verp('+='))
        offering = Capabilities([('XVERP', ())])
        self.assertIsNone(refuse_message(message, offering))
        self.assertIsNone(refuse_message(
            message._replace(verp=None), EVERYTHING))
        # The draft's VERP is another thing.
        for server in (EVERYTHING, Capabilities([('VERP', ())])):
            self.assertRefused(
                refuse_message(message, server), Stage.mail, 555, '5.5.4')


class TestCommands(unittest.TestCase):
    def mail(self, raw, *keywords, sender='a@example.com',
             international=False, **further):
        server = Capabilities([(keyword, ()) for keyword in keywords])
        command = mail_command(
            transaction(sender, raw, **further), server, international)
        self.assertTrue(command.endswith(b'\r\n'))
        return command[:-2].decode()

    def test_plain(self):
        for raw in (b'x', b'\xe9'):
            self.assertEqual(self.mail(raw), 'MAIL FROM:<a@example.com>')
            self.assertEqual(self.mail(raw, sender=''), 'MAIL FROM:<>')
            self.assertEqual(
                self.mail(raw, 'DSN', 'CHUNKING', 'PIPELINING'),
                'MAIL FROM:<a@example.com>')

    def test_size(self):
        # In the canonical form, before the dots are stuffed (RFC 1870,
        # section 3).
        for raw, size in ((b'', 2), (b'.\n.\n', 6), (998 * b'x', 1000)):
            with self.subTest(raw=raw):
                self.assertEqual(self.mail(raw, 'SIZE'),
                                 f'MAIL FROM:<a@example.com> SIZE={size}')

    def test_body(self):
        self.assertEqual(self.mail(b'\xe9', '8BITMIME'),
                         'MAIL FROM:<a@example.com> BODY=8BITMIME')
        self.assertEqual(self.mail(b'e', '8BITMIME'),
                         'MAIL FROM:<a@example.com>')

    def test_smtputf8(self):
        self.assertEqual(self.mail(b'\xe9', 'SMTPUTF8'),
                         'MAIL FROM:<a@example.com>')
        self.assertEqual(self.mail(b'e', 'SMTPUTF8', international=True),
                         'MAIL FROM:<a@example.com> SMTPUTF8')
        self.assertEqual(
            self.mail(b'e', 'SMTPUTF8', sender='\u00fc@example.com'),
            'MAIL FROM:<\u00fc@example.com> SMTPUTF8')

    def test_all_of_them(self):
        self.assertEqual(
            self.mail(b'\xe9', 'SMTPUTF8', '8BITMIME', 'SIZE', 'DSN', 'XVERP',
                      international=True, verp=Verp('+='), envid='<i@d>'),
            'MAIL FROM:<a@example.com> SIZE=3 BODY=8BITMIME SMTPUTF8 '
            'RET=HDRS ENVID=<i@d> XVERP=+=')

    def test_xverp(self):
        for delimiters in ('+=', '-=', '=='):
            self.assertEqual(
                self.mail(b'x', 'XVERP', verp=Verp(delimiters)),
                f'MAIL FROM:<a@example.com> XVERP={delimiters}')
        self.assertEqual(self.mail(b'x', 'XVERP'), 'MAIL FROM:<a@example.com>')

    def test_rcpt(self):
        for address in GOOD + INTERNATIONAL + ODD_BUT_GOOD:
            with self.subTest(address=address):
                self.assertEqual(rcpt_commands([address]),
                                 [f'RCPT TO:<{address}>\r\n'.encode()])

    def test_many_at_once(self):
        for notify in (False, True):
            addresses = GOOD + INTERNATIONAL + ODD_BUT_GOOD
            self.assertEqual(
                rcpt_commands(addresses, notify),
                [rcpt_commands([address], notify)[0]
                 for address in addresses])
            self.assertEqual(rcpt_commands([], notify), [])


class TestPlain(unittest.TestCase):
    """Many are looked at together; that lets nothing else pass."""

    def test_most_are(self):
        self.assertTrue(are_plain(['anne@example.com', 'A.-@EXAMPLE.COM']))
        self.assertTrue(are_plain(['a@b', "!#$%&'*+-/=?^_`{|}~.@_a-b.c_"]))
        self.assertTrue(are_plain(['a' * 494 + '@b.c']))

    def test_whatever_is_not(self):
        for address in (*BAD, *ODD_AND_BAD, *INTERNATIONAL, '', '"a"@b.c',
                        'a@[192.0.2.1]', 'postmaster', 'a' * 495 + '@b.c',
                        'a@b.c\nd@e.f', 'a@b.c\n', '\na@b.c', 'a@b.c\r'):
            for addresses in ([address], [address, 'x@y.z'],
                              ['x@y.z', address], ['x@y.z', address, 'x@y.z']):
                with self.subTest(addresses=addresses):
                    self.assertFalse(are_plain(addresses))

    @settings(max_examples=500, deadline=None)
    @given(st.lists(st.text('aZ0_@.-"\\<>\r\n\t \0+\u00fc', max_size=8)))
    def test_any(self, addresses):
        if are_plain(addresses):
            for address in addresses:
                self.assertTrue(is_mailbox(address))
                self.assertTrue(address.isascii())


class TestNotifications(unittest.TestCase):
    """RFC 3461, and RFC 6533 for what is not ASCII."""

    def envid(self, text):
        """Return the parameters, and the value of ENVID decoded."""
        server = Capabilities([('DSN', ())])
        command = mail_command(
            transaction('a@b.c', envid=text), server, False).decode('ascii')
        match = re.fullmatch(
            r'MAIL FROM:<a@b.c> RET=HDRS(?: ENVID=(\S+))?\r\n', command)
        self.assertIsNotNone(match, command)
        return match[1]

    def test_only_where_it_is_offered(self):
        command = mail_command(
            transaction('a@b.c', envid='<i@d>'), EVERYTHING, False)
        self.assertEqual(command, b'MAIL FROM:<a@b.c> SIZE=2\r\n')

    def test_envid(self):
        for text, encoded in (
                ('<a.b@c.example>', '<a.b@c.example>'),
                ('<a+b=c@d>', '<a+2Bb+3Dc@d>'), ('<a b@c>', '<a+20b@c>'),
                (99 * 'a' + '+', 99 * 'a'), (98 * 'a' + '+', 98 * 'a'),
                (97 * 'a' + '+', 97 * 'a' + '+2B'), (200 * 'a', 100 * 'a'),
                # None of these can be told, and Postfix would refuse them.
                ('<a\r\n\t\ufffd\x7f\xe9@b>', '<a@b>'), ('\ufffd', None)):
            with self.subTest(text=text):
                self.assertEqual(self.envid(text), encoded)

    @settings(max_examples=500, deadline=None)
    @given(st.text(st.one_of(
        st.sampled_from('+=<@> A0'), st.characters()), min_size=1,
        max_size=150))
    def test_any_envid(self, text):
        encoded = self.envid(text)
        printable = ''.join(c for c in text if ' ' <= c <= '~')
        if encoded is None:
            self.assertEqual(printable, '')
            return
        self.assertLessEqual(len(encoded), 100)
        self.assertTrue(is_xtext(encoded), encoded)
        decoded = from_xtext(encoded)
        self.assertTrue(printable.startswith(decoded))
        if decoded != printable:
            # There was no room for another.
            self.assertGreater(len(encoded), 97)

    @settings(max_examples=500, deadline=None)
    @given(st.text(st.characters(max_codepoint=127)))
    def test_xtext(self, text):
        self.assertTrue(is_xtext(xtext(text)))
        self.assertEqual(from_xtext(xtext(text)), text)

    @settings(max_examples=500, deadline=None)
    @given(st.text(st.one_of(
        st.sampled_from('+=\\ \x7f'), st.characters(
            min_codepoint=32, blacklist_categories=('Cs',)))))
    def test_unitext(self, text):
        encoded = unitext(text)
        self.assertIsNotNone(re.fullmatch(
            r'(?:[!-*,-<>-\[\]-~\x80-\U0010ffff]|\\x\{[0-9A-F]{2,6}\})*',
            encoded), encoded)
        self.assertEqual(re.sub(
            r'\\x\{([0-9A-F]+)\}', lambda match: chr(int(match[1], 16)),
            encoded), text)

    def test_rcpt(self):
        for address, original in (
                ('anne+x@example.com', 'rfc822;anne+2Bx@example.com'),
                ('"a b"@example.com', 'rfc822;"a+20b"@example.com'),
                ('j\u00fcrgen+x@example.de',
                 'utf-8;j\u00fcrgen\\x{2B}x@example.de')):
            with self.subTest(address=address):
                self.assertEqual(
                    rcpt_commands([address], True)[0].decode(),
                    f'RCPT TO:<{address}> NOTIFY=FAILURE ORCPT={original}\r\n')

    def test_an_original_recipient_too_long(self):
        # 500 octets are the most that a server must take.
        for count, fits in ((160, True), (161, False)):
            command, = rcpt_commands(
                [count * '+' + '@example.com'], True)
            self.assertEqual(b' ORCPT=rfc822;+2B' in command, fits)
            self.assertTrue(command.split(b' ORCPT')[0].rstrip().endswith(
                b'@example.com> NOTIFY=FAILURE'))


def is_xtext(text):
    return re.fullmatch(
        r'(?:[!-*,-<>-~]|\+[0-9A-F]{2})*', text) is not None


def from_xtext(text):
    return re.sub(r'\+([0-9A-F]{2})',
                  lambda match: chr(int(match[1], 16)), text)
