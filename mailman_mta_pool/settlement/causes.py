# SPDX-License-Identifier: GPL-3.0-or-later
"""Why recipients of a post failed, a few causes instead of many replies."""

from itertools import islice
from mailman_mta_pool.interfaces import Failure
from mailman_mta_pool.settlement.ledger import IN_DOUBT, NO_REPLY_CODE
from mailman_mta_pool.settlement.words import without_addresses, words_of
from mailman_mta_pool.shown import printable
from mailman_mta_pool.wire.replies import Reply
from public import public
from typing import Dict, List, Mapping, NamedTuple, Tuple


# So many characters of a reply are shown.
REPLY_LENGTH = 300
# So many causes of a post are told apart, and so many replies remembered.
MAX_CAUSES = 64
MAX_REPLIES = 1000
# What is said of the failures beyond these.
OTHERS = 'other causes'

Key = Tuple[str, str]


@public
class Cause(NamedTuple):
    """Recipients who failed for one cause.

    :ivar outcome: 'refused', 'deferred', 'in_doubt' or 'shunted'.
    :ivar reply: What the server said to one of them, or our own words where
        it said nothing; one line, without addresses.
    :ivar number: How many recipients.
    """

    outcome: str
    reply: str
    number: int


@public
class Causes:
    """The failures of one post, grouped by the words of the replies."""

    def __init__(self) -> None:
        self._counts: Dict[Key, int] = {}
        self._samples: Dict[Key, str] = {}
        # How many of each outcome have been read.
        self._read: Dict[str, int] = {}
        # The key of each reply that was met, without its recipient.
        self._keys: Dict[Tuple[str, int, bytes], Key] = {}

    def read(self, outcome: str, failures: Mapping[str, Failure]) -> None:
        """Take in the failures that have come since the last time.

        :param outcome: What they are, but for those in doubt.
        :param failures: All failures of this outcome by recipient, in the
            order in which they came.  Another thread may be adding to them.
        """
        seen = self._read.get(outcome, 0)
        if len(failures) == seen:
            return
        # One step for the interpreter, which lets nobody add meanwhile.
        new = list(islice(failures.items(), seen, None))
        self._read[outcome] = seen + len(new)
        for recipient, (code, text) in new:
            # Most replies differ in this alone.
            shape = outcome, code, text.replace(recipient.encode(), b'')
            key = self._keys.get(shape)
            if key is None:
                key = self._key(outcome, recipient, (code, text))
                if len(self._keys) < MAX_REPLIES:
                    self._keys[shape] = key
            self._counts[key] = self._counts.get(key, 0) + 1

    def add(self, outcome: str, words: str, count: int) -> None:
        """Take in recipients who failed without a reply of their own.

        :param outcome: What they are.
        :param words: Why.
        :param count: How many there are.
        """
        if count > 0:
            reply = without_addresses(printable(words))[:REPLY_LENGTH]
            key = self._enter((outcome, reply), reply)
            self._counts[key] = self._counts.get(key, 0) + count

    def most(self, number: int) -> List[Cause]:
        """Return the causes with the most recipients, the greatest first.

        :param number: How many, at most.
        """
        keys = sorted(self._counts, key=lambda key: -self._counts[key])
        return [Cause(key[0], self._samples[key], self._counts[key])
                for key in keys[:number]]

    def _key(self, outcome: str, recipient: str, failure: Failure) -> Key:
        code, text = failure
        if failure == IN_DOUBT:
            outcome = 'in_doubt'
        words = words_of(Reply(code, tuple(text.split(b'\n'))))
        shown = printable(text) if code == NO_REPLY_CODE else (
            f'{code} {printable(text)}')
        return self._enter((outcome, words), without_addresses(
            shown, recipient)[:REPLY_LENGTH])

    def _enter(self, key: Key, sample: str) -> Key:
        if key not in self._samples:
            if len(self._samples) >= MAX_CAUSES:
                key, sample = (key[0], OTHERS), OTHERS
            self._samples[key] = sample
        return key
