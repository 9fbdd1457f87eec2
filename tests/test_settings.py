# SPDX-License-Identifier: GPL-3.0-or-later

"""Every setting does something, and every mistake is named by its place."""

import os
import re
import unittest
import warnings

from contextlib import ExitStack
from dataclasses import asdict, FrozenInstanceError
from hypothesis import given, settings as examples, strategies as st
from importlib.resources import files
from mailman.config import config
from mailman.interfaces.configuration import InvalidConfigurationError
from mailman.testing.helpers import configuration
from mailman.testing.layers import ConfigLayer
from mailman_mta_pool.configuration.answers import shipped_answers
from mailman_mta_pool.configuration.files import ConfigurationError
from mailman_mta_pool.configuration.loading import load, settings_of_plugin
from mailman_mta_pool.secret import Secret
from mailman_mta_pool.settings import Settings, Timeouts
from tempfile import TemporaryDirectory


#: Another value for each kind of default.
CHANGED = {
    '0': ('7', 7),
    '3': ('7', 7),
    '32': ('7', 7),
    '1000': ('7', 7),
    '500': ('7', 7),
    'auto': ('no', False),
    'no': ('yes', True),
    'process': ('power', 'power'),
    'shunt': ('bounce', 'bounce'),
    }
#: What the error for a bad value says would be right, by default.
KINDS = {
    'auto': 'auto or no',
    'no': 'yes or no',
    'process': 'process, power or no',
    'shunt': 'shunt or bounce',
    }
BAD = {
    'a duration': ('10', 'soon', '', '-5s', '1h 5', '0x',
                   '999999999999d'),
    'a whole number': ('two', '', '-1', '1.5'),
    }
#: The keys of relays that are about the dialogue.
OF_ALL_SERVERS = frozenset(
    ['pipelining', 'chunking'] +
    [f'{phase}_timeout' for phase in Timeouts.__dataclass_fields__])
BAD_WORDS = ('7', '', 'never', 'yes no')


def schema_lines():
    """Return the lines of the schema.cfg that the package brings along."""
    path = files('mailman_mta_pool.configuration') / 'schema.cfg'
    return path.read_text('utf-8').splitlines()


def schema_keys():
    """Yield section, key and default of all that schema.cfg has."""
    section = None
    for line in schema_lines():
        if line.startswith('['):
            section = line.strip('[]').replace('relay.master', 'relay.mta')
        elif line and not line.startswith('#'):
            key, _, default = line.partition(':')
            yield section, key, default.strip()


def plain_keys():
    """Those of `schema_keys` that a word, a number or a duration follows.

    Those of relays and limits have tests/configuration to themselves.
    """
    return (item for item in schema_keys()
            if item[1] not in ('answers', 'textfile') and
            not item[0].startswith('limit') and
            (item[0] != 'relay.mta' or item[1] in OF_ALL_SERVERS))


def flattened(value, prefix=''):
    """All fields of nested settings."""
    if prefix == '.relays':
        value, = value
    if not isinstance(value, dict):
        return {prefix: value}
    fields = {}
    for name, inner in value.items():
        fields.update(flattened(inner, f'{prefix}.{name}'))
    return fields


class SettingsTestCase(unittest.TestCase):
    layer = ConfigLayer

    def setUp(self):
        resources = ExitStack()
        self.addCleanup(resources.close)
        self.path = os.path.join(
            resources.enter_context(TemporaryDirectory()), 'mta_pool.cfg')
        resources.enter_context(configuration(
            'plugin.mta_pool',
            **{'class': 'mailman_mta_pool.plugin.MTAPoolPlugin'},
            enabled='yes', component_package='mailman_mta_pool',
            configuration=self.path))

    def write(self, text):
        with open(self.path, 'w', encoding='utf-8') as fp:
            fp.write(text)

    def loaded(self, text):
        self.write(text)
        return load()

    def mistake(self, text):
        with self.assertRaises(ConfigurationError) as caught:
            self.loaded(text)
        self.assertIsInstance(caught.exception, InvalidConfigurationError)
        self.assertIn(self.path, str(caught.exception))
        self.assertEqual(len(str(caught.exception).splitlines()), 1)
        return str(caught.exception)


class TestSchema(SettingsTestCase):
    def test_defaults(self):
        # Those in the code and those that the operator reads are the same,
        # but for what [mta] has.
        ours = flattened(asdict(self.loaded('')))
        for name, value in flattened(asdict(Settings())).items():
            if name not in ('.relays.port', '.delivery.max_recipients',
                            '.delivery.answers'):
                with self.subTest(name=name):
                    self.assertEqual(ours[name], value)

    def test_every_key_arrives(self):
        default = flattened(asdict(self.loaded('')))
        arrived = set()
        for section, key, value in plain_keys():
            text, expected = CHANGED.get(value, ('77s', 77.0))
            changed = flattened(asdict(self.loaded(
                f'[{section}]\n{key}: {text}\n')))
            differing = {name for name in default
                         if default[name] != changed[name]}
            with self.subTest(key=key):
                self.assertEqual(len(differing), 1)
                name = differing.pop()
                self.assertIn(name.rpartition('.')[2], (
                    key, re.sub('_timeout$', '', key)))
                self.assertEqual(changed[name], expected)
                # And in a place of its own.
                self.assertNotIn(name, arrived)
                arrived.add(name)
        self.assertEqual(len(arrived), 28)

    def test_nothing_deprecated(self):
        # Of a file with a name of its own nothing is remembered.
        with warnings.catch_warnings():
            warnings.simplefilter('error', DeprecationWarning)
            self.loaded('')

    def test_every_key_is_explained(self):
        lines = schema_lines()
        for _, key, value in schema_keys():
            above = lines[lines.index(f'{key}: {value}'.strip()) - 1]
            with self.subTest(key=key):
                self.assertTrue(above.startswith('# '), above)

    def test_durations(self):
        for text, seconds in (('90s', 90), ('10m', 600), ('1h30m', 5400),
                              ('1d', 86400), ('0', 0), ('0s', 0)):
            with self.subTest(text=text):
                self.assertEqual(self.loaded(
                    f'[pool]\nidle_timeout: {text}\n').pool.idle_timeout,
                    seconds)

    def test_relay_master_is_for_all(self):
        settings = self.loaded('[relay.master]\nchunking: no\n')
        self.assertFalse(settings.relay.wire.chunking)
        settings = self.loaded(
            '[relay.master]\nchunking: no\n[relay.mta]\npipelining: no\n')
        self.assertFalse(settings.relay.wire.chunking)
        self.assertFalse(settings.relay.wire.pipelining)

    def test_a_changed_file_is_read_again(self):
        for attempts in (4, 5):
            settings = self.loaded(f'[delivery]\nattempts: {attempts}\n')
            self.assertEqual(settings.delivery.attempts, attempts)

    def test_no_plugin_section(self):
        self.write('[delivery]\nattempts: 9\n')
        with configuration('plugin.mta_pool', enabled='no'):
            self.assertEqual(load().delivery.attempts, 3)

    def test_from_a_package(self):
        schema = 'python:mailman_mta_pool.configuration.schema'
        with configuration('plugin.mta_pool', configuration=schema):
            self.assertEqual(load().delivery.attempts, 3)


class TestMistakes(SettingsTestCase):
    def test_bad_values(self):
        for section, key, value in plain_keys():
            kind = KINDS.get(value) or (
                'a whole number' if value.isdigit() else 'a duration')
            for bad in BAD.get(kind, BAD_WORDS):
                with self.subTest(key=key, bad=bad):
                    message = self.mistake(f'[{section}]\n{key}: {bad}\n')
                    self.assertIn(f'[{section}] {key}', message)
                    self.assertIn(repr(bad), message)
                    self.assertIn(kind, message)

    def test_zero_where_it_means_nothing(self):
        for key in ('attempts', 'pipeline_depth',
                    'max_recipients_server_verp'):
            self.assertIn(f'[delivery] {key}', self.mistake(
                f'[delivery]\n{key}: 0\n'))
        for text in ('0', '0s'):
            self.assertIn('[relay.mta] end_timeout', self.mistake(
                f'[relay.mta]\nend_timeout: {text}\n'))

    def test_unknown_key(self):
        for section in ('pool', 'delivery', 'relay.mta', 'relay.master'):
            with self.subTest(section=section):
                message = self.mistake(f'[{section}]\nidle_time: 10s\n')
                self.assertIn(f'[{section}] idle_time', message)
                self.assertIn('unknown key', message)

    def test_unknown_section(self):
        for name in ('pools', 'pools.mta', 'relay.mta.other'):
            with self.subTest(name=name):
                message = self.mistake(f'[{name}]\nidle_timeout: 10s\n')
                self.assertIn(f'[{name}]', message)

    def test_syntax(self):
        for text in ('idle_timeout: 10s\n', '[pool\n', '[pool]\nwhat\n'):
            with self.subTest(text=text):
                self.mistake(text)

    def test_twice(self):
        message = self.mistake('[pool]\n[delivery]\n[pool]\n')
        self.assertIn('[pool]: line 3', message)
        message = self.mistake('[delivery]\nattempts: 1\nattempts: 1\n')
        self.assertIn('[delivery] attempts: line 3', message)

    def test_not_ascii(self):
        message = self.mistake('[delivery]\nattempts: \N{SUPERSCRIPT TWO}\n')
        self.assertIn('[delivery] attempts', message)
        # In a comment it does no harm.
        self.loaded('# na\N{LATIN SMALL LETTER I WITH DIAERESIS}ve\n')

    @examples(deadline=None)
    @given(st.data())
    def test_whatever_is_edited(self, data):
        text = '\n'.join(schema_lines()) + '\n'
        begin = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(begin, min(len(text), begin + 20)))
        edited = text[:begin] + data.draw(st.text()) + text[end:]
        try:
            settings_of_plugin(self.path, edited)
        except ConfigurationError as error:
            self.assertEqual(len(str(error).splitlines()), 1)

    def test_not_text(self):
        with open(self.path, 'wb') as fp:
            fp.write(b'[pool]\n# \xff\xfe\n')
        with self.assertRaises(ConfigurationError) as caught:
            load()
        self.assertIn(self.path, str(caught.exception))

    def test_missing_file(self):
        with self.assertRaises(ConfigurationError) as caught:
            load()
        self.assertIn(self.path, str(caught.exception))
        self.assertIn(
            '[plugin.mta_pool] configuration', str(caught.exception))

    def test_missing_package(self):
        for name in ('python:no.such.package', 'python:nonsense'):
            with self.subTest(name=name), configuration(
                    'plugin.mta_pool', configuration=name):
                with self.assertRaises(ConfigurationError) as caught:
                    load()
                self.assertIn(name, str(caught.exception))


class TestAnswers(SettingsTestCase):
    """A site's own answers, in a file of their own."""

    def setUp(self):
        super().setUp()
        self.answers_path = os.path.join(
            os.path.dirname(self.path), 'answers.cfg')
        self.write(f'[delivery]\nanswers: {self.answers_path}\n')

    def write_answers(self, text):
        with open(self.answers_path, 'w', encoding='utf-8') as fp:
            fp.write(text)

    def test_shipped(self):
        self.assertEqual(
            self.loaded('').delivery.answers, shipped_answers())

    def test_own_go_first(self):
        self.write_answers('[answer.mine]\nreply: 550\nabout: us\n')
        answers = load().delivery.answers
        self.assertEqual(answers[0].name, 'mine')
        self.assertEqual(answers[1:], shipped_answers())

    def test_from_a_package(self):
        self.write(
            '[delivery]\n'
            'answers: python:mailman_mta_pool.settlement.answers\n')
        self.assertEqual(load().delivery.answers, shipped_answers() * 2)

    def test_mistake(self):
        self.write_answers('[answer.mine]\nreply: 550\nabout: them\n')
        with self.assertRaises(ConfigurationError) as caught:
            load()
        self.assertIn(
            f'{self.answers_path}: [answer.mine] about',
            str(caught.exception))

    def test_missing_file(self):
        with self.assertRaises(ConfigurationError) as caught:
            load()
        for words in (self.path, '[delivery] answers', self.answers_path):
            self.assertIn(words, str(caught.exception))


class TestMetrics(SettingsTestCase):
    def test_textfile(self):
        settings = self.loaded('[metrics]\ntextfile: /var/lib/mailman.prom\n')
        self.assertEqual(settings.metrics.textfile, '/var/lib/mailman.prom')
        self.assertEqual(
            self.loaded('[metrics]\ntextfile:\n').metrics.textfile, '')

    def test_relative_textfile(self):
        # It would be in a directory that depends on who starts the runner.
        message = self.mistake('[metrics]\ntextfile: mailman.prom\n')
        for words in ('[metrics] textfile', 'mailman.prom', 'absolute path'):
            self.assertIn(words, message)


class TestMTA(unittest.TestCase):
    """What comes from [mta]."""

    layer = ConfigLayer

    def test_all_of_it(self):
        with configuration(
                'mta', smtp_host='mail.example.net', smtp_port=2525,
                smtp_user='anne', smtp_pass='Zebra-7',
                smtp_secure_mode='STARTTLS', smtp_verify_cert='no',
                smtp_verify_hostname='no', max_sessions_per_connection=17,
                max_delivery_threads=8):
            settings = load()
        relay = settings.relay
        self.assertEqual(
            (relay.host, relay.port, relay.user, relay.password),
            ('mail.example.net', 2525, 'anne', Secret('Zebra-7')))
        self.assertEqual(relay.secure_mode, 'starttls')
        self.assertFalse(relay.verify_cert)
        self.assertFalse(relay.verify_hostname)
        self.assertEqual(relay.max_sessions_per_connection, 17)
        self.assertEqual(settings.pool.max_connections, 8)

    def test_none_and_one_thread_are_the_same(self):
        for threads in (0, 1):
            with configuration('mta', max_delivery_threads=threads):
                self.assertEqual(load().pool.max_connections, 1)

    def test_less_than_no_messages_is_no_limit(self):
        with configuration('mta', max_sessions_per_connection=-1):
            self.assertEqual(load().relay.max_sessions_per_connection, 0)

    def test_mistakes(self):
        for key, bad in (('smtp_port', 'smtp'), ('smtp_port', '0'),
                         ('smtp_port', '65536'), ('smtp_verify_cert', '?'),
                         ('smtp_verify_hostname', ''),
                         ('max_delivery_threads', 'many'),
                         ('max_recipients', 'unlimited'),
                         ('max_delivery_threads', '-1'),
                         ('max_sessions_per_connection', '')):
            with self.subTest(key=key), configuration('mta', **{key: bad}):
                with self.assertRaises(ConfigurationError) as caught:
                    load()
                self.assertIn(f'[mta] {key}', str(caught.exception))
                self.assertIn(repr(bad), str(caught.exception))
                self.assertIn(config.filename, str(caught.exception))

    def test_repr_has_no_secrets(self):
        with configuration('mta', smtp_user='the-user', smtp_pass='pa55'):
            settings = load()
        for text in (repr(settings), str(settings), repr(settings.relay)):
            self.assertNotIn('the-user', text)
            self.assertNotIn('pa55', text)

    def test_frozen(self):
        settings = load()
        with self.assertRaises(FrozenInstanceError):
            settings.delivery.attempts = 5
        with self.assertRaises(FrozenInstanceError):
            settings.relay.wire.timeouts.end = 5
        # Equal settings are the same relay.
        self.assertEqual(settings, load())
        self.assertEqual(hash(settings), hash(load()))
