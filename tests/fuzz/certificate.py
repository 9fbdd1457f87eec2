# SPDX-License-Identifier: GPL-3.0-or-later
"""The certificate of a server that nobody has verified."""

from contextlib import suppress
from mailman_mta_pool.connection.certificate import chain_of, read_certificate
from public import public


@public
def one_input(data):
    """Each certificate can be read, or is none.

    :raises AssertionError: if something cannot be shown.
    """
    with suppress(ValueError):
        certificate = read_certificate(data)
        for text in (certificate.subject, certificate.issuer,
                     *certificate.names):
            assert text.isprintable()
        certificate.days_left(0.0)
    half = len(data) // 2
    for text in chain_of([data, data[half:]], [data[:half]]):
        assert text.isprintable()
