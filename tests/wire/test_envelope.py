# SPDX-License-Identifier: GPL-3.0-or-later
"""Which addresses go over the wire, and with which parameters."""

import re
import unittest
import unicodedata

from hypothesis import given, settings, strategies as st
from mailman_mta_pool.wire.capabilities import Capabilities
from mailman_mta_pool.wire.content import Content
from mailman_mta_pool.wire.envelope import (
    is_mailbox,
    mail_command,
    rcpt_command,
    refuse_message,
    refuse_recipient,
)
from mailman_mta_pool.wire.outcome import Fate, Stage
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
                line = rcpt_command(address).decode()
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
        content = Content(b'')
        for server in (Capabilities(), EVERYTHING):
            for address in BAD + ODD_AND_BAD:
                # '' is the null reverse-path.
                if address:
                    with self.subTest(address=address, server=server):
                        self.assertRefused(
                            refuse_message(address, content, server),
                            Stage.mail, 553, '5.1.7')
            for address in ('',) + GOOD:
                self.assertIsNone(refuse_message(address, content, server))

    def test_international_senders(self):
        content = Content(b'')
        for address in INTERNATIONAL:
            with self.subTest(address=address):
                self.assertIsNone(refuse_message(address, content, EVERYTHING))
                self.assertRefused(
                    refuse_message(address, content, Capabilities()),
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
                    'a@example.com', Content(octets * b'x'), server)
                if refused:
                    self.assertRefused(result, Stage.mail, 552, '5.3.4')
                    self.assertIn('1001', str(result.reply))
                    self.assertIn('1000', str(result.reply))
                else:
                    self.assertIsNone(result)

    def test_size_as_it_is_sent(self):
        # As many line feeds become twice as many octets.
        self.assertIsNone(refuse_message('', Content(500 * b'\n'), EVERYTHING))
        self.assertIsNotNone(
            refuse_message('', Content(501 * b'\n'), EVERYTHING))


class TestCommands(unittest.TestCase):
    def mail(self, raw, *keywords, sender='a@example.com',
             international=False):
        server = Capabilities([(keyword, ()) for keyword in keywords])
        command = mail_command(sender, Content(raw), server, international)
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
            self.mail(b'\xe9', 'SMTPUTF8', '8BITMIME', 'SIZE',
                      international=True),
            'MAIL FROM:<a@example.com> SIZE=3 BODY=8BITMIME SMTPUTF8')

    def test_rcpt(self):
        for address in GOOD + INTERNATIONAL + ODD_BUT_GOOD:
            with self.subTest(address=address):
                self.assertEqual(rcpt_command(address),
                                 f'RCPT TO:<{address}>\r\n'.encode())
