# SPDX-License-Identifier: GPL-3.0-or-later
"""HTML and SVG as a tree of elements, which escapes whatever it is given.

There is no way to put markup into the tree as text.
"""

import unicodedata

from html import escape
from public import public
from typing import Dict, Iterator, Tuple, Union


# HTML gives these no end tag.
VOID = frozenset({'link', 'meta'})
# What they hold is taken by a browser as it stands, up to the end tag.
RAW = frozenset({'style'})
# A line of the file ends after each of these.
BLOCKS = frozenset({
    'body', 'caption', 'div', 'footer', 'h1', 'h2', 'head', 'header', 'html',
    'li', 'link', 'main', 'meta', 'nav', 'p', 'section', 'style', 'table',
    'tbody', 'thead', 'title', 'tr', 'ul',
    })
# These change the order in which a browser shows the characters around them.
BIDI_CONTROLS = frozenset(
    '\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068'
    '\u2069')
# Controls, surrogates, and the separators of lines and paragraphs.
UNPRINTABLE = frozenset({'Cc', 'Cs', 'Zl', 'Zp'})

Child = Union['Element', str]


@public
def visible(text: str) -> str:
    r"""Return a text in which what has no shape of its own is written out.

    Control characters, which HTML does not allow, lone surrogates, which
    UTF-8 does not, and what changes the direction of the text become '\x1b'
    or '\u202e'.

    :param text: Any text.
    """
    if text.isascii() and text.isprintable():
        return text
    return ''.join(map(_visible, text))


def _visible(character: str) -> str:
    if (character not in BIDI_CONTROLS and
            unicodedata.category(character) not in UNPRINTABLE):
        return character
    code = ord(character)
    return f'\\x{code:02x}' if code < 0x100 else f'\\u{code:04x}'


@public
class Element:
    """An element of HTML or SVG."""

    def __init__(self, name: str, /, *children: Child,
                 **attributes: Union[str, int, float]) -> None:
        """Make it.

        :param name: The name of the element.
        :param children: Elements, and texts, which are escaped.
        :param attributes: The attributes; '_' in a name stands for '-', and
            one at the end for nothing.
        """
        self.name = name
        self.children: Tuple[Child, ...] = children
        self.attributes: Dict[str, str] = {
            key.rstrip('_').replace('_', '-'): str(value)
            for key, value in attributes.items()}

    def __repr__(self) -> str:
        return f'<Element {self.name} of {len(self.children)}>'

    def __str__(self) -> str:
        return ''.join(self.parts())

    def parts(self) -> Iterator[str]:
        """Yield the markup, piece by piece."""
        attributes = ''.join(
            f' {key}="{escape(visible(value))}"'
            for key, value in self.attributes.items())
        yield f'<{self.name}{attributes}>'
        for child in self.children:
            if isinstance(child, Element):
                yield from child.parts()
            elif self.name in RAW:
                if '</' in child:
                    raise ValueError(f'an end tag in <{self.name}>')
                yield child
            else:
                yield escape(visible(child), quote=False)
        if self.name not in VOID:
            yield f'</{self.name}>'
        if self.name in BLOCKS:
            yield '\n'
