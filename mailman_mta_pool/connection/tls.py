# SPDX-License-Identifier: GPL-3.0-or-later
"""The TLS contexts of our connections."""

import os
import ssl

from functools import lru_cache
from public import public


@public
def context_for(verify_cert: bool, verify_hostname: bool) -> ssl.SSLContext:
    """Return the TLS context for a relay.

    Making one takes 35 ms, for the certificates of all authorities are read.
    So each is made once in a process, unless the environment names other
    certificates than before.

    :param verify_cert: True if the server needs a certificate that one of
        the system's certification authorities has signed.
    :param verify_hostname: True if that certificate has to be for the relay's
        host (RFC 6125).  Without `verify_cert` it means nothing.
    """
    return _context(
        verify_cert, verify_hostname and verify_cert,
        # OpenSSL reads both when it loads the certificates.
        os.environ.get('SSL_CERT_FILE'), os.environ.get('SSL_CERT_DIR'))


@lru_cache(maxsize=16)
def _context(verify_cert: bool, verify_hostname: bool,
             *environment: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = verify_hostname
    context.verify_mode = (
        ssl.CERT_REQUIRED if verify_cert else ssl.CERT_NONE)
    return context
