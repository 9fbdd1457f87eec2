# SPDX-License-Identifier: GPL-3.0-or-later
"""Why somebody is not among the recipients of a post.

Mailman keeps no history of memberships, so that the answer is how things are
now.
"""

from mailman.interfaces.listmanager import IListManager
from mailman.interfaces.member import DeliveryMode, DeliveryStatus
from mailman_mta_pool.console.copies import Copy
from mailman_mta_pool.journal.kept import PostKept
from public import public
from typing import Any, Optional, Sequence
from zope.component import getUtility


DELIVERY_OFF = {
    DeliveryStatus.by_user: 'delivery is switched off by the member',
    DeliveryStatus.by_bounces:
        'delivery is switched off by Mailman, because mail to this address '
        'bounced',
    DeliveryStatus.by_moderator: 'delivery is switched off by a moderator',
    DeliveryStatus.unknown: 'delivery is switched off, nobody knows by whom',
    }


@public
def absent_copy(address: str, posts: Sequence[PostKept],
                is_complete: bool) -> Copy:
    """Return the copy of somebody for whom there is no trace of a post.

    :param address: The address, in any case.
    :param posts: The post, once for each list.
    :param is_complete: True if all recipients are known.
    """
    reasons = []
    outcome = 'not a recipient'
    for post in posts:
        reason = _reason(address.lower(), post)
        if reason is None and is_complete:
            reason = ('a member whom the post was not sent to: subscribed, '
                      'or changed since, or left out by a rule of the list')
        elif reason is None:
            outcome = 'unknown'
            reason = ('a member, but what became of all the recipients was '
                      'not recorded')
        place = f'{post.list_id}: ' if len(posts) > 1 else ''
        reasons.append(place + reason)
    return Copy(address, outcome, reason='; '.join(reasons))


def _reason(address: str, post: PostKept) -> Optional[str]:
    """Return why a post does not go to somebody; None if it should."""
    mlist = getUtility(IListManager).get_by_list_id(post.list_id)
    if mlist is None:
        return f'there is no list {post.list_id} any more'
    member = mlist.members.get_member(address)
    if member is None:
        return f'no member of {mlist.posting_address}'
    if member.delivery_mode is not DeliveryMode.regular:
        return f'gets digests of {mlist.posting_address} instead'
    if member.delivery_status is not DeliveryStatus.enabled:
        return DELIVERY_OFF[member.delivery_status]
    if _is_author(mlist, member, post.sender):
        return ('the author, who gets no copy of own posts '
                '(receive_own_postings)')
    if not member.receive_list_copy:
        return ('gets no copy of a post that is addressed to the member as '
                'well (receive_list_copy)')
    return None


def _is_author(mlist: Any, member: Any, sender: str) -> bool:
    """Return True if `MemberRecipients` leaves the author out."""
    author = mlist.members.get_member(sender.lower()) if sender else None
    return (author is not None and not author.receive_own_postings and
            author.address.email == member.address.email)
