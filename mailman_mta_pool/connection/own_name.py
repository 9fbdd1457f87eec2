# SPDX-License-Identifier: GPL-3.0-or-later
"""The name by which this machine introduces itself (RFC 5321, 4.1.1.1)."""

import asyncio
import smtplib

from contextlib import suppress
from ipaddress import ip_address
from mailman_mta_pool.connection.tls_socket import Stream
from public import public
from typing import Optional


# How many seconds the look-up of our own name may keep the first connections
# waiting.
OWN_NAME_TIMEOUT = 5.0
public(OWN_NAME_TIMEOUT=OWN_NAME_TIMEOUT)


@public
class OwnName:
    """The name of this machine for EHLO, looked up once in a process.

    The look-up asks DNS, which may take long, so it has a thread.
    """

    def __init__(self) -> None:
        """Nothing is looked up yet."""
        self._name = ''
        self._lookup: Optional['asyncio.Future[str]'] = None
        self._deadline = 0.0

    async def get(self, sock: Stream) -> str:
        """Return the name, or an address literal if there is none in time.

        :param sock: The socket whose address is to be taken then.
        """
        if not self._name:
            with suppress(RuntimeError):
                # There may be no thread to be had.
                self._name = await self._looked_up()
        return self._name or _address_literal(sock)

    async def _looked_up(self) -> str:
        loop = asyncio.get_running_loop()
        lookup = self._lookup
        if lookup is None or lookup.get_loop() is not loop:
            self._lookup = lookup = loop.run_in_executor(None, _smtplibs_name)
            self._deadline = loop.time() + OWN_NAME_TIMEOUT
        # Those who come later wait no longer for it than the first.
        await asyncio.wait(
            [lookup], timeout=max(0.0, self._deadline - loop.time()))
        return lookup.result() if lookup.done() else ''


def _smtplibs_name() -> str:
    """The fully qualified name, else an address literal; '' if unfit."""
    with suppress(OSError, UnicodeError):
        name = smtplib.SMTP().local_hostname
        if name.isascii() and name.isprintable() and ' ' not in name:
            return name
    return ''


def _address_literal(sock: Stream) -> str:
    """The socket's own address, as in RFC 5321, section 4.1.3."""
    address = ip_address(sock.getsockname()[0].partition('%')[0])
    return f'[IPv6:{address}]' if address.version == 6 else f'[{address}]'


own_name = OwnName()
public(own_name=own_name)
