# SPDX-License-Identifier: GPL-3.0-or-later
"""The remainder of a transaction whose connection came to an end.

Those to whom nothing was sent go again, but not all together.  Whoever had
been accepted goes before anybody else, and whoever the server was told of last
goes at the very end, alone: it may be what broke the connection.  So Postfix,
which hangs up after twenty refused recipients, still takes the post for the
others, and one address at which a server hangs up keeps it from nobody.
"""

from mailman_mta_pool.settlement.table import (
    CONTENT,
    limit_of,
    over_the_limit,
    says_too_many_recipients,
)
from mailman_mta_pool.wire.transaction import Fate, Outcome, Result, Stage
from public import public
from typing import List, NamedTuple, Optional


_ANSWERED = frozenset([Fate.accepted, Fate.refused])


@public
def is_answered(outcome: Outcome) -> bool:
    """Return True if the server answered to somebody, and none is in doubt.

    What it answered to others would not make up for that: it may go on so
    until everybody is in doubt.
    """
    alike = outcome.alike
    if alike is not None:
        return _is_answer(alike)
    return any(map(_is_answer, outcome.results)) and not any(
        result.fate is Fate.in_doubt for result in outcome.results)


def _is_answer(result: Result) -> bool:
    return result.fate in _ANSWERED and result.stage is not Stage.here


@public
class Remainder(NamedTuple):
    """The recipients of an outcome, by their indices.

    :ivar accepted: The server had accepted these, and got no content.
    :ivar waiting: It had not been told of these, or wants them another time.
    :ivar suspect: It was told of this one, and did not go on.
    :ivar settled: All the others.
    :ivar limit: The most recipients that it takes in a transaction, if that is
        what was learnt.
    """

    accepted: List[int]
    waiting: List[int]
    suspect: List[int]
    settled: List[int]
    limit: Optional[int]

    @property
    def parts(self) -> List[List[int]]:
        """The parts that can be sent again, in this order."""
        return [part for part in self[:3] if part]

    @property
    def is_whole(self) -> bool:
        """True if no recipient was settled, and all go again undivided."""
        return not self.settled and len(self.parts) == 1


@public
def remainder_of(outcome: Outcome) -> Optional[Remainder]:
    """Take apart what goes again.

    :param outcome: Any outcome.
    :return: None if everybody was attempted.
    """
    if not outcome.having(Fate.not_attempted):
        return None
    late = over_the_limit(outcome)
    found = Remainder([], [], [], [], limit_of(outcome) if any(
        says_too_many_recipients(outcome.results[index]) for index in late)
        else None)
    for index, result in enumerate(outcome.results):
        if index in late:
            found.waiting.append(index)
        elif result.fate is not Fate.not_attempted:
            found.settled.append(index)
        elif result.stage in CONTENT:
            found.accepted.append(index)
        elif result.stage is Stage.rcpt:
            found.suspect.append(index)
        else:
            found.waiting.append(index)
    return found
