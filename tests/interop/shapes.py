# SPDX-License-Identifier: GPL-3.0-or-later

"""Messages of odd shapes, always the same ones."""

import random

from public import public
from typing import Iterator, List, NamedTuple


COUNT = 500
MEGABYTE = 1024 * 1024
# Pieces that have ended messages early, started commands, or were changed on
# the way, somewhere.
PIECES = (
    b'\r\n', b'\r\n', b'\n', b'\r', b'\r\r\n', b'\n\r', b'\n\n', b'\r\r',
    b'.', b'..', b'...', b'\r\n.', b'\n.', b'\r.', b'\r\n.\r\n', b'\n.\n',
    b'\r.\r', b'\n.\r\n', b'\r\n.\n', b'\r.\r\n', b'\r\n.\r', b'. ', b'.\t',
    b'MAIL FROM:<evil@example.com>\r\n', b'RCPT TO:<evil@example.org>\r\n',
    b'DATA\r\n', b'BDAT 7 LAST\r\n', b'BDAT 0 LAST\r\n', b'RSET\r\n',
    b'QUIT\r\n', b'QUIT\n', b'250 2.0.0 Ok\r\n', b'421 4.3.0 Bye\r\n',
    b'From here\r\n', b'>From there\r\n', b'--boundary\r\n', b'=3D', b'=\r\n',
    b' ', b'\t', b' \r\n', b'\x01', b'\x0b', b'\x0c', b'\x1a', b'\x1b[2J',
    b'\x7f', b'\x80', b'\x85', b'\xa0', b'\xff', b'\xff\xfb', b'\xfe\xff',
    'Ä'.encode('latin-1'), 'Ж'.encode('koi8-r'), 'Ж'.encode(),
    '\u2028'.encode(), '蟻'.encode('euc-jp'), '蟻'.encode('iso-2022-jp'),
    '蟻'.encode('gb18030'), b'ant', b'x' * 998, b'y' * 1000, b'z' * 2049,
    )
# What an attacker puts behind a lone dot that only some servers see.
SMUGGLED = (b'MAIL FROM:<evil@example.com>\r\nRCPT TO:<evil@example.org>\r\n'
            b'DATA\r\nSubject: smuggled\r\n\r\nevil\r\n.\r\nQUIT\r\n')
DOTS = (b'\n.\n', b'\r.\r', b'\n.\r\n', b'\r\n.\n', b'\r\n.\r', b'\r.\r\n',
        b'\r.\n', b'\n.\r', b'\r\n.\r\n', b'\r\r\n.\r\r\n', b'\n\n.\n\n',
        b'\r\n.\r\r\n', b'\r\n\r.\r\n', b'\n\r.\n\r')
TEXTS = (('us-ascii', 'Ants'), ('iso-8859-1', 'Ameisen: äöüß'),
         ('iso-8859-15', 'fourmis à 1 €'), ('windows-1252', '“œuvre” – €'),
         ('koi8-r', 'муравьи'), ('windows-1251', 'муравьи'),
         ('iso-8859-7', 'μυρμήγκια'), ('iso-8859-8', 'נמלים'),
         ('utf-8', 'муравьи, 蟻, نمل, 🐜'), ('euc-jp', '蟻'),
         ('iso-2022-jp', '蟻'), ('shift_jis', '蟻ソ表'), ('gb18030', '蚂蚁'),
         ('big5', '螞蟻功'), ('euc-kr', '개미'), ('utf-16-le', 'ant'))


@public
class Shape(NamedTuple):
    """A message.

    :ivar name: What is odd about it.
    :ivar raw: Its octets, as they are given to `sendmail`.
    """

    name: str
    raw: bytes


def _with_header(body: bytes) -> bytes:
    return b'Subject: An odd shape\r\nX-Ant: yes\r\n\r\n' + body


def _whole() -> Iterator[Shape]:
    """Messages whose headers are odd, or missing."""
    yield Shape('nothing at all', b'')
    for end in (b'\n', b'\r', b'\r\n', b'\r\r\n', b'\n\r', b'\r\n\r\n'):
        yield Shape(f'only {end!r}', end)
    yield Shape('empty body', b'Subject: x\r\n\r\n')
    yield Shape('no body', b'Subject: x\r\n')
    yield Shape('no body and no end of line', b'Subject: x')
    yield Shape('no headers', b'\r\nJust a body.\r\n')
    yield Shape('one line', b'.')
    for dots in range(1, 4):
        yield Shape(f'{dots} dots and no headers', b'\r\n' + b'.' * dots)
        yield Shape(f'{dots} dots first', b'.' * dots + b'\r\n')
    yield Shape('a dot before the colon', b'.x: y\r\n\r\n.x: y\r\n')
    yield Shape('no colon', b'Subject: x\r\nno colon\r\n\r\nx\r\n')
    yield Shape('no headers, no blank line', b'Hello.\r\n\r\nBye.\r\n')
    yield Shape('a blank first', b' Subject: x\r\n\r\nx\r\n')
    yield Shape('a separator first', b'From ant Mon\r\nSubject: x\r\n\r\nx')
    yield Shape('LF only', _with_header(b'a\nb\n').replace(b'\r\n', b'\n'))
    yield Shape('CR only', _with_header(b'a\rb\r').replace(b'\r\n', b'\r'))
    yield Shape('folded header', b'Subject: a\r\n b\r\n\tc\r\n\r\nx\r\n')
    yield Shape('blank in a folded header', b'Subject: a\r\n \r\n b\r\n\r\nx')
    yield Shape('8-bit header', b'Subject: \xe4 \xd0\x96\r\n\r\nx\r\n')
    yield Shape('long header', b'Subject: ' + 10_000 * b'x' + b'\r\n\r\nx\r\n')
    yield Shape('many headers', b''.join(
        b'X-%d: %d\r\n' % (n, n) for n in range(500)) + b'\r\nx\r\n')
    yield Shape('Bcc stays', b'Bcc: bart@example.org\r\n\r\nx\r\n')
    yield Shape('the same header twice', b'To: a@example.com\r\n' * 2 + b'\n')


def _bodies() -> Iterator[Shape]:
    for end in (b'', b'\r', b'\n', b'\r\n', b'\r\r\n', b'.', b'\r\n.',
                b'\n.', b'\r.', b' ', b'\r\n\r\n\r\n'):
        yield Shape(f'ends in {end!r}', _with_header(b'last' + end))
        yield Shape(f'begins with {end!r}', _with_header(end + b'first\r\n'))
    for count in (1, 2, 3, 100):
        yield Shape(f'{count} dots', _with_header(b'.' * count))
        yield Shape(f'{count} lines of a dot', _with_header(b'.\r\n' * count))
        yield Shape(f'{count} lines of two', _with_header(b'..\r\n' * count))
        yield Shape(f'{count} lines that begin with a dot',
                    _with_header(b'.dot\r\n' * count))
    for dot in DOTS:
        yield Shape(f'smuggling by {dot!r}',
                    _with_header(b'harmless' + dot + SMUGGLED))
        yield Shape(f'smuggling by {dot!r} first',
                    _with_header(dot + SMUGGLED))
        yield Shape(f'smuggling by {dot!r} last',
                    _with_header(b'harmless' + dot))


def _long() -> Iterator[Shape]:
    for length in (997, 998, 999, 1000, 1001, 2047, 2048, 2049, 4096, 8192,
                   10_000, 65_536, 262_143, 262_144, 262_145):
        yield Shape(f'a line of {length} octets',
                    _with_header(b'x' * length + b'\r\n.\r\n'))
    yield Shape('dots in a line of 10,000 octets',
                _with_header(b'.' * 10_000))
    yield Shape('10,000 octets with 8 bits', _with_header(b'\xe4' * 10_000))
    yield Shape('5 MB in lines', _with_header(
        b'.' + b'x' * 76 + b'\r\n') + (b'y' * 76 + b'\n') * (
            5 * MEGABYTE // 77))
    yield Shape('5 MB in lines of dots', _with_header(
        b'..\r\n' * (5 * MEGABYTE // 4)))


def _texts() -> Iterator[Shape]:
    for charset, text in TEXTS:
        yield Shape(charset, b''.join((
            b'Subject: x\r\nMIME-Version: 1.0\r\n',
            f'Content-Type: text/plain; charset={charset}\r\n'.encode(),
            b'Content-Transfer-Encoding: 8bit\r\n\r\n',
            text.encode(charset), b'\r\n')))
    every = bytes(range(1, 256))
    yield Shape('every octet but NUL', _with_header(every))
    yield Shape('every octet twice', _with_header(every[::-1] + every))
    yield Shape('NUL', _with_header(b'a\0b\r\n\0\r\n.\0\r\n\0.\r\n'))
    yield Shape('only NUL', _with_header(b'\0'))
    yield Shape('NUL in a header', b'Subject: a\0b\r\n\r\nx\r\n')


def _random(count: int) -> Iterator[Shape]:
    chance = random.Random('odd shapes')
    for number in range(count):
        pieces = chance.choices(PIECES, k=chance.randrange(1, 60))
        yield Shape(f'random {number}', _with_header(b''.join(pieces)))


@public
def shapes() -> List[Shape]:
    """Return the messages, `COUNT` of them."""
    made = [*_whole(), *_bodies(), *_long(), *_texts()]
    return made + list(_random(COUNT - len(made)))
