# SPDX-License-Identifier: GPL-3.0-or-later
"""The content of a message, in the two forms in which it is sent."""

import io
import copy

from email.generator import BytesGenerator
from email.message import Message
from public import public
from typing import Optional, Union


@public
class Content:
    """A message's octets: lines that end in CRLF, the last one too.

    Any mixture of CRLF, LF and CR becomes CRLF (RFC 5321, section 2.3.8: a
    bare CR or LF must not be sent), so that no content can end the data early
    or start a command, however the server takes bare ones.  Otherwise it is
    byte-faithful.  That is what `smtplib.SMTP.data` does, too.

    :ivar octets: The canonical form, as BDAT sends it (RFC 3030).
    :ivar eight_bit: True if any octet is over 127.
    """

    __slots__ = '_stuffed', 'eight_bit', 'octets'

    def __init__(self, raw: bytes) -> None:
        """Make the canonical form.

        :param raw: The message as bytes with line endings of any kind.
        """
        lines = raw.replace(b'\r\n', b'\n').replace(b'\r', b'\n')
        if not lines.endswith(b'\n'):
            lines += b'\n'
        self.octets = lines.replace(b'\n', b'\r\n')
        self.eight_bit = not raw.isascii()
        self._stuffed: Optional[bytes] = None

    @property
    def size(self) -> int:
        """The message size in octets, as SIZE counts it (RFC 1870)."""
        return len(self.octets)

    @property
    def stuffed(self) -> bytes:
        """The form for DATA: transparent (RFC 5321, section 4.5.2) and ended.

        It ends in the lone dot and its CRLF.  Made on first use.
        """
        if self._stuffed is None:
            octets = self.octets
            if b'\n.' in octets:
                octets = octets.replace(b'\r\n.', b'\r\n..')
            prefix = b'.' if octets.startswith(b'.') else b''
            self._stuffed = b'%b%b.\r\n' % (prefix, octets)
        return self._stuffed

    def __repr__(self) -> str:
        return f'<Content of {self.size} octets>'


@public
def as_content(msg: Union[str, bytes, Message]) -> Content:
    """Turn what `sendmail` takes into what goes over the wire.

    :param msg: A str becomes ASCII, with what is not ASCII replaced.  A
        `Message` becomes what `smtplib.SMTP.send_message` makes of it: Bcc
        and Resent-Bcc are left out.
    :raises TypeError: for anything else.
    """
    if isinstance(msg, str):
        return Content(msg.encode('ascii', 'replace'))
    if isinstance(msg, bytes):
        return Content(msg)
    if not isinstance(msg, Message):
        raise TypeError(
            f'msg is neither str nor bytes nor Message: {type(msg).__name__}')
    # A shallow copy is enough: only its headers change.
    public_copy = copy.copy(msg)
    del public_copy['bcc']
    del public_copy['resent-bcc']
    flat = io.BytesIO()
    BytesGenerator(flat).flatten(public_copy, linesep='\r\n')
    return Content(flat.getvalue())
