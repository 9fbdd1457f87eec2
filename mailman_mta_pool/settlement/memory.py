# SPDX-License-Identifier: GPL-3.0-or-later
"""What one relay said of late, across posts: it helps to judge the next ones.

It is kept in memory, bounded, for an hour.
"""

import enum

from collections import OrderedDict
from public import public
from typing import Callable, Dict, List, Optional, Tuple


# In seconds.
LIFETIME = 3600.0
# For how many refusals with words that were found to be the recipients' own,
# or for how many seconds, the same words are so without another question.
OWN_COUNT, OWN_SECONDS = 50, 10.0
MAX_WORDS = 256
MAX_GOOD = 4
MAX_CONTENTS = 64
# Longer than Mailman's retry queue lets a post wait, in seconds.
CONTENT_LIFETIME = 86400.0
public(OWN_COUNT=OWN_COUNT, OWN_SECONDS=OWN_SECONDS)


@public
class Finding(enum.Enum):
    """What was found out about a refusal in certain words."""

    #: It was the recipient's own: others were accepted at the same time.
    own = 'own'
    #: It was about us: nobody was accepted.
    us = 'us'


class _Known:
    """A finding, when it was made, and for how many refusals it holds."""

    def __init__(self, finding: Finding, when: float) -> None:
        self.finding = finding
        self.when = when
        self.left = OWN_COUNT


@public
class Memory:
    """What a relay has said in the last hour.

    It belongs to the network thread, as the relay does.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """Begin with nothing known.

        :param clock: Seconds that only grow.
        """
        self._clock = clock
        self._words: 'OrderedDict[str, _Known]' = OrderedDict()
        self._good: Dict[str, float] = {}
        self._contents: 'OrderedDict[Tuple[str, str], float]' = OrderedDict()
        self._accepted_at: Optional[float] = None
        self._is_denied = False

    # The words of refusals.

    def learn(self, words: str, finding: Finding) -> bool:
        """Remember what was found out.

        :param words: Of the refusal; see `Judgement.words`.
        :param finding: What it means.
        :return: True if this is news.
        """
        is_new = self.finding(words) is not finding
        self._words.pop(words, None)
        self._words[words] = _Known(finding, self._clock())
        if len(self._words) > MAX_WORDS:
            self._words.popitem(last=False)
        return is_new

    def finding(self, words: str) -> Optional[Finding]:
        """Return what was found out in the last hour, or None."""
        known = self._words.get(words)
        if known is None or known.when + LIFETIME <= self._clock():
            return None
        return known.finding

    def take_own(self, words: str) -> bool:
        """Return True if one more such refusal is the recipient's own.

        That holds for fifty of them, or for ten seconds, whichever comes to
        its end later.
        """
        known = self._words.get(words)
        if known is None or known.finding is not Finding.own:
            return False
        if known.left > 0:
            known.left -= 1
            # A long time later, the server may mean something else by it.
            return known.when + LIFETIME > self._clock()
        return self._clock() < known.when + OWN_SECONDS

    # Recipients whom it accepted.

    def remember_good(self, recipients: List[str]) -> None:
        """Remember recipients of a post whom the relay accepted."""
        now = self._clock()
        for recipient in recipients:
            self._good.pop(recipient, None)
            self._good[recipient] = now
        while len(self._good) > MAX_GOOD:
            del self._good[next(iter(self._good))]

    @property
    def good(self) -> List[str]:
        """Some whom the relay accepted in the last hour, the last one first.
        """
        since = self._clock() - LIFETIME
        return [recipient for recipient, when in reversed(
            list(self._good.items())) if since < when]

    # Messages that it refused to everybody.

    def deny(self) -> None:
        """Take note that it does not take mail from us."""
        self._is_denied = True

    def note_content_accepted(self) -> bool:
        """Take note that some message was accepted.

        :return: True if that is news, because we had been refused.
        """
        if self._contents:
            self._accepted_at = self._clock()
        was_denied, self._is_denied = self._is_denied, False
        return was_denied

    def note_refused(self, message_id: str, words: str) -> None:
        """Take note that a message was refused, and why is not known.

        :param message_id: Which message.
        :param words: In which words.
        """
        if self._refused_at(message_id, words) is None:
            self._contents[message_id, words] = self._clock()
            if len(self._contents) > MAX_CONTENTS:
                self._contents.popitem(last=False)

    def _refused_at(self, message_id: str, words: str) -> Optional[float]:
        when = self._contents.get((message_id, words))
        if when is None or when + CONTENT_LIFETIME <= self._clock():
            return None
        return when

    def has_accepted_others(self, message_id: str, words: str) -> bool:
        """Return True if some message was accepted since one was refused.

        :param message_id: Which was refused.
        :param words: In which words.
        """
        when = self._refused_at(message_id, words)
        return (when is not None and self._accepted_at is not None and
                when < self._accepted_at)
