# SPDX-License-Identifier: GPL-3.0-or-later
"""The instructions that follow from an answer, for the dispatcher."""

from mailman_mta_pool.settings import About
from mailman_mta_pool.settlement.table import Judgement, OF_THE_RELAY
from mailman_mta_pool.wire.replies import Reply
from mailman_mta_pool.wire.transaction import Transaction
from public import public
from typing import FrozenSet, NamedTuple, Optional, Tuple


@public
class Notice(NamedTuple):
    """An answer that is about the relay, and about no recipient.

    :ivar about: `About.rate`, `About.quota` or `About.connections`.
    :ivar reply: The server's words.
    :ivar wait: How many seconds nothing is to be sent, if the reply says so.
    :ivar remedy: A sentence for the log, which may be empty.
    :ivar usual: How many seconds nothing is to be sent at first, if the reply
        does not say and the catalogue does.
    """

    about: About
    reply: Reply
    wait: Optional[float] = None
    remedy: str = ''
    usual: Optional[float] = None


@public
def notice_of(judgement: Judgement) -> Optional[Notice]:
    """Return what a refusal says of the relay.

    :param judgement: Of the refusal.
    :return: None if the refusal is about something else.
    """
    about = judgement.about
    if about is None or about not in OF_THE_RELAY:
        return None
    return Notice(about, judgement.reply, judgement.wait, judgement.remedy,
                  judgement.usual)


@public
class Orders(NamedTuple):
    """Instructions for the dispatcher about an outcome.

    :ivar again: To be sent at once, before what is waiting.
    :ivar first: To be sent alone, one after the other: nothing else is begun
        before their outcomes have been settled.
    :ivar elsewhere: Recipients of other domains than these are to be tried
        before the others.
    :ivar limit: The most recipients that the server takes in a transaction,
        if that is what was learnt.
    :ivar notice: What the answer says of the relay; None if nothing.
    :ivar halt: Send nothing more of this post.
    :ivar no_verp: The server does not make senders, whatever it says.
    :ivar plain_sender: The server does not take the senders of VERP.
    """

    again: Tuple[Transaction, ...] = ()
    first: Tuple[Transaction, ...] = ()
    elsewhere: FrozenSet[str] = frozenset()
    limit: Optional[int] = None
    notice: Optional[Notice] = None
    halt: bool = False
    no_verp: bool = False
    plain_sender: bool = False


NO_ORDERS = Orders()
HALT_ORDERS = Orders(halt=True)
public(HALT_ORDERS=HALT_ORDERS, NO_ORDERS=NO_ORDERS)
