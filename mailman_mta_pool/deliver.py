# SPDX-License-Identifier: GPL-3.0-or-later
"""The callable of `[mta] outgoing`: one post from Mailman to the relay."""

import time
import logging

from contextlib import suppress
from mailman.config import config
from mailman.interfaces.mta import SomeRecipientsFailed
from mailman_mta_pool.configuration.files import ConfigurationError
from mailman_mta_pool.configuration.last_good import last_good_settings
from mailman_mta_pool.dispatch.outbound import Outbound
from mailman_mta_pool.errors import (
    DeliveryBroken,
    NothingMoreToSend,
    TemplateUnavailable,
)
from mailman_mta_pool.journal.file import Journal, name_of
from mailman_mta_pool.journal.keeping import FinishedElsewhere, journal_of
from mailman_mta_pool.journal.records import Settled
from mailman_mta_pool.posts import message_id_in
from mailman_mta_pool.relays.access import is_refused
from mailman_mta_pool.relays.factories import check_modes
from mailman_mta_pool.relays.limiting import (
    check_limits,
    limits_directory,
    limits_of,
    PostLimits,
    use_limits,
)
from mailman_mta_pool.relays.relay import kept_relays, other_relays, Relay
from mailman_mta_pool.relays.routing import check_route, relays_for
from mailman_mta_pool.rendering.database import waiting_for_database
from mailman_mta_pool.runner.progress import Progress
from mailman_mta_pool.runner.queues import (
    find_handed_over,
    others_wait,
    Queues,
)
from mailman_mta_pool.runner.signals import (
    signals_held_back,
    stand_guard,
    Turn,
)
from mailman_mta_pool.runner.smtplog import PostLog
from mailman_mta_pool.sampling import Account
from mailman_mta_pool.settings import RelaySettings, Settings
from mailman_mta_pool.settlement.catalogue import catalogue_of
from mailman_mta_pool.settlement.ledger import Ledger, Post
from mailman_mta_pool.strategies import plain_sender, strategy_for
from mailman_mta_pool.strategies.order import in_order, SUSPECTS_KEY
from public import public
from typing import Any, Callable, Dict, List, Optional


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
    :raises KeyboardInterrupt: if the runner is to stop, and the queue entry is
        to stay as it is: its journal knows who has got the post.
    """
    if not msgdata.get('recipients'):
        # Could be None, could be an empty sequence.
        return
    stand_guard()
    settings, mistake = Settings(), None
    try:
        settings = last_good_settings(_check, _is_refused)
        check_modes(settings)
        check_route(settings, _posting_address(mlist))
        use_limits(settings, limits_directory(config.VAR_DIR))
    except ConfigurationError as error:
        # Where there is no plugin section, which stops such a start, where a
        # program does not print the password of a relay, or where no relay is
        # for this list.
        mistake = error
    turn = Turn(settings.delivery, others_wait=others_wait)
    with signals_held_back(turn), suppress(FinishedElsewhere):
        with journal_of(msg, msgdata, settings.delivery, turn) as journal:
            _Delivery(
                mlist, msg, msgdata, settings, turn, journal, mistake).run()


def _check(settings: Settings) -> None:
    """Refuse changed settings with which nothing could be delivered."""
    check_modes(settings)
    check_limits(settings)


def _is_refused(relay: RelaySettings) -> bool:
    """True if the login at a relay is refused, so that nobody tries it."""
    return is_refused(relay, config.VAR_DIR)


def _posting_address(mlist: Any) -> Optional[str]:
    """Return the posting address of a list; None for mail without one."""
    return None if mlist is None else mlist.posting_address


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
        self._count = len(self._recipients)
        self._earlier = Settled() if journal is None else journal.settled
        if self._earlier:
            # Whatever goes wrong from here on, the post is kept for these.
            self._leave_out_settled()
        self._message_id = message_id_in(msg.raw_items())
        self._plain_sender = plain_sender(mlist, msg, msgdata)
        self._ledger = Ledger(
            journal,
            post=Post(
                message_id=self._message_id,
                count=len(self._recipients),
                plain_sender=self._plain_sender,
                is_notice=not msgdata.get('to_list', False),
                suspects=frozenset(msgdata.get(SUSPECTS_KEY, ()))),
            catalogue=catalogue_of(settings.delivery.answers),
            relays=self._relays(),
            shunts=settings.delivery.message_rejected == 'shunt')
        self._progress = Progress(
            msgdata, self._count, name_of(journal), self._ledger,
            self._earlier)
        self._queues = Queues(msg, msgdata, journal, self._progress)
        self._account = Account(
            self._progress, self._ledger, self._earlier, settings.metrics)

    def _relays(self) -> List[Relay]:
        """Return the relays that the post may go over."""
        settings = self._settings
        wanted, named = (
            [(relay, settings.pool_of(relay)) for relay in relays]
            for relays in (
                relays_for(settings, _posting_address(self._post[0])),
                settings.relays))
        return kept_relays(wanted, named, config.VAR_DIR)

    def run(self) -> None:
        with self._account.keep(self._post[0], self._message_id):
            self._run_and_settle()

    def _run_and_settle(self) -> None:
        try:
            self._run()
        except SomeRecipientsFailed as failed:
            # If the runner cannot register the bounces, or queue the others,
            # the post is kept for these alone.
            self._leave_to_runner(failed.temporary_failures + [
                recipient for recipient, *_ in failed.permanent_failures],
                'retry')
            raise
        except Exception as error:
            # Whatever it is, it goes on up, and the runner will keep the post
            # for those whom msgdata names.
            self._leave_to_runner(self._queues.without_moved(
                self._ledger.unserved(self._recipients)), 'shunt')
            if isinstance(error, OSError):
                raise DeliveryBroken(f'{error}') from error
            raise

    def _leave_to_runner(self, recipients: List[str], queue: str) -> None:
        self._post[2]['recipients'] = recipients
        self._queues.leave_to_runner(recipients, queue)

    def _leave_out_settled(self) -> None:
        self._recipients = (
            self._earlier.left(self._recipients) +
            list(self._earlier.unreported(self._recipients)))
        self._post[2]['recipients'] = self._recipients

    def _run(self) -> None:
        if self._earlier:
            find_handed_over(self._earlier)
            self._leave_out_settled()
            self._ledger.carry_over(self._earlier.unreported(self._recipients))
        left = self._ledger.unsettled(self._recipients)
        if len(left) < self._count:
            left = self._resume(left)
        elif self._mistake is None and (
                0 < self._settings.delivery.split < len(left)):
            left = self._divide(left)
        if left and self._mistake is not None:
            left = self._postpone(left, self._mistake)
        if left:
            self._send(left)
        self._note_suspects()
        tell_mailman(self._ledger, self._queues)

    def _note_suspects(self) -> None:
        """Let those go last, the next time, who were refused for no fault."""
        # Whose turn did not come is still one of them.
        earlier = self._post[2].pop(SUSPECTS_KEY, ())
        suspects = list(dict.fromkeys([
            *self._ledger.suspects, *self._ledger.unserved(earlier)]))
        if suspects:
            self._post[2][SUSPECTS_KEY] = suspects

    def _resume(self, left: List[str]) -> List[str]:
        """Put the rest of a delivery that was killed into a new queue entry.

        There was some progress: after three times without any, Mailman puts
        an entry aside for good.

        :param left: Those who are left.
        :return: Those of them who are to be served now.
        """
        if left:
            self._try(self._queues.replace, left)
        log.info('%s: a delivery that was broken off goes on; %d of %d '
                 'recipients are left', self._post[1]['message-id'],
                 len(left), self._count)
        return self._queues.without_moved(left)

    def _postpone(self, left: List[str],
                  mistake: ConfigurationError) -> List[str]:
        """Let Mailman's retry queue have the post; return whom to serve now.

        :param left: Those who are left.
        :param mistake: The setting that is no good.
        """
        log.error('%s; %s is tried again later for %d recipients', mistake,
                  self._post[1]['message-id'], len(left))
        self._ledger.untried = left
        self._account.note_untried(mistake)
        return []

    def _divide(self, recipients: List[str]) -> List[str]:
        """Let several runners share the post; return whom they do not get."""
        recipients = in_order(recipients)
        size = self._settings.delivery.split
        for start in range(0, len(recipients), size):
            if self._try(self._queues.divide,
                         recipients[start:start + size]) is not None:
                break
        left = self._queues.without_moved(recipients)
        self._progress.note_divided(len(left))
        return left

    def _try(self, put: Callable[[List[str]], None],
             recipients: List[str]) -> Optional[OSError]:
        """Put recipients into another queue entry; return why it failed."""
        try:
            put(recipients)
        except OSError as error:
            log.warning('%s: %d recipients cannot be put back into the queue: '
                        '%s', self._post[1]['message-id'], len(recipients),
                        error)
            return error
        return None

    def _send(self, left: List[str]) -> None:
        mlist, msg, msgdata = self._post
        post_log = PostLog(mlist, msg, msgdata)
        started = time.monotonic()
        recipients = left
        while True:
            msgdata['recipients'] = left
            unavailable = self._send_in_turn()
            rest = self._ledger.close(recipients, unavailable)
            if not rest:
                break
            self._note_suspects()
            error = self._try(self._queues.put_back, rest)
            left = self._queues.without_moved(rest)
            if error is None or not left:
                break
            self._go_on(error)
        self._account.note_untried(unavailable)
        post_log.write(
            time.monotonic() - started, self._ledger, unavailable,
            len(recipients) - len(rest))

    def _go_on(self, error: OSError) -> None:
        """Begin another turn, because the queue does not take the rest.

        :param error: Why it does not.
        :raises OSError: that one, if there can be no other turn.
        :raises KeyboardInterrupt: if the runner is to stop: it ends, and
            leaves the entry, with its journal, to the next one.
        """
        if self._turn.is_urgent and self._queues.may_stay:
            raise KeyboardInterrupt from error
        if self._turn.is_urgent or not self._turn.is_over:
            raise error
        self._turn.renew()

    def _send_in_turn(self) -> Optional[Exception]:
        """Send until the turn is over; return why there can be no sending."""
        mlist, msg, msgdata = self._post
        relays = self._relays()
        self._ledger.use(relays)
        outbound = Outbound(
            relays, self._settings.delivery, self._ledger,
            turn=self._turn, envid=self._message_id,
            plain_sender=self._plain_sender,
            was_in_retry='last_recip_count' in msgdata,
            limits=PostLimits({relay: limits_of(
                self._settings, relay.settings, _posting_address(mlist))
                for relay in relays}))
        self._account.use(outbound, other_relays(relays))
        strategy = strategy_for(
            mlist, msg, msgdata, outbound, self._settings.delivery)
        missing: Optional[TemplateUnavailable] = None
        try:
            try:
                with suppress(NothingMoreToSend), waiting_for_database(
                        self._settings.delivery.patience):
                    strategy.deliver(mlist, msg, msgdata)
            except TemplateUnavailable as error:
                # What has been rendered goes out.
                missing = error
            outbound.finish()
        finally:
            outbound.close()
        return outbound.unavailable or missing


def tell_mailman(ledger: Ledger, queues: Queues) -> None:
    """Raise, and queue, what becomes of the recipients who were not served.

    :raises SomeRecipientsFailed: with those refused for good, or else with
        those refused for the time being.
    """
    if ledger.rejected:
        queues.shunt(list(ledger.rejected))
    temporary = list(ledger.deferred) + ledger.untried
    if temporary and ledger.is_paused:
        queues.retry(temporary, keeps_period=True)
        temporary = []
    permanent = [(recipient, code, text)
                 for recipient, (code, text) in ledger.bounced.items()]
    if temporary and permanent:
        queues.retry(temporary)
        temporary = []
    elif temporary:
        queues.note_discarded(temporary)
    if temporary or permanent:
        raise SomeRecipientsFailed(temporary, permanent)
