# SPDX-License-Identifier: GPL-3.0-or-later
"""What a post is known by, in queue entries, journals and state files.

The engine writes these, and what the operator is shown is read from them.
"""

from contextlib import suppress
from public import public
from typing import (
    Any,
    Dict,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Tuple,
)


#: What is not undone by another queue entry.
FINAL_OUTCOMES = ('accepted', 'refused', 'discarded')
#: What can become of a recipient; see docs/reference/metrics.rst.  In the
#: counters of a slice, a recipient of each attempt is accepted, refused,
#: deferred or in doubt.  Those who are shunted or discarded count once more,
#: and may have been any of these but accepted.
OUTCOMES = ('accepted', 'refused', 'deferred', 'in_doubt', 'shunted',
            'discarded')
#: The key of the metadata that holds `Carried`.  Stock Mailman passes over it.
PROGRESS_KEY = 'mta_pool_progress'
public(FINAL_OUTCOMES=FINAL_OUTCOMES, OUTCOMES=OUTCOMES,
       PROGRESS_KEY=PROGRESS_KEY)


@public
def message_id_in(headers: Iterable[Tuple[Any, Any]]) -> str:
    """Return the Message-ID of a post, on one line; '' if there is none.

    :param headers: Names and values as they were read, for example from
        `email.message.Message.raw_items`.
    """
    for name, value in headers:
        if str(name).lower() == 'message-id':
            text = ' '.join(str(value).split())
            # `email` has a surrogate for each octet above 127 (RFC 6532).
            with suppress(UnicodeEncodeError):
                text = text.encode('utf-8', 'surrogateescape').decode(
                    'utf-8', 'replace')
            return text
    return ''


@public
def bare_id(message_id: str) -> str:
    """Return a Message-ID without angle brackets, on one line.

    :param message_id: With or without these.
    """
    return ' '.join(message_id.split()).lstrip('<').rstrip('>').strip()


@public
class Carried(NamedTuple):
    """What a queue entry says of the whole post.

    :ivar total: How many recipients the post has.
    :ivar origin: The same for all entries of the post, and for no others.
    :ivar outcomes: What became of how many of those whom the entry does not
        name, by `OUTCOMES`.
    :ivar causes: Why some of them failed: outcome, reply, and how many.
    """

    total: int
    origin: str
    outcomes: Mapping[str, int]
    causes: List[Tuple[str, str, int]]

    def to_value(self) -> Dict[str, Any]:
        """Return the value of `PROGRESS_KEY`."""
        return self._asdict()


@public
def carried_in(msgdata: Mapping[str, Any]) -> Optional[Carried]:
    """Return what a queue entry says of the whole post.

    :param msgdata: The metadata of the entry.
    :return: None if they do not say, or another release has said it in
        another form.
    """
    found: Any = msgdata.get(PROGRESS_KEY)
    try:
        carried = Carried(
            found['total'], found['origin'], dict(found['outcomes']), [
                (outcome, reply, count)
                for outcome, reply, count in found['causes']])
        is_sound = (
            isinstance(carried.total, int) and
            isinstance(carried.origin, str) and
            all(outcome in OUTCOMES and isinstance(count, int)
                for outcome, count in carried.outcomes.items()) and
            all(isinstance(outcome, str) and isinstance(reply, str) and
                isinstance(count, int)
                for outcome, reply, count in carried.causes))
    except (TypeError, KeyError, ValueError):
        return None
    return carried if is_sound else None
