# SPDX-License-Identifier: GPL-3.0-or-later

"""Posts of every shape, as hypothesis strategies."""

import base64
import quopri

from email import message_from_bytes
from hypothesis import strategies as st
from mailman.email.message import Message
from public import public


def _join(separator):
    return lambda pieces: separator.join(pieces)


HEADERS = st.lists(st.sampled_from((
    b'To: ant@example.com', b'to: ant@example.com', b'To:',
    b'To: =?utf-8?b?w4k=?= <ant@example.com>,\n another@example.com',
    b'To: \xc3\xa9 <ant@example.com>',
    b'TO: ' + b', '.join([b'somebody@example.com'] * 20),
    b'Cc: bee@example.com', b'Bcc: secret@example.com',
    b'Resent-Bcc: secret@example.com', b'X-Mailman-Copy: yes',
    b'Subject: Hello', b'Subject: =?iso-8859-1?q?H=E4llo?=',
    b'Subject: H\xe4llo', b'Subject: ' + b'word ' * 60,
    b'Subject: ' + b'x' * 1100, b'Subject:', b'Subject: a\n\tb\n  c',
    b'X-Dot: .', b'X-Odd : spaced', b'X-From: From here',
    b'X-Token: m0123456789ab hole0x', b'ARC-Seal: i=1; cv=none',
    b'Authentication-Results: lists.example.org; dkim=pass; arc=none',
    b'Date: Thu, 14 Jan 2015 15:00:01 -0800', b'List-Id: <ant.example.com>',
    b'X-CR: a\rb', b'Resent-Date: Thu, 14 Jan 2015 15:00:01 -0800',
    )), max_size=6, unique=True)

LINES = st.lists(st.sampled_from((
    '', '', 'Hello', '.', '..', '.dot', 'From here', '>From there', '-- ',
    'x' * 1000, 'word ' * 40, 'é', 'Привет', '日本語', '🦖', 'trailing  ',
    'tab\t', '=20', '=', 'a\x0cb', 'c\x85d', '\x00', 'a\rFrom b', '\u2028',
    '--bound', '$user_name', 'begin 644 x', '\x7f', 'x' * 76, 'y' * 75,
    )), max_size=6)
TEXTS = st.builds(
    lambda lines, ending, last: ending.join(lines) + (ending if last else ''),
    LINES, st.sampled_from(('\n', '\n', '\n', '\r\n', '\r')), st.booleans())

CHARSETS = (
    'us-ascii', 'iso-8859-1', 'utf-8', 'euc-jp', 'iso-2022-jp', 'koi8-r',
    'windows-1252', 'shift_jis', 'UTF-8', 'utf-7', 'utf-16', 'iso-8859-15',
    'gb2312', 'ansi_x3.4-1968', 'latin1')


def _uuencoded(octets):
    return b'begin 644 x\n#0V%T\n`\nend\n'


ENCODERS = {
    '7bit': bytes, '8bit': bytes, 'binary': bytes, '8Bit ': bytes,
    'base64': base64.encodebytes, 'BASE64': base64.encodebytes,
    'quoted-printable': quopri.encodestring,
    'Quoted-Printable': quopri.encodestring,
    'x-uuencode': _uuencoded, 'x-unknown': bytes, None: bytes,
    }
PARAMETERS = st.sampled_from((
    '', '', '; format=flowed', '; format=flowed; delsp=yes', '; delsp=no',
    '; format="fixed"', '; x-other=y'))


def _leaf(text, charset, declared, encoding, lies, kind, parameters):
    """A part in which what is declared need not be true."""
    octets = text.encode(charset, 'replace')
    encoder = ENCODERS[encoding]
    head = []
    if kind is not None:
        head.append('Content-Type: {}{}{}'.format(
            kind, '' if declared is None else '; charset=' + declared,
            parameters).encode())
    if encoding is not None:
        head.append(b'Content-Transfer-Encoding: ' + encoding.encode())
    return head, octets if lies else encoder(octets)


def _plain(charsets):
    return charsets.flatmap(lambda charset: st.builds(
        _leaf, TEXTS, st.just(charset),
        st.sampled_from((charset, charset, charset, charset, None, 'us-ascii',
                         'x-unknown', '"utf-8"', 'euc-jp', '',
                         # Codecs that encode no text, or all of it at once.
                         'quoted-printable', 'hex', 'rot13', 'idna',
                         'undefined', '"nul\0"')),
        st.sampled_from(tuple(ENCODERS)),
        st.sampled_from((False, False, False, False, True)),
        st.sampled_from(('text/plain', 'text/plain', 'text/plain', 'text/html',
                         'TEXT/PLAIN', None, 'text', 'image/png')),
        PARAMETERS))


LEAVES = _plain(st.sampled_from(CHARSETS))
MOST_LEAVES = _plain(st.sampled_from(CHARSETS[:3]))


def _entity(part):
    head, body = part
    return b'\n'.join(head + [b'', body])


def _multipart(subtype, parts, boundary, preamble, epilogue, closed):
    """A multipart, or what was meant to be one."""
    head = b'Content-Type: multipart/' + subtype
    if boundary is not None:
        head += b'; boundary="' + boundary + b'"'
    line = b'\n--' + (boundary or b'bound')
    body = preamble + b''.join(
        line + b'\n' + _entity(part) for part in parts)
    if closed:
        body += line + b'--' + epilogue
    return [head, b'MIME-Version: 1.0'], body


def _signed(part):
    signature = [b'Content-Type: application/pgp-signature'], b'-----\n'
    head, body = _multipart(
        b'signed', [part, signature], b'sig', b'', b'\n', True)
    head[0] += b'; protocol="application/pgp-signature"; micalg=pgp-sha1'
    return head, body


def _rfc822(part):
    return [b'Content-Type: message/rfc822'], _entity(
        ([b'Subject: inside', b'To: ant@example.com'] + part[0], part[1]))


def _around(parts):
    return st.one_of(
        st.builds(
            _multipart,
            st.sampled_from((b'mixed', b'mixed', b'mixed', b'alternative',
                             b'related', b'digest', b'Mixed')),
            st.lists(parts, max_size=3),
            st.sampled_from((b'bound', b'bound', b'=_x', None)),
            st.sampled_from((b'', b'preamble\n', b'.\n', b'From \n')),
            st.sampled_from((b'', b'\n', b'\nepilogue', b'\n.\n')),
            st.sampled_from((True, True, True, False))),
        parts.map(_signed), parts.map(_rfc822))


PARTS = st.one_of(
    MOST_LEAVES, LEAVES,
    st.recursive(st.one_of(MOST_LEAVES, LEAVES), _around, max_leaves=4))


def _message(headers, part):
    head, body = part
    return b'\n'.join(
        [b'From: Anne <anne@example.com>', b'Message-ID: <post@example.com>']
        + headers + head + [b'', body])


#: The octets of a message.
RAW = st.builds(_message, HEADERS, PARTS)
public(RAW=RAW)


@public
def parsed(raw):
    """What Mailman's in runner makes of the octets."""
    return message_from_bytes(raw, Message)
