# SPDX-License-Identifier: GPL-3.0-or-later
"""Mailman's own delivery classes, as far as we need them: without the wire."""

import copy

from mailman.config import config
from mailman.mta.base import BaseDelivery
from mailman_mta_pool.rendering.compiled import Compiled
from mailman_mta_pool.rendering.marks import Marked
from mailman_mta_pool.rendering.remembered import Memory
from mailman_mta_pool.rendering.roster import members_of
from mailman_mta_pool.rendering.standins import member_like, stand_ins
from mailman_mta_pool.wire.boundaries import Boundaries
from mailman_mta_pool.wire.content import as_content, Content
from public import public
from typing import Any, Callable, Dict, List


@public
class WithoutConnection(BaseDelivery):
    """Stands before `BaseDelivery` in the method resolution order.

    Everything above it is Mailman's own code: callbacks, senders, strategies.
    """

    def __init__(self) -> None:
        # Not super().__init__(): it would make a connection of stock's, and
        # refuse a secure mode that another package has registered.
        pass


@public
def end_database_transaction() -> None:
    """Commit, so that no lock is held while mail goes out.

    What is loaded stays loaded.  Otherwise the list, with its hundred
    columns, would be read again and again.
    """
    session = config.db.store
    if not session.in_transaction():
        return
    expire = session.expire_on_commit
    session.expire_on_commit = False
    try:
        config.db.commit()
    finally:
        session.expire_on_commit = expire


@public
def call_back(callbacks: List[Any], mlist: Any, message: Any,
              msgdata: Dict[str, Any], boundaries: Boundaries) -> None:
    """Call Mailman's callbacks one after the other.

    None of them sees a multipart without a boundary, nor does any leave one:
    the arc-sign handler flattens the message, and a site's own may.

    :param callbacks: The callbacks.
    :param mlist: The mailing list.
    :param message: The message that they change.
    :param msgdata: Its metadata.
    :param boundaries: The MIME boundaries of the post.
    """
    boundaries.set_in(message)
    for callback in callbacks:
        callback(mlist, message, msgdata)
        boundaries.set_in(message)


@public
class Reference:
    """Mailman's callbacks, called for one recipient after the other.

    :ivar signs: True if each content gets a signature (ARC).
    """

    def __init__(self, callbacks: List[Any], mlist: Any, msg: Any,
                 msgdata: Dict[str, Any], memory: Memory,
                 sender_for: Callable[[str], str]) -> None:
        """See `Renderer`."""
        self._callbacks = callbacks
        self._mlist = mlist
        self._msg = msg
        self._msgdata = msgdata
        self._memory = memory
        self._sender_for = sender_for
        self._members: Dict[str, Any] = {}
        self.signs = config.arc_enabled and not msgdata.get('arc_signed')
        self._unsigned = (
            dict(msgdata, arc_signed=True) if self.signs else msgdata)
        # All recipients get the same ones, and so does what is compared.
        self._boundaries = Boundaries()

    def expect(self, recipients: List[str]) -> None:
        """Look up the members among the next recipients, all at once."""
        found = members_of(self._mlist, recipients)
        self._members = {
            recipient: found.get(recipient) for recipient in recipients}

    def content(self, recipient: str) -> Content:
        """Return the content that stock Mailman makes for a recipient."""
        return self._content(recipient, self._msgdata)

    def unsigned(self, recipient: str) -> Content:
        """Return the content that stock Mailman makes before it signs."""
        return self._content(recipient, self._unsigned)

    def _content(self, recipient: str, msgdata: Dict[str, Any]) -> Content:
        if recipient not in self._members:
            self.expect([recipient])
        with self._memory.in_use():
            message = self._call_back(
                recipient, self._members[recipient], msgdata.copy())
        try:
            return as_content(message)
        except Exception:
            # Mailman makes the sender before smtplib flattens the message, so
            # what is wrong with the sender is raised first.
            self._sender_for(recipient)
            raise

    def compiled(self, marked: Marked, flagged: bool) -> Compiled:
        """Return the unsigned rendering with marked values, taken apart.

        :param marked: The values.
        :param flagged: True for a recipient with the duplicates flag.
        :raises Unspliceable: if that cannot be done.
        """
        values = marked.values
        msgdata = self._unsigned.copy()
        msgdata['add-dup-header'] = {values.recipient} if flagged else ()
        with self._memory.in_use(), stand_ins(values):
            message = self._call_back(
                values.recipient, member_like(values.member), msgdata)
        return Compiled(message, marked)

    def _call_back(self, recipient: str, member: Any,
                   msgdata: Dict[str, Any]) -> Any:
        """Do for one recipient what `IndividualDelivery.deliver` does."""
        message = copy.deepcopy(self._msg)
        msgdata['recipient'] = recipient
        msgdata['member'] = member
        call_back(self._callbacks, self._mlist, message, msgdata,
                  self._boundaries)
        return message
