# SPDX-License-Identifier: GPL-3.0-or-later

"""Lists, members and posts, made inside a site's process.

These functions need an initialized Mailman; outside of one, call them through
`ThrowawaySite.call`.
"""

from datetime import datetime
from email import message_from_bytes
from itertools import islice
from mailman.app.lifecycle import create_list as mailman_create_list
from mailman.config import config
from mailman.email.message import Message
from mailman.interfaces.address import IEmailValidator
from mailman.interfaces.domain import IDomainManager
from mailman.interfaces.listmanager import IListManager
from mailman.interfaces.member import MemberRole
from mailman.interfaces.usermanager import IUserManager
from mailman.model.address import Address
from mailman.model.member import Member
from mailman.model.preferences import Preferences
from mailman.model.uid import UID
from mailman.model.user import User
from mailman.utilities.datetime import now
from public import public
from sqlalchemy import func, select
from uuid import uuid4
from zope.component import getUtility


# So many members are inserted at a time.
BATCH = 10_000
# An invented, but not a uniform, distribution: bulk delivery sorts the
# recipients by their top-level domains.
DOMAINS = ('example.com', 'example.org', 'example.net', 'mail.example.com',
           'example.edu')


@public
def people(count):
    """Make up people.

    :param count: How many.
    :return: Their addresses and names, always the same ones.
    :rtype: iterator of 2-tuples of str
    """
    for number in range(1, count + 1):
        domain = DOMAINS[number % len(DOMAINS)]
        yield f'person-{number:06}@{domain}', f'Person {number}'


@public
def create_list(fqdn_listname, members=(), **attributes):
    """Create a mailing list, its domain if need be, and its members.

    :param fqdn_listname: The list's posting address.
    :param members: Addresses and names, as `people` returns them.
    :param attributes: Set on the list, such as `personalize`.
    :return: The list id.
    :rtype: str
    """
    domains = getUtility(IDomainManager)
    mail_host = fqdn_listname.partition('@')[2]
    if mail_host not in domains:
        domains.add(mail_host)
    mlist = mailman_create_list(fqdn_listname)
    mlist.send_welcome_message = False
    for name, value in attributes.items():
        setattr(mlist, name, value)
    insert_members(fqdn_listname, members)
    return mlist.list_id


@public
def subscribe_members(fqdn_listname, members):
    """Subscribe members through Mailman's API, at some hundred a second.

    :param fqdn_listname: The list's posting address.
    :param members: Addresses and names.
    """
    mlist = getUtility(IListManager).get(fqdn_listname)
    users = getUtility(IUserManager)
    for email, display_name in members:
        user = users.make_user(email, display_name)
        address, = user.addresses
        address.verified_on = now()
        mlist.subscribe(address, send_welcome_message=False)


@public
def insert_members(fqdn_listname, members):
    """Write the rows that `subscribe_members` would, but many at a time.

    The addresses must be new to the site, and the database SQLite: the
    sequences of other databases would not learn of the ids given here.

    :param fqdn_listname: The list's posting address.
    :param members: Addresses and names.
    :raises InvalidEmailAddressError: as Mailman would.
    """
    list_id = getUtility(IListManager).get(fqdn_listname).list_id
    # Everything that is pending must have its id before we take ours.
    config.db.store.flush()
    members = iter(members)
    while True:
        batch = list(islice(members, BATCH))
        if not batch:
            return
        _insert_batch(list_id, batch)


def _next_id(model):
    query = select(func.max(model.__table__.c.id))
    return (config.db.store.execute(query).scalar() or 0) + 1


def _insert_batch(list_id, batch):
    first = {model: _next_id(model)
             for model in (Preferences, User, Address, Member)}
    validate = getUtility(IEmailValidator).validate
    rows = {model: [] for model in (Preferences, UID, User, Address, Member)}
    for index, (email, display_name) in enumerate(batch):
        validate(email)
        ids = {model: start + index for model, start in first.items()}
        # Three sets of preferences: the user's, the address's, the member's.
        ids[Preferences] = first[Preferences] + 3 * index
        for model, values in _rows(list_id, email, display_name, ids):
            rows[model].append(values)
    for model, values in rows.items():
        config.db.store.execute(model.__table__.insert(), values)


def _rows(list_id, email, display_name, ids):
    """What one member is made of, as pairs of model and column values."""
    preferences = ids[Preferences]
    user_id, member_id = uuid4(), uuid4()
    lowered = email.lower()
    moment = now()
    for offset in range(3):
        yield Preferences, {'id': preferences + offset}
    yield UID, {'uid': user_id}
    yield UID, {'uid': member_id}
    yield User, {
        'id': ids[User], 'display_name': display_name, '_user_id': user_id,
        '_created_on': moment, 'preferences_id': preferences,
        }
    yield Address, {
        'id': ids[Address], 'email': lowered,
        '_original': None if lowered == email else email,
        'display_name': display_name, 'verified_on': moment,
        'registered_on': moment, 'user_id': ids[User],
        'preferences_id': preferences + 1,
        }
    yield Member, {
        'id': ids[Member], '_member_id': member_id,
        'role': MemberRole.member, 'list_id': list_id,
        'address_id': ids[Address], 'preferences_id': preferences + 2,
        }


@public
def member_addresses(fqdn_listname):
    """The addresses of a list's members, in the form that posts go to.

    :rtype: set of str
    """
    list_id = getUtility(IListManager).get(fqdn_listname).list_id
    query = select(Address.email).where(
        Member.address_id == Address.id, Member.list_id == list_id,
        Member.role == MemberRole.member)
    return set(config.db.store.execute(query).scalars())


@public
def as_queued(content, list_id, **msgdata):
    """Make of a post what comes out of Mailman's pipeline.

    This needs no site.

    :param content: The message.
    :type content: bytes
    :param list_id: The list's id.
    :param msgdata: Added to the metadata.
    :return: The message and its metadata.
    """
    msg = message_from_bytes(content, Message)
    msg.original_size = len(content)
    return msg, {
        'listid': list_id, 'to_list': True, 'original_size': len(content),
        # Mailman's own now() wants an initialized configuration.
        'received_time': datetime.now(), **msgdata}


@public
def enqueue(content, fqdn_listname, queue='out', handlers=(), **msgdata):
    """Put a post in a queue, as it comes out of Mailman's pipeline.

    :param content: The message.
    :type content: bytes
    :param fqdn_listname: The list's posting address.
    :param queue: The queue's name.
    :param handlers: The names of handlers that look at the post first.
    :param msgdata: Added to the metadata, where `recipients` are by default
        all members.
    :return: The queue entry's name, without an extension.
    """
    mlist = getUtility(IListManager).get(fqdn_listname)
    if 'recipients' not in msgdata:
        msgdata['recipients'] = member_addresses(fqdn_listname)
    msg, metadata = as_queued(content, mlist.list_id, **msgdata)
    for name in handlers:
        config.handlers[name].process(mlist, msg, metadata)
    return config.switchboards[queue].enqueue(msg, metadata)
