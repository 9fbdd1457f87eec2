# SPDX-License-Identifier: GPL-3.0-or-later

"""The envelope senders of VERP, as Mailman makes them."""

import unittest

from mailman_mta_pool.rendering.senders import COMPARED_SENDERS, Senders


SIMPLE = [f'm{number}@example.org' for number in range(5)]


def divided(parts):
    """Make what stands for Mailman's `_get_sender`.

    :param parts: Divides an address into local part and domain.
    """
    def sender_for(recipient):
        asked.append(recipient)
        local, at, domain = parts(recipient)
        return f'ant-bounces+{local}={domain}@example.com'
    asked = []
    return sender_for, asked


class TestSenders(unittest.TestCase):
    def test_two_at_signs(self):
        # Mailman 3.3.8 divides at the first of them, 3.3.10 at the last.
        for parts in (lambda recipient: recipient.partition('@'),
                      lambda recipient: recipient.rpartition('@')):
            mailmans, _ = divided(parts)
            senders = Senders(mailmans)
            for recipient in (
                    *SIMPLE, 'two@at@example.org', '"two@at"@example.org',
                    '@example.org', '@@example.org', 'two@at@'):
                with self.subTest(recipient=recipient):
                    self.assertEqual(
                        senders.sender(recipient), mailmans(recipient))

    def test_the_others_are_made_from_one(self):
        mailmans, asked = divided(lambda recipient: recipient.rpartition('@'))
        senders = Senders(mailmans)
        for recipient in SIMPLE:
            senders.sender(recipient)
        # One with marks, and those who are compared.
        self.assertEqual(asked[1:], SIMPLE[:COMPARED_SENDERS])
