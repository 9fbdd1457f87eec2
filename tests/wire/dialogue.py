# SPDX-License-Identifier: GPL-3.0-or-later
"""A conversation in which the test says what the server does."""

from mailman_mta_pool.wire.capabilities import Capabilities
from mailman_mta_pool.wire.content import Content
from mailman_mta_pool.wire.conversation import Conversation
from mailman_mta_pool.wire.lessons import Chunking, Lessons, Pipelining
from mailman_mta_pool.wire.transaction import Transaction
from public import public


#: How the content of `transaction` is sent.
HI = 'Hi\r\n.\r\n'
BDAT = 'BDAT 4 LAST\r\nHi\r\n'
#: The same, where CHUNKING is tried.
TRIAL = 'BDAT 1\r\nH'
REST = 'BDAT 3 LAST\r\ni\r\n'
OK = '250 Ok\r\n'
GO = '354 Go\r\n'
LATER = '450 4.2.1 Full\r\n'
NO = '550 5.1.1 No\r\n'
#: How the client makes sure that it is in step, and what it is told.
HELLO = 'EHLO localhost\r\n'
OFFER = '250-example.net\r\n250 PIPELINING\r\n'
#: Where it cannot say that.
QUIT = 'QUIT\r\n'
BYE = '221 2.0.0 Bye\r\n'
public(BDAT=BDAT, BYE=BYE, GO=GO, HELLO=HELLO, HI=HI, LATER=LATER, NO=NO,
       OFFER=OFFER, OK=OK, QUIT=QUIT, REST=REST, TRIAL=TRIAL)


@public
def transaction(name, *recipients, text='Hi'):
    """Make a transaction; `@example.com` is added to the names."""
    return Transaction(
        f'{name}@example.com',
        tuple(f'{recipient}@example.com' for recipient in recipients or 'x'),
        Content(text.encode()))


@public
def envelope(name, *recipients):
    """Return the beginning of what `transaction` makes, as it is sent."""
    return f'MAIL FROM:<{name}@example.com>\r\n' + ''.join(
        f'RCPT TO:<{recipient}@example.com>\r\n'
        for recipient in recipients or 'x')


@public
def lessons_with(clock, chunking=Chunking.untried,
                 pipelining=Pipelining.untried):
    """Make lessons that are known beforehand."""
    lessons = Lessons(clock)
    if chunking is Chunking.on_trial:
        lessons.claim_trial()
    else:
        lessons.learn_chunking(chunking)
    lessons.learn_pipelining(pipelining)
    return lessons


@public
class Dialogue:
    """One conversation over one connection.

    :ivar conversation: The engine.
    :ivar lessons: What it has learnt.
    :ivar now: What its clock says.
    :ivar looks: How often it has looked at the clock.
    """

    def __init__(self, *keywords, known=Chunking.untried, lessons=None,
                 pipelining_known=Pipelining.untried, **how):
        """Begin after EHLO.

        :param keywords: What the server offers.
        :param known: What is known of its CHUNKING.
        :param pipelining_known: What is known of its PIPELINING.
        :param how: See `Conversation`.
        """
        self.now = 0.0
        self.looks = 0
        self.lessons = lessons or lessons_with(
            self.clock, known, pipelining_known)
        self.conversation = Conversation(
            Capabilities([(keyword, ()) for keyword in keywords]),
            self.lessons, self.clock, **how)

    def clock(self):
        self.looks += 1
        return self.now

    def submit(self, *transactions):
        """Submit them all, and return what is sent then."""
        for each in transactions:
            self.conversation.submit(each)
        return self.sent()

    def sent(self, most=10 ** 9):
        """Hand what is to be sent to the kernel, and return it.

        :param most: How many octets the kernel takes.
        """
        parts = []
        while most and self.conversation.unsent:
            octets = bytes(self.conversation.bytes_to_send()[:most])
            self.conversation.sent(len(octets))
            parts.append(octets)
            most -= len(octets)
        return b''.join(parts).decode()

    def hear(self, *replies):
        """Let the server answer, and return what is sent then."""
        sent = ''
        for reply in replies:
            self.conversation.receive(reply.encode())
            sent += self.sent()
        return sent

    def told(self):
        """Return what has become of each recipient so far."""
        return [
            [(result.fate, result.stage, str(result.reply or ''))
             for result in outcome.results]
            for outcome in self.conversation.outcomes()]

    def fates(self):
        """Return what has become of each, by name only."""
        return [[fate.name for fate, _, _ in results]
                for results in self.told()]

    def lose(self, silent=False):
        """Lose the connection, and return `fates`."""
        self.conversation.lose(silent)
        return self.fates()
