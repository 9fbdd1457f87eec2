# SPDX-License-Identifier: GPL-3.0-or-later
"""The order in which recipients are served."""

from mailman_mta_pool.wire.transaction import domain_of
from public import public
from typing import Any, Dict, Iterable, List, Tuple


# The key of the metadata that names the recipients who go last: they were
# refused at an earlier attempt, and it may not have been their own.  Stock
# Mailman passes over it.
SUSPECTS_KEY = 'mta_pool_suspects'
public(SUSPECTS_KEY=SUSPECTS_KEY)


@public
def in_order(recipients: Iterable[str]) -> List[str]:
    """Sort by domain, then by address.

    The mail server can deliver those of one domain in few sessions then.
    """
    # Sorting is stable, and twice takes half as long as by a pair.
    return sorted(sorted(recipients), key=domain_of)


@public
def in_turns(msgdata: Dict[str, Any]) -> List[List[str]]:
    """Put the recipients of a post in order, and the suspects last.

    :param msgdata: The metadata of the post.
    :return: One or two lists, none of them empty: the second one has those
        who go when all others have gone.
    """
    recipients = in_order(msgdata.get('recipients', ()))
    last = set(msgdata.get(SUSPECTS_KEY, ()))
    turns = [[name for name in recipients if name not in last],
             [name for name in recipients if name in last]]
    return [turn for turn in turns if turn]


@public
def chunks(recipients: List[str], size: int) -> Iterable[Tuple[str, ...]]:
    """Cut into pieces of at most `size`; zero or less is one piece.

    Those who need SMTPUTF8 come in pieces of their own: a transaction with it
    goes no further than servers that have it too (RFC 6531, section 3.1).
    """
    plain = [name for name in recipients if name.isascii()]
    international = [name for name in recipients if not name.isascii()]
    for part in (plain, international):
        step = size if size > 0 else max(1, len(part))
        for start in range(0, len(part), step):
            yield tuple(part[start:start + step])
