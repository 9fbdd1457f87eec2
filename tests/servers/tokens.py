# SPDX-License-Identifier: GPL-3.0-or-later

"""A token endpoint (RFC 6749), in threads, on a free port of the host."""

import json
import threading

from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from public import public
from tests.servers.loopback import HOST
from typing import Iterator
from urllib.parse import parse_qs


@public
class TokenEndpoint:
    """The endpoint; a context manager.

    :ivar forms: What it was asked, each a dictionary of texts.
    :ivar answer: Called with each of these; returns the status, and what the
        JSON says, or octets, or an iterator of octets; and perhaps a
        Retry-After.
    """

    def __init__(self, answer, tls=None):
        """Prepare it.

        :param answer: See above.
        :param tls: The server's context for TLS.
        """
        self.answer = answer
        self.forms = []
        self._tls = tls

    def __enter__(self):
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                octets = self.rfile.read(int(self.headers['Content-Length']))
                form = {key: value for key, (value,) in parse_qs(
                    octets.decode('ascii'), strict_parsing=True).items()}
                endpoint.forms.append({'path': self.path, **form})
                status, found, *wait = endpoint.answer(form)
                content = (
                    [found] if isinstance(found, bytes) else
                    found if isinstance(found, Iterator) else
                    [json.dumps(found).encode()])
                # The client may not want it.
                with suppress(OSError):
                    self.send_response(status)
                    if 300 <= status < 400:
                        self.send_header('Location', endpoint.url)
                    for value in wait:
                        self.send_header('Retry-After', value)
                    self.end_headers()
                    for part in content:
                        self.wfile.write(part)

            def log_message(self, *ignore):
                pass
        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self._server.daemon_threads = True
        scheme, host = 'http', HOST
        if self._tls is not None:
            scheme, host = 'https', 'localhost'
            self._server.socket = self._tls.wrap_socket(
                self._server.socket, server_side=True)
        self.url = f'{scheme}://{host}:{self._server.server_port}/token?a=b'
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=[0.05], daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *ignore):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)
