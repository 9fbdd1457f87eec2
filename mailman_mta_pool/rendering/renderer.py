# SPDX-License-Identifier: GPL-3.0-or-later
"""The rendering of a post for its recipients: once, and spliced.

What is personal is found out by rendering with marked values through
Mailman's own callbacks.  The first two recipients of every kind are rendered
by the reference too and compared.
"""

import copy
import random
import logging

from mailman.config import config
from mailman.interfaces.mailinglist import Personalization
from mailman_mta_pool.rendering.compiled import Compiled
from mailman_mta_pool.rendering.kinds import Kinds
from mailman_mta_pool.rendering.marks import Marked, Unspliceable
from mailman_mta_pool.rendering.members import (
    FIELDS,
    look_up,
    MemberValues,
    Values,
)
from mailman_mta_pool.rendering.reference import (
    end_database_transaction,
    SameChance,
)
from mailman_mta_pool.rendering.remembered import Memory
from mailman_mta_pool.rendering.standins import member_like, stand_ins
from mailman_mta_pool.wire.content import as_content, Content
from public import public
from typing import (
    Any,
    Dict,
    FrozenSet,
    Hashable,
    Iterator,
    List,
    Optional,
    Tuple,
)


log = logging.getLogger('mailman.smtp')

BATCH = 500
CHECKED = 2
# Somebody whose every value shows, for finding out which ones are shown.
SAMPLE = Values(
    'anne@example.com',
    MemberValues('Anne', 'Anne', 'anne@example.com', 'Anne@example.com',
                 'English'),
    'Anne')


@public
class Renderer:
    """Renders one post for one recipient after the other."""

    def __init__(self, callbacks: List[Any], mlist: Any, msg: Any,
                 msgdata: Dict[str, Any], memory: Memory) -> None:
        """Prepare.

        :param callbacks: Mailman's, of the `IndividualDelivery` whose place
            this takes; they are what is called to render.
        :param mlist: The mailing list.
        :param msg: The message; it is not changed.
        :param msgdata: Its metadata; it is not changed.
        :param memory: What was looked up for this post.
        """
        self._callbacks = callbacks
        self._mlist = mlist
        self._msg = msg
        self._msgdata = msgdata
        self._kinds = Kinds(mlist, msg, msgdata)
        self._memory = memory
        self._compiled: Dict[Hashable, Optional[Compiled]] = {}
        self._to_check: Dict[Hashable, int] = {}
        self._signs = config.arc_enabled and not msgdata.get('arc_signed')
        # Boundaries are drawn by chance.  All recipients get the same ones,
        # and so does the reference when it is compared.
        self._chance = random.getstate()
        self._fields: Optional[FrozenSet[str]] = None

    def contents(self, recipients: List[str],
                 ) -> Iterator[Tuple[str, Content]]:
        """Render for each recipient in turn.

        No database transaction is open while the caller has its turn.

        :param recipients: Their addresses.
        :return: Each recipient with the content.
        """
        if self._fields is None:
            self._fields = self._find_fields()
        for start in range(0, len(recipients), BATCH):
            batch = recipients[start:start + BATCH]
            found = self._look_up(batch)
            end_database_transaction()
            for recipient in batch:
                yield recipient, self._render(found[recipient])

    # What is personal?

    def _find_fields(self) -> Optional[FrozenSet[str]]:
        """Return the fields that show; None if it takes the reference."""
        try:
            member = self._compile(SAMPLE, False)
            other = self._compile(Values(SAMPLE.recipient), False)
        except Unspliceable as reason:
            log.debug('%s: rendered one by one: %s',
                      self._mlist.list_id, reason)
            return frozenset(['reference'])
        slots = member.slots | other.slots
        fields = set(slots & FIELDS)
        if 'member' in slots:
            fields |= {'address_name', 'email'}
        if self._signs and slots:
            # Each would need a signature of its own.
            return frozenset(['reference'])
        if not slots and (
                member.content(SAMPLE).octets == other.content(SAMPLE).octets):
            return frozenset()
        return frozenset(fields | {'recipient'})

    def _look_up(self, batch: List[str]) -> Dict[str, Values]:
        fields = self._fields or frozenset()
        if 'reference' in fields or not fields:
            return {recipient: Values(recipient) for recipient in batch}
        return look_up(
            self._mlist, batch,
            members=self._is_decorated(),
            languages='language' in fields,
            users=self._mlist.personalize == Personalization.full)

    def _is_decorated(self) -> bool:
        return not (self._msgdata.get('isdigest') or
                    self._msgdata.get('nodecorate'))

    # One recipient.

    def _render(self, values: Values) -> Content:
        fields = self._fields or frozenset()
        kind = (None if 'reference' in fields
                else self._kinds.kind_of(values, fields))
        if kind is None:
            return self._by_reference(values.recipient)
        if kind not in self._compiled:
            self._add_kind(kind, values)
        compiled = self._compiled[kind]
        if compiled is None:
            return self._by_reference(values.recipient)
        content = compiled.content(values)
        if self._to_check[kind] > 0:
            self._to_check[kind] -= 1
            return self._checked(content, values.recipient)
        return content

    def _add_kind(self, kind: Hashable, values: Values) -> None:
        self._to_check[kind] = CHECKED
        try:
            if self._signs:
                self._compiled[kind] = _Signed(
                    self._by_reference(values.recipient))
                self._to_check[kind] = 0
            else:
                self._compiled[kind] = self._compile(
                    values, self._kinds.is_flagged(values.recipient))
        except Unspliceable as reason:
            log.debug('%s: a kind of recipients is rendered one by one: %s',
                      self._mlist.list_id, reason)
            self._compiled[kind] = None
        end_database_transaction()

    def _checked(self, content: Content, recipient: str) -> Content:
        reference = self._by_reference(recipient)
        if content.octets == reference.octets:
            return content
        offset = next(
            (index for index, (ours, theirs) in enumerate(
                zip(content.octets, reference.octets)) if ours != theirs),
            min(content.size, reference.size))
        log.warning(
            'List %s: the spliced content differs from what Mailman renders, '
            'first at octet %d; the post is rendered one by one',
            self._mlist.list_id, offset)
        self._fields = frozenset(['reference'])
        return reference

    # Mailman's callbacks.

    def _compile(self, values: Values, flagged: bool) -> Compiled:
        try:
            return self._compile_marked(Marked(values), flagged)
        except Unspliceable:
            raise
        except Exception as error:
            # If it is not the marks that cannot be rendered but the post, the
            # reference raises the same.
            raise Unspliceable(repr(error)) from error

    def _compile_marked(self, marked: Marked, flagged: bool) -> Compiled:
        msgdata = self._msgdata.copy()
        if self._signs:
            msgdata['arc_signed'] = True
        msgdata['add-dup-header'] = (
            {marked.values.recipient} if flagged else ())
        with self._memory.in_use(), stand_ins(marked.values):
            message = self._call_back(
                marked.values.recipient, member_like(marked.values.member),
                msgdata)
        with self._same_boundaries():
            return Compiled(message, marked)

    def _by_reference(self, recipient: str) -> Content:
        """What stock Mailman makes of it, for whatever recipient."""
        member = self._mlist.members.get_member(recipient)
        with self._memory.in_use():
            message = self._call_back(
                recipient, member, self._msgdata.copy())
        end_database_transaction()
        with self._same_boundaries():
            return as_content(message)

    def _call_back(self, recipient: str, member: Any,
                   msgdata: Dict[str, Any]) -> Any:
        """Do for one recipient what `IndividualDelivery.deliver` does."""
        message = copy.deepcopy(self._msg)
        msgdata['recipient'] = recipient
        msgdata['member'] = member
        for callback in self._callbacks:
            callback(self._mlist, message, msgdata)
        return message

    def _same_boundaries(self) -> Any:
        return SameChance(self._chance)


class _Signed(Compiled):
    """A content that is the same for all of a kind, and signed once."""

    def __init__(self, content: Content) -> None:
        self.slots = set()
        self._content = content

    def content(self, values: Values) -> Content:
        """See `Compiled`."""
        return self._content
