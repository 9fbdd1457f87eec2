# SPDX-License-Identifier: GPL-3.0-or-later
"""Plugins of Mailman that answer in the place of DNS, or do not answer."""

import json
import socket
import threading
import dns.resolver

from mailman.config import config
from mailman.interfaces.plugin import IPlugin
from pathlib import Path
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
NAMES_PLUGIN = f"""\
[plugin.names]
class: {__name__}.Names
enabled: yes
component_package: {__package__}
"""
# Below VAR_DIR.
NAMES_FILE = 'names.json'
public(SILENT_HOST=SILENT_HOST, PLUGIN=PLUGIN, NAMES_PLUGIN=NAMES_PLUGIN)


@public
def tell_names(site, addresses, port=None):
    """Let the hosts of a test have addresses.

    :param site: The site; it has `NAMES_PLUGIN`.
    :param addresses: Those of each host.
    :param port: The port of the name server that is asked for records; None
        if there is none.
    """
    (site.var / NAMES_FILE).write_text(json.dumps([addresses, port]))


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


@public
@implementer(IPlugin)
class Names:
    """See `IPlugin` and `tell_names`."""

    resource = None

    def pre_hook(self):
        """See `IPlugin`."""
        getaddrinfo = socket.getaddrinfo
        path = Path(config.VAR_DIR) / NAMES_FILE
        addresses, dns_port = json.loads(path.read_text())

        def look_up(host, port, family=0, type=0, proto=0, flags=0):
            hosts = [host]
            # Whether it is an address is told without DNS.
            if not flags & socket.AI_NUMERICHOST:
                hosts = addresses.get(host, hosts)
            return [found for address in hosts
                    for found in getaddrinfo(
                        address, port, family, type, proto, flags)]
        socket.getaddrinfo = look_up

        def read_resolv_conf(resolver, file):
            resolver.nameservers = ['127.0.0.1']
            resolver.port = dns_port
        dns.resolver.BaseResolver.read_resolv_conf = read_resolv_conf

    def post_hook(self):
        """See `IPlugin`."""
