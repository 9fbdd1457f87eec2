# SPDX-License-Identifier: GPL-3.0-or-later
"""What the documents in docs/ find around them when they run."""

import os

from contextlib import contextmanager, ExitStack
from importlib import resources
from mailman.testing.layers import SMTPLayer
from mailman_mta_pool.relays.relay import close_relays
from public import public
from unittest import mock


@public
@contextmanager
def entered(layer):
    """Put the rest of a document into another of Mailman's SMTP layers.

    The document stays in `SMTPLayer`; this one's server and its `[mta]`
    settings are added on top, and taken away again on exit.  The document has
    to `quit()` its own connections before that.

    :param layer: `SMTPSLayer` or `STARTTLSLayer`.
    :return: A context manager; its value is the layer's controller, what the
        document calls `smtpd`.
    """
    # The layers refuse to be set up a second time, but do not themselves
    # forget the server that they stopped.
    layer.smtpd = None
    layer.setUp()
    try:
        yield layer.smtpd
    finally:
        # From Python 3.12 on a stopping server waits for its clients to go.
        close_relays()
        layer.tearDown()
        layer.smtpd = None


@public
@contextmanager
def trusted_test_certificate():
    """Let TLS clients trust the certificate of Mailman's test layers.

    It is self-signed.  This is what an administrator does whose server has
    such a certificate, too: OpenSSL reads the variable whenever a context
    with the default certificates is made.
    """
    with resources.as_file(
            resources.files('mailman.testing') /
            'ssl_test_cert.crt') as path:
        with mock.patch.dict(os.environ, SSL_CERT_FILE=os.fspath(path)):
            yield


@public
def setup(testobj):
    """Give a document the globals that Mailman's own documents have.

    :param testobj: The document about to run.
    :type testobj: doctest.DocTest
    """
    testobj.globs['smtpd'] = SMTPLayer.smtpd
    testobj.globs['cleanups'] = ExitStack()


@public
def teardown(testobj):
    """Undo what the document left in `cleanups`, and close the pool.

    :param testobj: The document that has run.
    :type testobj: doctest.DocTest
    """
    testobj.globs['cleanups'].close()
    close_relays()
