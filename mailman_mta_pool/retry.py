# SPDX-License-Identifier: GPL-3.0-or-later
"""Mailman's retry queue, for those who failed for the time being."""

import logging

from lazr.config import as_timedelta
from mailman.config import config
from mailman.utilities.datetime import now
from public import public
from typing import Any, Dict, List


log = logging.getLogger('mailman.smtp')


@public
def enqueue_for_retry(
        msg: Any, msgdata: Dict[str, Any], recipients: List[str]) -> None:
    """Put a post into the retry queue for some of its recipients.

    It keeps the books that `OutgoingRunner._dispose` keeps, in the same keys
    of the metadata, so that a retry may change hands between it and stock.

    :param msg: The message.
    :param msgdata: Its metadata; it is not changed.
    :param recipients: Those who failed for the time being.
    """
    if 'probe_token' in msgdata:
        # As stock: a probe that fails for the time being is not sent again.
        return
    current = now()
    until = msgdata.get('deliver_until', current)
    if len(recipients) != msgdata.get('last_recip_count', 0):
        # There was some progress, so go on for a while longer.
        until = current + as_timedelta(config.mta.delivery_retry_period)
    elif current > until:
        log.error('Discarding message with persistent temporary failures: %s',
                  msg['message-id'])
        return
    config.switchboards['retry'].enqueue(
        msg, msgdata, recipients=recipients,
        last_recip_count=len(recipients), deliver_until=until)
