# SPDX-License-Identifier: GPL-3.0-or-later
"""A socket driven through the wire engine, with a deadline on every phase.

Everything here is in the network thread.  The socket is written to by us, and
not by an asyncio transport, since what was handed to the kernel must be known
exactly: it is what tells "in doubt" from "not attempted".
"""

import ssl
import asyncio

from mailman_mta_pool.connection.tls_socket import Stream, TLSSocket
from mailman_mta_pool.errors import ConnectionLost, for_future, PhaseTimeout
from mailman_mta_pool.interfaces import Given, LATER
from mailman_mta_pool.settings import Timeouts
from mailman_mta_pool.wire.conversation import Conversation
from mailman_mta_pool.wire.outbox import BLOCK
from mailman_mta_pool.wire.pipeline import Command
from mailman_mta_pool.wire.transaction import Outcome
from public import public
from typing import Callable, Dict, Optional, Tuple


READ_SIZE = 64 * 1024
# RFC 8446, section 5.1.
TLS_RECORD = 16 * 1024
# How many seconds the server may take to close a connection after QUIT.
CLOSE_TIMEOUT = 1.0
NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def _timeouts_by_command(timeouts: Timeouts,
                         ) -> Dict[Optional[Command], Tuple[str, float]]:
    """Return the name of each phase and its seconds; None is a block."""
    return {
        None: ('block', timeouts.block),
        Command.mail: ('MAIL', timeouts.mail),
        Command.rcpt: ('RCPT', timeouts.rcpt),
        Command.data: ('DATA', timeouts.data),
        Command.bdat: ('BDAT', timeouts.data),
        Command.end: ('END', timeouts.end),
        Command.rset: ('RSET', timeouts.mail),
        Command.ehlo: ('EHLO', timeouts.hello),
        Command.quit: ('QUIT', timeouts.quit),
        }


@public
class Session:
    """One open connection and its conversation."""

    def __init__(self, sock: Stream, conversation: Conversation,
                 timeouts: Timeouts,
                 trace: Optional[Callable[[str, bytes], None]] = None,
                 ) -> None:
        """Take over a connected socket after EHLO, TLS and AUTH.

        :param sock: A non-blocking socket; `close` closes it.
        :param conversation: The engine.  Its clock is that of the loop.
        :param timeouts: How long to wait for what.
        :param trace: Called with '>' or '<' and the octets, for debugging.
        """
        self._sock = sock
        self._conversation = conversation
        self._quit_timeout = timeouts.quit
        self._timeouts = _timeouts_by_command(timeouts)
        self._trace = trace
        self._loop = asyncio.get_running_loop()
        self._fileno = sock.fileno()
        # In TLS send() takes all or nothing, and when it says nothing some
        # whole TLS records may have gone.  So give it one at a time: what we
        # count as unsent, the server cannot have read.
        self._write_size = (
            TLS_RECORD if isinstance(sock, TLSSocket) else BLOCK)
        # The kernel takes no more, but replies may still be waiting there.
        self._write_error: Optional[OSError] = None
        # True once the server has closed it, or has spoken unasked.
        self._is_over = False
        self._is_writing = False
        self._was_used = False
        self._timer: Optional[asyncio.TimerHandle] = None
        self._shortest = min(
            seconds for _, seconds in self._timeouts.values())
        self._ended: Optional[asyncio.Future] = None
        self._feed: Callable[[int], Given]
        self._report: Callable[[Outcome], None]
        self._is_put_off = False

    # Sending transactions.

    async def run(self, feed: Callable[[int], Given],
                  report: Callable[[Outcome], None]) -> None:
        """Send what `feed` gives until it gives None, and report it all.

        :param feed: See `ITransactionConnection.converse`.
        :param report: Called with each outcome.
        :raises ConnectionLost: if the connection broke, timed out, or the
            server closed it; what was in flight has been reported.
        :raises ProtocolError: likewise, if the server broke the rules.
        """
        self._feed, self._report = feed, report
        if self._was_used:
            self._conversation.begin_anew()
        self._was_used = True
        self._ended = self._loop.create_future()
        self._loop.add_reader(self._fileno, self._readable)
        try:
            self._guarded(self._advance)
            await self._ended
        except asyncio.CancelledError as error:
            self._lose(error)
            raise
        finally:
            self._ended = None
            self._stop_watching()

    def wake(self) -> None:
        """Ask `feed` again, which had said `LATER`."""
        if self._is_put_off:
            # Whoever calls may be in the middle of `report`.
            self._is_put_off = False
            self._loop.call_soon(self._guarded, self._advance)

    def abort(self) -> None:
        """Break the connection; the replies that are there still count."""
        if self._ended is not None:
            self._guarded(self._read_what_is_there)
            self._end(ConnectionLost('the connection was given up'))

    def _readable(self) -> None:
        self._guarded(self._read_and_advance)

    def _writable(self) -> None:
        self._guarded(self._advance)

    def _guarded(self, step: Callable[[], None]) -> None:
        """Take a step unless it is over; an error ends it."""
        if self._has_ended:
            return
        try:
            step()
        except Exception as error:
            self._end(error)

    @property
    def _has_ended(self) -> bool:
        return self._ended is None or self._ended.done()

    def _end(self, error: Optional[BaseException]) -> None:
        if self._ended is None or self._ended.done():
            return
        self._stop_watching()
        if error is None:
            self._ended.set_result(None)
        else:
            try:
                error = self._lose(error)
            except Exception as mistake:
                error = mistake
            self._ended.set_exception(for_future(error))

    def _lose(self, error: BaseException) -> BaseException:
        """Report each transaction that was taken; return what to raise."""
        self._is_put_off = False
        self._conversation.lose(silent=isinstance(error, PhaseTimeout))
        mistakes = []
        for outcome in self._conversation.outcomes():
            try:
                self._report(outcome)
            except Exception as mistake:
                # The others are to be heard of all the same.
                mistakes.append(mistake)
        return mistakes[0] if mistakes else error

    def _read_and_advance(self) -> None:
        if self._conversation.idle:
            # It closes, or talks out of turn.
            self._end(None)
        elif self._read():
            self._advance()

    def _read_what_is_there(self) -> None:
        # Over TLS each reply may be in a record of its own.
        while self._read():
            pass

    def _advance(self) -> None:
        """Report, ask for more, send, and see to what comes next."""
        conversation = self._conversation
        while True:
            # Before the next content goes: if we are killed now, no more
            # than what is in flight is sent twice.
            for outcome in conversation.outcomes():
                self._report(outcome)
            self._top_up()
            self._flush()
            if not conversation.has_outcomes:
                # None was refused by ourselves.
                break
        if conversation.idle and (
                conversation.is_over or not self._is_put_off):
            self._end(None)
        else:
            self._watch()

    def _top_up(self) -> None:
        """Take as many transactions as there is room for."""
        conversation = self._conversation
        self._is_put_off = False
        while conversation.room:
            given = self._feed(conversation.room_octets)
            if given is None:
                break
            if given is LATER:
                self._is_put_off = True
                break
            conversation.submit(given)

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
        """Take in what has come; return False if that is nothing."""
        try:
            data = self._sock.recv(READ_SIZE)
        except NOT_NOW:
            return False
        except OSError as error:
            raise ConnectionLost(
                f'the connection broke: {error}') from error
        self._take(data)
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

    # What to wait for, and for how long.

    def _watch(self) -> None:
        """Wait for the server to say something, or to take more."""
        writing = self._conversation.unsent and self._write_error is None
        if writing != self._is_writing:
            self._is_writing = writing
            if writing:
                self._loop.add_writer(self._fileno, self._writable)
            else:
                self._loop.remove_writer(self._fileno)
        if self._timer is None:
            # Whatever is sent from now on, its time is not over before that.
            self._timer = self._loop.call_later(
                self._shortest, self._look_at_the_clock)

    def _look_at_the_clock(self) -> None:
        self._timer = None
        self._guarded(self._give_up_if_late)

    def _give_up_if_late(self) -> None:
        timer = self._conversation.timer
        if timer is None:
            return
        name, seconds = self._timeouts[timer.command]
        deadline = timer.since + seconds
        if self._loop.time() < deadline:
            self._timer = self._loop.call_at(
                min(deadline, self._loop.time() + self._shortest),
                self._look_at_the_clock)
        elif timer.command is None:
            raise PhaseTimeout(
                f'the server took no more octets within {seconds:g} s')
        else:
            raise PhaseTimeout(f'no reply to {name} within {seconds:g} s')

    def _stop_watching(self) -> None:
        self._loop.remove_reader(self._fileno)
        if self._is_writing:
            self._is_writing = False
            self._loop.remove_writer(self._fileno)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Between posts.

    def is_alive(self) -> bool:
        """True if the idle connection is open, and nothing came unasked."""
        if (self._is_over or self._conversation.surplus or
                self._conversation.is_over):
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

    async def quit(self) -> bool:
        """Say QUIT, wait for the answer for `quit_timeout`, and close.

        :return: True if the server has answered.
        """
        is_answered = False
        try:
            if self._conversation.idle and self.is_alive():
                self._sock.send(b'QUIT\r\n')
                await asyncio.wait_for(self._anything(), self._quit_timeout)
                is_answered = True
                # RFC 5321, section 4.1.1.10: now the server closes it, and
                # counts it until then.
                await asyncio.wait_for(
                    self._until_closed(),
                    min(CLOSE_TIMEOUT, self._quit_timeout))
        except (OSError, asyncio.TimeoutError):
            # It is over, one way or the other.
            pass
        finally:
            self.close()
        return is_answered

    async def _until_closed(self) -> None:
        """Wait until the server has closed the connection."""
        while True:
            try:
                # To close with something unread would reset the connection.
                if not self._sock.recv(READ_SIZE):
                    return
            except NOT_NOW:
                await self._anything()

    async def _anything(self) -> None:
        """Wait until the server says something, or closes."""
        said = asyncio.Event()
        self._loop.add_reader(self._fileno, said.set)
        try:
            await said.wait()
        finally:
            self._loop.remove_reader(self._fileno)

    def close(self) -> None:
        """Close the socket, without a word."""
        if self._fileno >= 0 and self._sock.fileno() >= 0:
            self._loop.remove_reader(self._fileno)
            self._sock.close()
