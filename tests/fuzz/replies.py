# SPDX-License-Identifier: GPL-3.0-or-later
"""Octets of a server, cut anywhere, and all that is read in a reply."""

from datetime import datetime, timezone
from mailman_mta_pool.configuration.answers import shipped_answers
from mailman_mta_pool.errors import ProtocolError
from mailman_mta_pool.settlement.catalogue import Catalogue
from mailman_mta_pool.settlement.waits import LONGEST_WAIT, wait_of
from mailman_mta_pool.wire.replies import (
    MAX_CHALLENGE,
    MAX_LINE,
    MAX_LINES,
    MAX_REPLY,
    ReplyParser,
    wants_login,
)
from public import public


CATALOGUE = Catalogue(shipped_answers())
NOON = datetime(2026, 11, 27, 12, tzinfo=timezone.utc)
# What a log is to show of a reply, with its code.
LONGEST_LINE = 1100


def parsed(pieces):
    """Return the replies, and whether something that is none came after."""
    parser, replies = ReplyParser(), []
    try:
        for piece in pieces:
            replies.extend(parser.feed(piece))
    except ProtocolError:
        return replies, True
    return replies, False


@public
def one_input(data):
    """The first octet says how the others are cut.

    :raises AssertionError: if a limit does not hold, or the cut matters.
    """
    if not data:
        return
    size, octets = data[0] % 64 + 1, data[1:]
    pieces = [octets[start:start + size]
              for start in range(0, len(octets), size)]
    replies, is_broken = parsed(pieces)
    assert (replies, is_broken) == parsed([octets]), 'the cut matters'
    for reply in set(replies):
        look_at(reply)


def look_at(reply):
    """Read in a reply all that anybody reads."""
    assert 200 <= reply.code <= 599
    assert 1 <= len(reply.lines) <= MAX_LINES
    most = MAX_CHALLENGE if reply.code == 334 else MAX_LINE
    assert all(len(line) <= most for line in reply.lines)
    assert len(reply.lines) == 1 or sum(map(len, reply.lines)) <= MAX_REPLY
    line = str(reply)
    assert line.isprintable() and len(line) <= LONGEST_LINE
    assert reply.enhanced is None or (
        reply.enhanced[0] == line[0] and reply.enhanced.count('.') == 2)
    wants_login(reply)
    wait = wait_of(reply, NOON)
    assert wait is None or 0 <= wait <= LONGEST_WAIT
    if reply.code >= 400:
        for stage in ('greeting', 'auth', 'rcpt', 'end'):
            CATALOGUE.find(stage, reply)
