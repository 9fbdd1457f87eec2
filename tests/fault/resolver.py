# SPDX-License-Identifier: GPL-3.0-or-later
"""A plugin of Mailman that puts a host behind DNS that never answers."""

import socket
import threading

from mailman.interfaces.plugin import IPlugin
from public import public
from zope.interface import implementer


#: The host's name.
SILENT_HOST = 'silent.example.net'
PLUGIN = f"""\
[plugin.silent_resolver]
class: {__name__}.SilentResolver
enabled: yes
component_package: {__package__}
"""
public(SILENT_HOST=SILENT_HOST, PLUGIN=PLUGIN)


@public
@implementer(IPlugin)
class SilentResolver:
    """See `IPlugin`."""

    resource = None

    def pre_hook(self):
        """See `IPlugin`."""
        getaddrinfo = socket.getaddrinfo

        def look_up(host, port, family=0, type=0, proto=0, flags=0):
            # Whether it is an address can be told without DNS.
            if host == SILENT_HOST and not flags & socket.AI_NUMERICHOST:
                threading.Event().wait()
            return getaddrinfo(host, port, family, type, proto, flags)
        socket.getaddrinfo = look_up

    def post_hook(self):
        """See `IPlugin`."""
