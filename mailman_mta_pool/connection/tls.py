# SPDX-License-Identifier: GPL-3.0-or-later
"""The TLS contexts of our connections."""

import os
import ssl

from functools import lru_cache
from public import public
from typing import Tuple


@public
def context_for(verify_cert: bool, verify_hostname: bool,
                tls_ca: str = '') -> ssl.SSLContext:
    """Return the TLS context for a relay.

    Making one takes 35 ms, for the certificates of all authorities are read.
    So each is made once in a process, unless the environment names other
    certificates than before, or a file has been replaced.

    :param verify_cert: True if the server needs a certificate that one of
        the system's certification authorities has signed.
    :param verify_hostname: True if that certificate has to be for the relay's
        host (RFC 6125).  Without `verify_cert` it means nothing.
    :param tls_ca: The file with the certificates of the authorities that are
        trusted, in PEM; '' for those of the system.
    :raises OSError: for a file that cannot be read, or has no certificate.
    """
    environment: Tuple[object, ...]
    if tls_ca:
        status = os.stat(tls_ca)
        environment = (
            status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
    else:
        # OpenSSL reads both when it loads the certificates.
        environment = (
            os.environ.get('SSL_CERT_FILE'), os.environ.get('SSL_CERT_DIR'))
    return _context(
        verify_cert, verify_hostname and verify_cert, tls_ca, *environment)


@lru_cache(maxsize=16)
def _context(verify_cert: bool, verify_hostname: bool, tls_ca: str,
             *environment: object) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls_ca or None)
    context.check_hostname = verify_hostname
    context.verify_mode = (
        ssl.CERT_REQUIRED if verify_cert else ssl.CERT_NONE)
    return context
