# SPDX-License-Identifier: GPL-3.0-or-later
"""From a post and its recipients to transactions."""

from mailman.config import config
from mailman.interfaces.mailinglist import Personalization
from mailman_mta_pool.rendering.reference import WithoutConnection
from mailman_mta_pool.settings import DeliverySettings
from mailman_mta_pool.strategies.bulk import PooledBulkDelivery
from mailman_mta_pool.strategies.coalescing import Coalescing
from mailman_mta_pool.strategies.individual import PooledIndividualDelivery
from mailman_mta_pool.strategies.server_verp import ServerVERP, verp_of
from public import public
from typing import Any, Dict


# With fewer recipients than this it is not worth while to divide a chunk among
# connections: each costs the mail server a copy of the message.
MIN_SHARE_RECIPIENTS = 100


@public
def plain_sender(mlist: Any, msg: Any, msgdata: Dict[str, Any]) -> str:
    """Return the envelope sender that the post has without VERP.

    See `mailman.mta.base.BaseDelivery`.
    """
    return WithoutConnection()._get_sender(mlist, msg, msgdata)


@public
def strategy_for(mlist: Any, msg: Any, msgdata: Dict[str, Any], outbound: Any,
                 delivery: DeliverySettings) -> Any:
    """Return the strategy that stock `mailman.mta.deliver` would choose.

    :param mlist: The mailing list of the post.
    :param msg: The post.
    :param msgdata: The metadata of the post; see the to-outgoing handler for
        its `verp`.
    :param outbound: Where the transactions go, an `IOutbound`.
    :param delivery: How the post is to be delivered.
    :return: An `IMailTransportAgentDelivery`.
    """
    if msgdata.get('verp', False):
        return PooledIndividualDelivery(
            outbound, _with_verp(mlist, msg, msgdata, outbound, delivery))
    if mlist.personalize != Personalization.none:
        return PooledIndividualDelivery(outbound, Coalescing(
            outbound.submit,
            delivery.max_recipients if delivery.coalesce else 1))
    return PooledBulkDelivery(outbound, delivery.max_recipients)


def _with_verp(mlist: Any, msg: Any, msgdata: Dict[str, Any], outbound: Any,
               delivery: DeliverySettings) -> Any:
    verp = verp_of(config.mta.verp_format)
    count = len(msgdata['recipients'])
    if (delivery.server_verp and verp is not None and count > 1 and
            outbound.makes_senders):
        # Each connection has its share, but not for a handful.
        share = max(MIN_SHARE_RECIPIENTS, -(-count // outbound.connections))
        return ServerVERP(
            outbound.submit, verp, plain_sender(mlist, msg, msgdata),
            min(share, delivery.max_recipients_server_verp),
            msgdata.get('add-dup-header', ()))
    # No two senders are equal.
    return Coalescing(outbound.submit, 1)
