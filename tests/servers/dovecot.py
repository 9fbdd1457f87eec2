# SPDX-License-Identifier: GPL-3.0-or-later

"""A real Dovecot: its submission service, and SASL for a Postfix."""

import os
import re
import base64
import shutil
import tempfile
import subprocess

from importlib.resources import files
from public import public
from tests.servers.loopback import (
    end_group,
    free_port,
    HOST,
    is_accepting,
    make_passable,
    wait_until,
)


SUBMISSION = '/usr/lib/dovecot/submission'
MECHANISMS = ('plain', 'login', 'cram-md5', 'scram-sha-1', 'scram-sha-256',
              'oauthbearer', 'xoauth2')
# What Dovecot 2.3, which Debian 12 has, and 2.4, which Debian 13 has, have in
# common.
COMMON = """\
base_dir = {directory}/run
state_dir = {directory}/state
log_path = {directory}/dovecot.log
auth_verbose = yes
auth_failure_delay = 0
protocols = submission
hostname = dovecot.example.net
ssl = yes
{certificates}
auth_mechanisms = {mechanisms}
auth_username_chars =
first_valid_uid = 1
mail_uid = nobody
mail_gid = nogroup
submission_relay_host = {relay_host}
submission_relay_port = {relay_port}
submission_relay_trusted = no
service submission-login {{
  inet_listener submission {{
    {address} = {host}
    port = {port}
  }}
  inet_listener submissions {{
    {address} = {host}
    port = {tls_port}
    ssl = yes
  }}
}}
# No pause after a wrong password.
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service auth {{
  unix_listener {directory}/auth-client {{
    mode = 0666
  }}
}}
"""
OF_23 = """\
ssl_cert = <{directory}/cert.pem
ssl_key = <{directory}/key.pem
disable_plaintext_auth = yes
mail_location = maildir:{directory}/mail/%u
passdb {{
  driver = passwd-file
  mechanisms = plain login cram-md5 scram-sha-1 scram-sha-256
  args = username_format=%u {directory}/users
}}
passdb {{
  driver = passwd-file
  mechanisms = external
  args = username_format=%u {directory}/certified
}}
passdb {{
  driver = oauth2
  mechanisms = oauthbearer xoauth2
  args = {directory}/oauth2.conf.ext
}}
userdb {{
  driver = static
  args = uid=nobody gid=nogroup home={directory}/mail/%u
}}
"""
# The versions are to be named before all else.
BEGIN_24 = """\
dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
"""
OF_24 = """\
ssl_server_cert_file = {directory}/cert.pem
ssl_server_key_file = {directory}/key.pem
auth_allow_cleartext = no
mail_driver = maildir
mail_path = {directory}/mail/%{{user}}
passdb passwd-file {{
  passwd_file_path = {directory}/users
  mechanisms_filter = plain login cram-md5 scram-sha-1 scram-sha-256
}}
passdb certified {{
  driver = passwd-file
  passwd_file_path = {directory}/certified
  mechanisms_filter = external
}}
passdb oauth2 {{
  mechanisms_filter = oauthbearer xoauth2
}}
oauth2 {{
  introspection_mode = post
  introspection_url = {url}
  username_attribute = username
  active_attribute = active
  active_value = true
}}
userdb static {{
  fields {{
    uid = nobody
    gid = nogroup
    home = {directory}/mail/%{{user}}
  }}
}}
"""
OAUTH2 = """\
introspection_mode = post
introspection_url = {url}
username_attribute = username
active_attribute = active
active_value = true
"""
# For EXTERNAL: the common name in the certificate is the user's name.
CERTIFICATES = """\
ssl_ca = <{authority}
ssl_verify_client_cert = yes
ssl_require_crl = no
auth_ssl_require_client_cert = yes
auth_ssl_username_from_cert = yes
ssl_cert_username_field = commonName
"""
CERTIFICATES_24 = """\
ssl_server_ca_file = {authority}
ssl_server_request_client_cert = yes
ssl_server_require_crl = no
auth_ssl_require_client_cert = yes
auth_ssl_username_from_cert = yes
ssl_server_cert_username_field = commonName
"""
FAILURE = re.compile(
    r'auth(?:: (?:Info|Error): [\w-]+\(|\(.*,sasl:.*\)<.*>: (?:Info|Error): )')


@public
def available():
    """Tell why Dovecot cannot be run here.

    :return: The empty string if it can, else the reason.
    """
    if os.geteuid() != 0:
        return 'Dovecot needs root'
    if shutil.which('dovecot') is None or not os.path.exists(SUBMISSION):
        return 'not installed: dovecot (see tests/servers/install.sh)'
    return ''


def _is_new():
    """True if Dovecot is 2.4 or later, where most settings have new names."""
    version = subprocess.run(
        ('dovecot', '--version'), capture_output=True, text=True).stdout
    return tuple(map(int, re.findall('[0-9]+', version)[:2])) >= (2, 4)


@public
class Dovecot:
    """A Dovecot; a context manager.

    :ivar port: Where its submission service is, with STARTTLS.
    :ivar tls_port: Where it is with TLS from the start.
    :ivar auth_socket: Where a Postfix asks it about logins.
    """

    def __init__(self, relay_to, users,
                 introspection='http://127.0.0.1:1/', authority=None):
        """Prepare it.

        :param relay_to: The server that it hands everything on to, with a
            `host` and a `port`.
        :param users: The passwords of its users, by their names.
        :param introspection: The URL where it asks about tokens.
        :param authority: The path of the certificate of the authority that
            signs those of its users, who show them then, and log in by
            EXTERNAL; None if there is none.
        """
        self.host = HOST
        self._relay = relay_to
        self._users = users
        self._introspection = introspection
        self._authority = authority
        self._process = None

    def __enter__(self):
        self.directory = tempfile.mkdtemp(prefix='dovecot-')
        make_passable(self.directory)
        self.port, self.tls_port = free_port(), free_port()
        self.auth_socket = self._path('auth-client')
        try:
            self._configure()
            self._process = subprocess.Popen(
                ('dovecot', '-F', '-c', self._path('dovecot.conf')),
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, start_new_session=True,
                umask=0o022)
            wait_until(lambda: self._process.poll() is not None or
                       is_accepting(self.port), 'Dovecot')
            if self._process.poll() is not None:
                raise RuntimeError(self._complaint())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *ignore):
        if self._process is not None:
            end_group(self._process.pid)
            self._process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _complaint(self):
        return subprocess.run(
            ('dovecot', '-F', '-c', self._path('dovecot.conf')),
            capture_output=True, text=True, timeout=10).stderr

    def _path(self, name):
        return os.path.join(self.directory, name)

    def _configure(self):
        for name in ('run', 'state', 'mail'):
            os.mkdir(self._path(name))
            make_passable(self._path(name))
        shutil.chown(self._path('mail'), 'nobody', 'nogroup')
        source = files('mailman.testing')
        self._write('cert.pem', (source / 'ssl_test_cert.crt').read_text())
        self._write('key.pem', (source / 'ssl_test_key.key').read_text(),
                    0o600)
        # Base64, because a colon divides the fields.
        self._write('users', ''.join(
            '{}:{{PLAIN.b64}}{}\n'.format(
                user, base64.b64encode(password.encode()).decode())
            for user, password in self._users.items()))
        # The certificate is all that they need.
        self._write('certified', ''.join(
            f'{user}:::::::nopassword=y\n' for user in self._users))
        self._write('oauth2.conf.ext', OAUTH2.format(
            url=self._introspection))
        configuration, certificates = COMMON + OF_23, CERTIFICATES
        address = 'address'
        if _is_new():
            configuration, certificates = (
                BEGIN_24 + COMMON + OF_24, CERTIFICATES_24)
            address = 'listen'
        mechanisms = MECHANISMS
        if self._authority is None:
            certificates = ''
        else:
            mechanisms = ('external', *mechanisms)
        self._write('dovecot.conf', configuration.format(
            directory=self.directory, address=address, host=HOST,
            port=self.port, tls_port=self.tls_port,
            relay_host=self._relay.host, relay_port=self._relay.port,
            url=self._introspection,
            mechanisms=' '.join(mechanisms),
            certificates=certificates.format(authority=self._authority)))

    def _write(self, name, text, mode=0o644):
        with open(self._path(name), 'w', encoding='utf-8') as fp:
            fp.write(text)
        os.chmod(self._path(name), mode)

    def log(self):
        """Return what its log holds now."""
        with open(self._path('dovecot.log'), encoding='utf-8',
                  errors='replace') as fp:
            return fp.read()

    def failures(self):
        """Return the lines about logins that it has refused."""
        return [line for line in self.log().splitlines()
                if FAILURE.search(line)]
