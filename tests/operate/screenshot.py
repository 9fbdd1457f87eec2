# SPDX-License-Identifier: GPL-3.0-or-later
"""Make docs/operate/report.png: `python -m tests.operate.screenshot FILE`.

`pngquant --force --output FILE 64 FILE` makes it a quarter of the size.
"""

import os
import sys
import math
import time

from datetime import timezone
from mailman.core.switchboard import Switchboard
from mailman_mta_pool.demo.population import as_queued
from mailman_mta_pool.monitoring.files import state_directory, write_whole
from mailman_mta_pool.monitoring.overview import overview
from mailman_mta_pool.monitoring.report import report_page
from mailman_mta_pool.monitoring.state import (
    Failures,
    PostState,
    RelayState,
    SliceState,
)
from pathlib import Path
from tempfile import TemporaryDirectory
from tests.operate.browser import Browser
from tests.site import LIST_ID, POST


WIDTH, HEIGHT = 1100, 1500


def made_state(now, entry):
    """Return the state of a slice that has been busy for an hour.

    :param now: The time.
    :param entry: The name of the queue entry in delivery.
    """
    post = PostState(
        entry=entry, message_id='<20261127@example.com>',
        list_name='announce@example.com', total=20000,
        started=now - 43, rate=318.4)
    post.outcomes.update(accepted=13412, refused=6, deferred=2)
    ended = PostState(
        message_id='<CAF3x9@example.net>',
        list_name='members@example.com', total=4812,
        started=now - 1500, ended=now - 1476, failures=[
            Failures('refused', '550 5.1.1 Recipient address rejected: User '
                     'unknown in virtual mailbox table', 9),
            Failures('deferred', '452 4.2.2 The email account that you tried '
                     'to reach is over quota', 3)])
    ended.outcomes.update(accepted=4800, refused=9, deferred=3)
    first = int(now) // 60 * 60 - 59 * 60
    minutes = [
        (first + 60 * number, max(0, round(
            9000 * math.sin(number / 9) ** 4 + 700 * math.sin(number))))
        for number in range(8, 58)] + [(first + 59 * 60, 13412)]
    state = SliceState(
        slice='out-0-of-1', written=now, working=True, last_accepted=now,
        minutes=minutes, posts=[post], last_posts=[ended], relays=[
            RelayState('mail.example.com:587', 'up', connections=8,
                       ceiling=8, in_flight=21)])
    state.counted[entry] = (13412, 6)
    state.recipients.update(accepted=1203456, refused=311, deferred=92)
    return state


def enqueue(var, queue, count):
    """Put a post in a queue.

    :param var: $VAR_DIR.
    :param queue: The name of the queue.
    :param count: How many recipients it has.
    :return: The path of the queue entry.
    """
    directory = Path(var) / 'queue' / queue
    directory.mkdir(parents=True)
    name = Switchboard(queue, str(directory)).enqueue(*as_queued(
        POST, LIST_ID, recipients=[
            f'person-{number}@example.net' for number in range(count)]))
    return directory / f'{name}.pck'


def main(path):
    """Write the picture.

    :param path: The file.
    """
    now = time.time()
    with TemporaryDirectory() as var, Browser() as browser:
        entry, _ = [enqueue(var, queue, count) for queue, count in (
            ('out', 20000), ('retry', 3))]
        # Mailman calls an entry in delivery so.
        entry.rename(entry.with_suffix('.bak'))
        states = state_directory(var)
        os.makedirs(states)
        write_whole(os.path.join(states, 'out-0-of-1.json'),
                    made_state(now, entry.stem).to_json(), 0o600)
        page = Path(var) / 'report.html'
        values = overview(var, os.path.join(var, 'queue'), now)
        page.write_text(report_page(
            values.to_dict(), 'lists.example.com', timezone.utc), 'utf-8')
        browser.show(width=WIDTH, height=HEIGHT)
        browser.open(page.as_uri())
        Path(path).write_bytes(browser.screenshot())


if __name__ == '__main__':
    main(*sys.argv[1:])
