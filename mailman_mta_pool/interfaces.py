# SPDX-License-Identifier: GPL-3.0-or-later
"""Every contract of this package."""

from public import public
from typing import Tuple
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
class ITransactionConnection(IConnection):
    """A connection that can have several transactions on their way at once.

    The pool drives these.  A connection that only provides `IConnection` is
    driven through its `sendmail`, one message at a time.
    """

    is_open = Attribute("""\
        Is there a connection to the server, as far as we know?""")

    def open():
        """Connect, and authenticate where that is configured.

        :raises RelayUnavailable: if that fails, in whatever way.
        """

    def abort():
        """Break the connection, from another thread.

        Whoever is in `converse` gets the error for a lost connection.
        """

    def is_alive():
        """Has the server left an idle connection open and silent?

        :return: False if it closed it or said something nobody asked for.
        :rtype: bool
        """

    def converse(feed, report, drive=None):
        """Send transactions until there are none left.

        It returns when `feed` has nothing more and everything is answered,
        or when the connection has carried its maximum of messages; it is
        closed then.

        :param feed: Called without arguments for the next `Transaction`; it
            returns None, without waiting, if there is none at the moment.
        :param report: Called with the `Outcome` of each transaction that was
            taken from `feed`, whatever happens, exactly once.
        :param drive: `Driver.drive`, which lets connections share a thread;
            `feed` and `report` are called in that one then, and `feed` may
            return `Feed.later` for what is to be waited for until
            `Driver.poke`.  A connection need not use it.
        :raises smtplib.SMTPServerDisconnected: if the connection broke or had
            to be closed; everything has been reported by then.
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

        :param relay: Which server, and how to talk to it.
        :type relay: `mailman_mta_pool.settings.RelaySettings`
        :param lessons: What was learnt about that server, shared by all
            connections to it.
        :type lessons: `mailman_mta_pool.wire.lessons.Lessons`
        :return: The connection.
        :rtype: `IConnection`, or better `ITransactionConnection`
        """


@public
class IPool(Interface):
    """A bounded set of connections to one server, kept for reuse."""

    def connection(timeout=None):
        """Borrow a connection: a context manager that takes it back.

        The one that was used last and is still alive comes first.

        :param timeout: How many seconds to wait for one while all are in
            use; None is for ever.
        :return: A context manager that gives an `ITransactionConnection`.
        :raises PoolTimeout: if none became free in time.
        :raises PoolClosed: if the pool has been closed.
        """

    def close_expired():
        """Close the idle connections whose time is over.

        :return: After how many seconds the next one expires; None if no
            connection is idle.
        :rtype: float or None
        """

    def close():
        """Close all connections; those in use when they come back."""

    def statistics():
        """How the pool is.

        :return: An immutable snapshot.
        :rtype: `mailman_mta_pool.relays.pool.PoolStatistics`
        """


@public
class ITurn(Interface):
    """For how long a delivery may go on."""

    is_over = Attribute("""\
        Is nothing more to be sent, though what is in flight may finish?""")

    is_urgent = Attribute("""\
        Is it over even if nothing has been answered yet?  A time slice is
        not: a server that says nothing is to run into its timeout.""")

    is_too_late = Attribute("""\
        Is even what is in flight to be given up?""")


@public
class IRecord(Interface):
    """What is told, once for each recipient, that something is settled.

    It is called by one thread at a time.
    """

    def served(recipients):
        """The server took the responsibility for these.

        :type recipients: sequence of str
        """

    def bounced(recipient, code, text):
        """The server refused this one for good.

        :type recipient: str
        :param code: The reply code.
        :type code: int
        :param text: The reply text.
        :type text: bytes
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
        How many transactions can be on their way at the same time?""")

    makes_senders = Attribute("""\
        Is the mail server to be asked to make the senders of VERP?  It may
        still turn out that it cannot; then the transaction's recipients get
        one each.""")

    def finish():
        """Wait until everything that was submitted is settled.

        :return: Delivery failures as defined by `smtplib.SMTP.sendmail`.
        :rtype: dict of str to (int, bytes)
        """
