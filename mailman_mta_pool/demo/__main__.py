# SPDX-License-Identifier: GPL-3.0-or-later

"""Stock Mailman and the pool side by side: `tox -e demo`."""

from __future__ import annotations

import sys
import signal

from importlib import import_module


class Interrupted(KeyboardInterrupt):
    """A signal to stop; its argument is the number."""


def _handle_signals(handler):
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Under nohup, it is to go on when the terminal closes.
        if (signum, signal.getsignal(signum)) != (
                signal.SIGHUP, signal.SIG_IGN):
            signal.signal(signum, handler)


def _interrupt(signum, frame):
    # Cleaning up takes a moment, in which nothing should get in the way.
    _handle_signals(signal.SIG_IGN)
    raise Interrupted(signum)


def main():
    """Run the demo.

    :return: The exit status: the command's, or 128 and the number of the
        signal that ended it.
    """
    _handle_signals(_interrupt)
    try:
        # Importing Mailman takes a second, in which Ctrl-C shall work too.
        return import_module('mailman_mta_pool.demo.command').run()
    except Interrupted as error:
        print('\ninterrupted', file=sys.stderr)
        return 128 + error.args[0]


if __name__ == '__main__':
    sys.exit(main())
