# SPDX-License-Identifier: GPL-3.0-or-later
"""What a program prints, or a token endpoint answers.

The first octet chooses which.
"""

import io
import math

from http.client import HTTPConnection
from mailman_mta_pool.errors import TokenUnavailable
from mailman_mta_pool.login.endpoint import EndpointSource
from mailman_mta_pool.login.grant import (
    CommandSource,
    grant_in,
    json_in,
    MAX_LIFE,
    MAX_TOKEN,
)
from mailman_mta_pool.secret import Secret
from mailman_mta_pool.settings import TokenSettings
from public import public
from unittest import mock


CLIENT_SECRET = 'Tr0mbone-Formic'
TOKEN = 'ya29.Zebra-Antenna'
# What stands for octets that nobody finds by chance.
OCTETS = {b'\x10': TOKEN.encode(), b'\x11': CLIENT_SECRET.encode()}
# What is shown is no longer, in characters.
LONGEST_TEXT = 1500


class Answering(HTTPConnection):
    """A connection to an endpoint that answers with some octets."""

    octets = b''

    def connect(self):
        """See `HTTPConnection`."""
        self.sock = self

    def sendall(self, octets):
        """See `socket`."""

    def makefile(self, mode):
        """See `socket`."""
        return io.BytesIO(self.octets)

    def shutdown(self, how):
        """See `socket`."""

    def close(self):
        """See `HTTPConnection`."""
        self.sock = None
        super().close()


def read(octets):
    """Return what an endpoint has granted, from the JSON alone."""
    try:
        return grant_in(json_in(octets))
    except ValueError as error:
        raise TokenUnavailable(str(error)) from None


def printed(octets):
    """Return what a program has granted."""
    return CommandSource(
        Secret('get-token'), '[relay.a] token_command',
        lambda arguments, limit: octets[:limit]).fetch()


def answered(octets):
    """Return what an endpoint has granted that answers by HTTP."""
    kind = type('Answers', (Answering,), {'octets': octets})
    source = EndpointSource(TokenSettings(
        url='https://login.example.com/token', client_id='ant',
        client_secret=Secret(CLIENT_SECRET)), '[relay.a]')
    with mock.patch(
            'mailman_mta_pool.login.endpoint.HTTPSConnection', kind):
        return source.fetch()


@public
def one_input(data):
    """There is a token that can be sent, or one line that says why not.

    :raises AssertionError: if a limit does not hold, or a secret is shown.
    """
    if not data:
        return
    octets = data[1:]
    for place, put in OCTETS.items():
        octets = octets.replace(place, put)
    way = (read, printed, answered)[data[0] % 3]
    try:
        grant = way(octets)
    except TokenUnavailable as error:
        text = str(error)
        assert text.isprintable() and len(text) <= LONGEST_TEXT, text
        assert CLIENT_SECRET not in text
        # An endpoint may tell of whatever it likes but of what is ours.
        assert way is answered or TOKEN not in text
        return
    for secret in filter(None, (grant.token, grant.refresh_token)):
        assert secret.reveal().isprintable()
        assert len(secret.reveal().encode()) <= MAX_TOKEN
    assert grant.token and TOKEN not in repr(grant)
    assert grant.expires_in == math.inf or 0 < grant.expires_in <= MAX_LIFE
