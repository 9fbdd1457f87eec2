# SPDX-License-Identifier: GPL-3.0-or-later
"""What is left of a transaction whose connection came to an end.

Those to whom nothing was sent go again, but not all together.  Whoever had
been accepted is served before anybody else is tried, and whoever the server
was told of last is tried alone: it may be what broke the connection.  So
Postfix, which hangs up after twenty refused recipients, still takes the post
for the others, and one address that nobody can stand keeps it from nobody.
"""

from mailman_mta_pool.settlement import limit_of, over_the_limit
from mailman_mta_pool.wire.outcome import (
    Fate,
    Outcome,
    Result,
    Stage,
    Transaction,
)
from public import public
from typing import List, NamedTuple, Optional, Sequence


_ANSWERED = frozenset([Fate.accepted, Fate.refused])


def _results(outcome: Outcome) -> Sequence[Result]:
    alike = outcome.alike
    return outcome.results if alike is None else [alike]


@public
def leaves_some(outcome: Outcome) -> bool:
    """Is there somebody who was not attempted?"""
    return any(result.fate is Fate.not_attempted
               for result in _results(outcome))


@public
def is_answered(outcome: Outcome) -> bool:
    """Did the server say what becomes of somebody, and leave none in doubt?

    What it answered to others would not make up for that: it may go on so
    until everybody is in doubt.
    """
    results = _results(outcome)
    return any(
        result.fate in _ANSWERED and result.stage is not Stage.here
        for result in results) and not any(
        result.fate is Fate.in_doubt for result in results)


@public
class Leftovers(NamedTuple):
    """An outcome, taken apart.

    :ivar again: What can be sent again, in the order in which it should be.
    :ivar settled: The outcome of all the others.
    :ivar limit: The most recipients that the server takes in a transaction,
        if that is what was learnt.
    """

    again: List[Transaction]
    settled: Outcome
    limit: Optional[int]


@public
def leftovers_of(outcome: Outcome) -> Leftovers:
    """Take apart what goes again.

    :param outcome: One in which somebody was not attempted.
    """
    late = over_the_limit(outcome)
    accepted, waiting, suspect, settled = [], [], [], []
    for index, result in enumerate(outcome.results):
        if index in late:
            waiting.append(index)
        elif result.fate is not Fate.not_attempted:
            settled.append(index)
        elif result.stage in (Stage.data, Stage.end):
            accepted.append(index)
        elif result.stage is Stage.rcpt:
            suspect.append(index)
        else:
            waiting.append(index)
    return Leftovers(
        [outcome.part(those).transaction
         for those in (accepted, waiting, suspect) if those],
        outcome.part(settled), limit_of(outcome) if late else None)
