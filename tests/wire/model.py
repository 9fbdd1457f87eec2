# SPDX-License-Identifier: GPL-3.0-or-later
"""A mail server as a state machine, written from the RFCs.

These are RFC 5321 (SMTP), 1870 (SIZE), 2034 (enhanced codes), 2920
(PIPELINING), 3030 (CHUNKING), 6152 (8BITMIME) and 6531 (SMTPUTF8).  It raises
`Broken` when the client does what it must not, and knows for certain which
messages it has accepted.
"""

import re

from public import public
from tests.wire.framing import Broken, Framing
from typing import NamedTuple, Tuple


@public
class Answer(NamedTuple):
    """One reply."""

    code: int
    lines: Tuple[bytes, ...]

    @property
    def octets(self):
        last = len(self.lines) - 1
        return b''.join(
            b'%d%c%b\r\n' % (self.code, b' -'[number < last], line)
            for number, line in enumerate(self.lines))


@public
class Message(NamedTuple):
    """What the server has taken the responsibility for.

    :ivar number: Which of the MAIL commands began it, from 0.
    """

    number: int
    sender: str
    recipients: Tuple[str, ...]
    content: bytes


# What it may answer, other than that all is well.
LATER = {'MAIL': (450, 451, 452), 'RCPT': (450, 451, 452),
         'DATA': (450, 451), 'BDAT': (451, 452), 'end': (451, 452)}
NEVER = {'MAIL': (550, 552, 553, 555), 'RCPT': (530, 550, 551, 552, 553),
         'DATA': (503, 554), 'BDAT': (502, 503, 550, 554),
         'end': (550, 552, 554)}


@public
class Script:
    """How the server takes each command: one octet says it.

    No octets at all, or only small ones, make it friendly.
    """

    def __init__(self, octets=b''):
        self._octets = iter(octets)

    def mood(self):
        """Return what to do, and a number from 0 to 15 for the details."""
        octet = next(self._octets, 0)
        for limit, mood in ((176, 'yes'), (208, 'later'), (240, 'never'),
                            (248, 'bye')):
            if octet < limit:
                return mood, octet % 16
        return 'gone', octet % 16


_PATH = re.compile(
    # A dot-string or a quoted string, a domain or a literal.
    r'<((?:"(?:[^"\\\r\n]|\\.)*"|[^\s"<>@,()]+)@[^\s<>@,()]+|postmaster|)>')


@public
class Server:
    """Octets in, answers out.

    :ivar accepted: The messages it has taken responsibility for.
    :ivar answers: All the replies that it has given.
    :ivar welcome: The numbers of the MAIL commands after which somebody was
        accepted.
    :ivar closed: Has it closed the connection?  It reads nothing then.
    """

    def __init__(self, offers, script, authenticated=False):
        """Begin after EHLO.

        :param authenticated: Has the client authenticated?
        :param offers: Keywords of extensions, with the parameter or None.
        :param script: How to take the commands.
        """
        self._offers = offers
        self._script = script
        self._authenticated = authenticated
        self._framing = Framing()
        self._number = -1
        self._reset()
        self._reset_needed = False
        self._bdat = None
        self.accepted = []
        self.welcome = set()
        self.answers = []
        self.closed = False

    @property
    def greeting(self):
        """The text of its answer to EHLO, as `smtplib` keeps it."""
        lines = ['model.example.com at your service']
        lines.extend(
            keyword if parameter is None else f'{keyword} {parameter}'
            for keyword, parameter in self._offers.items())
        return '\n'.join(lines).encode()

    def receive(self, octets):
        """Take in what has arrived."""
        self._framing.add(octets)
        while not self.closed:
            item = self._framing.next()
            if item is None:
                return
            if isinstance(item, tuple):
                self._take_content(*item)
            else:
                self._command(item)
            # RFC 2920, section 3.2: it might as well flush the buffer.
            if ('PIPELINING' not in self._offers and self._framing.pending
                    and not self._framing.in_content):
                raise Broken('it does not wait for the reply')

    def hang_up(self):
        """Say 421 unasked and close, as when it is shut down."""
        self._answer(421, b'4.3.2 Shutting down')
        self.closed = True

    def _answer(self, code, *lines, detail=0):
        # Every third reply has several lines, every other enhanced codes.
        lines = lines or (b'Ok',)
        if detail % 2 and code >= 400:
            lines = tuple(b'%d.7.0 ' % (code // 100) + line for line in lines)
        if detail % 3 == 2:
            lines = (*lines, b'', b'and more')
        self.answers.append(Answer(code, lines))

    def _unwilling(self, verb, mood, detail):
        """Answer, unless all is well."""
        if mood == 'yes':
            return False
        if mood in ('bye', 'gone'):
            if mood == 'bye':
                self._answer(421, b'4.3.0 Later', detail=detail)
            self.closed = True
            return True
        codes = (LATER if mood == 'later' else NEVER)[verb]
        self._answer(codes[detail % len(codes)], detail=detail)
        return True

    def _command(self, line):
        verb = line[:4].decode('latin-1')
        if self._reset_needed and verb not in ('RSET', 'EHLO', 'QUIT'):
            raise Broken('RSET is due (RFC 3030, section 4.2)')
        commands = {'MAIL': self._mail, 'RCPT': self._rcpt,
                    'DATA': self._data, 'BDAT': self._begin_chunk,
                    'RSET': self._rset, 'EHLO': self._ehlo,
                    'QUIT': self._quit}
        if verb not in commands:
            raise Broken('not a command: {!r}'.format(line))
        commands[verb](line.decode('utf-8'))

    def _reset(self):
        self._sender = None
        self._recipients = []
        self._parameters = {}

    def _parse(self, line, head):
        if not line.startswith(head):
            raise Broken('bad syntax: {!r}'.format(line))
        match = _PATH.match(line, len(head))
        if match is None:
            raise Broken('not a path: {!r}'.format(line))
        if not match[1].isascii() and 'SMTPUTF8' not in self._offers:
            raise Broken('not ASCII: {!r}'.format(line))
        return match[1], line[match.end():]

    def _mail(self, line):
        if self._sender is not None:
            raise Broken('nested MAIL')
        sender, rest = self._parse(line, 'MAIL FROM:')
        parameters = {}
        for parameter in rest.split(' ')[1:]:
            keyword, _, value = parameter.partition('=')
            parameters[keyword] = value
        self._check_parameters(parameters)
        if not sender.isascii() and 'SMTPUTF8' not in parameters:
            raise Broken('a sender without SMTPUTF8: {!r}'.format(line))
        self._number += 1
        if not self._unwilling('MAIL', *self._script.mood()):
            self._sender, self._parameters = sender, parameters
            self._answer(250)

    def _check_parameters(self, parameters):
        offers = {'SIZE': 'SIZE', 'BODY': '8BITMIME', 'SMTPUTF8': 'SMTPUTF8'}
        for keyword, value in parameters.items():
            if offers.get(keyword) not in self._offers:
                raise Broken('{} was not offered'.format(keyword))
        if parameters.get('BODY', '8BITMIME') != '8BITMIME':
            raise Broken('BODY={}'.format(parameters['BODY']))
        limit = int(self._offers.get('SIZE') or 0)
        if limit and int(parameters.get('SIZE', 0)) > limit:
            raise Broken('over the limit, and sent all the same')

    def _rcpt(self, line):
        recipient, rest = self._parse(line, 'RCPT TO:')
        if rest or not recipient:
            raise Broken('bad RCPT: {!r}'.format(line))
        mood, detail = self._script.mood()
        if self._sender is None and mood in ('yes', 'later'):
            return self._answer(503)
        if not recipient.isascii() and self._sender is not None:
            if 'SMTPUTF8' not in self._parameters:
                raise Broken('MAIL had no SMTPUTF8: {!r}'.format(line))
        if not self._unwilling('RCPT', mood, detail):
            self._recipients.append(recipient)
            self.welcome.add(self._number)
            self._answer(251 if detail == 15 else 250, detail=detail)

    def _data(self, line):
        if line != 'DATA':
            raise Broken('bad DATA: {!r}'.format(line))
        mood, detail = self._script.mood()
        # Without recipients it may refuse, or not (RFC 2920, section 3.1).
        if not self._recipients and (mood == 'later' or detail % 2):
            return self._answer(503 if self._sender is None else 554)
        if not self._unwilling('DATA', mood, detail):
            self._answer(354)
            self._framing.data_follows()

    def _begin_chunk(self, line):
        if 'CHUNKING' not in self._offers:
            raise Broken('CHUNKING was not offered')
        self._bdat = line

    def _rset(self, line):
        if line != 'RSET':
            raise Broken('bad RSET: {!r}'.format(line))
        self._begin_anew(b'Ok')

    def _ehlo(self, line):
        if not re.fullmatch('EHLO [a-z.]+', line):
            raise Broken('bad EHLO: {!r}'.format(line))
        if self._authenticated:
            raise Broken('EHLO would undo AUTH')
        if self._framing.pending:
            raise Broken('EHLO is not the last in its group (RFC 2920)')
        self._begin_anew(*self.greeting.split(b'\n'))

    def _quit(self, line):
        if line != 'QUIT' or self._framing.pending:
            raise Broken('bad QUIT: {!r}'.format(line))
        # RFC 5321, section 4.1.1.10; many close without a word.
        if self._script.mood()[0] != 'gone':
            self._answer(221, b'2.0.0 Bye')
        self.closed = True

    def _begin_anew(self, *lines):
        mood, detail = self._script.mood()
        self._reset()
        self._reset_needed = False
        # RFC 5321, section 4.1.1.5 knows no refusal.
        if mood not in ('bye', 'gone'):
            mood = 'yes'
        if not self._unwilling('RSET', mood, detail):
            self._answer(250, *lines)

    def _take_content(self, content, is_last):
        verb = 'end' if self._bdat is None else 'BDAT'
        self._bdat = None
        if not is_last:
            self._take_chunk()
            return
        self._check_content(content)
        mood, detail = self._script.mood()
        if not self._recipients:
            if content and verb == 'end':
                raise Broken('a content for nobody')
            self._refuse_content(verb, mood, detail)
        else:
            self._decide(verb, mood, detail, content)
        # RFC 5321, section 4.1.1.4: the buffers are cleared.
        self._reset()

    def _take_chunk(self):
        """RFC 3030, section 2: each chunk has a reply of its own."""
        mood, detail = self._script.mood()
        if not self._recipients:
            self._refuse_content('BDAT', mood, detail)
        elif self._unwilling('BDAT', mood, detail):
            self._reset_needed = True
        else:
            self._answer(250, b'2.0.0 1 octet', detail=detail)
            return
        self._reset()

    def _check_content(self, content):
        if not self._recipients:
            return
        parameters = self._parameters
        if int(parameters.get('SIZE', len(content))) != len(content):
            raise Broken('SIZE={} of {}'.format(
                parameters['SIZE'], len(content)))
        if ('8BITMIME' in self._offers and
                content.isascii() == ('BODY' in parameters)):
            raise Broken('BODY is wrong')

    def _refuse_content(self, verb, mood, detail):
        """There is no valid recipient."""
        if mood in ('bye', 'gone'):
            self._unwilling(verb, mood, detail)
        elif verb == 'end' and detail % 2:
            # Some servers are glad to be rid of it.
            self._answer(250, b'2.0.0 Nothing done')
        else:
            self._answer(503 if mood == 'never' else 554)
            self._reset_needed = verb == 'BDAT'

    def _decide(self, verb, mood, detail, content):
        # It may well have been gone only after it took the message.
        if mood == 'yes' or mood == 'gone' and detail % 2:
            self.accepted.append(Message(
                self._number, self._sender, tuple(self._recipients), content))
        if self._unwilling(verb, mood, detail):
            self._reset_needed = verb == 'BDAT'
        else:
            self._answer(
                250, b'2.0.0 Ok: queued as %d' % self._number, detail=detail)
