# SPDX-License-Identifier: GPL-3.0-or-later
"""What one delivery agent does: it uses one connection after the other.

Everything here is in the network thread.
"""

import asyncio
import logging
import smtplib

from mailman_mta_pool.dispatch.retry import ConnectionUse, Event
from mailman_mta_pool.errors import RelayUnavailable
from mailman_mta_pool.interfaces import Given, LATER
from mailman_mta_pool.wire.transaction import Outcome
from public import public
from typing import Any, Optional


log = logging.getLogger('mailman.smtp')


@public
class Agent:
    """Takes transactions from a lane while it has any.

    :ivar use: What happens on the connection in use; None without one.
    :ivar is_waiting: True while the connection could take another
        transaction, and there is none.
    :ivar room: How many octets of content that transaction may have at least.
    :ivar is_queued: True while other connections have to be closed before it
        may open one.
    """

    def __init__(self, lane: Any) -> None:
        """Prepare; `run` does the work.

        :param lane: The `Lane` that has the transactions.
        """
        self._lane = lane
        self._connection: Any = None
        self._is_woken = asyncio.Event()
        self.use: Optional[ConnectionUse] = None
        self.is_waiting = False
        self.room = 0
        self.is_queued = False

    @property
    def is_busy(self) -> bool:
        """True while it has transactions that are not settled."""
        return self.use is not None and self.use.in_hand > 0

    @property
    def is_live(self) -> bool:
        """True unless it has a connection that is to be closed."""
        return self.use is None or not self.use.is_condemned

    async def run(self) -> None:
        """Work until there is nothing to do, or no connection to be had."""
        try:
            goes_on = True
            while goes_on:
                try:
                    goes_on = (await self._use_a_connection() and
                               await self._sit_out_pause() and
                               self._lane.has_work_for_all)
                except RelayUnavailable as error:
                    goes_on = (await self._bear(error) and
                               self._lane.may_have_work)
        except Exception as error:
            # A mistake of ours: what was learnt is settled, and the error
            # goes on up in the main thread.
            self._lane.fail(error)
        finally:
            self._lane.leave(self)

    async def _use_a_connection(self) -> bool:
        """Use one connection for as long as it lasts and there is work.

        :return: False if this agent is not to open another one.
        """
        lane = self._lane
        lane.retry.opening()
        try:
            acquired = await lane.relay.pool.acquire(
                lambda: lane.may_open, self._note_queued, self._note_opening)
        finally:
            self.is_queued = False
        if acquired is None:
            return False
        connection, is_reused = acquired
        lost = None
        use = ConnectionUse(
            lane.retry.answers, is_stale=is_reused,
            is_lazy=connection.connects_lazily,
            known=lane.relay.lessons.learnt)
        self._connection, self.use = connection, use
        try:
            lane.opened(is_proved=not connection.connects_lazily)
            await connection.converse(self._feed, self._report)
            if use.is_condemned:
                await connection.disconnect()
        except smtplib.SMTPServerDisconnected as error:
            log.info('%s: %s', lane.relay.name, error)
            lost = error
            lane.relay.pool.note_broken()
        finally:
            self._connection, self.use = None, None
            self.is_waiting = False
            lane.put_back(use)
            lane.relay.pool.release(connection)
        return lost is None or lane.bear_loss(use, lost)

    def _note_queued(self) -> None:
        self.is_queued = True
        self._lane.note_queued()

    def _note_opening(self) -> None:
        self.is_queued = False
        self._lane.retry.opening()

    async def _sit_out_pause(self) -> bool:
        """Wait while another connection would have nothing to do.

        A server that wants nothing may close each of them at once.

        :return: True, when it is over.
        """
        lane = self._lane
        while lane.has_work_for_all:
            seconds = lane.put_off_for()
            if seconds <= 0:
                break
            await self._rest(seconds)
        return True

    async def _rest(self, seconds: float) -> None:
        """Wait for so many seconds, or until it is woken."""
        self._is_woken.clear()
        try:
            await asyncio.wait_for(self._is_woken.wait(), seconds)
        except asyncio.TimeoutError:
            pass

    async def _bear(self, error: RelayUnavailable) -> bool:
        """Wait for the relay, if that may help.

        :return: False if this agent is to give up.
        """
        lane = self._lane
        event = lane.cannot_open(error)
        if event is not Event.cannot_open:
            return False
        pause = max(lane.retry.pause(), lane.paused_for)
        log.info('%s; trying again in %g s', error, pause)
        await self._rest(pause)
        return True

    # Called by the connection.

    def _feed(self, octets: int) -> Given:
        """Return the next transaction; see `ITransactionConnection`."""
        use = self.use
        assert use is not None
        if not use.is_condemned and self._lane.relay.pool.gives_back_busy():
            use.is_condemned = True
        given = self._lane.next_for(use, octets)
        self.is_waiting, self.room = given is LATER, octets
        return given

    def _report(self, outcome: Outcome) -> None:
        """Take what became of a transaction."""
        assert self.use is not None
        self._lane.judge(outcome, self.use)

    # Called by the lane.

    def wake(self) -> None:
        """Ask for work again, or stop waiting for the relay."""
        lane = self._lane
        if not (lane.may_have_work and lane.retry.is_outage):
            # More work is no reason to cut the pause short.
            self._is_woken.set()
        if self.is_queued and not lane.may_open:
            lane.relay.pool.dismiss_unwanted()
        if self._connection is not None and self.is_waiting:
            self._connection.wake()

    def abort(self) -> None:
        """Break the connection, if there is one."""
        if self._connection is not None:
            self._connection.abort()
