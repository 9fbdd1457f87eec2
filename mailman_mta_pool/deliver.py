# SPDX-License-Identifier: GPL-3.0-or-later
"""The callable of `[mta] outgoing`: one post from Mailman to the relay."""

import time
import logging

from contextlib import suppress
from mailman.interfaces.mta import SomeRecipientsFailed
from mailman_mta_pool.components import factory_for
from mailman_mta_pool.configuration import ConfigurationError
from mailman_mta_pool.errors import (
    DeliveryBroken,
    NothingMoreToSend,
    TemplateUnavailable,
)
from mailman_mta_pool.interruption import signals_held_back, stand_guard, Turn
from mailman_mta_pool.journal.file import Journal
from mailman_mta_pool.journal.keeping import FinishedElsewhere, journal_of
from mailman_mta_pool.journal.records import Settled
from mailman_mta_pool.lastgood import last_good_settings
from mailman_mta_pool.ledger import Ledger
from mailman_mta_pool.outbound import Outbound
from mailman_mta_pool.queues import find_handed_over, Queues
from mailman_mta_pool.relay import relay_for
from mailman_mta_pool.rendering.patience import patient
from mailman_mta_pool.settings import Settings
from mailman_mta_pool.smtplog import PostLog
from mailman_mta_pool.strategies import plain_sender, strategy_for
from mailman_mta_pool.strategies.order import in_order
from public import public
from typing import Any, Dict, List, Optional


log = logging.getLogger('mailman.smtp')


@public
def deliver(mlist: Any, msg: Any, msgdata: Dict[str, Any]) -> None:
    """Deliver a message to the outgoing mail server.

    It takes the place of `mailman.mta.deliver.deliver` and does what that
    does, except that temporary and permanent failures never go up together:
    the outgoing runner of Mailman would send the temporary ones a bounce
    notice about another member instead of the post.

    :param mlist: The mailing list.
    :type mlist: `IMailingList`
    :param msg: The message; bulk delivery decorates it in place.
    :type msg: `mailman.email.message.Message`
    :param msgdata: Its metadata.
    :raises SomeRecipientsFailed: if some were refused, or if a setting is no
        good, which is logged: then nothing was sent, and all are temporary
        failures.
    """
    if not msgdata.get('recipients'):
        # Could be None, could be an empty sequence.
        return
    stand_guard()
    settings, mistake = Settings(), None
    try:
        settings = last_good_settings()
        factory_for(settings.relay)
    except ConfigurationError as error:
        # Only where there is no plugin section, which stops such a start.
        mistake = error
    turn = Turn(settings.delivery)
    with signals_held_back(turn), suppress(FinishedElsewhere):
        with journal_of(msg, msgdata, settings.delivery, turn) as journal:
            _Delivery(
                mlist, msg, msgdata, settings, turn, journal, mistake).run()


class _Delivery:
    """One post, from the queue entry to what becomes of each recipient."""

    def __init__(self, mlist: Any, msg: Any, msgdata: Dict[str, Any],
                 settings: Settings, turn: Turn, journal: Optional[Journal],
                 mistake: Optional[ConfigurationError]) -> None:
        self._post = mlist, msg, msgdata
        self._settings = settings
        self._mistake = mistake
        self._turn = turn
        self._recipients = list(dict.fromkeys(msgdata['recipients']))
        self._queues = Queues(msg, msgdata, journal)
        self._earlier = Settled() if journal is None else journal.settled
        self._ledger = Ledger(
            journal,
            plain_sender=plain_sender(mlist, msg, msgdata),
            shunts=settings.delivery.message_rejected == 'shunt')

    def run(self) -> None:
        try:
            self._run()
        except SomeRecipientsFailed as failed:
            # If the runner cannot register the bounces, or queue the others,
            # the post is kept for these alone.
            self._keep_for(failed.temporary_failures + [
                recipient for recipient, *_ in failed.permanent_failures])
            raise
        except BaseException as error:
            # Whatever it is, it goes on up, and the runner will keep the post
            # for those whom msgdata names.
            self._keep_for(self._queues.without_moved(
                self._ledger.unserved(self._recipients)))
            if isinstance(error, OSError):
                raise DeliveryBroken(f'{error}') from error
            raise

    def _keep_for(self, recipients: List[str]) -> None:
        self._post[2]['recipients'] = recipients

    def _run(self) -> None:
        split = self._settings.delivery.split
        if self._earlier or self._queues.was_broken_off:
            self._resume()
        elif self._mistake is not None:
            self._postpone(self._mistake)
        elif 0 < split < len(self._recipients):
            self._divide(split)
        else:
            self._send()

    def _resume(self) -> None:
        """Mailman was killed while it delivered this queue entry.

        The rest gets an entry of its own: three times, and Mailman would put
        this one aside for good.
        """
        self._queues.count_afresh()
        find_handed_over(self._earlier)
        left = self._earlier.left(self._recipients)
        self._recipients = left + list(self._earlier.bounced)
        log.info('%s: a delivery that was broken off goes on; %d of %d '
                 'recipients are left', self._post[1]['message-id'],
                 len(left), len(self._post[2]['recipients']))
        if left:
            self._queues.put_back(left, progress=bool(self._earlier))
        self._ledger.carry_over(self._earlier.bounced)
        tell_mailman(self._ledger, self._queues)

    def _postpone(self, mistake: ConfigurationError) -> None:
        """Let Mailman's retry queue have the post until that is mended."""
        log.error('%s; %s is tried again later for %d recipients', mistake,
                  self._post[1]['message-id'], len(self._recipients))
        self._queues.leave_to_runner(self._recipients)
        raise SomeRecipientsFailed(self._recipients, [])

    def _divide(self, split: int) -> None:
        """Let several runners share the post."""
        recipients = in_order(self._recipients)
        for start in range(0, len(recipients), split):
            self._queues.put_back(recipients[start:start + split])

    def _send(self) -> None:
        mlist, msg, msgdata = self._post
        post_log = PostLog(mlist, msg, msgdata)
        started = time.monotonic()
        relay = relay_for(self._settings.relay, self._settings.pool)
        outbound = Outbound(
            relay, self._settings.delivery, self._ledger, self._turn,
            envid=str(msg.get('message-id', '')).strip())
        strategy = strategy_for(
            mlist, msg, msgdata, outbound, self._settings.delivery)
        missing: Optional[TemplateUnavailable] = None
        try:
            try:
                with suppress(NothingMoreToSend), patient(
                        self._settings.delivery.patience):
                    strategy.deliver(mlist, msg, msgdata)
            except TemplateUnavailable as error:
                # What has been rendered goes out.
                missing = error
            outbound.finish()
        finally:
            outbound.close()
        unavailable = outbound.unavailable or missing
        left = self._ledger.close(self._recipients, unavailable)
        if left:
            self._queues.put_back(left)
        post_log.write(
            time.monotonic() - started, self._ledger, unavailable,
            len(self._recipients) - len(left))
        tell_mailman(self._ledger, self._queues)


def tell_mailman(ledger: Ledger, queues: Queues) -> None:
    """Say what becomes of those who were not served.

    :raises SomeRecipientsFailed: with those refused for good, or else with
        those refused for the time being.
    """
    if ledger.rejected:
        queues.shunt(list(ledger.rejected))
    temporary = list(ledger.deferred) + ledger.untried
    permanent = [(recipient, code, text)
                 for recipient, (code, text) in ledger.bounced.items()]
    if temporary and permanent:
        queues.retry(temporary)
        temporary = []
    if temporary:
        queues.leave_to_runner(temporary)
    if temporary or permanent:
        raise SomeRecipientsFailed(temporary, permanent)
