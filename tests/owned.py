# SPDX-License-Identifier: GPL-3.0-or-later
"""Who touches what belongs to the network thread."""

import functools

from contextlib import contextmanager, ExitStack
from mailman_mta_pool.connection.session import Session
from mailman_mta_pool.connection.smtp import SMTPConnection
from mailman_mta_pool.dispatch.agent import Agent
from mailman_mta_pool.dispatch.dispatcher import Dispatcher
from mailman_mta_pool.dispatch.lane import Lane
from mailman_mta_pool.login.access import Access
from mailman_mta_pool.network.border import border
from mailman_mta_pool.relays.pool import Pool
from mailman_mta_pool.relays.throttle import Throttle
from mailman_mta_pool.settlement.memory import Memory
from mailman_mta_pool.wire.conversation import Conversation
from mailman_mta_pool.wire.lessons import Lessons
from public import public
from unittest import mock


#: Each class, and what the main thread may read or call; see the table in
#: docs/design/design.rst.
OWNED = {
    Dispatcher: {'accepted', 'answers', 'connections', 'is_crowded_out',
                 'is_done', 'is_limited', 'octets', 'paused_for',
                 'unavailable'},
    # The dispatcher reads these for the main thread.
    Lane: {'agents', 'has_work', 'is_available', 'is_crowded_out',
           'limited_for', 'paused_for', 'priority'},
    Agent: set(),
    # A lane reads the second one, and the last one is for when there is no
    # network thread.
    Pool: {'statistics', 'barred_by', 'abandon'},
    # The last offer is an attribute.
    Lessons: {'verp_refused'},
    Throttle: {'paused_for'},
    # The ledger is closed when the dispatch is over.
    Memory: {'remember_good'},
    SMTPConnection: {'sendmail', 'quit'},
    Access: set(),
    Session: set(),
    Conversation: set(),
    }


class Watch:
    """Takes note of each call of a public method, and by which thread.

    :ivar inside: The names of what the network thread called.
    :ivar outside: The names of what another thread called.
    """

    def __init__(self):
        self.inside = set()
        self.outside = set()

    def _watched(self, function, name):
        @functools.wraps(function)
        def call(*args, **kws):
            (self.inside if border.is_here else self.outside).add(name)
            return function(*args, **kws)
        return call

    def watched(self, member, name):
        """Return a member of a class that takes note first.

        :param member: A function or a property; anything else is None.
        """
        if isinstance(member, property):
            return property(self._watched(member.fget, name))
        return self._watched(member, name) if callable(member) else None


@public
@contextmanager
def loop_owned():
    """Watch all calls of public methods and properties of `OWNED`.

    :return: A context manager; its value is the `Watch`.
    :raises AssertionError: at the end, if a thread other than the network
        thread has called any but those that are allowed.
    """
    watch = Watch()
    with ExitStack() as patches:
        for kind, allowed in OWNED.items():
            for name, member in vars(kind).items():
                if name.startswith('_') or name in allowed:
                    continue
                replacement = watch.watched(
                    member, f'{kind.__name__}.{name}')
                if replacement is not None:
                    patches.enter_context(
                        mock.patch.object(kind, name, replacement))
        yield watch
    assert not watch.outside, sorted(watch.outside)
