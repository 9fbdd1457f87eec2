# SPDX-License-Identifier: GPL-3.0-or-later
"""A certification authority of a test's own, made by openssl."""

import ssl
import time
import shutil
import tempfile
import subprocess

from hashlib import sha256
from pathlib import Path
from public import public
from typing import NamedTuple


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
x509_extensions = signed
[anything]
commonName = supplied
[signed]
authorityKeyIdentifier = keyid
subjectKeyIdentifier = hash
[req]
distinguished_name = nothing
[nothing]
"""
DAY_S = 86400
EC = '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'


@public
def available():
    """Tell why no certificates can be made here.

    :return: The empty string if they can, else the reason.
    """
    return '' if shutil.which('openssl') else 'not installed: openssl'


@public
class Issued(NamedTuple):
    """A certificate of the authority.

    :ivar cert: The path of its file, in PEM.
    :ivar key: The path of its private key.
    """

    cert: str
    key: str

    @property
    def fingerprint(self):
        """The SHA-256 in hexadecimal digits."""
        pem = Path(self.cert).read_text()
        return sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()

    def context(self, authorities=None):
        """Return a server's context with this certificate.

        :param authorities: The path of those whose certificates it demands of
            its clients; None if it asks for none.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, self.key)
        if authorities is not None:
            context.load_verify_locations(authorities)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


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
        self._issued = 0
        self.certificate = self._directory / 'ca.crt'
        for name, text in ('openssl.cnf', CONFIGURATION), (
                'index.txt', ''), ('serial', '01\n'):
            (self._directory / name).write_text(text)
        self._openssl(
            'req', '-x509', *EC, '-days', '3650',
            '-keyout', 'ca.key', '-out', 'ca.crt',
            '-addext', 'basicConstraints=critical,CA:TRUE',
            '-addext', 'keyUsage=critical,keyCertSign,cRLSign',
            '-subj', f'/CN={self._name}')
        return self

    def __exit__(self, *ignore):
        shutil.rmtree(self._directory)

    def _openssl(self, command, *arguments):
        subprocess.run(
            ('openssl', command, '-config', 'openssl.cnf', *arguments),
            cwd=self._directory, check=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def context(self, *names, **options):
        """Return a server's context with a certificate; see `issue`."""
        return self.issue(*names, **options).context()

    def issue(self, *names, days=90, since=-100, subject='the server',
              purpose=None):
        """Return an `Issued` certificate.

        :param names: The names that it is for, such as 'DNS:localhost'; its
            subject is the only one if there are none.
        :param days: For how many days it is valid; it has expired if that is
            negative.
        :param since: In how many days that begins.
        :param subject: The common name of its owner.
        :param purpose: What it is for, such as 'clientAuth'; None for all.
        """
        self._issued += 1
        cert, key = f'cert{self._issued}.pem', f'key{self._issued}.pem'
        extensions = []
        if names:
            extensions += '-addext', 'subjectAltName=' + ','.join(names)
        if purpose is not None:
            extensions += '-addext', f'extendedKeyUsage={purpose}'
        self._openssl(
            'req', *EC, '-keyout', key, '-out', 'request.pem',
            '-subj', f'/CN={subject}', *extensions)
        now = time.time()
        self._openssl(
            'ca', '-batch', '-notext', '-cert', 'ca.crt', '-keyfile', 'ca.key',
            '-in', 'request.pem', '-out', cert,
            # An hour more, so that whole days are left.
            '-startdate', _moment(now + since * DAY_S),
            '-enddate', _moment(now + days * DAY_S + 3600))
        return Issued(str(self._directory / cert), str(self._directory / key))

    def rehash(self):
        """Return a directory in which OpenSSL finds this authority."""
        directory = self._directory / 'authorities'
        directory.mkdir(exist_ok=True)
        shutil.copy(self.certificate, directory / 'ca.pem')
        subprocess.run(('openssl', 'rehash', directory), check=True)
        return str(directory)


def _moment(seconds):
    return time.strftime('%Y%m%d%H%M%SZ', time.gmtime(seconds))
