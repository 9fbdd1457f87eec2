# SPDX-License-Identifier: GPL-3.0-or-later

"""What is to be changed has the name that it has for this mail server."""

import re
import unittest

from mailman_mta_pool.configuration.answers import shipped_answers
from mailman_mta_pool.configuration.files import NOT_OF_MTA
from mailman_mta_pool.keys import in_words_of, key_of, OF_RELAYS
from mailman_mta_pool.settings import (
    About,
    Answer,
    AuthSettings,
    RelaySettings,
    TokenSettings,
)
from mailman_mta_pool.settlement.catalogue import Catalogue
from mailman_mta_pool.settlement.table import Judge
from mailman_mta_pool.wire.transaction import Stage
from tests.settlement.world import reply


OF_MTA = RelaySettings()
SES = RelaySettings(name='ses')
WITH_FILE = RelaySettings(name='ses', password_key='password_file')
WITH_TOKENS = RelaySettings(
    password_key='token_url', auth=AuthSettings(
        token=TokenSettings(url='https://login.example.com/token')))


class TestKeys(unittest.TestCase):
    def test_one_key(self):
        for relay, key, expected in (
                (OF_MTA, 'smtp_host', '[mta] smtp_host'),
                (SES, 'smtp_host', '[relay.ses] host'),
                (SES, 'smtp_pass', '[relay.ses] password'),
                (WITH_FILE, 'smtp_pass', '[relay.ses] password_file'),
                (WITH_TOKENS, 'smtp_user', '[mta] smtp_user'),
                (WITH_TOKENS, 'smtp_pass', '[relay.mta] token_url'),
                (SES, 'max_delivery_threads', '[relay.ses] max_connections'),
                (SES, 'verp_format', '[mta] verp_format')):
            with self.subTest(relay=relay.name, key=key):
                self.assertEqual(key_of(relay, key), expected)

    def test_same_names_as_the_configuration(self):
        for key, same in OF_RELAYS.items():
            if key != 'max_delivery_threads':
                self.assertEqual(NOT_OF_MTA[same], key)

    def test_texts(self):
        for text, of_mta, of_ses in (
                ('Check smtp_user and smtp_pass in mailman.cfg, and wait.',
                 'Check [mta] smtp_user and smtp_pass in mailman.cfg, and '
                 'wait.',
                 'Check [relay.ses] user and password in mta_pool.cfg, and '
                 'wait.'),
                ('Raise smtpd_x, or lower max_delivery_threads.',
                 'Raise smtpd_x, or lower [mta] max_delivery_threads.',
                 'Raise smtpd_x, or lower [relay.ses] max_connections in '
                 'mta_pool.cfg.'),
                ('Set smtp_secure_mode: starttls, or smtp_port.',
                 'Set [mta] smtp_secure_mode: starttls, or smtp_port.',
                 'Set [relay.ses] secure_mode: starttls in mta_pool.cfg, or '
                 'port.'),
                ('Lower max_recipients in mailman.cfg to that.',
                 'Lower [mta] max_recipients in mailman.cfg to that.',
                 'Lower [mta] max_recipients in mailman.cfg to that.'),
                ('not verified: [mta] smtp_verify_cert: no',
                 'not verified: [mta] smtp_verify_cert: no',
                 'not verified: [relay.ses] verify_cert: no in mta_pool.cfg'),
                ('Raise smtp_accept_max_per_host in Exim.',
                 'Raise smtp_accept_max_per_host in Exim.',
                 'Raise smtp_accept_max_per_host in Exim.')):
            with self.subTest(text=text):
                self.assertEqual(in_words_of(OF_MTA, text), of_mta)
                self.assertEqual(in_words_of(SES, text), of_ses)
                # What has been said so needs no more of it.
                for relay, said in ((OF_MTA, of_mta), (SES, of_ses)):
                    self.assertEqual(in_words_of(relay, said), said)

    def test_without_the_file(self):
        self.assertEqual(
            in_words_of(SES, 'because of [mta] smtp_verify_cert: no', False),
            'because of [relay.ses] verify_cert: no')

    def test_tokens_for_the_server_of_mta(self):
        # They are in a section of the plugin's own file.
        for text, expected in (
                ('Check smtp_user and smtp_pass in mailman.cfg, and wait.',
                 'Check [mta] smtp_user in mailman.cfg and [relay.mta] '
                 'token_url in mta_pool.cfg, and wait.'),
                ('Correct smtp_user and smtp_pass.',
                 'Correct [mta] smtp_user and [relay.mta] token_url.'),
                ('[mta] smtp_user and smtp_pass are not both set',
                 '[mta] smtp_user and [relay.mta] token_url are not both set'),
                ('Another for smtp_pass.', 'Another for [relay.mta] '
                 'token_url.'),
                ('Set smtp_secure_mode: starttls, or smtp_port.',
                 'Set [mta] smtp_secure_mode: starttls, or smtp_port.')):
            with self.subTest(text=text):
                self.assertEqual(in_words_of(WITH_TOKENS, text), expected)
                self.assertEqual(in_words_of(WITH_TOKENS, expected), expected)
        for answer in shipped_answers():
            self.assertNotIn(
                'smtp_pass', in_words_of(WITH_TOKENS, answer.remedy))

    def test_the_catalogue(self):
        said = 0
        for answer in shipped_answers():
            text = in_words_of(SES, answer.remedy)
            with self.subTest(answer=answer.name):
                self.assertNotRegex(
                    text, r'\b(smtp_(host|port|user|pass|secure_mode|'
                    r'verify_\w+)|max_delivery_threads)\b')
                for section in re.findall(r'\[[^]]+\]', text):
                    self.assertIn(section, ('[relay.ses]', '[mta]'))
                if '[relay.ses]' in text:
                    said += 1
                    self.assertIn(' in mta_pool.cfg', text)
                    self.assertNotIn('mailman.cfg', text)
        self.assertGreater(said, 30)

    def test_a_judge(self):
        catalogue = Catalogue((Answer(
            'x', frozenset(['rcpt', 'auth']), ('535',), (), '', About.us,
            None, 'Check smtp_user.', ''),))
        for relay, remedy in (
                (None, 'Check [mta] smtp_user.'),
                (SES, 'Check [relay.ses] user in mta_pool.cfg.')):
            judge = Judge(catalogue, relay=relay)
            for judgement in (
                    judge.judge(Stage.rcpt, reply('535 No')),
                    judge.judge_opening('AUTH', reply('535 No'))):
                self.assertEqual(judgement.remedy, remedy)
