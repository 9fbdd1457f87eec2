# SPDX-License-Identifier: GPL-3.0-or-later
"""What the operator can do: a sentence for whatever is not as it should be."""

from mailman_mta_pool.durations import duration
from mailman_mta_pool.monitoring.queues import QueueSummary
from mailman_mta_pool.monitoring.state import Failures, RelayState
from public import public
from typing import (
    Callable,
    Dict,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
)


# A runner looks into the queue every second.  An entry that waits for longer
# than this while nothing is in delivery waits for nobody.
OUT_OVERDUE_S = 180.0
# Mailman's `retry` runner empties its queue every quarter of an hour.
RETRY_OVERDUE_S = 3600.0
# How much of a server's words is repeated.
REPLY_LENGTH = 200
OUTGOING = '`[mta] outgoing: mailman_mta_pool.deliver.deliver`'


@public
class Advice(NamedTuple):
    """What is the matter with one thing, and what to do about it.

    :ivar sentence: For the operator.
    :ivar needs_operator: True if it does not mend itself.
    """

    sentence: str
    needs_operator: bool = False


@public
class Situation(NamedTuple):
    """What the advice is about.

    :ivar mistake: What is wrong with the configuration, or None.
    :ivar start: The command that starts Mailman; None if it may be running.
    :ivar queue_root: Mailman's $QUEUE_DIR.
    :ivar known: True if there is any state file.
    :ivar problems: What cannot be read of the state files.
    :ivar queues: What is in the queues, by name.
    :ivar relays: The mail servers, as all slices see them.
    :ivar working: The names of the slices at work.
    :ivar stalled: The slices that were at work and are silent, and for how
        many seconds.
    :ivar failures: Those of the last posts, the latest first.
    """

    mistake: Optional[str]
    start: Optional[str]
    queue_root: str
    known: bool
    problems: Sequence[str]
    queues: Dict[str, QueueSummary]
    relays: Sequence[RelayState]
    working: Sequence[str]
    stalled: Dict[str, float]
    failures: Sequence[Failures]


@public
def advice_of(situation: Situation) -> List[Advice]:
    """Return the advice, what is most urgent first.

    :param situation: What is the matter.
    """
    found = [advice for source in SOURCES for advice in source(situation)]
    return sorted(found, key=lambda advice: not advice.needs_operator)


def _some(count: int, one: str, many: str) -> str:
    return f'1 {one}' if count == 1 else f'{count} {many}'


def _contents(queue: QueueSummary) -> str:
    entries = _some(queue.entries, 'entry', 'entries')
    recipients = _some(queue.recipients, 'recipient', 'recipients')
    least = 'at least ' if queue.unreadable + queue.unread > 0 else ''
    return f'{entries} for {least}{recipients}'


def _quoted(reply: str) -> str:
    reply = ' '.join(reply.split())
    if len(reply) > REPLY_LENGTH:
        reply = reply[:REPLY_LENGTH] + '…'
    return f'"{reply}"'


def _mistake(situation: Situation) -> Iterator[Advice]:
    if situation.mistake is not None:
        yield Advice(
            f'The configuration has a mistake ({situation.mistake}): Mailman '
            'does not start with it; correct it, and run `mailman mta-pool '
            'check`.', True)


def _stopped(situation: Situation) -> Iterator[Advice]:
    if situation.start is not None:
        yield Advice(
            'Mailman does not run, and nothing is delivered: run '
            f'`{situation.start}`, or start the service of your system that '
            'runs it (on Debian: `systemctl start mailman3`).', True)


def _unreadable(situation: Situation) -> Iterator[Advice]:
    for problem in situation.problems:
        yield Advice(
            f'A state file cannot be read ({problem}): run this as the user '
            'that Mailman runs as, and remove the file if it is damaged.',
            True)
    for name, queue in situation.queues.items():
        if queue.problem:
            yield Advice(
                f'The queue `{name}` cannot be read ({queue.problem}): run '
                'this as the user that Mailman runs as.', True)
        if queue.unreadable > 0 and name != 'bad':
            what = _some(queue.unreadable, 'entry', 'entries')
            yield Advice(
                f'{what} of the queue `{name}` cannot be read: run this as '
                'the user that Mailman runs as; what is damaged goes to the '
                'queue `bad` when its turn comes.', True)


def _slices(situation: Situation) -> Iterator[Advice]:
    if situation.start is not None:
        return
    for name, age in situation.stalled.items():
        yield Advice(
            f'The runner {name} has stalled: it was delivering a post and has '
            f'said nothing for {duration(age)}, so it was killed or '
            'hangs; run `mailman status`, and then `mailman start` or '
            '`mailman restart`; the post goes on where it was.', True)


def _relays(situation: Situation) -> Iterator[Advice]:
    for relay in situation.relays:
        reason = f': {_quoted(relay.reason)}' if relay.reason else ''
        if relay.state == 'down':
            yield Advice(
                f'The mail server {relay.name} cannot be used{reason}; run '
                '`mailman mta-pool check`, which shows the step that fails '
                'and what to change.', True)
        elif relay.state == 'paused':
            yield Advice(
                f'The mail server {relay.name} gets nothing for another '
                f'{duration(relay.pause)}{reason}; sending goes on by '
                'itself then.')


def _out(situation: Situation) -> Iterator[Advice]:
    queue = situation.queues['out']
    if queue.entries == 0:
        return
    what = f'The queue `out` holds {_contents(queue)}'
    if situation.start is not None:
        yield Advice(f'{what}, and waits until Mailman runs.')
    elif len(situation.working) > 0:
        yield Advice(
            f'{what}; a post is in delivery, and there is nothing to do.')
    elif len(situation.stalled) > 0:
        yield Advice(f'{what}, and waits for the runner that has stalled.')
    elif (queue.oldest_age or 0.0) < OUT_OVERDUE_S:
        yield Advice(f'{what}; a runner takes it in a moment.')
    else:
        yield Advice(
            f'{what}, for {duration(queue.oldest_age or 0.0)}, and '
            'nothing is in delivery; run `mailman start`, and if Mailman '
            'runs, look at its mailman.log and smtp.log, and see that '
            f'mailman.cfg has {OUTGOING}.', True)


def _retry(situation: Situation) -> Iterator[Advice]:
    queue = situation.queues['retry']
    if queue.entries == 0:
        return
    what = f'The queue `retry` holds {_contents(queue)}'
    age = queue.oldest_age or 0.0
    if situation.start is not None:
        yield Advice(f'{what}, and waits until Mailman runs.')
        return
    if age > RETRY_OVERDUE_S:
        yield Advice(
            f'{what}, for {duration(age)}, though Mailman empties it '
            'every quarter of an hour; run `mailman start`, and if Mailman '
            'runs, see that `[runner.retry]` starts and look at its '
            'mailman.log.', True)
        return
    for relay in situation.relays:
        if relay.state in ('down', 'paused'):
            yield Advice(
                f'{what}, which go out by themselves when the mail server '
                f'{relay.name} can be used again.')
            return
    last = next((failures for failures in situation.failures
                 if failures.outcome in ('deferred', 'in_doubt') and
                 failures.reply), None)
    reason = f', the last because of {_quoted(last.reply)}' if last else ''
    yield Advice(
        f'{what}{reason}; Mailman tries these again every quarter of an hour '
        'for `[mta] delivery_retry_period`, and `mailman mta-pool trace '
        'MESSAGE-ID` shows who waits.')


def _shunt(situation: Situation) -> Iterator[Advice]:
    queue = situation.queues['shunt']
    if queue.entries > 0:
        yield Advice(
            f'The queue `shunt` holds {_contents(queue)}, which stay there '
            'until you act: look for the reason in smtp.log and mailman.log, '
            'remedy it, and run `mailman unshunt`; who has got the post gets '
            'no second copy.', True)


def _bad(situation: Situation) -> Iterator[Advice]:
    queue = situation.queues['bad']
    if queue.entries > 0:
        yield Advice(
            f'The queue `bad` holds {_contents(queue)}, which Mailman has '
            'given up: look at each with `mailman qfile '
            f'{situation.queue_root}/bad/NAME.psv`, and either move the file '
            f'to {situation.queue_root}/out/NAME.pck, to try again, or remove '
            'the file.', True)


def _beginning(situation: Situation) -> Iterator[Advice]:
    if not situation.known and len(situation.problems) == 0:
        yield Advice(
            'Nothing has been delivered through the pool yet; send a post to '
            'a list, and if nothing shows here then, see that mailman.cfg has '
            f'{OUTGOING}.')


def _unread(situation: Situation) -> Iterator[Advice]:
    for name, queue in situation.queues.items():
        if queue.unread > 0:
            what = _some(queue.unread, 'entry', 'entries')
            yield Advice(
                f'{what} of the queue `{name}` could not be read in time, so '
                'its recipients are more than shown; ask again.')


# What is looked at, in the order in which it is told.
SOURCES: Sequence[Callable[[Situation], Iterator[Advice]]] = (
    _mistake, _stopped, _unreadable, _slices, _relays, _out, _retry, _shunt,
    _bad, _beginning, _unread)
