# SPDX-License-Identifier: GPL-3.0-or-later
"""What the operator is told of a delivery: where its numbers come from.

The keeper of the state file knows nothing of the engine; here it is given
functions that look at the ledger, the dispatcher and the relay.  In a process
that is not an `out` runner nothing is kept.
"""

import os
import time
import atexit
import logging

from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from mailman.config import config
from mailman_mta_pool.dispatch.outbound import Outbound
from mailman_mta_pool.errors import LocalFailure
from mailman_mta_pool.journal.keeping import journal_directory
from mailman_mta_pool.journal.records import Settled
from mailman_mta_pool.monitoring.files import state_directory
from mailman_mta_pool.monitoring.keeper import (
    Delivery,
    Keeper,
    RelaySample,
    Tally,
)
from mailman_mta_pool.monitoring.state import (
    Counted,
    Failures,
    PostState,
    RelayState,
)
from mailman_mta_pool.monitoring.textfile import Textfile
from mailman_mta_pool.monitoring.ticker import Ticker
from mailman_mta_pool.network.border import border
from mailman_mta_pool.relays.relay import Relay
from mailman_mta_pool.runner.progress import Progress
from mailman_mta_pool.runner.slice import slice_of_process
from mailman_mta_pool.settings import MetricsSettings
from mailman_mta_pool.settlement.causes import Cause, REPLY_LENGTH
from mailman_mta_pool.settlement.ledger import Ledger
from mailman_mta_pool.settlement.words import without_addresses
from mailman_mta_pool.shown import printable
from public import public
from typing import (
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Optional,
    Sequence,
    Tuple,
)


log = logging.getLogger('mailman.smtp')

# A relay that waits for a limit of ours for so many seconds is paused.
SHORTEST_PAUSE = 1.0


@public
class Account:
    """Keeps the operator informed of one delivery."""

    def __init__(self, progress: Progress, ledger: Ledger, earlier: Settled,
                 metrics: MetricsSettings) -> None:
        """Prepare; nothing is kept before `keep`.

        :param progress: How far the post has come.
        :param ledger: The settlement of its recipients.
        :param earlier: What its journal says.
        :param metrics: What of it is to be seen where.
        """
        self._progress = progress
        self._ledger = ledger
        self._earlier = earlier
        self._metrics = metrics
        self._relay_watch = RelayWatch(ledger)

    @contextmanager
    def keep(self, mlist: Any, message_id: str) -> Iterator[None]:
        """Tell of the delivery as long as it lasts, and of how it ended.

        :param mlist: The mailing list.
        :param message_id: The Message-ID of the post.
        """
        slice_ = _this_slice()
        if slice_ is None:
            yield
            return
        progress, earlier = self._progress, self._earlier
        slice_.begin(self._metrics, self._relay_watch.samples, Delivery(
            PostState(
                entry=progress.entry, origin=progress.origin,
                message_id=message_id, list_name=mlist.fqdn_listname,
                total=progress.total, outcomes=dict(progress.before),
                failures=_failures(progress.causes_before)),
            progress.size, progress.is_continued, progress.is_unshunted,
            Counted(len(earlier.served), len(earlier.bounced),
                    earlier.messages), self._tally,
            ), earlier.former_entry, self._take_over)
        is_over = False
        try:
            yield
            is_over = True
        except Exception:
            is_over = True
            raise
        finally:
            self._relay_watch.end()
            slice_.end(is_over and not progress.is_put_back)

    def _take_over(self, post: PostState) -> None:
        """Go on with what has become of the post since its entry was made."""
        self._progress.before = {
            outcome: count for outcome, count in post.outcomes.items()
            if count}
        self._progress.causes_before = [
            Cause(each.outcome, each.reply, each.count)
            for each in post.failures]

    def use(self, outbound: Outbound, others: Sequence[Relay] = ()) -> None:
        """Tell of what is sent, too.

        :param outbound: The main thread's end of a dispatch.
        :param others: The other relays of the site.
        """
        self._relay_watch.use(outbound, others)

    def note_untried(self, unavailable: Optional[Exception]) -> None:
        """Take note of why nobody could be tried any more.

        :param unavailable: Why nothing could be sent; None where the server
            has said so.
        """
        ledger = self._ledger
        judgement = ledger.denial or ledger.used_up
        if unavailable is not None:
            self._progress.note_untried(str(unavailable))
        elif judgement is not None:
            self._progress.note_untried(str(judgement.reply))

    # What is sampled, in the network thread.

    def _tally(self) -> Tally:
        progress = self._progress
        return Tally(
            progress.attempt(), progress.outcomes(),
            self._earlier.messages + self._ledger.messages,
            _failures(progress.causes()), self._relay_watch.waits_for)


@public
class RelayWatch:
    """Looks at the relays of a delivery, while it lasts and when it has ended.

    A delivery can be of a million recipients: nothing of it stays.
    """

    def __init__(self, ledger: Ledger) -> None:
        """Prepare; there is nothing to be seen yet.

        :param ledger: The settlement of the recipients.
        """
        self._ledger: Optional[Ledger] = ledger
        self._outbound: Optional[Outbound] = None
        self._relays: Tuple[Relay, ...] = ()
        self._others: Tuple[Relay, ...] = ()
        # Why they take no mail from us.
        self._denials: Dict[Any, str] = {}
        # Until when limits of our own let nothing through, and which.
        self._limits: Dict[Any, Tuple[float, str]] = {}

    def use(self, outbound: Outbound, others: Sequence[Relay] = ()) -> None:
        """Look at what is sent.

        :param outbound: The main thread's end of a dispatch.
        :param others: The other relays of the site.
        """
        self._outbound, self._relays = outbound, outbound.relays
        self._others = tuple(others)

    @property
    def waits_for(self) -> str:
        """What the post waits for, in words; '' if something can be sent."""
        return '' if self._outbound is None else self._outbound.waits_for

    def end(self) -> None:
        """Take note that the delivery has ended."""
        self._denials = self._words_of_denials()
        if self._outbound is not None:
            now = time.monotonic()
            for relay in self._relays:
                seconds, words = self._outbound.limit_of(relay)
                self._limits[relay] = now + seconds, words
        self._ledger = self._outbound = None

    def _words_of_denials(self) -> Dict[Any, str]:
        if self._ledger is None:
            return self._denials
        return {relay: str(judgement.reply)
                for relay, judgement in self._ledger.denials.items()}

    def samples(self) -> List[RelaySample]:
        """Return what holds now of each relay; none if none was used."""
        denials = self._words_of_denials()
        return [self._sample(relay, denials.get(relay, ''))
                for relay in (*self._relays, *self._others)]

    def _limit(self, relay: Relay) -> Tuple[float, str]:
        """Return for how long a limit of ours holds, and which it is."""
        if self._outbound is not None:
            return self._outbound.limit_of(relay)
        until, words = self._limits.get(relay, (0.0, ''))
        return max(0.0, until - time.monotonic()), words

    def _sample(self, relay: Relay, denial: str) -> RelaySample:
        outbound = self._outbound
        pool, throttle = relay.pool.statistics(), relay.throttle.statistics()
        state, reason = 'unknown', ''
        limited_for, limit = self._limit(relay)
        if throttle.paused_for > 0:
            state, reason = 'paused', throttle.reason
        elif relay.trouble:
            state, reason = 'down', relay.trouble
        elif denial:
            state, reason = 'down', denial
        elif not relay.is_up:
            # An earlier post has found that out.
            state, reason = 'down', relay.addresses.failure
        elif limited_for > 0:
            # Several times a second one waits at a limit of so many a second.
            state = 'paused' if limited_for >= SHORTEST_PAUSE else 'up'
            reason = limit
        elif pool.opened > 0:
            state = 'up'
        return RelaySample(relay, RelayState(
            relay.name, state,
            without_addresses(printable(reason))[:REPLY_LENGTH],
            round(max(throttle.paused_for, limited_for), 3),
            pool.idle + pool.in_use, pool.idle, throttle.ceiling,
            0 if outbound is None else outbound.in_flight_to(relay),
            throttle.rate, pool.opened, pool.reused,
            pool.stale + pool.broken), relay.lessons.durations,
            relay in self._relays)


def _failures(causes: List[Cause]) -> List[Failures]:
    return [Failures(*cause) for cause in causes]


class _Slice:
    """The keeper of this process, and what it is kept for.

    Whatever goes wrong here is logged and goes no further: no post is kept
    from its recipients because nobody can be told of it.
    """

    def __init__(self, name: str) -> None:
        self._look: Callable[[], List[RelaySample]] = list
        directory = state_directory(config.VAR_DIR)
        self._keeper = Keeper(
            directory, name, software=_software(),
            look_at_relays=lambda: self._look(),
            has_journal=partial(_has_journal, journal_directory()))
        self._ticker = Ticker(self._keeper)
        self._textfile = Textfile(directory, config.QUEUE_DIR)
        atexit.register(self.leave)

    def begin(self, metrics: MetricsSettings,
              look: Callable[[], List[RelaySample]], delivery: Delivery,
              former_entry: str,
              take_over: Callable[[PostState], None]) -> None:
        """Have the network thread begin to sample a delivery."""
        def step() -> None:
            self._look = look
            post = self._keeper.begin(delivery, metrics.lists, former_entry)
            take_over(post)

        def start() -> None:
            self._ticker.publish = partial(
                self._textfile.write, metrics.textfile) if (
                metrics.textfile) else None
            self._ticker.start()
        self._do(step, start)

    def end(self, is_over: bool) -> None:
        """Write the state file, for the delivery has ended."""
        self._do(partial(self._keeper.end, is_over), self._ticker.stop)

    def leave(self) -> None:
        """Write the files for the last time."""
        def publish() -> None:
            if self._ticker.publish is not None:
                self._ticker.publish()
        self._do(self._keeper.leave, lambda: None, start=False)
        with _logged():
            publish()

    def _do(self, step: Callable[[], Any], timers: Callable[[], Any],
            start: bool = True) -> None:
        """Take a step in the network thread, and wait until it is taken.

        :param step: What to do.
        :param timers: What to do about the timers of that thread then.
        :param start: Whether to start the thread if it does not run.
        """
        async def do() -> None:
            step()
            timers()
        with _logged():
            if start or border.is_running:
                with suppress(LocalFailure):
                    border.call(do)
                    return
            if not border.is_running:
                # Nobody else is at work on it.
                step()


@contextmanager
def _logged() -> Iterator[None]:
    """Log what goes wrong, and go on."""
    try:
        yield
    except Exception:
        log.exception('The state of this runner cannot be kept; the delivery '
                      'goes on')


@lru_cache(maxsize=None)
def _this_slice() -> Optional[_Slice]:
    """Return the slice that this process is; None if it is none."""
    name = slice_of_process()
    with _logged():
        return None if name is None else _Slice(name)
    return None


def _software() -> str:
    with suppress(PackageNotFoundError):
        return version('mailman-mta-pool')
    return ''


def _has_journal(directory: str, entry: str) -> bool:
    return os.path.exists(os.path.join(directory, entry))
