# SPDX-License-Identifier: GPL-3.0-or-later
"""Queue ids: what a server calls the message that it has accepted.

RFC 5321 leaves the words to the server.  The form of the reply also says
which server it is, and so how the search goes on in the server's log.
"""

import re

from public import public
from typing import NamedTuple, Optional, Pattern, Tuple


@public
class ReplyForm(NamedTuple):
    """How a kind of server answers to the end of the content.

    :ivar server: Its name.
    :ivar pattern: Searched in the text of the reply; the group is the id.
    :ivar search: The commands that continue the search, with {} for the id;
        empty where there is no log to search.
    """

    server: str
    pattern: Pattern[str]
    search: Tuple[str, ...] = ()


# What may be in an id: a server's words end up in a command that somebody is
# going to paste.
_ID = r'([0-9A-Za-z][0-9A-Za-z._:=@+-]*)'
_SYSLOG = ('grep {} /var/log/mail.log',)
#: The first one that is found counts.
REPLY_FORMS = (
    # Exchange names the Message-ID as well: "2.6.0 <post@example.com>
    # [InternalId=3, Hostname=mail.example.com] Queued mail for delivery".
    ReplyForm('Exchange', re.compile(r'\[InternalId=(\d+)'),
              ('Get-MessageTrackingLog -InternalMessageId {}',)),
    # With a content filter the words are those of the server after it.
    ReplyForm('Postfix', re.compile(rf'queued as <?{_ID}', re.IGNORECASE),
              ("journalctl -u 'postfix*' -g {}", *_SYSLOG)),
    ReplyForm('Exim', re.compile(rf'^OK id={_ID}'),
              ('exigrep {} /var/log/exim4/mainlog',)),
    ReplyForm('Gmail', re.compile(rf'{_ID} - gsmtp\s*$')),
    # OpenSMTPD has eight digits, and Sendmail fourteen characters.
    ReplyForm('OpenSMTPD', re.compile(
        r'\b([0-9a-f]{8}) Message accepted for delivery'),
        ('journalctl -t smtpd -g {}', *_SYSLOG)),
    ReplyForm('Sendmail', re.compile(
        rf'{_ID} Message accepted for delivery'), _SYSLOG),
    ReplyForm('qmail', re.compile(r'^ok \d+ qp (\d+)'),
              ("grep 'qp {}' /var/log/qmail/current",)),
    ReplyForm('Haraka', re.compile(rf'Message Queued \({_ID}\)'),
              ('grep {} /var/log/haraka.log',)),
    ReplyForm('Stalwart', re.compile(rf'queued with id {_ID}')),
    ReplyForm('Courier', re.compile(r'^Ok\. ([0-9A-Fa-f.]{16,})'), _SYSLOG),
    ReplyForm('KumoMTA', re.compile(r'^OK ids=([0-9a-f]+)')),
    ReplyForm('Amazon SES', re.compile(
        r'^Ok ([0-9a-f]{16}-[0-9a-f]{8}-[0-9a-f-]+)')),
    )
public(REPLY_FORMS=REPLY_FORMS)
# The code and the enhanced code (RFC 3463) before the words.
CODES = re.compile(r'\d{3}(?:[ -]+[245]\.\d{1,3}\.\d{1,3})?(?:[ -]+|$)')


@public
class QueueId(NamedTuple):
    """A queue id, and the kind of server that it is from.

    :ivar text: The id.
    :ivar form: The form of the reply.
    """

    text: str
    form: ReplyForm

    @property
    def search(self) -> Tuple[str, ...]:
        """The commands that find it in the log of the server."""
        return tuple(command.format(self.text)
                     for command in self.form.search)


@public
def queue_id_of(reply: str) -> Optional[QueueId]:
    """Return the queue id in a reply to the end of the content.

    :param reply: Code and text.
    :return: None if there is none, or none of a form that we know.
    """
    code = CODES.match(reply)
    text = reply[code.end():] if code is not None else reply
    for form in REPLY_FORMS:
        found = form.pattern.search(text)
        if found is not None:
            return QueueId(found[1].rstrip('.'), form)
    return None
