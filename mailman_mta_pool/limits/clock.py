# SPDX-License-Identifier: GPL-3.0-or-later
"""The clock of the host, which all processes share and nobody can set."""

import time

from public import public


BOOT_ID = '/proc/sys/kernel/random/boot_id'
MICROSECONDS = 1_000_000
public(MICROSECONDS=MICROSECONDS)


@public
class HostClock:
    """Microseconds since the host was started, and which start that was.

    :ivar boot: A number of 63 bits that another start of the host does not
        have; 0 where the system has none.
    """

    def __init__(self) -> None:
        self.boot = _boot_number()
        # It goes on while the machine sleeps, where there is such a clock.
        self._clock = getattr(time, 'CLOCK_BOOTTIME', time.CLOCK_MONOTONIC)

    def running(self) -> int:
        """Return for how long the host has been running, in microseconds."""
        return time.clock_gettime_ns(self._clock) // 1000

    def wall(self) -> int:
        """Return what the wall clock says, in microseconds since 1970."""
        return time.time_ns() // 1000


def _boot_number() -> int:
    try:
        with open(BOOT_ID, encoding='ascii') as fp:
            return int(fp.read().replace('-', '')[:15], 16)
    except (OSError, ValueError):
        return 0
