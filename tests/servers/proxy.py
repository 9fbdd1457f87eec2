# SPDX-License-Identifier: GPL-3.0-or-later

"""A proxy that puts a server farther away.

It is a delay line: what arrives is handed on half a round trip later, however
much is under way, so that the throughput stays what it was.  With jitter each
piece takes longer by chance, and none overtakes another, as with TCP.  The
proxy runs in a process of its own, and ends with the process that started it.
"""

import os
import sys
import ctypes
import random
import asyncio
import selectors
import contextlib
import subprocess

from collections import deque
from public import public
from tests.servers.loopback import HOST


# A sender that is so many octets ahead has to wait, as it would for a real
# network's buffers.  At the longest round trip that we measure, 100 ms, this
# still is 300 MB/s.
LIMIT = 16 * 1024 * 1024
# Three halves of a round trip pass between the client's SYN and the moment
# when its ACK lets the server speak.
HANDSHAKE = 3
# From <linux/prctl.h>.
PR_SET_TIMERSLACK = 29
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))))


class _Side(asyncio.Protocol):
    """One of the two connections of a pair: what arrives leaves by the other.

    :param delay: How late, in seconds.
    :param jitter: By how many seconds more at most, by chance.
    """

    def __init__(self, delay, jitter):
        self._loop = asyncio.get_running_loop()
        self._delay = delay
        self._jitter = jitter
        self._latest = 0.0
        # What is under way to the peer, in order: when it is due, and a
        # method of the peer with its arguments.
        self._line = deque()
        self._size = 0
        self._timer = None
        self._ends = 0
        self.is_ready = False
        self.peer = None
        self.transport = None

    def connection_made(self, transport):
        """See `asyncio.Protocol`."""
        transport.set_write_buffer_limits(LIMIT)
        self.transport = transport
        self.resume_writing()

    def data_received(self, data):
        """See `asyncio.Protocol`."""
        self._size += len(data)
        if self._size > LIMIT:
            self.transport.pause_reading()
        self._put(self._hand_on, data)

    def eof_received(self):
        """See `asyncio.Protocol`."""
        self._put(self.peer.finish)
        self._end()
        # The other direction goes on.
        return True

    def connection_lost(self, error):
        """See `asyncio.Protocol`."""
        self.is_ready = True
        if error is not None:
            self._put(self.peer.abort)

    def pause_writing(self):
        """See `asyncio.Protocol`."""
        self.is_ready = False

    def resume_writing(self):
        """See `asyncio.Protocol`."""
        self.is_ready = True
        self.peer.flush()

    def finish(self):
        """Tell this side's other end that no more will come."""
        # The other end may have reset the connection meanwhile.
        with contextlib.suppress(OSError):
            if not self.transport.is_closing():
                self.transport.write_eof()
        self._end()

    def abort(self):
        """Reset this side's connection."""
        self.transport.abort()

    def flush(self):
        """Hand on what is due."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._line and self.peer.is_ready:
            due, act, arguments = self._line[0]
            if due > self._loop.time():
                self._timer = self._loop.call_at(due, self.flush)
                return
            self._line.popleft()
            act(*arguments)

    def _put(self, act, *arguments):
        due = (self._loop.time() + self._delay +
               random.uniform(0, self._jitter))
        self._latest = max(self._latest, due)
        self._line.append((self._latest, act, arguments))
        if self._timer is None:
            self.flush()

    def _hand_on(self, data):
        if not self.peer.transport.is_closing():
            self.peer.transport.write(data)
        was_full = self._size > LIMIT
        self._size -= len(data)
        if was_full and self._size <= LIMIT:
            self.transport.resume_reading()

    def _end(self):
        # Both directions of the connection must have ended.
        self._ends += 1
        if self._ends == 2:
            self.transport.close()


class _ClientSide(_Side):
    """The connection that the client opened."""

    def __init__(self, target, delay, jitter):
        super().__init__(delay, jitter)
        self._target = target
        self.peer = _Side(delay, jitter)
        self.peer.peer = self

    def connection_made(self, transport):
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self._task = self._loop.create_task(self._connect())

    async def _connect(self):
        await asyncio.sleep(HANDSHAKE * self._delay)
        try:
            await self._loop.create_connection(
                lambda: self.peer, *self._target)
        except OSError:
            self.abort()


async def _serve(target, delay, jitter):
    """Serve until standard input ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: _ClientSide(target, delay, jitter), HOST, 0, backlog=128)
    print(server.sockets[0].getsockname()[1], flush=True)
    parent_ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), parent_ended.set)
    await parent_ended.wait()


@public
def main(host, port, round_trip, jitter):
    """Run the proxy in this process; its port is the first line printed.

    :param host: Where the server is.
    :param port: The server's port, in decimal.
    :param round_trip: The round trip to add, in seconds, in decimal.
    :param jitter: What may be added to each way, in seconds, in decimal.
    """
    # The default, epoll, rounds the time up to whole milliseconds, and the
    # kernel adds 50 microseconds to every wait unless told otherwise.
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1)
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    loop.run_until_complete(
        _serve((host, int(port)), float(round_trip) / 2, float(jitter)))


@public
class DelayingProxy:
    """A server's (host, port), farther away.

    Opening a connection takes as long as it would with such a round trip,
    except that the client does not have to wait for it.

    :param target: The (host, port) of the server.
    :param round_trip: How long a command and its reply are under way, in
        seconds.
    :param jitter: How much longer each way may take, in seconds.
    """

    def __init__(self, target, round_trip=0.02, jitter=0.0):
        self._target = target
        self._round_trip = round_trip
        self._jitter = jitter
        self.host = HOST
        self.port = None
        self.pid = None

    def __enter__(self):
        host, port = self._target
        self._process = subprocess.Popen(
            (sys.executable, '-m', 'tests.servers.proxy',
             host, str(port), repr(self._round_trip), repr(self._jitter)),
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.pid = self._process.pid
        line = self._process.stdout.readline()
        if not line:
            self.__exit__()
            raise OSError('the proxy did not start')
        self.port = int(line)
        return self

    def __exit__(self, *ignore):
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


if __name__ == '__main__':
    main(*sys.argv[1:])
