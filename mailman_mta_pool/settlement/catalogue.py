# SPDX-License-Identifier: GPL-3.0-or-later
"""The catalogue: what is known of the answers that servers give."""

import re

from mailman_mta_pool.settings import Answer
from mailman_mta_pool.settlement.words import enhanced_of, text_of
from mailman_mta_pool.wire.replies import Reply
from public import public
from typing import Dict, Iterable, List, NamedTuple, Optional, Pattern, Tuple


class _Entry(NamedTuple):
    """An entry, ready for use."""

    #: For the enhanced code, '' being that of a reply without one.
    enhanced: Pattern[str]
    text: Pattern[str]
    answer: Answer


@public
class Catalogue:
    """Find the entry that says what an answer is about."""

    def __init__(self, answers: Iterable[Answer]) -> None:
        """Index the entries.

        :param answers: The entries in the order of search.
        """
        self._all = tuple(map(_entry_of, answers))
        # Those that can fit, for each stage and reply code that was asked
        # for: hundreds of refusals in a second are nothing unusual.
        self._entries: Dict[Tuple[str, str], List[_Entry]] = {}

    def find(self, stage: str, reply: Reply) -> Optional[Answer]:
        """Return the first entry that a reply fits.

        :param stage: One of greeting, ehlo, auth, mail, rcpt, data and end.
        :param reply: A refusal.
        :return: The entry, or None if there is none.
        """
        key = stage, str(reply.code)
        entries = self._entries.get(key)
        if entries is None:
            entries = self._entries[key] = self._possible(*key)
        if len(entries) == 0:
            return None
        enhanced, text = enhanced_of(reply) or '', text_of(reply)
        for entry in entries:
            if entry.enhanced.match(enhanced) and entry.text.search(text):
                return entry.answer
        return None

    def _possible(self, stage: str, code: str) -> List[_Entry]:
        return [
            entry for entry in self._all
            if stage in entry.answer.stages and
            not {code, f'{code[0]}xx'}.isdisjoint(entry.answer.codes)]


def _entry_of(answer: Answer) -> _Entry:
    alternatives = '|'.join(
        re.escape(enhanced).replace('x', '[0-9]+')
        for enhanced in answer.enhanced)
    return _Entry(
        re.compile(f'(?:{alternatives})$' if alternatives else ''),
        re.compile(answer.text, re.IGNORECASE), answer)


class _Latest:
    """The catalogue that was asked for last: to make one takes 7 ms."""

    def __init__(self) -> None:
        self._answers: Tuple[Answer, ...] = ()
        self._catalogue = Catalogue(())

    def get(self, answers: Tuple[Answer, ...]) -> Catalogue:
        # The entries stay the same object from post to post.
        if answers is not self._answers:
            self._answers, self._catalogue = answers, Catalogue(answers)
        return self._catalogue


_latest = _Latest()


@public
def catalogue_of(answers: Tuple[Answer, ...]) -> Catalogue:
    """Return the catalogue of these entries; the latest one is kept.

    :param answers: The entries in the order of search, as in
        `DeliverySettings`.
    """
    return _latest.get(answers)
