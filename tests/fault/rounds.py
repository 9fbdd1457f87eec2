# SPDX-License-Identifier: GPL-3.0-or-later
"""Post after post through one site, each disturbed at an instant of its own.

The instants are counted in commands that the server has got, not in seconds:
they are spread over the whole post on a fast machine and on a slow one.
"""

import os
import re
import random

from collections import Counter
from public import public
from tests.site import POST
from tests.site_case import SiteTestCase


NUMBER = re.compile(rb'^Subject: Post number (\d+)', re.MULTILINE)
# Of the commands that a message takes: MAIL, RCPT, DATA and the dot.
BY_DATA = 4
# MAIL, RCPT and BDAT.
BY_BDAT = 3
public(BY_BDAT=BY_BDAT, BY_DATA=BY_DATA)


@public
def numbered(number):
    """A post that can be told from others."""
    return POST.replace(b'A post', b'Post number %d' % number).replace(
        b'<post@', b'<post-%d@' % number)


@public
class RoundsTestCase(SiteTestCase):
    """Rounds of posts, and accounts of each of them."""

    def setUp(self):
        super().setUp()
        # So that a failure can be had again.
        seed = int(os.environ.get('MM_FAULT_SEED', random.getrandbits(32)))
        print(f'\nMM_FAULT_SEED={seed}')
        self.chance = random.Random(seed)

    def rounds(self, site, server, disturb, times, each=BY_DATA):
        """Post, disturb in the middle, and let the next runner finish it.

        :param site: The site; all its members get all posts.
        :param server: A `Scripted` server.
        :param disturb: Called with the runner and the number of the round;
            when it returns, the runner has ended.
        :param times: How many rounds.
        :param each: How many commands a member takes.
        :return: For each round, how often each member got the post.
        """
        copies = []
        for number in range(times):
            runner = site.start_runner()
            site.wait_until_empty()
            copies.extend(self.copies(server, site, [number - 1])[:number])
            begin = len(server.commands)
            instant = self.chance.randrange(1, each * len(site.members))
            site.post(numbered(number), verp=True)
            server.wait_for(
                lambda server: len(server.commands) >= begin + instant)
            disturb(runner, number)
            self.assertFalse(runner.running)
            self.assertLessEqual(set(site.waiting()), {'out'}, (
                f'round {number}, disturbed after {instant} commands',
                site.logs()))
        site.run()
        copies.extend(self.copies(server, site, [times - 1]))
        return copies

    def copies(self, server, site, numbers):
        """Count, for each of these posts, how often each member got it."""
        found = {number: Counter() for number in numbers}
        for message in list(server.accepted):
            number = int(NUMBER.search(message.content)[1])
            if number in found:
                found[number].update(message.recipients)
        return list(found.values())

    def assertNobodyMissed(self, site, copies):
        """Each member got each post, and nobody else did."""
        for number, times in enumerate(copies):
            self.assertEqual(sorted(times), sorted(site.members),
                             f'post number {number}')
        self.assertEqual(site.waiting(), {})
        self.assertEqual(site.bounced(), [])
        self.assertQuiet(site)


@public
def extra(times):
    """How many copies were too many."""
    return sum(times.values()) - len(times)
