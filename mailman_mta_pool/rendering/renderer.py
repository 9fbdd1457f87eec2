# SPDX-License-Identifier: GPL-3.0-or-later
"""The rendering of a post for its recipients: once, and spliced.

What is personal is found out by rendering with marked values through
Mailman's own callbacks.  The first two recipients of every kind are rendered
by the reference too and compared, before anything is signed.
"""

import logging

from itertools import groupby
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
    Reference,
)
from mailman_mta_pool.rendering.remembered import Memory
from mailman_mta_pool.wire.content import Content
from public import public
from typing import (
    Any,
    Callable,
    Dict,
    FrozenSet,
    Hashable,
    Iterator,
    List,
    Optional,
    Tuple,
)


log = logging.getLogger('mailman.smtp')

# How many recipients are looked up at a time.
BATCH = 500
# How many recipients of each kind are rendered by the reference, too.
COMPARED_PER_KIND = 2
# Somebody whose every value shows, for finding out which ones are shown.
SAMPLE = Values(
    'anne@example.com',
    MemberValues('Anne', 'Anne', 'anne@example.com', 'Anne@example.com',
                 'English'),
    'Anne')
# In place of the fields that show.
BY_REFERENCE = frozenset(['reference'])


@public
class Renderer:
    """Renders one post for one recipient after the other."""

    def __init__(self, callbacks: List[Any], mlist: Any, msg: Any,
                 msgdata: Dict[str, Any], memory: Memory,
                 sender_for: Callable[[str], str]) -> None:
        """Prepare.

        :param callbacks: Mailman's, of the `IndividualDelivery` whose place
            this takes; they are what is called to render.
        :param mlist: The mailing list.
        :param msg: The message; it is not changed.
        :param msgdata: Its metadata; it is not changed.
        :param memory: What was looked up for this post.
        :param sender_for: Returns the envelope sender for a recipient.
        """
        self._mlist = mlist
        self._msgdata = msgdata
        self._reference = Reference(
            callbacks, mlist, msg, msgdata, memory, sender_for)
        self._kinds = Kinds(mlist, msg, msgdata)
        self._compiled: Dict[Hashable, Optional[Compiled]] = {}
        self._to_check: Dict[Hashable, int] = {}
        self._signed: Dict[Hashable, Content] = {}
        self._fields: Optional[FrozenSet[str]] = None

    def contents(self, recipients: List[str],
                 ) -> Iterator[Tuple[List[str], Content]]:
        """Render for each recipient in turn.

        No database transaction is open while the caller has its turn.

        :param recipients: Their addresses.
        :return: Recipients, in the same order, with the content that they
            have in common.
        """
        if self._fields is None:
            self._fields = self._find_fields()
        if self._fields is not BY_REFERENCE:
            # The first are compared; otherwise each batch is looked up.
            self._reference.expect(recipients[:COMPARED_PER_KIND])
        for start in range(0, len(recipients), BATCH):
            batch = recipients[start:start + BATCH]
            for together, content in (
                    self._one_by_one(batch) if self._fields
                    else self._alike(batch)):
                end_database_transaction()
                yield together, content

    # Finding out what is personal.

    def _find_fields(self) -> FrozenSet[str]:
        """Return the fields that show, or `BY_REFERENCE`."""
        try:
            return self._compile_samples()
        except Exception as reason:
            # If it is the post that cannot be rendered, not the marks, the
            # reference raises the same.
            log.debug('%s: rendered one by one: %r',
                      self._mlist.list_id, reason)
            return BY_REFERENCE

    def _compile_samples(self) -> FrozenSet[str]:
        samples = SAMPLE, Values(SAMPLE.recipient)
        compiled = [self._compile(values) for values in samples]
        fields = self._fields_of(compiled)
        for values, rendering in zip(samples, compiled):
            kind = self._kinds.kind_of(values, fields)
            if kind is not None:
                # Recipients of this kind need no rendering of their own.
                self._keep(kind, rendering)
        return fields

    def _fields_of(self, compiled: List[Compiled]) -> FrozenSet[str]:
        slots = set().union(*(rendering.slots for rendering in compiled))
        member, other = (
            rendering.content(SAMPLE).octets for rendering in compiled)
        if not slots and member == other:
            return frozenset()
        fields = slots & FIELDS | {'recipient'}
        if 'member' in slots:
            fields |= {'address_name', 'email'}
        return frozenset(fields)

    def _look_up(self, batch: List[str]) -> Dict[str, Values]:
        fields = self._fields or frozenset()
        if fields is BY_REFERENCE:
            self._reference.expect(batch)
            return {recipient: Values(recipient) for recipient in batch}
        return look_up(
            self._mlist, batch,
            members=self._is_decorated(),
            languages='language' in fields,
            users=self._mlist.personalize == Personalization.full)

    def _is_decorated(self) -> bool:
        return not (self._msgdata.get('isdigest') or
                    self._msgdata.get('nodecorate'))

    def _one_by_one(self, batch: List[str],
                    ) -> Iterator[Tuple[List[str], Content]]:
        found = self._look_up(batch)
        for recipient in batch:
            yield [recipient], self._render(found[recipient])

    def _alike(self, batch: List[str]) -> Iterator[Tuple[List[str], Content]]:
        """Render where nothing is personal but the duplicates flag."""
        for _, group in groupby(batch, self._kinds.is_flagged):
            alike = list(group)
            while alike:
                first = Values(alike[0])
                content = self._render(first)
                count = len(alike) if self._is_common(first) else 1
                yield alike[:count], content
                del alike[:count]

    def _is_common(self, values: Values) -> bool:
        """True if what all of the recipient's kind get has been checked."""
        kind = self._kind_of(values)
        return (self._compiled.get(kind) is not None and
                not self._to_check[kind])

    # One recipient.

    def _render(self, values: Values) -> Content:
        kind = self._kind_of(values)
        content = None if kind is None else self._spliced(kind, values)
        if content is None:
            return self._reference.content(values.recipient)
        if self._to_check[kind] > 0:
            self._to_check[kind] -= 1
            reference = self._reference.unsigned(values.recipient)
            if content.octets != reference.octets:
                self._distrust(content, reference)
                return (self._reference.content(values.recipient)
                        if self._reference.signs else reference)
        if not self._reference.signs:
            return content
        if kind not in self._signed:
            self._signed[kind] = self._reference.content(values.recipient)
        return self._signed[kind]

    def _kind_of(self, values: Values) -> Optional[Hashable]:
        """Return the recipient's kind; None if it takes the reference."""
        fields = self._fields or frozenset()
        if fields is BY_REFERENCE:
            return None
        try:
            return self._kinds.kind_of(values, fields)
        except Exception as reason:
            log.debug('%s: a recipient is rendered alone: %r',
                      self._mlist.list_id, reason)
            return None

    def _spliced(self, kind: Hashable, values: Values) -> Optional[Content]:
        """Return the unsigned content; None if it takes the reference."""
        try:
            if kind not in self._compiled:
                self._keep(kind, self._compile(values))
            compiled = self._compiled[kind]
            return None if compiled is None else compiled.content(values)
        except Exception as reason:
            log.debug('%s: a kind of recipients is rendered one by one: %r',
                      self._mlist.list_id, reason)
            self._compiled[kind] = None
            return None

    def _keep(self, kind: Hashable, compiled: Compiled) -> None:
        self._compiled[kind] = compiled
        self._to_check[kind] = COMPARED_PER_KIND

    def _distrust(self, content: Content, reference: Content) -> None:
        """Render by the reference from now on, and say so."""
        offset = next(
            (index for index, (ours, theirs) in enumerate(
                zip(content.octets, reference.octets)) if ours != theirs),
            min(content.size, reference.size))
        log.warning(
            'List %s: the spliced content differs from what Mailman renders, '
            'first at octet %d; the post is rendered one by one',
            self._mlist.list_id, offset)
        self._fields = BY_REFERENCE

    def _compile(self, values: Values) -> Compiled:
        compiled = self._reference.compiled(
            Marked(values), self._kinds.is_flagged(values.recipient))
        if self._reference.signs and compiled.slots:
            raise Unspliceable('each content needs a signature of its own')
        return compiled
