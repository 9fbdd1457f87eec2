# SPDX-License-Identifier: GPL-3.0-or-later
"""The personal values of recipients, read from the database in batches.

The results are those of Mailman's `AbstractRoster.get_member`, of the
properties of `Member`, and of `UserManager.get_user`, which ask the database
about thirty times for each recipient.
"""

import functools

from mailman.config import config
from mailman.interfaces.languages import ILanguageManager
from mailman.interfaces.member import MemberRole
from mailman.model.address import Address
from mailman.model.member import Member
from mailman.model.preferences import Preferences
from mailman.model.user import User
from public import public
from sqlalchemy import bindparam, Integer, select, type_coerce
from typing import (
    Any,
    Dict,
    FrozenSet,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Tuple,
)
from zope.component import getUtility


@public
class MemberValues(NamedTuple):
    """The fields of a member that a decoration can show.

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
    """The personal values of a recipient.

    :ivar member: None for somebody who is not a member of the list.
    :ivar user_name: The display name of the user whose address it is; None
        if there is no such user, or if it was not asked for.
    """

    recipient: str
    member: Optional[MemberValues] = None
    user_name: Optional[str] = None


# For each address the identity of the member, and what is known of it.
Found = Dict[str, Tuple[int, MemberValues]]
_NOBODY = 0, None


@public
def look_up(mlist: Any, recipients: Iterable[str], *, members: bool,
            languages: bool, users: bool) -> Dict[str, Values]:
    """Look up a batch of recipients, in at most four statements.

    :param mlist: The mailing list.
    :param recipients: Their addresses; some hundred at a time.
    :param members: True if the members' fields are wanted, apart from the
        language.
    :param languages: True if their languages are.
    :param users: True if the display names of the users are.
    :return: The values of each recipient.
    """
    recipients = list(recipients)
    found = _find(mlist, recipients, languages) if members else {}
    names = _user_names(recipients) if users else {}
    return {
        recipient: Values(
            recipient, found.get(recipient, _NOBODY)[1],
            names.get(recipient.lower()))
        for recipient in recipients}


@public
def member_ids(mlist: Any, recipients: List[str]) -> Dict[str, int]:
    """Look up which of Mailman's members `get_member` returns.

    :param mlist: The mailing list.
    :param recipients: Addresses; some hundred at a time.
    :return: The `Member.id` of those that are members.
    """
    found = _find(mlist, recipients, languages=False)
    return {email: identity for email, (identity, _) in found.items()}


def _find(mlist: Any, recipients: List[str], languages: bool) -> Found:
    # An explicit subscription wins over one by the preferred address.
    found = _by_preferred_address(
        _preferred(languages), mlist, recipients, languages)
    found.update(_by_address(mlist, recipients, languages))
    others = [name for name in recipients if name.lower() not in found]
    if others:
        found.update(_by_preferred_address(
            _preferred_by_another(languages), mlist, others, languages))
    return found


# The tables, not the classes: to configure their mappers, all of Mailman's
# model must have been imported.
_address = Address.__table__
_member = Member.__table__
_user = User.__table__.alias()
_owner = User.__table__.alias()
_of_member = Preferences.__table__.alias()
_of_address = Preferences.__table__.alias()
_of_user = Preferences.__table__.alias()
_COLUMNS = (
    _address.c.email, _address.c._original, _address.c.display_name)
_ADDRESSED = _address.c.email.in_(bindparam('addresses', expanding=True))
_LANGUAGES = (
    _of_member.c.preferred_language, _of_address.c.preferred_language,
    _of_user.c.preferred_language)


def _by_address(mlist: Any, recipients: List[str],
                languages: bool) -> Found:
    return {
        email: (identity, MemberValues(
            address_name or owner_name or '', address_name, email,
            original or email, language))
        for (email, original, address_name, owner_name, identity, language)
        in _rows(_explicit(languages), mlist, recipients, languages)}


def _by_preferred_address(query: Any, mlist: Any, recipients: List[str],
                          languages: bool) -> Found:
    return {
        email: (identity, MemberValues(
            user_name or '', address_name, email, original or email, language))
        for (email, original, address_name, user_name, identity, language)
        in _rows(query, mlist, recipients, languages)}


# The statements are built once.  With some hundred addresses in each, building
# them takes longer than running them.

@functools.lru_cache(None)
def _explicit(languages: bool) -> Any:
    return _from_addresses(languages, _owner.c.display_name, _address.join(
        _member, _member.c.address_id == _address.c.id))


@functools.lru_cache(None)
def _preferred(languages: bool) -> Any:
    """Return the query for members through their users' own addresses."""
    return _from_addresses(languages, _user.c.display_name, _address.join(
        _user, _address.c.user_id == _user.c.id).join(
        _member, _member.c.user_id == _user.c.id)).where(
        _user.c._preferred_address_id == _address.c.id,
        (_member.c.address_id + 0).is_(None))


@functools.lru_cache(None)
def _preferred_by_another(languages: bool) -> Any:
    """Return the query for members whose addresses were unlinked since.

    There is no index for this: it takes time for each member of the site.
    """
    return _query(languages, _user.c.display_name, _member.join(
        _user, _member.c.user_id == _user.c.id).join(
        _address, _user.c._preferred_address_id == _address.c.id)).where(
        _member.c.address_id.is_(None),
        _member.c.list_id == bindparam('list_id'),
        _member.c.role == MemberRole.member)


def _from_addresses(languages: bool, name: Any, tables: Any) -> Any:
    """Make SQLite begin with the few addresses.

    It would rather begin with the index of all members, or that of the list's.
    An expression has no index.
    """
    return _query(languages, name, tables).where(
        _member.c.list_id + '' == bindparam('list_id'),
        type_coerce(_member.c.role, Integer) + 0 == MemberRole.member.value)


@functools.lru_cache(None)
def _owners() -> Any:
    return select(_address.c.email, _owner.c.display_name).select_from(
        _address.join(_owner, _address.c.user_id == _owner.c.id)).where(
        _ADDRESSED)


def _query(languages: bool, name: Any, tables: Any) -> Any:
    columns = (_COLUMNS + (name, _member.c.id) +
               (_LANGUAGES if languages else ()))
    tables = tables.outerjoin(_owner, _address.c.user_id == _owner.c.id)
    if languages:
        tables = tables.outerjoin(
            _of_member, _member.c.preferences_id == _of_member.c.id).outerjoin(
            _of_address,
            _address.c.preferences_id == _of_address.c.id).outerjoin(
            _of_user, _owner.c.preferences_id == _of_user.c.id)
    return select(*columns).select_from(tables).where(_ADDRESSED)


def _rows(query: Any, mlist: Any, recipients: List[str],
          languages: bool) -> Iterator[Tuple[Any, ...]]:
    rows = config.db.store.execute(
        query, {'list_id': mlist.list_id, 'addresses': recipients}).all()
    if not languages:
        for row in rows:
            yield (*row, None)
        return
    manager = getUtility(ILanguageManager)
    default = mlist.preferred_language
    for row in rows:
        # See `Member._lookup`.
        code = next((code for code in row[5:] if code is not None), None)
        language = default if code is None else manager[code]
        yield (*row[:5], language.description)


def _user_names(recipients: Iterable[str]) -> Dict[str, str]:
    return dict(
        tuple(row) for row in config.db.store.execute(_owners(), {
            'addresses': [recipient.lower() for recipient in recipients]}))


#: Every field of a recipient that a mark can show to be needed.
FIELDS: FrozenSet[str] = frozenset(
    ('recipient', 'user_name') + MemberValues._fields)
public(FIELDS=FIELDS)
