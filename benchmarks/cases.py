# SPDX-License-Identifier: GPL-3.0-or-later
"""What is measured: each line here is a row of a table."""

from dataclasses import dataclass
from public import public
from typing import Optional, Tuple


SMALL, LARGE = 2_000, 100_000
WITHOUT_CHUNKING = ('relay.master', 'chunking', 'no')
public(SMALL=SMALL, LARGE=LARGE, WITHOUT_CHUNKING=WITHOUT_CHUNKING)


@public
@dataclass(frozen=True)
class Case:
    """The delivery of one post, by each of those that are compared.

    :ivar mode: 'bulk', 'verp', 'individual' (a footer with the member's name
        and address), 'full' (the same, and the member's name in To:); or
        'wire', messages that are rendered beforehand.
    :ivar sink: 'smtp-sink' or 'postfix'.
    :ivar round_trip: In milliseconds.
    :ivar size: Of the post, in octets.
    :ivar connections: With how many ours, and smtp-source, are measured.
    :ivar recipients: To how many members a post goes, at most; ours to
        so many where there is a goal.
    :ivar posts: How many posts in a row make a measurement of ours, where one
        is too short to tell anything.
    :ivar settings: Section, key and value of what differs from the defaults
        of our configuration.
    :ivar mta: Key and value of what differs in [mta], for both.
    :ivar rival: What ours is compared with: 'stock', 'smtplib' (one
        connection of stock's), 'smtp-source', or 'ours', with `others` in the
        place of `settings`.
    :ivar goal: The ratio to the rival that is asked for.
    :ivar name: What the table calls it, if not what it is.
    """

    mode: str = 'verp'
    sink: str = 'smtp-sink'
    round_trip: int = 0
    size: int = SMALL
    connections: Tuple[int, ...] = (8,)
    recipients: int = 2_000
    posts: int = 1
    settings: Tuple[Tuple[str, str, str], ...] = ()
    mta: Tuple[Tuple[str, str], ...] = ()
    rival: str = 'stock'
    others: Tuple[Tuple[str, str, str], ...] = ()
    goal: Optional[float] = None
    name: str = ''


MODES = ('bulk', 'verp', 'individual', 'full')
CONNECTIONS = (1, 4, 8, 16)

# What issues 3 and 4 ask for.
WIRE = (
    Case('wire', connections=(1,), recipients=10_000, rival='smtp-source',
         goal=2),
    Case('wire', connections=(4,), recipients=10_000, rival='smtp-source',
         goal=1),
    Case('wire', connections=(8,), recipients=10_000, rival='smtp-source',
         goal=1),
    Case('wire', 'postfix', 20, rival='smtplib', goal=50),
    Case('wire', 'postfix', 20, rival='smtplib', goal=15,
         settings=(WITHOUT_CHUNKING,), name='without CHUNKING'),
    )
POSTS = (
    Case('verp', goal=100),
    Case('individual', goal=100),
    Case('full', goal=80),
    Case('bulk', mta=(('max_recipients', '10'),), goal=8,
         name='max_recipients: 10'),
    Case('verp', 'postfix', 20, goal=50),
    Case('verp', 'postfix', 20, goal=15, settings=(WITHOUT_CHUNKING,),
         name='without CHUNKING'),
    # What issue 5 allows the journal to cost.
    Case('verp', rival='ours', others=(('delivery', 'journal', 'no'),),
         goal=0.95, posts=20, name='to no journal'),
    )
# The whole table.  On the way to a server that is far away it makes no
# difference in what the messages differ.
TABLE = tuple(
    Case(mode, sink, round_trip, size, CONNECTIONS)
    for sink in ('smtp-sink', 'postfix')
    for size in (SMALL, LARGE)
    for mode in MODES
    for round_trip in (0, 1, 20, 100)
    if round_trip == 0 or
    size == SMALL and mode in ('bulk', 'verp') or
    sink == 'smtp-sink' and mode == 'verp' and round_trip == 20
    )
# Under two minutes.
QUICK = (
    Case('bulk', connections=(1, 8)),
    Case('verp', connections=(1, 8)),
    Case('individual'),
    Case('full'),
    Case('verp', round_trip=20),
    Case('verp', size=LARGE, recipients=500),
    Case('bulk', 'postfix'),
    Case('verp', 'postfix'),
    )
# In proportion?
GROWTH = (1_000, 5_000, 20_000, 200_000)
public(WIRE=WIRE, POSTS=POSTS, TABLE=TABLE, QUICK=QUICK, GROWTH=GROWTH)
