# SPDX-License-Identifier: GPL-3.0-or-later
"""A process that keeps connections to a server, each of them in a slot.

It is run as `python -m tests.slot_holder DIRECTORY MAXIMUM PORT NAME COUNT`,
until it is killed or its standard input ends.
"""

import sys
import asyncio

from mailman_mta_pool.relays.slots import Slots


HOST = '127.0.0.1'


class Holder:
    """So many agents, each of which wants a connection all the time."""

    def __init__(self, directory, maximum, port, name):
        self._slots = Slots(directory, 'server', maximum)
        self._port = port
        self._name = name
        self._waiting = []
        self._slots.listen(self._wake, lambda: None)

    def _wake(self):
        if self._waiting:
            self._waiting.pop(0).set_result(None)

    async def _slot(self):
        while True:
            slot = self._slots.take()
            if slot is not None:
                self._slots.want(len(self._waiting))
                return slot
            self._waiting.append(asyncio.get_running_loop().create_future())
            self._slots.want(len(self._waiting))
            await self._waiting[-1]

    async def work(self):
        """Use one connection after the other."""
        while True:
            slot = await self._slot()
            reader, writer = await asyncio.open_connection(HOST, self._port)
            goes_on = True
            while goes_on:
                writer.write(f'{self._name}\n'.encode())
                await reader.readline()
                goes_on = not self._slots.gives_back_busy()
            # QUIT: the server closes first.
            writer.write(b'QUIT\n')
            await reader.read()
            writer.close()
            self._slots.release(slot)


async def main(directory, maximum, port, name, count):
    holder = Holder(directory, int(maximum), int(port), name)
    tasks = [asyncio.ensure_future(holder.work()) for _ in range(int(count))]
    ended = asyncio.get_running_loop().run_in_executor(
        None, sys.stdin.read)
    await asyncio.wait([ended, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        if task.done():
            # It never ends by itself.
            task.result()


if __name__ == '__main__':
    asyncio.run(main(*sys.argv[1:]))
