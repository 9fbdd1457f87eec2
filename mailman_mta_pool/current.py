# SPDX-License-Identifier: GPL-3.0-or-later
"""How things are now: the overview of this Mailman site.

`mailman mta-pool status`, its `--json`, the REST resource and the report all
show what this returns, so they agree.
"""

import os
import time

from mailman.bin.master import master_state, WatcherState
from mailman.config import config
from mailman_mta_pool.configuration.files import ConfigurationError
from mailman_mta_pool.configuration.loading import load, no_password
from mailman_mta_pool.monitoring.overview import Overview, overview
from mailman_mta_pool.relays.access import name_of
from mailman_mta_pool.relays.factories import check_modes
from mailman_mta_pool.relays.limiting import check_limits
from mailman_mta_pool.settings import Settings
from public import public
from typing import Optional, Tuple


START = {
    WatcherState.none: 'mailman start',
    # The lock of a master that was killed makes it refuse.
    WatcherState.stale_lock: 'mailman start --force',
    }


@public
def current_overview() -> Overview:
    """Return what the state files, queues and the configuration say now."""
    settings, problem = _in_force()
    return overview(
        config.VAR_DIR, config.QUEUE_DIR, time.time(), problem,
        _start_command(), None if settings is None else {
            name_of(relay): settings.pool_of(relay).max_connections
            for relay in settings.relays})


@public
def problem_in_force() -> Optional[str]:
    """Return what is wrong with the configuration, in one line, or None."""
    return _in_force()[1]


def _in_force() -> Tuple[Optional[Settings], Optional[str]]:
    """Return the settings, or what is wrong with them."""
    try:
        settings = load(no_password)
        check_modes(settings)
        check_limits(settings)
    except ConfigurationError as error:
        return None, str(error)
    return settings, None


def _start_command() -> Optional[str]:
    """Return the command that starts Mailman; None if it may be running.

    It goes by what `mailman status` goes by.  Where that cannot tell, since
    the lock of the master is that of another host, or of another user, or
    cannot be read, there is none.
    """
    try:
        state, _ = master_state()
        if state is WatcherState.stale_lock and os.geteuid() not in (
                0, os.stat(config.LOCK_FILE).st_uid):
            return None
    except OSError:
        return None
    return START.get(state)
