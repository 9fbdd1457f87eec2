# SPDX-License-Identifier: GPL-3.0-or-later

"""A function for `[mta] outgoing` that knows the random state of the process.
"""

import random

from mailman_mta_pool.deliver import deliver as ours
from public import public


#: With this the generator of `random` is seeded before every post.
SEED = 'ants'
public(SEED=SEED)


@public
def deliver(mlist, msg, msgdata):
    """Deliver by ours, always with the same random state to begin with.

    The post is shunted if the delivery draws from the process's generator,
    seeds it, or puts back a state of its own.
    """
    random.seed(SEED)
    state = random.getstate()
    ours(mlist, msg, msgdata)
    if random.getstate() != state:
        raise AssertionError('the random state is another one')
