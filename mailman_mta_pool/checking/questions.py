# SPDX-License-Identifier: GPL-3.0-or-later
"""Whom the server is asked about: a sender and a recipient of this site."""

from mailman.config import config
from mailman.interfaces.listmanager import IListManager
from mailman.utilities.string import expand
from mailman_mta_pool.connection.devmode import stand_in
from mailman_mta_pool.strategies.server_verp import verp_of
from mailman_mta_pool.wire.envelope import is_mailbox
from mailman_mta_pool.wire.verp import Verp
from public import public
from sqlalchemy.exc import SQLAlchemyError
from typing import Any, List, NamedTuple, Optional
from zope.component import getUtility


# What Mailman has where nobody has set it.
UNSET_OWNER = 'changeme@example.com'


@public
class Questions(NamedTuple):
    """What the server is asked.

    :ivar recipient: To whom it is to relay.
    :ivar is_default: True if the recipient is not the one of --to.
    :ivar sender: The bounces address of a list.
    :ivar verp_sender: The sender that VERP makes of it for the recipient.
    :ivar verp: How the server would make it; None if it cannot be told.
    :ivar stand_in: Who is named in the place of the recipient, because of
        [devmode]; None otherwise.
    :ivar var_directory: Mailman's $VAR_DIR, where the runners may know of a
        refused login.
    """

    recipient: str
    is_default: bool
    sender: str
    verp_sender: str
    verp: Optional[Verp]
    stand_in: Optional[str]
    var_directory: str = ''


@public
def questions_for(to: Optional[str]) -> Questions:
    """Return what the server is asked.

    :param to: The recipient; None is the owner of the site, or of the first
        list.
    """
    mlist = _first_list()
    owner = config.mailman.site_owner.strip()
    recipient = to
    if recipient is None:
        recipient = owner
        if owner == UNSET_OWNER or not is_mailbox(owner):
            recipient = _owner_of(mlist) or owner
    if mlist is None:
        # So would one of its lists be called.
        sender = f'mailman-bounces@{owner.rpartition("@")[2]}'
    else:
        sender = mlist.bounces_address
    questions = Questions(
        recipient, to is None, sender,
        _with_verp(sender, recipient, mlist),
        verp_of(config.mta.verp_format), stand_in(), config.VAR_DIR)
    # No transaction of the database stays open while the server is asked.
    config.db.commit()
    return questions


@public
def posting_addresses() -> List[str]:
    """Return the posting addresses of the site's lists, as far as known."""
    try:
        addresses = list(getUtility(IListManager).names)
    except SQLAlchemyError:
        # The database is another matter.
        config.db.abort()
        return []
    config.db.commit()
    return addresses


def _first_list() -> Any:
    """Return a list of this site, None if there is none to be had."""
    try:
        manager = getUtility(IListManager)
        list_id = next(iter(manager.list_ids), None)
        return None if list_id is None else manager.get_by_list_id(list_id)
    except SQLAlchemyError:
        # The database is another matter.
        config.db.abort()
        return None


def _owner_of(mlist: Any) -> Optional[str]:
    """Return the address of an owner of a list, None without."""
    if mlist is None:
        return None
    return next((address.email for address in mlist.owners.addresses
                 if is_mailbox(address.email)), None)


def _with_verp(sender: str, recipient: str, mlist: Any) -> str:
    """Return the sender that `mailman.mta.verp` makes."""
    bounces, _, origin = sender.rpartition('@')
    local, _, domain = recipient.rpartition('@')
    made = expand(config.mta.verp_format, mlist, {
        'bounces': bounces, 'local': local, 'domain': domain})
    return f'{made}@{origin}'
