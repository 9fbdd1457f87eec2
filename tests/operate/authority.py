# SPDX-License-Identifier: GPL-3.0-or-later
"""A certification authority of a test's own, made by openssl."""

import ssl
import time
import shutil
import tempfile
import subprocess

from pathlib import Path
from public import public


CONFIGURATION = """\
[ca]
default_ca = throwaway
[throwaway]
database = index.txt
serial = serial
new_certs_dir = .
default_md = sha256
policy = anything
copy_extensions = copy
unique_subject = no
[anything]
commonName = supplied
[req]
distinguished_name = nothing
[nothing]
"""
DAY_S = 86400


@public
class Authority:
    """The authority; a context manager.

    :ivar certificate: The path of its own certificate.
    """

    def __init__(self, name='The Ants'):
        """Prepare it.

        :param name: Its name.
        """
        self._name = name

    def __enter__(self):
        self._directory = Path(tempfile.mkdtemp(prefix='authority-'))
        self.certificate = self._directory / 'ca.crt'
        for name, text in ('openssl.cnf', CONFIGURATION), (
                'index.txt', ''), ('serial', '01\n'):
            (self._directory / name).write_text(text)
        self._openssl(
            'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '3650',
            '-keyout', 'ca.key', '-out', 'ca.crt',
            '-addext', 'basicConstraints=critical,CA:TRUE',
            '-subj', f'/CN={self._name}')
        return self

    def __exit__(self, *ignore):
        shutil.rmtree(self._directory)

    def _openssl(self, command, *arguments):
        subprocess.run(
            ('openssl', command, '-config', 'openssl.cnf', *arguments),
            cwd=self._directory, check=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def context(self, *names, days=90):
        """Return a server's context with a certificate of this authority.

        :param names: The names that it is for, such as 'DNS:localhost'.
        :param days: For how many days it is valid; it has expired if that is
            negative.
        """
        self._openssl(
            'req', '-newkey', 'rsa:2048', '-nodes', '-keyout', 'key.pem',
            '-out', 'request.pem', '-subj', '/CN=the server',
            '-addext', 'subjectAltName=' + ','.join(names))
        now = time.time()
        self._openssl(
            'ca', '-batch', '-notext', '-cert', 'ca.crt', '-keyfile', 'ca.key',
            '-in', 'request.pem', '-out', 'server.pem',
            # An hour more, so that whole days are left.
            '-startdate', _moment(now - 100 * DAY_S),
            '-enddate', _moment(now + days * DAY_S + 3600))
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(
            self._directory / 'server.pem', self._directory / 'key.pem')
        return context


def _moment(seconds):
    return time.strftime('%Y%m%d%H%M%SZ', time.gmtime(seconds))
