# SPDX-License-Identifier: GPL-3.0-or-later
"""Which transactions a post becomes."""

from mailman.config import config
from mailman.interfaces.mailinglist import Personalization
from mailman_mta_pool.rendering.reference import WithoutConnection
from mailman_mta_pool.strategies.bulk import PooledBulkDelivery
from mailman_mta_pool.strategies.individual import PooledIndividualDelivery
from public import public
from typing import Any, Dict


@public
def plain_sender(mlist: Any, msg: Any, msgdata: Dict[str, Any]) -> str:
    """Return the envelope sender that the post has without VERP.

    See `mailman.mta.base.BaseDelivery`.
    """
    return WithoutConnection()._get_sender(mlist, msg, msgdata)


@public
def strategy_for(mlist: Any, msgdata: Dict[str, Any], outbound: Any,
                 coalesce: bool) -> Any:
    """Choose as stock `mailman.mta.deliver.deliver` does.

    :param mlist: The mailing list of the post.
    :param msgdata: The metadata of the post; see the to-outgoing handler for
        its `verp`.
    :param outbound: Where the transactions go, an `IOutbound`.
    :param coalesce: May individual deliveries whose sender and content turn
        out to be equal share a transaction?
    :return: An `IMailTransportAgentDelivery`.
    """
    max_recipients = int(config.mta.max_recipients)
    if msgdata.get('verp', False):
        # No two senders are equal.
        return PooledIndividualDelivery(outbound)
    if mlist.personalize != Personalization.none:
        return PooledIndividualDelivery(
            outbound, max(0, max_recipients) if coalesce else 1)
    return PooledBulkDelivery(outbound, max_recipients)
