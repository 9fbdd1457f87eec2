# SPDX-License-Identifier: GPL-3.0-or-later
"""Files with one mistake each, and what the line about it says.

All of them are about relays, logins and limits.
"""

from public import public


SECRET = 'hunter2'
URL = 'https://login.example.com/oauth2/token'
A, B = '[relay.a]\nhost: a.example.com\n', '[relay.b]\nhost: b.example.com\n'
LOGIN = f'{A}user: ant\n'
ENDPOINT = f'{LOGIN}token_url: {URL}\nclient_id: lists\n'
LIMIT = '[limit.x]\nfor: *@*\nmessage_rate: 1/s\n'
NUMBER = '9' * 30
RATES = 'message_rate', 'recipient_rate', 'connect_rate'
NO_RATE = (
    '', '-1/second', '0/second', '14', 'fast', '14/fortnight',
    f'{NUMBER}/second', '1/s; 2/second', '14/s, 5/day')

#: What is wrong, the file, and the section, the key and the remedy.
MISTAKES = {
    # The host and the port.
    'no host': ('[relay.a]\nport: 25\n', '[relay.a] host', 'set it to'),
    'an empty host': ('[relay.a]\nhost:\n', '[relay.a] host', 'set it to'),
    'a host with a port': (
        '[relay.a]\nhost: a.example.com:25\n', '[relay.a] host',
        'without a port'),
    'a host of words': (
        '[relay.a]\nhost: the other server\n', '[relay.a] host',
        'a host name'),
    'a service of no protocol': (
        '[relay.a]\nhost: srv:example.com\n', '[relay.a] host',
        'srv:_submissions._tcp.example.com'),
    'a service with a port': (
        '[relay.a]\nhost: srv:_submission._tcp.example.com\nport: 587\n',
        '[relay.a] port', 'leave this empty'),
    'a mode that nobody has': (
        f'{A}secure_mode: tls\n', '[relay.a] secure_mode', 'one of smtp'),
    # Logins.
    'EXTERNAL without a certificate': (
        f'{A}auth: EXTERNAL\n', '[relay.a] auth', 'set tls_cert'),
    'a user without a password': (
        LOGIN, '[relay.a] user', 'set password, password_file'),
    'a password without a user': (
        f'{A}password: {SECRET}\n', '[relay.a] password', 'set user'),
    'a password and a file': (
        f'{LOGIN}password: {SECRET}\npassword_file: /x\n',
        '[relay.a] password_file', 'remove one'),
    'a file and a program': (
        f'{LOGIN}password_file: /dev/null\npassword_command: true\n',
        '[relay.a] password_command', 'remove one'),
    'a password outside ASCII': (
        f'{LOGIN}password: {SECRET}\xe9\n', '[relay.a] password',
        'password_file can name a file'),
    'a password file that is not there': (
        f'{LOGIN}password_file: /nonexistent\n', '[relay.a] password_file',
        "a file that Mailman's user may read"),
    'a password file that is no file': (
        f'{LOGIN}password_file: /etc\n', '[relay.a] password_file',
        "a file that Mailman's user may read"),
    'a relative password file': (
        f'{LOGIN}password_file: secret\n', '[relay.a] password_file',
        'absolute path'),
    'a program with half a quotation': (
        f"{LOGIN}password_command: echo '{SECRET}\n",
        '[relay.a] password_command', 'needs another one'),
    # Tokens and mechanisms.
    'a password and tokens': (
        f'{LOGIN}password: {SECRET}\ntoken_command: true\n',
        '[relay.a] token_command', 'remove one'),
    'tokens from two places': (
        f'{ENDPOINT}token_command: true\n',
        '[relay.a] token_url', 'remove one'),
    'tokens without a user': (
        f'{A}token_command: echo {SECRET}\n', '[relay.a] token_command',
        'set user'),
    'an endpoint in clear': (
        LOGIN + f'token_url: {URL}\n'.replace('https', 'http'),
        '[relay.a] token_url', 'with http:// it has to be on this host'),
    'an endpoint with a password': (
        LOGIN + f'token_url: {URL}\n'.replace('//', f'//ant:{SECRET}@'),
        '[relay.a] token_url', 'such as https://login.example.com'),
    'an endpoint without a client': (
        f'{LOGIN}token_url: {URL}\n', '[relay.a] client_id', 'is missing'),
    'an endpoint and nothing secret': (
        ENDPOINT, '[relay.a] client_secret_file', 'or refresh_token_file'),
    'a client secret that is no file': (
        f'{ENDPOINT}client_secret: {SECRET}\n', '[relay.a] client_secret',
        'schema.cfg'),
    'a client secret that is not there': (
        f'{ENDPOINT}client_secret_file: /nonexistent\n',
        '[relay.a] client_secret_file', "a file that Mailman's user may read"),
    'a refresh token that is not there': (
        f'{ENDPOINT}refresh_token_file: /nonexistent\n',
        '[relay.a] refresh_token_file', "a file that Mailman's user may read"),
    'a client of no endpoint': (
        f'{LOGIN}token_command: true\nclient_id: lists\n',
        '[relay.a] client_id', 'remove this key'),
    'a mechanism that nobody has': (
        f'{LOGIN}password: {SECRET}\nauth: SCRAM\n', '[relay.a] auth',
        'SCRAM-SHA-256'),
    'no mechanism': (
        f'{LOGIN}password: {SECRET}\nauth:\n', '[relay.a] auth', 'auto'),
    'a mechanism for tokens': (
        f'{LOGIN}password: {SECRET}\nauth: XOAUTH2\n', '[relay.a] auth',
        'remove the name'),
    'a mechanism for passwords': (
        f'{LOGIN}token_command: true\nauth: PLAIN\n', '[relay.a] auth',
        'remove the name'),
    # Which lists.
    'for without an @': (
        f'{A}for: lists.example.org\n', '[relay.a] for',
        '*@lists.example.org'),
    'for as if it were a relay': (
        f'{A}for: b\n{B}', '[relay.a] for', 'a posting address'),
    'for all relays': (f'{A}for: *\n', '[relay.a] for', '*@lists'),
    'for with semicolons': (
        f'{A}for: ant@example.com; bee@example.com\n', '[relay.a] for',
        'a comma goes between'),
    'for outside ASCII': (
        f'{A}for: m\xfcller@example.com\n', '[relay.a] for', 'ASCII'),
    # Names.
    'one name twice': (
        A + A, '[relay.a]', 'give it another name'),
    'one name in capitals': (
        A + A.replace('.a]', '.A]'), '[relay.A]', 'another'),
    'one name with a blank': (
        A + A.replace('.a]', '.a ]'), '[relay.a ]', 'letters, digits'),
    'a relay without a name': (
        A.replace('.a]', '.]'), '[relay.]', 'letters, digits'),
    'a name with a dot': (
        A.replace('.a]', '.a.b]'), '[relay.a.b]', 'letters, digits'),
    'a name with a slash': (
        A.replace('.a]', './etc]'), '[relay./etc]', 'letters, digits'),
    'a name outside ASCII': (
        A.replace('.a]', '.m\xfcller]'), '[relay.m\xfcller]',
        'letters, digits'),
    'a name of a line': (
        A.replace('.a]', f'.{"a" * 41}]'), f'[relay.{"a" * 41}]',
        '40 at most'),
    'the server of [mta] beside others': (
        f'{A}[relay.mta]\nchunking: no\n', '[relay.mta]',
        'remove the section'),
    'a priority of the only relay': (
        '[relay.master]\npriority: 5\n', '[relay.master] priority',
        'give relays in sections [relay.NAME]'),
    'a kind that nobody has': (
        A.replace('relay', 'relays'), '[relays.a]', 'schema.cfg'),
    'an unknown key': (f'{A}pasword: {SECRET}\n', '[relay.a] pasword',
                       'schema.cfg'),
    'a key twice': (f'{A}weight: 1\nweight: 2\n', '[relay.a] weight',
                    'remove one'),
    'a key of a relay in a limit': (
        f'{LIMIT}connect_rate: 1/s\n', '[limit.x] connect_rate',
        'schema.cfg'),
    'two limits of one name': (
        LIMIT + LIMIT, '[limit.x]', 'give it another name'),
    'a limit without a name': (
        LIMIT.replace('.x]', '.]'), '[limit.]', 'letters, digits'),
    'a limit of no list': (
        '[limit.x]\nmessage_rate: 1/s\n', '[limit.x] for', '*@* is for all'),
    'a limit of nothing': (
        '[limit.x]\nfor: *@*\n', '[limit.x]', 'message_rate: 14/second'),
    # The storage.
    'a storage of words': (
        '[limits]\nstorage: memory\n', '[limits] storage', 'file, or the URL'),
    'no storage': ('[limits]\nstorage:\n', '[limits] storage', 'redis://'),
    'a storage of another kind': (
        f'[limits]\nstorage: mysql://ant:{SECRET}@h/x\n', '[limits] storage',
        'redis://'),
    'a storage with a port of words': (
        f'[limits]\nstorage: redis://:{SECRET}@h:port\n', '[limits] storage',
        'redis://redis.example.com:6379/0'),
    }
# Every number has the same mistakes.
for _key, _section, _least in (
        ('port', A, 1), ('max_connections', A, 1),
        ('max_sessions_per_connection', A, 0), ('priority', A, 0),
        ('weight', A, 1), ('hosts', '[limits]\n', 1)):
    for _value in ['-1', 'many', '1.5', '1 000'] + ['0'] * _least + (
            [] if _key in ('port', 'max_connections') else ['']):
        MISTAKES[f'{_key}: {_value}'] = (
            f'{_section}{_key}: {_value}\n',
            f'{_section.splitlines()[0]} {_key}',
            f'a whole number of {_least}')
for _key in ('port', 'max_connections'):
    MISTAKES[f'{_key}: huge'] = (
        f'{A}{_key}: {NUMBER}\n', f'[relay.a] {_key}',
        'a whole number of 1 to')
MISTAKES['hosts: huge'] = (
    f'[limits]\nhosts: {NUMBER}\n', '[limits] hosts', 'of 1 to 1000')
for _key in RATES:
    for _value in filter(None, NO_RATE):
        MISTAKES[f'{_key}: {_value}'] = (
            f'{A}{_key}: {_value}\n', f'[relay.a] {_key}', '14/second')
        if _key != 'connect_rate':
            MISTAKES[f'limit {_key}: {_value}'] = (
                f'[limit.x]\nfor: *@*\n{_key}: {_value}\n',
                f'[limit.x] {_key}', '14/second')
for _key in ('verify_cert', 'verify_hostname', 'auth_insecure'):
    MISTAKES[_key] = (
        f'{A}{_key}: perhaps\n', f'[relay.a] {_key}', 'yes or no')
for _key in ('pipelining', 'chunking'):
    MISTAKES[_key] = f'{A}{_key}: yes\n', f'[relay.a] {_key}', 'auto or no'
for _key in 'tls_ca', 'tls_cert':
    MISTAKES[_key] = (
        f'{A}{_key}: /nonexistent\n', f'[relay.a] {_key}',
        "a file that Mailman's user may read")
MISTAKES['tls_key'] = (
    f'{A}tls_key: /etc/passwd\n', '[relay.a] tls_key', 'set tls_cert')
MISTAKES['tls_names'] = (
    f'{A}tls_names: *.example.com\n', '[relay.a] tls_names',
    'without a *')
MISTAKES['tls_fingerprint'] = (
    f'{A}tls_fingerprint: 3B:0C\n', '[relay.a] tls_fingerprint',
    '64 hexadecimal digits')
MISTAKES['tls_min_version'] = (
    f'{A}tls_min_version: 1.1\n', '[relay.a] tls_min_version', '1.2 or 1.3')
MISTAKES['hello_name'] = (
    f'{A}hello_name: two words\n', '[relay.a] hello_name', 'a host name such')
MISTAKES['source_address'] = (
    f'{A}source_address: eth0\n', '[relay.a] source_address', 'an IP address')
MISTAKES['end_timeout'] = (
    f'{A}end_timeout: 0\n', '[relay.a] end_timeout', 'a duration such as')
#: Programs that print no password, which may be otherwise a moment later.
NO_PASSWORD = {
    'it fails': 'false',
    'it is not there': f'/nonexistent/{SECRET}',
    'it prints nothing': 'true',
    'it prints two lines': f"printf '{SECRET}\\n{SECRET}\\n'",
    }
public(A=A, LOGIN=LOGIN, MISTAKES=MISTAKES, NO_PASSWORD=NO_PASSWORD,
       SECRET=SECRET)
