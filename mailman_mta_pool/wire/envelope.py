# SPDX-License-Identifier: GPL-3.0-or-later
"""The envelope: which addresses are fit for the wire, and its commands."""

import re

from mailman_mta_pool.wire.capabilities import Capabilities
from mailman_mta_pool.wire.replies import Reply
from mailman_mta_pool.wire.transaction import Fate, Result, Stage, Transaction
from public import public
from typing import List, Optional, Sequence


# RFC 5321, section 4.1.2, with the non-ASCII characters of RFC 6531 and with
# what real mailboxes have beyond it: dots anywhere in the local part (some
# Japanese carriers gave those out) and underscores in host names.  None of
# these can end a path or start a command.
_UTF8 = '\u00a1-\ud7ff\ue000-\uffff\U00010000-\U0010ffff'
_ATEXT = "A-Za-z0-9!#$%&'*+/=?^_`{|}~."
_ATOM = f'[{_ATEXT}{_UTF8}-]+'
_QUOTED = rf'"(?:[ !#-\[\]-~{_UTF8}]|\\[ -~])*"'
_DOMAIN = rf'[A-Za-z0-9_{_UTF8}](?:[A-Za-z0-9_.{_UTF8}-]*[A-Za-z0-9_{_UTF8}])?'
_LITERAL = r'\[[A-Za-z0-9:.-]+\]'
_MAILBOX = re.compile(
    f'(?:{_ATOM}|{_QUOTED})@(?:{_DOMAIN}|{_LITERAL})|(?ai:postmaster)')
# The mailboxes that there are nearly everywhere, each before an LF.
_PLAIN = re.compile(
    rf'(?:[{_ATEXT}-]+@(?![.-])[A-Za-z0-9_.-]+(?<![.-])\n)*')
# What leaves room for MAIL FROM:<> in a command line of 512 octets (RFC 5321,
# section 4.5.3.1.4; parameters count extra).  A mailbox may have 254, but the
# senders that VERP makes can be longer.  No server need take more, and what it
# makes of the rest is not for somebody's address to find out.
MAX_LENGTH = 498
# The ideographic and other Unicode spaces and separators are not for us to
# judge one by one: str.isprintable() is False for all of them but U+0020.


def _refusal(stage: Stage, code: int, text: str) -> Result:
    return Result(Fate.refused, stage, Reply(code, (text.encode('ascii'),)))


# RFC 3463 gives the enhanced codes, RFC 6531 and RFC 1870 the reply codes.
_BAD_SENDER = _refusal(
    Stage.mail, 553, '5.1.7 The sender is not a valid mailbox')
_BAD_RECIPIENT = _refusal(
    Stage.here, 553, '5.1.3 The recipient is not a valid mailbox')
_SENDER_NEEDS_UTF8 = _refusal(
    Stage.mail, 550, '5.6.7 The sender needs SMTPUTF8, which the mail server '
    'does not offer')
_RECIPIENT_NEEDS_UTF8 = _refusal(
    Stage.here, 553, '5.6.7 The recipient needs SMTPUTF8, which the mail '
    'server does not offer')
_NO_XVERP = _refusal(
    Stage.mail, 555, '5.5.4 The mail server does not offer XVERP')
# In octets, encoded: RFC 3461, section 4.
MAX_ENVID = 100
MAX_ORCPT = 500


@public
def is_mailbox(address: str) -> bool:
    """Return True if the address can stand between angle brackets.

    :param address: The address without angle brackets.
    :return: False for whatever is not a mailbox of RFC 5321 or RFC 6531; CR,
        LF, NUL, angle brackets, commas, comments, a space outside quotes, a
        missing domain and more than `MAX_LENGTH` octets among them.
        (`postmaster` needs no domain: RFC 5321, section 4.1.1.3.)
    """
    return (len(address) <= MAX_LENGTH and
            _MAILBOX.fullmatch(address) is not None and
            (address.isascii() or address.isprintable() and
             len(address.encode()) <= MAX_LENGTH))


@public
def are_plain(addresses: Sequence[str]) -> bool:
    """Return True if every server can be told all of these mailboxes.

    :param addresses: The addresses without angle brackets.
    :return: True only if each is a mailbox of ASCII, without quotes, at a
        domain; False says nothing.
    """
    lines = '\n'.join(addresses) + '\n'
    return (_PLAIN.fullmatch(lines) is not None and
            # Unless one of them has an LF itself.
            lines.count('\n') == len(addresses) and
            max(map(len, addresses)) <= MAX_LENGTH)


@public
def refuse_message(
        transaction: Transaction, server: Capabilities,
        ) -> Optional[Result]:
    """Say why a whole transaction cannot be sent to this server.

    :return: The result for each of its recipients, or None if it can.
    """
    sender, content = transaction.sender, transaction.content
    if sender and not is_mailbox(sender):
        return _BAD_SENDER
    if not server.smtputf8 and not sender.isascii():
        return _SENDER_NEEDS_UTF8
    if server.size and content.size > server.size:
        return _refusal(
            Stage.mail, 552, f'5.3.4 The message of {content.size} octets is '
            f'over the limit of the mail server, {server.size} octets')
    if transaction.verp is not None and not server.xverp:
        return _NO_XVERP
    return None


@public
def refuse_recipient(
        recipient: str, server: Capabilities,
        ) -> Optional[Result]:
    """Say why a recipient cannot be named to this server.

    :return: The result for this recipient alone, or None if it can.
    """
    if not is_mailbox(recipient):
        return _BAD_RECIPIENT
    if not server.smtputf8 and not recipient.isascii():
        return _RECIPIENT_NEEDS_UTF8
    return None


@public
def mail_command(
        transaction: Transaction, server: Capabilities, international: bool,
        ) -> bytes:
    """Make the MAIL command with the parameters that this server takes.

    They are SIZE (RFC 1870), BODY=8BITMIME (RFC 6152), SMTPUTF8 (RFC 6531),
    RET and ENVID (RFC 3461), and Postfix's XVERP.  A question has no content
    that could be described, and nobody is to be notified of it.

    :param transaction: One that `refuse_message` let pass.
    :param server: What the server offers.
    :param international: True if a recipient is not ASCII.
    :return: The command line with its CRLF.
    """
    sender, _, content, verp, envid, _, asks = transaction
    parameters = ''
    if server.size is not None and not asks:
        parameters += f' SIZE={content.size}'
    if content.eight_bit and server.eight_bit_mime and not asks:
        parameters += ' BODY=8BITMIME'
    if international or not sender.isascii():
        parameters += ' SMTPUTF8'
    if envid is not None and server.dsn and not asks:
        parameters += f' RET=HDRS{_envid_parameter(envid)}'
    if verp is not None:
        parameters += f' XVERP={verp.delimiters}'
    return f'MAIL FROM:<{sender}>{parameters}\r\n'.encode()


@public
def rcpt_commands(
        recipients: Sequence[str], notify: bool = False) -> List[bytes]:
    """Make the RCPT commands for mailboxes that `refuse_recipient` let pass.

    :param notify: Ask for a notification of failure that names this address
        (RFC 3461, sections 4.1 and 4.2; RFC 6533 for what is not ASCII).
    :return: The command lines with their CRLF.
    """
    if notify or not recipients:
        return [_rcpt_with_notify(recipient) for recipient in recipients]
    between = '>\r\nRCPT TO:<'
    commands = f'RCPT TO:<{between.join(recipients)}>\r\n'
    return commands.encode().splitlines(keepends=True)


def _rcpt_with_notify(recipient: str) -> bytes:
    original = (f'rfc822;{xtext(recipient)}' if recipient.isascii()
                else f'utf-8;{unitext(recipient)}')
    parameters = ' NOTIFY=FAILURE'
    if len(original.encode()) <= MAX_ORCPT:
        parameters += f' ORCPT={original}'
    return f'RCPT TO:<{recipient}>{parameters}\r\n'.encode()


@public
def xtext(text: str) -> str:
    """Encode for ENVID and ORCPT (RFC 3461, section 4).

    :param text: ASCII.
    :return: The text with "+", "=", spaces and control characters as +XX.
    """
    return ''.join(
        c if '!' <= c <= '~' and c not in '+=' else f'+{ord(c):02X}'
        for c in text)


def _envid_parameter(envid: str) -> str:
    # RFC 3461, section 4.4: printable ASCII.  Postfix refuses the whole
    # message otherwise, and there are such Message-IDs.
    printable = ''.join(c for c in envid if ' ' <= c <= '~')
    # Not in the middle of a +XX.
    cut = re.sub(r'\+[0-9A-F]?$', '', xtext(printable)[:MAX_ENVID])
    return f' ENVID={cut}' if cut else ''


@public
def unitext(text: str) -> str:
    """Encode an address for ORCPT with SMTPUTF8 (RFC 6533, section 3).

    :param text: Printable Unicode; only the characters that xtext and the
        escape itself need are encoded.
    """
    return ''.join(
        c if '!' <= c and c not in '+=\\\x7f' else f'\\x{{{ord(c):02X}}}'
        for c in text)
