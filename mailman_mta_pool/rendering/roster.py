# SPDX-License-Identifier: GPL-3.0-or-later
"""The members themselves, for Mailman's callbacks.

Mailman's `AbstractRoster.get_member` is asked for one at a time, and SQLite
goes through all members of the list for each.
"""

import functools

from mailman.config import config
from mailman.model.address import Address
from mailman.model.member import Member
from mailman.model.user import User
from mailman_mta_pool.rendering.members import member_ids
from public import public
from sqlalchemy import bindparam, select
from sqlalchemy.orm import joinedload
from typing import Any, Dict, List


@public
def members_of(mlist: Any, recipients: List[str]) -> Dict[str, Any]:
    """Return what `get_member` does, for many.

    What the decorate handler asks of them is read with them.

    :param mlist: The mailing list.
    :param recipients: Addresses; some hundred at a time.
    :return: The `IMember` of those that are members.
    """
    ids = member_ids(mlist, recipients)
    if not ids:
        return {}
    found = config.db.store.scalars(
        _with_all_that_is_asked(), {'ids': list(ids.values())})
    members = {member.id: member for member in found}
    # Some may have left between the two statements.
    return {email: members[identity] for email, identity in ids.items()
            if identity in members}


@functools.lru_cache(None)
def _with_all_that_is_asked() -> Any:
    # By now all of Mailman's model has been imported.
    by_address = joinedload(Member._address)
    by_user = joinedload(Member._user)
    preferred = by_user.joinedload(User._preferred_address)
    return select(Member).where(
        Member.id.in_(bindparam('ids', expanding=True))).options(
        joinedload(Member.preferences),
        by_address.joinedload(Address.preferences),
        by_address.joinedload(Address.user).joinedload(User.preferences),
        by_user.joinedload(User.preferences),
        preferred.joinedload(Address.preferences))
