# SPDX-License-Identifier: GPL-3.0-or-later

"""Sections of relays and limits: every key, and every mistake."""

from configparser import RawConfigParser
from dataclasses import asdict
from hypothesis import given, strategies as st
from importlib.resources import files
from mailman_mta_pool.configuration.files import NOT_OF_MTA, schema_text
from mailman_mta_pool.configuration.loading import settings_of_plugin
from mailman_mta_pool.secret import Secret
from mailman_mta_pool.settings import (
    AuthSettings,
    MTA,
    PoolSettings,
    Rate,
    RelaySettings,
    Settings,
    StorageSettings,
    Timeouts,
    TLSSettings,
    WireSettings,
)
from tests.configuration.case import FileTestCase, PATH, SECRET
from tests.configuration.mistakes import MISTAKES


RATES = (Rate(14, 1.0), Rate(50000, 86400.0))
#: For each key a value, the field that it goes to, and what is there then.
VALUES = {
    'host': ('mail.example.net', 'host', 'mail.example.net'),
    'port': ('2525', 'port', 2525),
    'secure_mode': ('SMTPS', 'secure_mode', 'smtps'),
    'user': ('ant', 'user', 'ant'),
    'password': ('formic', 'password', Secret('formic')),
    'auth': ('external', 'auth', AuthSettings(('EXTERNAL',))),
    'auth_insecure': ('yes', 'auth', AuthSettings(is_insecure=True)),
    'verify_cert': ('no', 'verify_cert', False),
    'verify_hostname': ('no', 'verify_hostname', False),
    'tls_min_version': ('1.3', 'tls', TLSSettings('1.3')),
    'tls_names': ('A.example.com, 192.0.2.1,a.example.com.', 'tls',
                  TLSSettings(names=('a.example.com', '192.0.2.1'))),
    'tls_fingerprint': (f'{"aB:" * 31}c9,{"0" * 64}', 'tls', TLSSettings(
        fingerprints=('ab' * 31 + 'c9', '0' * 64))),
    'hello_name': (
        'ant.example.com', 'wire', WireSettings(hello_name='ant.example.com')),
    'source_address': (
        '192.0.2.1', 'wire', WireSettings(source_address='192.0.2.1')),
    'max_connections': ('5', 'max_connections', 5),
    'max_sessions_per_connection': ('7', 'max_sessions_per_connection', 7),
    'priority': ('20', 'priority', 20),
    'weight': ('3', 'weight', 3),
    'for': ('*@example.org', 'lists', ('*@example.org',)),
    'message_rate': ('14/second; 50000/day', 'message_rate', RATES),
    'recipient_rate': ('14/second; 50000/day', 'recipient_rate', RATES),
    'connect_rate': ('14/second; 50000/day', 'connect_rate', RATES),
    }
#: The keys that name something outside the file; see test_secrets.py,
#: test_login.py and test_certificates.py.
OUTSIDE = {
    'tls_ca', 'tls_cert', 'tls_key', 'password_file', 'password_command',
    'token_command', 'token_url', 'client_id', 'client_secret_file', 'scope',
    'refresh_token_file'}
#: What one key needs besides.
BESIDES = {
    'secure_mode': 'port: 25\n', 'user': 'password: formic\n',
    'password': 'user: ant\n',
    'auth': 'tls_cert: {0}.crt\ntls_key: {1}.key\n'.format(*(
        files('mailman.testing') / f'ssl_test_{name}'
        for name in ('cert', 'key'))),
    }
#: The fields that these change, where that is more than one.
TOGETHER = {
    'user': {'user', 'password'}, 'password': {'user', 'password'},
    'auth': {'auth', 'tls'},
    }
#: Values that are no good, and what the line says of them.
BAD = {
    'host': {
        '': 'host name', 'mail.example.com:25': 'without a port',
        'smtp://a': 'without a port', 'a b': 'host name', '[::1]': 'address',
        'a..b': 'host name', 'srv:example.com': 'srv:_submissions._tcp',
        'srv:': 'srv:_submissions._tcp', 'ant@example.com': 'host name',
        'srv:_submissions._udp.example.com': 'srv:_submissions._tcp'},
    'port': {'smtp': 'whole number', '0': 'whole number of 1', '-1': '1',
             '65536': 'to 65535'},
    'verify_cert': {'': 'yes or no', 'perhaps': 'yes or no'},
    'verify_hostname': {'': 'yes or no', 'perhaps': 'yes or no'},
    'auth': {'': 'auto, or some of', 'auto, PLAIN': 'SCRAM-SHA-256',
             'NTLM': 'SCRAM-SHA-256', 'yes': 'auto'},
    'auth_insecure': {'': 'yes or no', 'perhaps': 'yes or no'},
    'pipelining': {'yes': 'auto or no'},
    'chunking': {'': 'auto or no'},
    'hello_name': {'ant example': 'host name', '[192.0.2]': 'address',
                   '[2001:db8::1]': 'address', '[IPv6:192.0.2.1]': 'address',
                   'ant..com': 'host name', '192.0.2.1\n x': 'host name'},
    'source_address': {'ant.example.com': 'IP address', '1.2.3': 'IP'},
    'max_connections': {'0': 'of 1 to 10000', '-3': 'of 1', 'many': 'whole',
                        '10001': 'to 10000'},
    'max_sessions_per_connection': {'-1': 'of 0 or more', '': 'whole'},
    'priority': {'-1': 'of 0 or more', 'first': 'whole', '': 'whole'},
    'weight': {'0': 'of 1 or more', '-1': 'of 1', '1.5': 'whole', '': '1'},
    'for': {'backup': "'backup' is not a posting address", '*': '*@',
            'ant@': 'posting address', 'ant@example.com; b@c': 'comma'},
    'message_rate': {'14': '14/second', '0/second': 'a rate', '-1/s': '/day'},
    'recipient_rate': {'14/s, 5/day': 'a ; between', 'fast': 'a rate'},
    'connect_rate': {'1/s; 2/second': 'a rate', '5/fortnight': 'a rate'},
    'tls_ca': {'ca.pem': 'absolute path', '/nonexistent': 'No such file',
               '/dev/null': 'regular'},
    'tls_cert': {'cert.pem': 'absolute path', '/nonexistent': 'No such file',
                 '/dev/null': 'regular'},
    'tls_key': {'key.pem': 'absolute path', '/nonexistent': 'No such file'},
    'tls_min_version': {'1.1': '1.2 or 1.3', '': '1.2 or 1.3', 'TLS1.2': '1'},
    'tls_names': {'*.example.com': 'without a *', 'a,,b': 'commas',
                  'a b': 'commas', '[::1]': 'IP addresses'},
    'tls_fingerprint': {
        'ab' * 31: '64 hexadecimal', 'xy' * 32: '64 hexadecimal',
        'a:' * 64: 'openssl x509', 'ab' * 20: 'SHA-256', ',': 'commas'},
    'end_timeout': {'0': 'duration', 'soon': 'duration'},
    }


def master_keys(section='relay.master'):
    schema = RawConfigParser()
    schema.read_string(schema_text())
    return dict(schema.items(section))


def with_key(section, key, value, besides=''):
    """A file with one relay, and a key of it or of its master section."""
    text = f'[{section}]\n{key}: {value}\n{besides}'
    if section != 'relay.a':
        text += '[relay.a]\n'
    return text if key == 'host' else f'{text}host: a.example.com\n'


class TestKeys(FileTestCase):
    def test_every_key_arrives(self):
        plain = self.relay('')
        for key, (text, name, value) in VALUES.items():
            for section in ('relay.a', 'relay.master'):
                with self.subTest(key=key, section=section):
                    relay, = self.loaded(with_key(
                        section, key, text, BESIDES.get(key, ''))).relays
                    self.assertEqual(getattr(relay, name), value)
                    self.assertNotEqual(getattr(plain, name), value)
                    # And nowhere else.
                    changed = {
                        field for field, before in asdict(plain).items()
                        if asdict(relay)[field] != before}
                    self.assertEqual(changed, TOGETHER.get(key, {name}))

    def test_no_key_is_forgotten(self):
        timeouts = {f'{phase}_timeout'
                    for phase in Timeouts.__dataclass_fields__}
        self.assertEqual(
            set(master_keys()), set(VALUES) | OUTSIDE | timeouts |
            # See test_settings.py.
            {'pipelining', 'chunking'})

    def test_defaults(self):
        # Those in the code are those of schema.cfg.
        self.assertEqual(self.relay(''), RelaySettings(
            name='a', host='a.example.com'))

    def test_dialogue(self):
        wire = self.relay(
            'chunking: no\nmail_timeout: 9s\n[delivery]\n'
            'pipeline_depth: 3\n').wire
        self.assertFalse(wire.chunking)
        self.assertTrue(wire.pipelining)
        self.assertEqual(wire.timeouts.mail, 9)
        self.assertEqual(wire.pipeline_depth, 3)

    def test_ports(self):
        for mode, port in (('smtp', 25), ('smtps', 465), ('starttls', 587),
                           ('StartTLS', 587)):
            with self.subTest(mode=mode):
                self.assertEqual(
                    self.relay(f'secure_mode: {mode}\n').port, port)

    def test_hosts(self):
        for host in ('mail', 'mail.example.com.', '192.0.2.1', '2001:db8::1',
                     'a_b.example.com', 'srv:_submission._tcp.example.com'):
            with self.subTest(host=host):
                relay, = self.loaded(f'[relay.a]\nhost: {host}\n').relays
                self.assertEqual(relay.host, host)

    def test_srv(self):
        relay, = self.loaded(
            '[relay.a]\nhost: SRV:_submissions._tcp.example.com\n').relays
        self.assertEqual(relay.host, 'srv:_submissions._tcp.example.com')
        self.assertEqual(relay.port, 0)
        self.mistake(
            '[relay.a]\nhost: srv:_submissions._tcp.example.com\nport: 465\n',
            '[relay.a] port', 'leave this empty')

    def test_hello_literals(self):
        for name in ('[192.0.2.1]', '[IPv6:2001:db8::1]', 'localhost'):
            with self.subTest(name=name):
                self.assertEqual(
                    self.relay(f'hello_name: {name}\n').wire.hello_name, name)

    def test_certificates(self):
        path = files('mailman.testing') / 'ssl_test_cert.crt'
        self.assertEqual(
            self.relay(f'tls_ca: {path}\n').tls.ca, str(path))
        self.mistake(
            f'[relay.a]\nhost: a\ntls_ca: {self.file("x.pem", "no")}\n',
            '[relay.a] tls_ca', 'no certificate', 'authorities')

    def test_bad_values(self):
        for key, values in BAD.items():
            self.assertIn(key, master_keys())
            for value, words in values.items():
                for section in ('relay.a', 'relay.master'):
                    with self.subTest(key=key, value=value, section=section):
                        self.mistake(
                            with_key(section, key, value),
                            f'[{section}] {key}', words)

    def test_each_line_says_what_to_do(self):
        # As with tests/operate/mistakes.py, but for what looks elsewhere.
        for name, (text, place, remedy) in MISTAKES.items():
            if 'secure_mode' not in text:
                with self.subTest(name):
                    self.mistake(text, f'{PATH}: {place}: ', remedy)

    @given(st.sampled_from(sorted(set(VALUES) | OUTSIDE)), st.text(
        st.characters(min_codepoint=32, max_codepoint=126), max_size=12))
    def test_any_value(self, key, value):
        text = f'[relay.a]\nhost: a\nuser: b\npassword: {SECRET}\n'
        if key in ('user', 'host', 'password'):
            text = '[relay.a]\n'
        try:
            self.loaded(f'{text}{key}: {value}\n', run=lambda section: 'x')
        except Exception as error:
            # The value that was drawn may be shown, the password not.
            self.assertIn(f'{PATH}: ', str(error))
            self.assertEqual(len(str(error).splitlines()), 1)
            self.assertNotIn(SECRET, str(error))


class TestSeveral(FileTestCase):
    def test_order_and_inheritance(self):
        settings = self.loaded(
            '[relay.b]\nhost: b\npriority: 5\n[relay.A]\nhost: a\n'
            '[relay.master]\nweight: 7\npriority: 20\n')
        self.assertEqual(
            [(relay.name, relay.priority, relay.weight)
             for relay in settings.relays], [('b', 5, 7), ('A', 20, 7)])
        self.assertEqual(settings.relay.name, 'b')

    def test_empty_means_not_inherited(self):
        settings = self.loaded(
            f'[relay.master]\nuser: ant\npassword: {SECRET}\nport: 25\n'
            'message_rate: 1/s\n[relay.a]\nhost: a\n'
            '[relay.b]\nhost: b\nuser:\npassword:\nport:\n'
            'message_rate:\nsecure_mode: smtps\n')
        a, b = settings.relays
        self.assertEqual(
            (a.user, a.password, a.port), ('ant', Secret(SECRET), 25))
        self.assertEqual((b.user, b.password, b.port), ('', Secret(), 465))
        self.assertEqual((a.message_rate, b.message_rate),
                         ((Rate(1, 1.0),), ()))

    def test_no_host(self):
        self.mistake('[relay.a]\nhost: a\n[relay.b]\nport: 25\n',
                     '[relay.b] host', 'missing', 'set it')

    def test_one_name(self):
        self.mistake('[relay.a]\nhost: a\n[relay.a]\nhost: b\n',
                     '[relay.a]', 'line 3')
        for text in ('[relay.a]\nhost: a\n[relay.A]\nhost: b\n',
                     '[limit.a]\n[limit.A]\n'):
            with self.subTest(text=text):
                self.mistake(text, '.A]', '.a]', 'same name', 'another')
        # A limit is no relay.
        self.loaded('[relay.a]\nhost: a\n[limit.A]\nfor: *@*\n'
                    'message_rate: 1/s\n')

    def test_names(self):
        for name in ('', 'a.b', 'a b', 'a/b', '.', '-a', 'a' * 41, 'a:b'):
            with self.subTest(name=name):
                self.mistake(f'[relay.{name}]\nhost: a\n', f'[relay.{name}]',
                             'letters, digits')
        for name in ('Master', 'MTA', 'mTa'):
            with self.subTest(name=name):
                self.mistake(f'[relay.{name}]\nhost: a\n', f'[relay.{name}]',
                             'small letters')

    def test_unknown(self):
        for text, words in (
                ('[relay.a]\nhost: a\nhots: b\n', ('[relay.a] hots', 'key')),
                ('[relay.master]\nhots: b\n', ('[relay.master] hots', 'key')),
                ('[limit.a]\nconnect_rate: 1/s\n', ('[limit.a] connect_r',)),
                ('[limits]\nstorrage: file\n', ('[limits] storrage',)),
                ('[limits.a]\nhosts: 1\n', ('[limits.a]', 'unknown section')),
                ('[limits.master]\nhosts: 1\n', ('[limits.master]',)),
                ('[relays.a]\nhost: a\n', ('[relays.a]', 'unknown section')),
                ('[relay]\nhost: a\n', ('[relay]', 'unknown section')),
                ('[meta]\nextends: other.cfg\n', ('[meta]', 'unknown'))):
            with self.subTest(text=text):
                self.mistake(text, *words)

    def test_lists_of_relays(self):
        a, b = self.loaded(
            '[relay.a]\nhost: a\nfor: *@Lists.example.org,\n ant@example.com\n'
            '[relay.b]\nhost: b\n').relays
        self.assertEqual(a.lists, ('*@lists.example.org', 'ant@example.com'))
        self.assertEqual(b.lists, ())


class TestMTA(FileTestCase):
    """The server of [mta], while no other is given."""

    def test_alone(self):
        relay, = self.loaded(
            '[relay.master]\nhello_name: ant.example.com\n'
            'message_rate: 14/s\n[relay.mta]\nmax_connections: 3\n').relays
        self.assertEqual(relay, RelaySettings(
            name=MTA, max_connections=3, message_rate=(Rate(14, 1.0),),
            wire=WireSettings(hello_name='ant.example.com')))

    def test_what_mailman_cfg_says(self):
        for key, (text, *_) in VALUES.items():
            if key not in NOT_OF_MTA:
                continue
            for section in ('relay.mta', 'relay.master'):
                with self.subTest(key=key, section=section):
                    self.mistake(
                        f'[{section}]\n{key}: {text}\n',
                        f'[{section}] {key}', NOT_OF_MTA[key], '[relay.NAME]')

    def test_the_schema_is_a_good_file(self):
        self.assertEqual(
            settings_of_plugin(PATH, schema_text()).relays,
            (RelaySettings(),))

    def test_beside_others(self):
        self.mistake('[relay.mta]\nchunking: no\n[relay.a]\nhost: a\n',
                     '[relay.mta]', '[relay.a]', 'remove the section')

    def test_pools(self):
        settings = Settings(
            pool=PoolSettings(max_connections=4))
        for name, maximum, expected in (
                (MTA, 0, 4), (MTA, 3, 3), (MTA, 9, 4),
                ('a', 0, 4), ('a', 3, 3), ('a', 9, 9)):
            with self.subTest(name=name, maximum=maximum):
                self.assertEqual(settings.pool_of(RelaySettings(
                    name=name, max_connections=maximum)).max_connections,
                    expected)


class TestLimits(FileTestCase):
    def test_all_of_it(self):
        settings = self.loaded(
            '[limit.master]\nrecipient_rate: 100/10 minutes\n'
            '[limit.ants]\nfor: ANT@example.com\n[limit.all]\nfor: *@*\n'
            'message_rate: 14/s\nrecipient_rate:\n'
            '[limits]\nstorage: redis://redis.example.com/1\nhosts: 2\n')
        ants, everybody = settings.limits
        self.assertEqual(ants.name, 'ants')
        self.assertEqual(ants.lists, ('ant@example.com',))
        self.assertEqual(ants.message_rate, ())
        self.assertEqual(ants.recipient_rate, (Rate(100, 600.0),))
        self.assertEqual(everybody.message_rate, (Rate(14, 1.0),))
        self.assertEqual(everybody.recipient_rate, ())
        self.assertEqual(
            settings.limit_storage,
            StorageSettings('redis://redis.example.com/1'))
        self.assertEqual(settings.hosts, 2)
        self.assertEqual(
            set(master_keys('limit.master')),
            {'for', 'message_rate', 'recipient_rate'})
        self.assertEqual(set(master_keys('limits')), {'storage', 'hosts'})

    def test_defaults(self):
        settings = self.loaded('')
        self.assertEqual(settings.limits, ())
        self.assertEqual(settings.limit_storage.url, 'file')
        self.assertEqual(settings.hosts, 1)

    def test_mistakes(self):
        for text, words in (
                ('[limit.a]\nmessage_rate: 1/s\n', ('[limit.a] for', '*@*')),
                ('[limit.a]\nfor: *@*\n', ('[limit.a]', 'message_rate')),
                ('[limit.a]\nfor: ants\n', ('[limit.a] for', "'ants'")),
                ('[limit.a]\nfor: *@*\nmessage_rate: 0/s\n', (
                    '[limit.a] message_rate', '14/second')),
                ('[limit.master]\nmessage_rate: 1/x\n[limit.a]\nfor: *@*\n', (
                    '[limit.master] message_rate', '14/second')),
                ('[limit.master]\nfor: *@*\n', (
                    '[limit.master] for', '[limit.NAME]')),
                ('[limits]\nhosts: 0\n', ('[limits] hosts', '1 to 1000')),
                ('[limits]\nhosts: two\n', ('[limits] hosts', "'two'"))):
            with self.subTest(text=text):
                self.mistake(text, *words)

    def test_storage(self):
        for text, *parts in (
                ('file', 'file'),
                ('FILE', 'file'),
                ('redis://h', 'redis://h'),
                ('rediss://h:6380/2', 'rediss://h:6380/2'),
                ('redis://ant@h', 'redis://h', 'ant'),
                ('redis://ant:formic@[::1]:6379/0', 'redis://[::1]:6379/0',
                 'ant', 'formic'),
                ('redis://:f%40r%25m:c@H?socket_timeout=1&ssl_ca_path=/a%20b',
                 'redis://H?socket_timeout=1&ssl_ca_path=%2Fa+b', '',
                 'f@r%m:c'),
                ('redis://:f@rm%C3%AFc@h/2', 'redis://h/2', '', 'f@rmïc'),
                ('redis://h?password=for%26mic&username=a+b&db=2',
                 'redis://h?db=2', 'a b', 'for&mic')):
            with self.subTest(text=text):
                url, user, password = (*parts, '', '')[:3]
                found = self.loaded(
                    f'[limits]\nstorage: {text}\n').limit_storage
                self.assertEqual(
                    found, StorageSettings(url, user, Secret(password)))
                if password:
                    self.assertNotIn(password, repr(found))
                self.assertNotIn(url.partition('?')[2] or '?', repr(found))

    def test_bad_storage(self):
        for text in ('', 'disk', 'redis', 'redis:', 'redis://', '/var/x',
                     'http://h/', 'redis://h:port', 'redis://h:0',
                     'redis://h:70000', 'redis://h/name', 'redis://[::1',
                     f'redis://ant:{SECRET}@h/x', f'redis://:{SECRET}@h:x',
                     f'redis://h:x?password={SECRET}',
                     f'redis://ant:{SECRET}@'):
            with self.subTest(text=text):
                self.mistake(f'[limits]\nstorage: {text}\n',
                             '[limits] storage', 'redis://redis.example.com')
