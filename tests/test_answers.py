# SPDX-License-Identifier: GPL-3.0-or-later
"""The catalogue of answers: its entries, and the files that they stand in."""

import re
import unittest

from docs.catalogue import catalogue_table
from docutils import nodes
from docutils.core import publish_doctree
from hypothesis import given, strategies as st
from importlib.resources import files
from mailman_mta_pool.configuration.answers import (
    answers_in,
    PATTERN_LENGTH,
    shipped_answers,
    STAGES,
)
from mailman_mta_pool.configuration.files import ConfigurationError
from mailman_mta_pool.settings import About, Answer
from mailman_mta_pool.settlement.catalogue import Catalogue, catalogue_of
from mailman_mta_pool.wire.replies import Reply
from tests.replies import REPLIES


SHIPPED = Catalogue(shipped_answers())
ENTRY = '[answer.mine]\nreply: 550 No\nabout: us\n'
# What public reports and documents say of the servers of our users, at the
# stage at which it was said.
REPORTED = (
    ('rcpt', '550 relay not permitted', About.us),
    ('rcpt', '550-Verification failed for <ant-bounces@example.com>\n'
     '550 Sender verify failed', About.sender),
    ('rcpt', '550 5.1.8 <ant-bounces@example.com>: Sender address rejected: '
     'Domain not found', About.sender),
    ('rcpt', '550 5.1.0 <ant-bounces+anne=example.org@example.com>: Sender '
     'address rejected: User unknown in local recipient table',
     About.sender),
    ('rcpt', '504 5.5.2 <mailman-core>: Helo command rejected: need '
     'fully-qualified hostname', About.us),
    ('rcpt', '554 5.7.1 <anne@example.org>: Relay access denied', About.us),
    # It proves nothing, so the contrast with others has to tell.
    ('rcpt', '554 5.7.1 <anne@126.com>: Recipient address rejected: Access '
     'denied', None),
    ('rcpt', '550 5.7.1 Daily SMTP relay limit exceeded for customer',
     About.quota),
    ('rcpt', '550 5.4.5 Daily SMTP relay limit exceeded for user',
     About.quota),
    ('rcpt', '450 4.2.1 Peak SMTP relay limit exceeded for this customer',
     About.rate),
    ('rcpt', '450 4.2.1 The user you are trying to contact is receiving '
     'email too quickly', About.recipient),
    ('rcpt', '450 4.7.1 Error: too much mail from 192.0.2.1', About.rate),
    ('rcpt', '452 4.5.3 Error: too many recipients', About.recipients),
    ('rcpt', '452 4.2.2 Mailbox full', About.recipient),
    ('end', '454 Throttling failure: Maximum sending rate exceeded.',
     About.rate),
    ('end', '454 Throttling failure: Daily message quota exceeded.',
     About.quota),
    ('end', '554 Transaction failed: Recipient count exceeds 50.',
     About.recipients),
    ('end', '554 Message rejected: Email address is not verified.',
     About.sender),
    ('mail', '432 4.3.2 Concurrent connections limit exceeded',
     About.connections),
    ('end', '432 4.3.2 Concurrent connections limit exceeded',
     About.connections),
    ('end', '554 5.2.0 STOREDRV.Submission.Exception:'
     'SubmissionQuotaExceededException', About.quota),
    ('end', '554 5.2.252 SendAsDenied; anne@example.com not allowed to send '
     'as ant-bounces@example.com', About.sender),
    ('auth', '550 5.7.30 Basic authentication is not supported for Client '
     'Submission.', About.us),
    ('auth', '535 5.7.139 Authentication unsuccessful, '
     'SmtpClientAuthentication is disabled for the Tenant.', About.us),
    ('end', '550 5.4.5 Daily user sending limit exceeded.', About.quota),
    ('greeting', '421 4.7.0 Try again later, closing connection.',
     About.rate),
    ('ehlo', '421 4.7.0 Try again later, closing connection.', About.rate),
    ('auth', '451 Authentication failed: Maximum credits exceeded',
     About.quota),
    ('end', '451 4.7.1 Ratelimit "user" exceeded', About.rate),
    ('mail', '421 4.4.2 Message submission rate for this client has exceeded '
     'the configured limit', About.rate),
    ('rcpt', '550 Too many messages. Try again in 92 seconds.', About.rate),
    ('end', "554 DED : You've reached your daily relay quota", About.quota),
    ('mail', '552 5.3.4 Message size exceeds fixed limit', About.message),
    ('end', '550 5.7.1 Message content rejected', About.message),
    # These are for the dialogue, and not for the catalogue.
    ('mail', '521 5.5.1 Error: command not implemented', None),
    ('mail', '500 5.5.1 Invalid command: Pipelining not supported', None),
    ('mail', '502 5.7.0 Please authenticate first', None),
    )
# An answer of 5xx about the recipient charges a member with a bounce.  These
# prove nothing, whatever words they share with those that do.
UNPROVED = (
    '550 Access denied', '554 5.7.1 Rejected', '550 No', '550 5.7.1 Denied',
    '550 Administrative prohibition', '554 Transaction failed',
    '550 Your account has been disabled', '550 Sender unknown',
    '550 5.1.0 Address rejected', '550 No such user: sender',
    '550 Client address not found', '550 IP address unknown',
    '550 User quota exceeded', '550 Requested action not taken: mailbox '
    'unavailable, invalid DNS MX or A/AAAA resource record',
    '550 5.1.1 <anne@example.org>: Recipient address rejected: undeliverable '
    'address: host mx.example.org[192.0.2.1] said: 550 5.7.1 Service '
    'unavailable; client [192.0.2.2] blocked using zen.spamhaus.org',
    )


def reply_of(text):
    """The reply with these lines, each with its code."""
    lines = text.encode().split(b'\n')
    return Reply(int(lines[0][:3]), tuple(line[4:] for line in lines))


def answer(reply, stages=STAGES, **others):
    """An entry of a site that has only this key."""
    entry, = answers_in(
        f'[answer.mine]\nstage: {" ".join(stages)}\nreply: {reply}\n'
        'about: us\n' + ''.join(
            f'{key}: {value}\n' for key, value in others.items()), 'mine.cfg')
    return entry


class TestShipped(unittest.TestCase):
    def test_every_entry_is_found_first(self):
        for entry in shipped_answers():
            self.assertGreater(len(REPLIES[entry.name]), 0)
            for stage, text in REPLIES[entry.name]:
                with self.subTest(entry=entry.name, text=text):
                    found = SHIPPED.find(stage, reply_of(text))
                    self.assertIsNotNone(found)
                    self.assertEqual(found.name, entry.name)

    def test_no_reply_without_entry(self):
        self.assertEqual(
            list(REPLIES), [entry.name for entry in shipped_answers()])

    def test_reported(self):
        for stage, text, about in REPORTED:
            with self.subTest(text=text, stage=stage):
                found = SHIPPED.find(stage, reply_of(text))
                self.assertEqual(found and found.about, about)

    def test_nobody_is_charged_without_proof(self):
        for text in UNPROVED:
            with self.subTest(text=text):
                found = SHIPPED.find('rcpt', reply_of(text))
                self.assertNotEqual(
                    found and found.about, About.recipient)

    def test_sources_and_remedies(self):
        for entry in shipped_answers():
            with self.subTest(entry=entry.name):
                self.assertRegex(
                    entry.source, r'https?://|[A-Za-z]\.[a-z]|issue|section|'
                    'set-of-emails|smtp/src|report')
                # One sentence.
                self.assertRegex(entry.remedy, r'^([A-Z][^\n]*\.)?$')
                if entry.about in (About.us, About.sender, About.quota):
                    self.assertTrue(
                        entry.remedy or 'temporary' in entry.name or
                        '4xx' in entry.codes)

    def test_every_key_is_explained(self):
        text = (files('mailman_mta_pool.settlement') /
                'answers.cfg').read_text('utf-8')
        master = text.partition('[answer.master]')[2].partition('\n[')[0]
        for key in ('stage', 'reply', 'about', 'wait', 'remedy', 'source'):
            self.assertRegex(master, rf'# [^\n]+\n{key}:')

    def test_table_for_the_documents(self):
        text = (files('mailman_mta_pool.settlement') /
                'answers.cfg').read_text('utf-8')
        tree = publish_doctree(
            catalogue_table(text), settings_overrides={
                'halt_level': 2, 'report_level': 2})
        rows = [
            [entry.astext() for entry in row.findall(nodes.entry)]
            for row in tree.findall(nodes.row)][1:]
        self.assertEqual(len(rows), len(shipped_answers()))
        for row, entry in zip(rows, shipped_answers()):
            self.assertEqual(row[:2], [entry.about.value, entry.name])
            self.assertEqual(row[3], ' '.join(filter(None, (
                '|'.join(entry.codes), '|'.join(entry.enhanced),
                entry.text))))
            self.assertEqual(row[4], entry.source)

    def test_some_of_each(self):
        self.assertEqual(
            {entry.about for entry in shipped_answers()}, set(About))


class TestCatalogue(unittest.TestCase):
    def assertFits(self, entry, text, fits=True, stage='rcpt'):
        found = Catalogue([entry]).find(stage, reply_of(text))
        self.assertIs(found, entry if fits else None)

    def test_the_latest_is_kept(self):
        # It is made once for all posts, as long as the file is the same.
        entries = answer('550 No'),
        kept = catalogue_of(entries)
        self.assertIs(catalogue_of(entries), kept)
        others = answer('551 No'),
        self.assertIs(
            catalogue_of(others).find('rcpt', reply_of('551 No')), others[0])
        self.assertIsNot(catalogue_of(entries), kept)

    def test_codes(self):
        for codes, code, fits in (
                ('550', 550, True), ('550', 551, False),
                ('550|551', 551, True), ('5xx', 571, True),
                ('5xx', 450, False), ('450|5xx', 450, True),
                ('450|5xx', 554, True), ('450|5xx', 451, False)):
            with self.subTest(codes=codes, code=code):
                self.assertFits(answer(f'{codes} No'), f'{code} No', fits)

    def test_enhanced(self):
        for enhanced, text, fits in (
                ('5.7.1', '550 5.7.1 No', True),
                ('5.7.1', '550 No (#5.7.1)', True),
                ('5.7.1', '550-No\n550 5.7.1 No', True),
                ('5.7.1', '550 5.7.10 No', False),
                ('5.7.1', '550 5.7.2 No', False),
                ('5.7.1', '550 No', False),
                ('5.7.1|5.7.2', '550 5.7.2 No', True),
                ('5.7.x', '550 5.7.139 No', True),
                ('5.7.x', '550 5.1.1 No', False),
                ('x.7.1', '550 5.7.1 No', True),
                ('x.x.x', '550 No', False),
                ('', '550 5.7.1 No', True),
                ('', '550 No', True)):
            with self.subTest(enhanced=enhanced, text=text):
                self.assertFits(answer(f'550 {enhanced} No'), text, fits)

    def test_text(self):
        for pattern, text, fits in (
                ('', '550 anything', True),
                ('not here', '550 It is NOT  here', True),
                ('not here', '550-It is not\n550 here', True),
                ('^not', '550 It is not', False),
                ('say 5\\.1', '550 Say 5.1.1', True),
                ('end$', '550 the end', True),
                ('\N{CYRILLIC SMALL LETTER ZHE}',
                 '550 \N{CYRILLIC CAPITAL LETTER ZHE}', True),
                ('late', '550 ' + 2000 * 'a' + 'late', False)):
            with self.subTest(pattern=pattern, text=text[:40]):
                self.assertFits(answer(f'550 {pattern}'), text, fits)

    def test_stages(self):
        for stage in STAGES:
            for other in STAGES:
                self.assertFits(
                    answer('550', [stage]), '550 No', stage == other, other)
            self.assertFits(answer('550', ['any']), '550 No', True, stage)

    def test_first_one(self):
        entries = [answer('550 a', remedy=f'{n}.') for n in range(3)]
        found = Catalogue([answer('550 b'), *entries]).find(
            'rcpt', reply_of('550 a'))
        self.assertIs(found, entries[0])

    def test_another_catalogue(self):
        # Nothing is shared between two of them.
        self.assertIsNone(Catalogue([]).find(
            'rcpt', reply_of('550 relay not permitted')))

    @given(st.sampled_from(STAGES), st.integers(400, 599),
           st.lists(st.binary(), min_size=1))
    def test_any_octets(self, stage, code, lines):
        found = SHIPPED.find(stage, Reply(code, tuple(lines)))
        if found is not None:
            self.assertIn(stage, found.stages)


class TestFile(unittest.TestCase):
    def mistake(self, text):
        with self.assertRaises(ConfigurationError) as caught:
            answers_in(text, '/etc/mine.cfg')
        said = str(caught.exception)
        self.assertTrue(said.startswith('/etc/mine.cfg: '), said)
        self.assertEqual(len(said.splitlines()), 1)
        return said

    def test_an_entry(self):
        self.assertEqual(answers_in("""\
# A comment.
[answer.our-relay]
stage: MAIL RCPT
reply: 450|5xx x.7.1|5.5.1 Not
    today
about: rate
wait: 1m30s
remedy: Wait for
    tomorrow.
source: Postmaster
""", 'mine.cfg'), (Answer(
            name='our-relay', stages=frozenset(['mail', 'rcpt']),
            codes=('450', '5xx'), enhanced=('x.7.1', '5.5.1'),
            text='Not today', about=About.rate, wait=90.0,
            remedy='Wait for tomorrow.', source='Postmaster'),))

    def test_defaults(self):
        entry, = answers_in(ENTRY, 'mine.cfg')
        self.assertEqual(entry.stages, frozenset(STAGES))
        self.assertEqual(
            (entry.enhanced, entry.wait, entry.remedy, entry.source),
            ((), None, '', ''))
        self.assertEqual(answers_in('', 'mine.cfg'), ())

    def test_master(self):
        one, other = answers_in(
            '[answer.master]\nabout: quota\nstage: end\n'
            '[answer.one]\nreply: 550\n'
            '[answer.other]\nreply: 550\nabout: us\n', 'mine.cfg')
        self.assertEqual(one.about, About.quota)
        self.assertEqual(one.stages, frozenset(['end']))
        self.assertEqual(other.about, About.us)
        # It holds for this file only.
        entry, = answers_in(ENTRY, 'mine.cfg')
        self.assertEqual(entry.stages, frozenset(STAGES))

    def test_order(self):
        names = [entry.name for entry in answers_in(''.join(
            ENTRY.replace('mine', name) for name in 'zaq'), 'mine.cfg')]
        self.assertEqual(names, ['z', 'a', 'q'])

    def test_bad_values(self):
        for key, bad, right in (
                ('stage', '', 'any, or some of'),
                ('stage', 'RSET', 'any, or some of'),
                ('stage', 'any RCPT', 'any, or some of'),
                ('reply', '', 'reply code'),
                ('reply', 'No', 'reply code'),
                ('reply', '250 Ok', 'reply code'),
                ('reply', '55x No', 'reply code'),
                ('reply', '550, 551 No', 'reply code'),
                ('reply', '550 4.7.1 No', 'no reply code'),
                ('reply', '550 (No', 'regular expression'),
                ('reply', '550 *', 'regular expression'),
                ('reply', '550 ' + 'a' * (PATTERN_LENGTH + 1), '300'),
                ('about', '', 'recipient, sender'),
                ('about', 'them', 'recipient, sender'),
                ('wait', '10', 'a duration'),
                ('wait', '0', 'a duration'),
                ('wait', 'soon', 'a duration')):
            with self.subTest(key=key, bad=bad[:20]):
                entry = {'reply': '550 No', 'about': 'us', key: bad}
                said = self.mistake('[answer.mine]\n' + ''.join(
                    f'{name}: {value}\n' for name, value in entry.items()))
                self.assertIn(f'[answer.mine] {key}', said)
                self.assertIn(right, said)

    def test_missing(self):
        for key in ('reply', 'about'):
            said = self.mistake(re.sub(f'{key}.*\n', '', ENTRY))
            self.assertIn(f'[answer.mine] {key}', said)

    def test_unknown(self):
        self.assertIn('[answer.mine] stages', self.mistake(
            ENTRY + 'stages: RCPT\n'))
        for section in ('answers.mine', 'answer.', 'answer.My', 'mine',
                        'DEFAULT', 'answer.a.b'):
            with self.subTest(section=section):
                self.assertIn(f'[{section}]', self.mistake(
                    ENTRY.replace('answer.mine', section)))

    def test_twice(self):
        self.assertIn('line 4', self.mistake(ENTRY + '[answer.mine]\n'))
        self.assertIn('line 4', self.mistake(ENTRY + 'about: us\n'))

    def test_syntax(self):
        for text in ('about: us\n', '[answer.a\n', '[answer.a]\nwhat\n'):
            with self.subTest(text=text):
                self.mistake(text)

    @given(st.data())
    def test_whatever_is_edited(self, data):
        text = ENTRY + 'stage: RCPT\nwait: 5m\n'
        begin = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(begin, min(len(text), begin + 20)))
        edited = text[:begin] + data.draw(st.text()) + text[end:]
        try:
            answers_in(edited, 'mine.cfg')
        except ConfigurationError as error:
            self.assertEqual(len(str(error).splitlines()), 1)
