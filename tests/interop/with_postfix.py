# SPDX-License-Identifier: GPL-3.0-or-later

"""A real Postfix, which hands on what it took to a server that keeps it."""

import re
import unittest

from contextlib import ExitStack
from mailman.testing.layers import ConfigLayer
from mailman_mta_pool.wire.content import Content
from mailman_mta_pool.wire.transaction import Fate, Transaction
from tests.interop.conformance import CODES, Conformance, REFUSED
from tests.interop.sending import (
    arrived,
    dispatch,
    fates,
    header_end,
    senders,
    WAYS,
    with_separator,
    without_first_field,
)
from tests.servers.postfix import available, Postfix
from tests.servers.recorder import Recorder


REFUSE = 'check_recipient_access inline:{{ {} }}'.format(', '.join(
    f'{{ {domain} = {code} No mail for you }}'
    for domain, code in CODES.items()))
CLIENT = re.compile(r'smtpd\[\d+\]: (\w+): client=')
FROM = re.compile(r'qmgr\[\d+\]: (\w+): from=<(.*?)>')
COUNT = re.compile(r'smtpd\[\d+\]: disconnect from .*?(?= commands=)')
SEPARATOR = re.compile(rb'>*From ')
# A field up to its end, from a NUL in it.
FROM_NUL = re.compile(rb'\0(?:[^\r\n]|\r\n[ \t])*')


def kept(content, way):
    """Return what Postfix makes of a content, below its own Received.

    A field ends at a NUL, and an empty line is put where the header ends
    without one.  With DATA it takes the separator line of a mailbox for what
    it is, and does not let a first line that begins with a blank continue its
    own field.  With BDAT it does.
    """
    if way != 'BDAT':
        if SEPARATOR.match(content):
            content = b'X-Mailbox-Line: ' + content
        elif content.startswith((b' ', b'\t')):
            content = b'\r\n' + content
    content = with_separator(content, follows_a_field=True)
    end = header_end(content, follows_a_field=True)
    return FROM_NUL.sub(b'', content[:end]) + content[end:]


@unittest.skipIf(available(), available())
class TestPostfix(Conformance, unittest.TestCase):
    """By BDAT, by DATA, and without pipelining."""

    def setUp(self):
        resources = ExitStack()
        self.addCleanup(resources.close)
        self.recorder = resources.enter_context(Recorder())
        self.server = resources.enter_context(Postfix(
            relay_to=self.recorder.address,
            enable_long_queue_ids='yes',
            smtpd_error_sleep_time=0,
            smtpd_recipient_restrictions=REFUSE))

    kept = staticmethod(kept)

    def arrivals(self):
        self.server.wait_until_delivered()
        return [arrived(sender, recipients, without_first_field(content))
                for sender, recipients, content in self.recorder.messages()]

    def accepted(self):
        log = self.server.wait_until_delivered().text
        sender = dict(FROM.findall(log))
        return [(queue_id, sender[queue_id])
                for queue_id in CLIENT.findall(log) if queue_id in sender]

    def queue_id(self, text):
        return text.rpartition(b'queued as ')[2].decode()

    def used(self):
        log = self.server.wait_until_delivered().text
        return {verb: sum(
            f' {verb.lower()}=' in line for line in COUNT.findall(log))
            for verb in ('BDAT', 'DATA')}


@unittest.skipIf(available(), available())
class TestImpatientPostfix(unittest.TestCase):
    """It hangs up on whoever asks for too many dead addresses."""

    layer = ConfigLayer

    def test_too_many_errors(self):
        # After twenty of them without a delivery it says 421.
        dead = [f'dead-{number}@{REFUSED}' for number in range(50)]
        living = [f'living-{number}@example.org' for number in range(10)]
        for way, wire in WAYS.items():
            with self.subTest(way=way), Postfix(
                    smtpd_error_sleep_time=0,
                    smtpd_recipient_restrictions=REFUSE) as server:
                sender = senders()
                found = fates(dispatch(server, [Transaction(
                    sender(0), tuple(dead + living),
                    Content(b'Subject: x\r\n\r\nx'))], wire))
                # Each has one fate, and whoever was not served is known.
                self.assertEqual(
                    sorted(sum(found.values(), [])), sorted(dead + living))
                self.assertEqual(
                    sorted(found[Fate.accepted]),
                    sorted(server.delivered().elements()))
                self.assertLessEqual(set(found[Fate.refused]), set(dead))
                self.assertEqual(sorted(found[Fate.accepted]), living)
