# SPDX-License-Identifier: GPL-3.0-or-later
"""Every contract of this package."""

import enum

from mailman_mta_pool.wire.transaction import Transaction
from public import public
from typing import Tuple, Union
from zope.interface import Attribute, Interface


# The reply code and the reply text for a recipient, as in the failures that
# `smtplib.SMTP.sendmail` returns.
Failure = Tuple[int, bytes]
public(Failure=Failure)


@public
class IConnection(Interface):
    """A connection to a mail server: the MTA connection of Mailman.

    Mailman has this interface (`mailman.mta.connection.Connection`), but
    never wrote it down.
    """

    def sendmail(envsender, recipients, msg):
        """Send one message, connecting first where that is needed.

        While `[devmode] enabled` is set, every recipient is replaced by
        `[devmode] recipient`.

        :param envsender: The envelope sender; '' is the null reverse-path.
        :type envsender: str
        :param recipients: The envelope recipients.
        :type recipients: sequence of str
        :param msg: The message.  A str is sent as ASCII, with what is not
            ASCII replaced.
        :type msg: str, bytes or `email.message.Message`
        :return: The recipients that the server refused, each with the reply
            code and the reply text; empty if all were accepted.
        :rtype: dict of str to (int, bytes)
        :raises smtplib.SMTPException: as `smtplib.SMTP.sendmail` does.  In
            that case nobody got the message, unless the connection was lost
            when only the answer to the end of the content was missing.
        """

    def quit():
        """Close the connection, if it is open.  It can be used again."""


@public
class Later(enum.Enum):
    """The answer of `feed` as long as there is no transaction to give."""

    later = 'later'


# Nothing now, but perhaps soon: stay open, and ask again when woken.
LATER = Later.later
# What `feed` gives to a connection; None is the end.
Given = Union[Transaction, Later, None]
public(Given=Given, LATER=LATER)


@public
class ITransactionConnection(IConnection):
    """A connection that can have several transactions on their way at once.

    The pool drives these, in the network thread: all that is defined here is
    called there, and blocks nobody.  A connection that only provides
    `IConnection` is driven through its `sendmail`, one message at a time, in
    a thread of its own.
    """

    is_open = Attribute("""\
        True if there is a connection to the server, as far as we know.""")

    connects_lazily = Attribute("""\
        True if it connects when it first sends: `open` proves nothing then.
        """)

    def open():
        """Connect, and authenticate where that is configured; a coroutine.

        :raises RelayUnavailable: if that fails, in whatever way.
        """

    def disconnect():
        """Close the connection, if it is open; a coroutine.

        The server is told, and has a few seconds to answer.

        :return: True if the server has answered, now or when the connection
            was closed before; otherwise it may take the connection for open.
        :rtype: bool
        """

    def abort():
        """Break the connection.

        Whoever awaits `converse` gets the error for a lost connection.
        """

    def is_alive():
        """Tell whether the server left an idle connection open and silent.

        :return: False if it closed it or said something nobody asked for.
        :rtype: bool
        """

    def converse(feed, report):
        """Send transactions until there are none left; a coroutine.

        It returns when `feed` has nothing more and everything is answered,
        when the connection has carried its maximum of messages and is closed,
        or when the server closes it while it has nothing to do.

        :param feed: Called with the number of octets of content that the next
            transaction may have.  It returns, without waiting, the next
            `Transaction`; or `LATER`; or None for the end.
        :param report: Called with the `Outcome` of each transaction that was
            taken from `feed`, whatever happens, exactly once.  A connection
            that cannot ask reports each recipient of a question
            (`Transaction.asks`) as not attempted.
        :raises RelayUnavailable: if it was not open, and cannot be opened.
        :raises smtplib.SMTPServerDisconnected: if the connection broke or had
            to be closed; everything has been reported by then.
        """

    def wake():
        """Have `converse` ask again for what `feed` did not have yet.

        Nothing is asked before the caller has returned to the event loop.
        """


@public
class IConnectionFactory(Interface):
    """Makes connections of one kind.

    The name under which such a utility is registered is a value of `[mta]
    smtp_secure_mode`: `smtp`, `smtps` and `starttls` are ours, and any other
    package can register more.
    """

    def __call__(relay, lessons):
        """Make a connection; nothing is opened.

        :param relay: The server, and the settings of the dialogue with it.
            Its `password` is a `Secret`; `reveal` returns the text.
        :type relay: `mailman_mta_pool.settings.RelaySettings`
        :param lessons: What was learnt about that server, shared by all
            connections to it.
        :type lessons: `mailman_mta_pool.wire.lessons.Lessons`
        :return: The connection.
        :rtype: `IConnection`, or better `ITransactionConnection`
        """


@public
class IPool(Interface):
    """A bounded set of connections to one server, kept for reuse.

    It belongs to the network thread; `statistics` alone is for any thread.
    Each connection has a slot of an `ISlots`, from before it is opened until
    it is closed.
    """

    barred_by = Attribute("""\
        The `mailman_mta_pool.relays.limiting.Allowance` because of which it
        has no connection and opens none, or None.""")

    def acquire(is_wanted=..., queued=..., opening=...):
        """Take a connection out of the pool; a coroutine.

        The one that was used last and is still alive comes first; where none
        is idle, a new one is opened, if need be when another comes back, or
        when another process of this host gives up its slot.

        :param is_wanted: Called before waiting for a limit, and after waiting
            for another one to come back; where it returns False, nothing is
            opened any more.
        :param queued: Called when the waiting begins.
        :param opening: Called when the waiting is over and a new connection
            is about to be opened.
        :return: The connection, and True if it was open already; None if it
            is not wanted any more.
        :rtype: tuple of `ITransactionConnection` and bool, or None
        :raises PoolClosed: if the pool has been closed.
        :raises RelayUnavailable: if it cannot be opened.
        """

    def next_attempt():
        """Let a connection that is being opened try another address.

        A limit of new connections counts each address that is tried; the
        first one is allowed with the connection.

        :return: What is to be called when the attempt is over; None if there
            may be none now.
        """

    def release(connection):
        """Take a connection back.

        It is kept for reuse if it is open and its time is not over.  The
        closing goes on by itself, and its slot is free when it is done.

        :param connection: One that `acquire` returned.
        """

    def gives_back_busy():
        """Return whether the connection of whoever asks is to be closed.

        Another process of this host waits for its slot.  Whoever asks, which
        is between two transactions, closes and releases the connection when
        what is in flight is answered.

        :rtype: bool
        """

    def dismiss_unwanted():
        """Have `acquire` return None for those who do not wait any more.

        Their `is_wanted` says so.
        """

    def note_broken():
        """Take note that a connection in use broke, for the statistics."""

    def close_idle():
        """Begin to close all idle connections."""

    def close():
        """Close the idle connections; a coroutine.

        Those in use are closed when they come back.
        """

    def abandon():
        """Give up all slots: the network thread has ended.

        It is for any other thread, and the pool is of no use after it.
        """

    def statistics():
        """Return an immutable snapshot.

        :rtype: `mailman_mta_pool.relays.pool.PoolStatistics`
        """


@public
class ISlots(Interface):
    """The connections to a relay that this process may have.

    What `take` returns is the right to one connection.  It belongs to the
    network thread.
    """

    def take():
        """Return a slot, if this process may have another one now.

        :return: The slot; None if it may not.
        :raises RelayUnavailable: if this process can open no more files.
        """

    def release(slot, is_clean=True):
        """Give a slot back.

        :param slot: One that `take` returned.
        :param is_clean: True if the server knows that the connection is
            closed, or was never connected to.
        """

    def want(count):
        """Say for how many more connections this process waits."""

    def listen(on_free, on_wanted):
        """Say what is to be called.

        :param on_free: Called when `take` may succeed, while some are wanted.
        :param on_wanted: Called when others wait for slots of this process.
        """

    def gives_back_idle():
        """Return whether an idle connection is to be closed for others.

        Whoever is told so closes one, and releases its slot.
        """

    def gives_back_busy():
        """Return whether a connection without a transaction is to be closed.

        Whoever is told so closes one, and releases its slot.
        """

    def close():
        """Give back all slots; their connections are closed, or lost."""


@public
class ICandidate(Interface):
    """One of several relays, as whoever chooses among them sees it."""

    name = Attribute("""\
        A str that no other candidate has.""")

    priority = Attribute("""\
        An int; the relays with the lowest one that are available get all.""")

    weight = Attribute("""\
        An int above 0: the share among the relays of one priority.""")

    is_available = Attribute("""\
        False if the relay cannot be used at present: its breaker is open, it
        is paused, or its login fails.  A relay that is busy, or whose
        connections are still being opened, is available.""")

    has_room = Attribute("""\
        True if an agent of the relay has an open connection, could take a
        transaction at once, and asks for one when it is woken.  A relay at
        its ceiling, or at a limit, has no room.""")

    is_full = Attribute("""\
        True if it has no room, and no connection that is still being opened
        or could be opened either.  It is not owed what others take then.
        """)

    is_limited = Attribute("""\
        True while a limit of our own lets nothing through, or lets it have no
        connection.  It is busy then, and nobody waits for it.""")

    balance = Attribute("""\
        An int, 0 at first, that is kept from post to post: what the relay is
        owed, or owes.""")


@public
class ITurn(Interface):
    """The time that a delivery has before other posts have theirs."""

    is_over = Attribute("""\
        True if nothing more is to be sent; what is in flight may finish.""")

    is_urgent = Attribute("""\
        True if the turn is over even if nothing has been answered yet.  A
        time slice is not urgent: a server that says nothing is to run into
        its timeout.""")

    is_too_late = Attribute("""\
        True if even what is in flight is to be given up.""")

    is_awaited = Attribute("""\
        True if other posts wait for their turn.""")

    def renew():
        """Begin another one, for nobody waits; what is urgent stays so."""


@public
class IRecord(Interface):
    """A record of what becomes of the recipients.

    Each is entered once as served or bounced; before that, at earlier
    attempts, anybody may be deferred or in doubt.  It is written to by one
    thread at a time.
    """

    def served(recipients, reply=None, relay=''):
        """Record that the server took responsibility for recipients.

        It is called once for each transaction.

        :type recipients: sequence of str
        :param reply: The reply to the end of the content, or None.
        :type reply: `mailman_mta_pool.wire.replies.Reply`
        :param relay: The name of the server.
        :type relay: str
        """

    def bounced(recipient, code, text, relay=''):
        """Record that the server refused a recipient for good.

        :type recipient: str
        :param code: The reply code.
        :type code: int
        :param text: The reply text.
        :type text: bytes
        :param relay: The name of the server.
        :type relay: str
        """

    def deferred(recipients, code, text, relay=''):
        """Record that recipients were refused for the time being.

        :type recipients: sequence of str
        :param code: The reply code.
        :type code: int
        :param text: The reply text.
        :type text: bytes
        :param relay: The name of the server.
        :type relay: str
        """

    def in_doubt(recipients, relay=''):
        """Record that the reply to the end of the content never came.

        :type recipients: sequence of str
        :param relay: The name of the server.
        :type relay: str
        """


@public
class IOutbound(Interface):
    """Where the strategies put their transactions."""

    def expect(transactions):
        """Open connections, while the first transactions are being made.

        :param transactions: How many there will be, at the least.
        :type transactions: int
        """

    def submit(transaction):
        """Send a transaction when its turn comes.

        It waits as long as too much is waiting already.

        :param transaction: What to send.
        :type transaction: `mailman_mta_pool.wire.transaction.Transaction`
        :raises NothingMoreToSend: if the rest of the post is not to be sent
            now.
        """

    connections = Attribute("""\
        How many connections the post may have at once, to those relays that
        it goes over at present: neither to one that stands by, nor to one
        that cannot be used.""")

    makes_senders = Attribute("""\
        True if the mail server is to be asked to make the senders of VERP.
        Where it then turns out that it cannot, each recipient of the
        transaction gets one of their own.""")

    def finish():
        """Wait until everything that was submitted is settled.

        :return: Delivery failures as defined by `smtplib.SMTP.sendmail`.
        :rtype: dict of str to (int, bytes)
        """


@public
class ILimitStorage(Interface):
    """What is left of the limits, for all processes that share them.

    Each message, recipient or connection counts from the moment it is taken
    until one period after its reply.  What a process has in flight when it
    dies counts as if it were replied to at that time.

    Everything is called in the network thread, and returns at once.
    """

    def take(ask, answer):
        """Take of all limits of a transaction, or of none of them.

        :param ask: What is wanted.
        :type ask: `mailman_mta_pool.limits.limit.Ask`
        :param answer: Called once, now or later, with a `Taken` or a
            `Refused`.  After that the same may be asked again.
        """

    def replied(taken):
        """Take note that the server has replied, or never will.

        :param taken: What was taken.
        :type taken: `mailman_mta_pool.limits.limit.Taken`
        """

    def unused(taken):
        """Give back what was taken, and was not used after all.

        :param taken: What was taken, or a part of it.
        :type taken: `mailman_mta_pool.limits.limit.Taken`
        """

    def leave(ask):
        """Give up the place in the line that a refusal came with.

        :param ask: What is wanted no longer.
        :type ask: `mailman_mta_pool.limits.limit.Ask`
        """

    def sync():
        """Write to the disk what is to outlive the host; this blocks.

        :raises OSError: if that is not possible.
        """

    def close():
        """Close everything; a coroutine.

        What is in flight counts as replied to when another process notices.
        """
