# SPDX-License-Identifier: GPL-3.0-or-later
"""Does the time grow in proportion, and how much memory does it take?"""

import gc
import re

from benchmarks.measuring import REPEATS
from benchmarks.site import Site
from dataclasses import dataclass
from pathlib import Path
from public import public
from statistics import median


CONNECTIONS = 8
SIZE = 2_000
# Turns are another matter.
SETTINGS = (('delivery', 'time_slice', '0'),)
# So many recipients do for whatever is loaded only once.
FEW = 100
# A post that takes less than this is measured several times in a row.
TOGETHER = 20_000


@public
@dataclass(frozen=True)
class Size:
    """How a post of some size did.

    :ivar seconds: The median.
    :ivar megabytes: The greatest memory beyond that of the process at rest,
        in the first delivery.
    :ivar proportion: The time for each recipient, to that of the smallest.
    """

    mode: str
    recipients: int
    seconds: float
    megabytes: float
    proportion: float

    @property
    def each(self):
        """Seconds for each recipient."""
        return self.seconds / self.recipients


def _memory(key):
    status = Path('/proc/self/status').read_text()
    found = re.search(rf'^{key}:\s*(\d+) kB$', status, re.MULTILINE)
    return int(found[1]) / 1024


def _peak(site, mode, recipients):
    """The greatest memory of a delivery, in MB."""
    # From proc(5): this makes the peak what it is now.
    Path('/proc/self/clear_refs').write_text('5')
    site.deliver('ours', mode, SIZE, recipients)
    return _memory('VmHWM')


def _seconds(site, mode, recipients):
    again = max(1, TOGETHER // recipients)
    return sum(site.deliver('ours', mode, SIZE, recipients)
               for _ in range(again)) / again


@public
def grow(directory, port, counts, mode):
    """Deliver posts of growing size, in a process of a site.

    For the memory it must be a process that has done nothing else.

    :param directory: Where files can be put.
    :param port: The server's.
    :param counts: How many recipients, the smallest number first.
    :param mode: See `Case`.
    :return: A list of `Size`.
    """
    site = Site(directory)
    with site.configured(port, CONNECTIONS, settings=SETTINGS):
        site.personalize(mode)
        site.deliver('ours', mode, SIZE, FEW)
        gc.collect()
        idle = _memory('VmRSS')
        memory = {count: _peak(site, mode, count) - idle for count in counts}
        times = {count: [] for count in counts}
        for _ in range(REPEATS):
            for count in counts:
                times[count].append(_seconds(site, mode, count))
    first = median(times[counts[0]]) / counts[0]
    return [Size(mode, count, median(times[count]), memory[count],
                 median(times[count]) / count / first)
            for count in counts]
