# SPDX-License-Identifier: GPL-3.0-or-later

"""A progress bar in plain text."""

from __future__ import annotations

import time

from public import public


WIDTH = 40
# Seconds between two states on a terminal, and between two lines elsewhere.
REDRAW_INTERVAL_S = 0.1
LINE_INTERVAL_S = 10


@public
class Progress:
    """Shows how far something is.

    On a terminal one line is drawn over and over; elsewhere a line comes at
    the end and every ten seconds before.

    :param stream: Where to show it.
    :param label: What it is.
    :param total: How much there is to do.
    :param clock: Tells the seconds, as `time.monotonic` does.
    """

    def __init__(self, stream, label, total, clock=time.monotonic):
        self._stream = stream
        self._label = label
        self._total = total
        self._clock = clock
        self._terminal = stream.isatty()
        self._interval = (
            REDRAW_INTERVAL_S if self._terminal else LINE_INTERVAL_S)
        self._started = clock()
        # A terminal shows the empty bar at once.
        self._due = self._started + (0 if self._terminal else LINE_INTERVAL_S)

    def update(self, done):
        """Show it, if it is time to.

        :param done: How much is done, or None when that is not known.
        """
        if self._clock() < self._due:
            return
        self._due = self._clock() + self._interval
        line = self._line(done)
        self._draw(f'\r{line}' if self._terminal else f'{line}\n')

    def finish(self, done):
        """Show the last state and go to the next line."""
        start = '\r' if self._terminal else ''
        self._draw(f'{start}{self._line(done)}\n')

    def _draw(self, text):
        self._stream.write(text)
        self._stream.flush()

    def _line(self, done):
        seconds = self._clock() - self._started
        if done is None:
            return f'{self._label:9} {seconds:7.1f} s'
        filled = WIDTH * min(done, self._total) // max(self._total, 1)
        bar = '#' * filled + '.' * (WIDTH - filled)
        return (f'{self._label:9} [{bar}] {done:,}/{self._total:,}'
                f' {seconds:7.1f} s')
