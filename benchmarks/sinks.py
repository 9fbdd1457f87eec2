# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the mail goes."""

import time

from contextlib import ExitStack
from public import public
from tests.servers import postfix, sink
from tests.servers.loopback import HOST
from tests.servers.proxy import DelayingProxy


# As many smtpd processes as there may be connections, and some to spare.
PROCESSES = 40
# How long a Postfix may take to forget what the last measurement left in its
# queue, in seconds, and how often it is looked at.
PATIENCE = 120
PAUSE = 0.1


@public
def available():
    """Tell why nothing can be measured here; '' if it can."""
    return sink.available()


@public
class Sinks:
    """Servers that throw mail away, each started when it is first needed.

    A context manager; they end with it.
    """

    def __init__(self):
        self._stack = ExitStack()
        self._servers = {}
        self._ports = {}

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._stack.close()

    def missing(self, name):
        """Tell why there is no such server here; '' if there is."""
        return {'smtp-sink': sink, 'postfix': postfix}[name].available()

    def port(self, name, round_trip):
        """Where the server can be reached.

        :param name: 'smtp-sink' or 'postfix'.
        :param round_trip: How far away, in milliseconds.
        """
        key = name, round_trip
        if key not in self._ports:
            server = self._server(name)
            if round_trip:
                server = self._stack.enter_context(DelayingProxy(
                    (HOST, server.port), round_trip / 1000))
            self._ports[key] = server.port
        return self._ports[key]

    def _server(self, name):
        if name not in self._servers:
            make = {'smtp-sink': sink.SMTPSink, 'postfix': self._postfix}
            self._servers[name] = self._stack.enter_context(make[name]())
        return self._servers[name]

    def _postfix(self):
        return postfix.Postfix(default_process_limit=PROCESSES)

    def rest(self, name):
        """Wait until the server has nothing left to do."""
        if name == 'postfix':
            end = time.monotonic() + PATIENCE
            while self._servers[name].queued() and time.monotonic() < end:
                time.sleep(PAUSE)
