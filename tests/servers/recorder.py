# SPDX-License-Identifier: GPL-3.0-or-later

"""A server that keeps what it is sent, to the octet.

Postfix hands on to it what it took, so that a test can read the content back.
"""

import threading
import socketserver

from public import public
from tests.servers.loopback import HOST, wait_until
from typing import List, NamedTuple


CAPABILITIES = ('PIPELINING', 'SIZE 104857600', '8BITMIME', 'SMTPUTF8')


@public
class Received(NamedTuple):
    """A message as it arrived.

    The addresses are without the angle brackets, the content is without the
    stuffed dots and without the final one, with its CRLFs.
    """

    sender: str
    recipients: List[str]
    content: bytes


def _address(argument):
    """Return what stands between the outermost angle brackets."""
    return argument.partition('<')[2].rpartition('>')[0]


class _Session(socketserver.StreamRequestHandler):
    wbufsize = -1

    def handle(self):
        self._sender, self._recipients = None, []
        self._reply('220 recorder.example.net ESMTP')
        for line in self.rfile:
            verb, _, argument = line.decode(
                'utf-8', 'surrogateescape').rstrip('\r\n').partition(' ')
            answer = getattr(self, '_on_' + verb.lower(), None)
            if answer is None:
                self._reply('500 5.5.2 unknown command')
            elif answer(argument):
                return

    def _reply(self, *lines):
        for line in lines:
            self.wfile.write(line.encode() + b'\r\n')
        self.wfile.flush()

    def _on_ehlo(self, argument):
        self._reply('250-recorder.example.net',
                    *('250-' + name for name in CAPABILITIES[:-1]),
                    '250 ' + CAPABILITIES[-1])

    def _on_helo(self, argument):
        self._reply('250 recorder.example.net')

    def _on_mail(self, argument):
        self._sender, self._recipients = _address(argument), []
        self._reply('250 2.1.0 Ok')

    def _on_rcpt(self, argument):
        self._recipients.append(_address(argument))
        self._reply('250 2.1.5 Ok')

    def _on_data(self, argument):
        self._reply('354 go on')
        lines = []
        for line in self.rfile:
            if line == b'.\r\n':
                self.server.messages.append(Received(
                    self._sender, self._recipients, b''.join(lines)))
                self._reply('250 2.0.0 Ok: queued as {}'.format(
                    len(self.server.messages)))
                return
            lines.append(line[1:] if line.startswith(b'.') else line)

    def _on_rset(self, argument):
        self._sender, self._recipients = None, []
        self._reply('250 2.0.0 Ok')

    def _on_noop(self, argument):
        self._reply('250 2.0.0 Ok')

    def _on_quit(self, argument):
        self._reply('221 2.0.0 Bye')
        return True


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    # A client's connection that is still open does not keep the test.
    block_on_close = False
    request_queue_size = 128


@public
class Recorder:
    """A recording SMTP server, in threads of this process."""

    def __init__(self):
        self.host = HOST
        self.port = None

    def __enter__(self):
        self._server = _Server((HOST, 0), _Session)
        self._server.messages = []
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={'poll_interval': 0.05}, name='recorder', daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *ignore):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def address(self):
        """The (host, port) for `Postfix(relay_to=…)`."""
        return self.host, self.port

    def messages(self, count=0):
        """Return the list of what arrived, in the order of arrival.

        :param count: Wait until there are as many messages.
        :rtype: list of `Received`
        :raises TimeoutError: when they do not come.
        """
        wait_until(lambda: len(self._server.messages) >= count,
                   '{} messages'.format(count))
        return list(self._server.messages)
