# SPDX-License-Identifier: GPL-3.0-or-later
"""A small name server for the records that a test gives it."""

import asyncio
import dns.flags
import dns.rcode
import dns.rrset
import dns.message

from public import public


HOST = '127.0.0.1'


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, answer):
        self._answer = answer

    def connection_made(self, transport):
        self._transport = transport

    def datagram_received(self, data, address):
        wire = self._answer(data, is_stream=False)
        if wire is not None:
            self._transport.sendto(wire, address)


@public
class NameServer:
    """It runs on a loop; it is an asynchronous context manager.

    :ivar port: Where it listens, by UDP and by TCP.
    :ivar questions: The names that were asked for.
    :ivar records: The answers, by name without the last dot.  Each is the
        lines of a zone after the name, such as `60 IN SRV 0 1 465 mx.test.`.
    :ivar rcode: Its answer to everything, if it is not None.
    :ivar is_silent: True to give no answer.
    :ivar truncates: True to answer by TCP alone.
    """

    def __init__(self, **records):
        """Prepare it.

        :param records: See above.
        """
        self.questions = []
        self.records = dict(records)
        self.rcode = None
        self.is_silent = False
        self.truncates = False

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        self._datagrams, _ = (
            await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: _Datagrams(self._answer), (HOST, self.port)))
        return self

    async def __aexit__(self, *ignore):
        self._datagrams.close()
        self._server.close()

    async def _serve(self, reader, writer):
        length = int.from_bytes(await reader.readexactly(2), 'big')
        wire = self._answer(await reader.readexactly(length), is_stream=True)
        if wire is not None:
            writer.write(len(wire).to_bytes(2, 'big') + wire)
            await writer.drain()
        writer.close()

    def _answer(self, wire, is_stream):
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True)
        self.questions.append(name)
        if self.is_silent:
            return None
        response = dns.message.make_response(query, recursion_available=True)
        if self.rcode is not None:
            response.set_rcode(self.rcode)
        elif name not in self.records:
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif self.truncates and not is_stream:
            response.flags |= dns.flags.TC
        else:
            lines = self.records[name]
            if lines:
                ttl, _, kind, _ = lines[0].split(' ', 3)
                response.answer.append(dns.rrset.from_text(
                    question.name, int(ttl), 'IN', kind,
                    *[line.split(' ', 3)[3] for line in lines]))
        return response.to_wire()
