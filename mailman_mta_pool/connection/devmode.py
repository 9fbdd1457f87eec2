# SPDX-License-Identifier: GPL-3.0-or-later
"""Mailman's [devmode]: who is named to the server in the members' place.

This is the only place that knows of it, and every path to the wire passes it.
"""

from lazr.config import as_boolean
from mailman.config import config
from public import public
from typing import Callable, Sequence


@public
def on_the_wire(recipients: Sequence[str]) -> Sequence[str]:
    """Return the recipients that are really named to the server."""
    return rerouting()(recipients)


@public
def rerouting() -> Callable[[Sequence[str]], Sequence[str]]:
    """Return what `on_the_wire` does now, for many messages in a row."""
    if is_rerouting():
        recipient = config.devmode.recipient
        return lambda recipients: [recipient] * len(recipients)
    return lambda recipients: recipients


@public
def is_rerouting() -> bool:
    """Does `on_the_wire` replace the recipients now?"""
    return as_boolean(config.devmode.enabled)
