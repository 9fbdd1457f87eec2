# SPDX-License-Identifier: GPL-3.0-or-later

"""aiosmtpd, the server of Mailman's own tests.

It offers neither PIPELINING nor CHUNKING: this is the plain dialogue.
"""

import unittest

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP
from tests.interop.conformance import code_of, Conformance
from tests.interop.sending import arrived
from tests.servers.loopback import free_port, HOST


MEGABYTE = 1024 * 1024


class _Server(SMTP):
    # RFC 5321, section 4.5.3.1.6 asks for 1,000 octets at least, and our
    # messages have lines of a quarter of a megabyte.
    line_length_limit = MEGABYTE


class _Keeper:
    """What aiosmtpd calls a handler: it keeps what comes.

    :ivar kept: The messages, as `Arrived`.
    """

    def __init__(self):
        self.kept = []

    async def handle_RCPT(self, server, session, envelope, address, options):
        code = code_of(address)
        if code is not None:
            return f'{code} <{address}>: no mail for you'
        envelope.rcpt_tos.append(address)
        return '250 2.1.5 Ok'

    async def handle_DATA(self, server, session, envelope):
        self.kept.append(arrived(
            envelope.mail_from, envelope.rcpt_tos, envelope.content))
        return f'250 2.0.0 Ok: queued as {len(self.kept)}'


class _Controller(Controller):
    """In a thread of its own, which `stop` ends."""

    def factory(self):
        return _Server(self.handler, data_size_limit=20 * MEGABYTE,
                       enable_SMTPUTF8=True)

    @property
    def host(self):
        return self.hostname


class TestAiosmtpd(Conformance, unittest.TestCase):
    """With pipelining allowed, where it is not offered, and without."""

    ways = ('DATA', 'one command at a time')

    def setUp(self):
        self.keeper = _Keeper()
        self.server = _Controller(
            self.keeper, hostname=HOST, port=free_port())
        self.server.start()
        self.addCleanup(self.server.stop)

    def kept(self, content, way):
        """See `Conformance`; aiosmtpd changes nothing."""
        return content

    def arrivals(self):
        return self.keeper.kept

    def accepted(self):
        return [(str(number), message.sender)
                for number, message in enumerate(self.keeper.kept, 1)]

    def queue_id(self, text):
        return text.rpartition(b'queued as ')[2].decode()

    def used(self):
        return {'DATA': len(self.keeper.kept)}
