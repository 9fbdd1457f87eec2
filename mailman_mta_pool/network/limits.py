# SPDX-License-Identifier: GPL-3.0-or-later
"""The limits of this process, of which Mailman gets the last of all."""

import os
import errno
import resource

from public import public


# Descriptors left to Mailman: for its database, templates and queue files.
SPARE_DESCRIPTORS = 16
public(SPARE_DESCRIPTORS=SPARE_DESCRIPTORS)


@public
def check_descriptors() -> None:
    """Tell whether the network may have another descriptor.

    A post that cannot be sent now can wait only where Mailman can still
    write a file.

    :raises OSError: with EMFILE, if only `SPARE_DESCRIPTORS` or fewer are
        left; or because there are none.
    """
    number = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.close(number)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The kernel gives the lowest number that is free.
    if (soft != resource.RLIM_INFINITY and
            number >= soft - SPARE_DESCRIPTORS):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
