# SPDX-License-Identifier: GPL-3.0-or-later

"""Ports, waiting, and the processes that the servers consist of."""

import os
import time
import signal
import socket
import contextlib

from public import public


HOST = '127.0.0.1'
# How long, in seconds, a server may take to start, to stop or to empty its
# queue before the test fails.  Only a test that fails waits so long.
DEADLINE = 30
PAUSE = 0.01


@public
def free_port():
    """Return the number of a TCP port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


@public
def wait_until(true, what, deadline=DEADLINE):
    """Wait until a condition holds that no event announces.

    :param true: Called without arguments until what it returns is true.
    :param what: What is waited for, for the message of the exception.
    :param deadline: The longest wait, in seconds.
    :return: What `true` returned at last.
    :raises TimeoutError: when the deadline passes.
    """
    end = time.monotonic() + deadline
    while True:
        result = true()
        if result:
            return result
        if time.monotonic() > end:
            raise TimeoutError('waited {} s for {}'.format(deadline, what))
        time.sleep(PAUSE)


@public
def is_accepting(port):
    """Tell whether a server greets at this port.

    The greeting is waited for, because Postfix's master listens long before
    there is an smtpd to answer.
    """
    try:
        with socket.create_connection((HOST, port), timeout=5) as sock:
            return len(sock.recv(1)) == 1
    except OSError:
        return False


@public
def is_listening(port, host=HOST):
    """Tell whether connections to the port are accepted, greeting or not."""
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


@public
def processes_of_group(group):
    """Return the set of ids of the living processes of a process group."""
    found = set()
    for name in os.listdir('/proc'):
        if not name.isdigit():
            continue
        # A process may end while its file is read.
        with contextlib.suppress(OSError):
            with open('/proc/{}/stat'.format(name)) as fp:
                # The name of the command may contain blanks and brackets.
                state, parent, pgrp = fp.read().rpartition(')')[2].split()[:3]
            if int(pgrp) == group and state != 'Z':
                found.add(int(name))
    return found


@public
def end_group(group, deadline=DEADLINE):
    """Terminate a process group, and kill what survives the deadline.

    :param group: The id of the group's leader, which need not live any more.
    :param deadline: How many seconds SIGTERM is given.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, number)
        with contextlib.suppress(TimeoutError):
            # Twice: one that was born while /proc was read may not be there.
            wait_until(lambda: not (processes_of_group(group) or
                                    processes_of_group(group)),
                       'the end of process group {}'.format(group), deadline)
            return


@public
def make_passable(directory):
    """Let other users pass through a temporary directory.

    The servers run as users of their own, and `tempfile` makes directories
    that only the owner may enter.
    """
    os.chmod(directory, 0o755)
