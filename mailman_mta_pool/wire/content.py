# SPDX-License-Identifier: GPL-3.0-or-later
"""The content of a message, in the two forms in which it is sent."""

import io
import copy

from email.generator import BytesGenerator
from email.message import Message
from mailman_mta_pool.wire.boundaries import Boundaries
from public import public
from typing import Optional, Tuple, Union


def canonical(raw: bytes) -> bytes:
    """Turn any mixture of CRLF, LF and CR into CRLF."""
    return raw.replace(b'\r\n', b'\n').replace(b'\r', b'\n').replace(
        b'\n', b'\r\n')


def stuff(octets: bytes, at_line_start: bool = True) -> bytes:
    """Double the dots at the starts of lines (RFC 5321, section 4.5.2).

    :param octets: A canonical text, or a piece of one.
    :param at_line_start: True if the piece begins at the start of a line.
    """
    # The CR may be the last octet of the piece before.
    octets = octets.replace(b'\n.', b'\n..')
    if at_line_start and octets.startswith(b'.'):
        octets = b'.' + octets
    return octets


public(canonical=canonical, stuff=stuff)


@public
class Content:
    """A message's octets: lines that end in CRLF, the last one too.

    Any mixture of CRLF, LF and CR becomes CRLF (RFC 5321, section 2.3.8: a
    bare CR or LF must not be sent), so that no content can end the data early
    or start a command, however the server takes bare ones.  Otherwise it is
    byte-faithful.  That is what `smtplib.SMTP.data` does, too.

    :ivar pieces: The canonical form, as BDAT sends it (RFC 3030).
    :ivar size: The message size in octets, as SIZE counts it (RFC 1870).
    :ivar eight_bit: True if any octet is over 127.
    """

    __slots__ = '_stuffed', 'eight_bit', 'pieces', 'size'

    def __init__(self, raw: bytes) -> None:
        """Make the canonical form.

        :param raw: The message as bytes with line endings of any kind.
        """
        octets = canonical(raw)
        if not octets.endswith(b'\n'):
            octets += b'\r\n'
        self.pieces: Tuple[bytes, ...] = (octets,)
        self.size = len(octets)
        self.eight_bit = not octets.isascii()
        self._stuffed: Optional[Tuple[bytes, ...]] = None

    @property
    def octets(self) -> bytes:
        """The canonical form in one piece."""
        return b''.join(self.pieces)

    @property
    def stuffed(self) -> Tuple[bytes, ...]:
        """The form for DATA, transparent, and ended by the lone dot."""
        if self._stuffed is None:
            self._stuffed = (stuff(self.octets) + b'.\r\n',)
        return self._stuffed

    def __repr__(self) -> str:
        return f'<Content of {self.size} octets>'


@public
class SplicedContent(Content):
    """A content put together from pieces, of which others share most."""

    __slots__ = ()

    def __init__(self, pieces: Tuple[bytes, ...],
                 stuffed: Tuple[bytes, ...], eight_bit: bool) -> None:
        """Take pieces that are canonical already.

        :param pieces: The canonical form, the last CRLF included.
        :param stuffed: The same, each transparent, and the lone dot.
        :param eight_bit: True if any octet is over 127.
        """
        self.pieces = pieces
        self.size = sum(map(len, pieces))
        self.eight_bit = eight_bit
        self._stuffed = stuffed


@public
def flatten(msg: Message) -> bytes:
    """Turn a message into octets as `smtplib.SMTP.send_message` does.

    Bcc and Resent-Bcc are left out.  The line endings are CRLF as far as the
    email package makes them so.  A multipart without a boundary gets one that
    nobody can foresee.
    """
    # As in smtplib the copy is shallow: a part within keeps its boundary.
    public_copy = copy.copy(msg)
    del public_copy['bcc']
    del public_copy['resent-bcc']
    Boundaries().set_in(public_copy)
    flat = io.BytesIO()
    BytesGenerator(flat).flatten(public_copy, linesep='\r\n')
    return flat.getvalue()


@public
def as_content(msg: Union[str, bytes, Message]) -> Content:
    """Turn what `sendmail` takes into what goes over the wire.

    :param msg: A str becomes ASCII, with what is not ASCII replaced; a
        message is flattened.
    :raises TypeError: for anything else.
    """
    if isinstance(msg, str):
        return Content(msg.encode('ascii', 'replace'))
    if isinstance(msg, bytes):
        return Content(msg)
    if not isinstance(msg, Message):
        raise TypeError(
            f'msg is neither str nor bytes nor Message: {type(msg).__name__}')
    return Content(flatten(msg))
