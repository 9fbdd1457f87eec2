# SPDX-License-Identifier: GPL-3.0-or-later
"""What became of each recipient's copy of a post.

Events, from journals and records, say what servers have answered; queue
entries say who still waits, and where.
"""

import time

from mailman_mta_pool.journal.kept import Event
from mailman_mta_pool.monitoring.queues import EntryFound
from public import public
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple


#: What can become of a copy, in the order in which it is shown.
OUTCOMES = ('accepted', 'refused', 'deferred', 'in doubt', 'waiting',
            'shunted', 'discarded', 'not a recipient', 'unknown')
public(OUTCOMES=OUTCOMES)
# The queues whose entries nobody delivers by themselves.
GIVEN_UP = {
    'shunt': 'mailman.log says why, and `mailman unshunt` has it tried again',
    'bad': 'a delivery of it has failed too often; moved back into the out '
           'queue as a .pck file, it is tried again',
    }


@public
class Copy(NamedTuple):
    """One recipient's copy, with the keys that `trace --json` has.

    :ivar address: The recipient.
    :ivar outcome: One of `OUTCOMES`.
    :ivar time: When it became so, in seconds since 1970, or None.
    :ivar relay: The name of the server, or None.
    :ivar reply: What the server said, code and text, or None.
    :ivar queue_id: What the server calls the message, or None.
    :ivar reason: Why it is so and what comes next, or None.
    """

    address: str
    outcome: str
    time: Optional[float] = None
    relay: Optional[str] = None
    reply: Optional[str] = None
    queue_id: Optional[str] = None
    reason: Optional[str] = None


@public
def local_time(moment: Optional[float]) -> str:
    """Return a time in the local zone; '' for none.

    :param moment: Seconds since 1970.
    """
    if moment is None:
        return ''
    return time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(moment))


@public
def copies_of(events: Iterable[Event], entries: Iterable[EntryFound],
              ) -> Dict[Tuple[str, str], Copy]:
    """Return the copies of all recipients.

    A post to several lists has the same Message-ID on each, and a member of
    these gets several copies.

    :param events: What happened, in order of time.
    :param entries: The queue entries of the post.
    :return: By the address in lower case, and the List-Id.
    """
    histories: Dict[Tuple[str, str], List[Event]] = {}
    places: Dict[Tuple[str, str], List[EntryFound]] = {}
    addresses: Dict[Tuple[str, str], str] = {}
    for event in events:
        key = event.address.lower(), event.list_id
        addresses[key] = event.address
        histories.setdefault(key, []).append(event)
    for entry in entries:
        for address in entry.recipients:
            key = address.lower(), entry.list_id
            addresses.setdefault(key, address)
            places.setdefault(key, []).append(entry)
    return {key: _copy(address, histories.get(key, ()), places.get(key, ()))
            for key, address in addresses.items()}


def _copy(address: str, history: Sequence[Event],
          places: Sequence[EntryFound]) -> Copy:
    # Whoever has been served is named by the entry until it has gone.
    for outcome in ('accepted', 'refused'):
        for event in history:
            if event.outcome == outcome:
                return _copy_after(event, None if outcome == 'accepted' else (
                    'for good; Mailman counts it as a bounce'))
    replied = next((event for event in reversed(history) if event.reply), None)
    given_up = [entry for entry in places if entry.queue in GIVEN_UP]
    waiting = [entry for entry in places if entry.queue not in GIVEN_UP]
    if history and not given_up and not (
            waiting and history[-1].outcome == 'discarded'):
        return _unsettled(history[-1], replied, waiting)
    entry = (waiting or given_up)[0]
    copy = Copy(address, 'waiting' if waiting else 'shunted', entry.since,
                reason=_place(entry))
    if replied is not None:
        copy = copy._replace(relay=replied.relay or None, reply=replied.reply)
    return copy


def _copy_after(event: Event, reason: Optional[str]) -> Copy:
    return Copy(event.address, event.outcome, event.time, event.relay or None,
                event.reply or None, event.queue_id or None, reason)


def _unsettled(last: Event, replied: Optional[Event],
               waiting: List[EntryFound]) -> Copy:
    """Return the copy of a recipient who is not settled, but was tried.

    :param last: What happened last.
    :param replied: What a server said last.
    :param waiting: The queue entries that have the recipient.
    """
    if last.outcome == 'discarded':
        copy = _copy_after(last, 'it could not be delivered for as long as '
                           '[mta] delivery_retry_period allows')
        return copy if replied is None else copy._replace(
            relay=replied.relay or None, reply=replied.reply)
    place = _place(waiting[0]) if waiting else (
        'in no queue any more; its entry moves right now, or was removed')
    if last.outcome == 'in doubt':
        place = ('the connection was lost before the server answered, so '
                 f'that it may arrive twice; {place}')
    return _copy_after(last, place)


def _place(entry: EntryFound) -> str:
    """Return where a copy waits, and what comes next."""
    if entry.queue in GIVEN_UP:
        return (f'in the {entry.queue} queue as {entry.filebase}; '
                f'{GIVEN_UP[entry.queue]}')
    if entry.queue == 'retry':
        next_try = ('' if entry.next_try is None else
                    f'; next try by {local_time(entry.next_try)}')
        until = ('' if entry.until is None else
                 f'; given up after {local_time(entry.until)} unless others '
                 'are served meanwhile')
        return f'in the retry queue{next_try}{until}'
    if entry.in_delivery:
        return f'in the {entry.queue} queue; in delivery'
    return f'in the {entry.queue} queue; next try when its turn comes'
