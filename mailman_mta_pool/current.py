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
from mailman_mta_pool.relays.factories import check_modes
from public import public
from typing import Optional


START = {
    WatcherState.none: 'mailman start',
    # The lock of a master that was killed makes it refuse.
    WatcherState.stale_lock: 'mailman start --force',
    }


@public
def current_overview() -> Overview:
    """Return what the state files, queues and the configuration say now."""
    return overview(
        config.VAR_DIR, config.QUEUE_DIR, time.time(),
        problem_in_force(), _start_command())


@public
def problem_in_force() -> Optional[str]:
    """Return what is wrong with the configuration, in one line, or None."""
    try:
        check_modes(load(no_password))
    except ConfigurationError as error:
        return str(error)
    return None


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
