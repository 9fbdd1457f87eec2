# SPDX-License-Identifier: GPL-3.0-or-later

"""What Postfix's log tells about the messages that it took."""

import re

from collections import Counter
from public import public


FROM = re.compile(
    r'postfix/qmgr\[\d+\]: (\w+): from=<(.*)>, size=\d+, nrcpt=\d+')
TO = re.compile(
    r'postfix/\w+\[\d+\]: (\w+): to=<(.*?)>, .*status=(\w+) \(')


@public
class MailLog:
    """The lines of a log.

    :param text: The log as a str.
    """

    def __init__(self, text):
        self.text = text

    def __str__(self):
        return self.text

    def __contains__(self, text):
        return text in self.text

    def delivered(self):
        """Return a Counter: how often a message was sent to each recipient."""
        return Counter(recipient
                       for queue_id, recipient, status
                       in TO.findall(self.text)
                       if status == 'sent')

    def received(self):
        """Return a list of (sender, recipients), one for each message.

        The recipients are a list, in the order of the log.  A message whose
        delivery was deferred and tried again stands there once, and a
        recipient only when the message was sent.
        """
        messages = {}
        for queue_id, sender in FROM.findall(self.text):
            messages.setdefault(queue_id, (sender, []))
        for queue_id, recipient, status in TO.findall(self.text):
            if status == 'sent' and queue_id in messages:
                messages[queue_id][1].append(recipient)
        return list(messages.values())

    def senders(self):
        """Return a dictionary of each recipient's envelope senders, sorted.

        Where the server makes VERP senders itself (XVERP) this is the sender
        that the client gave; a recorder behind the server sees the others.
        """
        senders = {}
        for sender, recipients in self.received():
            for recipient in recipients:
                senders.setdefault(recipient, []).append(sender)
        return {recipient: sorted(found)
                for recipient, found in senders.items()}
