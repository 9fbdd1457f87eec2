# SPDX-License-Identifier: GPL-3.0-or-later
"""Mailman's [devmode]: who is named to the server in the members' place.

This is the only place that knows of it.  Every path to the wire asks it in
the main thread, and puts the answer into each `Transaction`.
"""

from lazr.config import as_boolean
from mailman.config import config
from public import public
from typing import Optional


@public
def stand_in() -> Optional[str]:
    """Return the address that is named in the place of each recipient.

    The live configuration is read at each call.

    :return: `[devmode] recipient`; None unless `[devmode] enabled` is set.
    """
    return config.devmode.recipient if as_boolean(
        config.devmode.enabled) else None
