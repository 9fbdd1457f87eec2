# SPDX-License-Identifier: GPL-3.0-or-later
"""A process that sends messages to a server as fast as a limit allows.

The server is a Unix socket: a line is a message, and a line is its reply.
"""

import sys
import asyncio
import logging

from contextlib import suppress
from mailman_mta_pool.configuration.relays import storage_of
from mailman_mta_pool.limits.limit import Limit, Unit
from mailman_mta_pool.limits.limiter import Limiter
from mailman_mta_pool.limits.opening import open_storage
from mailman_mta_pool.settings import Rate


async def send(directory, storage, hosts, server, count, period):
    """Send until the server closes the connection."""
    loop = asyncio.get_running_loop()
    limits = (Limit('relay.ant', Unit.messages, (Rate(count, period),)),)
    limiter = Limiter(
        open_storage(storage_of(storage), hosts, directory, loop), loop)
    reader, writer = await asyncio.open_unix_connection(server)
    permits = []

    def go_on():
        while not writer.is_closing():
            permit = claimant.request()
            if permit is None:
                return
            permits.append(permit)
            writer.write(b'message\n')
    claimant = limiter.claimant(limits, go_on)
    go_on()
    with suppress(ConnectionError):
        while await reader.readline():
            permits.pop(0).replied()
    writer.close()
    await limiter.close()


if __name__ == '__main__':
    logging.basicConfig(stream=sys.stderr, level='INFO', format='%(message)s')
    asyncio.run(send(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4],
                     int(sys.argv[5]), float(sys.argv[6])))
