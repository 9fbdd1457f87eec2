# SPDX-License-Identifier: GPL-3.0-or-later
"""The server's side of TLS in tests."""

import ssl

from importlib.resources import files
from public import public


@public
def server_context():
    """Return a context with the certificate of Mailman's test layers.

    It is for 'localhost', and signed by nobody else.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    directory = files('mailman.testing')
    context.load_cert_chain(
        directory / 'ssl_test_cert.crt', directory / 'ssl_test_key.key')
    return context
