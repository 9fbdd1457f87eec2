# SPDX-License-Identifier: GPL-3.0-or-later

"""A real Exim, which writes what it took into files."""

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
from tests.servers.exim import available, Exim


ACCEPTED = re.compile(r'^\S+ \S+ (\S+) <= (\S*) .* P=(\S+)( K)? ', re.M)
VERBS = {'5': 'deny', '4': 'defer'}
RULES = '\n'.join(
    f'  {VERBS[str(code)[0]]}\n    domains = {domain}\n'
    f'    message = {code} <$local_part@$domain>: no mail for you'
    for domain, code in CODES.items())


@unittest.skipIf(available(), available())
class TestExim(Conformance, unittest.TestCase):
    """By BDAT, by DATA, and without pipelining."""

    def setUp(self):
        resources = ExitStack()
        self.addCleanup(resources.close)
        self.server = resources.enter_context(Exim(rules=RULES))

    def kept(self, content, way):
        """See `Conformance`.

        An empty line is put where the header ends without one, even at the
        end of the message, and a NUL in the header becomes a question mark.
        """
        content = with_separator(content)
        end = header_end(content)
        if end == len(content):
            content += b'\r\n'
        return content[:end].replace(b'\0', b'?') + content[end:]

    def arrivals(self):
        return [arrived(sender, recipients, without_first_field(content))
                for sender, recipients, content in self.server.messages()]

    def accepted(self):
        return [(queue_id, sender) for queue_id, sender, _, _
                in ACCEPTED.findall(self.server.log())]

    def queue_id(self, text):
        return text.rpartition(b'id=')[2].decode()

    def used(self):
        found = ACCEPTED.findall(self.server.log())
        bdat = sum(bool(chunking) for *_, chunking in found)
        return {'BDAT': bdat, 'DATA': len(found) - bdat}


@unittest.skipIf(available(), available())
class TestImpatientExim(unittest.TestCase):
    """By default it hangs up after ten RSETs without a message."""

    layer = ConfigLayer

    def test_too_many_resets(self):
        for way, wire in WAYS.items():
            with self.subTest(way=way), Exim(
                    patient=False, rules=RULES) as server:
                sender = senders()
                recipients = [
                    f'ant-{number}@' + (
                        'example.org' if number % 20 == 0 else REFUSED)
                    for number in range(200)]
                found = fates(dispatch(server, [
                    Transaction(sender(number), (recipient,),
                                Content(b'Subject: x\r\n\r\nx'))
                    for number, recipient in enumerate(recipients)], wire))
                self.assertEqual(
                    sorted(sum(found.values(), [])), sorted(recipients))
                self.assertEqual(
                    sorted(found[Fate.accepted]),
                    sorted(recipient for message in server.messages()
                           for recipient in message.recipients))
                # Behind its last word it has read nothing, so that the
                # others can go again, at once.
                self.assertEqual(found[Fate.in_doubt], [])
                self.assertEqual(len(found[Fate.accepted]), 10)
