# SPDX-License-Identifier: GPL-3.0-or-later
"""A socket driven through the wire engine, with a deadline on every phase."""

import ssl
import time
import select
import socket

from contextlib import suppress
from mailman_mta_pool.connection.steps import Fed, Feed, Steps, Wait
from mailman_mta_pool.errors import ConnectionLost, PhaseTimeout
from mailman_mta_pool.settings import Timeouts
from mailman_mta_pool.wire.conversation import Conversation
from mailman_mta_pool.wire.outbox import BLOCK
from mailman_mta_pool.wire.transaction import Outcome
from public import public
from typing import Callable, Optional, Tuple


READ_SIZE = 16 * 1024
# RFC 8446, section 5.1.
TLS_RECORD = 16 * 1024
NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
READ_OR_WRITE = select.POLLIN | select.POLLOUT


@public
class Session:
    """One open connection and its conversation."""

    def __init__(self, sock: socket.socket, conversation: Conversation,
                 timeouts: Timeouts,
                 clock: Callable[[], float] = time.monotonic,
                 trace: Optional[Callable[[str, bytes], None]] = None,
                 ) -> None:
        """Take over a connected socket after EHLO, TLS and AUTH.

        :param sock: It is non-blocking from now on, and closed by `close`.
        :param conversation: The engine.
        :param timeouts: How long to wait for what.
        :param clock: Seconds that only grow.
        :param trace: Called with '>' or '<' and the octets, for debugging.
        """
        sock.setblocking(False)
        self._sock = sock
        self._conversation = conversation
        self._timeouts = timeouts
        self._clock = clock
        self._trace = trace
        self._fileno = sock.fileno()
        # SSLSocket.send() takes all or nothing, and when it says nothing some
        # whole TLS records may have gone.  So give it one at a time: what we
        # count as unsent, the server cannot have read.
        self._write_size = (
            TLS_RECORD if isinstance(sock, ssl.SSLSocket) else BLOCK)
        # TLS may hold more than it gave, and poll() does not see that.
        self._pending = getattr(sock, 'pending', None)
        # The kernel takes no more, but replies may still be waiting there.
        self._write_error: Optional[OSError] = None
        # The server has closed it, or has spoken unasked.
        self._is_over = False
        self._is_put_off = False
        self._progress: Tuple[int, int] = (-1, -1)
        self._since = 0.0
        self._shortest = min(
            timeouts.mail, timeouts.rcpt, timeouts.data, timeouts.block,
            timeouts.end)

    def steps(self, feed: Callable[[], Fed],
              report: Callable[[Outcome], None]) -> Steps:
        """Send what `feed` gives until it gives nothing, and report it all.

        It is a generator: it says what it waits for, and is sent the events
        of `select.poll` that have come, or 0 to look at the clock; and to ask
        again, if it was put off.

        :raises ConnectionLost: if the connection broke, timed out, or the
            server closed it; what was in flight has been reported.
        :raises ProtocolError: likewise, if the server broke the rules.
        """
        conversation = self._conversation
        try:
            while True:
                # Before the next content goes: if we are killed now, no more
                # than what is in flight is sent twice.
                for outcome in conversation.outcomes():
                    report(outcome)
                self._top_up(feed)
                self._flush()
                if conversation.idle:
                    if not self._is_put_off:
                        break
                    if (yield Wait(self._fileno, select.POLLIN, None)):
                        # It closes, or will be found talking out of turn.
                        break
                    continue
                wait = self._next_wait()
                events = yield wait
                while events != select.POLLOUT and not (
                        events and self._read()):
                    if not events:
                        wait = self._next_wait()
                    events = yield wait
            # What was fed last may have been refused by ourselves.
            for outcome in conversation.outcomes():
                report(outcome)
        except BaseException:
            # Whatever it was: each transaction that was taken is reported.
            conversation.lose()
            for outcome in conversation.outcomes():
                report(outcome)
            raise

    def _top_up(self, feed: Callable[[], Fed]) -> None:
        conversation = self._conversation
        self._is_put_off = False
        while conversation.room:
            fed = feed()
            if fed is None or fed is Feed.later:
                self._is_put_off = fed is Feed.later
                break
            conversation.submit(*fed)

    def _next_wait(self) -> Wait:
        """Wait until the server says something or can take more."""
        remaining = self._remaining()
        if remaining <= 0:
            raise PhaseTimeout(self._what_is_late())
        writing = self._conversation.unsent and self._write_error is None
        return Wait(self._fileno, READ_OR_WRITE if writing else select.POLLIN,
                    remaining)

    def _flush(self) -> None:
        conversation = self._conversation
        while self._write_error is None:
            octets = conversation.bytes_to_send()
            if not octets:
                return
            if len(octets) > self._write_size:
                octets = octets[:self._write_size]
            try:
                sent = self._sock.send(octets)
            except NOT_NOW:
                return
            except OSError as error:
                # The replies that came before the end count: read them first.
                self._write_error = error
                return
            if self._trace is not None:
                self._trace('>', bytes(octets[:sent]))
            conversation.sent(sent)

    def _read(self) -> bool:
        """Take in what has come, and tell whether that is anything."""
        while True:
            try:
                data = self._sock.recv(READ_SIZE)
            except NOT_NOW:
                return False
            except OSError as error:
                raise ConnectionLost(
                    f'the connection broke: {error}') from error
            self._take(data)
            if self._pending is None or not self._pending():
                return True

    def _take(self, data: bytes) -> None:
        if not data:
            raise ConnectionLost(
                'the server closed the connection'
                if self._write_error is None
                else f'the connection broke: {self._write_error}')
        if self._trace is not None:
            self._trace('<', data)
        self._conversation.receive(data)
        if self._conversation.closed_by is not None:
            raise ConnectionLost(
                f'the server closes: {self._conversation.closed_by}')

    def _phase(self) -> str:
        conversation = self._conversation
        awaiting = conversation.awaiting
        if conversation.unsent or awaiting is None:
            return 'block'
        return awaiting.name

    def _remaining(self) -> float:
        """The seconds left for this phase; a complete reply or block ends it.
        """
        conversation = self._conversation
        now = self._clock()
        progress = (
            conversation.answered,
            conversation.octets_sent // BLOCK if conversation.unsent else -1)
        if progress != self._progress:
            # Which phase it is matters only once nothing has come for a
            # while.
            self._progress = progress
            self._since = now
            return self._shortest
        return self._since + getattr(self._timeouts, self._phase()) - now

    def _what_is_late(self) -> str:
        phase = self._phase()
        seconds = getattr(self._timeouts, phase)
        if phase == 'block':
            return f'the server took no more octets within {seconds:g} s'
        return f'no reply to {phase.upper()} within {seconds:g} s'

    def is_alive(self) -> bool:
        """Is the idle connection still open, and has nothing come unasked?"""
        if self._is_over or self._conversation.surplus:
            return False
        try:
            self._sock.recv(1)
        except NOT_NOW:
            return True
        except OSError:
            pass
        # It is closed, or a 421 is waiting that must not be taken for the
        # answer to what comes next.
        self._is_over = True
        return False

    def quit(self) -> None:
        """Say QUIT, wait for the answer a little, and close."""
        try:
            if self._conversation.idle and self.is_alive():
                self._sock.settimeout(self._timeouts.quit)
                self._sock.sendall(b'QUIT\r\n')
                self._sock.recv(READ_SIZE)
        except OSError:
            # It is over, one way or the other.
            pass
        finally:
            self.close()

    def abort(self) -> None:
        """Break the connection, from another thread than that in `steps`."""
        with suppress(OSError):
            # Not that of SSLSocket, which takes away what `steps` works with.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket, without a word."""
        self._sock.close()
