# SPDX-License-Identifier: GPL-3.0-or-later

"""An SMTP server that accepts everything and writes down what.

    python -m mailman_mta_pool.demo.server --record FILE

It prints the port on standard output when it listens and stops on SIGTERM.
The record has a JSON object per line: `{"connection": 3}` for a connection
and, written before the transaction's 250 goes out,

    {"time": ..., "connection": 3, "sender": ..., "recipients": [...],
     "digest": ..., "octets": ...}

The time is that of `time.monotonic`, which on Linux all processes share; the
digest is the SHA-256 of the content without dot-stuffing.
"""

from __future__ import annotations

import os
import json
import time
import signal
import asyncio
import hashlib
import argparse

from itertools import count
from mailman_mta_pool.demo.dialogue import Dialogue, Features
from public import public


class Journal:
    """Lines for the record, written in batches."""

    def __init__(self, path):
        self._file = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._lines = []

    def add(self, **values):
        """Note a line."""
        self._lines.append(json.dumps(values) + '\n')

    def flush(self):
        """Write the noted lines; the reader sees them from now on."""
        if self._lines:
            data = ''.join(self._lines).encode('ascii')
            self._lines.clear()
            while data:
                data = data[os.write(self._file, data):]


class Session(asyncio.Protocol):
    """A connection: replies to a batch of commands go out in one write."""

    def __init__(self, number, features, delay, journal):
        self._number = number
        self._delay = delay
        self._journal = journal
        self._dialogue = Dialogue(features, self._accept)
        self._transport = None
        self._answering = None

    def _accept(self, sender, recipients, content):
        self._journal.add(
            time=time.monotonic(), connection=self._number, sender=sender,
            recipients=recipients, octets=len(content),
            digest=hashlib.sha256(content).hexdigest())

    def connection_made(self, transport):
        """See `asyncio.Protocol`."""
        self._transport = transport
        self._journal.add(connection=self._number)
        self._reply([b'220 demo.example.com ESMTP\r\n'])

    def connection_lost(self, error):
        """See `asyncio.Protocol`."""
        if self._answering is not None:
            self._answering.cancel()

    def data_received(self, data):
        """See `asyncio.Protocol`."""
        self._dialogue.receive(data)
        if self._delay == 0:
            self._reply(list(self._answers()))
        elif self._answering is None or self._answering.done():
            self._answering = asyncio.ensure_future(self._answer_slowly())

    def _answers(self):
        while not self._dialogue.closed:
            unit = self._dialogue.next_unit()
            if unit is None:
                return
            yield self._dialogue.answer(unit)

    async def _answer_slowly(self):
        while not self._dialogue.closed:
            unit = self._dialogue.next_unit()
            if unit is None:
                return
            await asyncio.sleep(self._delay)
            self._reply([self._dialogue.answer(unit)])

    def _reply(self, replies):
        self._journal.flush()
        if replies:
            self._transport.write(b''.join(replies))
        if self._dialogue.closed:
            self._transport.close()


async def _serve(options):
    features = Features(options.pipelining, options.chunking, options.size)
    journal = Journal(options.record)
    numbers = count(1)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stopped.set)
    server = await loop.create_server(
        lambda: Session(next(numbers), features, options.delay, journal),
        options.host, options.port, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await stopped.wait()
    server.close()


def _parser():
    parser = argparse.ArgumentParser(
        prog='python -m mailman_mta_pool.demo.server',
        description='Accept all mail and write down what was accepted.')
    parser.add_argument('--host', default='127.0.0.1')
    parser.add_argument('--port', type=int, default=0,
                        help='0, the default, takes a free one')
    parser.add_argument('--record', metavar='FILE', default=os.devnull)
    parser.add_argument('--delay', type=float, default=0, metavar='SECONDS',
                        help='time that each command takes, also when '
                             'pipelined; the end of the content is one')
    parser.add_argument('--size', type=int, default=Features.size,
                        metavar='OCTETS', help='the largest message')
    parser.add_argument('--no-pipelining', dest='pipelining',
                        action='store_false', help='do not offer it')
    parser.add_argument('--chunking', action='store_true',
                        help='offer it, which means BDAT')
    return parser


@public
def main(arguments=None):
    """Serve until SIGTERM or SIGINT."""
    asyncio.run(_serve(_parser().parse_args(arguments)))


if __name__ == '__main__':
    main()
