# SPDX-License-Identifier: GPL-3.0-or-later
"""What is personal about the recipients, read from the database in batches.

The results are those of Mailman's `AbstractRoster.get_member`, of the
properties of `Member`, and of `UserManager.get_user`, which ask the database
about thirty times for each recipient.
"""

from mailman.config import config
from mailman.interfaces.languages import ILanguageManager
from mailman.interfaces.member import MemberRole
from mailman.model.address import Address
from mailman.model.member import Member
from mailman.model.preferences import Preferences
from mailman.model.user import User
from public import public
from sqlalchemy import select
from sqlalchemy.orm import aliased
from typing import Any, Dict, FrozenSet, Iterable, NamedTuple, Optional
from zope.component import getUtility


@public
class MemberValues(NamedTuple):
    """What a decoration can show of a member.

    :ivar name: `Member.display_name`.
    :ivar address_name: The display name of the address.
    :ivar email: The address in lower case.
    :ivar original_email: The address in the case it was given in.
    :ivar language: The description of the preferred language; None where it
        was not asked for.
    """

    name: str
    address_name: str
    email: str
    original_email: str
    language: Optional[str]


@public
class Values(NamedTuple):
    """What is personal about a recipient.

    :ivar member: None for somebody who is not a member of the list.
    :ivar user_name: The display name of the user whose address it is; None
        if there is no such user, or if it was not asked for.
    """

    recipient: str
    member: Optional[MemberValues] = None
    user_name: Optional[str] = None


@public
def look_up(mlist: Any, recipients: Iterable[str], *, members: bool,
            languages: bool, users: bool) -> Dict[str, Values]:
    """Look up a batch of recipients, in at most three statements.

    :param mlist: The mailing list.
    :param recipients: Their addresses; some hundred at a time.
    :param members: Are the members' fields wanted, apart from the language?
    :param languages: Are their languages?
    :param users: Are the display names of the users?
    :return: The values of each recipient.
    """
    recipients = list(recipients)
    found: Dict[str, MemberValues] = {}
    if members:
        # An explicit subscription wins over one by the preferred address.
        found.update(_by_preferred_address(mlist, recipients, languages))
        found.update(_by_address(mlist, recipients, languages))
    names = _user_names(recipients) if users else {}
    return {
        recipient: Values(
            recipient, found.get(recipient), names.get(recipient.lower()))
        for recipient in recipients}


_user = aliased(User)
_owner = aliased(User)
_of_member = aliased(Preferences)
_of_address = aliased(Preferences)
_of_user = aliased(Preferences)
_COLUMNS = (
    Address.email, Address._original, Address.display_name,
    _owner.display_name)
_LANGUAGES = (
    _of_member._preferred_language, _of_address._preferred_language,
    _of_user._preferred_language)


def _by_address(mlist: Any, recipients: Iterable[str],
                languages: bool) -> Dict[str, MemberValues]:
    rows = _rows(
        mlist, recipients, languages, Member.id,
        lambda member: member.join(Address, Member.address_id == Address.id))
    return {
        email: MemberValues(
            address_name or owner_name or '', address_name, email,
            original or email, language)
        for (email, original, address_name, owner_name, _, language) in rows}


def _by_preferred_address(mlist: Any, recipients: Iterable[str],
                          languages: bool) -> Dict[str, MemberValues]:
    rows = _rows(
        mlist, recipients, languages, _user.display_name,
        lambda member: member.join(
            _user, Member.user_id == _user.id).join(
            Address, _user._preferred_address_id == Address.id).where(
            Member.address_id.is_(None)))
    return {
        email: MemberValues(
            user_name or '', address_name, email, original or email, language)
        for (email, original, address_name, _, user_name, language) in rows}


def _rows(mlist: Any, recipients: Iterable[str], languages: bool,
          extra: Any, to_address: Any) -> Iterable[Any]:
    columns = (_COLUMNS + (extra,) + (_LANGUAGES if languages else ()))
    query = to_address(select(*columns).select_from(Member)).outerjoin(
        _owner, Address.user_id == _owner.id)
    if languages:
        query = query.outerjoin(
            _of_member, Member.preferences_id == _of_member.id).outerjoin(
            _of_address, Address.preferences_id == _of_address.id).outerjoin(
            _of_user, _owner.preferences_id == _of_user.id)
    query = query.where(
        Member.list_id == mlist.list_id,
        Member.role == MemberRole.member,
        Address.email.in_(recipients))
    manager = getUtility(ILanguageManager)
    default = mlist.preferred_language
    for row in config.db.store.execute(query):
        fields = tuple(row)
        if not languages:
            yield fields + (None,)
            continue
        # See `Member._lookup`.
        code = next(
            (code for code in fields[5:] if code is not None), None)
        language = default if code is None else manager[code]
        yield fields[:5] + (language.description,)


def _user_names(recipients: Iterable[str]) -> Dict[str, str]:
    lowered = [recipient.lower() for recipient in recipients]
    return dict(
        tuple(row) for row in config.db.store.execute(
            select(Address.email, User.display_name).select_from(
                Address).join(User, Address.user_id == User.id).where(
                Address.email.in_(lowered))))


#: Every field of a recipient that a mark can show to be needed.
FIELDS: FrozenSet[str] = frozenset(
    ('recipient', 'user_name') + MemberValues._fields)
public(FIELDS=FIELDS)
