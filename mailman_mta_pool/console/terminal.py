# SPDX-License-Identifier: GPL-3.0-or-later
"""What a terminal can show: its size, its characters and its colours."""

import os
import time
import click
import unicodedata

from dataclasses import dataclass
from public import public
from typing import Any, Iterator, List, Mapping, NamedTuple, Optional


WIDTH, HEIGHT = 80, 24
# What `click.style` takes for each style that lines have here.
STYLES: Mapping[str, Mapping[str, Any]] = {
    '': {},
    'heading': {'bold': True},
    'good': {'fg': 'green'},
    'warning': {'fg': 'yellow', 'bold': True},
    'bad': {'fg': 'red', 'bold': True},
    }


@public
class Line(NamedTuple):
    """One line of text, with its style.

    :ivar text: The text, which is `harmless`.
    :ivar style: One of `STYLES`.
    """

    text: str
    style: str = ''


@public
@dataclass(frozen=True)
class Terminal:
    """A terminal, or a file or a pipe in its place.

    :ivar width: In columns.
    :ivar height: In lines.
    :ivar is_terminal: False for a file or a pipe.
    :ivar is_unicode: False if it may show ASCII only.
    :ivar has_colours: False if it gets text only.
    """

    width: int = WIDTH
    height: int = HEIGHT
    is_terminal: bool = False
    is_unicode: bool = False
    has_colours: bool = False

    def harmless(self, text: str) -> str:
        """Return text of others on one line, without any control character.

        Controls, invisible characters and those that change the direction of
        the text become spaces.

        :param text: Such as the words of a server, or the name of a list.
        """
        text = ''.join(c if c.isprintable() else ' ' for c in text)
        if not self.is_unicode:
            text = text.encode('ascii', 'backslashreplace').decode('ascii')
        return text

    def styled(self, line: Line) -> str:
        """Return the text of a line, coloured where that can be shown."""
        if not self.has_colours or not STYLES[line.style]:
            return line.text
        return click.style(line.text, **STYLES[line.style])

    def bar(self, part: float, width: int) -> str:
        """Return a progress bar.

        :param part: How much is done, from 0 to 1.
        :param width: Its width in columns, with its ends.
        """
        inner = max(0, width - 2)
        done = int(min(1.0, max(0.0, part)) * inner)
        full, empty = ('█', '░') if self.is_unicode else ('#', '.')
        return f'[{full * done}{empty * (inner - done)}]'

    def wrapped(self, text: str, indent: int = 0,
                hanging: Optional[int] = None) -> Iterator[str]:
        """Yield the lines of a text that is too wide for one.

        Only a terminal has its lines divided, since programs look for words
        in what they read from a pipe.

        :param text: Words, between which lines are divided.
        :param indent: Of the first line, in columns.
        :param hanging: Of the others; by default two more.
        """
        hanging = indent + 2 if hanging is None else hanging
        line, used = ' ' * indent, indent
        is_empty = True
        for word in text.split(' '):
            space = 0 if is_empty else 1
            wide = columns(word)
            if (self.is_terminal and not is_empty and
                    used + space + wide > self.width):
                yield line
                line, used, space = ' ' * hanging, hanging, 0
            line += ' ' * space + word
            used += space + wide
            is_empty = False
        yield line

    def fitted(self, lines: List[Line]) -> List[Line]:
        """Return lines of which none is wider than the terminal, or below it.

        :param lines: The lines of a screen.
        """
        fitted = [line._replace(text=cut(line.text, self.width))
                  for line in lines]
        if len(fitted) > self.height:
            more = len(fitted) - self.height + 1
            fitted[self.height - 1:] = [
                Line(cut(f'({more} lines more)', self.width))]
        return fitted


@public
def terminal_of(stream: Any, environment: Mapping[str, str]) -> Terminal:
    """Return what a stream can show.

    :param stream: Such as `sys.stdout`; None if it is closed.
    :param environment: Such as `os.environ`; see https://no-color.org for
        NO_COLOR.
    """
    is_terminal = stream is not None and stream.isatty()
    width, height = _size(stream, environment, is_terminal)
    return Terminal(
        width=width, height=height, is_terminal=is_terminal,
        is_unicode=_is_unicode(stream, environment),
        has_colours=(
            is_terminal and not environment.get('NO_COLOR') and
            environment.get('TERM', 'dumb') != 'dumb'))


def _size(stream: Any, environment: Mapping[str, str],
          is_terminal: bool) -> List[int]:
    """Return width and height; a terminal that has none gets the usual."""
    size = [0, 0]
    if is_terminal:
        try:
            size = list(os.get_terminal_size(stream.fileno()))
        except (OSError, ValueError):
            pass
    for index, name, usual in (0, 'COLUMNS', WIDTH), (1, 'LINES', HEIGHT):
        if size[index] <= 0:
            given = environment.get(name, '')
            size[index] = (int(given) if given.isdecimal() else 0) or usual
    return size


def _is_unicode(stream: Any, environment: Mapping[str, str]) -> bool:
    """True if the stream and the locale are in UTF-8.

    In the C locale Python writes UTF-8 all the same (PEP 538, PEP 540), and
    sets LC_CTYPE to C.UTF-8, but nobody has said that the terminal shows it.
    """
    encoding = (getattr(stream, 'encoding', None) or '').lower()
    if encoding.replace('-', '') != 'utf8':
        return False
    named = environment.get('LC_ALL', '')
    if not named:
        named = environment.get('LC_CTYPE', '')
        if named in ('', 'C.UTF-8'):
            named = environment.get('LANG', '')
    return named.lower().replace('-', '').partition('@')[0].endswith('utf8')


@public
def columns(text: str) -> int:
    """Return how many columns a text takes on a terminal.

    :param text: A text that is `harmless`.
    """
    if text.isascii():
        return len(text)
    return sum(_columns(c) for c in text)


def _columns(character: str) -> int:
    if unicodedata.category(character) in ('Mn', 'Me'):
        return 0
    return 2 if unicodedata.east_asian_width(character) in 'WF' else 1


@public
def cut(text: str, width: int) -> str:
    """Return the beginning of a text that fits into so many columns."""
    if columns(text) <= width:
        return text
    kept, used = [], 0
    for character in text:
        used += _columns(character)
        if used > width:
            break
        kept.append(character)
    return ''.join(kept)


@public
def padded(text: str, width: int) -> str:
    """Return a text with as many spaces as fill so many columns."""
    return text + ' ' * (width - columns(text))


@public
def clock(moment: float, now: float) -> str:
    """Return a time of today, or a time with its date, of the local zone.

    :param moment: Seconds since 1970.
    :param now: The current time, likewise.
    """
    then = time.localtime(moment)
    if then[:3] == time.localtime(now)[:3]:
        return time.strftime('%H:%M:%S', then)
    return time.strftime('%Y-%m-%d %H:%M', then)
