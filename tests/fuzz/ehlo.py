# SPDX-License-Identifier: GPL-3.0-or-later
"""The text of a reply to EHLO."""

from mailman_mta_pool.wire.capabilities import Capabilities
from public import public


@public
def one_input(data):
    """Whatever a server offers can be read, and is what it says.

    :raises AssertionError: if something else was read.
    """
    server = Capabilities.from_ehlo(data)
    for keyword, parameters in server.keywords.items():
        assert keyword == keyword.upper() and not keyword.isspace()
        assert keyword in server
        assert all(isinstance(each, str) for each in parameters)
    for name in server.auth:
        assert name == name.upper() and not name.isspace()
    assert server.size is None or server.size >= 0
    assert all(limit is None or limit > 0 for limit in server.limits)
    assert server.pipelining == ('PIPELINING' in server)
    assert server.chunking == ('CHUNKING' in server)
    assert server.starttls == ('STARTTLS' in server)
    repr(server)
