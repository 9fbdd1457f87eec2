# SPDX-License-Identifier: GPL-3.0-or-later

"""An SMTP server that does what a test tells it, in threads, on a free port.

The script is a function that is given each command and may answer it in the
server's stead.  What was dropped, and when, stands in the test that needs it.
"""

import re
import ssl
import time
import socket
import threading

from contextlib import suppress
from mailman.testing.helpers import configuration
from public import public
from typing import List, NamedTuple


HOST = '127.0.0.1'
# For processes that start, too.
PATIENCE = 60
#: What a script returns to have the connection closed without a reply.
CLOSE = object()
#: What a script returns to have the server say nothing, until it is stopped.
HANG = object()
public(CLOSE=CLOSE, HANG=HANG)


@public
class Accepted(NamedTuple):
    """A message for which the server has taken the responsibility.

    The addresses are without angle brackets; the content is as before dot
    stuffing, with its CRLFs.
    """

    sender: str
    recipients: List[str]
    content: bytes


class _Over(Exception):
    """This connection is to be closed."""


def _path(command):
    return re.search('<(.*)>', command)[1]


def _octets(reply):
    if isinstance(reply, bytes):
        return reply
    *first, last = reply.split('\n')
    lines = [line[:3] + '-' + line[4:] for line in first] + [last]
    return ''.join(line + '\r\n' for line in lines).encode()


class _Session:
    """One connection.

    :ivar number: Connections are counted from 1.
    :ivar peer: The client's address.
    :ivar sender: The reverse-path of the open transaction, or None.
    :ivar recipients: Those accepted in the open transaction.
    :ivar rcpts: How many RCPTs the open transaction has had.
    """

    def __init__(self, server, sock, number):
        self.number = number
        self.peer = sock.getpeername()[0]
        self._server = server
        self._sock = sock
        self._file = sock.makefile('rb')
        self._speaking = threading.Lock()
        self._reset()

    def _reset(self):
        self.sender, self.recipients, self.rcpts = None, [], 0
        self._chunks = []

    def run(self):
        try:
            if self._server.is_tls_from_start:
                self._begin_tls()
            self._command('CONNECT')
            for line in self._file:
                self._command(line.rstrip(b'\r\n').decode('utf-8', 'replace'))
                # STARTTLS has made another one.
                if self._file.closed:
                    return self._continue_with_tls()
        except (_Over, OSError, ValueError):
            # The test says so, or the client is gone.
            pass
        finally:
            self.close()
            self._server.closed(self)

    def _begin_tls(self):
        self._sock = self._server.tls.wrap_socket(self._sock, server_side=True)
        self._file = self._sock.makefile('rb')

    def _continue_with_tls(self):
        self._begin_tls()
        for line in self._file:
            self._command(line.rstrip(b'\r\n').decode('utf-8', 'replace'))

    def close(self):
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def drop(self):
        """Close it, but let an answer go that has been recorded."""
        with self._speaking:
            self.close()

    @property
    def is_secure(self):
        """True if it is in TLS."""
        return isinstance(self._sock, ssl.SSLSocket)

    @property
    def is_left(self):
        """True if the client has closed it, and said nothing more before."""
        try:
            return not self._sock.recv(
                1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def say(self, octets):
        """Say something that nobody has asked for; not within an answer."""
        with self._speaking:
            self._sock.sendall(octets)

    def _command(self, command):
        verb, space, argument = command.partition(' ')
        if hasattr(self, '_on_' + verb.lower()):
            # A response to AUTH is none.
            verb = verb.upper()
        # smtplib writes some in lower case, on Python 3.13 `to:` as well.
        command = verb + space + re.sub(
            '^(from|to):', lambda found: found[0].upper(), argument)
        chunk = b''
        if verb == 'BDAT':
            chunk = self._file.read(int(command.split()[1]))
        if verb == 'RCPT':
            self.rcpts += 1
        reply = self._server.answer_to(command, self)
        if reply is None:
            default = getattr(self, '_on_' + verb.lower(), None)
            reply = ('500 5.5.2 What?' if default is None
                     else default(command))
        if verb == 'BDAT':
            self._chunks.append(chunk)
        octets = _octets(reply)
        with self._speaking:
            self._before(verb, command, octets)
            self._sock.sendall(octets)
        self._after(verb, octets[:3])

    def _before(self, verb, command, octets):
        """Remember before the client can know."""
        positive = octets.startswith(b'2')
        if verb in ('MAIL', 'RSET', 'EHLO', 'HELO') and positive:
            self._reset()
        if verb == 'MAIL' and positive:
            self.sender = _path(command)
        elif verb == 'RCPT' and positive:
            self.recipients.append(_path(command))
        elif verb == 'BDAT' and positive and 'LAST' in command.upper():
            self._accept(b''.join(self._chunks))

    def _after(self, verb, code):
        if code == b'421' or verb == 'QUIT':
            raise _Over
        if verb == 'DATA' and code == b'354':
            self._take_content()
        elif verb == 'STARTTLS' and code == b'220':
            self._file.close()

    def _take_content(self):
        lines = []
        for line in self._file:
            if not lines:
                self._server.answer_to('CONTENT', self)
            if line == b'.\r\n':
                break
            lines.append(line[1:] if line.startswith(b'.') else line)
        else:
            raise _Over
        octets = _octets(
            self._server.answer_to('.', self) or
            ('250 2.0.0 Ok: queued' if self.recipients
             else '554 5.5.1 No valid recipients'))
        with self._speaking:
            if octets.startswith(b'2'):
                self._accept(b''.join(lines))
            self._reset()
            self._sock.sendall(octets)
        self._after('.', octets[:3])

    def _accept(self, content):
        self._server.accept(Accepted(self.sender, self.recipients, content))
        self._reset()

    # What it says where the script says nothing.

    def _on_connect(self, command):
        return '220 scripted.example.net ESMTP'

    def _on_ehlo(self, command):
        return '\n'.join('250 ' + line for line in (
            'scripted.example.net', *self._server.extensions))

    def _on_helo(self, command):
        return '250 scripted.example.net'

    def _on_mail(self, command):
        return '250 2.1.0 Ok'

    def _on_rcpt(self, command):
        return '250 2.1.5 Ok' if self.sender is not None else '503 5.5.1 MAIL?'

    def _on_data(self, command):
        return ('354 Go ahead' if self.recipients
                else '554 5.5.1 No valid recipients')

    def _on_bdat(self, command):
        return ('250 2.0.0 Ok: queued' if self.recipients
                else '554 5.5.1 No valid recipients')

    def _on_rset(self, command):
        return '250 2.0.0 Ok'

    def _on_auth(self, command):
        return '235 2.7.0 Welcome'

    def _on_starttls(self, command):
        return '220 2.0.0 Ready'

    def _on_quit(self, command):
        return '221 2.0.0 Bye'


@public
class Scripted:
    """The server; a context manager."""

    def __init__(self, script=lambda command, session: None, *,
                 extensions=('PIPELINING', 'SIZE 0', '8BITMIME'),
                 tls=None, from_start=False, delay=0, idle=None,
                 port=None, host=HOST, listener=None):
        """Prepare it.

        :param script: Called from any thread with a command line as str and
            with the `_Session` to which it was sent.  `CONNECT` stands for
            the connection, `CONTENT` for the first line of the content, and
            `.` for its end.  It returns the reply as str, with LF between
            lines, or as raw bytes; None for the usual one; `CLOSE`; or
            `HANG`.  After a 421 the server closes the connection.
        :param extensions: What follows EHLO.
        :param tls: The server's context for STARTTLS.
        :param from_start: TLS begins with the first octet instead.
        :param delay: How many seconds pass before each reply.
        :param idle: After how many seconds of silence it closes a connection.
        :param port: Where to listen; by default where nobody does.
        :param host: The address of the loopback interface there.
        :param listener: The socket to listen with, if it is to be another.
        """
        self.host = host
        self.port = port
        self._listener = listener
        self.extensions = extensions
        self.tls = tls
        self.is_tls_from_start = from_start
        #: How many connections there have been.
        self.connections = 0
        #: The numbers of those that are open.
        self.open = set()
        #: Each command as (number of the connection, line).
        self.commands = []
        #: When each of these commands came, in seconds of a monotonic clock.
        self.times = []
        #: The `Accepted` ones, oldest first.
        self.accepted = []
        self._script = script
        self._delay = delay
        self._idle = idle
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._sessions = []
        self._threads = []

    def __enter__(self):
        if self._listener is None:
            self._listener = socket.create_server(
                (self.host, self.port or 0), backlog=64)
        self.host, self.port = self._listener.getsockname()
        self._start(self._listen)
        return self

    def __exit__(self, *ignore):
        self._stopping.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for session in self._sessions:
            session.close()
        for thread in self._threads:
            thread.join(10)

    def _start(self, target):
        thread = threading.Thread(target=target, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _listen(self):
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(self._idle)
            with self._changed:
                self.connections += 1
                self.open.add(self.connections)
                session = _Session(self, sock, self.connections)
                self._sessions.append(session)
                self._changed.notify_all()
            self._start(session.run)

    def answer_to(self, command, session):
        """What the script says; `CLOSE` and `HANG` are done here."""
        with self._changed:
            if command not in ('CONNECT', 'CONTENT'):
                self.commands.append((session.number, command))
                self.times.append(time.monotonic())
                self._changed.notify_all()
        if self._delay:
            self._stopping.wait(self._delay)
        reply = self._script(command, session)
        if reply is HANG:
            self._stopping.wait()
        if reply is CLOSE or reply is HANG:
            raise _Over
        return reply

    def closed(self, session):
        """Take note of the end of a connection."""
        with self._changed:
            self.open.discard(session.number)
            self._changed.notify_all()

    def accept(self, message):
        """Take note of a message."""
        with self._changed:
            self.accepted.append(message)
            self._changed.notify_all()

    # What tests ask.

    def wait_for(self, predicate):
        """Wait until something is true of what was recorded.

        :raises TimeoutError: if it does not become true.
        """
        deadline = time.monotonic() + PATIENCE
        with self._changed:
            while not predicate(self):
                if time.monotonic() > deadline:
                    raise TimeoutError(self.commands[-40:])
                # What a script notes is not announced.
                self._changed.wait(0.1)

    def said(self, verb):
        """Return the commands of that verb, in the order of their arrival."""
        return [command for _, command in self.commands
                if command.partition(' ')[0] == verb]

    @property
    def served(self):
        """Every recipient of every accepted message."""
        return [recipient for message in self.accepted
                for recipient in message.recipients]

    def drop_connections(self):
        """Close them all, from our end; not within an answer."""
        for session in self._sessions:
            session.drop()

    def configured(self, **mta):
        """Let Mailman deliver to this server, in a `with` statement.

        :param mta: Further settings of [mta].
        """
        return configuration(
            'mta', smtp_host=self.host, smtp_port=self.port, **mta)
