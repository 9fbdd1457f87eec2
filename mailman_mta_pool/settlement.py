# SPDX-License-Identifier: GPL-3.0-or-later
"""What the answers mean for Mailman."""

from mailman_mta_pool.wire.outcome import Fate, Outcome, Result
from public import public
from typing import Dict, Iterable, List, NamedTuple, Set, Tuple


# Temporary, unspecified: what stock Mailman uses where there was no reply.
NO_REPLY = 444


@public
class Verdict(NamedTuple):
    """What becomes of the recipients that were not served.

    :ivar temporary: They go to the retry queue.
    :ivar permanent: They are bounces: recipient, code and text of each.
    """

    temporary: List[str]
    permanent: List[Tuple[str, int, bytes]]


@public
class Ledger:
    """The outcomes of one post, as they come in.

    It is written to by one thread at a time; `Dispatch` sees to that.

    :ivar refused: Delivery failures as defined by `smtplib.SMTP.sendmail`:
        a reply code and a text for each recipient that was not served.
    :ivar in_doubt: How many of those may have been served.
    """

    def __init__(self) -> None:
        self.refused: Dict[str, Tuple[int, bytes]] = {}
        self.in_doubt = 0
        self._served: Set[str] = set()

    def settle(self, outcome: Outcome) -> None:
        """Enter an outcome."""
        for recipient, result in zip(
                outcome.transaction.recipients, outcome.results):
            if result.fate is Fate.accepted:
                self._served.add(recipient)
            else:
                self.refused[recipient] = _failure(result)
                self.in_doubt += result.fate is Fate.in_doubt

    def unserved(self, recipients: Iterable[str]) -> List[str]:
        """Return those of the recipients that the server has not accepted."""
        return [recipient for recipient in recipients
                if recipient not in self._served]

    def verdict(self) -> Verdict:
        """Return what Mailman is to do for the rest.

        RFC 5321, section 4.5.3.1.10: 552 is to be treated as temporary.
        """
        verdict = Verdict([], [])
        for recipient, (code, text) in self.refused.items():
            if code >= 500 and code != 552:
                verdict.permanent.append((recipient, code, text))
            else:
                verdict.temporary.append(recipient)
        return verdict


def _failure(result: Result) -> Tuple[int, bytes]:
    """Code and text as Mailman has them in its log and its bounces."""
    if result.fate is Fate.in_doubt:
        return NO_REPLY, b'The connection was lost before the server answered'
    if result.fate is Fate.not_attempted:
        # Whatever the server said, it did not say it of this recipient.
        reason = b'' if result.reply is None else b': ' + result.reply.text
        return NO_REPLY, b'Not sent' + reason
    assert result.reply is not None
    return result.reply.code, result.reply.text
